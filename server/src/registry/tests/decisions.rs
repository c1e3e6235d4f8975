use std::sync::Arc;

use muster_shared::{Code, Generation, telemetry::Value};

use super::Fleet;
use crate::registry::{
    Act, Actor, DeviceState, Filter, Reason, RegistryError, RevocationReason, Target,
    changes::What,
    testing::{ana, now_s},
};

#[tokio::test]
async fn a_decision_flips_the_verdict_counts_a_generation_and_tells_its_readers() {
    let fleet = Fleet::with(2).await;
    let (device, verdicts) = (&fleet.devices[0], fleet.registry.verdicts());
    let before = verdicts.generation();
    let mut changes = fleet.registry.changes();
    assert_eq!(verdicts.may_talk(device.key, &device.certificate, now_s()), Ok(DeviceState::Registered));

    let decided = fleet.act(0, Act::Suspend).await.unwrap();
    assert_eq!((decided.from, decided.to), (DeviceState::Registered, DeviceState::Suspended));
    assert_eq!(decided.generation, Generation(before.0 + 1));
    assert_eq!(verdicts.may_talk(device.key, &device.certificate, now_s()), Err(Code::DeviceSuspended));
    let other = &fleet.devices[1];
    assert!(verdicts.may_talk(other.key, &other.certificate, now_s()).is_ok(), "nobody else is touched");
    let change = changes.try_recv().unwrap();
    assert_eq!((change.generation, change.audit_no), (decided.generation, decided.audit_no));
    assert!(matches!(change.what, What::Device { act: Act::Suspend, .. }));

    let row = fleet.registry.audit(decided.audit_no - 1, 1).await.unwrap().remove(0);
    assert_eq!((row.actor.as_str(), row.role.as_str(), row.token.as_str()), ("ana", "operator", "t-1"));
    assert_eq!((row.action.as_str(), row.target.as_str()), ("device.suspend", "acme/MU-000001"));
    assert_eq!(row.reason, "a reason of ten");
}

#[tokio::test]
async fn a_resumed_device_is_active_only_if_it_ever_connected() {
    let fleet = Fleet::with(1).await;
    fleet.act(0, Act::Suspend).await.unwrap();
    assert_eq!(fleet.act(0, Act::Resume).await.unwrap().to, DeviceState::Registered);
    let first = fleet.registry.first_connection(fleet.devices[0].key, 77).await.unwrap().unwrap();
    assert_eq!((first.to, first.decided_at_ms), (DeviceState::Active, 77));
    assert_eq!(fleet.registry.first_connection(fleet.devices[0].key, 78).await.unwrap(), None);
    fleet.act(0, Act::Suspend).await.unwrap();
    assert_eq!(fleet.act(0, Act::Resume).await.unwrap().to, DeviceState::Active);
    let detail = fleet.registry.device(&fleet.devices[0].serial).await.unwrap();
    assert_eq!(detail.row.first_connected_ms, Some(77));
    assert_eq!(detail.why.unwrap().action, "device.resume");
}

#[tokio::test]
async fn an_illegal_step_names_both_states_and_changes_nothing() {
    let fleet = Fleet::with(1).await;
    fleet.act(0, Act::Revoke).await.unwrap();
    let before = fleet.registry.audit_head().await.unwrap();
    let error = fleet.act(0, Act::Resume).await.unwrap_err();
    assert_eq!(error.code(), Code::TransitionNotAllowed);
    let RegistryError::Transition { error, .. } = &error else { panic!("{error}") };
    assert_eq!((error.from, error.act), (DeviceState::Revoked, Act::Resume));
    assert_eq!(fleet.registry.audit_head().await.unwrap(), before, "a refused step leaves no row");
    assert!(matches!(
        fleet.registry.first_connection(fleet.devices[0].key, 1).await,
        Err(RegistryError::Transition { .. })
    ));
}

#[tokio::test]
async fn a_transaction_that_the_database_ended_by_itself_keeps_nobody_from_deciding() {
    let fleet = Fleet::with(1).await;
    {
        let mut writer = fleet.registry.inner.writer().await.unwrap();
        let mut tx = writer.begin().await.unwrap();
        // As SQLite does when it finds no room.
        sqlx::raw_sql("ROLLBACK").execute(&mut *tx).await.unwrap();
    }
    fleet.act(0, Act::Suspend).await.unwrap();
    fleet.act(0, Act::Resume).await.unwrap();
}

