//! Devices from a list of their certificates, which no manifest speaks for: what an operator brings over from
//! elsewhere, and devices that ask to be registered by their first connection.
//!
//! A certificate still has to be a birth certificate that a registered station's factory CA has signed, of
//! its tenant and within its serials and its quota: a list brings devices in, it vouches for none. Each row
//! is judged alone and told so; the same list again changes nothing; a tombstone stands against a row as it
//! does in a manifest.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use muster_pki::{DeviceIdentity, StationRecord, parallel, profile::Profile};
use muster_shared::{BatchId, CertificateId, Code, SerialNumber};
use serde_json::json;
use tokio::task::spawn_blocking;

use super::{
    bulk, flip, number, reopen,
    rows::{self, Candidate, Taken},
};
use crate::registry::{
    Inner,
    actor::{Actor, Scope},
    audit::{self, Entry, Stamp},
    changes::What,
    database::Connection,
    error::RegistryError,
    now_ms, station,
};

/// Devices to be taken in together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The batch they are to be of, within each's station.
    pub batch: BatchId,
    /// What they are, where the batch is new.
    pub product: String,
    /// The list.
    pub rows: Vec<ListedRow>,
    /// Who offers them.
    pub offered: Offered,
}

/// Who offers the devices of a list: the audit log says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// Whoever imports them.
    ByList,
    /// They themselves, each by its first connection: by its line, from which address.
    ByConnecting(BTreeMap<u64, IpAddr>),
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRow {
    /// Where it stands in the list, from 1.
    pub line: u64,
    /// The certificate, DER; why there is none otherwise.
    pub certificate: Result<Vec<u8>, String>,
    /// The serial the list gives beside it.
    pub serial: Option<String>,
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowReport {
    /// Where it stood.
    pub line: u64,
    /// The serial in the certificate, when it could be read.
    pub serial: Option<SerialNumber>,
    /// The certificate.
    pub certificate: Option<CertificateId>,
    /// What became of it.
    pub fate: Fate,
}

/// What becomes of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// A device is new with it.
    Registered,
    /// It was known before, exactly so.
    Already,
    /// It was not taken.
    Refused(Code, String),
}

/// A station that may vouch.
struct Vouching {
    id: i64,
    record: StationRecord,
    stopped: bool,
}

/// A row that was looked at: whose, and the device; or why not.
type Judged = Result<(usize, Candidate), Box<RowReport>>;

async fn stations(connection: &mut Connection) -> Result<Vec<Vouching>, RegistryError> {
    let Some(root) = station::root(connection).await? else { return Ok(Vec::new()) };
    let root = station::read_root(&root)?;
    let rows: Vec<(i64, Vec<u8>, Option<i64>)> =
        sqlx::query_as("SELECT id, record, stopped_at_ms FROM station ORDER BY id")
            .fetch_all(connection)
            .await?;
    rows.into_iter()
        .map(|(id, record, stopped)| {
            let record = StationRecord::verify(&record, &root)
                .map_err(|error| RegistryError::Damaged(format!("a station's record: {error}")))?;
            Ok(Vouching { id, record, stopped: stopped.is_some() })
        })
        .collect()
}

/// Looks at one row, without the database.
fn judge(row: ListedRow, stations: &[Vouching], scope: &Scope) -> Judged {
    let line = row.line;
    let refuse = |of: Option<&DeviceIdentity>, code, why: String| {
        let (serial, certificate) = (of.map(|of| of.serial.clone()), of.map(|of| of.id));
        Err(Box::new(RowReport { line, serial, certificate, fate: Fate::Refused(code, why) }))
    };
    let der = match row.certificate {
        Ok(der) => der,
        Err(why) => return refuse(None, Code::CertificateMissing, why),
    };
    let identity = match DeviceIdentity::from_certificate(&der) {
        Ok(identity) => identity,
        Err(error) => return refuse(None, Code::CertificateProfile, error.to_string()),
    };
    let of = Some(&identity);
    if identity.profile != Profile::Birth {
        return refuse(of, Code::CertificateProfile, "it is no birth certificate".to_owned());
    }
    if let Some(serial) = row.serial.filter(|serial| *serial != identity.serial.as_str()) {
        let why = format!("the list says {serial}, the certificate {}", identity.serial);
        return refuse(of, Code::SerialTaken, why);
    }
    // A station of another tenant does not exist for who may not see it.
    let issuer = |station: &Vouching| {
        scope.covers(&station.record.tenant)
            && station.record.factory.key_id()[..] == identity.issuer_key_id[..]
    };
    let Some(at) = stations.iter().position(issuer) else {
        let why = format!("no station has the factory CA {}", hex::encode(identity.issuer_key_id));
        return refuse(of, Code::IssuerUnknown, why);
    };
    let Vouching { record, stopped, .. } = &stations[at];
    if *stopped {
        return refuse(of, Code::ManifestFork, format!("station {} is stopped", record.station));
    }
    if record.tenant != identity.tenant {
        let why = format!("station {} makes devices of tenant {}", record.station, record.tenant);
        return refuse(of, Code::TenantForeign, why);
    }
    if record.serials.place(&identity.serial).is_none() {
        let why = format!("station {} may give {}", record.station, record.serials);
        return refuse(of, Code::ManifestRange, why);
    }
    if let Err(error) = record.factory.vouches_for(&der) {
        return refuse(of, Code::CertificateProfile, error.to_string());
    }
    Ok((at, Candidate { line, identity, der }))
}

