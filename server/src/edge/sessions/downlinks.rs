//! From the uplink log to devices: which sessions a message is for, before its commit and after it.
//!
//! A message reaches a device when a service publishes it on one of the device's topics or on `~all`, the server
//! on a topic the fleet speaks to the device on, or the device itself on its `app/`. A durable session that wants
//! it at QoS 1 or 2 has it in its queue with the commit; a session that ends with its connection, and a message
//! at QoS 0, go to whoever is connected.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use muster_shared::{
    DeviceId, Tenant,
    topic::{Direction, Kind, Topic},
};

use super::{Held, Sessions, owner};
use crate::{
    edge::roster::{Downlink, Owner},
    registry::{DeviceKey, commands::Fate, now_ms},
    uplink::{Addressed, Downlinks, Message, Publisher, SessionKey, StoredMessage},
};

/// The command's name, of a message that is one.
fn command(message: &StoredMessage) -> Option<&str> {
    match Topic::parse(std::str::from_utf8(&message.topic).ok()?).ok()? {
        Topic::Device { kind: Kind::CommandRequest { id }, .. } => Some(id),
        _ => None,
    }
}

/// Whom a message is for.
enum Audience {
    Device(DeviceKey),
    Everyone(Tenant),
}

impl Sessions {
    /// Whom a message on this topic is for, if for devices at all.
    fn audience(&self, topic: &[u8]) -> Option<Audience> {
        match Topic::parse(std::str::from_utf8(topic).ok()?).ok()? {
            Topic::Everyone { tenant, .. } => Some(Audience::Everyone(Tenant::new(tenant).ok()?)),
            Topic::Device { tenant, device, kind } => {
                if !matches!(kind.direction(), Direction::Downlink | Direction::Both) {
                    return None;
                }
                let (tenant, device) = (Tenant::new(tenant).ok()?, DeviceId::new(device).ok()?);
                self.verdicts.by_id(&tenant, &device).map(Audience::Device)
            }
        }
    }

    /// Whether a message on this topic at QoS 1 would wait in the device's session while it is away.
    #[must_use]
    pub fn queues(&self, device: DeviceKey, topic: &str) -> bool {
        let inner = self.inner.lock();
        let held = inner.held.get(&device.into());
        held.and_then(|held| held.kept.wants(topic, false)).is_some_and(|qos| qos as u8 > 0)
    }

    /// The commands that wait, by device and name.
    #[must_use]
    pub fn commands(&self) -> HashSet<(DeviceKey, String)> {
        let inner = self.inner.lock();
        let of = |(owner, held): (&Owner, &Held)| {
            let device = owner.device();
            let ids =
                held.queue.iter().filter_map(|(_, message)| Some((device?, command(message)?.to_owned())));
            ids.collect::<Vec<_>>()
        };
        inner.held.iter().flat_map(of).collect()
    }

    /// Says of the commands among these messages what became of them.
    pub(super) fn settle<'m>(
        &self,
        owner: &Owner,
        messages: impl IntoIterator<Item = &'m StoredMessage>,
        fate: Fate,
    ) {
        let (Some(facts), Some(device)) = (self.facts.get(), owner.device()) else { return };
        for id in messages.into_iter().filter_map(command) {
            facts.command_settled(device, id, fate, now_ms());
        }
    }

    /// What waited in a session that is no more.
    pub(super) fn lost(&self, owner: &Owner, held: &Held, why: &'static str) {
        self.settle(owner, held.queue.iter().map(|(_, message)| &**message), Fate::Expired(why));
    }

    /// What a commit did to queues, here as on disk.
    fn requeue(&self, addressed: &Addressed) {
        let mut dropped = Vec::new();
        let mut inner = self.inner.lock();
        for (key, position) in &addressed.dropped {
            if let Some(held) = owner(&self.verdicts, key).and_then(|owner| inner.held.get_mut(&owner)) {
                dropped.extend(held.remove(&[*position]).into_iter().map(|message| (key, message)));
            }
        }
        for key in &addressed.queued {
            if let Some(held) = owner(&self.verdicts, key).and_then(|owner| inner.held.get_mut(&owner)) {
                held.queue.push_back((addressed.position, Arc::clone(&addressed.message)));
            }
        }
        drop(inner);
        for (key, message) in dropped {
            if let Some(owner) = owner(&self.verdicts, key) {
                self.settle(&owner, [&*message], Fate::Expired("there was no more room in its session"));
            }
        }
        let lost = addressed.dropped.len() + addressed.missed.len();
        self.dropped.fetch_add(lost as u64, Ordering::Relaxed);
    }

    /// Hands a message to a live session whose queue does not hold it.
    fn post(&self, device: DeviceKey, downlink: Downlink) {
        if !self.roster.post(device, downlink) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn hand_over(&self, addressed: &Addressed) {
        let message = &addressed.message;
        let Some(audience) = self.audience(&message.topic) else { return };
        self.requeue(addressed);
        let concerned = addressed.queued.iter().chain(&addressed.missed);
        let queued: HashSet<_> = concerned.filter_map(|key| owner(&self.verdicts, key)?.device()).collect();
        match audience {
            Audience::Device(device) if queued.contains(&device) => self.roster.nudge(device),
            Audience::Device(device) => {
                let from_self = message.is_from(&self.verdicts.name(device));
                self.post(device, Downlink::stored(addressed.position, message, from_self));
            }
            Audience::Everyone(tenant) => {
                // No device publishes there.
                let downlink = Downlink::stored(addressed.position, message, false);
                for device in self.roster.devices() {
                    if queued.contains(&device) {
                        self.roster.nudge(device);
                    } else if self.verdicts.name(device).tenant == tenant {
                        self.post(device, downlink.clone());
                    }
                }
            }
        }
    }
}

impl Downlinks for Sessions {
    fn targets(&self, message: &Message, out: &mut Vec<SessionKey>) -> bool {
        let from = match &message.publisher {
            // Nearly everything is a device's, and for services alone.
            Publisher::Device { .. } if !message.topic.windows(5).any(|part| part == b"/app/") => {
                return false;
            }
            Publisher::Device { device, .. } => Some(*device),
            Publisher::Service { .. } => None,
            // A device's presence, and a will that was held back, are for services alone.
            Publisher::Server { .. } if !message.is_to_device() => return false,
            Publisher::Server { .. } => None,
        };
        let Some(audience) = self.audience(&message.topic) else { return false };
        let Ok(topic) = std::str::from_utf8(&message.topic) else { return false };
        // At QoS 0 it is for whoever is connected.
        if message.qos > 0 {
            let inner = self.inner.lock();
            let wants = |owner: &Owner, held: &Held| {
                let from_self = from.is_some() && owner.device() == from;
                held.kept.wants(topic, from_self).is_some_and(|qos| qos as u8 > 0)
            };
            match audience {
                Audience::Device(device) => {
                    let owner = device.into();
                    if inner.held.get(&owner).is_some_and(|held| wants(&owner, held)) {
                        out.push(self.key(&owner));
                    }
                }
                Audience::Everyone(tenant) => {
                    let of_tenant = |device| self.verdicts.name(device).tenant == tenant;
                    let all = inner.held.iter().filter(|(owner, _)| owner.device().is_some_and(of_tenant));
                    out.extend(
                        all.filter(|(owner, held)| wants(owner, held)).map(|(owner, _)| self.key(owner)),
                    );
                }
            }
        }
        true
    }

    fn committed(&self, messages: &[Addressed]) {
        for addressed in messages {
            self.hand_over(addressed);
        }
    }
}
