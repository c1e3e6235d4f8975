//! The one writer: a queue that every shard fills, and a thread that commits it batch by batch.

use std::{
    future::Future,
    io,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::{oneshot, watch};

use super::{
    Bounds, Change, Downlinks, Fresh, Message, Outcome, Position, Publisher, Retained, SavedSession,
    batch::Item, segment::OVERHEAD, sqlite::path,
};
use crate::registry::Verdicts;

mod answers;
mod thread;

pub use answers::Answers;
use answers::tell;

/// Messages of one commit: beyond this a larger commit costs no less a message.
const BATCH_MESSAGES: usize = 8192;
/// Octets of one commit: what is written between two fsyncs.
const BATCH_BYTES: usize = 4 << 20;
/// Messages that may wait. A commit takes milliseconds: this is seconds of a saturated edge.
const WAITING_MESSAGES: usize = 1 << 17;
/// Octets that may wait.
const WAITING_BYTES: usize = 64 << 20;
/// How long a batch gathers when hardly anything comes: the fsync dominates, a few messages share it.
const LINGER_IDLE: Duration = Duration::from_millis(1);
/// And when more comes: measured, more than 2 ms buys nothing.
const LINGER_BUSY: Duration = Duration::from_millis(2);
/// Messages in the last batch from which on the next one gathers longer: a millisecond and an fsync bring as
/// many at some 3000 a second, where each commit's fsync and wake-ups are half of what a message costs.
const BUSY: usize = 4;
/// Messages that make a batch worth its fsync without waiting.
const ENOUGH: usize = 256;
/// Least time between two removals of old segments while messages come: a removal is a commit too.
const TRIM_PAUSE: Duration = Duration::from_millis(20);

/// How much of the log is kept. The newest segment always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// Segments older than this go.
    pub age: Option<Duration>,
    /// The oldest go while the file holds more octets than this.
    pub octets: Option<u64>,
}

/// How much of the log there is, as of the last look for what may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// Octets of the file that hold something.
    pub octets: u64,
    /// Segments removed since the start.
    pub removed: u64,
    /// Whether there is still something that may go.
    pub more: bool,
}

/// Told of every commit, on the writer's thread, after its tickets: must not wait.
pub type Tail = Box<dyn Fn(Fresh) + Send>;

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened, upgraded or read.
    #[error("the uplink log cannot be opened")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No thread for it.
    #[error("the uplink log's thread cannot be started")]
    Thread(#[source] io::Error),
}

/// Resolves when the fate of a message or a change is known. Dropping it does not take it back.
#[derive(Debug)]
#[must_use = "it is stored only when this says so"]
pub struct Ticket(State);

#[derive(Debug)]
enum State {
    Waiting(oneshot::Receiver<Outcome>),
    Known(Outcome),
}

impl Future for Ticket {
    type Output = Outcome;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match &mut self.0 {
            State::Known(outcome) => Poll::Ready(*outcome),
            // A sender that is gone said nothing: the writer has ended, and nothing is stored.
            State::Waiting(told) => Pin::new(told).poll(cx).map(|told| told.unwrap_or(Outcome::Failed)),
        }
    }
}

/// The one writer of this node's log. Cheap to clone; every shard has one.
#[derive(Clone)]
pub struct Writer {
    shared: Arc<Shared>,
    /// Where its tickets are answered; `None`: each by itself.
    answers: Option<Arc<Answers>>,
    _last: Arc<Last>,
}

/// Ends the thread when the last writer is dropped.
struct Last(Arc<Shared>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.stop();
    }
}

struct Shared {
    queue: Mutex<Queue>,
    /// There is work, or the end has come.
    work: Condvar,
    /// Number of the last batch that ended.
    ended: watch::Sender<u64>,
    /// Position of the last message on disk.
    committed: watch::Sender<Position>,
    ready: AtomicBool,
    refused_full: AtomicU64,
    kept: Mutex<Kept>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Set when the thread has ended.
    done: watch::Sender<bool>,
    node: u64,
    retained: Arc<Retained>,
    /// What the file held when it was opened, until somebody takes it.
    sessions: Mutex<Vec<SavedSession>>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    bytes: usize,
    /// Number of the last batch that began.
    begun: u64,
    closing: bool,
    /// What is beyond this is to go.
    keep: Option<Keep>,
}

