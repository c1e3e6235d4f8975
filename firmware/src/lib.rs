//! Muster's device.
#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![forbid(unsafe_code)]

pub mod agent;
pub mod command;
pub mod credentials;
pub mod drive;
pub mod enrol;
pub mod entropy;
pub mod log;
pub mod mqtt;
pub mod nor;
pub mod outbox;
pub mod platform;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;
pub mod verify;
pub mod x509;

pub use drive::{Resources, run};
