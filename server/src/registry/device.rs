//! A device's state, and the one table of what may become of it.
//!
//! ```text
//! manufactured ─import─► registered ──first connection──► active
//!                         │  ▲   │                         │  ▲
//!                         │  │   └──── suspend ────┐   ┌───┘  │
//!                         │  └─ resume, release ─┐ ▼   ▼      │
//!                         │   (never connected)  suspended ───┤ resume
//!                         │                        ▲ │        │
//!                         │                suspend │ ▼        │
//!                         └──── quarantine ──► quarantined ───┘ release
//!        (any of these four) ── revoke ──► revoked ── decommission ──► decommissioned
//! ```
//!
//! `active` says "allowed, and has connected at least once"; so a device that is resumed or released
//! before it ever connected goes back to `registered`, and its first connection is still to come.

use std::{fmt, str::FromStr};

use muster_shared::Code;

/// What the registry allows a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DeviceState {
    /// A station made its certificate; this registry has not been told.
    Manufactured = 0,
    /// Its manifest row was imported; it has not connected.
    Registered = 1,
    /// Allowed, and has connected at least once.
    Active = 2,
    /// Refused for now; reversible.
    Suspended = 3,
    /// Refused because something is wrong.
    Quarantined = 4,
    /// Refused for ever.
    Revoked = 5,
    /// Out of use: its data is removed, its tombstone stays.
    Decommissioned = 6,
}

/// What may be done to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// It connected with a certificate the registry knows, for the first time.
    FirstConnection,
    /// Refuse it for now.
    Suspend,
    /// Undo a suspension.
    Resume,
    /// Refuse it because something is wrong.
    Quarantine,
    /// Undo a quarantine.
    Release,
    /// Refuse it for ever.
    Revoke,
    /// Remove its data, keep its tombstone.
    Decommission,
}

/// The state does not allow the act. Names the state it is in and the one it would have gone to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{from} → {to} is not allowed (a device that is {from} cannot be {})", act.participle())]
pub struct TransitionError {
    /// The state the device is in.
    pub from: DeviceState,
    /// The state it would have gone to.
    pub to: DeviceState,
    /// What was asked.
    pub act: Act,
}

impl DeviceState {
    /// Every state, in the order of a device's life.
    pub const ALL: [Self; 7] = [
        Self::Manufactured,
        Self::Registered,
        Self::Active,
        Self::Suspended,
        Self::Quarantined,
        Self::Revoked,
        Self::Decommissioned,
    ];

    /// The state after `act`; `ever_connected` tells whether a first connection was recorded.
    ///
    /// # Errors
    /// [`TransitionError`] when the table has no such step.
    pub fn step(self, act: Act, ever_connected: bool) -> Result<Self, TransitionError> {
        use DeviceState::{Active, Quarantined, Registered, Revoked, Suspended};
        let allowed = if ever_connected { Active } else { Registered };
        let (to, legal) = match act {
            Act::FirstConnection => (Active, matches!(self, Registered)),
            Act::Suspend => (Suspended, matches!(self, Registered | Active | Quarantined)),
            Act::Resume => (allowed, matches!(self, Suspended)),
            Act::Quarantine => (Quarantined, matches!(self, Registered | Active | Suspended)),
            Act::Release => (allowed, matches!(self, Quarantined)),
            Act::Revoke => (Revoked, matches!(self, Registered | Active | Suspended | Quarantined)),
            Act::Decommission => (Self::Decommissioned, matches!(self, Revoked)),
        };
        if legal { Ok(to) } else { Err(TransitionError { from: self, to, act }) }
    }

    /// The acts this state allows an operator, in the order they are shown.
    #[must_use]
    pub fn acts(self) -> Vec<Act> {
        Act::ALL
            .into_iter()
            .filter(|act| *act != Act::FirstConnection && self.step(*act, true).is_ok())
            .collect()
    }

    /// Why a device in this state may not talk; `None` when it may.
    #[must_use]
    pub fn refusal(self) -> Option<Code> {
        match self {
            Self::Registered | Self::Active => None,
            Self::Manufactured => Some(Code::DeviceNotRegistered),
            Self::Suspended => Some(Code::DeviceSuspended),
            Self::Quarantined => Some(Code::DeviceQuarantined),
            Self::Revoked => Some(Code::CertificateRevoked),
            Self::Decommissioned => Some(Code::DeviceDecommissioned),
        }
    }

    /// The state whose number is `n`.
    #[must_use]
    pub fn from_number(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n)).copied()
    }

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manufactured => "manufactured",
            Self::Registered => "registered",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Quarantined => "quarantined",
            Self::Revoked => "revoked",
            Self::Decommissioned => "decommissioned",
        }
    }
}

impl Act {
    /// Every act.
    pub const ALL: [Self; 7] = [
        Self::FirstConnection,
        Self::Suspend,
        Self::Resume,
        Self::Quarantine,
        Self::Release,
        Self::Revoke,
        Self::Decommission,
    ];

