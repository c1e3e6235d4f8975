//! The bus of one node: rumqttd's router, embedded, without a listener.
//!
//! Two links and one filter, whatever the number of devices and readers: one link publishes, on a thread of
//! its own because a send blocks when the router is behind; one receives, on another, and hands what comes
//! to every subscriber. The router's thread is watched: a send or receive that fails says that it has died,
//! and it is started anew.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use rumqttd::{
    Notification, Router, RouterConfig,
    local::{LinkBuilder, LinkError, LinkRx, LinkTx},
};
use tokio::sync::mpsc;

use super::{Bus, Subscription, subscription};
use crate::uplink::{Fresh, Position};

/// The one topic. It is the only text the router's topic tree ever sees.
const TOPIC: &str = "muster/uplink";
/// Commits that may wait for the router.
const WAITING_MAX: usize = 256;
/// How often a thread that hears nothing looks whether it should end.
const LOOK: Duration = Duration::from_millis(250);
/// How often something is put on the bus, at most: it wakes four threads, whatever it carries. So a busy node
/// pays for that once for several commits, and the first commit after a pause goes at once.
const GATHER: Duration = Duration::from_millis(10);
/// Octets of several commits that go together.
const TOGETHER_BYTES: usize = 1 << 20;
/// Wait before a router that died is started again.
const AGAIN: Duration = Duration::from_millis(100);
/// What the router keeps in memory: one commit is at most 4 MiB, and readers go to the log for older ones.
const SEGMENT_BYTES: usize = 8 << 20;
const SEGMENTS: usize = 2;

/// rumqttd's router could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A link was refused.
    #[error("the bus's router refused a link")]
    Link(#[source] Box<LinkError>),
    /// No thread for it.
    #[error("the bus's thread cannot be started")]
    Thread(#[from] std::io::Error),
}

/// The embedded bus.
pub struct Rumqttd {
    shared: Arc<Shared>,
    queue: SyncSender<Fresh>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    readers: Mutex<Vec<mpsc::Sender<Fresh>>>,
    ready: AtomicBool,
    stopping: AtomicBool,
    restarts: AtomicU64,
    dropped: AtomicU64,
    #[cfg(test)]
    poison: AtomicBool,
}

impl Rumqttd {
    /// Starts the router and both links.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start() -> Result<Arc<Self>, StartError> {
        let shared = Arc::new(Shared {
            readers: Mutex::default(),
            ready: AtomicBool::new(true),
            stopping: AtomicBool::new(false),
            restarts: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            #[cfg(test)]
            poison: AtomicBool::new(false),
        });
        let (queue, waiting) = sync_channel(WAITING_MAX);
        let links = links().map_err(StartError::Link)?;
        let of_thread = shared.clone();
        let thread =
            thread::Builder::new().name("bus".to_owned()).spawn(move || of_thread.run(&waiting, links))?;
        Ok(Arc::new(Self { shared, queue, thread: Mutex::new(Some(thread)) }))
    }

    /// Kills the router's thread: it panics on a topic whose first octet is half a character.
    #[cfg(test)]
    pub(crate) fn kill_router(&self) {
        self.shared.poison.store(true, Ordering::Release);
    }

    /// Ends both threads; subscriptions end. The router's own thread cannot be told to end: it sleeps until
    /// the process does.
    pub async fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && tokio::task::spawn_blocking(move || thread.join()).await.is_err()
        {
            tracing::error!("the bus's thread panicked");
        }
        self.shared.ready.store(false, Ordering::Release);
        self.shared.readers.lock().clear();
    }
}

impl Drop for Rumqttd {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
    }
}

impl Bus for Rumqttd {
    fn publish(&self, fresh: Fresh) {
        if self.queue.try_send(fresh).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn subscribe(&self) -> Subscription {
        let (sender, subscription) = subscription();
        self.shared.readers.lock().push(sender);
        subscription
    }

    fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Acquire)
    }

    fn restarts(&self) -> u64 {
        self.shared.restarts.load(Ordering::Relaxed)
    }

    fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

/// A new router, a link that publishes and a link that has subscribed.
fn links() -> Result<(LinkTx, LinkRx), Box<LinkError>> {
    let config = RouterConfig {
        max_connections: 4,
        max_outgoing_packet_count: 200,
        max_segment_size: SEGMENT_BYTES,
        max_segment_count: SEGMENTS,
        ..RouterConfig::default()
    };
    let router = Router::new(0, config).spawn();
    let (publisher, _, _) = LinkBuilder::new("uplink", router.clone()).build()?;
    let (mut subscriber, receiver, _) = LinkBuilder::new("readers", router).build()?;
    subscriber.subscribe(TOPIC)?;
    Ok((publisher, receiver))
}

