//! Everything the registry knows of its fleet, line by line: what another program reads.
//!
//! A line is one JSON object with its `kind`: `station`, `batch`, `manifest`, `device`, `certificate`, `label`,
//! `note`, `replacement`, `tombstone`, `twin`, `command`, `session`, `refusal`, `operator`, `token`, `job`, `hold`,
//! `audit`, in this order. Names say what belongs together; ids of rows, what a token lets in with, and keys are not
//! in it. Each line is whole; what changes while an export runs may be in it as it was or as it is.
//!
//! A row of the audit log has all that its digest covers, so it can be checked from its line; the whole chain can
//! be from an export of every tenant. What sensors said is in the uplink log, and has a route of its own
//! (`/v1/devices/{serial}/readings`); so has the log with its proof (`/v1/audit/export`).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use muster_shared::Tenant;
use serde_json::{Map, Value, json};
use sqlx::Row as _;

use super::{
    Inner, Registry, RegistryError,
    database::{Connection, Row},
};

/// Lines read at once.
const PAGE: i64 = 1000;
/// Manifests read at once: one is as large as an import may be.
const MANIFESTS: i64 = 1;

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exporting {
    tenant: String,
    kind: usize,
    after: Vec<Key>,
}

/// Part of a row's place in its listing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    Number(i64),
    Text(String),
}

/// A kind of line: how its rows are read, and by what they are in order. `$1` is the tenant or empty, then
/// come the parts of the place after which to read, then how many.
struct Kind {
    name: &'static str,
    sql: &'static str,
    /// Names of the columns of the place, and whether each is a text. They are not part of the line.
    key: &'static [(&'static str, bool)],
}

