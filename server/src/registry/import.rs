//! Devices from outside: manifests, and lists of certificates ([`Listed`]).
//!
//! A manifest is taken in one transaction, row by row: a row that is known already changes nothing, a row
//! whose name or key is another device's is refused alone and reported, and everything else about the
//! manifest (its station, signature, place in the chain, quota, range, certificates) must hold or nothing
//! is imported.

use std::sync::Arc;

use muster_pki::{
    StationRecord,
    manifest::{self, Claim, ManifestError, Verified},
};
use muster_shared::{BatchId, CertificateId, Code, Generation, SerialNumber, StationId, Tenant};
use serde_json::json;
use tokio::task::spawn_blocking;

use self::{
    chain::{Place, Station},
    rows::Taken,
};
use super::{
    Inner,
    actor::{Actor, Scope},
    audit::{self, Entry, Stamp},
    changes::What,
    database::{Connection, int},
    device::DeviceState,
    error::RegistryError,
    group::Group,
    now_ms, rules,
    verdict::CertificateStatus,
};

mod bulk;
mod chain;
mod listed;
mod rows;

pub(super) use listed::import as import_listed;
pub use listed::{Fate, Listed, ListedRow, Offered, RowReport};

/// What became of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportReport {
    /// The batch it closes.
    pub batch: BatchId,
    /// Who made it.
    pub station: StationId,
    /// For whom.
    pub tenant: Tenant,
    /// What was made.
    pub product: String,
    /// Its place in its station's chain.
    pub sequence: u64,
    /// SHA-256 of the manifest, lower-case hexadecimal.
    pub digest: String,
    /// Devices that are new with this import.
    pub registered: u64,
    /// Rows that were known before, exactly so.
    pub already: u64,
    /// Rows that were not taken.
    pub refused: Vec<RowRefused>,
    /// The generation after it.
    pub generation: Generation,
    /// The number of its audit row; `None` when the whole manifest was known and nothing changed.
    pub audit_no: Option<u64>,
}

/// A row of a manifest that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRefused {
    /// Its line in the manifest, from 1.
    pub line: u64,
    /// Its serial.
    pub serial: SerialNumber,
    /// Its certificate.
    pub certificate: CertificateId,
    /// Why: M204 for a name or key that is another device's, M302 or M209 for a tombstone.
    pub code: Code,
    /// What disagrees, with the values.
    pub why: String,
}

/// A refusal of the whole manifest.
fn refused(code: Code, batch: Option<&BatchId>, what: String) -> RegistryError {
    RegistryError::Manifest { code, what, batch: batch.cloned(), line: None }
}

impl From<ManifestError> for RegistryError {
    fn from(error: ManifestError) -> Self {
        let line = match &error {
            ManifestError::Malformed { line, .. }
            | ManifestError::Altered { line, .. }
            | ManifestError::Range { line, .. }
            | ManifestError::Certificate { line, .. } => Some(*line as u64),
            _ => None,
        };
        Self::Manifest { code: error.code(), what: error.to_string(), batch: None, line }
    }
}

/// Reads and checks a manifest against its station's record. A large one takes seconds of signatures, so it
/// is done off the runtime and before anything is locked.
async fn verify(
    inner: &Inner,
    scope: &Scope,
    bytes: Arc<[u8]>,
) -> Result<(Claim, StationRecord, Verified), RegistryError> {
    let claim = {
        let bytes = bytes.clone();
        spawn_blocking(move || manifest::claim(&bytes))
    };
    let claim = claim.await.map_err(|_| RegistryError::Closed)??;
    let mut connection = inner.database.readers().acquire().await?;
    let record = chain::find(&mut connection, &claim, scope).await?.record;
    drop(connection);
    let against = record.clone();
    let verified = spawn_blocking(move || manifest::read(&bytes)?.verify(&against));
    let verified = verified.await.map_err(|_| RegistryError::Closed)??;
    Ok((claim, record, verified))
}

