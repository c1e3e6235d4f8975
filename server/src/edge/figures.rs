//! What the edge counts since its start: who came in and went, and what was carried. Read for `/metrics`.
//!
//! What happens once a connection is one number for the node. What happens once a message is a number for each
//! shard, on a cache line of its own, added up when somebody asks.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::{guard::Count, roster::Protocol};
use crate::registry::DisconnectReason;

/// The versions, as they are counted.
const VERSIONS: [Protocol; 2] = [Protocol::V3, Protocol::V5];

/// The numbers of a node.
#[derive(Debug, Default)]
pub struct Figures {
    connects: [Count; VERSIONS.len()],
    ended: [Count; DisconnectReason::ALL.len()],
    flows: Mutex<Vec<Arc<Flow>>>,
}

/// What one shard carried, by QoS.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Flow {
    received: [AtomicU64; 3],
    sent: [AtomicU64; 3],
}

impl Flow {
    /// Handed to the uplink log.
    pub(super) fn received(&self, qos: u8) {
        self.received[usize::from(qos)].fetch_add(1, Ordering::Relaxed);
    }

    /// Written to clients since the last time; counted from zero again.
    pub(super) fn sent(&self, sent: &mut [u32; 3]) {
        for (counter, sent) in self.sent.iter().zip(sent) {
            if *sent > 0 {
                counter.fetch_add(u64::from(std::mem::take(sent)), Ordering::Relaxed);
            }
        }
    }
}

impl Figures {
    /// Another shard's.
    pub(super) fn flow(&self) -> Arc<Flow> {
        let flow = Arc::<Flow>::default();
        self.flows.lock().push(Arc::clone(&flow));
        flow
    }

    pub(super) fn connected(&self, version: Protocol) {
        if let Some(at) = VERSIONS.iter().position(|of| *of == version) {
            self.connects[at].add();
        }
    }

    pub(super) fn ended(&self, why: DisconnectReason) {
        if let Some(at) = DisconnectReason::ALL.iter().position(|of| *of == why) {
            self.ended[at].add();
        }
    }

    /// Connections that were let in, by version.
    pub fn connects(&self) -> impl Iterator<Item = (Protocol, u64)> {
        VERSIONS.into_iter().zip(self.connects.iter().map(Count::read))
    }

    /// Sessions whose connection ended, by reason.
    pub fn endings(&self) -> impl Iterator<Item = (DisconnectReason, u64)> {
        DisconnectReason::ALL.iter().copied().zip(self.ended.iter().map(Count::read))
    }

    /// Messages handed to the uplink log, and messages written to clients, by QoS.
    #[must_use]
    pub fn messages(&self) -> ([u64; 3], [u64; 3]) {
        let flows = self.flows.lock();
        let sum = |of: fn(&Flow) -> &[AtomicU64; 3]| {
            [0, 1, 2].map(|qos| flows.iter().map(|flow| of(flow)[qos].load(Ordering::Relaxed)).sum())
        };
        (sum(|flow| &flow.received), sum(|flow| &flow.sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_added_up_and_what_was_taken_is_not_taken_twice() {
        let figures = Figures::default();
        let (one, other) = (figures.flow(), figures.flow());
        one.received(1);
        one.received(1);
        other.received(2);
        let mut sent = [3, 0, 1];
        other.sent(&mut sent);
        other.sent(&mut sent);
        assert_eq!(figures.messages(), ([0, 2, 1], [3, 0, 1]));
    }

    #[test]
    fn each_is_counted_under_its_own_name() {
        let figures = Figures::default();
        figures.connected(Protocol::V5);
        figures.ended(DisconnectReason::Throttled);
        figures.ended(DisconnectReason::Throttled);
        assert_eq!(figures.connects().collect::<Vec<_>>(), [(Protocol::V3, 0), (Protocol::V5, 1)]);
        let counted: Vec<_> = figures.endings().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(DisconnectReason::Throttled, 2)]);
    }
}
