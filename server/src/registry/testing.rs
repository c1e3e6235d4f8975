//! A registry with devices, on a real file in a folder of its own or on a PostgreSQL server of its own, for
//! the tests of this crate.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

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

use super::{Act, Actor, Decided, DeviceKey, Place, Reason, Registry, RegistryError, database, now_ms};

#[path = "../../tests/rig/postgres.rs"]
#[allow(dead_code, unreachable_pub, reason = "the integration tests use the rest of it")]
mod postgres;

/// One hierarchy for every test of the process: making it costs a dozen keys.
pub(crate) static HIERARCHY: LazyLock<Hierarchy> = LazyLock::new(|| testing::hierarchy(now_s()));

pub(crate) fn now_s() -> i64 {
    i64::try_from(now_ms() / 1000).unwrap()
}

/// What a registry is kept in.
pub(crate) trait Backend: Sized + Send {
    /// Makes an empty one, beside a data directory.
    fn make(data_dir: &Path) -> Self;
    /// Where it is.
    fn place(&self) -> Place;
    /// What would be there had the process ended now, beside another data directory.
    fn after_a_crash(&self, from: &Path, to: &Path) -> Self;
    /// The same with this data directory.
    fn moved_to(&self, data_dir: &Path) -> Self;
    /// Of two ways to say something, this backend's.
    fn either<T>(sqlite: T, postgres: T) -> T;
}

/// SQLite, in the data directory.
pub(crate) struct Sqlite(Place);

impl Backend for Sqlite {
    fn make(data_dir: &Path) -> Self {
        Self(Place::in_dir(data_dir))
    }

    fn place(&self) -> Place {
        self.0.clone()
    }

    fn after_a_crash(&self, from: &Path, to: &Path) -> Self {
        for file in std::fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            // The index of the write-ahead log is memory that processes share, and made anew.
            if !file.file_name().to_string_lossy().ends_with("-shm") {
                std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
        Self::make(to)
    }

    fn moved_to(&self, data_dir: &Path) -> Self {
        Self::make(data_dir)
    }

    fn either<T>(sqlite: T, _postgres: T) -> T {
        sqlite
    }
}

/// PostgreSQL, on a server of its own.
pub(crate) struct Postgres {
    server: Arc<postgres::Postgres>,
    url: String,
}

impl Backend for Postgres {
    fn make(_data_dir: &Path) -> Self {
        let server = Arc::new(postgres::Postgres::start());
        let url = server.database();
        Self { server, url }
    }

    fn place(&self) -> Place {
        Place::at(&self.url, None).unwrap()
    }

    fn after_a_crash(&self, from: &Path, to: &Path) -> Self {
        let key = super::continuity::KEY_FILE;
        std::fs::copy(from.join(key), to.join(key)).unwrap();
        Self { server: self.server.clone(), url: self.server.copy(&self.url) }
    }

    fn moved_to(&self, _data_dir: &Path) -> Self {
        Self { server: self.server.clone(), url: self.url.clone() }
    }

    fn either<T>(_sqlite: T, postgres: T) -> T {
        postgres
    }
}

/// A registry that trusts the root and both of acme's stations, and some devices of the first.
pub(crate) struct FleetOn<B> {
    pub(crate) registry: Registry,
    pub(crate) devices: Vec<Device>,
    backend: B,
    pub(crate) dir: TempDir,
}

/// What most tests use: the default database.
pub(crate) type Fleet = FleetOn<Sqlite>;

#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) serial: SerialNumber,
    pub(crate) key: DeviceKey,
    pub(crate) certificate: CertificateId,
    /// Its key; none for a device read from the registry.
    pub(crate) credential: Option<Credential>,
}

pub(crate) fn ana() -> Actor {
    Actor { token_id: Some("t-1".to_owned()), ..Actor::named("ana", super::Role::Operator) }
}

pub(crate) fn credential(serial: &str) -> Credential {
    testing::device(&HIERARCHY, &testing::subject(serial), now_s())
}

impl<B: Backend> FleetOn<B> {
    /// Open, and nothing in it.
    pub(crate) async fn nothing() -> Self {
        let dir = TempDir::new().unwrap();
        let backend = B::make(dir.path());
        let registry = Registry::open_at(dir.path(), &backend.place()).await.unwrap();
        Self { registry, devices: Vec::new(), backend, dir }
    }

    /// Root and stations trusted, nothing imported.
    pub(crate) async fn empty() -> Self {
        let fleet = Self::nothing().await;
        let root = CertificateDer::from(HIERARCHY.root.certificate().der());
        fleet.registry.trust_root(&ana(), &root).await.unwrap();
        for station in &HIERARCHY.stations {
            fleet.registry.trust_station(&ana(), &station.record_file).await.unwrap();
        }
        fleet
    }

    /// Where its registry is.
    pub(crate) fn place(&self) -> Place {
        self.backend.place()
    }

