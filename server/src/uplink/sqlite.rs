//! The log's file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use sqlx::Connection as _;

pub(super) use self::kept::Kept;
use super::{
    Keep, Position, SavedSession, SessionKey, batch::State, dedup::Windows, delta::Delta, owners::Owners,
    retained::Retained, segment, session::SessionKeyError,
};
use crate::registry::{Verdicts, now_ms, sqlite as backend};

mod kept;

/// The log's schema.
const STEPS: &[backend::Step] = &[
    (1, "uplink", include_str!("../../migrations/sqlite/uplink/0001_uplink.sql")),
    (2, "sessions", include_str!("../../migrations/sqlite/uplink/0002_sessions.sql")),
];

/// Messages at the end of the log that the windows are rebuilt from. A device that was told nothing about
/// its last message sends it again as soon as it is back; this is how much others may have sent meanwhile.
const TAIL: u64 = 1 << 18;
/// Segments, and octets, of one removal: a batch of the log's own size waits as long for its turn.
const TRIM_ROWS: i64 = 64;
const TRIM_OCTETS: u64 = 4 << 20;
/// Segments read ahead: each is at most a batch.
const AHEAD: usize = 4;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The database said no.
    #[error("the uplink log's database failed")]
    Database(#[from] sqlx::Error),
    /// Its schema cannot be brought up to date.
    #[error("the uplink log's schema cannot be upgraded")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A segment of the tail, or a message that is kept, is not what was written.
    #[error(transparent)]
    Segment(#[from] segment::SegmentError),
    /// A session's row names nobody's.
    #[error(transparent)]
    Session(#[from] SessionKeyError),
    /// The system's random source failed.
    #[error("the system's random source failed")]
    Random,
}

/// What a removal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trim {
    /// Octets of the file that hold something now.
    pub(super) used: u64,
    /// Segments removed; none: there is nothing beyond what is kept.
    pub(super) segments: u64,
}

/// The open file, its connection, and where it ends.
pub(super) struct Log {
    connection: backend::Connection,
    pub(super) node: u64,
    pub(super) last: Position,
}

/// A file that was opened, and what it holds.
pub(super) struct Opened {
    pub(super) log: Log,
    pub(super) state: State,
    pub(super) kept: Kept,
}

/// A segment as a row holds it.
pub(super) type Row = (i64, i64, Vec<u8>, Vec<u8>);

pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(super::FILE)
}

impl Log {
    /// Opens the file, upgrades it, reads where it ends and what is kept, and rebuilds the windows from its
    /// tail. `shown` shows what is retained.
    pub(super) async fn open(
        path: &Path,
        verdicts: &Verdicts,
        shown: &Arc<Retained>,
    ) -> Result<Opened, StoreError> {
        let mut connection = backend::Connection::connect_with(&backend::options(path)).await?;
        backend::migrate(&mut connection, STEPS).await?;
        let mut octets = [0_u8; 8];
        SystemRandom::new().fill(&mut octets).map_err(|_| StoreError::Random)?;
        sqlx::query(
            "INSERT INTO log (one, node, created_at_ms) VALUES (1, $1, $2) ON CONFLICT (one) DO NOTHING",
        )
        .bind(i64::from_be_bytes(octets))
        .bind(backend::int(now_ms()))
        .execute(&mut connection)
        .await?;
        let (node,): (i64,) =
            sqlx::query_as("SELECT node FROM log WHERE one = 1").fetch_one(&mut connection).await?;
        let last = last(&mut connection).await?;
        let mut log = Self { connection, node: node.cast_unsigned(), last };
        let windows = log.windows(verdicts).await?;
        let mut kept = Kept::read(&mut log.connection).await?;
        let owners = Owners::load(shown.clone(), std::mem::take(&mut kept.retained));
        let state = State { windows, queues: kept.queues(), owners };
        Ok(Opened { log, state, kept })
    }

    /// Commits a segment of `count` messages, none when there are none, and what changes beside it, all or
    /// nothing. When this returns `Ok` it is on disk.
    pub(super) async fn commit(
        &mut self,
        count: u32,
        body: Vec<u8>,
        delta: &Delta,
        now_ms: u64,
    ) -> Result<(), sqlx::Error> {
        let first = Position(self.last.0 + 1);
        if delta.is_empty() {
            // One statement is its own transaction: it returns when the commit has.
            insert(&mut self.connection, first, count, body, now_ms).await?;
        } else {
            let mut transaction = self.connection.begin().await?;
            if count > 0 {
                insert(&mut transaction, first, count, body, now_ms).await?;
            }
            kept::write(&mut transaction, delta, now_ms).await?;
            transaction.commit().await?;
        }
        self.last = Position(self.last.0 + u64::from(count));
        Ok(())
    }

    /// Commits a page, changed and changed back: a file that can be opened and read may be on a disk that is
    /// full. A page that is written as it is would not leave SQLite's memory.
    pub(super) async fn try_write(&mut self) -> Result<(), sqlx::Error> {
        let mut transaction = self.connection.begin().await?;
        for by in [1, -1] {
            let change = sqlx::query("UPDATE log SET created_at_ms = created_at_ms + $1 WHERE one = 1");
            change.bind(by).execute(&mut *transaction).await?;
        }
        transaction.commit().await
    }

