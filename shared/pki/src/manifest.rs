//! What a station hands to the server at the end of a batch: writer and reader.
//!
//! ```text
//! {"muster":"manifest/1","tenant":…,"station":…,"batch":…,"product":…,"sequence":1,"previous":null,
//!  "opened_at":…,"closed_at":…}
//! {"chain":"<SHA-256 of the line above>","serial":…,"device_id":…,"certificate":"<DER, base64>","at":…}
//! …
//! {"signer":"…","signature":"…"}
//! ```
//!
//! One line each, as [`crate::station`] is. Each row names the line above it, so a changed, missing or moved
//! row is found at its place; the station's manifest key signs all of it. `previous` names the station's
//! manifest before this one, so a missing or second one is found too.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use muster_shared::{BatchId, CertificateId, Code, DeviceId, SerialNumber, StationId, Tenant};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    identity::DeviceIdentity,
    key::{KeyError, Signer},
    parallel,
    profile::Profile,
    sealed::{self, NotSealed, hex, unhex},
    station::StationRecord,
};

const CONTEXT: &[u8] = b"muster manifest v1\0";
const FORMAT: &str = "manifest/1";
/// Octets of the longest manifest read: a hundred thousand devices at about a thousand octets each.
pub const MANIFEST_MAX: usize = 128 * 1024 * 1024;

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

impl From<NotSealed> for ManifestError {
    fn from(error: NotSealed) -> Self {
        Self::Malformed { line: error.line, why: error.why }
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
    let mut body = sealed::line(&HeaderLine {
        muster: FORMAT.to_owned(),
        tenant: header.tenant.clone(),
        station: header.station.clone(),
        batch: header.batch.clone(),
        product: header.product.clone(),
        sequence: header.sequence,
        previous: header.previous.map(|digest| hex(&digest)),
        opened_at: sealed::time_text(header.opened_at_ms),
        closed_at: sealed::time_text(header.closed_at_ms),
    });
    let mut above = 0;
    for row in rows {
        let line = sealed::line(&RowLine {
            chain: chain(&body[above..]),
            serial: row.serial.clone(),
            device_id: row.device_id.clone(),
            certificate: BASE64.encode(&row.certificate),
            at: sealed::time_text(row.at_ms),
        });
        above = body.len();
        body.push_str(&line);
    }
    Ok(sealed::seal(CONTEXT, body, key)?)
}

/// Reads a manifest's form. Nothing in it may be believed before [`Unverified::verify`].
///
/// # Errors
/// [`ManifestError::Malformed`], [`ManifestError::Altered`] when its chain does not hold.
pub fn read(bytes: &[u8]) -> Result<Unverified<'_>, ManifestError> {
    let (sealed, header, _) = open(bytes)?;
    let lines: Vec<_> = sealed.lines().collect();
    let read = parallel::map(lines.windows(2).collect(), |_, pair| {
        let [(_, above), (number, text)] = pair else { unreachable!("windows of two") };
        let line = *number;
        let malformed = |why| ManifestError::Malformed { line, why };
        let fields: RowLine = sealed::read_line(text).map_err(malformed)?;
        if fields.chain != chain_of(above) {
            return Err(ManifestError::Altered { line, why: "does not follow the line above it" });
        }
        row(fields).map_err(malformed)
    });
    let rows = read.into_iter().collect::<Result<_, _>>()?;
    Ok(Unverified { sealed, header, rows })
}

/// Its frame and its first line.
fn open(bytes: &[u8]) -> Result<(sealed::Sealed<'_>, Header, &str), ManifestError> {
    let malformed = |why| ManifestError::Malformed { line: 1, why };
    if bytes.len() > MANIFEST_MAX {
        return Err(malformed("longer than a manifest may be"));
    }
    let sealed = sealed::open(CONTEXT, bytes)?;
    let (_, first) = sealed.lines().next().ok_or(malformed("no first line"))?;
    let header = header(sealed::read_line(first).map_err(malformed)?).map_err(malformed)?;
    Ok((sealed, header, first))
}

/// Who a manifest says it is of: whose record to look up before the rest is read.
///
/// # Errors
/// [`ManifestError::Malformed`].
pub fn claim(bytes: &[u8]) -> Result<Claim, ManifestError> {
    let (sealed, header, _) = open(bytes)?;
    Ok(Claim { station: header.station, signer: sealed.signer })
}

/// What a manifest says of itself, and nobody has checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The station it says it is of.
    pub station: StationId,
    /// SHA-256 of the key it says it is signed by.
    pub signer: [u8; 32],
}

/// A manifest of the right form.
#[derive(Debug, Clone)]
pub struct Unverified<'a> {
    sealed: sealed::Sealed<'a>,
    header: Header,
    rows: Vec<Row>,
}

