//! One connection from accept to close: handshake, CONNECT, gate, session, farewell.
//!
//! ```text
//! permit → handshake, with a deadline → identity from the connection's own leaf → CONNECT, with a deadline
//!   → verdict → seat on the roster (whoever sat there is closed first) → verdict again → CONNACK → run
//! ```
//!
//! What a session decides is in [`super::mqtt::session`]; here are the socket, the clock and the waiting.

mod turn;

use std::{
    collections::VecDeque,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use muster_shared::Code;
use rustls::AlertDescription;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    arrival::Permit,
    farewell::Farewell,
    gate::{self, Pass, Refusal},
    guard::Newcomer,
    identity::Visitor,
    limits::{LINGER, TAKEOVER_WAIT},
    mqtt::session::{Request, Session},
    pace::Pace,
    roster::{Arrival, Protocol, Receipt, Seat},
    shard::{Scratch, Shard},
    tls::Tls,
};
use crate::{
    registry::{Claimed, Connected, DeviceState, DisconnectReason, SessionId, now_ms},
    uplink::Ticket,
};

/// Serves one connection until it is closed.
pub(super) async fn serve(shard: &Rc<Shard>, mut stream: TcpStream, peer: SocketAddr, permit: Permit) {
    // Without it a CONNACK waits for the client's delayed acknowledgement; keep-alive finds dead peers of
    // clients that asked for none in MQTT.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_keepalive(true);
    let limits = &shard.node.limits;
    let outcome = match timeout(limits.handshake, handshake(shard, &mut stream)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Some(Code::HandshakeTimeout)),
    };
    drop(permit);
    match outcome {
        Ok((tls, visitor, early)) => {
            let session = Session::new(visitor.principal.clone(), limits, shard.now_ms());
            Box::pin(Connection::new(shard, stream, peer, tls, visitor, session, early).run()).await;
        }
        Err(code) => {
            if let Some(code) = code {
                shard.node.facts.refused(&Claimed::Nobody, code, now_ms(), Some(peer));
            }
            linger(shard, stream).await;
        }
    }
}

/// Drives the handshake; what the client sent right behind it comes along.
async fn handshake(
    shard: &Rc<Shard>,
    stream: &mut TcpStream,
) -> Result<(Box<Tls>, Visitor, Vec<u8>), Option<Code>> {
    let config = shard.node.config.borrow().clone();
    let mut tls = Tls::new(config).map_err(|_| None)?;
    let mut early = Vec::new();
    let mut unsent = Vec::new();
    while !tls.established() {
        let step = poll_fn(|cx| handshake_step(shard, stream, &mut tls, &mut early, &mut unsent, cx)).await;
        flush(stream, &mut unsent).await.map_err(|_| None)?;
        step?;
    }
    let leaf = tls.leaf().ok_or(Some(Code::CertificateMissing))?;
    let visitor = Visitor::from_leaf(leaf, &shard.node.trust).map_err(|error| {
        warn!(%error, "a certificate that was let through does not fit its profile");
        Some(Code::CertificateProfile)
    })?;
    Ok((tls, visitor, early))
}

fn handshake_step(
    shard: &Shard,
    stream: &mut TcpStream,
    tls: &mut Tls,
    early: &mut Vec<u8>,
    unsent: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Option<Code>>> {
    let mut scratch = shard.scratch.borrow_mut();
    let Scratch { read, wire, .. } = &mut *scratch;
    let held = tls.held();
    let mut buffer = ReadBuf::new(&mut read[held..]);
    match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
        Ok(()) if !buffer.filled().is_empty() => {}
        _ => return Poll::Ready(Err(None)),
    }
    let end = held + buffer.filled().len();
    let received = tls.receive(&mut read[..end], wire, |plain| early.extend_from_slice(plain));
    unsent.extend_from_slice(wire.as_slice());
    wire.clear();
    Poll::Ready(received.map_err(|fault| {
        match fault.alert() {
            Some(AlertDescription::CloseNotify) | None => debug!(%fault, "handshake failed"),
            Some(alert) => debug!(?alert, "the client refuses us"),
        }
        fault.code()
    }))
}

