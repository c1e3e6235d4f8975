use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    task::Poll,
};

use muster_shared::Code;

use super::*;
use crate::{
    app::Messages,
    edge::{
        Roster,
        roster::{Arrival, Mail, Protocol, Seat},
    },
    registry::{
        DeviceState,
        testing::{Device, Fleet, ana, now_s},
    },
    uplink::{Outcome, Position, testing::telemetry},
};

struct Node {
    fleet: Fleet,
    roster: Arc<Roster>,
    uplink: Writer,
    revocation: Revocation,
    _messages: Messages,
}

async fn node(devices: usize) -> Node {
    on(Fleet::with(devices).await).await
}

async fn on(fleet: Fleet) -> Node {
    let messages = Messages::open(fleet.dir.path(), &fleet.registry).await.unwrap();
    let (roster, uplink) = (messages.sessions.roster().clone(), messages.uplink.clone());
    let revocation = Revocation::new(fleet.registry.clone(), messages.sessions.clone(), uplink.clone());
    Node { fleet, roster, uplink, revocation, _messages: messages }
}

impl Node {
    async fn decide(&self, device: usize, act: Act) -> Answer {
        let serial = &self.fleet.devices[device].serial;
        self.revocation.decide(&ana(), serial, act, &Reason::new("a reason of ten")).await.unwrap()
    }

    fn enter(&self, device: usize) -> Seat {
        self.roster.enter(arrival(&self.fleet.devices[device])).0
    }
}

fn arrival(device: &Device) -> Arrival {
    let peer: SocketAddr = "10.0.4.17:51522".parse().unwrap();
    Arrival {
        owner: device.key.into(),
        certificate: device.certificate,
        issuer_key_id: [7; 20],
        peer,
        protocol: Protocol::V5,
        keep_alive_s: 60,
        cipher: None,
    }
}

/// A session that does nothing but obey.
async fn obey(seat: Seat) -> (DisconnectReason, Code) {
    match poll_fn(|cx| seat.poll_mail(true, cx)).await {
        Mail::Close(farewell) => (farewell.why, farewell.code),
        Mail::Deliver(_) => panic!("nobody sent anything"),
    }
}

#[tokio::test]
async fn each_decision_closes_the_session_with_its_reason_and_records_it() {
    let node = node(3).await;
    for (device, act, why, code) in [
        (0, Act::Suspend, DisconnectReason::DeviceSuspended, Code::DeviceSuspended),
        (1, Act::Quarantine, DisconnectReason::DeviceQuarantined, Code::DeviceQuarantined),
        (2, Act::Revoke, DisconnectReason::CertificateRevoked, Code::CertificateRevoked),
    ] {
        let session = tokio::spawn(obey(node.enter(device)));
        let answer = node.decide(device, act).await;
        let decided = answer.decided;
        let enforced = answer.enforced().await.unwrap().unwrap();
        assert_eq!(session.await.unwrap(), (why, code));
        assert_eq!(enforced.closed_sessions, 1);
        assert_eq!(enforced.enforced_at_ms, decided.decided_at_ms + enforced.commit_to_closed_ms);
        let detail = node.fleet.registry.device(&node.fleet.devices[device].serial).await.unwrap();
        let row = detail.enforcement.unwrap();
        assert_eq!((row.enforced_at_ms, row.sessions_ended), (Some(enforced.enforced_at_ms), 1));
    }
    assert_eq!(node.roster.count(), 0);
    assert!(node.fleet.registry.unenforced().await.unwrap().is_empty());
    let resumed = node.decide(0, Act::Resume).await;
    assert_eq!(resumed.enforced().await.unwrap(), None, "resuming closes nothing");
}

#[tokio::test]
async fn a_device_without_a_session_is_enforced_at_once() {
    let node = node(1).await;
    let enforced = node.decide(0, Act::Revoke).await.enforced().await.unwrap().unwrap();
    assert_eq!(enforced.closed_sessions, 0);
    let again = node.decide(0, Act::Decommission).await.enforced().await.unwrap().unwrap();
    assert_eq!(again.closed_sessions, 0);
}

