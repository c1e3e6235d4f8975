//! One device's page, and what a listing shows of a device.

use std::collections::HashMap;

use muster_shared::{BatchId, CertificateId, Code, DeviceId, SerialNumber, StationId, Tenant};
use sqlx::{Connection as _, Row as _};

use super::{
    Inner,
    audit::{self, AuditRow},
    database::{Connection, QueryBuilder, Row, digest, parse, uint},
    decide::{self, RevocationReason, Target},
    device::DeviceState,
    error::RegistryError,
    label::{self, Labels},
    readings::{Malformed, Readings},
    replace::{self, Places},
    session::{DisconnectReason, SessionId, words},
    verdict::{CertificateStatus, DeviceKey},
};

pub use super::readings::ReadingRow;

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// What to ask for the next page with; `None` on the last.
    pub next: Option<String>,
    /// How many match in all: so many at least, unless `exact`.
    pub total: u64,
    /// Whether those are all.
    pub exact: bool,
}

/// A device in a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceRow {
    /// Its key in this process: what the roster knows it by.
    pub key: DeviceKey,
    /// Whose.
    pub tenant: Tenant,
    /// Its name on topics.
    pub device_id: DeviceId,
    /// The number on its label.
    pub serial: SerialNumber,
    /// Its own state.
    pub state: DeviceState,
    /// The state that is in force: its own, or what a group it is in holds it in, where that is graver.
    pub in_force: DeviceState,
    /// The order it was made in.
    pub batch: BatchId,
    /// Where it was made.
    pub station: StationId,
    /// What it is.
    pub product: String,
    /// The certificate it uses.
    pub certificate: CertificateId,
    /// That certificate's last good second, Unix seconds.
    pub not_after_s: i64,
    /// When its manifest was imported, Unix milliseconds.
    pub registered_at_ms: u64,
    /// When it first connected.
    pub first_connected_ms: Option<u64>,
    /// When its state last changed.
    pub changed_at_ms: u64,
    /// When it was last heard of.
    pub last_seen_ms: Option<u64>,
    /// Its newest session.
    pub session: Option<SessionRow>,
    /// Refusals in the last 24 hours.
    pub refused_24h: u64,
    /// The newest refusal.
    pub last_refusal: Option<RefusalRow>,
    /// What it reported to run.
    pub firmware: Option<String>,
    /// Key identifier of the CA that issued its certificate, lower-case hexadecimal.
    pub issuer: String,
    /// Whether it needs somebody: 3 quarantined, 2 refused lately, 1 its certificate ends soon, 0 no.
    pub attention: u8,
    /// What an operator wrote on it.
    pub note: Option<String>,
    /// Why it may not talk now, by its own state or by a decision about a group it is in.
    pub refused_as: Option<Code>,
}

/// Everything about one device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceDetail {
    /// What the listing shows.
    pub row: DeviceRow,
    /// Why it is in its own state: the audit row of the last change.
    pub why: Option<AuditRow>,
    /// The decision about a group that puts another state in force.
    pub held_by: Option<AuditRow>,
    /// Every certificate it has had, newest first.
    pub certificates: Vec<CertificateRow>,
    /// Its last sessions, newest first.
    pub sessions: Vec<SessionRow>,
    /// Its refusals by code and minute, newest first.
    pub refusals: Vec<RefusalRow>,
    /// What was decided about it, newest first.
    pub history: Vec<AuditRow>,
    /// The newest value of each of its sensors, by name.
    pub readings: Vec<ReadingRow>,
    /// The last decision that ended its sessions, and how that went.
    pub enforcement: Option<EnforcementRow>,
    /// What operators wrote on it.
    pub labels: Labels,
    /// Who took its place, and whose place it took.
    pub places: Places,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRow {
    /// SHA-256 of its DER.
    pub id: CertificateId,
    /// What the registry holds against it.
    pub status: CertificateStatus,
    /// Itself.
    pub der: Vec<u8>,
    /// Key identifier of the CA that issued it.
    pub issuer: Vec<u8>,
    /// Before whom the device has proven that it holds the key; `None`: nobody who is known here.
    pub proven: Option<Proven>,
    /// First good second, Unix seconds.
    pub not_before_s: i64,
    /// Last good second.
    pub not_after_s: i64,
    /// Why and when it was revoked (Unix milliseconds).
    pub revoked: Option<(RevocationReason, u64)>,
}

words!(
    /// Before whom a device has proven that it holds its certificate's key.
    Proven, "proof of a key", {
        /// Its station, whose signed manifest names it: a unit passes after it has answered a challenge.
        Station = "station",
        /// This server, in the handshake of a session.
        Handshake = "handshake",
    }
);

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Its name.
    pub id: SessionId,
    /// When it began, Unix milliseconds.
    pub began_at_ms: u64,
    /// From where.
    pub remote: String,
    /// MQTT protocol level: 4 is 3.1.1, 5 is 5.0.
    pub protocol: u8,
    /// When and why it ended; `None` while it lives.
    pub ended: Option<(u64, DisconnectReason)>,
}