#[tokio::test]
async fn an_act_without_a_reason_or_with_a_bad_one_is_refused() {
    let fleet = Fleet::with(1).await;
    let serial = &fleet.devices[0].serial;
    for (text, code) in [
        ("", Code::ReasonMissing),
        (" \t ", Code::ReasonMissing),
        ("line\nbreak", Code::UsageWrong),
        (&"x".repeat(501), Code::UsageWrong),
    ] {
        let error =
            fleet.registry.decide(&ana(), serial, Act::Suspend, &Reason::new(text)).await.unwrap_err();
        assert_eq!(error.code(), code, "{text:?}: {error}");
    }
    let unknown: Target = "MU-999999".parse().unwrap();
    let error = fleet.registry.decide(&ana(), &unknown, Act::Suspend, &Reason::new("x")).await.unwrap_err();
    assert_eq!(error.code(), Code::DeviceUnknown);
    assert!(error.to_string().contains("MU-999999"));
}

#[tokio::test]
async fn verdicts_are_the_same_after_a_restart() {
    let fleet = Fleet::with(4).await;
    fleet.act(0, Act::Suspend).await.unwrap();
    fleet.act(1, Act::Quarantine).await.unwrap();
    fleet.act(2, Act::Revoke).await.unwrap();
    let said = |fleet: &Fleet| {
        let verdicts = fleet.registry.verdicts();
        let all = fleet.devices.iter().map(|device| {
            (
                verdicts.may_talk(device.key, &device.certificate, now_s()),
                verdicts.name(device.key).serial.clone(),
            )
        });
        (all.collect::<Vec<_>>(), verdicts.generation(), verdicts.devices(), verdicts.certificates())
    };
    let before = said(&fleet);
    assert_eq!(before.0[2].0, Err(Code::CertificateRevoked));
    let fleet = fleet.reopened().await;
    assert_eq!(said(&fleet), before);
    assert_eq!(fleet.registry.verdicts().factory_roots().len(), 3);
}

