//! The folders a ceremony hands over: one for the server, one for each station, one to be put away.
//!
//! ```text
//! root/       root.pem root.key.pem station-ca.pem station-ca.key.pem
//! server/     root.pem {broker,operational,https,service,operator}-ca.pem and .key.pem, stations/NAME.record,
//!             rotated/ once an authority was rotated (see [`rotation`])
//! station/    root.pem factory-ca.pem factory-ca.key.pem manifest.pem manifest.key.pem station.record anchors.bin
//! ```
//!
//! Certificates are PEM, keys encrypted PKCS #8 (mode 0600), a record as [`crate::station`] writes it. Reading
//! checks every certificate, key and record against the root beside it: a folder that reads is whole.

pub mod rotation;

use std::{
    fs,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use crate::{
    anchors,
    ca::{Ca, CaCertificate, CaError},
    csr::CsrError,
    key::{Passphrase, Signer, SoftKey},
    keyfile::{self, FileError, make_folder, write, write_key},
    profile::Purpose,
    station::{StationError, StationRecord},
    x509::Certificate,
};

/// Why a bundle was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A CA's certificate or its key.
    #[error("{path}: {source}")]
    Ca {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: CaError,
    },
    /// A station's record.
    #[error("{path}: {source}")]
    Station {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: StationError,
    },
    /// A request for a CA's certificate.
    #[error("{path}: {source}")]
    Request {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: CsrError,
    },
}

/// What is put away.
#[derive(Clone)]
pub struct RootBundle {
    /// Signs CAs, station records and anchor sets.
    pub root: Ca,
    /// Signs manifest keys' certificates.
    pub station: Ca,
}

/// What the server holds.
#[derive(Clone)]
pub struct ServerBundle {
    /// The root's certificate; its key is elsewhere.
    pub root: CaCertificate,
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
    /// Those that were rotated, oldest first: they issue nothing any more, and what they issued is still good.
    pub former: Vec<Ca>,
    /// The stations known at the ceremony: each record as it is given to the registry.
    pub stations: Vec<Vec<u8>>,
}

/// What a station holds.
#[derive(Clone)]
pub struct StationBundle {
    /// The root's certificate.
    pub root: CaCertificate,
    /// Issues birth certificates.
    pub factory: Ca,
    /// Signs manifests.
    pub manifest_key: Arc<SoftKey>,
    /// Its certificate of the station CA, DER.
    pub manifest_certificate: Vec<u8>,
    /// The root-signed record, as it lies on disk.
    pub record_file: Vec<u8>,
    /// The same, verified.
    pub record: StationRecord,
    /// `muster_shared::factory::SignedAnchors` in postcard.
    pub anchors: Vec<u8>,
}

impl RootBundle {
    /// Writes the bundle into the folder `dir`, which it makes. Key files are encrypted and mode 0600.
    ///
    /// # Errors
    /// [`BundleError`]; a file that is there already is never replaced.
    pub fn write(&self, dir: &Path, passphrase: &Passphrase) -> Result<(), BundleError> {
        make_folder(dir)?;
        write_certificate(dir, "root", self.root.certificate().der())?;
        write_key(&key_path(dir, "root"), self.root.key(), passphrase)?;
        write_ca(dir, &self.station, passphrase)
    }

    /// Reads what [`RootBundle::write`] wrote.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn read(dir: &Path, passphrase: &Passphrase) -> Result<Self, BundleError> {
        let certificate = read_root(dir)?;
        let path = key_path(dir, "root");
        let key = Arc::new(keyfile::read_key(&path, passphrase)?);
        let root = Ca::new(certificate.clone(), key).map_err(|source| BundleError::Ca { path, source })?;
        Ok(Self { root, station: read_ca(dir, Purpose::Station, &certificate, passphrase)? })
    }
}

impl ServerBundle {
    /// Writes the bundle into the folder `dir`, which it makes. Key files are encrypted and mode 0600.
    ///
    /// # Errors
    /// [`BundleError`]; a file that is there already is never replaced.
    pub fn write(&self, dir: &Path, passphrase: &Passphrase) -> Result<(), BundleError> {
        make_folder(dir)?;
        write_certificate(dir, "root", self.root.der())?;
        for ca in [&self.broker, &self.operational, &self.https, &self.service, &self.operator] {
            let purpose = ca.certificate().purpose();
            let mut line = self.former_of(purpose).chain([ca]);
            write_ca(dir, line.next().unwrap_or(ca), passphrase)?;
            for (number, later) in (2..).zip(line) {
                rotation::write(dir, later, number, passphrase)?;
            }
        }
        let stations = dir.join(STATIONS);
        make_folder(&stations)?;
        for record in &self.stations {
            let path = stations.clone();
            let read = StationRecord::verify(record, &self.root);
            let name = read.map_err(|source| BundleError::Station { path, source })?.station;
            write(&stations.join(format!("{name}.record")), record, 0o644)?;
        }
        Ok(())
    }

