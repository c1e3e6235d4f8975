//! Commands with a memory: what was sent to a device, by whom, whether it has it, and what it answered.
//!
//! ```text
//! sent ──► delivered ───────────────┐
//!   ├────► queued ──► delivered ────┼──► answered
//!   │        └──────► expired       │
//!   ├────► unknown ─────────────────┘
//!   └────► refused
//! ```
//!
//! # Invariants
//!
//! - Sending one is a decision: its row, its audit row and its change are one transaction, before anything is
//!   sent. The audit log names the payload by its digest.
//! - What becomes of it afterwards is a fact, unaudited: the first answer stands, whatever was known before.
//! - What waits in a session is told by that session: delivered when the device has acknowledged it, expired when
//!   it can come to the device no more. A server that was killed in between says at its next start what is not
//!   known ([`Registry::settle_queued`]).
//! - Of each device the newest [`KEPT`] are kept, and none when it is out of use for ever.

use std::collections::HashSet;

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{
    Actor, Inner, Page, Reason, Registry, Target,
    changes::What,
    database::{Connection, int, parse, uint},
    decide::find,
    error::RegistryError,
    now_ms,
    orders::{self, Order},
    session::words,
    verdict::{DeviceKey, Verdicts},
};

/// Commands kept of a device.
pub const KEPT: i64 = 100;
/// Octets kept of an answer.
pub const ANSWER_MAX: usize = 4096;

words!(
    /// Where a command stands.
    CommandState, "command state", {
        /// It is on the record; nobody knows more.
        Sent = "sent",
        /// The device has it.
        Delivered = "delivered",
        /// It waits in the session of a device that is away.
        Queued = "queued",
        /// It waited in the session of a device that was away, for longer than it or the session lasted.
        Expired = "expired",
        /// The session ended first: the device may have it or not.
        Unknown = "unknown",
        /// Nobody took it.
        Refused = "refused",
        /// The device has answered.
        Answered = "answered",
    }
);

/// What became of a command that waited in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The device has it.
    Delivered,
    /// It comes to the device no more, for this reason.
    Expired(&'static str),
}

/// The same of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) device: DeviceKey,
    pub(super) id: Box<str>,
    pub(super) fate: Fate,
    pub(super) at_ms: u64,
}

/// What a device answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Which device.
    pub device: DeviceKey,
    /// To which command.
    pub id: String,
    /// What it said.
    pub payload: Bytes,
    /// What that is, in the device's words.
    pub content_type: Option<String>,
    /// When, Unix milliseconds.
    pub at_ms: u64,
}

/// A command, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRow {
    /// The number of its audit row: the order of commands.
    pub no: u64,
    /// Its name on topics.
    pub id: String,
    /// When it was sent, Unix milliseconds.
    pub at_ms: u64,
    /// By whom.
    pub author: String,
    /// What was sent.
    pub request: Vec<u8>,
    /// Where it stands.
    pub state: CommandState,
    /// What stood in the way; empty for nothing.
    pub why: String,
    /// When the device is known to have had it, Unix milliseconds.
    pub delivered_at_ms: Option<u64>,
    /// What the device answered.
    pub answer: Option<Kept>,
}

/// An answer, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its first [`ANSWER_MAX`] octets.
    pub payload: Vec<u8>,
    /// What it is, in the device's words.
    pub content_type: Option<String>,
    /// Its octets in all.
    pub octets: u64,
    /// When it was received, Unix milliseconds.
    pub at_ms: u64,
}

/// A command on the record, not sent yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// To which device.
    pub device: DeviceKey,
    /// The number of its audit row.
    pub no: u64,
}

/// Puts a command on the record.
async fn record(
    inner: &Inner,
    actor: &Actor,
    target: &Target,
    id: &str,
    request: &[u8],
    reason: &str,
) -> Result<Recorded, RegistryError> {
    Reason::new(reason).check_text()?;
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let row = find(&mut tx, &actor.scope.narrow(target)?).await?;
    let device = inner.verdicts.of_row(row)?;
    if let Some(code) = inner.verdicts.refusal(device) {
        return Err(RegistryError::MayNotTalk { serial: target.serial.clone(), code });
    }
    // By its digest it can be proved what was sent, for longer than it is kept.
    let detail = json!({ "command_id": id, "payload_sha256": hex::encode(Sha256::digest(request)) });
    let order = (device, Order::Command);
    let stamp = orders::append(inner, &mut tx, actor, order, reason.trim(), detail, now_ms()).await?;
    sqlx::query(
        "INSERT INTO command (no, id, device, at_ms, author, request, state, why)
         VALUES ($1, $2, $3, $4, $5, $6, $7, '')",
    )
    .bind(int(stamp.no))
    .bind(id)
    .bind(row)
    .bind(int(stamp.at_ms))
    .bind(&actor.name)
    .bind(request)
    .bind(CommandState::Sent.as_str())
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "DELETE FROM command WHERE device = $1 AND no <=
             (SELECT older.no FROM command older WHERE older.device = $1
              ORDER BY older.no DESC LIMIT 1 OFFSET $2)",
    )
    .bind(row)
    .bind(KEPT)
    .execute(&mut *tx)
    .await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Ordered { device, order: Order::Command });
    Ok(Recorded { device, no: stamp.no })
}

