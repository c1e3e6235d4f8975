//! Subscriptions whose retained messages are due and were not all sent.
//!
//! They are part of what goes on without a connection: a message that was due and had no room yet is as much
//! pending as one that waits in a queue (MQTT 5.0 §4.1). How far each has come is kept with what is in flight,
//! so a message is either one or the other.
//!
//! There is never more than one for a subscription: one that is replaced while its retained messages are
//! being sent begins anew, where they are due once more.

use super::command::Replay;

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
        self.end(&replay.filter);
        self.0.get_or_insert_default().push(replay);
    }

    /// All are sent, or nobody wants them any more.
    pub(super) fn end(&mut self, filter: &str) {
        let Some(all) = &mut self.0 else { return };
        all.retain(|one| *one.filter != *filter);
        if all.is_empty() {
            self.0 = None;
        }
    }
}
