//! Signed checkpoints: where the audit log stood, under a P-256 key that only this server has.
//!
//! ```text
//! "muster audit checkpoint v1\0" ‖ node: its length (8, big-endian) and its UTF-8 ‖ no (8) ‖ digest (32) ‖ at_ms (8)
//! ```
//!
//! The chain alone says that nothing inside it changed; whoever can write the database can write all of it
//! anew. They cannot sign it. Against the last way out, a log that is cut back to an older checkpoint, helps
//! only a newer one that was kept elsewhere.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use muster_pki::{PublicKey, Signer as _, SoftKey, keyfile};
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AuditHead, head};
use crate::registry::{
    Inner, Registry,
    database::{Connection, digest, int, uint},
    error::RegistryError,
    now_ms,
};

/// The key's file in the data directory, mode 0600.
pub const KEY_FILE: &str = "audit.key";
/// Its public half, PEM: what whoever checks an export needs.
pub const PUBLIC_FILE: &str = "audit.pub";
const CONTEXT: &[u8] = b"muster audit checkpoint v1\0";
const SCHEMA: &str = "muster.audit.checkpoint/1";

/// Where the log stood, signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose log.
    pub node: String,
    /// The newest row then, and its digest.
    pub head: AuditHead,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// SHA-256 of the key's SubjectPublicKeyInfo.
    pub key: [u8; 32],
    /// ECDSA with SHA-256, DER.
    pub signature: Vec<u8>,
}

/// The same as a document: `muster.audit.checkpoint/1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckpointDocument {
    /// The schema's name.
    pub schema: String,
    /// Whose log.
    pub node: String,
    /// Number of the newest row then.
    pub no: u64,
    /// Its digest.
    pub digest: String,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// SHA-256 of the key's SubjectPublicKeyInfo.
    pub key: String,
    /// ECDSA with SHA-256, DER, in hexadecimal.
    pub signature: String,
}

impl Checkpoint {
    fn octets(node: &str, head: &AuditHead, at_ms: u64) -> Vec<u8> {
        let length = (node.len() as u64).to_be_bytes();
        let (no, at) = (head.no.to_be_bytes(), at_ms.to_be_bytes());
        [CONTEXT, &length, node.as_bytes(), &no, &head.digest, &at].concat()
    }

    /// Whether this key signed it.
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        let octets = Self::octets(&self.node, &self.head, self.at_ms);
        self.key == key.digest() && key.verify(&octets, &self.signature).is_ok()
    }

    /// As a document.
    #[must_use]
    pub fn to_document(&self) -> CheckpointDocument {
        CheckpointDocument {
            schema: SCHEMA.to_owned(),
            node: self.node.clone(),
            no: self.head.no,
            digest: hex::encode(self.head.digest),
            at_ms: self.at_ms,
            key: hex::encode(self.key),
            signature: hex::encode(&self.signature),
        }
    }

    /// And back; `None` for what is none.
    #[must_use]
    pub fn from_document(of: &CheckpointDocument) -> Option<Self> {
        let octets = |text: &str| -> Option<[u8; 32]> { hex::decode(text).ok()?.try_into().ok() };
        (of.schema == SCHEMA).then_some(())?;
        Some(Self {
            node: of.node.clone(),
            head: AuditHead { no: of.no, digest: octets(&of.digest)? },
            at_ms: of.at_ms,
            key: octets(&of.key)?,
            signature: hex::decode(&of.signature).ok()?,
        })
    }
}

/// A public key as PEM (RFC 7468 §13).
///
/// # Errors
/// When the text holds no P-256 key.
pub fn read_public_key(pem: &[u8]) -> Result<PublicKey, String> {
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    PublicKey::from_spki(&spki).map_err(|error| error.to_string())
}

/// And its text.
#[must_use]
pub fn public_key_pem(key: &PublicKey) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let coded = STANDARD.encode(key.spki());
    let mut out = String::from("-----BEGIN PUBLIC KEY-----\n");
    for line in coded.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out + "-----END PUBLIC KEY-----\n"
}

