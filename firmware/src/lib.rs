//! Muster's device.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod drive;
pub mod nor;
pub mod platform;
pub mod tls;
pub mod verify;
pub mod x509;

pub use drive::{Resources, run};
