//! Sessions, queues and what is retained, through the writer.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use muster_shared::Code;
use parking_lot::Mutex;

use super::{
    rig::{Rig, SMALL, device, device_key, message, retained, save, server, service, service_key},
    sql,
};
use crate::{
    registry::{Act, DeviceKey, sqlite as backend, testing::Fleet},
    uplink::{
        Addressed, Change, Cursor, Downlinks, Message, Outcome, Position, Publisher, Reader, SavedSession,
        SessionKey, Writer,
        batch::{Item, Planner},
        bounds::Bounds,
        segment,
        sqlite::{Log, Opened, path},
        testing::telemetry,
    },
};

/// Pushes to the first device, and remembers what it was handed and that it was on disk by then.
struct Recorder {
    dir: PathBuf,
    key: SessionKey,
    handed: Mutex<Vec<Addressed>>,
}

impl Downlinks for Recorder {
    fn targets(&self, message: &Message, out: &mut Vec<SessionKey>) -> bool {
        if message.topic.ends_with(b"/app/x") {
            out.push(self.key.clone());
        }
        !out.is_empty()
    }

    fn committed(&self, messages: &[Addressed]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let on_disk = runtime.block_on(async {
            let reader = Reader::open(&self.dir).await.unwrap();
            let session = reader.session(&self.key).await.unwrap();
            reader.close().await;
            session.map(|session| session.queue).unwrap_or_default()
        });
        for addressed in messages.iter().filter(|addressed| !addressed.queued.is_empty()) {
            assert!(
                on_disk.contains(&(addressed.position, addressed.message.clone())),
                "handed out too early"
            );
        }
        self.handed.lock().extend_from_slice(messages);
    }
}

struct Node {
    fleet: Fleet,
    key: SessionKey,
    recorder: Arc<Recorder>,
    writer: Writer,
}

fn key_of(fleet: &Fleet, device: usize) -> SessionKey {
    let name = fleet.registry.verdicts().name(fleet.devices[device].key);
    SessionKey::Device { tenant: name.tenant.clone(), device_id: name.device_id.clone() }
}

async fn node() -> Node {
    on(Fleet::with(2).await).await
}

async fn on(fleet: Fleet) -> Node {
    let key = key_of(&fleet, 0);
    let dir = fleet.dir.path().to_owned();
    let recorder = Arc::new(Recorder { dir, key: key.clone(), handed: Mutex::default() });
    let verdicts = fleet.registry.verdicts();
    let writer = Writer::open(fleet.dir.path(), verdicts, recorder.clone(), Box::new(|_| {})).await.unwrap();
    Node { fleet, key, recorder, writer }
}

impl Node {
    fn own(&self, rest: &str) -> String {
        let SessionKey::Device { tenant, device_id } = &self.key else { unreachable!("a device's") };
        format!("{tenant}/{device_id}/{rest}")
    }

    /// A message of a service to the first device.
    fn command(&self, payload: &str) -> Message {
        message(service(), &self.own("app/x"), payload)
    }

    fn shown(&self) -> Vec<(u64, Bytes)> {
        let shown = self.writer.retained().matching("#", None, usize::MAX, 0);
        shown.into_iter().map(|kept| (kept.position.0, kept.message.payload)).collect()
    }

    async fn ready(&self) {
        let ready = async {
            while !self.writer.is_ready() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ready).await.unwrap();
    }

    async fn restarted(self) -> Self {
        self.writer.close().await;
        drop(self.recorder);
        on(self.fleet).await
    }
}

fn payloads(session: &SavedSession) -> Vec<(u64, &[u8])> {
    session.queue.iter().map(|(at, message)| (at.0, &message.payload[..])).collect()
}

