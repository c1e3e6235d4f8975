//! The root-signed record that registers a factory station: writer and reader.
//!
//! ```text
//! {"muster":"station-record/1","station":"S-07","tenant":"acme","quota":10000,"first_serial":"MU-000001",
//!  "last_serial":"MU-009999","factory_ca":"<DER, base64>","manifest_key":"<SubjectPublicKeyInfo, base64>",
//!  "signed_at":"2026-11-22T14:02:11.000Z"}
//! {"signer":"…","signature":"…"}
//! ```
//!
//! The first two lines above are one line of the file; the last is the root's seal over it.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use muster_shared::{SerialNumber, StationId, Tenant, limits::SERIAL_MAX};
use serde::{Deserialize, Serialize};

use crate::{
    ca::{Ca, CaCertificate, CaError},
    key::PublicKey,
    profile::Purpose,
    sealed,
};

const CONTEXT: &[u8] = b"muster station record v1\0";
const FORMAT: &str = "station-record/1";

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialRange {
    prefix: String,
    digits: usize,
    first: u64,
    last: u64,
}

impl SerialRange {
    /// The range from `first` to `last`, both included: one prefix, one number of digits.
    ///
    /// # Errors
    /// [`StationError::Range`].
    pub fn new(first: &SerialNumber, last: &SerialNumber) -> Result<Self, StationError> {
        let wrong = |why| StationError::Range(format!("{first}..={last}"), why);
        let (Some((prefix, from)), Some((same, to))) = (first.split(), last.split()) else {
            return Err(wrong("a serial does not end in 1 to 18 digits"));
        };
        if prefix != same || first.as_str().len() != last.as_str().len() {
            return Err(wrong("prefix or number of digits differ"));
        }
        if from > to {
            return Err(wrong("ends before it begins"));
        }
        let digits = first.as_str().len() - prefix.len();
        Ok(Self { prefix: prefix.to_owned(), digits, first: from, last: to })
    }

    /// Is this serial in the range? Returns its place, from 0.
    #[must_use]
    pub fn place(&self, serial: &SerialNumber) -> Option<u64> {
        let (prefix, number) = serial.split()?;
        let mine = prefix == self.prefix && serial.as_str().len() == prefix.len() + self.digits;
        (mine && (self.first..=self.last).contains(&number)).then(|| number - self.first)
    }

    /// The serial at a place, from 0.
    #[must_use]
    pub fn serial(&self, place: u64) -> Option<SerialNumber> {
        let number = self.first.checked_add(place).filter(|number| *number <= self.last)?;
        Some(self.spell(number))
    }

    /// How many serials there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.last - self.first + 1
    }

    /// Do two ranges have a serial in common?
    #[must_use]
    pub fn overlaps(&self, other: &SerialRange) -> bool {
        (&self.prefix, self.digits) == (&other.prefix, other.digits)
            && self.first <= other.last
            && other.first <= self.last
    }

    /// The first serial.
    #[must_use]
    pub fn first(&self) -> SerialNumber {
        self.spell(self.first)
    }

    /// The last serial.
    #[must_use]
    pub fn last(&self) -> SerialNumber {
        self.spell(self.last)
    }

    fn spell(&self, number: u64) -> SerialNumber {
        let text = format!("{}{number:0digits$}", self.prefix, digits = self.digits);
        SerialNumber::new(&text).expect("no longer than the serials the range was made of")
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
    pub signed_at_s: u64,
}

impl StationRecord {
    /// Writes the record, signed by `root`.
    ///
    /// # Errors
    /// [`StationError`].
    pub fn sign(&self, root: &Ca) -> Result<Vec<u8>, StationError> {
        let line = Line {
            muster: FORMAT.to_owned(),
            station: self.station.clone(),
            tenant: self.tenant.clone(),
            quota: self.quota,
            first_serial: self.serials.first(),
            last_serial: self.serials.last(),
            factory_ca: BASE64.encode(self.factory.der()),
            manifest_key: BASE64.encode(self.manifest_key.spki()),
            signed_at: sealed::time_text(self.signed_at_s * 1000),
        };
        let bytes = sealed::seal(CONTEXT, sealed::line(&line), &**root.key()).map_err(CaError::Key)?;
        // What is handed out is what a reader accepts.
        Self::verify(&bytes, root.certificate())?;
        Ok(bytes)
    }

    /// Reads a record and checks the root's signature over it, and over the factory CA in it.
    ///
    /// # Errors
    /// [`StationError`].
    pub fn verify(bytes: &[u8], root: &CaCertificate) -> Result<Self, StationError> {
        if bytes.len() > RECORD_MAX {
            return Err(StationError::Malformed("too long"));
        }
        let sealed = sealed::open(CONTEXT, bytes).map_err(|wrong| StationError::Malformed(wrong.why))?;
        root.must_be(Purpose::Root)?;
        sealed.verify(root.key()).map_err(|_| StationError::NotSigned)?;
        let mut lines = sealed.lines();
        let (Some((_, line)), None) = (lines.next(), lines.next()) else {
            return Err(StationError::Malformed("more than one line"));
        };
        let line: Line = sealed::read_line(line).map_err(StationError::Malformed)?;
        if line.muster != FORMAT {
            return Err(StationError::Malformed("another format or version"));
        }
        let octets = |text: &str| BASE64.decode(text).map_err(|_| StationError::Malformed("not base64"));
        let factory = CaCertificate::issuing(&octets(&line.factory_ca)?, Purpose::Factory, root)?;
        let manifest_key = PublicKey::from_spki(&octets(&line.manifest_key)?).map_err(CaError::Key)?;
        if manifest_key == *factory.key() {
            return Err(StationError::Malformed("one key for certificates and manifests"));
        }
        let signed_at = sealed::read_time(&line.signed_at);
        Ok(Self {
            station: line.station,
            tenant: line.tenant,
            factory,
            manifest_key,
            quota: line.quota,
            serials: SerialRange::new(&line.first_serial, &line.last_serial)?,
            signed_at_s: signed_at.ok_or(StationError::Malformed("signed_at is no time"))? / 1000,
        })
    }
}

/// Octets of the longest record: a CA certificate and a key in base64, names and numbers.
const RECORD_MAX: usize = 8192;
const _: () = assert!(SERIAL_MAX < RECORD_MAX / 16);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    muster: String,
    station: StationId,
    tenant: Tenant,
    quota: u64,
    first_serial: SerialNumber,
    last_serial: SerialNumber,
    factory_ca: String,
    manifest_key: String,
    signed_at: String,
}
