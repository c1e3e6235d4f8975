//! CONNECT has come: the gate, the seat, the session that goes on or begins, CONNACK.

use std::{collections::VecDeque, rc::Rc, sync::Arc};

use muster_shared::Code;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::{
    Connection, Seated,
    outlet::{self, Outlet},
};
use crate::{
    edge::{
        feed::Feed,
        gate::{self, Pass, Refusal},
        guard::Newcomer,
        identity::Visitor,
        limits::TAKEOVER_WAIT,
        mqtt::session::{Admission, Kept, Request},
        principal::{Principal, Service},
        roster::{Arrival, Owner, Protocol, Seat, ServiceClient},
    },
    registry::{Claimed, Connected, DeviceKey, DeviceName, DeviceState, SessionId, commands::Fate, now_ms},
    uplink::{Position, Publisher, Shown, StoredMessage},
    zero_touch::Knock,
};

/// A session of a device, or of a service, as it comes in.
struct Entrant {
    owner: Owner,
    publisher: Publisher,
    client_id: Box<str>,
    not_after_s: i64,
}

/// The session that goes on, and what it had in flight.
#[derive(Default)]
struct Before {
    kept: Option<Kept>,
    seen: Position,
    /// By token.
    again: VecDeque<(u64, Arc<StoredMessage>)>,
}

impl Connection {
    /// Lets the client in, or says why not.
    pub(super) async fn enter(&mut self, request: Box<Request>) -> Result<(), Box<Refusal>> {
        let pass = match self.verdict() {
            // On the heap: hardly any connection is its device's first.
            Err(refusal) if refusal.code == Code::DeviceNotRegistered => {
                Box::pin(self.unregistered(&request, refusal)).await?
            }
            verdict => verdict?,
        };
        match pass {
            Pass::Device { device, name, state, not_after_s } => {
                self.device(&request, device, &name, state, not_after_s).await?;
            }
            Pass::Service { service, not_after_s } => self.service(&request, &service, not_after_s).await?,
        }
        self.shard.node.figures.connected(request.protocol);
        Ok(())
    }

    /// A device that nobody has registered: where its tenant allows it, it is registered by this connection,
    /// and the gate is asked again.
    async fn unregistered(&self, request: &Request, refusal: Box<Refusal>) -> Result<Pass, Box<Refusal>> {
        let node = &self.shard.node;
        let (Some(zero_touch), Principal::Device(name), Some(leaf)) =
            (&node.zero_touch, &self.visitor.principal, self.tls.leaf())
        else {
            return Err(refusal);
        };
        let Visitor { certificate, issuer_key_id, .. } = &self.visitor;
        if !zero_touch.is_open_to(name, issuer_key_id) {
            return Err(refusal);
        }
        let refused = |code| Box::new(Refusal { code, who: refusal.who.clone() });
        // What would be refused anyway registers nobody.
        if let Some(code) = request.objection {
            return Err(refused(code));
        }
        let knock = Knock { name, certificate: *certificate, issuer_key_id, leaf, peer: self.peer };
        zero_touch.admit(&knock).await.map_err(refused)?;
        self.verdict()
    }

    pub(super) fn verdict(&self) -> Result<Pass, Box<Refusal>> {
        let node = &self.shard.node;
        gate::verdict(&node.verdicts, &node.trust, &self.visitor, (now_ms() / 1000) as i64)
    }

