//! What only PostgreSQL has: a version, a session that is set up, a lock for the one who writes.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use super::Connection;
use crate::registry::error::RegistryError;

/// The oldest version the suite runs on.
const VERSION_MIN: i64 = 150_000;
/// What a connection that only reads is told: each of its transactions sees one state of the registry.
pub(super) const READS: &str =
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY";
/// And one that writes: a commit that has returned is on disk, whatever the server's default is; that a table
/// is there already is nobody's news.
const WRITES: &str = "SET synchronous_commit = on; SET client_min_messages = warning";
/// How long a lock that the server has not yet taken from a connection of ours that broke is waited for.
const LOCK_TRIES: u32 = 100;
const LOCK_AGAIN: std::time::Duration = std::time::Duration::from_millis(50);

/// Sets a connection up to write, and refuses a server that cannot keep what it confirms.
pub(super) async fn prepare_writer(connection: &mut Connection) -> Result<(), RegistryError> {
    sqlx::raw_sql(WRITES).execute(&mut *connection).await?;
    let (version, encoding, fsync): (i64, String, String) = sqlx::query_as(
        "SELECT CAST(current_setting('server_version_num') AS BIGINT), current_setting('server_encoding'),
                current_setting('fsync')",
    )
    .fetch_one(connection)
    .await?;
    let unfit = |why: String| Err(RegistryError::Unfit(why));
    if version < VERSION_MIN {
        let (major, oldest) = (version / 10_000, VERSION_MIN / 10_000);
        return unfit(format!("the server is PostgreSQL {major}; {oldest} is the oldest this runs on"));
    }
    if encoding != "UTF8" {
        return unfit(format!("the database's encoding is {encoding}, not UTF8"));
    }
    if fsync != "on" {
        return unfit(format!("the server runs with fsync = {fsync}: what it confirms is not on disk"));
    }
    Ok(())
}

/// Takes the registry's lock, for as long as the connection lives. The first number is "MUST" in ASCII, the
/// second says which schema of the database.
pub(super) async fn lock(connection: &mut Connection) -> Result<(), RegistryError> {
    for left in (0..LOCK_TRIES).rev() {
        let (taken,): (bool,) =
            sqlx::query_as("SELECT pg_try_advisory_lock(1297437524, hashtext(current_schema()))")
                .fetch_one(&mut *connection)
                .await?;
        if taken {
            return Ok(());
        }
        if left > 0 {
            tokio::time::sleep(LOCK_AGAIN).await;
        }
    }
    let holder: Option<(i64, String)> = sqlx::query_as(
        "SELECT CAST(a.pid AS BIGINT), coalesce(host(a.client_addr), 'the database''s own host')
         FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid JOIN pg_database d ON d.oid = l.database
         WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 1297437524 AND l.objsubid = 2
           AND d.datname = current_database() LIMIT 1",
    )
    .fetch_optional(connection)
    .await?;
    Err(RegistryError::Held(match holder {
        Some((pid, host)) => format!("by a server on {host} (its session of the database is process {pid})"),
        None => "by another server".to_owned(),
    }))
}

/// The name this process writes under.
#[derive(Debug)]
pub(super) struct Holder(String);

impl Holder {
    /// A new name.
    pub(super) fn new() -> Result<Self, RegistryError> {
        let mut name = [0_u8; 16];
        SystemRandom::new()
            .fill(&mut name)
            .map_err(|_| RegistryError::Database("the system's random source failed".into()))?;
        Ok(Self(hex::encode(name)))
    }

    /// Writes it into the registry, which this process has locked.
    pub(super) async fn take(&self, connection: &mut Connection) -> Result<(), RegistryError> {
        sqlx::query("UPDATE registry SET holder = $1 WHERE one = 1")
            .bind(&self.0)
            .execute(connection)
            .await?;
        Ok(())
    }

    /// Whether nobody else has held the registry since.
    pub(super) async fn check(&self, connection: &mut Connection) -> Result<(), RegistryError> {
        let (holder,): (Option<String>,) =
            sqlx::query_as("SELECT holder FROM registry WHERE one = 1").fetch_one(connection).await?;
        if holder.as_deref() == Some(self.0.as_str()) {
            return Ok(());
        }
        Err(RegistryError::Held("since this server lost its connection to it, by another server".to_owned()))
    }
}
