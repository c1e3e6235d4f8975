//! What is kept beside the segments: written with them, read when the file is opened.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use sqlx::{QueryBuilder, Sqlite};

use super::StoreError;
use crate::{
    registry::sqlite::{Connection, int, uint},
    uplink::{
        Addressed, Position, SavedSession, SessionKey, StoredMessage,
        delta::Delta,
        expiry::expires_ms,
        owners::owner,
        queues::{self, Queues},
        retained, segment,
    },
};

/// Rows of one statement: with four values each, far below the values a statement may have.
const ROWS: usize = 1000;

/// Writes the net changes of a batch. Only inside a transaction.
pub(super) async fn write(
    connection: &mut Connection,
    delta: &Delta,
    now_ms: u64,
) -> Result<(), sqlx::Error> {
    let gone: Vec<_> = delta.sessions.iter().filter(|(_, row)| row.is_none()).map(|(id, _)| *id).collect();
    ids(
        connection,
        "DELETE FROM queue WHERE (session, position) IN
         (SELECT value ->> 0, value ->> 1 FROM json_each($1))",
        &pairs(&delta.unqueued),
    )
    .await?;
    // Before the new ones: a session that was forgotten may have come back under another number.
    ids(connection, "DELETE FROM session WHERE id IN (SELECT value FROM json_each($1))", &gone).await?;
    sessions(connection, delta, now_ms).await?;
    held(connection, delta).await?;
    ids(
        connection,
        "INSERT INTO queue (session, position)
         SELECT value ->> 0, value ->> 1 FROM json_each($1)",
        &pairs(&delta.queued),
    )
    .await?;
    let released: Vec<_> = delta.released.iter().map(|position| int(position.0)).collect();
    ids(connection, "DELETE FROM held WHERE position IN (SELECT value FROM json_each($1))", &released)
        .await?;
    retained(connection, delta).await
}

fn pairs<'p>(pairs: impl IntoIterator<Item = &'p (i64, Position)>) -> Vec<(i64, i64)> {
    pairs.into_iter().map(|(session, position)| (*session, int(position.0))).collect()
}

/// One statement over a list of numbers; none when the list is empty.
async fn ids<T: serde::Serialize>(
    connection: &mut Connection,
    sql: &'static str,
    list: &[T],
) -> Result<(), sqlx::Error> {
    if list.is_empty() {
        return Ok(());
    }
    let list = serde_json::to_string(list).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    sqlx::query(sql).bind(list).execute(connection).await?;
    Ok(())
}

