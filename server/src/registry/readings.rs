//! The newest value of each sensor of each device, and how far the uplink log was read for it.

use muster_shared::telemetry::Value;

use super::{
    Inner,
    error::RegistryError,
    sqlite::{Connection, int},
    verdict::DeviceKey,
};

/// Most sensors kept of one device: names are the device's own, so they need a bound.
pub const SENSORS_MAX: i64 = 64;

/// The newest value of one sensor of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Latest {
    /// Whose.
    pub device: DeviceKey,
    /// Its name, with the unit last.
    pub sensor: String,
    /// What it said.
    pub value: Value,
    /// When the message that held it was received, Unix milliseconds.
    pub received_ms: u64,
    /// The device's uptime when it was measured, milliseconds.
    pub uptime_ms: u64,
}

/// Stores readings and the cursor they end at, together: after a crash the log is read again from there.
pub(super) async fn store(
    inner: &Inner,
    projection: &str,
    latest: &[Latest],
    cursor: &str,
) -> Result<(), RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    for reading in latest {
        put(&mut tx, inner.verdicts.row(reading.device), reading).await?;
    }
    sqlx::query(
        "INSERT INTO projection (name, cursor) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET cursor = excluded.cursor",
    )
    .bind(projection)
    .bind(cursor)
    .execute(&mut *tx)
    .await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())
}

async fn put(tx: &mut Connection, row: Option<i64>, reading: &Latest) -> Result<(), RegistryError> {
    let (kind, number, measure) = match reading.value {
        Value::Bool(value) => ("bool", Some(i64::from(value)), None),
        Value::Int(value) => ("int", Some(value), None),
        Value::Float(value) => ("float", None, Some(f64::from(value))),
    };
    // A device that was decommissioned since has no row to add to: nothing of it is kept any more.
    sqlx::query(
        "INSERT INTO reading (device, sensor, kind, number, measure, received_ms, uptime_ms)
         SELECT device.id, $2, $3, $4, $5, $6, $7 FROM device
         WHERE device.id = $1 AND device.state <> 'decommissioned' AND
             ((SELECT count(*) FROM reading WHERE reading.device = $1) < $8
              OR EXISTS (SELECT 1 FROM reading WHERE reading.device = $1 AND reading.sensor = $2))
         ON CONFLICT (device, sensor) DO UPDATE SET kind = excluded.kind, number = excluded.number,
             measure = excluded.measure, received_ms = excluded.received_ms, uptime_ms = excluded.uptime_ms",
    )
    .bind(row)
    .bind(&reading.sensor)
    .bind(kind)
    .bind(number)
    .bind(measure)
    .bind(int(reading.received_ms))
    .bind(int(reading.uptime_ms))
    .bind(SENSORS_MAX)
    .execute(tx)
    .await?;
    Ok(())
}

/// How far a projection has come; `None` when it never ran.
pub(super) async fn cursor(inner: &Inner, projection: &str) -> Result<Option<String>, RegistryError> {
    let found: Option<(String,)> = sqlx::query_as("SELECT cursor FROM projection WHERE name = $1")
        .bind(projection)
        .fetch_optional(inner.database.readers())
        .await?;
    Ok(found.map(|(cursor,)| cursor))
}
