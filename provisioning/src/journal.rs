//! What a station remembers, on disk before anything follows from it.
//!
//! One record a line: `<chain> <JSON>`. The chain is the first 16 hexadecimal digits of SHA-256 over the chain
//! before it and this JSON, so it is checksum and order in one: a changed, missing or moved line is found at
//! its place. A record is appended by one write and one fsync.
//!
//! A power cut leaves a last line that does not end, or that is partly zero octets: it was never
//! acknowledged, so it is cut off. Anything else that does not fit is damage, and a hard error: a station that
//! forgot a serial would give it twice.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use muster_pki::{Intent, Ledger, Profile, ledger::Holder};
use muster_shared::{BatchId, CertificateId, DeviceId, SerialNumber, StationId, Tenant, factory::Subject};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const FORMAT: &str = "journal/1";
const CHAIN: usize = 16;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system said no. Nothing may follow: what was to be kept is not kept.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{0}: another station program has it open")]
    Locked(PathBuf),
    /// A line that is not the end does not fit.
    #[error("{path} line {line}: {why}; the journal is damaged, keep it and call the lead")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What does not fit.
        why: &'static str,
    },
    /// The journal of another station.
    #[error("{path}: is the journal of {found}, this is {expected}")]
    OtherStation {
        /// Which file.
        path: PathBuf,
        /// `tenant/station` in it.
        found: String,
        /// `tenant/station` of the bundle.
        expected: String,
    },
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// First line: whose journal it is.
    Opened {
        /// `journal/1`.
        format: String,
        /// The one tenant of the station.
        tenant: Tenant,
        /// The station.
        station: StationId,
    },
    /// Work on a unit began.
    Started {
        /// The unit.
        serial: SerialNumber,
        /// Its order.
        batch: BatchId,
        /// What it is.
        product: String,
        /// Milliseconds since 1970.
        at_ms: u64,
    },
    /// A certificate will be signed.
    Intent {
        /// All that goes into it.
        intent: Intent,
    },
    /// It was signed.
    Issued {
        /// The unit.
        serial: SerialNumber,
        /// DER, hexadecimal.
        certificate: String,
    },
    /// The unit proved that it holds the key, and read back what it was given.
    Proved {
        /// The unit.
        serial: SerialNumber,
        /// Milliseconds since 1970.
        at_ms: u64,
    },
    /// The unit is locked: PASS.
    Done {
        /// The unit.
        serial: SerialNumber,
        /// The order it counts for.
        batch: BatchId,
        /// Milliseconds since 1970.
        at_ms: u64,
    },
    /// FAIL.
    Failed {
        /// The unit, when it was known by then.
        serial: Option<SerialNumber>,
        /// `E13`.
        code: String,
        /// Which of the five steps.
        step: String,
        /// Milliseconds since 1970.
        at_ms: u64,
    },
    /// A batch was closed by a manifest.
    Closed {
        /// Which.
        batch: BatchId,
        /// What its units are.
        product: String,
        /// Counts the station's manifests, from 1.
        sequence: u64,
        /// Digest of the manifest before, hexadecimal.
        previous: Option<String>,
        /// When the batch began, milliseconds since 1970.
        opened_at_ms: u64,
        /// Milliseconds since 1970.
        closed_at_ms: u64,
        /// Digest of this manifest, hexadecimal.
        digest: String,
    },
}

/// What is known of one serial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What was to be signed.
    pub intent: Intent,
    /// The certificate, once signed: DER.
    pub certificate: Option<Vec<u8>>,
    /// It has proved its key; from here on the lock may be closed.
    pub proved: bool,
    /// PASS: the order it counts for, and when (milliseconds since 1970).
    pub done: Option<(BatchId, u64)>,
}

impl Known {
    /// SHA-256 of the key's SubjectPublicKeyInfo.
    #[must_use]
    pub fn key_digest(&self) -> [u8; 32] {
        Sha256::digest(&self.intent.spki).into()
    }

    /// Of the certificate, once signed.
    #[must_use]
    pub fn certificate_id(&self) -> Option<CertificateId> {
        self.certificate.as_ref().map(|der| CertificateId(Sha256::digest(der).into()))
    }

    /// The name the certificate gives the unit.
    #[must_use]
    pub fn device_id(&self) -> Option<&DeviceId> {
        match &self.intent.holder {
            Holder::Device(subject) => Some(&subject.device_id),
            _ => None,
        }
    }
}

