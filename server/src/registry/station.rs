//! Factory stations: the root that vouches for them, and their root-signed records.

use muster_pki::{CaCertificate, StationRecord};
use muster_shared::{Generation, SerialNumber, StationId, Tenant};
use rustls_pki_types::CertificateDer;
use serde_json::json;

use super::{
    Inner,
    actor::{Actor, Scope},
    audit::{self, Entry, Stamp},
    changes::What,
    database::{Connection, Pool, int, uint},
    decide::Reason,
    error::RegistryError,
    now_ms,
    verdict::FactoryIssuer,
};

/// What becomes of a record that differs from the one its factory CA is registered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Differing {
    /// It is refused, with the fields that differ.
    #[default]
    Refuse,
    /// One that the root signed later takes the place of the registered one; an older one is refused.
    Replace,
    /// The one that the root signed later counts, whichever it is: for a bundle that is read at every start.
    Newest,
}

/// How a record is to be taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taking {
    /// What becomes of one that differs.
    pub differing: Differing,
    /// Whether only to say what would become of it.
    pub dry_run: bool,
    /// Why, in the operator's words; empty without any.
    pub reason: String,
}

/// What became of a station record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// The record that counts now, or would.
    pub record: StationRecord,
    /// Whether it was registered already, exactly so.
    pub already: bool,
    /// The fields in which it differs from the one it took the place of; empty where there was none.
    pub replaced: Vec<&'static str>,
    /// The generation after it.
    pub generation: Generation,
    /// Its audit row, where one was written.
    pub audit_no: Option<u64>,
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

pub(super) fn read_root(der: &[u8]) -> Result<CaCertificate, RegistryError> {
    CaCertificate::root(der).map_err(|error| RegistryError::Station(format!("the root: {error}")))
}

