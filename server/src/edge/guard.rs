//! Is the one at the gate the device it was before, and the only one? Asked after the registry's verdict
//! and before a seat is taken.
//!
//! ```text
//! verdict → Guard::vet (continuity, then takeovers) → seat → verdict again → Guard::token → CONNACK
//! ```
//!
//! What is found here is announced, counted, and acted on as the operator has set ([`super::clones`]). A
//! quarantine is a decision like an operator's, made by the server: it ends every session of the device.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use muster_shared::Code;

use super::{
    clones::{Policy, Response, Takeover, Takeovers},
    continuity::{Continuity, Verdict},
    handshakes::Handshakes,
    roster::{Owner, Roster, ServiceClient},
};
use crate::{
    registry::{Act, Actor, DeviceKey, DeviceName, Facts, Notice, Reason, Registry, RegistryError, Target},
    revocation::Revocation,
};

/// A device at the gate.
#[derive(Debug, Clone, Copy)]
pub struct Newcomer<'a> {
    /// Which one.
    pub device: DeviceKey,
    /// What its certificate calls it.
    pub name: &'a DeviceName,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The user property of its CONNECT; a client of MQTT 3.1.1 has none.
    pub token: Option<&'a str>,
}

/// What the guards of a node have seen since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Sessions that were taken over.
    pub takeovers: u64,
    /// Takeovers that were refused: who sat there stayed.
    pub takeovers_refused: u64,
    /// Devices whose session was taken over too often.
    pub takeovers_suspected: u64,
    /// Continuity tokens that were not the ones expected, whatever was made of them.
    pub continuity_alerts: u64,
    /// Times there were too many of them to act on.
    pub breaker_openings: u64,
    /// Devices the server has quarantined.
    pub quarantined: u64,
    /// Connections turned away because their address had too many.
    pub addresses_busy: u64,
    /// Connections of a balancer without a PROXY protocol header.
    pub headers_missing: u64,
    /// Devices held back for their pace, each once a minute.
    pub slowed: u64,
}

/// What a device's next CONNECT will be held against, beside its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What is done about a continuity token that is not the expected one.
    pub response: Response,
    /// The epoch of the newest token it has confirmed; `None`: it may come without one.
    pub confirmed_epoch: Option<u32>,
    /// Too many devices show old tokens: none is quarantined for one now.
    pub breaker_open: bool,
    /// Its session was taken over too often: who sits there stays until then, Unix milliseconds.
    pub contested_until_ms: Option<u64>,
}

/// A number that grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// [`Seen`], while it is counted.
#[derive(Debug, Default)]
pub struct Tally {
    pub(super) takeovers: Count,
    pub(super) takeovers_refused: Count,
    pub(super) takeovers_suspected: Count,
    pub(super) continuity_alerts: Count,
    pub(super) breaker_openings: Count,
    pub(super) quarantined: Count,
    pub(super) addresses_busy: Count,
    pub(super) headers_missing: Count,
    pub(super) slowed: Count,
    /// How long handshakes took.
    pub handshakes: Handshakes,
}

impl Tally {
    /// As it stands.
    #[must_use]
    pub fn read(&self) -> Seen {
        Seen {
            takeovers: self.takeovers.read(),
            takeovers_refused: self.takeovers_refused.read(),
            takeovers_suspected: self.takeovers_suspected.read(),
            continuity_alerts: self.continuity_alerts.read(),
            breaker_openings: self.breaker_openings.read(),
            quarantined: self.quarantined.read(),
            addresses_busy: self.addresses_busy.read(),
            headers_missing: self.headers_missing.read(),
            slowed: self.slowed.read(),
        }
    }
}

/// The guards of a node, shared by its shards.
pub struct Guard {
    policy: Policy,
    roster: Arc<Roster>,
    facts: Facts,
    revocation: Revocation,
    takeovers: Takeovers,
    continuity: Continuity,
    tally: Arc<Tally>,
}

impl Guard {
    /// Over this node's registry and sessions.
    #[must_use]
    pub fn new(
        registry: &Registry,
        roster: Arc<Roster>,
        revocation: Revocation,
        policy: Policy,
        tally: Arc<Tally>,
    ) -> Self {
        Self {
            policy,
            roster,
            facts: registry.facts(),
            revocation,
            takeovers: Takeovers::new(&policy),
            continuity: Continuity::new(registry.clone(), &policy),
            tally,
        }
    }

