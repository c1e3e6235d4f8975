//! The live sessions of this node, one per device at most, and one per service and client id.
//!
//! A session takes its seat with [`Roster::enter`] and leaves it when the [`Seat`] is dropped, which it
//! does after its socket is closed: so whoever waits on a [`CloseWait`] learns that nothing can arrive on
//! that connection any more. Everybody else speaks to a session through its seat's mail: one order to
//! close, the first wins, and a bounded queue of messages to the device.
//!
//! The roster decides nothing. Who enters asks the registry again afterwards; a decision that fell in
//! between therefore finds either a seat to close or a session that refuses itself. A session whose message is
//! refused for what was just decided ends before anybody tells it to: it is remembered for a while, and whoever
//! comes to see the decision through finds it, closed already.

mod seat;

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use muster_shared::CertificateId;
use parking_lot::Mutex;
use rustls::CipherSuite;
use tokio::sync::oneshot;

use self::seat::Shared;
pub use self::seat::{Mail, Parcel, Receipt, Seat};
use super::farewell::Farewell;
use crate::{
    registry::{DeviceKey, DisconnectReason, KeyId, now_ms},
    uplink::{Position, StoredMessage},
};

/// The live sessions of this node.
#[derive(Debug, Default)]
pub struct Roster {
    seats: Mutex<HashMap<Owner, Arc<Shared>>>,
    numbers: AtomicU64,
    /// Sessions that ended by themselves for what was decided, and when; oldest first.
    refused: Mutex<VecDeque<(Instant, Arc<Shared>)>>,
}

/// Longest from a decision to when its sessions are told to close: a commit's wait for the log, many times over.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Whose session it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A device's: it has one.
    Device(DeviceKey),
    /// A service's: one for each client id.
    Service(Arc<ServiceClient>),
}

/// One client of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceClient {
    /// The service, by the name in its certificate.
    pub name: Arc<str>,
    /// The client id in force.
    pub client_id: Arc<str>,
}

impl Owner {
    /// The device, when it is one's.
    #[must_use]
    pub fn device(&self) -> Option<DeviceKey> {
        match self {
            Self::Device(device) => Some(*device),
            Self::Service(_) => None,
        }
    }
}

impl From<DeviceKey> for Owner {
    fn from(device: DeviceKey) -> Self {
        Self::Device(device)
    }
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Whose session it is.
    pub owner: Owner,
    /// The certificate it authenticated with.
    pub certificate: CertificateId,
    /// Key identifier of the CA that issued it.
    pub issuer_key_id: KeyId,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// The keep-alive agreed on, seconds; 0: none.
    pub keep_alive_s: u16,
    /// The cipher suite its TLS agreed on.
    pub cipher: Option<CipherSuite>,
}

/// A session as listings show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Counts this process's sessions, from 1.
    pub number: u64,
    /// What is fixed about it.
    pub arrival: Arrival,
    /// Since when, unix milliseconds.
    pub since_ms: u64,
    /// Subscriptions it holds.
    pub subscriptions: u64,
    /// Messages taken from the client and handed to the uplink log.
    pub received: u64,
    /// Messages sent to the client.
    pub sent: u64,
    /// Messages in its mail, which it has still to take.
    pub queued: u64,
    /// Messages that its mail had no room for.
    pub dropped: u64,
}

/// A message to a device.
#[derive(Debug, Clone)]
pub struct Downlink {
    /// The topic, one the device may receive.
    pub topic: Arc<str>,
    /// The payload.
    pub payload: Bytes,
    /// The publisher's.
    pub qos: u8,
    /// Published to be retained.
    pub retain: bool,
    /// MQTT 5 properties, as they came.
    pub properties: Bytes,
    /// When it was published, Unix milliseconds.
    pub received_ms: u64,
    /// Where it stands in the uplink log; 0: it does not.
    pub position: u64,
    /// The device itself published it.
    pub from_self: bool,
}

impl Downlink {
    /// A message of the server's own, which is in no log.
    #[must_use]
    pub fn direct(topic: Arc<str>, payload: Bytes, qos: u8) -> Self {
        Self {
            topic,
            payload,
            qos,
            retain: false,
            properties: Bytes::new(),
            received_ms: now_ms(),
            position: 0,
            from_self: false,
        }
    }

