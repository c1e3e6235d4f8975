//! One kind of value each: how it is read, what fits, how it is shown.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use muster_pki::profile::{ServerName, ServerNameError};

use super::layers::{Layers, Raw};
use crate::edge::{Network, NetworkError};

pub(super) fn address(layers: &mut Layers<'_>, key: &'static str, default: &str) -> SocketAddr {
    let default = default.parse().expect("a literal address");
    let parse = |raw: &Raw| {
        let cause = "an IP address and a port are wanted, such as 127.0.0.1:8883 or [::]:8883";
        words(raw)?.parse().map_err(|_| cause.to_owned())
    };
    layers.take(key, default, parse, SocketAddr::to_string)
}

pub(super) fn path(layers: &mut Layers<'_>, key: &'static str, base: &Path, default: PathBuf) -> PathBuf {
    let parse = |raw: &Raw| match raw {
        Raw::Text(text) if text.is_empty() => Err("a path is wanted".to_owned()),
        Raw::Text(text) if text == "." => Ok(base.to_owned()),
        Raw::Text(text) => Ok(base.join(text)),
        other => words(other).map(PathBuf::from),
    };
    layers.take(key, default, parse, |path| path.display().to_string())
}

pub(super) fn optional_path(layers: &mut Layers<'_>, key: &'static str, base: &Path) -> Option<PathBuf> {
    let parse = |raw: &Raw| match raw {
        Raw::Text(text) if !text.is_empty() => Ok(Some(base.join(text))),
        Raw::Words(text) => Ok(Some(PathBuf::from(text))),
        _ => Err("a path is wanted".to_owned()),
    };
    let show = |path: &Option<PathBuf>| {
        path.as_ref().map_or("none; this server issues its own".to_owned(), |path| path.display().to_string())
    };
    layers.take(key, None, parse, show)
}

pub(super) fn hosts(layers: &mut Layers<'_>, key: &'static str) -> Vec<ServerName> {
    let default = ["localhost", "127.0.0.1", "muster.local"].map(|name| name.parse().expect("a name"));
    let parse = |raw: &Raw| {
        let names = match raw {
            Raw::List(items) => items.clone(),
            Raw::Words(text) => text.split(',').map(|item| item.trim().to_owned()).collect(),
            _ => return Err("a list of host names and addresses is wanted".to_owned()),
        };
        if names.is_empty() {
            return Err("at least one name is wanted; a certificate without one fits nobody".to_owned());
        }
        names.iter().map(|name| name.parse().map_err(|error: ServerNameError| error.to_string())).collect()
    };
    let show = |names: &Vec<ServerName>| {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        names.join(",")
    };
    layers.take(key, default.to_vec(), parse, show)
}

/// A list of networks; empty by default.
pub(super) fn networks(layers: &mut Layers<'_>, key: &'static str) -> Vec<Network> {
    let parse = |raw: &Raw| {
        let all = match raw {
            Raw::List(items) => items.clone(),
            Raw::Words(text) => text.split(',').map(|item| item.trim().to_owned()).collect(),
            _ => return Err("a list of addresses and networks is wanted".to_owned()),
        };
        all.iter().map(|one| one.parse().map_err(|error: NetworkError| format!("{one:?}: {error}"))).collect()
    };
    let show = |networks: &Vec<Network>| {
        let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
        networks.join(",")
    };
    layers.take(key, Vec::new(), parse, show)
}

pub(super) fn text(layers: &mut Layers<'_>, key: &'static str, default: &str) -> String {
    layers.take(key, default.to_owned(), words, String::clone)
}

pub(super) fn switch(layers: &mut Layers<'_>, key: &'static str, default: bool) -> bool {
    let parse = |raw: &Raw| match raw {
        Raw::Switch(on) => Ok(*on),
        Raw::Words(text) if text == "true" || text == "1" => Ok(true),
        Raw::Words(text) if text == "false" || text == "0" => Ok(false),
        _ => Err("true or false is wanted".to_owned()),
    };
    layers.take(key, default, parse, bool::to_string)
}

pub(super) fn count<N>(
    layers: &mut Layers<'_>,
    key: &'static str,
    default: N,
    range: std::ops::RangeInclusive<N>,
) -> N
where
    N: TryFrom<i64> + PartialOrd + std::fmt::Display,
{
    let parse = |raw: &Raw| {
        let number = match raw {
            Raw::Number(number) => Some(*number),
            Raw::Words(text) => text.parse().ok(),
            _ => None,
        };
        number
            .and_then(|number| N::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("a whole number from {} to {} is wanted", range.start(), range.end()))
    };
    layers.take(key, default, parse, N::to_string)
}

/// From one millisecond to one day.
pub(super) fn duration(layers: &mut Layers<'_>, key: &'static str, default: Duration) -> Duration {
    let parse = |raw: &Raw| {
        parse_duration(&words(raw)?)
            .filter(|span| (Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(span))
            .ok_or_else(|| "a time is wanted, such as 500ms, 10s or 2m, up to 24h".to_owned())
    };
    layers.take(key, default, parse, show_duration)
}

/// `500ms`, `10s`, `2m`, `1h`.
#[must_use]
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(ms).map(Duration::from_millis)
}

pub(super) fn show_duration(span: &Duration) -> String {
    match span.as_millis() {
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

pub(super) fn choice<T: Copy + PartialEq>(
    layers: &mut Layers<'_>,
    key: &'static str,
    default: T,
    names: &'static [(&'static str, T)],
) -> T {
    let parse = |raw: &Raw| {
        let wanted = words(raw)?;
        names.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
            format!("one of {} is wanted", names.join(", "))
        })
    };
    let show = |value: &T| {
        let name = names.iter().find(|(_, of)| of == value).map_or("", |(name, _)| *name);
        name.to_owned()
    };
    layers.take(key, default, parse, show)
}

pub(super) fn server(raw: &Raw) -> Result<String, String> {
    let url = words(raw)?;
    let cause = || "an address such as https://muster.example:8443 is wanted".to_owned();
    let uri: hyper::Uri = url.parse().map_err(|_| cause())?;
    let plain = uri.path() == "/" && uri.query().is_none() && uri.host().is_some_and(|host| !host.is_empty());
    let credentials = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if uri.scheme_str() != Some("https") || !plain || credentials {
        return Err(cause());
    }
    Ok(url.trim_end_matches('/').to_owned())
}

pub(super) fn words(raw: &Raw) -> Result<String, String> {
    match raw {
        Raw::Words(text) | Raw::Text(text) => Ok(text.clone()),
        _ => Err("a text is wanted".to_owned()),
    }
}
