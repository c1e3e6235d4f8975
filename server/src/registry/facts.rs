//! What the edge sees, on its way to the registry: coalesced, bounded, unaudited, never waited for.
//!
//! A call notes the fact in memory and returns; one task writes what has gathered, a few thousand rows a
//! transaction, a few times a second. What can be counted is folded before ([`fold`]): a hammering device
//! costs one row a minute and a write now and then, not one an attempt. What does not fit is counted and
//! said, never waited for.

mod fold;
mod write;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use muster_shared::{Code, SerialNumber, Tenant};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

pub use self::fold::Notice;
use self::fold::{Count, Folds, Key, Noted, What};
use super::{
    Inner,
    commands::{Fate, Settled},
    newest::Newest,
    session::{DisconnectReason, SessionId},
    verdict::DeviceKey,
};

/// Who a refused connection said it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Claimed {
    /// A device of the registry.
    Device(DeviceKey),
    /// A name the registry does not have, from a certificate somebody vouched for.
    Name(Tenant, SerialNumber),
    /// Nobody in particular.
    Nobody,
}

/// A session that began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connected {
    /// Whose.
    pub device: DeviceKey,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// From where.
    pub remote: SocketAddr,
    /// MQTT protocol level: 4 is 3.1.1, 5 is 5.0.
    pub protocol: u8,
    /// Keep-alive, seconds; 0 is none.
    pub keep_alive_s: u16,
}

/// How long facts gather before they are written.
const GATHER: Duration = Duration::from_millis(200);
/// How long to wait after a write that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// Most facts that wait. At 200 ms a write this is half a million sessions a second.
const WAITING_MAX: usize = 100_000;
/// Most names of nobody's devices told apart in one write; the rest counts as nobody's.
const NAMES_MAX: usize = 1024;
/// Rows a transaction: short enough that a decision waits milliseconds for it.
const ROWS: usize = 2000;
const MINUTE_MS: u64 = 60_000;

/// The handle. Cheap to clone; none of its calls waits for a disk.
#[derive(Clone)]
pub struct Facts {
    shared: Arc<Shared>,
    newest: Arc<Newest>,
}

struct Shared {
    pending: Mutex<Pending>,
    /// Something waits.
    some: Notify,
    /// Somebody waits for it.
    urgent: Notify,
    next_session: AtomicU64,
    dropped: AtomicU64,
    writes: AtomicU64,
    /// Refusals since the start, in the order of [`Code::ALL`].
    refused: Vec<AtomicU64>,
}

#[derive(Debug, Clone, Copy)]
enum SessionFact {
    Began(SessionId, Connected),
    Ended(SessionId, u64, DisconnectReason),
}

#[derive(Default)]
struct Pending {
    sessions: Vec<SessionFact>,
    folds: Folds,
    /// Whose tokens have changed; what they are now is read when it is written.
    continuity: HashSet<DeviceKey>,
    tokens: HashMap<String, u64>,
    /// What became of commands that waited.
    commands: Vec<Settled>,
    flushes: Vec<oneshot::Sender<()>>,
    closing: bool,
}

impl Facts {
    pub(super) fn new(next_session: u64, newest: Arc<Newest>) -> Self {
        let shared = Shared {
            pending: Mutex::default(),
            some: Notify::new(),
            urgent: Notify::new(),
            next_session: AtomicU64::new(next_session),
            dropped: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            refused: Code::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
        };
        Self { shared: Arc::new(shared), newest }
    }

    /// A session began.
    #[must_use]
    pub fn connected(&self, session: Connected) -> SessionId {
        let id = SessionId(self.shared.next_session.fetch_add(1, Ordering::Relaxed));
        self.newest.see(session.device, session.at_ms);
        self.note(|pending| pending.push(SessionFact::Began(id, session)));
        id
    }

    /// A session ended.
    pub fn disconnected(&self, device: DeviceKey, session: SessionId, at_ms: u64, why: DisconnectReason) {
        self.newest.see(device, at_ms);
        self.note(|pending| pending.push(SessionFact::Ended(session, at_ms, why)));
    }

