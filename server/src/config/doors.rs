//! `[mqtt]` and `[https]`: where devices, people and programs come in, and how much may be asked over HTTPS.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use muster_pki::profile::ServerName;

use super::{
    layers::Layers,
    values::{address, choice, count, duration, hosts, networks, optional_path},
};
use crate::{
    api::limits as api,
    edge::{Network, Verify},
};

/// The door for devices.
#[derive(Debug, Clone)]
pub struct Mqtt {
    /// MQTT over TLS; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Names and addresses in the broker's certificate; the endpoint a station installs is one of them.
    pub names: Vec<ServerName>,
    /// Event loops, each with its own accept queue; 0: one per core.
    pub shards: usize,
    /// Balancers in front: they say whose each connection is.
    pub proxy_protocol: Vec<Network>,
    /// How a device's certificate is verified.
    pub verify: Verify,
}

const VERIFY: &[(&str, Verify)] = &[("pinned", Verify::Pinned), ("chain", Verify::Chain)];

/// The door for people and programs.
#[derive(Debug, Clone)]
pub struct Https {
    /// HTTPS; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Names and addresses in the certificate this server issues itself.
    pub names: Vec<ServerName>,
    /// PEM files of a certificate chain and its key, in place of the one this server issues itself.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Largest request body, octets.
    pub body_max: usize,
    /// Longest a request may take, from its first octet to the answer's.
    pub request: Duration,
    /// Most connections at once.
    pub connections_max: usize,
    /// How much may be asked.
    pub limits: api::Limits,
}

impl Mqtt {
    pub(super) fn take(layers: &mut Layers<'_>) -> Self {
        Self {
            listen: address(layers, "mqtt.listen", "127.0.0.1:8883"),
            names: hosts(layers, "mqtt.names"),
            shards: count(layers, "mqtt.shards", 0, 0..=256),
            proxy_protocol: networks(layers, "mqtt.proxy_protocol"),
            verify: choice(layers, "mqtt.verify", Verify::Pinned, VERIFY),
        }
    }
}

impl Https {
    pub(super) fn take(layers: &mut Layers<'_>, base: &Path) -> Self {
        let listen = address(layers, "https.listen", "127.0.0.1:8443");
        let names = hosts(layers, "https.names");
        let certificate = optional_path(layers, "https.certificate", base);
        let key = optional_path(layers, "https.key", base);
        match (&certificate, &key) {
            (Some(_), None) => layers.reject("https.certificate", "https.key is missing beside it"),
            (None, Some(_)) => layers.reject("https.key", "https.certificate is missing beside it"),
            _ => {}
        }
        Self {
            listen,
            names,
            certificate: certificate.zip(key),
            // A manifest row is below 2 kB; this is a batch of more than 30 000 devices.
            body_max: count(layers, "https.body_max", 64 << 20, 64 << 10..=1 << 30),
            request: duration(layers, "https.request", Duration::from_secs(60)),
            connections_max: count(layers, "https.connections_max", 512, 4..=65_536),
            limits: asking(layers),
        }
    }
}

/// How much may be asked of the API.
fn asking(layers: &mut Layers<'_>) -> api::Limits {
    use api::{JSON_MAX_LEAST, JSON_MAX_MOST, STREAMS_MAX};
    let default = api::Limits::default();
    let limits = api::Limits {
        requests_per_s: count(layers, "https.requests_per_s", default.requests_per_s, 1..=1_000_000),
        requests_burst: count(layers, "https.requests_burst", default.requests_burst, 1..=10_000_000),
        streams_each: count(layers, "https.streams_each", default.streams_each, 1..=STREAMS_MAX),
        streams_max: count(layers, "https.streams_max", default.streams_max, 1..=STREAMS_MAX),
        json_max: count(layers, "https.json_max", default.json_max, JSON_MAX_LEAST..=JSON_MAX_MOST),
        sign_in_failures_max: count(
            layers,
            "https.sign_in_failures_max",
            default.sign_in_failures_max,
            2..=10_000,
        ),
    };
    if limits.streams_each > limits.streams_max {
        let most = limits.streams_max;
        layers.reject("https.streams_each", format!("at most {most} is wanted, which is https.streams_max"));
    }
    limits
}
