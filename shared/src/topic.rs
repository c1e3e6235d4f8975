//! The only place a topic is spelled, and the only place that says what a device may do with one.
//!
//! ```text
//! {tenant}/{device_id}/telemetry/{stream}        device → fleet
//! {tenant}/{device_id}/twin/reported             device → fleet
//! {tenant}/{device_id}/twin/desired              fleet → device
//! {tenant}/{device_id}/command/{id}/request      fleet → device
//! {tenant}/{device_id}/command/{id}/response     device → fleet
//! {tenant}/{device_id}/credential/csr            device → fleet
//! {tenant}/{device_id}/credential/certificate    fleet → device
//! {tenant}/{device_id}/app/#                     both ways
//! {tenant}/{device_id}/presence                  server → services, retained
//! {tenant}/~all/#                                fleet → every device of the tenant
//! ```
//!
//! `~` is outside the alphabet of ids, so no device is named `~all`.

use core::fmt;

use crate::{
    id::{DeviceId, IdError, Tenant},
    limits::{ID_MAX, SERVICE_TOPIC_LEVELS_MAX, SERVICE_TOPIC_MAX, TOPIC_LEVELS_MAX, TOPIC_MAX},
};

/// The second level that addresses every device of a tenant.
pub const EVERY_DEVICE: &str = "~all";

/// A parsed topic: whose it is, and what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic<'a> {
    /// Of one device.
    Device {
        /// First level.
        tenant: &'a str,
        /// Second level.
        device: &'a str,
        /// The rest.
        kind: Kind<'a>,
    },
    /// To every device of a tenant; the rest of the path is free.
    Everyone {
        /// First level.
        tenant: &'a str,
        /// What follows `~all/`.
        path: &'a str,
    },
}

/// What a device's topic carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind<'a> {
    /// Measurements of one stream.
    Telemetry {
        /// The stream's name, in the alphabet of ids.
        stream: &'a str,
    },
    /// What the device says its state is.
    TwinReported,
    /// What the fleet wants its state to be.
    TwinDesired,
    /// A command to the device.
    CommandRequest {
        /// The command's id, in the alphabet of ids.
        id: &'a str,
    },
    /// Its answer.
    CommandResponse {
        /// The command's id, in the alphabet of ids.
        id: &'a str,
    },
    /// A request for an operational certificate.
    CredentialCsr,
    /// The certificate.
    CredentialCertificate,
    /// The application's own, both ways.
    App {
        /// What follows `app/`.
        path: &'a str,
    },
    /// Online or offline, with the reason.
    Presence,
}

/// Who sends on a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The device publishes.
    Uplink,
    /// The fleet publishes to the device.
    Downlink,
    /// Either.
    Both,
    /// The server publishes to services; no device takes part.
    Server,
}

/// How long and how deep a topic or filter may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Octets.
    pub octets: usize,
    /// Levels.
    pub levels: usize,
}

impl Bounds {
    /// Of a device, and of whatever a device is to be handed: what its buffer holds.
    pub const DEVICE: Self = Self { octets: TOPIC_MAX, levels: TOPIC_LEVELS_MAX };
    /// Nobody's are wider: as long as MQTT can write them.
    pub const WIDEST: Self = Self { octets: SERVICE_TOPIC_MAX, levels: SERVICE_TOPIC_LEVELS_MAX };
}

/// Why a text is not one of our topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Empty text.
    #[error("topic is empty")]
    Empty,
    /// Longer than its bound.
    #[error("topic is {octets} octets long, at most {max} are allowed")]
    TooLong {
        /// Its length.
        octets: usize,
        /// The bound.
        max: usize,
    },
    /// More levels than its bound.
    #[error("topic has more than {max} levels")]
    TooDeep {
        /// The bound.
        max: usize,
    },
    /// A wildcard, NUL or other control character, or a noncharacter (MQTT 5.0 §1.5.4, §4.7).
    #[error("topic has a character that is not allowed there: U+{0:04X}")]
    Character(u32),
    /// `#` before the end, or a wildcard sharing a level (MQTT 5.0 §4.7.1).
    #[error("topic filter has a wildcard out of place")]
    Wildcard,
    /// A level that should be an id is not one.
    #[error(transparent)]
    Id(#[from] IdError),
    /// None of the topics of the table.
    #[error("no such topic")]
    Unknown,
}

/// Why a device may not use a topic or filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// Not a topic at all.
    #[error(transparent)]
    Malformed(#[from] TopicError),
    /// Another device's, another tenant's, or nobody's.
    #[error("topic belongs to somebody else")]
    NotItsTopic,
    /// Its own, but the fleet is who publishes there.
    #[error("the device does not publish on this topic")]
    NotItsDirection,
}

