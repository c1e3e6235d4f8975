//! What a device's sensors said: a chart each, over a range that stands in the address.

use askama::Template;
use axum::response::Response;
use serde::Deserialize;

use super::{
    Section, Shell,
    chart::{Bucket, Chart, Form, LINES_MAX, Mark, Plan, Series},
    data::{Api, encoded},
    device::{Head, head},
    events, page,
    parts::When,
};
use crate::api::{Path, Query, error::Problem, time, view};

/// Ranges that are one press away.
const RANGES: [(&str, &str); 4] = [("1h", "1 h"), ("24h", "24 h"), ("7d", "7 days"), ("30d", "30 days")];
/// Buckets of a chart: two for each three of its pixels on a wide page.
const BUCKETS: u32 = 400;

#[derive(Deserialize, Default)]
pub(super) struct Asked {
    range: Option<String>,
    from: Option<String>,
    to: Option<String>,
    sensor: Option<String>,
}

struct Drawn {
    sensor: String,
    value: String,
    at: Option<When>,
    chart: Chart,
}

struct Newest {
    sensor: String,
    value: String,
    at: When,
    href: String,
    here: bool,
}

#[derive(Template)]
#[template(path = "readings.html")]
struct Page {
    shell: Shell,
    head: Head,
    ranges: Vec<(&'static str, String, bool)>,
    from: String,
    to: String,
    drawn: Vec<Drawn>,
    newest: Vec<Newest>,
    problem: Option<Problem>,
}

/// The page.
pub(super) async fn show(
    api: Api,
    Path(serial): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let status = api.status().await?;
    let detail: view::DeviceDetail = api.get(&format!("/v1/devices/{}", encoded(&serial))).await?;
    let head = head(&status, &detail, "readings");
    let names: Vec<String> = detail.readings.iter().map(|of| of.sensor.clone()).collect();
    let shown: Vec<String> = match &asked.sensor {
        Some(sensor) => sensor.split(',').map(str::to_owned).collect(),
        None => names.into_iter().take(LINES_MAX).collect(),
    };
    let found: Result<Option<view::Readings>, Problem> = api.find(&address(&serial, &asked, &shown)).await;
    let (found, problem) = match found {
        Ok(found) => (found, None),
        Err(problem) if problem.status() == 400 => (None, Some(problem)),
        Err(problem) => return Err(problem),
    };
    let drawn = found.map(|found| drawn(&detail, &found)).unwrap_or_default();
    let newest = detail.readings.iter().map(|of| newest(of, &head.href, &shown)).collect();
    Ok(page(&Page {
        shell: Shell::new(format!("{serial} readings"), Section::Devices, &status),
        ranges: ranges(&head.href, &asked),
        from: asked.from.clone().unwrap_or_default(),
        to: asked.to.clone().unwrap_or_default(),
        head,
        drawn,
        newest,
        problem,
    }))
}

/// A form's instant has no zone: it is UTC.
fn instant(text: &str) -> String {
    if text.ends_with('Z') || text.contains('+') { text.to_owned() } else { format!("{text}:00Z") }
}

fn address(serial: &str, asked: &Asked, sensors: &[String]) -> String {
    let mut query = vec![format!("buckets={BUCKETS}")];
    match (&asked.from, &asked.to) {
        (Some(from), Some(to)) if !from.is_empty() && !to.is_empty() => {
            query.push(format!("from={}", encoded(&instant(from))));
            query.push(format!("to={}", encoded(&instant(to))));
        }
        _ => query.push(format!("range={}", encoded(asked.range.as_deref().unwrap_or("24h")))),
    }
    if !sensors.is_empty() {
        query.push(format!("sensor={}", encoded(&sensors.join(","))));
    }
    format!("/v1/devices/{}/readings?{}", encoded(serial), query.join("&"))
}

fn ranges(href: &str, asked: &Asked) -> Vec<(&'static str, String, bool)> {
    let sensor = asked.sensor.as_ref().map(|of| format!("&sensor={}", encoded(of))).unwrap_or_default();
    let here = |range: &str| match (&asked.range, &asked.from) {
        (Some(asked), _) => asked == range,
        (None, None) => range == "24h",
        (None, Some(_)) => false,
    };
    RANGES
        .into_iter()
        .map(|(range, name)| (name, format!("{href}/readings?range={range}{sensor}"), here(range)))
        .collect()
}

fn drawn(detail: &view::DeviceDetail, found: &view::Readings) -> Vec<Drawn> {
    let ms = |at: &str| time::to_ms(at).unwrap_or(0);
    let (from_ms, to_ms) = (ms(&found.from), ms(&found.to));
    let within = |at: i64| (from_ms..to_ms).contains(&at);
    let marks = || {
        let decisions = detail.history.iter().filter(|row| within(ms(&row.at)));
        decisions.map(|row| Mark { at_ms: ms(&row.at), word: events::decision(row).text }).collect()
    };
    let one = |of: &view::SensorChart| {
        let buckets = of.buckets.iter().map(|point| Bucket {
            at_ms: ms(&point.at),
            min: point.min,
            max: point.max,
            last: point.last,
        });
        let newest = detail.readings.iter().find(|reading| reading.sensor == of.sensor);
        let plan = Plan {
            title: of.sensor.clone(),
            unit: String::new(),
            from_ms,
            to_ms,
            bucket_ms: i64::try_from(found.bucket_ms).unwrap_or(i64::MAX),
            series: vec![Series { name: of.sensor.clone(), buckets: buckets.collect() }],
            marks: marks(),
            form: Form::Lines,
            from_zero: false,
        };
        Drawn {
            sensor: of.sensor.clone(),
            value: newest.map(|of| said(&of.value)).unwrap_or_default(),
            at: newest.map(|of| When::ago(&of.received_at)),
            chart: Chart::new(&plan),
        }
    };
    found.sensors.iter().take(LINES_MAX).map(one).collect()
}

fn newest(of: &view::Reading, href: &str, shown: &[String]) -> Newest {
    Newest {
        sensor: of.sensor.clone(),
        value: said(&of.value),
        at: When::ago(&of.received_at),
        href: format!("{href}/readings?sensor={}", encoded(&of.sensor)),
        here: shown.contains(&of.sensor),
    }
}

/// A value as it is shown.
pub(super) fn said(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "not a number".to_owned(),
        // The nearest of 32 bits, not the digits of the 64 it is carried in.
        serde_json::Value::Number(number) => match number.as_f64() {
            Some(of) if number.is_f64() => format!("{}", of as f32),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_the_digits_it_was_measured_with() {
        assert_eq!(said(&serde_json::json!(f64::from(21.3_f32))), "21.3");
        assert_eq!([said(&serde_json::json!(-7)), said(&serde_json::json!(true))], ["-7", "true"]);
    }

    #[test]
    fn a_range_is_a_range_or_two_instants() {
        let asked = Asked { range: Some("7d".into()), ..Asked::default() };
        assert_eq!(
            address("MU-1", &asked, &["t".into()]),
            "/v1/devices/MU-1/readings?buckets=400&range=7d&sensor=t"
        );
        let asked = Asked {
            from: Some("2026-11-20T09:12".into()),
            to: Some("2026-11-21T09:12".into()),
            ..Asked::default()
        };
        assert_eq!(
            address("MU-1", &asked, &[]),
            "/v1/devices/MU-1/readings?buckets=400&from=2026-11-20T09%3A12%3A00Z&to=2026-11-21T09%3A12%3A00Z"
        );
    }
}
