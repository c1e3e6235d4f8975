//! How an attack is made and judged.

use std::{
    alloc::System,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use cap::Cap;
use muster_pki::testing::{self, Credential};
use muster_server::edge::{Limits, Service, Trust, Verify};
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    client::{Client, V5, connect, tls_of},
    site::{HIERARCHY, Site, now_s},
};

/// Counts what Rust code has allocated and not freed, to the octet. What C code holds is not in it: SQLite's pages
/// have a bound of their own, and the cryptography's contexts are owned by what is counted here. The pages of the
/// process would say nothing: the C library's allocator keeps freed ones, tens of megabytes for each thread.
#[global_allocator]
static ALLOCATED: Cap<System> = Cap::new(System, usize::MAX);

/// What an attack may leave behind, octets.
const LEFT_MAX: u64 = 1024 * 1024;
/// How long another device may wait for an acknowledgement, for 99 of 100 messages.
const P99_MAX: Duration = Duration::from_secs(2);
/// Made before the one that is judged: with them caches and pools grow to what they are in use.
const WARM_UPS: usize = 3;
/// Attacks that are judged, each against the most there was after a warm-up, until one leaves nothing: what leaks
/// or stays is there after each of them, a store that grows and shrinks again is not.
const JUDGED: usize = 5;
/// Looks for the memory to come back, and the time between two of them.
const LOOKS: usize = 100;
const LOOK: Duration = Duration::from_millis(100);
/// Looks in a row in which it no longer falls: what was on its way to the disk has arrived.
const STILL: usize = 10;

/// A site under attack.
pub(crate) struct Siege {
    pub(crate) site: Arc<Site>,
    service: Credential,
}

/// Another device, publishing all the time.
struct Bystander {
    stop: Arc<AtomicBool>,
    work: JoinHandle<Vec<Duration>>,
}

impl Bystander {
    async fn start(site: &Arc<Site>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut client = Client::connected(site, &site.devices[0], V5).await;
        let work = tokio::spawn({
            let stop = Arc::clone(&stop);
            async move {
                let mut waits = Vec::new();
                let mut id = 0;
                while !stop.load(Ordering::SeqCst) {
                    id = id % 1000 + 1;
                    let begun = Instant::now();
                    assert_eq!(client.publish(id, "acme/MU-000001/telemetry/x", b"fine").await, 0);
                    waits.push(begun.elapsed());
                    sleep(Duration::from_millis(20)).await;
                }
                waits
            }
        });
        Self { stop, work }
    }

    /// Ends it; it was served throughout.
    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        let mut waits = self.work.await.expect("the bystander was served to the end");
        waits.sort_unstable();
        let p99 = waits[(waits.len() * 99).div_ceil(100) - 1];
        assert!(p99 < P99_MAX, "{} messages, p99 {p99:?}", waits.len());
    }
}

/// Octets this process has allocated and not freed.
fn memory() -> u64 {
    ALLOCATED.allocated().try_into().unwrap()
}

/// Waits for the memory to come back to this much; what it came to.
async fn back_to(octets: u64) -> u64 {
    let mut now = memory();
    for _ in 0..LOOKS {
        if now <= octets {
            break;
        }
        sleep(LOOK).await;
        now = memory();
    }
    now
}

/// Waits for the memory to fall no more; what it came to.
async fn settled() -> u64 {
    let mut least = memory();
    let mut still = 0;
    for _ in 0..LOOKS {
        sleep(LOOK).await;
        let now = memory();
        still = if now < least { 0 } else { still + 1 };
        least = least.min(now);
        if still == STILL {
            break;
        }
    }
    least
}

/// Makes an attack as often as it takes to judge it. `attack` is told which round it is, from 0; device
/// `round + 1` is its own.
pub(crate) async fn withstands(attack: impl AsyncFn(&Siege, usize)) {
    withstands_with(Limits::default(), attack).await;
}

/// The same with other limits.
pub(crate) async fn withstands_with(limits: Limits, attack: impl AsyncFn(&Siege, usize)) {
    let service = Service::new("watch".parse().unwrap(), None, ["#"], ["#"]).unwrap();
    let trust = Trust::new(Verify::Pinned).services(HIERARCHY.service.certificate(), [Arc::new(service)], []);
    let dir = tempfile::tempdir().unwrap();
    let site = Arc::new(Site::on(dir, WARM_UPS + JUDGED + 1, limits, trust).await);
    let siege = Siege { site, service: testing::named(&HIERARCHY.service, "watch", now_s()) };
    let bystander = Bystander::start(&siege.site).await;
    let mut before = 0;
    for round in 0..WARM_UPS {
        attack(&siege, round).await;
        siege.over().await;
        before = settled().await.max(before);
    }
    let mut left = Vec::new();
    for round in WARM_UPS..WARM_UPS + JUDGED {
        attack(&siege, round).await;
        siege.over().await;
        let after = back_to(before + LEFT_MAX).await;
        if after <= before + LEFT_MAX {
            left.clear();
            break;
        }
        left.push(after - before);
    }
    assert!(left.is_empty(), "octets left behind since the warm-ups, after each attack: {left:?}");
    bystander.end().await;
    let site = Arc::into_inner(siege.site).expect("everybody else has gone");
    site.stop().await;
}

impl Siege {
    /// Waits until the bystander is alone again.
    async fn over(&self) {
        for _ in 0..LOOKS {
            if self.site.roster.count() == 1 {
                return;
            }
            sleep(LOOK).await;
        }
        panic!("sessions that do not end: {:?}", self.site.roster.list());
    }

    /// The attacker's certificate in this round.
    pub(crate) fn attacker(&self, round: usize) -> &Credential {
        &self.site.devices[round + 1]
    }

    /// The attacker's name in this round.
    pub(crate) fn name(&self, round: usize) -> String {
        format!("MU-{:06}", round + 2)
    }

    /// A topic of the attacker's own.
    pub(crate) fn own(&self, round: usize) -> String {
        format!("acme/{}/app/x", self.name(round))
    }

    /// The attacker's TLS connection; nothing said yet.
    pub(crate) async fn open(&self, round: usize) -> Client {
        Client::open(&self.site, tls_of(self.attacker(round)), V5).await.unwrap()
    }

    /// The attacker, let in.
    pub(crate) async fn connected(&self, round: usize) -> Client {
        Client::connected(&self.site, self.attacker(round), V5).await
    }

    /// A service that sees everything.
    pub(crate) async fn watch(&self) -> Client {
        let mut client = Client::open(&self.site, tls_of(&self.service), V5).await.unwrap();
        client.send(&connect(V5, "watch")).await;
        assert_eq!(client.packet().await.unwrap()[3], 0);
        client
    }

    /// What the log holds on topics that begin so.
    pub(crate) async fn stored(&self, prefix: &str) -> usize {
        let all = self.site.stored().await;
        all.iter().filter(|message| message.topic.starts_with(prefix.as_bytes())).count()
    }
}
