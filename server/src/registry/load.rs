//! What the file says, into the verdicts: when the registry opens, and when a commit failed and only the
//! file knows what became of it.

use std::collections::HashMap;

use muster_shared::CertificateId;

use super::{
    Inner,
    database::{Connection, Kind, int, kind_of, parse, uint},
    error::RegistryError,
    members::{BatchKey, IssuerKey},
    station,
    verdict::{CertificateStatus, DeviceName},
};

/// Devices read in one row: their text is some hundreds of kilobytes.
const TOGETHER: i64 = 8192;

/// Loads every registered factory CA. A record that the root's signature no longer covers vouches for nobody.
pub(super) async fn issuers(inner: &Inner, connection: &mut Connection) -> Result<(), RegistryError> {
    let Some(root) = station::root(connection).await? else { return Ok(()) };
    for record in station::records(connection, &station::read_root(&root)?).await? {
        inner.verdicts.put_issuer(station::issuer(&record));
    }
    Ok(())
}

/// How many devices there are, about, and so certificates in use: what room is made for.
pub(super) async fn size(connection: &mut Connection) -> Result<usize, RegistryError> {
    // The largest row id: a count would read every row.
    let (devices,): (i64,) =
        sqlx::query_as("SELECT coalesce(max(id), 0) FROM device").fetch_one(connection).await?;
    Ok(uint(devices) as usize)
}

/// The certificates of some devices as one text; how octets become hexadecimal digits is the databases' own.
fn certificates_of(connection: &Connection) -> &'static str {
    match kind_of(connection) {
        Kind::Sqlite => {
            "SELECT string_agg(hex(id) || ' ' || device || ' ' || hex(issuer_key_id) || ' ' || not_after_s
             || ' ' || status, ';')
             FROM (SELECT id, device, issuer_key_id, not_after_s, status FROM certificate
                   WHERE device >= $1 AND device < $2 ORDER BY device) AS chunk"
        }
        Kind::Postgres => {
            "SELECT string_agg(encode(id, 'hex') || ' ' || device || ' ' || encode(issuer_key_id, 'hex')
             || ' ' || not_after_s || ' ' || status, ';')
             FROM (SELECT id, device, issuer_key_id, not_after_s, status FROM certificate
                   WHERE device >= $1 AND device < $2 ORDER BY device) AS chunk"
        }
    }
}

/// Devices and certificates, into the verdicts.
///
/// A row costs a few microseconds on its way out of the database, whatever is in it; so the database joins
/// the text of many devices into one row, and their certificates into another.
pub(super) async fn devices(inner: &Inner, connection: &mut Connection) -> Result<(), RegistryError> {
    let batches = batches(inner, connection).await?;
    let devices = size(connection).await?;
    for first in (0..=int(devices as u64)).step_by(TOGETHER as usize) {
        let (text,): (Option<String>,) = sqlx::query_as(
            "SELECT string_agg(id || ' ' || tenant || ' ' || device_id || ' ' || serial || ' ' || state
             || ' ' || batch, ';')
             FROM (SELECT id, tenant, device_id, serial, state, batch FROM device
                   WHERE id >= $1 AND id < $2 ORDER BY id) AS chunk",
        )
        .bind(first)
        .bind(first + TOGETHER)
        .fetch_one(&mut *connection)
        .await?;
        for line in text.iter().flat_map(|text| text.split(';')) {
            device(inner, &batches, line)
                .ok_or_else(|| RegistryError::Damaged(format!("a device's row is {line:?}")))?;
        }
        let (text,): (Option<String>,) = sqlx::query_as(certificates_of(connection))
            .bind(first)
            .bind(first + TOGETHER)
            .fetch_one(&mut *connection)
            .await?;
        let mut issuer = LastIssuer::default();
        for line in text.iter().flat_map(|text| text.split(';')) {
            certificate(inner, &mut issuer, line)
                .ok_or_else(|| RegistryError::Damaged(format!("a certificate's row is {line:?}")))?;
        }
    }
    Ok(())
}

fn device(inner: &Inner, batches: &HashMap<i64, BatchKey>, line: &str) -> Option<()> {
    let mut words = line.split(' ');
    let row = words.next()?.parse().ok()?;
    let name = DeviceName {
        tenant: words.next()?.parse().ok()?,
        device_id: words.next()?.parse().ok()?,
        serial: words.next()?.parse().ok()?,
    };
    let state = words.next()?.parse().ok()?;
    let batch = batches.get(&words.next()?.parse().ok()?)?;
    inner.verdicts.put_device(row, &name, state, *batch);
    words.next().is_none().then_some(())
}

/// Certificates in a row are of one CA, mostly.
#[derive(Default)]
struct LastIssuer {
    key_id: String,
    key: Option<IssuerKey>,
}

fn certificate(inner: &Inner, last: &mut LastIssuer, line: &str) -> Option<()> {
    let mut words = line.split(' ');
    let mut id = [0; 32];
    hex::decode_to_slice(words.next()?, &mut id).ok()?;
    let device = inner.verdicts.by_row(words.next()?.parse().ok()?)?;
    let issuer = words.next()?;
    if last.key.is_none() || last.key_id != issuer {
        let key_id = hex::decode(issuer).ok()?;
        *last = LastIssuer { key_id: issuer.to_owned(), key: Some(inner.verdicts.put_issuer_key(&key_id)) };
    }
    let not_after_s = words.next()?.parse().ok()?;
    let status = CertificateStatus::from_word(words.next()?)?;
    inner.verdicts.put_certificate(&CertificateId(id), device, last.key?, status, not_after_s);
    words.next().is_none().then_some(())
}

/// Every batch by its row.
async fn batches(
    inner: &Inner,
    connection: &mut Connection,
) -> Result<HashMap<i64, BatchKey>, RegistryError> {
    let rows: Vec<(i64, String, String, String)> = sqlx::query_as(
        "SELECT batch.id, station.tenant, station.name, batch.name
         FROM batch JOIN station ON station.id = batch.station",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|(row, tenant, station, name)| {
            let tenant = parse(tenant, "a station's tenant")?;
            let (station, name) = (parse(station, "a station's name")?, parse(name, "a batch's name")?);
            Ok((*row, inner.verdicts.put_batch(*row, &tenant, &station, &name)))
        })
        .collect()
}
