//! How much may be asked: requests a second of one credential, event streams at once, and until when.
//!
//! Nothing here waits: what is too much is refused at once and says when to come back. Memory is bounded by
//! the credentials that exist, and those that ask no more are forgotten.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::{hmac, rand::SystemRandom};
use muster_shared::Code;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{error::Problem, limits::Limits};
use crate::registry::Actor;

/// Credentials kept in mind before those that rest are forgotten.
const KEPT: usize = 1024;

/// The bounds, and who is at them.
pub struct Asking {
    limits: Limits,
    buckets: Mutex<HashMap<String, Bucket>>,
    streams: Arc<Mutex<HashMap<String, usize>>>,
    stop: watch::Sender<bool>,
    /// A job has come, or is to be cancelled.
    pub(super) work: Notify,
    /// What plans are confirmed with; another one after a restart.
    pub(super) confirming: hmac::Key,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn at(self, now: Instant, limits: &Limits) -> f64 {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(limits.requests_per_s);
        (self.tokens + gained).min(f64::from(limits.requests_burst))
    }
}

/// Whose requests are counted together: a credential's.
pub(super) fn credential(actor: &Actor) -> String {
    actor.token_id.clone().unwrap_or_else(|| actor.name.clone())
}

impl Asking {
    /// Nobody asks yet.
    ///
    /// # Errors
    /// When the system's random source fails.
    pub fn new(limits: Limits) -> Result<Self, aws_lc_rs::error::Unspecified> {
        Ok(Self {
            limits,
            buckets: Mutex::default(),
            streams: Arc::default(),
            stop: watch::channel(false).0,
            work: Notify::new(),
            confirming: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?,
        })
    }

    /// Counts a request of this credential.
    ///
    /// # Errors
    /// M508 when there were too many; with when to come back.
    pub(super) fn request(&self, credential: &str, now: Instant) -> Result<(), Problem> {
        let mut buckets = self.buckets.lock();
        let (limits, burst) = (&self.limits, f64::from(self.limits.requests_burst));
        if buckets.len() >= KEPT && !buckets.contains_key(credential) {
            buckets.retain(|_, bucket| bucket.at(now, limits) < burst);
        }
        let bucket = buckets.entry(credential.to_owned()).or_insert(Bucket { tokens: burst, at: now });
        *bucket = Bucket { tokens: bucket.at(now, limits), at: now };
        if bucket.tokens < 1.0 {
            let why = format!("{} a second, {burst} at once after a pause", limits.requests_per_s);
            return Err(Problem::new(Code::RateLimited).because(why).retry(Duration::from_secs(1)));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }

    /// A place for an event stream of this credential, given back when it is dropped.
    ///
    /// # Errors
    /// M508.
    pub(super) fn stream(&self, credential: &str) -> Result<Place, Problem> {
        let mut streams = self.streams.lock();
        let own = streams.get(credential).copied().unwrap_or_default();
        let all: usize = streams.values().sum();
        if own >= self.limits.streams_each || all >= self.limits.streams_max {
            let why = format!("{own} event streams of this credential are open, {all} in all");
            return Err(Problem::new(Code::RateLimited).because(why).retry(Duration::from_secs(15)));
        }
        streams.insert(credential.to_owned(), own + 1);
        Ok(Place { streams: Arc::clone(&self.streams), credential: credential.to_owned() })
    }

    /// Resolves when the server stops: what lasts ends then.
    pub(super) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Ends event streams and jobs.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// An open event stream's place.
pub(super) struct Place {
    streams: Arc<Mutex<HashMap<String, usize>>>,
    credential: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.streams.lock();
        if let Some(count) = streams.get_mut(&self.credential) {
            *count -= 1;
            if *count == 0 {
                streams.remove(&self.credential);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let limits = Limits { requests_per_s: 20, requests_burst: 50, ..Limits::default() };
        let asking = Asking::new(limits).unwrap();
        let now = Instant::now();
        let taken = (0..1000).filter(|_| asking.request("t-1", now).is_ok()).count();
        assert_eq!(taken, 50);
        let refused = asking.request("t-1", now).unwrap_err();
        assert_eq!((refused.code, refused.retry_s), (Code::RateLimited, Some(1)));
        assert!(asking.request("t-2", now).is_ok(), "another credential has its own");
        let later = now + Duration::from_millis(500);
        let taken = (0..1000).filter(|_| asking.request("t-1", later).is_ok()).count();
        assert_eq!(taken, 10);
    }

    #[test]
    fn who_rests_is_forgotten() {
        let asking = Asking::new(Limits::default()).unwrap();
        let now = Instant::now();
        for n in 0..3 * KEPT {
            let at = now + Duration::from_secs(n as u64);
            assert!(asking.request(&format!("t-{n}"), at).is_ok());
        }
        assert!(asking.buckets.lock().len() <= KEPT);
    }

    #[test]
    fn a_place_is_given_back() {
        let asking = Asking::new(Limits { streams_each: 3, ..Limits::default() }).unwrap();
        let places: Vec<_> = (0..3).map(|_| asking.stream("t-1").unwrap()).collect();
        assert!(asking.stream("t-1").is_err());
        assert!(asking.stream("t-2").is_ok());
        drop(places);
        assert!(asking.stream("t-1").is_ok());
        assert!(asking.streams.lock().is_empty());
    }
}
