//! What the device does next: a machine without clock, socket or flash.
//!
//! ```text
//! Offline ── due ──> Connecting ── accepted ──> Online
//!    ^                   │                        │
//!    └──── a wait ───────┴──── ended: Cause ──────┤
//!                                                 └── the code says stop ──> Stopped (until power-on)
//! ```
//!
//! What a refusal leads to stands in `errors.toml`: the range of the wait, or none. Waits are cut to the
//! endpoint's longest, and back off with decorrelated jitter (each is drawn between the range's minimum
//! and three times the one before), so a fleet that lost its server does not come back as one.

use core::fmt::Write;

use heapless::{String, Vec};
use muster_shared::Code;
use rand_core::RngCore;

use crate::log::{Cause, Fold, Line};

/// A session that lasted this long was a good one: the next wait starts small again.
const SETTLED_MS: u64 = 60_000;

/// How the device paces itself: from its endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Longest wait before a reconnect.
    pub retry_s_max: u16,
    /// Between telemetry messages.
    pub telemetry_s: u16,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Take a measurement and store it.
    Sample,
    /// Connect with the credential of this place in the order of slots.
    Connect {
        /// From 0.
        slot: usize,
    },
    /// Nothing before this time.
    Wait {
        /// Milliseconds of the device's clock.
        until_ms: u64,
    },
    /// Nothing any more.
    Stop,
}

/// The machine.
#[derive(Debug)]
pub struct Agent {
    state: State,
    pace: Pace,
    sample_at_ms: u64,
    /// The last wait, from which the next is drawn.
    waited_ms: u64,
    /// The credential in use, and how many there are.
    slot: usize,
    slots: usize,
    fold: Fold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Offline { until_ms: u64 },
    Connecting,
    Online { since_ms: u64 },
    Stopped,
}

impl Agent {
    /// A device that has `slots` credentials, and connects at once.
    #[must_use]
    pub fn new(pace: Pace, slots: usize, now_ms: u64) -> Self {
        Self {
            state: State::Offline { until_ms: now_ms },
            pace,
            sample_at_ms: now_ms,
            waited_ms: 0,
            slot: 0,
            slots,
            fold: Fold::default(),
        }
    }

    /// What to do now.
    pub fn next(&mut self, now_ms: u64) -> Command {
        if self.state == State::Stopped {
            return Command::Stop;
        }
        if now_ms >= self.sample_at_ms {
            let period = u64::from(self.pace.telemetry_s.max(1)) * 1000;
            // A device that could not measure for a while does not catch up; it goes on.
            self.sample_at_ms = (self.sample_at_ms + period).max(now_ms + 1);
            return Command::Sample;
        }
        match self.state {
            State::Offline { until_ms } if now_ms >= until_ms => {
                self.state = State::Connecting;
                Command::Connect { slot: self.slot }
            }
            State::Offline { until_ms } => Command::Wait { until_ms: until_ms.min(self.sample_at_ms) },
            State::Connecting | State::Online { .. } => Command::Wait { until_ms: self.sample_at_ms },
            State::Stopped => Command::Stop,
        }
    }

    /// When the next measurement is due.
    #[must_use]
    pub fn next_sample_ms(&self) -> u64 {
        self.sample_at_ms
    }

    /// The server took us. Gives the count of the refusals before it, where that is not printed yet.
    pub fn accepted(&mut self, now_ms: u64) -> Option<Line> {
        self.state = State::Online { since_ms: now_ms };
        self.fold.end()
    }

