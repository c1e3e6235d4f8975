//! The fresh end of the log, in memory, for all feeds of the node together.
//!
//! A ring of the newest commits, bounded in octets, filled from the bus. It may have holes (the bus drops what
//! finds no room, and what was under way when its router died) and it may be late; it never says anything the
//! log does not. Should nothing come for a while, the tail looks at the log's end by itself, once for all
//! feeds, so a dead bus costs a second and no message.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock, Weak},
    task::Waker,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, task::JoinHandle, time::timeout};

use super::Feed;
use crate::{
    bus::{Bus, Subscription},
    uplink::{Cursor, Fresh, Position, ReadError, Reader, StoredMessage},
};

/// Octets of commits in memory. A commit is at most 4 MiB; this is some 30,000 messages of a hundred octets,
/// seconds of a busy node, which is what a feed may fall behind before it reads the file.
const RING_BYTES: usize = 16 << 20;
/// What a message costs beside its octets, once it is read.
const MESSAGE_BYTES: usize = size_of::<(Position, StoredMessage)>();
/// How long nothing may come before the log is looked at: what a lost wake-up costs.
const LOOK: Duration = Duration::from_millis(500);

/// Messages that stand next to one another in the log.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) first: Position,
    /// Position of the last.
    pub(super) last: Position,
    fresh: Option<Fresh>,
    /// Read when a feed first asks; `None`: it is not what the log's writer writes.
    messages: OnceLock<Option<Vec<(Position, StoredMessage)>>>,
}

impl Run {
    /// What was read from the log: at least one message.
    pub(super) fn read(messages: Vec<(Position, StoredMessage)>) -> Option<Self> {
        let (first, last) = (messages.first()?.0, messages.last()?.0);
        Some(Self { first, last, fresh: None, messages: Some(messages).into() })
    }

    fn heard(fresh: Fresh) -> Self {
        Self { first: fresh.first, last: fresh.last(), fresh: Some(fresh), messages: OnceLock::new() }
    }

    fn bytes(&self) -> usize {
        self.fresh.as_ref().map_or(0, |fresh| fresh.body.len() + fresh.count as usize * MESSAGE_BYTES)
    }

    /// The message at `position`.
    pub(super) fn at(&self, position: Position) -> Option<&StoredMessage> {
        let read = || self.fresh.as_ref().and_then(|fresh| fresh.messages().ok());
        let messages = self.messages.get_or_init(read).as_ref()?;
        let place = usize::try_from(position.0.checked_sub(self.first.0)?).ok()?;
        messages.get(place).filter(|(at, _)| *at == position).map(|(_, message)| message)
    }
}

/// Where what comes after a position is to be had.
pub(super) enum Next {
    /// In memory.
    Here(Arc<Run>),
    /// In the log, which goes up to there at least.
    Log(Position),
    /// Nowhere yet; the waker is kept.
    Later,
}

#[derive(Default)]
struct Ring {
    /// In the order of their positions; there may be holes between them.
    runs: VecDeque<Arc<Run>>,
    bytes: usize,
    /// The last position known to be in the log.
    end: Position,
    /// Who waits, by feed.
    waiting: BTreeMap<u64, Waker>,
    feeds: u64,
}

