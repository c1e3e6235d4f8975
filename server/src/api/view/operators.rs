//! Operators, and what they come with: links and tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An operator in a listing.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Operator {
    /// `NAME`, or `TENANT/NAME` for one tenant's own.
    pub name: String,
    /// The most they may do.
    pub role: String,
    /// The one tenant they see; `null` for every.
    pub tenant: Option<String>,
    /// Who added them.
    pub added_by: String,
    /// When.
    pub added_at: String,
    /// When they last used a token, or the web page.
    pub last_seen_at: Option<String>,
    /// When they were removed.
    pub removed_at: Option<String>,
    /// Tokens of theirs that have not ended.
    pub tokens: u64,
    /// The version of them, for `If-Match`: the audit row of their last change.
    pub version: u64,
}

/// One operator: `muster.operator/1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct OperatorDetail {
    /// The schema's name.
    pub schema: String,
    /// What the listing shows.
    #[serde(flatten)]
    pub operator: Operator,
}

/// A link that lets an operator in once: `muster.invitation/1`. Shown once.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Invitation {
    /// The schema's name.
    pub schema: String,
    /// Whom it lets in.
    pub operator: String,
    /// As what.
    pub role: String,
    /// When it ends, used or not.
    pub ends_at: String,
    /// The link, without the server's address.
    pub path: String,
}

/// A token in a listing.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// Its id.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Whose.
    pub operator: String,
    /// What it allows.
    pub role: String,
    /// The one tenant it is for; `null` for every.
    pub tenant: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// By whom.
    pub added_by: String,
    /// When it ends or ended; `null` for never.
    pub ends_at: Option<String>,
    /// When it was last used.
    pub last_used_at: Option<String>,
    /// Whether it has ended.
    pub ended: bool,
}

/// A token just made: `muster.token/1`. Shown once.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct NewToken {
    /// The schema's name.
    pub schema: String,
    /// Its id.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Whose.
    pub operator: String,
    /// What it allows.
    pub role: String,
    /// The one tenant it is for; `null` for every.
    pub tenant: Option<String>,
    /// When it ends; `null` for never.
    pub ends_at: Option<String>,
    /// The token itself.
    pub token: String,
}
