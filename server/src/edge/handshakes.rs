//! How long TLS handshakes take: for `/metrics` since the start, for a day's chart by the quarter of an hour.
//!
//! A handshake adds one to a few counters that are there already: nothing is allocated, locked or written down for
//! it, and a restart begins anew. Counters are not read together: a handshake that ends meanwhile may be in one and
//! not in the other yet, and one that ends as a quarter begins may be counted in neither.

use std::{
    array,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use crate::registry::overview::BUCKET_MS;

/// Upper ends of the bins, microseconds: close together where handshakes end on a network that is near, and up to
/// the deadline ([`super::limits::Limits::handshake`]). What takes longer is in one more.
pub const ENDS_US: [u64; 20] = [
    500, 1_000, 2_000, 3_000, 5_000, 7_500, 10_000, 15_000, 20_000, 30_000, 50_000, 75_000, 100_000, 200_000,
    300_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000,
];
const BINS: usize = ENDS_US.len() + 1;
/// Quarters that are kept: a day's, and the one that is not over.
const KEPT: usize = 97;

/// Handshakes that came to their end, by how long they took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// How many took at most as long as each of [`ENDS_US`], and longer than the one before it; and longer than all.
    pub bins: [u64; BINS],
}

impl Taken {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.bins.iter().sum()
    }

    /// So many of a thousand took at most this long, milliseconds: as near as the bins tell. `None`: there were none.
    #[must_use]
    pub fn within_ms(&self, of_thousand: u64) -> Option<f64> {
        let count = self.count();
        let rank = (count * of_thousand).div_ceil(1000).max(1);
        let mut below = 0;
        for (at, n) in self.bins.iter().enumerate().filter(|(_, n)| **n > 0) {
            if below + n >= rank {
                let begin = at.checked_sub(1).map_or(0, |before| ENDS_US[before]);
                // Of those that took longer than the last end nothing more is known.
                let end = ENDS_US.get(at).copied().unwrap_or(begin);
                let part = (rank - below) as f64 / *n as f64;
                return Some((begin as f64 + (end - begin) as f64 * part) / 1000.0);
            }
            below += n;
        }
        None
    }
}

/// One quarter of an hour.
#[derive(Debug)]
struct Quarter {
    /// Its number since 1970.
    number: AtomicU64,
    bins: [AtomicU32; BINS],
}

/// [`Taken`], while it is counted.
#[derive(Debug)]
pub struct Handshakes {
    all: [AtomicU64; BINS],
    took_us: AtomicU64,
    /// By their number's remainder.
    day: Box<[Quarter]>,
}

impl Default for Handshakes {
    fn default() -> Self {
        let quarter = || Quarter { number: AtomicU64::new(0), bins: array::from_fn(|_| AtomicU32::new(0)) };
        Self {
            all: array::from_fn(|_| AtomicU64::new(0)),
            took_us: AtomicU64::new(0),
            day: (0..KEPT).map(|_| quarter()).collect(),
        }
    }
}

impl Handshakes {
    /// Counts one that has ended now.
    pub(super) fn add(&self, took: Duration, now_ms: u64) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bin = ENDS_US.partition_point(|end| *end < took_us);
        self.all[bin].fetch_add(1, Ordering::Relaxed);
        self.took_us.fetch_add(took_us, Ordering::Relaxed);
        let number = now_ms / BUCKET_MS;
        let quarter = &self.day[number as usize % KEPT];
        let before = quarter.number.load(Ordering::Relaxed);
        let turn = Ordering::Relaxed;
        if before != number && quarter.number.compare_exchange(before, number, turn, turn).is_ok() {
            // Yesterday's.
            quarter.bins.iter().for_each(|bin| bin.store(0, Ordering::Relaxed));
        }
        quarter.bins[bin].fetch_add(1, Ordering::Relaxed);
    }

    /// All since the start, and how long they took together, microseconds.
    #[must_use]
    pub fn all(&self) -> (Taken, u64) {
        let bins = array::from_fn(|at| self.all[at].load(Ordering::Relaxed));
        (Taken { bins }, self.took_us.load(Ordering::Relaxed))
    }

    /// Those of each quarter from the one that holds `from_ms` up to the one that holds `to_ms`, by its beginning,
    /// Unix milliseconds; quarters without one are left out.
    #[must_use]
    pub fn quarters(&self, from_ms: u64, to_ms: u64) -> Vec<(u64, Taken)> {
        let within = from_ms / BUCKET_MS..=to_ms / BUCKET_MS;
        let kept = self.day.iter().map(|quarter| {
            let bins = array::from_fn(|at| u64::from(quarter.bins[at].load(Ordering::Relaxed)));
            (quarter.number.load(Ordering::Relaxed), Taken { bins })
        });
        let mut found: Vec<_> =
            kept.filter(|(number, taken)| within.contains(number) && taken.count() > 0).collect();
        found.sort_unstable_by_key(|(number, _)| *number);
        found.into_iter().map(|(number, taken)| (number * BUCKET_MS, taken)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 96 * BUCKET_MS;

    #[test]
    fn half_and_nearly_all_are_told_as_near_as_the_bins_are() {
        let handshakes = Handshakes::default();
        assert_eq!(handshakes.all().0.within_ms(500), None);
        for n in 0..100 {
            let took = if n < 98 { 4 } else { 400 };
            handshakes.add(Duration::from_millis(took), DAY);
        }
        let (all, took_us) = handshakes.all();
        assert_eq!((all.count(), took_us), (100, 98 * 4_000 + 2 * 400_000));
        let within = |of| all.within_ms(of).unwrap();
        assert!((3.0..=5.0).contains(&within(500)), "{}", within(500));
        assert!((300.0..=500.0).contains(&within(990)), "{}", within(990));
        handshakes.add(Duration::from_secs(100), DAY);
        assert_eq!(handshakes.all().0.within_ms(1000), Some(10_000.0), "longer than the longest is known");
    }

    #[test]
    fn a_bin_ends_with_its_end() {
        let handshakes = Handshakes::default();
        handshakes.add(Duration::from_micros(500), DAY);
        handshakes.add(Duration::from_micros(501), DAY);
        assert_eq!(handshakes.all().0.bins[..2], [1, 1]);
    }

    #[test]
    fn a_quarter_is_kept_for_a_day_and_then_another_s() {
        let handshakes = Handshakes::default();
        let millisecond = Duration::from_millis(1);
        handshakes.add(millisecond, DAY);
        handshakes.add(millisecond, DAY + BUCKET_MS - 1);
        handshakes.add(millisecond, DAY + BUCKET_MS);
        let told = |from, to| -> Vec<_> {
            handshakes.quarters(from, to).into_iter().map(|(at, taken)| (at, taken.count())).collect()
        };
        assert_eq!(told(DAY, DAY + DAY), [(DAY, 2), (DAY + BUCKET_MS, 1)]);
        assert_eq!(told(DAY + BUCKET_MS, DAY + DAY), [(DAY + BUCKET_MS, 1)]);
        let next = DAY + KEPT as u64 * BUCKET_MS;
        handshakes.add(millisecond, next);
        assert_eq!(told(0, next), [(DAY + BUCKET_MS, 1), (next, 1)]);
    }
}
