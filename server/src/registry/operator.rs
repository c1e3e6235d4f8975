//! Operators: who may act at all, as what, and for which tenant.
//!
//! An operator of every tenant is called `NAME`, one tenant's own `TENANT/NAME`: two tenants may each have a
//! `bob`, and neither learns of the other's. What an operator comes with ([`super::token`], [`super::login`])
//! never allows more than the operator, so lowering a role or removing somebody takes effect at once.

use muster_shared::Tenant;
use serde_json::json;
use sqlx::Row as _;

use super::{
    Inner,
    actor::{Actor, Role, Scope},
    audit::{self, Entry, Stamp},
    changes::What,
    database::{Connection, Pool, int, parse, uint},
    error::RegistryError,
    now_ms,
};

/// An operator in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorRow {
    /// `NAME`, or `TENANT/NAME`.
    pub name: String,
    /// The most they may do.
    pub role: Role,
    /// On whose things.
    pub scope: Scope,
    /// Who added them.
    pub added_by: String,
    /// When they were added, Unix milliseconds.
    pub created_at_ms: u64,
    /// When they last used a token, or the web page.
    pub last_seen_ms: Option<u64>,
    /// When they were removed.
    pub removed_at_ms: Option<u64>,
    /// Tokens of theirs that have not ended.
    pub tokens: u64,
    /// The audit row of the last change of them.
    pub version: u64,
}

/// Longest name without its tenant, octets.
const NAME_MAX: usize = 64;

/// An operator's name, with the tenant it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) full: String,
    pub(super) scope: Scope,
}

impl Name {
    /// Reads `NAME` or `TENANT/NAME` as somebody of this scope means it: their own tenant's when they have
    /// one.
    pub(super) fn read(text: &str, scope: &Scope) -> Result<Self, RegistryError> {
        let wrong = |why: String| RegistryError::Value { what: "operator", why };
        let (tenant, name) = match text.split_once('/') {
            Some((tenant, name)) => {
                let tenant: Tenant =
                    tenant.parse().map_err(|error: muster_shared::id::IdError| wrong(error.to_string()))?;
                (Some(tenant), name)
            }
            None => (scope.tenant().cloned(), text),
        };
        let mut octets = name.bytes();
        let first = octets.next().is_some_and(|octet| octet.is_ascii_alphanumeric());
        let rest = octets.all(|octet| octet.is_ascii_alphanumeric() || b"_.@-".contains(&octet));
        if !first || !rest || name.len() > NAME_MAX {
            return Err(wrong(format!(
                "{text:?} is not a name: letters, digits and _.@-, at most {NAME_MAX}; before it TENANT/ for \
                 one tenant's own"
            )));
        }
        let full = tenant.as_ref().map_or_else(|| name.to_owned(), |tenant| format!("{tenant}/{name}"));
        Ok(Self { full, scope: tenant.into() })
    }
}

/// Nobody gives away more than they have.
pub(super) fn may_give(actor: &Actor, role: Role, scope: &Scope) -> Result<(), RegistryError> {
    if actor.role.includes(role) && actor.scope.includes(scope) {
        return Ok(());
    }
    Err(RegistryError::NotTheirs {
        what: format!("{role} of {scope}"),
        why: format!("{} is {} of {}", actor.name, actor.role, actor.scope),
    })
}

/// An operator's row, as a decision needs it.
pub(super) struct Found {
    pub(super) id: i64,
    pub(super) name: Name,
    pub(super) role: Role,
    pub(super) removed: bool,
}

impl Found {
    fn tenant(&self) -> Option<&Tenant> {
        self.name.scope.tenant()
    }

    /// They are as they were seen.
    async fn unchanged(&self, tx: &mut Connection, seen: Option<u64>) -> Result<(), RegistryError> {
        let Some(seen) = seen else { return Ok(()) };
        let (no,): (Option<i64>,) = sqlx::query_as(
            "SELECT max(no) FROM audit WHERE target = $1
             AND action IN ('operator.add', 'operator.role', 'operator.remove')",
        )
        .bind(&self.name.full)
        .fetch_one(tx)
        .await?;
        let now = no.map_or(0, uint);
        let what = || format!("operator {}", self.name.full);
        if now == seen { Ok(()) } else { Err(RegistryError::Overtaken { what: what(), seen, now }) }
    }

