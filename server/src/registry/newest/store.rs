//! From memory into rows: when, how many together, and what a row has that memory has not.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use super::{CHANGED_MAX, Newest, SENSORS_HELD};
use crate::registry::{
    Inner,
    database::{Connection, QueryBuilder, int},
    device::DeviceState,
    error::RegistryError,
    readings::{Malformed, Readings},
    verdict::DeviceKey,
};

/// How long the newest gathers in memory: at 4000 messages a second of 1000 devices one row is written for
/// forty messages.
const GATHER: Duration = Duration::from_secs(10);
/// How long to wait after a write that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// Rows of one statement, of three values each: the largest number of which SQLite's older default of 999
/// values a statement has room for, as a power of two.
const ROWS: usize = 256;

/// Stores what has gathered, from time to time, until the registry closes. Holds the registry only while it
/// writes.
pub(in crate::registry) async fn run(newest: Arc<Newest>, inner: Weak<Inner>) {
    loop {
        let closing = newest.held.lock().closing;
        if !closing {
            newest.some.notified().await;
            let _ = tokio::time::timeout(GATHER, newest.urgent.notified()).await;
        }
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = store(&inner).await {
            tracing::error!(%error, "the newest of the devices cannot be stored; trying again");
            newest.some.notify_one();
            if !closing {
                drop(inner);
                tokio::time::sleep(AGAIN).await;
            }
        }
        if closing {
            return;
        }
    }
}

/// Stores what has gathered: when this returns `Ok`, all that was taken before it is on disk.
pub(super) async fn store(inner: &Inner) -> Result<(), RegistryError> {
    let newest = &inner.newest;
    let _one = newest.storing.lock().await;
    let (changed, cursor) = {
        let mut held = newest.held.lock();
        let changed = std::mem::take(&mut held.changed);
        for device in &changed {
            held.seen[device.0 as usize].set_changed(false);
        }
        let cursor = held.cursor.as_mut().filter(|cursor| cursor.changed);
        let cursor = cursor.map(|cursor| {
            cursor.changed = false;
            (cursor.projection, cursor.text.clone())
        });
        (changed, cursor)
    };
    if changed.is_empty() && cursor.is_none() {
        return Ok(());
    }
    let written = write_all(inner, &changed, cursor.as_ref()).await;
    let mut held = newest.held.lock();
    match &written {
        Ok(()) => {
            if held.sensors > SENSORS_HELD / 2 {
                held.devices.retain(|_, entry| entry.changed);
                held.sensors = held.devices.values().map(|entry| entry.readings.len()).sum();
            }
        }
        // Nobody knows how much of it is in the file: all of it is written again.
        Err(_) => {
            for device in changed {
                held.mark(device);
                if let Some(entry) = held.devices.get_mut(&device) {
                    entry.changed = true;
                }
            }
            if let Some(cursor) = &mut held.cursor {
                cursor.changed = true;
            }
        }
    }
    written
}

