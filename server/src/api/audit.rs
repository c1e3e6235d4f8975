//! The audit log: read it, check that it is whole, take it out with its proof.
//!
//! A listing is narrowed to what its reader sees. The chain cannot be: checking it, signing where it stands
//! and taking it out are for those who see every tenant.

use std::{path::Path, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, stream};
use muster_pki::PublicKey;
use muster_shared::Code;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Doors, Query,
    auth::{Caller, Need},
    error::Problem,
    page_limit,
    routes::{About, Routes},
    time, view,
};
use crate::registry::{
    AuditFilter, AuditHead, AuditReport, AuditRow, Checkpoint, Place, Registry, RegistryError,
    audit::{
        checkpoint::{CheckpointDocument, public_key_pem},
        export, verify_idle,
    },
    now_ms,
};

/// How long an answer waits for a check that has just begun.
const STANDING_WAIT: Duration = Duration::from_millis(500);
/// Rows of a piece of an export: some 300 kB.
const PIECE: u32 = 1000;

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get(
            "/v1/audit",
            list,
            About::new("Who decided what, oldest first")
                .query::<List>()
                .answers::<view::Page<view::AuditRow>>("audit.list"),
        )
        .get(
            "/v1/audit/verify",
            verify,
            About::new("Whether the audit log is whole")
                .query::<Verify>()
                .answers::<view::AuditVerdict>("audit.verify"),
        )
        .get(
            "/v1/audit/standing",
            standing,
            About::new("What the newest check of the audit log found; begins one where that was a while ago")
                .answers::<view::AuditStanding>("audit.standing"),
        )
        .get(
            "/v1/audit/key",
            key,
            About::new("The public key checkpoints are signed with").answers::<view::AuditKey>("audit.key"),
        )
        .get(
            "/v1/audit/export",
            export,
            About::new("The whole log with its proof")
                .answers_raw("application/x-ndjson", "A head, checkpoints and rows, a JSON document a line"),
        )
        .post(
            "/v1/audit/checkpoint",
            checkpoint,
            About::new("Sign where the log stands now").answers::<CheckpointDocument>("audit.checkpoint"),
        )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    after: Option<u64>,
    limit: Option<u32>,
    actor: Option<String>,
    action: Option<String>,
    target: Option<String>,
    since: Option<String>,
    until: Option<String>,
    order: Option<String>,
}

impl List {
    fn filter(&self) -> Result<AuditFilter, Problem> {
        let instant = |key: &str, text: &Option<String>| {
            let read = |text: &String| {
                let ms = time::to_ms(text).and_then(|ms| u64::try_from(ms).ok());
                ms.ok_or_else(|| {
                    Problem::new(Code::UsageWrong)
                        .what(format!("{key} is {text:?}"))
                        .because("it is an instant such as 2026-11-20T09:12:04Z")
                })
            };
            text.as_ref().map(read).transpose()
        };
        let newest_first = match self.order.as_deref() {
            None | Some("oldest") => false,
            Some("newest") => true,
            Some(other) => {
                return Err(Problem::new(Code::UsageWrong)
                    .what(format!("order is {other:?}; it is oldest or newest, first")));
            }
        };
        Ok(AuditFilter {
            actor: self.actor.clone(),
            action: self.action.clone(),
            target: self.target.clone(),
            since_ms: instant("since", &self.since)?,
            until_ms: instant("until", &self.until)?,
            newest_first,
        })
    }
}

pub(super) async fn list(
    caller: Caller,
    State(doors): State<Doors>,
    Query(query): Query<List>,
) -> Result<Json<view::Page<view::AuditRow>>, Problem> {
    caller.may(Need::Look)?;
    let (limit, filter) = (page_limit(query.limit)?, query.filter()?);
    let page = doors.registry.audit_page(caller.scope(), &filter, query.after, limit).await?;
    Ok(Json(view::Page::new("audit", page.items.iter().map(row).collect(), page.next, Some(page.total))))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    checkpoint_no: Option<u64>,
    checkpoint_digest: Option<String>,
}

pub(super) async fn verify(
    caller: Caller,
    State(doors): State<Doors>,
    Query(query): Query<Verify>,
) -> Result<Json<view::AuditVerdict>, Problem> {
    caller.may_everywhere(Need::Look)?;
    let checkpoint = match (query.checkpoint_no, query.checkpoint_digest) {
        (None, None) => None,
        (Some(no), Some(digest)) => Some(head(&view::AuditHead { no, digest })?),
        _ => {
            return Err(Problem::new(Code::UsageWrong)
                .what("a checkpoint is checkpoint_no and checkpoint_digest together"));
        }
    };
    Ok(Json(verdict(&doors.registry.audit_verify(checkpoint.as_ref()).await?)))
}

/// How the log stood when it was last checked. Nobody waits for a long check: it goes on, and is told next time.
pub(super) async fn standing(
    caller: Caller,
    State(doors): State<Doors>,
) -> Result<Json<view::AuditStanding>, Problem> {
    caller.may_everywhere(Need::Look)?;
    let looked = doors.registry.audit_standing(STANDING_WAIT).await?;
    let newest = looked.map(|looked| view::AuditVerdict {
        checked_at: time::from_ms(looked.at_ms),
        ..verdict(&looked.report)
    });
    Ok(Json(view::AuditStanding { schema: "muster.audit.standing/1".to_owned(), newest }))
}

