//! Decisions about groups: one rule a group, evaluated by the verdicts from the commit on; the rows of its
//! members follow in small chunks, so that nobody waits long for the writer.
//!
//! What can be taken back stays the rule's alone: a batch that is resumed finds each device in the state it
//! was in. What cannot, a revocation, is written to every member too: to the devices of a batch, a station or
//! a tenant, or to the certificates of a CA. An import into a revoked group opens its rule again.

use futures_util::TryStreamExt as _;
use muster_shared::{BatchId, CertificateId, Generation, StationId, Tenant};
use serde_json::json;

use super::{
    Inner,
    actor::{Actor, Scope},
    audit::{self, Entry, Stamp},
    changes::What,
    database::{Connection, QueryBuilder, digest, int, parse, uint},
    decide::{self, Reason, RevocationReason},
    device::{Act, DeviceState},
    error::RegistryError,
    group::{Group, Hold},
    held, now_ms,
    verdict::DeviceKey,
};

/// Members written in one transaction: a decision that waits for the writer waits milliseconds.
const CHUNK: usize = 200;

/// Which group, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupTarget {
    /// This one.
    Group(Group),
    /// The batch of this name, where only one station has it.
    Batch(BatchId),
}

impl From<Group> for GroupTarget {
    fn from(group: Group) -> Self {
        Self::Group(group)
    }
}

/// What a decision is about: a group, and perhaps the version of it that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupAim {
    /// Which group.
    pub target: GroupTarget,
    /// The generation of the last decision about it, as whoever decides has seen it; 0 for none. `None`: whatever
    /// it is.
    pub seen: Option<u64>,
}

impl<T: Into<GroupTarget>> From<T> for GroupAim {
    fn from(target: T) -> Self {
        Self { target: target.into(), seen: None }
    }
}

/// A group as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSeen {
    /// Which.
    pub group: Group,
    /// What it is held in.
    pub state: DeviceState,
    /// Devices in it.
    pub devices: u64,
    /// The generation of the last decision about it; 0 for none.
    pub version: u64,
}

/// A decision about a group that was made: committed, and in the verdicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDecided {
    /// About which group.
    pub group: Group,
    /// What was asked.
    pub act: Act,
    /// The group's state before.
    pub from: DeviceState,
    /// And now.
    pub to: DeviceState,
    /// For a revocation: the RFC 5280 word.
    pub reason: Option<RevocationReason>,
    /// Devices it is about, as of now.
    pub devices: u64,
    /// The registry's generation from this decision on; names the decision.
    pub generation: Generation,
    /// The number of its audit row.
    pub audit_no: u64,
    /// When it was committed, Unix milliseconds.
    pub decided_at_ms: u64,
}

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
fn follows(group: &Group, state: DeviceState) -> bool {
    state == DeviceState::Revoked && !matches!(group, Group::Certificate(_))
}

/// Every rule that holds, into the verdicts; rules that do not hold any more, out of them.
pub(super) async fn load(inner: &Inner, connection: &mut Connection) -> Result<(), RegistryError> {
    let rows: Vec<(String, String, String, Option<i64>)> =
        sqlx::query_as("SELECT kind, value, state, lifted FROM rule ORDER BY generation")
            .fetch_all(connection)
            .await?;
    for (kind, value, state, lifted) in rows {
        let group = read(&kind, &value)?;
        let state: DeviceState = parse(&state, "a rule's state")?;
        inner.verdicts.set_rule(&group, Hold::of(state).filter(|_| lifted.is_none()));
    }
    Ok(())
}

fn read(kind: &str, value: &str) -> Result<Group, RegistryError> {
    Group::read(kind, value)
        .ok_or_else(|| RegistryError::Damaged(format!("a rule is about {kind} {value:?}")))
}

