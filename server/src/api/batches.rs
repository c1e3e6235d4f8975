//! What stations hand over: manifests and station records.

use axum::{Json, body::Body, extract::State};
use muster_shared::Code;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Doors, Query,
    auth::{Caller, Need},
    body,
    error::Problem,
    page_limit,
    routes::{About, Routes},
    time, view,
};
use crate::registry::{BatchRow, ImportReport, StationRow};

/// Largest station record, octets: one certificate, two keys, a signature.
const RECORD_MAX: usize = 64 * 1024;

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get(
            "/v1/batches",
            list,
            About::new("Batches that were imported")
                .query::<List>()
                .answers::<view::Page<view::Batch>>("batch.list"),
        )
        .post(
            "/v1/batches",
            import,
            About::new("Take in a station's signed manifest")
                .takes_raw("application/octet-stream", "The manifest file as the station wrote it")
                .answers::<view::Import>("import")
                .refuses([
                    Code::ManifestMalformed,
                    Code::ManifestSignerUnknown,
                    Code::ManifestAltered,
                    Code::ManifestQuota,
                    Code::ManifestRange,
                    Code::ManifestFork,
                ]),
        )
        .get(
            "/v1/stations",
            stations,
            About::new("Stations").answers::<view::Page<view::Station>>("station.list"),
        )
        .post(
            "/v1/stations",
            trust,
            About::new("Register a station by its root-signed record")
                .takes_raw("application/octet-stream", "The record as the ceremony wrote it")
                .answers::<view::Trusted>("station.trust")
                .refuses([Code::StationRecordInvalid]),
        )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    after: Option<String>,
    limit: Option<u32>,
}

pub(super) async fn list(
    caller: Caller,
    State(doors): State<Doors>,
    Query(query): Query<List>,
) -> Result<Json<view::Page<view::Batch>>, Problem> {
    caller.may(Need::Look)?;
    let page = doors.registry.batches(query.after.as_deref(), page_limit(query.limit)?).await?;
    let items = page.items.iter().map(batch).collect();
    Ok(Json(view::Page::new("batch", items, page.next, Some(page.total))))
}

/// The body is the manifest file as the station wrote it.
pub(super) async fn import(
    caller: Caller,
    State(doors): State<Doors>,
    octets: Body,
) -> Result<Json<view::Import>, Problem> {
    let actor = caller.may(Need::Import)?;
    let octets = body(octets, doors.facts.body_max).await?;
    let report = doors.registry.import_manifest(actor, &octets).await?;
    Ok(Json(self::report(&report)))
}

pub(super) async fn stations(
    caller: Caller,
    State(doors): State<Doors>,
) -> Result<Json<view::Page<view::Station>>, Problem> {
    caller.may(Need::Look)?;
    let rows = doors.registry.stations().await?;
    let items: Vec<_> = rows.iter().map(station).collect();
    let total = items.len() as u64;
    Ok(Json(view::Page::new("station", items, None, Some(total))))
}

/// The body is the root-signed record as the ceremony wrote it.
pub(super) async fn trust(
    caller: Caller,
    State(doors): State<Doors>,
    octets: Body,
) -> Result<Json<view::Trusted>, Problem> {
    let actor = caller.may(Need::Trust)?;
    let octets = body(octets, RECORD_MAX).await?;
    let trusted = doors.registry.trust_station(actor, &octets).await?;
    Ok(Json(view::Trusted {
        schema: "muster.station.trust/1".to_owned(),
        station: trusted.station.to_string(),
        already: trusted.already,
        generation: trusted.generation.0,
    }))
}

fn batch(row: &BatchRow) -> view::Batch {
    view::Batch {
        batch: row.batch.to_string(),
        tenant: row.tenant.to_string(),
        product: row.product.clone(),
        station: row.station.to_string(),
        sequence: row.sequence,
        devices: row.devices,
        active: row.active,
        closed_at: time::from_ms(row.closed_at_ms),
        imported_at: time::from_ms(row.imported_at_ms),
        imported_by: row.imported_by.clone(),
        manifest_digest: hex::encode(row.digest),
    }
}

fn report(report: &ImportReport) -> view::Import {
    view::Import {
        schema: "muster.import/1".to_owned(),
        batch: report.batch.to_string(),
        tenant: report.tenant.to_string(),
        station: report.station.to_string(),
        product: report.product.clone(),
        sequence: report.sequence,
        manifest_digest: report.digest.clone(),
        registered: report.registered,
        already: report.already,
        refused: report
            .refused
            .iter()
            .map(|row| view::RefusedRow {
                line: row.line,
                serial: row.serial.to_string(),
                certificate_id: row.certificate.to_string(),
                code: row.code.id().to_owned(),
                why: row.why.clone(),
            })
            .collect(),
        generation: report.generation.0,
        audit_no: report.audit_no,
    }
}

fn station(row: &StationRow) -> view::Station {
    view::Station {
        station: row.station.to_string(),
        tenant: row.tenant.to_string(),
        quota: row.quota,
        devices: row.devices,
        serial_first: row.serial_first.to_string(),
        serial_last: row.serial_last.to_string(),
        manifest_key: row.manifest_key.clone(),
        last_sequence: row.last_sequence,
        stopped_at: row.stopped.as_ref().map(|(at_ms, _)| time::from_ms(*at_ms)),
        stopped_why: row.stopped.as_ref().map(|(_, why)| why.clone()),
    }
}
