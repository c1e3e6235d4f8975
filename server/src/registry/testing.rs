//! A registry with devices, on a real file in a folder of its own, for the tests of this crate.

use std::sync::LazyLock;

use muster_pki::{
    hierarchy::Hierarchy,
    testing::{self, Credential},
};
use muster_shared::{
    CertificateId, SerialNumber,
    telemetry::{Reading, Value},
};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;

use super::{Act, Actor, Decided, DeviceKey, Reason, Registry, RegistryError, now_ms};

/// One hierarchy for every test of the process: making it costs a dozen keys.
pub(crate) static HIERARCHY: LazyLock<Hierarchy> = LazyLock::new(|| testing::hierarchy(now_s()));

pub(crate) fn now_s() -> i64 {
    i64::try_from(now_ms() / 1000).unwrap()
}

/// A registry that trusts the root and both of acme's stations, and some devices of the first.
pub(crate) struct Fleet {
    pub(crate) dir: TempDir,
    pub(crate) registry: Registry,
    pub(crate) devices: Vec<Device>,
}

#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) serial: SerialNumber,
    pub(crate) key: DeviceKey,
    pub(crate) certificate: CertificateId,
    /// Its key; none for a device read from the registry.
    pub(crate) credential: Option<Credential>,
}

pub(crate) fn ana() -> Actor {
    Actor { name: "ana".to_owned(), role: super::Role::Operator, token_id: Some("t-1".to_owned()) }
}

pub(crate) fn credential(serial: &str) -> Credential {
    testing::device(&HIERARCHY, &testing::subject(serial), now_s())
}

impl Fleet {
    /// Root and stations trusted, nothing imported.
    pub(crate) async fn empty() -> Self {
        let dir = TempDir::new().unwrap();
        let registry = Registry::open(dir.path()).await.unwrap();
        registry.trust_root(&ana(), &CertificateDer::from(HIERARCHY.root.certificate().der())).await.unwrap();
        for station in &HIERARCHY.stations {
            registry.trust_station(&ana(), &station.record_file).await.unwrap();
        }
        Self { dir, registry, devices: Vec::new() }
    }

    /// With `count` devices of batch B-0001: MU-000001 and on.
    pub(crate) async fn with(count: usize) -> Self {
        let mut fleet = Self::empty().await;
        let credentials: Vec<_> = (1..=count).map(|n| credential(&format!("MU-{n:06}"))).collect();
        let manifest = testing::manifest(&HIERARCHY, "B-0001", &credentials, now_ms());
        let report = fleet.registry.import_manifest(&ana(), &manifest).await.unwrap();
        assert_eq!(report.registered, count as u64);
        fleet.devices = credentials
            .into_iter()
            .map(|credential| {
                let identity = credential.identity();
                let known = fleet.registry.verdicts().certificate(&identity.id).unwrap();
                Device {
                    serial: identity.serial,
                    key: known.device,
                    certificate: identity.id,
                    credential: Some(credential),
                }
            })
            .collect();
        fleet
    }

    pub(crate) async fn act(&self, device: usize, act: Act) -> Result<Decided, RegistryError> {
        let reason = Reason::new("a reason of ten");
        self.registry.decide(&ana(), &self.devices[device].serial, act, &reason).await
    }

    /// Closes the registry and opens it again from its file.
    pub(crate) async fn reopened(mut self) -> Self {
        self.registry.close().await;
        self.registry = Registry::open(self.dir.path()).await.unwrap();
        self.find_keys();
        self
    }

    /// Takes values a device said, as the projection of the log does, up to a cursor.
    pub(crate) fn said(&self, device: usize, values: &[(&str, Value)], received_ms: u64, cursor: &str) {
        let reading = |(sensor, value): &(&str, Value)| Reading {
            sensor: (*sensor).try_into().unwrap(),
            uptime_ms: 1,
            value: *value,
        };
        let readings: Vec<_> = values.iter().map(reading).collect();
        let newest = self.registry.newest();
        let mut gathering = newest.gather();
        gathering.message(self.devices[device].key, received_ms, &readings);
        gathering.end("latest", cursor.to_owned());
    }

    /// What would be there had the process ended now: the files as they are, in another folder, opened.
    pub(crate) async fn after_a_crash(&self) -> Self {
        let dir = TempDir::new().unwrap();
        for file in std::fs::read_dir(self.dir.path()).unwrap() {
            let file = file.unwrap();
            // The index of the write-ahead log is memory that processes share, and made anew.
            if !file.file_name().to_string_lossy().ends_with("-shm") {
                std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
            }
        }
        let registry = Registry::open(dir.path()).await.unwrap();
        let mut fleet = Self { dir, registry, devices: self.devices.clone() };
        fleet.find_keys();
        fleet
    }

    fn find_keys(&mut self) {
        let verdicts = self.registry.verdicts();
        for device in &mut self.devices {
            device.key = verdicts.certificate(&device.certificate).unwrap().device;
        }
    }

    /// A number the file has.
    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        let (count,) = sqlx::query_as(sql).fetch_one(self.registry.inner.database.readers()).await.unwrap();
        count
    }

    /// Runs SQL on the file behind the registry's back, as one with the disk in hand would.
    pub(crate) async fn sql(&self, sql: &'static str) -> u64 {
        use sqlx::Connection as _;
        let path = self.dir.path().join(super::FILE);
        let mut connection =
            super::sqlite::Connection::connect_with(&super::sqlite::options(&path)).await.unwrap();
        let done = sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        done.rows_affected()
    }
}