impl<'a> Topic<'a> {
    /// Parses a topic name (never a filter: wildcards are refused).
    ///
    /// # Errors
    /// [`TopicError`] says what is wrong with it.
    pub fn parse(text: &'a str) -> Result<Self, TopicError> {
        check_name(text, Bounds::DEVICE)?;
        let (tenant, rest) = text.split_once('/').ok_or(TopicError::Unknown)?;
        let (device, rest) = rest.split_once('/').ok_or(TopicError::Unknown)?;
        Tenant::new(tenant)?;
        if device == EVERY_DEVICE {
            return match rest {
                "" => Err(TopicError::Unknown),
                path => Ok(Topic::Everyone { tenant, path }),
            };
        }
        DeviceId::new(device)?;
        let kind = Kind::parse(rest)?;
        Ok(Topic::Device { tenant, device, kind })
    }

    /// The topic of `device` that carries `kind`.
    #[must_use]
    pub fn of(tenant: &'a Tenant, device: &'a DeviceId, kind: Kind<'a>) -> Self {
        Topic::Device { tenant: tenant.as_str(), device: device.as_str(), kind }
    }

    /// The topic as text in a buffer of its own.
    ///
    /// # Errors
    /// [`TopicError::TooLong`] when an application path makes it longer than [`TOPIC_MAX`].
    pub fn text(&self) -> Result<heapless::String<TOPIC_MAX>, TopicError> {
        let mut out = heapless::String::new();
        fmt::Write::write_fmt(&mut out, format_args!("{self}"))
            .map_err(|_| TopicError::TooLong { octets: TOPIC_MAX + 1, max: TOPIC_MAX })?;
        Ok(out)
    }
}

impl<'a> Kind<'a> {
    fn parse(rest: &'a str) -> Result<Self, TopicError> {
        let name = |text: &'a str| DeviceId::new(text).map(|_| text).map_err(TopicError::Id);
        let (first, tail) = match rest.split_once('/') {
            None if rest == "presence" => return Ok(Kind::Presence),
            None => return Err(TopicError::Unknown),
            Some(pair) => pair,
        };
        match (first, tail) {
            ("telemetry", stream) => Ok(Kind::Telemetry { stream: name(stream)? }),
            ("twin", "reported") => Ok(Kind::TwinReported),
            ("twin", "desired") => Ok(Kind::TwinDesired),
            ("credential", "csr") => Ok(Kind::CredentialCsr),
            ("credential", "certificate") => Ok(Kind::CredentialCertificate),
            ("command", tail) => match tail.split_once('/') {
                Some((id, "request")) => Ok(Kind::CommandRequest { id: name(id)? }),
                Some((id, "response")) => Ok(Kind::CommandResponse { id: name(id)? }),
                _ => Err(TopicError::Unknown),
            },
            ("app", path) if !path.is_empty() => Ok(Kind::App { path }),
            _ => Err(TopicError::Unknown),
        }
    }

    /// Who sends on it.
    #[must_use]
    pub fn direction(&self) -> Direction {
        match self {
            Kind::Telemetry { .. }
            | Kind::TwinReported
            | Kind::CommandResponse { .. }
            | Kind::CredentialCsr => Direction::Uplink,
            Kind::TwinDesired | Kind::CommandRequest { .. } | Kind::CredentialCertificate => {
                Direction::Downlink
            }
            Kind::App { .. } => Direction::Both,
            Kind::Presence => Direction::Server,
        }
    }
}

impl fmt::Display for Topic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topic::Device { tenant, device, kind } => write!(f, "{tenant}/{device}/{kind}"),
            Topic::Everyone { tenant, path } => write!(f, "{tenant}/{EVERY_DEVICE}/{path}"),
        }
    }
}

impl fmt::Display for Kind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Telemetry { stream } => write!(f, "telemetry/{stream}"),
            Kind::TwinReported => f.write_str("twin/reported"),
            Kind::TwinDesired => f.write_str("twin/desired"),
            Kind::CommandRequest { id } => write!(f, "command/{id}/request"),
            Kind::CommandResponse { id } => write!(f, "command/{id}/response"),
            Kind::CredentialCsr => f.write_str("credential/csr"),
            Kind::CredentialCertificate => f.write_str("credential/certificate"),
            Kind::App { path } => write!(f, "app/{path}"),
            Kind::Presence => f.write_str("presence"),
        }
    }
}

/// May the device publish on this topic? Returns what the topic carries.
///
/// # Errors
/// [`Forbidden`] says why not.
pub fn may_publish<'a>(tenant: &Tenant, device: &DeviceId, topic: &'a str) -> Result<Kind<'a>, Forbidden> {
    match owned(tenant, device, topic)? {
        Some(kind) => match kind.direction() {
            Direction::Uplink | Direction::Both => Ok(kind),
            Direction::Downlink | Direction::Server => Err(Forbidden::NotItsDirection),
        },
        None => Err(Forbidden::NotItsDirection),
    }
}

