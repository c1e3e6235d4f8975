//! Which messages are in the log already: a bounded window for each start of a device. Pure.
//!
//! A window remembers the last [`WINDOW`] sequence numbers of one start, one bit each. A device has two:
//! its current start and the one before, so that what it sends again after a restart is recognised too. A
//! device that invents starts pushes out its own windows and nobody else's.

use std::collections::HashMap;

use muster_shared::telemetry::Boot;

use super::Position;
use crate::registry::DeviceKey;

/// Sequence numbers remembered of a start: more than a device may have unacknowledged.
pub const WINDOW: u64 = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    boot: Boot,
    highest: u64,
    /// Bit n is sequence number `highest - n`.
    seen: u128,
    /// Of the newest message.
    position: Position,
}

/// The windows of every device.
#[derive(Debug, Default)]
pub(super) struct Windows {
    /// The current start first.
    devices: HashMap<DeviceKey, [Option<Window>; 2]>,
}

impl Window {
    fn new(boot: Boot, seq: u64, position: Position) -> Self {
        Self { boot, highest: seq, seen: 1, position }
    }

    fn has(&self, seq: u64) -> bool {
        self.highest.checked_sub(seq).is_some_and(|back| back < WINDOW && self.seen >> back & 1 == 1)
    }

    fn put(&mut self, seq: u64, position: Position) {
        if seq > self.highest {
            let ahead = seq - self.highest;
            self.seen = if ahead < WINDOW { self.seen << ahead } else { 0 } | 1;
            self.highest = seq;
        } else if self.highest - seq < WINDOW {
            self.seen |= 1 << (self.highest - seq);
        }
        self.position = position;
    }
}

impl Windows {
    /// Where the message is, or a later one of the same start, if it is in the log.
    pub(super) fn find(&self, device: DeviceKey, boot: Boot, seq: u64) -> Option<Position> {
        let windows = self.devices.get(&device)?;
        let window = windows.iter().flatten().find(|window| window.boot == boot)?;
        window.has(seq).then_some(window.position)
    }

    /// The message is in the log, or will be with the batch.
    pub(super) fn put(&mut self, device: DeviceKey, boot: Boot, seq: u64, position: Position) {
        let windows = self.devices.entry(device).or_default();
        match windows.iter_mut().flatten().find(|window| window.boot == boot) {
            Some(window) => window.put(seq, position),
            None => *windows = [Some(Window::new(boot, seq, position)), windows[0]],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const DEVICE: DeviceKey = DeviceKey(3);

    fn boot(count: u32) -> Boot {
        Boot { install: 1, count }
    }

    proptest! {
        /// Against the plain model: a set of all that was put, of which the window shows the last 128.
        #[test]
        fn finds_exactly_what_was_put_within_the_window(seqs in prop::collection::vec(0_u64..400, 1..200)) {
            let mut windows = Windows::default();
            let mut all = BTreeSet::new();
            for (n, seq) in seqs.iter().enumerate() {
                let highest = all.last().copied().unwrap_or(*seq).max(*seq);
                let in_window = |seq: u64| highest - seq < WINDOW;
                if windows.find(DEVICE, boot(1), *seq).is_none() {
                    prop_assert!(!all.contains(seq) || !in_window(*seq), "{} is forgotten", seq);
                } else {
                    prop_assert!(all.contains(seq), "{} was never put", seq);
                }
                windows.put(DEVICE, boot(1), *seq, Position(n as u64 + 1));
                all.insert(*seq);
            }
        }
    }

    #[test]
    fn extremes_of_the_sequence_do_not_overflow() {
        let mut windows = Windows::default();
        windows.put(DEVICE, boot(1), 0, Position(1));
        windows.put(DEVICE, boot(1), u64::MAX, Position(2));
        assert_eq!(windows.find(DEVICE, boot(1), u64::MAX), Some(Position(2)));
        assert_eq!(windows.find(DEVICE, boot(1), 0), None, "beyond the window: stored again, not lost");
        assert_eq!(windows.find(DEVICE, boot(1), u64::MAX - 1), None);
    }

    #[test]
    fn two_starts_are_remembered_and_devices_do_not_mix() {
        let mut windows = Windows::default();
        for count in 1..=3 {
            windows.put(DEVICE, boot(count), 5, Position(u64::from(count)));
        }
        assert_eq!(windows.find(DEVICE, boot(3), 5), Some(Position(3)));
        assert_eq!(windows.find(DEVICE, boot(2), 5), Some(Position(2)));
        assert_eq!(windows.find(DEVICE, boot(1), 5), None);
        assert_eq!(windows.find(DEVICE, Boot { install: 2, count: 3 }, 5), None);
        assert_eq!(windows.find(DeviceKey(4), boot(3), 5), None);
    }

    #[test]
    fn starts_invented_by_one_device_push_out_only_its_own() {
        let mut windows = Windows::default();
        windows.put(DeviceKey(1), boot(1), 1, Position(1));
        for count in 0..10_000 {
            windows.put(DeviceKey(2), boot(count), 1, Position(2));
        }
        assert_eq!(windows.find(DeviceKey(1), boot(1), 1), Some(Position(1)));
        assert_eq!(windows.devices.len(), 2);
    }
}
