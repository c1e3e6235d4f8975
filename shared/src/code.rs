//! Every refusal, once: its code, its words, what to do next, and how each surface says it.
//!
//! Generated from `errors.toml`, the one file behind the command line, the API, the web page, the audit
//! log and the device's serial log. Families: M1 reach, M2 device, M3 certificate, M4 manifest and
//! batch, M5 operator, E station, N and T what a device finds by itself.

use core::{fmt, str::FromStr};

include!(concat!(env!("OUT_DIR"), "/codes.rs"));

/// One row of `errors.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// `M201`.
    pub id: &'static str,
    /// What happened, without the particulars.
    pub words: &'static str,
    /// What to do: a command or one physical act. `{}` stands for the device's serial where there is one.
    pub next: &'static str,
    /// The command line's exit status.
    pub exit: u8,
    /// HTTP status.
    pub http: u16,
    /// MQTT 5 reason code; 0 where MQTT does not carry it.
    pub mqtt: u8,
    /// What a device prints and does, where it meets this.
    pub device: Option<DeviceEntry>,
}

/// How a device meets a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceEntry {
    /// `net`, `tls`, `mqtt` or `acl`.
    pub phase: &'static str,
    /// Its words on the serial log.
    pub words: &'static str,
    /// What it does now, as the log says it.
    pub act: &'static str,
    /// Shortest and longest wait before the next attempt, seconds; `None`: no attempt before power-on.
    pub retry_s: Option<(u16, u16)>,
}

impl Code {
    /// `M201`.
    #[must_use]
    pub fn id(self) -> &'static str {
        self.entry().id
    }

    /// What happened, without the particulars.
    #[must_use]
    pub fn words(self) -> &'static str {
        self.entry().words
    }

    /// Reads the code at the start of a reason string: `M201 device is suspended`.
    #[must_use]
    pub fn from_reason(reason: &str) -> Option<Self> {
        reason.split([' ', ':']).next()?.parse().ok()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

/// No code has this id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such code")]
pub struct UnknownCode;

impl FromStr for Code {
    type Err = UnknownCode;
    fn from_str(id: &str) -> Result<Self, UnknownCode> {
        Self::ALL.iter().copied().find(|code| code.id() == id).ok_or(UnknownCode)
    }
}
