//! What a stream hears of decisions: that there are some, and whether one of them may be about who listens.
//!
//! A decision is announced before its caller is answered and before the next one is made. So whoever looks here
//! *after* reading what to tell, and *before* telling it, finds every decision about access that came before
//! what was read.

use tokio::sync::broadcast::{self, error::TryRecvError};

use crate::registry::{Change, changes::What};

/// What was heard and not acted on yet.
pub(super) struct News {
    changes: broadcast::Receiver<Change>,
    /// There is something to read.
    decided: bool,
    /// Operators, tokens or sessions have changed.
    access: bool,
}

/// Nothing is announced any more: the registry is closed.
pub(super) struct Closed;

impl News {
    pub(super) fn new(changes: broadcast::Receiver<Change>) -> Self {
        Self { changes, decided: false, access: false }
    }

    /// Waits for something to read. Nothing is lost when something else came first.
    pub(super) async fn wait(&mut self) -> Result<(), Closed> {
        if !self.decided {
            let heard = self.changes.recv().await;
            match heard {
                Ok(change) => self.heard(&change),
                Err(broadcast::error::RecvError::Lagged(_)) => self.missed(),
                Err(broadcast::error::RecvError::Closed) => return Err(Closed),
            }
        }
        self.decided = false;
        Ok(())
    }

    /// Whether access may have changed since this was asked last; what else was heard is kept.
    pub(super) fn access_changed(&mut self) -> bool {
        loop {
            match self.changes.try_recv() {
                Ok(change) => self.heard(&change),
                Err(TryRecvError::Lagged(_)) => self.missed(),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return std::mem::take(&mut self.access),
            }
        }
    }

    fn heard(&mut self, change: &Change) {
        self.decided = true;
        self.access |= matches!(change.what, What::Access);
    }

    /// What was missed may have been anything.
    fn missed(&mut self) {
        (self.decided, self.access) = (true, true);
    }
}

#[cfg(test)]
mod tests {
    use muster_shared::Generation;

    use super::*;

    fn change(no: u64, what: What) -> Change {
        Change { generation: Generation(no), audit_no: no, at_ms: 0, what }
    }

    fn stopped() -> What {
        What::StationStopped("S-07".parse().unwrap())
    }

    #[tokio::test]
    async fn access_is_told_once_and_nothing_else_is_lost_by_asking() {
        let (tell, changes) = broadcast::channel(8);
        let mut news = News::new(changes);
        assert!(!news.access_changed());
        tell.send(change(1, stopped())).unwrap();
        assert!(!news.access_changed());
        tell.send(change(2, What::Access)).unwrap();
        assert!(news.access_changed() && !news.access_changed());
        assert!(news.wait().await.is_ok(), "both were heard");
        tell.send(change(3, What::Access)).unwrap();
        assert!(news.wait().await.is_ok());
        assert!(news.access_changed(), "waiting does not use it up");
        drop(tell);
        assert!(news.wait().await.is_err());
    }

    #[tokio::test]
    async fn what_was_missed_may_have_been_about_access() {
        let (tell, changes) = broadcast::channel(1);
        let mut news = News::new(changes);
        for no in 1..4 {
            tell.send(change(no, stopped())).unwrap();
        }
        assert!(news.access_changed());
    }
}
