//! `devices_page_ms`: from the request for a page of fifty devices, of 100 000 that are registered, to the last
//! octet of the answer, wall time, one request at a time on one connection; at most 100 ms is wanted.
//!
//! The value is the slowest of the pages, each the median of its requests. Every page stands beside it: the first
//! one in the order of what needs somebody; half way through that order and through that of serials; with a
//! filter that finds a few, a tenth of all, those of one prefix, or nobody; and the same as a document of the API.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Bench, Row, TURNS,
    api::Api,
    folder, median,
    server::{BATCH_MAX, Fleet, Server},
};

/// Devices of the registry.
const DEVICES: usize = 100_000;
/// Devices that are suspended: a few.
const SUSPENDED: usize = 20;
/// Requests of a turn for each page.
const REQUESTS: usize = 10;
/// Between two requests: a page is three of them to the API, which takes 200 in a second.
const PAUSE: Duration = Duration::from_millis(20);
/// Devices of a page of the API on the way to the middle.
const STRIDE: usize = 1000;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let dir = folder(&bench.workspace.target)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let fleet = Fleet::new(DEVICES);
    fleet.register(dir.path(), &runtime)?;
    let server = Server::start(bench, dir.path(), &[])?;
    runtime.block_on(async {
        let mut api = Api::connect(&server, &fleet, dir.path()).await?;
        for device in fleet.devices.iter().step_by(DEVICES / SUSPENDED) {
            let path = format!("/v1/devices/{}/suspend", device.identity().serial);
            api.ask("POST", &path, "{\"reason\":\"measured\"}").await?.good()?;
        }
        let deep = middle(&mut api, "attention").await?;
        let deep_by_serial = middle(&mut api, "serial").await?;
        // What is asked for, and how many rows that has.
        let pages = [
            ("first", "/devices".to_owned(), 50),
            ("deep", format!("/devices?after={deep}"), 50),
            ("deep_by_serial", format!("/devices?sort=serial&after={deep_by_serial}"), 50),
            ("few", "/devices?filter=state%3Asuspended".to_owned(), SUSPENDED),
            ("tenth", format!("/devices?filter=batch%3A{}", Fleet::batch(4)), 50),
            ("prefix", "/devices?filter=MU-0777".to_owned(), 50),
            ("nobody", "/devices?filter=refused%3A%3E0".to_owned(), 0),
            ("api", "/v1/devices".to_owned(), 50),
        ];
        let mut took: [Vec<f64>; 8] = Default::default();
        for _ in 0..TURNS {
            for ((_, path, rows), took) in pages.iter().zip(&mut took) {
                for _ in 0..REQUESTS {
                    took.push(answer(&mut api, path, *rows).await?);
                }
            }
        }
        let medians = took.into_iter().map(median).collect::<Result<Vec<_>>>()?;
        let slowest = medians.iter().copied().fold(0.0, f64::max);
        let row = Row::new("devices_page_ms", "ms", slowest, None);
        let each = pages.iter().zip(medians).map(|((name, ..), median)| (*name, median));
        Ok(vec![each.fold(row, |row, (name, median)| row.peer(name, median))])
    })
}

/// Milliseconds until the answer is whole.
async fn answer(api: &mut Api, path: &str, rows: usize) -> Result<f64> {
    tokio::time::sleep(PAUSE).await;
    let began = Instant::now();
    let answer = api.ask("GET", path, "").await?;
    let took = began.elapsed();
    let body = answer.good()?;
    let found =
        body.matches(if path.starts_with("/v1") { "\"serial\":\"" } else { " data-serial=\"" }).count();
    ensure!(found == rows, "{path} has {found} rows, not {rows}");
    Ok(took.as_secs_f64() * 1000.0)
}

/// Where half of all devices come after, in this order.
async fn middle(api: &mut Api, sort: &str) -> Result<String> {
    let mut after = String::new();
    for _ in 0..DEVICES / STRIDE / 2 {
        tokio::time::sleep(PAUSE).await;
        let path = format!("/v1/devices?limit={STRIDE}&sort={sort}{after}");
        let page: Value = serde_json::from_str(&api.ask("GET", &path, "").await?.good()?)?;
        let next = page["next"].as_str().context("the listing ends too early")?;
        after = format!("&after={next}");
    }
    Ok(after.trim_start_matches("&after=").to_owned())
}

// A batch is what the filter for a tenth of all finds.
const _: () = assert!(DEVICES == 10 * BATCH_MAX);