/// A station's memory, open for appending. One process at a time has it.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    chain: [u8; CHAIN],
    tenant: Tenant,
    records: Vec<Record>,
    units: BTreeMap<SerialNumber, Known>,
    /// Octets of a torn last line that were cut off when it was opened.
    cut: usize,
}

impl Record {
    /// When it was written, milliseconds since 1970; `None` for one that says nothing of it.
    fn at_ms(&self) -> Option<u64> {
        match self {
            Self::Started { at_ms, .. }
            | Self::Proved { at_ms, .. }
            | Self::Done { at_ms, .. }
            | Self::Failed { at_ms, .. } => Some(*at_ms),
            Self::Closed { closed_at_ms, .. } => Some(*closed_at_ms),
            Self::Opened { .. } | Self::Intent { .. } | Self::Issued { .. } => None,
        }
    }
}

impl Journal {
    /// The latest time written down here, milliseconds since 1970.
    #[must_use]
    pub fn newest_ms(&self) -> Option<u64> {
        self.records.iter().filter_map(Record::at_ms).max()
    }

    /// Opens the journal of a station, or begins it. A torn last line is cut off.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(path: &Path, tenant: &Tenant, station: &StationId) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        let new = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = new.open(path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let mut octets = Vec::new();
        file.read_to_end(&mut octets).map_err(io)?;
        let replayed = replay(path, &octets)?;
        let mut journal = Self {
            path: path.to_owned(),
            file,
            chain: replayed.chain,
            tenant: tenant.clone(),
            records: Vec::new(),
            units: BTreeMap::new(),
            cut: octets.len() - replayed.whole,
        };
        journal.file.set_len(replayed.whole as u64).map_err(io)?;
        journal.file.seek(SeekFrom::End(0)).map_err(io)?;
        for record in replayed.records {
            journal.apply(record);
        }
        journal.belongs(tenant, station)?;
        Ok(journal)
    }

    /// Appends a record. When this returns, it is on disk.
    ///
    /// # Errors
    /// [`JournalError::Io`]; what it stood for must not happen then.
    pub fn append(&mut self, record: Record) -> Result<(), JournalError> {
        let json = serde_json::to_string(&record).expect("records are strings and numbers");
        let chain = next_chain(&self.chain, json.as_bytes());
        let line = [&chain[..], b" ", json.as_bytes(), b"\n"].concat();
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        written.map_err(|source| JournalError::Io { path: self.path.clone(), source })?;
        self.chain = chain;
        self.apply(record);
        Ok(())
    }

    /// What is known of a serial: `None` until something was to be signed for it.
    #[must_use]
    pub fn unit(&self, serial: &SerialNumber) -> Option<&Known> {
        self.units.get(serial)
    }

    /// Every serial something was to be signed for.
    pub fn units(&self) -> impl Iterator<Item = (&SerialNumber, &Known)> {
        self.units.iter()
    }

    /// Everything that happened, in order.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Octets of a torn last line that were cut off when it was opened.
    #[must_use]
    pub fn cut(&self) -> usize {
        self.cut
    }

    fn belongs(&mut self, tenant: &Tenant, station: &StationId) -> Result<(), JournalError> {
        match self.records.first() {
            None => {
                let (tenant, station) = (tenant.clone(), station.clone());
                self.append(Record::Opened { format: FORMAT.to_owned(), tenant, station })?;
                // The file's name is on disk too.
                let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
                File::open(folder.unwrap_or(Path::new(".")))
                    .and_then(|folder| folder.sync_all())
                    .map_err(|source| JournalError::Io { path: self.path.clone(), source })
            }
            Some(Record::Opened { format, .. }) if format != FORMAT => {
                let why = "another format or version";
                Err(JournalError::Damaged { path: self.path.clone(), line: 1, why })
            }
            Some(Record::Opened { tenant: t, station: s, .. }) if t == tenant && s == station => Ok(()),
            Some(Record::Opened { tenant: t, station: s, .. }) => Err(JournalError::OtherStation {
                path: self.path.clone(),
                found: format!("{t}/{s}"),
                expected: format!("{tenant}/{station}"),
            }),
            Some(_) => {
                let why = "does not say whose journal it is";
                Err(JournalError::Damaged { path: self.path.clone(), line: 1, why })
            }
        }
    }

    fn apply(&mut self, record: Record) {
        match &record {
            Record::Intent { intent } => {
                if let Holder::Device(subject) = &intent.holder {
                    let fresh =
                        Known { intent: intent.clone(), certificate: None, proved: false, done: None };
                    self.units.entry(subject.serial.clone()).or_insert(fresh);
                }
            }
            Record::Issued { serial, certificate } => {
                if let Some(unit) = self.units.get_mut(serial) {
                    unit.certificate = unhex(certificate);
                }
            }
            Record::Proved { serial, .. } => {
                if let Some(unit) = self.units.get_mut(serial) {
                    unit.proved = true;
                }
            }
            Record::Done { serial, batch, at_ms } => {
                if let Some(unit) = self.units.get_mut(serial) {
                    unit.done.get_or_insert((batch.clone(), *at_ms));
                }
            }
            Record::Opened { .. }
            | Record::Started { .. }
            | Record::Failed { .. }
            | Record::Closed { .. } => {}
        }
        self.records.push(record);
    }
}

