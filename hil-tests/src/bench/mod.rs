//! `hil bench`: what things cost, each beside the least they could cost and beside what others take for it.
//!
//! | row | is |
//! |---|---|
//! | `connect_cpu_us` | the server's processor time for a full mTLS connect with CONNECT and CONNACK |
//! | `connect_chain_cpu_us` | the same when it verifies the certificate's chain each time |
//! | `ingest_cpu_us` | its processor time for a durable QoS 1 message, 4000 a second from 1000 connections |
//! | `ingest_max_cpu_us`, `ingest_max_per_s` | the same, as fast as they are acknowledged; and how fast that is |
//! | `ack_ms_p99` | from a message to its acknowledgement at half of that rate |
//! | `fanin_cpu_us` | its processor time for a message from a device to a service, QoS 1 both ways |
//! | `idle_bytes` | its own memory for a connection that says nothing, of thousands |
//! | `revoke_close_ms_p99` | from the answer of a revocation to the end of the device's connection, of 9999 |
//! | `revoke_call_ms_p99` | the same from its call: the commit, the barrier, the close and a round trip |
//! | `revoke_all_ms` | from the call that revokes all the others as one batch to the last end |
//! | `start_ms` | from the start of the program to its first CONNACK, on an empty registry |
//! | `device_connect_minsn` | million instructions on the board from the start of a connect to CONNACK |
//! | `lookup_us` | the verdict on a certificate, of ten million devices |
//! | `lookup_bytes` | memory in use for each of them |
//! | `start_1m_ms` | a registry of a million devices, from its file to its verdicts |
//! | `import_rows_per_s` | rows of a manifest that are on disk in a second, their signatures checked |
//! | `devices_page_ms` | the slowest page of a list of 100 000 devices, from request to answer; at most 100 is wanted |
//!
//! Everything a row compares is measured in the same run, in turns (A B A B), and a value is the median of
//! its turns. Processor time is the kernel's account of the server's process, not wall time, so a busy
//! machine makes a row noisy and not wrong. The server's pace at the door is set out of the way: a row asks
//! what a connect costs, not how many are let in. Programs are release builds; this one starts itself again as
//! one.

mod api;
mod client;
mod clock;
mod connect;
mod device;
mod fanin;
mod idle;
mod import;
mod ingest;
mod load;
mod page;
mod peer;
mod revoke;
mod rig;
mod saturate;
mod server;
mod start;
mod tls;
mod tokio_tls;
mod verdict;

use std::{
    collections::BTreeMap,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::workspace::{Workspace, cargo};

/// Turns of a measurement: an odd number has a median.
const TURNS: usize = 5;

/// One line of the result.
#[derive(Debug, Serialize)]
struct Row {
    row: &'static str,
    value: f64,
    unit: &'static str,
    /// The least the same work could cost, where that can be measured.
    floor: Option<f64>,
    /// Value to floor.
    ratio: Option<f64>,
    /// What else does it, by name.
    peers: BTreeMap<&'static str, f64>,
}

impl Row {
    fn new(row: &'static str, unit: &'static str, value: f64, floor: Option<f64>) -> Self {
        let ratio = floor.map(|floor| round(value / floor));
        Self { row, value: round(value), unit, floor: floor.map(round), ratio, peers: BTreeMap::new() }
    }

    fn peer(mut self, name: &'static str, value: f64) -> Self {
        self.peers.insert(name, round(value));
        self
    }
}

/// Where a row finds the programs it measures.
struct Bench {
    workspace: Workspace,
    /// The folder of release builds.
    programs: PathBuf,
}

/// Rows that one measurement gives, and the measurement.
type Measure = (&'static [&'static str], fn(&Bench) -> Result<Vec<Row>>);

const ROWS: [Measure; 14] = [
    (&["connect_cpu_us"], connect::pinned),
    (&["connect_chain_cpu_us"], connect::chain),
    (&["ingest_cpu_us"], ingest::measure),
    (&["ingest_max_cpu_us", "ingest_max_per_s", "ack_ms_p99"], saturate::measure),
    (&["fanin_cpu_us"], fanin::measure),
    (&["idle_bytes"], idle::measure),
    (&["revoke_close_ms_p99", "revoke_call_ms_p99", "revoke_all_ms", "revoke_all_call_ms"], revoke::measure),
    (&["start_ms"], start::measure),
    (&["device_connect_minsn"], device::measure),
    (&["lookup_us"], verdict::lookup),
    (&["lookup_bytes"], verdict::bytes),
    (&["start_1m_ms"], verdict::start),
    (&["import_rows_per_s"], import::measure),
    (&["devices_page_ms"], page::measure),
];