    /// Whether somebody must say why. All an operator does needs a reason; a first connection explains itself.
    #[must_use]
    pub fn needs_reason(self) -> bool {
        self != Self::FirstConnection
    }

    /// Whether it ends what the device may do now, so that its live session must be closed.
    #[must_use]
    pub fn ends_sessions(self) -> bool {
        matches!(self, Self::Suspend | Self::Quarantine | Self::Revoke | Self::Decommission)
    }

    /// Its word: a command's verb.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstConnection => "first-connection",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Quarantine => "quarantine",
            Self::Release => "release",
            Self::Revoke => "revoke",
            Self::Decommission => "decommission",
        }
    }

    /// What the device is after it, in a sentence: `suspended`.
    #[must_use]
    pub fn participle(self) -> &'static str {
        match self {
            Self::FirstConnection => "connected for the first time",
            Self::Suspend => "suspended",
            Self::Resume => "resumed",
            Self::Quarantine => "quarantined",
            Self::Release => "released",
            Self::Revoke => "revoked",
            Self::Decommission => "decommissioned",
        }
    }
}

/// No state or act has this word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no {what}")]
pub struct UnknownWord {
    /// What was looked for.
    pub what: &'static str,
    /// What was offered.
    pub word: String,
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for DeviceState {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == word)
            .ok_or_else(|| UnknownWord { what: "device state", word: word.to_owned() })
    }
}

impl FromStr for Act {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|act| act.as_str() == word)
            .ok_or_else(|| UnknownWord { what: "act", word: word.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DeviceState::{Active, Decommissioned, Manufactured, Quarantined, Registered, Revoked, Suspended};

    /// Every legal step there is: (from, act, ever connected, to). What is not here is refused.
    const TABLE: &[(DeviceState, Act, bool, DeviceState)] = &[
        (Registered, Act::FirstConnection, false, Active),
        (Registered, Act::FirstConnection, true, Active),
        (Registered, Act::Suspend, false, Suspended),
        (Registered, Act::Suspend, true, Suspended),
        (Registered, Act::Quarantine, false, Quarantined),
        (Registered, Act::Quarantine, true, Quarantined),
        (Registered, Act::Revoke, false, Revoked),
        (Registered, Act::Revoke, true, Revoked),
        (Active, Act::Suspend, false, Suspended),
        (Active, Act::Suspend, true, Suspended),
        (Active, Act::Quarantine, false, Quarantined),
        (Active, Act::Quarantine, true, Quarantined),
        (Active, Act::Revoke, false, Revoked),
        (Active, Act::Revoke, true, Revoked),
        (Suspended, Act::Resume, false, Registered),
        (Suspended, Act::Resume, true, Active),
        (Suspended, Act::Quarantine, false, Quarantined),
        (Suspended, Act::Quarantine, true, Quarantined),
        (Suspended, Act::Revoke, false, Revoked),
        (Suspended, Act::Revoke, true, Revoked),
        (Quarantined, Act::Release, false, Registered),
        (Quarantined, Act::Release, true, Active),
        (Quarantined, Act::Suspend, false, Suspended),
        (Quarantined, Act::Suspend, true, Suspended),
        (Quarantined, Act::Revoke, false, Revoked),
        (Quarantined, Act::Revoke, true, Revoked),
        (Revoked, Act::Decommission, false, Decommissioned),
        (Revoked, Act::Decommission, true, Decommissioned),
    ];

    #[test]
    fn the_table_is_complete_and_nothing_else_is_legal() {
        for from in DeviceState::ALL {
            for act in Act::ALL {
                for ever in [false, true] {
                    let row = TABLE.iter().find(|(f, a, e, _)| (*f, *a, *e) == (from, act, ever));
                    match (from.step(act, ever), row) {
                        (Ok(to), Some((.., expected))) => assert_eq!(to, *expected, "{from} {act} {ever}"),
                        (Err(error), None) => {
                            assert_eq!((error.from, error.act), (from, act));
                            let text = error.to_string();
                            assert!(
                                text.contains(from.as_str()) && text.contains(error.to.as_str()),
                                "{text}"
                            );
                        }
                        (got, _) => panic!("{from} {act} {ever}: {got:?}"),
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_leads_out_of_revoked_but_decommissioning() {
        assert_eq!(Revoked.acts(), [Act::Decommission]);
        assert!(Decommissioned.acts().is_empty());
        assert!(Manufactured.acts().is_empty(), "an import, not an operator, registers a device");
    }

    #[test]
    fn only_registered_and_active_may_talk() {
        for state in DeviceState::ALL {
            assert_eq!(state.refusal().is_none(), matches!(state, Registered | Active), "{state}");
        }
    }

    #[test]
    fn words_round_trip() {
        for state in DeviceState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(DeviceState::from_number(state as u8), Some(state));
        }
        for act in Act::ALL {
            assert_eq!(act.as_str().parse(), Ok(act));
        }
        assert!("Active".parse::<DeviceState>().is_err(), "words are lower case");
        assert_eq!(DeviceState::from_number(7), None);
    }
}
