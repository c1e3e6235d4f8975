//! How a continuity token travels: an MQTT 5 user property of CONNECT and CONNACK.
//!
//! The server gives a device a token in CONNACK; the device keeps it and shows it in its next CONNECT, where
//! it is given another. To the device it is text without a meaning, of at most
//! [`CONTINUITY_MAX`](crate::limits::CONTINUITY_MAX) octets.

/// The property's name.
pub const PROPERTY: &str = "muster-continuity";
