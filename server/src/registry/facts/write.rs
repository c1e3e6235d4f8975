//! Facts on their way to the file: a chunk of them is one transaction, its sessions are two statements in all.
//! A statement is a round trip to the thread of its connection, which costs more than the row it writes.

use serde_json::{Value, json};

use super::{Claimed, Connected, Fact, RefusalCount, RefusalKey, SessionFact};
use crate::registry::{
    Inner, continuity,
    error::RegistryError,
    follow,
    session::{DisconnectReason, SessionId},
    sqlite::{Connection, int},
    verdict::Verdicts,
};

/// Writes a chunk, all or nothing.
pub(super) async fn write(inner: &Inner, rows: &[Fact]) -> Result<(), RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    sessions(&mut tx, &inner.verdicts, rows).await?;
    let refusals = rows.iter().filter(|row| matches!(row, Fact::Refusal(..))).count() as u64;
    let mut turn = if refusals > 0 { follow::turns(&mut tx, refusals).await? } else { 0 };
    for row in rows {
        match row {
            Fact::Session(_) => {}
            Fact::Refusal(key, count) => {
                refused(&mut tx, &inner.verdicts, key, count, turn).await?;
                turn += 1;
            }
            Fact::Continuity(device) => {
                continuity::write(&mut tx, &inner.continuity, &inner.verdicts, *device).await?;
            }
            Fact::Token(id, at_ms) => {
                // A session of the web page is noted as a token is.
                let noted = match id.strip_prefix("s-") {
                    Some(_) => "UPDATE web_session SET seen_at_ms = $1 WHERE id = $2",
                    None => "UPDATE token SET last_used_ms = $1 WHERE id = $2",
                };
                sqlx::query(noted).bind(int(*at_ms)).bind(id).execute(&mut *tx).await?;
            }
        }
    }
    inner.commit(tx).await.inspect_err(|_| writer.fail())
}

/// A session ends after it has begun, so all that begin, then all that end, is the order they came in.
async fn sessions(tx: &mut Connection, verdicts: &Verdicts, rows: &[Fact]) -> Result<(), RegistryError> {
    let (mut began, mut ended) = (Vec::new(), Vec::new());
    for row in rows {
        match row {
            Fact::Session(SessionFact::Began(id, session)) => began.push(beginning(verdicts, *id, session)),
            Fact::Session(SessionFact::Ended(id, at_ms, why)) => ended.push(end(*id, *at_ms, *why)),
            Fact::Refusal(..) | Fact::Continuity(_) | Fact::Token(..) => {}
        }
    }
    if !began.is_empty() {
        // A write that failed after its commit is written again: the second time changes nothing. WHERE tells
        // the parser that what follows is no part of a join.
        sqlx::query(
            "INSERT INTO session (id, device, began_at_ms, remote, protocol, keep_alive_s)
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
             FROM json_each($1) WHERE true ON CONFLICT (id) DO NOTHING",
        )
        .bind(Value::from(began).to_string())
        .execute(&mut *tx)
        .await?;
    }
    if !ended.is_empty() {
        sqlx::query(
            "UPDATE session SET ended_at_ms = fact.value ->> 1, reason = fact.value ->> 2
             FROM json_each($1) AS fact WHERE session.id = fact.value ->> 0 AND ended_at_ms IS NULL",
        )
        .bind(Value::from(ended).to_string())
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

fn beginning(verdicts: &Verdicts, id: SessionId, session: &Connected) -> Value {
    let Connected { device, at_ms, remote, protocol, keep_alive_s } = session;
    json!([int(id.0), verdicts.row(*device), int(*at_ms), remote.to_string(), protocol, keep_alive_s])
}

fn end(id: SessionId, at_ms: u64, why: DisconnectReason) -> Value {
    json!([int(id.0), int(at_ms), why.as_str()])
}

async fn refused(
    tx: &mut Connection,
    verdicts: &Verdicts,
    key: &RefusalKey,
    count: &RefusalCount,
    turn: u64,
) -> Result<(), RegistryError> {
    let (device, claimed) = match &key.who {
        Claimed::Device(device) => (verdicts.row(*device).unwrap_or(0), String::new()),
        Claimed::Name(tenant, serial) => (0, format!("{tenant}/{serial}")),
        Claimed::Nobody => (0, String::new()),
    };
    sqlx::query(
        "INSERT INTO refusal (device, claimed, code, minute_ms, count, last_at_ms, remote, turn)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (device, claimed, code, minute_ms) DO UPDATE
         SET count = refusal.count + excluded.count, last_at_ms = excluded.last_at_ms, remote = excluded.remote,
             turn = excluded.turn",
    )
    .bind(device)
    .bind(claimed)
    .bind(key.code.id())
    .bind(int(key.minute_ms))
    .bind(int(count.count))
    .bind(int(count.last_at_ms))
    .bind(count.remote.map(|remote| remote.to_string()))
    .bind(int(turn))
    .execute(tx)
    .await?;
    Ok(())
}
