//! What the file says, into the verdicts: when the registry opens, and when a commit failed and only the
//! file knows what became of it.

use std::collections::HashMap;

use data_encoding::HEXLOWER_PERMISSIVE;
use futures_util::{Stream, TryStreamExt as _};
use muster_shared::{CertificateId, Generation};

use super::{
    Inner, continuity,
    database::{Connection, Kind, int, kind_of, parse, uint},
    error::RegistryError,
    members::{BatchKey, IssuerKey},
    rules, station,
    verdict::{CertificateStatus, DeviceName},
};

/// Devices of a row, in the statements below.
pub(super) const TOGETHER: usize = 1024;

/// A statement of many rows, each the text of 1024 devices' lines, `;` between them. A row costs a few
/// microseconds on its way out of the database, whatever is in it. And the database is at the next rows while
/// one is read here: a few dozen of them wait, of some tens of kilobytes each.
///
/// `lines` names each `line`, of the devices from `chunk.first` on and below `chunk.first + 1024`. The chunks
/// come as they are made, in order: both databases append to a recursion's rows. `$1` is the largest row.
macro_rules! together {
    ($lines:literal) => {
        concat!(
            "WITH RECURSIVE chunk (first) AS (SELECT CAST(0 AS BIGINT) UNION ALL
                 SELECT first + 1024 FROM chunk WHERE first + 1024 <= $1)
             SELECT (SELECT string_agg(line, ';') FROM (",
            $lines,
            ") AS lines) FROM chunk"
        )
    };
}

const DEVICES: &str = together!(
    "SELECT concat_ws(' ', id, tenant, device_id, state, batch, nullif(serial, device_id)) AS line
     FROM device WHERE id >= chunk.first AND id < chunk.first + 1024 ORDER BY id"
);

impl Inner {
    /// Reads every verdict from the file; the longest part of it sooner with a connection `beside`.
    pub(super) async fn load(
        &self,
        connection: &mut Connection,
        beside: Option<&mut Connection>,
    ) -> Result<(), RegistryError> {
        rules::load(self, connection).await?;
        issuers(self, connection).await?;
        devices(self, connection, beside).await?;
        continuity::load(self, connection).await?;
        let (generation,): (i64,) =
            sqlx::query_as("SELECT generation FROM registry WHERE one = 1").fetch_one(connection).await?;
        self.verdicts.set_generation(Generation(uint(generation)));
        Ok(())
    }
}

/// Loads every registered factory CA. A record that the root's signature no longer covers vouches for nobody.
async fn issuers(inner: &Inner, connection: &mut Connection) -> Result<(), RegistryError> {
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

/// The certificates of devices; how octets become hexadecimal digits is the databases' own.
fn certificates_of(connection: &Connection) -> &'static str {
    match kind_of(connection) {
        Kind::Sqlite => together!(
            "SELECT concat_ws(' ', hex(id), device, hex(issuer_key_id), not_after_s, status) AS line
             FROM certificate WHERE device >= chunk.first AND device < chunk.first + 1024 ORDER BY device"
        ),
        Kind::Postgres => together!(
            "SELECT concat_ws(' ', encode(id, 'hex'), device, encode(issuer_key_id, 'hex'), not_after_s, status)
                 AS line
             FROM certificate WHERE device >= chunk.first AND device < chunk.first + 1024 ORDER BY device"
        ),
    }
}

/// Devices and certificates, into the verdicts; both at once where there is a connection `beside` that sees
/// the same rows: the database gathers on two processors then.
async fn devices(
    inner: &Inner,
    connection: &mut Connection,
    beside: Option<&mut Connection>,
) -> Result<(), RegistryError> {
    let batches = batches(inner, connection).await?;
    let last = int(size(connection).await? as u64);
    let certificates = certificates_of(connection);
    let mut issuer = LastIssuer::default();
    let device = |text: &str| lines(text, "device", |line| device(inner, &batches, line));
    let mut certificate =
        |text: &str| lines(text, "certificate", |line| certificate(inner, &mut issuer, line));
    match beside {
        Some(beside) => {
            let (mut devices, mut certificates) =
                (chunks(connection, DEVICES, last), chunks(beside, certificates, last));
            while let Some(text) = devices.try_next().await? {
                device(&text)?;
                // Those of the same devices.
                if let Some(text) = certificates.try_next().await? {
                    certificate(&text)?;
                }
            }
        }
        None => {
            let mut devices = chunks(connection, DEVICES, last);
            while let Some(text) = devices.try_next().await? {
                device(&text)?;
            }
            drop(devices);
            let mut certificates = chunks(connection, certificates, last);
            while let Some(text) = certificates.try_next().await? {
                certificate(&text)?;
            }
        }
    }
    Ok(())
}

/// The rows of a statement made by [`together`], one for every 1024 devices.
fn chunks<'c>(
    connection: &'c mut Connection,
    sql: &'static str,
    last: i64,
) -> impl Stream<Item = Result<String, sqlx::Error>> + Unpin + 'c {
    let rows = sqlx::query_as::<_, (Option<String>,)>(sql).bind(last).fetch(connection);
    rows.map_ok(|(text,)| text.unwrap_or_default())
}

/// Hands over every line of a row; `None` for one that is not what was written.
fn lines(text: &str, what: &str, mut take: impl FnMut(&str) -> Option<()>) -> Result<(), RegistryError> {
    for line in text.split(';').filter(|_| !text.is_empty()) {
        take(line).ok_or_else(|| RegistryError::Damaged(format!("a {what}'s row is {line:?}")))?;
    }
    Ok(())
}

fn device(inner: &Inner, batches: &HashMap<i64, BatchKey>, line: &str) -> Option<()> {
    let mut words = line.split(' ');
    let row = words.next()?.parse().ok()?;
    let (tenant, id) = (words.next()?.parse().ok()?, words.next()?);
    let state = words.next()?.parse().ok()?;
    let batch = batches.get(&words.next()?.parse().ok()?)?;
    let serial = words.next().unwrap_or(id).parse().ok()?;
    let name = DeviceName { tenant, device_id: id.parse().ok()?, serial };
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
    let id = digest(words.next()?)?;
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

/// A SHA-256 of 64 digits, each looked up in a table: a comparison for each that goes either way by chance is
/// a fifth of a start.
fn digest(digits: &str) -> Option<[u8; 32]> {
    let mut octets = [0; 32];
    let read =
        HEXLOWER_PERMISSIVE.decode_mut(digits.as_bytes(), (digits.len() == 64).then_some(&mut octets)?);
    (read.ok()? == octets.len()).then_some(octets)
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
