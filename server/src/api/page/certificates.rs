//! Certificates of devices, the authorities that made them, and those that are revoked.

use askama::Template;
use axum::response::Response;
use serde::Deserialize;

use super::{
    Section, Shell,
    chart::{Bucket, Chart, Form, Plan, Series},
    data::{Api, encoded},
    events::device_href,
    page,
    parts::{When, count, counted, short},
};
use crate::api::{Query, error::Problem, overview::Overview, time, view};

#[derive(Deserialize)]
pub(super) struct Asked {
    after: Option<String>,
}

/// The tabs: address and name.
const TABS: [(&str, &str); 3] = [
    ("/certificates", "Device"),
    ("/certificates/authorities", "Authorities"),
    ("/certificates/revoked", "Revoked"),
];

struct Row {
    id: String,
    short: String,
    serial: String,
    href: String,
    status: String,
    class: &'static str,
    issuer: String,
    begins: When,
    ends: When,
    revoked: Option<(When, String)>,
    replaced_by: Option<String>,
}

#[derive(Template)]
#[template(path = "certificates.html")]
struct Listing {
    shell: Shell,
    tabs: [(&'static str, &'static str); 3],
    here: &'static str,
    rows: Vec<Row>,
    told: String,
    next_href: Option<String>,
    revoked: bool,
    ends: Option<Chart>,
}

/// Certificates of devices.
pub(super) async fn devices(api: Api, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    listing(&api, asked, "/certificates", "").await
}

/// Those that are revoked.
pub(super) async fn revoked(api: Api, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    listing(&api, asked, "/certificates/revoked", "&status=revoked").await
}

async fn listing(api: &Api, asked: Asked, here: &'static str, status_is: &str) -> Result<Response, Problem> {
    let status = api.status().await?;
    let after = asked.after.as_ref().map(|after| format!("&after={}", encoded(after))).unwrap_or_default();
    let found: view::Page<view::ListedCertificate> =
        api.get(&format!("/v1/certificates?limit=50{status_is}{after}")).await?;
    let shown = found.items.len() as u64;
    let revoked = !status_is.is_empty();
    let ends =
        if revoked || asked.after.is_some() { None } else { Some(ends(&api.get("/v1/overview").await?)) };
    Ok(page(&Listing {
        shell: Shell::new("Certificates", Section::Certificates, &status),
        tabs: TABS,
        here,
        told: found
            .total
            .map_or_else(|| count(shown), |total| format!("{} of {}", count(shown), count(total))),
        rows: found.items.iter().map(row).collect(),
        next_href: found.next.map(|next| format!("{here}?after={}", encoded(&next))),
        revoked,
        ends,
    }))
}

fn row(of: &view::ListedCertificate) -> Row {
    Row {
        id: of.certificate_id.clone(),
        short: short(&of.certificate_id).to_owned(),
        serial: of.serial.clone(),
        href: format!("{}?tab=certificates", device_href(&of.serial)),
        class: match of.status.as_str() {
            "active" => "s-active",
            "revoked" => "s-revoked",
            "pending" => "s-registered",
            _ => "",
        },
        status: of.status.clone(),
        issuer: of.issuer.clone(),
        begins: When::exact(&of.not_before),
        ends: When::ends(&of.not_after),
        revoked: of
            .revoked_at
            .as_ref()
            .map(|at| (When::ago(at), of.revocation_reason.clone().unwrap_or_default())),
        replaced_by: of.replaced_by.as_deref().map(|id| short(id).to_owned()),
    }
}

/// How many end in each of the next twelve months.
fn ends(overview: &Overview) -> Chart {
    let ms = |at: &str| time::to_ms(at).unwrap_or(0);
    let from_ms = overview.ends.first().map_or(0, |of| ms(&of.at));
    let month_ms = 31 * 86_400_000;
    let buckets = overview.ends.iter().filter(|of| of.count > 0).map(|of| Bucket {
        at_ms: ms(&of.at),
        min: 0.0,
        max: of.count as f64,
        last: of.count as f64,
    });
    Chart::new(&Plan {
        title: "certificates that end, by month".to_owned(),
        unit: String::new(),
        from_ms,
        to_ms: overview.ends.last().map_or(0, |of| ms(&of.at)) + month_ms,
        bucket_ms: month_ms,
        series: vec![Series { name: "end".to_owned(), buckets: buckets.collect() }],
        marks: Vec::new(),
        form: Form::Bars,
        from_zero: true,
    })
}

struct Authority {
    name: String,
    subject: String,
    purpose: String,
    /// Groups of four digits, to compare by eye.
    finger: Vec<String>,
    key_at: String,
    ends: When,
    devices: Option<String>,
    pem: String,
}

#[derive(Template)]
#[template(path = "authorities.html")]
struct Authorities {
    shell: Shell,
    tabs: [(&'static str, &'static str); 3],
    here: &'static str,
    rows: Vec<Authority>,
}

/// The authorities certificates come from.
pub(super) async fn authorities(api: Api) -> Result<Response, Problem> {
    let status = api.status().await?;
    let found: view::Page<view::Authority> = api.get("/v1/authorities").await?;
    Ok(page(&Authorities {
        shell: Shell::new("Authorities", Section::Certificates, &status),
        tabs: TABS,
        here: "/certificates/authorities",
        rows: found.items.iter().map(authority).collect(),
    }))
}

fn authority(of: &view::Authority) -> Authority {
    Authority {
        name: of.name.clone(),
        subject: of.subject.clone(),
        purpose: of.purpose.clone(),
        finger: groups(&of.fingerprint),
        key_at: of.key_at.clone(),
        ends: When::ends(&of.not_after),
        devices: of.devices.map(|n| counted(n, "device")),
        pem: of.pem.clone(),
    }
}

/// A digest in groups of four.
pub(super) fn groups(hex: &str) -> Vec<String> {
    hex.as_bytes().chunks(4).map(|four| String::from_utf8_lossy(four).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_compared_in_groups_of_four() {
        assert_eq!(groups("0123456789abcdef"), ["0123", "4567", "89ab", "cdef"]);
        assert_eq!(groups(&"ab".repeat(32)).len(), 16);
    }
}
