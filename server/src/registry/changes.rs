//! What a reader of decisions is told, after the commit and the flip.

use muster_shared::{BatchId, Generation, StationId};

use super::{
    decide::Decided,
    device::{Act, DeviceState},
    group::Group,
    orders::Order,
    verdict::DeviceKey,
};

/// One decision, as its readers hear of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The generation it made.
    pub generation: Generation,
    /// Its row in the audit log.
    pub audit_no: u64,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// What changed.
    pub what: What,
}

/// What a decision changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A device's state.
    Device {
        /// Which device.
        device: DeviceKey,
        /// What was done.
        act: Act,
        /// The state before.
        from: DeviceState,
        /// The state now.
        to: DeviceState,
    },
    /// A group's state, and so what its members may do.
    Group {
        /// Which group.
        group: Group,
        /// What was done.
        act: Act,
        /// Its state before.
        from: DeviceState,
        /// Its state now.
        to: DeviceState,
    },
    /// A manifest's devices are known.
    Imported {
        /// Whose batch.
        batch: BatchId,
        /// Devices that are new.
        registered: u64,
    },
    /// A station is registered, or its record was replaced.
    StationTrusted(StationId),
    /// A station's manifests do not form one chain: nothing more is taken from it.
    StationStopped(StationId),
    /// Something was ordered of a device; its state is as it was.
    Ordered {
        /// Which device.
        device: DeviceKey,
        /// What.
        order: Order,
    },
    /// Operators, tokens, or the root.
    Access,
    /// How long what was seen is kept.
    Retention,
}

impl From<&Decided> for Change {
    fn from(d: &Decided) -> Self {
        Self {
            generation: d.generation,
            audit_no: d.audit_no,
            at_ms: d.decided_at_ms,
            what: What::Device { device: d.device, act: d.act, from: d.from, to: d.to },
        }
    }
}