const KINDS: &[Kind] = &[
    Kind {
        name: "station",
        sql: "SELECT id AS k1, name AS station, tenant, trusted_at_ms, stopped_at_ms, stopped_why, last_sequence
              FROM station WHERE ($1 = '' OR tenant = $1) AND id > $2 ORDER BY id LIMIT $3",
        key: &[("k1", false)],
    },
    Kind {
        name: "batch",
        sql: "SELECT batch.id AS k1, batch.name AS batch, station.name AS station, station.tenant AS tenant,
                     batch.product AS product, batch.opened_at_ms AS opened_at_ms,
                     batch.closed_at_ms AS closed_at_ms
              FROM batch JOIN station ON station.id = batch.station
              WHERE ($1 = '' OR station.tenant = $1) AND batch.id > $2 ORDER BY batch.id LIMIT $3",
        key: &[("k1", false)],
    },
    Kind {
        name: "manifest",
        sql: "SELECT manifest.id AS k1, station.tenant AS tenant, station.name AS station, batch.name AS batch,
                     manifest.sequence AS sequence, manifest.digest AS digest, manifest.previous AS previous,
                     manifest.devices AS devices, manifest.imported_at_ms AS imported_at_ms,
                     manifest.imported_by AS imported_by, manifest.body AS body
              FROM manifest JOIN batch ON batch.id = manifest.batch JOIN station ON station.id = manifest.station
              WHERE ($1 = '' OR station.tenant = $1) AND manifest.id > $2 ORDER BY manifest.id LIMIT $3",
        key: &[("k1", false)],
    },
    Kind {
        name: "device",
        sql: "SELECT device.id AS k1, device.tenant AS tenant, device.device_id AS device_id,
                     device.serial AS serial, device.state AS state, batch.name AS batch,
                     station.name AS station, batch.product AS product,
                     device.registered_at_ms AS registered_at_ms,
                     device.first_connected_ms AS first_connected_ms,
                     device.changed_at_ms AS changed_at_ms, newest.seen_ms AS last_seen_ms
              FROM device JOIN batch ON batch.id = device.batch JOIN station ON station.id = batch.station
              LEFT JOIN newest ON newest.device = device.id
              WHERE ($1 = '' OR device.tenant = $1) AND device.id > $2 ORDER BY device.id LIMIT $3",
        key: &[("k1", false)],
    },
    Kind {
        name: "certificate",
        sql: "SELECT device.id AS k1, certificate.added_at_ms AS k2, certificate.not_after_s AS k3,
                     device.tenant AS tenant, device.device_id AS device_id, device.serial AS serial,
                     certificate.id AS certificate_id, certificate.status AS status,
                     certificate.not_before_s AS not_before_s, certificate.not_after_s AS not_after_s,
                     certificate.revoked_at_ms AS revoked_at_ms, certificate.revoked_reason AS revoked_reason,
                     certificate.der AS certificate
              FROM certificate JOIN device ON device.id = certificate.device
              WHERE ($1 = '' OR device.tenant = $1)
                AND (certificate.device, certificate.added_at_ms, certificate.not_after_s) > ($2, $3, $4)
              ORDER BY certificate.device, certificate.added_at_ms, certificate.not_after_s LIMIT $5",
        key: &[("k1", false), ("k2", false), ("k3", false)],
    },
    Kind {
        name: "label",
        sql: "SELECT label.device AS k1, label.kind AS k2, label.word AS k3, device.tenant AS tenant, device.device_id AS device_id,
                     device.serial AS serial,
                     label.kind AS list, label.word AS word
              FROM label JOIN device ON device.id = label.device
              WHERE ($1 = '' OR device.tenant = $1) AND (label.device, label.kind, label.word) > ($2, $3, $4)
              ORDER BY label.device, label.kind, label.word LIMIT $5",
        key: &[("k1", false), ("k2", true), ("k3", true)],
    },
    Kind {
        name: "note",
        sql: "SELECT note.device AS k1, device.tenant AS tenant, device.device_id AS device_id,
                     device.serial AS serial, note.text AS text, note.author AS author, note.at_ms AS at_ms
              FROM note JOIN device ON device.id = note.device
              WHERE ($1 = '' OR device.tenant = $1) AND note.device > $2 ORDER BY note.device LIMIT $3",
        key: &[("k1", false)],
    },
    Kind {
        name: "replacement",
        sql: "SELECT replacement.device AS k1, device.tenant AS tenant, device.device_id AS device_id,
                     device.serial AS serial,
                     other.serial AS successor, replacement.at_ms AS at_ms
              FROM replacement JOIN device ON device.id = replacement.device
              JOIN device other ON other.id = replacement.successor
              WHERE ($1 = '' OR device.tenant = $1) AND replacement.device > $2
              ORDER BY replacement.device LIMIT $3",
        key: &[("k1", false)],
    },
    Kind {
        name: "tombstone",
        sql: "SELECT tombstone.kind AS k1, tombstone.value AS k2, device.tenant AS tenant, device.device_id AS device_id,
                     device.serial AS serial,
                     tombstone.kind AS of, tombstone.value AS value, tombstone.generation AS generation,
                     tombstone.at_ms AS at_ms
              FROM tombstone JOIN device ON device.id = tombstone.device
              WHERE ($1 = '' OR device.tenant = $1) AND (tombstone.kind, tombstone.value) > ($2, $3)
              ORDER BY tombstone.kind, tombstone.value LIMIT $4",
        key: &[("k1", true), ("k2", true)],
    },
    Kind {
        name: "twin",
        sql: "SELECT twin.device AS k1, device.tenant AS tenant, device.device_id AS device_id,
                     device.serial AS serial, twin.desired AS desired, twin.version AS version,
                     twin.author AS author, twin.at_ms AS at_ms
              FROM twin JOIN device ON device.id = twin.device
              WHERE ($1 = '' OR device.tenant = $1) AND twin.device > $2 ORDER BY twin.device LIMIT $3",
        key: &[("k1", false)],
    },
    Kind {
        name: "command",
        sql: "SELECT command.no AS k1, device.tenant AS tenant, device.device_id AS device_id,
                     device.serial AS serial, command.id AS command_id, command.at_ms AS at_ms,
                     command.author AS author, command.state AS state, command.why AS why,
                     command.request AS request, command.answer AS answer,
                     command.answer_type AS answer_type, command.answer_octets AS answer_octets,
                     command.answered_at_ms AS answered_at_ms
              FROM command JOIN device ON device.id = command.device
              WHERE ($1 = '' OR device.tenant = $1) AND command.no > $2 ORDER BY command.no LIMIT $3",
        key: &[("k1", false)],
    },
    Kind {
        name: "session",
        sql: "SELECT session.id AS k1, device.tenant AS tenant, device.serial AS serial,
                     session.began_at_ms AS began_at_ms, session.remote AS remote,
                     session.protocol AS protocol, session.keep_alive_s AS keep_alive_s,
                     session.ended_at_ms AS ended_at_ms, session.reason AS reason
              FROM session JOIN device ON device.id = session.device
              WHERE ($1 = '' OR device.tenant = $1) AND session.id > $2 ORDER BY session.id LIMIT $3",
        key: &[("k1", false)],
    },
    Kind {
        name: "refusal",
        sql: "SELECT refusal.minute_ms AS k1, refusal.device AS k2, refusal.claimed AS k3, refusal.code AS k4,
                     device.tenant AS tenant, device.serial AS serial, refusal.claimed AS claimed,
                     refusal.code AS code, refusal.minute_ms AS minute_ms, refusal.count AS count,
                     refusal.last_at_ms AS last_at_ms, refusal.remote AS remote
              FROM refusal LEFT JOIN device ON device.id = refusal.device
              WHERE ($1 = '' OR device.tenant = $1)
                AND (refusal.minute_ms, refusal.device, refusal.claimed, refusal.code) > ($2, $3, $4, $5)
              ORDER BY refusal.minute_ms, refusal.device, refusal.claimed, refusal.code LIMIT $6",
        key: &[("k1", false), ("k2", false), ("k3", true), ("k4", true)],
    },
    Kind {
        name: "operator",
        sql: "SELECT operator.id AS k1, operator.name AS operator, operator.role AS role, operator.tenant AS tenant,
                     operator.created_at_ms AS created_at_ms, operator.added_by AS added_by,
                     operator.removed_at_ms AS removed_at_ms
              FROM operator WHERE ($1 = '' OR operator.tenant = $1) AND operator.id > $2
              ORDER BY operator.id LIMIT $3",
        key: &[("k1", false)],
    },
    Kind {
        name: "token",
        sql: "SELECT token.id AS k1, token.id AS token, token.name AS name, operator.name AS operator,
                     token.role AS role, token.tenant AS tenant, token.created_at_ms AS created_at_ms,
                     token.added_by AS added_by, token.ends_at_ms AS ends_at_ms,
                     token.last_used_ms AS last_used_ms, token.revoked_at_ms AS revoked_at_ms
              FROM token JOIN operator ON operator.id = token.operator
              WHERE ($1 = '' OR operator.tenant = $1) AND token.id > $2 ORDER BY token.id LIMIT $3",
        key: &[("k1", true)],
    },
    Kind {
        name: "job",
        sql: "SELECT job.id AS k1, job.id AS job, job.act AS act, job.selection AS selection, job.reason AS reason,
                     job.word AS reason_code, job.actor AS actor, job.role AS role, job.tenant AS tenant,
                     job.state AS state, job.total AS total, job.done AS done, job.skipped AS skipped,
                     job.failed AS failed, job.created_at_ms AS created_at_ms, job.ended_at_ms AS ended_at_ms
              FROM job WHERE ($1 = '' OR job.tenant = $1) AND job.id > $2 ORDER BY job.id LIMIT $3",
        key: &[("k1", true)],
    },
    Kind {
        name: "hold",
        sql: "SELECT rule.generation AS k1, rule.kind AS of, rule.value AS value, rule.act AS act,
                     rule.state AS state, rule.reason_code AS reason_code, rule.audit_no AS audit_no,
                     rule.generation AS generation, rule.decided_at_ms AS decided_at_ms,
                     rule.enforced_at_ms AS enforced_at_ms, rule.sessions_ended AS sessions_ended,
                     rule.lifted AS lifted, audit.tenant AS tenant
              FROM rule JOIN audit ON audit.no = rule.audit_no
              WHERE ($1 = '' OR audit.tenant = $1) AND rule.generation > $2
              ORDER BY rule.generation LIMIT $3",
        key: &[("k1", false)],
    },
    Kind {
        name: "audit",
        // What is about no tenant's thing is told to those who see every tenant.
        sql: "SELECT no AS k1, no, node, at_ms, actor, role, token, action, target, reason, detail, tenant, request,
                     address, previous, digest
              FROM audit WHERE ($1 = '' OR tenant = $1) AND no > $2 ORDER BY no LIMIT $3",
        key: &[("k1", false)],
    },
];

