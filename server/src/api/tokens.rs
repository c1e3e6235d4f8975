//! Who may use the API, and as what.

use axum::{Json, extract::State};
use muster_shared::Code;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Document, Doors, Path,
    auth::{Caller, Need},
    error::Problem,
    routes::{About, Routes},
    time, view,
};
use crate::registry::{NewToken, RegistryError, Role, now_ms, operator::TokenRow};

const DAY_MS: u64 = 86_400_000;
/// Longest life of a token, days. The first admin's alone has no end.
const DAYS_MAX: u64 = 3650;

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
                .secret(),
        )
        .post("/v1/tokens/{id}/revoke", revoke, About::new("End a token now").answers::<view::Token>(""))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Posted {
    operator: String,
    role: String,
    days: u64,
}

pub(super) async fn list(
    caller: Caller,
    State(doors): State<Doors>,
) -> Result<Json<view::Page<view::Token>>, Problem> {
    caller.may(Need::Access)?;
    let rows = doors.registry.tokens().await?;
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
    let role: Role = posted.role.parse().map_err(|error: crate::registry::device::UnknownWord| {
        let words: Vec<_> = Role::ALL.iter().map(|role| role.as_str()).collect();
        wrong(error.to_string()).because(format!("it is one of {}", words.join(", ")))
    })?;
    if !(1..=DAYS_MAX).contains(&posted.days) {
        return Err(wrong(format!("a token lives from 1 to {DAYS_MAX} days, not {}", posted.days)));
    }
    let ends_at_ms = now_ms() + posted.days * DAY_MS;
    let new = NewToken { operator: posted.operator, role, ends_at_ms: Some(ends_at_ms) };
    let made = doors.registry.create_token(actor, &new).await?;
    Ok(Json(view::NewToken {
        schema: "muster.token/1".to_owned(),
        id: made.id.clone(),
        operator: new.operator,
        role: role.as_str().to_owned(),
        ends_at: Some(time::from_ms(ends_at_ms)),
        token: made.expose_secret().to_owned(),
    }))
}

pub(super) async fn revoke(
    caller: Caller,
    State(doors): State<Doors>,
    Path(id): Path<String>,
) -> Result<Json<view::Token>, Problem> {
    let actor = caller.may(Need::Access)?;
    let unknown =
        || Problem::new(Code::UsageWrong).what(format!("there is no token {id}")).next("muster token list");
    doors.registry.revoke_token(actor, &id).await.map_err(|error| match error {
        RegistryError::TokenUnknown => unknown(),
        other => other.into(),
    })?;
    let rows = doors.registry.tokens().await?;
    rows.iter().find(|row| row.id == id).map(token).map(Json).ok_or_else(unknown)
}

fn token(row: &TokenRow) -> view::Token {
    let ends_at_ms = row.revoked_at_ms.or(row.ends_at_ms);
    view::Token {
        id: row.id.clone(),
        operator: row.operator.clone(),
        role: row.role.as_str().to_owned(),
        created_at: time::from_ms(row.created_at_ms),
        ends_at: ends_at_ms.map(time::from_ms),
        last_used_at: row.last_used_ms.map(time::from_ms),
        ended: ends_at_ms.is_some_and(|at_ms| at_ms <= now_ms()),
    }
}