/// The names of all rows.
#[must_use]
pub fn row_names() -> Vec<&'static str> {
    ROWS.iter().flat_map(|(names, _)| *names).copied().collect()
}

/// Measures the rows of these names, or all, and prints each as it is known. `true`: all were measured.
///
/// # Errors
/// When something does not build, start or answer.
pub fn bench(rows: &[String], json: bool) -> Result<bool> {
    let workspace = Workspace::find()?;
    if cfg!(debug_assertions) {
        return Err(again_as_release(&workspace)?);
    }
    raise_open_files()?;
    let bench = Bench { programs: workspace.target.join("release"), workspace };
    let wanted = |name: &str| rows.is_empty() || rows.iter().any(|row| row == name);
    for (names, measure) in ROWS {
        if !names.iter().any(|name| wanted(name)) {
            continue;
        }
        let measured = measure(&bench).with_context(|| format!("measuring {}", names.join(", ")))?;
        for row in measured.iter().filter(|row| wanted(row.row)) {
            if json {
                println!("{}", serde_json::to_string(row)?);
            } else {
                print(row);
            }
        }
    }
    Ok(true)
}

fn print(row: &Row) {
    let figure = |figure: f64| format!("{figure} {}", row.unit);
    let mut line = format!("{:<22} {:>14}", row.row, figure(row.value));
    if let (Some(floor), Some(ratio)) = (row.floor, row.ratio) {
        line.push_str(&format!("   floor {} ({ratio} times)", figure(floor)));
    }
    for (name, value) in &row.peers {
        line.push_str(&format!("   {name} {}", figure(*value)));
    }
    println!("{line}");
}

/// Builds release programs and becomes the one of them that is this program. Returns only why it could not.
fn again_as_release(workspace: &Workspace) -> Result<anyhow::Error> {
    eprintln!("building release programs, some minutes the first time");
    let mut build = cargo();
    build.current_dir(&workspace.root).args(["build", "--release", "--quiet", "--bins"]);
    build.args(["-p", "muster-server", "-p", "muster-hil", "--target-dir"]).arg(&workspace.target);
    ensure!(build.status()?.success(), "cargo build --release -p muster-server -p muster-hil failed");
    let why = Command::new(workspace.target.join("release/hil")).args(std::env::args_os().skip(1)).exec();
    Ok(anyhow::Error::new(why).context("the release build of this program does not start"))
}

/// Lets this process, and what it starts, open as many files as it may: a connection is one.
fn raise_open_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

/// The value that `share` of them do not exceed: 0.5 is the median.
fn quantile(mut values: Vec<f64>, share: f64) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1).context("nothing was measured")?;
    Ok(values[(last as f64 * share).ceil() as usize])
}

fn median(values: Vec<f64>) -> Result<f64> {
    quantile(values, 0.5)
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// A folder for one row, gone with it. Below the target directory: that is a disk, where `/tmp` may be
/// memory, and an fsync must cost what it costs.
fn folder(target: &Path) -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("bench-").tempdir_in(target)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_one() {
        assert!((median(vec![9.0, 1.0, 5.0]).unwrap() - 5.0).abs() < f64::EPSILON);
        assert!(median(Vec::new()).is_err());
        let hundred = || (1..=100).map(f64::from).collect();
        assert!((quantile(hundred(), 0.99).unwrap() - 100.0).abs() < f64::EPSILON);
        assert!((quantile(hundred(), 0.0).unwrap() - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_row_is_one_line_of_the_agreed_keys() {
        let row = Row::new("r", "us", 30.0, Some(20.0)).peer("p", 40.126);
        let line = serde_json::to_string(&row).unwrap();
        let agreed = r#"{"row":"r","value":30.0,"unit":"us","floor":20.0,"ratio":1.5,"peers":{"p":40.13}}"#;
        assert_eq!(line, agreed);
        assert!(serde_json::to_string(&Row::new("r", "us", 1.0, None)).unwrap().contains("\"floor\":null"));
    }
}
