//! Failed sign-ins: counted for each address and each name, limited, and on the record.
//!
//! What is guessed at has 256 random bits, so the limit is not what keeps anybody out; it keeps the audit log
//! readable and the disk free, and tells whoever watches. A credential that is good is therefore never refused
//! for what others of its address tried: everybody behind one balancer has one address. Only who signs in anew
//! (a link, a token typed into the page) waits, since that is where a person guesses.
//!
//! In five minutes an address, or a name, makes two rows: its first failure, and the one that reached the
//! limit, which says how many it stands for. What was not recorded is counted into the next row.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use muster_shared::Code;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::error::Problem;
use crate::registry::{Arrival, FailedLogin, Registry, RegistryError, now_ms};

/// How long failures are counted together.
const WINDOW_MS: u64 = 5 * 60 * 1000;
/// Addresses and names counted at once: 100 octets each, 1 MB in all.
const KEYS_MAX: usize = 8192;
/// Rows of the audit log that failures of all addresses together may make in that time: each is an fsync.
const ROWS_MAX: u32 = 200;

/// What guards the ways in.
pub struct Access {
    host: [u8; 32],
    counts: Mutex<Counts>,
}

struct Counts {
    /// Failures of one address, or of one name, in [`WINDOW_MS`].
    failures_max: u32,
    since_ms: u64,
    rows: u32,
    of: HashMap<String, Count>,
}

#[derive(Default, Clone, Copy)]
struct Count {
    failed: u32,
    /// Since the last row.
    silent: u64,
}

impl Access {
    /// `host_secret` is what lies in the data directory of the running server; `failures_max`: how often an
    /// address, or a name, may fail in five minutes.
    #[must_use]
    pub fn new(host_secret: &str, failures_max: u32) -> Arc<Self> {
        let counts = Mutex::new(Counts::new(failures_max));
        Arc::new(Self { host: Sha256::digest(host_secret).into(), counts })
    }

    /// Whether this is the secret in the data directory. Compared as digests: the time it takes says nothing.
    pub(super) fn is_host(&self, secret: &str) -> bool {
        <[u8; 32]>::from(Sha256::digest(secret)) == self.host
    }

    /// May somebody at this address try to sign in now?
    ///
    /// # Errors
    /// M523.
    pub(super) fn may_try(&self, at: &Arrival) -> Result<(), Problem> {
        let mut counts = self.counts.lock();
        counts.turn(now_ms());
        if counts.of.get(&address(at)).is_some_and(|count| count.failed >= counts.failures_max) {
            return Err(limited(at, counts.failures_max));
        }
        Ok(())
    }

    /// Counts a failure and records it where that is due. M523 once there were too many.
    pub(super) async fn failed(
        &self,
        registry: &Registry,
        at: &Arrival,
        mut failed: FailedLogin,
    ) -> Option<Problem> {
        let (over, due, max) = {
            let mut counts = self.counts.lock();
            let (over, due) = counts.add(at, failed.operator.as_deref(), now_ms());
            (over, due, counts.failures_max)
        };
        if let Some(count) = due {
            failed.count = count;
            if let Err(error) = registry.record_failed_login(at, &failed).await {
                tracing::error!(%error, "a failed sign-in is not on the record");
            }
        }
        tracing::warn!(address = %at.address, operator = failed.operator, why = failed.why, "sign-in failed");
        over.then(|| limited(at, max))
    }
}

fn limited(at: &Arrival, max: u32) -> Problem {
    Problem::new(Code::SignInLimited)
        .because(format!("{max} failed from {} within five minutes, or for this name", at.address))
}

/// What an address is counted as. Whoever has one of IPv6 has 2^64 of them (RFC 4291 §2.5.4).
fn address(at: &Arrival) -> String {
    match at.address.parse() {
        Ok(IpAddr::V6(address)) => format!("{:x}::/64", address.to_bits() >> 64),
        _ => at.address.clone(),
    }
}

impl Counts {
    fn new(failures_max: u32) -> Self {
        Self { failures_max, since_ms: 0, rows: 0, of: HashMap::new() }
    }

