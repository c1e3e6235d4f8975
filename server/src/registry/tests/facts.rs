use std::net::SocketAddr;

use muster_shared::Code;

use super::Fleet;
use crate::registry::{Claimed, Connected, DisconnectReason, SessionId, now_ms};

const REMOTE: &str = "10.0.4.17:51522";

fn connected(fleet: &Fleet, device: usize, at_ms: u64) -> SessionId {
    let remote: SocketAddr = REMOTE.parse().unwrap();
    fleet.registry.facts().connected(Connected {
        device: fleet.devices[device].key,
        at_ms,
        remote,
        protocol: 5,
        keep_alive_s: 60,
    })
}

#[tokio::test]
async fn sessions_begin_end_and_are_kept_in_order() {
    let fleet = Fleet::with(2).await;
    let facts = fleet.registry.facts();
    let now = now_ms();
    let first = connected(&fleet, 0, now);
    facts.disconnected(fleet.devices[0].key, first, now + 5, DisconnectReason::KeepAliveTimeout);
    let second = connected(&fleet, 0, now + 6);
    assert!(second > first);
    facts.flush().await;
    let detail = fleet.registry.device(&fleet.devices[0].serial).await.unwrap();
    let ended: Vec<_> = detail.sessions.iter().map(|session| (session.id, session.ended)).collect();
    assert_eq!(ended, [(second, None), (first, Some((now + 5, DisconnectReason::KeepAliveTimeout)))]);
    assert_eq!(detail.row.last_seen_ms, Some(now + 6));
    assert_eq!(detail.row.session.as_ref().unwrap().remote, REMOTE);
    let other = fleet.registry.device(&fleet.devices[1].serial).await.unwrap();
    assert_eq!((other.sessions.len(), other.row.last_seen_ms), (0, None));

    let fleet = fleet.reopened().await;
    let detail = fleet.registry.device(&fleet.devices[0].serial).await.unwrap();
    assert_eq!(detail.sessions[0].ended.unwrap().1, DisconnectReason::ServerShutdown);
    assert!(connected(&fleet, 0, now + 9) > second, "numbers go on after a restart");
}

#[tokio::test]
async fn refusals_fold_by_device_code_and_minute() {
    let fleet = Fleet::with(1).await;
    let facts = fleet.registry.facts();
    let minute = now_ms() / 60_000 * 60_000;
    let device = Claimed::Device(fleet.devices[0].key);
    for n in 0..10_000 {
        facts.refused(&device, Code::DeviceSuspended, minute + n % 60_000, None);
    }
    facts.refused(&device, Code::DeviceSuspended, minute + 60_000, Some(REMOTE.parse().unwrap()));
    facts.refused(&device, Code::TopicNotIts, minute, None);
    facts.flush().await;
    let detail = fleet.registry.device(&fleet.devices[0].serial).await.unwrap();
    assert_eq!(detail.row.refused_24h, 10_002);
    assert_eq!(detail.refusals.len(), 3, "one row a code and minute, however many attempts");
    let last = detail.row.last_refusal.unwrap();
    assert_eq!((last.code, last.count, last.remote.as_deref()), (Code::DeviceSuspended, 1, Some(REMOTE)));
    facts.refused(&device, Code::TopicNotIts, minute, None);
    facts.flush().await;
    let detail = fleet.registry.device(&fleet.devices[0].serial).await.unwrap();
    let topic = detail.refusals.iter().find(|row| row.code == Code::TopicNotIts).unwrap();
    assert_eq!(topic.count, 2, "and a later write adds to it");
}

