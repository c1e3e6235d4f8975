//! Feeds over a real log and a bus that is whole, leaky, dead or started anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    sync::atomic::{AtomicU64, Ordering},
    task::Waker,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::mpsc, time::timeout};

use super::*;
use crate::{
    bus::{Bus, Rumqttd, Subscription, subscription},
    registry::testing::Fleet,
    uplink::{Change, Fresh, Outcome, Reader, SavedSession, Writer, testing::telemetry},
};

/// Long enough for the slowest machine; what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A log with its writer, and a tail over whatever bus.
struct Log {
    fleet: Fleet,
    writer: Writer,
    reader: Reader,
    tail: Arc<Tail>,
    stored: AtomicU64,
}

impl Log {
    async fn over(bus: Arc<dyn Bus>) -> Self {
        let fleet = Fleet::with(1).await;
        Self::of(fleet, bus, 0).await
    }

    async fn of(fleet: Fleet, bus: Arc<dyn Bus>, stored: u64) -> Self {
        let heard = Arc::clone(&bus);
        let tail = Box::new(move |fresh| heard.publish(fresh));
        let writer = Writer::open(fleet.dir.path(), fleet.registry.verdicts(), Arc::new(()), tail);
        let writer = writer.await.unwrap();
        let reader = Reader::open(fleet.dir.path()).await.unwrap();
        let tail = Tail::start(&*bus, reader.clone());
        Self { fleet, writer, reader, tail, stored: stored.into() }
    }

    /// Stores `count` messages; returns when they are on disk.
    async fn append(&self, count: u64) {
        let next = || self.stored.fetch_add(1, Ordering::Relaxed);
        let message = || telemetry(&self.fleet.devices[0], next(), 1.0);
        let tickets: Vec<_> = (0..count).map(|_| self.writer.append(message())).collect();
        for ticket in tickets {
            assert!(matches!(ticket.await, Outcome::Stored(_)));
        }
    }

    async fn close(self) -> (Fleet, u64) {
        self.tail.stop().await;
        self.writer.close().await;
        self.reader.close().await;
        (self.fleet, self.stored.into_inner())
    }
}

async fn next(feed: &mut Feed) -> Result<Entry, FeedError> {
    timeout(PATIENCE, poll_fn(|cx| feed.poll_next(cx))).await.expect("in time")
}

/// Reads `positions`, each of which has to come next.
async fn reads(feed: &mut Feed, positions: std::ops::RangeInclusive<u64>) {
    for position in positions {
        let entry = next(feed).await.unwrap();
        assert_eq!(entry.position, Position(position));
        assert_eq!(entry.name.map(|(_, seq)| seq + 1), Some(position), "the message that stands there");
    }
    assert!(feed.poll_next(&mut Context::from_waker(Waker::noop())).is_pending());
}

/// A bus that loses commits: the first `pass` of every `of` arrive.
struct Leaky {
    readers: Mutex<Vec<mpsc::Sender<Fresh>>>,
    pass: u64,
    of: u64,
    count: AtomicU64,
}

impl Leaky {
    fn new(pass: u64, of: u64) -> Arc<Self> {
        Arc::new(Self { readers: Mutex::default(), pass, of, count: AtomicU64::new(0) })
    }
}

impl Bus for Leaky {
    fn publish(&self, fresh: Fresh) {
        if self.count.fetch_add(1, Ordering::Relaxed) % self.of < self.pass {
            self.readers.lock().retain(|reader| reader.try_send(fresh.clone()).is_ok());
        }
    }