async fn settle(inner: &Inner, no: u64, state: CommandState, why: &str) -> Result<(), RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    // An answer that was faster says more.
    let delivered_ms = (state == CommandState::Delivered).then(|| int(now_ms()));
    sqlx::query("UPDATE command SET state = $1, why = $2, delivered_at_ms = $3 WHERE no = $4 AND state = $5")
        .bind(state.as_str())
        .bind(why)
        .bind(delivered_ms)
        .bind(int(no))
        .bind(CommandState::Sent.as_str())
        .execute(&mut *tx)
        .await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())
}

/// Writes what became of a command that waited. It may be told before the one who sent it has written that it
/// waits. Can be repeated.
pub(super) async fn settled(
    tx: &mut Connection,
    verdicts: &Verdicts,
    settled: &Settled,
) -> Result<(), RegistryError> {
    let Some(device) = verdicts.row(settled.device) else { return Ok(()) };
    let (state, why, delivered_ms) = match settled.fate {
        Fate::Delivered => (CommandState::Delivered, "", Some(int(settled.at_ms))),
        Fate::Expired(why) => (CommandState::Expired, why, None),
    };
    // An answer that was faster says more; when the device had it, it does not say.
    sqlx::query(
        "UPDATE command SET delivered_at_ms = coalesce(delivered_at_ms, $1),
                state = CASE WHEN state = 'sent' OR state = 'queued' THEN $2 ELSE state END,
                why = CASE WHEN state = 'sent' OR state = 'queued' THEN $3 ELSE why END
         WHERE device = $4 AND id = $5 AND (state = 'sent' OR state = 'queued' OR state = 'answered')",
    )
    .bind(delivered_ms)
    .bind(state.as_str())
    .bind(why)
    .bind(device)
    .bind(&*settled.id)
    .execute(tx)
    .await?;
    Ok(())
}

