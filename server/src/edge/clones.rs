//! Two holders of one identity: what counts as a sign of it, and how much is made of it.
//!
//! The strong sign is a continuity token that was given out before one the device has shown since
//! ([`super::continuity`]). The weak one is a session that is taken over again and again: a device behind a
//! bad link does that too, so it is announced, and quarantined for only where the operator wants that.
//! Either way it never goes on for ever: beyond a number of takeovers in a window, who sits there stays.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use parking_lot::Mutex;

use super::{limits::TAKEOVERS_SWEEP, roster::Owner};

/// What the operator has set about clones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// On a continuity token that is old, missing or forged.
    pub continuity: Response,
    /// On takeovers beyond [`Policy::takeovers_max`].
    pub takeovers: Response,
    /// Takeovers of one device's session within the window; further ones are refused.
    pub takeovers_max: u32,
    /// The window of takeovers.
    pub takeover_window: Duration,
    /// Quarantines of the whole fleet for their tokens within the window. When there are more, the fault
    /// is more likely here than in so many devices: they are let in, and announced.
    pub quarantines_max: u32,
    /// The window of quarantines.
    pub quarantine_window: Duration,
}

/// What is done about a sign of a clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// Say so: log, counter, the device's record.
    Alert,
    /// Act: the device is quarantined, which ends every session of it; or refused.
    Enforce,
}

impl Default for Policy {
    /// A device that comes back five times in a minute while its session before still stands has a bad link
    /// or a double. A factory that ships ten clones within ten minutes is less likely than a server that
    /// was restored without saying so.
    fn default() -> Self {
        Self {
            continuity: Response::Enforce,
            takeovers: Response::Alert,
            takeovers_max: 5,
            takeover_window: Duration::from_secs(60),
            quarantines_max: 10,
            quarantine_window: Duration::from_secs(600),
        }
    }
}

/// What a takeover comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takeover {
    /// Go on.
    Granted,
    /// Go on; it is the last one for now, and a sign of a clone.
    Suspected,
    /// Who sits there stays. The next takeover is granted after this time.
    Refused {
        /// On the clock of [`Takeovers::note`], milliseconds.
        until_ms: u64,
    },
}

/// Counts takeovers, session by session, within a window that moves along.
#[derive(Debug)]
pub(super) struct Takeovers {
    max: usize,
    window_ms: u64,
    owners: Mutex<Owners>,
}

#[derive(Debug, Default)]
struct Owners {
    known: HashMap<Owner, Recent>,
    /// With how many the next look for those that are over is due.
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Recent {
    at_ms: VecDeque<u64>,
    suspected_ms: Option<u64>,
}

impl Takeovers {
    pub(super) fn new(policy: &Policy) -> Self {
        Self {
            max: policy.takeovers_max as usize,
            window_ms: policy.takeover_window.as_millis() as u64,
            owners: Mutex::new(Owners { known: HashMap::new(), sweep_at: TAKEOVERS_SWEEP }),
        }
    }

    /// Somebody asks to take over this owner's session.
    pub(super) fn note(&self, owner: Owner, now_ms: u64) -> Takeover {
        let mut owners = self.owners.lock();
        owners.sweep(now_ms, self.window_ms);
        let recent = owners.known.entry(owner).or_default();
        recent.forget(now_ms, self.window_ms);
        if recent.at_ms.len() >= self.max {
            let first = recent.at_ms.front().copied().unwrap_or(now_ms);
            return Takeover::Refused { until_ms: first + self.window_ms };
        }
        recent.at_ms.push_back(now_ms);
        if recent.at_ms.len() == self.max && recent.suspected_ms.is_none() {
            recent.suspected_ms = Some(now_ms);
            return Takeover::Suspected;
        }
        Takeover::Granted
    }

    /// Until when who sits there stays, if another takeover would be refused now.
    pub(super) fn refused_until_ms(&self, owner: &Owner, now_ms: u64) -> Option<u64> {
        let owners = self.owners.lock();
        let at_ms = &owners.known.get(owner)?.at_ms;
        let within = at_ms.iter().filter(|at_ms| **at_ms + self.window_ms > now_ms);
        (within.clone().count() >= self.max)
            .then(|| within.min().map_or(now_ms, |at_ms| at_ms + self.window_ms))
    }
}

impl Recent {
    fn forget(&mut self, now_ms: u64, window_ms: u64) {
        let over = |at_ms: &u64| at_ms + window_ms <= now_ms;
        while self.at_ms.front().is_some_and(over) {
            self.at_ms.pop_front();
        }
        self.suspected_ms = self.suspected_ms.filter(|at_ms| !over(at_ms));
    }
}

impl Owners {
    fn sweep(&mut self, now_ms: u64, window_ms: u64) {
        if self.known.len() < self.sweep_at {
            return;
        }
        self.known.retain(|_, recent| {
            recent.forget(now_ms, window_ms);
            !recent.at_ms.is_empty()
        });
        self.sweep_at = TAKEOVERS_SWEEP.max(2 * self.known.len());
    }
}

/// The fleet-wide circuit breaker: closed until there are too many events within the window, and again when
/// there are fewer.
#[derive(Debug)]
pub(super) struct Breaker {
    max: usize,
    window_ms: u64,
    recent: Mutex<VecDeque<u64>>,
}

/// What the breaker makes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// Act on it.
    No,
    /// Too many: do not. The first time since it was closed.
    Now,
    /// Still too many.
    Still,
}

