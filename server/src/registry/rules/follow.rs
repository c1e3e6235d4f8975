//! What a rule leaves to be done: sessions that have to end, and the rows of its members, chunk by chunk, until each
//! says what the rule does.

use futures_util::TryStreamExt as _;
use muster_shared::{CertificateId, Generation};

use super::{GroupDecided, named::push_devices, read};
use crate::registry::{
    DeviceState, Group, Inner,
    audit::Stamp,
    database::{Connection, QueryBuilder, digest, int, parse, uint},
    decide::{self, RevocationReason},
    error::RegistryError,
    now_ms,
    verdict::DeviceKey,
};

/// Members written in one transaction: a decision that waits for the writer waits milliseconds.
const CHUNK: usize = 200;

/// A rule that something is left to do for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRule {
    /// The decision.
    pub generation: Generation,
    /// About which group.
    pub group: Group,
    /// When it was decided, Unix milliseconds.
    pub decided_at_ms: u64,
    /// Its live sessions are known to have ended.
    pub enforced: bool,
    /// The rows of its members have still to say so.
    follows: bool,
    audit_no: u64,
    reason: RevocationReason,
}

impl From<&GroupDecided> for OpenRule {
    fn from(decided: &GroupDecided) -> Self {
        Self {
            generation: decided.generation,
            group: decided.group.clone(),
            decided_at_ms: decided.decided_at_ms,
            enforced: false,
            follows: follows(&decided.group, decided.to),
            audit_no: decided.audit_no,
            reason: decided.reason.unwrap_or(RevocationReason::Unspecified),
        }
    }
}

/// Do the rows of its members say what the rule does? Not of one that can be lifted; and of a certificate the
/// one row is written with the rule.
pub(super) fn follows(group: &Group, state: DeviceState) -> bool {
    state == DeviceState::Revoked && !matches!(group, Group::Certificate(_))
}

/// Rules that something is left to do for, oldest first.
pub(in crate::registry) async fn open(inner: &Inner) -> Result<Vec<OpenRule>, RegistryError> {
    type Row = (i64, String, String, String, Option<String>, i64, i64, Option<i64>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT generation, kind, value, state, reason_code, audit_no, decided_at_ms, enforced_at_ms FROM rule
         WHERE lifted IS NULL AND (enforced_at_ms IS NULL OR followed_at_ms IS NULL) ORDER BY generation",
    )
    .fetch_all(inner.database.readers())
    .await?;
    rows.into_iter()
        .map(|(generation, kind, value, state, reason, audit_no, decided_at_ms, enforced_at_ms)| {
            let reason = reason.map(|word| parse(&word, "a revocation reason")).transpose()?;
            let group = read(&kind, &value)?;
            Ok(OpenRule {
                generation: Generation(uint(generation)),
                follows: follows(&group, parse(&state, "a rule's state")?),
                group,
                decided_at_ms: uint(decided_at_ms),
                enforced: enforced_at_ms.is_some(),
                audit_no: uint(audit_no),
                reason: reason.unwrap_or(RevocationReason::Unspecified),
            })
        })
        .collect()
}