pub(super) async fn import_manifest(
    inner: &Inner,
    actor: &Actor,
    bytes: Arc<[u8]>,
) -> Result<ImportReport, RegistryError> {
    let (claim, checked, verified) = verify(inner, &actor.scope, bytes.clone()).await?;
    let batch = verified.header.batch.clone();
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let station = chain::find(&mut tx, &claim, &actor.scope).await?;
    if station.record != checked {
        let what = format!("the record of station {} was replaced meanwhile: import again", claim.station);
        return Err(refused(Code::ManifestSignerUnknown, Some(&batch), what));
    }
    let place = station.place(&mut tx, &verified).await?;
    match &place {
        Place::Next | Place::Again => {}
        Place::Refused(what) => return Err(refused(Code::ManifestFork, Some(&batch), what.clone())),
        Place::Fork(why) => {
            let stamp = station.stop(&mut tx, actor, &batch, why).await?;
            inner.commit(tx).await.inspect_err(|_| writer.fail())?;
            inner.announce(stamp, What::StationStopped(claim.station.clone()));
            tracing::error!(station = %claim.station, why, "a station's manifests fork: it is stopped");
            let what = format!("station {}: {why}; the station is stopped", claim.station);
            return Err(refused(Code::ManifestFork, Some(&batch), what));
        }
    }
    let at_ms = now_ms();
    let batch_row = rows::put_batch(&mut tx, &station, &verified).await?;
    let taken = rows::take(&mut tx, batch_row, &verified, at_ms).await?;
    rows::check_quota(&mut tx, &station, &batch).await?;
    let mut report = report(inner, &verified, &taken);
    if matches!(place, Place::Again) && taken.devices.is_empty() {
        return Ok(report);
    }
    if !taken.devices.is_empty() {
        reopen(&mut tx, &station.record, &batch).await?;
    }
    if matches!(place, Place::Next) {
        rows::put_manifest(&mut tx, &station, &verified, batch_row, actor, at_ms, &bytes).await?;
    }
    let stamp = record(&mut tx, actor, &report, &taken, at_ms).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    flip(inner, taken, batch_row, &verified.header.tenant, &verified.header.station, &batch);
    report.generation = stamp.generation;
    report.audit_no = Some(stamp.no);
    inner.announce(stamp, What::Imported { batch, registered: report.registered });
    Ok(report)
}

/// A group that is revoked has new members: its rule has to be followed again.
async fn reopen(tx: &mut Connection, station: &StationRecord, batch: &BatchId) -> Result<(), RegistryError> {
    let groups = [
        Group::Tenant(station.tenant.clone()),
        Group::Station(station.station.clone()),
        Group::Batch(station.station.clone(), batch.clone()),
        Group::Ca(station.factory.key_id()),
    ];
    rules::reopen(tx, &groups).await
}

/// New devices of a batch, into the verdicts: after the commit, under the writer's lock.
fn flip(inner: &Inner, taken: Taken, batch_row: i64, tenant: &Tenant, station: &StationId, batch: &BatchId) {
    let verdicts = &inner.verdicts;
    let batch_key = verdicts.put_batch(batch_row, tenant, station, batch);
    for new in taken.devices {
        let key = verdicts.put_device(new.row, &new.name, DeviceState::Registered, batch_key);
        let issuer = verdicts.put_issuer_key(&new.issuer_key_id);
        let active = CertificateStatus::Active;
        verdicts.put_certificate(&new.certificate, key, issuer, active, new.not_after_s);
    }
}

fn report(inner: &Inner, verified: &Verified, taken: &Taken) -> ImportReport {
    let header = &verified.header;
    ImportReport {
        batch: header.batch.clone(),
        station: header.station.clone(),
        tenant: header.tenant.clone(),
        product: header.product.clone(),
        sequence: header.sequence,
        digest: hex::encode(verified.digest),
        registered: taken.devices.len() as u64,
        already: taken.already,
        refused: taken.refused.clone(),
        generation: inner.verdicts.generation(),
        audit_no: None,
    }
}

/// The audit row, and on the new devices its number: why they are in their state.
async fn record(
    tx: &mut Connection,
    actor: &Actor,
    report: &ImportReport,
    taken: &Taken,
    at_ms: u64,
) -> Result<Stamp, RegistryError> {
    let detail = json!({
        "station": report.station.as_str(),
        "sequence": report.sequence,
        "digest": report.digest,
        "registered": report.registered,
        "already": report.already,
        "refused": report.refused.len(),
    });
    let entry = Entry {
        actor,
        tenant: Some(&report.tenant),
        action: "batch.import",
        target: report.batch.as_str(),
        reason: "",
        detail,
    };
    let stamp = audit::append(tx, entry, at_ms).await?;
    number(tx, taken, stamp).await?;
    Ok(stamp)
}

/// Why the new devices are in their state: their rows are the newest of all.
async fn number(tx: &mut Connection, taken: &Taken, stamp: Stamp) -> Result<(), RegistryError> {
    let Some(first) = taken.devices.iter().map(|device| device.row).min() else { return Ok(()) };
    sqlx::query("UPDATE device SET changed_no = $1 WHERE id >= $2 AND changed_no = 0")
        .bind(int(stamp.no))
        .bind(first)
        .execute(tx)
        .await?;
    Ok(())
}
