//! The audit log: a hash chain.

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number, from 1 without gaps.
    pub no: u64,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// Who.
    pub actor: String,
    /// As what.
    pub role: String,
    /// With which token; empty when with none.
    pub token: String,
    /// What was done: `device.suspend`.
    pub action: String,
    /// To what: `acme/MU-000118`.
    pub target: String,
    /// Why, in the actor's words.
    pub reason: String,
    /// Particulars, one JSON object.
    pub detail: String,
    /// The digest of the row before it; of nothing, 32 zeros, for the first.
    pub previous: [u8; 32],
    /// SHA-256 over the one before and this row's canonical octets.
    pub digest: [u8; 32],
}

/// The end of the log: what an outside checkpoint keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AuditHead {
    /// Number of the newest row; 0 when there is none.
    pub no: u64,
    /// Its digest; 32 zeros when there is none.
    pub digest: [u8; 32],
}

/// What checking the chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// Rows that are intact, from the first on.
    pub intact: u64,
    /// The end of the intact part.
    pub head: AuditHead,
    /// The first row that is not as it was written; `None` when every row is.
    pub broken: Option<Broken>,
}

/// Where the chain breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The first row that is missing or wrong.
    pub no: u64,
    /// In what way.
    pub why: String,
}