    /// The attempt, or the session, is over. Gives the lines to print.
    pub fn ended(&mut self, cause: &Cause, now_ms: u64, rng: &mut impl RngCore) -> Vec<Line, 2> {
        if matches!(self.state, State::Online { since_ms } if now_ms >= since_ms + SETTLED_MS) {
            self.waited_ms = 0;
        }
        let entry = cause.code.entry().device;
        let other_slot = concerns_credential(cause.code) && self.slot + 1 < self.slots;
        self.slot = if other_slot { self.slot + 1 } else { 0 };
        let range = if other_slot { Some((1, 30)) } else { entry.map_or(Some((60, 300)), |e| e.retry_s) };
        let mut act = String::<32>::new();
        match range {
            Some(range) => {
                let (min, max) = self.cut(range);
                self.state = State::Offline { until_ms: now_ms + self.wait(min, max, rng) };
                match entry {
                    _ if other_slot => act.push_str("try the other certificate").unwrap_or(()),
                    Some(entry) if (min, max) == range => act.push_str(entry.act).unwrap_or(()),
                    // What the table says is not what this device does: its endpoint is less patient.
                    _ if min == max => write!(act, "retry {max}s").unwrap_or(()),
                    _ => write!(act, "retry {min}..{max}s").unwrap_or(()),
                }
            }
            None => {
                self.state = State::Stopped;
                act.push_str(entry.map_or("stop", |entry| entry.act)).unwrap_or(());
            }
        }
        self.fold.say(cause, &act)
    }

    /// Something was refused and the session goes on.
    pub fn note(&mut self, cause: &Cause) -> Vec<Line, 2> {
        self.fold.say(cause, cause.code.entry().device.map_or("dropped", |device| device.act))
    }

    /// How long a message waits that was refused with this code and may be taken later, milliseconds.
    pub fn patience_ms(&self, code: Code, rng: &mut impl RngCore) -> u64 {
        let (min, max) = self.cut(code.entry().device.and_then(|device| device.retry_s).unwrap_or((5, 60)));
        let (min, max) = (u64::from(min) * 1000, u64::from(max) * 1000);
        min + u64::from(rng.next_u32()) % (max - min + 1)
    }

    /// A range cut to the endpoint's longest wait. One that says nothing about a session gets the range of
    /// a lost connection.
    fn cut(&self, (min, max): (u16, u16)) -> (u16, u16) {
        let (min, max) = if max == 0 { (1, 30) } else { (min, max) };
        let max = max.min(self.pace.retry_s_max.max(1));
        (min.min(max), max)
    }

    fn wait(&mut self, min_s: u16, max_s: u16, rng: &mut impl RngCore) -> u64 {
        let (min, max) = (u64::from(min_s) * 1000, u64::from(max_s) * 1000);
        // A fixed wait is spread a little downwards, so that it stays within what was promised.
        let min = if min == max { max - max / 8 } else { min };
        let upper = self.waited_ms.saturating_mul(3).clamp(min, max);
        let upper = if self.waited_ms == 0 { (min * 2).min(max) } else { upper };
        self.waited_ms = min + u64::from(rng.next_u32()) % (upper - min + 1);
        self.waited_ms
    }
}

