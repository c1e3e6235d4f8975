//! All CAs of one owner, made in one go: what a ceremony makes, and `muster init`, and tests. Stations may be added
//! below the same root later.

use std::sync::Arc;

use muster_shared::{StationId, Tenant};

use crate::{
    anchors,
    authority::{Authority, IssueError, Request},
    bundle::{RootBundle, ServerBundle, StationBundle},
    ca::{Ca, CaCertificate, CaError},
    key::{Signer, SoftKey},
    ledger::MemoryLedger,
    profile::{CertificateSerial, Purpose},
    station::{SerialRange, StationError, StationRecord},
};

/// What to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Whose hierarchy it is: `O` of every CA. 1 to 50 characters: with " root CA" it
    /// is the root's `CN` (RFC 5280 appendix A, ub-common-name is 64).
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
    /// The owner's name does not fit a certificate, or is not the root's.
    #[error("owner {0:?} is not 1 to 50 printable characters, or not whose root this is")]
    Owner(String),
    /// A quota of nothing, or of more than the range holds.
    #[error("station {0} has a quota of {1} and a range of {2} serials")]
    Quota(StationId, u64, u64),
    /// Two stations of one name, or whose serials overlap within a tenant.
    #[error("stations {0} and {1} have the same name or overlapping serials")]
    Overlap(StationId, StationId),
    /// A CA could not be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A station record could not be made.
    #[error(transparent)]
    Station(#[from] StationError),
    /// A manifest key's certificate could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError<std::convert::Infallible>),
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
        check(plan)?;
        let root = Ca::make_root(&plan.owner, &format!("{} root CA", plan.owner), now_s)
            .map_err(|error| owner_error(error, plan))?;
        let issuing = |purpose: Purpose| root.make_issuing(purpose, &format!("{purpose} CA"), now_s);
        let station = issuing(Purpose::Station)?;
        let broker = issuing(Purpose::Broker)?;
        let anchors = anchors::sign(&root, 1, broker.certificate(), None)?;
        let stations = plan.stations.iter().map(|plan| StationKeys::make(&root, &station, plan, now_s));
        Ok(Self {
            stations: stations.collect::<Result<_, _>>()?,
            operational: issuing(Purpose::Operational)?,
            https: issuing(Purpose::Https)?,
            service: issuing(Purpose::Service)?,
            operator: issuing(Purpose::Operator)?,
            root,
            station,
            broker,
            anchors,
        })
    }

    /// SHA-256 of the root's SubjectPublicKeyInfo: what a flasher writes into a vendor page.
    #[must_use]
    pub fn root_digest(&self) -> [u8; 32] {
        self.root.certificate().key().digest()
    }

    /// What is put away.
    #[must_use]
    pub fn root_bundle(&self) -> RootBundle {
        RootBundle { root: self.root.clone(), station: self.station.clone() }
    }

    /// What the server gets.
    #[must_use]
    pub fn server_bundle(&self) -> ServerBundle {
        ServerBundle {
            root: self.root.certificate().clone(),
            broker: self.broker.clone(),
            operational: self.operational.clone(),
            https: self.https.clone(),
            service: self.service.clone(),
            operator: self.operator.clone(),
            former: Vec::new(),
            stations: self.stations.iter().map(|station| station.record_file.clone()).collect(),
        }
    }

    /// What a station gets.
    ///
    /// # Errors
    /// [`HierarchyError::NoStation`].
    pub fn station_bundle(&self, station: &StationId) -> Result<StationBundle, HierarchyError> {
        let mut all = self.stations.iter();
        let keys = all.find(|keys| keys.record.station == *station);
        let keys = keys.ok_or_else(|| HierarchyError::NoStation(station.clone()))?;
        Ok(keys.bundle(self.root.certificate(), &self.anchors))
    }
}

/// Makes stations below a root that is there already: `known` are the records of those it has signed before.
/// `anchors` is the set its devices pin, as every one of its stations holds it.
///
/// # Errors
/// [`HierarchyError`]; for a set this root has not signed, too.
pub fn add_stations(
    root: &RootBundle,
    plan: &Plan,
    known: &[StationRecord],
    anchors: &[u8],
    now_s: i64,
) -> Result<Vec<StationBundle>, HierarchyError> {
    let certificate = root.root.certificate();
    if plan.owner != certificate.owner() {
        return Err(HierarchyError::Owner(plan.owner.clone()));
    }
    check(plan)?;
    for (one, other) in plan.stations.iter().flat_map(|one| known.iter().map(move |other| (one, other))) {
        let serials = one.tenant == other.tenant && one.serials.overlaps(&other.serials);
        if serials || one.station == other.station {
            return Err(HierarchyError::Overlap(other.station.clone(), one.station.clone()));
        }
    }
    anchors::verify(anchors, certificate)?;
    let made = plan.stations.iter().map(|plan| {
        let keys = StationKeys::make(&root.root, &root.station, plan, now_s)?;
        Ok(keys.bundle(certificate, anchors))
    });
    made.collect()
}

impl StationKeys {
    /// What the station gets.
    fn bundle(&self, root: &CaCertificate, anchors: &[u8]) -> StationBundle {
        StationBundle {
            root: root.clone(),
            factory: self.factory.clone(),
            manifest_key: self.manifest_key.clone(),
            manifest_certificate: self.manifest_certificate.clone(),
            record_file: self.record_file.clone(),
            record: self.record.clone(),
            anchors: anchors.to_vec(),
        }
    }

    fn make(root: &Ca, station_ca: &Ca, plan: &StationPlan, now_s: i64) -> Result<Self, HierarchyError> {
        let name = format!("{} factory CA", plan.station);
        let factory = root.make_issuing(Purpose::Factory, &name, now_s)?;
        let manifest_key = Arc::new(SoftKey::generate().map_err(CaError::Key)?);
        let request = Request::Named { name: plan.station.as_str(), key: manifest_key.public_key() };
        let fresh = CertificateSerial::draw().map_err(CaError::Key)?;
        // A ceremony's transcript is its ledger: the whole of it is written before any of it is used.
        let mut ledger = MemoryLedger::default();
        let issued = Authority::new(station_ca).issue(&request, &mut ledger, fresh, now_s)?;
        let record = StationRecord {
            station: plan.station.clone(),
            tenant: plan.tenant.clone(),
            factory: factory.certificate().clone(),
            manifest_key: *manifest_key.public_key(),
            quota: plan.quota,
            serials: plan.serials.clone(),
            signed_at_s: u64::try_from(now_s).unwrap_or_default(),
        };
        let record_file = record.sign(root)?;
        Ok(Self { factory, manifest_key, manifest_certificate: issued.certificate, record_file, record })
    }
}

/// Two stations may share neither a name nor, within a tenant, a serial; a quota fits its range.
fn check(plan: &Plan) -> Result<(), HierarchyError> {
    for (at, one) in plan.stations.iter().enumerate() {
        if one.quota == 0 || one.quota > one.serials.count() {
            return Err(HierarchyError::Quota(one.station.clone(), one.quota, one.serials.count()));
        }
        for other in &plan.stations[..at] {
            let serials = one.tenant == other.tenant && one.serials.overlaps(&other.serials);
            if serials || one.station == other.station {
                return Err(HierarchyError::Overlap(other.station.clone(), one.station.clone()));
            }
        }
    }
    Ok(())
}

fn owner_error(error: CaError, plan: &Plan) -> HierarchyError {
    match error {
        CaError::Name(_) => HierarchyError::Owner(plan.owner.clone()),
        other => HierarchyError::Ca(other),
    }
}