#[tokio::test]
async fn the_one_who_asked_may_go_away() {
    let node = node(1).await;
    let mut changes = node.fleet.registry.changes();
    let session = tokio::spawn(obey(node.enter(0)));
    {
        let mut decision = std::pin::pin!(node.decide(0, Act::Suspend));
        let begun = poll_fn(|cx| Poll::Ready(decision.as_mut().poll(cx).is_pending()));
        assert!(begun.await, "it is under way");
    }
    changes.recv().await.unwrap();
    assert_eq!(session.await.unwrap().1, Code::DeviceSuspended);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !node.fleet.registry.unenforced().await.unwrap().is_empty() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_a_crash_left_undone_is_done_at_the_start_and_only_once() {
    let fleet = Fleet::with(3).await;
    // Committed, and then nothing: as if the process had ended there.
    fleet.act(0, Act::Suspend).await.unwrap();
    fleet.act(1, Act::Revoke).await.unwrap();
    fleet.act(2, Act::Suspend).await.unwrap();
    fleet.act(2, Act::Resume).await.unwrap();
    let node = on(fleet.reopened().await).await;
    // A session that slipped in is closed; the one of the device that may talk again is not.
    let session = tokio::spawn(obey(node.enter(0)));
    let rightful = node.enter(2);
    let reconciler = node.revocation.start();
    assert_eq!(session.await.unwrap().0, DisconnectReason::DeviceSuspended);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !node.fleet.registry.unenforced().await.unwrap().is_empty() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    reconciler.stop().await;
    assert!(rightful.ordered_to_close().is_none());
    assert_eq!(node.revocation.reconcile().await.unwrap(), 0);
    let detail = node.fleet.registry.device(&node.fleet.devices[0].serial).await.unwrap();
    assert_eq!(detail.enforcement.unwrap().sessions_ended, 1);
}

/// Decisions while messages come, and how many of them at a time, each about a device of its own.
const DECISIONS: usize = 3000;
const AT_A_TIME: usize = 6;
/// Who publishes as the device meanwhile.
const PUBLISHERS: usize = 3;

/// Messages stored and refused of one publisher, and where the last one stands that was stored.
#[derive(Default)]
struct Published {
    stored: u64,
    refused: u64,
    last: Position,
}

/// Publishes as a device until some were refused behind the answer: nothing may be stored from there on.
async fn publish_on(
    node: Arc<Node>,
    device: Device,
    returned: Arc<AtomicBool>,
    seq: Arc<AtomicU64>,
) -> Published {
    let mut done = Published::default();
    for _ in 0..10_000 {
        let after = returned.load(Ordering::SeqCst);
        let mut message = telemetry(&device, seq.fetch_add(1, Ordering::Relaxed), 0.0);
        message.name = None;
        match node.uplink.append(message).await {
            Outcome::Stored(at) => {
                assert!(!after, "stored at {at:?} after the answer");
                done.stored += 1;
                done.last = at;
            }
            Outcome::Refused(code) => {
                assert_eq!(code, Code::DeviceSuspended);
                done.refused += 1;
                if done.refused > 3 && after {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    done
}

/// One decision about a device that publishes; what was stored and refused of it.
async fn suspended_while_it_publishes(node: Arc<Node>, device: usize, round: u64) -> (u64, u64) {
    let returned = Arc::new(AtomicBool::new(false));
    let seq = Arc::new(AtomicU64::new(round * 1_000_000));
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|_| {
            let of = node.fleet.devices[device].clone();
            tokio::spawn(publish_on(node.clone(), of, returned.clone(), seq.clone()))
        })
        .collect();
    tokio::time::sleep(Duration::from_micros(round * 53 % 4000)).await;
    let answer = node.decide(device, Act::Suspend).await;
    let end = *node.uplink.committed().borrow();
    returned.store(true, Ordering::SeqCst);
    let (mut stored, mut refused) = (0, 0);
    for publisher in publishers {
        let done = publisher.await.unwrap();
        assert!(done.last <= end, "round {round}: {:?} is behind the answer, {end:?}", done.last);
        stored += done.stored;
        refused += done.refused;
    }
    answer.enforced().await.unwrap();
    node.decide(device, Act::Resume).await;
    (stored, refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_accepted_after_the_call_has_returned() {
    let node = Arc::new(node(AT_A_TIME).await);
    let (mut stored, mut refused) = (0, 0);
    for round in 0..DECISIONS / AT_A_TIME {
        let running = (0..AT_A_TIME).map(|device| {
            let number = (round * AT_A_TIME + device) as u64;
            tokio::spawn(suspended_while_it_publishes(node.clone(), device, number))
        });
        for one in running.collect::<Vec<_>>() {
            let (more, more_refused) = one.await.unwrap();
            stored += more;
            refused += more_refused;
        }
    }
    let decisions = DECISIONS as u64;
    assert!(stored > decisions && refused > decisions, "{stored} stored, {refused} refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_that_passes_the_gate_meanwhile_is_closed_or_refuses_itself() {
    let node = Arc::new(node(1).await);
    for round in 0..150_u64 {
        let connecting: Vec<_> = (0..3)
            .map(|_| {
                let node = node.clone();
                tokio::spawn(async move {
                    let device = &node.fleet.devices[0];
                    let verdicts = node.fleet.registry.verdicts();
                    let asks = || verdicts.may_talk(device.key, &device.certificate, now_s());
                    // The edge's order: ask, sit down, ask again.
                    while asks().is_ok() {
                        let seat = node.enter(0);
                        if asks().is_ok() {
                            obey(seat).await;
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_micros(round * 71 % 3000)).await;
        let answer = node.decide(0, Act::Suspend).await;
        answer.enforced().await.unwrap();
        for one in connecting {
            timeout(Duration::from_secs(60), one).await.expect("a session outlived the decision").unwrap();
        }
        assert_eq!(node.roster.count(), 0, "round {round}");
        let state = node.fleet.registry.verdicts().state(node.fleet.devices[0].key);
        assert_eq!(state, Some(DeviceState::Suspended));
        node.decide(0, Act::Resume).await;
    }
}
