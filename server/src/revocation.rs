//! Ends what a device may no longer do: suspend, quarantine, revoke, decommission.
//!
//! 1. **Commit**: state, certificates, audit row, generation + 1. From here on it is true.
//! 2. **Flip** the verdict in memory, before anything else is decided.
//! 3. **Barrier**: the uplink's batches begun before the flip end; later ones read the new verdict.
//! 4. **Answer.** Nothing of the device is accepted any more.
//! 5. **Close** its session (MQTT 5 DISCONNECT 0x98 with the reason); no will is sent, and what waits for the
//!    device or is retained of it is purged.
//! 6. **Mark** the decision enforced, with the time.
//!
//! A decision about a group ([`group`]) goes the same way: one rule is committed and flipped, and every session
//! of its members ends.
//!
//! Every step can be repeated. What a crash or a slow socket left undone, a reconciler does: at the start and
//! on a tick. A connection that passes the gate while a decision is made is closed by step 5, or refuses
//! itself when it asks again after it has taken its seat.

mod group;

use std::{
    collections::HashSet,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use muster_shared::{Code, Generation};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    edge::Sessions,
    registry::{
        Act, Actor, Aim, Decided, DisconnectReason, Reason, Registry, RegistryError, now_ms,
        replace::{Replaced, Swap},
    },
    uplink::{Outcome, Writer},
};

pub use self::group::GroupAnswer;

/// How long a socket may take to close before the reconciler takes over.
const CLOSE_MAX: Duration = Duration::from_secs(10);
/// How often the reconciler looks for what was left undone.
const TICK: Duration = Duration::from_secs(2);

/// What ending a device's sessions came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforced {
    /// Sessions that were closed.
    pub closed_sessions: u64,
    /// When the last of them was closed, or when it was found that there was none; Unix milliseconds.
    pub enforced_at_ms: u64,
    /// From the decision (before its commit) to then, milliseconds.
    pub commit_to_closed_ms: u64,
}

/// A decision was made, but its sessions are not known to be closed yet. The reconciler goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotEnforced {
    /// The socket did not close in time.
    #[error("the session did not close within {} s", CLOSE_MAX.as_secs())]
    Slow,
    /// It is closed, but what waited for the device or was retained of it could not be purged.
    #[error("what was kept of the device could not be purged")]
    NotPurged,
    /// It is closed, but that could not be recorded.
    #[error("it could not be recorded")]
    NotRecorded,
    /// The server is stopping, which closes every session.
    #[error("the server is stopping")]
    Stopping,
}

/// A decision that is true, and whose sessions are being ended.
pub struct Answer {
    /// The decision. Nothing it forbids is accepted any more.
    pub decided: Decided,
    enforcing: Option<JoinHandle<Result<Enforced, NotEnforced>>>,
}

impl Answer {
    /// Waits until the device's sessions are closed; `None` for a decision that closes none. Going away
    /// instead changes nothing: they are closed all the same.
    ///
    /// # Errors
    /// [`NotEnforced`]; the reconciler goes on.
    pub async fn enforced(self) -> Result<Option<Enforced>, NotEnforced> {
        match self.enforcing {
            None => Ok(None),
            Some(enforcing) => enforcing.await.unwrap_or(Err(NotEnforced::Stopping)).map(Some),
        }
    }
}

/// Makes decisions and sees them through. Cheap to clone.
#[derive(Clone)]
pub struct Revocation {
    registry: Registry,
    sessions: Arc<Sessions>,
    uplink: Writer,
    /// Decisions being enforced now: the reconciler leaves them alone.
    busy: Arc<Mutex<HashSet<Generation>>>,
    times: Arc<Times>,
}

/// How long decisions took to be enforced, since the start.
#[derive(Debug, Default)]
struct Times {
    count: AtomicU64,
    sum_ms: AtomicU64,
}

impl Times {
    fn note(&self, enforced: &Enforced) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_ms.fetch_add(enforced.commit_to_closed_ms, Ordering::Relaxed);
    }
}

impl Revocation {
    /// Over this node's registry, sessions and uplink log.
    #[must_use]
    pub fn new(registry: Registry, sessions: Arc<Sessions>, uplink: Writer) -> Self {
        Self { registry, sessions, uplink, busy: Arc::default(), times: Arc::default() }
    }

    /// How many decisions were enforced since the start, and how long that took in all, milliseconds.
    #[must_use]
    pub fn times(&self) -> (u64, u64) {
        (self.times.count.load(Ordering::Relaxed), self.times.sum_ms.load(Ordering::Relaxed))
    }

    /// Decides about a device. When this returns `Ok`, nothing the decision forbids is accepted any more;
    /// its sessions are closed right after ([`Answer::enforced`]).
    ///
    /// # Errors
    /// [`RegistryError`]: nothing was decided.
    pub async fn decide(
        &self,
        actor: &Actor,
        target: impl Into<Aim>,
        act: Act,
        reason: &Reason,
    ) -> Result<Answer, RegistryError> {
        let (this, actor, target, reason) = (self.clone(), actor.clone(), target.into(), reason.clone());
        // On a task of its own: who asked may go away, the decision may not stay half done.
        let task = tokio::spawn(async move {
            let decided = this.registry.decide(&actor, target, act, &reason).await?;
            let enforcing = act.ends_sessions().then(|| this.begin(decided));
            this.uplink.barrier().await;
            Ok(Answer { decided, enforcing: enforcing.map(tokio::spawn) })
        });
        task.await.unwrap_or(Err(RegistryError::Closed))
    }

