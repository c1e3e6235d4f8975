//! The newest value of each sensor of one device: how they are gathered, bounded, and kept in a row.
//!
//! ```text
//! kept = version (1) ‖ count ‖ reading…      reading = sensor ‖ value ‖ received_ms ‖ uptime_ms
//! ```
//!
//! The readings are postcard's, as on the wire; they stand in the order in which the device first named its
//! sensors.

use muster_shared::telemetry::{self, Value};
use serde::{Deserialize, Serialize};

/// Most sensors kept of one device: names are the device's own, so they need a bound.
pub const SENSORS_MAX: usize = 64;

const VERSION: u8 = 1;

/// The newest value of one sensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadingRow {
    /// Its name, with the unit last.
    pub sensor: String,
    /// What it said.
    pub value: Value,
    /// When the message that held it was received, Unix milliseconds.
    pub received_ms: u64,
    /// The device's uptime when it was measured, milliseconds.
    pub uptime_ms: u64,
}

/// What is kept of a device is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("kept readings are not of version {VERSION}, or malformed")]
pub(super) struct Malformed;

/// The sensors of one device, each once, at most [`SENSORS_MAX`].
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Readings(Vec<ReadingRow>);

impl Readings {
    /// How many sensors.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes the values of a message. Of a sensor that is known nothing is allocated.
    pub(super) fn take(&mut self, readings: &[telemetry::Reading], received_ms: u64) {
        let mut next = 0;
        for reading in readings {
            let at = self.place(&reading.sensor, next);
            if let Some(known) = self.0.get_mut(at) {
                (known.value, known.uptime_ms) = (reading.value, reading.uptime_ms);
                known.received_ms = received_ms;
            } else if at < SENSORS_MAX {
                self.0.push(ReadingRow {
                    sensor: reading.sensor.as_str().to_owned(),
                    value: reading.value,
                    received_ms,
                    uptime_ms: reading.uptime_ms,
                });
            }
            next = at + 1;
        }
    }

    /// What was kept before these: they replace what they name, and a sensor that was known stays before
    /// one that is new.
    pub(super) fn onto(self, mut older: Self) -> Self {
        for reading in self.0 {
            let at = older.place(&reading.sensor, 0);
            if let Some(known) = older.0.get_mut(at) {
                *known = reading;
            } else if at < SENSORS_MAX {
                older.0.push(reading);
            }
        }
        older
    }

    /// Where a sensor is, or the end where it would be. Looked for from `next` on first: a device names its
    /// sensors in one order.
    fn place(&self, sensor: &str, next: usize) -> usize {
        let next = next.min(self.0.len());
        let is = |reading: &ReadingRow| reading.sensor == sensor;
        let behind = self.0[next..].iter().position(is).map(|at| next + at);
        behind.or_else(|| self.0[..next].iter().position(is)).unwrap_or(self.0.len())
    }

    /// As a row keeps them.
    pub(super) fn write(&self) -> Vec<u8> {
        postcard::to_extend(&self.0, vec![VERSION]).expect("octets are added to a vector without end")
    }

    /// And back.
    pub(super) fn read(kept: &[u8]) -> Result<Self, Malformed> {
        let Some((&VERSION, readings)) = kept.split_first() else { return Err(Malformed) };
        match postcard::take_from_bytes(readings) {
            Ok((readings, [])) => Ok(Self(readings)),
            _ => Err(Malformed),
        }
    }

    /// By the names of the sensors.
    pub(super) fn sorted(mut self) -> Vec<ReadingRow> {
        self.0.sort_by(|a, b| a.sensor.cmp(&b.sensor));
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(sensor: &str, value: Value, uptime_ms: u64) -> telemetry::Reading {
        telemetry::Reading { sensor: sensor.try_into().unwrap(), uptime_ms, value }
    }

    fn of(names: impl Iterator<Item = String>, value: i64) -> Readings {
        let mut readings = Readings::default();
        for name in names {
            readings.take(&[reading(&name, Value::Int(value), 1)], 1);
        }
        readings
    }

    fn value(readings: &Readings, sensor: &str) -> Option<Value> {
        readings.0.iter().find(|reading| reading.sensor == sensor).map(|reading| reading.value)
    }

    /// Version 1. Do not change this test: rows of this form are in files.
    #[test]
    fn version_1_is_frozen() {
        let mut readings = Readings::default();
        let some = [
            reading("temperature_c", Value::Float(21.5), 300),
            reading("count", Value::Int(-2), 301),
            reading("open", Value::Bool(true), 2),
        ];
        readings.take(&some, 1000);
        let golden =
            "01030d74656d70657261747572655f63020000ac41e807ac0205636f756e740103e807ad02046f70656e0001e80702";
        assert_eq!(hex::encode(readings.write()), golden);
        assert_eq!(Readings::read(&hex::decode(golden).unwrap()), Ok(readings));
    }

    #[test]
    fn what_was_not_written_is_not_read() {
        let good = of(["a".to_owned()].into_iter(), 7).write();
        assert!(Readings::read(&good).is_ok());
        assert_eq!(Readings::read(&[]), Err(Malformed));
        assert_eq!(Readings::read(&good[..good.len() - 1]), Err(Malformed));
        assert_eq!(Readings::read(&[&good[..], &[0]].concat()), Err(Malformed));
        let mut other = good;
        other[0] = 2;
        assert_eq!(Readings::read(&other), Err(Malformed));
    }

    #[test]
    fn the_newest_value_of_a_sensor_stays_in_whatever_order_they_come() {
        let mut readings = Readings::default();
        let [a, b] = [reading("a", Value::Int(1), 1), reading("b", Value::Int(2), 1)];
        readings.take(&[a.clone(), b.clone(), reading("a", Value::Int(3), 2)], 5);
        assert_eq!((readings.len(), value(&readings, "a")), (2, Some(Value::Int(3))));
        readings.take(&[reading("b", Value::Int(4), 3), a], 6);
        assert_eq!(
            (value(&readings, "a"), value(&readings, "b")),
            (Some(Value::Int(1)), Some(Value::Int(4)))
        );
        let names: Vec<_> = readings.sorted().into_iter().map(|row| (row.sensor, row.received_ms)).collect();
        assert_eq!(names, [("a".to_owned(), 6), ("b".to_owned(), 6)]);
    }

    #[test]
    fn sensors_are_bounded_and_those_kept_before_stay() {
        let older = of((0..SENSORS_MAX).map(|n| format!("old{n}")), 1);
        let names =
            (0..SENSORS_MAX - 1).map(|n| format!("new{n}")).chain(["old63".to_owned(), "more".to_owned()]);
        let newer = of(names, 2);
        assert_eq!((newer.len(), value(&newer, "more")), (SENSORS_MAX, None));
        let all = newer.onto(older);
        assert_eq!((all.len(), value(&all, "new0")), (SENSORS_MAX, None));
        assert_eq!((value(&all, "old0"), value(&all, "old63")), (Some(Value::Int(1)), Some(Value::Int(2))));
    }
}
