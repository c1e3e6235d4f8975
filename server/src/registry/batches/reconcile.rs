//! What became of a batch: what its manifests say was made, against what is here.

use std::sync::Arc;

use muster_pki::{
    SerialRange, StationRecord, manifest,
    profile::{BACKDATE_S, NO_END_S},
};
use muster_shared::{BatchId, SerialNumber, StationId, Tenant};
use sqlx::Row as _;
use tokio::task::spawn_blocking;

use crate::registry::{
    Inner, RegistryError,
    database::{Connection, digest, int, parse, uint},
    filter::Is,
    listing::{States, by_state},
    station::{read_root, root},
};

const HOUR_S: i64 = 60 * 60;

/// A batch, against what its station may make and has handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconciled {
    /// Its name.
    pub batch: BatchId,
    /// Whose devices they are.
    pub tenant: Tenant,
    /// Where they were made.
    pub station: StationId,
    /// What was made.
    pub product: String,
    /// When the order was begun and closed, Unix milliseconds.
    pub opened_at_ms: u64,
    /// When the station closed it.
    pub closed_at_ms: u64,
    /// Its manifests, the newest first.
    pub manifests: Vec<Manifest>,
    /// Devices its manifests name.
    pub made: u64,
    /// Devices of it that are here.
    pub registered: u64,
    /// Of those, which have connected at least once.
    pub first_seen: u64,
    /// Devices of it by state.
    pub states: States,
    /// Devices of it by the hour their birth certificate was made in, its beginning in Unix milliseconds. A manifest
    /// holds what passed, so of what failed there nothing is known here.
    pub made_hours: Vec<(u64, u64)>,
    /// Rows of its manifests that were not taken: another device's serial, name or key, or a tombstone.
    pub refused: u64,
    /// Devices of it that no manifest of it names.
    pub unannounced: u64,
    /// First and last serial of its devices; `None` when there are none.
    pub serials: Option<(SerialNumber, SerialNumber)>,
    /// Serials between those that no device of it has, as ranges; the first [`GAPS_MAX`].
    pub gaps: Vec<(SerialNumber, SerialNumber)>,
    /// How many serials those and all further gaps have.
    pub missing: u64,
    /// Most devices its station may make.
    pub quota: u64,
    /// How many it has made.
    pub station_devices: u64,
    /// The serials its station may give.
    pub range: (SerialNumber, SerialNumber),
}

/// A manifest of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its place in its station's chain.
    pub sequence: u64,
    /// SHA-256 of it.
    pub digest: [u8; 32],
    /// Devices it names.
    pub devices: u64,
    /// When it was imported, Unix milliseconds.
    pub imported_at_ms: u64,
    /// By whom.
    pub imported_by: String,
}

/// What checking a batch's manifests again found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Which batch.
    pub batch: BatchId,
    /// Manifests whose digest, signature, chain and certificates hold.
    pub manifests: u64,
    /// Devices they name.
    pub rows: u64,
    /// What does not hold; empty when all does.
    pub faults: Vec<String>,
    /// Rows that are not here as they were made: serial and why; the first [`GAPS_MAX`].
    pub missing: Vec<(SerialNumber, String)>,
}

/// Most ranges, or rows, that are listed one by one.
pub const GAPS_MAX: usize = 100;

/// A batch's row and its station's.
struct Found {
    id: i64,
    station: i64,
    record: StationRecord,
    name: String,
    product: String,
    opened_at_ms: i64,
    closed_at_ms: i64,
}

