//! One connection from accept to close: handshake, CONNECT, gate, session, farewell.
//!
//! ```text
//! permit → handshake, with a deadline → identity from the connection's own leaf → CONNECT, with a deadline
//!   → verdict → seat on the roster (whoever sat there is closed first) → verdict again → CONNACK → run
//! ```
//!
//! What a session decides is in [`super::mqtt::session`]; here are the socket, the clock and the waiting:
//! `enter` lets it in, `turn` and `outlet` serve it, `leave` ends it.

mod enter;
mod leave;
mod outlet;
pub(super) mod shares;
mod turn;

use std::{
    collections::VecDeque,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use muster_shared::{CertificateId, Code};
use rustls::AlertDescription;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep, timeout},
};
use tracing::{debug, info, warn};

use self::outlet::Outlet;
use super::{
    arrival::Permit,
    farewell::Farewell,
    feed::Groups,
    gate::Refusal,
    identity::Visitor,
    limits::LINGER,
    mqtt::session::{Request, Session},
    pace::Pace,
    principal::Principal,
    roster::{Owner, Seat},
    shard::{Scratch, Shard},
    tls::{Tls, certificate_id},
};
use crate::{
    registry::{Claimed, DisconnectReason, SessionId, now_ms},
    uplink::{Message, Publisher, Ticket},
    zero_touch,
};

/// Opens a connection: the handshake, and who it is. `None`: nobody who is spoken to, and it is closed.
pub(super) async fn open(
    shard: &Rc<Shard>,
    mut stream: TcpStream,
    peer: SocketAddr,
    permit: Permit,
) -> Option<Box<Connection>> {
    let limits = &shard.node.limits;
    let began = Instant::now();
    let outcome = match timeout(limits.handshake, handshake(shard, &mut stream)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Some(Code::HandshakeTimeout).into()),
    };
    drop(permit);
    match outcome {
        Ok((tls, visitor, early)) => {
            shard.node.tally.handshakes.add(began.elapsed(), now_ms());
            let session = Session::new(visitor.principal.clone(), limits, shard.now_ms());
            Some(Box::new(Connection::new(shard, stream, peer, tls, visitor, session, early)))
        }
        Err(Failed { code, certificate }) => {
            if let Some(code) = code {
                // Of a certificate that a device has, on that device's record: where its operator looks.
                let known = certificate.and_then(|id| shard.node.verdicts.certificate(&id));
                let who = known.map_or(Claimed::Nobody, |known| Claimed::Device(known.device));
                shard.node.facts.refused(&who, code, now_ms(), Some(peer));
            }
            shut(&stream);
            linger(shard, stream).await;
            None
        }
    }
}

/// Nothing more is sent.
fn shut(stream: &TcpStream) {
    // One that is closed already is what was wanted.
    let _ = SockRef::from(stream).shutdown(std::net::Shutdown::Write);
}

/// A handshake that came to nothing.
struct Failed {
    /// The refusal, if it was one.
    code: Option<Code>,
    /// The certificate that was refused.
    certificate: Option<CertificateId>,
}

impl From<Option<Code>> for Failed {
    fn from(code: Option<Code>) -> Self {
        Self { code, certificate: None }
    }
}

/// Drives the handshake; what the client sent right behind it comes along.
async fn handshake(
    shard: &Rc<Shard>,
    stream: &mut TcpStream,
) -> Result<(Box<Tls>, Visitor, Vec<u8>), Failed> {
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
        Failed { code: Some(Code::CertificateProfile), certificate: Some(certificate_id(leaf)) }
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
) -> Poll<Result<(), Failed>> {
    let mut scratch = shard.scratch.borrow_mut();
    let Scratch { read, wire, .. } = &mut *scratch;
    let held = tls.held();
    let mut buffer = ReadBuf::new(&mut read[held..]);
    match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
        Ok(()) if !buffer.filled().is_empty() => {}
        _ => return Poll::Ready(Err(None.into())),
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
        Failed { code: fault.code(), certificate: fault.certificate() }
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

/// Ends a connection that was [`shut`] so that its last octets arrive: a socket closed over unread data resets the
/// connection, and takes with it what the peer has not read yet. Nothing read here is looked at.
async fn linger(shard: &Rc<Shard>, mut stream: TcpStream) {
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
pub(super) struct Connection {
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
    pace: Pace,
    timer: Pin<Box<Sleep>>,
    /// When the timer fires, on the shard's clock.
    armed_ms: u64,
    /// Set when the client was let in.
    seated: Option<Box<Seated>>,
    /// The certificate's last good second, Unix seconds.
    not_after_s: i64,
    /// Too fast, and not read for a while.
    paused: bool,
    /// A stop: nothing is read any more, what was handed over is waited for and acknowledged.
    draining: bool,
}

/// What a client that was let in stands on.
struct Seated {
    seat: Seat,
    /// A device's session in the registry.
    record: Option<SessionId>,
    /// As whom it publishes.
    publisher: Publisher,
    outlet: Outlet,
    /// Its session is held and saved: it goes on without the connection, or did before this one.
    durable: bool,
    /// Its will, and the milliseconds it is held back.
    will: Option<Box<(u64, Message)>>,
    /// Since when its state differs from the saved one, on the shard's clock.
    changed_ms: Option<u64>,
}

impl Seated {
    /// Takes part in the shared subscriptions the session holds now. Devices have none.
    fn follow_shares(&mut self, groups: &Arc<Groups>, session: &Session) {
        if let Owner::Service(client) = &self.outlet.owner {
            self.outlet.shares.follow(groups, client, session.subscriptions());
        }
    }
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
        let pace = match &visitor.principal {
            Principal::Device(_) => Pace::new(shard.node.limits.messages_per_s),
            // A service speaks for a fleet; the log's own queue holds it back.
            Principal::Service(_) => Pace::unlimited(),
        };
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
            pace,
            timer: Box::pin(sleep(Duration::MAX)),
            armed_ms: u64::MAX,
            seated: None,
            not_after_s: i64::MAX,
            paused: false,
            draining: false,
        }
    }

    /// Serves it until it is closed. What happens once, at its begin and at its end, is on the heap for as long
    /// as it takes: an idle connection carries no room for it.
    pub(super) async fn run(mut self: Box<Self>) {
        let farewell = loop {
            match poll_fn(|cx| self.turn(cx)).await {
                Event::Close(farewell) => break farewell,
                Event::Connect(request) => match Box::pin(self.enter(request)).await {
                    Ok(()) => {}
                    Err(refusal) => {
                        self.refuse(&refusal);
                        break (DisconnectReason::Administrative, refusal.code).into();
                    }
                },
            }
        };
        Box::pin(self.finish(farewell)).await;
    }

    fn refuse(&mut self, refusal: &Refusal) {
        let node = &self.shard.node;
        if node.facts.refused(&refusal.who, refusal.code, now_ms(), Some(self.peer)) {
            // Who comes again and again is counted, and said once.
            info!(who = self.visitor.principal.label(), peer = %self.peer, code = %refusal.code, "refused");
        }
        let shard = Rc::clone(&self.shard);
        let mut scratch = shard.scratch.borrow_mut();
        self.session.refuse(zero_touch::told(refusal.code), &mut scratch.out);
        scratch.out.commands.clear();
        self.transmit(&mut scratch, &mut Context::from_waker(Waker::noop()));
    }
}
