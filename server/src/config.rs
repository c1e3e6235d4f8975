//! One typed TOML file: read raw, then checked. Unknown keys are refused; every value knows where it
//! came from.
//!
//! A value is looked for in this order: flag, `MUSTER_*` environment variable, file, default. The file is
//! `--config FILE`, else `MUSTER_CONFIG`, else `muster.toml` in the data directory. A path in the file is
//! relative to the file; a path in a flag or variable is relative to the working directory.
//! `server/muster.sample.toml` has every key with its default; a test keeps it so.

mod client;
mod doors;
mod layers;
mod reading;
mod registry;
mod services;
mod values;
mod zero_touch;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use muster_shared::limits::{PACKET_MAX, SERVICE_TOPIC_MAX, TOPIC_MAX};

use crate::{
    edge::{
        clones::{Policy, Response},
        limits::{self, SessionLimits},
    },
    registry::retention::{Period, Periods},
    uplink::{Bound, Bounds},
};

pub use client::{Client, Color, Output};
pub use doors::{Https, Mqtt};
use layers::Layers;
pub use layers::{ConfigFault, Setting, Source};
pub use registry::Registry;
pub use services::ServiceEntry;
use values::{choice, count, duration, path, switch, text};
pub use zero_touch::{ApprovalEntry, ZeroTouchEntry};

/// Every key with its default and what it is for.
pub const SAMPLE: &str = include_str!("../muster.sample.toml");
/// The file's name within a data directory.
pub const FILE_NAME: &str = "muster.toml";

/// The configuration in force, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything that survives is kept.
    pub data_dir: PathBuf,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// Where the registry is.
    pub registry: Registry,
    /// The door for devices.
    pub mqtt: Mqtt,
    /// The door for people and programs.
    pub https: Https,
    /// Bounds on what a device may take.
    pub limits: Limits,
    /// What is made of two holders of one identity.
    pub clones: Policy,
    /// How long what was seen is kept.
    pub retention: Periods,
    /// The programs that take part in the fleet's messages.
    pub services: Vec<ServiceEntry>,
    /// The tenants whose devices may be registered by their first connection.
    pub zero_touch: Vec<ZeroTouchEntry>,
    /// The keys of the authorities this server holds.
    pub keys: Keys,
    /// What is written about the server's own doings.
    pub log: Log,
    /// How commands reach a server.
    pub client: Client,
    /// Every key with its value and source, in the order of the sample.
    pub settings: Vec<Setting>,
}

/// Bounds on what a device may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most device connections at once.
    pub connections_max: usize,
    /// Longest a TLS handshake may take.
    pub handshake: Duration,
    /// Longest from the end of the handshake to a whole CONNECT.
    pub connect: Duration,
    /// Largest MQTT packet, octets.
    pub packet_max: usize,
    /// Longest a client of MQTT 5 may ask to stay silent, seconds; 0: as long as it asks.
    pub keep_alive_max_s: u16,
    /// What a session may take.
    pub sessions: SessionLimits,
    /// What is kept for sessions, and as retained messages.
    pub kept: Bounds,
    /// Longest topic or filter of a service, octets; a device's are shorter anyway.
    pub service_topic_max: usize,
    /// Messages a device may send in a second, averaged over its burst.
    pub messages_per_s: u32,
    /// Handshakes begun in a second; 0: what the event loops leave room for.
    pub handshakes_per_s: u32,
    /// Handshakes begun in a second from one address.
    pub handshakes_per_address_per_s: u32,
    /// Handshakes of one address that wait or are in progress.
    pub handshakes_per_address: u32,
}

/// The keys of the authorities this server holds.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Folder of the server's bundle from the ceremony.
    pub bundle: PathBuf,
    /// File with the passphrase of its keys.
    pub passphrase_file: PathBuf,
}

/// What is written about the server's own doings.
#[derive(Debug, Clone)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,muster_server::edge=debug`.
    pub level: String,
    /// One JSON object a line instead of text.
    pub json: bool,
}

/// What the command line said.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// Key, flag as written, value.
    pub flags: Vec<(&'static str, String, String)>,
}

