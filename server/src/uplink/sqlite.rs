//! The log's file.

use std::path::{Path, PathBuf};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use sqlx::Connection as _;

use super::{Position, dedup::Windows, segment};
use crate::registry::{Verdicts, now_ms, sqlite as backend};

/// The log's schema.
const STEPS: &[backend::Step] =
    &[(1, "uplink", include_str!("../../migrations/sqlite/uplink/0001_uplink.sql"))];

/// Messages at the end of the log that the windows are rebuilt from. A device that was told nothing about
/// its last message sends it again as soon as it is back; this is how much others may have sent meanwhile.
const TAIL: u64 = 1 << 18;
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
    /// A segment of the tail is not what was written.
    #[error(transparent)]
    Segment(#[from] segment::SegmentError),
    /// The system's random source failed.
    #[error("the system's random source failed")]
    Random,
}

/// The open file, its connection, and where it ends.
pub(super) struct Log {
    connection: backend::Connection,
    pub(super) node: u64,
    pub(super) last: Position,
}

/// A segment as a row holds it.
pub(super) type Row = (i64, i64, Vec<u8>, Vec<u8>);

pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(super::FILE)
}

impl Log {
    /// Opens the file, upgrades it, reads where it ends and rebuilds the windows from its tail.
    pub(super) async fn open(path: &Path, verdicts: &Verdicts) -> Result<(Self, Windows), StoreError> {
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
        Ok((log, windows))
    }

    /// Commits one segment. When this returns `Ok` it is on disk.
    pub(super) async fn append(&mut self, count: u32, body: Vec<u8>) -> Result<(), sqlx::Error> {
        let first = Position(self.last.0 + 1);
        // One statement is its own transaction: it returns when the commit has.
        sqlx::query("INSERT INTO segment (first, count, at_ms, checksum, body) VALUES ($1, $2, $3, $4, $5)")
            .bind(backend::int(first.0))
            .bind(i64::from(count))
            .bind(backend::int(now_ms()))
            .bind(segment::checksum(first, count, &body).to_vec())
            .bind(body)
            .execute(&mut self.connection)
            .await?;
        self.last = Position(self.last.0 + u64::from(count));
        Ok(())
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
                let device = verdicts.by_id(&message.tenant, &message.device_id);
                if let (Some(device), Some((boot, seq))) = (device, message.name) {
                    windows.put(device, boot, seq, position);
                }
            }
        }
        drop(rows);
        Ok(windows)
    }
}

/// A row's place. What does not fit the types fails the checksum, which covers it.
pub(super) fn place(first: i64, count: i64) -> (Position, u32) {
    (Position(backend::uint(first)), u32::try_from(count).unwrap_or(0))
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
