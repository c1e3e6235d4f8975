//! The SQLite backend: how a file is opened, upgraded, written and read.
//!
//! One connection writes; a small pool reads. `synchronous=FULL` is set because nobody sets it for us: a
//! commit that has returned is on disk. A connection whose commit failed is not used again, since after a
//! failed fsync nobody knows what the page cache holds: it is closed and the next writer opens a new one.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    Connection as _, SqlSafeStr, SqliteConnection, SqlitePool, Transaction,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::{Mutex, MutexGuard};

use super::error::RegistryError;

/// What portable SQL runs on.
pub(crate) type Connection = SqliteConnection;
/// The pool of connections that only read.
pub(crate) type Pool = SqlitePool;
/// A transaction of the writer.
pub(super) type Tx<'c> = Transaction<'c, sqlx::Sqlite>;
/// A row of a result.
pub(super) type Row = sqlx::sqlite::SqliteRow;
/// A statement that is put together.
pub(super) type QueryBuilder = sqlx::QueryBuilder<sqlx::Sqlite>;

/// How long a writer waits for another process's lock before it fails.
const BUSY: Duration = Duration::from_secs(5);
/// Connections that read: one for each core and a few for slow pages.
const READERS: u32 = 4;

/// A migration: its number, its name, its text.
pub(crate) type Step = (i64, &'static str, &'static str);

const REGISTRY: &[Step] = &[
    (1, "registry", include_str!("../../migrations/sqlite/registry/0001_registry.sql")),
    (2, "continuity", include_str!("../../migrations/sqlite/registry/0002_continuity.sql")),
    (3, "newest", include_str!("../../migrations/sqlite/registry/0003_newest.sql")),
    (4, "groups", include_str!("../../migrations/sqlite/registry/0004_groups.sql")),
    (10, "audit origin", include_str!("../../migrations/sqlite/registry/0010_audit_origin.sql")),
    (11, "access", include_str!("../../migrations/sqlite/registry/0011_access.sql")),
    (12, "audit checkpoint", include_str!("../../migrations/sqlite/registry/0012_audit_checkpoint.sql")),
    (20, "standing", include_str!("../../migrations/sqlite/registry/0020_standing.sql")),
    (21, "label", include_str!("../../migrations/sqlite/registry/0021_label.sql")),
    (30, "follow", include_str!("../../migrations/sqlite/registry/0030_follow.sql")),
    (31, "idempotency", include_str!("../../migrations/sqlite/registry/0031_idempotency.sql")),
    (32, "jobs", include_str!("../../migrations/sqlite/registry/0032_jobs.sql")),
    (50, "overview", include_str!("../../migrations/sqlite/registry/0050_overview.sql")),
    (51, "start", include_str!("../../migrations/sqlite/registry/0051_start.sql")),
];

impl From<sqlx::Error> for RegistryError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Box::new(error))
    }
}

/// How every file of ours is opened.
pub(crate) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
}

/// Connections that only read a file that is there. `ahead` is how many rows may be read before they are
/// asked for: it bounds the memory of a reader of large rows.
pub(crate) async fn readers(path: &Path, ahead: usize) -> Result<Pool, sqlx::Error> {
    let options = options(path).create_if_missing(false).pragma("query_only", "ON").row_buffer_size(ahead);
    SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await
}

/// Rows of the registry read ahead: they are small.
pub(super) const AHEAD: usize = 64;

/// Brings a file's schema up to date. Refuses one that a newer program has upgraded.
pub(crate) async fn migrate(
    connection: &mut Connection,
    steps: &[Step],
) -> Result<(), sqlx::migrate::MigrateError> {
    let migrations = steps
        .iter()
        .map(|(version, name, sql)| {
            Migration::new(*version, (*name).into(), MigrationType::Simple, sql.into_sql_str(), false)
        })
        .collect();
    Migrator::with_migrations(migrations).run_direct(None, connection, false).await
}

/// The registry's file.
pub(super) struct Database {
    path: PathBuf,
    writer: Mutex<Slot>,
    readers: Pool,
}

enum Slot {
    Open(Box<Connection>),
    /// The last commit failed: open a new one.
    Failed,
    Closed,
}

/// The one writer, held.
pub(super) struct Writer<'d> {
    slot: MutexGuard<'d, Slot>,
    /// The one before failed: nobody has looked yet what became of its last commit.
    pub(super) unsettled: bool,
}

impl Database {
    pub(super) async fn open(path: &Path) -> Result<Self, RegistryError> {
        let mut writer = Connection::connect_with(&options(path)).await?;
        migrate(&mut writer, REGISTRY).await.map_err(|error| RegistryError::Database(Box::new(error)))?;
        let readers = readers(path, AHEAD).await?;
        Ok(Self { path: path.to_owned(), writer: Mutex::new(Slot::Open(Box::new(writer))), readers })
    }

    /// Waits for the writer.
    pub(super) async fn writer(&self) -> Result<Writer<'_>, RegistryError> {
        let mut slot = self.writer.lock().await;
        let unsettled = matches!(*slot, Slot::Failed);
        match *slot {
            Slot::Open(_) => {}
            Slot::Closed => return Err(RegistryError::Closed),
            Slot::Failed => {
                *slot = Slot::Open(Box::new(Connection::connect_with(&options(&self.path)).await?));
            }
        }
        Ok(Writer { slot, unsettled })
    }

    pub(super) fn readers(&self) -> &Pool {
        &self.readers
    }

    /// What follows a table's name to have it read by this index. SQLite knows how many rows there are, not
    /// how many hold a value, so it is told.
    pub(super) fn by(&self, index: &str) -> String {
        format!(" INDEXED BY {index}")
    }

    /// Closes the file; what waits for the writer then fails with [`RegistryError::Closed`].
    pub(super) async fn close(&self) {
        let mut slot = self.writer.lock().await;
        self.readers.close().await;
        if let Slot::Open(connection) = std::mem::replace(&mut *slot, Slot::Closed)
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "closing the registry's file failed");
        }
    }
}

impl Writer<'_> {
    /// The connection.
    pub(super) fn connection(&mut self) -> Result<&mut Connection, RegistryError> {
        match &mut *self.slot {
            Slot::Open(connection) => Ok(connection),
            Slot::Failed | Slot::Closed => Err(RegistryError::Closed),
        }
    }

    /// Begins a transaction that holds the write lock from its start, so that what it reads is what it changes.
    pub(super) async fn begin(&mut self) -> Result<Tx<'_>, RegistryError> {
        Ok(self.connection()?.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Gives the connection up: its last commit failed and its state is not known.
    pub(super) fn fail(&mut self) {
        if !matches!(*self.slot, Slot::Closed) {
            *self.slot = Slot::Failed;
        }
    }
}

/// A count or a time, as the database keeps it.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// And back. A negative one was never written.
pub(crate) fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// 32 octets that were written as 32 octets.
pub(super) fn digest(bytes: &[u8], what: &str) -> Result<[u8; 32], RegistryError> {
    bytes.try_into().map_err(|_| RegistryError::Damaged(format!("{what} has {} octets, not 32", bytes.len())))
}

/// A word or id that was checked before it was written.
pub(super) fn parse<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, RegistryError> {
    text.parse().map_err(|_| RegistryError::Damaged(format!("{what} is {text:?}")))
}