    /// A connection, or a packet of one, was refused. Counted per device, code and minute. Tells whether it is
    /// the first of its kind for a while: what is said of each attempt elsewhere is said of that one only.
    pub fn refused(&self, who: &Claimed, code: Code, at_ms: u64, remote: Option<SocketAddr>) -> bool {
        // In the order they are declared in, which is that of `ALL`.
        if let Some(counter) = self.shared.refused.get(code as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.count(who, What::Refused(code), at_ms, remote)
    }

    /// A device did something its operator wants to see, and was refused nothing. Counted like a refusal.
    pub fn noticed(&self, device: DeviceKey, notice: Notice, at_ms: u64, remote: Option<SocketAddr>) {
        self.count(&Claimed::Device(device), What::Noticed(notice), at_ms, remote);
    }

    fn count(&self, who: &Claimed, what: What, at_ms: u64, remote: Option<SocketAddr>) -> bool {
        let noted = self.shared.pending.lock().folds.note(who, what, at_ms, remote, Instant::now());
        match noted {
            Noted::First | Noted::Sooner => self.shared.some.notify_one(),
            Noted::Counted => {}
            Noted::Dropped => self.drop_one(),
        }
        noted == Noted::First
    }

    /// What is known of the device's continuity tokens has changed.
    pub(crate) fn continuity_changed(&self, device: DeviceKey) {
        self.note(|pending| {
            pending.continuity.insert(device);
            true
        });
    }

    /// A token was used.
    pub(super) fn token_used(&self, id: &str, at_ms: u64) {
        self.note(|pending| {
            match pending.tokens.get_mut(id) {
                Some(last) => *last = at_ms.max(*last),
                None => {
                    pending.tokens.insert(id.to_owned(), at_ms);
                }
            }
            true
        });
    }

    /// A command that waited in a device's session does so no more.
    pub fn command_settled(&self, device: DeviceKey, id: &str, fate: Fate, at_ms: u64) {
        let settled = Settled { device, id: id.into(), fate, at_ms };
        self.note(|pending| {
            let fits = pending.commands.len() < WAITING_MAX;
            if fits {
                pending.commands.push(settled);
            }
            fits
        });
    }

    /// Waits until everything said so far is on disk: for an orderly stop, and for tests. Returns at once
    /// when the registry is closed.
    pub async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        {
            let mut pending = self.shared.pending.lock();
            if pending.closing {
                return;
            }
            pending.flushes.push(done);
        }
        self.shared.some.notify_one();
        self.shared.urgent.notify_one();
        // An error says that the writer has ended: then nothing more will be written.
        let _ = wait.await;
    }

    /// Facts that found no room since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Refusals since the start, by code; codes nobody was refused with are left out.
    pub fn refusals(&self) -> impl Iterator<Item = (Code, u64)> {
        let counted = self.shared.refused.iter().map(|counter| counter.load(Ordering::Relaxed));
        Code::ALL.iter().copied().zip(counted.collect::<Vec<_>>()).filter(|(_, count)| *count > 0)
    }

    /// Transactions in which facts were written since the start.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.shared.writes.load(Ordering::Relaxed)
    }

    /// Lets the writer write what is there and end.
    pub(super) fn close(&self) {
        self.shared.pending.lock().closing = true;
        self.shared.some.notify_one();
        self.shared.urgent.notify_one();
    }

    fn note(&self, change: impl FnOnce(&mut Pending) -> bool) {
        let kept = change(&mut self.shared.pending.lock());
        if !kept {
            self.drop_one();
        }
        self.shared.some.notify_one();
    }

    fn drop_one(&self) {
        if self.shared.dropped.fetch_add(1, Ordering::Relaxed).is_multiple_of(10_000) {
            tracing::warn!("more facts than can wait: some are not recorded");
        }
    }
}

impl Pending {
    fn push(&mut self, fact: SessionFact) -> bool {
        if self.sessions.len() >= WAITING_MAX {
            return false;
        }
        self.sessions.push(fact);
        true
    }

    /// How long until something is to be written; `None`: nothing waits.
    fn due_in(&self) -> Option<Duration> {
        let counts_only = self.sessions.is_empty()
            && self.continuity.is_empty()
            && self.tokens.is_empty()
            && self.commands.is_empty();
        if counts_only { self.folds.due_in(Instant::now()) } else { Some(Duration::ZERO) }
    }

