//! `issued.jsonl` in the data directory: what was signed there for services and operators.
//!
//! ```text
//! {"intended":{…}}                          before it is signed
//! {"issued":SERIAL,"certificate":DER}       after, both hexadecimal, and before it is handed out
//! ```
//!
//! It is the one place that knows these certificates: the registry holds devices' alone. So what of them was
//! revoked gets onto its authority's revocation list from here. Writer and reader live together.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use muster_pki::{CertificateSerial, Intent, Ledger, Profile};
use muster_shared::{CertificateId, factory::Subject};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Where it is, below the data directory.
#[must_use]
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("issued.jsonl")
}

/// The ledger, open to be written; each line is on disk before the next step.
pub struct Lines(File);

impl Lines {
    /// Opens it, or begins it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(path).map(Self)
    }

    fn add(&mut self, line: &Value) -> io::Result<()> {
        // One write a line: two commands at once do not mix theirs.
        self.0.write_all(format!("{line}\n").as_bytes())?;
        self.0.sync_all()
    }
}

impl Ledger for Lines {
    type Error = io::Error;

    fn find(&self, _: Profile, _: &Subject) -> io::Result<Option<Intent>> {
        // A device's certificates are the registry's.
        Ok(None)
    }

    fn intend(&mut self, intent: &Intent) -> io::Result<()> {
        self.add(&json!({ "intended": intent }))
    }

    fn issued(&mut self, intent: &Intent, certificate: &[u8]) -> io::Result<()> {
        let serial = intent.certificate_serial.to_string();
        self.add(&json!({ "issued": serial, "certificate": hex::encode(certificate) }))
    }
}

/// A certificate that was signed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its serial number.
    pub serial: CertificateSerial,
    /// Itself, DER.
    pub der: Vec<u8>,
}

/// The second of the two lines.
#[derive(Deserialize)]
struct Issued {
    issued: String,
    certificate: String,
}

impl Issued {
    fn certificate(&self) -> Option<Certificate> {
        let octets = hex::decode(&self.issued).ok()?;
        let serial = CertificateSerial::new(octets.try_into().ok()?)?;
        Some(Certificate { serial, der: hex::decode(&self.certificate).ok()? })
    }
}

/// What was signed here, by the SHA-256 of each. A line that a crash cut short is of nothing that was handed
/// out, and is passed over.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read(data_dir: &Path) -> io::Result<HashMap<CertificateId, Certificate>> {
    let file = match File::open(path(data_dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        file => file?,
    };
    let mut all = HashMap::new();
    for line in BufReader::new(file).split(b'\n') {
        let issued = serde_json::from_slice::<Issued>(&line?).ok();
        if let Some(certificate) = issued.and_then(|issued| issued.certificate()) {
            all.insert(CertificateId(Sha256::digest(&certificate.der).into()), certificate);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use muster_pki::testing;

    use super::*;

    #[test]
    fn what_was_written_is_read_back_whatever_a_crash_left() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), HashMap::new(), "nothing was signed yet");
        let der = vec![7; 40];
        let serial = CertificateSerial::draw().unwrap();
        let text = format!(
            "{}\n{}\n{}\n{}",
            json!({ "intended": { "certificate_serial": "anything" } }),
            json!({ "issued": serial.to_string(), "certificate": hex::encode(&der) }),
            json!({ "issued": "00", "certificate": "07" }),
            "{\"issued\":\"12"
        );
        std::fs::write(path(dir.path()), text).unwrap();
        let id = CertificateId(Sha256::digest(&der).into());
        assert_eq!(read(dir.path()).unwrap(), HashMap::from([(id, Certificate { serial, der })]));
    }

    #[test]
    fn the_authority_writes_what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let hierarchy = testing::hierarchy(1_800_000_000);
        let key = muster_pki::SoftKey::generate().unwrap();
        let request =
            muster_pki::Request::Named { name: "historian", key: muster_pki::Signer::public_key(&key) };
        let mut lines = Lines::open(&path(dir.path())).unwrap();
        let authority = muster_pki::Authority::new(&hierarchy.service);
        let fresh = CertificateSerial::draw().unwrap();
        let issued = authority.issue(&request, &mut lines, fresh, 1_800_000_000).unwrap();
        let read = read(dir.path()).unwrap();
        let certificate = Certificate { serial: fresh, der: issued.certificate.clone() };
        assert_eq!(read, HashMap::from([(issued.id, certificate)]));
    }
}
