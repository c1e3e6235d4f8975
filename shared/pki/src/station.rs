//! The root-signed record that registers a factory station: writer and reader.

use std::fmt;

use muster_shared::{SerialNumber, StationId, Tenant};
use serde::{Deserialize, Serialize};

use crate::{
    ca::{Ca, CaCertificate, CaError},
    key::PublicKey,
};

/// Why a record is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StationError {
    /// Not a station record.
    #[error("not a station record: {0}")]
    Malformed(&'static str),
    /// Not signed by this root.
    #[error("station record is not signed by this root")]
    NotSigned,
    /// The factory CA in it is not the root's.
    #[error("the factory CA in the station record: {0}")]
    Factory(#[from] CaError),
    /// A range that holds nothing, or whose prefix or width no serial can have.
    #[error("serial range {0}: {1}")]
    Range(String, &'static str),
}

/// The serials a station may give: `MU-000001` to `MU-009999`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialRange {
    prefix: String,
    digits: u8,
    first: u64,
    last: u64,
}

impl SerialRange {
    /// The range from `first` to `last`, both included: one prefix, one number of digits.
    ///
    /// # Errors
    /// [`StationError::Range`].
    pub fn new(first: &SerialNumber, last: &SerialNumber) -> Result<Self, StationError> {
        let _ = (first, last);
        unimplemented!()
    }

    /// Is this serial in the range? Returns its place, from 0.
    #[must_use]
    pub fn place(&self, serial: &SerialNumber) -> Option<u64> {
        let _ = serial;
        unimplemented!()
    }

    /// The serial at a place, from 0.
    #[must_use]
    pub fn serial(&self, place: u64) -> Option<SerialNumber> {
        let _ = place;
        unimplemented!()
    }

    /// How many serials there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.last - self.first + 1
    }

    /// Do two ranges have a serial in common?
    #[must_use]
    pub fn overlaps(&self, other: &SerialRange) -> bool {
        let _ = other;
        unimplemented!()
    }

    /// The first serial.
    #[must_use]
    pub fn first(&self) -> SerialNumber {
        unimplemented!()
    }

    /// The last serial.
    #[must_use]
    pub fn last(&self) -> SerialNumber {
        unimplemented!()
    }
}

impl fmt::Display for SerialRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.first(), self.last())
    }
}

/// A station, as the root registered it. Who holds this value has checked the root's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StationRecord {
    /// Its name.
    pub station: StationId,
    /// The one tenant it makes devices for.
    pub tenant: Tenant,
    /// Issues its birth certificates.
    pub factory: CaCertificate,
    /// Signs its manifests.
    pub manifest_key: PublicKey,
    /// Most devices it may make, ever.
    pub quota: u64,
    /// The serials it may give.
    pub serials: SerialRange,
    /// When the root signed it, seconds since 1970.
    pub signed_at_s: i64,
}

impl StationRecord {
    /// Writes the record, signed by `root`.
    ///
    /// # Errors
    /// [`StationError`].
    pub fn sign(&self, root: &Ca) -> Result<Vec<u8>, StationError> {
        let _ = root;
        unimplemented!()
    }

    /// Reads a record and checks the root's signature over it, and over the factory CA in it.
    ///
    /// # Errors
    /// [`StationError`].
    pub fn verify(bytes: &[u8], root: &CaCertificate) -> Result<Self, StationError> {
        let _ = (bytes, root);
        unimplemented!()
    }
}
