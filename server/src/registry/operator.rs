//! Operators and their tokens.
//!
//! A token is `muster_` and 256 random bits. The registry keeps its SHA-256 and nothing else of it: a
//! digest of that much randomness needs no salt and no slow hash.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    Inner,
    audit::{self, Entry},
    changes::What,
    database::{Pool, int, parse, uint},
    error::RegistryError,
    now_ms,
    session::words,
};

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
    /// The operator it speaks for, who is made if there is none. `[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}`.
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

const PREFIX: &str = "muster_";
const OPERATOR_MAX: usize = 64;
/// Octets of a token's name: enough that two never meet.
const ID: usize = 6;

fn random<const N: usize>() -> Result<[u8; N], RegistryError> {
    let mut out = [0; N];
    SystemRandom::new()
        .fill(&mut out)
        .map_err(|_| RegistryError::Database("the system's random source failed".into()))?;
    Ok(out)
}

fn check_name(name: &str) -> Result<(), RegistryError> {
    let mut octets = name.bytes();
    let first = octets.next().is_some_and(|octet| octet.is_ascii_alphanumeric());
    let rest = octets.all(|octet| octet.is_ascii_alphanumeric() || b"_.@-".contains(&octet));
    if first && rest && name.len() <= OPERATOR_MAX {
        return Ok(());
    }
    Err(RegistryError::Value {
        what: "operator",
        why: format!("{name:?} is not a name: letters, digits and _.@-, at most {OPERATOR_MAX}"),
    })
}

pub(super) async fn create(inner: &Inner, actor: &Actor, new: &NewToken) -> Result<Token, RegistryError> {
    check_name(&new.operator)?;
    let secret = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random::<32>()?));
    let id = format!("t-{}", hex::encode(random::<ID>()?));
    let at_ms = now_ms();
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    sqlx::query("INSERT INTO operator (name, created_at_ms) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
        .bind(&new.operator)
        .bind(int(at_ms))
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO token (id, operator, digest, role, created_at_ms, ends_at_ms)
         SELECT $1, id, $2, $3, $4, $5 FROM operator WHERE name = $6",
    )
    .bind(&id)
    .bind(Sha256::digest(&secret).as_slice())
    .bind(new.role.as_str())
    .bind(int(at_ms))
    .bind(new.ends_at_ms.map(int))
    .bind(&new.operator)
    .execute(&mut *tx)
    .await?;
    let stamp = audit::append(
        &mut tx,
        Entry {
            actor,
            action: "token.create",
            target: &new.operator,
            reason: "",
            detail: json!({ "token": id, "role": new.role.as_str(), "ends_at_ms": new.ends_at_ms }),
        },
        at_ms,
    )
    .await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Access);
    Ok(Token { id, secret })
}

pub(super) async fn check(inner: &Inner, token: &str, at_ms: u64) -> Result<Actor, RegistryError> {
    type Found = (String, String, String, Option<i64>, Option<i64>);
    if !token.starts_with(PREFIX) {
        return Err(RegistryError::TokenUnknown);
    }
    // Looked up by digest: what an attacker learns from the time it takes says nothing about the token.
    let found: Option<Found> = sqlx::query_as(
        "SELECT token.id, operator.name, token.role, token.ends_at_ms, token.revoked_at_ms
         FROM token JOIN operator ON operator.id = token.operator WHERE token.digest = $1",
    )
    .bind(Sha256::digest(token).as_slice())
    .fetch_optional(inner.database.readers())
    .await?;
    let (id, name, role, ends_at_ms, revoked_at_ms) = found.ok_or(RegistryError::TokenUnknown)?;
    let ended = match (revoked_at_ms, ends_at_ms) {
        (Some(revoked), _) => Some(uint(revoked)),
        (None, Some(ends)) if at_ms >= uint(ends) => Some(uint(ends)),
        _ => None,
    };
    if let Some(ended_at_ms) = ended {
        return Err(RegistryError::TokenEnded { name: id, ended_at_ms });
    }
    inner.facts.token_used(&id, at_ms);
    Ok(Actor { name, role: parse(&role, "a token's role")?, token_id: Some(id) })
}

pub(super) async fn revoke(inner: &Inner, actor: &Actor, token_id: &str) -> Result<(), RegistryError> {
    let at_ms = now_ms();
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let found: Option<(Option<i64>,)> = sqlx::query_as("SELECT revoked_at_ms FROM token WHERE id = $1")
        .bind(token_id)
        .fetch_optional(&mut *tx)
        .await?;
    match found {
        None => return Err(RegistryError::TokenUnknown),
        Some((Some(_),)) => return Ok(()),
        Some((None,)) => {}
    }
    sqlx::query("UPDATE token SET revoked_at_ms = $1 WHERE id = $2")
        .bind(int(at_ms))
        .bind(token_id)
        .execute(&mut *tx)
        .await?;
    let entry = Entry { actor, action: "token.revoke", target: token_id, reason: "", detail: json!({}) };
    let stamp = audit::append(&mut tx, entry, at_ms).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Access);
    Ok(())
}

pub(super) async fn list(pool: &Pool) -> Result<Vec<TokenRow>, RegistryError> {
    type Row = (String, String, String, i64, Option<i64>, Option<i64>, Option<i64>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT token.id, operator.name, token.role, token.created_at_ms, token.ends_at_ms,
                token.last_used_ms, token.revoked_at_ms
         FROM token JOIN operator ON operator.id = token.operator ORDER BY token.created_at_ms, token.id",
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|(id, operator, role, created, ends, used, revoked)| {
            Ok(TokenRow {
                id,
                operator,
                role: parse(&role, "a token's role")?,
                created_at_ms: uint(created),
                ends_at_ms: ends.map(uint),
                last_used_ms: used.map(uint),
                revoked_at_ms: revoked.map(uint),
            })
        })
        .collect()
}
