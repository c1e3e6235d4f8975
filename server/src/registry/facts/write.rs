//! Facts on their way to the file: a chunk of them is one transaction, its sessions are a few statements in all.
//! A statement is a round trip to the thread of its connection, which costs more than the row it writes.

use muster_shared::Code;

use super::{Claimed, Connected, Count, Fact, Key, Notice, SessionFact, What};
use crate::registry::{
    Inner, commands, continuity,
    database::{Connection, QueryBuilder, int},
    error::RegistryError,
    follow,
    session::{DisconnectReason, SessionId},
    verdict::Verdicts,
};

/// Writes a chunk, all or nothing.
pub(super) async fn write(inner: &Inner, rows: &[Fact]) -> Result<(), RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    sessions(&mut tx, &inner.verdicts, rows).await?;
    let counts = rows.iter().filter(|row| matches!(row, Fact::Count(..))).count() as u64;
    let mut turn = if counts > 0 { follow::turns(&mut tx, counts).await? } else { 0 };
    for row in rows {
        match row {
            Fact::Session(_) => {}
            Fact::Count(key, count) => {
                match key.what {
                    What::Refused(code) => {
                        refused(&mut tx, &inner.verdicts, key, code, count, turn).await?;
                    }
                    What::Noticed(notice) => {
                        noticed(&mut tx, &inner.verdicts, key, notice, count, turn).await?;
                    }
                }
                turn += 1;
            }
            Fact::Continuity(device) => {
                continuity::write(&mut tx, &inner.continuity, &inner.verdicts, *device).await?;
            }
            Fact::Command(settled) => commands::settled(&mut tx, &inner.verdicts, settled).await?,
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

/// Sessions of one statement, of six values each: far below the most either database takes.
const SESSIONS: usize = 512;

/// A session ends after it has begun, so all that begin, then all that end, is the order they came in.
async fn sessions(tx: &mut Connection, verdicts: &Verdicts, rows: &[Fact]) -> Result<(), RegistryError> {
    let (mut began, mut ended) = (Vec::new(), Vec::new());
    for row in rows {
        match row {
            Fact::Session(SessionFact::Began(id, session)) => began.push((*id, session)),
            Fact::Session(SessionFact::Ended(id, at_ms, why)) => ended.push((*id, *at_ms, *why)),
            Fact::Count(..) | Fact::Continuity(_) | Fact::Token(..) | Fact::Command(_) => {}
        }
    }
    for began in began.chunks(SESSIONS) {
        begin(tx, verdicts, began).await?;
    }
    for ended in ended.chunks(SESSIONS) {
        end(tx, ended).await?;
    }
    Ok(())
}

async fn begin(
    tx: &mut Connection,
    verdicts: &Verdicts,
    began: &[(SessionId, &Connected)],
) -> Result<(), RegistryError> {
    let mut query = QueryBuilder::on(
        tx,
        "INSERT INTO session (id, device, began_at_ms, remote, protocol, keep_alive_s) ",
    );
    query.push_values(began, |mut values, (id, session)| {
        values
            .push_bind(int(id.0))
            .push_bind(verdicts.row(session.device))
            .push_bind(int(session.at_ms))
            .push_bind(session.remote.to_string())
            .push_bind(i64::from(session.protocol))
            .push_bind(i64::from(session.keep_alive_s));
    });
    // A write that failed after its commit is written again: the second time changes nothing.
    query.push(" ON CONFLICT (id) DO NOTHING");
    // Only the full one is prepared for the next time.
    query.build().persistent(began.len() == SESSIONS).execute(tx).await?;
    Ok(())
}

async fn end(tx: &mut Connection, ended: &[(SessionId, u64, DisconnectReason)]) -> Result<(), RegistryError> {
    // Both databases name the columns of a list of values so.
    let mut query =
        QueryBuilder::on(tx, "UPDATE session SET ended_at_ms = fact.column2, reason = fact.column3 FROM (");
    query.push_values(ended, |mut values, (id, at_ms, why)| {
        values.push_bind(int(id.0)).push_bind(int(*at_ms)).push_bind(why.as_str());
    });
    query.push(") AS fact WHERE session.id = fact.column1 AND session.ended_at_ms IS NULL");
    query.build().persistent(ended.len() == SESSIONS).execute(tx).await?;
    Ok(())
}

async fn refused(
    tx: &mut Connection,
    verdicts: &Verdicts,
    key: &Key,
    code: Code,
    count: &Count,
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
    .bind(code.id())
    .bind(int(key.minute_ms))
    .bind(int(count.count))
    .bind(int(count.last_at_ms))
    .bind(count.remote.map(|remote| remote.to_string()))
    .bind(int(turn))
    .execute(tx)
    .await?;
    Ok(())
}

async fn noticed(
    tx: &mut Connection,
    verdicts: &Verdicts,
    key: &Key,
    notice: Notice,
    count: &Count,
    turn: u64,
) -> Result<(), RegistryError> {
    let Claimed::Device(device) = key.who else { return Ok(()) };
    let Some(device) = verdicts.row(device) else { return Ok(()) };
    let (kind, bound) = notice.parts();
    sqlx::query(
        "INSERT INTO notice (device, kind, bound, minute_ms, count, last_at_ms, remote, turn)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (device, kind, bound, minute_ms) DO UPDATE
         SET count = notice.count + excluded.count, last_at_ms = excluded.last_at_ms, remote = excluded.remote,
             turn = excluded.turn",
    )
    .bind(device)
    .bind(kind)
    .bind(i64::from(bound))
    .bind(int(key.minute_ms))
    .bind(int(count.count))
    .bind(int(count.last_at_ms))
    .bind(count.remote.map(|remote| remote.to_string()))
    .bind(int(turn))
    .execute(tx)
    .await?;
    Ok(())
}