/// Refusals of one code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalRow {
    /// Why.
    pub code: Code,
    /// In which minute: its first millisecond.
    pub minute_ms: u64,
    /// How many in it.
    pub count: u64,
    /// The newest of them.
    pub last_at_ms: u64,
    /// Where that came from, when known.
    pub remote: Option<String>,
}

/// How a decision that ends sessions went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnforcementRow {
    /// When it was decided, Unix milliseconds.
    pub decided_at_ms: u64,
    /// When the last of its sessions was closed; `None` while one may live.
    pub enforced_at_ms: Option<u64>,
    /// How many were closed.
    pub sessions_ended: u64,
}

/// Most rows a page has.
pub const PAGE_MAX: u32 = 1000;
/// The urgency of what needs nobody.
const CALM: u8 = 3;
/// Sessions, refusals and decisions that one device's page shows.
const LATEST: i64 = 50;

/// What every listing of devices reads.
const DEVICES: &str = "SELECT device.id, device.tenant, device.device_id, device.serial, device.state,
    device.registered_at_ms, device.first_connected_ms, device.changed_at_ms, device.refused, device.firmware,
    device.urgency, newest.seen_ms AS last_seen_ms, note.text AS note,
    batch.name AS batch, batch.product, station.name AS station,
    certificate.id AS certificate, certificate.not_after_s, certificate.issuer_key_id,
    session.id AS session, session.began_at_ms, session.remote, session.protocol, session.ended_at_ms, session.reason
    FROM device
    JOIN batch ON batch.id = device.batch
    JOIN station ON station.id = batch.station
    JOIN certificate ON certificate.id = device.certificate
    LEFT JOIN newest ON newest.device = device.id
    LEFT JOIN session ON session.id = device.session
    LEFT JOIN note ON note.device = device.id
    WHERE device.id IN (";

/// The devices with these numbers, in their order.
pub(super) async fn rows(
    inner: &Inner,
    connection: &mut Connection,
    ids: &[i64],
) -> Result<Vec<DeviceRow>, RegistryError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = QueryBuilder::new(DEVICES);
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(*id);
    }
    query.push(")");
    let mut found = HashMap::with_capacity(ids.len());
    for row in query.build().fetch_all(&mut *connection).await? {
        found.insert(row.try_get::<i64, _>("id")?, device_row(inner, &row)?);
    }
    let mut items = Vec::with_capacity(ids.len());
    for id in ids {
        let Some(mut item) = found.remove(id) else { continue };
        if item.refused_24h > 0 {
            item.last_refusal = refusals(connection, Some(*id), 1).await?.pop();
        }
        items.push(item);
    }
    Ok(items)
}

fn device_row(inner: &Inner, row: &Row) -> Result<DeviceRow, RegistryError> {
    let text = |column: &str| row.try_get::<String, _>(column);
    let number = |column: &str| row.try_get::<i64, _>(column).map(uint);
    let maybe = |column: &str| row.try_get::<Option<i64>, _>(column).map(|at| at.map(uint));
    let id: i64 = row.try_get("id")?;
    let key = inner.verdicts.of_row(id)?;
    let session = match maybe("session")? {
        None => None,
        Some(session) => Some(SessionRow {
            id: SessionId(session),
            began_at_ms: number("began_at_ms")?,
            remote: text("remote")?,
            protocol: protocol(row.try_get("protocol")?)?,
            ended: ended(maybe("ended_at_ms")?, row.try_get("reason")?)?,
        }),
    };
    let state = parse(&text("state")?, "a device's state")?;
    let certificate = CertificateId(digest(row.try_get("certificate")?, "a certificate's id")?);
    let (in_force, refused_as) = inner.verdicts.in_force(key, &certificate, state);
    // What memory has is never let go of, so it may be asked after the row.
    let last_seen_ms = match state {
        DeviceState::Decommissioned => None,
        _ => maybe("last_seen_ms")?.max(inner.newest.seen_ms(key)),
    };
    Ok(DeviceRow {
        key,
        tenant: parse(&text("tenant")?, "a device's tenant")?,
        device_id: parse(&text("device_id")?, "a device's id")?,
        serial: parse(&text("serial")?, "a device's serial")?,
        state,
        in_force,
        batch: parse(&text("batch")?, "a batch's name")?,
        station: parse(&text("station")?, "a station's name")?,
        product: text("product")?,
        certificate,
        not_after_s: row.try_get("not_after_s")?,
        registered_at_ms: number("registered_at_ms")?,
        first_connected_ms: maybe("first_connected_ms")?,
        changed_at_ms: number("changed_at_ms")?,
        last_seen_ms,
        session,
        refused_24h: number("refused")?,
        last_refusal: None,
        firmware: Some(text("firmware")?).filter(|firmware| !firmware.is_empty()),
        issuer: hex::encode(row.try_get::<Vec<u8>, _>("issuer_key_id")?),
        attention: attention(in_force, row.try_get("urgency")?),
        note: row.try_get("note")?,
        refused_as,
    })
}