    /// Puts one device in another's place, or finds out what that would come to. When this returns `Ok`, nothing
    /// the old one sends is accepted any more; its sessions are closed right after ([`Answer::enforced`]).
    ///
    /// # Errors
    /// [`RegistryError`]: nothing was decided.
    pub async fn replace(&self, actor: &Actor, swap: Swap) -> Result<(Replaced, Answer), RegistryError> {
        let (this, actor) = (self.clone(), actor.clone());
        let task = tokio::spawn(async move {
            let dry_run = swap.dry_run;
            let replaced = this.registry.replace(&actor, swap).await?;
            let decided = replaced.decided;
            if dry_run {
                return Ok((replaced, Answer { decided, enforcing: None }));
            }
            let enforcing = this.begin(decided);
            this.uplink.barrier().await;
            Ok((replaced, Answer { decided, enforcing: Some(tokio::spawn(enforcing)) }))
        });
        task.await.unwrap_or(Err(RegistryError::Closed))
    }

    /// Enforces one decision, claimed now so that the reconciler leaves it alone.
    fn begin(&self, decided: Decided) -> impl Future<Output = Result<Enforced, NotEnforced>> + Send + use<> {
        let this = self.clone();
        let claim = Claim::new(&this.busy, decided.generation);
        async move {
            let done = enforce(&this.registry, &this.sessions, &this.uplink, decided)
                .await
                .inspect(|enforced| this.times.note(enforced));
            drop(claim);
            done
        }
    }

    /// Does what was left undone, oldest first. Returns how many decisions it enforced.
    ///
    /// # Errors
    /// [`RegistryError`] when it cannot be read what that is.
    pub async fn reconcile(&self) -> Result<usize, RegistryError> {
        let mut done = self.reconcile_groups().await?;
        for open in self.registry.unenforced().await? {
            let generation = open.decided.generation;
            let Some(_claim) = Claim::new(&self.busy, generation) else { continue };
            let enforced = if open.overtaken {
                // It may talk again: a session it has now is a rightful one.
                self.registry
                    .mark_enforced(generation, now_ms(), 0)
                    .await
                    .map_err(|_| NotEnforced::NotRecorded)
            } else {
                enforce(&self.registry, &self.sessions, &self.uplink, open.decided)
                    .await
                    .map(|enforced| self.times.note(&enforced))
            };
            match enforced {
                Ok(()) => done += 1,
                Err(error) => tracing::warn!(%error, %generation, "a decision is not enforced yet"),
            }
        }
        Ok(done)
    }

    /// Starts the reconciler: once now, then on a tick.
    #[must_use]
    pub fn start(&self) -> Reconciler {
        let (stop, mut stopped) = watch::channel(false);
        let this = self.clone();
        let task = tokio::spawn(async move {
            while !*stopped.borrow() {
                if let Err(error) = this.reconcile().await {
                    tracing::error!(%error, "cannot read which decisions are not enforced; trying again");
                }
                let _ = timeout_at(Instant::now() + TICK, stopped.changed()).await;
            }
        });
        Reconciler { stop, task }
    }
}

/// The reconciler, running.
pub struct Reconciler {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Reconciler {
    /// Ends it after the decision it is at.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if self.task.await.is_err() {
            tracing::error!("the reconciler panicked");
        }
    }
}

/// A decision somebody is enforcing.
struct Claim {
    busy: Arc<Mutex<HashSet<Generation>>>,
    generation: Generation,
}

impl Claim {
    fn new(busy: &Arc<Mutex<HashSet<Generation>>>, generation: Generation) -> Option<Self> {
        busy.lock().insert(generation).then(|| Self { busy: busy.clone(), generation })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.busy.lock().remove(&self.generation);
    }
}

/// Ends the sessions of a decision that is committed and in the verdicts. Can be repeated.
///
/// # Errors
/// [`NotEnforced`]: it is to be tried again.
pub async fn enforce(
    registry: &Registry,
    sessions: &Sessions,
    uplink: &Writer,
    decided: Decided,
) -> Result<Enforced, NotEnforced> {
    // Not needed for what the device may do, which the flip decided; but a message accepted before the flip
    // is acknowledged before its session is closed.
    uplink.barrier().await;
    let closing = sessions.roster().close_decided(decided.device, farewell(decided.act));
    let closed = timeout(CLOSE_MAX, closing).await.map_err(|_| NotEnforced::Slow)?;
    // Of a device that was away, too. On disk before the decision counts as enforced: nobody would purge
    // it after a crash that came between.
    if !matches!(sessions.purge(decided.device).await, Outcome::Stored(_)) {
        return Err(NotEnforced::NotPurged);
    }
    let enforced_at_ms = closed.map_or_else(now_ms, |closed| closed.at_ms);
    let enforced = Enforced {
        closed_sessions: u64::from(closed.is_some()),
        enforced_at_ms,
        commit_to_closed_ms: enforced_at_ms.saturating_sub(decided.decided_at_ms),
    };
    registry
        .mark_enforced(decided.generation, enforced_at_ms, enforced.closed_sessions)
        .await
        .map_err(|_| NotEnforced::NotRecorded)?;
    Ok(enforced)
}

/// What the device is told.
fn farewell(act: Act) -> (DisconnectReason, Code) {
    match act {
        Act::Suspend => (DisconnectReason::DeviceSuspended, Code::DeviceSuspended),
        Act::Quarantine => (DisconnectReason::DeviceQuarantined, Code::DeviceQuarantined),
        Act::Revoke => (DisconnectReason::CertificateRevoked, Code::CertificateRevoked),
        Act::Decommission => (DisconnectReason::CertificateRevoked, Code::DeviceDecommissioned),
        Act::FirstConnection | Act::Resume | Act::Release => {
            (DisconnectReason::Administrative, Code::Disconnected)
        }
    }
}

#[cfg(test)]
mod tests;
