//! A manifest's rows, one by one: new, known exactly so, or refused alone.

use std::str::FromStr;

use muster_pki::{
    DeviceIdentity,
    manifest::{self, Verified},
};
use muster_shared::{BatchId, CertificateId, Code, Tenant};

use super::{RowRefused, Station, refused};
use crate::registry::{
    database::{Connection, int, uint},
    device::DeviceState,
    error::RegistryError,
    group::{Group, KeyId},
    operator::Actor,
    verdict::{CertificateStatus, DeviceName},
};

/// A device that an import made.
pub(super) struct NewDevice {
    pub(super) row: i64,
    pub(super) name: DeviceName,
    pub(super) certificate: CertificateId,
    pub(super) issuer_key_id: KeyId,
    pub(super) not_after_s: i64,
}

/// What became of the rows.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) devices: Vec<NewDevice>,
    pub(super) already: u64,
    pub(super) refused: Vec<RowRefused>,
}

pub(super) async fn put_batch(
    tx: &mut Connection,
    station: &Station,
    verified: &Verified,
) -> Result<i64, RegistryError> {
    let header = &verified.header;
    sqlx::query(
        "INSERT INTO batch (station, name, product, opened_at_ms, closed_at_ms) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (station, name) DO UPDATE SET closed_at_ms = excluded.closed_at_ms",
    )
    .bind(station.id)
    .bind(header.batch.as_str())
    .bind(&header.product)
    .bind(int(header.opened_at_ms))
    .bind(int(header.closed_at_ms))
    .execute(&mut *tx)
    .await?;
    let (id,): (i64,) = sqlx::query_as("SELECT id FROM batch WHERE station = $1 AND name = $2")
        .bind(station.id)
        .bind(header.batch.as_str())
        .fetch_one(tx)
        .await?;
    Ok(id)
}

