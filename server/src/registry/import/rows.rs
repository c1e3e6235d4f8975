//! A manifest's rows, one by one: new, known exactly so, or refused alone.

use std::str::FromStr;

use muster_pki::{DeviceIdentity, manifest::Verified};
use muster_shared::{BatchId, CertificateId, Code};

use super::{RowRefused, Station, bulk, refused};
use crate::registry::{
    actor::Actor,
    database::{Connection, int, uint},
    device::DeviceState,
    error::RegistryError,
    group::{Group, KeyId},
    held,
    verdict::DeviceName,
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
        .fetch_one(&mut *tx)
        .await?;
    held::fold_batch(tx, id).await?;
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

/// The batch that devices of a list are of: as it is, or new.
pub(super) async fn open_batch(
    tx: &mut Connection,
    station: i64,
    batch: &BatchId,
    product: &str,
    at_ms: u64,
) -> Result<i64, RegistryError> {
    sqlx::query(
        "INSERT INTO batch (station, name, product, opened_at_ms, closed_at_ms) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (station, name) DO NOTHING",
    )
    .bind(station)
    .bind(batch.as_str())
    .bind(product)
    .bind(int(at_ms))
    .bind(int(at_ms))
    .execute(&mut *tx)
    .await?;
    let (id,): (i64,) = sqlx::query_as("SELECT id FROM batch WHERE station = $1 AND name = $2")
        .bind(station)
        .bind(batch.as_str())
        .fetch_one(&mut *tx)
        .await?;
    held::fold_batch(tx, id).await?;
    Ok(id)
}

/// Devices a station has made that are registered.
pub(super) async fn made(tx: &mut Connection, station: i64) -> Result<u64, RegistryError> {
    let (made,): (i64,) = sqlx::query_as(
        "SELECT count(*) FROM device JOIN batch ON batch.id = device.batch WHERE batch.station = $1",
    )
    .bind(station)
    .fetch_one(tx)
    .await?;
    Ok(uint(made))
}

/// The root allows a station so many devices over all its manifests, not in each.
pub(super) async fn check_quota(
    tx: &mut Connection,
    station: &Station,
    batch: &BatchId,
) -> Result<(), RegistryError> {
    let made = made(tx, station.id).await?;
    if made > station.record.quota {
        let what = format!(
            "manifest {batch} would make it {made} devices of station {}, its quota is {}",
            station.record.station, station.record.quota
        );
        return Err(refused(Code::ManifestQuota, Some(batch), what));
    }
    Ok(())
}

/// A device that is offered: its certificate, read.
pub(super) struct Candidate {
    /// Where it came, from 1.
    pub(super) line: u64,
    pub(super) identity: DeviceIdentity,
    pub(super) der: Vec<u8>,
}

/// Takes every row that can be taken.
pub(super) async fn take(
    tx: &mut Connection,
    batch: i64,
    verified: &Verified,
    at_ms: u64,
) -> Result<Taken, RegistryError> {
    let mut taken = Taken::default();
    // The header is line 1.
    let mut candidates =
        (2..).zip(verified.rows.iter().zip(&verified.devices)).map(|(line, (row, device))| Candidate {
            line,
            identity: device.clone(),
            der: row.certificate.clone(),
        });
    for _ in (0..verified.rows.len()).step_by(bulk::ROWS) {
        let some = candidates.by_ref().take(bulk::ROWS).collect();
        take_some(tx, &mut taken, batch, some, u64::MAX, at_ms).await?;
    }
    Ok(taken)
}

/// Takes rows of one tenant, none of which has another's serial, device id or key: at most [`bulk::ROWS`] of
/// them, and at most `room` that are new. Most are new or known, which a few statements tell of all of them;
/// what something may stand against is looked at alone.
pub(super) async fn take_some(
    tx: &mut Connection,
    taken: &mut Taken,
    batch: i64,
    candidates: Vec<Candidate>,
    mut room: u64,
    at_ms: u64,
) -> Result<(), RegistryError> {
    if candidates.is_empty() {
        return Ok(());
    }
    let known = bulk::known(tx, &candidates).await?;
    let suspects = bulk::suspects(tx, &candidates).await?;
    let mut fresh = Vec::with_capacity(candidates.len());
    for (at, candidate) in candidates.into_iter().enumerate() {
        if known.contains(&at) {
            taken.already += 1;
            continue;
        }
        let against = match suspects.contains(&at) {
            true => conflict(tx, &candidate.identity).await?,
            false => None,
        };
        let against = against.or_else(|| {
            (room == 0).then(|| (Code::ManifestQuota, "its station has made all it may make".to_owned()))
        });
        if let Some((code, why)) = against {
            taken.refused.push(RowRefused {
                line: candidate.line,
                serial: candidate.identity.serial,
                certificate: candidate.identity.id,
                code,
                why,
            });
            continue;
        }
        room -= 1;
        fresh.push(candidate);
    }
    bulk::put(tx, taken, batch, fresh, at_ms).await
}

/// What stands against a row that is not known: a tombstone, or another device with its name or its key.
async fn conflict(
    tx: &mut Connection,
    row: &DeviceIdentity,
) -> Result<Option<(Code, String)>, RegistryError> {
    let (tenant, identity) = (&row.tenant, row);
    let key = hex::encode(identity.key_digest);
    let buried: Option<(String, String, String, String)> = sqlx::query_as(
        "SELECT tombstone.kind, device.tenant, device.serial, device.state
         FROM tombstone JOIN device ON device.id = tombstone.device
         WHERE (kind = 'certificate' AND value = $1) OR (kind = 'key' AND value = $2)
            OR (kind = 'serial' AND value = $3) ORDER BY kind LIMIT 1",
    )
    .bind(row.id.to_string())
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
    let group = Group::Certificate(row.id);
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