#[tokio::test]
async fn what_is_kept_survives_a_restart_and_is_taken_once() {
    let node = node().await;
    let service_state = save(service_key("a/b"), "cursor", &[]);
    let tickets = vec![
        node.writer.change(save(node.key.clone(), "subscribed", &[])),
        node.writer.change(service_state),
        node.writer.append(node.command("one")),
    ];
    let outcomes = join_all(tickets).await;
    assert_eq!(outcomes, [stored([0, 0]), stored([1])].concat(), "a change stands behind a message");
    let busy = Some(Box::new(save(node.key.clone(), "busy", &[1])));
    let tickets = vec![
        node.writer.append(Message { state: busy, ..node.command("two") }),
        node.writer.append(retained(service(), &node.own("twin/desired"), "wanted")),
        node.writer.append(node.command("three")),
    ];
    assert_eq!(join_all(tickets).await, stored(2..5));
    assert_eq!(node.writer.take_sessions(), [], "what was made since the start is known to who made it");
    let node = node.restarted().await;
    let sessions = node.writer.take_sessions();
    let [device, service] = &sessions[..] else { panic!("{sessions:?}") };
    assert_eq!((&device.key, &device.state[..]), (&node.key, b"busy".as_slice()));
    assert_eq!(payloads(device), [(2, b"two".as_slice()), (4, b"three")]);
    assert_eq!(
        (&service.key, &service.state[..], payloads(service).len()),
        (&service_key("a/b"), b"cursor".as_slice(), 0)
    );
    assert!(node.writer.take_sessions().is_empty());
    assert_eq!(node.shown(), [(3, Bytes::from_static(b"wanted"))]);
    let reader = Reader::open(node.fleet.dir.path()).await.unwrap();
    assert_eq!(reader.session(&node.key).await.unwrap().as_ref(), Some(device));
    assert_eq!(reader.session(&service_key("nobody")).await.unwrap(), None);
    reader.close().await;
    node.writer.close().await;
}

#[tokio::test]
async fn a_session_is_handed_a_message_after_its_commit_and_before_its_publisher_is_told() {
    let node = node().await;
    // Not saved yet: handed out, and held by whoever serves it.
    assert_eq!(node.writer.append(node.command("live")).await, Outcome::Stored(Position(1)));
    assert!(
        matches!(&node.recorder.handed.lock()[..], [one] if one.queued.is_empty() && one.missed.is_empty())
    );
    assert_eq!(node.writer.change(save(node.key.clone(), "", &[])).await, Outcome::Stored(Position(1)));
    for n in 2..20 {
        assert_eq!(node.writer.append(node.command("kept")).await, Outcome::Stored(Position(n)));
        let handed = node.recorder.handed.lock();
        let last = handed.last().unwrap();
        assert_eq!((last.position, &last.queued), (Position(n), &vec![node.key.clone()]));
        assert_eq!(last.message.payload, "kept");
    }
    // Telemetry is nobody's here.
    node.writer.append(telemetry(&node.fleet.devices[0], 1, 0.0)).await;
    assert_eq!(node.recorder.handed.lock().len(), 19);
    node.writer.close().await;
}

#[tokio::test]
async fn a_commit_that_fails_shows_and_hands_out_nothing() {
    let node = node().await;
    let topic = node.own("twin/desired");
    node.writer.change(save(node.key.clone(), "old", &[])).await;
    node.writer.append(retained(service(), &topic, "old")).await;
    sql(&node.fleet, "ALTER TABLE held RENAME TO away").await;
    let tickets = vec![
        node.writer.change(save(node.key.clone(), "new", &[])),
        node.writer.append(retained(service(), &topic, "new")),
        node.writer.append(node.command("lost")),
        node.writer.append(telemetry(&node.fleet.devices[1], 1, 0.0)),
    ];
    // Some may have come too late for the batch that failed: then they failed with the queue.
    assert!(join_all(tickets).await.iter().all(|outcome| *outcome == Outcome::Failed));
    assert_eq!(node.shown(), [(1, Bytes::from_static(b"old"))]);
    assert!(node.recorder.handed.lock().is_empty());
    sql(&node.fleet, "ALTER TABLE away RENAME TO held").await;
    node.ready().await;
    assert_eq!(node.shown(), [(1, Bytes::from_static(b"old"))]);
    assert_eq!(node.writer.append(node.command("kept")).await, Outcome::Stored(Position(2)));
    let node = node.restarted().await;
    let sessions = node.writer.take_sessions();
    assert_eq!(
        (&sessions[0].state[..], payloads(&sessions[0])),
        (b"old".as_slice(), vec![(2, b"kept".as_slice())])
    );
    node.writer.close().await;
}

#[tokio::test]
async fn what_a_failed_commit_left_on_disk_is_handed_out_when_the_file_is_open_again() {
    let node = node().await;
    node.writer.change(save(node.key.clone(), "", &[])).await;
    node.writer.append(node.command("told")).await;
    // Another hand commits at the next position, as a commit does whose end was never heard of.
    let verdicts = node.fleet.registry.verdicts();
    let opened = Log::open(&path(node.fleet.dir.path()), &verdicts, &Arc::default()).await;
    let Opened { mut log, mut state, .. } = opened.unwrap();
    let bounds = Bounds::default();
    let planner = Planner {
        verdicts: &verdicts,
        downlinks: &*node.recorder,
        bounds: &bounds,
        now_ms: 1,
        last: log.last,
    };
    let plan = planner.plan([Item::Message(node.command("unheard"))].iter(), &mut state);
    log.commit(plan.count, plan.body, &plan.delta, 1).await.unwrap();
    log.close().await;
    assert_eq!(node.writer.append(node.command("in its way")).await, Outcome::Failed);
    node.ready().await;
    {
        let handed = node.recorder.handed.lock();
        let handed: Vec<_> =
            handed.iter().map(|one| (one.position.0, &one.message.payload[..], one.queued.len())).collect();
        assert_eq!(handed, [(1, b"told".as_slice(), 1), (2, b"unheard", 1)]);
    }
    assert_eq!(node.writer.append(node.command("next")).await, Outcome::Stored(Position(3)));
    node.writer.close().await;
}

