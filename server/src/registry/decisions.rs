//! Decisions as they are asked for, each run to its end: about a device, about a group, and the notes that the
//! sessions they end have ended.

use muster_shared::Generation;

use super::{
    Act, Actor, Aim, Decided, DeviceKey, DeviceState, Group, GroupDecided, GroupTarget, OpenRule, Reason,
    Registry, Scope, Unenforced, decide, enforce,
    error::RegistryError,
    rules::{self, GroupAim, GroupSeen},
};

impl Registry {
    /// Decides about one device: commits, then flips the verdict, then answers. Closing its sessions is
    /// [`crate::revocation`]'s.
    ///
    /// # Errors
    /// [`RegistryError`]; M203 for a step the table does not have, M208 for no such device, M214 without a reason.
    pub async fn decide(
        &self,
        actor: &Actor,
        target: impl Into<Aim>,
        act: Act,
        reason: &Reason,
    ) -> Result<Decided, RegistryError> {
        let (actor, whom, reason) = (actor.clone(), decide::Whom::Aim(target.into()), reason.clone());
        self.run(|inner| async move { decide::decide(&inner, &actor, whom, act, &reason, None).await }).await
    }

    /// The device connected, perhaps for the first time: `Some` when this made it active, `None` when it
    /// was active before.
    ///
    /// # Errors
    /// [`RegistryError`]; M203 when it may not talk any more.
    pub async fn first_connection(
        &self,
        device: DeviceKey,
        at_ms: u64,
    ) -> Result<Option<Decided>, RegistryError> {
        let active = || self.inner.verdicts.state(device) == Some(DeviceState::Active);
        if active() {
            return Ok(None);
        }
        let row = self.inner.verdicts.row(device);
        let whom = decide::Whom::Row(row.ok_or_else(|| RegistryError::DeviceUnknown(format!("{device:?}")))?);
        let reason = Reason::new("");
        let decision = self.run(|inner| async move {
            let actor = Actor::server();
            decide::decide(&inner, &actor, whom, Act::FirstConnection, &reason, Some(at_ms)).await
        });
        match decision.await {
            // Another of its connections was first.
            Err(RegistryError::Transition { error, .. }) if error.from == DeviceState::Active => Ok(None),
            decided => decided.map(Some),
        }
    }

    /// Records that a decision's live sessions have ended, and when. The first report stands.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn mark_enforced(
        &self,
        generation: Generation,
        enforced_at_ms: u64,
        sessions_ended: u64,
    ) -> Result<(), RegistryError> {
        self.run(|inner| async move {
            enforce::mark(&inner, enforce::OF_A_DEVICE, generation, enforced_at_ms, sessions_ended).await
        })
        .await
    }

    /// Decisions whose live sessions have not been reported ended, oldest first.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn unenforced(&self) -> Result<Vec<Unenforced>, RegistryError> {
        enforce::open(&self.inner).await
    }

    /// Decides about a group: commits, then flips the verdicts of all its members, then answers. Closing their
    /// sessions is [`crate::revocation`]'s.
    ///
    /// # Errors
    /// [`RegistryError`]; M203 for a step there is not, M407 for no such batch, M214 without a reason, M532 when the
    /// group has changed since it was seen.
    pub async fn decide_group(
        &self,
        actor: &Actor,
        aim: impl Into<GroupAim>,
        act: Act,
        reason: &Reason,
    ) -> Result<GroupDecided, RegistryError> {
        let (actor, aim, reason) = (actor.clone(), aim.into(), reason.clone());
        self.run(|inner| async move { rules::decide(&inner, &actor, &aim, act, &reason).await }).await
    }

    /// What a decision about a group would be about: the group as it is.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn group(
        &self,
        scope: &Scope,
        target: impl Into<GroupTarget>,
    ) -> Result<GroupSeen, RegistryError> {
        rules::look(&self.inner, &target.into(), scope).await
    }

    /// Rules whose sessions have not been reported ended, or whose members' rows do not all follow yet,
    /// oldest first.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn open_rules(&self) -> Result<Vec<OpenRule>, RegistryError> {
        rules::open(&self.inner).await
    }

    /// Records that a rule's live sessions have ended, and when. The first report stands.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn mark_rule_enforced(
        &self,
        generation: Generation,
        enforced_at_ms: u64,
        sessions_ended: u64,
    ) -> Result<(), RegistryError> {
        self.run(|inner| async move {
            enforce::mark(&inner, enforce::OF_A_GROUP, generation, enforced_at_ms, sessions_ended).await
        })
        .await
    }

    /// Writes a revocation to the rows of the group's members, chunk by chunk. Can be repeated.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn follow_rule(&self, rule: OpenRule) -> Result<(), RegistryError> {
        self.run(|inner| async move { rules::follow(&inner, &rule).await }).await
    }

    /// Devices of a group that may not talk with any certificate they have: nothing that is kept of them may
    /// stay.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn silenced(&self, group: &Group) -> Result<Vec<DeviceKey>, RegistryError> {
        rules::to_purge(&self.inner, group).await
    }
}