impl Unverified<'_> {
    /// Checks signature, quota, range and every certificate against the station's record.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn verify(self, record: &StationRecord) -> Result<Verified, ManifestError> {
        let Self { sealed, header, rows } = self;
        if (&header.station, &header.tenant) != (&record.station, &record.tenant) {
            return Err(ManifestError::OtherStation {
                found: format!("{}/{}", header.tenant, header.station),
                expected: format!("{}/{}", record.tenant, record.station),
            });
        }
        if sealed.signer != record.manifest_key.digest() {
            return Err(ManifestError::OtherSigner {
                found: hex(&sealed.signer),
                expected: hex(&record.manifest_key.digest()),
                station: record.station.clone(),
            });
        }
        sealed.verify(&record.manifest_key).map_err(|_| ManifestError::Altered {
            line: rows.len() + 2,
            why: "the station's signature is not over these lines",
        })?;
        let count = rows.len() as u64;
        if count > record.quota {
            return Err(ManifestError::Quota { rows: count, quota: record.quota });
        }
        let (mut serials, mut names, mut keys) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        // The header is line 1.
        let judged = parallel::map(rows.iter().collect(), |at, row| certificate(row, record, at + 2));
        let devices = judged.into_iter().collect::<Result<Vec<_>, _>>()?;
        for (line, (row, device)) in (2..).zip(rows.iter().zip(&devices)) {
            let new =
                serials.insert(&row.serial) & names.insert(&row.device_id) & keys.insert(device.key_digest);
            if !new {
                let why = format!("serial {}, its device id or its key is there twice", row.serial);
                return Err(ManifestError::Certificate { line, why });
            }
        }
        Ok(Verified { digest: sealed.digest(), header, rows, devices })
    }
}

/// A manifest of a registered station.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its first line.
    pub header: Header,
    /// The devices, in the order they were made.
    pub rows: Vec<Row>,
    /// What the rows' certificates say, in the same order.
    pub devices: Vec<DeviceIdentity>,
    /// What the station's next manifest names as `previous`.
    pub digest: [u8; 32],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    muster: String,
    tenant: Tenant,
    station: StationId,
    batch: BatchId,
    product: String,
    sequence: u64,
    previous: Option<String>,
    opened_at: String,
    closed_at: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RowLine {
    chain: String,
    serial: SerialNumber,
    device_id: DeviceId,
    certificate: String,
    at: String,
}

/// Names a line (with its end).
fn chain(line: &str) -> String {
    chain_of(line.strip_suffix('\n').unwrap_or(line))
}

/// Names a line (without its end).
fn chain_of(line: &str) -> String {
    hex(&Sha256::digest(line.as_bytes()))
}

fn header(line: HeaderLine) -> Result<Header, &'static str> {
    if line.muster != FORMAT {
        return Err("another format or version");
    }
    if !is_product(&line.product) {
        return Err("product is not 1 to 64 octets of text");
    }
    let digest = |text: String| unhex(&text).and_then(|octets| octets.try_into().ok());
    let previous = match line.previous {
        None => None,
        Some(text) => Some(digest(text).ok_or("previous is not a SHA-256 in hexadecimal")?),
    };
    if (line.sequence == 1) != previous.is_none() || line.sequence == 0 {
        return Err("the first manifest of a station, and only the first, has no previous one");
    }
    Ok(Header {
        tenant: line.tenant,
        station: line.station,
        batch: line.batch,
        product: line.product,
        sequence: line.sequence,
        previous,
        opened_at_ms: sealed::read_time(&line.opened_at).ok_or("opened_at is no time")?,
        closed_at_ms: sealed::read_time(&line.closed_at).ok_or("closed_at is no time")?,
    })
}

fn row(line: RowLine) -> Result<Row, &'static str> {
    let certificate = BASE64.decode(&line.certificate).map_err(|_| "certificate is not base64")?;
    Ok(Row {
        certificate_id: CertificateId(Sha256::digest(&certificate).into()),
        serial: line.serial,
        device_id: line.device_id,
        certificate,
        at_ms: sealed::read_time(&line.at).ok_or("at is no time")?,
    })
}

/// The row's certificate: a birth certificate of this station's factory CA, for this row, within the range.
fn certificate(row: &Row, record: &StationRecord, line: usize) -> Result<DeviceIdentity, ManifestError> {
    let wrong = |why: String| ManifestError::Certificate { line, why };
    let device =
        DeviceIdentity::from_certificate(&row.certificate).map_err(|error| wrong(error.to_string()))?;
    if device.profile != Profile::Birth {
        return Err(wrong("not a birth certificate".to_owned()));
    }
    if (&device.serial, &device.device_id, &device.tenant) != (&row.serial, &row.device_id, &record.tenant) {
        return Err(wrong(format!("certificate is of {}/{}", device.tenant, device.device_id)));
    }
    if record.serials.place(&row.serial).is_none() {
        let (serial, range) = (row.serial.clone(), record.serials.to_string());
        return Err(ManifestError::Range { line, serial, range });
    }
    record.factory.vouches_for(&row.certificate).map_err(|error| wrong(error.to_string()))?;
    Ok(device)
}

/// Longest product name, octets: what a listing shows in one line.
pub const PRODUCT_MAX: usize = 64;

/// Whether this may name a product: 1 to [`PRODUCT_MAX`] octets of text without control characters.
#[must_use]
pub fn is_product(text: &str) -> bool {
    (1..=PRODUCT_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}
