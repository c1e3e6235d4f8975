//! What stations hand over: manifests and station records.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse as _, Response},
};
use muster_shared::{BatchId, Code, SerialNumber};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Doors, Path, Query,
    auth::{Caller, Need},
    body,
    error::Problem,
    page_limit,
    routes::{About, Routes},
    time, view,
};
use crate::registry::{BatchRow, DeviceState, Differing, ImportReport, StationRow, Taking};

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
            "/v1/batches/{batch}",
            show,
            About::new("A batch against what was made: overproduction, gaps, duplicates")
                .answers::<view::BatchDetail>("batch")
                .refuses([Code::BatchUnknown]),
        )
        .get(
            "/v1/batches/{batch}/manifest",
            manifest,
            About::new("A batch's newest manifest, or the one of a place in its station's chain")
                .query::<Which>()
                .answers_raw("application/octet-stream", "The manifest as it was imported")
                .refuses([Code::BatchUnknown]),
        )
        .get(
            "/v1/batches/{batch}/verify",
            verify,
            About::new("Check a batch's manifests again, and their rows against what is here")
                .answers::<view::BatchVerdict>("batch.verify")
                .refuses([Code::BatchUnknown]),
        )
        .get(
            "/v1/stations",
            stations,
            About::new("Stations").answers::<view::Page<view::Station>>("station.list"),
        )
        .post(
            "/v1/stations",
            trust,
            About::new("Register a station and its factory CA by their root-signed record")
                .query::<Trust>()
                .takes_raw("application/octet-stream", "The record as the ceremony wrote it")
                .answers::<view::Trusted>("station.trust")
                .refuses([Code::StationRecordInvalid, Code::StationRecordConflict]),
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
    let page =
        doors.registry.batches(caller.scope(), query.after.as_deref(), page_limit(query.limit)?).await?;
    let items = page.items.iter().map(batch).collect();
    Ok(Json(view::Page::new("batch", items, page.next, Some(page.total))))
}

fn name(text: &str) -> Result<BatchId, Problem> {
    text.parse().map_err(|error: muster_shared::id::IdError| {
        Problem::new(Code::UsageWrong)
            .what(format!("{text:?} is no batch"))
            .because(error.to_string())
            .next("muster batch list")
    })
}

async fn show(
    caller: Caller,
    State(doors): State<Doors>,
    Path(batch): Path<String>,
) -> Result<Json<view::BatchDetail>, Problem> {
    caller.may(Need::Look)?;
    let of = doors.registry.batch(caller.scope().tenant(), &name(&batch)?).await?;
    let span = |(first, last): &(SerialNumber, SerialNumber)| view::SerialSpan {
        first: first.to_string(),
        last: last.to_string(),
    };
    let count = |(state, devices): &(DeviceState, u64)| view::StateCount {
        state: state.as_str().to_owned(),
        devices: *devices,
    };
    Ok(Json(view::BatchDetail {
        schema: "muster.batch/1".to_owned(),
        batch: of.batch.to_string(),
        tenant: of.tenant.to_string(),
        station: of.station.to_string(),
        product: of.product.clone(),
        opened_at: time::from_ms(of.opened_at_ms),
        closed_at: time::from_ms(of.closed_at_ms),
        manifests: of
            .manifests
            .iter()
            .map(|manifest| view::BatchManifest {
                sequence: manifest.sequence,
                digest: hex::encode(manifest.digest),
                devices: manifest.devices,
                imported_at: time::from_ms(manifest.imported_at_ms),
                imported_by: manifest.imported_by.clone(),
            })
            .collect(),
        made: of.made,
        registered: of.registered,
        first_seen: of.first_seen,
        states: of.states.iter().map(count).collect(),
        made_hours: of
            .made_hours
            .iter()
            .map(|(at_ms, devices)| view::MadeIn { at: time::from_ms(*at_ms), devices: *devices })
            .collect(),
        refused: of.refused,
        unannounced: of.unannounced,
        serial_first: of.serials.as_ref().map(|(first, _)| first.to_string()),
        serial_last: of.serials.as_ref().map(|(_, last)| last.to_string()),
        gaps: of.gaps.iter().map(span).collect(),
        missing: of.missing,
        quota: of.quota,
        station_devices: of.station_devices,
        over_quota: of.station_devices.saturating_sub(of.quota),
        range: span(&of.range),
    }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Its place in its station's chain.
    sequence: Option<u64>,
}

async fn manifest(
    caller: Caller,
    State(doors): State<Doors>,
    Path(batch): Path<String>,
    Query(which): Query<Which>,
) -> Result<Response, Problem> {
    caller.may(Need::Look)?;
    let octets =
        doors.registry.batch_manifest(caller.scope().tenant(), &name(&batch)?, which.sequence).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], octets).into_response())
}

