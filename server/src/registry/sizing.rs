//! Fleets of made-up devices, for measuring what a verdict costs at a size nobody signs certificates for.

use std::{io, path::Path};

use muster_shared::{CertificateId, Code};
use sha2::{Digest as _, Sha256};
use sqlx::Connection as _;

use super::{
    FILE, Registry,
    device::DeviceState,
    error::RegistryError,
    members::{BatchKey, IssuerKey},
    sqlite::{self, Connection},
    verdict::{CertificateStatus, DeviceKey, DeviceName, Verdicts},
};

/// 9999-12-31T23:59:59Z, as every birth certificate says.
const NO_END_S: i64 = 253_402_300_799;

/// The verdicts of so many devices, each with one certificate.
pub struct MadeUp {
    verdicts: Verdicts,
    devices: u32,
    batch: BatchKey,
}

impl MadeUp {
    /// Verdicts without names; what need not be in memory goes to a file in `dir`.
    ///
    /// # Errors
    /// When that file cannot be made.
    pub fn new(dir: &Path, devices: u32) -> io::Result<Self> {
        let verdicts = Verdicts::open(dir, 0, devices as usize)?;
        let batch = verdicts.put_batch(1, &name(0).tenant, &word("S-07"), &word("B-0042"));
        let issuer: IssuerKey = verdicts.put_issuer_key(&[7; 20]);
        for n in 0..devices {
            verdicts.set_state(DeviceKey(n), DeviceState::Active);
            let active = CertificateStatus::Active;
            verdicts.put_certificate(&Self::id(n), DeviceKey(n), issuer, active, NO_END_S);
        }
        verdicts.settle();
        Ok(Self { verdicts, devices, batch })
    }

    /// Gives every device its names, too.
    pub fn named(&self) {
        for n in 0..self.devices {
            self.verdicts.put_device(i64::from(n) + 1, &name(n), DeviceState::Active, self.batch);
        }
    }

    /// The certificate of a device.
    #[must_use]
    pub fn id(n: u32) -> CertificateId {
        CertificateId(Sha256::digest(n.to_be_bytes()).into())
    }

    /// The verdict on this certificate of the device, as for each of its messages.
    ///
    /// # Errors
    /// The [`Code`] to refuse it with.
    pub fn may_talk(&self, n: u32, id: &CertificateId) -> Result<(), Code> {
        self.verdicts.may_talk(DeviceKey(n), id, 0).map(drop)
    }

    /// Whose certificate it is, by all of its octets, as at each connect.
    #[must_use]
    pub fn owner(&self, id: &CertificateId) -> Option<u32> {
        self.verdicts.certificate(id).map(|known| known.device.0)
    }
}

fn word<T: std::str::FromStr>(text: &str) -> T {
    let Ok(word) = text.parse() else { unreachable!("{text} is well-formed") };
    word
}

fn name(n: u32) -> DeviceName {
    let id = format!("MU-{n:07}");
    DeviceName { tenant: word("acme"), device_id: word(&id), serial: word(&id) }
}

/// A registry's file in `dir` with so many devices, written by the database alone.
///
/// # Errors
/// [`RegistryError`].
pub async fn fill(dir: &Path, devices: u32) -> Result<(), RegistryError> {
    Registry::open(dir).await?.close().await;
    let mut connection = Connection::connect_with(&sqlite::options(&dir.join(FILE))).await?;
    let mut tx = connection.begin().await?;
    sqlx::raw_sql(
        "INSERT INTO station (name, tenant, record, factory_key_id, trusted_at_ms)
         VALUES ('S-07', 'acme', x'', x'0707070707070707070707070707070707070707', 0);
         INSERT INTO batch (station, name, product, opened_at_ms, closed_at_ms)
         VALUES (1, 'B-0042', 'TH-2', 0, 0);",
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < $1)
         INSERT INTO device (tenant, device_id, serial, state, batch, registered_at_ms, changed_at_ms, changed_no)
         SELECT 'acme', printf('MU-%07d', n), printf('MU-%07d', n), 'active', 1, 0, 0, 1 FROM n",
    )
    .bind(i64::from(devices))
    .execute(&mut *tx)
    .await?;
    // As large as a real one.
    sqlx::query(
        "INSERT INTO certificate
         (id, device, der, key_digest, issuer_key_id, not_before_s, not_after_s, status, added_at_ms)
         SELECT randomblob(32), id, randomblob(420), randomblob(32),
                x'0707070707070707070707070707070707070707', 0, 253402300799, 'active', 0 FROM device",
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    connection.close().await?;
    Ok(())
}

/// The same question, put to the database.
pub struct Point {
    connection: Connection,
    ids: Vec<Vec<u8>>,
}

impl Point {
    /// With some certificates of the file in `dir` to ask about.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn open(dir: &Path, some: u32) -> Result<Self, RegistryError> {
        let mut connection = Connection::connect_with(&sqlite::options(&dir.join(FILE))).await?;
        let ids: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT id FROM certificate ORDER BY key_digest LIMIT $1")
            .bind(i64::from(some))
            .fetch_all(&mut connection)
            .await?;
        Ok(Self { connection, ids: ids.into_iter().map(|(id,)| id).collect() })
    }

    /// May this one talk?
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn ask(&mut self, n: usize) -> Result<bool, RegistryError> {
        let row: Option<(String, String, i64)> = sqlx::query_as(
            "SELECT device.state, certificate.status, certificate.not_after_s
             FROM certificate JOIN device ON device.id = certificate.device WHERE certificate.id = $1",
        )
        .bind(&self.ids[n % self.ids.len()])
        .fetch_optional(&mut self.connection)
        .await?;
        Ok(row.is_some_and(|(state, status, _)| state == "active" && status == "active"))
    }
}
