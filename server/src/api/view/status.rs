//! The server itself: whether it is ready and well, what it holds, its configuration, its routes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Is the server well, and what does it hold: `muster.status/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The schema's name.
    pub schema: String,
    /// This server's version.
    pub version: String,
    /// Whether it takes devices and stores what they send.
    pub ready: bool,
    /// What stands in the way.
    pub not_ready: Vec<String>,
    /// When it started.
    pub started_at: String,
    /// Devices in the registry.
    pub devices: u64,
    /// Live sessions.
    pub sessions: u64,
    /// The registry's generation.
    pub generation: u64,
    /// Where devices connect.
    pub mqtt: String,
    /// When the broker's certificate ends.
    pub broker_certificate_ends_at: String,
    /// Who asks, and as what.
    pub operator: String,
    /// The asking token's role.
    pub role: String,
    /// The one tenant they see; `null` for every.
    pub tenant: Option<String>,
}

/// Whether the server takes devices.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Readiness {
    /// Whether it does.
    pub ready: bool,
    /// What stands in the way.
    pub not_ready: Vec<String>,
}

/// Whether the server is well: `muster.health/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// The schema's name.
    pub schema: String,
    /// Whether every check is.
    pub well: bool,
    /// The server's clock.
    pub now: String,
    /// Who asks.
    pub operator: String,
    /// As what.
    pub role: String,
    /// Each check.
    pub checks: Vec<HealthCheck>,
}

/// A check of the server.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HealthCheck {
    /// Its name.
    pub check: String,
    /// Whether it is well.
    pub ok: bool,
    /// What was found.
    pub said: String,
    /// What to do about it.
    pub next: Option<String>,
}

/// Each value of the configuration in force: `muster.config/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Config {
    /// The schema's name.
    pub schema: String,
    /// The file that was read; `null` when there is none.
    pub file: Option<String>,
    /// Each key, in the order of the sample.
    pub items: Vec<Setting>,
    /// Always `null`: all are on this page.
    pub next: Option<String>,
}

/// A key of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Setting {
    /// `limits.packet_max`.
    pub key: String,
    /// As it would be written; `null` where it says where secrets lie.
    pub value: Option<String>,
    /// Who said so: a flag, a variable, a file and its line, an operator and when, or `default`.
    pub source: String,
    /// It cannot be decided about while the server runs.
    pub pinned: bool,
}

/// A route of the API.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// In capitals.
    pub method: String,
    /// With `{parameters}`.
    pub path: String,
    /// What it does.
    pub summary: String,
}
