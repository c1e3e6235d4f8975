//! A whole listing of devices in a file: every line of the filter in the order that was asked for, as CSV
//! (RFC 4180) or as one JSON document.
//!
//! It is written as it is read, a page at a time, so that no listing is too long. A listing that cannot be read on
//! breaks the connection: a browser then says that the file is not whole, and a JSON document does not parse.

use std::io;

use axum::{
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use serde_json::Value;

use super::{data::Api, devices::Asked};
use crate::api::{Query, error::Problem, view};

/// Lines read at a time.
const PIECE: u32 = 1000;
const HEAD: &str = "serial,tenant,device_id,state,presence,last_seen,batch,station,product,firmware,\
                    certificate_id,certificate_ends,refused_24h\r\n";

/// As CSV.
pub(super) async fn csv(api: Api, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    whole(api, asked, "text/csv; charset=utf-8", "devices.csv", &Form { begin: HEAD, end: "", lines: rows })
        .await
}

/// As JSON.
pub(super) async fn json(api: Api, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    let form = Form {
        begin: "{\"schema\":\"muster.device.list/1\",\"items\":[",
        end: "\n],\"next\":null}\n",
        lines: items,
    };
    whole(api, asked, "application/json", "devices.json", &form).await
}

/// How a listing is written.
struct Form {
    begin: &'static str,
    end: &'static str,
    /// A page's lines; whether they are the first.
    lines: fn(&Value, bool) -> Result<String, Problem>,
}

/// Where a listing is.
struct Place {
    api: Api,
    asked: Asked,
    page: Value,
    first: bool,
}

async fn whole(
    api: Api,
    asked: Asked,
    media: &'static str,
    name: &str,
    form: &Form,
) -> Result<Response, Problem> {
    // Before the answer begins: a filter that cannot be read is a refusal, not a broken file.
    let page: Value = api.get(&asked.api(PIECE, asked.after())).await?;
    let (lines, end) = (form.lines, form.end);
    let pieces = stream::try_unfold(Some(Place { api, asked, page, first: true }), move |at| async move {
        let Some(at) = at else { return Ok(None) };
        let text = lines(&at.page, at.first).map_err(broken)?;
        let Some(next) = at.page["next"].as_str() else { return Ok(Some((Bytes::from(text + end), None))) };
        let page = at.api.get(&at.asked.api(PIECE, Some(next))).await.map_err(broken)?;
        Ok::<_, io::Error>(Some((Bytes::from(text), Some(Place { page, first: false, ..at }))))
    });
    let begin = Bytes::from_static(form.begin.as_bytes());
    let text = stream::once(async move { Ok(begin) }).chain(pieces);
    let headers = [
        (header::CONTENT_TYPE, media.to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    Ok((headers, Body::from_stream(text)).into_response())
}

fn broken(problem: Problem) -> io::Error {
    tracing::warn!(code = %problem.code, what = %problem.what, "a listing was not taken out whole");
    io::Error::other(problem.what.clone())
}

fn items(page: &Value, first: bool) -> Result<String, Problem> {
    let mut text = String::new();
    for item in page["items"].as_array().into_iter().flatten() {
        text.push_str(if first && text.is_empty() { "\n" } else { ",\n" });
        text.push_str(&item.to_string());
    }
    Ok(text)
}

fn rows(page: &Value, _first: bool) -> Result<String, Problem> {
    let mut text = String::new();
    for item in page["items"].as_array().into_iter().flatten() {
        let of: view::Device = super::data::parsed(item.clone())?;
        let seen = of.presence.last_seen_at.as_deref().unwrap_or_default();
        let refused = of.refused_24h.to_string();
        let cells = [
            &*of.serial,
            &*of.tenant,
            &*of.device_id,
            &*of.state,
            &*of.presence.word,
            seen,
            &*of.batch,
            &*of.station,
            &*of.product,
            of.firmware.as_deref().unwrap_or_default(),
            &*of.certificate_id,
            &*of.certificate_ends_at,
            &*refused,
        ];
        text.push_str(&cells.map(cell).join(","));
        text.push_str("\r\n");
    }
    Ok(text)
}

/// A cell: quoted where it must be, and never what a spreadsheet takes for a formula.
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_cannot_become_a_formula_or_two_cells() {
        assert_eq!(cell("MU-1"), "MU-1");
        assert_eq!(cell("=HYPERLINK(\"x\")"), "\"'=HYPERLINK(\"\"x\"\")\"");
        assert_eq!(cell("a,b"), "\"a,b\"");
    }
}