/// The one batch of this name within a tenant, or of all tenants.
async fn find(
    connection: &mut Connection,
    tenant: Option<&Tenant>,
    name: &BatchId,
) -> Result<Found, RegistryError> {
    let rows = sqlx::query(
        "SELECT batch.id, batch.name, batch.product, batch.opened_at_ms, batch.closed_at_ms, batch.station,
         station.record, station.name AS at FROM batch JOIN station ON station.id = batch.station
         WHERE batch.name = $1 AND ($2 = '' OR station.tenant = $2) ORDER BY batch.id",
    )
    .bind(name.as_str())
    .bind(tenant.map_or("", Tenant::as_str))
    .fetch_all(&mut *connection)
    .await?;
    let row = match rows.as_slice() {
        [] => return Err(RegistryError::BatchUnknown(name.to_string())),
        [row] => row,
        several => {
            let at: Vec<String> = several.iter().filter_map(|row| row.try_get("at").ok()).collect();
            let why = format!("{name} is a batch of stations {}; each is its own", at.join(", "));
            return Err(RegistryError::Value { what: "batch", why });
        }
    };
    let kept = root(&mut *connection).await?;
    let kept = kept.ok_or_else(|| RegistryError::Damaged("there is a station and no root".to_owned()))?;
    let record = StationRecord::verify(row.try_get("record")?, &read_root(&kept)?)
        .map_err(|error| RegistryError::Damaged(format!("a station's record: {error}")))?;
    Ok(Found {
        id: row.try_get("id")?,
        station: row.try_get("station")?,
        record,
        name: row.try_get("name")?,
        product: row.try_get("product")?,
        opened_at_ms: row.try_get("opened_at_ms")?,
        closed_at_ms: row.try_get("closed_at_ms")?,
    })
}

/// Counts a batch against its manifests, and its serials against each other.
pub(in crate::registry) async fn reconcile(
    inner: &Inner,
    tenant: Option<&Tenant>,
    name: &BatchId,
) -> Result<Reconciled, RegistryError> {
    let mut connection = inner.database.readers().acquire().await?;
    let found = find(&mut connection, tenant, name).await?;
    let manifests = manifests(&mut connection, found.id).await?;
    let own = [Is::Batch(name.clone()), Is::Station(found.record.station.clone())];
    let mut counted = by_state(inner, &mut connection, own).await?;
    counted.sort_by_key(|(state, _)| *state);
    let (first_seen,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM device WHERE batch = $1 AND first_connected_ms IS NOT NULL")
            .bind(found.id)
            .fetch_one(&mut *connection)
            .await?;
    let made_hours = made_hours(&mut connection, found.id).await?;
    let (station_devices,): (i64,) = sqlx::query_as(
        "SELECT coalesce(CAST(sum(tally.devices) AS BIGINT), 0) FROM tally
         JOIN batch ON batch.id = tally.batch WHERE batch.station = $1",
    )
    .bind(found.station)
    .fetch_one(&mut *connection)
    .await?;
    let serials: Vec<(String,)> =
        sqlx::query_as("SELECT serial FROM device WHERE batch = $1 ORDER BY serial")
            .bind(found.id)
            .fetch_all(&mut *connection)
            .await?;
    let mut places = Vec::with_capacity(serials.len());
    for (serial,) in &serials {
        places.extend(found.record.serials.place(&parse(serial, "a device's serial")?));
    }
    let (gaps, missing) = gaps(&found.record.serials, &mut places);
    let made: u64 = manifests.iter().map(|manifest| manifest.devices).sum();
    let registered: u64 = counted.iter().map(|(_, count)| count).sum();
    let span = places.first().zip(places.last());
    let at = |place: &u64| found.record.serials.serial(*place);
    Ok(Reconciled {
        batch: parse(&found.name, "a batch's name")?,
        tenant: found.record.tenant.clone(),
        station: found.record.station.clone(),
        product: found.product,
        opened_at_ms: uint(found.opened_at_ms),
        closed_at_ms: uint(found.closed_at_ms),
        manifests,
        made,
        registered,
        first_seen: uint(first_seen),
        states: counted,
        made_hours,
        refused: made.saturating_sub(registered),
        unannounced: registered.saturating_sub(made),
        serials: span.and_then(|(first, last)| at(first).zip(at(last))),
        gaps,
        missing,
        quota: found.record.quota,
        station_devices: uint(station_devices),
        range: (found.record.serials.first(), found.record.serials.last()),
    })
}

async fn made_hours(connection: &mut Connection, batch: i64) -> Result<Vec<(u64, u64)>, RegistryError> {
    // A birth certificate has no end, and begins a little before it is made.
    let sql = format!(
        "SELECT (certificate.not_before_s + {BACKDATE_S}) / {HOUR_S} AS hour, count(*)
         FROM device JOIN certificate ON certificate.device = device.id
         WHERE device.batch = $1 AND certificate.not_after_s = {NO_END_S} GROUP BY hour ORDER BY hour"
    );
    let rows: Vec<(i64, i64)> =
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(batch).fetch_all(&mut *connection).await?;
    Ok(rows.into_iter().map(|(hour, n)| (uint(hour * HOUR_S * 1000), uint(n))).collect())
}

/// Places between the first and the last that are not there: the first ranges, and how many in all.
fn gaps(range: &SerialRange, places: &mut Vec<u64>) -> (Vec<(SerialNumber, SerialNumber)>, u64) {
    places.sort_unstable();
    places.dedup();
    let (mut gaps, mut missing) = (Vec::new(), 0);
    for pair in places.windows(2) {
        let between = pair[1] - pair[0] - 1;
        missing += between;
        if between > 0 && gaps.len() < GAPS_MAX {
            gaps.extend(range.serial(pair[0] + 1).zip(range.serial(pair[1] - 1)));
        }
    }
    (gaps, missing)
}

async fn manifests(connection: &mut Connection, batch: i64) -> Result<Vec<Manifest>, RegistryError> {
    let rows: Vec<(i64, Vec<u8>, i64, i64, String)> = sqlx::query_as(
        "SELECT sequence, digest, devices, imported_at_ms, imported_by FROM manifest
         WHERE batch = $1 ORDER BY sequence DESC",
    )
    .bind(batch)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(sequence, sum, devices, at, by)| {
            Ok(Manifest {
                sequence: uint(sequence),
                digest: digest(&sum, "a manifest's digest")?,
                devices: uint(devices),
                imported_at_ms: uint(at),
                imported_by: by,
            })
        })
        .collect()
}

