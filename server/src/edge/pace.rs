//! How fast a device may send: an average with a burst, in one number (the generic cell rate algorithm,
//! ITU-T I.371). Whoever is faster is not read for a while; TCP holds it back and nothing is lost. Its operator
//! is told once a minute.

use super::limits::{BURST_S, SLOWED_AGAIN_MS};

/// The pace of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// When everything sent so far would have been sent at the average rate, microseconds.
    due_us: u64,
    interval_us: u64,
    /// When it may be said again that it was held back.
    quiet_until_ms: u64,
}

impl Pace {
    pub(super) fn new(messages_per_s: u32) -> Self {
        Self { due_us: 0, interval_us: 1_000_000 / u64::from(messages_per_s.max(1)), quiet_until_ms: 0 }
    }

    /// As fast as it is read.
    pub(super) fn unlimited() -> Self {
        Self { due_us: 0, interval_us: 0, quiet_until_ms: 0 }
    }

    /// One message came.
    pub(super) fn count(&mut self, now_ms: u64) {
        self.due_us = self.due_us.max(now_ms * 1000) + self.interval_us;
    }

    /// When it may be read again; `None`: now.
    pub(super) fn wait_until_ms(&self, now_ms: u64) -> Option<u64> {
        let ready_us = self.due_us.saturating_sub(u64::from(BURST_S) * 1_000_000);
        (ready_us > now_ms * 1000).then(|| ready_us.div_ceil(1000))
    }

    /// It is held back. Is that to be said, or was it lately?
    pub(super) fn is_news(&mut self, now_ms: u64) -> bool {
        let news = now_ms >= self.quiet_until_ms;
        if news {
            self.quiet_until_ms = now_ms + SLOWED_AGAIN_MS;
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_average_holds() {
        let mut pace = Pace::new(10);
        let mut sent = 0;
        for now_ms in 0..60_000 {
            while pace.wait_until_ms(now_ms).is_none() {
                pace.count(now_ms);
                sent += 1;
            }
        }
        let expected = 10 * (60 + BURST_S);
        assert!((expected..=expected + 1).contains(&sent), "{sent}");
    }

    #[test]
    fn whoever_overdraws_waits_it_out() {
        let mut pace = Pace::new(100);
        for _ in 0..100 * (BURST_S + 3) {
            pace.count(0);
        }
        assert_eq!(pace.wait_until_ms(0), Some(3000));
        assert_eq!(pace.wait_until_ms(2999), Some(3000));
        assert_eq!(pace.wait_until_ms(3000), None);
    }

    #[test]
    fn it_is_said_once_a_minute() {
        let mut pace = Pace::new(1);
        let said = (0..=180_000).filter(|now_ms| pace.is_news(*now_ms)).count();
        assert_eq!(said, 4);
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let mut pace = Pace::unlimited();
        for _ in 0..1_000_000 {
            pace.count(0);
        }
        assert_eq!(pace.wait_until_ms(0), None);
    }

    #[test]
    fn any_rate_is_a_rate() {
        for rate in [0, 1, 1_000_000, u32::MAX] {
            let mut pace = Pace::new(rate);
            pace.count(u64::from(u32::MAX));
            assert_eq!(pace.wait_until_ms(u64::from(u32::MAX)), None);
        }
    }
}
