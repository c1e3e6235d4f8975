//! A board is swapped: the old device is revoked as superseded, and the new one takes its place.
//!
//! ```text
//! MU-000117  revoked, superseded, "replaced by MU-000440"
//!     │ tags, groups; note and desired state where the new one has none of its own
//!     ▼
//! MU-000440  "took the place of MU-000117"
//! ```
//!
//! # Invariants
//!
//! - One transaction, and a row of the audit log on each side that names the other. The old one's row is the
//!   decision: it ends sessions as any revocation does.
//! - A device is replaced once and takes one device's place: whoever reads either finds the other.
//! - The successor is of the same tenant and may talk now, so that nobody is left without a working board.
//! - What was written on the old one is copied: its row still says what it was.

use muster_shared::SerialNumber;
use serde_json::json;

use super::{
    Inner, Registry, RegistryError, Target,
    actor::Actor,
    audit::{self, Entry},
    changes::What,
    database::{Connection, int, parse},
    decide::{self, Aim, Decided, Reason, RevocationReason},
    device::{Act, DeviceState},
    label::{self, Labels},
    now_ms,
    orders::{self, Order},
    twin::{self, Desired},
    verdict::DeviceKey,
};

/// A device that took another's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// The decision about the old one: its revocation.
    pub decided: Decided,
    /// The new one.
    pub successor: DeviceKey,
    /// The number of the new one's audit row.
    pub successor_no: u64,
    /// What the new one has now that it had not before.
    pub taken: Labels,
    /// The desired state it was given; `None` where the old one had none, or the new one has its own.
    pub desired: Option<Desired>,
}

/// A swap that is asked for.
#[derive(Debug, Clone)]
pub struct Swap {
    /// The old device, and perhaps the version of it that was seen.
    pub old: Aim,
    /// The new one: of the old one's tenant, where none is said.
    pub new: Target,
    /// Why, in the operator's words; its code is always superseded.
    pub reason: Reason,
    /// Only find out what would be done: nothing is kept.
    pub dry_run: bool,
}

/// Who took whose place, as a device's page says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// The device that took its place.
    pub replaced_by: Option<SerialNumber>,
    /// The device whose place it took.
    pub replaces: Option<SerialNumber>,
}

async fn swap(inner: &Inner, actor: &Actor, swap: &Swap) -> Result<Replaced, RegistryError> {
    let text = swap.reason.check(Act::Revoke)?;
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let id = decide::find(&mut tx, &actor.scope.narrow(&swap.old.target)?).await?;
    decide::unchanged(&mut tx, id, swap.old.seen).await?;
    let old = decide::load(&mut tx, id).await?;
    let to = old
        .state
        .step(Act::Revoke, old.ever_connected)
        .map_err(|error| RegistryError::Transition { serial: old.serial.clone(), error })?;
    let (new, successor) = fit(inner, &mut tx, actor, &old, &swap.new).await?;

    let (old_name, new_name) =
        (format!("{}/{}", old.tenant, old.serial), format!("{}/{}", new.tenant, new.serial));
    let code = RevocationReason::Superseded;
    let entry = Entry {
        actor,
        tenant: Some(&old.tenant),
        action: ACTION,
        target: &old_name,
        reason: text,
        detail: json!({
            "from": old.state.as_str(), "to": to.as_str(), "code": code.as_str(), "successor": new_name,
        }),
    };
    let stamp = audit::append(&mut tx, entry, now_ms()).await?;
    decide::change_state(&mut tx, &old, Act::Revoke, to, stamp).await?;
    let dead = decide::revoke_certificates(&mut tx, &old, code, stamp).await?;
    let taken = label::take(&mut tx, old.id, new.id).await?;
    let desired = twin::take(&mut tx, old.id, new.id).await?;
    sqlx::query("INSERT INTO replacement (device, successor, at_ms) VALUES ($1, $2, $3)")
        .bind(old.id)
        .bind(new.id)
        .bind(int(stamp.at_ms))
        .execute(&mut *tx)
        .await?;
    let detail = json!({
        "predecessor": old_name, "tags": taken.tags, "groups": taken.groups,
        "note": taken.note.as_ref().map(|note| &note.text), "twin": desired.as_ref().map(Desired::proof),
    });
    let order = (successor, Order::Succeed);
    let other = orders::append(inner, &mut tx, actor, order, text, detail, stamp.at_ms).await?;
    let device = inner.verdicts.of_row(old.id)?;
    let decided = Decided {
        device,
        act: Act::Revoke,
        from: old.state,
        to,
        generation: stamp.generation,
        audit_no: stamp.no,
        decided_at_ms: stamp.at_ms,
    };
    let replaced = Replaced { decided, successor, successor_no: other.no, taken, desired };
    if swap.dry_run {
        tx.rollback().await?;
        return Ok(replaced);
    }
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    // Still under the writer's lock: verdicts flip in the order of the commits.
    inner.verdicts.set_state(device, to);
    for certificate in &dead {
        inner.verdicts.revoke_certificate(certificate);
    }
    inner.announce(stamp, What::Device { device, act: Act::Revoke, from: old.state, to });
    inner.announce(other, What::Ordered { device: successor, order: Order::Succeed });
    Ok(replaced)
}

