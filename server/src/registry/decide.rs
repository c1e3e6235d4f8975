//! One device's decision: read the state, take the step, write what follows from it, commit, flip.

use std::{fmt, str::FromStr};

use muster_shared::{CertificateId, Generation, SerialNumber, Tenant};
use serde_json::json;

use super::{
    Inner,
    actor::Actor,
    audit::{self, Entry, Stamp},
    changes::What,
    commands, continuity,
    database::{Connection, digest, int, parse, uint},
    device::{Act, DeviceState},
    error::RegistryError,
    now_ms,
    session::words,
    twin,
    verdict::{CertificateStatus, DeviceKey},
};

words!(
    /// Why a certificate is revoked, in the words of RFC 5280 §5.3.1.
    RevocationReason, "revocation reason", {
        /// No reason given.
        Unspecified = "unspecified",
        /// The device's key is, or may be, in other hands.
        KeyCompromise = "keyCompromise",
        /// Its issuer's key is.
        CaCompromise = "cACompromise",
        /// Its names are no longer right.
        AffiliationChanged = "affiliationChanged",
        /// Another certificate took its place.
        Superseded = "superseded",
        /// It is no longer needed.
        CessationOfOperation = "cessationOfOperation",
        /// What it allowed was withdrawn.
        PrivilegeWithdrawn = "privilegeWithdrawn",
    }
);

/// Why somebody decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// In the operator's words; never sent to a device.
    pub text: String,
    /// For a revocation: the RFC 5280 word.
    pub code: Option<RevocationReason>,
}

/// Which device: a serial, with its tenant where several have it. Written `SERIAL` or `TENANT/SERIAL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Whose; `None` when the serial alone says which.
    pub tenant: Option<Tenant>,
    /// The number on its label.
    pub serial: SerialNumber,
}

impl From<&SerialNumber> for Target {
    fn from(serial: &SerialNumber) -> Self {
        Self { tenant: None, serial: serial.clone() }
    }
}

impl From<&Target> for Target {
    fn from(target: &Target) -> Self {
        target.clone()
    }
}

impl FromStr for Target {
    type Err = muster_shared::id::IdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((tenant, serial)) => Ok(Self { tenant: Some(tenant.parse()?), serial: serial.parse()? }),
            None => Ok(Self { tenant: None, serial: text.parse()? }),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tenant {
            Some(tenant) => write!(f, "{tenant}/{}", self.serial),
            None => self.serial.fmt(f),
        }
    }
}

/// What a decision is about: a device, and perhaps the version of it that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aim {
    /// Which device.
    pub target: Target,
    /// The audit row of its last change, as whoever decides has seen it: nothing is decided when it has
    /// changed since. `None`: whatever it is.
    pub seen: Option<u64>,
}

impl Aim {
    /// A device as it was seen.
    #[must_use]
    pub fn seen(target: &Target, seen: Option<u64>) -> Self {
        Self { target: target.clone(), seen }
    }
}

impl<T: Into<Target>> From<T> for Aim {
    fn from(target: T) -> Self {
        Self { target: target.into(), seen: None }
    }
}

/// A decision that was made: committed, and in the verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// About which device.
    pub device: DeviceKey,
    /// What was asked.
    pub act: Act,
    /// The state before.
    pub from: DeviceState,
    /// The state now.
    pub to: DeviceState,
    /// The registry's generation from this decision on; names the decision.
    pub generation: Generation,
    /// The number of its audit row.
    pub audit_no: u64,
    /// When it was committed, Unix milliseconds.
    pub decided_at_ms: u64,
}

/// Longest reason, octets.
pub const REASON_MAX: usize = 500;

impl Reason {
    /// A reason without an RFC 5280 word.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), code: None }
    }

    /// Whether its text can be kept.
    ///
    /// # Errors
    /// [`RegistryError::Value`] for one that is too long or has control characters.
    pub fn check_text(&self) -> Result<(), RegistryError> {
        self.check(Act::FirstConnection).map(drop)
    }

    pub(super) fn check(&self, act: Act) -> Result<&str, RegistryError> {
        let text = self.text.trim();
        if act.needs_reason() && text.is_empty() {
            return Err(RegistryError::ReasonMissing(act.as_str()));
        }
        if text.len() > REASON_MAX {
            let why = format!("{} octets long, at most {REASON_MAX} are kept", text.len());
            return Err(RegistryError::Value { what: "reason", why });
        }
        if let Some(control) = text.chars().find(|character| character.is_control()) {
            let why = format!("has the control character {control:?}");
            return Err(RegistryError::Value { what: "reason", why });
        }
        Ok(text)
    }
}

/// A device's row, as a decision needs it.
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) tenant: Tenant,
    pub(super) serial: SerialNumber,
    pub(super) state: DeviceState,
    pub(super) ever_connected: bool,
}

type Columns = (i64, String, String, String, Option<i64>);

fn row((id, tenant, serial, state, first): Columns) -> Result<Row, RegistryError> {
    Ok(Row {
        id,
        tenant: parse(&tenant, "a device's tenant")?,
        serial: parse(&serial, "a device's serial")?,
        state: parse(&state, "a device's state")?,
        ever_connected: first.is_some(),
    })
}

