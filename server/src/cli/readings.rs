//! `muster device readings`: what a device's sensors said, a line a bucket.

use super::{
    Done,
    args::Readings,
    client::{Client, read},
    device::encode,
    screen::{Screen, Text},
    table::{self, About, Column},
    words,
};
use crate::{
    api::{error::Problem, view},
    span::span,
};

/// A bucket of a sensor, as a line.
struct Line {
    sensor: String,
    bucket: view::Bucket,
}

const COLUMNS: &[Column<Line>] = &[
    Column { head: "SENSOR", wide: false, cell: |of, _| Text::plain(&of.sensor) },
    Column { head: "FROM", wide: false, cell: |of, _| Text::plain(words::instant(&of.bucket.at)) },
    Column { head: "MIN", wide: false, cell: |of, _| Text::plain(of.bucket.min.to_string()) },
    Column { head: "MAX", wide: false, cell: |of, _| Text::plain(of.bucket.max.to_string()) },
    Column { head: "LAST", wide: false, cell: |of, _| Text::plain(of.bucket.last.to_string()) },
];

pub(super) fn run(asked: &Readings, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let mut path = format!("/v1/devices/{}/readings?buckets={}", encode(&asked.serial), asked.buckets);
    let parameters =
        [("range", &asked.range), ("from", &asked.from), ("to", &asked.to), ("sensor", &asked.sensor)];
    for (name, value) in parameters {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    let document = client.get(&path)?;
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(Done::Well);
    }
    let readings: view::Readings = read(&document)?;
    let lines: Vec<Line> = readings
        .sensors
        .iter()
        .flat_map(|of| {
            of.buckets.iter().map(|bucket| Line { sensor: of.sensor.clone(), bucket: bucket.clone() })
        })
        .collect();
    let about = About {
        noun: "bucket",
        total: None,
        filter: None,
        next: None,
        empty: "its sensors said nothing in this range. A longer one: --range 7d",
    };
    table::print(screen, &document, &lines, COLUMNS, &about);
    let gaps: usize = readings.sensors.iter().map(|of| of.gaps.len()).sum();
    let bucket = span(readings.bucket_ms.cast_signed());
    screen.footer(format!("a bucket is {bucket} · {gaps} gaps"));
    Ok(Done::Well)
}
