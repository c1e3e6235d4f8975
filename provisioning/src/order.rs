//! What a unit is to become: where it will connect, and what it must be to be taken.

use std::path::Path;

use muster_shared::{
    Code,
    factory::Endpoint,
    limits::{HOST_MAX, NONCE},
    vendor::HARDWARE_MAX,
};
use serde::Deserialize;

use crate::fault::Fault;

const _: () = assert!(NONCE == 32, "a nonce is as long as a digest");

/// An order's settings, as a file or flags give them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawOrder {
    /// Host name or IPv4 address devices connect to.
    pub host: Option<String>,
    /// TCP port; 8883 unless given.
    pub port: Option<u16>,
    /// The name the broker's certificate must carry; the host unless given.
    pub server_name: Option<String>,
    /// MQTT keep-alive, seconds; 60 unless given.
    pub keep_alive_s: Option<u16>,
    /// Seconds between telemetry messages; 10 unless given.
    pub telemetry_s: Option<u16>,
    /// Longest wait before a reconnect, seconds; 900 unless given.
    pub retry_s_max: Option<u16>,
    /// The board's kind; any unless given.
    pub hardware: Option<String>,
    /// SHA-256 of the firmware image, hexadecimal; any unless given.
    pub firmware_digest: Option<String>,
}

/// Valid settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Host name or IPv4 address devices connect to.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The name the broker's certificate must carry.
    pub server_name: String,
    /// MQTT keep-alive, seconds.
    pub keep_alive_s: u16,
    /// Seconds between telemetry messages.
    pub telemetry_s: u16,
    /// Longest wait before a reconnect, seconds.
    pub retry_s_max: u16,
    /// The board's kind, where the order names one (E04).
    pub hardware: Option<String>,
    /// SHA-256 of the firmware image, where the order names one (E03).
    pub firmware_digest: Option<[u8; 32]>,
}

impl RawOrder {
    /// Reads an order's TOML file; unknown keys are refused.
    ///
    /// # Errors
    /// A [`Fault`] that names file and line.
    pub fn read(path: &Path) -> Result<Self, Fault> {
        let place = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text =
            std::fs::read_to_string(path).map_err(|error| Fault::new(Code::FileUnreadable, place(&error)))?;
        toml::from_str(&text)
            .map_err(|error| Fault::new(Code::UsageWrong, place(&error)).next("correct the order file"))
    }

    /// What is given here, else what `below` gives.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            host: self.host.or(below.host),
            port: self.port.or(below.port),
            server_name: self.server_name.or(below.server_name),
            keep_alive_s: self.keep_alive_s.or(below.keep_alive_s),
            telemetry_s: self.telemetry_s.or(below.telemetry_s),
            retry_s_max: self.retry_s_max.or(below.retry_s_max),
            hardware: self.hardware.or(below.hardware),
            firmware_digest: self.firmware_digest.or(below.firmware_digest),
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// A [`Fault`] that names the value.
    pub fn valid(self) -> Result<Order, Fault> {
        let wrong = |place: String| Fault::new(Code::UsageWrong, place).next("muster-factory run --help");
        let host = self.host.ok_or_else(|| {
            wrong("no endpoint: where will the device connect?".to_owned()).next("give --endpoint HOST:PORT")
        })?;
        let fits = |name: &str| {
            (1..=HOST_MAX).contains(&name.len()) && name.bytes().all(|octet| octet.is_ascii_graphic())
        };
        let server_name = self.server_name.unwrap_or_else(|| host.clone());
        if !fits(&host) {
            return Err(wrong(format!("host {host:?} is not 1 to {HOST_MAX} printable characters")));
        }
        if server_name.parse::<muster_pki::profile::ServerName>().is_err() || !fits(&server_name) {
            return Err(wrong(format!("server name {server_name:?} is neither a DNS name nor an address")));
        }
        if self.port == Some(0) {
            return Err(wrong("port 0 cannot be connected to".to_owned()));
        }
        if let Some(hardware) = self.hardware.as_ref().filter(|name| name.len() > HARDWARE_MAX) {
            return Err(wrong(format!("hardware {hardware:?} is longer than {HARDWARE_MAX} octets")));
        }
        let firmware_digest = match self.firmware_digest {
            None => None,
            Some(text) => match text.parse::<muster_shared::CertificateId>() {
                Ok(digest) => Some(digest.0),
                Err(_) => {
                    return Err(wrong(format!("firmware digest {text:?} is not 64 hexadecimal digits")));
                }
            },
        };
        Ok(Order {
            host,
            port: self.port.unwrap_or(8883),
            server_name,
            keep_alive_s: self.keep_alive_s.unwrap_or(60),
            telemetry_s: self.telemetry_s.unwrap_or(10),
            retry_s_max: self.retry_s_max.unwrap_or(900),
            hardware: self.hardware,
            firmware_digest,
        })
    }
}

impl Order {
    /// The endpoint as the device takes it.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint<'_> {
        Endpoint {
            host: &self.host,
            port: self.port,
            server_name: &self.server_name,
            keep_alive_s: self.keep_alive_s,
            telemetry_s: self.telemetry_s,
            retry_s_max: self.retry_s_max,
        }
    }
}

/// Splits `HOST:PORT`; an IPv6 address stands in brackets.
///
/// # Errors
/// A [`Fault`] when there is no port.
pub fn endpoint(text: &str) -> Result<(String, u16), Fault> {
    let split = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    match split {
        Some((host, port)) if !host.is_empty() => {
            Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
        }
        _ => Err(Fault::new(Code::UsageWrong, format!("endpoint {text:?} is not HOST:PORT"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> RawOrder {
        RawOrder {
            host: Some("10.0.2.2".into()),
            server_name: Some("localhost".into()),
            ..RawOrder::default()
        }
    }

    #[test]
    fn flags_stand_over_the_file() {
        let file: RawOrder = toml::from_str("host = \"broker.example\"\nport = 1\nhardware = \"x\"").unwrap();
        let order = raw().over(file).valid().unwrap();
        assert_eq!((order.host.as_str(), order.port, order.hardware.as_deref()), ("10.0.2.2", 1, Some("x")));
    }

    #[test]
    fn unknown_keys_and_odd_values_are_refused() {
        assert!(toml::from_str::<RawOrder>("hots = \"x\"").is_err());
        for odd in [
            RawOrder { host: None, ..raw() },
            RawOrder { host: Some(String::new()), ..raw() },
            RawOrder { host: Some("a b".into()), ..raw() },
            RawOrder { host: Some("h".repeat(254)), ..raw() },
            RawOrder { server_name: Some("a b".into()), ..raw() },
            RawOrder { port: Some(0), ..raw() },
            RawOrder { hardware: Some("h".repeat(25)), ..raw() },
            RawOrder { firmware_digest: Some("abc".into()), ..raw() },
        ] {
            assert_eq!(odd.clone().valid().unwrap_err().code, Code::UsageWrong, "{odd:?}");
        }
    }

    #[test]
    fn endpoints() {
        assert_eq!(endpoint("10.0.2.2:8883").unwrap(), ("10.0.2.2".into(), 8883));
        assert_eq!(endpoint("[::1]:1").unwrap(), ("::1".into(), 1));
        for odd in ["host", ":1", "host:", "host:70000", ""] {
            assert!(endpoint(odd).is_err(), "{odd}");
        }
    }
}
