//! The folders a ceremony hands over: one for the server, one for each station, one to be put away.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    ca::{Ca, CaCertificate, CaError},
    key::{Passphrase, SoftKey},
    keyfile::FileError,
    station::{StationError, StationRecord},
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

impl ServerBundle {
    /// Writes the bundle into the folder `dir`, which it makes. Key files are encrypted and mode 0600.
    ///
    /// # Errors
    /// [`BundleError`]; a file that is there already is never replaced.
    pub fn write(&self, dir: &Path, passphrase: &Passphrase) -> Result<(), BundleError> {
        let _ = (dir, passphrase);
        unimplemented!()
    }

    /// Reads what [`ServerBundle::write`] wrote and checks every certificate, key and record against the root.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn read(dir: &Path, passphrase: &Passphrase) -> Result<Self, BundleError> {
        let _ = (dir, passphrase);
        unimplemented!()
    }
}

impl StationBundle {
    /// Writes the bundle into the folder `dir`, which it makes. Key files are encrypted and mode 0600.
    ///
    /// # Errors
    /// [`BundleError`]; a file that is there already is never replaced.
    pub fn write(&self, dir: &Path, passphrase: &Passphrase) -> Result<(), BundleError> {
        let _ = (dir, passphrase);
        unimplemented!()
    }

    /// Reads what [`StationBundle::write`] wrote and checks every certificate, key and record against the root.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn read(dir: &Path, passphrase: &Passphrase) -> Result<Self, BundleError> {
        let _ = (dir, passphrase);
        unimplemented!()
    }
}