/// A manifest as it came: the newest of the batch, or the one of this place in its station's chain.
pub(in crate::registry) async fn export(
    inner: &Inner,
    tenant: Option<&Tenant>,
    name: &BatchId,
    sequence: Option<u64>,
) -> Result<Vec<u8>, RegistryError> {
    let mut connection = inner.database.readers().acquire().await?;
    let found = find(&mut connection, tenant, name).await?;
    let body: Option<(Vec<u8>,)> = sqlx::query_as(
        "SELECT body FROM manifest WHERE batch = $1 AND ($2 < 0 OR sequence = $2) ORDER BY sequence DESC LIMIT 1",
    )
    .bind(found.id)
    .bind(sequence.map_or(-1, int))
    .fetch_optional(&mut *connection)
    .await?;
    body.map(|(body,)| body).ok_or_else(|| RegistryError::BatchUnknown(name.to_string()))
}

/// Checks every manifest of a batch again, as if it came now, and each of its rows against what is here.
pub(in crate::registry) async fn verify(
    inner: &Inner,
    tenant: Option<&Tenant>,
    name: &BatchId,
) -> Result<Verified, RegistryError> {
    let mut connection = inner.database.readers().acquire().await?;
    let found = find(&mut connection, tenant, name).await?;
    let sequences: Vec<Manifest> = manifests(&mut connection, found.id).await?;
    drop(connection);
    let record = Arc::new(found.record);
    let mut verified =
        Verified { batch: name.clone(), manifests: 0, rows: 0, faults: Vec::new(), missing: Vec::new() };
    for manifest in sequences.iter().rev() {
        let body = export(inner, tenant, name, Some(manifest.sequence)).await?;
        let against = record.clone();
        // Seconds of signatures, for a large one.
        let read = spawn_blocking(move || manifest::read(&body)?.verify(&against));
        match read.await.map_err(|_| RegistryError::Closed)? {
            Err(error) => verified.faults.push(format!("manifest no. {}: {error}", manifest.sequence)),
            Ok(read) if read.digest != manifest.digest => {
                verified.faults.push(format!("manifest no. {} is not the one imported", manifest.sequence));
            }
            Ok(read) => {
                verified.manifests += 1;
                verified.rows += read.rows.len() as u64;
                rows(inner, &read, &mut verified);
            }
        }
    }
    Ok(verified)
}

/// Rows whose certificate is not here, or is another device's.
fn rows(inner: &Inner, read: &manifest::Verified, verified: &mut Verified) {
    for row in &read.rows {
        let known = inner.verdicts.certificate(&row.certificate_id);
        let why = match known {
            None => "its certificate was not taken".to_owned(),
            Some(known) => {
                let name = inner.verdicts.name(known.device);
                if name.serial == row.serial {
                    continue;
                }
                format!("its certificate is {}'s", name.serial)
            }
        };
        if verified.missing.len() < GAPS_MAX {
            verified.missing.push((row.serial.clone(), why));
        }
    }
}
