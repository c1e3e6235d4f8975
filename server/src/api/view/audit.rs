//! The audit log: its rows, where it ends, and what checking it found.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A row of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AuditRow {
    /// From 1 without gaps.
    pub no: u64,
    /// When.
    pub at: String,
    /// Who.
    pub actor: String,
    /// As what.
    pub role: String,
    /// With which token.
    pub token: Option<String>,
    /// `device.suspend`.
    pub action: String,
    /// `acme/MU-000118`.
    pub target: String,
    /// In the actor's words.
    pub reason: Option<String>,
    /// Whose thing it is about; `null` for none's, or every tenant's.
    pub tenant: Option<String>,
    /// The request's id, as the server's log has it.
    pub request_id: Option<String>,
    /// The address the request came from.
    pub address: Option<String>,
    /// Particulars.
    pub detail: serde_json::Value,
    /// Digest of the row before.
    pub previous: String,
    /// Its own digest.
    pub digest: String,
}

/// The end of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditHead {
    /// Number of the newest row; 0 when there is none.
    pub no: u64,
    /// Its digest.
    pub digest: String,
}

/// The public key of the audit log's checkpoints: `muster.audit.key/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AuditKey {
    /// The schema's name.
    pub schema: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: String,
    /// Itself.
    pub pem: String,
}

/// How the audit log stood when it was last checked: `muster.audit.standing/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AuditStanding {
    /// The schema's name.
    pub schema: String,
    /// What the newest check found; `null` while the first one runs.
    pub newest: Option<AuditVerdict>,
}

/// What checking the audit log found: `muster.audit.verify/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AuditVerdict {
    /// The schema's name.
    pub schema: String,
    /// Whether every row is as it was written.
    pub intact: bool,
    /// Rows that are intact, from the first on.
    pub rows: u64,
    /// The end of the intact part: keep it, and check a later log against it.
    pub head: AuditHead,
    /// The first row that is missing or wrong.
    pub broken_no: Option<u64>,
    /// In what way.
    pub broken_why: Option<String>,
    /// When it was checked.
    pub checked_at: String,
}
