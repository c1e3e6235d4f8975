//! What stations have made: batches, the manifests they stand in, and the stations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A batch in a listing.
///
/// What failed at the line, and so the yield, is the station's to know: no manifest carries it, and nothing here
/// says it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Batch {
    /// Its name.
    pub batch: String,
    /// Whose.
    pub tenant: String,
    /// What was made.
    pub product: String,
    /// Where.
    pub station: String,
    /// Its newest manifest's place in its station's chain; null where only lists or first connections have
    /// brought devices, as are the three at the end.
    pub sequence: Option<u64>,
    /// Devices its manifests name; null without one.
    pub made: Option<u64>,
    /// Devices of it that are here.
    pub devices: u64,
    /// Of those, in state active.
    pub active: u64,
    /// When it was begun.
    pub opened_at: String,
    /// When the station closed it; without a manifest, when it was begun here.
    pub closed_at: String,
    /// Seconds a device took, from the order's beginning to its close; null without a manifest.
    pub s_per_unit: Option<f64>,
    /// When that manifest was imported.
    pub imported_at: Option<String>,
    /// By whom.
    pub imported_by: Option<String>,
    /// Its SHA-256.
    pub manifest_digest: Option<String>,
}

/// A batch against what was made: `muster.batch/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BatchDetail {
    /// The schema's name.
    pub schema: String,
    /// Its name.
    pub batch: String,
    /// Whose.
    pub tenant: String,
    /// Where.
    pub station: String,
    /// What was made.
    pub product: String,
    /// When the order was begun.
    pub opened_at: String,
    /// When the station closed it.
    pub closed_at: String,
    /// The newest first.
    pub manifests: Vec<BatchManifest>,
    /// Devices its manifests name.
    pub made: u64,
    /// Devices of it that are here.
    pub registered: u64,
    /// Of those, which have connected at least once.
    pub first_seen: u64,
    /// Devices of it by state.
    pub states: Vec<StateCount>,
    /// Devices of it by the hour they were made in, as their birth certificates say; hours without one are left out.
    #[serde(default)]
    pub made_hours: Vec<MadeIn>,
    /// Rows of its manifests that were not taken: duplicates, or tombstones.
    pub refused: u64,
    /// Devices of it that no manifest of it names.
    pub unannounced: u64,
    /// First serial of its devices.
    pub serial_first: Option<String>,
    /// Last serial of its devices.
    pub serial_last: Option<String>,
    /// Serials between those that no device of it has: the first hundred ranges.
    pub gaps: Vec<SerialSpan>,
    /// How many serials all gaps have.
    pub missing: u64,
    /// Most devices its station may make.
    pub quota: u64,
    /// How many it has made.
    pub station_devices: u64,
    /// How many of those are more than it may.
    pub over_quota: u64,
    /// The serials its station may give.
    pub range: SerialSpan,
}

/// How many were made in an hour.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct MadeIn {
    /// Its beginning.
    pub at: String,
    /// How many.
    pub devices: u64,
}

/// How many are in a state.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct StateCount {
    /// The state.
    pub state: String,
    /// How many.
    pub devices: u64,
}

/// Serials from one to another.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SerialSpan {
    /// The first.
    pub first: String,
    /// The last.
    pub last: String,
}

/// A manifest of a batch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BatchManifest {
    /// Its place in its station's chain.
    pub sequence: u64,
    /// SHA-256 of it.
    pub digest: String,
    /// Devices it names.
    pub devices: u64,
    /// When it was imported.
    pub imported_at: String,
    /// By whom.
    pub imported_by: String,
}

/// What checking a batch again found: `muster.batch.verify/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BatchVerdict {
    /// The schema's name.
    pub schema: String,
    /// Which.
    pub batch: String,
    /// Whether everything holds.
    pub intact: bool,
    /// Manifests that hold.
    pub manifests: u64,
    /// Devices they name.
    pub rows: u64,
    /// What does not hold.
    pub faults: Vec<String>,
    /// Rows that are not here as they were made; the first hundred.
    pub missing: Vec<MissingRow>,
}

/// A row of a manifest that is not here.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct MissingRow {
    /// Its serial.
    pub serial: String,
    /// Why.
    pub why: String,
}

/// What became of a manifest: `muster.import/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Import {
    /// The schema's name.
    pub schema: String,
    /// Its batch.
    pub batch: String,
    /// Whose.
    pub tenant: String,
    /// Where it was made.
    pub station: String,
    /// What was made.
    pub product: String,
    /// Its place in its station's chain.
    pub sequence: u64,
    /// SHA-256 of the manifest.
    pub manifest_digest: String,
    /// Devices that are new.
    pub registered: u64,
    /// Rows that were known before.
    pub already: u64,
    /// Rows that were not taken.
    pub refused: Vec<RefusedRow>,
    /// The registry's generation after it.
    pub generation: u64,
    /// The number of its audit row; `null` when nothing changed.
    pub audit_no: Option<u64>,
}

/// A row of a manifest that was not taken.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RefusedRow {
    /// Its line, from 1.
    pub line: u64,
    /// Its serial.
    pub serial: String,
    /// Its certificate.
    pub certificate_id: String,
    /// Why: `M204`.
    pub code: String,
    /// What disagrees.
    pub why: String,
}

/// What became of a station record: `muster.station.trust/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Trusted {
    /// The schema's name.
    pub schema: String,
    /// The station.
    pub station: String,
    /// The one tenant it makes devices for.
    pub tenant: String,
    /// Most devices it may make, ever.
    pub quota: u64,
    /// First serial it may give.
    pub serial_first: String,
    /// Last serial it may give.
    pub serial_last: String,
    /// Key identifier of its factory CA.
    pub factory_ca: String,
    /// SHA-256 of the key that signs its manifests.
    pub manifest_key: String,
    /// When the root signed the record.
    pub signed_at: String,
    /// Whether it was registered already, exactly so.
    pub already: bool,
    /// The fields in which it differs from the record it took the place of; empty where there was none.
    pub replaced: Vec<String>,
    /// Nothing was registered: this is what would be.
    pub dry_run: bool,
    /// The registry's generation after it.
    pub generation: u64,
    /// Its audit row, where one was written.
    pub audit_no: Option<u64>,
}

/// A registered station.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Station {
    /// Its name.
    pub station: String,
    /// The tenant it makes devices for.
    pub tenant: String,
    /// Most devices it may make.
    pub quota: u64,
    /// Devices it has made that are registered.
    pub devices: u64,
    /// First serial of its range.
    pub serial_first: String,
    /// Last serial of its range.
    pub serial_last: String,
    /// SHA-256 of the key that signs its manifests.
    pub manifest_key: String,
    /// The place of its last imported manifest.
    pub last_sequence: Option<u64>,
    /// When it was stopped.
    pub stopped_at: Option<String>,
    /// Why.
    pub stopped_why: Option<String>,
}
