//! Commands with a memory: the record, what became of them, the first answer, and how many are kept.

use bytes::Bytes;
use muster_shared::Code;

use super::Fleet;
use crate::registry::{
    Act, Order,
    changes::What,
    commands::{ANSWER_MAX, Answer, CommandState, Fate, KEPT},
    testing::ana,
};

fn answer(fleet: &Fleet, device: usize, id: &str, payload: &[u8], at_ms: u64) -> Answer {
    Answer {
        device: fleet.devices[device].key,
        id: id.to_owned(),
        payload: Bytes::copy_from_slice(payload),
        content_type: Some("text/plain".to_owned()),
        at_ms,
    }
}

#[tokio::test]
async fn a_command_is_on_the_record_before_it_is_sent_and_its_first_answer_stands() {
    let fleet = Fleet::with(2).await;
    let serial = &fleet.devices[0].serial;
    let mut changes = fleet.registry.changes();
    let sent = fleet.registry.record_command(&ana(), serial, "c1", b"do \xff it", "case 881").await.unwrap();
    let change = changes.recv().await.unwrap();
    assert_eq!(change.what, What::Ordered { device: fleet.devices[0].key, order: Order::Command });
    let row = fleet.registry.audit(0, 100).await.unwrap().pop().unwrap();
    assert_eq!((row.no, &*row.action, &*row.reason), (sent.no, "device.command", "case 881"));
    assert!(row.detail.contains("\"command_id\":\"c1\"") && !row.detail.contains("do "), "{}", row.detail);
    let of = async || fleet.registry.command(serial, "c1").await.unwrap();
    assert_eq!((of().await.state, &*of().await.author), (CommandState::Sent, "ana"));
    assert_eq!(of().await.request, b"do \xff it");
    fleet.registry.settle_command(sent.no, CommandState::Delivered, "").await.unwrap();
    assert_eq!((of().await.state, of().await.answer), (CommandState::Delivered, None));
    let long = vec![b'x'; ANSWER_MAX + 9];
    let answers = vec![
        // Of another device, and of nobody: passed over.
        answer(&fleet, 1, "c1", b"not mine", 1),
        answer(&fleet, 0, "c2", b"to nothing", 2),
        answer(&fleet, 0, "c1", &long, 3),
        answer(&fleet, 0, "c1", b"again", 4),
    ];
    fleet.registry.take_answers(answers.clone()).await.unwrap();
    // After a crash the same is said again.
    fleet.registry.take_answers(answers).await.unwrap();
    fleet.registry.settle_command(sent.no, CommandState::Unknown, "too late").await.unwrap();
    let row = of().await;
    let kept = row.answer.unwrap();
    assert_eq!((row.state, &*row.why, kept.at_ms), (CommandState::Answered, "", 3));
    assert_eq!((&kept.payload[..], kept.octets), (&long[..ANSWER_MAX], long.len() as u64));
    assert_eq!(kept.content_type.as_deref(), Some("text/plain"));
    let before = fleet.registry.audit_head().await.unwrap();
    assert_eq!(before.no, sent.no, "an answer is a fact");
    let error = fleet.registry.command(&fleet.devices[1].serial, "c1").await.unwrap_err();
    assert_eq!(error.code(), Code::RouteUnknown, "{error}");
}