/// Refusals another credential may not meet.
fn concerns_credential(code: Code) -> bool {
    matches!(
        code,
        Code::IssuerUnknown
            | Code::CertificateRevoked
            | Code::CertificateExpired
            | Code::CertificateNotYetValid
            | Code::CertificateProfile
            | Code::CertificateSuperseded
    )
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    const PACE: Pace = Pace { retry_s_max: 900, telemetry_s: 10 };

    fn agent() -> (Agent, ChaCha20Rng) {
        (Agent::new(PACE, 1, 0), ChaCha20Rng::seed_from_u64(7))
    }

    /// Runs until the next attempt; the time of it, and how many samples were taken on the way.
    fn until_connect(agent: &mut Agent, mut now: u64) -> Option<(u64, u32)> {
        let mut samples = 0;
        loop {
            match agent.next(now) {
                Command::Sample => samples += 1,
                Command::Wait { until_ms } => {
                    assert!(until_ms > now, "a wait that is over");
                    now = until_ms;
                }
                Command::Connect { slot: 0 } => return Some((now, samples)),
                Command::Connect { slot } => panic!("slot {slot} of one"),
                Command::Stop => return None,
            }
        }
    }

    #[test]
    fn it_connects_at_once_and_measures_first() {
        let (mut agent, _) = agent();
        assert_eq!(until_connect(&mut agent, 0), Some((0, 1)));
    }

    #[test]
    fn every_code_leads_to_what_its_row_says() {
        for &code in Code::ALL {
            let Some(device) = code.entry().device else { continue };
            let (mut agent, mut rng) = agent();
            until_connect(&mut agent, 0).unwrap();
            let lines = agent.ended(&Cause::of(code), 1000, &mut rng);
            assert_eq!(lines.len(), 1);
            let next = until_connect(&mut agent, 1000).map(|(at, _)| at - 1000);
            match device.retry_s {
                None => assert_eq!(next, None, "{code} stops"),
                Some((_, 0)) => assert!((1000..=30_000).contains(&next.unwrap()), "{code}"),
                Some((min, max)) => {
                    let (min, max) = (u64::from(min.min(900)) * 875, u64::from(max.min(900)) * 1000);
                    assert!((min..=max).contains(&next.unwrap()), "{code}: {next:?}");
                    if device.retry_s.is_some_and(|(_, max)| max <= 900) {
                        assert!(lines[0].ends_with(device.act), "{}", lines[0]);
                    }
                }
            }
        }
    }

    #[test]
    fn waits_grow_to_the_longest_and_are_cut_to_the_endpoints() {
        let (mut agent, mut rng) = agent();
        let (mut now, mut waits) = (0, Vec::<u64, 64>::new());
        for _ in 0..40 {
            until_connect(&mut agent, now).unwrap();
            agent.ended(&Cause::of(Code::NetUnreachable), now, &mut rng);
            let (at, _) = until_connect(&mut agent, now).unwrap();
            waits.push(at - now).unwrap();
            agent.ended(&Cause::of(Code::NetUnreachable), at, &mut rng);
            now = at;
        }
        assert!(waits[0] <= 2000 && waits.iter().all(|&w| (1000..=300_000).contains(&w)), "{waits:?}");
        assert!(waits.iter().any(|&w| w > 60_000), "{waits:?}");

        let mut hasty = Agent::new(Pace { retry_s_max: 2, ..PACE }, 1, 0);
        until_connect(&mut hasty, 0).unwrap();
        let lines = hasty.ended(&Cause::of(Code::DeviceSuspended), 0, &mut rng);
        assert_eq!(lines[0], "muster mqtt M201 suspended by the operator | retry 2s");
        assert!(until_connect(&mut hasty, 0).unwrap().0 <= 2000);
    }

    #[test]
    fn a_session_that_lasted_starts_the_waits_anew() {
        let (mut agent, mut rng) = agent();
        let mut now = 0;
        for _ in 0..20 {
            (now, _) = until_connect(&mut agent, now).unwrap();
            agent.ended(&Cause::of(Code::NetUnreachable), now, &mut rng);
        }
        (now, _) = until_connect(&mut agent, now).unwrap();
        agent.accepted(now);
        agent.ended(&Cause::of(Code::ConnectionLost), now + SETTLED_MS, &mut rng);
        let (at, _) = until_connect(&mut agent, now + SETTLED_MS).unwrap();
        assert!(at - now - SETTLED_MS <= 2000);
    }

    #[test]
    fn a_refused_credential_gives_way_to_the_next_and_birth_is_the_last() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut agent = Agent::new(PACE, 3, 0);
        let mut order = Vec::<usize, 8>::new();
        let mut now = 0;
        while order.len() < 4 {
            match agent.next(now) {
                Command::Sample => {}
                Command::Wait { until_ms } => now = until_ms,
                Command::Connect { slot } => {
                    order.push(slot).unwrap();
                    agent.ended(&Cause::of(Code::CertificateSuperseded), now, &mut rng);
                }
                Command::Stop => break,
            }
        }
        assert_eq!(order, [0, 1, 2, 0]);
    }

    #[test]
    fn it_measures_in_its_rhythm_whatever_the_connection_does() {
        let (mut agent, mut rng) = agent();
        until_connect(&mut agent, 0).unwrap();
        agent.ended(&Cause::of(Code::DeviceSuspended), 0, &mut rng);
        let (at, samples) = until_connect(&mut agent, 0).unwrap();
        assert_eq!(u64::from(samples), at / 10_000);
    }
}
