//! The file of the history: one writer, a few readers.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::TryStreamExt as _;
use sqlx::{Connection as _, QueryBuilder};
use tokio::sync::{Mutex, MutexGuard};

use super::{
    Cursor, HistoryError, Whose,
    chart::Range,
    points::{DAY_S, Points},
};
use crate::registry::sqlite::{self as backend, Step, int, uint};

const STEPS: &[Step] = &[(1, "history", include_str!("../../../migrations/sqlite/history/0001_history.sql"))];
/// Rows a reader reads ahead.
const AHEAD: usize = 64;
const DAY_MS: u64 = DAY_S * 1000;
/// Devices whose rows of an old day go in one transaction.
const CHUNK: i64 = 2000;

/// Rows of one statement, of five values at most.
const ROWS: usize = 256;

#[derive(Clone)]
pub(super) struct Store {
    path: PathBuf,
    writer: Arc<Mutex<Option<backend::Connection>>>,
    readers: backend::Pool,
}

impl Store {
    pub(super) async fn open(path: &Path) -> Result<Self, HistoryError> {
        let mut writer = backend::Connection::connect_with(&backend::options(path)).await?;
        backend::migrate(&mut writer, STEPS)
            .await
            .map_err(|error| HistoryError::Database(Box::new(error)))?;
        let readers = backend::readers(path, AHEAD).await?;
        Ok(Self { path: path.to_owned(), writer: Arc::new(Mutex::new(Some(writer))), readers })
    }

    /// The connection that writes; none when it was closed. One that waits for the end of a transaction is not used
    /// again: a full disk has ended that inside SQLite, and the driver would wait for ever.
    async fn writer(&self) -> Result<MutexGuard<'_, Option<backend::Connection>>, HistoryError> {
        let mut writer = self.writer.lock().await;
        if let Some(connection) = &mut *writer {
            connection.ping().await?;
            if connection.is_in_transaction() {
                *connection = backend::Connection::connect_with(&backend::options(&self.path)).await?;
            }
        }
        Ok(writer)
    }

    /// Up to where the log was read.
    pub(super) async fn cursor(&self) -> Result<Cursor, HistoryError> {
        let kept: Option<(String,)> =
            sqlx::query_as("SELECT cursor FROM place WHERE one = 1").fetch_optional(&self.readers).await?;
        kept.map_or(Ok(Cursor::default()), |(text,)| text.parse().map_err(|_| HistoryError::Malformed))
    }

    pub(super) async fn devices(&self) -> Result<HashSet<Whose>, HistoryError> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT tenant, device_id FROM device").fetch_all(&self.readers).await?;
        let whose = |(tenant, id): (String, String)| Some((tenant.parse().ok()?, id.parse().ok()?));
        rows.into_iter().map(|row| whose(row).ok_or(HistoryError::Malformed)).collect()
    }

    /// Stores points and the cursor they end at, all or nothing.
    pub(super) async fn write(
        &self,
        devices: &HashMap<Whose, Points>,
        cursor: &Cursor,
        number: u64,
    ) -> Result<(), HistoryError> {
        let mut writer = self.writer().await?;
        let Some(connection) = writer.as_mut() else { return Ok(()) };
        let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
        let all: Vec<_> = devices.iter().collect();
        for some in all.chunks(ROWS) {
            put(&mut tx, some, number).await?;
        }
        sqlx::query(
            "INSERT INTO place (one, cursor) VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET cursor = excluded.cursor",
        )
        .bind(cursor.to_string())
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// Hands over what is kept of a device around a range, row by row.
    pub(super) async fn read(
        &self,
        (tenant, device_id): &Whose,
        range: &Range,
        mut take: impl FnMut(&Points),
    ) -> Result<(), HistoryError> {
        let mut connection = self.readers.acquire().await?;
        let found: Option<(i64,)> =
            sqlx::query_as("SELECT id FROM device WHERE tenant = $1 AND device_id = $2")
                .bind(tenant.as_str())
                .bind(device_id.as_str())
                .fetch_optional(&mut *connection)
                .await?;
        let Some((device,)) = found else { return Ok(()) };
        for day in range.from_ms() / DAY_MS..=(range.to_ms() - 1) / DAY_MS {
            let mut rows = sqlx::query_as::<_, (Vec<u8>,)>(
                "SELECT body FROM piece WHERE day = $1 AND device = $2 AND from_ms < $3 ORDER BY from_ms",
            )
            .bind(int(day))
            .bind(device)
            .bind(int(range.to_ms()))
            .fetch(&mut *connection);
            while let Some((body,)) = rows.try_next().await? {
                take(&Points::read(&body).map_err(|_| HistoryError::Malformed)?);
            }
        }
        Ok(())
    }

    /// Removes a device and all its points.
    pub(super) async fn forget(&self, (tenant, device_id): &Whose) -> Result<(), HistoryError> {
        let mut writer = self.writer().await?;
        let Some(connection) = writer.as_mut() else { return Ok(()) };
        let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
        // Day by day, so that each is found by the key.
        let days: Vec<(i64,)> = sqlx::query_as(
            "WITH RECURSIVE days (day) AS (SELECT min(day) FROM piece UNION ALL
             SELECT (SELECT min(piece.day) FROM piece WHERE piece.day > days.day) FROM days WHERE days.day IS NOT NULL)
             SELECT day FROM days WHERE day IS NOT NULL",
        )
        .fetch_all(&mut *tx)
        .await?;
        for (day,) in days {
            sqlx::query(
                "DELETE FROM piece WHERE day = $1
                 AND device = (SELECT id FROM device WHERE tenant = $2 AND device_id = $3)",
            )
            .bind(day)
            .bind(tenant.as_str())
            .bind(device_id.as_str())
            .execute(&mut *tx)
            .await?;
        }
        sqlx::query("DELETE FROM device WHERE tenant = $1 AND device_id = $2")
            .bind(tenant.as_str())
            .bind(device_id.as_str())
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Removes days that are over `days` old, and the oldest ones while the file holds more than `octets`.
    pub(super) async fn sweep(&self, now_ms: u64, days: u64, octets: u64) -> Result<(), HistoryError> {
        let first = (now_ms / DAY_MS).saturating_sub(days);
        loop {
            let mut writer = self.writer().await?;
            let Some(connection) = writer.as_mut() else { return Ok(()) };
            let (oldest, used): (Option<i64>, i64) = sqlx::query_as(
                "SELECT (SELECT min(day) FROM piece),
                 (SELECT (page_count - freelist_count) * page_size
                  FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size())",
            )
            .fetch_one(&mut *connection)
            .await?;
            let Some(oldest) = oldest else { return Ok(()) };
            let today = now_ms / DAY_MS;
            let full = uint(used) > octets && uint(oldest) < today;
            if uint(oldest) >= first && !full {
                return Ok(());
            }
            // In parts, so that new points do not wait long.
            sqlx::query(
                "DELETE FROM piece WHERE day = $1 AND device <= (SELECT max(device) FROM
                 (SELECT DISTINCT device FROM piece WHERE day = $1 ORDER BY device LIMIT $2))",
            )
            .bind(oldest)
            .bind(CHUNK)
            .execute(&mut *connection)
            .await?;
        }
    }

    pub(super) async fn close(&self) {
        let connection = self.writer.lock().await.take();
        self.readers.close().await;
        if let Some(connection) = connection
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "closing the history of readings failed");
        }
    }
}

