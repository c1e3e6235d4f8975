//! Operators: who may act at all.

use axum::{Json, extract::State, http::HeaderMap};
use muster_shared::Code;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Document, Doors, Path,
    auth::{Caller, Need},
    devices::if_match,
    error::Problem,
    login::ONCE,
    routes::{About, Routes},
    time, view,
};
use crate::registry::{OperatorRow, RegistryError, Role, device::UnknownWord};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Posted {
    name: String,
    role: String,
}

/// What becomes of an operator.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Changed {
    role: Option<String>,
    reason: Option<String>,
}

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    let refuses = [Code::OperatorUnknown, Code::OperatorConflict];
    routes
        .get(
            "/v1/operators",
            list,
            About::new("Operators").answers::<view::Page<view::Operator>>("operator.list"),
        )
        .post(
            "/v1/operators",
            add,
            About::new("Add an operator")
                .takes::<Posted>()
                .answers::<view::OperatorDetail>("operator")
                .refuses([Code::OperatorConflict]),
        )
        .post(
            "/v1/operators/{name}/role",
            set_role,
            About::new("Change the most an operator may do")
                .takes::<Changed>()
                .answers::<view::OperatorDetail>("operator")
                .versioned()
                .refuses(refuses),
        )
        .post(
            "/v1/operators/{name}/remove",
            remove,
            About::new("Remove an operator with what they came with")
                .takes::<Changed>()
                .answers::<view::OperatorDetail>("operator")
                .versioned()
                .refuses(refuses),
        )
        .post(
            "/v1/operators/{name}/invite",
            invite,
            About::new("Make a link that lets an operator in once")
                .takes::<Changed>()
                .answers::<view::Invitation>("invitation")
                .refuses(refuses)
                .secret(),
        )
}

/// Reads a role.
pub(super) fn role(word: &str) -> Result<Role, Problem> {
    word.parse().map_err(|error: UnknownWord| {
        let words: Vec<_> = Role::ALL.iter().map(|role| role.as_str()).collect();
        Problem::new(Code::UsageWrong)
            .what(error.to_string())
            .because(format!("it is one of {}", words.join(", ")))
            .next("muster operator add --help")
    })
}

pub(super) async fn list(
    caller: Caller,
    State(doors): State<Doors>,
) -> Result<Json<view::Page<view::Operator>>, Problem> {
    caller.may(Need::Look)?;
    let rows = doors.registry.operators(caller.scope()).await?;
    let items: Vec<_> = rows.iter().map(operator).collect();
    let total = items.len() as u64;
    Ok(Json(view::Page::new("operator", items, None, Some(total))))
}

pub(super) async fn add(
    caller: Caller,
    State(doors): State<Doors>,
    Document(posted): Document<Posted>,
) -> Result<Json<view::OperatorDetail>, Problem> {
    let actor = caller.may(Need::Access)?;
    let name = doors.registry.add_operator(actor, &posted.name, role(&posted.role)?).await?;
    shown(&caller, &doors, &name).await
}

pub(super) async fn set_role(
    caller: Caller,
    State(doors): State<Doors>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Document(changed): Document<Changed>,
) -> Result<Json<view::OperatorDetail>, Problem> {
    let actor = caller.may(Need::Access)?;
    let Some(word) = &changed.role else {
        return Err(Problem::new(Code::UsageWrong).what("a change of role needs the role"));
    };
    let reason = changed.reason.as_deref().unwrap_or_default();
    let wanted = (role(word)?, if_match(&headers)?);
    let name = doors.registry.set_operator_role(actor, &name, wanted, reason).await.map_err(overtaken)?;
    shown(&caller, &doors, &name).await
}

pub(super) async fn remove(
    caller: Caller,
    State(doors): State<Doors>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Document(changed): Document<Changed>,
) -> Result<Json<view::OperatorDetail>, Problem> {
    let actor = caller.may(Need::Access)?;
    if changed.role.is_some() {
        return Err(Problem::new(Code::UsageWrong).what("a removal has no role"));
    }
    let reason = changed.reason.as_deref().unwrap_or_default();
    let whom = (&*name, if_match(&headers)?);
    let name = doors.registry.remove_operator(actor, whom, reason).await.map_err(overtaken)?;
    shown(&caller, &doors, &name).await
}

pub(super) async fn invite(
    caller: Caller,
    State(doors): State<Doors>,
    Path(name): Path<String>,
    Document(changed): Document<Changed>,
) -> Result<Json<view::Invitation>, Problem> {
    let actor = caller.may(Need::Access)?;
    let wanted = changed.role.as_deref().map(role).transpose()?;
    let link = doors.registry.invite(actor, &name, wanted).await?;
    Ok(Json(view::Invitation {
        schema: "muster.invitation/1".to_owned(),
        operator: link.operator.clone(),
        role: link.role.as_str().to_owned(),
        ends_at: time::from_ms(link.ends_at_ms),
        path: format!("{ONCE}{}", link.expose_secret()),
    }))
}

/// Nothing was done: they are not as they were seen.
fn overtaken(error: RegistryError) -> Problem {
    let seen = matches!(error, RegistryError::Overtaken { .. });
    let problem = Problem::from(error);
    if seen { problem.next("look at them again: muster operator list") } else { problem }
}

async fn shown(caller: &Caller, doors: &Doors, name: &str) -> Result<Json<view::OperatorDetail>, Problem> {
    let rows = doors.registry.operators(caller.scope()).await?;
    let row = rows.iter().find(|row| row.name == name);
    let operator = operator(row.ok_or_else(|| Problem::new(Code::OperatorUnknown))?);
    Ok(Json(view::OperatorDetail { schema: "muster.operator/1".to_owned(), operator }))
}

fn operator(row: &OperatorRow) -> view::Operator {
    view::Operator {
        name: row.name.clone(),
        role: row.role.as_str().to_owned(),
        tenant: row.scope.tenant().map(ToString::to_string),
        added_by: row.added_by.clone(),
        added_at: time::from_ms(row.created_at_ms),
        last_seen_at: row.last_seen_ms.map(time::from_ms),
        removed_at: row.removed_at_ms.map(time::from_ms),
        tokens: row.tokens,
        version: row.version,
    }
}
