//! The registry of the real server: what survives when the process, the database or the disk does not, and
//! what a backup brings back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod backup;
mod crash;
mod lists;
mod on_postgres;
mod on_sqlite;
#[path = "../rig/mod.rs"]
mod rig;
#[path = "../rig/small_disk.rs"]
mod small_disk;
mod struck;
mod writes;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rig::{Ran, Server, http::Http};

/// Devices of a test.
const SERIALS: [&str; 4] = ["MU-000001", "MU-000002", "MU-000003", "MU-000004"];

/// What was answered to each device's last decision: its state, by serial.
type Answered = BTreeMap<String, String>;

/// Decides about one device after the other, suspended and back, until told to stop or refused; what was
/// answered last about each.
fn decide(data: &Path, stop: &AtomicBool) -> (Answered, Vec<Ran>) {
    let (mut answered, mut failed) = (Answered::new(), Vec::new());
    for (round, serial) in (0..).flat_map(|round| SERIALS.map(|serial| (round, serial))) {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let act = if round % 2 == 0 { "suspend" } else { "resume" };
        let mut decide = rig::muster(["device", act, serial, "--reason", "a test of crashes", "--data-dir"]);
        let ran = rig::run(decide.arg(data));
        match ran.status {
            0 => {
                answered.insert(serial.to_owned(), act.to_owned());
            }
            _ => {
                failed.push(ran);
                break;
            }
        }
    }
    (answered, failed)
}

/// What was answered is so: a decision that was not answered may have been made, one more than those.
fn holds(server: &Server, answered: &Answered, unanswered: usize) {
    let mut others = 0;
    for (serial, act) in answered {
        let shown = server.muster(&["device", "show", serial, "--json"]).exits(0).json();
        let expected = if act == "suspend" { "suspended" } else { "registered" };
        others += usize::from(shown["state"] != expected);
    }
    assert!(others <= unanswered, "{others} devices are not as they were answered to be: {answered:?}");
    let verified = server.muster(&["audit", "verify", "--json"]);
    assert_eq!(verified.status, 0, "{verified:?}");
}

/// Waits until a probe is told this, or that all is well.
fn becomes(server: &Server, why: Option<&str>) {
    let until = Instant::now() + rig::LIMIT;
    let http = Http::new(server);
    loop {
        let asked = Instant::now();
        let answer = http.get("/readyz");
        assert!(asked.elapsed() < Duration::from_secs(10), "a probe does not wait for the database");
        let found = &answer.json()["not_ready"];
        let as_wanted = match why {
            Some(why) => found.as_array().is_some_and(|all| all.iter().any(|one| one == why)),
            None => found == &serde_json::json!([]),
        };
        if as_wanted {
            assert_eq!(answer.status, if why.is_some() { 503 } else { 200 });
            return;
        }
        assert!(Instant::now() < until, "{found}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// What is known of a device.
fn state(server: &Server, serial: &str) -> String {
    server.muster(&["device", "show", serial, "--json"]).exits(0).json()["state"].as_str().unwrap().to_owned()
}
