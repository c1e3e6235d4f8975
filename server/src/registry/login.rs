//! How a person gets in: a link that works once, and the session of the web page it opens.
//!
//! A **link** is 256 random bits, lives 15 minutes and is used up by the first who redeems it: for a session,
//! or for a token of the command line. A **session** is 256 random bits in a cookie; it ends when nobody used
//! it for a while, at its absolute end, when its operator signs out or is removed, and with the token it was
//! opened with. Of both only the SHA-256 is kept.

use muster_shared::{CertificateId, Tenant};
use serde_json::json;
use sqlx::Row as _;

use super::{
    Inner,
    actor::{Actor, Role, Scope},
    audit::{self, Entry},
    changes::What,
    database::{Connection, int, parse, uint},
    error::RegistryError,
    now_ms,
    operator::{self, Found, Name},
    token::{self, NewToken, Token},
};

const MINUTE_MS: u64 = 60 * 1000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
/// How long a link lives.
pub const LINK_MS: u64 = 15 * MINUTE_MS;
/// A session ends at the latest then (NIST SP 800-63B §4.2.3: at least every 12 hours).
pub const SESSION_MS: u64 = 12 * HOUR_MS;
/// A session that nobody used for so long has ended (the same: 30 minutes of inactivity or less).
pub const IDLE_MS: u64 = 30 * MINUTE_MS;
/// How long a token lives that a link was redeemed for.
const TOKEN_DAYS: u64 = 30;
/// What has ended is kept so long: the audit log has the rest.
const KEEP_MS: u64 = 7 * DAY_MS;

/// A link just made, and for whom.
pub struct Link {
    /// The operator it lets in.
    pub operator: String,
    /// As what.
    pub role: Role,
    /// When it ends, Unix milliseconds.
    pub ends_at_ms: u64,
    secret: String,
}

impl Link {
    /// What the address of the link ends with: for a terminal, or a file of mode 0600.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.secret
    }
}

/// A session just opened.
pub struct Session {
    /// Its id in the audit log.
    pub id: String,
    /// The operator it speaks for.
    pub operator: String,
    /// When it ends at the latest, Unix milliseconds.
    pub ends_at_ms: u64,
    secret: String,
}

impl Session {
    /// The cookie's value.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.secret
    }
}

/// Makes a link for an operator who is there, or whom `role` makes.
pub(super) async fn invite(
    inner: &Inner,
    actor: &Actor,
    name: &str,
    role: Option<Role>,
) -> Result<Link, RegistryError> {
    let at_ms = now_ms();
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let there = operator::find(&mut tx, name, &actor.scope).await?.filter(|found| !found.removed);
    let found = match (there, role) {
        (Some(_), None) => operator::present(&mut tx, name, actor).await?,
        (Some(found), Some(role)) if found.role == role => operator::present(&mut tx, name, actor).await?,
        (Some(found), Some(_)) => {
            let what =
                format!("{} is {}; change that first, or leave the role out", found.name.full, found.role);
            return Err(RegistryError::OperatorConflict(what));
        }
        (None, Some(role)) => operator::put(&mut tx, actor, name, role, at_ms).await?.0,
        (None, None) => return Err(RegistryError::OperatorUnknown(name.to_owned())),
    };
    let secret = token::secret()?;
    let ends_at_ms = at_ms + LINK_MS;
    sqlx::query("DELETE FROM link WHERE ends_at_ms < $1")
        .bind(int(at_ms.saturating_sub(KEEP_MS)))
        .execute(&mut *tx)
        .await?;
    sqlx::query("INSERT INTO link (digest, operator, created_at_ms, ends_at_ms) VALUES ($1, $2, $3, $4)")
        .bind(token::digest(&secret))
        .bind(found.id)
        .bind(int(at_ms))
        .bind(int(ends_at_ms))
        .execute(&mut *tx)
        .await?;
    let detail = json!({ "role": found.role.as_str(), "ends_at_ms": ends_at_ms });
    let stamp = found.record(&mut tx, actor, ("operator.invite", ""), detail, at_ms).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Access);
    Ok(Link { operator: found.name.full, role: found.role, ends_at_ms, secret })
}