    /// As rows, sessions first and in order. Counts that may wait a little longer do so, unless `all`.
    fn rows(&mut self, all: bool) -> Vec<Fact> {
        let sessions = std::mem::take(&mut self.sessions).into_iter().map(Fact::Session);
        let counts =
            self.folds.take(Instant::now(), all).into_iter().map(|(key, count)| Fact::Count(key, count));
        let continuity = std::mem::take(&mut self.continuity).into_iter().map(Fact::Continuity);
        let tokens = std::mem::take(&mut self.tokens).into_iter().map(|(id, at)| Fact::Token(id, at));
        let commands = std::mem::take(&mut self.commands).into_iter().map(Fact::Command);
        sessions.chain(counts).chain(continuity).chain(tokens).chain(commands).collect()
    }
}

enum Fact {
    Session(SessionFact),
    Count(Key, Count),
    Continuity(DeviceKey),
    Token(String, u64),
    Command(Settled),
}

/// What the writer does next.
enum Next {
    Wait,
    WaitFor(Duration),
    Gather,
    WriteAll,
    WriteAndEnd,
}

impl Shared {
    fn next(&self) -> Next {
        let pending = self.pending.lock();
        match (pending.closing, pending.flushes.is_empty(), pending.due_in()) {
            (true, ..) => Next::WriteAndEnd,
            (false, false, _) => Next::WriteAll,
            (false, true, None) => Next::Wait,
            (false, true, Some(Duration::ZERO)) => Next::Gather,
            (false, true, Some(wait)) => Next::WaitFor(wait),
        }
    }
}

/// Writes facts until the registry closes. Holds the registry only while it writes.
pub(super) async fn run(facts: Facts, inner: Weak<Inner>) {
    let shared = facts.shared;
    loop {
        let all = match shared.next() {
            Next::Wait => {
                shared.some.notified().await;
                continue;
            }
            Next::WaitFor(wait) => {
                let _ = tokio::time::timeout(wait, shared.some.notified()).await;
                continue;
            }
            Next::Gather => {
                let _ = tokio::time::timeout(GATHER, shared.urgent.notified()).await;
                false
            }
            Next::WriteAll => true,
            Next::WriteAndEnd => {
                write_all(&shared, &inner, true).await;
                // Who still waits is told that the writer has ended.
                shared.pending.lock().flushes.clear();
                return;
            }
        };
        if !write_all(&shared, &inner, all).await {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Writes what waits; what cannot be written now waits on. Tells whether all was written.
async fn write_all(shared: &Shared, inner: &Weak<Inner>, all: bool) -> bool {
    let Some(inner) = inner.upgrade() else { return false };
    let (mut rows, flushes) = {
        let mut pending = shared.pending.lock();
        // Who asked while facts gathered waits for all of them.
        let all = all || !pending.flushes.is_empty();
        (pending.rows(all), std::mem::take(&mut pending.flushes))
    };
    while !rows.is_empty() {
        let chunk = rows.len().min(ROWS);
        if let Err(error) = write::write(&inner, &rows[..chunk]).await {
            tracing::error!(%error, waiting = rows.len(), "facts cannot be written; trying again");
            inner.health.failed(&error);
            put_back(shared, rows, flushes);
            return false;
        }
        rows.drain(..chunk);
        shared.writes.fetch_add(1, Ordering::Relaxed);
    }
    for flush in flushes {
        let _ = flush.send(());
    }
    true
}

fn put_back(shared: &Shared, rows: Vec<Fact>, flushes: Vec<oneshot::Sender<()>>) {
    let mut pending = shared.pending.lock();
    let newer = std::mem::take(&mut pending.sessions);
    let mut counts = Vec::new();
    for row in rows {
        match row {
            Fact::Session(fact) => {
                pending.push(fact);
            }
            Fact::Count(key, count) => counts.push((key, count)),
            Fact::Continuity(device) => drop(pending.continuity.insert(device)),
            Fact::Command(settled) => pending.commands.push(settled),
            Fact::Token(id, at_ms) => {
                let last = pending.tokens.entry(id).or_insert(at_ms);
                *last = at_ms.max(*last);
            }
        }
    }
    pending.folds.put_back(counts);
    for fact in newer {
        if !pending.push(fact) {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
    pending.flushes.extend(flushes);
}
