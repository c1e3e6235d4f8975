//! Decisions about groups, seen through.
//!
//! Whose session ends is asked of the verdicts, seat by seat: every member that may not talk any more. What is
//! kept of a device goes when none of its certificates lets it talk. A service's session outlives its
//! certificate, as a cursor: another certificate of the same service goes on with it.

use tokio::{sync::oneshot, time::timeout};

use super::{CLOSE_MAX, Claim, Enforced, NotEnforced, Revocation};
use crate::{
    edge::{Arrival, Farewell, Owner, roster::Chosen},
    registry::{
        Act, Actor, DisconnectReason, Group, GroupDecided, OpenRule, Reason, RegistryError, Verdicts, now_ms,
        rules::GroupAim,
    },
    uplink::Outcome,
};
use muster_shared::Code;

/// Purges handed to the log at a time: its queue is bounded.
const PURGES: usize = 512;

/// A decision about a group that is true, and whose sessions are being ended.
pub struct GroupAnswer {
    /// The decision. Nothing it forbids is accepted any more.
    pub decided: GroupDecided,
    enforcing: Option<oneshot::Receiver<Result<Enforced, NotEnforced>>>,
}

impl GroupAnswer {
    /// Waits until all sessions of the group's members are closed; `None` for a decision that closes none.
    /// Going away instead changes nothing: they are closed all the same.
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

impl Revocation {
    /// Decides about a group. When this returns `Ok`, nothing the decision forbids is accepted any more, of
    /// any member; their sessions are closed right after ([`GroupAnswer::enforced`]).
    ///
    /// # Errors
    /// [`RegistryError`]: nothing was decided.
    pub async fn decide_group(
        &self,
        actor: &Actor,
        aim: impl Into<GroupAim>,
        act: Act,
        reason: &Reason,
    ) -> Result<GroupAnswer, RegistryError> {
        let (this, actor, aim, reason) = (self.clone(), actor.clone(), aim.into(), reason.clone());
        // On a task of its own: who asked may go away, the decision may not stay half done.
        let task = tokio::spawn(async move {
            let decided = this.registry.decide_group(&actor, aim, act, &reason).await?;
            let enforcing = act.ends_sessions().then(|| this.begin_group(&decided));
            this.uplink.barrier().await;
            Ok(GroupAnswer { decided, enforcing })
        });
        task.await.unwrap_or(Err(RegistryError::Closed))
    }

    /// Enforces one rule, claimed now so that the reconciler leaves it alone. The answer does not wait for the
    /// members' rows.
    fn begin_group(&self, decided: &GroupDecided) -> oneshot::Receiver<Result<Enforced, NotEnforced>> {
        let (this, rule) = (self.clone(), OpenRule::from(decided));
        let claim = Claim::new(&self.busy, rule.generation);
        let (tell, told) = oneshot::channel();
        // Now: a session that is refused a message ends by itself, and was ended by the decision too.
        let chosen = self.choose(&rule.group);
        tokio::spawn(async move {
            let enforced = this.enforce_group(&rule, chosen).await;
            let ended = enforced.is_ok();
            // Nobody may wait for it.
            let _ = tell.send(enforced);
            if ended && let Err(error) = this.registry.follow_rule(rule.clone()).await {
                tracing::warn!(%error, group = %rule.group, "a rule is not written to all its members yet");
            }
            drop(claim);
        });
        told
    }

    /// Does what was left undone about groups, oldest first. Returns how many rules are done.
    pub(super) async fn reconcile_groups(&self) -> Result<usize, RegistryError> {
        let mut done = 0;
        for rule in self.registry.open_rules().await? {
            let Some(_claim) = Claim::new(&self.busy, rule.generation) else { continue };
            if !rule.enforced
                && let Err(error) = self.enforce_group(&rule, self.choose(&rule.group)).await
            {
                tracing::warn!(%error, group = %rule.group, "a rule is not enforced yet");
                continue;
            }
            self.registry.follow_rule(rule).await?;
            done += 1;
        }
        Ok(done)
    }

    /// Ends the sessions of a rule that is committed and in the verdicts. Can be repeated.
    async fn enforce_group(&self, rule: &OpenRule, chosen: Chosen) -> Result<Enforced, NotEnforced> {
        // A message accepted before the flip is acknowledged before its session is closed.
        self.uplink.barrier().await;
        let waits = chosen.close();
        let closing = async {
            let (mut sessions, mut last_ms) = (0, None);
            for wait in waits {
                let Some(closed) = wait.await else { continue };
                sessions += 1;
                last_ms = last_ms.max(Some(closed.at_ms));
            }
            (sessions, last_ms)
        };
        let (closed_sessions, last_ms) = timeout(CLOSE_MAX, closing).await.map_err(|_| NotEnforced::Slow)?;
        self.purge_group(&rule.group).await?;
        let enforced_at_ms = last_ms.unwrap_or_else(now_ms);
        let enforced = Enforced {
            closed_sessions,
            enforced_at_ms,
            commit_to_closed_ms: enforced_at_ms.saturating_sub(rule.decided_at_ms),
        };
        self.registry
            .mark_rule_enforced(rule.generation, enforced_at_ms, closed_sessions)
            .await
            .map_err(|_| NotEnforced::NotRecorded)?;
        self.times.note(&enforced);
        Ok(enforced)
    }

    /// The sessions of members that may not talk any more. Who takes a seat later is refused at the gate.
    fn choose(&self, group: &Group) -> Chosen {
        let verdicts = self.registry.verdicts();
        self.sessions.roster().choose(|arrival| farewell(&verdicts, group, arrival))
    }

    /// Of the members that were away, too.
    async fn purge_group(&self, group: &Group) -> Result<(), NotEnforced> {
        let silenced = self.registry.silenced(group).await.map_err(|error| {
            tracing::warn!(%error, %group, "it cannot be read of whom nothing may stay");
            NotEnforced::NotPurged
        })?;
        for some in silenced.chunks(PURGES) {
            let tickets: Vec<_> = some.iter().map(|device| self.sessions.purge(*device)).collect();
            for ticket in tickets {
                if !matches!(ticket.await, Outcome::Stored(_)) {
                    return Err(NotEnforced::NotPurged);
                }
            }
        }
        Ok(())
    }
}

/// What a session of the group is told; `None`: it is not one, or may go on.
fn farewell(verdicts: &Verdicts, group: &Group, arrival: &Arrival) -> Option<Farewell> {
    let Arrival { owner, certificate, issuer_key_id, .. } = arrival;
    let code = match owner {
        Owner::Device(device) if verdicts.is_member(group, *device, certificate) => {
            let now_s = i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX);
            verdicts.may_talk(*device, certificate, now_s).err()?
        }
        Owner::Service(_) => match group {
            Group::Certificate(id) if id == certificate => verdicts.withdrawn(certificate, issuer_key_id)?,
            Group::Ca(key_id) if key_id == issuer_key_id => verdicts.withdrawn(certificate, issuer_key_id)?,
            _ => return None,
        },
        Owner::Device(_) => return None,
    };
    let why = match code {
        Code::DeviceSuspended => DisconnectReason::DeviceSuspended,
        Code::DeviceQuarantined => DisconnectReason::DeviceQuarantined,
        Code::CertificateExpired => DisconnectReason::CertificateExpired,
        _ => DisconnectReason::CertificateRevoked,
    };
    Some((why, code).into())
}