/// Whether a device needs somebody, by the state in force; `urgency` is what its own state comes to. What a
/// listing is sorted by says the same: [`held::urgency`](super::held::urgency).
fn attention(in_force: DeviceState, urgency: i64) -> u8 {
    match in_force {
        DeviceState::Quarantined => CALM,
        DeviceState::Revoked | DeviceState::Decommissioned => 0,
        _ => CALM - u8::try_from(urgency).unwrap_or(CALM).min(CALM),
    }
}

fn ended(
    at_ms: Option<u64>,
    reason: Option<String>,
) -> Result<Option<(u64, DisconnectReason)>, RegistryError> {
    match (at_ms, reason) {
        (Some(at_ms), Some(reason)) => Ok(Some((at_ms, parse(&reason, "a disconnect reason")?))),
        _ => Ok(None),
    }
}

pub(super) async fn device(inner: &Inner, target: &Target) -> Result<DeviceDetail, RegistryError> {
    let mut connection = inner.database.readers().acquire().await?;
    let id = decide::find(&mut connection, target).await?;
    // Before the row is read.
    let newest = inner.verdicts.by_row(id).map(|device| inner.newest.readings(device)).unwrap_or_default();
    let mut snapshot = connection.begin().await?;
    let row = rows(inner, &mut snapshot, &[id]).await?.pop();
    let mut row = row.ok_or_else(|| RegistryError::Damaged(format!("device row {id} is not whole")))?;
    let refusals = refusals(&mut snapshot, Some(id), LATEST).await?;
    row.last_refusal = refusals.first().cloned();
    // What was decided about its groups was decided about it.
    let mut about = inner.verdicts.groups(row.key, &row.certificate);
    let held_by = match row.in_force {
        state if state == row.state => None,
        state => held_by(&mut snapshot, &about, state).await?,
    };
    about.push(format!("{}/{}", row.tenant, row.serial));
    let history = audit::about(&mut snapshot, &about, LATEST).await?;
    let readings = match row.state {
        DeviceState::Decommissioned => Vec::new(),
        _ => newest.onto(readings(&mut snapshot, id).await?).sorted(),
    };
    Ok(DeviceDetail {
        why: why(&mut snapshot, id).await?,
        held_by,
        certificates: certificates(&mut snapshot, id).await?,
        sessions: sessions(&mut snapshot, id).await?,
        readings,
        enforcement: enforcement(&mut snapshot, id).await?,
        labels: label::read(&mut snapshot, id).await?,
        places: replace::places(&mut snapshot, id).await?,
        row,
        refusals,
        history,
    })
}

async fn why(connection: &mut Connection, id: i64) -> Result<Option<AuditRow>, RegistryError> {
    let (no,): (i64,) = sqlx::query_as("SELECT changed_no FROM device WHERE id = $1")
        .bind(id)
        .fetch_one(&mut *connection)
        .await?;
    decision(connection, no).await
}

/// The newest rule about one of these groups, as the audit log names them, that holds its members in a state.
async fn held_by(
    connection: &mut Connection,
    groups: &[String],
    state: DeviceState,
) -> Result<Option<AuditRow>, RegistryError> {
    let mut newest = None;
    for (kind, value) in groups.iter().filter_map(|group| group.split_once(' ')) {
        let made: Option<(i64,)> = sqlx::query_as(
            "SELECT audit_no FROM rule WHERE kind = $1 AND value = $2 AND lifted IS NULL AND state = $3",
        )
        .bind(kind)
        .bind(value)
        .bind(state.as_str())
        .fetch_optional(&mut *connection)
        .await?;
        newest = newest.max(made.map(|(no,)| no));
    }
    match newest {
        Some(no) => decision(connection, no).await,
        None => Ok(None),
    }
}

async fn decision(connection: &mut Connection, no: i64) -> Result<Option<AuditRow>, RegistryError> {
    let rows = audit::list(connection, uint(no).saturating_sub(1), 1).await?;
    Ok(rows.into_iter().find(|row| row.no == uint(no)))
}