/// Which group it is, of those there are and the scope has. A CA or a certificate need not be known here, for
/// those who see every tenant.
async fn resolve(
    connection: &mut Connection,
    target: &GroupTarget,
    scope: &Scope,
) -> Result<Group, RegistryError> {
    let group = named(connection, target, scope).await?;
    if *scope == Scope::Every || owner(connection, &group).await?.is_some_and(|tenant| scope.covers(&tenant))
    {
        return Ok(group);
    }
    Err(match &group {
        Group::Batch(station, batch) => RegistryError::BatchUnknown(format!("{station}/{batch}")),
        _ => RegistryError::GroupUnknown(Box::new(group)),
    })
}

/// Whose devices a group has; `None` for an authority or a certificate that is no one tenant's.
async fn owner(connection: &mut Connection, group: &Group) -> Result<Option<Tenant>, RegistryError> {
    let (sql, value) = match group {
        Group::Tenant(tenant) => return Ok(Some(tenant.clone())),
        Group::Station(station) | Group::Batch(station, _) => {
            let found: Option<(String,)> = sqlx::query_as("SELECT tenant FROM station WHERE name = $1")
                .bind(station.as_str())
                .fetch_optional(connection)
                .await?;
            return found.map(|(tenant,)| parse(&tenant, "a station's tenant")).transpose();
        }
        Group::Ca(key_id) => ("SELECT tenant FROM station WHERE factory_key_id = $1", key_id.to_vec()),
        Group::Certificate(id) => (
            "SELECT device.tenant FROM certificate JOIN device ON device.id = certificate.device
             WHERE certificate.id = $1",
            id.0.to_vec(),
        ),
    };
    let found: Option<(String,)> = sqlx::query_as(sql).bind(value).fetch_optional(connection).await?;
    found.map(|(tenant,)| parse(&tenant, "a tenant")).transpose()
}

async fn named(
    connection: &mut Connection,
    target: &GroupTarget,
    scope: &Scope,
) -> Result<Group, RegistryError> {
    let unknown = |what: &Group| Err(RegistryError::GroupUnknown(Box::new(what.clone())));
    let group = match target {
        GroupTarget::Batch(batch) => {
            let rows: Vec<(String,)> = sqlx::query_as(
                "SELECT station.name FROM batch JOIN station ON station.id = batch.station
                 WHERE batch.name = $1 AND ($2 = '' OR station.tenant = $2) ORDER BY station.name",
            )
            .bind(batch.as_str())
            .bind(scope.to_sql())
            .fetch_all(connection)
            .await?;
            return match rows.as_slice() {
                [] => Err(RegistryError::BatchUnknown(batch.to_string())),
                [(station,)] => Ok(Group::Batch(parse(station, "a station's name")?, batch.clone())),
                several => {
                    let stations = several.iter().map(|(station,)| parse(station, "a station's name"));
                    let stations = stations.collect::<Result<Vec<StationId>, _>>()?;
                    Err(RegistryError::BatchAmbiguous { batch: batch.clone(), stations })
                }
            };
        }
        GroupTarget::Group(group) => group,
    };
    let mut query = match group {
        Group::Ca(_) | Group::Certificate(_) => return Ok(group.clone()),
        Group::Tenant(tenant) => {
            let mut query = QueryBuilder::new("SELECT count(*) FROM station WHERE tenant = ");
            query.push_bind(tenant.to_string());
            query
        }
        Group::Station(station) => {
            let mut query = QueryBuilder::new("SELECT count(*) FROM station WHERE name = ");
            query.push_bind(station.to_string());
            query
        }
        Group::Batch(..) => {
            let mut query = QueryBuilder::new("SELECT count(*) FROM batch WHERE id IN ");
            push_batches(&mut query, group);
            query
        }
    };
    let (count,): (i64,) = query.build_query_as().fetch_one(connection).await?;
    match (count, group) {
        (0, Group::Batch(station, batch)) => Err(RegistryError::BatchUnknown(format!("{station}/{batch}"))),
        (0, _) => unknown(group),
        _ => Ok(group.clone()),
    }
}

