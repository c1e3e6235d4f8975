//! A session's seat: its mail, and the word that its socket is closed.

use std::{
    collections::{VecDeque, hash_map::Entry},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Arrival, CloseWait, Closed, DeliverError, Delivered, Downlink, Owner, Roster, SessionInfo};
use crate::{
    edge::{
        farewell::Farewell,
        limits::{MAIL_BYTES_MAX, MAIL_MAX},
    },
    registry::now_ms,
};

/// A session's place on the roster, held by the connection. Dropping it says: the socket is closed.
#[derive(Debug)]
pub struct Seat {
    roster: Weak<Roster>,
    shared: Arc<Shared>,
}

/// What a session finds in its mail.
#[derive(Debug)]
pub enum Mail {
    /// Close now. Nothing else will come.
    Close(Farewell),
    /// Send this to the device.
    Deliver(Parcel),
}

/// A message to the device and the one who wants to know what became of it.
#[derive(Debug)]
pub struct Parcel {
    /// The message.
    pub message: Downlink,
    answer: Option<Answer>,
}

pub(super) type Answer = oneshot::Sender<Result<Delivered, DeliverError>>;

impl Parcel {
    /// Splits off the message; what is left tells what became of it. Dropped unanswered, it says
    /// [`DeliverError::Ended`].
    #[must_use]
    pub fn open(self) -> (Downlink, Receipt) {
        (self.message, Receipt(self.answer))
    }
}

/// Tells the sender of a message what became of it.
#[derive(Debug)]
pub struct Receipt(Option<Answer>);

impl Receipt {
    /// Tells it. The sender may have gone, or never have asked; that is its own affair.
    pub fn answer(self, outcome: Result<Delivered, DeliverError>) {
        if let Some(answer) = self.0 {
            let _ = answer.send(outcome);
        }
    }
}

impl Seat {
    pub(super) fn new(roster: Weak<Roster>, shared: Arc<Shared>) -> Self {
        Self { roster, shared }
    }

    /// The session as listings show it.
    #[must_use]
    pub fn info(&self) -> SessionInfo {
        self.shared.info()
    }

    /// Whose seat it is.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.shared.arrival.owner
    }

    /// Takes the next piece of mail, and has the task woken when more comes. Without `room` messages stay
    /// where they are; an order to close never does.
    pub fn poll_mail(&self, room: bool, cx: &mut Context<'_>) -> Poll<Mail> {
        // The common case costs one load: the flag is set after the mail is in the box.
        if !self.shared.waiting.load(Ordering::Acquire) {
            self.shared.waker.register(cx.waker());
            if !self.shared.waiting.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
        let mut mail = self.shared.mail.lock();
        if let Some(farewell) = mail.close {
            return Poll::Ready(Mail::Close(farewell));
        }
        if room && let Some(parcel) = mail.parcels.pop_front() {
            mail.bytes -= parcel.message.payload.len();
            return Poll::Ready(Mail::Deliver(parcel));
        }
        // Under the lock, so that whoever posts next finds the waker registered.
        self.shared.waiting.store(!mail.parcels.is_empty(), Ordering::Release);
        self.shared.waker.register(cx.waker());
        Poll::Pending
    }

    /// Has somebody ordered this session to close? Costs one load when nobody wrote at all.
    #[must_use]
    pub fn ordered_to_close(&self) -> Option<Farewell> {
        if !self.shared.waiting.load(Ordering::Acquire) {
            return None;
        }
        self.shared.mail.lock().close
    }

    /// Says that the session ends by itself for what was decided about its owner. Call it before the drop.
    pub fn refused(&self) {
        self.shared.refused.store(true, Ordering::Relaxed);
    }

    /// Notes how many subscriptions the session holds.
    pub fn set_subscriptions(&self, count: usize) {
        self.shared.subscriptions.store(count as u64, Ordering::Relaxed);
    }

    /// Counts one message from the device.
    pub fn count_received(&self) {
        self.shared.received.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one message to the device.
    pub fn count_sent(&self) {
        self.shared.sent.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(roster) = self.roster.upgrade() {
            if self.shared.refused.load(Ordering::Relaxed) && self.ordered_to_close().is_none() {
                let mut refused = roster.refused.lock();
                super::forget_old(&mut refused);
                refused.push_back((Instant::now(), Arc::clone(&self.shared)));
            }
            let mut seats = roster.seats.lock();
            if let Entry::Occupied(seat) = seats.entry(self.shared.arrival.owner.clone()) {
                // A successor may sit there already.
                if seat.get().number == self.shared.number {
                    seat.remove();
                }
            }
        }
        self.shared.end();
    }
}

/// A seat as the roster sees it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) number: u64,
    arrival: Arrival,
    since_ms: u64,
    subscriptions: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    dropped: AtomicU64,
    refused: AtomicBool,
    /// There is mail. Set and cleared under the lock of `mail`; read without it.
    waiting: AtomicBool,
    waker: AtomicWaker,
    mail: Mutex<MailBox>,
}

#[derive(Debug, Default)]
struct MailBox {
    close: Option<Farewell>,
    parcels: VecDeque<Parcel>,
    bytes: usize,
    closed: Option<Closed>,
    waiters: Vec<oneshot::Sender<Closed>>,
}

impl Shared {
    pub(super) fn new(number: u64, arrival: Arrival) -> Arc<Self> {
        Arc::new(Self {
            number,
            arrival,
            since_ms: now_ms(),
            subscriptions: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            mail: Mutex::default(),
        })
    }

    pub(super) fn arrival(&self) -> &Arrival {
        &self.arrival
    }

    pub(super) fn info(&self) -> SessionInfo {
        SessionInfo {
            number: self.number,
            arrival: self.arrival.clone(),
            since_ms: self.since_ms,
            subscriptions: self.subscriptions.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            queued: self.mail.lock().parcels.len() as u64,
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    pub(super) fn nudge(&self) {
        let mail = self.mail.lock();
        self.waiting.store(true, Ordering::Release);
        drop(mail);
        self.waker.wake();
    }

    pub(super) fn close(&self, farewell: Farewell) -> CloseWait {
        let (tell, told) = oneshot::channel();
        let mut mail = self.mail.lock();
        match mail.closed {
            Some(closed) => {
                let _ = tell.send(closed);
                return CloseWait(Some(told));
            }
            None => mail.waiters.push(tell),
        }
        mail.close.get_or_insert(farewell);
        self.waiting.store(true, Ordering::Release);
        drop(mail);
        self.waker.wake();
        CloseWait(Some(told))
    }

    pub(super) fn post(&self, message: Downlink, answer: Option<Answer>) -> Result<(), DeliverError> {
        let mut mail = self.mail.lock();
        if mail.close.is_some() || mail.closed.is_some() {
            return Err(DeliverError::Offline);
        }
        if mail.parcels.len() >= MAIL_MAX || mail.bytes + message.payload.len() > MAIL_BYTES_MAX {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return Err(DeliverError::Full);
        }
        mail.bytes += message.payload.len();
        mail.parcels.push_back(Parcel { message, answer });
        self.waiting.store(true, Ordering::Release);
        drop(mail);
        self.waker.wake();
        Ok(())
    }

    fn end(&self) {
        let closed = Closed { number: self.number, at: Instant::now(), at_ms: now_ms() };
        let (waiters, parcels) = {
            let mut mail = self.mail.lock();
            mail.closed = Some(closed);
            (std::mem::take(&mut mail.waiters), std::mem::take(&mut mail.parcels))
        };
        // Senders learn of the end by the drop of their parcels.
        drop(parcels);
        for waiter in waiters {
            let _ = waiter.send(closed);
        }
    }
}