impl Exporting {
    /// From the beginning; of one tenant alone, when there is one.
    #[must_use]
    pub fn begin(tenant: Option<&Tenant>) -> Self {
        let tenant = tenant.map_or_else(String::new, ToString::to_string);
        Self { tenant, kind: 0, after: first(&KINDS[0]) }
    }
}

/// Before every row.
fn first(kind: &Kind) -> Vec<Key> {
    kind.key
        .iter()
        .map(|(_, text)| if *text { Key::Text(String::new()) } else { Key::Number(i64::MIN) })
        .collect()
}

impl Registry {
    /// Some lines of an export, and what comes next; `None` after the last.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn export(&self, at: Exporting) -> Result<Option<(String, Exporting)>, RegistryError> {
        next(&self.inner, at).await
    }
}

/// Some lines, and what comes next; `None` after the last.
async fn next(inner: &Inner, mut at: Exporting) -> Result<Option<(String, Exporting)>, RegistryError> {
    let mut connection = inner.database.readers().acquire().await?;
    while let Some(kind) = KINDS.get(at.kind) {
        if let Some(lines) = page(&mut connection, kind, &mut at).await? {
            return Ok(Some((lines, at)));
        }
        at.kind += 1;
        at.after = KINDS.get(at.kind).map(first).unwrap_or_default();
    }
    Ok(None)
}