/// How the old one's row of the audit log names it.
const ACTION: &str = "device.replace";

/// The device that is to take the place, when it can.
async fn fit(
    inner: &Inner,
    tx: &mut Connection,
    actor: &Actor,
    old: &decide::Row,
    new: &Target,
) -> Result<(decide::Row, DeviceKey), RegistryError> {
    let unfit = |why: String| Err(RegistryError::SuccessorUnfit { successor: new.serial.clone(), why });
    let new = &actor.scope.narrow(new)?;
    if let Some(tenant) = new.tenant.as_ref().filter(|tenant| **tenant != old.tenant) {
        return unfit(format!("it is of tenant {tenant}, {} is of {}", old.serial, old.tenant));
    }
    let new = Target { tenant: Some(old.tenant.clone()), serial: new.serial.clone() };
    let id = decide::find(tx, &new).await?;
    let row = decide::load(tx, id).await?;
    if row.id == old.id {
        return unfit("it is the device that is to be replaced".to_owned());
    }
    if !matches!(row.state, DeviceState::Registered | DeviceState::Active) {
        return unfit(format!("it is {}", row.state));
    }
    let key = inner.verdicts.of_row(row.id)?;
    if let Some(code) = inner.verdicts.refusal(key) {
        return unfit(format!("it may not talk: [{code}] {}", code.words()));
    }
    match places(tx, row.id).await?.replaces {
        Some(before) => unfit(format!("it took the place of {before} already")),
        None => Ok((row, key)),
    }
}

/// Who took its place, and whose place it took.
pub(super) async fn places(connection: &mut Connection, id: i64) -> Result<Places, RegistryError> {
    let rows: Vec<(i64, String)> = sqlx::query_as(
        "SELECT 1, device.serial FROM replacement JOIN device ON device.id = replacement.successor
         WHERE replacement.device = $1
         UNION ALL
         SELECT 2, device.serial FROM replacement JOIN device ON device.id = replacement.device
         WHERE replacement.successor = $1",
    )
    .bind(id)
    .fetch_all(connection)
    .await?;
    let mut places = Places::default();
    for (side, serial) in rows {
        let serial = Some(parse(&serial, "a device's serial")?);
        if side == 1 { places.replaced_by = serial } else { places.replaces = serial }
    }
    Ok(places)
}

impl Registry {
    /// Replaces a device by another: the old one is revoked, the new one takes what was written on it. Commits,
    /// then flips the verdict, then answers. Closing the old one's sessions is [`crate::revocation`]'s.
    ///
    /// # Errors
    /// [`RegistryError`]; M203 for a device that cannot be revoked, M208 for no such device, M214 without a
    /// reason, M230 for a successor that cannot take its place, M532 when the device has changed since it was
    /// seen.
    pub async fn replace(&self, actor: &Actor, swap: Swap) -> Result<Replaced, RegistryError> {
        let actor = actor.clone();
        self.run(|inner| async move { self::swap(&inner, &actor, &swap).await }).await
    }
}
