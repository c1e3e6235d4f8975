//! Who may begin a handshake, and when: a handshake is the dearest thing a stranger can have done.
//!
//! ```text
//! kernel's accept queue → place on a shard → its address's pace → the shard's line → the node's pace → TLS
//! ```
//!
//! - Those who wait stand in line, in order of arrival; the first of each line waits for its time on the
//!   node's pace. So a fleet that comes back at once is served in order, at a rate that leaves the processors
//!   to those who are connected. Whoever has gone when it is first takes nobody's time.
//! - A handshake that begins later than its time says that the event loop is behind, and that those who are
//!   connected wait as long. The pace then slows down, and comes back when the loop keeps up: a rate that is
//!   right for one machine is too much for another.
//! - An address has a pace and a number of places too. What it asks beyond them waits behind its own, or is
//!   closed, and takes nothing from the node's pace: the next address finds the door free.
//! - An IPv6 client is known by its first 64 bits: it is given as many addresses as it likes (RFC 4291
//!   §2.5.4).

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Mutex as Line,
    time::{Instant, sleep_until},
};

use super::limits::{
    ADDRESS_SWEEP, ADDRESSES_MAX, HANDSHAKE_BURST, HANDSHAKE_LAG_MAX, HANDSHAKE_SLOWDOWN_MAX, Limits,
    PACE_ADJUST,
};

/// The node's door, shared by its shards.
pub(super) struct Admission {
    started: Instant,
    node: Pace,
    addresses: Mutex<Addresses>,
    address: Rate,
    places: u32,
    wait_us_max: u64,
}

/// A rate with a burst, as an interval (the generic cell rate algorithm, ITU-T I.371).
#[derive(Debug, Clone, Copy)]
struct Rate {
    interval_us: u64,
    burst_us: u64,
}

/// Times given out to all shards: at a rate at most, and more slowly while they are late.
#[derive(Debug)]
struct Pace {
    rate: Rate,
    due_us: AtomicU64,
    /// How many times the rate's interval passes from one to the next, in sixteenths.
    stretch: AtomicU32,
    stretched_us: AtomicU64,
}

/// No slower than the rate says.
const PLAIN: u32 = 16;

/// One connection from its arrival to the end of its handshake. Gives its place back when it is dropped.
pub(super) struct Visit {
    admission: Arc<Admission>,
    who: Who,
    not_before_us: u64,
}

/// Who is held to a pace: an IPv4 address, the first half of an IPv6 one, or everybody there was no room
/// to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    V4(Ipv4Addr),
    V6(u64),
    Others,
}

#[derive(Debug, Default)]
struct Addresses {
    known: HashMap<Who, Address>,
    /// When those that say nothing any more were last put away.
    swept_us: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Address {
    visits: u32,
    due_us: u64,
}

impl Rate {
    fn new(per_s: u32, burst: u32) -> Self {
        let interval_us = (1_000_000 / u64::from(per_s.max(1))).max(1);
        Self { interval_us, burst_us: interval_us * u64::from(burst) }
    }

    /// When the next one may begin, given what is due; and what is due then.
    fn next(self, due_us: u64, now_us: u64) -> (u64, u64) {
        let due_us = due_us.max(now_us);
        (due_us.saturating_sub(self.burst_us).max(now_us), due_us + self.interval_us)
    }
}

impl Pace {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            due_us: AtomicU64::new(0),
            stretch: AtomicU32::new(PLAIN),
            stretched_us: AtomicU64::new(0),
        }
    }

    fn take(&self, now_us: u64) -> u64 {
        let stretch = u64::from(self.stretch.load(Ordering::Relaxed));
        let rate = Rate { interval_us: self.rate.interval_us * stretch / u64::from(PLAIN), ..self.rate };
        let next = |due_us| Some(rate.next(due_us, now_us).1);
        let before = self.due_us.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        rate.next(before.unwrap_or_else(|due_us| due_us), now_us).0
    }

    /// What was to begin `late_us` ago begins now.
    fn begun(&self, late_us: u64, now_us: u64) {
        let before = self.stretched_us.load(Ordering::Relaxed);
        let due = before + PACE_ADJUST.as_micros() as u64 <= now_us;
        // Everything that was due in the meantime is late together: that is one observation.
        let mine =
            || self.stretched_us.compare_exchange(before, now_us, Ordering::Relaxed, Ordering::Relaxed);
        if !due || mine().is_err() {
            return;
        }
        let lag_max_us = HANDSHAKE_LAG_MAX.as_micros() as u64;
        let stretch = self.stretch.load(Ordering::Relaxed);
        let next = if late_us > lag_max_us {
            (stretch + stretch / 4).min(PLAIN * HANDSHAKE_SLOWDOWN_MAX)
        } else if late_us < lag_max_us / 4 {
            (stretch - stretch / 16).max(PLAIN)
        } else {
            stretch
        };
        self.stretch.store(next, Ordering::Relaxed);
    }
}

