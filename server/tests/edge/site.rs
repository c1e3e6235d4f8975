//! A server's edge, registry and uplink log in a folder of their own.

use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Once,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use muster_pki::{
    hierarchy::Hierarchy,
    profile::ServerName,
    testing::{self, Credential},
};
use muster_server::{
    app::Messages,
    edge::{BrokerCredential, Doors, Edge, Limits, Roster, Trust},
    registry::{
        Act, Actor, DeviceDetail, DeviceKey, Group, Reason, Registry, RegistryError, RevocationReason, Role,
        Scope, now_ms,
    },
    revocation::{Answer, GroupAnswer, Revocation},
    uplink::{Cursor, Position, StoredMessage, StoredPublisher, Writer},
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

/// Panics on the edge's own threads, of every site of the process. A task's panic ends one connection and
/// nothing else, so a test would not notice.
static PANICS: AtomicUsize = AtomicUsize::new(0);

static WATCH: Once = Once::new();

fn watch_for_panics() {
    WATCH.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name().is_some_and(|name| name.starts_with("edge-")) {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            before(info);
        }));
    });
}

/// One hierarchy for every test of the process: making it costs a dozen keys.
pub(crate) static HIERARCHY: LazyLock<Hierarchy> = LazyLock::new(|| testing::hierarchy(now_s()));

/// Long enough for the slowest machine; what takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn now_s() -> i64 {
    (now_ms() / 1000) as i64
}

pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) registry: Registry,
    pub(crate) uplink: Writer,
    messages: Messages,
    pub(crate) roster: Arc<Roster>,
    revocation: Revocation,
    pub(crate) edge: Option<Edge>,
    pub(crate) addr: SocketAddr,
    pub(crate) devices: Vec<Credential>,
}

pub(crate) fn ana() -> Actor {
    Actor::named("ana", Role::Operator)
}

/// A device's credential, known to nobody yet.
pub(crate) fn unknown(serial: &str) -> Credential {
    testing::device(&HIERARCHY, &testing::subject(serial), now_s())
}

pub(crate) fn broker() -> BrokerCredential {
    let name: ServerName = "localhost".parse().unwrap();
    let server = testing::server(&HIERARCHY.broker, &[name], now_s());
    BrokerCredential {
        chain: vec![CertificateDer::from(server.chain[0].clone())],
        key: PrivatePkcs8KeyDer::from(server.key_pkcs8()).into(),
    }
}

impl Site {
    /// With `count` registered devices, MU-000001 and on.
    pub(crate) async fn with(count: usize) -> Self {
        Self::limited(count, Limits::default()).await
    }

    pub(crate) async fn limited(count: usize, limits: Limits) -> Self {
        Self::on(TempDir::new().unwrap(), count, limits, Trust::default()).await
    }

    /// That believes these beyond its registry.
    pub(crate) async fn trusting(count: usize, trust: Trust) -> Self {
        Self::on(TempDir::new().unwrap(), count, Limits::default(), trust).await
    }

    /// With one device, whose certificate ends then, Unix seconds. Birth certificates have no end: the
    /// registry is told another one behind its back.
    pub(crate) async fn ending(not_after_s: i64) -> Self {
        let dir = TempDir::new().unwrap();
        let site = Self::on(dir, 1, Limits::default(), Trust::default()).await;
        let (dir, devices) = site.shut().await;
        let file = SqliteConnectOptions::new().filename(dir.path().join(muster_server::registry::FILE));
        let mut connection = SqliteConnection::connect_with(&file).await.unwrap();
        let set = sqlx::query("UPDATE certificate SET not_after_s = $1").bind(not_after_s);
        assert_eq!(set.execute(&mut connection).await.unwrap().rows_affected(), 1);
        connection.close().await.unwrap();
        let mut site = Self::on(dir, 0, Limits::default(), Trust::default()).await;
        site.devices = devices;
        site
    }

    /// Stopped, and started again on what is on disk.
    pub(crate) async fn restarted(self, trust: Trust) -> Self {
        let (dir, devices) = self.shut().await;
        let mut site = Self::on(dir, 0, Limits::default(), trust).await;
        site.devices = devices;
        site
    }

