//! A session's subscriptions: what SUBSCRIBE grants, what a message is found by, which retained messages
//! are due.
//!
//! The list is shared with snapshots of the session ([`super::kept::Kept`]) and copied when it changes, so
//! a snapshot costs a count.

use std::sync::Arc;

use muster_shared::{
    Code,
    topic::{self, Bounds, Forbidden},
};

use super::command::{Delivery, Replay, Via};
use crate::edge::{
    mqtt::{
        codec::Reason,
        packet::{Filter, Qos, RetainHandling},
    },
    principal::Principal,
    roster::Protocol,
};

const SHARE: &str = "$share/";
const NO_LOCAL: u8 = 0b100;
const RETAIN_AS_PUBLISHED: u8 = 0b1000;

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// As in SUBSCRIBE, `$share/{group}/` included.
    filter: Box<str>,
    /// Where in `filter` the topic filter of a shared subscription begins; 0 in all others.
    topic_at: u16,
    qos: Qos,
    no_local: bool,
    retain_as_published: bool,
    /// Subscription identifier; 0: none.
    id: u32,
    /// The log's position when it was made: it finds what comes after.
    since: u64,
}

impl Subscription {
    /// As in its SUBSCRIBE.
    #[must_use]
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// The group and the filter of a shared subscription.
    #[must_use]
    pub fn share(&self) -> Option<(&str, &str)> {
        let at = usize::from(self.topic_at);
        (at > 0).then(|| (&self.filter[SHARE.len()..at - 1], &self.filter[at..]))
    }

    /// What topics are held against.
    #[must_use]
    pub fn topic_filter(&self) -> &str {
        &self.filter[usize::from(self.topic_at)..]
    }

    /// The QoS granted.
    #[must_use]
    pub fn qos(&self) -> Qos {
        self.qos
    }

    /// Its subscription identifier.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        (self.id != 0).then_some(self.id)
    }

    /// The log's position when it was made.
    #[must_use]
    pub fn since(&self) -> u64 {
        self.since
    }

    pub(super) fn retain_as_published(&self) -> bool {
        self.retain_as_published
    }

    /// Its options in one octet, as in SUBSCRIBE (MQTT 5.0 §3.8.3.1); retain handling is done with.
    pub(super) fn flags(&self) -> u8 {
        let flag = |set: bool, bit| if set { bit } else { 0 };
        self.qos as u8 | flag(self.no_local, NO_LOCAL) | flag(self.retain_as_published, RETAIN_AS_PUBLISHED)
    }

    /// One that was kept; `None` when it cannot have been.
    pub(super) fn restored(filter: &str, flags: u8, id: u32, since: u64) -> Option<Arc<Self>> {
        let topic_at = topic_at(filter)?;
        topic::check_filter(&filter[topic_at..], Bounds::WIDEST).ok()?;
        let qos = Qos::from_bits(flags & 0b11)?;
        let known = flags & !(0b11 | NO_LOCAL | RETAIN_AS_PUBLISHED) == 0;
        known.then(|| {
            Arc::new(Self {
                filter: filter.into(),
                topic_at: topic_at as u16,
                qos,
                no_local: flags & NO_LOCAL != 0,
                retain_as_published: flags & RETAIN_AS_PUBLISHED != 0,
                id,
                since,
            })
        })
    }

    fn is_fresh(&self, topic: &str, from_self: bool, position: u64) -> bool {
        self.topic_at == 0
            && position > self.since
            && !(from_self && self.no_local) // [MQTT-3.8.3-3]
            && topic::matches(&self.filter, topic)
    }
}

/// Where the topic filter begins: behind `$share/{group}/` (MQTT 5.0 §4.8.2), else at 0. `None`: a group
/// that is empty or has a wildcard [MQTT-4.8.2-1], [MQTT-4.8.2-2], or no filter behind it.
fn topic_at(filter: &str) -> Option<usize> {
    let Some(rest) = filter.strip_prefix(SHARE) else { return Some(0) };
    let (group, inner) = rest.split_once('/')?;
    let fine = !group.is_empty() && !group.contains(['+', '#']) && !inner.is_empty();
    fine.then_some(SHARE.len() + group.len() + 1)
}

/// What became of one filter of a SUBSCRIBE.
pub(super) struct Granted {
    pub(super) reason: Reason,
    pub(super) replay: Option<Replay>,
}

