//! `muster backup` of a server at work, and `muster restore`.

use std::{
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use super::{SERIALS, decide, state};
use crate::rig::{self, Place, Server};

/// Ends whoever works beside a test that fails, for whom it would wait.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Decides while a backup is made, loses everything, brings the backup back: what was answered before it
/// began is there, the audit log is whole, and says what happened.
#[test]
fn a_backup_made_at_work_comes_back_whole() {
    let server = Server::start();
    server.with_devices("B-0001", &[&SERIALS[..], &["MU-000005", "MU-000006"]].concat());
    let file = server.place().dir.path().join("copy.tar");
    let name = file.to_str().unwrap().to_owned();
    let stop = AtomicBool::new(false);
    server.muster(&["device", "suspend", "MU-000005", "--reason", "before the backup"]).exits(0);
    let data = server.place().data();
    let key = server.muster(&["audit", "key"]).exits(0).out;
    thread::scope(|scope| {
        let _stops = Stop(&stop);
        let deciding = scope.spawn(|| decide(&data, &stop));
        let made = server.muster(&["backup", "--out", &name, "--json"]).exits(0).json();
        assert_eq!(made["octets"].as_u64().unwrap(), file.metadata().unwrap().len());
        stop.store(true, Ordering::Release);
        assert!(deciding.join().unwrap().1.is_empty(), "decisions go on meanwhile");
    });
    server.muster(&["device", "suspend", "MU-000006", "--reason", "after the backup"]).exits(0);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    server.muster(&["backup", "--out", &name]).exits(2);
    server.muster(&["restore", &name]).exits(3).refused("M515");
    let place = server.killed();
    place.muster(&["restore", &name]).exits(3).refused("M543");
    let octets = std::fs::read(&file).unwrap();
    let cut = place.file("cut.tar", &octets[..octets.len() - 2048]);
    place.muster(&["restore", cut.to_str().unwrap(), "--force"]).exits(8).refused("M542");
    let restored = place.muster(&["restore", &name, "--force", "--json"]).exits(0).json();
    assert_eq!(restored["continuity_epoch"], 2);
    let server = Server::start_on(place);
    assert_eq!(server.muster(&["audit", "key"]).exits(0).out, key);
    let at_least = restored["audit_no"].as_u64().unwrap();
    let verified = server.muster(&["audit", "verify", "--json"]).exits(0).json();
    assert!(verified["rows"].as_u64().unwrap() > at_least, "{verified}");
    let next = ["audit", "list", "--after", &at_least.to_string(), "--limit", "1", "--json"];
    let next = server.muster(&next).exits(0).json();
    assert_eq!(next["items"][0]["action"], "registry.restore", "the restore is on the record");
    let audit = server.muster(&["audit", "list", "--limit", "1000", "--json"]).exits(0).out;
    assert!(audit.contains("registry.backup") && audit.contains("registry.restore"));
    assert_eq!(state(&server, "MU-000005"), "suspended", "decided before the backup began");
    assert_eq!(state(&server, "MU-000006"), "registered", "decided after it");
    server.muster(&["device", "quarantine", SERIALS[0], "--reason", "life goes on"]).exits(0);
}

#[test]
fn a_restore_that_is_killed_is_repeated_before_a_server_starts() {
    let server = Server::start();
    server.with_devices("B-0001", &SERIALS);
    let file = server.place().dir.path().join("copy.tar");
    let name = file.to_str().unwrap().to_owned();
    server.muster(&["backup", "--out", &name]).exits(0);
    server.muster(&["device", "suspend", SERIALS[0], "--reason", "after the backup"]).exits(0);
    let place = server.killed();
    let restore = ["restore", &name, "--force"];
    let began = Instant::now();
    place.muster(&restore).exits(0);
    let took = began.elapsed();
    let unfinished = place.data().join("restore.unfinished");
    let refused = |place: &Place| {
        let refused = place.muster(rig::SERVE).exits(2).refused("M511");
        assert!(refused.err.contains("muster restore FILE --force"), "{refused:?}");
    };
    for part in 1..=8 {
        let mut restoring = place.command(&restore);
        let mut restoring = restoring.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(took * part / 8);
        restoring.kill().unwrap();
        restoring.wait().unwrap();
        if unfinished.exists() {
            refused(&place);
        }
    }
    // However the kills fell.
    std::fs::write(&unfinished, "").unwrap();
    refused(&place);
    place.muster(&restore).exits(0);
    let left = std::fs::read_dir(place.data()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_str().unwrap().contains("restore")).collect();
    assert!(left.is_empty(), "{left:?}");
    let server = Server::start_on(place);
    assert_eq!(state(&server, SERIALS[0]), "registered");
    server.muster(&["audit", "verify"]).exits(0);
}
