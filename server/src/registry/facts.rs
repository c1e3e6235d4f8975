//! What the edge sees, on its way to the registry: coalesced, bounded, unaudited, never waited for.
//!
//! A call notes the fact in memory and returns; one task writes what has gathered, a few thousand rows a
//! transaction, a few times a second. So a hammering device costs one row a minute, not one an attempt.
//! What does not fit is counted and said, never waited for.

mod write;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use muster_shared::{Code, SerialNumber, Tenant};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{
    Inner,
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
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RefusalKey {
    who: Claimed,
    code: Code,
    minute_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct RefusalCount {
    count: u64,
    last_at_ms: u64,
    remote: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy)]
enum SessionFact {
    Began(SessionId, Connected),
    Ended(SessionId, u64, DisconnectReason),
}

#[derive(Default)]
struct Pending {
    sessions: Vec<SessionFact>,
    refusals: HashMap<RefusalKey, RefusalCount>,
    names: usize,
    /// Whose tokens have changed; what they are now is read when it is written.
    continuity: HashSet<DeviceKey>,
    tokens: HashMap<String, u64>,
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

    /// A connection, or a packet of one, was refused. Counted per device, code and minute.
    pub fn refused(&self, who: &Claimed, code: Code, at_ms: u64, remote: Option<SocketAddr>) {
        let minute_ms = at_ms - at_ms % MINUTE_MS;
        self.note(|pending| {
            let mut key = RefusalKey { who: who.clone(), code, minute_ms };
            if !pending.refusals.contains_key(&key) && matches!(key.who, Claimed::Name(..)) {
                if pending.names < NAMES_MAX {
                    pending.names += 1;
                } else {
                    key.who = Claimed::Nobody;
                }
            }
            if pending.refusals.len() >= WAITING_MAX && !pending.refusals.contains_key(&key) {
                return false;
            }
            let count =
                pending.refusals.entry(key).or_insert(RefusalCount { count: 0, last_at_ms: 0, remote });
            count.add(&RefusalCount { count: 1, last_at_ms: at_ms, remote });
            true
        });
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

    /// Lets the writer write what is there and end.
    pub(super) fn close(&self) {
        self.shared.pending.lock().closing = true;
        self.shared.some.notify_one();
        self.shared.urgent.notify_one();
    }

    fn note(&self, change: impl FnOnce(&mut Pending) -> bool) {
        let kept = change(&mut self.shared.pending.lock());
        if !kept && self.shared.dropped.fetch_add(1, Ordering::Relaxed).is_multiple_of(10_000) {
            tracing::warn!("more facts than can wait: some are not recorded");
        }
        self.shared.some.notify_one();
    }
}

impl RefusalCount {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        if other.last_at_ms >= self.last_at_ms {
            self.last_at_ms = other.last_at_ms;
            self.remote = other.remote;
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

    fn is_empty(&self) -> bool {
        self.sessions.is_empty()
            && self.refusals.is_empty()
            && self.continuity.is_empty()
            && self.tokens.is_empty()
    }

    /// As rows, sessions first and in order.
    fn rows(&mut self) -> Vec<Fact> {
        let sessions = std::mem::take(&mut self.sessions).into_iter().map(Fact::Session);
        let refusals =
            std::mem::take(&mut self.refusals).into_iter().map(|(key, count)| Fact::Refusal(key, count));
        let continuity = std::mem::take(&mut self.continuity).into_iter().map(Fact::Continuity);
        let tokens = std::mem::take(&mut self.tokens).into_iter().map(|(id, at)| Fact::Token(id, at));
        self.names = 0;
        sessions.chain(refusals).chain(continuity).chain(tokens).collect()
    }
}

enum Fact {
    Session(SessionFact),
    Refusal(RefusalKey, RefusalCount),
    Continuity(DeviceKey),
    Token(String, u64),
}

/// What the writer does next.
enum Next {
    Wait,
    Gather,
    WriteNow,
    WriteAndEnd,
}

impl Shared {
    fn next(&self) -> Next {
        let pending = self.pending.lock();
        match (pending.closing, pending.flushes.is_empty(), pending.is_empty()) {
            (true, ..) => Next::WriteAndEnd,
            (false, false, _) => Next::WriteNow,
            (false, true, false) => Next::Gather,
            (false, true, true) => Next::Wait,
        }
    }
}

/// Writes facts until the registry closes. Holds the registry only while it writes.
pub(super) async fn run(facts: Facts, inner: Weak<Inner>) {
    let shared = facts.shared;
    loop {
        match shared.next() {
            Next::Wait => {
                shared.some.notified().await;
                continue;
            }
            Next::Gather => {
                let _ = tokio::time::timeout(GATHER, shared.urgent.notified()).await;
            }
            Next::WriteNow => {}
            Next::WriteAndEnd => {
                write_all(&shared, &inner).await;
                // Who still waits is told that the writer has ended.
                shared.pending.lock().flushes.clear();
                return;
            }
        }
        if !write_all(&shared, &inner).await {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Writes what waits; what cannot be written now waits on. Tells whether all was written.
async fn write_all(shared: &Shared, inner: &Weak<Inner>) -> bool {
    let Some(inner) = inner.upgrade() else { return false };
    let (mut rows, flushes) = {
        let mut pending = shared.pending.lock();
        (pending.rows(), std::mem::take(&mut pending.flushes))
    };
    while !rows.is_empty() {
        let chunk = rows.len().min(ROWS);
        if let Err(error) = write::write(&inner, &rows[..chunk]).await {
            tracing::error!(%error, waiting = rows.len(), "facts cannot be written; trying again");
            put_back(shared, rows, flushes);
            return false;
        }
        rows.drain(..chunk);
    }
    for flush in flushes {
        let _ = flush.send(());
    }
    true
}

fn put_back(shared: &Shared, rows: Vec<Fact>, flushes: Vec<oneshot::Sender<()>>) {
    let mut pending = shared.pending.lock();
    let newer = std::mem::take(&mut pending.sessions);
    for row in rows {
        match row {
            Fact::Session(fact) => {
                pending.push(fact);
            }
            Fact::Refusal(key, count) => {
                pending.refusals.entry(key).and_modify(|now| now.add(&count)).or_insert(count);
            }
            Fact::Continuity(device) => drop(pending.continuity.insert(device)),
            Fact::Token(id, at_ms) => {
                let last = pending.tokens.entry(id).or_insert(at_ms);
                *last = at_ms.max(*last);
            }
        }
    }
    for fact in newer {
        if !pending.push(fact) {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
    pending.flushes.extend(flushes);
}