    /// Of two ways to say something, this database's.
    pub(crate) fn either<T>(sqlite: T, postgres: T) -> T {
        B::either(sqlite, postgres)
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

    /// With `count` devices more, GR-000001 and on, a thousand a batch (G-0000 and on), written as rows: what
    /// their certificates are is nobody's business here.
    pub(crate) async fn grown(self, count: usize) -> Self {
        let at_s = now_s();
        {
            let inner = &self.registry.inner;
            let mut writer = inner.writer().await.unwrap();
            let mut tx = writer.begin().await.unwrap();
            for batch in 0..count.div_ceil(1000) {
                sqlx::query(
                    "INSERT INTO batch (station, name, product, opened_at_ms, closed_at_ms)
                     SELECT id, $1, 'TH-2', 0, 0 FROM station WHERE name = 'S-07'",
                )
                .bind(format!("G-{batch:04}"))
                .execute(&mut *tx)
                .await
                .unwrap();
            }
            let (first,): (i64,) = sqlx::query_as("SELECT min(id) FROM batch WHERE name = 'G-0000'")
                .fetch_one(&mut *tx)
                .await
                .unwrap();
            let numbers: Vec<i64> = (1..=count as i64).collect();
            for some in numbers.chunks(100) {
                let mut query = super::database::QueryBuilder::new(
                    "INSERT INTO device (id, tenant, device_id, serial, state, batch, registered_at_ms, changed_at_ms, changed_no) ",
                );
                query.push_values(some, |mut row, n| {
                    let serial = format!("GR-{n:06}");
                    row.push_bind(n).push_bind("acme").push_bind(serial.to_lowercase()).push_bind(serial);
                    row.push_bind("registered").push_bind(first + (n - 1) / 1000).push_bind(1).push_bind(n);
                    row.push_bind(1);
                });
                query.build().execute(&mut *tx).await.unwrap();
                let mut query = super::database::QueryBuilder::new(
                    "INSERT INTO certificate (id, device, der, key_digest, issuer_key_id, not_before_s, not_after_s, status, added_at_ms) ",
                );
                query.push_values(some, |mut row, n| {
                    let id: Vec<u8> = sha2::Digest::finalize(
                        <sha2::Sha256 as sha2::Digest>::new_with_prefix(n.to_be_bytes()),
                    )
                    .to_vec();
                    row.push_bind(id.clone()).push_bind(n).push_bind(vec![0_u8]).push_bind(id);
                    row.push_bind(vec![7_u8; 20]).push_bind(at_s).push_bind(at_s + 100 * 365 * 86_400 + n);
                    row.push_bind("active").push_bind(at_s * 1000);
                });
                query.build().execute(&mut *tx).await.unwrap();
            }
            tx.commit().await.unwrap();
        }
        self.reopened().await
    }

    /// Runs a statement for each device, with its number and a value; where that is `None`, not.
    pub(crate) async fn each(&self, sql: &'static str, value: impl Fn(u64) -> Option<u64>) {
        let inner = &self.registry.inner;
        let mut writer = inner.writer().await.unwrap();
        let mut tx = writer.begin().await.unwrap();
        let ids: Vec<(i64,)> =
            sqlx::query_as("SELECT id FROM device ORDER BY id").fetch_all(&mut *tx).await.unwrap();
        for (id,) in ids {
            if let Some(value) = value(id as u64) {
                sqlx::query(sql).bind(id).bind(value as i64).execute(&mut *tx).await.unwrap();
            }
        }
        tx.commit().await.unwrap();
    }

    /// Its data directory is this one from now on.
    pub(crate) fn moved_to(&mut self, dir: TempDir) {
        self.backend = self.backend.moved_to(dir.path());
        self.dir = dir;
    }

    /// Closes the registry and opens it again from its file.
    pub(crate) async fn reopened(mut self) -> Self {
        self.registry.close().await;
        self.registry = Registry::open_at(self.dir.path(), &self.backend.place()).await.unwrap();
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
        let backend = self.backend.after_a_crash(self.dir.path(), dir.path());
        let registry = Registry::open_at(dir.path(), &backend.place()).await.unwrap();
        let mut fleet = Self { registry, devices: self.devices.clone(), backend, dir };
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

    /// Runs SQL on the database behind the registry's back, as one with the disk in hand would. PostgreSQL is
    /// lent two functions of SQLite's that the tests use.
    pub(crate) async fn sql(&self, sql: &'static str) -> u64 {
        use sqlx::Connection as _;
        let mut connection = database::connect(&self.place()).await.unwrap();
        let lent = "CREATE OR REPLACE FUNCTION zeroblob(n integer) RETURNS bytea LANGUAGE sql
                AS $$ SELECT decode(repeat('00', n), 'hex') $$;
            CREATE OR REPLACE FUNCTION unhex(t text) RETURNS bytea LANGUAGE sql
                AS $$ SELECT decode(t, 'hex') $$";
        if let Some(lent) = B::either(None, Some(lent)) {
            sqlx::raw_sql(lent).execute(&mut connection).await.unwrap();
        }
        let done = sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        done.rows_affected()
    }

    /// From now on every commit of a decision fails, and not before: what a full disk does, at the worst
    /// moment.
    pub(crate) async fn break_commits(&self) {
        self.sql(B::either(
            "CREATE TABLE promise (operator INTEGER REFERENCES operator (id) DEFERRABLE INITIALLY DEFERRED);
             CREATE TRIGGER break_commit AFTER INSERT ON audit BEGIN INSERT INTO promise VALUES (-1); END",
            "CREATE TABLE promise (operator BIGINT REFERENCES operator (id) DEFERRABLE INITIALLY DEFERRED);
             CREATE FUNCTION break_commit() RETURNS trigger LANGUAGE plpgsql
                 AS $$ BEGIN INSERT INTO promise VALUES (-1); RETURN NULL; END $$;
             CREATE TRIGGER break_commit AFTER INSERT ON audit EXECUTE FUNCTION break_commit()",
        ))
        .await;
    }

    /// And from now on they do not.
    pub(crate) async fn mend_commits(&self) {
        self.sql(B::either("DROP TRIGGER break_commit", "DROP TRIGGER break_commit ON audit")).await;
    }
}