pub(super) async fn put_manifest(
    tx: &mut Connection,
    station: &Station,
    verified: &Verified,
    batch: i64,
    actor: &Actor,
    at_ms: u64,
    bytes: &[u8],
) -> Result<(), RegistryError> {
    sqlx::query(
        "INSERT INTO manifest
         (station, sequence, digest, previous, batch, devices, imported_at_ms, imported_by, body)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(station.id)
    .bind(int(verified.header.sequence))
    .bind(verified.digest.as_slice())
    .bind(verified.header.previous.as_ref().map(<[u8; 32]>::as_slice))
    .bind(batch)
    .bind(int(verified.rows.len() as u64))
    .bind(int(at_ms))
    .bind(&actor.name)
    .bind(bytes)
    .execute(&mut *tx)
    .await?;
    sqlx::query("UPDATE station SET last_sequence = $1, last_digest = $2 WHERE id = $3")
        .bind(int(verified.header.sequence))
        .bind(verified.digest.as_slice())
        .bind(station.id)
        .execute(tx)
        .await?;
    Ok(())
}

/// The root allows a station so many devices over all its manifests, not in each.
pub(super) async fn check_quota(
    tx: &mut Connection,
    station: &Station,
    batch: &BatchId,
) -> Result<(), RegistryError> {
    let (made,): (i64,) = sqlx::query_as(
        "SELECT count(*) FROM device JOIN batch ON batch.id = device.batch WHERE batch.station = $1",
    )
    .bind(station.id)
    .fetch_one(tx)
    .await?;
    if uint(made) > station.record.quota {
        let what = format!(
            "manifest {batch} would make it {made} devices of station {}, its quota is {}",
            station.record.station, station.record.quota
        );
        return Err(refused(Code::ManifestQuota, Some(batch), what));
    }
    Ok(())
}

/// Takes every row that can be taken.
pub(super) async fn take(
    tx: &mut Connection,
    batch: i64,
    verified: &Verified,
    at_ms: u64,
) -> Result<Taken, RegistryError> {
    let mut taken = Taken::default();
    for (at, row) in verified.rows.iter().enumerate() {
        // The header is line 1.
        take_one(tx, &mut taken, batch, verified, at as u64 + 2, row, at_ms).await?;
    }
    Ok(taken)
}

/// Takes one row, or says why not.
async fn take_one(
    tx: &mut Connection,
    taken: &mut Taken,
    batch: i64,
    verified: &Verified,
    line: u64,
    row: &manifest::Row,
    at_ms: u64,
) -> Result<(), RegistryError> {
    let tenant = &verified.header.tenant;
    let identity = DeviceIdentity::from_certificate(&row.certificate).map_err(|error| {
        refused(Code::CertificateProfile, Some(&verified.header.batch), error.to_string())
    })?;
    if known_exactly(tx, tenant, row).await? {
        taken.already += 1;
        return Ok(());
    }
    if let Some((code, why)) = conflict(tx, tenant, row, &identity).await? {
        taken.refused.push(RowRefused {
            line,
            serial: row.serial.clone(),
            certificate: row.certificate_id,
            code,
            why,
        });
        return Ok(());
    }
    let id = sqlx::query(
        "INSERT INTO device
         (tenant, device_id, serial, state, batch, registered_at_ms, changed_at_ms, changed_no)
         VALUES ($1, $2, $3, $4, $5, $6, $6, 0) RETURNING id",
    )
    .bind(tenant.as_str())
    .bind(row.device_id.as_str())
    .bind(row.serial.as_str())
    .bind(DeviceState::Registered.as_str())
    .bind(batch)
    .bind(int(at_ms))
    .fetch_one(&mut *tx)
    .await?;
    let id: i64 = sqlx::Row::try_get(&id, 0)?;
    sqlx::query(
        "INSERT INTO certificate
         (id, device, der, key_digest, issuer_key_id, not_before_s, not_after_s, status, added_at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(row.certificate_id.0.as_slice())
    .bind(id)
    .bind(&row.certificate)
    .bind(identity.key_digest.as_slice())
    .bind(identity.issuer_key_id.as_slice())
    .bind(identity.not_before_s)
    .bind(identity.not_after_s)
    .bind(CertificateStatus::Active.as_str())
    .bind(int(at_ms))
    .execute(tx)
    .await?;
    taken.devices.push(NewDevice {
        row: id,
        name: DeviceName {
            tenant: tenant.clone(),
            device_id: row.device_id.clone(),
            serial: row.serial.clone(),
        },
        certificate: row.certificate_id,
        issuer_key_id: identity.issuer_key_id,
        not_after_s: identity.not_after_s,
    });
    Ok(())
}

/// Is this certificate this device's already? Then the row changes nothing, whatever state the device is in.
async fn known_exactly(
    tx: &mut Connection,
    tenant: &Tenant,
    row: &manifest::Row,
) -> Result<bool, RegistryError> {
    let found: Option<(String, String, String)> = sqlx::query_as(
        "SELECT device.tenant, device.device_id, device.serial
         FROM certificate JOIN device ON device.id = certificate.device WHERE certificate.id = $1",
    )
    .bind(row.certificate_id.0.as_slice())
    .fetch_optional(tx)
    .await?;
    Ok(found.is_some_and(|(t, d, s)| {
        t == tenant.as_str() && d == row.device_id.as_str() && s == row.serial.as_str()
    }))
}

/// What stands against a row that is not known: a tombstone, or another device with its name or its key.
async fn conflict(
    tx: &mut Connection,
    tenant: &Tenant,
    row: &manifest::Row,
    identity: &DeviceIdentity,
) -> Result<Option<(Code, String)>, RegistryError> {
    let key = hex::encode(identity.key_digest);
    let buried: Option<(String, String, String, String)> = sqlx::query_as(
        "SELECT tombstone.kind, device.tenant, device.serial, device.state
         FROM tombstone JOIN device ON device.id = tombstone.device
         WHERE (kind = 'certificate' AND value = $1) OR (kind = 'key' AND value = $2)
            OR (kind = 'serial' AND value = $3) ORDER BY kind LIMIT 1",
    )
    .bind(row.certificate_id.to_string())
    .bind(&key)
    .bind(format!("{tenant}/{}", row.serial))
    .fetch_optional(&mut *tx)
    .await?;
    if let Some((kind, of_tenant, of_serial, state)) = buried {
        let state = DeviceState::from_str(&state)
            .map_err(|_| RegistryError::Damaged(format!("a device's state is {state:?}")))?;
        let code = state.refusal().unwrap_or(Code::CertificateRevoked);
        return Ok(Some((code, format!("its {kind} is {of_tenant}/{of_serial}'s, which is {state}"))));
    }
    let group = Group::Certificate(row.certificate_id);
    let (revoked,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM rule WHERE kind = $1 AND value = $2 AND lifted IS NULL")
            .bind(group.kind())
            .bind(group.value())
            .fetch_one(&mut *tx)
            .await?;
    if revoked > 0 {
        return Ok(Some((Code::CertificateRevoked, "its certificate was revoked before it came".to_owned())));
    }
    let named: Option<(String, String, String, Vec<u8>)> = sqlx::query_as(
        "SELECT device.device_id, device.serial, batch.name, certificate.key_digest
         FROM device JOIN batch ON batch.id = device.batch JOIN certificate ON certificate.device = device.id
         WHERE device.tenant = $1 AND (device.serial = $2 OR device.device_id = $3)
         ORDER BY certificate.added_at_ms DESC LIMIT 1",
    )
    .bind(tenant.as_str())
    .bind(row.serial.as_str())
    .bind(row.device_id.as_str())
    .fetch_optional(&mut *tx)
    .await?;
    if let Some((device_id, serial, batch, known)) = named {
        let known = hex::encode(known);
        let why =
            format!("{tenant}/{device_id} ({serial}) of batch {batch} has key {known}, this row's is {key}");
        return Ok(Some((Code::SerialTaken, why)));
    }
    let keyed: Option<(String, String)> = sqlx::query_as(
        "SELECT device.tenant, device.serial FROM certificate JOIN device ON device.id = certificate.device
         WHERE certificate.key_digest = $1 LIMIT 1",
    )
    .bind(identity.key_digest.as_slice())
    .fetch_optional(tx)
    .await?;
    Ok(keyed.map(|(tenant, serial)| (Code::SerialTaken, format!("its key {key} is {tenant}/{serial}'s"))))
}
