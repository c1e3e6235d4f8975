//! Certificates of devices, what each stands on, and the authorities that issue them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A certificate of a device.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Certificate {
    /// SHA-256 of its DER.
    pub certificate_id: String,
    /// `pending`, `active`, `superseded` or `revoked`.
    pub status: String,
    /// Key identifier of its issuer.
    pub issuer: String,
    /// What it stands on: itself, its issuer, the root.
    pub chain: Vec<ChainLink>,
    /// Before whom its device has proven that it holds the key: `station`, whose manifest names it, or
    /// `handshake`, with this server; `null`: nobody who is known here.
    pub key_proven: Option<String>,
    /// First good second.
    pub not_before: String,
    /// Last good second.
    pub not_after: String,
    /// Why it was revoked, in the words of RFC 5280.
    pub revocation_reason: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<String>,
    /// Itself.
    pub pem: String,
}

/// A certificate of the chain from a device to the root.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ChainLink {
    /// `device`, `issuer` or `root`.
    pub role: String,
    /// What it is called: `7f3a09c1`, `factory CA of S-07`.
    pub name: String,
    /// SHA-256 of its DER; `null` where this server does not have it.
    pub fingerprint: Option<String>,
    /// Its last good second; `null` where this server does not have it.
    pub not_after: Option<String>,
    /// What is wrong with it; `null`: nothing.
    pub fault: Option<String>,
}

/// A device's certificate in a listing.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ListedCertificate {
    /// SHA-256 of its DER.
    pub certificate_id: String,
    /// Its device.
    pub serial: String,
    /// Whose fleet.
    pub tenant: String,
    /// The device's name on topics.
    pub device_id: String,
    /// `pending`, `active`, `superseded` or `revoked`.
    pub status: String,
    /// Key identifier of its issuer.
    pub issuer: String,
    /// First good second.
    pub not_before: String,
    /// Last good second.
    pub not_after: String,
    /// Why it was revoked, in the words of RFC 5280.
    pub revocation_reason: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<String>,
    /// What took its place.
    pub replaced_by: Option<String>,
    /// Its device's place in the signed status list.
    pub status_index: u64,
}

/// One certificate: `muster.certificate/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct CertificateDetail {
    /// The schema's name.
    pub schema: String,
    /// What the listing shows.
    #[serde(flatten)]
    pub certificate: ListedCertificate,
    /// Its device's state.
    pub device_state: String,
    /// SHA-256 of its public key.
    pub key: String,
    /// Itself.
    pub pem: String,
}

/// An authority.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Authority {
    /// What it is called here.
    pub name: String,
    /// What its certificate calls it.
    pub subject: String,
    /// What it issues.
    pub purpose: String,
    /// SHA-256 of its certificate.
    pub fingerprint: String,
    /// Its key identifier.
    pub key_id: String,
    /// Where its key lives.
    pub key_at: String,
    /// It issues; one that was rotated only stays trusted for what it has issued.
    pub issues: bool,
    /// First good second.
    pub not_before: String,
    /// Last good second.
    pub not_after: String,
    /// Devices under it, where it is a station's.
    pub devices: Option<u64>,
    /// Its certificate.
    pub pem: String,
}

/// A step of an authority's rotation: `muster.authority.rotation/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Rotation {
    /// The schema's name.
    pub schema: String,
    /// Which: its purpose.
    pub authority: String,
    /// `ask` for a request to the root, `install` for its answer.
    pub step: String,
    /// Whether that was done before.
    pub already: bool,
    /// Nothing was done: this is what would be.
    pub dry_run: bool,
    /// What the new authority's certificate calls it; `null` before its key is made.
    pub subject: Option<String>,
    /// Key identifier of the new authority.
    pub key_id: Option<String>,
    /// The request for the root, PEM.
    pub request: Option<String>,
    /// SHA-256 of the new certificate, once the root has signed it.
    pub fingerprint: Option<String>,
    /// Key identifier of the one that issues now.
    pub former_key_id: String,
    /// What happens next.
    pub next: String,
    /// The step's audit row, where one was written.
    pub audit_no: Option<u64>,
}