#[tokio::test]
async fn who_may_not_talk_changes_nothing_and_the_server_still_says_where_it_is() {
    let node = node().await;
    let first = &node.fleet.devices[0];
    let by = |publisher, rest: &str| Message {
        state: Some(Box::new(save(node.key.clone(), rest, &[]))),
        ..retained(publisher, &node.own(rest), rest)
    };
    let (own, server) = (
        Publisher::Device { device: first.key, certificate: first.certificate },
        Publisher::Server { device: first.key },
    );
    assert_eq!(node.writer.append(by(own.clone(), "app/a")).await, Outcome::Stored(Position(1)));
    assert_eq!(node.writer.append(by(server.clone(), "app/will")).await, Outcome::Stored(Position(2)));
    node.fleet.act(0, Act::Suspend).await.unwrap();
    let refused = Outcome::Refused(Code::DeviceSuspended);
    assert_eq!(node.writer.append(by(own, "app/b")).await, refused);
    assert_eq!(
        node.writer.append(by(server.clone(), "app/late will")).await,
        refused,
        "a will fires no more"
    );
    let stranger = Publisher::Server { device: DeviceKey(99) };
    assert_eq!(node.writer.append(by(stranger, "app/c")).await, Outcome::Refused(Code::DeviceUnknown));
    assert_eq!(node.writer.append(by(server, "presence")).await, Outcome::Stored(Position(3)));
    let command = node.writer.append(by(service(), "twin/desired")).await;
    assert_eq!(command, Outcome::Stored(Position(4)), "a service has no verdict here");
    assert_eq!(node.shown().iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let SessionKey::Device { tenant, device_id } = node.key.clone() else { unreachable!("a device's") };
    let purge = Change::Purge { tenant, device_id };
    assert_eq!(node.writer.change(purge.clone()).await, Outcome::Stored(Position(4)));
    assert_eq!(node.writer.change(purge).await, Outcome::Stored(Position(4)), "once more changes nothing");
    assert_eq!(node.shown(), [(3, Bytes::from_static(b"presence"))]);
    let node = node.restarted().await;
    assert!(node.writer.take_sessions().is_empty());
    assert_eq!(node.shown(), [(3, Bytes::from_static(b"presence"))]);
    node.writer.close().await;
}

fn item(message: Message) -> Item {
    Item::Message(message)
}

fn stored(positions: impl IntoIterator<Item = u64>) -> Vec<Outcome> {
    positions.into_iter().map(|at| Outcome::Stored(Position(at))).collect()
}

#[tokio::test]
async fn a_full_queue_lets_go_of_what_is_over_then_of_qos_0_and_then_refuses() {
    let mut rig = Rig::open(SMALL).await;
    let to = |qos, payload: &str| Message { qos, ..message(service(), "acme/MU-0/app/x", payload) };
    let short =
        |payload| Message { properties: Bytes::from_static(b"\x02\x00\x00\x00\x01"), ..to(1, payload) };
    let begin =
        [Item::Change(save(device_key(0), "", &[])), item(to(1, "a")), item(to(0, "b")), item(short("c"))];
    assert_eq!(rig.batch(&begin, 0).await, stored(0..4), "the queue has room for three");
    let plan = rig.plan(&[item(to(1, "d"))], 1000);
    assert_eq!(plan.addressed[0].dropped, [(device_key(0), Position(3))], "over before older");
    rig.commit(plan, 1000).await.unwrap();
    let plan = rig.plan(&[item(to(2, "e"))], 1000);
    assert_eq!(plan.addressed[0].dropped, [(device_key(0), Position(2))], "then QoS 0");
    rig.commit(plan, 1000).await.unwrap();
    // A, d and e stay whatever comes.
    let plan = rig.plan(&[item(to(1, "f")), item(to(0, "g"))], 1000);
    assert_eq!(plan.outcomes, [Outcome::Refused(Code::QueueFull), Outcome::Stored(Position(6))]);
    assert_eq!(plan.addressed[0].missed, [device_key(0)], "QoS 0 is stored and missed");
    rig.commit(plan, 1000).await.unwrap();
    // What is for many is not refused for one, nor is what the device itself says.
    let news = message(service(), "acme/~all/app/x", "h");
    let own = message(device(0), "acme/MU-0/app/x", "i");
    let held = message(server(0), "acme/MU-0/app/x", "j");
    // What the fleet wants of it is not lost silently either.
    let wanted = message(server(0), "acme/MU-0/twin/desired", "k");
    let plan = rig.plan(&[item(news), item(own), item(held), item(wanted)], 1000);
    assert_eq!(plan.outcomes[..3], stored(7..10));
    assert_eq!(plan.outcomes[3], Outcome::Refused(Code::QueueFull));
    assert!(plan.addressed.iter().all(|addressed| addressed.missed == [device_key(0)]));
    rig.commit(plan, 1000).await.unwrap();
    let (_, queue) = &rig.picture().await.sessions[&device_key(0)];
    assert_eq!(queue.iter().map(|(at, _)| at.0).collect::<Vec<_>>(), [1, 4, 5], "in order");
    // It takes one: there is room for one.
    let taken = Change::Dequeue { key: device_key(0), positions: vec![Position(1)] };
    let again = [Item::Change(taken), item(to(1, "k")), item(to(1, "l"))];
    let outcomes = rig.batch(&again, 1000).await;
    assert_eq!(outcomes[1..], [Outcome::Stored(Position(10)), Outcome::Refused(Code::QueueFull)]);
    rig.close().await;
}

#[tokio::test]
async fn one_message_for_many_queues_is_held_once_until_the_last_has_taken_it() {
    let mut rig = Rig::open(SMALL).await;
    let mut items: Vec<_> = (0..3).map(|n| Item::Change(save(device_key(n), "", &[]))).collect();
    items.push(item(message(service(), "acme/~all/app/x", "news")));
    rig.batch(&items, 0).await;
    let mut seen = vec![rig.counts().await];
    for n in 0..3 {
        rig.batch(&[Item::Change(save(device_key(n), "", &[1]))], 0).await;
        seen.push(rig.counts().await);
    }
    assert_eq!(seen, [(1, 3), (1, 2), (1, 1), (0, 0)]);
    rig.close().await;
}

#[tokio::test]
async fn the_bounds_of_what_is_retained_hold_for_each_owner_and_give_back_what_goes() {
    let mut rig = Rig::open(SMALL).await;
    let own = |n, topic: &str, payload: &str| {
        item(retained(device(n), &format!("acme/MU-{n}/app/{topic}"), payload))
    };
    let full = Outcome::Refused(Code::RetainedFull);
    let outcomes =
        rig.batch(&[own(0, "a", "x"), own(0, "b", "x"), own(0, "c", "x"), own(1, "a", "x")], 0).await;
    assert_eq!(outcomes, [stored([1, 2]), vec![full], stored([3])].concat(), "two a device");
    // In its place, or instead of another.
    let outcomes =
        rig.batch(&[own(0, "b", "y"), own(0, "a", ""), own(0, "c", "x"), own(0, "d", "x")], 0).await;
    assert_eq!(outcomes, [stored([4, 5, 6]), vec![full]].concat());
    let large = "x".repeat(200);
    assert_eq!(rig.batch(&[own(0, "b", &large)], 0).await, [full], "and so many octets");
    // Unretained it is welcome; and a reopened file counts the same.
    rig.reopen().await;
    let outcomes = rig.batch(&[item(message(device(0), "acme/MU-0/app/d", "x")), own(0, "d", "x")], 0).await;
    assert_eq!(outcomes, [stored([7]), vec![full]].concat());
    // Presence is the server's: it counts for nobody. What the server sends in a device's place is the device's.
    let presence = item(retained(server(0), "acme/MU-0/presence", "on"));
    let outcomes = rig.batch(&[presence, item(retained(server(0), "acme/MU-0/app/w", "will"))], 0).await;
    assert_eq!(outcomes, [stored([8]), vec![full]].concat());
    let topics: Vec<_> = rig.picture().await.retained.into_keys().collect();
    assert_eq!(topics, ["acme/MU-0/app/b", "acme/MU-0/app/c", "acme/MU-0/presence", "acme/MU-1/app/a"]);
    rig.close().await;
}

#[tokio::test]
async fn a_service_that_invents_client_ids_is_stopped_and_others_are_not() {
    let mut rig = Rig::open(SMALL).await;
    let begin = |id: &str| Item::Change(save(service_key(id), "", &[]));
    let full = Outcome::Refused(Code::SessionsFull);
    assert_eq!(
        rig.batch(&[begin("a"), begin("b"), begin("c"), begin("a")], 0).await,
        [stored([0, 0]), vec![full], stored([0])].concat()
    );
    rig.reopen().await;
    let other = SessionKey::Service { name: "other".into(), client_id: "c".into() };
    let brought = Message {
        state: Some(Box::new(save(service_key("c"), "", &[]))),
        ..message(service(), "plant/a", "x")
    };
    let items = [
        item(brought),
        Item::Change(save(other, "", &[])),
        Item::Change(save(device_key(0), "", &[])),
        Item::Change(Change::Forget { key: service_key("a") }),
        begin("c"),
    ];
    assert_eq!(rig.batch(&items, 0).await, [vec![full], stored([0, 0, 0, 0])].concat());
    assert_eq!(rig.picture().await.sessions.len(), 4);
    rig.close().await;
}

#[tokio::test]
async fn a_retained_message_whose_time_is_over_goes_with_the_next_commit() {
    let mut rig = Rig::open(SMALL).await;
    let mut short = retained(service(), "plant/a", "x");
    short.properties = Bytes::from_static(b"\x02\x00\x00\x00\x02");
    short.received_ms = 500;
    rig.batch(&[item(short), item(retained(service(), "plant/b", "x"))], 500).await;
    rig.batch(&[item(message(service(), "plant/c", "x"))], 2499).await;
    assert_eq!(rig.picture().await.retained.len(), 2);
    rig.reopen().await;
    rig.batch(&[item(message(service(), "plant/c", "x"))], 2500).await;
    assert_eq!(rig.picture().await.retained.into_keys().collect::<Vec<_>>(), ["plant/b"]);
    assert_eq!(rig.shown.len(), 1);
    rig.close().await;
}

#[tokio::test]
async fn telemetry_alone_changes_nothing_beside_the_log() {
    let mut rig = Rig::open(Bounds::default()).await;
    rig.batch(&[Item::Change(save(device_key(0), "", &[]))], 0).await;
    let items: Vec<_> = (0..500).map(|_| item(message(device(0), "acme/MU-0/telemetry/env", "x"))).collect();
    let plan = rig.plan(&items, 1);
    assert_eq!(plan.outcomes, stored(1..501));
    assert!(plan.delta.is_empty() && plan.addressed.is_empty(), "the row is the whole commit");
    rig.close().await;
}

#[tokio::test]
async fn a_file_of_the_first_version_goes_on() {
    let fleet = Fleet::with(1).await;
    let body = [
        b"\x01\x04acme\x09MU-000001\x0d\x07".as_slice(),
        &[9, 0, 0, 0, 0, 0, 0, 0, 1, 5],
        b"\x05app/x\x00\x02hi",
    ]
    .concat();
    let sum = segment::checksum(Position(1), 1, &body);
    let hex = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
    first_version(
        &fleet,
        &format!("INSERT INTO segment VALUES (1, 1, 7, x'{}', x'{}')", hex(&sum), hex(&body)),
    )
    .await;
    let node = on(fleet).await;
    let boot = muster_shared::telemetry::Boot { install: 9, count: 1 };
    let numbered = |seq| Message { name: Some((boot, seq)), ..telemetry(&node.fleet.devices[0], 0, 0.0) };
    assert_eq!(node.writer.append(numbered(5)).await, Outcome::Duplicate(Position(1)));
    assert_eq!(node.writer.append(numbered(6)).await, Outcome::Stored(Position(2)));
    assert_eq!(node.writer.change(save(node.key.clone(), "x", &[])).await, Outcome::Stored(Position(2)));
    let reader = Reader::open(node.fleet.dir.path()).await.unwrap();
    let read = super::all(&reader, &Cursor::default()).await.unwrap();
    assert_eq!((read.len(), &read[0].1.topic[..]), (2, b"acme/MU-000001/app/x".as_slice()));
    reader.close().await;
    node.writer.close().await;
}

/// Makes the file as it was before sessions were in it, and runs `insert` on it.
async fn first_version(fleet: &Fleet, insert: &str) {
    use sqlx::Connection as _;
    let options = backend::options(&path(fleet.dir.path()));
    let mut connection = backend::Connection::connect_with(&options).await.unwrap();
    let step = (1, "uplink", include_str!("../../../migrations/sqlite/uplink/0001_uplink.sql"));
    backend::migrate(&mut connection, &[step]).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(insert.to_owned())).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