#[tokio::test]
async fn expiry_and_a_foreign_certificate_are_refused_by_the_verdict() {
    let fleet = Fleet::with(2).await;
    let verdicts = fleet.registry.verdicts();
    let (one, two) = (&fleet.devices[0], &fleet.devices[1]);
    let end = verdicts.certificate(&one.certificate).unwrap().not_after_s;
    assert!(verdicts.may_talk(one.key, &one.certificate, end).is_ok(), "notAfter itself is still good");
    assert_eq!(verdicts.may_talk(one.key, &one.certificate, end + 1), Err(Code::CertificateExpired));
    assert_eq!(verdicts.may_talk(one.key, &two.certificate, 0), Err(Code::SerialTaken));
    for octet in 0..32 {
        let mut unknown = one.certificate;
        unknown.0[octet] ^= 1;
        assert_eq!(verdicts.certificate(&unknown), None, "every octet decides who somebody is");
        let talks = verdicts.may_talk(one.key, &unknown, 0);
        assert!(octet >= 16 || talks == Err(Code::DeviceNotRegistered), "octet {octet}");
    }
    let name = verdicts.name(one.key);
    assert_eq!(verdicts.device(&name.tenant, &"other".parse().unwrap(), &name.serial), Some(one.key));
    assert_eq!(verdicts.device(&name.tenant, &name.device_id, &"X1".parse().unwrap()), Some(one.key));
    assert_eq!(verdicts.device(&"other".parse().unwrap(), &name.device_id, &name.serial), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_transitions_end_in_one_of_the_serial_outcomes() {
    let fleet = Arc::new(Fleet::with(1).await);
    for round in 0..5 {
        let acts = [Act::Suspend, Act::Quarantine, Act::Resume, Act::Release];
        let tasks: Vec<_> = (0..64)
            .map(|n| {
                let fleet = fleet.clone();
                tokio::spawn(async move { fleet.act(0, acts[n % acts.len()]).await })
            })
            .collect();
        let mut done = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                Ok(decided) => done.push(decided),
                Err(RegistryError::Transition { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        // In the order of their generations the decisions form one path of the table.
        done.sort_by_key(|decided| decided.generation);
        assert!(!done.is_empty(), "round {round}");
        for pair in done.windows(2) {
            assert_eq!(pair[0].to, pair[1].from);
            assert!(pair[0].generation < pair[1].generation);
        }
        for decided in &done {
            assert_eq!(decided.from.step(decided.act, false), Ok(decided.to));
        }
        let last = done.last().unwrap().to;
        assert_eq!(fleet.registry.verdicts().state(fleet.devices[0].key), Some(last));
        assert_eq!(fleet.registry.device(&fleet.devices[0].serial).await.unwrap().row.state, last);
    }
    let report = fleet.registry.audit_verify(None).await.unwrap();
    assert_eq!(report.broken, None);
    assert_eq!(report.head.no, fleet.registry.generation().0, "a decision, a row, a generation");
}

#[tokio::test]
async fn a_decision_runs_to_its_end_when_nobody_waits_for_it() {
    let fleet = Fleet::with(1).await;
    let mut changes = fleet.registry.changes();
    {
        let decision = fleet.act(0, Act::Revoke);
        tokio::pin!(decision);
        // Polled once: it is under way. Then the one who asked goes away.
        let pending =
            std::future::poll_fn(|cx| std::task::Poll::Ready(decision.as_mut().poll(cx).is_pending()));
        assert!(pending.await);
    }
    let change = changes.recv().await.unwrap();
    assert!(matches!(change.what, What::Device { act: Act::Revoke, .. }));
    assert_eq!(fleet.registry.verdicts().state(fleet.devices[0].key), Some(DeviceState::Revoked));
    assert_eq!(fleet.reopened().await.registry.generation(), change.generation);
}

#[tokio::test]
async fn decommissioning_removes_the_data_and_keeps_the_record() {
    let fleet = Fleet::with(1).await;
    let (serial, key) = (&fleet.devices[0].serial, fleet.devices[0].key);
    fleet.said(0, &[("temperature_c", Value::Float(21.5))], 5, "a1");
    fleet.registry.store_newest().await.unwrap();
    fleet.said(0, &[("humidity_pct", Value::Int(40))], 6, "a2");
    let reason = Reason { text: "stolen".to_owned(), code: Some(RevocationReason::KeyCompromise) };
    fleet.registry.decide(&ana(), serial, Act::Revoke, &reason).await.unwrap();
    let detail = fleet.registry.device(serial).await.unwrap();
    assert_eq!((detail.readings.len(), detail.row.last_seen_ms), (2, Some(6)));
    assert_eq!(detail.certificates[0].revoked.unwrap().0, RevocationReason::KeyCompromise);
    fleet.act(0, Act::Decommission).await.unwrap();
    // What was on its way still comes.
    fleet.said(0, &[("temperature_c", Value::Float(22.5))], 7, "a3");
    let detail = fleet.registry.device(serial).await.unwrap();
    assert_eq!(detail.row.state, DeviceState::Decommissioned);
    assert_eq!((detail.readings, detail.row.last_seen_ms), (Vec::new(), None));
    fleet.registry.store_newest().await.unwrap();
    assert_eq!(fleet.count("SELECT count(*) FROM newest").await, 0, "and none comes back");
    assert_eq!(detail.history.len(), 2);
    let verdicts = fleet.registry.verdicts();
    assert_eq!(verdicts.may_talk(key, &fleet.devices[0].certificate, 0), Err(Code::DeviceDecommissioned));
}

#[tokio::test]
async fn listings_page_through_every_device_once() {
    let fleet = Fleet::with(7).await;
    fleet.act(2, Act::Suspend).await.unwrap();
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = fleet.registry.devices(&Filter::default(), after.as_deref(), 3).await.unwrap();
        assert_eq!(page.total, 7);
        assert!(page.items.len() <= 3);
        seen.extend(page.items.into_iter().map(|row| row.serial));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, fleet.devices.iter().map(|device| device.serial.clone()).collect::<Vec<_>>());
    let filter = "state:suspended".parse::<Filter>().unwrap();
    let page = fleet.registry.devices(&filter, None, 50).await.unwrap();
    assert_eq!((page.total, page.items.len(), page.next), (1, 1, None));
    assert_eq!(page.items[0].serial, fleet.devices[2].serial);
    let filter = "batch:B-0002".parse::<Filter>().unwrap();
    assert_eq!(fleet.registry.devices(&filter, None, 50).await.unwrap().total, 0);
    let hostile = fleet.registry.devices(&Filter::default(), Some("'; DROP TABLE device"), 3).await;
    assert_eq!(hostile.unwrap_err().code(), Code::UsageWrong);
}

#[tokio::test]
async fn enforcement_is_reported_once_and_replayed_until_then() {
    let fleet = Fleet::with(2).await;
    let first = fleet.act(0, Act::Suspend).await.unwrap();
    let second = fleet.act(1, Act::Revoke).await.unwrap();
    let fleet = fleet.reopened().await;
    let open = fleet.registry.unenforced().await.unwrap();
    assert_eq!(
        open.iter().map(|one| (one.decided.generation, one.overtaken)).collect::<Vec<_>>(),
        [(first.generation, false), (second.generation, false)]
    );
    fleet.act(0, Act::Resume).await.unwrap();
    assert!(fleet.registry.unenforced().await.unwrap()[0].overtaken, "there is nothing left to end");
    fleet.registry.mark_enforced(second.generation, 1000, 1).await.unwrap();
    fleet.registry.mark_enforced(second.generation, 2000, 0).await.unwrap();
    let detail = fleet.registry.device(&fleet.devices[1].serial).await.unwrap();
    let enforcement = detail.enforcement.unwrap();
    assert_eq!((enforcement.enforced_at_ms, enforcement.sessions_ended), (Some(1000), 1));
    assert_eq!(fleet.registry.unenforced().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_closed_registry_says_so() {
    let fleet = Fleet::with(1).await;
    fleet.registry.close().await;
    let error = fleet.act(0, Act::Suspend).await.unwrap_err();
    assert_eq!(error.code(), Code::ServerStopping);
    fleet.registry.facts().flush().await;
    fleet.registry.close().await;
    assert_eq!(fleet.registry.verdicts().state(fleet.devices[0].key), Some(DeviceState::Registered));
}

#[tokio::test]
async fn a_serial_of_two_tenants_must_be_told_apart() {
    let fleet = Fleet::with(1).await;
    // A station of another tenant may use the same serials: ranges are a tenant's own.
    fleet
        .sql(
            "INSERT INTO batch (station, name, product, opened_at_ms, closed_at_ms) SELECT id, 'B', 'P', 0, 0 FROM station WHERE name = 'S-99';
             INSERT INTO device (tenant, device_id, serial, state, batch, registered_at_ms, changed_at_ms, changed_no)
             SELECT 'other', 'MU-000001', 'MU-000001', 'registered', id, 0, 0, 0 FROM batch WHERE name = 'B';
             INSERT INTO certificate (id, device, der, key_digest, issuer_key_id, not_before_s, not_after_s, status, added_at_ms)
             SELECT zeroblob(32), id, zeroblob(1), zeroblob(32), zeroblob(20), 0, 0, 'active', 0 FROM device WHERE tenant = 'other'",
        )
        .await;
    let fleet = fleet.reopened().await;
    let error = fleet.act(0, Act::Suspend).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Ambiguous { tenants, .. } if tenants.len() == 2), "{error}");
    let target: Target = "acme/MU-000001".parse().unwrap();
    let decided =
        fleet.registry.decide(&Actor::server(), &target, Act::Suspend, &Reason::new("one")).await.unwrap();
    assert_eq!(decided.device, fleet.devices[0].key);
    let page = fleet.registry.devices(&Filter::default(), None, 1).await.unwrap();
    let page = fleet.registry.devices(&Filter::default(), page.next.as_deref(), 1).await.unwrap();
    assert_eq!((page.items[0].tenant.as_str(), page.next), ("other", None));
}

#[tokio::test]
async fn after_a_commit_that_failed_the_verdicts_say_what_the_file_says() {
    let fleet = Fleet::with(2).await;
    let before = fleet.registry.audit_head().await.unwrap();
    // A violation that shows only at the commit: what a full disk does, at the worst moment.
    fleet.break_commits().await;
    let error = fleet.act(0, Act::Revoke).await.unwrap_err();
    assert!(matches!(error, RegistryError::Database(_)), "{error}");
    let state = |device: usize| fleet.registry.verdicts().state(fleet.devices[device].key).unwrap();
    assert_eq!(state(0), DeviceState::Registered, "nothing was decided");
    // A commit that was made though it seemed to fail: the file is asked, and has it.
    fleet.sql("UPDATE device SET state = 'suspended' WHERE serial = 'MU-000002'").await;
    assert!(fleet.act(0, Act::Revoke).await.is_err());
    assert_eq!((state(0), state(1)), (DeviceState::Registered, DeviceState::Suspended));
    fleet.mend_commits().await;
    fleet.act(0, Act::Revoke).await.unwrap();
    assert_eq!(state(0), DeviceState::Revoked);
    let report = fleet.registry.audit_verify(None).await.unwrap();
    assert_eq!((report.broken, report.head.no), (None, before.no + 1));
}
