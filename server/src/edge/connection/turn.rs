//! One turn of a connection: mail, answers of the log, what the socket has, what the clock says; then what
//! the session said is encrypted and written, once for all of it.

use std::{
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use muster_shared::{Code, limits::PACKET_MAX};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tracing::debug;

use super::{Connection, Event};
use crate::{
    edge::{
        limits::{OUTBOUND_BYTES_MAX, READS_PER_TURN, SAVE_AFTER_MS},
        mqtt::session::{Command, Fate, Kept, Output, Uplink},
        shard::Scratch,
    },
    registry::{Claimed, DisconnectReason, Notice, now_ms},
    uplink::{Change, Message, Outcome, Ticket},
};

/// 9999-12-31T23:59:59Z: a certificate without an end (RFC 5280 §4.1.2.5).
const NO_EXPIRY_S: i64 = 253_402_300_799;
/// Longest wait before a certificate with an end is looked at again: the wall clock may have been set.
const EXPIRY_LOOK_MS: u64 = 3_600_000;
/// Tickets a connection has room for while it is idle.
const TICKETS_KEPT: usize = 8;

impl Connection {
    pub(super) fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let shard = Rc::clone(&self.shard);
        let mut scratch = shard.scratch.borrow_mut();
        let now_ms = shard.now_ms();
        let blocked = !self.unsent.is_empty();
        let event = self.work(now_ms, &mut scratch, cx);
        self.transmit(&mut scratch, cx);
        if blocked && self.unsent.is_empty() {
            // What waited for the socket to take this is looked at in the next turn.
            cx.waker().wake_by_ref();
        }
        // Writing may have found the connection broken, or its reader too slow.
        match event.or(self.obey(now_ms, &mut scratch.out)) {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        }
    }

    fn work(&mut self, now_ms: u64, scratch: &mut Scratch, cx: &mut Context<'_>) -> Option<Event> {
        for _ in 0..READS_PER_TURN {
            self.outbound(&mut scratch.out, cx);
            self.answers(now_ms, &mut scratch.out, cx);
            self.read_on(now_ms, &mut scratch.out);
            let done = self.obey(now_ms, &mut scratch.out);
            if done.is_some() {
                return done;
            }
            let more = self.may_read(now_ms) && self.read(now_ms, scratch, cx);
            let done = self.obey(now_ms, &mut scratch.out);
            if done.is_some() {
                return done;
            }
            if !more {
                // A message handed over in this round has to wake us when its fate is known.
                self.answers(now_ms, &mut scratch.out, cx);
                self.clock(now_ms, &mut scratch.out, cx);
                if self.retained_is_due() {
                    // A SUBACK has left since what goes to the client was looked at; nothing else wakes us.
                    cx.waker().wake_by_ref();
                }
                return self.obey(now_ms, &mut scratch.out);
            }
        }
        // There may be more to read; the others have their turn first.
        cx.waker().wake_by_ref();
        None
    }

    /// What became of the messages handed over, oldest first.
    fn answers(&mut self, now_ms: u64, out: &mut Output, cx: &mut Context<'_>) {
        while let Some(ticket) = self.tickets.front_mut() {
            let Poll::Ready(outcome) = Pin::new(ticket).poll(cx) else { return };
            self.tickets.pop_front();
            if let Outcome::Refused(code) = outcome {
                self.record_refusal(code);
            }
            self.session.settled(now_ms, fate(outcome), out);
        }
        if self.tickets.capacity() > TICKETS_KEPT {
            // An idle connection gives back what a burst took.
            self.tickets.shrink_to(0);
        }
        if self.draining {
            // Everything that was accepted is acknowledged; now the server may go.
            self.session.end(DisconnectReason::ServerShutdown.into(), out);
        }
    }

    /// What was decrypted before and the session did not take.
    fn read_on(&mut self, now_ms: u64, out: &mut Output) {
        if self.unread.is_empty() || !self.may_read(now_ms) {
            return;
        }
        let used = self.session.input(now_ms, &self.unread, out);
        self.unread.drain(..used);
        if self.unread.is_empty() {
            self.unread = Vec::new();
        }
    }

    /// Not while the log has enough of this device, the device is too fast, or it does not take our answers.
    fn may_read(&self, now_ms: u64) -> bool {
        self.session.listens()
            && !self.draining
            && self.unsent.len() < PACKET_MAX
            && self.pace.wait_until_ms(now_ms).is_none()
    }

    /// Reads once; `false` when there was nothing, and the task is woken when there is.
    fn read(&mut self, now_ms: u64, scratch: &mut Scratch, cx: &mut Context<'_>) -> bool {
        let Scratch { read, wire, out } = scratch;
        let held = self.tls.held();
        let mut buffer = ReadBuf::new(&mut read[held..]);
        let end = match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => held + buffer.filled().len(),
            Poll::Ready(_) => {
                self.session.lost(out);
                return false;
            }
        };
        self.session.mark(self.shard.node.uplink.position().0);
        let (session, unread) = (&mut self.session, &mut self.unread);
        let received = self.tls.receive(&mut read[..end], wire, |plain| {
            let mut plain = plain;
            if unread.is_empty() {
                plain = &plain[session.input(now_ms, plain, out)..];
            }
            if !plain.is_empty() {
                unread.extend_from_slice(plain);
            }
        });
        if !self.unread.is_empty() && self.session.listens() {
            let used = self.session.input(now_ms, &self.unread, out);
            self.unread.drain(..used);
        }
        match received {
            Ok(()) if !self.tls.peer_closed() => true,
            Ok(()) => {
                self.session.lost(out);
                false
            }
            Err(fault) => {
                debug!(%fault, peer = %self.peer, "TLS ends");
                self.session.lost(out);
                false
            }
        }
    }

    fn clock(&mut self, now_ms: u64, out: &mut Output, cx: &mut Context<'_>) {
        let paused_until = self.pace.wait_until_ms(now_ms);
        if self.paused && paused_until.is_none() {
            self.session.excuse(now_ms);
        }
        self.paused = paused_until.is_some();
        if !self.paused {
            self.session.tick(now_ms, out);
        } else if self.pace.is_news(now_ms) {
            self.record_slowed();
        }
        let look_ms = self.expiry(now_ms, out);
        let save_ms = self.save_due(now_ms);
        // A deadline that has moved away since is found when the timer fires: that costs one turn now and
        // then, and not a timer operation a message.
        let waits = [paused_until.or(self.session.deadline_ms()), look_ms, save_ms];
        let Some(deadline) = waits.into_iter().flatten().min() else { return };
        loop {
            if deadline < self.armed_ms {
                self.armed_ms = deadline;
                let wait = Duration::from_millis(deadline.saturating_sub(now_ms));
                self.timer.as_mut().reset(Instant::now() + wait);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.armed_ms = u64::MAX;
            if deadline <= now_ms {
                // The next turn's business.
                cx.waker().wake_by_ref();
                return;
            }
        }
    }

    /// Does what the session wants done. What only [`Connection::run`] can do is returned.
    fn obey(&mut self, clock_ms: u64, out: &mut Output) -> Option<Event> {
        if out.commands.is_empty() {
            return None;
        }
        let mut commands = std::mem::take(&mut out.commands);
        let mut event = None;
        for command in commands.drain(..) {
            match command {
                Command::Append(uplink) => {
                    let ticket = self.append(uplink);
                    self.tickets.push_back(ticket);
                    self.pace.count(clock_ms);
                }
                Command::AppendWill(will) => drop(self.append(will)),
                Command::HoldWill { will, delay_s } => self.hold_will(will, delay_s),
                Command::Save(kept) => {
                    if let Some(change) = self.change(*kept) {
                        self.tickets.push_back(self.shard.uplink.change(change));
                    }
                }
                Command::Changed => {
                    if let Some(seated) = &mut self.seated {
                        seated.changed_ms.get_or_insert(clock_ms);
                    }
                }
                Command::Subscriptions(count) => {
                    if let Some(seated) = &mut self.seated {
                        seated.seat.set_subscriptions(count);
                        seated.follow_shares(&self.shard.node.groups, &self.session);
                    }
                }
                Command::Delivered(token, outcome) => self.delivered(token, outcome),
                Command::Refused(code) => self.record_refusal(code),
                Command::Connect(request) => event = Some(Event::Connect(request)),
                Command::Close(farewell) => event = Some(Event::Close(farewell)),
            }
        }
        // The allocation stays with the shard.
        out.commands = commands;
        event
    }

    /// Ends the session with its certificate; else when to look again, on the shard's clock.
    fn expiry(&mut self, shard_ms: u64, out: &mut Output) -> Option<u64> {
        let wait_ms = until_expiry_ms(self.not_after_s, now_ms())?;
        if wait_ms == 0 {
            self.session.end(DisconnectReason::CertificateExpired.into(), out);
        }
        Some(shard_ms + wait_ms)
    }

    /// Saves a state that has changed, some time after it did; else when that is, on the shard's clock.
    fn save_due(&mut self, clock_ms: u64) -> Option<u64> {
        let due_ms = self.seated.as_ref()?.changed_ms? + SAVE_AFTER_MS;
        if due_ms > clock_ms {
            return Some(due_ms);
        }
        self.save();
        None
    }

    pub(super) fn record_refusal(&self, code: Code) {
        let device = self.seated.as_ref().and_then(|seated| seated.outlet.owner.device());
        let who = device.map_or(Claimed::Nobody, Claimed::Device);
        self.shard.node.facts.refused(&who, code, now_ms(), Some(self.peer));
    }

    fn record_slowed(&self) {
        let node = &self.shard.node;
        node.tally.slowed.add();
        if let Some(device) = self.seated.as_ref().and_then(|seated| seated.outlet.owner.device()) {
            let notice = Notice::Slowed { per_s: node.limits.messages_per_s };
            node.facts.noticed(device, notice, now_ms(), Some(self.peer));
        }
    }

    /// The state of a session that goes on, for the log.
    fn change(&mut self, kept: Kept) -> Option<Change> {
        let seated = self.seated.as_mut()?;
        seated.changed_ms = None;
        Some(self.shard.node.sessions.save(&seated.outlet.owner, kept, seated.outlet.progress()))
    }

    fn append(&mut self, uplink: Uplink) -> Ticket {
        let state = uplink.state.clone().and_then(|kept| self.change(*kept)).map(Box::new);
        let seated = self.seated.as_ref().expect("a session runs only when it is seated");
        seated.seat.count_received();
        self.shard.flow.received(uplink.qos as u8);
        let message = Message { state, ..self.message(uplink) };
        self.shard.uplink.append(message)
    }

    fn message(&self, uplink: Uplink) -> Message {
        let seated = self.seated.as_ref().expect("a session runs only when it is seated");
        Message {
            publisher: seated.publisher.clone(),
            topic: uplink.topic,
            payload: uplink.payload,
            qos: uplink.qos as u8,
            retain: uplink.retain,
            name: uplink.name,
            properties: uplink.properties,
            received_ms: now_ms(),
            state: None,
        }
    }

    fn hold_will(&mut self, will: Uplink, delay_s: u32) {
        let will = self.message(will);
        if let Some(seated) = &mut self.seated {
            seated.will = Some(Box::new((u64::from(delay_s) * 1000, will)));
        }
    }

    /// Encrypts what the session said and writes as much as the socket takes.
    pub(super) fn transmit(&mut self, scratch: &mut Scratch, cx: &mut Context<'_>) {
        let Scratch { wire, out, .. } = scratch;
        let mut broken = self.tls.send(&out.bytes, wire).is_err();
        out.bytes.clear();
        self.shard.flow.sent(&mut out.sent);
        let mut taken = 0;
        if !broken && self.unsent.is_empty() {
            match write(&mut self.stream, wire.as_slice(), cx) {
                Ok(written) => taken = written,
                Err(_) => broken = true,
            }
        }
        self.unsent.extend_from_slice(&wire.as_slice()[taken..]);
        wire.clear();
        if !broken && taken == 0 && !self.unsent.is_empty() {
            match write(&mut self.stream, &self.unsent, cx) {
                Ok(written) if written == self.unsent.len() => self.unsent = Vec::new(),
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(_) => broken = true,
            }
        }
        if broken {
            self.session.lost(out);
        } else if self.unsent.len() > OUTBOUND_BYTES_MAX {
            // Whoever does not read cannot be told so either.
            self.session.end(DisconnectReason::Throttled.into(), out);
            out.bytes.clear();
        }
    }

    /// The last word: close_notify behind whatever was said before.
    pub(super) fn say_goodbye(&mut self) {
        let shard = Rc::clone(&self.shard);
        let mut scratch = shard.scratch.borrow_mut();
        let mut cx = Context::from_waker(Waker::noop());
        self.transmit(&mut scratch, &mut cx);
        self.tls.close(&mut scratch.wire);
        self.transmit(&mut scratch, &mut cx);
        scratch.out.commands.clear();
    }
}

