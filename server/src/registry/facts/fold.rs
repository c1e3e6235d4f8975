//! Counts on their way to the file: of whom, of what, in which minute.
//!
//! # Invariants
//!
//! - The first of its kind is written at once, what follows it at most once in [`FOLD`]: a hammering device
//!   costs a row a minute, a write in ten seconds and one line of the log, however often it comes.
//! - What waits is bounded, and so is what is remembered of writes. A kind that finds no room there is written
//!   as often as facts gather.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use muster_shared::Code;

use super::{Claimed, MINUTE_MS, NAMES_MAX, WAITING_MAX};
use crate::registry::{error::RegistryError, timeline};

/// Least time between two writes of one device's count of one kind. Long beside what a client takes for an
/// attempt, short beside the minute that is counted.
pub(super) const FOLD: Duration = Duration::from_secs(10);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum What {
    /// Refusals of this code.
    Refused(Code),
    /// Something worth a line that refused nothing.
    Noticed(Notice),
}

/// Something a device did that nobody was refused for, and that its operator wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Notice {
    /// It sent faster than it may, and was held back.
    Slowed {
        /// What it may send, messages a second.
        per_s: u32,
    },
    /// Its session was taken over again and again: perhaps there are two of it. Nobody was kept out.
    CloneSuspected {
        /// How many times within the window.
        times: u32,
    },
}

impl Notice {
    /// Its word in the file, and its number.
    pub(in crate::registry) fn parts(self) -> (&'static str, u32) {
        match self {
            Self::Slowed { per_s } => ("slowed", per_s),
            Self::CloneSuspected { times } => ("clone_suspected", times),
        }
    }

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.parts().0
    }

    /// What it says of one minute.
    #[must_use]
    pub fn said(self, remote: Option<&str>) -> String {
        timeline::said(self, 1, remote, "")
    }

    /// The notice of a row, as the file has it.
    pub(in crate::registry) fn read(kind: &str, bound: i64) -> Result<Self, RegistryError> {
        let notice = u32::try_from(bound).ok().and_then(|bound| Self::of(kind, bound));
        notice.ok_or_else(|| RegistryError::Damaged(format!("a notice is {kind:?}")))
    }

    /// The notice of a row.
    pub(in crate::registry) fn of(kind: &str, bound: u32) -> Option<Self> {
        match kind {
            "slowed" => Some(Self::Slowed { per_s: bound }),
            "clone_suspected" => Some(Self::CloneSuspected { times: bound }),
            _ => None,
        }
    }
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) who: Claimed,
    pub(super) what: What,
    pub(super) minute_ms: u64,
}

/// What goes on top of what the row has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count {
    pub(super) count: u64,
    pub(super) last_at_ms: u64,
    pub(super) remote: Option<SocketAddr>,
    due: Instant,
}

/// What became of something that was to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noted {
    /// Nothing of its kind was written lately or waits: it is written now.
    First,
    /// Counted; what waits is looked at earlier for it.
    Sooner,
    /// Counted.
    Counted,
    /// No room.
    Dropped,
}

/// Counts that wait.
#[derive(Debug, Default)]
pub(super) struct Folds {
    waiting: HashMap<Key, Count>,
    /// How many of them are of names that nobody has.
    names: usize,
    /// When the first of them is due.
    due: Option<Instant>,
    /// When each kind was written last, of those written within [`FOLD`].
    written: HashMap<(Claimed, What), Instant>,
}

impl Folds {
    /// Counts one.
    pub(super) fn note(
        &mut self,
        who: &Claimed,
        what: What,
        at_ms: u64,
        remote: Option<SocketAddr>,
        now: Instant,
    ) -> Noted {
        let mut key = Key { who: who.clone(), what, minute_ms: at_ms - at_ms % MINUTE_MS };
        if matches!(key.who, Claimed::Name(..)) && self.names >= NAMES_MAX && !self.waiting.contains_key(&key)
        {
            key.who = Claimed::Nobody;
        }
        if let Some(count) = self.waiting.get_mut(&key) {
            count.add(1, at_ms, remote);
            return Noted::Counted;
        }
        if self.waiting.len() >= WAITING_MAX {
            return Noted::Dropped;
        }
        let held = self.written.get(&(key.who.clone(), what)).map(|written| *written + FOLD);
        let due = held.unwrap_or(now).max(now);
        self.names += usize::from(matches!(key.who, Claimed::Name(..)));
        self.waiting.insert(key, Count { count: 1, last_at_ms: at_ms, remote, due });
        let sooner = self.due.is_none_or(|first| due < first);
        if sooner {
            self.due = Some(due);
        }
        match (held.is_none(), sooner) {
            (true, _) => Noted::First,
            (false, true) => Noted::Sooner,
            (false, false) => Noted::Counted,
        }
    }

