//! `muster backup` of a server at work, and `muster restore`.

use std::{
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::{SERIALS, decide, postgres::Postgres};
use crate::rig::{Place, Server};

fn state(server: &Server, serial: &str) -> String {
    server.muster(&["device", "show", serial, "--json"]).exits(0).json()["state"].as_str().unwrap().to_owned()
}

/// Ends whoever works beside a test that fails, for whom it would wait.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Decides while a backup is made, loses everything, brings the backup back: what was answered before it
/// began is there, the audit log is whole, and says what happened.
fn there_and_back(server: Server) {
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

/// A data directory that was lost with its keys: what an auditor keeps is still checked with the key they have.
#[test]
fn checkpoints_are_signed_with_the_same_key_after_a_restore_elsewhere() {
    let server = Server::start();
    server.with_devices("B-0001", &SERIALS);
    let key = server.muster(&["audit", "key"]).exits(0).out;
    let file = server.place().dir.path().join("copy.tar");
    server.muster(&["backup", "--out", file.to_str().unwrap()]).exits(0);
    let place = server.killed();
    for name in ["audit.key", "audit.pub", "continuity.key", "registry.sqlite", "uplink.sqlite"] {
        std::fs::remove_file(place.data().join(name)).unwrap();
    }
    place.muster(&["restore", file.to_str().unwrap(), "--force"]).exits(0);
    let server = Server::start_on(place);
    assert_eq!(server.muster(&["audit", "key"]).exits(0).out, key);
    let export = server.place().dir.path().join("audit.ndjson");
    server.muster(&["audit", "export", "--out", export.to_str().unwrap()]).exits(0);
    let key = server.place().file("audit.pem", key);
    let names = [&export, &key].map(|path| path.to_str().unwrap().to_owned());
    server.muster(&["audit", "verify", "--file", &names[0], "--key", &names[1]]).exits(0);
}

#[test]
fn a_backup_made_at_work_comes_back_whole() {
    there_and_back(Server::start());
}

#[test]
fn a_backup_made_at_work_comes_back_whole_on_postgres() {
    let postgres = Postgres::start();
    there_and_back(Server::start_on(Place::with_registry(Some(&postgres.database()))));
}

#[test]
fn a_backup_moves_a_registry_from_a_file_to_postgres() {
    let server = Server::start();
    server.with_devices("B-0001", &SERIALS);
    server.muster(&["device", "suspend", SERIALS[1], "--reason", "on its way"]).exits(0);
    let file = server.place().dir.path().join("copy.tar");
    server.muster(&["backup", "--out", file.to_str().unwrap()]).exits(0);
    let place = server.killed();
    let postgres = Postgres::start();
    let url = postgres.database();
    let config = place.data().join("muster.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("[registry]\n", &format!("[registry]\nurl = \"{url}\"\n"));
    std::fs::write(&config, text).unwrap();
    // The log is there, the registry is not: the one is replaced, the other made.
    place.muster(&["restore", file.to_str().unwrap()]).exits(3).refused("M543");
    place.muster(&["restore", file.to_str().unwrap(), "--force"]).exits(0);
    let server = Server::start_on(place);
    assert_eq!(state(&server, SERIALS[1]), "suspended");
    assert_eq!(state(&server, SERIALS[0]), "registered");
    server.muster(&["audit", "verify"]).exits(0);
    // Numbers of rows go on where they were.
    let more = server.place().devices(&["MU-000009"]);
    let der = more[0].chain[0].clone();
    let line = serde_json::json!({ "certificate": super::lists::base64(&der) }).to_string();
    let list = server.place().file("more.ndjson", line + "\n");
    server.muster(&["device", "import", list.to_str().unwrap(), "--batch", "B-0002"]).exits(0);
    assert_eq!(state(&server, "MU-000009"), "registered");
}