impl Granted {
    /// Our code for it, where it was refused.
    pub(super) fn refusal(&self) -> Option<Code> {
        match self.reason {
            Reason::TOPIC_FILTER_INVALID => Some(Code::FilterMalformed),
            Reason::QUOTA_EXCEEDED => Some(Code::SubscriptionsFull),
            Reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED => Some(Code::SharedForServices),
            Reason(0x80..) => Some(Code::TopicNotIts),
            _ => None,
        }
    }
}

/// All subscriptions of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Subscriptions(Option<Arc<Vec<Arc<Subscription>>>>);

impl Subscriptions {
    pub(super) fn restored(all: Vec<Arc<Subscription>>) -> Self {
        Self((!all.is_empty()).then(|| Arc::new(all)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.0.iter().flat_map(|all| all.iter())
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |all| all.len())
    }

    /// Those by which a message published now is found.
    pub(super) fn fresh(
        &self,
        topic: &str,
        from_self: bool,
        position: u64,
    ) -> impl Iterator<Item = &Arc<Subscription>> {
        self.iter().filter(move |one| one.is_fresh(topic, from_self, position))
    }

    /// Those by which this message is found.
    pub(super) fn find(&self, message: &Delivery<'_>) -> impl Iterator<Item = &Arc<Subscription>> {
        let Delivery { topic, via, from_self, position, .. } = *message;
        self.iter().filter(move |one| match via {
            Via::Filters => one.is_fresh(topic, from_self, position),
            Via::Replay(filter) => *one.filter == *filter && topic::matches(&one.filter, topic),
            Via::Share(share) => {
                one.topic_at > 0 && *one.filter == *share && topic::matches(one.topic_filter(), topic)
            }
        })
    }

    /// One filter of a SUBSCRIBE, made now, at `mark`, as one of `max`. A filter held already is replaced, and
    /// what it finds goes on without a gap [MQTT-3.8.4-3].
    pub(super) fn subscribe(
        &mut self,
        who: &Principal,
        protocol: Protocol,
        asked: &Filter<'_>,
        id: Option<u32>,
        (mark, max): (u64, u16),
    ) -> Granted {
        let refused = |reason| Granted { reason, replay: None };
        let topic_at = match allowed(who, asked.filter) {
            Ok(topic_at) => topic_at,
            Err(reason) => return refused(reason),
        };
        let held = self.iter().position(|one| *one.filter == *asked.filter);
        if held.is_none() && self.len() >= usize::from(max) {
            return refused(Reason::QUOTA_EXCEEDED);
        }
        let since = held.and_then(|at| self.iter().nth(at)).map_or(mark, |one| one.since);
        let one = Arc::new(Subscription {
            filter: asked.filter.into(),
            topic_at: topic_at as u16,
            qos: asked.options.qos,
            no_local: asked.options.no_local,
            retain_as_published: asked.options.retain_as_published,
            id: id.unwrap_or(0),
            since,
        });
        let all = Arc::make_mut(self.0.get_or_insert_default());
        match held {
            Some(at) => all[at] = one,
            None => all.push(one),
        }
        let due = match asked.options.retain_handling {
            RetainHandling::Always => true,
            // 3.1.1 always sends them; its options cannot say otherwise.
            RetainHandling::IfNew => held.is_none() || protocol == Protocol::V3,
            RetainHandling::Never => false,
        };
        // No retained message goes to a new shared subscription (MQTT 5.0 §4.8.2).
        let replay =
            (due && topic_at == 0).then(|| Replay { filter: asked.filter.into(), up_to: mark, after: None });
        Granted { reason: Reason(asked.options.qos as u8), replay }
    }

    /// Was there one with this filter [MQTT-3.10.4-1]?
    pub(super) fn unsubscribe(&mut self, filter: &str) -> bool {
        let Some(at) = self.iter().position(|one| *one.filter == *filter) else { return false };
        if self.len() == 1 {
            self.0 = None;
        } else if let Some(all) = &mut self.0 {
            Arc::make_mut(all).remove(at);
        }
        true
    }
}

/// May the client hold this filter? Where its topic filter begins.
fn allowed(who: &Principal, filter: &str) -> Result<usize, Reason> {
    if filter.starts_with(SHARE) && !who.shares() {
        // CONNACK said that shared subscriptions are not to be had (MQTT 5.0 §3.2.2.3.13).
        return Err(Reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED);
    }
    let topic_at = topic_at(filter).ok_or(Reason::TOPIC_FILTER_INVALID)?;
    match who.may_subscribe(&filter[topic_at..]) {
        Ok(()) => Ok(topic_at),
        Err(Forbidden::Malformed(_)) => Err(Reason::TOPIC_FILTER_INVALID),
        Err(_) => Err(Reason::NOT_AUTHORIZED),
    }
}
