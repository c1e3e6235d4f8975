//! What was seen and is old, goes: messages whole segments at a time, sessions and refusals a few hundred.
//!
//! How long what is kept stands in the configuration or in the registry, where an operator decides it
//! ([`Registry::keep_for`]); it is read again at each look, and a decision is looked at when it is made.

use std::time::Duration;

use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{
    registry::{
        Change, Registry,
        changes::What,
        now_ms,
        retention::{Before, Period, Periods, before_ms},
    },
    uplink::{Keep, Writer},
};

/// How often it is looked what may go.
const LOOK: Duration = Duration::from_secs(60);
/// Looks at the messages between two at the facts.
const FACTS: u32 = 60;

/// What this node's configuration says.
#[derive(Debug, Clone)]
pub(crate) struct Configured {
    /// Every period.
    pub(crate) periods: Periods,
    /// Those it says itself: what was decided about them does not count here.
    pub(crate) pinned: Vec<Period>,
}

/// Looks from time to time, until it is aborted.
pub(crate) fn start(configured: Configured, registry: Registry, uplink: Writer) -> JoinHandle<()> {
    // Heard from before the first look: no decision falls between.
    let mut changes = registry.changes();
    tokio::spawn(async move {
        let mut look = 0_u32;
        loop {
            let periods = in_force(&configured, &registry).await;
            let keep = keep(periods);
            if keep != Keep::default() {
                uplink.trim(keep);
            }
            if look.is_multiple_of(FACTS) {
                facts(periods, &registry).await;
            }
            look = if decided_before(Instant::now() + LOOK, &mut changes).await {
                0
            } else {
                look.wrapping_add(1)
            };
        }
    })
}

/// Waits; `true`: not to the end, somebody has decided how long is kept.
async fn decided_before(end: Instant, changes: &mut Receiver<Change>) -> bool {
    loop {
        match timeout_at(end, changes.recv()).await {
            // What was missed may have been that.
            Ok(Ok(Change { what: What::Retention, .. }) | Err(RecvError::Lagged(_))) => return true,
            Ok(Ok(_)) => {}
            Ok(Err(RecvError::Closed)) => {
                tokio::time::sleep_until(end).await;
                return false;
            }
            Err(_) => return false,
        }
    }
}

/// What is configured, or decided where that is left open. What cannot be read now goes on as configured, unless
/// that would remove what a decision keeps: then nothing goes.
async fn in_force(configured: &Configured, registry: &Registry) -> Periods {
    match registry.periods().await {
        Ok(decided) => {
            let open = decided.iter().filter(|of| !configured.pinned.contains(&of.period));
            open.fold(configured.periods, |periods, of| periods.with(of.period, of.value))
        }
        Err(error) => {
            tracing::error!(%error, "how long is kept cannot be read; nothing is removed now");
            Period::ALL.iter().fold(configured.periods, |periods, period| periods.with(*period, 0))
        }
    }
}

fn keep(periods: Periods) -> Keep {
    let some = |value: u64| (value > 0).then_some(value);
    Keep {
        age: some(periods.uplink_days).map(|days| Duration::from_secs(days * 24 * 60 * 60)),
        octets: some(periods.uplink_mib).map(|mib| mib << 20),
    }
}

async fn facts(periods: Periods, registry: &Registry) {
    let now = now_ms();
    let before = Before {
        sessions_ms: before_ms(now, periods.sessions_days),
        refusals_ms: before_ms(now, periods.refusals_days),
    };
    match registry.forget_facts(before).await {
        Ok(gone) if gone.any() => {
            tracing::info!(sessions = gone.sessions, refusals = gone.refusals, "old facts removed");
        }
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "old facts cannot be removed"),
    }
}

#[cfg(test)]
mod tests {
    use muster_shared::Code;

    use super::*;
    use crate::{
        registry::{
            Claimed,
            testing::{Fleet, ana},
        },
        uplink::testing::open,
    };

    const DAY_MS: u64 = 24 * 60 * 60 * 1000;

    /// Refusals of ten days and of one hour ago.
    async fn refused() -> Fleet {
        let fleet = Fleet::with(1).await;
        let who = Claimed::Device(fleet.devices[0].key);
        for ago in [10 * DAY_MS, DAY_MS / 24] {
            fleet.registry.facts().refused(&who, Code::DeviceSuspended, now_ms() - ago, None);
        }
        fleet.registry.facts().flush().await;
        fleet
    }

    async fn left(fleet: &Fleet, wanted: i64) {
        let end = Instant::now() + Duration::from_secs(30);
        while fleet.count("SELECT count(*) FROM refusal").await != wanted {
            assert!(Instant::now() < end, "{wanted} refusals are not what is left");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn configured(pinned: &[Period]) -> Configured {
        let periods = Periods { uplink_days: 90, uplink_mib: 0, sessions_days: 365, refusals_days: 365 };
        Configured { periods, pinned: pinned.to_vec() }
    }

    #[tokio::test]
    async fn what_is_decided_counts_at_once_and_goes_on_after_a_start() {
        let fleet = refused().await;
        let uplink = open(&fleet).await;
        let task = start(configured(&[]), fleet.registry.clone(), uplink.clone());
        fleet.registry.keep_for(&ana(), Period::RefusalsDays, 5, "as agreed").await.unwrap();
        left(&fleet, 1).await;
        task.abort();
        let decided = fleet.registry.periods().await.unwrap();
        assert_eq!((decided[0].period, decided[0].value, &*decided[0].by), (Period::RefusalsDays, 5, "ana"));
        let periods = in_force(&configured(&[]), &fleet.registry).await;
        assert_eq!(periods, configured(&[]).periods.with(Period::RefusalsDays, 5));
        uplink.close().await;
    }

    #[tokio::test]
    async fn what_the_configuration_says_counts_more() {
        let fleet = refused().await;
        fleet.registry.keep_for(&ana(), Period::RefusalsDays, 5, "").await.unwrap();
        let pinned = configured(&[Period::RefusalsDays]);
        assert_eq!(in_force(&pinned, &fleet.registry).await, pinned.periods);
        let most = Period::RefusalsDays.most();
        assert!(fleet.registry.keep_for(&ana(), Period::RefusalsDays, most + 1, "").await.is_err());
        // What was decided cannot be read: nothing goes.
        fleet.sql("DROP TABLE keep_for").await;
        assert_eq!(keep(in_force(&pinned, &fleet.registry).await), Keep::default());
    }
}