/// The row id of the one device this names.
pub(super) async fn find(connection: &mut Connection, target: &Target) -> Result<i64, RegistryError> {
    let rows: Vec<(i64, String)> = sqlx::query_as(
        "SELECT id, tenant FROM device WHERE serial = $1 AND ($2 = '' OR tenant = $2) ORDER BY tenant",
    )
    .bind(target.serial.as_str())
    .bind(target.tenant.as_ref().map_or("", Tenant::as_str))
    .fetch_all(connection)
    .await?;
    match rows.as_slice() {
        [] => Err(RegistryError::DeviceUnknown(target.to_string())),
        [(id, _)] => Ok(*id),
        several => {
            let tenants = several.iter().map(|(_, tenant)| parse(tenant, "a device's tenant"));
            Err(RegistryError::Ambiguous {
                serial: target.serial.clone(),
                tenants: tenants.collect::<Result<_, _>>()?,
            })
        }
    }
}

pub(super) async fn load(connection: &mut Connection, id: i64) -> Result<Row, RegistryError> {
    let columns: Columns =
        sqlx::query_as("SELECT id, tenant, serial, state, first_connected_ms FROM device WHERE id = $1")
            .bind(id)
            .fetch_one(connection)
            .await?;
    row(columns)
}

/// Which device a decision is about, before it is looked up.
pub(super) enum Whom {
    Aim(Aim),
    Row(i64),
}

/// Makes the decision. Runs to its end once begun: the caller spawns it.
pub(super) async fn decide(
    inner: &Inner,
    actor: &Actor,
    whom: Whom,
    act: Act,
    reason: &Reason,
    at_ms: Option<u64>,
) -> Result<Decided, RegistryError> {
    let text = reason.check(act)?;
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let id = match whom {
        Whom::Aim(Aim { target, seen }) => {
            let id = find(&mut tx, &actor.scope.narrow(&target)?).await?;
            unchanged(&mut tx, id, seen).await?;
            id
        }
        Whom::Row(id) => id,
    };
    let row = load(&mut tx, id).await?;
    let to = row
        .state
        .step(act, row.ever_connected)
        .map_err(|error| RegistryError::Transition { serial: row.serial.clone(), error })?;
    let target = format!("{}/{}", row.tenant, row.serial);
    let code = (act == Act::Revoke).then(|| reason.code.unwrap_or(RevocationReason::Unspecified));
    let entry = Entry {
        actor,
        tenant: Some(&row.tenant),
        action: action(act),
        target: &target,
        reason: text,
        detail: json!({ "from": row.state.as_str(), "to": to.as_str(), "code": code.map(RevocationReason::as_str) }),
    };
    let stamp = audit::append(&mut tx, entry, at_ms.unwrap_or_else(now_ms)).await?;
    change_state(&mut tx, &row, act, to, stamp).await?;
    let dead = match act {
        Act::Revoke => {
            revoke_certificates(&mut tx, &row, code.unwrap_or(RevocationReason::Unspecified), stamp).await?
        }
        Act::Decommission => {
            remove_data(&mut tx, row.id).await?;
            Vec::new()
        }
        Act::Release => {
            // The operator vouches for it: what it was given before says nothing any more.
            continuity::forget(&mut tx, row.id).await?;
            Vec::new()
        }
        _ => Vec::new(),
    };
    let device = inner.verdicts.of_row(row.id)?;
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
    inner.verdicts.set_state(device, to);
    if matches!(act, Act::Release | Act::Decommission) {
        inner.continuity.change(device, |_| None);
    }
    if to == DeviceState::Decommissioned {
        inner.newest.forget(device);
    }
    for certificate in &dead {
        inner.verdicts.revoke_certificate(certificate);
    }
    inner.announce(stamp, What::Device { device, act, from: row.state, to });
    Ok(Decided {
        device,
        act,
        from: row.state,
        to,
        generation: stamp.generation,
        audit_no: stamp.no,
        decided_at_ms: stamp.at_ms,
    })
}

/// The device is as it was seen.
pub(super) async fn unchanged(tx: &mut Connection, id: i64, seen: Option<u64>) -> Result<(), RegistryError> {
    let Some(seen) = seen else { return Ok(()) };
    let (serial, now): (String, i64) =
        sqlx::query_as("SELECT serial, changed_no FROM device WHERE id = $1").bind(id).fetch_one(tx).await?;
    let (serial, now) = (parse(&serial, "a device's serial")?, uint(now));
    if now == seen { Ok(()) } else { Err(RegistryError::Changed { serial, seen, now }) }
}

fn action(act: Act) -> &'static str {
    match act {
        Act::FirstConnection => "device.first-connection",
        Act::Suspend => "device.suspend",
        Act::Resume => "device.resume",
        Act::Quarantine => "device.quarantine",
        Act::Release => "device.release",
        Act::Revoke => "device.revoke",
        Act::Decommission => "device.decommission",
    }
}

