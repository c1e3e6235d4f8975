//! Which decisions still have to end live sessions.

use super::decide::Decided;

/// A decision whose live sessions have not been reported ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unenforced {
    /// The decision.
    pub decided: Decided,
    /// Whether a later decision lets the device talk again: then there is nothing to end.
    pub overtaken: bool,
}