    fn subscribe(&self) -> Subscription {
        let (sender, subscription) = subscription();
        self.readers.lock().push(sender);
        subscription
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn restarts(&self) -> u64 {
        0
    }

    fn dropped(&self) -> u64 {
        let published = self.count.load(Ordering::Relaxed);
        published - (0..published).filter(|n| n % self.of < self.pass).count() as u64
    }
}

#[tokio::test]
async fn what_was_stored_before_comes_from_the_log_and_what_comes_after_from_memory() {
    let bus = Rumqttd::start().unwrap();
    let log = Log::over(bus.clone()).await;
    log.append(40).await;
    let mut feed = log.tail.feed(Position(0));
    let mut later = log.tail.feed(Position(25));
    reads(&mut feed, 1..=40).await;
    for round in 1..=10 {
        log.append(3).await;
        reads(&mut feed, 38 + 3 * round..=40 + 3 * round).await;
    }
    reads(&mut later, 26..=70).await;
    assert_eq!((feed.position(), later.position()), (Position(70), Position(70)));
    log.close().await;
    bus.stop().await;
}

#[tokio::test]
async fn what_the_bus_loses_is_read_from_the_log() {
    for (pass, of) in [(2, 3), (1, 7), (0, 1)] {
        let log = Log::over(Leaky::new(pass, of)).await;
        let mut feed = log.tail.feed(Position(0));
        for round in 0..8 {
            log.append(5).await;
            reads(&mut feed, 5 * round + 1..=5 * round + 5).await;
        }
        log.close().await;
    }
}

#[tokio::test]
async fn a_router_that_dies_costs_no_message() {
    let bus = Rumqttd::start().unwrap();
    let log = Log::over(bus.clone()).await;
    let mut feed = log.tail.feed(Position(0));
    log.append(10).await;
    reads(&mut feed, 1..=10).await;
    for death in 1..=2 {
        bus.kill_router();
        let from = 30 * death - 19;
        log.append(20).await;
        reads(&mut feed, from..=from + 19).await;
        let restarted = async {
            while bus.restarts() < death || !bus.is_ready() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, restarted).await.expect("it is started again");
        log.append(10).await;
        reads(&mut feed, from + 20..=from + 29).await;
    }
    log.close().await;
    bus.stop().await;
}

#[tokio::test]
async fn a_node_whose_router_is_dead_says_it_is_not_ready() {
    let bus = Rumqttd::start().unwrap();
    let log = Log::over(bus.clone()).await;
    assert!(bus.is_ready());
    bus.kill_router();
    let unready = async {
        while bus.is_ready() {
            log.append(1).await;
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, unready).await.expect("its death is seen");
    log.close().await;
    bus.stop().await;
}

#[tokio::test]
async fn after_a_restart_a_feed_goes_on_at_its_position() {
    let log = Log::over(Leaky::new(1, 1)).await;
    let mut feed = log.tail.feed(Position(0));
    log.append(30).await;
    reads(&mut feed, 1..=30).await;
    let at = feed.position();
    log.append(12).await;
    drop(feed);
    let (fleet, stored) = log.close().await;
    let log = Log::of(fleet, Leaky::new(1, 1), stored).await;
    let mut feed = log.tail.feed(at);
    reads(&mut feed, 31..=42).await;
    log.append(2).await;
    reads(&mut feed, 43..=44).await;
    log.close().await;
}

#[tokio::test]
async fn a_log_that_was_set_back_is_said_and_read_on_from_its_end() {
    let log = Log::over(Leaky::new(1, 1)).await;
    log.append(3).await;
    let mut feed = log.tail.feed(Position(500));
    // Trouble with the disk is said, and leaves the question open.
    let trouble = feed.fault(ReadError::Database("no".into()), Position(0)).unwrap_err();
    assert!(matches!(trouble, FeedError::Read(_)), "{trouble}");
    let said = next(&mut feed).await.unwrap_err();
    assert!(matches!(said, FeedError::SetBack { asked: 500, last: 3 }), "{said}");
    log.append(1).await;
    reads(&mut feed, 4..=4).await;
    log.close().await;
}

#[tokio::test]
async fn what_is_gone_is_said_once_and_passed() {
    let log = Log::over(Leaky::new(1, 1)).await;
    log.append(20).await;
    let mut feed = log.tail.feed(Position(0));
    let end = Position(20);
    let gone = feed.fault(ReadError::Gone { asked: 1, oldest: 8 }, end).unwrap_err();
    assert!(matches!(gone, FeedError::Lost { from: 1, to: 7 }), "{gone}");
    assert_eq!(next(&mut feed).await.unwrap().position, Position(8));
    // A hole further on: what is before it comes first, and then the hole is named.
    assert!(feed.fault(ReadError::Missing { from: 11, to: 12 }, end).is_ok());
    assert_eq!(feed.page, 2);
    assert_eq!(next(&mut feed).await.unwrap().position, Position(9));
    assert_eq!(next(&mut feed).await.unwrap().position, Position(10));
    let missing = feed.fault(ReadError::Missing { from: 11, to: 12 }, end).unwrap_err();
    assert!(matches!(missing, FeedError::Lost { from: 11, to: 12 }), "{missing}");
    reads(&mut feed, 13..=20).await;
    log.close().await;
}

#[tokio::test]
async fn what_is_not_wanted_is_passed_over_in_turns() {
    let log = Log::over(Leaky::new(1, 1)).await;
    log.append(3 * PASSED_MAX as u64).await;
    let mut feed = log.tail.feed(Position(0));
    let mut turns = 0;
    let wanted = Position(2 * PASSED_MAX as u64 + 5);
    let got = poll_fn(|cx| {
        turns += 1;
        feed.poll_wanted(cx, |position, _| position == wanted)
    });
    assert_eq!(timeout(PATIENCE, got).await.expect("in time").unwrap().position, wanted);
    assert!(turns >= 3, "others had {turns} turns between");
    log.close().await;
}

#[tokio::test]
async fn a_single_message_is_fetched_from_wherever_it_is() {
    let log = Log::over(Leaky::new(1, 2)).await;
    for _ in 0..4 {
        log.append(1).await;
    }
    for position in 1..=4 {
        let message = log.tail.fetch(Position(position)).await.unwrap().expect("it is there");
        assert_eq!(message.name.map(|(_, seq)| seq + 1), Some(position));
    }
    assert_eq!(log.tail.fetch(Position(5)).await.unwrap(), None);
    assert_eq!(log.tail.fetch(Position(900)).await.unwrap(), None);
    log.close().await;
}

/// What would be saved, read back.
fn moved(groups: &Groups) -> Vec<(GroupKey, Option<Position>)> {
    let changes = groups.changes().into_iter();
    changes
        .map(|change| match change {
            Change::Session { key, state, .. } => {
                let saved = SavedSession { key, state, saved_ms: 0, queue: Vec::new() };
                let (key, at) = GroupKey::of_saved(&saved).expect("it is a group's");
                (key, Some(at))
            }
            Change::Forget { key: forgotten } => {
                assert_eq!(forgotten, key("g").session_key());
                (key("g"), None)
            }
            other => panic!("no change of a group: {other:?}"),
        })
        .collect()
}

fn key(group: &str) -> GroupKey {
    GroupKey { service: "planner".into(), group: group.into(), filter: "acme/+/telemetry/#".into() }
}

async fn given(member: &Membership) -> Position {
    let entry = timeout(PATIENCE, poll_fn(|cx| member.poll_next(cx))).await.expect("in time");
    entry.unwrap().position
}

fn polled(member: &Membership) -> Option<Position> {
    match member.poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(entry) => Some(entry.unwrap().position),
        Poll::Pending => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_message_of_a_group_goes_to_one_member_and_they_take_turns() {
    let bus = Rumqttd::start().unwrap();
    let log = Log::over(bus.clone()).await;
    let groups = Groups::new(log.tail.clone());
    let (tell, mut told) = mpsc::unbounded_channel();
    let members: Vec<_> = (0..3)
        .map(|n| {
            let member = groups.join(&key("g"), &format!("m{n}"), Position(0));
            let tell = tell.clone();
            tokio::spawn(async move {
                while let Ok(Ok(entry)) = timeout(PATIENCE, poll_fn(|cx| member.poll_next(cx))).await {
                    member.done(entry.position);
                    if tell.send((n, entry.position)).is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    let mut seen = BTreeMap::new();
    for round in 1..=60 {
        log.append(5).await;
        while seen.len() < round * 5 {
            let (member, position) = timeout(PATIENCE, told.recv()).await.expect("in time").unwrap();
            assert_eq!(seen.insert(position, member), None, "{position:?} went to two");
        }
    }
    let share = |n: i32| seen.values().filter(|&&member| member == n).count();
    assert!((0..3).all(|n| share(n) >= 60), "{} {} {}", share(0), share(1), share(2));
    members.iter().for_each(tokio::task::JoinHandle::abort);
    for member in members {
        let _ = member.await;
    }
    log.close().await;
    bus.stop().await;
}

#[tokio::test]
async fn a_member_that_says_nothing_holds_up_one_message_at_most() {
    let log = Log::over(Leaky::new(1, 1)).await;
    let groups = Groups::new(log.tail.clone());
    let [full, free] = ["full", "free"].map(|id| groups.join(&key("g"), id, Position(0)));
    // It waits for a message, and says nothing any more.
    assert_eq!(polled(&full), None);
    log.append(20).await;
    let mut got = BTreeSet::new();
    while got.len() < 19 {
        let position = given(&free).await;
        free.done(position);
        assert!(got.insert(position));
    }
    assert_eq!(polled(&free), None);
    drop(full);
    got.insert(given(&free).await);
    assert_eq!(got.len(), 20);
    drop(free);
    log.close().await;
}

#[tokio::test]
async fn a_member_without_room_holds_up_nothing() {
    let log = Log::over(Leaky::new(1, 1)).await;
    let groups = Groups::new(log.tail.clone());
    let [full, free] = ["full", "free"].map(|id| groups.join(&key("g"), id, Position(0)));
    // It waits for a message and is given one, beside another that it has; then it has no room.
    log.append(1).await;
    assert_eq!(given(&full).await, Position(1));
    assert_eq!(polled(&full), None);
    log.append(3).await;
    let mut got = BTreeSet::new();
    while got.len() < 2 {
        got.insert(given(&free).await);
    }
    full.pause();
    got.insert(given(&free).await);
    assert_eq!(got, (2..=4).map(Position).collect(), "what it has not been told of goes to the other");
    // It is not given anything until it asks; what it has, it has.
    log.append(2).await;
    assert_eq!((given(&free).await, given(&free).await), (Position(5), Position(6)));
    assert_eq!(moved(&groups), [(key("g"), Some(Position(0)))]);
    full.done(Position(1));
    full.pause();
    log.append(1).await;
    assert_eq!(given(&full).await, Position(7));
    drop((full, free));
    log.close().await;
}

#[tokio::test]
async fn what_a_session_keeps_goes_to_nobody_else_and_the_rest_does() {
    let log = Log::over(Leaky::new(1, 1)).await;
    let groups = Groups::new(log.tail.clone());
    log.append(4).await;
    let first = groups.join(&key("g"), "first", Position(0));
    for position in 1..=4 {
        assert_eq!(given(&first).await, Position(position));
    }
    first.done(Position(1));
    first.leave(&BTreeSet::from([Position(3)]), true);
    let second = groups.join(&key("g"), "second", Position(99));
    assert_eq!(given(&second).await, Position(2));
    assert_eq!(given(&second).await, Position(4));
    assert_eq!(polled(&second), None);
    // A takeover of a client id gives back what the connection before had.
    let third = groups.join(&key("g"), "second", Position(0));
    assert_eq!(polled(&second), None);
    assert_eq!((given(&third).await, given(&third).await), (Position(2), Position(4)));
    second.done(Position(2));
    drop(second);
    drop(third);
    log.close().await;
}

#[tokio::test]
async fn a_groups_cursor_stands_before_all_that_is_not_done() {
    let log = Log::over(Leaky::new(1, 1)).await;
    let groups = Groups::new(log.tail.clone());
    log.append(6).await;
    let member = groups.join(&key("g"), "a", Position(0));
    assert_eq!(moved(&groups), [(key("g"), Some(Position(0)))]);
    for position in 1..=4 {
        assert_eq!(given(&member).await, Position(position));
    }
    [1, 3, 4].into_iter().for_each(|position| member.done(Position(position)));
    assert_eq!(moved(&groups), [(key("g"), Some(Position(1)))]);
    assert_eq!(moved(&groups), []);
    member.leave(&BTreeSet::new(), true);
    assert_eq!(moved(&groups), [], "the group waits for its member");
    // The server starts again: 2 was not done, 3 and 4 are repeated, nothing is skipped.
    let groups = Groups::new(log.tail.clone());
    groups
        .restore([(key("g"), Position(1)), (key("old"), Position(1))], [(key("g"), "a".into(), Position(0))]);
    let forgotten = Change::Forget { key: key("old").session_key() };
    assert_eq!(groups.changes(), [forgotten], "nobody holds it any more");
    let member = groups.join(&key("g"), "a", Position(77));
    for position in 2..=6 {
        assert_eq!(given(&member).await, Position(position));
        member.done(Position(position));
    }
    assert_eq!(moved(&groups), [(key("g"), Some(Position(6)))]);
    member.leave(&BTreeSet::new(), true);
    groups.end("planner", "a");
    assert_eq!(moved(&groups), [(key("g"), None)]);
    // A group of that name is a new one.
    log.append(1).await;
    let member = groups.join(&key("g"), "a", Position(6));
    assert_eq!(given(&member).await, Position(7));
    drop(member);
    log.close().await;
}

/// xorshift64: the same run each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

/// One member as the model sees it.
struct Player {
    member: Membership,
    has: BTreeSet<Position>,
}

#[tokio::test]
async fn members_come_and_go_and_each_message_is_done_once() {
    for seed in 1..=8 {
        let log = Log::over(Leaky::new(2, 3)).await;
        let groups = Groups::new(log.tail.clone());
        // A session that stays away keeps the group while nobody is there.
        groups.join(&key("g"), "anchor", Position(0)).leave(&BTreeSet::new(), true);
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ seed);
        let mut players: Vec<Player> = Vec::new();
        let (mut done, mut joined) = (BTreeSet::new(), 0);
        for _ in 0..400 {
            match dice.roll(10) {
                0 => log.append(1 + dice.roll(4) as u64).await,
                1 if players.len() < 5 => {
                    joined += 1;
                    let member = groups.join(&key("g"), &format!("p{joined}"), Position(0));
                    players.push(Player { member, has: BTreeSet::new() });
                }
                2 if dice.roll(3) == 0 && !players.is_empty() => {
                    let player = players.swap_remove(dice.roll(players.len()));
                    let kept: BTreeSet<_> = player.has.iter().take(dice.roll(2)).copied().collect();
                    player.member.leave(&kept, false);
                    kept.into_iter().for_each(|position| assert!(done.insert(position)));
                }
                3..=5 if !players.is_empty() => {
                    let at = dice.roll(players.len());
                    let player = &mut players[at];
                    if let Some(position) = player.has.pop_first() {
                        player.member.done(position);
                        assert!(done.insert(position), "{position:?} is done with twice");
                    }
                }
                _ if !players.is_empty() => {
                    let at = dice.roll(players.len());
                    if let Some(position) = polled(&players[at].member) {
                        let held = players.iter().any(|player| player.has.contains(&position));
                        assert!(!held && !done.contains(&position), "{position:?} went to two");
                        players[at].has.insert(position);
                    }
                }
                _ => {}
            }
            // The page that was asked for is read on this thread.
            tokio::task::yield_now().await;
        }
        drop(players);
        let last = groups.join(&key("g"), "last", Position(0));
        let stored = log.stored.load(Ordering::Relaxed);
        while done.len() < stored as usize {
            let position = given(&last).await;
            last.done(position);
            assert!(done.insert(position), "{position:?} is done with twice");
        }
        assert_eq!(done, (1..=stored).map(Position).collect());
        assert_eq!(moved(&groups), [(key("g"), Some(Position(stored)))]);
        drop(last);
        log.close().await;
    }
}
