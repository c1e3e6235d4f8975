//! Station records and manifests.

use muster_shared::{BatchId, CertificateId, Code, Generation, SerialNumber, StationId, Tenant};

/// What became of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportReport {
    /// The batch it closes.
    pub batch: BatchId,
    /// Who made it.
    pub station: StationId,
    /// For whom.
    pub tenant: Tenant,
    /// What was made.
    pub product: String,
    /// Its place in its station's chain.
    pub sequence: u64,
    /// SHA-256 of the manifest, lower-case hexadecimal.
    pub digest: String,
    /// Devices that are new with this import.
    pub registered: u64,
    /// Rows that were known before, exactly so.
    pub already: u64,
    /// Rows that were not taken.
    pub refused: Vec<RowRefused>,
    /// The generation after it.
    pub generation: Generation,
    /// The number of its audit row; `None` when the whole manifest was known and nothing changed.
    pub audit_no: Option<u64>,
}

/// A row of a manifest that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRefused {
    /// Its line in the manifest, from 1.
    pub line: u64,
    /// Its serial.
    pub serial: SerialNumber,
    /// Its certificate.
    pub certificate: CertificateId,
    /// Why: M204 for a name that has another key, M209 for a tombstone.
    pub code: Code,
    /// What disagrees, with the values.
    pub why: String,
}

/// What became of a station record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// The station.
    pub station: StationId,
    /// Whether this record was known already.
    pub already: bool,
    /// The generation after it.
    pub generation: Generation,
}

/// A registered station.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StationRow {
    /// Its name.
    pub station: StationId,
    /// The tenant it makes devices for.
    pub tenant: Tenant,
    /// Most devices it may make.
    pub quota: u64,
    /// Devices it has made that are registered.
    pub devices: u64,
    /// What its serials begin with.
    pub serial_prefix: String,
    /// First number of its range.
    pub serial_first: u64,
    /// Last number of its range.
    pub serial_last: u64,
    /// The place of its last imported manifest, if there is one.
    pub last_sequence: Option<u64>,
    /// When and why nothing more is taken from it.
    pub stopped: Option<(u64, String)>,
}