impl Config {
    /// Which periods it says itself, and so for good while this server runs.
    #[must_use]
    pub fn pinned_periods(&self) -> Vec<Period> {
        let said = self.settings.iter().filter(|of| of.source != Source::Default);
        said.filter_map(|of| of.key.parse().ok()).collect()
    }

    /// Finds and reads the configuration. `environment` answers for a variable's name.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the file, not only the first.
    pub fn load(
        given: &Given,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<ConfigFault>> {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let default_dir = default_data_dir(environment);
        let named = given.file.clone().or_else(|| set("MUSTER_CONFIG"));
        let data_dir = given.data_dir.clone().or_else(|| set("MUSTER_DATA_DIR"));
        let file = named.or_else(|| {
            let file = data_dir.as_ref().unwrap_or(&default_dir).join(FILE_NAME);
            file.exists().then_some(file)
        });
        let mut flags = given.flags.clone();
        if let Some(dir) = &given.data_dir {
            flags.push(("data_dir", "--data-dir".to_owned(), dir.display().to_string()));
        }
        let mut layers = Layers::new(&flags, environment);
        if let Some(file) = &file {
            layers.read_file(file);
        }
        Self::take(layers, file, default_dir)
    }

    /// Checks `text` as if it were the file at `path`, with nothing from flags or environment.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn from_text(path: &Path, text: &str) -> Result<Self, Vec<ConfigFault>> {
        let nothing = |_: &str| None;
        let mut layers = Layers::new(&[], &nothing);
        layers.read_text(path, text);
        Self::take(layers, Some(path.to_owned()), PathBuf::from("."))
    }

    /// Every key as [`Config::settings`] has it, and behind them every bound that nobody sets, with its source.
    #[must_use]
    pub fn shown(&self) -> Vec<Setting> {
        let fixed = limits::fixed().into_iter().map(|of| Setting {
            key: format!("fixed.{}", of.name.to_ascii_lowercase()).into(),
            value: of.value,
            source: Source::Fixed(of.source),
        });
        self.settings.iter().cloned().chain(fixed).collect()
    }

    fn take(
        mut layers: Layers<'_>,
        file: Option<PathBuf>,
        default_dir: PathBuf,
    ) -> Result<Self, Vec<ConfigFault>> {
        let base = file.as_deref().and_then(Path::parent).unwrap_or(Path::new("")).to_owned();
        let data_dir = path(&mut layers, "data_dir", &base, default_dir);
        let registry = Registry::take(&mut layers, &base);
        let mqtt = Mqtt::take(&mut layers);
        let https = Https::take(&mut layers, &base);
        let limits = Limits::take(&mut layers);
        let clones = clones(&mut layers);
        let retention = retention(&mut layers);
        let services = services::take(&mut layers, limits.service_topic_max);
        let zero_touch = zero_touch::take(&mut layers, &base);
        let keys = Keys {
            bundle: path(&mut layers, "keys.bundle", &base, data_dir.join("pki")),
            passphrase_file: path(
                &mut layers,
                "keys.passphrase_file",
                &base,
                data_dir.join("pki.passphrase"),
            ),
        };
        let log = Log {
            level: text(&mut layers, "log.level", "info"),
            json: switch(&mut layers, "log.json", false),
        };
        let client = Client::take(&mut layers, &base, &data_dir);
        layers.finish();
        let (settings, faults) = (layers.settings, layers.faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            data_dir,
            file,
            registry,
            mqtt,
            https,
            limits,
            clones,
            retention,
            services,
            zero_touch,
            keys,
            log,
            client,
            settings,
        })
    }
}

fn retention(layers: &mut Layers<'_>) -> Periods {
    let mut period = |of: Period, default| count(layers, of.as_str(), default, 0..=of.most());
    Periods {
        uplink_days: period(Period::UplinkDays, 90),
        uplink_mib: period(Period::UplinkMib, 0),
        sessions_days: period(Period::SessionsDays, 365),
        refusals_days: period(Period::RefusalsDays, 365),
    }
}

