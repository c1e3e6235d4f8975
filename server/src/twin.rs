//! Carries the desired state of devices to where they read it: retained, on `{tenant}/{device_id}/twin/desired`.
//!
//! The registry says what is desired, and that is a decision; this makes it so on the topic. A device that is
//! here gets it at once, one that is away when it comes: from its session's queue, or when it subscribes.
//!
//! ```text
//! set ─► commit, audit, change ─► published, retained, at QoS 1, with its version
//!                                      ▲
//! start, every minute, a device that may talk again: what is not there as it should be, again
//! ```
//!
//! # Invariants
//!
//! - What stands retained on the topic is compared with what the registry says; nobody keeps book of what was
//!   published. So a crash between the two, a purge of a suspended device's topics, or a log that had no room is
//!   made good by looking again.
//! - Versions reach a topic in their order: one task publishes, and what it publishes it has just read.
//! - A repeat is harmless: the message carries its version.
//!
//! The message is `application/json`, with the MQTT 5 user property `version`.

use std::time::Duration;

use bytes::Bytes;
use muster_shared::topic::{Kind, Topic};
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{
    registry::{Act, DeviceKey, DeviceName, Order, Registry, RegistryError, changes::What, now_ms},
    uplink::{Message, Outcome, Retained, RetainedMessage, StoredMessage, StoredPublisher, Writer},
};

/// How often all of them are looked at.
const LOOK: Duration = Duration::from_secs(60);
/// Devices looked at between two that others may be served.
const AT_ONCE: u32 = 1000;
/// As MQTT 5 properties (§2.2.2.2): Content Type, `application/json`, and the name of the user property that says
/// which version a message is. The version follows as text.
const PROPERTIES: &[u8] = b"\x03\x00\x10application/json\x26\x00\x07version";

/// What carries desired states, running.
pub(crate) struct Twins {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Twins {
    /// Starts it on this runtime.
    #[must_use]
    pub(crate) fn start(registry: Registry, uplink: Writer) -> Self {
        let (stop, stopped) = watch::channel(false);
        // Before the first look: nothing falls between.
        let changes = registry.changes();
        let carrier = Carrier { registry, uplink };
        Self { stop, task: tokio::spawn(carrier.run(changes, stopped)) }
    }

    /// Ends it after the device it is at. What is left is for the next start.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        if self.task.await.is_err() {
            tracing::error!("what carries desired states panicked");
        }
    }
}

struct Carrier {
    registry: Registry,
    uplink: Writer,
}

/// Whom a change concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    Nobody,
    One(DeviceKey),
    All,
}

/// A state that was set; and who may talk again: what was retained for them has been purged.
fn whom(what: &What) -> Whom {
    match what {
        What::Ordered { device, order: Order::Twin | Order::Succeed }
        | What::Device { device, act: Act::Resume | Act::Release, .. } => Whom::One(*device),
        What::Group { act: Act::Resume | Act::Release, .. } => Whom::All,
        _ => Whom::Nobody,
    }
}

impl Carrier {
    async fn run(
        self,
        mut changes: broadcast::Receiver<crate::registry::Change>,
        mut stop: watch::Receiver<bool>,
    ) {
        loop {
            let done = tokio::select! {
                done = self.all() => done,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            report(done);
            let until = Instant::now() + LOOK;
            loop {
                let change = tokio::select! {
                    change = timeout_at(until, changes.recv()) => change,
                    _ = stop.wait_for(|stop| *stop) => return,
                };
                let whom = match change {
                    Ok(Ok(change)) => whom(&change.what),
                    Ok(Err(broadcast::error::RecvError::Closed)) => return,
                    // Some were missed, or it is time.
                    Ok(Err(broadcast::error::RecvError::Lagged(_))) | Err(_) => Whom::All,
                };
                match whom {
                    Whom::Nobody => {}
                    Whom::One(device) => report(self.publish(device).await),
                    Whom::All => break,
                }
            }
        }
    }

    /// Publishes what is not there as it should be.
    async fn all(&self) -> Result<(), RegistryError> {
        let retained = self.uplink.retained();
        let mut after = None;
        loop {
            let twins = self.registry.twins(after, AT_ONCE).await?;
            let Some((last, _)) = twins.last() else { return Ok(()) };
            after = Some(*last);
            for (device, version) in twins {
                if published(&retained, &self.registry.verdicts().name(device)) != Some(version) {
                    self.publish(device).await?;
                }
            }
        }
    }

    /// Publishes what is desired of a device now, unless that is there.
    async fn publish(&self, device: DeviceKey) -> Result<(), RegistryError> {
        let verdicts = self.registry.verdicts();
        if verdicts.refusal(device).is_some() {
            // Nothing is kept of it on its topics. When it may talk again this is looked at again.
            return Ok(());
        }
        let Some(desired) = self.registry.desired(device).await? else { return Ok(()) };
        let name = verdicts.name(device);
        if published(&self.uplink.retained(), &name) == Some(desired.version) {
            return Ok(());
        }
        let message = message(&name, device, desired.version, desired.document);
        match self.uplink.append(message).await {
            Outcome::Stored(_) | Outcome::Duplicate(_) => {}
            Outcome::Refused(code) => {
                tracing::warn!(%code, serial = %name.serial, "a desired state waits: it is not taken");
            }
            Outcome::Failed => {
                tracing::warn!(serial = %name.serial, "a desired state waits: it is not stored")
            }
        }
        Ok(())
    }
}

fn report(done: Result<(), RegistryError>) {
    match done {
        Ok(()) | Err(RegistryError::Closed) => {}
        Err(error) => tracing::error!(%error, "what devices should be cannot be read; trying again"),
    }
}

fn topic(name: &DeviceName, kind: Kind<'_>) -> String {
    Topic::of(&name.tenant, &name.device_id, kind).to_string()
}

fn retained(retained: &Retained, name: &DeviceName, kind: Kind<'_>) -> Option<StoredMessage> {
    let found = retained.matching(&topic(name, kind), None, 1, now_ms());
    found.into_iter().next().map(|RetainedMessage { message, .. }| message)
}

/// Which version of a device's desired state stands where the device reads it; `None`: none that the server put
/// there.
#[must_use]
pub fn published(of: &Retained, name: &DeviceName) -> Option<u64> {
    let message = retained(of, name, Kind::TwinDesired)?;
    let by_server = matches!(message.publisher, StoredPublisher::Server { .. });
    version(&message.properties).filter(|_| by_server)
}

/// What the device says its state is, as it said it last; `None` when it has said nothing that is retained.
#[must_use]
pub fn reported(of: &Retained, name: &DeviceName) -> Option<StoredMessage> {
    // A service may speak in its place on this topic; that is not what the device says.
    retained(of, name, Kind::TwinReported).filter(|message| message.is_from(name))
}

/// The properties of a message that is of this version.
fn properties(version: u64) -> Bytes {
    let digits = version.to_string();
    let length = u16::try_from(digits.len()).expect("a number of 64 bits has at most 20 digits");
    [PROPERTIES, &length.to_be_bytes(), digits.as_bytes()].concat().into()
}

/// The version these properties say; `None` for properties that are not ours.
fn version(properties: &[u8]) -> Option<u64> {
    let digits = properties.strip_prefix(PROPERTIES)?.get(2..)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn message(name: &DeviceName, device: DeviceKey, version: u64, document: String) -> Message {
    let topic = topic(name, Kind::TwinDesired);
    Message {
        retain: true,
        properties: properties(version),
        ..Message::by_server(device, topic, document.into())
    }
}

#[cfg(test)]
mod tests;