#[tokio::test]
async fn the_newest_hundred_are_kept_page_by_page_and_gone_with_the_device() {
    let fleet = Fleet::with(2).await;
    let serial = &fleet.devices[0].serial;
    let kept = usize::try_from(KEPT).unwrap();
    fleet.registry.record_command(&ana(), &fleet.devices[1].serial, "other", b"", "").await.unwrap();
    for n in 0..kept + 3 {
        fleet.registry.record_command(&ana(), serial, &format!("c{n}"), b"x", "").await.unwrap();
    }
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let page = fleet.registry.commands(serial, after.as_deref(), 30).await.unwrap();
        assert_eq!((page.total, page.exact), (KEPT as u64, true));
        ids.extend(page.items.into_iter().map(|row| row.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let wanted: Vec<_> = (3..kept + 3).rev().map(|n| format!("c{n}")).collect();
    assert_eq!(ids, wanted);
    assert_eq!(fleet.count("SELECT count(*) FROM command").await, KEPT + 1);
    let error = fleet.registry.commands(serial, Some("yesterday"), 9).await.unwrap_err();
    assert_eq!(error.code(), Code::UsageWrong, "{error}");
    for (act, code) in [
        (Act::Suspend, Code::DeviceSuspended),
        (Act::Revoke, Code::CertificateRevoked),
        (Act::Decommission, Code::DeviceDecommissioned),
    ] {
        fleet.act(0, act).await.unwrap();
        let error = fleet.registry.record_command(&ana(), serial, "late", b"", "").await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    assert_eq!(fleet.count("SELECT count(*) FROM command").await, 1);
}

#[tokio::test]
async fn what_waits_is_told_by_its_session_and_what_nobody_tells_is_unknown() {
    let fleet = Fleet::with(1).await;
    let (serial, device) = (&fleet.devices[0].serial, fleet.devices[0].key);
    let of = async |id: &str| fleet.registry.command(serial, id).await.unwrap();
    let mut sent = Vec::new();
    for id in ["taken", "late", "fast", "kept", "lost", "before"] {
        sent.push(fleet.registry.record_command(&ana(), serial, id, b"x", "").await.unwrap().no);
    }
    let facts = fleet.registry.facts();
    // The device may be faster than the one who writes that it waits.
    facts.command_settled(device, "before", Fate::Delivered, 5_000);
    facts.flush().await;
    for no in &sent {
        fleet.registry.settle_command(*no, CommandState::Queued, "").await.unwrap();
    }
    fleet.registry.take_answers(vec![answer(&fleet, 0, "fast", b"y", 8_000)]).await.unwrap();
    facts.command_settled(device, "taken", Fate::Delivered, 7_000);
    facts.command_settled(device, "late", Fate::Expired("its time was over"), 7_000);
    facts.command_settled(device, "fast", Fate::Delivered, 7_500);
    facts.command_settled(device, "nobody", Fate::Delivered, 7_000);
    facts.flush().await;
    for (id, state, at_ms, why) in [
        ("before", CommandState::Delivered, Some(5_000), ""),
        ("taken", CommandState::Delivered, Some(7_000), ""),
        ("late", CommandState::Expired, None, "its time was over"),
        ("fast", CommandState::Answered, Some(7_500), ""),
        ("kept", CommandState::Queued, None, ""),
    ] {
        let row = of(id).await;
        assert_eq!((row.state, row.delivered_at_ms, &*row.why), (state, at_ms, why), "{id}");
    }
    // A fact told twice changes nothing; one that is over does not begin again.
    facts.command_settled(device, "taken", Fate::Expired("x"), 9_000);
    facts.command_settled(device, "late", Fate::Delivered, 9_000);
    facts.flush().await;
    assert_eq!(
        (of("taken").await.delivered_at_ms, of("late").await.state),
        (Some(7_000), CommandState::Expired)
    );
    // The server ended before it was written what became of these.
    for id in ["waits", "cut short"] {
        fleet.registry.record_command(&ana(), serial, id, b"x", "").await.unwrap();
    }
    let waiting = ["kept", "waits"].map(|id| (device, id.to_owned()));
    fleet.registry.settle_queued(waiting.into()).await.unwrap();
    for (id, state) in [
        ("kept", CommandState::Queued),
        ("waits", CommandState::Queued),
        ("lost", CommandState::Unknown),
        ("cut short", CommandState::Unknown),
        ("taken", CommandState::Delivered),
    ] {
        assert_eq!(of(id).await.state, state, "{id}");
    }
    for id in ["lost", "cut short"] {
        assert!(of(id).await.why.contains("the server ended"));
    }
}