async fn certificates(connection: &mut Connection, id: i64) -> Result<Vec<CertificateRow>, RegistryError> {
    type Row = (Vec<u8>, String, Vec<u8>, Vec<u8>, i64, i64, Option<i64>, Option<String>, i64, i64);
    // What a manifest vouches for is what the device was registered with; of that one the first connection is,
    // which comes before there can be another.
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT certificate.id, certificate.status, certificate.der, certificate.issuer_key_id,
            certificate.not_before_s, certificate.not_after_s, certificate.revoked_at_ms, certificate.revoked_reason,
            CAST(CASE WHEN certificate.added_at_ms = device.registered_at_ms
                AND EXISTS (SELECT 1 FROM manifest WHERE manifest.batch = device.batch
                    AND manifest.imported_at_ms = device.registered_at_ms) THEN 1 ELSE 0 END AS BIGINT),
            CAST(CASE WHEN certificate.added_at_ms = device.registered_at_ms
                AND device.first_connected_ms IS NOT NULL THEN 1 ELSE 0 END AS BIGINT)
         FROM certificate JOIN device ON device.id = certificate.device
         WHERE certificate.device = $1 ORDER BY certificate.added_at_ms DESC, certificate.not_after_s DESC",
    )
    .bind(id)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(id, status, der, issuer, not_before_s, not_after_s, at, reason, made, shown)| {
            let reason: Option<RevocationReason> =
                reason.map(|reason| parse(&reason, "a revocation reason")).transpose()?;
            Ok(CertificateRow {
                id: CertificateId(digest(&id, "a certificate's id")?),
                status: CertificateStatus::from_word(&status)
                    .ok_or_else(|| RegistryError::Damaged(format!("a certificate's status is {status:?}")))?,
                der,
                issuer,
                proven: match (made, shown) {
                    (1, _) => Some(Proven::Station),
                    (_, 1) => Some(Proven::Handshake),
                    _ => None,
                },
                not_before_s,
                not_after_s,
                revoked: reason.zip(at.map(uint)),
            })
        })
        .collect()
}

async fn sessions(connection: &mut Connection, id: i64) -> Result<Vec<SessionRow>, RegistryError> {
    type Row = (i64, i64, String, i64, Option<i64>, Option<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, began_at_ms, remote, protocol, ended_at_ms, reason
         FROM session WHERE device = $1 ORDER BY id DESC LIMIT $2",
    )
    .bind(id)
    .bind(LATEST)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(id, began, remote, level, at, reason)| {
            Ok(SessionRow {
                id: SessionId(uint(id)),
                began_at_ms: uint(began),
                remote,
                protocol: protocol(level)?,
                ended: ended(at.map(uint), reason)?,
            })
        })
        .collect()
}

/// A protocol level as it was written.
fn protocol(level: i64) -> Result<u8, RegistryError> {
    u8::try_from(level).map_err(|_| RegistryError::Damaged(format!("a session's protocol is {level}")))
}

async fn refusals(
    connection: &mut Connection,
    id: Option<i64>,
    limit: i64,
) -> Result<Vec<RefusalRow>, RegistryError> {
    let rows: Vec<(String, i64, i64, i64, Option<String>)> = sqlx::query_as(
        "SELECT code, minute_ms, count, last_at_ms, remote FROM refusal WHERE device = $1
         ORDER BY minute_ms DESC, last_at_ms DESC LIMIT $2",
    )
    .bind(id)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(code, minute, count, last, remote)| {
            Ok(RefusalRow {
                code: parse(&code, "a refusal's code")?,
                minute_ms: uint(minute),
                count: uint(count),
                last_at_ms: uint(last),
                remote,
            })
        })
        .collect()
}

/// What the row has of its sensors.
async fn readings(connection: &mut Connection, id: i64) -> Result<Readings, RegistryError> {
    let kept: Option<(Option<Vec<u8>>,)> = sqlx::query_as("SELECT readings FROM newest WHERE device = $1")
        .bind(id)
        .fetch_optional(connection)
        .await?;
    let kept = kept.and_then(|(readings,)| readings).map(|kept| Readings::read(&kept)).transpose();
    let damaged = |error: Malformed| RegistryError::Damaged(format!("device row {id}: {error}"));
    Ok(kept.map_err(damaged)?.unwrap_or_default())
}

async fn enforcement(connection: &mut Connection, id: i64) -> Result<Option<EnforcementRow>, RegistryError> {
    let row: Option<(i64, Option<i64>, i64)> = sqlx::query_as(
        "SELECT decided_at_ms, enforced_at_ms, sessions_ended FROM enforcement
         WHERE device = $1 ORDER BY generation DESC LIMIT 1",
    )
    .bind(id)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|(decided, enforced, ended)| EnforcementRow {
        decided_at_ms: uint(decided),
        enforced_at_ms: enforced.map(uint),
        sessions_ended: uint(ended),
    }))
}