    /// Removes some of the oldest segments that are beyond what is kept, a bounded number in one short
    /// transaction, and never the newest: positions go on from it. Says whether there may be more.
    pub(super) async fn trim(&mut self, keep: Keep, now_ms: u64) -> Result<Trim, sqlx::Error> {
        let used = used(&mut self.connection).await?;
        let over = keep.octets.map_or(0, |most| used.saturating_sub(most));
        let before = keep
            .age
            .map_or(0, |age| now_ms.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
        let rows: Vec<(i64, i64, i64, i64)> =
            sqlx::query_as("SELECT first, count, at_ms, length(body) FROM segment ORDER BY first LIMIT $1")
                .bind(TRIM_ROWS)
                .fetch_all(&mut self.connection)
                .await?;
        let (mut removed, mut last) = (0, None);
        for (first, count, at_ms, octets) in rows {
            let newest = backend::uint(first + count - 1) >= self.last.0;
            let beyond = backend::uint(at_ms) < before || removed < over;
            if newest || !beyond || removed >= TRIM_OCTETS {
                break;
            }
            removed += backend::uint(octets);
            last = Some(first);
        }
        let Some(last) = last else { return Ok(Trim { used, segments: 0 }) };
        let done = sqlx::query("DELETE FROM segment WHERE first <= $1")
            .bind(last)
            .execute(&mut self.connection)
            .await?;
        Ok(Trim { used: used.saturating_sub(removed), segments: done.rows_affected() })
    }

    pub(super) async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "closing the uplink log failed");
        }
    }

    async fn windows(&mut self, verdicts: &Verdicts) -> Result<Windows, StoreError> {
        let mut windows = Windows::default();
        let from = Position(self.last.0.saturating_sub(TAIL) + 1);
        let mut rows = segments(&mut self.connection, from);
        while let Some((first, count, sum, body)) = rows.try_next().await? {
            let (first, count) = place(first, count);
            for (position, message) in segment::read_checked(first, count, &sum, &Bytes::from(body))? {
                let device = message.device().and_then(|(tenant, id)| verdicts.by_id(tenant, id));
                if let (Some(device), Some((boot, seq))) = (device, message.name) {
                    windows.put(device, boot, seq, position);
                }
            }
        }
        drop(rows);
        Ok(windows)
    }
}

async fn insert(
    connection: &mut backend::Connection,
    first: Position,
    count: u32,
    body: Vec<u8>,
    now_ms: u64,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO segment (first, count, at_ms, checksum, body) VALUES ($1, $2, $3, $4, $5)")
        .bind(backend::int(first.0))
        .bind(i64::from(count))
        .bind(backend::int(now_ms))
        .bind(segment::checksum(first, count, &body).to_vec())
        .bind(body)
        .execute(connection)
        .await?;
    Ok(())
}

/// A row's place. What does not fit the types fails the checksum, which covers it.
pub(super) fn place(first: i64, count: i64) -> (Position, u32) {
    (Position(backend::uint(first)), u32::try_from(count).unwrap_or(0))
}

/// Octets of the file that hold something: what was removed is written over before the file grows.
async fn used(connection: &mut backend::Connection) -> Result<u64, sqlx::Error> {
    let (used,): (i64,) = sqlx::query_as(
        "SELECT (p.page_count - f.freelist_count) * s.page_size
         FROM pragma_page_count() p, pragma_freelist_count() f, pragma_page_size() s",
    )
    .fetch_one(connection)
    .await?;
    Ok(backend::uint(used))
}

/// Position of the last message; 0 when there is none.
pub(super) async fn last(connection: &mut backend::Connection) -> Result<Position, sqlx::Error> {
    let last: Option<(i64, i64)> =
        sqlx::query_as("SELECT first, count FROM segment ORDER BY first DESC LIMIT 1")
            .fetch_optional(connection)
            .await?;
    Ok(Position(last.map_or(0, |(first, count)| backend::uint(first + count - 1))))
}

/// Connections that read the log.
pub(super) async fn readers(data_dir: &Path) -> Result<backend::Pool, sqlx::Error> {
    backend::readers(&path(data_dir), AHEAD).await
}

/// Segments from the one that holds `from` on, or from the first after it, in order.
pub(super) fn segments(
    connection: &mut backend::Connection,
    from: Position,
) -> impl Stream<Item = Result<Row, sqlx::Error>> + Unpin + '_ {
    sqlx::query_as(
        "SELECT first, count, checksum, body FROM segment
         WHERE first >= coalesce((SELECT s.first FROM segment s WHERE s.first <= $1
                                  ORDER BY s.first DESC LIMIT 1), $1)
             AND first + count > $1
         ORDER BY first",
    )
    .bind(backend::int(from.0))
    .fetch(connection)
}

/// One session as the file has it, with its queue; `None` when there is none.
pub(super) async fn session(
    connection: &mut backend::Connection,
    key: &SessionKey,
) -> Result<Option<SavedSession>, StoreError> {
    kept::session(connection, key).await
}
