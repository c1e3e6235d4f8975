//! Shared subscriptions of services: `$share/{group}/{filter}` (MQTT 5.0 §4.8.2).
//!
//! The sessions of one service that subscribe to the same group and filter are members of one group. A group
//! has one cursor into the log, and its members take turns: each message goes to one of them. What a member
//! has not acknowledged when it leaves goes to another, except what its session keeps to deliver itself
//! (QoS 2 must [MQTT-4.8.2-4]).
//!
//! A member takes part when it asks ([`Membership::poll_next`]), until it has no room ([`Membership::pause`]):
//! what it was given meanwhile goes to another.
//!
//! # Invariants
//!
//! - A message is with one member at a time, or with none and waiting.
//! - The cursor that is saved ([`Groups::changes`]) stands before every message that is not done with: a server that starts
//!   again from it repeats a little and skips nothing.
//! - While a session keeps its membership the group stays, with or without a live member.

mod saved;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    task::{Context, Poll, Wake, Waker},
};

use muster_shared::topic;
use parking_lot::Mutex;

use super::{Entry, Feed, FeedError, Tail};
use crate::uplink::Position;

/// Which group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    /// The service's name.
    pub service: Arc<str>,
    /// The share name.
    pub group: Arc<str>,
    /// The filter behind it.
    pub filter: Arc<str>,
}

/// Every group of the node.
pub struct Groups {
    tail: Arc<Tail>,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    groups: BTreeMap<GroupKey, Arc<Group>>,
    /// Cursors as they are saved.
    told: BTreeMap<GroupKey, Position>,
}

struct Group {
    key: GroupKey,
    state: Mutex<State>,
    /// Who is to be woken, by membership. A lock of its own: the feed wakes while the state is held.
    wakers: Mutex<BTreeMap<u64, Waker>>,
}

struct State {
    feed: Feed,
    /// What members have given back, oldest first.
    returned: BTreeMap<Position, Entry>,
    /// By client id.
    members: BTreeMap<Arc<str>, Member>,
    /// Counts memberships and turns.
    count: u64,
}

struct Member {
    /// The membership that is connected; `None` while the session is away.
    live: Option<u64>,
    /// It asked, and has got nothing since.
    waiting: bool,
    /// Given to it while it waited.
    inbox: Option<Position>,
    /// With it, and not done with.
    out: BTreeMap<Position, Entry>,
    /// Its last turn.
    turn: u64,
}

/// A session's part in a group. Dropped, it leaves with nothing kept.
pub struct Membership {
    groups: Arc<Groups>,
    group: Arc<Group>,
    client_id: Arc<str>,
    number: u64,
}

impl Groups {
    /// None yet.
    #[must_use]
    pub fn new(tail: Arc<Tail>) -> Arc<Self> {
        Arc::new(Self { tail, all: Mutex::default() })
    }

    /// A session joins, or comes back to a membership it kept. A new group begins after `from`; one that is
    /// there goes on where it is.
    #[must_use]
    pub fn join(self: &Arc<Self>, key: &GroupKey, client_id: &str, from: Position) -> Membership {
        let client_id: Arc<str> = client_id.into();
        let mut all = self.all.lock();
        let group = Arc::clone(self.group(&mut all, key, from));
        let mut state = group.state.lock();
        let number = state.next();
        let member = state.members.entry(Arc::clone(&client_id)).or_insert_with(Member::away);
        // A takeover: what the connection before had is given back.
        let left = std::mem::take(&mut member.out);
        *member = Member { live: Some(number), turn: member.turn, ..Member::away() };
        state.returned.extend(left);
        drop(state);
        drop(all);
        group.wake_all();
        Membership { groups: Arc::clone(self), group, client_id, number }
    }

    /// A session of this service has ended for good while it was away: it is no member any more.
    pub fn end(&self, service: &str, client_id: &str) {
        let mut all = self.all.lock();
        all.groups.retain(|key, group| {
            let mut state = group.state.lock();
            if &*key.service == service && state.members.get(client_id).is_some_and(|of| of.live.is_none()) {
                state.members.remove(client_id);
            }
            !state.members.is_empty()
        });
    }

    /// The cursors that have moved since this was last asked; `None`: the group has ended.
    #[must_use]
    fn moved(&self) -> Vec<(GroupKey, Option<Position>)> {
        let mut all = self.all.lock();
        let All { groups, told } = &mut *all;
        let mut moved = Vec::new();
        told.retain(|key, _| {
            let stays = groups.contains_key(key);
            if !stays {
                moved.push((key.clone(), None));
            }
            stays
        });
        for (key, group) in groups {
            let at = group.state.lock().cursor();
            if told.insert(key.clone(), at) != Some(at) {
                moved.push((key.clone(), Some(at)));
            }
        }
        moved
    }

    fn group<'a>(&self, all: &'a mut All, key: &GroupKey, from: Position) -> &'a Arc<Group> {
        all.groups.entry(key.clone()).or_insert_with(|| {
            let (feed, returned, members) = (self.tail.feed(from), BTreeMap::new(), BTreeMap::new());
            let state = Mutex::new(State { feed, returned, members, count: 0 });
            Arc::new(Group { key: key.clone(), state, wakers: Mutex::default() })
        })
    }
}

