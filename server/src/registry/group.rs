//! Groups: whom a decision can be about beside one device.
//!
//! A decision about a group is one rule. It holds for every member at once, and for whoever becomes a member
//! later: the verdicts evaluate it, no row of a device has to be written first. A group is in the state its
//! last rule put it in, and goes from state to state by the table of devices ([`DeviceState::step`]).

use std::fmt;

use muster_shared::{BatchId, CertificateId, Code, StationId, Tenant};

use super::device::{Act, DeviceState};

/// A CA's subject key identifier: what its certificates name it by.
pub type KeyId = [u8; 20];

/// A group that one rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// Every device of a tenant.
    Tenant(Tenant),
    /// Every device a station has made.
    Station(StationId),
    /// Every device of a batch of a station.
    Batch(StationId, BatchId),
    /// Every certificate a CA has issued, of devices and of services.
    Ca(KeyId),
    /// One certificate, of a device or of a service.
    Certificate(CertificateId),
}

impl Group {
    /// Its kind in one word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tenant(_) => "tenant",
            Self::Station(_) => "station",
            Self::Batch(..) => "batch",
            Self::Ca(_) => "ca",
            Self::Certificate(_) => "certificate",
        }
    }

    /// Which one of its kind: `acme`, `S-07`, `S-07/B-0042`, hexadecimal digits.
    #[must_use]
    pub fn value(&self) -> String {
        match self {
            Self::Tenant(tenant) => tenant.to_string(),
            Self::Station(station) => station.to_string(),
            Self::Batch(station, batch) => format!("{station}/{batch}"),
            Self::Ca(key_id) => hex::encode(key_id),
            Self::Certificate(id) => id.to_string(),
        }
    }

    /// The group with this kind and value.
    #[must_use]
    pub fn read(kind: &str, value: &str) -> Option<Self> {
        Some(match kind {
            "tenant" => Self::Tenant(value.parse().ok()?),
            "station" => Self::Station(value.parse().ok()?),
            "batch" => {
                let (station, batch) = value.split_once('/')?;
                Self::Batch(station.parse().ok()?, batch.parse().ok()?)
            }
            "ca" => Self::Ca(hex::decode(value).ok()?.try_into().ok()?),
            "certificate" => Self::Certificate(value.parse().ok()?),
            _ => return None,
        })
    }

    /// The acts there are for it. What a CA or a certificate has lost it does not get back.
    #[must_use]
    pub fn takes(&self, act: Act) -> bool {
        match act {
            Act::Revoke => true,
            Act::Suspend | Act::Resume | Act::Quarantine | Act::Release => {
                !matches!(self, Self::Ca(_) | Self::Certificate(_))
            }
            Act::FirstConnection | Act::Decommission => false,
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.value())
    }
}

/// What a rule holds its members in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hold {
    /// Refused for now.
    Suspended,
    /// Refused because something is wrong.
    Quarantined,
    /// Refused for ever.
    Revoked,
}

impl Hold {
    /// What a group in this state holds its members in; `None`: nothing.
    #[must_use]
    pub fn of(state: DeviceState) -> Option<Self> {
        match state {
            DeviceState::Suspended => Some(Self::Suspended),
            DeviceState::Quarantined => Some(Self::Quarantined),
            DeviceState::Revoked => Some(Self::Revoked),
            _ => None,
        }
    }

    /// The state it puts a group in.
    #[must_use]
    pub fn state(self) -> DeviceState {
        match self {
            Self::Suspended => DeviceState::Suspended,
            Self::Quarantined => DeviceState::Quarantined,
            Self::Revoked => DeviceState::Revoked,
        }
    }

    /// Why a member may not talk.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Suspended => Code::DeviceSuspended,
            Self::Quarantined => Code::DeviceQuarantined,
            Self::Revoked => Code::CertificateRevoked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_reads_back_as_what_it_was_written() {
        let groups = [
            Group::Tenant("acme".parse().unwrap()),
            Group::Station("S-07".parse().unwrap()),
            Group::Batch("S-07".parse().unwrap(), "B-0042".parse().unwrap()),
            Group::Ca([0xab; 20]),
            Group::Certificate(CertificateId([7; 32])),
        ];
        for group in groups {
            assert_eq!(Group::read(group.kind(), &group.value()), Some(group));
        }
        for (kind, value) in
            [("batch", "B-0042"), ("ca", "abcd"), ("certificate", "7f3a09c1"), ("fleet", "x")]
        {
            assert_eq!(Group::read(kind, value), None, "{kind} {value}");
        }
    }

    #[test]
    fn only_what_can_come_back_is_held_for_now() {
        let ca = Group::Ca([1; 20]);
        let batch = Group::Batch("S-07".parse().unwrap(), "B-0042".parse().unwrap());
        for act in Act::ALL {
            assert_eq!(ca.takes(act), act == Act::Revoke, "{act}");
            assert_eq!(batch.takes(act), !matches!(act, Act::FirstConnection | Act::Decommission), "{act}");
        }
    }
}
