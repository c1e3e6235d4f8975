//! Who has how much retained, and what of it ends when: what the writer knows of retained messages beside
//! [`Retained`], which shows only what is committed. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use muster_shared::{DeviceId, Tenant};

use super::{
    StoredMessage, StoredPublisher,
    bounds::{Bound, Bounds},
    delta::Delta,
    retained::{Entry, Retained},
};

/// What one of them has retained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Used {
    messages: usize,
    bytes: usize,
}

/// The retained messages as the batch that is being planned leaves them.
#[derive(Debug)]
pub(super) struct Owners {
    /// As of the last commit.
    shown: Arc<Retained>,
    used: HashMap<Arc<str>, Used>,
    /// Octets of them all.
    bytes: usize,
    /// What ends, and when, Unix milliseconds.
    ends: BTreeSet<(u64, Box<str>)>,
}

/// Octets a retained message counts for.
fn size(topic: &str, entry: &Entry) -> usize {
    topic.len() + entry.body.len()
}

/// Whether a topic of the server's own word: the presence of a device.
pub(super) fn is_presence(topic: &str) -> bool {
    topic.split('/').skip(2).eq(["presence"])
}

/// Whether the topic on which a device reads the state it should be in.
fn is_desired(topic: &str) -> bool {
    topic.split('/').skip(2).eq(["twin", "desired"])
}

/// Whose bound a retained message counts against. What the server publishes in a device's place is the
/// device's; what it says of the device is nobody's, one a device, and never refused. What an operator wants of
/// the device is its twin's, beside the device's own: a device that has filled its room still gets it.
pub(super) fn owner(topic: &str, message: &StoredMessage) -> Option<Arc<str>> {
    match &message.publisher {
        StoredPublisher::Service { name, .. } => Some(format!("s/{name}").into()),
        StoredPublisher::Server { .. } if is_presence(topic) => None,
        StoredPublisher::Server { tenant, device_id } if is_desired(topic) => {
            Some(format!("t/{tenant}/{device_id}").into())
        }
        StoredPublisher::Device { tenant, device_id } | StoredPublisher::Server { tenant, device_id } => {
            Some(format!("d/{tenant}/{device_id}").into())
        }
    }
}

fn bound_of(owner: &str, bounds: &Bounds) -> Bound {
    if owner.starts_with("s/") { bounds.retained_service } else { bounds.retained_device }
}

impl Owners {
    /// Of what was read from the file; `shown` shows it from here on.
    pub(super) fn load(shown: Arc<Retained>, all: BTreeMap<Box<str>, Entry>) -> Self {
        let mut owners = Self { shown: shown.clone(), used: HashMap::new(), bytes: 0, ends: BTreeSet::new() };
        for (topic, entry) in &all {
            owners.count(topic, entry);
        }
        shown.replace(all);
        owners
    }

    /// What is retained on a topic once `delta` is committed.
    fn current(&self, topic: &str, delta: &Delta) -> Option<Entry> {
        match delta.retained.get(topic) {
            Some(entry) => entry.clone(),
            None => self.shown.get(topic),
        }
    }

    /// Whether the owner may have this retained, in place of what is there.
    pub(super) fn has_room(&self, topic: &str, entry: &Entry, bounds: &Bounds, delta: &Delta) -> bool {
        let Some(owner) = &entry.owner else { return true };
        let (mut used, mut bytes) = (self.used.get(owner).copied().unwrap_or_default(), self.bytes);
        if let Some(old) = self.current(topic, delta).filter(|old| old.owner.is_some()) {
            bytes -= size(topic, &old);
            if old.owner.as_ref() == Some(owner) {
                used.messages -= 1;
                used.bytes -= size(topic, &old);
            }
        }
        let (bound, more) = (bound_of(owner, bounds), size(topic, entry));
        used.messages < bound.messages
            && used.bytes + more <= bound.bytes
            && bytes + more <= bounds.retained_bytes
    }

    /// Retains a message in place of what is there.
    pub(super) fn put(&mut self, topic: &str, entry: Entry, delta: &mut Delta) {
        self.remove(topic, delta);
        self.count(topic, &entry);
        delta.retained.insert(topic.into(), Some(entry));
    }

    /// Retains nothing on a topic.
    pub(super) fn remove(&mut self, topic: &str, delta: &mut Delta) {
        let Some(old) = self.current(topic, delta) else { return };
        if let Some(expires_ms) = old.expires_ms {
            self.ends.remove(&(expires_ms, topic.into()));
        }
        if let Some(owner) = &old.owner
            && let Some(used) = self.used.get_mut(owner)
        {
            self.bytes -= size(topic, &old);
            used.messages -= 1;
            used.bytes -= size(topic, &old);
            if used.messages == 0 {
                self.used.remove(owner);
            }
        }
        delta.retained.insert(topic.into(), None);
    }

    /// Retains nothing on the device's topics but its presence.
    pub(super) fn purge(&mut self, tenant: &Tenant, device_id: &DeviceId, delta: &mut Delta) {
        let prefix = format!("{tenant}/{device_id}/");
        let mut topics = self.shown.below(&prefix);
        topics.extend(delta.retained.keys().filter(|topic| topic.starts_with(&prefix)).cloned());
        for topic in topics.iter().filter(|topic| !is_presence(topic)) {
            self.remove(topic, delta);
        }
    }

    /// Removes what is over.
    pub(super) fn end(&mut self, now_ms: u64, delta: &mut Delta) {
        while self.ends.first().is_some_and(|(expires_ms, _)| *expires_ms <= now_ms) {
            if let Some((_, topic)) = self.ends.pop_first() {
                self.remove(&topic, delta);
            }
        }
    }

    fn count(&mut self, topic: &str, entry: &Entry) {
        if let Some(expires_ms) = entry.expires_ms {
            self.ends.insert((expires_ms, topic.into()));
        }
        if let Some(owner) = &entry.owner {
            self.bytes += size(topic, entry);
            let used = self.used.entry(owner.clone()).or_default();
            used.messages += 1;
            used.bytes += size(topic, entry);
        }
    }
}
