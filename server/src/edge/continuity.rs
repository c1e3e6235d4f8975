//! Continuity tokens: what tells a device from its copy.
//!
//! A device that speaks MQTT 5 finds a token in CONNACK, keeps it, and shows it in its next CONNECT, where
//! it is given another (user property `muster-continuity`). Whoever copies a device copies its key and its token;
//! but only one of the two can be ahead: the other shows a token that was given out before one that has
//! been shown since.
//!
//! | the device shows | what it means | what follows |
//! |---|---|---|
//! | the token it confirmed last, or the one it was given last | the same device | accept |
//! | nothing, and it never confirmed one | a client that does not carry tokens | accept |
//! | a newer one than is known | this registry lost its newest facts | accept, go on from it, alert |
//! | an older one, of an earlier epoch, and it has confirmed none of this one | the registry was restored | accept, go on from it, alert |
//! | any other that is older | there are two of it | quarantine |
//! | nothing, or one of a key that was lost, where it confirmed one | a copy without the token, or an erased store | refuse |
//! | one this server's key did not make for it | forged or damaged | refuse |
//!
//! Nothing is kept of a device until it confirms its first token, so clients that do not carry them cost
//! nothing. A release from quarantine begins anew.

pub(super) mod token;

use aws_lc_rs::rand;
use muster_shared::Code;

use self::token::Presented;
use super::{
    clones::{Breaker, Broken, Policy, Response},
    guard::Tally,
};
use crate::registry::{
    DeviceKey, DeviceName, Facts, Registry,
    continuity::{Issued, Kept},
};

/// What a token says of the one who shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// The same device as before, as far as anybody can tell.
    Right,
    /// Newer than what is known here.
    Ahead,
    /// From before a restore, and nothing later is known.
    Restored,
    /// Given out before one that was shown since.
    Older,
    /// None, where one was confirmed.
    Missing,
    /// None of this server's.
    Forged,
}

/// Whether the one who shows a token may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Accept,
    /// Yes, and what is known of it begins again with what it shows. It was announced.
    AcceptResync,
    /// No, and there are two of it.
    Quarantine(Code),
    /// No.
    Refuse(Code),
}

/// The table at the head of this file. `epoch` is the registry's.
pub(super) fn judge(epoch: u32, kept: Option<&Kept>, presented: Presented) -> Sign {
    let (kept, shown) = match (kept, presented) {
        (_, Presented::Forged) => return Sign::Forged,
        (None, _) => return Sign::Right,
        (Some(_), Presented::Nothing | Presented::Foreign) => return Sign::Missing,
        (Some(kept), Presented::Authentic(shown)) => (kept, shown),
    };
    let place = |of: Issued| (of.epoch, of.counter);
    let newest = kept.pending.unwrap_or(kept.confirmed);
    if shown == kept.confirmed || shown == newest {
        Sign::Right
    } else if place(shown) > place(newest) {
        Sign::Ahead
    } else if shown.epoch < epoch && kept.confirmed.epoch < epoch {
        Sign::Restored
    } else {
        Sign::Older
    }
}

/// What is known after a device that showed `shown` was let in and given a token: `None` while it has
/// confirmed none. And that token.
pub(super) fn follow(
    kept: Option<Kept>,
    shown: Option<Issued>,
    epoch: u32,
    now_ms: u64,
    nonce: [u8; 8],
) -> (Option<Kept>, Issued) {
    let known = kept.map_or(0, |kept| kept.pending.unwrap_or(kept.confirmed).counter);
    let newest = known.max(shown.map_or(0, |shown| shown.counter));
    // The clock keeps it ahead of tokens that were given out and forgotten in a crash.
    let next = Issued { epoch, counter: newest.saturating_add(1).max(now_ms), nonce };
    let confirmed = shown.or(kept.map(|kept| kept.confirmed));
    (confirmed.map(|confirmed| Kept { confirmed, pending: Some(next) }), next)
}

