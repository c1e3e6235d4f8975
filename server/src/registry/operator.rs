//! Operators and their tokens.

use std::{fmt, str::FromStr};

use super::{device::UnknownWord, session::words};

words!(
    /// What an operator may do; the API decides what each covers.
    Role, "role", {
        /// Looks.
        Viewer = "viewer",
        /// Looks, and takes the audit log out.
        Auditor = "auditor",
        /// Brings manifests in.
        Importer = "importer",
        /// Decides about devices.
        Operator = "operator",
        /// Decides about authorities, batches and retention too.
        Security = "security",
        /// Everything, operators and tokens too.
        Admin = "admin",
    }
);

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The operator's name.
    pub name: String,
    /// As what.
    pub role: Role,
    /// With which token; `None` for the server itself and for who has the data directory.
    pub token_id: Option<String>,
}

impl Actor {
    /// The server itself.
    #[must_use]
    pub fn server() -> Self {
        Self { name: "server".to_owned(), role: Role::Admin, token_id: None }
    }
}

/// A token to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// The operator it speaks for, who is made if there is none.
    pub operator: String,
    /// What it allows.
    pub role: Role,
    /// When it ends, Unix milliseconds; `None` for never.
    pub ends_at_ms: Option<u64>,
}

/// A token just made. What it is made of is here and nowhere else.
pub struct Token {
    /// Its name in listings and the audit log.
    pub id: String,
    secret: String,
}

impl Token {
    /// The token itself: shown to its owner once, or written to a file of mode 0600.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.secret
    }
}

/// A token in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its name.
    pub id: String,
    /// Whose.
    pub operator: String,
    /// What it allows.
    pub role: Role,
    /// When it was made, Unix milliseconds.
    pub created_at_ms: u64,
    /// When it ends.
    pub ends_at_ms: Option<u64>,
    /// When it was last used.
    pub last_used_ms: Option<u64>,
    /// When it was ended before its time.
    pub revoked_at_ms: Option<u64>,
}
