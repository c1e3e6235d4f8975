//! What an operator orders of a device without changing its state: a command, a disconnect, the state it
//! should be in. It is on the record before it is done.

use muster_shared::Generation;

use super::{
    Actor, Inner, Registry, RegistryError, Target,
    audit::{self, Entry, Stamp},
    changes::What,
    database::Connection,
    decide::find,
    now_ms,
    verdict::DeviceKey,
};

/// What is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// End its live session; it may come back.
    Disconnect,
    /// Send it a command.
    Command,
    /// Write on it: tags, groups, a note.
    Label,
    /// Be in another state: its twin's desired half.
    Twin,
    /// Take another device's place, with what was written on it.
    Succeed,
}

impl Order {
    /// Its word in the audit log.
    #[must_use]
    pub fn action(self) -> &'static str {
        match self {
            Self::Disconnect => "device.disconnect",
            Self::Command => "device.command",
            Self::Label => "device.label",
            Self::Twin => "device.twin",
            Self::Succeed => "device.succeed",
        }
    }
}

/// An order on the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ordered {
    /// Which device.
    pub device: DeviceKey,
    /// The registry's generation from this order on.
    pub generation: Generation,
    /// The number of its audit row.
    pub audit_no: u64,
    /// When it was committed, Unix milliseconds.
    pub at_ms: u64,
}

/// Puts an order about a device on the record, within the transaction it is part of; who commits that announces
/// it.
pub(super) async fn append(
    inner: &Inner,
    tx: &mut Connection,
    actor: &Actor,
    (device, order): (DeviceKey, Order),
    reason: &str,
    detail: serde_json::Value,
    at_ms: u64,
) -> Result<Stamp, RegistryError> {
    let name = inner.verdicts.name(device);
    let target = format!("{}/{}", name.tenant, name.serial);
    let entry =
        Entry { actor, tenant: Some(&name.tenant), action: order.action(), target: &target, reason, detail };
    audit::append(tx, entry, at_ms).await
}

impl Registry {
    /// Records what an operator orders of a device without changing its state; call it before doing it.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device.
    pub async fn order(
        &self,
        actor: &Actor,
        target: impl Into<Target>,
        order: Order,
        reason: &str,
        detail: serde_json::Value,
    ) -> Result<Ordered, RegistryError> {
        let (actor, target, reason) = (actor.clone(), target.into(), reason.to_owned());
        self.run(|inner| async move { record(&inner, &actor, &target, order, &reason, detail).await }).await
    }
}

/// Records the order.
async fn record(
    inner: &Inner,
    actor: &Actor,
    target: &Target,
    order: Order,
    reason: &str,
    detail: serde_json::Value,
) -> Result<Ordered, RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let id = find(&mut tx, &actor.scope.narrow(target)?).await?;
    let device = inner.verdicts.of_row(id)?;
    let stamp = append(inner, &mut tx, actor, (device, order), reason, detail, now_ms()).await?;
    if let Err(error) = inner.commit(tx).await {
        writer.fail();
        return Err(error);
    }
    inner.announce(stamp, What::Ordered { device, order });
    Ok(Ordered { device, generation: stamp.generation, audit_no: stamp.no, at_ms: stamp.at_ms })
}