pub(super) async fn trust_root(
    inner: &Inner,
    actor: &Actor,
    der: &CertificateDer<'_>,
) -> Result<(), RegistryError> {
    let offered = read_root(der)?;
    let mut writer = inner.writer().await?;
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
        tenant: None,
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
pub(super) fn issuer(record: &StationRecord) -> FactoryIssuer {
    FactoryIssuer {
        certificate: CertificateDer::from(record.factory.der().to_vec()),
        key_id: record.factory.key_id().to_vec(),
        tenant: record.tenant.clone(),
        station: record.station.clone(),
        not_after_s: record.factory.not_after_s(),
        withdrawn: false,
    }
}

/// Every registered station's record, its signature checked again.
pub(super) async fn records(
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

pub(super) async fn trust_station(
    inner: &Inner,
    actor: &Actor,
    bytes: &[u8],
    taking: &Taking,
) -> Result<Trusted, RegistryError> {
    Reason::new(&taking.reason).check_text()?;
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let root = root(&mut tx).await?;
    let root = root.ok_or_else(|| RegistryError::Station("no root is trusted yet".to_owned()))?;
    let root = read_root(&root)?;
    let record =
        StationRecord::verify(bytes, &root).map_err(|error| RegistryError::Station(error.to_string()))?;
    if !actor.scope.covers(&record.tenant) {
        return Err(RegistryError::StationConflict(format!(
            "it is for tenant {}, not for {}",
            record.tenant, actor.scope
        )));
    }
    let known = records(&mut tx, &root).await?;
    let standing = admissible(&record, &known, taking.differing)?;
    let generation = inner.verdicts.generation();
    let answer =
        |record, already, replaced| Trusted { record, already, replaced, generation, audit_no: None };
    let replaced = match standing {
        Standing::Counts(known) => return Ok(answer(known.clone(), true, Vec::new())),
        Standing::New(differs) => differs,
    };
    if taking.dry_run {
        return Ok(answer(record, false, replaced));
    }
    let stamp = put(&mut tx, actor, &record, bytes, &taking.reason, &replaced).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.verdicts.put_issuer(issuer(&record));
    inner.announce(stamp, What::StationTrusted(record.station.clone()));
    let audit_no = Some(stamp.no);
    Ok(Trusted { generation: stamp.generation, audit_no, ..answer(record, false, replaced) })
}

/// How a record stands to those that are registered.
enum Standing<'a> {
    /// This one is registered and goes on to count.
    Counts(&'a StationRecord),
    /// It is of a new station, or takes the place of its station's, from which these fields differ.
    New(Vec<&'static str>),
}

/// May this record be registered beside the known ones? A station keeps its tenant and its factory key; no
/// two share a key, or serials of one tenant.
fn admissible<'a>(
    record: &StationRecord,
    known: &'a [StationRecord],
    differing: Differing,
) -> Result<Standing<'a>, RegistryError> {
    let refuse = |why: String| Err(RegistryError::StationConflict(why));
    for other in known.iter().filter(|other| other.station != record.station) {
        if other.factory.key_id() == record.factory.key_id() {
            return refuse(format!("its factory CA is station {}'s", other.station));
        }
        if other.tenant == record.tenant && other.serials.overlaps(&record.serials) {
            let (ours, theirs) = (&record.serials, &other.serials);
            return refuse(format!("serials {ours} overlap station {}'s {theirs}", other.station));
        }
    }
    let Some(old) = known.iter().find(|other| other.station == record.station) else {
        return Ok(Standing::New(Vec::new()));
    };
    if old == record {
        return Ok(Standing::Counts(old));
    }
    if old.tenant != record.tenant || old.factory.key() != record.factory.key() {
        return refuse(format!(
            "station {} is registered for tenant {} with another factory CA; another key needs another name",
            old.station, old.tenant
        ));
    }
    let differs = differences(old, record);
    let later = record.signed_at_s > old.signed_at_s;
    let named = differs.join(", ");
    match differing {
        Differing::Newest if !later => Ok(Standing::Counts(old)),
        Differing::Newest | Differing::Replace if later => Ok(Standing::New(differs)),
        Differing::Refuse if later => refuse(format!(
            "station {} is registered by another record; the root signed this one later, and it differs in {named}",
            old.station
        )),
        _ => refuse(format!(
            "station {} is registered by another record, which is not older; this one differs in {named}",
            old.station
        )),
    }
}

/// The fields in which two records of one station differ, by their names in the file.
fn differences(old: &StationRecord, new: &StationRecord) -> Vec<&'static str> {
    let fields = [
        ("quota", old.quota != new.quota),
        ("first_serial", old.serials.first() != new.serials.first()),
        ("last_serial", old.serials.last() != new.serials.last()),
        ("factory_ca", old.factory != new.factory),
        ("manifest_key", old.manifest_key != new.manifest_key),
        ("signed_at", old.signed_at_s != new.signed_at_s),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

async fn put(
    tx: &mut Connection,
    actor: &Actor,
    record: &StationRecord,
    bytes: &[u8],
    reason: &str,
    replaced: &[&str],
) -> Result<Stamp, RegistryError> {
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
        tenant: Some(&record.tenant),
        action: "station.trust",
        target: record.station.as_str(),
        reason,
        detail: json!({
            "tenant": record.tenant.as_str(),
            "quota": record.quota,
            "serials": record.serials.to_string(),
            "factory_ca": hex::encode(record.factory.key_id()),
            "manifest_key": hex::encode(record.manifest_key.digest()),
            "replaced": replaced,
        }),
    };
    audit::append(tx, entry, at_ms).await
}

pub(super) async fn stations(pool: &Pool, scope: &Scope) -> Result<Vec<StationRow>, RegistryError> {
    type Row = (Vec<u8>, Option<i64>, Option<String>, Option<i64>, i64);
    let mut connection = pool.acquire().await?;
    let Some(root) = root(&mut connection).await? else { return Ok(Vec::new()) };
    let root = read_root(&root)?;
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT record, stopped_at_ms, stopped_why, last_sequence,
                (SELECT count(*) FROM device JOIN batch ON batch.id = device.batch WHERE batch.station = station.id)
         FROM station WHERE ($1 = '' OR tenant = $1) ORDER BY name",
    )
    .bind(scope.to_sql())
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

/// The records of all stations, with how many devices each has made.
pub(super) async fn made(pool: &Pool) -> Result<Vec<(StationRecord, u64)>, RegistryError> {
    let mut connection = pool.acquire().await?;
    let Some(root) = root(&mut connection).await? else { return Ok(Vec::new()) };
    let root = read_root(&root)?;
    let rows: Vec<(Vec<u8>, i64)> = sqlx::query_as(
        "SELECT record, (SELECT coalesce(CAST(sum(tally.devices) AS BIGINT), 0) FROM tally
                         JOIN batch ON batch.id = tally.batch WHERE batch.station = station.id)
         FROM station ORDER BY name",
    )
    .fetch_all(&mut *connection)
    .await?;
    rows.into_iter()
        .map(|(record, devices)| {
            let record = StationRecord::verify(&record, &root)
                .map_err(|error| RegistryError::Damaged(format!("a station's record: {error}")))?;
            Ok((record, uint(devices)))
        })
        .collect()
}