/// How long to wait until a certificate must be looked at again, milliseconds: 0 when it has ended, `None`
/// for one without an end. Never long, as the wall clock may be set while the wait runs on another.
fn until_expiry_ms(not_after_s: i64, wall_ms: u64) -> Option<u64> {
    if not_after_s >= NO_EXPIRY_S {
        return None;
    }
    let end_ms = u64::try_from(not_after_s + 1).unwrap_or(0) * 1000;
    Some(end_ms.saturating_sub(wall_ms).min(EXPIRY_LOOK_MS))
}

/// What the session is told of a message or a state that was handed over.
pub(super) fn fate(outcome: Outcome) -> Fate {
    match outcome {
        // A repeated message is on disk: that is all PUBACK says.
        Outcome::Stored(_) | Outcome::Duplicate(_) => Fate::Stored,
        Outcome::Refused(code) => Fate::Refused(code),
        Outcome::Failed => Fate::Failed,
    }
}

/// Writes until the socket takes no more; registers for when it does.
fn write(stream: &mut TcpStream, octets: &[u8], cx: &mut Context<'_>) -> io::Result<usize> {
    let mut written = 0;
    while written < octets.len() {
        match Pin::new(&mut *stream).poll_write(cx, &octets[written..]) {
            Poll::Pending => break,
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(more)) => written += more,
            Poll::Ready(Err(error)) => return Err(error),
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_with_the_second_its_certificate_ends_with() {
        assert_eq!(until_expiry_ms(100, 100_000), Some(1000), "notAfter itself is good (RFC 5280 §4.1.2.5)");
        assert_eq!(until_expiry_ms(100, 100_999), Some(1));
        assert_eq!(until_expiry_ms(100, 101_000), Some(0));
        assert_eq!(until_expiry_ms(100, u64::MAX), Some(0));
        assert_eq!(until_expiry_ms(-5, 0), Some(0));
        assert_eq!(until_expiry_ms(NO_EXPIRY_S - 1, 0), Some(EXPIRY_LOOK_MS));
        assert_eq!(until_expiry_ms(NO_EXPIRY_S, 0), None);
        assert_eq!(until_expiry_ms(i64::MAX, u64::MAX), None);
    }
}