async fn verify(
    caller: Caller,
    State(doors): State<Doors>,
    Path(batch): Path<String>,
) -> Result<Json<view::BatchVerdict>, Problem> {
    caller.may(Need::Look)?;
    let found = doors.registry.verify_batch(caller.scope().tenant(), &name(&batch)?).await?;
    let missing = |(serial, why): &(SerialNumber, String)| view::MissingRow {
        serial: serial.to_string(),
        why: why.clone(),
    };
    Ok(Json(view::BatchVerdict {
        schema: "muster.batch.verify/1".to_owned(),
        batch: found.batch.to_string(),
        intact: found.faults.is_empty() && found.missing.is_empty(),
        manifests: found.manifests,
        rows: found.rows,
        faults: found.faults.clone(),
        missing: found.missing.iter().map(missing).collect(),
    }))
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
    let rows = doors.registry.stations(caller.scope()).await?;
    let items: Vec<_> = rows.iter().map(station).collect();
    let total = items.len() as u64;
    Ok(Json(view::Page::new("station", items, None, Some(total))))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Trust {
    /// Why, for the audit log.
    reason: Option<String>,
    /// A record that the root signed later may take the place of the one the factory CA is registered by.
    #[serde(default)]
    replace: bool,
    /// Say what would be registered, and register nothing.
    #[serde(default)]
    dry_run: bool,
}

/// The body is the root-signed record as the ceremony wrote it.
pub(super) async fn trust(
    caller: Caller,
    State(doors): State<Doors>,
    Query(query): Query<Trust>,
    octets: Body,
) -> Result<Json<view::Trusted>, Problem> {
    let actor = caller.may(Need::Trust)?;
    let octets = body(octets, RECORD_MAX).await?;
    let taking = Taking {
        differing: if query.replace { Differing::Replace } else { Differing::Refuse },
        dry_run: query.dry_run,
        reason: query.reason.unwrap_or_default().trim().to_owned(),
    };
    let trusted = doors.registry.take_station(actor, &octets, &taking).await?;
    let record = &trusted.record;
    Ok(Json(view::Trusted {
        schema: "muster.station.trust/1".to_owned(),
        station: record.station.to_string(),
        tenant: record.tenant.to_string(),
        quota: record.quota,
        serial_first: record.serials.first().to_string(),
        serial_last: record.serials.last().to_string(),
        factory_ca: hex::encode(record.factory.key_id()),
        manifest_key: hex::encode(record.manifest_key.digest()),
        signed_at: time::from_ms(record.signed_at_s * 1000),
        already: trusted.already,
        replaced: trusted.replaced.iter().map(|field| (*field).to_owned()).collect(),
        dry_run: taking.dry_run,
        generation: trusted.generation.0,
        audit_no: trusted.audit_no,
    }))
}

fn batch(row: &BatchRow) -> view::Batch {
    let manifest = row.manifest.as_ref();
    view::Batch {
        batch: row.batch.to_string(),
        tenant: row.tenant.to_string(),
        product: row.product.clone(),
        station: row.station.to_string(),
        sequence: manifest.map(|of| of.sequence),
        made: row.made,
        devices: row.devices,
        active: row.active,
        opened_at: time::from_ms(row.opened_at_ms),
        closed_at: time::from_ms(row.closed_at_ms),
        s_per_unit: row.made.filter(|made| *made > 0).map(|made| {
            let ms = row.closed_at_ms.saturating_sub(row.opened_at_ms);
            (ms as f64 / made as f64 / 100.0).round() / 10.0
        }),
        imported_at: manifest.map(|of| time::from_ms(of.imported_at_ms)),
        imported_by: manifest.map(|of| of.imported_by.clone()),
        manifest_digest: manifest.map(|of| hex::encode(of.digest)),
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