    /// On what is in `dir` already, with so many more devices.
    pub(crate) async fn on(dir: TempDir, count: usize, limits: Limits, trust: Trust) -> Self {
        watch_for_panics();
        let registry = Registry::open(dir.path()).await.unwrap();
        let root = CertificateDer::from(HIERARCHY.root.certificate().der());
        registry.trust_root(&ana(), &root).await.unwrap();
        for station in &HIERARCHY.stations {
            registry.trust_station(&ana(), &station.record_file).await.unwrap();
        }
        let devices: Vec<_> = (1..=count).map(|n| unknown(&format!("MU-{n:06}"))).collect();
        if count > 0 {
            let manifest = testing::manifest(&HIERARCHY, "B-0001", &devices, now_ms());
            registry.import_manifest(&ana(), &manifest).await.unwrap();
        }
        let messages = Messages::open(dir.path(), &registry).await.unwrap();
        let (uplink, sessions) = (messages.uplink.clone(), messages.sessions.clone());
        let roster = sessions.roster().clone();
        let revocation = Revocation::new(registry.clone(), sessions.clone(), uplink.clone());
        let doors = Doors {
            registry: registry.clone(),
            uplink: uplink.clone(),
            tail: messages.tail.clone(),
            roster: roster.clone(),
            sessions,
            revocation: revocation.clone(),
            broker: broker(),
            trust: Arc::new(trust),
            zero_touch: None,
            limits,
        };
        let edge = Edge::start(doors, ([127, 0, 0, 1], 0).into(), 2).unwrap();
        let addr = edge.local_addr();
        Self { dir, registry, uplink, messages, roster, revocation, edge: Some(edge), addr, devices }
    }

    /// The key of a device, from 0.
    pub(crate) fn key(&self, device: usize) -> DeviceKey {
        let id = self.devices[device].identity().id;
        self.registry.verdicts().certificate(&id).expect("imported").device
    }

    /// Decides, and does not return before nothing it forbids is accepted any more.
    pub(crate) async fn decide(&self, device: usize, act: Act) -> Result<Answer, RegistryError> {
        let serial = self.devices[device].identity().serial;
        self.revocation.decide(&ana(), &serial, act, &Reason::new("a reason of ten")).await
    }

    /// Decides about a group, and does not return before nothing it forbids is accepted any more.
    #[allow(dead_code, reason = "not of every test binary that makes sites")]
    pub(crate) async fn decide_group(&self, group: &Group, act: Act) -> Result<GroupAnswer, RegistryError> {
        let code = (act == Act::Revoke).then_some(RevocationReason::KeyCompromise);
        let reason = Reason { text: "a reason of ten".to_owned(), code };
        self.revocation.decide_group(&ana(), group.clone(), act, &reason).await
    }

    /// Imports another batch of the first station; its devices, from 0.
    #[allow(dead_code, reason = "not of every test binary that makes sites")]
    pub(crate) async fn import(&self, batch: &str, devices: &[Credential]) {
        let before = self.registry.batches(&Scope::Every, None, 1000).await.unwrap().items;
        let manifests = before.iter().filter_map(|row| row.manifest.as_ref());
        let before = manifests.max_by_key(|of| of.sequence).map(|of| (of.sequence, of.digest));
        let station = &HIERARCHY.stations[0];
        let manifest = testing::manifest_of(station, batch, before, devices, now_ms());
        let report = self.registry.import_manifest(&ana(), &manifest).await.unwrap();
        assert_eq!(report.registered, devices.len() as u64);
    }

    /// Everything about a device, with the facts that are on their way.
    pub(crate) async fn detail(&self, device: usize) -> DeviceDetail {
        self.registry.facts().flush().await;
        self.registry.device(&self.devices[device].identity().serial).await.unwrap()
    }

    /// What devices and services have published; not what the server says of them.
    pub(crate) async fn stored(&self) -> Vec<StoredMessage> {
        let mut all = self.logged().await;
        all.retain(|one| !matches!(one.publisher, StoredPublisher::Server { .. }));
        all
    }

    /// All that is in the log.
    pub(crate) async fn logged(&self) -> Vec<StoredMessage> {
        self.positions().await.into_iter().map(|(_, message)| message).collect()
    }

    /// The same, and where each message stands.
    pub(crate) async fn positions(&self) -> Vec<(Position, StoredMessage)> {
        let mut all = Vec::new();
        let mut from = Cursor::default();
        loop {
            let read = self.messages.reader.read(&from, 1000).await.unwrap();
            if read.messages.is_empty() {
                return all;
            }
            all.extend(read.messages);
            from = read.next;
        }
    }

    pub(crate) async fn stop(self) {
        drop(self.shut().await);
    }

    /// Stops everything and leaves what is on disk.
    pub(crate) async fn shut(mut self) -> (TempDir, Vec<Credential>) {
        if let Some(edge) = self.edge.take() {
            edge.stop(Duration::from_secs(5)).await;
        }
        drop(self.revocation);
        drop(self.uplink);
        self.messages.close().await;
        self.registry.close().await;
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "a connection panicked");
        (self.dir, self.devices)
    }
}
