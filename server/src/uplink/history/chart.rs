//! Points into buckets: least, greatest and last of each, and where nothing was said.

use super::points::Points;

/// Most buckets of a chart.
pub const BUCKETS_MAX: u32 = 1200;
/// Longest range, milliseconds: what is kept.
const RANGE_MAX_MS: u64 = super::DAYS * 86_400_000;
/// Steps between points that are looked at to tell how often a sensor speaks.
const STEPS_MAX: usize = 4096;

/// From when to when, and in how many parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    from_ms: u64,
    to_ms: u64,
    bucket_ms: u64,
}

/// A range that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// It ends before it begins, or at once.
    #[error("it does not end after its beginning")]
    Empty,
    /// Nothing is kept so long.
    #[error("it is longer than the {} days that are kept", super::DAYS)]
    TooLong,
    /// No buckets, or too many.
    #[error("{0} buckets; 1 to {BUCKETS_MAX} are possible")]
    Buckets(u32),
}

impl Range {
    /// From one instant up to, not with, another, Unix milliseconds, in at most `buckets` parts of whole
    /// seconds.
    ///
    /// # Errors
    /// [`RangeError`].
    pub fn new(from_ms: u64, to_ms: u64, buckets: u32) -> Result<Self, RangeError> {
        if to_ms <= from_ms {
            return Err(RangeError::Empty);
        }
        if to_ms - from_ms > RANGE_MAX_MS {
            return Err(RangeError::TooLong);
        }
        if !(1..=BUCKETS_MAX).contains(&buckets) {
            return Err(RangeError::Buckets(buckets));
        }
        let bucket_ms = (to_ms - from_ms).div_ceil(u64::from(buckets)).div_ceil(1000) * 1000;
        Ok(Self { from_ms, to_ms, bucket_ms })
    }

    /// Its first millisecond.
    #[must_use]
    pub fn from_ms(&self) -> u64 {
        self.from_ms
    }

    /// The first millisecond behind it.
    #[must_use]
    pub fn to_ms(&self) -> u64 {
        self.to_ms
    }

    /// How long a bucket is.
    #[must_use]
    pub fn bucket_ms(&self) -> u64 {
        self.bucket_ms
    }

    fn place(&self, at_ms: u64) -> Option<usize> {
        (self.from_ms..self.to_ms)
            .contains(&at_ms)
            .then(|| ((at_ms - self.from_ms) / self.bucket_ms) as usize)
    }
}

/// What a sensor said within a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Where the bucket begins, Unix milliseconds.
    pub at_ms: u64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The last.
    pub last: f64,
    /// When its first and its last value were measured.
    first_ms: u64,
    last_ms: u64,
}

/// What one sensor said.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Its name.
    pub sensor: String,
    /// Buckets in which it said something, in order.
    pub buckets: Vec<Bucket>,
    /// How far its values usually are apart, milliseconds; `None` of fewer than two.
    pub interval_ms: Option<u64>,
    /// From when to when it was silent for more than twice as long: no line is drawn there.
    pub gaps: Vec<(u64, u64)>,
    /// Its last value in the range, and when.
    pub latest: (f64, u64),
}

/// Charts, while points are added.
pub(super) struct Charts<'a> {
    range: &'a Range,
    only: &'a [String],
    sensors: Vec<Series>,
}

struct Series {
    sensor: String,
    buckets: Vec<Option<Bucket>>,
    steps: Vec<u64>,
}

impl<'a> Charts<'a> {
    /// Of these sensors; of all when none is named.
    pub(super) fn new(range: &'a Range, only: &'a [String]) -> Self {
        Self { range, only, sensors: Vec::new() }
    }

    /// Points may come in any order, and twice.
    pub(super) fn add(&mut self, points: &Points) {
        for (name, points) in &points.sensors {
            if !self.only.is_empty() && !self.only.contains(name) {
                continue;
            }
            let mut before: Option<u64> = None;
            for point in points {
                let at_ms = point.at_s * 1000;
                let Some(place) = self.range.place(at_ms) else { continue };
                let series = series(&mut self.sensors, self.range, name);
                if let Some(before) = before.replace(at_ms)
                    && series.steps.len() < STEPS_MAX
                {
                    series.steps.push(at_ms - before);
                }
                let fresh = Bucket {
                    at_ms: self.range.from_ms + place as u64 * self.range.bucket_ms,
                    min: point.min,
                    max: point.max,
                    last: point.last,
                    first_ms: at_ms,
                    last_ms: at_ms,
                };
                let bucket = series.buckets[place].get_or_insert(fresh);
                (bucket.min, bucket.max) = (bucket.min.min(point.min), bucket.max.max(point.max));
                bucket.first_ms = bucket.first_ms.min(at_ms);
                if at_ms >= bucket.last_ms {
                    (bucket.last, bucket.last_ms) = (point.last, at_ms);
                }
            }
        }
    }

    /// By the names of the sensors.
    pub(super) fn finish(self) -> Vec<Chart> {
        let mut charts: Vec<_> = self.sensors.into_iter().filter_map(Series::finish).collect();
        charts.sort_by(|a, b| a.sensor.cmp(&b.sensor));
        charts
    }
}

fn series<'s>(sensors: &'s mut Vec<Series>, range: &Range, name: &str) -> &'s mut Series {
    let at = sensors.iter().position(|series| series.sensor == name).unwrap_or_else(|| {
        let buckets = (range.to_ms - range.from_ms).div_ceil(range.bucket_ms) as usize;
        sensors.push(Series { sensor: name.to_owned(), buckets: vec![None; buckets], steps: Vec::new() });
        sensors.len() - 1
    });
    &mut sensors[at]
}

impl Series {
    fn finish(mut self) -> Option<Chart> {
        let buckets: Vec<Bucket> = self.buckets.into_iter().flatten().collect();
        let last = buckets.last()?;
        let latest = (last.last, last.last_ms);
        // Rows of one point each have no steps within: then those between buckets tell.
        let between = buckets.windows(2).map(|pair| pair[1].first_ms - pair[0].last_ms);
        let between: Vec<u64> = between.collect();
        if self.steps.is_empty() {
            self.steps.clone_from(&between);
        }
        self.steps.sort_unstable();
        let interval_ms = self.steps.get(self.steps.len() / 2).copied();
        let silent = |pair: &[Bucket]| {
            let gap = (pair[0].last_ms, pair[1].first_ms);
            interval_ms.filter(|interval| gap.1 - gap.0 > 2 * interval).map(|_| gap)
        };
        let gaps = buckets.windows(2).filter_map(silent).collect();
        Some(Chart { sensor: self.sensor, buckets, interval_ms, gaps, latest })
    }
}
