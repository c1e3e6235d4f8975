//! What was seen and is old, goes: messages whole segments at a time, sessions and refusals a few hundred.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::{
    config::Retention,
    registry::{
        Registry, now_ms,
        retention::{Before, before_ms},
    },
    uplink::{Keep, Writer},
};

/// How often it is looked what may go.
const LOOK: Duration = Duration::from_secs(60);
/// Looks at the messages between two at the facts.
const FACTS: u32 = 60;

/// Looks from time to time, until it is aborted.
pub(crate) fn start(retention: Retention, registry: Registry, uplink: Writer) -> JoinHandle<()> {
    tokio::spawn(async move {
        let keep = keep(retention);
        for look in 0_u32.. {
            if keep != Keep::default() {
                uplink.trim(keep);
            }
            if look.is_multiple_of(FACTS) {
                facts(retention, &registry).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    })
}

fn keep(retention: Retention) -> Keep {
    let some = |value: u64| (value > 0).then_some(value);
    Keep {
        age: some(retention.uplink_days).map(|days| Duration::from_secs(days * 24 * 60 * 60)),
        octets: some(retention.uplink_mib).map(|mib| mib << 20),
    }
}

async fn facts(retention: Retention, registry: &Registry) {
    let now = now_ms();
    let before = Before {
        sessions_ms: before_ms(now, retention.sessions_days),
        refusals_ms: before_ms(now, retention.refusals_days),
    };
    match registry.forget_facts(before).await {
        Ok(gone) if gone.any() => {
            tracing::info!(sessions = gone.sessions, refusals = gone.refusals, "old facts removed");
        }
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "old facts cannot be removed"),
    }
}
