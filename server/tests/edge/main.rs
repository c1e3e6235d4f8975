//! The edge over real sockets: devices with certificates of a hierarchy made in memory, a registry and an
//! uplink log on real files, and clients that are not ours to judge by.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

mod bounds;
mod client;
mod door;
mod groups;
mod hostile;
mod independent;
mod kept;
mod life;
mod refused;
mod revoke;
mod services;
mod site;
mod twice;
mod wills;
