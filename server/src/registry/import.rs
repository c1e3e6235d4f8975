//! Station records and manifests.
//!
//! A manifest is taken in one transaction, row by row: a row that is known already changes nothing, a row
//! whose name or key is another device's is refused alone and reported, and everything else about the
//! manifest (its station, signature, place in the chain, quota, range, certificates) must hold or nothing
//! is imported.

use std::{str::FromStr, sync::Arc};

use muster_pki::{
    CaCertificate, DeviceIdentity, StationRecord,
    manifest::{self, ManifestError, Verified},
};
use muster_shared::{BatchId, CertificateId, Code, Generation, SerialNumber, StationId, Tenant};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use tokio::task::spawn_blocking;

use super::{
    Inner,
    audit::{self, Entry},
    changes::What,
    device::DeviceState,
    error::RegistryError,
    now_ms,
    operator::Actor,
    sqlite::{Connection, Pool, int, parse, uint},
    verdict::{CertificateStatus, DeviceName, FactoryIssuer},
};

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

/// What became of a station record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// The station.
    pub station: StationId,
    /// Whether this record was known already.
    pub already: bool,
    /// The generation after it.
    pub generation: Generation,
}

/// A registered station.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StationRow {
    /// Its name.
    pub station: StationId,
    /// The tenant it makes devices for.
    pub tenant: Tenant,
    /// Most devices it may make.
    pub quota: u64,
    /// Devices it has made that are registered.
    pub devices: u64,
    /// First serial of its range.
    pub serial_first: SerialNumber,
    /// Last serial of its range.
    pub serial_last: SerialNumber,
    /// SHA-256 of the key that signs its manifests, lower-case hexadecimal.
    pub manifest_key: String,
    /// The place of its last imported manifest, if there is one.
    pub last_sequence: Option<u64>,
    /// When and why nothing more is taken from it.
    pub stopped: Option<(u64, String)>,
}

/// The root this registry trusts.
pub(super) async fn root(connection: &mut Connection) -> Result<Option<Vec<u8>>, RegistryError> {
    let (root,): (Option<Vec<u8>>,) =
        sqlx::query_as("SELECT root FROM registry WHERE one = 1").fetch_one(connection).await?;
    Ok(root)
}

fn read_root(der: &[u8]) -> Result<CaCertificate, RegistryError> {
    CaCertificate::root(der).map_err(|error| RegistryError::Station(format!("the root: {error}")))
}

pub(super) async fn trust_root(
    inner: &Inner,
    actor: &Actor,
    der: &CertificateDer<'_>,
) -> Result<(), RegistryError> {
    let offered = read_root(der)?;
    let mut writer = inner.database.writer().await?;
    let mut tx = writer.begin().await?;
    match root(&mut tx).await? {
        Some(known) if known == der.as_ref() => return Ok(()),
        Some(known) => {
            return Err(RegistryError::RootDiffers(hex::encode(read_root(&known)?.key().digest())));
        }
        None => {}
    }
    sqlx::query("UPDATE registry SET root = $1 WHERE one = 1").bind(der.as_ref()).execute(&mut *tx).await?;
    let entry = Entry {
        actor,
        action: "root.trust",
        target: offered.name(),
        reason: "",
        detail: json!({ "key": hex::encode(offered.key().digest()) }),
    };
    let stamp = audit::append(&mut tx, entry, now_ms()).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Access);
    Ok(())
}

/// The station's issuer, as the verdicts hold it.
fn issuer(record: &StationRecord) -> FactoryIssuer {
    FactoryIssuer {
        certificate: CertificateDer::from(record.factory.der().to_vec()),
        key_id: record.factory.key_id().to_vec(),
        tenant: record.tenant.clone(),
        station: record.station.clone(),
        not_after_s: record.factory.not_after_s(),
        withdrawn: false,
    }
}