impl Membership {
    /// The next message for this member. It is with the member until [`Membership::done`].
    ///
    /// # Errors
    /// [`FeedError`]; it may be polled again.
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Result<Entry, FeedError>> {
        self.group.wakers.lock().insert(self.number, cx.waker().clone());
        let mut state = self.group.state.lock();
        let Some(member) = state.own(&self.client_id, self.number) else { return Poll::Pending };
        if let Some(entry) = member.inbox.take().and_then(|at| member.out.get(&at).cloned()) {
            return Poll::Ready(Ok(entry));
        }
        member.waiting = true;
        let waker = Waker::from(Arc::new(GroupWaker(Arc::downgrade(&self.group))));
        let mut of_group = Context::from_waker(&waker);
        loop {
            let entry = match state.poll_next(&self.group.key.filter, &mut of_group) {
                Poll::Ready(Ok(entry)) => entry,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            if state.give(&entry, self.number, &self.group.wakers) {
                return Poll::Ready(Ok(entry));
            }
        }
    }

    /// The member takes nothing until it asks again: what it was given while it waited, and has not been told
    /// of, is for whoever waits.
    pub fn pause(&self) {
        let mut state = self.group.state.lock();
        let Some(member) = state.own(&self.client_id, self.number) else { return };
        member.waiting = false;
        let Some(at) = member.inbox.take() else { return };
        let entry = member.out.remove(&at);
        state.returned.extend(entry.map(|entry| (at, entry)));
        drop(state);
        self.group.wake_all();
    }

    /// It is acknowledged, or its session keeps it: nobody else gets it.
    pub fn done(&self, position: Position) {
        if let Some(member) = self.group.state.lock().own(&self.client_id, self.number) {
            member.out.remove(&position);
        }
    }

    /// The session leaves the group. `kept`: what was sent to it and it goes on delivering itself; the rest
    /// of what it had goes to others. `stays`: the session goes on without a connection, and so does its
    /// membership.
    pub fn leave(self, kept: &BTreeSet<Position>, stays: bool) {
        self.part(kept, stays);
    }

    fn part(&self, kept: &BTreeSet<Position>, stays: bool) {
        self.group.wakers.lock().remove(&self.number);
        let mut all = self.groups.all.lock();
        let mut state = self.group.state.lock();
        let Some(member) = state.own(&self.client_id, self.number) else { return };
        let mut left = std::mem::take(&mut member.out);
        left.retain(|position, _| !kept.contains(position));
        if stays {
            *member = Member { turn: member.turn, ..Member::away() };
        } else {
            state.members.remove(&self.client_id);
        }
        state.returned.extend(left);
        if state.members.is_empty() {
            all.groups.remove(&self.group.key);
        }
        drop(state);
        drop(all);
        // What came back is for whoever waits.
        self.group.wake_all();
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // Nothing is left to part with after [`Membership::leave`].
        self.part(&BTreeSet::new(), false);
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// The member, as long as this membership is the live one.
    fn own(&mut self, client_id: &str, number: u64) -> Option<&mut Member> {
        self.members.get_mut(client_id).filter(|member| member.live == Some(number))
    }

    /// The next message of the group: what was given back first.
    fn poll_next(&mut self, filter: &str, cx: &mut Context<'_>) -> Poll<Result<Entry, FeedError>> {
        if let Some((_, entry)) = self.returned.pop_first() {
            return Poll::Ready(Ok(entry));
        }
        self.feed.poll_wanted(cx, |_, message| {
            std::str::from_utf8(&message.topic).is_ok_and(|topic| topic::matches(filter, topic))
        })
    }

    /// Gives it to the member whose turn it is among those that wait; `true`: that is membership `asking`.
    /// Another one is woken and finds it in its inbox.
    fn give(&mut self, entry: &Entry, asking: u64, wakers: &Mutex<BTreeMap<u64, Waker>>) -> bool {
        let turn = self.next();
        let waiting = self.members.values_mut().filter(|member| member.waiting);
        let Some(member) = waiting.min_by_key(|member| member.turn) else { return false };
        member.turn = turn;
        member.waiting = false;
        member.out.insert(entry.position, entry.clone());
        if member.live == Some(asking) {
            return true;
        }
        member.inbox = Some(entry.position);
        let waker = member.live.and_then(|number| wakers.lock().remove(&number));
        if let Some(waker) = waker {
            waker.wake();
        }
        false
    }

    /// Everything up to there is done with.
    fn cursor(&self) -> Position {
        let out = self.members.values().filter_map(|member| member.out.keys().next());
        let oldest = out.chain(self.returned.keys().next()).min();
        oldest.map_or(self.feed.position(), |oldest| Position(oldest.0 - 1))
    }
}

impl Member {
    fn away() -> Self {
        Self { live: None, waiting: false, inbox: None, out: BTreeMap::new(), turn: 0 }
    }
}

impl Group {
    fn wake_all(&self) {
        let wakers = std::mem::take(&mut *self.wakers.lock());
        wakers.into_values().for_each(Waker::wake);
    }
}

/// Wakes whoever waits: the feed has something, and who gets it is decided when they ask.
struct GroupWaker(Weak<Group>);

impl Wake for GroupWaker {
    fn wake(self: Arc<Self>) {
        if let Some(group) = self.0.upgrade() {
            group.wake_all();
        }
    }
}