    /// May the newcomer take the device's seat? Call it before the seat is taken, on a runtime of tokio's.
    ///
    /// # Errors
    /// The [`Code`] to refuse it with. A decision that follows from what was found is under way then.
    pub fn vet(&self, newcomer: &Newcomer<'_>, now_ms: u64) -> Result<(), Code> {
        let Newcomer { device, name, peer, token } = *newcomer;
        match self.continuity.check(device, name, token, now_ms, &self.tally) {
            Verdict::Accept | Verdict::AcceptResync => {}
            Verdict::Refuse(code) => return Err(code),
            Verdict::Quarantine(code) => {
                self.quarantine(
                    newcomer,
                    format!("another holder of its key: old continuity token from {peer}"),
                );
                return Err(code);
            }
        }
        if self.roster.is_online(device).is_none() {
            return Ok(());
        }
        match self.takeovers.note(device.into(), now_ms) {
            Takeover::Granted => {}
            Takeover::Suspected => self.suspect(newcomer, now_ms)?,
            Takeover::Refused { .. } => {
                self.tally.takeovers_refused.add();
                return Err(Code::SessionContested);
            }
        }
        self.tally.takeovers.add();
        Ok(())
    }

    /// What the device's next CONNECT will be held against by [`Guard::vet`].
    #[must_use]
    pub fn standing(&self, device: DeviceKey, now_ms: u64) -> Standing {
        let (response, confirmed, breaker_open) = self.continuity.standing(device, now_ms);
        let sits = self.roster.is_online(device).is_some();
        let until = || self.takeovers.refused_until_ms(&device.into(), now_ms);
        Standing {
            response,
            confirmed_epoch: confirmed.map(|confirmed| confirmed.epoch),
            breaker_open,
            contested_until_ms: sits.then(until).flatten(),
        }
    }

    /// May another connection of this service's client take over? Services carry no tokens and are nobody's
    /// to quarantine; but two programs with one client id would go on for ever, too.
    ///
    /// # Errors
    /// [`Code::SessionContested`].
    pub fn vet_service(&self, client: &Arc<ServiceClient>, now_ms: u64) -> Result<(), Code> {
        let owner = Owner::Service(Arc::clone(client));
        if self.roster.is_online(owner.clone()).is_none() {
            return Ok(());
        }
        match self.takeovers.note(owner, now_ms) {
            Takeover::Granted => {}
            Takeover::Suspected => {
                self.tally.takeovers_suspected.add();
                tracing::warn!(service = %client.name, client_id = %client.client_id, "clients of a service take over from one another");
            }
            Takeover::Refused { .. } => {
                self.tally.takeovers_refused.add();
                return Err(Code::SessionContested);
            }
        }
        self.tally.takeovers.add();
        Ok(())
    }

    /// The token for CONNACK, and what the newcomer showed is confirmed. Call it when the device has its
    /// seat and is let in, for a client of MQTT 5; `None`: say nothing, and it shows the same again.
    #[must_use]
    pub fn token(&self, newcomer: &Newcomer<'_>, now_ms: u64) -> Option<String> {
        self.continuity.issue(newcomer.device, newcomer.name, newcomer.token, now_ms)
    }

    /// A session was taken over as often as is granted.
    fn suspect(&self, newcomer: &Newcomer<'_>, now_ms: u64) -> Result<(), Code> {
        let Newcomer { device, name, peer, .. } = *newcomer;
        self.tally.takeovers_suspected.add();
        tracing::warn!(device = %name.device_id, tenant = %name.tenant, %peer, "sessions of a device take over from one another");
        match self.policy.takeovers {
            Response::Alert => {
                // On the device's record, where its operator looks; nobody was refused.
                let notice = Notice::CloneSuspected { times: self.policy.takeovers_max };
                self.facts.noticed(device, notice, now_ms, Some(peer));
                Ok(())
            }
            Response::Enforce => {
                let times = self.policy.takeovers_max;
                self.quarantine(
                    newcomer,
                    format!("its session was taken over {times} times, last from {peer}"),
                );
                Err(Code::SessionContested)
            }
        }
    }

    /// Decides on a task of its own: the newcomer is answered meanwhile.
    fn quarantine(&self, newcomer: &Newcomer<'_>, why: String) {
        let (revocation, tally, name) = (self.revocation.clone(), self.tally.clone(), newcomer.name.clone());
        tokio::spawn(async move {
            let target = Target { tenant: Some(name.tenant), serial: name.serial };
            let decided =
                revocation.decide(&Actor::server(), &target, Act::Quarantine, &Reason::new(&why)).await;
            match decided {
                Ok(_) => tally.quarantined.add(),
                // Somebody was first.
                Err(RegistryError::Transition { .. }) => {}
                Err(error) => {
                    tracing::error!(%error, device = %target, "a suspected clone is not quarantined")
                }
            }
        });
    }
}

#[cfg(test)]
mod tests;