/// Commands that are said to be on their way, or to wait, and wait in no session: what became of them was not
/// written in time. Those that do wait are said to. Before anybody can send a new one.
async fn settle_queued(inner: &Inner, waiting: &HashSet<(DeviceKey, String)>) -> Result<(), RegistryError> {
    let rows: Vec<(i64, i64, String, String)> =
        // In the words of the index.
        sqlx::query_as("SELECT no, device, id, state FROM command WHERE state IN ('sent', 'queued')")
            .fetch_all(inner.database.readers())
            .await?;
    let mut changed = Vec::new();
    for (no, device, id, state) in rows {
        let (now, why) = if waiting.contains(&(inner.verdicts.of_row(device)?, id)) {
            (CommandState::Queued, "")
        } else {
            (CommandState::Unknown, "the server ended before it was written down whether the device has it")
        };
        if now.as_str() != state {
            changed.push((no, state, now, why));
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    for (no, state, now, why) in changed {
        sqlx::query("UPDATE command SET state = $1, why = $2 WHERE no = $3 AND state = $4")
            .bind(now.as_str())
            .bind(why)
            .bind(no)
            .bind(state)
            .execute(&mut *tx)
            .await?;
    }
    inner.commit(tx).await.inspect_err(|_| writer.fail())
}

/// Takes answers to commands that are kept and have none yet.
async fn take(inner: &Inner, answers: &[Answer]) -> Result<(), RegistryError> {
    let mut open = Vec::new();
    {
        // Looked up before the writer is asked for: a device that answers what nobody asked keeps nobody waiting.
        let mut connection = inner.database.readers().acquire().await?;
        for answer in answers {
            let Some(device) = inner.verdicts.row(answer.device) else { continue };
            let found: Option<(i64,)> = sqlx::query_as(
                "SELECT no FROM command WHERE device = $1 AND id = $2 AND answered_at_ms IS NULL",
            )
            .bind(device)
            .bind(&answer.id)
            .fetch_optional(&mut *connection)
            .await?;
            open.extend(found.map(|(no,)| (no, answer)));
        }
    }
    if open.is_empty() {
        return Ok(());
    }
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    for (no, answer) in open {
        sqlx::query(
            "UPDATE command SET state = $1, why = '', answer = $2, answer_type = $3, answer_octets = $4,
                    answered_at_ms = $5 WHERE no = $6 AND answered_at_ms IS NULL",
        )
        .bind(CommandState::Answered.as_str())
        .bind(&answer.payload[..answer.payload.len().min(ANSWER_MAX)])
        // Text of the device's, which PostgreSQL takes without NUL.
        .bind(answer.content_type.as_deref().filter(|text| !text.contains('\0')))
        .bind(int(answer.payload.len() as u64))
        .bind(int(answer.at_ms))
        .bind(no)
        .execute(&mut *tx)
        .await?;
    }
    inner.commit(tx).await.inspect_err(|_| writer.fail())
}

type Columns = (
    i64,
    String,
    i64,
    String,
    Vec<u8>,
    String,
    String,
    Option<Vec<u8>>,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
);

const COLUMNS: &str = "SELECT no, id, at_ms, author, request, state, why, answer, answer_type, answer_octets,
     answered_at_ms, delivered_at_ms FROM command";

fn row(columns: Columns) -> Result<CommandRow, RegistryError> {
    let (no, id, at_ms, author, request, state, why, answer, content_type, octets, answered, delivered) =
        columns;
    let answer = match (answer, octets, answered) {
        (Some(payload), Some(octets), Some(at_ms)) => {
            Some(Kept { payload, content_type, octets: uint(octets), at_ms: uint(at_ms) })
        }
        _ => None,
    };
    let state = parse(&state, "a command's state")?;
    Ok(CommandRow {
        no: uint(no),
        id,
        at_ms: uint(at_ms),
        author,
        request,
        state,
        why,
        delivered_at_ms: delivered.map(uint),
        answer,
    })
}

/// Of what is out of use nothing is kept of what it was told.
pub(super) async fn forget(tx: &mut Connection, device: i64) -> Result<(), RegistryError> {
    sqlx::query("DELETE FROM command WHERE device = $1").bind(device).execute(tx).await?;
    Ok(())
}

impl Registry {
    /// Puts a command to a device on the record; call it before sending it.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device, the code of why it may not talk for one that may not.
    pub async fn record_command(
        &self,
        actor: &Actor,
        target: impl Into<Target>,
        id: &str,
        request: &[u8],
        reason: &str,
    ) -> Result<Recorded, RegistryError> {
        let (actor, target, id) = (actor.clone(), target.into(), id.to_owned());
        let (request, reason) = (request.to_vec(), reason.to_owned());
        self.run(|inner| async move { record(&inner, &actor, &target, &id, &request, &reason).await }).await
    }

    /// What became of sending a command. An answer that is there already stands. Unaudited.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn settle_command(&self, no: u64, state: CommandState, why: &str) -> Result<(), RegistryError> {
        let why = why.to_owned();
        self.run(|inner| async move { settle(&inner, no, state, &why).await }).await
    }

    /// At a start, with the commands that wait in sessions, by device and name: those that are said to wait, or
    /// to be on their way, and do not wait are said to be unknown. Unaudited.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn settle_queued(&self, waiting: HashSet<(DeviceKey, String)>) -> Result<(), RegistryError> {
        self.run(|inner| async move { settle_queued(&inner, &waiting).await }).await
    }

    /// Takes what devices answered; what nobody asked is passed over. Can be repeated. Unaudited.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn take_answers(&self, answers: Vec<Answer>) -> Result<(), RegistryError> {
        if answers.is_empty() {
            return Ok(());
        }
        self.run(|inner| async move { take(&inner, &answers).await }).await
    }

    /// Commands sent to a device, newest first; `after` is the `next` of the page before.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device, M504 for a cursor that is none.
    pub async fn commands(
        &self,
        target: impl Into<Target>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<CommandRow>, RegistryError> {
        let wrong = |_| RegistryError::Value { what: "after", why: "it is no cursor of commands".to_owned() };
        let before: i64 = after.map_or(Ok(i64::MAX), str::parse).map_err(wrong)?;
        let mut connection = self.inner.database.readers().acquire().await?;
        let device = find(&mut connection, &target.into()).await?;
        let (total,): (i64,) = sqlx::query_as("SELECT count(*) FROM command WHERE device = $1")
            .bind(device)
            .fetch_one(&mut *connection)
            .await?;
        let sql = format!("{COLUMNS} WHERE device = $1 AND no < $2 ORDER BY no DESC LIMIT $3");
        let rows: Vec<Columns> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(device)
            .bind(before)
            // One more than asked for says whether there is more.
            .bind(i64::from(limit) + 1)
            .fetch_all(&mut *connection)
            .await?;
        let more = rows.len() > limit as usize;
        let rows = rows.into_iter().take(limit as usize);
        let items = rows.map(row).collect::<Result<Vec<_>, _>>()?;
        let next = items.last().filter(|_| more).map(|last| last.no.to_string());
        Ok(Page { items, next, total: uint(total), exact: true })
    }

    /// One command sent to a device, by its name.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device, M510 for no such command.
    pub async fn command(&self, target: impl Into<Target>, id: &str) -> Result<CommandRow, RegistryError> {
        let mut connection = self.inner.database.readers().acquire().await?;
        let device = find(&mut connection, &target.into()).await?;
        let sql = format!("{COLUMNS} WHERE device = $1 AND id = $2");
        let found: Option<Columns> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(device)
            .bind(id)
            .fetch_optional(&mut *connection)
            .await?;
        row(found.ok_or_else(|| RegistryError::CommandUnknown(id.to_owned()))?)
    }
}