async fn write_all(
    inner: &Inner,
    changed: &[DeviceKey],
    cursor: Option<&(&'static str, String)>,
) -> Result<(), RegistryError> {
    let mut chunks = changed.chunks(CHANGED_MAX).peekable();
    loop {
        let chunk = chunks.next().unwrap_or_default();
        // The cursor goes with the last of them: what it says is passed is stored.
        let cursor = cursor.filter(|_| chunks.peek().is_none());
        write(inner, chunk, cursor).await?;
        if chunks.peek().is_none() {
            return Ok(());
        }
    }
}

/// A row to be written: device, when it was last heard of, and its sensors when they have changed.
type Row = (i64, u64, Option<Vec<u8>>);

/// One transaction.
async fn write(
    inner: &Inner,
    chunk: &[DeviceKey],
    cursor: Option<&(&'static str, String)>,
) -> Result<(), RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    complete(inner, &mut tx, chunk).await?;
    let rows = rows(inner, chunk);
    for rows in rows.chunks(ROWS) {
        put(&mut tx, rows).await?;
    }
    if let Some((projection, cursor)) = cursor {
        sqlx::query(
            "INSERT INTO projection (name, cursor) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET cursor = excluded.cursor",
        )
        .bind(*projection)
        .bind(cursor)
        .execute(&mut *tx)
        .await?;
    }
    inner.commit(tx).await.inspect_err(|_| writer.fail())
}

/// Brings into memory what the rows have of the sensors of these devices and memory has not.
async fn complete(inner: &Inner, tx: &mut Connection, chunk: &[DeviceKey]) -> Result<(), RegistryError> {
    let asked: Vec<_> = {
        let held = inner.newest.held.lock();
        let partial = |device: &&DeviceKey| held.devices.get(device).is_some_and(|entry| !entry.whole);
        let rows = chunk.iter().filter(partial);
        rows.filter_map(|device| Some((*device, inner.verdicts.row(*device)?))).collect()
    };
    for asked in asked.chunks(ROWS) {
        let mut query = QueryBuilder::on(
            tx,
            "SELECT device, readings FROM newest WHERE readings IS NOT NULL AND device IN (",
        );
        let mut list = query.separated(", ");
        for (_, row) in asked {
            list.push_bind(*row);
        }
        query.push(")");
        let kept: HashMap<i64, Vec<u8>> = query
            .build_query_as()
            .persistent(asked.len() == ROWS)
            .fetch_all(&mut *tx)
            .await?
            .into_iter()
            .collect();
        let mut held = inner.newest.held.lock();
        for (device, row) in asked {
            let older = kept.get(row).map(|kept| Readings::read(kept)).transpose();
            let older = older.unwrap_or_else(|Malformed| {
                tracing::error!(row, "the readings kept of a device are damaged: only newer ones stay");
                None
            });
            held.complete(*device, older.unwrap_or_default());
        }
    }
    Ok(())
}

/// What is to be written, as of now. Under the writer's lock: what is decommissioned before it is left out,
/// and what is decommissioned after it is removed.
fn rows(inner: &Inner, chunk: &[DeviceKey]) -> Vec<Row> {
    let mut held = inner.newest.held.lock();
    let mut rows = Vec::with_capacity(chunk.len());
    for device in chunk {
        let readings = held.devices.get_mut(device).filter(|entry| entry.changed).map(|entry| {
            entry.changed = false;
            entry.readings.write()
        });
        if inner.verdicts.state(*device) == Some(DeviceState::Decommissioned) {
            continue;
        }
        let Some(row) = inner.verdicts.row(*device) else { continue };
        rows.push((row, held.seen[device.0 as usize].at_ms(), readings));
    }
    // In the order of the file.
    rows.sort_unstable_by_key(|(row, ..)| *row);
    rows
}

async fn put(tx: &mut Connection, rows: &[Row]) -> Result<(), RegistryError> {
    let mut query = QueryBuilder::on(tx, "INSERT INTO newest (device, seen_ms, readings) ");
    query.push_values(rows, |mut values, (device, seen_ms, readings)| {
        values.push_bind(device).push_bind(int(*seen_ms)).push_bind(readings.as_deref());
    });
    query.push(
        " ON CONFLICT (device) DO UPDATE SET readings = coalesce(excluded.readings, newest.readings),
          seen_ms = CASE WHEN excluded.seen_ms > newest.seen_ms THEN excluded.seen_ms ELSE newest.seen_ms END",
    );
    // Only the full one is prepared for the next time.
    query.build().persistent(rows.len() == ROWS).execute(tx).await?;
    Ok(())
}

/// How far a projection has come, as the file has it; `None` when it never ran.
pub(super) async fn stored_cursor(inner: &Inner, projection: &str) -> Result<Option<String>, RegistryError> {
    let found: Option<(String,)> = sqlx::query_as("SELECT cursor FROM projection WHERE name = $1")
        .bind(projection)
        .fetch_optional(inner.database.readers())
        .await?;
    Ok(found.map(|(cursor,)| cursor))
}