#[tokio::test]
async fn names_invented_by_strangers_are_bounded() {
    let fleet = Fleet::with(1).await;
    let facts = fleet.registry.facts();
    for n in 0..5_000 {
        let claimed = Claimed::Name("acme".parse().unwrap(), format!("X-{n}").parse().unwrap());
        facts.refused(&claimed, Code::SerialTaken, 60_000, None);
    }
    facts.flush().await;
    let pool = fleet.registry.inner.database.readers();
    let (rows, refused): (i64, i64) =
        sqlx::query_as("SELECT count(*), CAST(sum(count) AS BIGINT) FROM refusal")
            .fetch_one(pool)
            .await
            .unwrap();
    // Nothing was awaited in between, so it is one write: 1024 names, and nobody for the rest.
    assert_eq!((rows, refused), (1025, 5_000));
    let (nobody,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM refusal WHERE device <> 0").fetch_one(pool).await.unwrap();
    assert_eq!(nobody, 0, "no device is charged with them");
}

#[tokio::test]
async fn facts_survive_a_write_that_failed() {
    let fleet = Fleet::with(1).await;
    let session = connected(&fleet, 0, 1000);
    // The table is away: the write fails as it would on a full disk.
    fleet.sql("ALTER TABLE session RENAME TO away").await;
    fleet.registry.facts().disconnected(
        fleet.devices[0].key,
        session,
        2000,
        DisconnectReason::ClientInitiated,
    );
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    fleet.sql("ALTER TABLE away RENAME TO session").await;
    fleet.registry.facts().flush().await;
    let detail = fleet.registry.device(&fleet.devices[0].serial).await.unwrap();
    assert_eq!(detail.sessions[0].ended, Some((2000, DisconnectReason::ClientInitiated)));
}

#[tokio::test]
async fn old_facts_go_and_the_newest_session_of_a_device_stays() {
    use crate::registry::retention::{Before, Forgotten};
    let fleet = Fleet::with(2).await;
    let facts = fleet.registry.facts();
    for at_ms in 1..=1200 {
        let session = connected(&fleet, 0, at_ms);
        facts.disconnected(fleet.devices[0].key, session, at_ms, DisconnectReason::ConnectionLost);
    }
    connected(&fleet, 1, 5);
    facts.flush().await;
    fleet.sql("INSERT INTO refusal (device, claimed, code, minute_ms, count, last_at_ms) VALUES (0, 'a', 'M202', 60000, 1, 60000), (0, 'b', 'M202', 120000, 1, 120000)").await;
    let gone = fleet.registry.forget_facts(Before::default()).await.unwrap();
    assert_eq!(gone, Forgotten::default(), "0 keeps all");
    let before = Before { sessions_ms: 1100, refusals_ms: 120_000 };
    let gone = fleet.registry.forget_facts(before).await.unwrap();
    assert_eq!((gone.sessions, gone.refusals), (1099, 1));
    let before = Before { sessions_ms: u64::MAX, refusals_ms: 0 };
    let gone = fleet.registry.forget_facts(before).await.unwrap();
    assert_eq!(gone.sessions, 100, "one stays of each device, and one that has not ended");
    assert_eq!(fleet.count("SELECT count(*) FROM session").await, 2);
    assert_eq!(fleet.registry.forget_facts(before).await.unwrap(), Forgotten::default());
}

#[tokio::test]
async fn a_hammering_device_costs_no_write_an_attempt() {
    let fleet = Fleet::with(2).await;
    let facts = fleet.registry.facts();
    let [first, other] = [0, 1].map(|device| Claimed::Device(fleet.devices[device].key));
    let written = || fleet.count("SELECT coalesce(CAST(sum(count) AS BIGINT), 0) FROM refusal");
    let before = facts.writes();
    assert!(facts.refused(&first, Code::CertificateRevoked, now_ms(), None), "the first is said");
    while written().await < 1 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // Fewer than five a second: each would be a write of its own.
    let mut attempts = 1;
    for _ in 0..10 {
        assert!(!facts.refused(&first, Code::CertificateRevoked, now_ms(), None));
        attempts += 1;
        tokio::time::sleep(std::time::Duration::from_millis(220)).await;
    }
    assert_eq!(facts.writes() - before, 1, "{attempts} attempts");
    // Somebody else's first one does not wait for that, nor does it take the others along.
    assert!(facts.refused(&other, Code::CertificateRevoked, now_ms(), None));
    while written().await < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(facts.writes() - before, 2);
    // A stop takes all of them.
    let fleet = fleet.reopened().await;
    let detail = fleet.registry.device(&fleet.devices[0].serial).await.unwrap();
    assert_eq!(detail.row.refused_24h, attempts, "and none is lost");
}

#[tokio::test]
async fn notices_fold_by_device_kind_and_day_and_go_with_the_refusals() {
    use crate::registry::{Notice, retention::Before, timeline::EventKind};
    let fleet = Fleet::with(1).await;
    let facts = fleet.registry.facts();
    let (day, device) = (1_700_000_000_000 / 86_400_000 * 86_400_000, fleet.devices[0].key);
    let remote = Some(REMOTE.parse().unwrap());
    for minute in 0..3 {
        facts.noticed(device, Notice::Slowed { per_s: 100 }, day + minute * 60_000, remote);
    }
    facts.noticed(device, Notice::Slowed { per_s: 50 }, day, remote);
    facts.noticed(device, Notice::CloneSuspected { times: 5 }, day + 7, remote);
    facts.flush().await;
    let serial = &fleet.devices[0].serial;
    let page = fleet.registry.timeline(serial, None, 100).await.unwrap();
    let kinds = [EventKind::Slowed, EventKind::CloneSuspected];
    let lines = page.items.iter().filter(|event| kinds.contains(&event.kind));
    let lines: Vec<_> = lines.map(|event| event.text.as_str()).collect();
    assert_eq!(
        lines,
        [
            "slowed: over 100 msg/s, in 3 minutes that day",
            "clone suspected: session taken over 5 times, from 10.0.4.17",
            "slowed: over 50 msg/s",
        ]
    );
    let detail = fleet.registry.device(serial).await.unwrap();
    assert_eq!((detail.row.refused_24h, detail.refusals.len()), (0, 0));
    let before = Before { sessions_ms: 0, refusals_ms: day + 86_400_000 };
    assert_eq!(fleet.registry.forget_facts(before).await.unwrap().refusals, 5);
    assert_eq!(fleet.count("SELECT count(*) FROM notice").await, 0);
}