    /// What becomes of them is recorded.
    pub(super) async fn record(
        &self,
        tx: &mut Connection,
        actor: &Actor,
        (action, reason): (&str, &str),
        detail: serde_json::Value,
        at_ms: u64,
    ) -> Result<Stamp, RegistryError> {
        let (tenant, target) = (self.tenant(), &*self.name.full);
        audit::append(tx, Entry { actor, tenant, action, target, reason, detail }, at_ms).await
    }
}

/// The operator somebody of this scope means, removed or not.
pub(super) async fn find(
    connection: &mut Connection,
    name: &str,
    scope: &Scope,
) -> Result<Option<Found>, RegistryError> {
    let name = Name::read(name, scope)?;
    if !scope.includes(&name.scope) {
        return Ok(None);
    }
    let row: Option<(i64, String, Option<i64>)> =
        sqlx::query_as("SELECT id, role, removed_at_ms FROM operator WHERE name = $1")
            .bind(&name.full)
            .fetch_optional(connection)
            .await?;
    row.map(|(id, role, removed)| {
        Ok(Found { id, name, role: parse(&role, "an operator's role")?, removed: removed.is_some() })
    })
    .transpose()
}

/// One who is there, and not above who asks.
pub(super) async fn present(
    connection: &mut Connection,
    name: &str,
    actor: &Actor,
) -> Result<Found, RegistryError> {
    let found = find(connection, name, &actor.scope).await?.filter(|found| !found.removed);
    let found = found.ok_or_else(|| RegistryError::OperatorUnknown(name.to_owned()))?;
    may_give(actor, found.role, &found.name.scope)?;
    Ok(found)
}

/// Adds one, or brings one back who was removed: without the tokens of before.
pub(super) async fn put(
    tx: &mut Connection,
    actor: &Actor,
    name: &str,
    role: Role,
    at_ms: u64,
) -> Result<(Found, Stamp), RegistryError> {
    let named = Name::read(name, &actor.scope)?;
    may_give(actor, role, &named.scope)?;
    if find(tx, name, &actor.scope).await?.is_some_and(|found| !found.removed) {
        return Err(RegistryError::OperatorConflict(format!("there is an operator {} already", named.full)));
    }
    let (id,): (i64,) = sqlx::query_as(
        "INSERT INTO operator (name, created_at_ms, role, tenant, added_by) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (name) DO UPDATE SET role = excluded.role, created_at_ms = excluded.created_at_ms,
             added_by = excluded.added_by, removed_at_ms = NULL
         RETURNING id",
    )
    .bind(&named.full)
    .bind(int(at_ms))
    .bind(role.as_str())
    .bind(named.scope.tenant().map(Tenant::as_str))
    .bind(&actor.name)
    .fetch_one(&mut *tx)
    .await?;
    let found = Found { id, name: named, role, removed: false };
    let detail = json!({ "role": role.as_str(), "tenant": found.tenant().map(Tenant::as_str) });
    let stamp = found.record(tx, actor, ("operator.add", ""), detail, at_ms).await?;
    Ok((found, stamp))
}

pub(super) async fn add(
    inner: &Inner,
    actor: &Actor,
    name: &str,
    role: Role,
) -> Result<String, RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let (found, stamp) = put(&mut tx, actor, name, role, now_ms()).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Access);
    Ok(found.name.full)
}

pub(super) async fn set_role(
    inner: &Inner,
    actor: &Actor,
    name: &str,
    (role, seen): (Role, Option<u64>),
    reason: &str,
) -> Result<String, RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let found = present(&mut tx, name, actor).await?;
    found.unchanged(&mut tx, seen).await?;
    may_give(actor, role, &found.name.scope)?;
    if role == found.role {
        return Ok(found.name.full);
    }
    keep_an_admin(&mut tx, &found, Some(role)).await?;
    sqlx::query("UPDATE operator SET role = $1 WHERE id = $2")
        .bind(role.as_str())
        .bind(found.id)
        .execute(&mut *tx)
        .await?;
    let detail = json!({ "from": found.role.as_str(), "to": role.as_str() });
    let stamp = found.record(&mut tx, actor, ("operator.role", reason), detail, now_ms()).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Access);
    Ok(found.name.full)
}

