//! Tokens: what programs and the command line come with.

use axum::{Json, body::Body, extract::State};
use muster_shared::{Code, Tenant, id::IdError};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Document, Doors, Path,
    auth::{Caller, Need},
    body,
    error::Problem,
    operators::role,
    routes::{About, Routes},
    time, view,
};
use crate::registry::{NewToken, RegistryError, Scope, now_ms, token::TokenRow};

const DAY_MS: u64 = 86_400_000;
/// Longest life of a token, days. The first admin's alone has no end.
const DAYS_MAX: u64 = 3650;
/// Largest body of a revocation, octets; it may be empty.
const REASON_MAX: usize = 4096;

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get("/v1/tokens", list, About::new("Tokens").answers::<view::Page<view::Token>>("token.list"))
        .post(
            "/v1/tokens",
            create,
            About::new("Make a token, shown once")
                .takes::<Posted>()
                .answers::<view::NewToken>("token")
                .refuses([Code::OperatorConflict])
                .secret(),
        )
        .post(
            "/v1/tokens/{id}/revoke",
            revoke,
            About::new("End a token now")
                .may_take::<Revoked>()
                .answers::<view::Token>("")
                .refuses([Code::OperatorUnknown]),
        )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Posted {
    operator: String,
    name: Option<String>,
    role: String,
    tenant: Option<String>,
    days: u64,
}

#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoked {
    reason: Option<String>,
}

pub(super) async fn list(
    caller: Caller,
    State(doors): State<Doors>,
) -> Result<Json<view::Page<view::Token>>, Problem> {
    // Names and times, nothing that lets anybody in: whoever checks who could act sees them too.
    caller.may(Need::Export)?;
    let rows = doors.registry.tokens(caller.scope()).await?;
    let items: Vec<_> = rows.iter().map(token).collect();
    let total = items.len() as u64;
    Ok(Json(view::Page::new("token", items, None, Some(total))))
}

pub(super) async fn create(
    caller: Caller,
    State(doors): State<Doors>,
    Document(posted): Document<Posted>,
) -> Result<Json<view::NewToken>, Problem> {
    let actor = caller.may(Need::Access)?;
    let wrong = |what: String| Problem::new(Code::UsageWrong).what(what).next("muster token create --help");
    let role = role(&posted.role)?;
    if !(1..=DAYS_MAX).contains(&posted.days) {
        return Err(wrong(format!("a token lives from 1 to {DAYS_MAX} days, not {}", posted.days)));
    }
    let tenant = posted.tenant.as_deref().map(str::parse::<Tenant>).transpose();
    let scope: Scope = tenant.map_err(|error: IdError| wrong(error.to_string()))?.into();
    let ends_at_ms = now_ms() + posted.days * DAY_MS;
    let mut new = NewToken { scope, ..NewToken::of(&posted.operator, role, Some(ends_at_ms)) };
    if let Some(name) = posted.name {
        new.name = name;
    }
    let made = doors.registry.create_token(actor, &new).await?;
    Ok(Json(view::NewToken {
        schema: "muster.token/1".to_owned(),
        id: made.id.clone(),
        name: new.name,
        operator: made.operator.clone(),
        role: role.as_str().to_owned(),
        tenant: made.scope.tenant().map(ToString::to_string),
        ends_at: Some(time::from_ms(ends_at_ms)),
        token: made.expose_secret().to_owned(),
    }))
}

pub(super) async fn revoke(
    caller: Caller,
    State(doors): State<Doors>,
    Path(id): Path<String>,
    octets: Body,
) -> Result<Json<view::Token>, Problem> {
    let actor = caller.may(Need::Access)?;
    let unknown = || Problem::new(Code::OperatorUnknown).what(format!("there is no token {id}"));
    let octets = body(octets, REASON_MAX).await?;
    let posted: Revoked = match &*octets {
        [] => Revoked::default(),
        octets => serde_json::from_slice(octets)
            .map_err(|error| Problem::new(Code::UsageWrong).because(error.to_string()))?,
    };
    let reason = posted.reason.unwrap_or_default();
    doors.registry.revoke_token(actor, &id, &reason).await.map_err(|error| match error {
        RegistryError::TokenUnknown => unknown(),
        other => other.into(),
    })?;
    let rows = doors.registry.tokens(caller.scope()).await?;
    rows.iter().find(|row| row.id == id).map(token).map(Json).ok_or_else(unknown)
}

fn token(row: &TokenRow) -> view::Token {
    let ends_at_ms = row.revoked_at_ms.or(row.ends_at_ms);
    view::Token {
        id: row.id.clone(),
        name: row.name.clone(),
        operator: row.operator.clone(),
        role: row.role.as_str().to_owned(),
        tenant: row.scope.tenant().map(ToString::to_string),
        created_at: time::from_ms(row.created_at_ms),
        added_by: row.added_by.clone(),
        ends_at: ends_at_ms.map(time::from_ms),
        last_used_at: row.last_used_ms.map(time::from_ms),
        ended: ends_at_ms.is_some_and(|at_ms| at_ms <= now_ms()),
    }
}
