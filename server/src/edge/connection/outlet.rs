//! What goes to the client: its mail, what waits for it in its queue or in the uplink log, and what is
//! retained on what it has just subscribed to.
//!
//! Each message has a token, which comes back when its fate is known. A message of the log has its position
//! for one, so that a session that goes on knows it again; what else is in the log has a mark beside it that
//! says by which subscription it came. A message from the mail is in no log, and is given up when the
//! connection ends.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use muster_shared::Code;
use tracing::error;

use super::{Connection, shares::Shares};
use crate::{
    edge::{
        feed::{Feed, FeedError},
        limits::{FOLLOWED_TURN_MAX, OUTBOUND_TURN_MAX, REPLAY_PAGE},
        mqtt::{
            packet::Qos,
            session::{Delivery, Output, Replay, Via},
        },
        principal::Principal,
        roster::{DeliverError, Delivered, Downlink, Mail, Owner, Parcel, Receipt},
    },
    registry::{DisconnectReason, commands::Fate, now_ms},
    uplink::{Position, Retained, RetainedMessage, StoredMessage, StoredPublisher},
};

/// Marks the token of a message from the mail.
const PARCEL: u64 = 1 << 63;
/// Marks the token of a retained message: which subscription it was due to, then its position.
const RETAINED: u64 = 1 << 62;
/// Marks the token of a message that came by a shared subscription: which one, then its position.
pub(super) const SHARED: u64 = 1 << 61;
/// Bits of a token that say which subscription it came by.
const WHICH_SHIFT: u32 = 48;
pub(super) const WHICH_MASK: u64 = 0x0fff << WHICH_SHIFT;

/// Where a client's messages come from.
pub(super) struct Outlet {
    pub(super) owner: Owner,
    /// Messages of the log up to here were offered to the session.
    pub(super) seen: Position,
    /// A service reads the log; a device is sent to.
    pub(super) feed: Option<Box<Feed>>,
    /// A service's part in shared subscriptions.
    pub(super) shares: Shares,
    /// What a session that goes on had in flight, by token: sent again before anything else.
    again: VecDeque<(u64, Arc<StoredMessage>)>,
    /// Retained messages that are due.
    page: Option<Box<Page>>,
    /// What a device's subscriptions found up to here at QoS 0, its session found nobody to send to.
    away_until: Position,
    /// Who asks what becomes of a message from the mail.
    receipts: Vec<(u64, Receipt)>,
    /// Counts messages from the mail.
    last: u64,
}

/// What is retained for a subscription, a few at a time.
struct Page {
    /// Goes on with the first of the messages.
    of: Replay,
    messages: VecDeque<RetainedMessage>,
    last: bool,
}

impl Outlet {
    pub(super) fn new(
        owner: Owner,
        seen: Position,
        feed: Option<Box<Feed>>,
        again: VecDeque<(u64, Arc<StoredMessage>)>,
        away_until: Position,
    ) -> Self {
        let (shares, receipts) = (Shares::default(), Vec::new());
        Self { owner, seen, feed, shares, again, page: None, away_until, receipts, last: 0 }
    }

    /// How far a service has read. A device's queue is offered anew to its next connection.
    pub(super) fn progress(&self) -> Position {
        if self.feed.is_some() { self.seen } else { Position::default() }
    }

    fn parcel_token(&mut self) -> u64 {
        self.last += 1;
        PARCEL | self.last
    }
}

/// The token of a message that is in the log.
pub(super) fn position(token: u64) -> Option<Position> {
    (token & (PARCEL | RETAINED | SHARED) == 0).then_some(Position(token))
}

/// Where in the log the message of a token stands, if it does.
pub(super) fn stored(token: u64) -> Option<Position> {
    (token & PARCEL == 0).then_some(Position(token & !(RETAINED | SHARED | WHICH_MASK)))
}

/// Is it the token of a message that was retained?
pub(super) fn is_retained(token: u64) -> bool {
    token & (PARCEL | RETAINED) == RETAINED
}