struct Waiting {
    item: Item,
    told: oneshot::Sender<Outcome>,
    answers: Option<Arc<Answers>>,
}

impl Writer {
    /// Opens, or makes, `uplink.sqlite` in `data_dir` and starts the thread that writes it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        data_dir: &Path,
        verdicts: Arc<Verdicts>,
        downlinks: Arc<dyn Downlinks>,
        tail: Tail,
    ) -> Result<Self, OpenError> {
        Self::open_within(data_dir, verdicts, downlinks, tail, Bounds::default()).await
    }

    /// The same with other bounds on what is kept beside the log. What is kept already stays.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open_within(
        data_dir: &Path,
        verdicts: Arc<Verdicts>,
        downlinks: Arc<dyn Downlinks>,
        tail: Tail,
        bounds: Bounds,
    ) -> Result<Self, OpenError> {
        let files = thread::Files { path: path(data_dir), verdicts, downlinks, tail, bounds };
        let (tell, told) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("uplink".to_owned())
            .spawn(move || thread::main(files, tell))
            .map_err(OpenError::Thread)?;
        match told.await {
            Ok(Ok(shared)) => {
                *shared.thread.lock() = Some(thread);
                Ok(Self { _last: Arc::new(Last(shared.clone())), shared, answers: None })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(OpenError::Thread(io::Error::other("it ended at once"))),
        }
    }

    /// The same for one thread: its tickets resolve while [`Answers::deliver`] is polled there.
    #[must_use]
    pub fn answering(&self, answers: Arc<Answers>) -> Self {
        Self { answers: Some(answers), ..self.clone() }
    }

    /// Hands a message over; the ticket says what became of it. Never waits.
    pub fn append(&self, message: Message) -> Ticket {
        self.hand_over(Item::Message(message))
    }

    /// Hands a change over; the ticket says when it is on disk. Never waits.
    pub fn change(&self, change: Change) -> Ticket {
        self.hand_over(Item::Change(change))
    }

    fn hand_over(&self, item: Item) -> Ticket {
        let shared = &self.shared;
        // Read under no lock: what slips in beside a failure is failed with the queue.
        if !shared.ready.load(Ordering::Acquire) {
            return Ticket(State::Known(Outcome::Failed));
        }
        let size = item.size();
        let (told, waiting) = oneshot::channel();
        let mut queue = shared.queue.lock();
        if queue.closing {
            return Ticket(State::Known(Outcome::Failed));
        }
        if queue.waiting.len() >= WAITING_MESSAGES || queue.bytes + size > WAITING_BYTES {
            drop(queue);
            if shared.refused_full.fetch_add(1, Ordering::Relaxed).is_multiple_of(100_000) {
                tracing::warn!("the uplink log's queue is full: messages are not accepted");
            }
            return Ticket(State::Known(Outcome::Failed));
        }
        queue.bytes += size;
        queue.waiting.push(Waiting { item, told, answers: self.answers.clone() });
        let first = queue.waiting.len() == 1;
        drop(queue);
        if first {
            shared.work.notify_one();
        }
        Ticket(State::Waiting(waiting))
    }

    /// Removes, a little at a time between batches, the segments that are beyond what is kept. Returns at once.
    pub fn trim(&self, keep: Keep) {
        self.shared.queue.lock().keep = Some(keep);
        self.shared.work.notify_one();
    }

    /// How much of the log there is.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let more = self.shared.queue.lock().keep.is_some();
        Kept { more, ..*self.shared.kept.lock() }
    }

    /// What is retained, as of the last commit.
    #[must_use]
    pub fn retained(&self) -> Arc<Retained> {
        self.shared.retained.clone()
    }

    /// The sessions that were in the file when it was opened. There are none the second time.
    #[must_use]
    pub fn take_sessions(&self) -> Vec<SavedSession> {
        std::mem::take(&mut self.shared.sessions.lock())
    }

    /// Waits until every batch begun before this call has ended. After it nothing is accepted that the
    /// verdicts refused before it.
    pub async fn barrier(&self) {
        let begun = self.shared.queue.lock().begun;
        let mut ended = self.shared.ended.subscribe();
        // The sender lives in `shared`, so waiting cannot fail.
        let _ = ended.wait_for(|ended| *ended >= begun).await;
    }

    /// Whether messages can be stored now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Acquire)
    }

    /// Position of the last message on disk; changes with every commit.
    #[must_use]
    pub fn committed(&self) -> watch::Receiver<Position> {
        self.shared.committed.subscribe()
    }

    /// Position of the last message on disk, now.
    #[must_use]
    pub fn position(&self) -> Position {
        *self.shared.committed.borrow()
    }

    /// Which node's log this is, as cursors name it.
    #[must_use]
    pub fn node(&self) -> u64 {
        self.shared.node
    }

    /// Stores what was handed over, then stops. Later messages fail.
    pub async fn close(self) {
        self.shared.stop();
        let mut done = self.shared.done.subscribe();
        let _ = done.wait_for(|done| *done).await;
        let thread = self.shared.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the uplink log's thread panicked");
        }
    }
}

