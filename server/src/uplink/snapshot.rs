//! A copy of the log of one moment, while it is written; and a copy put in its place.

use std::path::Path;

use sqlx::Connection as _;

use super::sqlite::path;
use crate::registry::sqlite::{Connection, options};

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The database said no.
    #[error("the uplink log's database failed")]
    Database(#[from] sqlx::Error),
    /// The path cannot be given to the database.
    #[error("the path {0} is not UTF-8")]
    Path(String),
    /// The system's random source failed.
    #[error("the system's random source failed")]
    Random,
}

/// Writes what is committed now to a new file. The writer goes on; what it adds meanwhile stays in its
/// journal until this is done.
///
/// # Errors
/// [`SnapshotError`].
pub async fn write(data_dir: &Path, to: &Path) -> Result<(), SnapshotError> {
    let text = to.to_str().ok_or_else(|| SnapshotError::Path(to.display().to_string()))?;
    let mut connection = Connection::connect_with(&options(&path(data_dir)).create_if_missing(false)).await?;
    sqlx::query("VACUUM INTO $1").bind(text).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// Makes a copy a log of its own: what was read of the one it was copied from says nothing of this one, whose
/// next positions are given anew. Who had a cursor reads it from its beginning, and misses nothing.
///
/// # Errors
/// [`SnapshotError`].
pub async fn adopt(file: &Path) -> Result<(), SnapshotError> {
    let mut octets = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut octets).map_err(|_| SnapshotError::Random)?;
    let mut connection = Connection::connect_with(&options(file).create_if_missing(false)).await?;
    sqlx::query("UPDATE log SET node = $1 WHERE one = 1")
        .bind(i64::from_be_bytes(octets))
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}
