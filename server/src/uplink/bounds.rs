//! How much may be kept beside the log, with the edge's limits as its source.

use crate::edge::limits;

/// A bound in messages and in octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Messages.
    pub messages: usize,
    /// Octets.
    pub bytes: usize,
}

/// Every bound of what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Retained messages of one device.
    pub retained_device: Bound,
    /// Retained messages of one service.
    pub retained_service: Bound,
    /// Octets of retained messages of all devices and services.
    pub retained_bytes: usize,
    /// What waits for one session.
    pub queue: Bound,
    /// Sessions of one service.
    pub service_sessions: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            retained_device: Bound {
                messages: limits::RETAINED_DEVICE_MAX,
                bytes: limits::RETAINED_DEVICE_BYTES_MAX,
            },
            retained_service: Bound {
                messages: limits::RETAINED_SERVICE_MAX,
                bytes: limits::RETAINED_SERVICE_BYTES_MAX,
            },
            retained_bytes: limits::RETAINED_BYTES_MAX,
            queue: Bound { messages: limits::QUEUE_MAX, bytes: limits::QUEUE_BYTES_MAX },
            service_sessions: limits::SERVICE_SESSIONS_MAX,
        }
    }
}
