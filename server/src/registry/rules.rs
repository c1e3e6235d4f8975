//! Decisions about groups: one rule a group, evaluated by the verdicts from the commit on; the rows of its
//! members follow in small chunks, so that nobody waits long for the writer.
//!
//! What can be taken back stays the rule's alone: a batch that is resumed finds each device in the state it
//! was in. What cannot, a revocation, is written to every member too: to the devices of a batch, a station or
//! a tenant, or to the certificates of a CA. An import into a revoked group opens its rule again.

mod follow;
mod named;

use muster_shared::{BatchId, Generation};
use serde_json::json;

use super::{
    Inner,
    actor::{Actor, Scope},
    audit::{self, Entry, Stamp},
    changes::What,
    database::{Connection, int, parse, uint},
    decide::{Reason, RevocationReason},
    device::{Act, DeviceState},
    error::RegistryError,
    group::{Group, Hold},
    held, now_ms,
};

pub use follow::OpenRule;
pub(super) use follow::{follow, open, reopen, to_purge};
use follow::{follows, revoke_certificates};
pub(super) use named::push_batches;
use named::{count, owner, resolve};

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
