//! The planner and the file, without the thread: a batch is committed, given up, or cut where a test says.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use bytes::Bytes;
use muster_shared::CertificateId;
use sqlx::{AssertSqlSafe, Connection as _};
use tempfile::TempDir;

use crate::{
    registry::{DeviceKey, DeviceName, DeviceState, Verdicts, sqlite as backend, verdict::CertificateStatus},
    uplink::{
        Change, Cursor, Downlinks, Message, Outcome, Position, Publisher, Reader, Retained, SavedSession,
        SessionKey,
        batch::{Item, Plan, Planner, State},
        bounds::{Bound, Bounds},
        sqlite::{Log, Opened, path},
    },
};

/// Devices of the rig, MU-0 and on; the last one is suspended.
pub(super) const DEVICES: u32 = 3;

/// Small enough to be reached.
pub(super) const SMALL: Bounds = Bounds {
    retained_device: Bound { messages: 2, bytes: 200 },
    retained_service: Bound { messages: 3, bytes: 300 },
    retained_bytes: 500,
    queue: Bound { messages: 3, bytes: 250 },
    service_sessions: 2,
};

/// What the file holds, as a reader would see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Picture {
    /// Payloads, from position 1.
    pub(super) log: Vec<Bytes>,
    /// State and queue.
    pub(super) sessions: BTreeMap<SessionKey, (Bytes, Vec<(Position, Bytes)>)>,
    pub(super) retained: BTreeMap<String, (Position, Bytes)>,
}

/// Routes by topic: a device's own topics to it, `~all` to every device.
pub(super) struct Router;

pub(super) fn device_key(n: u32) -> SessionKey {
    SessionKey::Device { tenant: "acme".parse().unwrap(), device_id: format!("MU-{n}").parse().unwrap() }
}

pub(super) fn service_key(client_id: &str) -> SessionKey {
    SessionKey::Service { name: "ops".into(), client_id: client_id.into() }
}

/// The devices a topic is for.
pub(super) fn addressees(topic: &str) -> Vec<u32> {
    match topic.split('/').nth(1) {
        Some("~all") => (0..DEVICES).collect(),
        Some(id) => id.strip_prefix("MU-").and_then(|n| n.parse().ok()).into_iter().collect(),
        None => Vec::new(),
    }
}

impl Downlinks for Router {
    fn targets(&self, message: &Message, out: &mut Vec<SessionKey>) -> bool {
        let topic = std::str::from_utf8(&message.topic).unwrap();
        if topic.contains("/telemetry/") {
            return false;
        }
        out.extend(addressees(topic).into_iter().map(device_key));
        !out.is_empty()
    }

    fn committed(&self, _: &[crate::uplink::Addressed]) {}
}

pub(super) fn certificate(n: u32) -> CertificateId {
    let mut id = [7; 32];
    id[..4].copy_from_slice(&n.to_be_bytes());
    CertificateId(id)
}

pub(super) fn device(n: u32) -> Publisher {
    Publisher::Device { device: DeviceKey(n), certificate: certificate(n) }
}

pub(super) fn service() -> Publisher {
    Publisher::Service { tenant: None, name: "ops".into(), client_id: "1".into(), shown: None }
}

pub(super) fn server(n: u32) -> Publisher {
    Publisher::Server { device: DeviceKey(n) }
}

pub(super) fn message(publisher: Publisher, topic: &str, payload: &str) -> Message {
    Message {
        publisher,
        topic: Bytes::copy_from_slice(topic.as_bytes()),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: 1,
        retain: false,
        name: None,
        properties: Bytes::new(),
        received_ms: 0,
        state: None,
    }
}

pub(super) fn retained(publisher: Publisher, topic: &str, payload: &str) -> Message {
    Message { retain: true, ..message(publisher, topic, payload) }
}

pub(super) fn save(key: SessionKey, state: &str, done: &[u64]) -> Change {
    let done = done.iter().copied().map(Position).collect();
    Change::Session { key, state: Bytes::copy_from_slice(state.as_bytes()), done }
}

pub(super) fn verdicts() -> Verdicts {
    let verdicts = Verdicts::empty();
    let [tenant, station, batch] = ["acme", "S-07", "B-0042"];
    let batch =
        verdicts.put_batch(1, &tenant.parse().unwrap(), &station.parse().unwrap(), &batch.parse().unwrap());
    let issuer = verdicts.put_issuer_key(&[7; 20]);
    for n in 0..DEVICES {
        let id = format!("MU-{n}");
        let name = DeviceName {
            tenant: "acme".parse().unwrap(),
            device_id: id.parse().unwrap(),
            serial: id.parse().unwrap(),
        };
        let suspended = n + 1 == DEVICES;
        let state = if suspended { DeviceState::Suspended } else { DeviceState::Active };
        let key = verdicts.put_device(i64::from(n), &name, state, batch);
        assert_eq!(key, DeviceKey(n));
        verdicts.put_certificate(&certificate(n), key, issuer, CertificateStatus::Active, i64::MAX);
    }
    verdicts
}