impl Item {
    /// Octets it takes on disk, at most.
    fn size(&self) -> usize {
        match self {
            Self::Message(message) => message.size(),
            Self::Change(change) => change.size(),
        }
    }
}

impl Message {
    fn size(&self) -> usize {
        let by = match &self.publisher {
            Publisher::Service { name, client_id, .. } => name.len() + client_id.len(),
            Publisher::Device { .. } | Publisher::Server { .. } => 0,
        };
        let state = self.state.as_ref().map_or(0, |change| change.size());
        OVERHEAD + by + self.topic.len() + self.properties.len() + self.payload.len() + state
    }
}

impl Change {
    fn size(&self) -> usize {
        let more = match self {
            Self::Session { state, done, .. } => state.len() + size_of_val(&**done),
            Self::Dequeue { positions, .. } => size_of_val(&**positions),
            Self::Forget { .. } | Self::Purge { .. } => 0,
        };
        OVERHEAD + more
    }
}

impl Shared {
    fn stop(&self) {
        self.queue.lock().closing = true;
        self.work.notify_all();
    }

    /// Waits for messages, lets them gather, and begins a batch, of nothing when something is to be removed;
    /// `None` when all is stored and the end has come.
    fn begin(&self, last: usize) -> Option<Vec<Waiting>> {
        let mut queue = self.queue.lock();
        let mut gather = last < ENOUGH;
        if gather && last >= BUSY {
            // Messages are sure to come: who brings the first of them need not wake this thread.
            queue = self.linger(queue, LINGER_BUSY);
            gather = queue.waiting.is_empty();
        }
        while queue.waiting.is_empty() {
            if queue.closing {
                return None;
            }
            if queue.keep.is_some() {
                // A batch of nothing: there is time for what is to go.
                queue.begun += 1;
                return Some(Vec::new());
            }
            self.work.wait(&mut queue);
        }
        if gather {
            queue = self.linger(queue, LINGER_IDLE);
        }
        let mut bytes = 0;
        let fitting = queue.waiting.iter().take(BATCH_MESSAGES).take_while(|waiting| {
            bytes += waiting.item.size();
            bytes <= BATCH_BYTES
        });
        // A single message larger than a batch should be is a batch of its own.
        let count = fitting.count().max(1);
        let rest = queue.waiting.split_off(count);
        let batch = std::mem::replace(&mut queue.waiting, rest);
        queue.bytes -= batch.iter().map(|waiting| waiting.item.size()).sum::<usize>();
        queue.begun += 1;
        Some(batch)
    }

    /// Lets messages gather, unless there are enough of them.
    fn linger<'q>(&'q self, queue: MutexGuard<'q, Queue>, linger: Duration) -> MutexGuard<'q, Queue> {
        if queue.waiting.len() >= ENOUGH || queue.closing {
            return queue;
        }
        drop(queue);
        std::thread::sleep(linger);
        self.queue.lock()
    }

    fn end(&self) {
        self.ended.send_modify(|ended| *ended += 1);
    }

    /// From here on nothing is accepted, and what waits is failed.
    fn fail(&self) {
        self.ready.store(false, Ordering::Release);
        let waiting = {
            let mut queue = self.queue.lock();
            queue.bytes = 0;
            std::mem::take(&mut queue.waiting)
        };
        tell(waiting, std::iter::repeat(Outcome::Failed));
    }

    /// Sleeps, or returns false at once when the end has come.
    fn pause(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        let mut queue = self.queue.lock();
        while !queue.closing {
            if self.work.wait_until(&mut queue, until).timed_out() {
                return true;
            }
        }
        false
    }
}