    /// How long until one is due; `None`: nothing waits.
    pub(super) fn due_in(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// Takes those that are due, or all.
    pub(super) fn take(&mut self, now: Instant, all: bool) -> Vec<(Key, Count)> {
        self.written.retain(|_, written| now.saturating_duration_since(*written) < FOLD);
        let mut taken = Vec::new();
        self.waiting.retain(|key, count| {
            let due = all || count.due <= now;
            if due {
                taken.push((key.clone(), *count));
            }
            !due
        });
        for (key, _) in &taken {
            if self.written.len() < WAITING_MAX {
                self.written.insert((key.who.clone(), key.what), now);
            }
        }
        self.settle();
        taken
    }

    /// What could not be written waits on.
    pub(super) fn put_back(&mut self, rows: impl IntoIterator<Item = (Key, Count)>) {
        for (key, count) in rows {
            let now = self.waiting.entry(key).or_insert(Count { count: 0, ..count });
            now.add(count.count, count.last_at_ms, count.remote);
            now.due = now.due.min(count.due);
        }
        self.settle();
    }

    fn settle(&mut self) {
        self.names = self.waiting.keys().filter(|key| matches!(key.who, Claimed::Name(..))).count();
        self.due = self.waiting.values().map(|count| count.due).min();
    }
}

impl Count {
    fn add(&mut self, count: u64, at_ms: u64, remote: Option<SocketAddr>) {
        self.count += count;
        if at_ms >= self.last_at_ms {
            self.last_at_ms = at_ms;
            self.remote = remote;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHAT: What = What::Refused(Code::DeviceSuspended);

    fn name(n: usize) -> Claimed {
        Claimed::Name("acme".parse().unwrap(), format!("X-{n}").parse().unwrap())
    }

    #[test]
    fn the_first_is_written_at_once_and_the_rest_once_in_a_while() {
        let (mut folds, start) = (Folds::default(), Instant::now());
        let (mut writes, mut counted) = (0, 0);
        // Ten attempts a second, for a minute; somebody looks as often.
        for tick in 0..600_u64 {
            let now = start + Duration::from_millis(tick * 100);
            let noted = folds.note(&name(1), WHAT, tick * 100, None, now);
            assert_eq!(noted == Noted::First, tick == 0, "{tick}");
            let taken = folds.take(now, false);
            writes += taken.len();
            counted += taken.iter().map(|(_, count)| count.count).sum::<u64>();
        }
        assert_eq!(writes, 6, "at 0, 10, 20 … seconds");
        let rest = folds.take(start, true);
        assert_eq!(counted + rest.iter().map(|(_, count)| count.count).sum::<u64>(), 600, "and none is lost");
        assert_eq!(folds.due_in(start), None);
    }

    #[test]
    fn one_that_comes_back_after_a_while_is_a_first_one_again() {
        let (mut folds, start) = (Folds::default(), Instant::now());
        assert_eq!(folds.note(&name(1), WHAT, 0, None, start), Noted::First);
        assert_eq!(folds.take(start, false).len(), 1);
        assert_eq!(folds.note(&name(1), WHAT, 1, None, start), Noted::Sooner);
        assert_eq!(folds.due_in(start), Some(FOLD));
        assert_eq!(folds.note(&name(2), WHAT, 1, None, start), Noted::First, "another's is no matter");
        assert_eq!(folds.due_in(start), Some(Duration::ZERO));
        assert_eq!(folds.take(start, false).len(), 1);
        let later = start + FOLD;
        assert_eq!(folds.take(later, false).len(), 1);
        assert!(folds.take(later + FOLD, false).is_empty());
        assert_eq!(folds.note(&name(1), WHAT, 2, None, later + FOLD), Noted::First);
    }

    #[test]
    fn what_waits_and_what_is_remembered_is_bounded() {
        let (mut folds, now) = (Folds::default(), Instant::now());
        for n in 0..3 * NAMES_MAX {
            assert_ne!(folds.note(&name(n), WHAT, 0, None, now), Noted::Dropped);
        }
        assert_eq!(folds.waiting.len(), NAMES_MAX + 1, "the rest is nobody's");
        let taken = folds.take(now, false);
        assert_eq!(folds.written.len(), NAMES_MAX + 1);
        folds.put_back(taken);
        assert_eq!(
            (folds.names, folds.due_in(now)),
            (NAMES_MAX, Some(Duration::ZERO)),
            "and is due as before"
        );
        drop(folds.take(now + FOLD, false));
        drop(folds.take(now + 3 * FOLD, false));
        assert_eq!((folds.written.len(), folds.waiting.len()), (0, 0));
    }
}
