//! All CAs of one owner, made in one go: what a ceremony makes, and `muster init`, and tests.

use std::sync::Arc;

use muster_shared::{StationId, Tenant};

use crate::{
    bundle::{ServerBundle, StationBundle},
    ca::{Ca, CaError},
    key::SoftKey,
    station::{SerialRange, StationError, StationRecord},
};

/// What to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Whose hierarchy it is: `O` of every CA. 1 to 64 characters (RFC 5280 appendix A, ub-organization-name).
    pub owner: String,
    /// The factory stations.
    pub stations: Vec<StationPlan>,
}

/// One factory station.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StationPlan {
    /// Its name.
    pub station: StationId,
    /// The one tenant it makes devices for.
    pub tenant: Tenant,
    /// Most devices it may make, ever.
    pub quota: u64,
    /// The serials it may give.
    pub serials: SerialRange,
}

/// Why a hierarchy was not made.
#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    /// The owner's name does not fit a certificate.
    #[error("owner {0:?} is not 1 to 64 printable characters")]
    Owner(String),
    /// Two stations of one name, or whose serials overlap within a tenant.
    #[error("stations {0} and {1} have the same name or overlapping serials")]
    Overlap(StationId, StationId),
    /// A CA could not be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A station record could not be made.
    #[error(transparent)]
    Station(#[from] StationError),
    /// No such station in the plan.
    #[error("no station {0} in this hierarchy")]
    NoStation(StationId),
}

/// Every CA with its key.
#[derive(Clone)]
pub struct Hierarchy {
    /// Offline after the ceremony.
    pub root: Ca,
    /// Signs manifest keys' certificates; kept with the root.
    pub station: Ca,
    /// For the broker's certificates.
    pub broker: Ca,
    /// For operational certificates.
    pub operational: Ca,
    /// For the API's certificate.
    pub https: Ca,
    /// For services.
    pub service: Ca,
    /// For people.
    pub operator: Ca,
    /// One factory CA, one manifest key and one record a station.
    pub stations: Vec<StationKeys>,
    /// The broker CA as the root signs it for devices: `muster_shared::factory::SignedAnchors` in postcard.
    pub anchors: Vec<u8>,
}

/// What one station holds.
#[derive(Clone)]
pub struct StationKeys {
    /// Issues birth certificates.
    pub factory: Ca,
    /// Signs manifests.
    pub manifest_key: Arc<SoftKey>,
    /// Its certificate of the station CA, DER.
    pub manifest_certificate: Vec<u8>,
    /// The root-signed record, as the server takes it.
    pub record_file: Vec<u8>,
    /// The same, read.
    pub record: StationRecord,
}

impl Hierarchy {
    /// Makes everything the plan names. `now_s` is the time of issue, seconds since 1970.
    ///
    /// # Errors
    /// [`HierarchyError`].
    pub fn create(plan: &Plan, now_s: i64) -> Result<Self, HierarchyError> {
        let _ = (plan, now_s);
        unimplemented!()
    }

    /// SHA-256 of the root's SubjectPublicKeyInfo: what a flasher writes into a vendor page.
    #[must_use]
    pub fn root_digest(&self) -> [u8; 32] {
        self.root.certificate().key().digest()
    }

    /// What the server gets.
    #[must_use]
    pub fn server_bundle(&self) -> ServerBundle {
        unimplemented!()
    }

    /// What a station gets.
    ///
    /// # Errors
    /// [`HierarchyError::NoStation`].
    pub fn station_bundle(&self, station: &StationId) -> Result<StationBundle, HierarchyError> {
        let _ = station;
        unimplemented!()
    }
}