/// The fresh end of this node's log.
pub struct Tail {
    reader: Reader,
    /// Where the log is read: not on the shards' threads, which have sockets to serve.
    runtime: Handle,
    ring: Mutex<Ring>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Tail {
    /// Hears the bus from now on, on this runtime. Call it before the first message is stored that a feed
    /// is to hear of at once.
    #[must_use]
    pub fn start(bus: &dyn Bus, reader: Reader) -> Arc<Self> {
        let tail = Arc::new(Self {
            reader,
            runtime: Handle::current(),
            ring: Mutex::default(),
            task: Mutex::default(),
        });
        let task = tokio::spawn(listen(Arc::downgrade(&tail), bus.subscribe()));
        *tail.task.lock() = Some(task);
        tail
    }

    /// A feed of every message after `from`.
    #[must_use]
    pub fn feed(self: &Arc<Self>, from: Position) -> Feed {
        Feed::new(Arc::clone(self), from)
    }

    /// Which node's log this is.
    #[must_use]
    pub fn node(&self) -> u64 {
        self.reader.node()
    }

    /// The log's last position: a feed from there hears what is new.
    ///
    /// # Errors
    /// [`ReadError`]: the log cannot be read now.
    pub async fn end(&self) -> Result<Position, ReadError> {
        Ok(self.reader.end().await?.position(self.reader.node()))
    }

    /// One message, from memory or from the log: what a session had under way when it ended. `None`: the log
    /// does not have it any more.
    ///
    /// # Errors
    /// [`ReadError`]: the log cannot be read now.
    pub async fn fetch(&self, position: Position) -> Result<Option<StoredMessage>, ReadError> {
        let before = Position(position.0.saturating_sub(1));
        let here = self.ring.lock().run_after(before);
        if let Some(message) = here.and_then(|run| run.at(position).cloned()) {
            return Ok(Some(message));
        }
        match self.reader.read(&Cursor::default().after(self.reader.node(), before), 1).await {
            Ok(read) => Ok(read.messages.into_iter().find(|(at, _)| *at == position).map(|(_, of)| of)),
            Err(ReadError::Gone { .. } | ReadError::Ahead { .. } | ReadError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hears nothing more. Feeds stay where they are; the reader may be closed.
    pub async fn stop(&self) {
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.abort();
            // It was aborted, which is what is wanted.
            let _ = task.await;
        }
    }

    /// A number for a feed.
    pub(super) fn number(&self) -> u64 {
        let mut ring = self.ring.lock();
        ring.feeds += 1;
        ring.feeds
    }

    /// Where the message after `at` is. `feed` is woken when there is one.
    pub(super) fn after(&self, at: Position, feed: u64, waker: &Waker) -> Next {
        let mut ring = self.ring.lock();
        if let Some(run) = ring.run_after(at) {
            return Next::Here(run);
        }
        if ring.end > at {
            return Next::Log(ring.end);
        }
        ring.waiting.insert(feed, waker.clone());
        Next::Later
    }

    /// Reads the log on the control runtime.
    pub(super) fn read(&self, after: Position, max: usize) -> Reading {
        let reader = self.reader.clone();
        self.runtime.spawn(async move {
            let from = Cursor::default().after(reader.node(), after);
            reader.read(&from, max).await.map(|read| read.messages)
        })
    }

    /// A feed has gone.
    pub(super) fn forget(&self, feed: u64) {
        self.ring.lock().waiting.remove(&feed);
    }

    fn hear(&self, fresh: Fresh) {
        if fresh.node != self.reader.node() {
            return;
        }
        let run = Run::heard(fresh);
        let mut ring = self.ring.lock();
        let newest = ring.runs.back().map_or(Position(0), |run| run.last);
        if run.first > newest {
            ring.bytes += run.bytes();
            let last = run.last;
            ring.runs.push_back(Arc::new(run));
            while ring.bytes > RING_BYTES && ring.runs.len() > 1 {
                let oldest = ring.runs.pop_front().map_or(0, |run| run.bytes());
                ring.bytes -= oldest;
            }
            Self::reaches(ring, last);
        }
    }

    /// The log goes up to `end`; who waits for that is woken.
    fn reaches(mut ring: parking_lot::MutexGuard<'_, Ring>, end: Position) {
        if end <= ring.end {
            return;
        }
        ring.end = end;
        let waiting = std::mem::take(&mut ring.waiting);
        drop(ring);
        waiting.into_values().for_each(Waker::wake);
    }

    /// Looks at the log's end. What cannot be read now is looked at again.
    async fn look(&self) {
        match self.reader.end().await {
            Ok(end) => Self::reaches(self.ring.lock(), end.position(self.reader.node())),
            Err(error) => tracing::warn!(%error, "the log's end cannot be seen; looking again"),
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
    }
}

impl Ring {
    /// The run that holds the message after `at`.
    fn run_after(&self, at: Position) -> Option<Arc<Run>> {
        let place = self.runs.partition_point(|run| run.last <= at);
        let run = self.runs.get(place)?;
        (run.first.0 <= at.0 + 1).then(|| Arc::clone(run))
    }
}

/// A page of the log on its way.
pub(super) type Reading = JoinHandle<Result<Vec<(Position, StoredMessage)>, ReadError>>;

async fn listen(tail: Weak<Tail>, mut bus: Subscription) {
    loop {
        let heard = timeout(LOOK, bus.next()).await;
        let Some(tail) = tail.upgrade() else { return };
        match heard {
            Ok(Some(fresh)) => tail.hear(fresh),
            Ok(None) => {
                // A bus that has stopped says so at once each time it is asked.
                tail.look().await;
                drop(tail);
                tokio::time::sleep(LOOK).await;
            }
            Err(_) => tail.look().await,
        }
    }
}