async fn flush(stream: &mut TcpStream, unsent: &mut Vec<u8>) -> std::io::Result<()> {
    let mut sent = 0;
    while sent < unsent.len() {
        sent += poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, &unsent[sent..])).await?;
    }
    unsent.clear();
    Ok(())
}

/// Ends a connection so that its last octets arrive: a socket closed over unread data resets the
/// connection, and takes with it what the peer has not read yet. Nothing read here is looked at.
async fn linger(shard: &Rc<Shard>, mut stream: TcpStream) {
    let _ = SockRef::from(&stream).shutdown(std::net::Shutdown::Write);
    let drained = poll_fn(|cx| {
        let mut scratch = shard.scratch.borrow_mut();
        loop {
            let mut buffer = ReadBuf::new(&mut scratch.read);
            match ready!(Pin::new(&mut stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    });
    let _ = timeout(LINGER, drained).await;
}

/// A connection whose client has proved who it is.
struct Connection {
    shard: Rc<Shard>,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Box<Tls>,
    visitor: Visitor,
    session: Session,
    /// Decrypted, and not read by the session yet.
    unread: Vec<u8>,
    /// Encrypted, and not taken by the socket yet.
    unsent: Vec<u8>,
    /// Messages handed to the uplink log, oldest first.
    tickets: VecDeque<Ticket>,
    /// Messages on their way to the device, and who asks about them.
    receipts: Vec<(u64, Receipt)>,
    receipt_last: u64,
    pace: Pace,
    timer: Pin<Box<Sleep>>,
    /// When the timer fires, on the shard's clock.
    armed_ms: u64,
    seated: Option<(Seat, SessionId)>,
    /// The certificate's last good second, Unix seconds.
    not_after_s: i64,
    /// Too fast, and not read for a while.
    paused: bool,
    /// A stop: nothing is read any more, what was handed over is waited for and acknowledged.
    draining: bool,
}

/// What a connection cannot do within a turn.
enum Event {
    Connect(Box<Request>),
    Close(Farewell),
}

impl Connection {
    fn new(
        shard: &Rc<Shard>,
        stream: TcpStream,
        peer: SocketAddr,
        tls: Box<Tls>,
        visitor: Visitor,
        session: Session,
        early: Vec<u8>,
    ) -> Self {
        Self {
            shard: Rc::clone(shard),
            stream,
            peer,
            tls,
            visitor,
            session,
            unread: early,
            unsent: Vec::new(),
            tickets: VecDeque::new(),
            receipts: Vec::new(),
            receipt_last: 0,
            pace: Pace::new(shard.node.limits.messages_per_s),
            timer: Box::pin(sleep(Duration::MAX)),
            armed_ms: u64::MAX,
            seated: None,
            not_after_s: i64::MAX,
            paused: false,
            draining: false,
        }
    }

    async fn run(mut self) {
        let farewell = loop {
            match poll_fn(|cx| self.turn(cx)).await {
                Event::Close(farewell) => break farewell,
                Event::Connect(request) => match self.gate(request).await {
                    Ok(()) => {}
                    Err(refusal) => {
                        self.refuse(&refusal);
                        break (DisconnectReason::Administrative, refusal.code).into();
                    }
                },
            }
        };
        self.finish(farewell).await;
    }

    /// CONNECT has come. Lets the client in, or says why not.
    async fn gate(&mut self, request: Box<Request>) -> Result<(), Box<Refusal>> {
        let shard = Rc::clone(&self.shard);
        let node = &shard.node;
        let Pass::Device { device, name, state, not_after_s } = self.verdict()? else {
            return Err(Box::new(Refusal { code: Code::ServerBusy, who: Claimed::Nobody }));
        };
        let refused = |code| Box::new(Refusal { code, who: Claimed::Device(device) });
        if let Some(code) = request.objection {
            return Err(refused(code));
        }
        let newcomer = Newcomer { device, name: &name, peer: self.peer, token: None };
        node.guard.vet(&newcomer, now_ms()).map_err(refused)?;
        let (seat, before) = node.roster.enter(Arrival {
            owner: device.into(),
            certificate: self.visitor.certificate,
            peer: self.peer,
            protocol: request.protocol,
            keep_alive_s: request.keep_alive_s,
        });
        // The one that sat there hands over nothing more once its socket is closed; so what the log
        // takes is in order across a takeover.
        if timeout(TAKEOVER_WAIT, before).await.is_err() {
            warn!(device = self.visitor.principal.label(), "the session before does not end");
            return Err(refused(Code::ServerBusy));
        }
        // Whoever decides from here on finds the seat; what was decided before is seen now.
        self.verdict()?;
        if state == DeviceState::Registered {
            node.registry.first_connection(device, now_ms()).await.map_err(|error| {
                debug!(%error, "first connection is not recorded");
                // A decision that came between says why; trouble with the disk is ours.
                self.verdict().err().map_or(refused(Code::NotStored), |refusal| refusal)
            })?;
        }
        if let Some(farewell) = seat.ordered_to_close() {
            return Err(refused(farewell.code));
        }
        if shard.stopping() {
            return Err(refused(Code::ServerStopping));
        }
        let session = node.facts.connected(Connected {
            device,
            at_ms: now_ms(),
            remote: self.peer,
            protocol: match request.protocol {
                Protocol::V3 => 4,
                Protocol::V5 => 5,
            },
            keep_alive_s: request.keep_alive_s,
        });
        info!(device = self.visitor.principal.label(), peer = %self.peer, "connected");
        self.seated = Some((seat, session));
        self.not_after_s = not_after_s;
        self.admit();
        Ok(())
    }

    fn verdict(&self) -> Result<Pass, Box<Refusal>> {
        let node = &self.shard.node;
        gate::verdict(&node.verdicts, &node.trust, &self.visitor, (now_ms() / 1000) as i64)
    }

    /// Closes the socket and tells everybody who has to know, in this order: the record, the client, the
    /// roster.
    async fn finish(mut self, farewell: Farewell) {
        let node = &self.shard.node;
        let name = self.visitor.principal.label();
        match &self.seated {
            Some((seat, session)) => {
                if let Some(device) = seat.owner().device() {
                    node.facts.disconnected(device, *session, now_ms(), farewell.why);
                }
                info!(device = %name, peer = %self.peer, why = %farewell.why, code = %farewell.code, "disconnected");
            }
            None if farewell.why == DisconnectReason::ProtocolError => {
                let who = match self.verdict() {
                    Ok(Pass::Device { device, .. }) => Claimed::Device(device),
                    Ok(Pass::Service { .. }) => Claimed::Nobody,
                    Err(refusal) => refusal.who,
                };
                node.facts.refused(&who, farewell.code, now_ms(), Some(self.peer));
            }
            // Refused at the gate, where it is recorded, or gone before CONNECT.
            None => {}
        }
        self.say_goodbye();
        if self.seated.is_none() || farewell.why == DisconnectReason::ServerShutdown {
            let mut unsent = std::mem::take(&mut self.unsent);
            let _ = timeout(LINGER, flush(&mut self.stream, &mut unsent)).await;
        }
        // From here on nothing that arrives is looked at, and nothing more is sent.
        let _ = SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write);
        let Self { shard, stream, seated, .. } = self;
        drop(seated);
        linger(&shard, stream).await;
    }

    fn refuse(&mut self, refusal: &Refusal) {
        let node = &self.shard.node;
        node.facts.refused(&refusal.who, refusal.code, now_ms(), Some(self.peer));
        info!(device = self.visitor.principal.label(), peer = %self.peer, code = %refusal.code, "refused");
        let shard = Rc::clone(&self.shard);
        let mut scratch = shard.scratch.borrow_mut();
        self.session.refuse(refusal.code, &mut scratch.out);
        scratch.out.commands.clear();
        self.transmit(&mut scratch, &mut Context::from_waker(Waker::noop()));
    }
}