/// Signs where the log stands now.
pub(super) async fn checkpoint(
    caller: Caller,
    State(doors): State<Doors>,
) -> Result<Json<CheckpointDocument>, Problem> {
    caller.may_everywhere(Need::Export)?;
    Ok(Json(doors.registry.audit_checkpoint().await?.to_document()))
}

/// The public key checkpoints are signed with.
pub(super) async fn key(caller: Caller, State(doors): State<Doors>) -> Result<Json<view::AuditKey>, Problem> {
    caller.may(Need::Look)?;
    let key = doors.registry.audit_key();
    Ok(Json(view::AuditKey {
        schema: "muster.audit.key/1".to_owned(),
        key: hex::encode(key.digest()),
        pem: public_key_pem(&key),
    }))
}

/// The whole log with its proof, up to a checkpoint that is signed now.
pub(super) async fn export(caller: Caller, State(doors): State<Doors>) -> Result<Response, Problem> {
    caller.may_everywhere(Need::Export)?;
    let registry = doors.registry.clone();
    let last = registry.audit_checkpoint().await?;
    let checkpoints: Vec<Checkpoint> = registry
        .audit_checkpoints(0)
        .await?
        .into_iter()
        .filter(|of| of.key == last.key && of.head.no <= last.head.no)
        .collect();
    let begin = export::begin(&registry.audit_key(), &checkpoints);
    let rows = stream::try_unfold((registry, 0, last.head.no), piece);
    let text = stream::once(async { Ok(Bytes::from(begin)) }).chain(rows);
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(text)).into_response())
}

type At = (Registry, u64, u64);

/// The rows after those that were written, up to the last.
async fn piece((registry, after, last): At) -> Result<Option<(Bytes, At)>, RegistryError> {
    if after >= last {
        return Ok(None);
    }
    let rows = registry.audit(after, PIECE).await?;
    let rows: Vec<_> = rows.into_iter().take_while(|row| row.no <= last).collect();
    // A log with a hole ends early here; whoever checks the file is told which rows are missing.
    let Some(at) = rows.last().map(|row| row.no) else { return Ok(None) };
    Ok(Some((Bytes::from(export::rows(&rows)), (registry, at, last))))
}

/// Checks the log of a registry without a server, reading only.
///
/// # Errors
/// M511 when there is no registry to read, M545 when its database does not answer.
pub fn verdict_offline(
    data_dir: &Path,
    place: &Place,
    key: Option<&PublicKey>,
    checkpoint: Option<&AuditHead>,
) -> Result<view::AuditVerdict, Problem> {
    let refused = |code: Code, why: String| Problem::new(code).at(place.to_string()).because(why);
    if place.file().is_some_and(|file| !file.is_file()) {
        return Err(refused(Code::DataDirectory, "there is no registry".to_owned()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::new(Code::Fault).because(error.to_string()))?;
    let report = runtime.block_on(verify_idle(data_dir, place, key, checkpoint));
    report.map(|report| verdict(&report)).map_err(|error| {
        let source =
            std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        let code = match error.code() {
            code @ Code::RegistryUnreachable => code,
            _ => Code::DataDirectory,
        };
        refused(code, format!("{error}{source}"))
    })
}

/// Reads a head.
///
/// # Errors
/// M504.
pub fn head(view: &view::AuditHead) -> Result<AuditHead, Problem> {
    let digest = hex::decode(&view.digest).ok().and_then(|octets| octets.try_into().ok());
    let digest = digest.ok_or_else(|| {
        Problem::new(Code::UsageWrong).what("a checkpoint's digest is 64 hexadecimal digits")
    })?;
    Ok(AuditHead { no: view.no, digest })
}

/// A report as a document.
#[must_use]
pub fn verdict(report: &AuditReport) -> view::AuditVerdict {
    view::AuditVerdict {
        schema: "muster.audit.verify/1".to_owned(),
        intact: report.broken.is_none(),
        rows: report.intact,
        head: view::AuditHead { no: report.head.no, digest: hex::encode(report.head.digest) },
        broken_no: report.broken.as_ref().map(|broken| broken.no),
        broken_why: report.broken.as_ref().map(|broken| broken.why.clone()),
        checked_at: time::from_ms(now_ms()),
    }
}

/// A row as every document shows it.
pub(super) fn row(row: &AuditRow) -> view::AuditRow {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    view::AuditRow {
        no: row.no,
        at: time::from_ms(row.at_ms),
        actor: row.actor.clone(),
        role: row.role.clone(),
        token: some(&row.token),
        action: row.action.clone(),
        target: row.target.clone(),
        reason: some(&row.reason),
        tenant: row.origin.as_ref().and_then(|of| some(&of.tenant)),
        request_id: row.origin.as_ref().and_then(|of| some(&of.request)),
        address: row.origin.as_ref().and_then(|of| some(&of.address)),
        // Written by this program as one JSON object; what is not one is shown as the text it is.
        detail: serde_json::from_str(&row.detail).unwrap_or_else(|_| row.detail.clone().into()),
        previous: hex::encode(row.previous),
        digest: hex::encode(row.digest),
    }
}