/// Twelve bits that tell the few subscriptions of one session apart (FNV-1a).
pub(super) fn which(filter: &str) -> u64 {
    let hash = filter
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193));
    u64::from((hash >> 20) & 0x0fff) << WHICH_SHIFT
}

impl Connection {
    /// Everything there is for the client, as far as it takes it; and whether it was ordered to close.
    pub(super) fn outbound(&mut self, out: &mut Output, cx: &mut Context<'_>) {
        self.mail(out, cx);
        if self.draining || self.session.ended() || self.seated.is_none() {
            return;
        }
        if self.redeliver(out) {
            self.retained(out);
            self.queue(out);
            self.follow(out, cx);
            self.share(out, cx);
        }
        if out.bytes.len() >= OUTBOUND_TURN_MAX && self.unsent.is_empty() {
            // There is more; the socket has its turn first.
            cx.waker().wake_by_ref();
        }
    }

    /// May one more message be written now? What the socket does not take waits where it is.
    pub(super) fn takes_more(&self, out: &Output) -> bool {
        self.session.has_room() && self.unsent.is_empty() && out.bytes.len() < OUTBOUND_TURN_MAX
    }

    fn mail(&mut self, out: &mut Output, cx: &mut Context<'_>) {
        while !self.draining {
            let Some(seated) = &mut self.seated else { return };
            match seated.seat.poll_mail(self.session.has_room(), cx) {
                Poll::Pending => return,
                Poll::Ready(Mail::Close(farewell)) if farewell.why == DisconnectReason::ServerShutdown => {
                    self.draining = true;
                }
                Poll::Ready(Mail::Close(farewell)) => return self.session.end(farewell, out),
                Poll::Ready(Mail::Deliver(parcel)) => self.parcel(parcel, out),
            }
        }
    }

    fn parcel(&mut self, parcel: Parcel, out: &mut Output) {
        let Some(seated) = &mut self.seated else { return };
        let token = seated.outlet.parcel_token();
        let (message, receipt) = parcel.open();
        seated.seat.count_sent();
        match self.session.deliver(token, &of_mail(&message), out) {
            Ok(None) => seated.outlet.receipts.push((token, receipt)),
            Ok(Some(delivered)) => receipt.answer(Ok(delivered)),
            Err(error) => receipt.answer(Err(error)),
        }
    }

    /// Would [`Connection::outbound`] have a retained message for the client now?
    pub(super) fn retained_is_due(&self) -> bool {
        self.session.replay().is_some() && self.session.has_room() && self.unsent.is_empty() && !self.draining
    }

    /// What is retained on the topics of a subscription that was just made, or made on an earlier connection
    /// that did not take it all.
    fn retained(&mut self, out: &mut Output) {
        while self.takes_more(out) {
            let Some(seated) = &mut self.seated else { return };
            let outlet = &mut seated.outlet;
            let Some(replay) = self.session.replay() else {
                outlet.page = None;
                return;
            };
            let held = outlet.page.take().filter(|page| page.goes_on(replay));
            let retained = || self.shard.node.uplink.retained();
            let page = outlet.page.insert(held.unwrap_or_else(|| Page::read(replay, &retained())));
            let Some(next) = page.messages.pop_front() else {
                self.session.replayed(out);
                continue;
            };
            let topic = String::from_utf8_lossy(&next.message.topic);
            self.session.replay_at(&topic);
            page.of.after = Some(topic.as_ref().into());
            let missed = next.message.qos == 0 && next.position <= outlet.away_until;
            if next.position.0 > page.of.up_to && !missed {
                // It comes as a fresh one.
                continue;
            }
            let filter = &page.of.filter;
            let token = RETAINED | which(filter) | next.position.0;
            let delivery = of_log(next.position, &next.message, Via::Replay(filter), false);
            let Some(delivery) = delivery else { continue };
            if self.session.deliver(token, &delivery, out).is_ok() {
                seated.seat.count_sent();
            }
        }
    }