    /// A message of the uplink log.
    pub(super) fn stored(position: Position, message: &StoredMessage, from_self: bool) -> Self {
        Self {
            topic: String::from_utf8_lossy(&message.topic).into(),
            payload: message.payload.clone(),
            qos: message.qos,
            retain: message.retain,
            properties: message.properties.clone(),
            received_ms: message.received_ms,
            position: position.0,
            from_self,
        }
    }
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
    /// Its time was over before it could be sent [MQTT-3.3.2-5].
    #[error("message has expired")]
    Expired,
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

/// Sessions that are to close. One that ends by itself meanwhile is one of them all the same.
#[derive(Debug)]
#[must_use = "they are told to close by `close`"]
pub struct Chosen(Vec<(Arc<Shared>, Farewell)>);

impl Chosen {
    /// Tells them to close; the waits resolve one by one.
    #[must_use]
    pub fn close(self) -> Vec<CloseWait> {
        self.0.into_iter().map(|(seat, farewell)| seat.close(farewell)).collect()
    }
}

/// Nobody comes any more for these.
fn forget_old(refused: &mut VecDeque<(Instant, Arc<Shared>)>) {
    while refused.front().is_some_and(|(ended, _)| ended.elapsed() >= REMEMBERED) {
        refused.pop_front();
    }
}

impl Roster {
    /// A roster with nobody on it.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes the owner's seat. A session that sits there is told to close (taken over), and the second
    /// value resolves when it has.
    pub fn enter(self: &Arc<Self>, arrival: Arrival) -> (Seat, CloseWait) {
        let owner = arrival.owner.clone();
        let shared = Shared::new(self.numbers.fetch_add(1, Ordering::Relaxed) + 1, arrival);
        let before = self.seats.lock().insert(owner, Arc::clone(&shared));
        let wait = match before {
            Some(before) => before.close(DisconnectReason::SessionTakenOver.into()),
            None => CloseWait(None),
        };
        (Seat::new(Arc::downgrade(self), shared), wait)
    }

    /// Tells the owner's session to close, for this reason and with this code. The wait resolves when
    /// its socket is closed, at once when there is no session. The first order counts.
    pub fn close(&self, owner: impl Into<Owner>, farewell: impl Into<Farewell>) -> CloseWait {
        let seat = self.seats.lock().get(&owner.into()).cloned();
        seat.map_or(CloseWait(None), |seat| seat.close(farewell.into()))
    }

    /// The same for a decision about the owner, which the session may have met already.
    pub fn close_decided(&self, owner: impl Into<Owner>, farewell: impl Into<Farewell>) -> CloseWait {
        let owner = owner.into();
        let seat = self.seats.lock().get(&owner).cloned();
        let seat = seat.or_else(|| self.take_refused(|seat| seat.arrival().owner == owner).pop());
        seat.map_or(CloseWait(None), |seat| seat.close(farewell.into()))
    }

    /// Those of the remembered that are wanted; they are remembered no more.
    fn take_refused(&self, wanted: impl Fn(&Shared) -> bool) -> Vec<Arc<Shared>> {
        let mut refused = self.refused.lock();
        forget_old(&mut refused);
        let mut found = Vec::new();
        refused.retain(|(_, seat)| {
            let wanted = wanted(seat);
            if wanted {
                found.push(Arc::clone(seat));
            }
            !wanted
        });
        found
    }

    /// Tells every session to close; the waits resolve one by one.
    pub fn close_all(&self, farewell: impl Into<Farewell>) -> Vec<CloseWait> {
        let farewell = farewell.into();
        let seats: Vec<_> = self.seats.lock().values().cloned().collect();
        seats.iter().map(|seat| seat.close(farewell)).collect()
    }

    /// The sessions there is a farewell for, as they are now; [`Chosen::close`] tells them.
    pub fn choose(&self, farewell: impl Fn(&Arrival) -> Option<Farewell>) -> Chosen {
        let seats: Vec<_> = self.seats.lock().values().cloned().collect();
        // After the seats: who leaves one is remembered first.
        let refused = self.take_refused(|seat| farewell(seat.arrival()).is_some());
        let mut chosen: Vec<_> = seats
            .into_iter()
            .chain(refused)
            .filter_map(|seat| {
                let farewell = farewell(seat.arrival())?;
                Some((seat, farewell))
            })
            .collect();
        chosen.sort_by_key(|(seat, _)| seat.number);
        chosen.dedup_by_key(|(seat, _)| seat.number);
        Chosen(chosen)
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
        let seat = self.seats.lock().get(&Owner::Device(device)).cloned();
        let (answer, told) = oneshot::channel();
        let posted = seat.ok_or(DeliverError::Offline).and_then(|seat| seat.post(message, Some(answer)));
        async move {
            posted?;
            told.await.unwrap_or(Err(DeliverError::Ended))
        }
    }

    /// Hands a message to the device's live session, if it has one, and waits for nothing; `false`: too many
    /// wait for it already, and this one is dropped.
    #[must_use]
    pub fn post(&self, device: DeviceKey, message: Downlink) -> bool {
        let seat = self.seats.lock().get(&Owner::Device(device)).cloned();
        seat.is_none_or(|seat| !matches!(seat.post(message, None), Err(DeliverError::Full)))
    }

    /// The devices that are connected.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceKey> {
        self.seats.lock().keys().filter_map(Owner::device).collect()
    }

    /// The owner's session, when it has one.
    #[must_use]
    pub fn is_online(&self, owner: impl Into<Owner>) -> Option<SessionInfo> {
        self.seats.lock().get(&owner.into()).map(|seat| seat.info())
    }

    /// Wakes the owner's session, if it is live: something waits for it elsewhere.
    pub fn nudge(&self, owner: impl Into<Owner>) {
        let seat = self.seats.lock().get(&owner.into()).cloned();
        if let Some(seat) = seat {
            seat.nudge();
        }
    }

    /// Live sessions, of devices and services.
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

#[cfg(test)]
mod tests;
