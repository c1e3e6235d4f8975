//! The live sessions of this node, one per device at most.
//!
//! A session takes its seat with [`Roster::enter`] and leaves it when the [`Seat`] is dropped, which it
//! does after its socket is closed: so whoever waits on a [`CloseWait`] learns that nothing can arrive on
//! that connection any more. Everybody else speaks to a session through its seat's mail: one order to
//! close, the first wins, and a bounded queue of messages to the device.
//!
//! The roster decides nothing. Who enters asks the registry again afterwards; a decision that fell in
//! between therefore finds either a seat to close or a session that refuses itself.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use muster_shared::CertificateId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    farewell::Farewell,
    limits::{MAIL_BYTES_MAX, MAIL_MAX},
};
use crate::registry::{DeviceKey, DisconnectReason, now_ms};

/// The live sessions of this node.
#[derive(Debug, Default)]
pub struct Roster {
    seats: Mutex<HashMap<DeviceKey, Arc<Shared>>>,
    numbers: AtomicU64,
}

/// Which version of MQTT a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// MQTT 3.1.1.
    V3,
    /// MQTT 5.0.
    V5,
}

impl Protocol {
    /// `3.1.1` or `5.0`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V3 => "3.1.1",
            Self::V5 => "5.0",
        }
    }
}

/// What is fixed about a session from its CONNECT on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Whose session it is.
    pub device: DeviceKey,
    /// The certificate it authenticated with.
    pub certificate: CertificateId,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// The keep-alive agreed on, seconds; 0: none.
    pub keep_alive_s: u16,
}

/// A session as listings show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionInfo {
    /// Counts this process's sessions, from 1.
    pub number: u64,
    /// What is fixed about it.
    pub arrival: Arrival,
    /// Since when, unix milliseconds.
    pub since_ms: u64,
    /// Subscriptions it holds.
    pub subscriptions: u64,
    /// Messages taken from the device and handed to the uplink log.
    pub received: u64,
    /// Messages sent to the device.
    pub sent: u64,
}

/// A message to a device.
#[derive(Debug, Clone)]
pub struct Downlink {
    /// The topic, one the device may receive.
    pub topic: Arc<str>,
    /// The payload.
    pub payload: Bytes,
    /// 0 or 1.
    pub qos: u8,
}

/// What became of a message to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// QoS 0: written to the connection.
    Sent,
    /// QoS 1: the device acknowledged it.
    Acknowledged,
}

/// Why a message did not reach a device, or is not known to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeliverError {
    /// The device has no live session on this node.
    #[error("device is not connected")]
    Offline,
    /// The device holds no subscription that matches, or may not receive this topic.
    #[error("device has not subscribed to the topic")]
    NotSubscribed,
    /// Too many messages wait for the device already.
    #[error("too many messages wait for the device")]
    Full,
    /// Larger than the packets the device accepts [MQTT-3.1.2-24].
    #[error("message is larger than the device accepts")]
    TooLarge,
    /// The device answered with this MQTT 5 reason code.
    #[error("device refused the message with reason 0x{0:02x}")]
    Refused(u8),
    /// The session ended first; the device may have it or not.
    #[error("session ended before the device acknowledged")]
    Ended,
}

/// When a session's socket was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// The session.
    pub number: u64,
    /// On the monotonic clock.
    pub at: Instant,
    /// Unix milliseconds.
    pub at_ms: u64,
}

/// Resolves when the socket of the session is closed: at once, with `None`, when there was no session.
#[derive(Debug)]
#[must_use = "the session is closed only when this resolves"]
pub struct CloseWait(Option<oneshot::Receiver<Closed>>);

impl CloseWait {
    /// Was there no session to close?
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl Future for CloseWait {
    type Output = Option<Closed>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Closed>> {
        match &mut self.0 {
            None => Poll::Ready(None),
            Some(receiver) => Pin::new(receiver).poll(cx).map(Result::ok),
        }
    }
}

impl Roster {
    /// A roster with nobody on it.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes the device's seat. A session that sits there is told to close (taken over), and the second
    /// value resolves when it has.
    pub fn enter(self: &Arc<Self>, arrival: Arrival) -> (Seat, CloseWait) {
        let shared = Arc::new(Shared {
            number: self.numbers.fetch_add(1, Ordering::Relaxed) + 1,
            arrival,
            since_ms: now_ms(),
            subscriptions: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            mail: Mutex::default(),
        });
        let before = self.seats.lock().insert(arrival.device, Arc::clone(&shared));
        let wait = match before {
            Some(before) => before.close(DisconnectReason::SessionTakenOver.into()),
            None => CloseWait(None),
        };
        (Seat { roster: Arc::downgrade(self), shared }, wait)
    }