impl Shared {
    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Runs routers, one after the other, until the end comes.
    fn run(self: &Arc<Self>, waiting: &Receiver<Fresh>, first: (LinkTx, LinkRx)) {
        let mut links = Some(first);
        while !self.stopping() {
            let Some((publisher, receiver)) = links.take() else {
                thread::sleep(AGAIN);
                // What waited for the dead router is in the log; here it would be memory held for nothing.
                let waited = waiting.try_iter().count();
                self.dropped.fetch_add(waited as u64, Ordering::Relaxed);
                match self::links() {
                    Ok(new) => {
                        links = Some(new);
                        self.restarts.fetch_add(1, Ordering::Relaxed);
                        self.ready.store(true, Ordering::Release);
                        tracing::info!("the bus carries again");
                    }
                    Err(error) => tracing::error!(%error, "the bus's router cannot be started; trying again"),
                }
                continue;
            };
            let dead = Arc::new(AtomicBool::new(false));
            let (of_reader, flag) = (self.clone(), dead.clone());
            let reader = thread::Builder::new()
                .name("bus-read".to_owned())
                .spawn(move || of_reader.receive(receiver, &flag));
            let Ok(reader) = reader else {
                tracing::error!("the bus's reading thread cannot be started; trying again");
                continue;
            };
            self.forward(waiting, publisher, &dead);
            dead.store(true, Ordering::Release);
            if !self.stopping() {
                self.ready.store(false, Ordering::Release);
                tracing::error!("the bus's router has died; readers read the log until it is back");
            }
            if reader.join().is_err() {
                tracing::error!("the bus's reading thread panicked");
            }
        }
    }

