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
    error::RegistryError,
    now_ms,
    verdict::FactoryIssuer,
};

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
) -> Result<Trusted, RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let root = root(&mut tx).await?;
    let root = root.ok_or_else(|| RegistryError::Station("no root is trusted yet".to_owned()))?;
    let root = read_root(&root)?;
    let record =
        StationRecord::verify(bytes, &root).map_err(|error| RegistryError::Station(error.to_string()))?;
    if !actor.scope.covers(&record.tenant) {
        return Err(RegistryError::Station(format!(
            "it is for tenant {}, not for {}",
            record.tenant, actor.scope
        )));
    }
    let known = records(&mut tx, &root).await?;
    if admissible(&record, &known)? == Standing::Same {
        let generation = inner.verdicts.generation();
        return Ok(Trusted { station: record.station, already: true, generation });
    }
    let stamp = put(&mut tx, actor, &record, bytes).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.verdicts.put_issuer(issuer(&record));
    inner.announce(stamp, What::StationTrusted(record.station.clone()));
    Ok(Trusted { station: record.station, already: false, generation: stamp.generation })
}

/// How a record stands to those that are registered.
#[derive(PartialEq, Eq)]
enum Standing {
    /// It is registered, exactly so.
    Same,
    /// It is of a new station, or newer than its station's.
    New,
}

/// May this record be registered beside the known ones? A station keeps its tenant and its factory key; no
/// two share a key, or serials of one tenant.
fn admissible(record: &StationRecord, known: &[StationRecord]) -> Result<Standing, RegistryError> {
    let refuse = |why: String| Err(RegistryError::Station(why));
    for other in known.iter().filter(|other| other.station != record.station) {
        if other.factory.key_id() == record.factory.key_id() {
            return refuse(format!("its factory CA is station {}'s", other.station));
        }
        if other.tenant == record.tenant && other.serials.overlaps(&record.serials) {
            let (ours, theirs) = (&record.serials, &other.serials);
            return refuse(format!("serials {ours} overlap station {}'s {theirs}", other.station));
        }
    }
    match known.iter().find(|other| other.station == record.station) {
        Some(same) if same == record => Ok(Standing::Same),
        Some(old) if old.tenant != record.tenant || old.factory.key() != record.factory.key() => {
            refuse(format!(
                "station {} is registered for tenant {} with another factory CA; another key needs another name",
                old.station, old.tenant
            ))
        }
        Some(old) if old.signed_at_s > record.signed_at_s => {
            refuse(format!("a newer record of station {} is registered", old.station))
        }
        _ => Ok(Standing::New),
    }
}

async fn put(
    tx: &mut Connection,
    actor: &Actor,
    record: &StationRecord,
    bytes: &[u8],
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
        reason: "",
        detail: json!({
            "tenant": record.tenant.as_str(),
            "quota": record.quota,
            "serials": record.serials.to_string(),
            "manifest_key": hex::encode(record.manifest_key.digest()),
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
