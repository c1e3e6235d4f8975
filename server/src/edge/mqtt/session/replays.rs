//! Subscriptions whose retained messages are due and were not all sent.
//!
//! They are part of what goes on without a connection: a message that was due and had no room yet is as much
//! pending as one that waits in a queue (MQTT 5.0 §4.1). How far each has come is kept with what is in flight,
//! so a message is either one or the other.
//!
//! Each SUBSCRIBE has its own, also one that replaces a subscription whose retained messages are still being
//! sent: they are re-sent [MQTT-3.8.4-3]. A client that subscribes and takes nothing is held to [`REPLAYS_MAX`]
//! of them beside one for each subscription: then the oldest of the same filter gives way, since the new one
//! sends what that had still to send.

use super::command::Replay;
use crate::edge::limits::REPLAYS_MAX;

/// In the order of their SUBSCRIBEs. A pointer, where most sessions hold none.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "a pointer, where most sessions hold none")]
pub(super) struct Replays(Option<Box<Vec<Replay>>>);

impl Replays {
    pub(super) fn restored(all: Vec<Replay>) -> Self {
        Self((!all.is_empty()).then(|| Box::new(all)))
    }

    pub(super) fn kept(&self) -> Vec<Replay> {
        self.0.as_ref().map_or_else(Vec::new, |all| all.to_vec())
    }

    /// The one whose messages are to be sent now.
    pub(super) fn first(&self) -> Option<&Replay> {
        self.0.as_ref()?.first()
    }

    pub(super) fn first_mut(&mut self) -> Option<&mut Replay> {
        self.0.as_mut()?.first_mut()
    }

    pub(super) fn begin(&mut self, replay: Replay) {
        let all = self.0.get_or_insert_default();
        if all.len() >= REPLAYS_MAX
            && let Some(at) = all.iter().position(|one| one.filter == replay.filter)
        {
            all.remove(at);
        }
        all.push(replay);
    }

    /// All of the first are sent. Was there one?
    pub(super) fn end_first(&mut self) -> bool {
        let Some(all) = &mut self.0 else { return false };
        all.remove(0);
        if all.is_empty() {
            self.0 = None;
        }
        true
    }

    /// Nobody is subscribed with this filter any more.
    pub(super) fn end(&mut self, filter: &str) {
        let Some(all) = &mut self.0 else { return };
        all.retain(|one| *one.filter != *filter);
        if all.is_empty() {
            self.0 = None;
        }
    }
}
