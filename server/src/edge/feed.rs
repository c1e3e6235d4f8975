//! What a service reads: every message of the log after a position, in order, none skipped in silence.
//!
//! ```text
//! writer ─commit─► bus ─► Tail: the newest commits in memory ─► Feed ─► the session's own poll
//!            └───► log ─────────── a page at a time ────────────┘   (a gap, a restart, a slow reader)
//! ```
//!
//! A feed is polled by the connection it serves and runs no task of its own; only a page of the log is read
//! elsewhere, on the control runtime. It holds one run of messages at a time, however far it is behind.
//!
//! # Invariants
//!
//! - Positions come out in ascending order, each at most once.
//! - Between two that come out, none is left out but those an [`FeedError`] has named.
//! - What comes out was committed.

pub mod groups;
mod tail;
#[cfg(test)]
mod tests;

use std::{
    future::Future as _,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use self::tail::{Next, Reading, Run};
pub use self::{
    groups::{GroupKey, Groups, Membership},
    tail::Tail,
};
use crate::uplink::{Position, ReadError, StoredMessage};

/// Messages of the first page read from the log, before it is known how large they are.
const PAGE_FIRST: usize = 256;
/// The bounds of a page, messages.
const PAGE: (usize, usize) = (16, 4096);
/// What a page should hold, octets of payload: a commit's worth.
const PAGE_BYTES: usize = 4 << 20;
/// Messages passed over in one poll before others have their turn.
const PASSED_MAX: usize = 1024;

/// Why a feed has nothing now, or has not everything. The next poll goes on: behind what is lost, or with the
/// same message again.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// These are not in the log any more: their time was over before they were read, or they are damaged.
    #[error("positions {from} to {to} are gone from the log")]
    Lost {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// The log ends before what was read already: it was set back, by a restored copy for one.
    #[error("position {asked} was read, the log ends at {last}")]
    SetBack {
        /// The feed's position.
        asked: u64,
        /// The log's last, where it goes on.
        last: u64,
    },
    /// The log cannot be read now.
    #[error("the log cannot be read")]
    Read(#[source] ReadError),
    /// The server is stopping.
    #[error("the log is read no more")]
    Stopped,
}

/// A message of the log, where it stands.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where.
    pub position: Position,
    run: Arc<Run>,
}

impl Deref for Entry {
    type Target = StoredMessage;

    fn deref(&self) -> &StoredMessage {
        self.run.at(self.position).expect("an entry is made of a message that was found")
    }
}

/// Reads the log from a position, for one session.
pub struct Feed {
    tail: Arc<Tail>,
    number: u64,
    /// The last position handed out or passed over.
    at: Position,
    /// What is read now.
    run: Option<Arc<Run>>,
    /// A page on its way, and up to where the log is known to go.
    reading: Option<(Reading, Position)>,
    page: usize,
    /// The log has been asked whether the position is one of its own: memory cannot tell.
    known: bool,
}

impl Feed {
    fn new(tail: Arc<Tail>, from: Position) -> Self {
        let number = tail.number();
        Self { tail, number, at: from, run: None, reading: None, page: PAGE_FIRST, known: false }
    }

    /// The last position handed out or passed over: a feed from there goes on with the next.
    #[must_use]
    pub fn position(&self) -> Position {
        self.at
    }

    /// The next message.
    ///
    /// # Errors
    /// [`FeedError`]; it may be polled again.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Entry, FeedError>> {
        loop {
            if let Some(entry) = self.step() {
                return Poll::Ready(Ok(entry));
            }
            if self.reading.is_some() {
                ready!(self.poll_page(cx))?;
                continue;
            }
            if !self.known {
                self.read(self.at);
                continue;
            }
            match self.tail.after(self.at, self.number, cx.waker()) {
                // What the bus garbled the log has whole.
                Next::Here(run) if run.at(Position(self.at.0 + 1)).is_none() => self.read(run.last),
                Next::Here(run) => self.run = Some(run),
                Next::Log(end) => self.read(end),
                Next::Later => return Poll::Pending,
            }
        }
    }

    /// The next message that is `wanted`; the others are passed over.
    ///
    /// # Errors
    /// [`FeedError`]; it may be polled again.
    pub fn poll_wanted(
        &mut self,
        cx: &mut Context<'_>,
        mut wanted: impl FnMut(Position, &StoredMessage) -> bool,
    ) -> Poll<Result<Entry, FeedError>> {
        for _ in 0..PASSED_MAX {
            let entry = ready!(self.poll_next(cx))?;
            if wanted(entry.position, &entry) {
                return Poll::Ready(Ok(entry));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn step(&mut self) -> Option<Entry> {
        let run = self.run.as_ref()?;
        let position = Position(self.at.0 + 1);
        if run.at(position).is_none() {
            self.run = None;
            return None;
        }
        self.at = position;
        Some(Entry { position, run: Arc::clone(run) })
    }

    fn read(&mut self, end: Position) {
        self.reading = Some((self.tail.read(self.at, self.page), end));
    }

    fn poll_page(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FeedError>> {
        let Some((reading, end)) = &mut self.reading else { return Poll::Ready(Ok(())) };
        let read = ready!(Pin::new(reading).poll(cx));
        let end = *end;
        self.reading = None;
        Poll::Ready(match read {
            Ok(Ok(messages)) => self.turn_page(messages, end),
            Ok(Err(error)) => self.fault(error, end),
            Err(_) => Err(FeedError::Stopped),
        })
    }

    fn turn_page(
        &mut self,
        messages: Vec<(Position, StoredMessage)>,
        end: Position,
    ) -> Result<(), FeedError> {
        self.known = true;
        let bytes: usize = messages.iter().map(|(_, message)| message.payload.len()).sum();
        self.page = (PAGE_BYTES * messages.len().max(1) / bytes.max(1)).clamp(PAGE.0, PAGE.1);
        match Run::read(messages) {
            Some(run) => {
                self.run = Some(Arc::new(run));
                Ok(())
            }
            None if end > self.at => Err(self.lost(end)),
            None => Ok(()),
        }
    }

    /// Everything up to `to` is not to be had.
    fn lost(&mut self, to: Position) -> FeedError {
        let from = self.at.0 + 1;
        self.at = to;
        FeedError::Lost { from, to: to.0 }
    }

    fn fault(&mut self, error: ReadError, end: Position) -> Result<(), FeedError> {
        match error {
            ReadError::Gone { oldest, .. } => Err(self.lost(Position(oldest - 1))),
            // The hole is further on: what is before it is read first.
            ReadError::Missing { from, .. } if from > self.at.0 + 1 => {
                let before = usize::try_from(from - 1 - self.at.0).unwrap_or(usize::MAX);
                self.page = self.page.min(before);
                self.read(end);
                Ok(())
            }
            ReadError::Missing { to, .. } => Err(self.lost(Position(to))),
            // The same for a segment that is damaged: it may be the last of the page.
            ReadError::Segment(_) if self.page > 1 => {
                self.page /= 4;
                self.page = self.page.max(1);
                self.read(end);
                Ok(())
            }
            ReadError::Ahead { asked, last } => {
                self.known = true;
                self.at = Position(last);
                Err(FeedError::SetBack { asked, last })
            }
            error => Err(FeedError::Read(error)),
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.tail.forget(self.number);
        if let Some((reading, _)) = self.reading.take() {
            reading.abort();
        }
    }
}