/// The operator whom the first link is for; `None` once anybody has signed in.
pub(super) async fn first(inner: &Inner) -> Result<Option<String>, RegistryError> {
    let mut connection = inner.database.readers().acquire().await?;
    let (signed_in,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM (SELECT no FROM audit WHERE action = $1 LIMIT 1) AS one")
            .bind(LOGIN)
            .fetch_one(&mut *connection)
            .await?;
    if signed_in > 0 {
        return Ok(None);
    }
    let first: Option<(String,)> = sqlx::query_as(
        "SELECT name FROM operator WHERE role = $1 AND tenant IS NULL AND removed_at_ms IS NULL
         ORDER BY id LIMIT 1",
    )
    .bind(Role::Admin.as_str())
    .fetch_optional(&mut *connection)
    .await?;
    Ok(first.map(|(name,)| name))
}

/// What a sign-in is called in the audit log.
const LOGIN: &str = "operator.login";

/// Whom a link is for, without using it up: a page that shows it, and every program that looks at
/// addresses, only asks this.
pub(super) async fn look(inner: &Inner, secret: &str) -> Result<String, RegistryError> {
    let mut connection = inner.database.readers().acquire().await?;
    Ok(usable(&mut connection, secret, now_ms()).await?.name.full)
}

/// The operator of a link that still works.
async fn usable(connection: &mut Connection, secret: &str, at_ms: u64) -> Result<Found, RegistryError> {
    type Row = (i64, String, String, i64, Option<i64>, Option<i64>);
    let row: Option<Row> = sqlx::query_as(
        "SELECT operator.id, operator.name, operator.role, link.ends_at_ms, link.used_at_ms,
                operator.removed_at_ms
         FROM link JOIN operator ON operator.id = link.operator WHERE link.digest = $1",
    )
    .bind(token::digest(secret))
    .fetch_optional(connection)
    .await?;
    let ended = |operator: Option<&str>, why| {
        Err(RegistryError::LinkEnded { operator: operator.map(str::to_owned), why })
    };
    match row {
        None => ended(None, "no such link was made here"),
        Some((_, name, _, _, Some(_), _)) => ended(Some(&name), "it was used already"),
        Some((_, name, _, _, _, Some(_))) => ended(Some(&name), "its operator was removed"),
        Some((_, name, _, ends, ..)) if at_ms >= uint(ends) => ended(Some(&name), "its 15 minutes are over"),
        Some((id, name, role, ..)) => Ok(Found {
            id,
            name: Name::read(&name, &Scope::Every)?,
            role: parse(&role, "an operator's role")?,
            removed: false,
        }),
    }
}

/// Who comes, and from where: it is on the record of how they got in.
fn arriving(found: &Found, at: &Arrival) -> Actor {
    Actor {
        request: at.request.clone(),
        address: at.address.clone(),
        ..Actor::named(&found.name.full, found.role).within(found.name.scope.clone())
    }
}

/// Where a request came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The request's id.
    pub request: String,
    /// The address, without its port.
    pub address: String,
}

/// What a link is redeemed for.
pub(super) enum Redeemed {
    Session(Session),
    Token(Token, Role, u64),
}

/// Uses a link up. Two who come at once are one after the other here: the second finds it used.
pub(super) async fn redeem(
    inner: &Inner,
    secret: &str,
    at: &Arrival,
    for_token: bool,
) -> Result<Redeemed, RegistryError> {
    let at_ms = now_ms();
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let found = usable(&mut tx, secret, at_ms).await?;
    let used = sqlx::query("UPDATE link SET used_at_ms = $1 WHERE digest = $2 AND used_at_ms IS NULL")
        .bind(int(at_ms))
        .bind(token::digest(secret))
        .execute(&mut *tx)
        .await?;
    if used.rows_affected() != 1 {
        return Err(RegistryError::LinkEnded { operator: Some(found.name.full), why: "it was used already" });
    }
    let actor = arriving(&found, at);
    let (redeemed, id) = if for_token {
        let ends_at_ms = at_ms + TOKEN_DAYS * DAY_MS;
        let mut new = NewToken::of(&found.name.full, found.role, Some(ends_at_ms));
        new.name.truncate(50);
        new.name.push_str("-login");
        let (token, _) = token::put(&mut tx, &actor, &found, &new, at_ms).await?;
        let id = token.id.clone();
        (Redeemed::Token(token, found.role, ends_at_ms), id)
    } else {
        let session = open(&mut tx, found.id, &found.name.full, None, at, at_ms).await?;
        let id = session.id.clone();
        (Redeemed::Session(session), id)
    };
    let detail = json!({ "with": "link", "opened": id });
    let stamp = found.record(&mut tx, &actor, (LOGIN, ""), detail, at_ms).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Access);
    Ok(redeemed)
}

