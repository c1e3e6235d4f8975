//! Lists in and everything out: devices by their certificates, as CSV or as lines of JSON; the registry as
//! lines of JSON, and behind them what devices say their state is (`reported`).

use std::io;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{StreamExt as _, stream};
use muster_pki::manifest::{PRODUCT_MAX, is_product};
use muster_shared::{Code, Tenant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Doors, Query,
    auth::{Caller, Need},
    each_piece,
    error::Problem,
    lists,
    routes::{About, Routes},
};
use crate::{
    registry::{
        export::Exporting,
        import::{Fate, Listed, Offered, RowReport},
        now_ms,
    },
    uplink::StoredMessage,
};

/// Lines of JSON.
const NDJSON: &str = "application/x-ndjson";
/// Comma-separated values (RFC 4180) with a header line.
const CSV: &str = "text/csv";

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .post(
            "/v1/import",
            import,
            About::new("Take devices in from a list of their certificates")
                .query::<Destination>()
                .takes_raw(
                    "application/x-ndjson",
                    "Lines of JSON, or text/csv with a header line; `certificate` is PEM or base64 DER",
                )
                .answers::<Report>("device.import"),
        )
        .get(
            "/v1/export",
            export,
            About::new("Everything the registry knows of its fleet")
                .answers_raw("application/x-ndjson", "One object a line, with its `kind`"),
        )
}

/// Where the devices of a list belong.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Destination {
    /// The batch they are to be of, within each's station.
    batch: String,
    /// What they are, where the batch is new.
    #[serde(default)]
    product: String,
}

/// What became of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// `muster.device.import/1`.
    pub schema: String,
    /// Devices that are new.
    pub registered: u64,
    /// Rows that were known before, exactly so.
    pub already: u64,
    /// Rows that were not taken.
    pub refused: u64,
    /// Each row, in the order of the list.
    pub items: Vec<RowResult>,
}

/// What became of one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RowResult {
    /// Its line, from 1.
    pub line: u64,
    /// The serial in its certificate, when it could be read.
    pub serial: Option<String>,
    /// SHA-256 of its certificate.
    pub certificate_id: Option<String>,
    /// `registered`, `already` or `refused`.
    pub result: String,
    /// Why it was refused: a code.
    pub code: Option<String>,
    /// And what disagrees.
    pub why: Option<String>,
}

async fn import(
    caller: Caller,
    State(doors): State<Doors>,
    Query(into): Query<Destination>,
    headers: HeaderMap,
    octets: Body,
) -> Result<Json<Report>, Problem> {
    let actor = caller.may(Need::Import)?;
    let batch = into.batch.parse().map_err(|error: muster_shared::id::IdError| {
        Problem::new(Code::UsageWrong).what(format!("batch: {error}"))
    })?;
    if !(into.product.is_empty() || is_product(&into.product)) {
        let what = format!("product: 1 to {PRODUCT_MAX} octets of text are wanted");
        return Err(Problem::new(Code::UsageWrong).what(what));
    }
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or(NDJSON);
    let form = match media.split(';').next().unwrap_or_default().trim() {
        CSV => lists::Form::Csv,
        NDJSON | "application/jsonl" => lists::Form::Lines,
        other => return Err(unreadable(format!("{other} is neither {CSV} nor {NDJSON}"))),
    };
    let mut reading = lists::Reading::new(form);
    each_piece(octets, doors.facts.body_max, |piece| reading.take(piece).map_err(unreadable)).await?;
    let rows = reading.end().map_err(unreadable)?;
    let list = Listed { batch, product: into.product, rows, offered: Offered::ByList };
    Ok(Json(report(&doors.registry.import_listed(actor, list).await?)))
}

fn unreadable(why: String) -> Problem {
    Problem::new(Code::UsageWrong).what("the list cannot be read").because(why)
}

fn report(rows: &[RowReport]) -> Report {
    let count =
        |word: &str, items: &[RowResult]| items.iter().filter(|row| row.result == word).count() as u64;
    let items: Vec<_> = rows
        .iter()
        .map(|row| {
            let (result, code, why) = match &row.fate {
                Fate::Registered => ("registered", None, None),
                Fate::Already => ("already", None, None),
                Fate::Refused(code, why) => ("refused", Some(code.id().to_owned()), Some(why.clone())),
            };
            RowResult {
                line: row.line,
                serial: row.serial.as_ref().map(ToString::to_string),
                certificate_id: row.certificate.map(|id| id.to_string()),
                result: result.to_owned(),
                code,
                why,
            }
        })
        .collect();
    Report {
        schema: "muster.device.import/1".to_owned(),
        registered: count("registered", &items),
        already: count("already", &items),
        refused: count("refused", &items),
        items,
    }
}

async fn export(caller: Caller, State(doors): State<Doors>) -> Result<Response, Problem> {
    let actor = caller.may(Need::Look)?;
    let tenant = actor.tenant().cloned();
    let registry = doors.registry.clone();
    // Page by page, as fast as they are read: nothing waits in memory.
    let lines = stream::try_unfold(Exporting::begin(tenant.as_ref()), move |at| {
        let registry = registry.clone();
        async move {
            let next = registry.export(at).await;
            next.map(|next| next.map(|(lines, at)| (Bytes::from(lines), at))).map_err(|error| {
                tracing::error!(%error, "an export ends before its end");
                io::Error::other(error)
            })
        }
    });
    // What devices say their state is stands in the uplink log, not in the registry.
    let retained = doors.uplink.retained();
    let filter = format!("{}/+/{REPORTED}", tenant.as_ref().map_or("+", Tenant::as_str));
    let reported = stream::try_unfold(None::<String>, move |after| {
        let found = retained.matching(&filter, after.as_deref(), REPORTED_AT_ONCE, now_ms());
        let last = found.last().map(|of| String::from_utf8_lossy(&of.message.topic).into_owned());
        let lines: String = found.iter().filter_map(|of| reported(&of.message)).collect();
        std::future::ready(Ok::<_, io::Error>(last.map(|last| (Bytes::from(lines), Some(last)))))
    });
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Ok(([kind], Body::from_stream(lines.chain(reported))).into_response())
}

/// The end of a topic on which a device says its state.
const REPORTED: &str = "twin/reported";
/// Messages read at a time.
const REPORTED_AT_ONCE: usize = 500;

/// A device's reported state as a line; `None` for a message that no device sent.
fn reported(message: &StoredMessage) -> Option<String> {
    let (tenant, device_id) = message.device()?;
    let said: Option<Value> = serde_json::from_slice(&message.payload).ok();
    let line = json!({
        "kind": "reported",
        "tenant": tenant.as_str(),
        "device_id": device_id.as_str(),
        "reported_base64": said.is_none().then(|| STANDARD.encode(&message.payload)),
        "reported": said,
        "content_type": message.content_type(),
        "received_at_ms": message.received_ms,
    });
    Some(format!("{line}\n"))
}
