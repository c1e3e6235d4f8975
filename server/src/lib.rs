//! Muster's server: the device edge, the registry, its API and the operator's commands.
//!
//! One process, `muster serve`, holds three long-lived parts: the **edge**, which speaks MQTT over
//! mutual TLS to devices; the **registry** with the **uplink log**, which are what survives; and the
//! **API** over HTTPS, which is the only way in for people and programs. Every operator command is a
//! client of that API.
//!
//! ```text
//!   device ──TLS── edge ──► uplink log ──► bus ──► readers
//!                   │ verdict  ▲ verdict, again at commit
//!                   ▼          │
//!                 registry ────┘◄── api ──HTTPS── muster <noun> <verb>
//! ```
//!
//! # Invariants
//!
//! - The registry alone decides whether a device may talk now. The edge asks it before and after it
//!   makes room for a session, and the uplink log asks it again at every commit.
//! - PUBACK means the transaction that holds the message has returned from fsync.
//! - A decision (suspend, revoke, …) is answered only when nothing of that device can be accepted any
//!   more; its sockets are closed after the answer is certain, never before.
//! - Every refusal is a [`muster_shared::Code`]: the same words on the wire, in the API, in the audit
//!   log and on the terminal.
//! - The process that serves never holds the root key or a factory key. The HTTPS certificate is never
//!   one of the broker CA.
//! - Only `edge` sees device sockets, only `registry` and `uplink` see sqlx, only `api` sees axum, only
//!   `bus` sees rumqttd.
//!
//! # Map
//!
//! | module | is |
//! |---|---|
//! | [`config`] | one typed TOML file; where each value came from |
//! | [`init`] | what `muster init` writes: keys, certificates, the first token |
//! | [`app`] | ordered start and stop of everything below |
//! | [`certificate`] | what this server shows of itself: issued by itself, renewed by itself |
//! | [`edge`] | MQTT over mutual TLS: devices, and nobody else |
//! | [`registry`] | what every device is, may do and did; who decided it |
//! | [`zero_touch`] | devices that are registered by their own first connection, where a tenant allows it |
//! | [`revocation`] | the order in which a decision ends what a device may do |
//! | [`twin`] | carries the state a device should be in to where the device reads it |
//! | [`bus`] | carries the fresh tail of the log to who reads it |
//! | [`uplink`] | the durable log that PUBACK waits for |
//! | [`api`] | HTTPS routes: parse, ask the registry, render |
//! | [`cli`] | the operator's commands: grammar, tables, error anatomy, exit codes |

#![forbid(unsafe_code)]

pub mod api;
pub mod app;
pub mod backup;
pub mod bus;
pub mod certificate;
pub mod cli;
pub mod config;
pub mod edge;
mod https;
pub mod init;
pub mod issued;
pub mod registry;
mod retention;
pub mod revocation;
mod span;
pub mod twin;
pub mod uplink;
pub mod zero_touch;