/// May the device be handed a message on this topic? What a granted filter delivers is narrowed by this.
#[must_use]
pub fn may_receive(tenant: &Tenant, device: &DeviceId, topic: &str) -> bool {
    match owned(tenant, device, topic) {
        Ok(Some(kind)) => matches!(kind.direction(), Direction::Downlink | Direction::Both),
        Ok(None) => true,
        Err(_) => false,
    }
}

/// May the device hold this subscription? A filter inside its own prefix, or inside `~all`, is granted;
/// [`may_receive`] narrows what it delivers. Shared subscriptions and `$` filters are not a device's.
///
/// # Errors
/// [`Forbidden`] says why not.
pub fn may_subscribe(tenant: &Tenant, device: &DeviceId, filter: &str) -> Result<(), Forbidden> {
    check_filter(filter, Bounds::DEVICE)?;
    let mut levels = filter.splitn(3, '/');
    let mine = levels.next() == Some(tenant.as_str());
    let second = levels.next();
    let inside = second == Some(device.as_str()) || second == Some(EVERY_DEVICE);
    match levels.next() {
        Some(rest) if mine && inside && !rest.is_empty() => Ok(()),
        _ => Err(Forbidden::NotItsTopic),
    }
}

/// The kind of a topic of this device; `None` for a topic to everyone of its tenant.
fn owned<'a>(tenant: &Tenant, device: &DeviceId, topic: &'a str) -> Result<Option<Kind<'a>>, Forbidden> {
    // Whose it is comes first: a stranger's topic is refused as such, well spelled or not.
    let foreign = |topic: &str| {
        let mut levels = topic.split('/');
        levels.next() != Some(tenant.as_str())
            || !matches!(levels.next(), Some(second) if second == device.as_str() || second == EVERY_DEVICE)
    };
    match Topic::parse(topic) {
        Ok(Topic::Device { tenant: t, device: d, kind }) if t == tenant.as_str() && d == device.as_str() => {
            Ok(Some(kind))
        }
        Ok(Topic::Everyone { tenant: t, .. }) if t == tenant.as_str() => Ok(None),
        Ok(_) => Err(Forbidden::NotItsTopic),
        Err(e @ (TopicError::Id(_) | TopicError::Unknown)) if !foreign(topic) => Err(e.into()),
        Err(TopicError::Id(_) | TopicError::Unknown) => Err(Forbidden::NotItsTopic),
        Err(e) => Err(e.into()),
    }
}

/// Is this a well-formed topic filter, within these bounds (MQTT 5.0 §4.7.1)?
///
/// # Errors
/// [`TopicError`] says what is wrong with it.
pub fn check_filter(filter: &str, bounds: Bounds) -> Result<(), TopicError> {
    check_text(filter, bounds)?;
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let wild = level.contains(['+', '#']);
        let last = levels.peek().is_none();
        if wild && !(level == "+" || (level == "#" && last)) {
            return Err(TopicError::Wildcard);
        }
    }
    Ok(())
}

/// Does a topic name match a filter (MQTT 5.0 §4.7)? A filter that starts with a wildcard does not
/// match a topic that starts with `$` [MQTT-4.7.2-1].
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut filter = filter.split('/');
    let mut topic = topic.split('/');
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(f), Some(t)) if f == t => {}
            _ => return false,
        }
    }
}

/// Checks a topic name, anybody's: well-formed, within these bounds, and without wildcards [MQTT-3.3.2-2].
///
/// # Errors
/// [`TopicError`] says what is wrong with it.
pub fn check_name(text: &str, bounds: Bounds) -> Result<(), TopicError> {
    check_text(text, bounds)?;
    match text.chars().find(|c| matches!(c, '+' | '#')) {
        Some(wildcard) => Err(TopicError::Character(wildcard as u32)),
        None => Ok(()),
    }
}

fn check_text(text: &str, bounds: Bounds) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > bounds.octets {
        return Err(TopicError::TooLong { octets: text.len(), max: bounds.octets });
    }
    if text.bytes().filter(|&b| b == b'/').count() >= bounds.levels {
        return Err(TopicError::TooDeep { max: bounds.levels });
    }
    let odd = |c: &char| {
        let c = *c as u32;
        c < 0x20 || (0x7f..0xa0).contains(&c) || (0xfdd0..0xfdf0).contains(&c) || c & 0xfffe == 0xfffe
    };
    match text.chars().find(odd) {
        Some(c) => Err(TopicError::Character(c as u32)),
        None => Ok(()),
    }
}

const _: () = assert!(ID_MAX > EVERY_DEVICE.len());
