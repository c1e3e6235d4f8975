//! Tokens: what programs and the command line come with.
//!
//! A token is `muster_` and 256 random bits. The registry keeps its SHA-256 and nothing else of it: a
//! digest of that much randomness needs no salt and no slow hash. It allows what its role and scope do, and
//! never more than its operator's.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use muster_shared::Tenant;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    Inner,
    actor::{Actor, Role, Scope},
    audit::{self, Entry},
    changes::What,
    database::{Connection, Pool, int, parse, uint},
    error::RegistryError,
    now_ms,
    operator::{self, Found, may_give},
};

/// A token to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// What it is called in listings and refusals.
    pub name: String,
    /// The operator it speaks for, who is made with its role if there is none.
    pub operator: String,
    /// What it allows.
    pub role: Role,
    /// On whose things, within the operator's.
    pub scope: Scope,
    /// When it ends, Unix milliseconds; `None` for never.
    pub ends_at_ms: Option<u64>,
}

impl NewToken {
    /// One that is called as its operator and allows all that they may.
    #[must_use]
    pub fn of(operator: &str, role: Role, ends_at_ms: Option<u64>) -> Self {
        let name = operator.rsplit('/').next().unwrap_or(operator).to_owned();
        Self { name, operator: operator.to_owned(), role, scope: Scope::Every, ends_at_ms }
    }
}

/// A token just made. What it is made of is here and nowhere else.
pub struct Token {
    /// Its id in listings and the audit log.
    pub id: String,
    /// The operator it speaks for.
    pub operator: String,
    /// On whose things.
    pub scope: Scope,
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
    /// Its id.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Whose.
    pub operator: String,
    /// What it allows.
    pub role: Role,
    /// On whose things.
    pub scope: Scope,
    /// When it was made, Unix milliseconds.
    pub created_at_ms: u64,
    /// By whom.
    pub added_by: String,
    /// When it ends.
    pub ends_at_ms: Option<u64>,
    /// When it was last used.
    pub last_used_ms: Option<u64>,
    /// When it was ended before its time.
    pub revoked_at_ms: Option<u64>,
}

const PREFIX: &str = "muster_";
/// Octets of an id: enough that two never meet.
const ID: usize = 6;
/// Longest name, octets.
const NAME_MAX: usize = 64;

pub(super) fn random<const N: usize>() -> Result<[u8; N], RegistryError> {
    let mut out = [0; N];
    SystemRandom::new()
        .fill(&mut out)
        .map_err(|_| RegistryError::Database("the system's random source failed".into()))?;
    Ok(out)
}

/// 256 random bits as text.
pub(super) fn secret() -> Result<String, RegistryError> {
    Ok(URL_SAFE_NO_PAD.encode(random::<32>()?))
}

/// An id such as `t-3f9a17c2b0de`.
pub(super) fn id(kind: char) -> Result<String, RegistryError> {
    Ok(format!("{kind}-{}", hex::encode(random::<ID>()?)))
}

/// What is kept of a secret.
pub(super) fn digest(secret: &str) -> Vec<u8> {
    Sha256::digest(secret).to_vec()
}

fn check_name(name: &str) -> Result<(), RegistryError> {
    let plain = name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"_.@-".contains(&octet));
    if plain && (1..=NAME_MAX).contains(&name.len()) {
        return Ok(());
    }
    let why = format!("{name:?} is not a name: letters, digits and _.@-, at most {NAME_MAX}");
    Err(RegistryError::Value { what: "token", why })
}

/// Makes one for an operator who is there.
pub(super) async fn put(
    tx: &mut Connection,
    actor: &Actor,
    owner: &Found,
    new: &NewToken,
    at_ms: u64,
) -> Result<(Token, audit::Stamp), RegistryError> {
    check_name(&new.name)?;
    // Said to be every tenant's, it is every one of the operator's.
    let Some(scope) = owner.name.scope.and(&new.scope) else {
        let (what, why) = (
            format!("{} of {}", new.role, new.scope),
            format!("{} is of {}", owner.name.full, owner.name.scope),
        );
        return Err(RegistryError::NotTheirs { what, why });
    };
    if !owner.role.includes(new.role) {
        let (what, why) = (new.role.to_string(), format!("{} is {}", owner.name.full, owner.role));
        return Err(RegistryError::NotTheirs { what, why });
    }
    may_give(actor, new.role, &scope)?;
    let secret = format!("{PREFIX}{}", secret()?);
    let id = id('t')?;
    sqlx::query(
        "INSERT INTO token (id, operator, digest, role, created_at_ms, ends_at_ms, name, tenant, added_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(&id)
    .bind(owner.id)
    .bind(digest(&secret))
    .bind(new.role.as_str())
    .bind(int(at_ms))
    .bind(new.ends_at_ms.map(int))
    .bind(&new.name)
    .bind(scope.tenant().map(Tenant::as_str))
    .bind(&actor.name)
    .execute(&mut *tx)
    .await?;
    let detail = json!({
        "token": id, "name": new.name, "role": new.role.as_str(),
        "tenant": scope.tenant().map(Tenant::as_str), "ends_at_ms": new.ends_at_ms,
    });
    let stamp = owner.record(tx, actor, ("token.create", ""), detail, at_ms).await?;
    Ok((Token { id, operator: owner.name.full.clone(), scope, secret }, stamp))
}

pub(super) async fn create(inner: &Inner, actor: &Actor, new: &NewToken) -> Result<Token, RegistryError> {
    let at_ms = now_ms();
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let found = operator::find(&mut tx, &new.operator, &actor.scope).await?.filter(|found| !found.removed);
    let owner = match found {
        Some(found) => found,
        None => operator::put(&mut tx, actor, &new.operator, new.role, at_ms).await?.0,
    };
    let (token, stamp) = put(&mut tx, actor, &owner, new, at_ms).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Access);
    Ok(token)
}

