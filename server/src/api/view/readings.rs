//! What a device's sensors said: the newest value of each, and charts over a range.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The newest value of one sensor.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Reading {
    /// Its name, with the unit last.
    pub sensor: String,
    /// A number, a truth value or a text.
    pub value: serde_json::Value,
    /// When it arrived.
    pub received_at: String,
    /// How long the device had been up when it measured.
    pub uptime_ms: u64,
}

/// What a device's sensors said over a range: `muster.readings/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Readings {
    /// The schema's name.
    pub schema: String,
    /// Whose.
    pub serial: String,
    /// Whose fleet.
    pub tenant: String,
    /// The range's beginning.
    pub from: String,
    /// Its end, which is not in it.
    pub to: String,
    /// How long a bucket is.
    pub bucket_ms: u64,
    /// By name; only those that said something.
    pub sensors: Vec<SensorChart>,
}

/// What one sensor said over a range.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SensorChart {
    /// Its name, with the unit last.
    pub sensor: String,
    /// How far its values usually are apart.
    pub interval_ms: Option<u64>,
    /// Its last value in the range.
    pub latest: f64,
    /// When it was measured.
    pub latest_at: String,
    /// Buckets in which it said something, in order.
    pub buckets: Vec<Bucket>,
    /// Where it was silent for more than twice its interval.
    pub gaps: Vec<Silence>,
}

/// What a sensor said within a bucket.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Bucket {
    /// Where the bucket begins.
    pub at: String,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The last.
    pub last: f64,
}

/// Where a sensor said nothing.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Silence {
    /// Its last value before.
    pub from: String,
    /// Its first value after.
    pub to: String,
}
