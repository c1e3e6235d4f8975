//! Measurements, as they travel on `telemetry/{stream}`: postcard, one batch a message.

use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use crate::{
    WIRE_CURRENT, WIRE_MIN,
    limits::{READINGS_MAX, SENSOR_MAX},
};

/// One start of one device: a random number from its installation and a counter of its starts.
/// Together with [`TelemetryBatch::seq`] it names a message, so that a repeated one is stored once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Boot {
    /// Drawn once, when the device's store was first written.
    pub install: u64,
    /// Starts since then.
    pub count: u32,
}

/// Up to [`READINGS_MAX`] readings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TelemetryBatch {
    version: u8,
    /// Which start of the device made this message.
    pub boot: Boot,
    /// Counts the device's messages within that start, from 0.
    pub seq: u64,
    /// The device's uptime when the batch was closed, milliseconds.
    pub uptime_ms: u64,
    /// The readings, oldest first.
    pub readings: Vec<Reading, READINGS_MAX>,
}

/// One value of one sensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// What was measured, with its unit last: `temperature_c`.
    pub sensor: String<SENSOR_MAX>,
    /// The device's uptime when it was measured, milliseconds.
    pub uptime_ms: u64,
    /// What it was.
    pub value: Value,
}

/// What a sensor says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// Yes or no.
    Bool(bool),
    /// A count.
    Int(i64),
    /// A measurement.
    Float(f32),
}

/// Why bytes are not a telemetry batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TelemetryError {
    /// A version this reader does not know.
    #[error("telemetry version {0}, this reader knows {WIRE_MIN} to {WIRE_CURRENT}")]
    Version(u8),
    /// Not the format, or more readings than allowed.
    #[error("telemetry is malformed")]
    Malformed,
    /// It does not fit the buffer.
    #[error("telemetry does not fit {0} octets")]
    TooLong(usize),
}

impl TelemetryBatch {
    /// An empty batch.
    #[must_use]
    pub fn new(boot: Boot, seq: u64, uptime_ms: u64) -> Self {
        Self { version: WIRE_CURRENT, boot, seq, uptime_ms, readings: Vec::new() }
    }

    /// Writes the batch; returns the octets used.
    ///
    /// # Errors
    /// [`TelemetryError::TooLong`] when `out` is too small.
    pub fn write<'b>(&self, out: &'b mut [u8]) -> Result<&'b [u8], TelemetryError> {
        let room = out.len();
        postcard::to_slice(self, out).map(|used| &*used).map_err(|_| TelemetryError::TooLong(room))
    }

    /// Reads a batch.
    ///
    /// # Errors
    /// [`TelemetryError`]; trailing octets are an error too.
    pub fn read(bytes: &[u8]) -> Result<Self, TelemetryError> {
        Self::version(bytes)?;
        match postcard::take_from_bytes(bytes) {
            Ok((batch, [])) => Ok(batch),
            _ => Err(TelemetryError::Malformed),
        }
    }

    /// Reads only the name of the message, without its readings: what duplicates are found by.
    ///
    /// # Errors
    /// [`TelemetryError`] when even the head is not there.
    pub fn name(bytes: &[u8]) -> Result<(Boot, u64), TelemetryError> {
        Self::version(bytes)?;
        postcard::take_from_bytes::<(u8, Boot, u64)>(bytes)
            .map(|((_, boot, seq), _)| (boot, seq))
            .map_err(|_| TelemetryError::Malformed)
    }

    fn version(bytes: &[u8]) -> Result<(), TelemetryError> {
        match bytes.first() {
            Some(&(WIRE_MIN..=WIRE_CURRENT)) => Ok(()),
            Some(&version) => Err(TelemetryError::Version(version)),
            None => Err(TelemetryError::Malformed),
        }
    }
}
