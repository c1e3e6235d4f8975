//! Lists in and everything out: devices by their certificates, as CSV or as lines of JSON; the registry as
//! lines of JSON.

use std::{collections::HashMap, io};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::stream;
use muster_shared::Code;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Doors, Query,
    auth::{Caller, Need},
    body,
    error::Problem,
    routes::{About, Routes},
};
use crate::registry::{
    export::Exporting,
    import::{Fate, Listed, ListedRow, Offered, RowReport},
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
    let octets = body(octets, doors.facts.body_max).await?;
    let text = std::str::from_utf8(&octets).map_err(|error| unreadable(format!("it is no text: {error}")))?;
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or(NDJSON);
    let rows = match media.split(';').next().unwrap_or_default().trim() {
        CSV => csv(text)?,
        NDJSON | "application/jsonl" => ndjson(text)?,
        other => return Err(unreadable(format!("{other} is neither {CSV} nor {NDJSON}"))),
    };
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

/// Rows of lines of JSON. A line of another kind than `device` and `certificate`, as an export has them, is
/// passed over; so is every field but `certificate` and `serial`.
fn ndjson(text: &str) -> Result<Vec<ListedRow>, Problem> {
    let mut rows = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let object: Value =
            serde_json::from_str(line).map_err(|error| unreadable(format!("line {}: {error}", at + 1)))?;
        if object["kind"].as_str().is_some_and(|kind| kind != "certificate") {
            continue;
        }
        rows.push(ListedRow {
            line: at as u64 + 1,
            certificate: der(object["certificate"].as_str().unwrap_or_default()),
            serial: object["serial"].as_str().map(str::to_owned),
        });
    }
    Ok(rows)
}

/// Rows of comma-separated values; the header names `certificate`, and `serial` perhaps.
fn csv(text: &str) -> Result<Vec<ListedRow>, Problem> {
    let mut records = records(text)?.into_iter();
    let (_, head) = records.next().ok_or_else(|| unreadable("it has no header line".to_owned()))?;
    let columns: HashMap<_, _> = head.iter().enumerate().map(|(at, name)| (name.trim(), at)).collect();
    let certificate = *columns
        .get("certificate")
        .ok_or_else(|| unreadable("its header line names no column certificate".to_owned()))?;
    let serial = columns.get("serial").copied();
    Ok(records
        .map(|(line, fields)| ListedRow {
            line,
            certificate: der(fields.get(certificate).map_or("", String::as_str)),
            serial: serial.and_then(|at| fields.get(at)).filter(|serial| !serial.is_empty()).cloned(),
        })
        .collect())
}

/// Records of RFC 4180, each with the line it begins on; empty lines are none.
fn records(text: &str) -> Result<Vec<(u64, Vec<String>)>, Problem> {
    let (mut all, mut fields, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut line, mut began, mut quoted) = (1, 1, false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        line += u64::from(character == '\n');
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            '\r' if !quoted && characters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                fields.push(std::mem::take(&mut field));
                let record = std::mem::take(&mut fields);
                if record != [""] {
                    all.push((began, record));
                }
                began = line;
            }
            other => field.push(other),
        }
    }
    if quoted {
        return Err(unreadable(format!("a quoted field that begins on line {began} does not end")));
    }
    if !field.is_empty() || !fields.is_empty() {
        fields.push(field);
        all.push((began, fields));
    }
    Ok(all)
}

/// A certificate as PEM, in one line or several, or as base64 of its DER.
fn der(text: &str) -> Result<Vec<u8>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it has no certificate".to_owned());
    }
    if text.starts_with("-----BEGIN") {
        let text = text.replace("\\n", "\n");
        return CertificateDer::from_pem_slice(text.as_bytes())
            .map(|der| der.to_vec())
            .map_err(|error| format!("its certificate is no PEM: {error}"));
    }
    STANDARD.decode(text).map_err(|error| format!("its certificate is no base64: {error}"))
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
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Ok(([kind], Body::from_stream(lines)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_rfc_4180_has_them() {
        let text = "serial,certificate\r\nA,\"one \"\"two\"\", three\nfour\"\n\nB,x\nC,";
        let all = records(text).unwrap();
        let expected: Vec<(u64, Vec<&str>)> = vec![
            (1, vec!["serial", "certificate"]),
            (2, vec!["A", "one \"two\", three\nfour"]),
            (5, vec!["B", "x"]),
            (6, vec!["C", ""]),
        ];
        let read: Vec<(u64, Vec<&str>)> =
            all.iter().map(|(at, fields)| (*at, fields.iter().map(String::as_str).collect())).collect();
        assert_eq!(read, expected);
        assert!(records("a,\"b").is_err());
    }

    #[test]
    fn a_list_without_certificates_is_refused_and_a_row_without_one_is_a_row() {
        assert!(csv("").is_err());
        assert!(csv("serial\nA\n").is_err());
        assert!(ndjson("{}\nnonsense\n").is_err());
        let rows =
            ndjson("{\"serial\":\"A\"}\n\n{\"kind\":\"audit\"}\n{\"certificate\":\"AQI=\"}\n").unwrap();
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 4]);
        assert!(rows[0].certificate.is_err());
        assert_eq!(rows[1].certificate, Ok(vec![1, 2]));
    }
}
