//! How a SQLite file of ours is opened, by the programs' own driver: the uplink log's, and what reads the
//! registry's at full speed.
//!
//! `synchronous=FULL` is set because nobody sets it for us: a commit that has returned is on disk.

use std::{path::Path, time::Duration};

use sqlx::{
    SqlSafeStr, SqliteConnection, SqlitePool,
    migrate::{Migrate, Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

/// A connection to a file.
pub(crate) type Connection = SqliteConnection;
/// A pool of connections that only read.
pub(crate) type Pool = SqlitePool;

/// How long a writer waits for another process's lock before it fails.
const BUSY: Duration = Duration::from_secs(5);
/// Connections that read: one for each core and a few for slow pages.
const READERS: u32 = 4;

/// Pages a connection keeps of a file, KiB: what is appended and read in its order is seldom met again, and the
/// kernel has it as well. SQLite's own is four times that, for each connection.
const CACHE_KIB: u32 = 512;

/// A migration: its number, its name, its text.
pub(crate) type Step = (i64, &'static str, &'static str);

/// How every file of ours is opened.
pub(crate) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .pragma("cache_size", format!("-{CACHE_KIB}"))
}

/// Connections that only read a file that is there. `ahead` is how many rows may be read before they are
/// asked for: it bounds the memory of a reader of large rows.
pub(crate) async fn readers(path: &Path, ahead: usize) -> Result<Pool, sqlx::Error> {
    let options = options(path).create_if_missing(false).pragma("query_only", "ON").row_buffer_size(ahead);
    SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await
}

/// Brings a schema up to date. Refuses one that a newer program has upgraded.
pub(crate) async fn migrate<C: Migrate>(
    connection: &mut C,
    steps: &[Step],
) -> Result<(), sqlx::migrate::MigrateError> {
    let migrations = steps
        .iter()
        .map(|&(version, name, sql)| {
            Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
        })
        .collect();
    Migrator::with_migrations(migrations).run_direct(None, connection, false).await
}

/// A count or a time, as a database keeps it.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// And back. A negative one was never written.
pub(crate) fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