/// Opens a session with a token: it allows what the token does, and ends with it.
pub(super) async fn sign_in(inner: &Inner, token: &str, at: &Arrival) -> Result<Session, RegistryError> {
    let at_ms = now_ms();
    let actor = token::check(inner, token, at_ms).await?;
    let actor = Actor { request: at.request.clone(), address: at.address.clone(), ..actor };
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let (operator, name, tenant): (i64, String, Option<String>) = sqlx::query_as(
        "SELECT operator.id, operator.name, operator.tenant
         FROM token JOIN operator ON operator.id = token.operator WHERE token.id = $1",
    )
    .bind(actor.token_id.as_deref())
    .fetch_one(&mut *tx)
    .await?;
    let session = open(&mut tx, operator, &name, actor.token_id.as_deref(), at, at_ms).await?;
    let tenant = tenant.map(|tenant| parse::<Tenant>(&tenant, "an operator's tenant")).transpose()?;
    let entry = Entry {
        actor: &actor,
        tenant: tenant.as_ref(),
        action: LOGIN,
        target: &name,
        reason: "",
        detail: json!({ "with": "token", "opened": session.id }),
    };
    let stamp = audit::append(&mut tx, entry, at_ms).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Access);
    Ok(session)
}

async fn open(
    tx: &mut Connection,
    operator: i64,
    name: &str,
    token: Option<&str>,
    at: &Arrival,
    at_ms: u64,
) -> Result<Session, RegistryError> {
    let (id, secret, ends_at_ms) = (token::id('s')?, token::secret()?, at_ms + SESSION_MS);
    sqlx::query("DELETE FROM web_session WHERE ends_at_ms < $1")
        .bind(int(at_ms.saturating_sub(KEEP_MS)))
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO web_session (id, digest, operator, token, address, created_at_ms, seen_at_ms, ends_at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $6, $7)",
    )
    .bind(&id)
    .bind(token::digest(&secret))
    .bind(operator)
    .bind(token)
    .bind(&at.address)
    .bind(int(at_ms))
    .bind(int(ends_at_ms))
    .execute(tx)
    .await?;
    Ok(Session { id, operator: name.to_owned(), ends_at_ms, secret })
}

/// A session with its operator, and its token if it has one.
struct Held {
    id: String,
    operator: String,
    operator_role: String,
    operator_tenant: Option<String>,
    removed_at_ms: Option<i64>,
    token: Option<String>,
    token_role: Option<String>,
    token_tenant: Option<String>,
    token_ends_ms: Option<i64>,
    token_revoked_ms: Option<i64>,
    seen_at_ms: i64,
    ends_at_ms: i64,
    ended_at_ms: Option<i64>,
}

impl Held {
    /// Why it has ended; `None` while it lives.
    fn ended(&self, at_ms: u64) -> Option<&'static str> {
        let over = |at: Option<i64>| at.is_some_and(|at| at_ms >= uint(at));
        if self.ended_at_ms.is_some() {
            Some("its operator signed out")
        } else if self.removed_at_ms.is_some() {
            Some("its operator was removed")
        } else if self.token_revoked_ms.is_some() || over(self.token_ends_ms) {
            Some("the token it was opened with has ended")
        } else if over(Some(self.ends_at_ms)) {
            Some("its 12 hours are over")
        } else if at_ms >= uint(self.seen_at_ms) + IDLE_MS {
            Some("nobody used it for 30 minutes")
        } else {
            None
        }
    }
}

impl Held {
    async fn read(inner: &Inner, secret: &str) -> Result<Option<Self>, RegistryError> {
        let row = sqlx::query(
            "SELECT web_session.id, operator.name AS operator, operator.role AS operator_role,
                    operator.tenant AS operator_tenant, operator.removed_at_ms, web_session.token,
                    token.role AS token_role, token.tenant AS token_tenant,
                    token.ends_at_ms AS token_ends_ms, token.revoked_at_ms AS token_revoked_ms,
                    web_session.seen_at_ms, web_session.ends_at_ms, web_session.ended_at_ms
             FROM web_session JOIN operator ON operator.id = web_session.operator
             LEFT JOIN token ON token.id = web_session.token WHERE web_session.digest = $1",
        )
        .bind(token::digest(secret))
        .fetch_optional(inner.database.readers())
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Self {
            id: row.try_get("id")?,
            operator: row.try_get("operator")?,
            operator_role: row.try_get("operator_role")?,
            operator_tenant: row.try_get("operator_tenant")?,
            removed_at_ms: row.try_get("removed_at_ms")?,
            token: row.try_get("token")?,
            token_role: row.try_get("token_role")?,
            token_tenant: row.try_get("token_tenant")?,
            token_ends_ms: row.try_get("token_ends_ms")?,
            token_revoked_ms: row.try_get("token_revoked_ms")?,
            seen_at_ms: row.try_get("seen_at_ms")?,
            ends_at_ms: row.try_get("ends_at_ms")?,
            ended_at_ms: row.try_get("ended_at_ms")?,
        }))
    }
}