    /// Begins anew when the time is over. What was not recorded is kept.
    fn turn(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.since_ms) < WINDOW_MS {
            return;
        }
        self.since_ms = now_ms;
        self.rows = 0;
        self.of.retain(|_, count| count.silent > 0);
        self.of.values_mut().for_each(|count| count.failed = 0);
    }

    /// Whether there are too many now, and how many a row that is due stands for.
    fn add(&mut self, at: &Arrival, operator: Option<&str>, now_ms: u64) -> (bool, Option<u64>) {
        self.turn(now_ms);
        let (mut over, mut due, mut silent) = (false, false, 0);
        let name = operator.map(|name| format!("operator {name}"));
        for key in [Some(address(at)), name].into_iter().flatten() {
            if self.of.len() >= KEYS_MAX && !self.of.contains_key(&key) {
                // Whoever has thousands of addresses is limited as one.
                over = true;
                continue;
            }
            let count = self.of.entry(key).or_default();
            count.failed = count.failed.saturating_add(1);
            count.silent += 1;
            over |= count.failed > self.failures_max;
            due |= count.failed == 1 || count.failed == self.failures_max;
            silent = count.silent.max(silent);
        }
        if !due || self.rows >= ROWS_MAX {
            return (over, None);
        }
        self.rows += 1;
        for key in [Some(address(at)), operator.map(|name| format!("operator {name}"))].into_iter().flatten()
        {
            self.of.entry(key).and_modify(|count| count.silent = 0);
        }
        (over, Some(silent))
    }
}

/// What of this looks like guessing, or like a credential in the wrong hands. A session that its own browser
/// shows after its end does not.
pub(super) fn failure(error: &RegistryError) -> Option<FailedLogin> {
    let of = |operator: Option<&String>, why: String| {
        Some(FailedLogin { operator: operator.cloned(), why, count: 1 })
    };
    match error {
        RegistryError::TokenUnknown => of(None, "no such token".to_owned()),
        RegistryError::TokenEnded { name, operator, .. } => {
            of(Some(operator), format!("token {name:?} has ended"))
        }
        RegistryError::LinkEnded { operator, why } => of(operator.as_ref(), format!("link: {why}")),
        RegistryError::SessionEnded { operator: None, why } => of(None, format!("session: {why}")),
        RegistryError::OperatorUnknown(name) => of(Some(name), "a certificate of nobody".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str) -> Arrival {
        Arrival { request: String::new(), address: address.to_owned() }
    }

    #[test]
    fn an_address_makes_two_rows_and_is_then_limited() {
        let mut counts = Counts::new(10);
        let here = from("192.0.2.1");
        let all: Vec<_> = (0..30).map(|_| counts.add(&here, None, WINDOW_MS)).collect();
        assert_eq!(all[0], (false, Some(1)));
        assert_eq!(all[9], (false, Some(9)), "the second row says how many it stands for");
        assert!(all[1..9].iter().all(|of| *of == (false, None)));
        assert!(all[10..].iter().all(|of| *of == (true, None)));
        assert_eq!(counts.add(&from("192.0.2.2"), None, WINDOW_MS), (false, Some(1)), "another address");
        assert_eq!(counts.add(&here, None, 2 * WINDOW_MS), (false, Some(21)), "and a later time");
    }

    #[test]
    fn a_name_is_limited_wherever_it_is_tried_from() {
        let mut counts = Counts::new(10);
        let tries = (0..20).map(|n| counts.add(&from(&format!("192.0.2.{n}")), Some("ana"), WINDOW_MS).0);
        assert_eq!(tries.filter(|over| *over).count(), 10);
        assert!(!counts.add(&from("192.0.2.99"), Some("ben"), WINDOW_MS).0);
    }

    #[test]
    fn whoever_has_an_ipv6_network_is_counted_once() {
        let mut counts = Counts::new(10);
        let over = (0..20).map(|n| counts.add(&from(&format!("2001:db8::{n}")), None, WINDOW_MS).0);
        assert_eq!(over.filter(|over| *over).count(), 10);
        assert!(!counts.add(&from("2001:db8:0:1::1"), None, WINDOW_MS).0);
    }

    #[test]
    fn any_number_of_addresses_costs_a_bounded_number_of_rows_and_octets() {
        let mut counts = Counts::new(10);
        let rows = (0..20_000u32).filter(|n| {
            let address = std::net::Ipv4Addr::from_bits(*n).to_string();
            counts.add(&from(&address), None, WINDOW_MS).1.is_some()
        });
        assert_eq!(rows.count(), ROWS_MAX as usize);
        assert_eq!(counts.of.len(), KEYS_MAX);
    }
}