/// Their tokens, sessions and links end with them, in the same transaction.
pub(super) async fn remove(
    inner: &Inner,
    actor: &Actor,
    (name, seen): (&str, Option<u64>),
    reason: &str,
) -> Result<String, RegistryError> {
    let at_ms = now_ms();
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let found = present(&mut tx, name, actor).await?;
    found.unchanged(&mut tx, seen).await?;
    keep_an_admin(&mut tx, &found, None).await?;
    for statement in [
        "UPDATE operator SET removed_at_ms = $1 WHERE id = $2",
        "UPDATE token SET revoked_at_ms = $1 WHERE operator = $2 AND revoked_at_ms IS NULL",
        "UPDATE web_session SET ended_at_ms = $1 WHERE operator = $2 AND ended_at_ms IS NULL",
        "UPDATE link SET ends_at_ms = $1 WHERE operator = $2 AND used_at_ms IS NULL AND ends_at_ms > $1",
    ] {
        sqlx::query(statement).bind(int(at_ms)).bind(found.id).execute(&mut *tx).await?;
    }
    let stamp = found.record(&mut tx, actor, ("operator.remove", reason), json!({}), at_ms).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Access);
    Ok(found.name.full)
}

/// Somebody stays who may do everything: without one, only the host could give access again.
async fn keep_an_admin(tx: &mut Connection, found: &Found, to: Option<Role>) -> Result<(), RegistryError> {
    if found.role != Role::Admin || found.name.scope != Scope::Every || to == Some(Role::Admin) {
        return Ok(());
    }
    let (others,): (i64,) = sqlx::query_as(
        "SELECT count(*) FROM operator WHERE role = $1 AND tenant IS NULL AND removed_at_ms IS NULL AND id <> $2",
    )
    .bind(Role::Admin.as_str())
    .bind(found.id)
    .fetch_one(tx)
    .await?;
    if others > 0 {
        return Ok(());
    }
    Err(RegistryError::OperatorConflict(format!(
        "{} is the last {} of every tenant",
        found.name.full,
        Role::Admin
    )))
}

/// Those of a scope who are there, and those who were, by name.
pub(super) async fn list(pool: &Pool, scope: &Scope) -> Result<Vec<OperatorRow>, RegistryError> {
    let rows = sqlx::query(
        "SELECT name, role, tenant, added_by, created_at_ms, removed_at_ms,
                (SELECT max(last_used_ms) FROM token WHERE token.operator = operator.id) AS used_ms,
                (SELECT max(seen_at_ms) FROM web_session WHERE web_session.operator = operator.id) AS seen_ms,
                (SELECT count(*) FROM token WHERE token.operator = operator.id AND token.revoked_at_ms IS NULL
                    AND (token.ends_at_ms IS NULL OR token.ends_at_ms > $1)) AS tokens,
                (SELECT max(no) FROM audit WHERE audit.target = operator.name
                    AND audit.action IN ('operator.add', 'operator.role', 'operator.remove')) AS version
         FROM operator WHERE ($2 = '' OR tenant = $2) ORDER BY name",
    )
    .bind(int(now_ms()))
    .bind(scope.to_sql())
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            let maybe = |column: &str| row.try_get::<Option<i64>, _>(column).map(|at| at.map(uint));
            let tenant: Option<String> = row.try_get("tenant")?;
            let tenant = tenant.map(|tenant| parse::<Tenant>(&tenant, "an operator's tenant")).transpose()?;
            let used = maybe("used_ms")?;
            Ok(OperatorRow {
                name: row.try_get("name")?,
                role: parse(row.try_get("role")?, "an operator's role")?,
                scope: tenant.into(),
                added_by: row.try_get("added_by")?,
                created_at_ms: uint(row.try_get("created_at_ms")?),
                last_seen_ms: used.max(maybe("seen_ms")?),
                removed_at_ms: maybe("removed_at_ms")?,
                tokens: uint(row.try_get("tokens")?),
                version: maybe("version")?.unwrap_or(0),
            })
        })
        .collect()
}