    async fn device(
        &mut self,
        request: &Request,
        device: DeviceKey,
        name: &DeviceName,
        state: DeviceState,
        not_after_s: i64,
    ) -> Result<(), Box<Refusal>> {
        let shard = Rc::clone(&self.shard);
        let node = &shard.node;
        let refused = |code| Box::new(Refusal { code, who: Claimed::Device(device) });
        if let Some(code) = request.objection {
            return Err(refused(code));
        }
        let newcomer = Newcomer { device, name, peer: self.peer, token: request.continuity.as_deref() };
        node.guard.vet(&newcomer, now_ms()).map_err(refused)?;
        let entrant = Entrant {
            owner: device.into(),
            publisher: Publisher::Device { device, certificate: self.visitor.certificate },
            client_id: name.device_id.as_str().into(),
            not_after_s,
        };
        let seat = self.seat(&entrant, request).await.map_err(refused)?;
        // Whoever decides from here on finds the seat; what was decided before is seen now.
        self.verdict()?;
        if state == DeviceState::Registered {
            node.registry.first_connection(device, now_ms()).await.map_err(|error| {
                debug!(%error, "first connection is not recorded");
                // A decision that came between says why; trouble with the disk is ours.
                self.verdict().err().map_or(refused(Code::NotStored), |refusal| refusal)
            })?;
        }
        self.still_welcome(&seat).map_err(refused)?;
        let token = match request.protocol {
            Protocol::V3 => None,
            Protocol::V5 => node.guard.token(&newcomer, now_ms()),
        };
        let before = self.before(&entrant, request).await;
        let record = node.facts.connected(Connected {
            device,
            at_ms: now_ms(),
            remote: self.peer,
            protocol: match request.protocol {
                Protocol::V3 => 4,
                Protocol::V5 => 5,
            },
            keep_alive_s: self.keep_alive_s(request),
        });
        node.presences.online(name, device);
        self.begin(entrant, seat, Some(record), before, None, token.as_deref());
        Ok(())
    }

    async fn service(
        &mut self,
        request: &Request,
        service: &Arc<Service>,
        not_after_s: i64,
    ) -> Result<(), Box<Refusal>> {
        let shard = Rc::clone(&self.shard);
        let node = &shard.node;
        let refused = |code| Box::new(Refusal { code, who: Claimed::Nobody });
        if let Some(code) = request.objection {
            return Err(refused(code));
        }
        let client_id = if request.client_id.is_empty() { assigned_id() } else { request.client_id.clone() };
        let client = Arc::new(ServiceClient { name: service.name().into(), client_id: (&*client_id).into() });
        node.guard.vet_service(&client, now_ms()).map_err(refused)?;
        let entrant = Entrant {
            owner: Owner::Service(Arc::clone(&client)),
            publisher: Publisher::Service {
                tenant: service.tenant().cloned(),
                name: Arc::clone(&client.name),
                client_id: Arc::clone(&client.client_id),
                shown: Some(Arc::new(Shown {
                    certificate: self.visitor.certificate,
                    issuer_key_id: self.visitor.issuer_key_id,
                    not_after_s,
                })),
            },
            client_id,
            not_after_s,
        };
        let seat = self.seat(&entrant, request).await.map_err(refused)?;
        self.verdict()?;
        self.still_welcome(&seat).map_err(refused)?;
        let mut before = self.before(&entrant, request).await;
        if before.kept.is_none() {
            before.seen = node.uplink.position();
        }
        let feed = node.tail.feed(before.seen);
        self.begin(entrant, seat, None, before, Some(Box::new(feed)), None);
        Ok(())
    }

    /// In force, seconds: what [`Admission::keep_alive_max_s`] makes of it.
    fn keep_alive_s(&self, request: &Request) -> u16 {
        let asked_s = request.keep_alive_s;
        match (request.protocol, self.shard.node.limits.keep_alive_max_s) {
            (Protocol::V5, Some(max_s)) if asked_s == 0 || asked_s > max_s => max_s,
            _ => asked_s,
        }
    }

    /// Takes the seat, and waits until who sat there is gone.
    async fn seat(&self, entrant: &Entrant, request: &Request) -> Result<Seat, Code> {
        let (seat, before) = self.shard.node.roster.enter(Arrival {
            owner: entrant.owner.clone(),
            certificate: self.visitor.certificate,
            issuer_key_id: self.visitor.issuer_key_id,
            peer: self.peer,
            protocol: request.protocol,
            keep_alive_s: self.keep_alive_s(request),
            cipher: self.tls.cipher(),
        });
        // The one that sat there hands over nothing more once its socket is closed; so what the log
        // takes is in order across a takeover, and its session is kept where this one finds it.
        if timeout(TAKEOVER_WAIT, before).await.is_err() {
            warn!(who = self.visitor.principal.label(), "the session before does not end");
            return Err(Code::ServerBusy);
        }
        Ok(seat)
    }

    fn still_welcome(&self, seat: &Seat) -> Result<(), Code> {
        if let Some(farewell) = seat.ordered_to_close() {
            return Err(farewell.code);
        }
        if self.shard.stopping() { Err(Code::ServerStopping) } else { Ok(()) }
    }