/// `(SELECT ids of the group's batches)`.
pub(super) fn push_batches(query: &mut QueryBuilder, group: &Group) {
    query.push("(SELECT b.id FROM batch b JOIN station s ON s.id = b.station WHERE ");
    match group {
        Group::Tenant(tenant) => query.push("s.tenant = ").push_bind(tenant.to_string()),
        Group::Station(station) => query.push("s.name = ").push_bind(station.to_string()),
        Group::Batch(station, batch) => {
            query.push("s.name = ").push_bind(station.to_string());
            query.push(" AND b.name = ").push_bind(batch.to_string())
        }
        Group::Ca(_) | Group::Certificate(_) => query.push("1 = 0"),
    };
    query.push(")");
}

/// The condition that a row of `device` is about a member.
fn push_devices(query: &mut QueryBuilder, group: &Group) {
    match group {
        Group::Ca(key_id) => {
            query.push("device.id IN (SELECT c.device FROM certificate c WHERE c.issuer_key_id = ");
            query.push_bind(key_id.to_vec()).push(")");
        }
        Group::Certificate(id) => {
            query.push("device.id IN (SELECT c.device FROM certificate c WHERE c.id = ");
            query.push_bind(id.0.to_vec()).push(")");
        }
        _ => {
            query.push("device.batch IN ");
            push_batches(query, group);
        }
    }
}

async fn count(connection: &mut Connection, group: &Group) -> Result<u64, RegistryError> {
    let mut query = QueryBuilder::new("SELECT count(*) FROM device WHERE ");
    push_devices(&mut query, group);
    let (count,): (i64,) = query.build_query_as().fetch_one(connection).await?;
    Ok(uint(count))
}

/// What a decision about the group would be about: the group itself, its state and its devices.
pub(super) async fn look(
    inner: &Inner,
    target: &GroupTarget,
    scope: &Scope,
) -> Result<GroupSeen, RegistryError> {
    let mut connection = inner.database.readers().acquire().await?;
    let group = resolve(&mut connection, target, scope).await?;
    let state = current(&mut connection, &group).await?.map_or(DeviceState::Active, |(_, state)| state);
    let devices = count(&mut connection, &group).await?;
    let version = version(&mut connection, &group).await?;
    Ok(GroupSeen { group, state, devices, version })
}

/// The last decision about the group: its rule's, or the one that lifted it.
async fn version(connection: &mut Connection, group: &Group) -> Result<u64, RegistryError> {
    let (last,): (Option<i64>,) = sqlx::query_as(
        "SELECT max(CASE WHEN lifted IS NULL THEN generation ELSE lifted END) FROM rule
         WHERE kind = $1 AND value = $2",
    )
    .bind(group.kind())
    .bind(group.value())
    .fetch_one(connection)
    .await?;
    Ok(last.map_or(0, uint))
}

/// The rule that holds for the group.
async fn current(
    connection: &mut Connection,
    group: &Group,
) -> Result<Option<(i64, DeviceState)>, RegistryError> {
    let row: Option<(i64, String)> = sqlx::query_as(
        "SELECT generation, state FROM rule WHERE kind = $1 AND value = $2 AND lifted IS NULL",
    )
    .bind(group.kind())
    .bind(group.value())
    .fetch_optional(connection)
    .await?;
    row.map(|(generation, state)| Ok((generation, parse(&state, "a rule's state")?))).transpose()
}