    /// Reads what [`ServerBundle::write`] wrote and checks every certificate, key and record against the root.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn read(dir: &Path, passphrase: &Passphrase) -> Result<Self, BundleError> {
        let root = read_root(dir)?;
        // Each key file has a salt, and so a derivation of its own, which is all that takes time here.
        let (broker, operational, https, service, operator) = thread::scope(|scope| {
            let ca = |purpose| {
                let root = &root;
                scope.spawn(move || {
                    let first = read_ca(dir, purpose, root, passphrase)?;
                    rotation::read(dir, first, root, passphrase)
                })
            };
            let reading = [
                ca(Purpose::Broker),
                ca(Purpose::Operational),
                ca(Purpose::Https),
                ca(Purpose::Service),
                ca(Purpose::Operator),
            ];
            let [broker, operational, https, service, operator] =
                reading.map(|read| read.join().unwrap_or_else(|panic| resume_unwind(panic)));
            Ok::<_, BundleError>((broker?, operational?, https?, service?, operator?))
        })?;
        let stations = read_records(&dir.join(STATIONS), &root)?;
        let mut former = Vec::new();
        let [broker, operational, https, service, operator] = [broker, operational, https, service, operator]
            .map(|line| {
                former.extend(line.former);
                line.current
            });
        Ok(Self { broker, operational, https, service, operator, former, stations, root })
    }

    /// The authorities of a purpose that were rotated, oldest first.
    pub fn former_of(&self, purpose: Purpose) -> impl Iterator<Item = &Ca> {
        self.former.iter().filter(move |ca| ca.certificate().purpose() == purpose)
    }
}

impl StationBundle {
    /// Writes the bundle into the folder `dir`, which it makes. Key files are encrypted and mode 0600.
    ///
    /// # Errors
    /// [`BundleError`]; a file that is there already is never replaced.
    pub fn write(&self, dir: &Path, passphrase: &Passphrase) -> Result<(), BundleError> {
        make_folder(dir)?;
        write_certificate(dir, "root", self.root.der())?;
        write_ca(dir, &self.factory, passphrase)?;
        write_certificate(dir, MANIFEST, &self.manifest_certificate)?;
        write_key(&key_path(dir, MANIFEST), &self.manifest_key, passphrase)?;
        write(&dir.join(RECORD), &self.record_file, 0o644)?;
        write(&dir.join(ANCHORS), &self.anchors, 0o644)?;
        Ok(())
    }

    /// Reads what [`StationBundle::write`] wrote and checks every certificate, key and record against the root.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn read(dir: &Path, passphrase: &Passphrase) -> Result<Self, BundleError> {
        let root = read_root(dir)?;
        let factory = read_ca(dir, Purpose::Factory, &root, passphrase)?;
        let path = dir.join(RECORD);
        let record_file = keyfile::read(&path)?;
        let record = StationRecord::verify(&record_file, &root)
            .map_err(|source| BundleError::Station { path: path.clone(), source })?;
        let manifest_key = Arc::new(keyfile::read_key(&key_path(dir, MANIFEST), passphrase)?);
        if record.factory != *factory.certificate() || record.manifest_key != *manifest_key.public_key() {
            return Err(BundleError::Ca { path, source: CaError::OtherKey });
        }
        let path = certificate_path(dir, MANIFEST);
        let manifest_certificate = keyfile::read_certificate(&path)?;
        // The station CA's own certificate is not here; the key is what ties this one to the root's record.
        let held = Certificate::read(&manifest_certificate).map(|certificate| certificate.spki);
        if held != Ok(&record.manifest_key.spki()[..]) {
            return Err(BundleError::Ca { path, source: CaError::OtherKey });
        }
        let path = dir.join(ANCHORS);
        let anchors = keyfile::read(&path)?;
        anchors::verify(&anchors, &root).map_err(|source| BundleError::Ca { path, source })?;
        Ok(Self { manifest_certificate, root, factory, manifest_key, record_file, record, anchors })
    }
}

const STATIONS: &str = "stations";
const RECORD: &str = "station.record";
const ANCHORS: &str = "anchors.bin";
const MANIFEST: &str = "manifest";

fn certificate_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.pem"))
}

fn key_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.key.pem"))
}

fn write_certificate(dir: &Path, name: &str, der: &[u8]) -> Result<(), FileError> {
    write(&certificate_path(dir, name), keyfile::pem("CERTIFICATE", der).as_bytes(), 0o644)
}

fn write_ca(dir: &Path, ca: &Ca, passphrase: &Passphrase) -> Result<(), BundleError> {
    let name = format!("{}-ca", ca.certificate().purpose());
    write_certificate(dir, &name, ca.certificate().der())?;
    write_key(&key_path(dir, &name), ca.key(), passphrase)?;
    Ok(())
}

fn read_root(dir: &Path) -> Result<CaCertificate, BundleError> {
    let path = certificate_path(dir, "root");
    CaCertificate::root(&keyfile::read_certificate(&path)?).map_err(|source| BundleError::Ca { path, source })
}

fn read_ca(
    dir: &Path,
    purpose: Purpose,
    root: &CaCertificate,
    passphrase: &Passphrase,
) -> Result<Ca, BundleError> {
    let name = format!("{purpose}-ca");
    let path = certificate_path(dir, &name);
    let der = keyfile::read_certificate(&path)?;
    let key = Arc::new(keyfile::read_key(&key_path(dir, &name), passphrase)?);
    CaCertificate::issuing(&der, purpose, root)
        .and_then(|certificate| Ca::new(certificate, key))
        .map_err(|source| BundleError::Ca { path, source })
}

fn read_records(dir: &Path, root: &CaCertificate) -> Result<Vec<Vec<u8>>, BundleError> {
    let io = |source| FileError::Io { path: dir.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "record") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut records = Vec::with_capacity(paths.len());
    for path in paths {
        let record = keyfile::read(&path)?;
        StationRecord::verify(&record, root).map_err(|source| BundleError::Station { path, source })?;
        records.push(record);
    }
    Ok(records)
}