    /// The session there was, unless the client wants none of it.
    async fn before(&self, entrant: &Entrant, request: &Request) -> Before {
        let sessions = &self.shard.node.sessions;
        if request.clean {
            sessions.discard(&entrant.owner, &self.shard.node.trust);
            return Before::default();
        }
        let Some(resumed) = sessions.resume(&entrant.owner) else { return Before::default() };
        let received: Vec<_> = resumed.kept.received().filter_map(outlet::position).collect();
        if !received.is_empty() {
            // The client has them; the queue was not told before the connection ended.
            sessions.done(&entrant.owner, received, Fate::Delivered);
        }
        // What is in flight was read from the log in its order.
        let in_flight = resumed.kept.inflight().filter_map(outlet::position).max();
        let seen = in_flight.unwrap_or_default().max(resumed.seen);
        let mut again = VecDeque::new();
        for token in resumed.kept.inflight() {
            again.extend(self.in_flight(&entrant.owner, token).await.map(|message| (token, message)));
        }
        Before { kept: Some(resumed.kept), seen, again }
    }

    /// A message that was in flight: from the device's queue, else from the log, where one that was retained
    /// may be gone from and still be retained. What is there no more is given up.
    async fn in_flight(&self, owner: &Owner, token: u64) -> Option<Arc<StoredMessage>> {
        let at = outlet::stored(token)?;
        let node = &self.shard.node;
        if owner.device().is_some() && !outlet::is_retained(token) {
            return node.sessions.waiting(owner, at);
        }
        match node.tail.fetch(at).await {
            Ok(Some(message)) => Some(Arc::new(message)),
            Ok(None) if outlet::is_retained(token) => node.uplink.retained().at(at).map(Arc::new),
            Ok(None) => None,
            Err(error) => {
                warn!(%error, "a message in flight cannot be read again");
                None
            }
        }
    }

    /// CONNACK, and what goes behind it.
    fn begin(
        &mut self,
        entrant: Entrant,
        seat: Seat,
        record: Option<SessionId>,
        before: Before,
        feed: Option<Box<Feed>>,
        continuity: Option<&str>,
    ) {
        info!(who = self.visitor.principal.label(), peer = %self.peer, "connected");
        let Entrant { owner, publisher, client_id, not_after_s } = entrant;
        let shard = Rc::clone(&self.shard);
        let mut scratch = shard.scratch.borrow_mut();
        let expiry_max_s = match owner {
            Owner::Device(_) => shard.node.limits.sessions.expiry_max_s,
            // The log is a service's queue: it goes on as long as it asks.
            Owner::Service(_) => u32::MAX,
        };
        let goes_on = before.kept.is_some();
        let away_until = match owner {
            Owner::Device(_) if goes_on => shard.node.uplink.position(),
            // A service finds everything in the log.
            Owner::Device(_) | Owner::Service(_) => Position::default(),
        };
        let nothing_again = goes_on && before.again.is_empty();
        self.not_after_s = not_after_s;
        // A device's queue is offered from its start: what was in flight has been taken care of by then.
        let seen = before.seen;
        self.seated = Some(Box::new(Seated {
            seat,
            record,
            publisher,
            outlet: Outlet::new(owner, seen, feed, before.again, away_until),
            durable: false,
            will: None,
            changed_ms: None,
        }));
        let admission = Admission {
            kept: before.kept,
            client_id: &client_id,
            expiry_max_s,
            keep_alive_max_s: shard.node.limits.keep_alive_max_s,
            continuity,
        };
        self.session.admit(shard.now_ms(), admission, &mut scratch.out);
        let durable = self.session.expiry_s() > 0;
        if let Some(seated) = &mut self.seated {
            seated.durable = durable || goes_on;
            seated.seat.set_subscriptions(self.session.subscriptions().count());
            seated.follow_shares(&shard.node.groups, &self.session);
        }
        if nothing_again {
            // What was in flight is not to be had any more.
            self.session.resumed(&mut scratch.out);
        }
        if durable || goes_on {
            // One that ends with this connection is saved as that: a crash must not bring it back.
            self.save();
        }
    }
}

/// A client id for a client that gave none (MQTT 5.0 §3.1.3.1): nobody else's, now or later.
fn assigned_id() -> Box<str> {
    let mut octets = [0; 12];
    aws_lc_rs::rand::fill(&mut octets).expect("a random source that works was needed for the handshake");
    format!("auto-{}", hex::encode(octets)).into()
}