impl Breaker {
    pub(super) fn new(policy: &Policy) -> Self {
        Self {
            max: policy.quarantines_max as usize,
            window_ms: policy.quarantine_window.as_millis() as u64,
            recent: Mutex::default(),
        }
    }

    /// An event that would be acted on.
    pub(super) fn note(&self, now_ms: u64) -> Broken {
        let mut recent = self.recent.lock();
        while recent.front().is_some_and(|at_ms| at_ms + self.window_ms <= now_ms) {
            recent.pop_front();
        }
        recent.push_back(now_ms);
        match recent.len().saturating_sub(self.max) {
            0 => Broken::No,
            1 => Broken::Now,
            // One more than counts is enough to know that it is open.
            _ => {
                recent.pop_front();
                Broken::Still
            }
        }
    }

    /// Would the next event be one too many?
    pub(super) fn is_open(&self, now_ms: u64) -> bool {
        let recent = self.recent.lock();
        recent.iter().filter(|at_ms| **at_ms + self.window_ms > now_ms).count() >= self.max
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::registry::DeviceKey;

    const ONE: Owner = Owner::Device(DeviceKey(1));
    const OTHER: Owner = Owner::Device(DeviceKey(2));

    fn policy(max: u32, window_s: u64) -> Policy {
        Policy {
            takeovers_max: max,
            takeover_window: Duration::from_secs(window_s),
            quarantines_max: max,
            quarantine_window: Duration::from_secs(window_s),
            ..Policy::default()
        }
    }

    #[test]
    fn the_last_takeover_of_a_window_is_suspected_and_further_ones_refused() {
        let takeovers = Takeovers::new(&policy(3, 10));
        let note = |at_ms| takeovers.note(ONE, at_ms);
        assert_eq!(note(0), Takeover::Granted);
        assert_eq!(note(1000), Takeover::Granted);
        assert_eq!(note(2000), Takeover::Suspected);
        for at_ms in [2001, 5000, 9999] {
            assert_eq!(takeovers.refused_until_ms(&ONE, at_ms), Some(10_000));
            assert_eq!(note(at_ms), Takeover::Refused { until_ms: 10_000 });
        }
        assert_eq!(takeovers.refused_until_ms(&ONE, 10_000), None);
        assert_eq!(takeovers.refused_until_ms(&OTHER, 5000), None);
        assert_eq!(takeovers.note(OTHER, 5000), Takeover::Granted, "another device is not concerned");
        // What was refused does not count, and it is one suspicion as long as it goes on.
        assert_eq!(note(10_000), Takeover::Granted);
        assert_eq!(note(10_001), Takeover::Refused { until_ms: 11_000 });
        assert_eq!(note(60_000), Takeover::Granted);
        assert_eq!(note(60_001), Takeover::Granted);
        assert_eq!(note(60_002), Takeover::Suspected);
    }

    #[test]
    fn a_device_that_comes_back_now_and_then_is_nobody_s_double() {
        let takeovers = Takeovers::new(&Policy::default());
        for n in 0..10_000 {
            assert_eq!(takeovers.note(ONE, n * 15_001), Takeover::Granted);
        }
    }

    #[test]
    fn devices_that_are_quiet_again_are_forgotten() {
        let takeovers = Takeovers::new(&policy(3, 1));
        for n in 0..100_000 {
            takeovers.note(DeviceKey(n).into(), u64::from(n));
        }
        assert!(takeovers.owners.lock().known.len() <= 2048 + 1);
    }

    #[test]
    fn the_breaker_opens_at_too_many_and_closes_by_itself() {
        let breaker = Breaker::new(&policy(3, 10));
        let note = |at_ms| breaker.note(at_ms);
        assert_eq!([note(0), note(1), note(2)], [Broken::No; 3]);
        assert!(breaker.is_open(3) && !breaker.is_open(10_000));
        assert_eq!(note(3), Broken::Now);
        for n in 0..1000 {
            assert_eq!(note(4 + n * 1000), Broken::Still, "as long as they come");
        }
        assert_eq!(breaker.recent.lock().len(), 4);
        assert_eq!(note(2_000_000), Broken::No);
    }

    proptest! {
        #[test]
        fn no_window_has_more_takeovers_than_the_limit(
            max in 1_u32..6,
            gaps in prop::collection::vec(0_u64..3000, 1..200),
        ) {
            let takeovers = Takeovers::new(&policy(max, 10));
            let (mut now_ms, mut granted) = (0, Vec::new());
            for gap in gaps {
                now_ms += gap;
                match takeovers.note(ONE, now_ms) {
                    Takeover::Granted | Takeover::Suspected => granted.push(now_ms),
                    Takeover::Refused { until_ms } => prop_assert!(until_ms > now_ms, "waiting ends"),
                }
            }
            for at_ms in &granted {
                let within = granted.iter().filter(|other| (*at_ms..at_ms + 10_000).contains(*other)).count();
                prop_assert!(within <= max as usize);
            }
        }
    }
}