async fn records(
    connection: &mut Connection,
    root: &CaCertificate,
) -> Result<Vec<StationRecord>, RegistryError> {
    let rows: Vec<(String, Vec<u8>)> =
        sqlx::query_as("SELECT name, record FROM station ORDER BY name").fetch_all(connection).await?;
    rows.iter()
        .map(|(name, record)| {
            StationRecord::verify(record, root)
                .map_err(|error| RegistryError::Damaged(format!("record of station {name}: {error}")))
        })
        .collect()
}

/// Loads every registered factory CA. A record that the root's signature no longer covers vouches for nobody.
pub(super) async fn load_issuers(inner: &Inner, connection: &mut Connection) -> Result<(), RegistryError> {
    let Some(root) = root(connection).await? else { return Ok(()) };
    for record in records(connection, &read_root(&root)?).await? {
        inner.verdicts.put_issuer(issuer(&record));
    }
    Ok(())
}

pub(super) async fn trust_station(
    inner: &Inner,
    actor: &Actor,
    bytes: &[u8],
) -> Result<Trusted, RegistryError> {
    let refuse = |why: String| Err(RegistryError::Station(why));
    let mut writer = inner.database.writer().await?;
    let mut tx = writer.begin().await?;
    let Some(root) = root(&mut tx).await? else {
        return refuse("no root is trusted yet".to_owned());
    };
    let root = read_root(&root)?;
    let record =
        StationRecord::verify(bytes, &root).map_err(|error| RegistryError::Station(error.to_string()))?;
    let mut known = None;
    for other in records(&mut tx, &root).await? {
        if other.station == record.station {
            known = Some(other);
        } else if other.factory.key_id() == record.factory.key_id() {
            return refuse(format!("its factory CA is station {}'s", other.station));
        } else if other.tenant == record.tenant && other.serials.overlaps(&record.serials) {
            return refuse(format!(
                "serials {} overlap station {}'s {}",
                record.serials, other.station, other.serials
            ));
        }
    }
    match &known {
        Some(same) if *same == record => {
            let generation = inner.verdicts.generation();
            return Ok(Trusted { station: record.station, already: true, generation });
        }
        Some(old) if old.tenant != record.tenant || old.factory.key() != record.factory.key() => {
            return refuse(format!(
                "station {} is registered for tenant {} with another factory CA; another key needs another name",
                old.station, old.tenant
            ));
        }
        Some(old) if old.signed_at_s > record.signed_at_s => {
            return refuse(format!("a newer record of station {} is registered", old.station));
        }
        _ => {}
    }
    let at_ms = now_ms();
    sqlx::query(
        "INSERT INTO station (name, tenant, record, factory_key_id, trusted_at_ms) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (name) DO UPDATE SET record = excluded.record, trusted_at_ms = excluded.trusted_at_ms",
    )
    .bind(record.station.as_str())
    .bind(record.tenant.as_str())
    .bind(bytes)
    .bind(record.factory.key_id().as_slice())
    .bind(int(at_ms))
    .execute(&mut *tx)
    .await?;
    let entry = Entry {
        actor,
        action: "station.trust",
        target: record.station.as_str(),
        reason: "",
        detail: json!({
            "tenant": record.tenant.as_str(),
            "quota": record.quota,
            "serials": record.serials.to_string(),
            "manifest_key": hex::encode(record.manifest_key.digest()),
        }),
    };
    let stamp = audit::append(&mut tx, entry, at_ms).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.verdicts.put_issuer(issuer(&record));
    inner.announce(stamp, What::StationTrusted(record.station.clone()));
    Ok(Trusted { station: record.station, already: false, generation: stamp.generation })
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

/// The manifest's station as it stands.
struct Station {
    id: i64,
    stopped: Option<(u64, String)>,
    last: Option<(u64, Vec<u8>)>,
}

/// A manifest's place in its station's chain.
enum Place {
    /// It is the next.
    Next,
    /// It was imported before.
    Again,
    /// One or more are missing before it.
    Gap(u64),
    /// Two different manifests claim one place.
    Fork(String),
}

/// Who a manifest says it is of.
struct Claim {
    station: StationId,
    signer: String,
}

async fn find_record(tx: &mut Connection, claim: &Claim) -> Result<(Station, StationRecord), RegistryError> {
    type Row = (i64, Vec<u8>, Option<i64>, Option<String>, Option<i64>, Option<Vec<u8>>);
    let found: Option<Row> = sqlx::query_as(
        "SELECT id, record, stopped_at_ms, stopped_why, last_sequence, last_digest FROM station WHERE name = $1",
    )
    .bind(claim.station.as_str())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(root) = root(tx).await? else {
        return Err(refused(Code::ManifestSignerUnknown, None, "no root is trusted yet".to_owned()));
    };
    let Some((id, record, stopped_at, why, sequence, digest)) = found else {
        let known = records(tx, &read_root(&root)?).await?;
        let known: Vec<_> = known
            .iter()
            .map(|record| format!("{} {}", record.station, hex::encode(record.manifest_key.digest())))
            .collect();
        let what = format!(
            "station {} is not registered · signer key {} · known: {}",
            claim.station,
            claim.signer,
            if known.is_empty() { "none".to_owned() } else { known.join(", ") },
        );
        return Err(refused(Code::ManifestSignerUnknown, None, what));
    };
    let record = StationRecord::verify(&record, &read_root(&root)?)
        .map_err(|error| RegistryError::Damaged(format!("record of station {}: {error}", claim.station)))?;
    let station = Station {
        id,
        stopped: stopped_at.map(|at| (uint(at), why.unwrap_or_default())),
        last: sequence.map(uint).zip(digest),
    };
    Ok((station, record))
}

async fn place(tx: &mut Connection, station: &Station, verified: &Verified) -> Result<Place, RegistryError> {
    let header = &verified.header;
    let (last, last_digest) = match &station.last {
        Some((sequence, digest)) => (*sequence, Some(digest.as_slice())),
        None => (0, None),
    };
    if header.sequence > last + 1 {
        return Ok(Place::Gap(last + 1));
    }
    if header.sequence == last + 1 {
        let previous = header.previous.as_ref().map(<[u8; 32]>::as_slice);
        return Ok(if previous == last_digest {
            Place::Next
        } else {
            Place::Fork(format!(
                "number {} continues {}, number {last} here is {}",
                header.sequence,
                previous.map_or_else(|| "nothing".to_owned(), hex::encode),
                last_digest.map_or_else(|| "none".to_owned(), hex::encode),
            ))
        });
    }
    let known: Option<(Vec<u8>,)> =
        sqlx::query_as("SELECT digest FROM manifest WHERE station = $1 AND sequence = $2")
            .bind(station.id)
            .bind(int(header.sequence))
            .fetch_optional(tx)
            .await?;
    Ok(match known {
        Some((digest,)) if digest == verified.digest => Place::Again,
        Some((digest,)) => Place::Fork(format!(
            "number {} is {}, and was imported as {}",
            header.sequence,
            hex::encode(verified.digest),
            hex::encode(digest)
        )),
        None => Place::Fork(format!("number {} was never given", header.sequence)),
    })
}

/// Reads and checks a manifest against its station's record. A large one takes seconds of signatures, so it
/// is done off the runtime and before anything is locked.
async fn verify(inner: &Inner, bytes: Arc<[u8]>) -> Result<(Claim, StationRecord, Verified), RegistryError> {
    let read = {
        let bytes = bytes.clone();
        spawn_blocking(move || {
            manifest::read(&bytes)
                .map(|read| Claim { station: read.station().clone(), signer: hex::encode(read.signer()) })
        })
    };
    let claim = read.await.map_err(|_| RegistryError::Closed)??;
    let mut connection = inner.database.readers().acquire().await?;
    let (_, record) = find_record(&mut connection, &claim).await?;
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
    let (claim, checked, verified) = verify(inner, bytes.clone()).await?;
    let mut writer = inner.database.writer().await?;
    let mut tx = writer.begin().await?;
    let (station, record) = find_record(&mut tx, &claim).await?;
    if record != checked {
        let what = format!("the record of station {} was replaced meanwhile: import again", record.station);
        return Err(refused(Code::ManifestSignerUnknown, Some(&verified.header.batch), what));
    }
    let batch = verified.header.batch.clone();
    let place = place(&mut tx, &station, &verified).await?;
    match (&place, &station.stopped) {
        (Place::Again, _) => {}
        (Place::Gap(missing), _) => {
            let what = format!(
                "manifest {batch} is number {} of station {}; number {missing} is missing",
                verified.header.sequence, record.station
            );
            return Err(refused(Code::ManifestFork, Some(&batch), what));
        }
        (Place::Fork(_) | Place::Next, Some((at_ms, why))) => {
            let what = format!("station {} is stopped since {at_ms}: {why}", record.station);
            return Err(refused(Code::ManifestFork, Some(&batch), what));
        }
        (Place::Fork(why), None) => {
            let at_ms = now_ms();
            sqlx::query("UPDATE station SET stopped_at_ms = $1, stopped_why = $2 WHERE id = $3")
                .bind(int(at_ms))
                .bind(why)
                .bind(station.id)
                .execute(&mut *tx)
                .await?;
            let detail = json!({ "batch": batch.as_str(), "why": why });
            let entry = Entry {
                actor,
                action: "station.stop",
                target: record.station.as_str(),
                reason: "its manifests do not form one chain",
                detail,
            };
            let stamp = audit::append(&mut tx, entry, at_ms).await?;
            inner.commit(tx).await.inspect_err(|_| writer.fail())?;
            inner.announce(stamp, What::StationStopped(record.station.clone()));
            tracing::error!(station = %record.station, why, "a station's manifests fork: it is stopped");
            let what = format!("station {}: {why}; the station is stopped", record.station);
            return Err(refused(Code::ManifestFork, Some(&batch), what));
        }
        (Place::Next, None) => {}
    }
    let at_ms = now_ms();
    let batch_row = put_batch(&mut tx, &station, &verified).await?;
    let mut taken = Taken::default();
    for (at, row) in verified.rows.iter().enumerate() {
        // The header is line 1.
        take(&mut tx, &mut taken, batch_row, &verified, at as u64 + 2, row, at_ms).await?;
    }
    check_quota(&mut tx, &station, &record, &batch).await?;
    let mut report = ImportReport {
        batch: batch.clone(),
        station: record.station.clone(),
        tenant: record.tenant.clone(),
        product: verified.header.product.clone(),
        sequence: verified.header.sequence,
        digest: hex::encode(verified.digest),
        registered: taken.devices.len() as u64,
        already: taken.already,
        refused: taken.refused,
        generation: inner.verdicts.generation(),
        audit_no: None,
    };
    if matches!(place, Place::Again) && taken.devices.is_empty() {
        return Ok(report);
    }
    if matches!(place, Place::Next) {
        put_manifest(&mut tx, &station, &verified, batch_row, actor, at_ms, &bytes).await?;
    }
    let detail = json!({
        "station": record.station.as_str(),
        "sequence": report.sequence,
        "digest": report.digest,
        "registered": report.registered,
        "already": report.already,
        "refused": report.refused.len(),
    });
    let entry = Entry { actor, action: "batch.import", target: batch.as_str(), reason: "", detail };
    let stamp = audit::append(&mut tx, entry, at_ms).await?;
    sqlx::query("UPDATE device SET changed_no = $1 WHERE batch = $2 AND changed_no = 0")
        .bind(int(stamp.no))
        .bind(batch_row)
        .execute(&mut *tx)
        .await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    for new in taken.devices {
        let key = inner.verdicts.put_device(new.row, new.name, DeviceState::Registered);
        inner.verdicts.put_certificate(&new.certificate, key, CertificateStatus::Active, new.not_after_s);
    }
    report.generation = stamp.generation;
    report.audit_no = Some(stamp.no);
    inner.announce(stamp, What::Imported { batch, registered: report.registered });
    Ok(report)
}

/// A device that an import made.
struct NewDevice {
    row: i64,
    name: DeviceName,
    certificate: CertificateId,
    not_after_s: i64,
}

#[derive(Default)]
struct Taken {
    devices: Vec<NewDevice>,
    already: u64,
    refused: Vec<RowRefused>,
}

async fn put_batch(
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

async fn put_manifest(
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
async fn check_quota(
    tx: &mut Connection,
    station: &Station,
    record: &StationRecord,
    batch: &BatchId,
) -> Result<(), RegistryError> {
    let (made,): (i64,) = sqlx::query_as(
        "SELECT count(*) FROM device JOIN batch ON batch.id = device.batch WHERE batch.station = $1",
    )
    .bind(station.id)
    .fetch_one(tx)
    .await?;
    if uint(made) > record.quota {
        let what = format!(
            "manifest {batch} would make it {made} devices of station {}, its quota is {}",
            record.station, record.quota
        );
        return Err(refused(Code::ManifestQuota, Some(batch), what));
    }
    Ok(())
}

/// Takes one row, or says why not.
async fn take(
    tx: &mut Connection,
    taken: &mut Taken,
    batch: i64,
    verified: &Verified,
    at: u64,
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
            line: at,
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

pub(super) async fn stations(pool: &Pool) -> Result<Vec<StationRow>, RegistryError> {
    type Row = (Vec<u8>, Option<i64>, Option<String>, Option<i64>, i64);
    let mut connection = pool.acquire().await?;
    let Some(root) = root(&mut connection).await? else { return Ok(Vec::new()) };
    let root = read_root(&root)?;
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT record, stopped_at_ms, stopped_why, last_sequence,
                (SELECT count(*) FROM device JOIN batch ON batch.id = device.batch WHERE batch.station = station.id)
         FROM station ORDER BY name",
    )
    .fetch_all(&mut *connection)
    .await?;
    rows.into_iter()
        .map(|(record, stopped_at, why, last, devices)| {
            let record = StationRecord::verify(&record, &root)
                .map_err(|error| RegistryError::Damaged(format!("a station's record: {error}")))?;
            Ok(StationRow {
                quota: record.quota,
                devices: uint(devices),
                serial_first: record.serials.first(),
                serial_last: record.serials.last(),
                manifest_key: hex::encode(record.manifest_key.digest()),
                last_sequence: last.map(uint),
                stopped: stopped_at.map(|at| (uint(at), why.unwrap_or_default())),
                station: record.station,
                tenant: record.tenant,
            })
        })
        .collect()
}

/// Devices and certificates, into the verdicts.
pub(super) async fn load_devices(inner: &Inner, connection: &mut Connection) -> Result<(), RegistryError> {
    use futures_util::TryStreamExt;
    let verdicts = &inner.verdicts;
    let mut devices = sqlx::query_as::<_, (i64, String, String, String, String)>(
        "SELECT id, tenant, device_id, serial, state FROM device ORDER BY id",
    )
    .fetch(&mut *connection);
    while let Some((row, tenant, device_id, serial, state)) = devices.try_next().await? {
        let (tenant, device_id, serial) = super::decide::names(&tenant, &device_id, &serial)?;
        let state = parse(&state, "a device's state")?;
        verdicts.put_device(row, DeviceName { tenant, device_id, serial }, state);
    }
    drop(devices);
    let mut certificates = sqlx::query_as::<_, (Vec<u8>, i64, i64, String)>(
        "SELECT id, device, not_after_s, status FROM certificate",
    )
    .fetch(connection);
    while let Some((id, row, not_after_s, status)) = certificates.try_next().await? {
        let id = CertificateId(super::sqlite::digest(&id, "a certificate's id")?);
        let damaged = |what: String| RegistryError::Damaged(what);
        let device = verdicts.by_row(row).ok_or_else(|| damaged(format!("certificate {id} is nobody's")))?;
        let status = CertificateStatus::from_word(&status)
            .ok_or_else(|| damaged(format!("certificate {id} is {status:?}")))?;
        verdicts.put_certificate(&id, device, status, not_after_s);
    }
    Ok(())
}
