//! What one device's sensors said: a point a second and sensor, and how a row keeps them.
//!
//! ```text
//! row = version (1) ‖ count ‖ sensor…     sensor = name ‖ count ‖ point…
//! point = seconds since the one before ‖ 0 ‖ value, or 1 ‖ least ‖ greatest ‖ last
//! ```

use muster_shared::telemetry::Value;
use serde::{Deserialize, Serialize};

use super::SENSORS;

const VERSION: u8 = 1;
const SECOND_MS: u64 = 1000;
pub(super) const DAY_S: u64 = 86_400;

/// What a sensor said within a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    /// Unix seconds.
    pub(super) at_s: u64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) last: f64,
}

/// The points of one device, by sensor, each in order of time.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Points {
    pub(super) sensors: Vec<(String, Vec<Point>)>,
}

#[derive(Serialize, Deserialize)]
enum Said {
    One(f64),
    Several(f64, f64, f64),
}

/// What is kept is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

impl Points {
    /// How many.
    pub(super) fn len(&self) -> usize {
        self.sensors.iter().map(|(_, points)| points.len()).sum()
    }

    /// Takes a value. What is no number is no point of a chart.
    pub(super) fn take(&mut self, sensor: &str, at_ms: u64, value: Value) {
        let value = match value {
            Value::Bool(value) => f64::from(u8::from(value)),
            Value::Int(value) => value as f64,
            Value::Float(value) => f64::from(value),
        };
        if !value.is_finite() {
            return;
        }
        let at = match self.sensors.iter().position(|(name, _)| name == sensor) {
            Some(at) => at,
            None if self.sensors.len() < SENSORS => {
                self.sensors.push((sensor.to_owned(), Vec::new()));
                self.sensors.len() - 1
            }
            None => return,
        };
        let (points, at_s) = (&mut self.sensors[at].1, at_ms / SECOND_MS);
        // Nearly always at the end: messages come in the order of time.
        let place = points.partition_point(|point| point.at_s < at_s);
        match points.get_mut(place).filter(|point| point.at_s == at_s) {
            Some(point) => {
                (point.min, point.max) = (point.min.min(value), point.max.max(value));
                point.last = value;
            }
            None => points.insert(place, Point { at_s, min: value, max: value, last: value }),
        }
    }

    /// Day by day since 1970, in order.
    pub(super) fn days(&self) -> Vec<(u64, Self)> {
        let mut days: Vec<u64> = self.all().map(|point| point.at_s / DAY_S).collect();
        days.sort_unstable();
        days.dedup();
        let of = |day: u64| {
            let on =
                |points: &[Point]| points.iter().filter(|point| point.at_s / DAY_S == day).copied().collect();
            let sensors = self.sensors.iter().map(|(name, points)| (name.clone(), on(points)));
            Self { sensors: sensors.filter(|(_, points): &(_, Vec<_>)| !points.is_empty()).collect() }
        };
        days.into_iter().map(|day| (day, of(day))).collect()
    }

    /// The first of them, Unix seconds.
    pub(super) fn first_s(&self) -> u64 {
        self.all().map(|point| point.at_s).min().unwrap_or(0)
    }

    fn all(&self) -> impl Iterator<Item = &Point> {
        self.sensors.iter().flat_map(|(_, points)| points)
    }

    /// As a row keeps them.
    pub(super) fn write(&self) -> Vec<u8> {
        let sensors: Vec<(&str, Vec<(u64, Said)>)> = self
            .sensors
            .iter()
            .map(|(name, points)| {
                let mut before = 0;
                let point = |point: &Point| {
                    let step = point.at_s - std::mem::replace(&mut before, point.at_s);
                    let Point { min, max, last, .. } = *point;
                    // One value said several times is said once: the same to the last bit.
                    let one = min.to_bits() == max.to_bits();
                    (step, if one { Said::One(last) } else { Said::Several(min, max, last) })
                };
                (name.as_str(), points.iter().map(point).collect())
            })
            .collect();
        postcard::to_extend(&sensors, vec![VERSION]).expect("octets are added to a vector without end")
    }

    /// And back.
    pub(super) fn read(kept: &[u8]) -> Result<Self, Malformed> {
        let Some((&VERSION, rest)) = kept.split_first() else { return Err(Malformed) };
        let (kept, []) =
            postcard::take_from_bytes::<Vec<(String, Vec<(u64, Said)>)>>(rest).map_err(|_| Malformed)?
        else {
            return Err(Malformed);
        };
        let mut sensors = Vec::with_capacity(kept.len());
        for (name, said) in kept {
            let (mut at_s, mut points) = (0_u64, Vec::with_capacity(said.len()));
            for (step, said) in said {
                at_s = at_s.checked_add(step).ok_or(Malformed)?;
                let (min, max, last) = match said {
                    Said::One(value) => (value, value, value),
                    Said::Several(min, max, last) => (min, max, last),
                };
                points.push(Point { at_s, min, max, last });
            }
            sensors.push((name, points));
        }
        Ok(Self { sensors })
    }
}