    /// Publishes what the writer hands over until the router is dead or the end comes.
    fn forward(&self, waiting: &Receiver<Fresh>, mut publisher: LinkTx, dead: &AtomicBool) {
        let mut next = Instant::now();
        while !dead.load(Ordering::Acquire) && !self.stopping() {
            #[cfg(test)]
            if self.poison.swap(false, Ordering::AcqRel) {
                let _ = publisher.publish("é", "");
            }
            match waiting.recv_timeout(LOOK) {
                Ok(first) => {
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                    next = Instant::now() + GATHER;
                    for run in runs(std::iter::once(first).chain(waiting.try_iter().take(WAITING_MAX))) {
                        if publisher.publish(TOPIC, write(&run)).is_err() {
                            return;
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Hands what comes to every subscriber until the router is dead or the end comes.
    fn receive(&self, mut receiver: LinkRx, dead: &AtomicBool) {
        while !dead.load(Ordering::Acquire) && !self.stopping() {
            let deadline = Instant::now() + LOOK;
            match receiver.recv_deadline(deadline) {
                Ok(Some(Notification::Forward(forward))) => match read(&forward.publish.payload) {
                    Some(fresh) => self.hand_out(&fresh),
                    None => tracing::error!("what came over the bus is not an envelope of ours"),
                },
                // The router has paused this link: it goes on when told that there is room.
                Ok(Some(Notification::Unschedule)) => {
                    if receiver.ready().is_err() {
                        break;
                    }
                }
                Ok(_) => {}
                // Nothing came. An error before the deadline says that the router is gone.
                Err(LinkError::RecvTimeout(_)) if Instant::now() >= deadline => {}
                Err(_) => break,
            }
        }
        dead.store(true, Ordering::Release);
    }

    fn hand_out(&self, fresh: &Fresh) {
        self.readers.lock().retain(|reader| match reader.try_send(fresh.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
    }
}

const VERSION: u8 = 1;
/// Version, node, first position, count.
const HEAD: usize = 1 + 8 + 8 + 4;

/// Commits that go together: each continues the one before it.
fn runs(commits: impl Iterator<Item = Fresh>) -> Vec<Vec<Fresh>> {
    let mut runs: Vec<Vec<Fresh>> = Vec::new();
    let mut bytes = 0;
    for fresh in commits {
        bytes += fresh.body.len();
        match runs.last_mut() {
            Some(run)
                if bytes <= TOGETHER_BYTES && run.last().is_some_and(|last| last.is_continued_by(&fresh)) =>
            {
                run.push(fresh);
            }
            _ => {
                bytes = fresh.body.len();
                runs.push(vec![fresh]);
            }
        }
    }
    runs
}

/// The envelope of a run, as if it were one commit: what the log's rows say, and whose they are.
fn write(run: &[Fresh]) -> Bytes {
    let Some((first, more)) = run.split_first() else { return Bytes::new() };
    let octets: usize = run.iter().map(|fresh| fresh.body.len()).sum();
    let mut out = BytesMut::with_capacity(HEAD + octets);
    out.put_u8(VERSION);
    out.put_u64(first.node);
    out.put_u64(first.first.0);
    out.put_u32(run.iter().map(|fresh| fresh.count).sum());
    out.put_slice(&first.body);
    for fresh in more {
        out.put_slice(fresh.records());
    }
    out.freeze()
}

fn read(envelope: &Bytes) -> Option<Fresh> {
    if envelope.len() < HEAD || envelope[0] != VERSION {
        return None;
    }
    let number = |from: usize| u64::from_be_bytes(envelope[from..from + 8].try_into().expect("eight octets"));
    let count = u32::from_be_bytes(envelope[17..HEAD].try_into().expect("four octets"));
    if count == 0 {
        return None;
    }
    Some(Fresh { node: number(1), first: Position(number(9)), count, body: envelope.slice(HEAD..) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(first: u64) -> Fresh {
        let body = Bytes::from(first.to_be_bytes().to_vec());
        Fresh { node: 7, first: Position(first), count: 3, body }
    }

    async fn next(subscription: &mut Subscription) -> Fresh {
        tokio::time::timeout(Duration::from_secs(20), subscription.next()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn every_subscriber_hears_every_commit_in_order() {
        let bus = Rumqttd::start().unwrap();
        assert!(bus.is_ready());
        let mut readers: Vec<_> = (0..3).map(|_| bus.subscribe()).collect();
        for first in 1..=50 {
            bus.publish(fresh(first));
            for reader in &mut readers {
                assert_eq!(next(reader).await, fresh(first));
            }
        }
        assert_eq!(bus.dropped(), 0);
        bus.stop().await;
        assert!(readers[0].next().await.is_none(), "a stopped bus ends its subscriptions");
        bus.publish(fresh(1));
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_holds_up_nobody() {
        let bus = Rumqttd::start().unwrap();
        let (mut slow, mut good) = (bus.subscribe(), bus.subscribe());
        for first in 1..=150 {
            bus.publish(fresh(first));
            assert_eq!(next(&mut good).await.first, Position(first));
        }
        assert_eq!(next(&mut slow).await.first, Position(1));
        let mut heard = 1;
        while slow.try_next().is_some() {
            heard += 1;
        }
        assert!(heard < 150 && bus.dropped() > 0, "it heard {heard} and reads the rest from the log");
        drop(slow);
        bus.publish(fresh(151));
        assert_eq!(next(&mut good).await.first, Position(151));
        bus.stop().await;
    }

    #[tokio::test]
    async fn a_router_that_died_is_started_again() {
        let bus = Rumqttd::start().unwrap();
        let mut reader = bus.subscribe();
        bus.publish(fresh(1));
        assert_eq!(next(&mut reader).await.first, Position(1));
        bus.kill_router();
        let deadline = Instant::now() + Duration::from_secs(30);
        while bus.restarts() == 0 {
            assert!(Instant::now() < deadline, "the router was not restarted");
            bus.publish(fresh(2));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while !bus.is_ready() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while reader.try_next().is_some() {}
        bus.publish(fresh(3));
        loop {
            if next(&mut reader).await.first == Position(3) {
                break;
            }
        }
        bus.stop().await;
    }

    /// A commit as the log's writer makes it: `count` messages from `first` on, an octet each here.
    fn commit(first: u64, count: u32) -> Fresh {
        let records: Vec<u8> = (0..count).map(|n| first as u8 + n as u8).collect();
        Fresh { node: 7, first: Position(first), count, body: [&[2], &records[..]].concat().into() }
    }

    #[test]
    fn commits_that_continue_one_another_go_together() {
        let other = Fresh { node: 8, ..commit(9, 1) };
        let older = Fresh { body: Bytes::from_static(&[1, 0]), ..commit(11, 1) };
        let commits = [commit(1, 2), commit(3, 1), commit(4, 3), commit(8, 1), other, commit(10, 1), older];
        let runs = runs(commits.into_iter());
        let firsts: Vec<_> = runs.iter().map(|run| run[0].first.0).collect();
        assert_eq!(firsts, [1, 8, 9, 10, 11], "a gap, another node and another version begin anew");
        assert_eq!(read(&write(&runs[0])), Some(commit(1, 6)), "they read as one commit would");
        let large = |first| Fresh { body: vec![2; TOGETHER_BYTES / 2].into(), ..commit(first, 1) };
        assert_eq!(super::runs((1..=5).map(large)).len(), 3, "not more octets than they may");
    }

    #[tokio::test]
    async fn many_commits_in_a_moment_arrive_whole_and_in_order() {
        let bus = Rumqttd::start().unwrap();
        let mut reader = bus.subscribe();
        for first in 1..=200 {
            bus.publish(commit(first, 1));
        }
        let (mut last, mut heard) = (0, 0);
        while last < 200 {
            let fresh = next(&mut reader).await;
            assert_eq!(fresh.first.0, last + 1);
            last = fresh.last().0;
            heard += 1;
        }
        assert!(heard < 200, "several in one");
        assert_eq!(bus.dropped(), 0);
        bus.stop().await;
    }

    #[test]
    fn what_is_no_envelope_is_not_read() {
        let good = write(&[fresh(9)]);
        assert_eq!(read(&good), Some(fresh(9)));
        assert_eq!(read(&good.slice(..HEAD - 1)), None);
        let mut other = good.to_vec();
        other[0] = 2;
        assert_eq!(read(&other.into()), None);
        let mut empty = good.to_vec();
        empty[17..HEAD].fill(0);
        assert_eq!(read(&empty.into()), None);
    }
}
