//! What a station hands to the server at the end of a batch: writer and reader.

use muster_shared::{BatchId, CertificateId, Code, DeviceId, SerialNumber, StationId, Tenant};

use crate::{
    identity::ProfileError,
    key::{KeyError, Signer},
    station::StationRecord,
};

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not a manifest, or cut short.
    #[error("line {line}: {why}")]
    Malformed {
        /// From 1.
        line: usize,
        /// What is wrong there.
        why: &'static str,
    },
    /// Signed by a key that is not the station's.
    #[error("signed by key {found}, station {station} has {expected}")]
    OtherSigner {
        /// Digest of the key that signed, hexadecimal.
        found: String,
        /// Digest of the station's manifest key, hexadecimal.
        expected: String,
        /// Which station.
        station: StationId,
    },
    /// Changed after it was signed.
    #[error("line {line}: {why}")]
    Altered {
        /// From 1.
        line: usize,
        /// What does not hold.
        why: &'static str,
    },
    /// More rows than the station may make devices.
    #[error("{rows} rows, the station's quota is {quota}")]
    Quota {
        /// Rows in the manifest.
        rows: u64,
        /// What the root allows.
        quota: u64,
    },
    /// A serial outside the station's range.
    #[error("line {line}: serial {serial} is outside the station's range {range}")]
    Range {
        /// From 1.
        line: usize,
        /// Which.
        serial: SerialNumber,
        /// What the root allows.
        range: String,
    },
    /// A row's certificate is not a birth certificate of this station's factory CA for that row.
    #[error("line {line}: {why}")]
    Certificate {
        /// From 1.
        line: usize,
        /// What does not hold.
        why: String,
    },
    /// It is of another tenant or station than the record.
    #[error("manifest is of {found}, the record of {expected}")]
    OtherStation {
        /// `tenant/station` of the manifest.
        found: String,
        /// `tenant/station` of the record.
        expected: String,
    },
    /// The station's key did not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl ManifestError {
    /// The code under which every surface says it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Malformed { .. } => Code::ManifestMalformed,
            Self::OtherSigner { .. } | Self::OtherStation { .. } => Code::ManifestSignerUnknown,
            Self::Altered { .. } => Code::ManifestAltered,
            Self::Quota { .. } => Code::ManifestQuota,
            Self::Range { .. } => Code::ManifestRange,
            Self::Certificate { .. } => Code::CertificateProfile,
            Self::Key(_) => Code::StationSignerAway,
        }
    }
}

impl From<ProfileError> for ManifestError {
    fn from(error: ProfileError) -> Self {
        Self::Certificate { line: 0, why: error.to_string() }
    }
}

/// The first line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Whose devices.
    pub tenant: Tenant,
    /// Where they were made.
    pub station: StationId,
    /// The order.
    pub batch: BatchId,
    /// What they are.
    pub product: String,
    /// Counts the station's manifests, from 1.
    pub sequence: u64,
    /// Digest of the station's manifest before this one; `None` for the first.
    pub previous: Option<[u8; 32]>,
    /// When the batch began, milliseconds since 1970.
    pub opened_at_ms: u64,
    /// When it was closed, milliseconds since 1970.
    pub closed_at_ms: u64,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// On its label.
    pub serial: SerialNumber,
    /// In its topics.
    pub device_id: DeviceId,
    /// Its birth certificate, DER.
    pub certificate: Vec<u8>,
    /// SHA-256 of it.
    pub certificate_id: CertificateId,
    /// When it passed, milliseconds since 1970.
    pub at_ms: u64,
}

/// Writes a manifest, signed with the station's manifest key. Rows keep their order.
///
/// # Errors
/// [`ManifestError`].
pub fn write(header: &Header, rows: &[Row], key: &dyn Signer) -> Result<Vec<u8>, ManifestError> {
    let _ = (header, rows, key);
    unimplemented!()
}

/// Reads a manifest's form. Nothing in it may be believed before [`Unverified::verify`].
///
/// # Errors
/// [`ManifestError::Malformed`], [`ManifestError::Altered`] when its chain does not hold.
pub fn read(bytes: &[u8]) -> Result<Unverified, ManifestError> {
    let _ = bytes;
    unimplemented!()
}

/// A manifest of the right form.
#[derive(Debug, Clone)]
pub struct Unverified {
    header: Header,
    rows: Vec<Row>,
}

impl Unverified {
    /// The station it says it is of: whose record to look up.
    #[must_use]
    pub fn station(&self) -> &StationId {
        &self.header.station
    }

    /// The tenant it says it is of.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.header.tenant
    }

    /// Digest of the key it says it is signed by.
    #[must_use]
    pub fn signer(&self) -> [u8; 32] {
        unimplemented!()
    }

    /// Checks signature, chain, quota, range and every certificate against the station's record.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn verify(self, record: &StationRecord) -> Result<Verified, ManifestError> {
        let _ = (record, self.rows);
        unimplemented!()
    }
}

/// A manifest of a registered station.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its first line.
    pub header: Header,
    /// The devices, in the order they were made.
    pub rows: Vec<Row>,
    /// What the station's next manifest names as `previous`.
    pub digest: [u8; 32],
}