pub(super) async fn change_state(
    tx: &mut Connection,
    row: &Row,
    act: Act,
    to: DeviceState,
    stamp: Stamp,
) -> Result<(), RegistryError> {
    let first = (act == Act::FirstConnection).then(|| int(stamp.at_ms));
    set_state(tx, row, to, stamp, first).await?;
    if !act.ends_sessions() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO enforcement
         (generation, device, audit_no, act, from_state, to_state, decided_at_ms, sessions_ended)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 0)",
    )
    .bind(int(stamp.generation.0))
    .bind(row.id)
    .bind(int(stamp.no))
    .bind(act.as_str())
    .bind(row.state.as_str())
    .bind(to.as_str())
    .bind(int(stamp.at_ms))
    .execute(tx)
    .await?;
    Ok(())
}

async fn set_state(
    tx: &mut Connection,
    row: &Row,
    to: DeviceState,
    stamp: Stamp,
    first_connected: Option<i64>,
) -> Result<(), RegistryError> {
    sqlx::query(
        "UPDATE device SET state = $1, changed_at_ms = $2, changed_no = $3,
         first_connected_ms = coalesce(first_connected_ms, $4) WHERE id = $5",
    )
    .bind(to.as_str())
    .bind(int(stamp.at_ms))
    .bind(int(stamp.no))
    .bind(first_connected)
    .bind(row.id)
    .execute(tx)
    .await?;
    Ok(())
}

/// Every certificate of the device, and tombstones for each, its key and its serial.
pub(super) async fn revoke_certificates(
    tx: &mut Connection,
    row: &Row,
    reason: RevocationReason,
    stamp: Stamp,
) -> Result<Vec<CertificateId>, RegistryError> {
    let certificates: Vec<(Vec<u8>, Vec<u8>)> =
        sqlx::query_as("SELECT id, key_digest FROM certificate WHERE device = $1")
            .bind(row.id)
            .fetch_all(&mut *tx)
            .await?;
    sqlx::query(
        "UPDATE certificate SET status = $1, revoked_at_ms = $2, revoked_reason = $3
         WHERE device = $4 AND revoked_at_ms IS NULL",
    )
    .bind(CertificateStatus::Revoked.as_str())
    .bind(int(stamp.at_ms))
    .bind(reason.as_str())
    .bind(row.id)
    .execute(&mut *tx)
    .await?;
    let mut dead = Vec::with_capacity(certificates.len());
    let mut stones = vec![("serial", format!("{}/{}", row.tenant, row.serial))];
    for (id, key) in certificates {
        let id = CertificateId(digest(&id, "a certificate's id")?);
        stones.push(("certificate", id.to_string()));
        stones.push(("key", hex::encode(key)));
        dead.push(id);
    }
    for (kind, value) in stones {
        bury(tx, kind, &value, row.id, stamp.generation, stamp.at_ms).await?;
    }
    Ok(dead)
}

/// A tombstone: what it names is never let in again.
pub(super) async fn bury(
    tx: &mut Connection,
    kind: &str,
    value: &str,
    device: i64,
    generation: Generation,
    at_ms: u64,
) -> Result<(), RegistryError> {
    sqlx::query(
        "INSERT INTO tombstone (kind, value, device, generation, at_ms) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (kind, value) DO NOTHING",
    )
    .bind(kind)
    .bind(value)
    .bind(device)
    .bind(int(generation.0))
    .bind(int(at_ms))
    .execute(tx)
    .await?;
    Ok(())
}

/// What a revocation of its group comes to for a device: its state, its certificates, its tombstones. `None`:
/// it cannot be revoked any more. The group's decision has the audit row and ends the sessions.
pub(super) async fn revoke_member(
    tx: &mut Connection,
    id: i64,
    reason: RevocationReason,
    stamp: Stamp,
) -> Result<Option<Vec<CertificateId>>, RegistryError> {
    let row = load(tx, id).await?;
    let Ok(to) = row.state.step(Act::Revoke, row.ever_connected) else { return Ok(None) };
    set_state(tx, &row, to, stamp, None).await?;
    revoke_certificates(tx, &row, reason, stamp).await.map(Some)
}

/// What a decommissioned device said and did. Its row, its certificates and the audit log stay, and so do its
/// messages in the uplink log, which services may not have read: they go when `retention.uplink_days` is over.
async fn remove_data(tx: &mut Connection, id: i64) -> Result<(), RegistryError> {
    sqlx::query("DELETE FROM newest WHERE device = $1").bind(id).execute(&mut *tx).await?;
    sqlx::query("DELETE FROM session WHERE device = $1").bind(id).execute(&mut *tx).await?;
    sqlx::query("DELETE FROM refusal WHERE device = $1").bind(id).execute(&mut *tx).await?;
    sqlx::query("DELETE FROM notice WHERE device = $1").bind(id).execute(&mut *tx).await?;
    sqlx::query("DELETE FROM firmware_change WHERE device = $1").bind(id).execute(&mut *tx).await?;
    twin::forget(&mut *tx, id).await?;
    commands::forget(&mut *tx, id).await?;
    continuity::forget(tx, id).await
}
