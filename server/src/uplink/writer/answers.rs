//! Telling a thread what became of its messages, at once for all of them.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::Waiting;
use crate::uplink::Outcome;

/// Where a thread hears what became of what it handed over. Whoever waits on a ticket would else be woken from
/// the writer's thread, each with a system call of its own; here a commit wakes the thread, which wakes them.
#[derive(Debug, Default)]
pub struct Answers {
    known: Mutex<Vec<Answer>>,
    some: Notify,
}

type Answer = (oneshot::Sender<Outcome>, Outcome);

impl Answers {
    /// Tells the tickets' holders, without end. Poll it on their thread; when it is dropped, and nobody else
    /// polls it, tickets that are still open never resolve.
    pub async fn deliver(&self) {
        loop {
            self.some.notified().await;
            let known = std::mem::take(&mut *self.known.lock());
            for (told, outcome) in known {
                // A connection that was closed does not wait any more.
                let _ = told.send(outcome);
            }
        }
    }

    fn add(&self, mut more: Vec<Answer>) {
        self.known.lock().append(&mut more);
        self.some.notify_one();
    }
}

/// Tells who waits, in order.
pub(super) fn tell(waiting: Vec<Waiting>, outcomes: impl IntoIterator<Item = Outcome>) {
    // As many as the edge has threads.
    let mut threads: Vec<(Arc<Answers>, Vec<Answer>)> = Vec::new();
    for (Waiting { told, answers, .. }, outcome) in waiting.into_iter().zip(outcomes) {
        let Some(answers) = answers else {
            // Who dropped the ticket does not wait any more.
            let _ = told.send(outcome);
            continue;
        };
        match threads.iter_mut().find(|(thread, _)| Arc::ptr_eq(thread, &answers)) {
            Some((_, all)) => all.push((told, outcome)),
            None => threads.push((answers, vec![(told, outcome)])),
        }
    }
    for (answers, all) in threads {
        answers.add(all);
    }
}