/// Who speaks with this session.
pub(super) async fn check(inner: &Inner, secret: &str, at_ms: u64) -> Result<Actor, RegistryError> {
    let held = Held::read(inner, secret).await?;
    let held = held.ok_or(RegistryError::SessionEnded { operator: None, why: "there is no such session" })?;
    if let Some(why) = held.ended(at_ms) {
        return Err(RegistryError::SessionEnded { operator: Some(held.operator), why });
    }
    let (role, tenant) = (&held.operator_role, held.operator_tenant.as_deref());
    let allowed = token::both(
        (held.token_role.as_ref().unwrap_or(role), role),
        (held.token_tenant.as_deref(), tenant),
    )?;
    let nothing = RegistryError::SessionEnded { operator: None, why: "it allows nothing any more" };
    let (role, scope) = allowed.ok_or(nothing)?;
    inner.facts.token_used(&held.id, at_ms);
    if let Some(token) = &held.token {
        inner.facts.token_used(token, at_ms);
    }
    Ok(Actor { token_id: Some(held.id), ..Actor::named(&held.operator, role).within(scope) })
}

/// Signs out: the cookie means nothing from now on.
pub(super) async fn sign_out(inner: &Inner, actor: &Actor) -> Result<(), RegistryError> {
    let Some(id) = actor.token_id.as_deref().filter(|id| id.starts_with("s-")) else { return Ok(()) };
    let at_ms = now_ms();
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let ended = sqlx::query("UPDATE web_session SET ended_at_ms = $1 WHERE id = $2 AND ended_at_ms IS NULL")
        .bind(int(at_ms))
        .bind(id)
        .execute(&mut *tx)
        .await?;
    if ended.rows_affected() == 0 {
        return Ok(());
    }
    let entry = Entry {
        actor,
        tenant: actor.tenant(),
        action: "operator.logout",
        target: &actor.name,
        reason: "",
        detail: json!({ "session": id }),
    };
    let stamp = audit::append(&mut tx, entry, at_ms).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Access);
    Ok(())
}

/// Who speaks with a certificate of the operator CA that names them. That the certificate is good, and
/// whose key it is, TLS has seen.
pub(super) async fn check_certificate(
    inner: &Inner,
    name: &str,
    certificate: &CertificateId,
) -> Result<Actor, RegistryError> {
    let mut connection = inner.database.readers().acquire().await?;
    let found = operator::find(&mut connection, name, &Scope::Every).await?.filter(|found| !found.removed);
    let found = found.ok_or_else(|| RegistryError::OperatorUnknown(name.to_owned()))?;
    let id = format!("c-{}", &certificate.to_string()[..12]);
    Ok(Actor { token_id: Some(id), ..Actor::named(&found.name.full, found.role).within(found.name.scope) })
}

/// A failed sign-in, or several of one address, on the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedLogin {
    /// Whom it was for, where that is known.
    pub operator: Option<String>,
    /// What was wrong.
    pub why: String,
    /// How many this row stands for.
    pub count: u64,
}

/// Records it.
pub(super) async fn failed(inner: &Inner, at: &Arrival, failed: &FailedLogin) -> Result<(), RegistryError> {
    let name = failed.operator.as_ref().and_then(|name| Name::read(name, &Scope::Every).ok());
    let actor = Actor {
        request: at.request.clone(),
        address: at.address.clone(),
        ..Actor::named("nobody", Role::Viewer)
    };
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let entry = Entry {
        actor: &actor,
        tenant: name.as_ref().and_then(|name| name.scope.tenant()),
        action: "operator.login-failed",
        target: name.as_ref().map_or("unknown", |name| &name.full),
        reason: &failed.why,
        detail: json!({ "count": failed.count }),
    };
    let stamp = audit::append(&mut tx, entry, now_ms()).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Access);
    Ok(())
}
