//! `lookup_us`, `lookup_bytes`, `start_1m_ms`: what it costs to know of every device whether it may talk.
//!
//! The fleets are made up ([`MadeUp`]): what is measured does not look into a certificate. `exact` is the
//! lookup of a connect, which compares all 32 octets; `sqlite` is the same question put to the registry's file
//! with a million devices. `names` is what the names of a device take beside its verdict.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use muster_server::registry::{
    Registry,
    sizing::{MadeUp, Point, fill},
};

use super::{Bench, Row, TURNS, folder, median};

/// Devices whose verdicts are held.
const DEVICES: u32 = 10_000_000;
/// Devices of a registry's file.
const STORED: u32 = 1_000_000;
/// Lookups of a turn.
const LOOKUPS: u32 = 1_000_000;
/// Queries of a turn.
const QUERIES: usize = 5_000;

/// Devices in no order: no lookup finds its neighbour's memory warm.
fn scattered(turn: usize) -> impl Iterator<Item = u32> {
    (0..LOOKUPS).map(move |n| {
        let n = (u64::from(n) + turn as u64 * u64::from(LOOKUPS)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((n >> 32) % u64::from(DEVICES)) as u32
    })
}

pub(super) fn lookup(bench: &Bench) -> Result<Vec<Row>> {
    let dir = folder(&bench.workspace.target)?;
    let fleet = MadeUp::new(dir.path(), DEVICES)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(fill(dir.path(), STORED))?;
    let mut point = runtime.block_on(Point::open(dir.path(), 100_000))?;
    let mut turns: [Vec<f64>; 3] = Default::default();
    for turn in 0..TURNS {
        let ids: Vec<_> = scattered(turn).map(|n| (n, MadeUp::id(n))).collect();
        let begin = Instant::now();
        let allowed = ids.iter().filter(|(n, id)| fleet.may_talk(*n, id).is_ok()).count();
        turns[0].push(begin.elapsed().as_secs_f64() * 1e6 / f64::from(LOOKUPS));
        ensure!(allowed == ids.len(), "a device is not found");
        let begin = Instant::now();
        let known = ids.iter().filter(|(n, id)| fleet.owner(id) == Some(*n)).count();
        turns[1].push(begin.elapsed().as_secs_f64() * 1e6 / f64::from(LOOKUPS));
        ensure!(known == ids.len(), "a certificate is not known by all its octets");
        let begin = Instant::now();
        for n in 0..QUERIES {
            ensure!(runtime.block_on(point.ask(turn * QUERIES + n))?, "a row is not found");
        }
        turns[2].push(begin.elapsed().as_secs_f64() * 1e6 / QUERIES as f64);
    }
    let [value, exact, sqlite] = turns;
    let row = Row::new("lookup_us", "us", median(value)?, None);
    Ok(vec![row.peer("exact", median(exact)?).peer("sqlite", median(sqlite)?)])
}

pub(super) fn bytes(bench: &Bench) -> Result<Vec<Row>> {
    let dir = folder(&bench.workspace.target)?;
    let before = resident()?;
    let fleet = MadeUp::new(dir.path(), DEVICES)?;
    let verdicts = resident()?;
    fleet.named();
    let named = resident()?;
    let each = |octets: f64| octets / f64::from(DEVICES);
    let row = Row::new("lookup_bytes", "bytes", each(verdicts - before), None);
    Ok(vec![row.peer("names", each(named - verdicts))])
}

pub(super) fn start(bench: &Bench) -> Result<Vec<Row>> {
    let dir = folder(&bench.workspace.target)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(fill(dir.path(), STORED))?;
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        let begin = Instant::now();
        let registry = runtime.block_on(Registry::open(dir.path()))?;
        turns.push(begin.elapsed().as_secs_f64() * 1e3);
        ensure!(registry.verdicts().devices() == STORED as usize, "not every device was loaded");
        runtime.block_on(registry.close());
    }
    Ok(vec![Row::new("start_1m_ms", "ms", median(turns)?, None)])
}

/// Octets of memory this process has in use (proc(5)).
fn resident() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kilobytes.context("/proc/self/status has no VmRSS")?.trim().parse::<f64>()? * 1024.0)
}