/// Checks tokens and makes them.
pub(super) struct Continuity {
    registry: Registry,
    facts: Facts,
    response: Response,
    breaker: Breaker,
}

impl Continuity {
    pub(super) fn new(registry: Registry, policy: &Policy) -> Self {
        let facts = registry.facts();
        Self { registry, facts, response: policy.continuity, breaker: Breaker::new(policy) }
    }

    /// May this device come in with what it shows? Before anybody's session is taken over for it.
    pub(super) fn check(
        &self,
        device: DeviceKey,
        name: &DeviceName,
        presented: Option<&str>,
        now_ms: u64,
        tally: &Tally,
    ) -> Verdict {
        let known = self.registry.continuity();
        let shown = token::open(&known.key, name, presented);
        let sign = judge(known.epoch(), known.kept(device).as_ref(), shown);
        let announce = |verdict| {
            tally.continuity_alerts.add();
            // A refusal is on the record already, folded; a line of the log for each would be a disk write for
            // each attempt of a clone that hammers.
            if matches!(verdict, Verdict::Refuse(_)) {
                tracing::debug!(device = %name.device_id, tenant = %name.tenant, ?sign, ?verdict, "continuity of a device");
            } else {
                tracing::warn!(device = %name.device_id, tenant = %name.tenant, ?sign, ?verdict, "continuity of a device");
            }
            verdict
        };
        match (sign, self.response) {
            (Sign::Right, _) => Verdict::Accept,
            (Sign::Ahead | Sign::Restored, _) | (Sign::Older, Response::Alert) => {
                announce(Verdict::AcceptResync)
            }
            (Sign::Missing | Sign::Forged, Response::Alert) => announce(Verdict::Accept),
            (Sign::Missing, Response::Enforce) => announce(Verdict::Refuse(Code::ContinuityMissing)),
            (Sign::Forged, Response::Enforce) => announce(Verdict::Refuse(Code::ContinuityForged)),
            (Sign::Older, Response::Enforce) => match self.breaker.note(now_ms) {
                Broken::No => announce(Verdict::Quarantine(Code::ContinuityOlder)),
                Broken::Now => {
                    tally.breaker_openings.add();
                    tracing::error!(
                        "too many devices show old continuity tokens: none is quarantined for it until there \
                         are fewer; was the registry restored from a copy?"
                    );
                    announce(Verdict::AcceptResync)
                }
                Broken::Still => announce(Verdict::AcceptResync),
            },
        }
    }

    /// What is known before it shows anything: whether a token is held against it, whether it confirmed one,
    /// and whether an old one would be quarantined for.
    pub(super) fn standing(&self, device: DeviceKey, now_ms: u64) -> (Response, Option<Issued>, bool) {
        let kept = self.registry.continuity().kept(device);
        (self.response, kept.map(|kept| kept.confirmed), self.breaker.is_open(now_ms))
    }

    /// The token for CONNACK, once the device is let in: what it showed is confirmed, and this one comes
    /// next. `None` when the system gives no random octets: then it shows the same again.
    pub(super) fn issue(
        &self,
        device: DeviceKey,
        name: &DeviceName,
        presented: Option<&str>,
        now_ms: u64,
    ) -> Option<String> {
        let known = self.registry.continuity();
        let shown = match token::open(&known.key, name, presented) {
            Presented::Authentic(shown) => Some(shown),
            Presented::Nothing | Presented::Foreign | Presented::Forged => None,
        };
        let mut nonce = [0; 8];
        rand::fill(&mut nonce).ok()?;
        known.meet_epoch(shown.map_or(0, |shown| shown.epoch));
        let mut next = None;
        known.change(device, |kept| {
            let (kept, token) = follow(kept, shown, known.epoch(), now_ms, nonce);
            next = Some((kept.is_some(), token));
            kept
        });
        let (keeps, next) = next?;
        if keeps {
            self.facts.continuity_changed(device);
        }
        Some(token::seal(&known.key, name, next))
    }
}

#[cfg(test)]
mod tests;