    /// Tells the device's session to close, for this reason and with this code. The wait resolves when
    /// its socket is closed, at once when there is no session. The first order counts.
    pub fn close(&self, device: DeviceKey, farewell: impl Into<Farewell>) -> CloseWait {
        let seat = self.seats.lock().get(&device).cloned();
        seat.map_or(CloseWait(None), |seat| seat.close(farewell.into()))
    }

    /// Tells every session to close; the waits resolve one by one.
    pub fn close_all(&self, farewell: impl Into<Farewell>) -> Vec<CloseWait> {
        let farewell = farewell.into();
        let seats: Vec<_> = self.seats.lock().values().cloned().collect();
        seats.iter().map(|seat| seat.close(farewell)).collect()
    }

    /// Hands a message to the device's live session. At QoS 1 the future resolves when the device has
    /// acknowledged it, or the session has ended.
    ///
    /// # Errors
    /// [`DeliverError`]; after [`DeliverError::Ended`] the device may have the message or not.
    pub fn deliver(
        &self,
        device: DeviceKey,
        message: Downlink,
    ) -> impl Future<Output = Result<Delivered, DeliverError>> + Send + use<> {
        let seat = self.seats.lock().get(&device).cloned();
        let answer = seat.ok_or(DeliverError::Offline).and_then(|seat| seat.post(message));
        async move { answer?.await.unwrap_or(Err(DeliverError::Ended)) }
    }

    /// The device's session, when it has one.
    #[must_use]
    pub fn is_online(&self, device: DeviceKey) -> Option<SessionInfo> {
        self.seats.lock().get(&device).map(|seat| seat.info())
    }

    /// Live sessions.
    #[must_use]
    pub fn count(&self) -> usize {
        self.seats.lock().len()
    }

    /// Every live session, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<SessionInfo> {
        let mut all: Vec<_> = self.seats.lock().values().map(|seat| seat.info()).collect();
        all.sort_unstable_by_key(|info| info.number);
        all
    }
}

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
    answer: oneshot::Sender<Result<Delivered, DeliverError>>,
}

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
pub struct Receipt(oneshot::Sender<Result<Delivered, DeliverError>>);

impl Receipt {
    /// Tells it. The sender may have gone; that is its own affair.
    pub fn answer(self, outcome: Result<Delivered, DeliverError>) {
        let _ = self.0.send(outcome);
    }
}

impl Seat {
    /// The session as listings show it.
    #[must_use]
    pub fn info(&self) -> SessionInfo {
        self.shared.info()
    }

    /// Whose seat it is.
    #[must_use]
    pub fn device(&self) -> DeviceKey {
        self.shared.arrival.device
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
            let mut seats = roster.seats.lock();
            if let Entry::Occupied(seat) = seats.entry(self.shared.arrival.device) {
                // A successor may sit there already.
                if seat.get().number == self.shared.number {
                    seat.remove();
                }
            }
        }
        self.shared.end();
    }
}

#[derive(Debug)]
struct Shared {
    number: u64,
    arrival: Arrival,
    since_ms: u64,
    subscriptions: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
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
    fn info(&self) -> SessionInfo {
        SessionInfo {
            number: self.number,
            arrival: self.arrival,
            since_ms: self.since_ms,
            subscriptions: self.subscriptions.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }

    fn close(&self, farewell: Farewell) -> CloseWait {
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

    fn post(
        &self,
        message: Downlink,
    ) -> Result<oneshot::Receiver<Result<Delivered, DeliverError>>, DeliverError> {
        let mut mail = self.mail.lock();
        if mail.close.is_some() || mail.closed.is_some() {
            return Err(DeliverError::Offline);
        }
        if mail.parcels.len() >= MAIL_MAX || mail.bytes + message.payload.len() > MAIL_BYTES_MAX {
            return Err(DeliverError::Full);
        }
        let (answer, told) = oneshot::channel();
        mail.bytes += message.payload.len();
        mail.parcels.push_back(Parcel { message, answer });
        self.waiting.store(true, Ordering::Release);
        drop(mail);
        self.waker.wake();
        Ok(told)
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

#[cfg(test)]
mod tests;
