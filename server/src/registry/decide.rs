//! One device's decision.

use std::{fmt, str::FromStr};

use muster_shared::{Generation, SerialNumber, Tenant};

use super::{
    device::{Act, DeviceState, UnknownWord},
    session::words,
    verdict::DeviceKey,
};

words!(
    /// Why a certificate is revoked, in the words of RFC 5280 §5.3.1.
    RevocationReason, "revocation reason", {
        /// No reason given.
        Unspecified = "unspecified",
        /// The device's key is, or may be, in other hands.
        KeyCompromise = "keyCompromise",
        /// Its issuer's key is.
        CaCompromise = "cACompromise",
        /// Its names are no longer right.
        AffiliationChanged = "affiliationChanged",
        /// Another certificate took its place.
        Superseded = "superseded",
        /// It is no longer needed.
        CessationOfOperation = "cessationOfOperation",
        /// What it allowed was withdrawn.
        PrivilegeWithdrawn = "privilegeWithdrawn",
    }
);

/// Why somebody decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// In the operator's words; never sent to a device.
    pub text: String,
    /// For a revocation: the RFC 5280 word.
    pub code: Option<RevocationReason>,
}

/// Which device: a serial, with its tenant where several have it. Written `SERIAL` or `TENANT/SERIAL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Whose; `None` when the serial alone says which.
    pub tenant: Option<Tenant>,
    /// The number on its label.
    pub serial: SerialNumber,
}

impl From<&SerialNumber> for Target {
    fn from(serial: &SerialNumber) -> Self {
        Self { tenant: None, serial: serial.clone() }
    }
}

impl From<&Target> for Target {
    fn from(target: &Target) -> Self {
        target.clone()
    }
}

impl FromStr for Target {
    type Err = muster_shared::id::IdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((tenant, serial)) => Ok(Self { tenant: Some(tenant.parse()?), serial: serial.parse()? }),
            None => Ok(Self { tenant: None, serial: text.parse()? }),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tenant {
            Some(tenant) => write!(f, "{tenant}/{}", self.serial),
            None => self.serial.fmt(f),
        }
    }
}

/// A decision that was made: committed, and in the verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// About which device.
    pub device: DeviceKey,
    /// What was asked.
    pub act: Act,
    /// The state before.
    pub from: DeviceState,
    /// The state now.
    pub to: DeviceState,
    /// The registry's generation from this decision on; names the decision.
    pub generation: Generation,
    /// The number of its audit row.
    pub audit_no: u64,
    /// When it was committed, Unix milliseconds.
    pub decided_at_ms: u64,
}