    /// What waits for a device in its queue.
    fn queue(&mut self, out: &mut Output) {
        let shard = self.shard.clone();
        while self.takes_more(out) {
            let Some(seated) = &mut self.seated else { return };
            if !seated.durable || seated.outlet.feed.is_some() {
                return;
            }
            let outlet = &mut seated.outlet;
            let Some((at, message)) = shard.node.sessions.next(&outlet.owner, outlet.seen) else { return };
            outlet.seen = at;
            self.hand_over(at, &message, out);
        }
    }

    /// What comes in the log for a service.
    fn follow(&mut self, out: &mut Output, cx: &mut Context<'_>) {
        for _ in 0..FOLLOWED_TURN_MAX {
            if !self.takes_more(out) {
                return;
            }
            let Some(seated) = &mut self.seated else { return };
            let Some(feed) = &mut seated.outlet.feed else { return };
            let next = feed.poll_next(cx);
            seated.outlet.seen = feed.position();
            match next {
                Poll::Pending => return,
                Poll::Ready(Ok(entry)) => self.hand_over(entry.position, &entry, out),
                Poll::Ready(Err(error)) => return self.unreadable(&error, out),
            }
        }
        // There is more of the log, wanted or not; the others have their turn first.
        cx.waker().wake_by_ref();
    }

    /// A service is told that it missed something by the end of its connection: its next one goes on behind
    /// what is lost, or where it was when the log can be read again.
    pub(super) fn unreadable(&mut self, error: &FeedError, out: &mut Output) {
        error!(who = self.visitor.principal.label(), %error, "a service cannot be told everything");
        self.session.end((DisconnectReason::Administrative, Code::NotStored).into(), out);
    }

    /// A message of the log. What the client does not want, or cannot take, is done with.
    fn hand_over(&mut self, at: Position, message: &StoredMessage, out: &mut Output) {
        let Some(seated) = &mut self.seated else { return };
        let from_self = is_own(&seated.outlet.owner, &self.visitor.principal, message);
        let delivery = of_log(at, message, Via::Filters, from_self);
        let sent = match &delivery {
            Some(delivery) => self.session.deliver(at.0, delivery, out),
            None => Err(DeliverError::NotSubscribed),
        };
        if sent.is_ok() {
            seated.seat.count_sent();
        }
        match sent {
            Ok(None) => {}
            Ok(Some(_)) => self.done(at, Fate::Delivered),
            Err(error) => self.done(at, given_up(&error)),
        }
    }

    /// What became of a message.
    pub(super) fn delivered(&mut self, token: u64, outcome: Result<Delivered, DeliverError>) {
        let Some(seated) = &mut self.seated else { return };
        if let Some(at) = position(token) {
            let fate = outcome.as_ref().map_or_else(given_up, |_| Fate::Delivered);
            return self.done(at, fate);
        }
        if token & SHARED != 0 {
            return seated.outlet.shares.done(token);
        }
        let receipts = &mut seated.outlet.receipts;
        if let Some(at) = receipts.iter().position(|(of, _)| *of == token) {
            receipts.swap_remove(at).1.answer(outcome);
        }
    }

    /// Nothing more is to be done with this message for this client.
    fn done(&self, at: Position, fate: Fate) {
        let Some(seated) = &self.seated else { return };
        if seated.durable && seated.outlet.feed.is_none() {
            self.shard.node.sessions.done(&seated.outlet.owner, vec![at], fate);
        }
    }

    /// What a session that goes on had in flight, under the same packet identifiers [MQTT-4.4.0-1], as the
    /// client takes it [MQTT-3.3.4-9]; `true` when that is done.
    fn redeliver(&mut self, out: &mut Output) -> bool {
        while self.takes_more(out) {
            let Some(seated) = &mut self.seated else { return false };
            let Some((token, message)) = seated.outlet.again.pop_front() else { return true };
            match position(token) {
                Some(at) => self.hand_over(at, &message, out),
                None if is_retained(token) => self.retained_again(token, &message, out),
                None => self.share_again(token, &message, out),
            }
            if self.seated.as_ref().is_some_and(|seated| seated.outlet.again.is_empty()) {
                // What was not found again is given up.
                self.session.resumed(out);
            }
        }
        self.seated.as_ref().is_some_and(|seated| seated.outlet.again.is_empty())
    }
}