/// Stores the points of some devices, which are new or known. A statement is a round trip to the connection's
/// thread, which costs more than the row it writes.
async fn put(
    tx: &mut backend::Connection,
    devices: &[(&Whose, &Points)],
    number: u64,
) -> Result<(), HistoryError> {
    let mut known = ids(tx, devices).await?;
    let new: Vec<_> = devices.iter().filter(|(whose, _)| !known.contains_key(whose)).collect();
    if !new.is_empty() {
        let mut query = QueryBuilder::new("INSERT INTO device (tenant, device_id) ");
        query.push_values(&new, |mut values, ((tenant, device_id), _)| {
            values.push_bind(tenant.as_str()).push_bind(device_id.as_str());
        });
        query.build().persistent(false).execute(&mut *tx).await?;
        known = ids(tx, devices).await?;
    }
    let mut pieces = Vec::with_capacity(devices.len());
    for (whose, points) in devices {
        let device = *known.get(whose).ok_or(HistoryError::Malformed)?;
        pieces.extend(points.days().into_iter().map(|(day, points)| (device, day, points)));
    }
    for pieces in pieces.chunks(ROWS) {
        let mut query = QueryBuilder::new("INSERT INTO piece (day, device, from_ms, number, body) ");
        query.push_values(pieces, |mut values, (device, day, points)| {
            values
                .push_bind(int(*day))
                .push_bind(*device)
                .push_bind(int(points.first_s() * 1000))
                .push_bind(int(number))
                .push_bind(points.write());
        });
        query.push(" ON CONFLICT (day, device, from_ms, number) DO UPDATE SET body = excluded.body");
        query.build().persistent(pieces.len() == ROWS).execute(&mut *tx).await?;
    }
    Ok(())
}

/// The rows of those of these devices that have one.
async fn ids(
    tx: &mut backend::Connection,
    devices: &[(&Whose, &Points)],
) -> Result<HashMap<Whose, i64>, HistoryError> {
    let mut query =
        QueryBuilder::new("SELECT id, tenant, device_id FROM device WHERE (tenant, device_id) IN (");
    query.push_values(devices, |mut values, ((tenant, device_id), _)| {
        values.push_bind(tenant.as_str()).push_bind(device_id.as_str());
    });
    query.push(")");
    let full = devices.len() == ROWS;
    let rows: Vec<(i64, String, String)> =
        query.build_query_as().persistent(full).fetch_all(&mut *tx).await?;
    let named = |(id, tenant, device_id): (i64, String, String)| {
        Some(((tenant.parse().ok()?, device_id.parse().ok()?), id))
    };
    rows.into_iter().map(|row| named(row).ok_or(HistoryError::Malformed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_transaction_that_ended_by_itself_keeps_nobody_from_writing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("history.sqlite")).await.unwrap();
        {
            let mut writer = store.writer().await.unwrap();
            let mut tx = writer.as_mut().unwrap().begin_with("BEGIN IMMEDIATE").await.unwrap();
            // As SQLite does when a write fails.
            sqlx::raw_sql("ROLLBACK").execute(&mut *tx).await.unwrap();
        }
        for number in 0..2 {
            store.write(&HashMap::new(), &Cursor::default(), number).await.unwrap();
        }
        store.close().await;
        store.write(&HashMap::new(), &Cursor::default(), 2).await.unwrap();
    }
}
