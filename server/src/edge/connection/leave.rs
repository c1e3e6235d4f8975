//! The end of a connection: who is told, in which order, and what stays of its session.

use muster_shared::Code;
use tokio::time::timeout;
use tracing::info;

use super::{Connection, Seated, flush, linger, shut};
use crate::{
    edge::{
        farewell::Farewell,
        limits::{LINGER, TAKEOVER_WAIT},
        mqtt::session::{Kept, Output},
        principal::Principal,
    },
    registry::{Claimed, DisconnectReason, now_ms},
};

impl Connection {
    /// Closes the socket and tells everybody who has to know, in this order: the record, the client, the
    /// services; then what stays of the session is kept, and the seat is free.
    pub(super) async fn finish(mut self: Box<Self>, farewell: Farewell) {
        self.record_end(farewell);
        self.say_goodbye();
        if self.seated.is_none() || farewell.why == DisconnectReason::ServerShutdown {
            let mut unsent = std::mem::take(&mut self.unsent);
            let _ = timeout(LINGER, flush(&mut self.stream, &mut unsent)).await;
        }
        // From here on nothing that arrives is looked at, and nothing more is sent.
        shut(&self.stream);
        // Where the client has said that nothing will come (RFC 8446 §6.1), a close loses no octet.
        let all_said = self.tls.peer_closed();
        if let Some(seated) = self.seated.take() {
            if farewell.purges() && farewell.why != DisconnectReason::CertificateExpired {
                seated.seat.refused();
            }
            // Dropped when its session is where the next connection finds it: then the seat is free.
            self.keep(*seated, farewell).await;
        }
        let Self { shard, stream, .. } = *self;
        if !all_said {
            linger(&shard, stream).await;
        }
    }

    fn record_end(&self, farewell: Farewell) {
        let node = &self.shard.node;
        let who = self.visitor.principal.label();
        match &self.seated {
            Some(seated) => {
                info!(who, peer = %self.peer, why = %farewell.why, code = %farewell.code, "disconnected");
                node.figures.ended(farewell.why);
                let device = seated.outlet.owner.device();
                if let (Some(device), Some(record)) = (device, seated.record) {
                    node.facts.disconnected(device, record, now_ms(), farewell.why);
                }
                if let (Some(device), Principal::Device(name)) = (device, &self.visitor.principal) {
                    node.presences.offline(name, device, farewell.why);
                }
                if farewell.refuses() {
                    self.record_refusal(farewell.code);
                }
            }
            None if farewell.why == DisconnectReason::ProtocolError => {
                self.record_refused_by(farewell.code);
            }
            // Refused at the gate, where it is recorded, or gone before CONNECT.
            None => {}
        }
    }

    fn record_refused_by(&self, code: Code) {
        use crate::edge::gate::Pass;
        let who = match self.verdict() {
            Ok(Pass::Device { device, .. }) => Claimed::Device(device),
            Ok(Pass::Service { .. }) => Claimed::Nobody,
            Err(refusal) => refusal.who,
        };
        self.shard.node.facts.refused(&who, code, now_ms(), Some(self.peer));
    }

    /// What stays of the session, where the next connection finds it once the seat is free.
    async fn keep(&mut self, seated: Seated, farewell: Farewell) {
        let node = &self.shard.node.clone();
        let Seated { seat, outlet, durable, will, .. } = seated;
        let seen = outlet.progress();
        let (owner, shares) = (outlet.owner, outlet.shares);
        if let (true, Some(device)) = (farewell.purges(), owner.device()) {
            // Whoever decided it purges too, and waits for that.
            drop(node.sessions.purge(device));
        } else if durable {
            let kept = self.kept().await;
            shares.leave(kept.as_ref());
            match kept {
                Some(kept) => node.sessions.leave(&owner, kept, seen, will.map(|will| *will)),
                None => node.sessions.end(&owner),
            }
        }
        drop(seat);
    }

    /// The session's state, when it is known what became of everything it handed over.
    async fn kept(&mut self) -> Option<Kept> {
        let settle = async {
            while let Some(ticket) = self.tickets.pop_front() {
                let fate = super::turn::fate(ticket.await);
                self.session.settled(self.shard.now_ms(), fate, &mut Output::default());
            }
        };
        // A log that does not answer has not stored: the client sends it again.
        let _ = timeout(TAKEOVER_WAIT, settle).await;
        self.session.close_state()
    }

    /// Hands the session's state to the log; nobody waits for it.
    pub(super) fn save(&mut self) {
        let Some(seated) = &mut self.seated else { return };
        seated.changed_ms = None;
        let (Some(kept), true) = (self.session.kept(), seated.durable) else { return };
        let node = &self.shard.node;
        drop(node.uplink.change(node.sessions.save(&seated.outlet.owner, kept, seated.outlet.progress())));
    }
}