/// The public key in a data directory; `None` when there is none yet.
///
/// # Errors
/// When there is one that is none.
pub(super) fn public_key_of(data_dir: &Path) -> Result<Option<PublicKey>, RegistryError> {
    let path = data_dir.join(PUBLIC_FILE);
    match fs::read(&path) {
        Ok(pem) => read_public_key(&pem).map(Some).map_err(|why| unusable(&path, io::Error::other(why))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(&path, error)),
    }
}

fn unusable(path: &Path, source: io::Error) -> RegistryError {
    RegistryError::Key { path: PathBuf::from(path), source }
}

/// Reads the key, or makes one where there is none; its public half lies beside it.
pub(in crate::registry) fn open_key(data_dir: &Path) -> Result<SoftKey, RegistryError> {
    let path = data_dir.join(KEY_FILE);
    let other = |error: &dyn std::fmt::Display| unusable(&path, io::Error::other(error.to_string()));
    let key = match fs::read(&path) {
        Ok(pem) => {
            let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|error| other(&error))?;
            SoftKey::from_pkcs8(der.secret_pkcs8_der()).map_err(|error| other(&error))?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = SoftKey::generate().map_err(|error| other(&error))?;
            // On disk before anything is signed with it.
            keyfile::write_open_key(&path, &key).map_err(|error| other(&error))?;
            key
        }
        Err(error) => return Err(unusable(&path, error)),
    };
    let public = data_dir.join(PUBLIC_FILE);
    if !public.exists() {
        let pem = public_key_pem(key.public_key());
        keyfile::write(&public, pem.as_bytes(), 0o600).map_err(|error| other(&error))?;
    }
    Ok(key)
}

impl Registry {
    /// Signs where the audit log stands now.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn audit_checkpoint(&self) -> Result<Checkpoint, RegistryError> {
        self.run(|inner| async move { make(&inner).await }).await
    }

    /// The signed checkpoints of row `from` and later, oldest first.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn audit_checkpoints(&self, from: u64) -> Result<Vec<Checkpoint>, RegistryError> {
        let mut connection = self.inner.database.readers().acquire().await?;
        list(&mut connection, from).await
    }

    /// The public half of the key that signs checkpoints.
    #[must_use]
    pub fn audit_key(&self) -> PublicKey {
        *self.inner.audit_key.public_key()
    }
}

/// Signs where the log stands; the same again when nothing was decided since.
async fn make(inner: &Inner) -> Result<Checkpoint, RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let head = head(&mut tx).await?;
    let (node,): (String,) =
        sqlx::query_as("SELECT node FROM registry WHERE one = 1").fetch_one(&mut *tx).await?;
    let own = inner.audit_key.public_key().digest();
    let known = list(&mut tx, head.no).await?.pop();
    if let Some(known) = known.filter(|of| of.head == head && of.node == node && of.key == own) {
        return Ok(known);
    }
    let at_ms = now_ms();
    let signature = inner.audit_key.sign(&Checkpoint::octets(&node, &head, at_ms));
    let signature = signature.map_err(|error| RegistryError::Database(Box::new(error)))?;
    let made = Checkpoint { node, head, at_ms, key: own, signature };
    sqlx::query(
        "INSERT INTO audit_checkpoint (node, no, digest, at_ms, key, signature) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (node, no) DO UPDATE SET digest = excluded.digest, at_ms = excluded.at_ms,
             key = excluded.key, signature = excluded.signature",
    )
    .bind(&made.node)
    .bind(int(made.head.no))
    .bind(made.head.digest.as_slice())
    .bind(int(made.at_ms))
    .bind(made.key.as_slice())
    .bind(&made.signature)
    .execute(&mut *tx)
    .await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    Ok(made)
}

/// Those of row `from` and later, oldest first.
pub(super) async fn list(connection: &mut Connection, from: u64) -> Result<Vec<Checkpoint>, RegistryError> {
    type Row = (String, i64, Vec<u8>, i64, Vec<u8>, Vec<u8>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT node, no, digest, at_ms, key, signature FROM audit_checkpoint WHERE no >= $1 ORDER BY no",
    )
    .bind(int(from))
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(node, no, of, at_ms, key, signature)| {
            let head = AuditHead { no: uint(no), digest: digest(&of, "a checkpoint's digest")? };
            Ok(Checkpoint {
                node,
                head,
                at_ms: uint(at_ms),
                key: digest(&key, "a checkpoint's key")?,
                signature,
            })
        })
        .collect()
}