async fn page(
    connection: &mut Connection,
    kind: &Kind,
    at: &mut Exporting,
) -> Result<Option<String>, RegistryError> {
    let mut query = sqlx::query(kind.sql).bind(at.tenant.clone());
    for key in &at.after {
        query = match key {
            Key::Number(number) => query.bind(*number),
            Key::Text(text) => query.bind(text.clone()),
        };
    }
    let most = if kind.name == "manifest" { MANIFESTS } else { PAGE };
    let rows = query.bind(most).fetch_all(connection).await?;
    let Some(last) = rows.last() else { return Ok(None) };
    at.after = kind
        .key
        .iter()
        .map(|(name, text)| {
            Ok(if *text { Key::Text(last.try_get(*name)?) } else { Key::Number(last.try_get(*name)?) })
        })
        .collect::<Result<_, sqlx::Error>>()?;
    let mut lines = String::new();
    for row in &rows {
        lines.push_str(&line(kind, row)?.to_string());
        lines.push('\n');
    }
    Ok(Some(lines))
}

fn line(kind: &Kind, row: &Row) -> Result<Value, RegistryError> {
    use sqlx::{Column as _, TypeInfo as _, ValueRef as _, any::AnyTypeInfoKind as Of};
    let mut object = Map::new();
    object.insert("kind".to_owned(), kind.name.into());
    for (at, column) in row.columns().iter().enumerate() {
        let name = column.name();
        if kind.key.iter().any(|(key, _)| *key == name) {
            continue;
        }
        let value = row.try_get_raw(at)?;
        let of = value.type_info();
        let value = match of.kind() {
            _ if value.is_null() || of.is_null() => Value::Null,
            // A document of its own.
            Of::Text if name == "desired" => serde_json::from_str(&row.try_get::<String, _>(at)?)
                .map_err(|error| RegistryError::Damaged(format!("a desired state is no JSON: {error}")))?,
            Of::Text => row.try_get::<String, _>(at)?.into(),
            // What is none of these is a digest.
            Of::Blob if matches!(name, "certificate" | "request" | "answer" | "body") => {
                STANDARD.encode(row.try_get::<&[u8], _>(at)?).into()
            }
            Of::Blob => hex::encode(row.try_get::<&[u8], _>(at)?).into(),
            Of::Real | Of::Double => json!(row.try_get::<f64, _>(at)?),
            _ => row.try_get::<i64, _>(at)?.into(),
        };
        object.insert(name.to_owned(), value);
    }
    Ok(Value::Object(object))
}