/// Takes what can be taken: one decision, however many rows.
pub(in crate::registry) async fn import(
    inner: &Inner,
    actor: &Actor,
    list: Listed,
) -> Result<Vec<RowReport>, RegistryError> {
    let known = stations(&mut *inner.database.readers().acquire().await?).await?;
    let (Listed { batch, product, rows, offered: by }, scope) = (list, actor.scope.clone());
    // Signatures take most of the time: off the runtime, before anything is locked.
    let judged = spawn_blocking(move || parallel::map(rows, |_, row| judge(row, &known, &scope)));
    let judged = judged.await.map_err(|_| RegistryError::Closed)?;
    let mut reports = Vec::with_capacity(judged.len());
    let mut by_station: BTreeMap<usize, Vec<Candidate>> = BTreeMap::new();
    for row in judged {
        match row {
            Ok((station, candidate)) => by_station.entry(station).or_default().push(candidate),
            Err(report) => reports.push(*report),
        }
    }
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let stations = stations(&mut tx).await?;
    let offer = |row: &Candidate| (row.line, row.identity.serial.clone(), row.identity.id);
    let offered: BTreeMap<i64, Vec<_>> = by_station
        .iter()
        .map(|(station, rows)| (stations[*station].id, rows.iter().map(offer).collect()))
        .collect();
    let at_ms = now_ms();
    let mut all = Vec::new();
    for (station, candidates) in by_station {
        // A station that was registered meanwhile comes after these: their places are as they were.
        let station = &stations[station];
        let (row, taken) = take(&mut tx, station, &batch, &product, candidates, at_ms).await?;
        reports.extend(tell(&offered[&station.id], &taken));
        all.push((station, row, taken));
    }
    reports.sort_by_key(|report| report.line);
    let registered = count(&reports, |fate| *fate == Fate::Registered);
    if registered == 0 {
        // Not even the batch is made for nothing.
        return Ok(reports);
    }
    let stamp = record(&mut tx, actor, &batch, &by, &reports, at_ms).await?;
    for (station, _, taken) in &all {
        number(&mut tx, taken, stamp).await?;
        if !taken.devices.is_empty() {
            reopen(&mut tx, &station.record, &batch).await?;
        }
    }
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    for (station, row, taken) in all {
        flip(inner, taken, row, &station.record.tenant, &station.record.station, &batch);
    }
    inner.announce(stamp, What::Imported { batch, registered });
    Ok(reports)
}

fn count(reports: &[RowReport], fate: fn(&Fate) -> bool) -> u64 {
    reports.iter().filter(|report| fate(&report.fate)).count() as u64
}

/// The audit row.
async fn record(
    tx: &mut Connection,
    actor: &Actor,
    batch: &BatchId,
    by: &Offered,
    reports: &[RowReport],
    at_ms: u64,
) -> Result<Stamp, RegistryError> {
    let mut detail = json!({
        "registered": count(reports, |fate| *fate == Fate::Registered),
        "already": count(reports, |fate| *fate == Fate::Already),
        "refused": count(reports, |fate| matches!(fate, Fate::Refused(..))),
    });
    let action = match by {
        Offered::ByList => "device.import",
        Offered::ByConnecting(addresses) => {
            // Nobody has the list beside it: the row itself says who came in, and from where.
            let new = reports.iter().filter(|report| report.fate == Fate::Registered);
            let devices = new.map(|report| {
                json!({
                    "serial": report.serial.as_ref().map(ToString::to_string),
                    "certificate": report.certificate.map(|id| id.to_string()),
                    "address": addresses.get(&report.line).map(ToString::to_string),
                })
            });
            detail["devices"] = devices.collect();
            "device.zero-touch"
        }
    };
    let target = batch.as_str();
    let entry = Entry { actor, tenant: actor.tenant(), action, target, reason: "", detail };
    audit::append(tx, entry, at_ms).await
}

/// Takes one station's rows, as many at once as do not meet one another.
async fn take(
    tx: &mut Connection,
    station: &Vouching,
    batch: &BatchId,
    product: &str,
    candidates: Vec<Candidate>,
    at_ms: u64,
) -> Result<(i64, Taken), RegistryError> {
    let row = rows::open_batch(tx, station.id, batch, product, at_ms).await?;
    let made = rows::made(tx, station.id).await?;
    let mut taken = Taken::default();
    let mut chunk: Vec<Candidate> = Vec::with_capacity(bulk::ROWS);
    let mut names: HashSet<String> = HashSet::new();
    for candidate in candidates {
        let of = &candidate.identity;
        let own = [format!("s{}", of.serial), format!("d{}", of.device_id), hex::encode(of.key_digest)];
        if chunk.len() == bulk::ROWS || own.iter().any(|name| names.contains(name)) {
            let room = station.record.quota.saturating_sub(made + taken.devices.len() as u64);
            rows::take_some(tx, &mut taken, row, std::mem::take(&mut chunk), room, at_ms).await?;
            names.clear();
        }
        names.extend(own);
        chunk.push(candidate);
    }
    let room = station.record.quota.saturating_sub(made + taken.devices.len() as u64);
    rows::take_some(tx, &mut taken, row, chunk, room, at_ms).await?;
    Ok((row, taken))
}

/// What became of each row that was offered to the database.
fn tell(offered: &[(u64, SerialNumber, CertificateId)], taken: &Taken) -> Vec<RowReport> {
    let mut new: HashSet<_> = taken.devices.iter().map(|device| device.certificate).collect();
    let refused: HashMap<_, _> =
        taken.refused.iter().map(|row| (row.line, (row.code, row.why.clone()))).collect();
    let mut report = |(line, serial, certificate): &(u64, SerialNumber, CertificateId)| RowReport {
        line: *line,
        serial: Some(serial.clone()),
        certificate: Some(*certificate),
        fate: match refused.get(line) {
            Some((code, why)) => Fate::Refused(*code, why.clone()),
            // The same row twice is new once.
            None if new.remove(certificate) => Fate::Registered,
            None => Fate::Already,
        },
    };
    offered.iter().map(&mut report).collect()
}
