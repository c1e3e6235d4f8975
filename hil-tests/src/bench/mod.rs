//! `hil bench`: what things cost, each beside the least they could cost and beside what others take for it.
//!
//! | row | is |
//! |---|---|
//! | `connect_cpu_us` | the server's processor time for a full mTLS connect with CONNECT and CONNACK |
//! | `ingest_cpu_us` | its processor time for a durable QoS 1 message, 4000 a second from 1000 connections |
//! | `device_connect_minsn` | million instructions on the board from the start of a connect to CONNACK |
//! | `import_rows_per_s` | rows of a manifest that are on disk in a second, their signatures checked |
//!
//! Everything a row compares is measured in the same run, in turns (A B A B), and a value is the median of
//! its turns. Processor time is the kernel's account of the server's process, not wall time, so a busy
//! machine makes a row noisy and not wrong. Programs are release builds; this one starts itself again as one.

mod client;
mod connect;
mod device;
mod import;
mod ingest;
mod peer;
mod server;

use std::{
    collections::BTreeMap,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};
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

/// Its name, and what measures it.
type Measure = (&'static str, fn(&Bench) -> Result<Row>);

const ROWS: [Measure; 4] = [
    ("connect_cpu_us", connect::measure),
    ("ingest_cpu_us", ingest::measure),
    ("device_connect_minsn", device::measure),
    ("import_rows_per_s", import::measure),
];

/// The names of all rows.
#[must_use]
pub fn row_names() -> Vec<&'static str> {
    ROWS.iter().map(|(name, _)| *name).collect()
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
    for (name, measure) in ROWS {
        if rows.is_empty() || rows.iter().any(|row| row == name) {
            let row = measure(&bench).with_context(|| format!("measuring {name}"))?;
            if json {
                println!("{}", serde_json::to_string(&row)?);
            } else {
                print(&row);
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

/// Microseconds of processor time a process has used, all its threads together, those that ended too.
///
/// The kernel counts in hundredths of a second (proc(5)), so what is measured must take seconds.
fn cpu_us(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name before it may hold anything but ends with the last parenthesis.
    let (_, fields) = stat.rsplit_once(") ").context("/proc/PID/stat has no name")?;
    let mut fields = fields.split(' ').skip(11).map(str::parse::<u64>);
    let mut next = || fields.next().context("/proc/PID/stat is short")?.context("/proc/PID/stat");
    let (user, system) = (next()?, next()?);
    Ok((user + system) as f64 * 10_000.0)
}

/// Processor time this thread has used.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // The clock counts up from zero, and its nanoseconds are below 10^9 (clock_gettime(2)).
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Lets this process, and what it starts, open as many files as it may: a connection is one.
fn raise_open_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

fn median(mut values: Vec<f64>) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().context("nothing was measured")
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
    }

    #[test]
    fn processor_time_grows_with_work() {
        let (before, own) = (cpu_us(std::process::id()).unwrap(), thread_time());
        let until = std::time::Instant::now() + Duration::from_secs(5);
        while cpu_us(std::process::id()).unwrap() <= before {
            assert!(std::time::Instant::now() < until, "five busy seconds are no processor time");
        }
        assert!(thread_time() > own);
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