/// The journal is the ledger of the factory CA: intent and certificate are records of it.
impl Ledger for Journal {
    type Error = JournalError;

    fn find(&self, profile: Profile, subject: &Subject) -> Result<Option<Intent>, JournalError> {
        let mine = profile == Profile::Birth && subject.tenant == self.tenant;
        Ok(mine.then(|| self.unit(&subject.serial).map(|unit| unit.intent.clone())).flatten())
    }

    fn intend(&mut self, intent: &Intent) -> Result<(), JournalError> {
        self.append(Record::Intent { intent: intent.clone() })
    }

    fn issued(&mut self, intent: &Intent, certificate: &[u8]) -> Result<(), JournalError> {
        let Holder::Device(subject) = &intent.holder else { return Ok(()) };
        // The same certificate again needs no second record.
        if self.unit(&subject.serial).and_then(|unit| unit.certificate.as_deref()) == Some(certificate) {
            return Ok(());
        }
        self.append(Record::Issued { serial: subject.serial.clone(), certificate: hex(certificate) })
    }
}

struct Replayed {
    records: Vec<Record>,
    chain: [u8; CHAIN],
    /// Octets that are whole records.
    whole: usize,
}

fn replay(path: &Path, octets: &[u8]) -> Result<Replayed, JournalError> {
    let mut out = Replayed { records: Vec::new(), chain: [b'0'; CHAIN], whole: 0 };
    for (at, line) in octets.split_inclusive(|&octet| octet == b'\n').enumerate() {
        let last = out.whole + line.len() == octets.len();
        // Only an append that was never acknowledged leaves such a tail: no end, or a block never written.
        let torn = last && (line.last() != Some(&b'\n') || line.contains(&0));
        match read(&out.chain, line) {
            Ok((chain, record)) => {
                out.chain = chain;
                out.records.push(record);
                out.whole += line.len();
            }
            Err(_) if torn => break,
            Err(why) => return Err(JournalError::Damaged { path: path.to_owned(), line: at + 1, why }),
        }
    }
    Ok(out)
}

fn read(before: &[u8; CHAIN], line: &[u8]) -> Result<([u8; CHAIN], Record), &'static str> {
    let line = line.strip_suffix(b"\n").ok_or("the line does not end")?;
    let (chain, rest) = line.split_first_chunk::<CHAIN>().ok_or("the line is too short")?;
    let json = rest.strip_prefix(b" ").ok_or("no checksum before the record")?;
    if next_chain(before, json) != *chain {
        return Err("the checksum differs, or a line before it is missing");
    }
    let record = serde_json::from_slice(json).map_err(|_| "not a record this version knows")?;
    Ok((*chain, record))
}

fn next_chain(before: &[u8; CHAIN], json: &[u8]) -> [u8; CHAIN] {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(json);
    let text = hex(&hash.finalize()[..CHAIN / 2]);
    *text.as_bytes().first_chunk().expect("two digits an octet")
}

/// Lower-case hexadecimal.
pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Reads hexadecimal.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    let pair = |pair: &[u8]| match pair {
        [_, _] if pair.iter().all(u8::is_ascii_hexdigit) => {
            u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()
        }
        _ => None,
    };
    pairs.map(pair).collect()
}
