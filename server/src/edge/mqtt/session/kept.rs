//! What of a session goes on without a connection, and its form on disk.
//!
//! ```text
//! version (1 octet: 1 or 2) ‖ postcard: expiry_s, last_id,
//!     [filter, options, identifier, since], [packet id, QoS, token], [packet id, token], [packet id]
//! version 2: ‖ postcard: [place of its subscription in the first list, up to, after]
//! ```
//!
//! The lists are: subscriptions; PUBLISHes sent and not answered, oldest first; PUBLISHes received by the
//! client and to be released, in the order of their PUBRECs; QoS 2 PUBLISHes received from the client and
//! not released by it; subscriptions whose retained messages were not all sent. Version 2 is written where
//! that last list is not empty, so what needs no later release can be read by an earlier one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    command::Replay,
    subscriptions::{Subscription, Subscriptions},
};
use crate::edge::mqtt::packet::Qos;

/// The latest form. Older ones stay readable.
const VERSION: u8 = 2;

/// The state of a session, as MQTT 5.0 §4.1 has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// How long the session goes on without a connection, seconds; `u32::MAX`: for ever.
    pub expiry_s: u32,
    /// The packet identifier given out last.
    pub(super) last_id: u16,
    pub(super) subscriptions: Subscriptions,
    pub(super) inflight: Vec<Sent>,
    pub(super) released: Vec<Released>,
    pub(super) unreleased: Vec<u16>,
    pub(super) replays: Vec<Replay>,
}

/// A PUBLISH to the client that it has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) id: u16,
    pub(super) qos: Qos,
    pub(super) token: u64,
}

/// A QoS 2 message the client has, whose PUBCOMP is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Released {
    pub(super) id: u16,
    pub(super) token: u64,
}

/// Why octets are no session's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeptError {
    /// Written by a later release.
    #[error("session state has version {0}, this release reads up to {VERSION}")]
    Version(u8),
    /// Not what this code writes.
    #[error("session state is malformed")]
    Malformed,
}

/// Version 1 on disk. The writer and the reader of every field.
#[derive(Serialize, Deserialize)]
struct V1<'a> {
    expiry_s: u32,
    last_id: u16,
    #[serde(borrow)]
    subscriptions: Vec<(&'a str, u8, u32, u64)>,
    inflight: Vec<(u16, u8, u64)>,
    released: Vec<(u16, u64)>,
    unreleased: Vec<u16>,
}

/// What version 2 has behind it.
type V2<'a> = Vec<(u16, u64, Option<&'a str>)>;

impl Kept {
    /// Its form on disk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let v1 = V1 {
            expiry_s: self.expiry_s,
            last_id: self.last_id,
            subscriptions: self
                .subscriptions
                .iter()
                .map(|one| (one.filter(), one.flags(), one.id().unwrap_or(0), one.since()))
                .collect(),
            inflight: self.inflight.iter().map(|one| (one.id, one.qos as u8, one.token)).collect(),
            released: self.released.iter().map(|one| (one.id, one.token)).collect(),
            unreleased: self.unreleased.clone(),
        };
        let takes_all = "a Vec takes whatever is written to it";
        if self.replays.is_empty() {
            return postcard::to_extend(&v1, vec![1]).expect(takes_all);
        }
        let v1 = postcard::to_extend(&v1, vec![2]).expect(takes_all);
        postcard::to_extend(&self.replays_v2(), v1).expect(takes_all)
    }

    fn replays_v2(&self) -> V2<'_> {
        let place = |filter: &str| self.subscriptions.iter().position(|one| one.filter() == filter);
        let all = self.replays.iter().filter_map(|one| {
            // A session has a few hundred subscriptions at most.
            Some((u16::try_from(place(&one.filter)?).ok()?, one.up_to, one.after.as_deref()))
        });
        all.collect()
    }

    /// Reads its form on disk.
    ///
    /// # Errors
    /// [`KeptError`]; nothing half-read is returned.
    pub fn decode(octets: &[u8]) -> Result<Self, KeptError> {
        let malformed = |_| KeptError::Malformed;
        let (version, rest) = match octets.split_first() {
            Some((&version @ 1..=VERSION, rest)) => (version, rest),
            Some((&version, _)) if version > VERSION => return Err(KeptError::Version(version)),
            _ => return Err(KeptError::Malformed),
        };
        let (v1, rest) = postcard::take_from_bytes::<V1<'_>>(rest).map_err(malformed)?;
        let (v2, rest) = match version {
            1 => (V2::new(), rest),
            _ => postcard::take_from_bytes::<V2<'_>>(rest).map_err(malformed)?,
        };
        if !rest.is_empty() {
            return Err(KeptError::Malformed);
        }
        Self::of(v1, v2).ok_or(KeptError::Malformed)
    }

    fn of(v1: V1<'_>, v2: V2<'_>) -> Option<Self> {
        let subscriptions: Option<Vec<_>> = v1
            .subscriptions
            .into_iter()
            .map(|(filter, flags, id, since)| Subscription::restored(filter, flags, id, since))
            .collect();
        let inflight: Option<Vec<_>> = v1
            .inflight
            .into_iter()
            .map(|(id, qos, token)| {
                let qos = Qos::from_bits(qos).filter(|qos| *qos != Qos::AtMostOnce)?;
                Some(Sent { id, qos, token })
            })
            .collect();
        let subscriptions = Subscriptions::restored(subscriptions?);
        let replays: Option<Vec<_>> = v2
            .into_iter()
            .map(|(place, up_to, after)| {
                let of = subscriptions.iter().nth(usize::from(place))?;
                // Nothing that is retained goes to a shared one.
                let filter = of.share().is_none().then(|| of.filter().into())?;
                Some(Replay { filter, up_to, after: after.map(Into::into) })
            })
            .collect();
        let kept = Self {
            expiry_s: v1.expiry_s,
            last_id: v1.last_id,
            subscriptions,
            inflight: inflight?,
            released: v1.released.into_iter().map(|(id, token)| Released { id, token }).collect(),
            unreleased: v1.unreleased,
            replays: replays?,
        };
        let ours = kept.inflight.iter().map(|one| one.id).chain(kept.released.iter().map(|one| one.id));
        (distinct(ours) && distinct(kept.unreleased.iter().copied())).then_some(kept)
    }

    /// Tokens of the messages in flight, in the order they were sent: to be delivered again, in this order,
    /// when the session goes on. A queue must hold on to them.
    pub fn inflight(&self) -> impl Iterator<Item = u64> {
        self.inflight.iter().map(|one| one.token)
    }

    /// Tokens of messages the client has: a queue may give them up.
    pub fn received(&self) -> impl Iterator<Item = u64> {
        self.released.iter().map(|one| one.token)
    }

    /// What the client is subscribed to.
    pub fn subscriptions(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.subscriptions.iter()
    }

    /// The QoS granted to a fresh message on `topic`, which the client published itself if `from_self`;
    /// `None`: no subscription of its own matches. Shared ones are not asked.
    #[must_use]
    pub fn wants(&self, topic: &str, from_self: bool) -> Option<Qos> {
        self.subscriptions.fresh(topic, from_self, u64::MAX).map(|one| one.qos()).max()
    }
}

/// No packet identifier is 0 and none is there twice.
fn distinct(ids: impl Iterator<Item = u16>) -> bool {
    let mut ids: Vec<u16> = ids.collect();
    ids.sort_unstable();
    ids.first() != Some(&0) && ids.windows(2).all(|two| two[0] != two[1])
}