async fn sessions(connection: &mut Connection, delta: &Delta, now_ms: u64) -> Result<(), sqlx::Error> {
    let saved: Vec<_> = delta.sessions.iter().filter_map(|(id, row)| Some((*id, row.as_ref()?))).collect();
    for rows in saved.chunks(ROWS) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO session (id, key, state, at_ms) ");
        query.push_values(rows, |mut values, (id, row)| {
            values
                .push_bind(*id)
                .push_bind(row.key.clone())
                .push_bind(row.state.to_vec())
                .push_bind(int(now_ms));
        });
        query.push(" ON CONFLICT (id) DO UPDATE SET state = excluded.state, at_ms = excluded.at_ms");
        query.build().persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

async fn held(connection: &mut Connection, delta: &Delta) -> Result<(), sqlx::Error> {
    let held: Vec<_> = delta.held.iter().collect();
    for rows in held.chunks(ROWS) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO held (position, checksum, body) ");
        query.push_values(rows, |mut values, (position, body)| {
            let sum = segment::checksum(**position, 1, body).to_vec();
            values.push_bind(int(position.0)).push_bind(sum).push_bind(body.to_vec());
        });
        query.build().persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

async fn retained(connection: &mut Connection, delta: &Delta) -> Result<(), sqlx::Error> {
    let gone: Vec<_> =
        delta.retained.iter().filter(|(_, entry)| entry.is_none()).map(|(topic, _)| topic).collect();
    ids(connection, "DELETE FROM retained WHERE topic IN (SELECT value FROM json_each($1))", &gone).await?;
    let kept: Vec<_> =
        delta.retained.iter().filter_map(|(topic, entry)| Some((topic, entry.as_ref()?))).collect();
    for rows in kept.chunks(ROWS) {
        let mut query =
            QueryBuilder::<Sqlite>::new("INSERT INTO retained (topic, position, checksum, body) ");
        query.push_values(rows, |mut values, (topic, entry)| {
            let sum = segment::checksum(entry.position, 1, &entry.body).to_vec();
            values.push_bind(topic.to_string()).push_bind(int(entry.position.0));
            values.push_bind(sum).push_bind(entry.body.to_vec());
        });
        query.push(
            " ON CONFLICT (topic) DO UPDATE SET position = excluded.position,
            checksum = excluded.checksum, body = excluded.body",
        );
        query.build().persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Everything kept, as the file has it.
pub(in crate::uplink) struct Kept {
    /// By number, as the file counts them.
    ids: BTreeMap<i64, usize>,
    /// With their queues.
    pub(in crate::uplink) sessions: Vec<SavedSession>,
    /// Octets each held message takes.
    sizes: HashMap<Position, usize>,
    /// What is retained, by topic.
    pub(in crate::uplink) retained: BTreeMap<Box<str>, retained::Entry>,
}

impl Kept {
    pub(super) async fn read(connection: &mut Connection) -> Result<Self, StoreError> {
        let mut kept = Self {
            ids: BTreeMap::new(),
            sessions: Vec::new(),
            sizes: HashMap::new(),
            retained: retained_rows(connection).await?,
        };
        let rows: Vec<(i64, String, Vec<u8>, i64)> =
            sqlx::query_as("SELECT id, key, state, at_ms FROM session ORDER BY id")
                .fetch_all(&mut *connection)
                .await?;
        for (id, key, state, at_ms) in rows {
            kept.ids.insert(id, kept.sessions.len());
            let (key, saved_ms) = (key.parse()?, uint(at_ms));
            kept.sessions.push(SavedSession { key, state: state.into(), saved_ms, queue: Vec::new() });
        }
        let mut messages = HashMap::new();
        let rows: Vec<(i64, Vec<u8>, Vec<u8>)> =
            sqlx::query_as("SELECT position, checksum, body FROM held").fetch_all(&mut *connection).await?;
        for (position, sum, body) in rows {
            let (position, body) = (Position(uint(position)), Bytes::from(body));
            kept.sizes.insert(position, body.len());
            messages.insert(position, Arc::new(one(position, &sum, &body)?));
        }
        let rows: Vec<(i64, i64)> =
            sqlx::query_as("SELECT session, position FROM queue ORDER BY session, position")
                .fetch_all(&mut *connection)
                .await?;
        for (id, position) in rows {
            let position = Position(uint(position));
            if let (Some(at), Some(message)) = (kept.ids.get(&id), messages.get(&position)) {
                kept.sessions[*at].queue.push((position, message.clone()));
            }
        }
        Ok(kept)
    }

    /// The queues, as the writer knows them.
    pub(in crate::uplink) fn queues(&self) -> Queues {
        let mut queues = Queues::default();
        for (id, at) in &self.ids {
            let session = &self.sessions[*at];
            queues.load(*id, session.key.clone());
            for (position, message) in &session.queue {
                let (size, qos) = (self.sizes.get(position).copied().unwrap_or(0), message.qos);
                let expires_ms = expires_ms(&message.properties, message.received_ms);
                queues.load_entry(&session.key, queues::Entry { position: *position, size, qos, expires_ms });
            }
        }
        queues
    }

    /// The queued messages after `position`, with the queues that hold them.
    pub(in crate::uplink) fn addressed_after(&self, position: Position) -> Vec<Addressed> {
        let mut found: BTreeMap<Position, (Arc<StoredMessage>, Vec<SessionKey>)> = BTreeMap::new();
        for session in &self.sessions {
            for (at, message) in session.queue.iter().filter(|(at, _)| *at > position) {
                let (_, keys) = found.entry(*at).or_insert_with(|| (message.clone(), Vec::new()));
                keys.push(session.key.clone());
            }
        }
        let addressed = |(position, (message, queued))| Addressed {
            position,
            message,
            queued,
            missed: Vec::new(),
            dropped: Vec::new(),
        };
        found.into_iter().map(addressed).collect()
    }
}

/// One session, with its queue; `None` when there is none.
pub(super) async fn session(
    connection: &mut Connection,
    key: &SessionKey,
) -> Result<Option<SavedSession>, StoreError> {
    let row: Option<(i64, Vec<u8>, i64)> =
        sqlx::query_as("SELECT id, state, at_ms FROM session WHERE key = $1")
            .bind(key.to_string())
            .fetch_optional(&mut *connection)
            .await?;
    let Some((id, state, at_ms)) = row else { return Ok(None) };
    let rows: Vec<(i64, Vec<u8>, Vec<u8>)> = sqlx::query_as(
        "SELECT held.position, checksum, body FROM queue JOIN held ON held.position = queue.position
         WHERE session = $1 ORDER BY held.position",
    )
    .bind(id)
    .fetch_all(connection)
    .await?;
    let mut queue = Vec::new();
    for (position, sum, body) in rows {
        let position = Position(uint(position));
        queue.push((position, Arc::new(one(position, &sum, &body.into())?)));
    }
    Ok(Some(SavedSession { key: key.clone(), state: state.into(), saved_ms: uint(at_ms), queue }))
}

/// Checks and reads a body of one message.
fn one(position: Position, sum: &[u8], body: &Bytes) -> Result<StoredMessage, segment::SegmentError> {
    if segment::checksum(position, 1, body) != sum {
        return Err(segment::SegmentError::Checksum { first: position.0 });
    }
    segment::read_one(position, body)
}

async fn retained_rows(
    connection: &mut Connection,
) -> Result<BTreeMap<Box<str>, retained::Entry>, StoreError> {
    let rows: Vec<(String, i64, Vec<u8>, Vec<u8>)> =
        sqlx::query_as("SELECT topic, position, checksum, body FROM retained").fetch_all(connection).await?;
    let mut all = BTreeMap::new();
    for (topic, position, sum, body) in rows {
        let (position, body) = (Position(uint(position)), Bytes::from(body));
        let message = one(position, &sum, &body)?;
        let expires_ms = expires_ms(&message.properties, message.received_ms);
        let owner = owner(&topic, &message);
        all.insert(topic.into(), retained::Entry { position, body, expires_ms, owner });
    }
    Ok(all)
}
