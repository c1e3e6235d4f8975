//! A service's part in shared subscriptions (MQTT 5.0 §4.8.2): messages that come to one member of a group.

use std::{
    collections::BTreeSet,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    Connection,
    outlet::{SHARED, WHICH_MASK, of_log, which},
};
use crate::{
    edge::{
        feed::{GroupKey, Groups, Membership},
        mqtt::session::{Kept, Output, Subscription, Via},
        roster::ServiceClient,
    },
    uplink::{Position, StoredMessage},
};

/// The shared subscriptions of a session.
#[derive(Default)]
pub(super) struct Shares(Vec<Share>);

struct Share {
    /// As in SUBSCRIBE.
    filter: Box<str>,
    membership: Membership,
}

impl Shares {
    /// Takes part in what the session is subscribed to now, and in nothing else.
    pub(super) fn follow<'a>(
        &mut self,
        groups: &Arc<Groups>,
        client: &ServiceClient,
        subscriptions: impl Iterator<Item = &'a Subscription>,
    ) {
        let shared: Vec<_> = subscriptions.filter(|one| one.share().is_some()).collect();
        self.0.retain(|held| shared.iter().any(|one| one.filter() == &*held.filter));
        for one in shared {
            if self.0.iter().all(|held| &*held.filter != one.filter())
                && let Some(key) = key(client, one)
            {
                let membership = groups.join(&key, &client.client_id, Position(one.since()));
                self.0.push(Share { filter: one.filter().into(), membership });
            }
        }
    }

    /// It is acknowledged, or given up.
    pub(super) fn done(&self, token: u64) {
        if let Some(share) = self.0.iter().find(|share| which(&share.filter) == token & WHICH_MASK) {
            share.membership.done(at(token));
        }
    }

    /// The connection ends; `kept`: the session goes on, with what it keeps to deliver itself.
    pub(super) fn leave(self, kept: Option<&Kept>) {
        for share in self.0 {
            let own = |token: &u64| token & SHARED != 0 && token & WHICH_MASK == which(&share.filter);
            let kept_here: BTreeSet<_> =
                kept.into_iter().flat_map(Kept::inflight).filter(own).map(at).collect();
            share.membership.leave(&kept_here, kept.is_some());
        }
    }
}

/// Which group a shared subscription of this client belongs to.
pub(in crate::edge) fn key(client: &ServiceClient, subscription: &Subscription) -> Option<GroupKey> {
    let (group, filter) = subscription.share()?;
    Some(GroupKey { service: Arc::clone(&client.name), group: group.into(), filter: filter.into() })
}

/// The position in the token of a message that came by a shared subscription.
pub(super) fn at(token: u64) -> Position {
    Position(token & !(SHARED | WHICH_MASK))
}

impl Connection {
    /// What the groups have for this member, one message of each in turn. One without room takes part in none:
    /// what it was given while it waited is for another.
    pub(super) fn share(&mut self, out: &mut Output, cx: &mut Context<'_>) {
        self.take_shares(out, cx);
        if !self.takes_more(out)
            && let Some(seated) = &self.seated
        {
            seated.outlet.shares.0.iter().for_each(|share| share.membership.pause());
        }
    }

    fn take_shares(&mut self, out: &mut Output, cx: &mut Context<'_>) {
        let mut idle = 0;
        let mut turn = 0;
        while self.takes_more(out) {
            let Some(seated) = &self.seated else { return };
            let shares = &seated.outlet.shares.0;
            if idle >= shares.len() {
                return;
            }
            let share = &shares[turn % shares.len()];
            turn += 1;
            let entry = match share.membership.poll_next(cx) {
                Poll::Ready(Ok(entry)) => entry,
                Poll::Ready(Err(error)) => return self.unreadable(&error, out),
                Poll::Pending => {
                    idle += 1;
                    continue;
                }
            };
            idle = 0;
            let (filter, at) = (share.filter.clone(), entry.position);
            self.hand_over_shared(SHARED | which(&filter) | at.0, &filter, &entry, out);
        }
    }

    /// A message that a session that goes on had in flight.
    pub(super) fn share_again(&mut self, token: u64, message: &StoredMessage, out: &mut Output) {
        let Some(seated) = &self.seated else { return };
        let share = seated.outlet.shares.0.iter().find(|share| which(&share.filter) == token & WHICH_MASK);
        if let Some(filter) = share.map(|share| share.filter.clone()) {
            self.hand_over_shared(token, &filter, message, out);
        }
    }

    fn hand_over_shared(&mut self, token: u64, filter: &str, message: &StoredMessage, out: &mut Output) {
        let sent = of_log(at(token), message, Via::Share(filter), false)
            .is_some_and(|delivery| matches!(self.session.deliver(token, &delivery, out), Ok(None)));
        let Some(seated) = &self.seated else { return };
        if sent {
            seated.seat.count_sent();
        } else {
            // Sent at QoS 0, or not to be had by this client: nobody else is to have it either.
            seated.outlet.shares.done(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_where_and_by_which_subscription() {
        let token = SHARED | which("$share/g/a/#") | 12_345_678_901;
        assert_eq!(at(token), Position(12_345_678_901));
        assert_eq!(token & WHICH_MASK, which("$share/g/a/#"));
        assert_ne!(which("$share/g/a/#"), which("$share/h/a/#"));
    }
}