impl Connection {
    /// A retained message that a session that goes on had in flight, with the identifier of the subscription
    /// it was due to where that is still there.
    fn retained_again(&mut self, token: u64, message: &StoredMessage, out: &mut Output) {
        let due_to = self.session.subscriptions().find(|one| which(one.filter()) == token & WHICH_MASK);
        let filter: Box<str> = due_to.map_or("", |one| one.filter()).into();
        let at = Position(token & !(RETAINED | WHICH_MASK));
        let sent = of_log(at, message, Via::Replay(&filter), false)
            .is_some_and(|delivery| self.session.deliver(token, &delivery, out).is_ok());
        if let Some(seated) = self.seated.as_ref().filter(|_| sent) {
            seated.seat.count_sent();
        }
    }
}

impl Page {
    fn read(replay: &Replay, retained: &Retained) -> Box<Self> {
        let messages = retained.matching(&replay.filter, replay.after.as_deref(), REPLAY_PAGE, now_ms());
        let last = messages.len() < REPLAY_PAGE;
        Box::new(Self { of: replay.clone(), messages: messages.into(), last })
    }

    /// Does this one go on where it was left? Its subscription may have been replaced meanwhile.
    fn goes_on(&self, replay: &Replay) -> bool {
        self.of == *replay && (self.last || !self.messages.is_empty())
    }
}

/// Did this client publish it?
fn is_own(owner: &Owner, principal: &Principal, message: &StoredMessage) -> bool {
    match (owner, principal, &message.publisher) {
        (_, Principal::Device(name), _) => message.is_from(name),
        (Owner::Service(own), _, StoredPublisher::Service { name, client_id, .. }) => {
            (&*own.name, &*own.client_id) == (&**name, &**client_id)
        }
        _ => false,
    }
}

fn waited_s(received_ms: u64) -> u32 {
    u32::try_from(now_ms().saturating_sub(received_ms) / 1000).unwrap_or(u32::MAX)
}

fn of_mail(message: &Downlink) -> Delivery<'_> {
    Delivery {
        topic: &message.topic,
        payload: &message.payload,
        qos: Qos::from_bits(message.qos).unwrap_or(Qos::AtLeastOnce),
        retain: message.retain,
        via: Via::Filters,
        properties: &message.properties,
        waited_s: waited_s(message.received_ms),
        from_self: message.from_self,
        // One that is in no log is for whoever is subscribed now.
        position: if message.position == 0 { u64::MAX } else { message.position },
    }
}

/// `None`: its topic is not text, which no publisher can have sent.
pub(super) fn of_log<'a>(
    at: Position,
    message: &'a StoredMessage,
    via: Via<'a>,
    from_self: bool,
) -> Option<Delivery<'a>> {
    Some(Delivery {
        topic: std::str::from_utf8(&message.topic).ok()?,
        payload: &message.payload,
        qos: Qos::from_bits(message.qos)?,
        retain: message.retain,
        via,
        properties: &message.properties,
        waited_s: waited_s(message.received_ms),
        from_self,
        position: at.0,
    })
}

/// What became of a message that this client will not be sent.
fn given_up(error: &DeliverError) -> Fate {
    Fate::Expired(match error {
        DeliverError::Expired => "its time was over before the device took it",
        DeliverError::TooLarge => "it is larger than the device accepts",
        DeliverError::Refused(_) => "the device refused it",
        DeliverError::NotSubscribed => "the device has subscribed to commands no more",
        DeliverError::Offline | DeliverError::Full | DeliverError::Ended => {
            "its session ended before the device took it"
        }
    })
}