/// Makes the decision. Runs to its end once begun: the caller spawns it.
pub(super) async fn decide(
    inner: &Inner,
    actor: &Actor,
    aim: &GroupAim,
    act: Act,
    reason: &Reason,
) -> Result<GroupDecided, RegistryError> {
    let text = reason.check(act)?;
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let group = resolve(&mut tx, &aim.target, &actor.scope).await?;
    if let Some(seen) = aim.seen {
        let now = version(&mut tx, &group).await?;
        if now != seen {
            return Err(RegistryError::Overtaken { what: group.to_string(), seen, now });
        }
    }
    if !group.takes(act) {
        return Err(RegistryError::GroupAct { group: Box::new(group), act });
    }
    let before = current(&mut tx, &group).await?;
    let from = before.map_or(DeviceState::Active, |(_, state)| state);
    let to = from
        .step(act, true)
        .map_err(|error| RegistryError::GroupTransition { group: Box::new(group.clone()), error })?;
    let devices = count(&mut tx, &group).await?;
    let code = (act == Act::Revoke).then(|| reason.code.unwrap_or(RevocationReason::Unspecified));
    let detail = json!({
        "from": from.as_str(), "to": to.as_str(), "devices": devices,
        "code": code.map(RevocationReason::as_str),
    });
    let (action, whom) = (action(&group, act), group.to_string());
    let tenant = owner(&mut tx, &group).await?;
    let entry =
        Entry { actor, tenant: tenant.as_ref(), action: &action, target: &whom, reason: text, detail };
    let stamp = audit::append(&mut tx, entry, now_ms()).await?;
    if let Some((generation, _)) = before {
        lift(&mut tx, generation, stamp).await?;
    }
    if Hold::of(to).is_some() {
        put(&mut tx, &group, act, to, code, stamp).await?;
    }
    held::fold(&mut tx, &group).await?;
    if let (Group::Certificate(id), Some(code)) = (&group, code) {
        revoke_certificates(&mut tx, &[*id], code, stamp.at_ms, stamp.generation).await?;
    }
    if let Err(error) = inner.commit(tx).await {
        // Nobody knows whether it is committed. The file does, and is asked now.
        writer.fail();
        drop(writer);
        if let Err(error) = inner.writer().await {
            tracing::error!(%error, "the verdicts cannot be read back yet");
        }
        return Err(error);
    }
    // Still under the writer's lock: verdicts flip in the order of the commits.
    inner.verdicts.set_rule(&group, Hold::of(to));
    if let Group::Certificate(id) = &group {
        inner.verdicts.revoke_certificate(id);
    }
    inner.announce(stamp, What::Group { group: group.clone(), act, from, to });
    let (generation, audit_no, decided_at_ms) = (stamp.generation, stamp.no, stamp.at_ms);
    Ok(GroupDecided { group, act, from, to, reason: code, devices, generation, audit_no, decided_at_ms })
}

/// Its word in the audit log: `batch.revoke`.
fn action(group: &Group, act: Act) -> String {
    match (group, act) {
        (Group::Ca(_), Act::Revoke) => "ca.withdraw".to_owned(),
        (Group::Certificate(_), _) => format!("cert.{act}"),
        _ => format!("{}.{act}", group.kind()),
    }
}

async fn lift(tx: &mut Connection, generation: i64, stamp: Stamp) -> Result<(), RegistryError> {
    sqlx::query("UPDATE rule SET lifted = $1 WHERE generation = $2")
        .bind(int(stamp.generation.0))
        .bind(generation)
        .execute(tx)
        .await?;
    Ok(())
}

async fn put(
    tx: &mut Connection,
    group: &Group,
    act: Act,
    to: DeviceState,
    code: Option<RevocationReason>,
    stamp: Stamp,
) -> Result<(), RegistryError> {
    sqlx::query(
        "INSERT INTO rule (generation, kind, value, act, state, reason_code, audit_no, decided_at_ms,
         sessions_ended, followed_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9)",
    )
    .bind(int(stamp.generation.0))
    .bind(group.kind())
    .bind(group.value())
    .bind(act.as_str())
    .bind(to.as_str())
    .bind(code.map(RevocationReason::as_str))
    .bind(int(stamp.no))
    .bind(int(stamp.at_ms))
    .bind((!follows(group, to)).then(|| int(stamp.at_ms)))
    .execute(tx)
    .await?;
    Ok(())
}

/// Revokes the certificates that are here and not revoked yet, with tombstones for each and its key.
async fn revoke_certificates(
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

/// Rules that something is left to do for, oldest first.
pub(super) async fn open(inner: &Inner) -> Result<Vec<OpenRule>, RegistryError> {
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
pub(super) async fn reopen(tx: &mut Connection, groups: &[Group]) -> Result<(), RegistryError> {
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
pub(super) async fn to_purge(inner: &Inner, group: &Group) -> Result<Vec<DeviceKey>, RegistryError> {
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
pub(super) async fn follow(inner: &Inner, rule: &OpenRule) -> Result<(), RegistryError> {
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