/// An import has brought devices of this station and batch: a revocation that is about them is written to
/// them, too.
pub(in crate::registry) async fn reopen(tx: &mut Connection, groups: &[Group]) -> Result<(), RegistryError> {
    for group in groups {
        sqlx::query(
            "UPDATE rule SET followed_at_ms = NULL
             WHERE kind = $1 AND value = $2 AND state = 'revoked' AND lifted IS NULL",
        )
        .bind(group.kind())
        .bind(group.value())
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// The devices of a group of which nothing may stay: those that may not talk with any certificate they have.
pub(in crate::registry) async fn to_purge(
    inner: &Inner,
    group: &Group,
) -> Result<Vec<DeviceKey>, RegistryError> {
    let verdicts = &inner.verdicts;
    let mut query = QueryBuilder::new(
        "SELECT device.id, certificate.id FROM device JOIN certificate ON certificate.device = device.id WHERE ",
    );
    push_devices(&mut query, group);
    query.push(" ORDER BY device.id");
    let mut connection = inner.database.readers().acquire().await?;
    let mut rows = query.build_query_as::<(i64, Vec<u8>)>().fetch(&mut *connection);
    let now_s = i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX);
    let mut devices: Vec<(DeviceKey, bool)> = Vec::new();
    while let Some((row, id)) = rows.try_next().await? {
        let Some(device) = verdicts.by_row(row) else { continue };
        let id = CertificateId(digest(&id, "a certificate's id")?);
        let may_talk = verdicts.may_talk(device, &id, now_s).is_ok();
        match devices.last_mut().filter(|(last, _)| *last == device) {
            Some((_, any)) => *any |= may_talk,
            None => devices.push((device, may_talk)),
        }
    }
    Ok(devices.into_iter().filter(|(_, any)| !any).map(|(device, _)| device).collect())
}

/// Writes a revocation to the rows of the group's members, chunk by chunk; does nothing for a rule that can be
/// lifted. Can be repeated.
pub(in crate::registry) async fn follow(inner: &Inner, rule: &OpenRule) -> Result<(), RegistryError> {
    if !rule.follows {
        return Ok(());
    }
    loop {
        let left = {
            let mut connection = inner.database.readers().acquire().await?;
            left(&mut connection, &rule.group).await?
        };
        for chunk in left.chunks(CHUNK) {
            write(inner, rule, chunk).await?;
        }
        if left.is_empty() && followed(inner, rule).await? {
            return Ok(());
        }
    }
}

/// A member whose row does not say yet what the rule does.
enum Left {
    Device(i64),
    Certificate(CertificateId),
}

async fn left(connection: &mut Connection, group: &Group) -> Result<Vec<Left>, RegistryError> {
    if let Group::Ca(key_id) = group {
        let rows: Vec<(Vec<u8>,)> =
            sqlx::query_as("SELECT id FROM certificate WHERE issuer_key_id = $1 AND revoked_at_ms IS NULL")
                .bind(key_id.as_slice())
                .fetch_all(connection)
                .await?;
        let id = |(id,): (Vec<u8>,)| Ok(Left::Certificate(CertificateId(digest(&id, "a certificate's id")?)));
        return rows.into_iter().map(id).collect();
    }
    let mut query = QueryBuilder::new(
        "SELECT device.id FROM device WHERE device.state NOT IN ('manufactured', 'revoked', 'decommissioned') AND ",
    );
    push_devices(&mut query, group);
    let rows: Vec<(i64,)> = query.build_query_as().fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(row,)| Left::Device(row)).collect())
}

async fn write(inner: &Inner, rule: &OpenRule, chunk: &[Left]) -> Result<(), RegistryError> {
    let stamp = Stamp { no: rule.audit_no, generation: rule.generation, at_ms: rule.decided_at_ms };
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let (mut devices, mut certificates) = (Vec::new(), Vec::new());
    for left in chunk {
        match left {
            Left::Device(row) => {
                if let Some(dead) = decide::revoke_member(&mut tx, *row, rule.reason, stamp).await? {
                    devices.push(*row);
                    certificates.extend(dead);
                }
            }
            Left::Certificate(id) => {
                let id = [*id];
                revoke_certificates(&mut tx, &id, rule.reason, rule.decided_at_ms, rule.generation).await?;
                certificates.extend(id);
            }
        }
    }
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    // Still under the writer's lock.
    for device in devices.iter().filter_map(|row| inner.verdicts.by_row(*row)) {
        inner.verdicts.set_state(device, DeviceState::Revoked);
    }
    for certificate in &certificates {
        inner.verdicts.revoke_certificate(certificate);
    }
    Ok(())
}

/// Notes that every row says so, if that is so.
async fn followed(inner: &Inner, rule: &OpenRule) -> Result<bool, RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    // Asked again under the writer's lock: an import may have come between.
    if !left(&mut tx, &rule.group).await?.is_empty() {
        return Ok(false);
    }
    sqlx::query("UPDATE rule SET followed_at_ms = $1 WHERE generation = $2")
        .bind(int(now_ms()))
        .bind(int(rule.generation.0))
        .execute(&mut *tx)
        .await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    Ok(true)
}

/// Revokes the certificates that are here and not revoked yet, with tombstones for each and its key.
pub(super) async fn revoke_certificates(
    tx: &mut Connection,
    ids: &[CertificateId],
    reason: RevocationReason,
    at_ms: u64,
    generation: Generation,
) -> Result<(), RegistryError> {
    for id in ids {
        let row: Option<(i64, Vec<u8>)> = sqlx::query_as(
            "UPDATE certificate SET status = 'revoked', revoked_at_ms = $1, revoked_reason = $2
             WHERE id = $3 AND revoked_at_ms IS NULL RETURNING device, key_digest",
        )
        .bind(int(at_ms))
        .bind(reason.as_str())
        .bind(id.0.as_slice())
        .fetch_optional(&mut *tx)
        .await?;
        let Some((device, key)) = row else { continue };
        for (kind, value) in [("certificate", id.to_string()), ("key", hex::encode(key))] {
            decide::bury(tx, kind, &value, device, generation, at_ms).await?;
        }
    }
    Ok(())
}