pub(super) struct Rig {
    pub(super) dir: TempDir,
    pub(super) bounds: Bounds,
    verdicts: Verdicts,
    pub(super) shown: Arc<Retained>,
    log: Option<Log>,
    state: State,
    /// As of the last opening.
    pub(super) sessions: Vec<SavedSession>,
}

impl Rig {
    pub(super) async fn open(bounds: Bounds) -> Self {
        Self::on(TempDir::new().unwrap(), bounds).await
    }

    /// On the file that is in `dir`, or a new one.
    pub(super) async fn on(dir: TempDir, bounds: Bounds) -> Self {
        let (verdicts, shown) = (verdicts(), Arc::default());
        let Opened { log, state, kept } = Log::open(&path(dir.path()), &verdicts, &shown).await.unwrap();
        Self { dir, bounds, verdicts, shown, log: Some(log), state, sessions: kept.sessions }
    }

    pub(super) fn file(&self) -> PathBuf {
        path(self.dir.path())
    }

    pub(super) fn plan(&mut self, items: &[Item], now_ms: u64) -> Plan {
        let last = self.log.as_ref().unwrap().last;
        let planner =
            Planner { verdicts: &self.verdicts, downlinks: &Router, bounds: &self.bounds, now_ms, last };
        planner.plan(items.iter(), &mut self.state)
    }

    /// What the thread does with a plan, in its order.
    pub(super) async fn commit(&mut self, plan: Plan, now_ms: u64) -> Result<(), sqlx::Error> {
        if plan.count == 0 && plan.delta.is_empty() {
            return Ok(());
        }
        let log = self.log.as_mut().unwrap();
        log.commit(plan.count, plan.body, &plan.delta, now_ms).await?;
        self.shown.apply(plan.delta.retained);
        Ok(())
    }

    /// Plans and commits; what became of each item.
    pub(super) async fn batch(&mut self, items: &[Item], now_ms: u64) -> Vec<Outcome> {
        let plan = self.plan(items, now_ms);
        let outcomes = plan.outcomes.clone();
        self.commit(plan, now_ms).await.unwrap();
        outcomes
    }

    /// Gives up what was planned and not committed, as after a failure.
    pub(super) async fn reopen(&mut self) {
        drop(self.log.take());
        let opened = Log::open(&self.file(), &self.verdicts, &self.shown).await.unwrap();
        self.log = Some(opened.log);
        self.state = opened.state;
        self.sessions = opened.kept.sessions;
    }

    pub(super) async fn close(&mut self) {
        self.log.take().unwrap().close().await;
    }

    /// What is on disk, read by those who did not write it.
    pub(super) async fn picture(&self) -> Picture {
        let mut picture = Picture::default();
        let reader = Reader::open(self.dir.path()).await.unwrap();
        let mut cursor = Cursor::default();
        loop {
            let read = reader.read(&cursor, 1000).await.unwrap();
            if read.messages.is_empty() {
                break;
            }
            picture.log.extend(read.messages.into_iter().map(|(_, message)| message.payload));
            cursor = read.next;
        }
        reader.close().await;
        // A second look at the file, with a mind of its own.
        let shown = Arc::default();
        let second = Log::open(&self.file(), &self.verdicts, &shown).await.unwrap();
        for session in &second.kept.sessions {
            let queue = session.queue.iter().map(|(at, message)| (*at, message.payload.clone())).collect();
            picture.sessions.insert(session.key.clone(), (session.state.clone(), queue));
        }
        second.log.close().await;
        for kept in shown.matching("#", None, usize::MAX, 0) {
            let topic = String::from_utf8(kept.message.topic.to_vec()).unwrap();
            picture.retained.insert(topic, (kept.position, kept.message.payload));
        }
        picture
    }

    async fn connection(&self) -> backend::Connection {
        backend::Connection::connect_with(&backend::options(&self.file())).await.unwrap()
    }

    /// Runs SQL on the file behind the log's back.
    pub(super) async fn sql(&self, sql: String) {
        let mut connection = self.connection().await;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Messages held, and places in queues.
    pub(super) async fn counts(&self) -> (i64, i64) {
        self.two("SELECT (SELECT count(*) FROM held), (SELECT count(*) FROM queue)").await
    }

    /// Rows nobody owns: held messages that wait in no queue, and places in queues without a message or a
    /// session.
    pub(super) async fn orphans(&self) -> (i64, i64) {
        self.two(
            "SELECT (SELECT count(*) FROM held WHERE position NOT IN (SELECT position FROM queue)),
                 (SELECT count(*) FROM queue WHERE position NOT IN (SELECT position FROM held)
                      OR session NOT IN (SELECT id FROM session))",
        )
        .await
    }

    async fn two(&self, sql: &'static str) -> (i64, i64) {
        let mut connection = self.connection().await;
        let counts = sqlx::query_as(sql).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        counts
    }
}