/// What two limits allow together; `None` where they have nothing in common.
pub(super) fn both(
    roles: (&str, &str),
    tenants: (Option<&str>, Option<&str>),
) -> Result<Option<(Role, Scope)>, RegistryError> {
    let role = |word: &str| parse::<Role>(word, "a role");
    let scope = |tenant: Option<&str>| {
        Ok::<Scope, RegistryError>(tenant.map(|of| parse::<Tenant>(of, "a tenant")).transpose()?.into())
    };
    let role = role(roles.0)?.and(role(roles.1)?);
    Ok(scope(tenants.0)?.and(&scope(tenants.1)?).map(|scope| (role, scope)))
}

pub(super) async fn check(inner: &Inner, token: &str, at_ms: u64) -> Result<Actor, RegistryError> {
    if !token.starts_with(PREFIX) {
        return Err(RegistryError::TokenUnknown);
    }
    type Text = Option<String>;
    type Held = (String, String, String, String, Text, Option<i64>, Option<i64>, String, Text);
    // Looked up by digest: what an attacker learns from the time it takes says nothing about the token.
    let held: Option<Held> = sqlx::query_as(
        "SELECT token.id, token.name, operator.name, token.role, token.tenant, token.ends_at_ms,
                coalesce(token.revoked_at_ms, operator.removed_at_ms), operator.role, operator.tenant
         FROM token JOIN operator ON operator.id = token.operator WHERE token.digest = $1",
    )
    .bind(digest(token))
    .fetch_optional(inner.database.readers())
    .await?;
    let held = held.ok_or(RegistryError::TokenUnknown)?;
    let (id, name, operator, role, tenant, ends, revoked, own_role, own_tenant) = held;
    let ended = revoked.or(ends.filter(|ends| at_ms >= uint(*ends)));
    if let Some(ended_at_ms) = ended.map(uint) {
        return Err(RegistryError::TokenEnded { name, operator, role, ended_at_ms });
    }
    let allowed = both((&role, &own_role), (tenant.as_deref(), own_tenant.as_deref()))?;
    let (role, scope) = allowed.ok_or(RegistryError::TokenUnknown)?;
    inner.facts.token_used(&id, at_ms);
    Ok(Actor { token_id: Some(id), ..Actor::named(&operator, role).within(scope) })
}

pub(super) async fn revoke(
    inner: &Inner,
    actor: &Actor,
    token_id: &str,
    reason: &str,
) -> Result<(), RegistryError> {
    type Found = (Option<i64>, String, String, Option<String>, String);
    let at_ms = now_ms();
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let found: Option<Found> = sqlx::query_as(
        "SELECT token.revoked_at_ms, token.name, operator.name, operator.tenant, token.role
         FROM token JOIN operator ON operator.id = token.operator
         WHERE token.id = $1 AND ($2 = '' OR operator.tenant = $2)",
    )
    .bind(token_id)
    .bind(actor.scope.to_sql())
    .fetch_optional(&mut *tx)
    .await?;
    let (revoked, name, operator, tenant, role) = found.ok_or(RegistryError::TokenUnknown)?;
    let tenant = tenant.map(|tenant| parse::<Tenant>(&tenant, "an operator's tenant")).transpose()?;
    may_give(actor, parse(&role, "a token's role")?, &tenant.clone().into())?;
    if revoked.is_some() {
        return Ok(());
    }
    sqlx::query("UPDATE token SET revoked_at_ms = $1 WHERE id = $2")
        .bind(int(at_ms))
        .bind(token_id)
        .execute(&mut *tx)
        .await?;
    let entry = Entry {
        actor,
        tenant: tenant.as_ref(),
        action: "token.revoke",
        target: token_id,
        reason,
        detail: json!({ "name": name, "operator": operator }),
    };
    let stamp = audit::append(&mut tx, entry, at_ms).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Access);
    Ok(())
}

/// Those of the operators of a scope, in the order they were made.
pub(super) async fn list(pool: &Pool, scope: &Scope) -> Result<Vec<TokenRow>, RegistryError> {
    type Stored =
        (String, String, String, String, Option<String>, i64, String, Option<i64>, Option<i64>, Option<i64>);
    let rows: Vec<Stored> = sqlx::query_as(
        "SELECT token.id, token.name, operator.name AS operator, token.role,
                coalesce(token.tenant, operator.tenant) AS tenant, token.created_at_ms, token.added_by,
                token.ends_at_ms, token.last_used_ms, token.revoked_at_ms
         FROM token JOIN operator ON operator.id = token.operator
         WHERE ($1 = '' OR operator.tenant = $1) ORDER BY token.created_at_ms, token.id",
    )
    .bind(scope.to_sql())
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|(id, name, operator, role, tenant, created, added_by, ends, used, revoked)| {
            let tenant = tenant.map(|tenant| parse::<Tenant>(&tenant, "a token's tenant")).transpose()?;
            Ok(TokenRow {
                id,
                name,
                operator,
                role: parse(&role, "a token's role")?,
                scope: tenant.into(),
                created_at_ms: uint(created),
                added_by,
                ends_at_ms: ends.map(uint),
                last_used_ms: used.map(uint),
                revoked_at_ms: revoked.map(uint),
            })
        })
        .collect()
}