impl Who {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((u128::from(address) >> 64) as u64),
        }
    }
}

impl Addresses {
    fn entry(&mut self, who: Who, now_us: u64) -> (Who, &mut Address) {
        if self.known.len() >= ADDRESSES_MAX && !self.known.contains_key(&who) {
            if now_us >= self.swept_us + ADDRESS_SWEEP.as_micros() as u64 {
                self.swept_us = now_us;
                self.known.retain(|_, address| address.visits > 0 || address.due_us > now_us);
            }
            if self.known.len() >= ADDRESSES_MAX {
                return (Who::Others, self.known.entry(Who::Others).or_default());
            }
        }
        (who, self.known.entry(who).or_default())
    }
}

impl Admission {
    /// For `shards` event loops.
    pub(super) fn new(limits: &Limits, shards: usize) -> Arc<Self> {
        let shards = u32::try_from(shards.max(1)).unwrap_or(u32::MAX);
        let per_s = limits.handshakes_per_s_of(shards);
        Arc::new(Self {
            started: Instant::now(),
            node: Pace::new(Rate::new(per_s, HANDSHAKE_BURST.saturating_mul(shards))),
            addresses: Mutex::default(),
            address: Rate::new(limits.handshakes_per_address_per_s, limits.handshakes_per_address_per_s),
            places: limits.handshakes_per_address,
            wait_us_max: limits.handshake.as_micros() as u64,
        })
    }

    /// Somebody has arrived from this address. `None`: it has too many places already, or would wait longer
    /// than a client does.
    pub(super) fn arrive(self: &Arc<Self>, from: IpAddr) -> Option<Visit> {
        let (who, not_before_us) = self.place(from, self.now_us())?;
        Some(Visit { admission: Arc::clone(self), who, not_before_us })
    }

    fn place(&self, from: IpAddr, now_us: u64) -> Option<(Who, u64)> {
        let mut addresses = self.addresses.lock();
        let (who, address) = addresses.entry(Who::of(from), now_us);
        let (not_before_us, due_us) = self.address.next(address.due_us, now_us);
        if address.visits >= self.places || not_before_us - now_us > self.wait_us_max {
            return None;
        }
        *address = Address { visits: address.visits + 1, due_us };
        Some((who, not_before_us))
    }

    fn leave(&self, who: Who, now_us: u64) {
        let mut addresses = self.addresses.lock();
        if let Some(address) = addresses.known.get_mut(&who) {
            address.visits -= 1;
            if address.visits == 0 && address.due_us <= now_us {
                addresses.known.remove(&who);
            }
        }
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// Waits until then; `true` when that was not over yet.
    async fn until(&self, at_us: u64) -> bool {
        let ahead = at_us > self.now_us();
        if ahead {
            sleep_until(self.started + Duration::from_micros(at_us)).await;
        }
        ahead
    }
}

impl Visit {
    /// Waits for its turn, in the line of its shard. `false`: its client has gone meanwhile.
    pub(super) async fn turn(&self, line: &Line<()>, has_gone: impl Fn() -> bool) -> bool {
        let door = &self.admission;
        // Not in line yet: who is too fast holds up nobody else.
        door.until(self.not_before_us).await;
        // The line is served first come, first served.
        let _first = line.lock().await;
        if has_gone() {
            return false;
        }
        let at_us = door.node.take(door.now_us());
        if door.until(at_us).await {
            let now_us = door.now_us();
            door.node.begun(now_us.saturating_sub(at_us), now_us);
        }
        true
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.admission.leave(self.who, self.admission.now_us());
    }
}

#[cfg(test)]
mod tests;