impl Limits {
    fn take(layers: &mut Layers<'_>) -> Self {
        Self {
            connections_max: count(layers, "limits.connections_max", 100_000, 1..=10_000_000),
            handshake: duration(layers, "limits.handshake", Duration::from_secs(10)),
            connect: duration(layers, "limits.connect", Duration::from_secs(5)),
            packet_max: count(layers, "limits.packet_max", PACKET_MAX, 1024..=PACKET_MAX),
            keep_alive_max_s: count(layers, "limits.keep_alive_max_s", 0, 0..=u16::MAX),
            service_topic_max: count(
                layers,
                "limits.service_topic_max",
                SERVICE_TOPIC_MAX,
                TOPIC_MAX..=SERVICE_TOPIC_MAX,
            ),
            sessions: session_limits(layers),
            kept: kept(layers),
            messages_per_s: count(layers, "limits.messages_per_s", 100, 1..=1_000_000),
            handshakes_per_s: count(layers, "limits.handshakes_per_s", 0, 0..=1_000_000),
            handshakes_per_address_per_s: count(
                layers,
                "limits.handshakes_per_address_per_s",
                1000,
                1..=1_000_000,
            ),
            handshakes_per_address: count(layers, "limits.handshakes_per_address", 1024, 1..=1_000_000),
        }
    }
}

fn session_limits(layers: &mut Layers<'_>) -> SessionLimits {
    let default = SessionLimits::default();
    let most = default.service_subscriptions_max;
    SessionLimits {
        // Ten years: a device that is away for longer is another device's work.
        expiry_max_s: count(layers, "limits.session_expiry_max_s", default.expiry_max_s, 0..=315_360_000),
        subscriptions_max: count(layers, "limits.subscriptions_max", default.subscriptions_max, 1..=1024),
        service_subscriptions_max: count(layers, "limits.service_subscriptions_max", most, 1..=10_000),
        receive_max: count(layers, "limits.receive_max", default.receive_max, 1..=1024),
        topic_alias_max: count(layers, "limits.topic_alias_max", default.topic_alias_max, 0..=1024),
        will_max: count(layers, "limits.will_max", default.will_max, 256..=PACKET_MAX as u32),
    }
}

/// A packet of the largest size can be queued and retained whatever is set.
fn kept(layers: &mut Layers<'_>) -> Bounds {
    const BYTES: std::ops::RangeInclusive<usize> = 2 * PACKET_MAX..=1 << 40;
    let default = Bounds::default();
    let Bound { messages, bytes } = default.queue;
    let queue = Bound {
        messages: count(layers, "limits.queue_max", messages, 1..=1_000_000),
        bytes: count(layers, "limits.queue_bytes_max", bytes, BYTES),
    };
    let Bound { messages, bytes } = default.retained_device;
    let retained_device = Bound {
        messages: count(layers, "limits.retained_device_max", messages, 1..=1_000_000),
        bytes: count(layers, "limits.retained_device_bytes_max", bytes, BYTES),
    };
    let retained_bytes = count(layers, "limits.retained_bytes_max", default.retained_bytes, BYTES);
    Bounds { queue, retained_device, retained_bytes, ..default }
}

fn clones(layers: &mut Layers<'_>) -> Policy {
    const RESPONSES: &[(&str, Response)] = &[("alert", Response::Alert), ("enforce", Response::Enforce)];
    let default = Policy::default();
    Policy {
        continuity: choice(layers, "clones.continuity", default.continuity, RESPONSES),
        takeovers: choice(layers, "clones.takeovers", default.takeovers, RESPONSES),
        takeovers_max: count(layers, "clones.takeovers_max", default.takeovers_max, 1..=1000),
        takeover_window: duration(layers, "clones.takeover_window", default.takeover_window),
        quarantines_max: count(layers, "clones.quarantines_max", default.quarantines_max, 1..=1_000_000),
        quarantine_window: duration(layers, "clones.quarantine_window", default.quarantine_window),
    }
}

impl Setting {
    /// Whether nobody can decide otherwise while the server runs: it was said here, or is read once.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.source != Source::Default || self.key.parse::<Period>().is_err()
    }
}

/// Where data lives when nobody says: the XDG base directory, so that a command run anywhere finds it.
fn default_data_dir(environment: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME")
        .filter(|dir| dir.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .map_or_else(|| PathBuf::from("/var/lib/muster"), |dir| dir.join("muster"))
}

#[cfg(test)]
mod tests;
