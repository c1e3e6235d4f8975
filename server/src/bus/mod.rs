//! The bus: carries the fresh tail of the uplink log to who reads it, and so wakes them.
//!
//! Nothing depends on it for what it may not lose. The log is the queue; a reader has a durable cursor, and
//! what it does not hear of in time it reads from the log. So a bus may drop, stall or be restarted, and the
//! worst of it is that a reader looks by itself.
//!
//! No device reaches a bus: only the uplink's writer puts something on it, in an envelope of our own, under
//! one constant topic.

use tokio::sync::mpsc;

use crate::uplink::Fresh;

pub mod latest;
mod rumqttd;

pub use latest::Latest;
pub(crate) use latest::telemetry;
pub use rumqttd::{Rumqttd, StartError};

/// Carries what one commit added to every subscriber of the node.
pub trait Bus: Send + Sync {
    /// Puts it on the bus. Never waits: what finds no room is dropped, and its readers read the log.
    fn publish(&self, fresh: Fresh);

    /// Hears what is published from now on.
    fn subscribe(&self) -> Subscription;

    /// Whether it carries now. A node whose bus is down says it is not ready.
    fn is_ready(&self) -> bool;

    /// Times it died and was started again.
    fn restarts(&self) -> u64;

    /// Commits that found no room, on the bus or at a reader: their readers read the log.
    fn dropped(&self) -> u64;
}

/// One reader's end. Bounded: what a slow reader does not take is dropped, and shows as a gap in the positions.
#[derive(Debug)]
pub struct Subscription(mpsc::Receiver<Fresh>);

impl Subscription {
    /// The next commit heard of; `None` when the bus has stopped.
    pub async fn next(&mut self) -> Option<Fresh> {
        self.0.recv().await
    }

    /// Whether the bus has stopped: nothing more will come.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed() && self.0.is_empty()
    }

    /// The next one, if there is one already.
    pub fn try_next(&mut self) -> Option<Fresh> {
        self.0.try_recv().ok()
    }
}

/// Commits that may wait for one reader.
const WAITING_MAX: usize = 64;

pub(crate) fn subscription() -> (mpsc::Sender<Fresh>, Subscription) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (sender, Subscription(receiver))
}
