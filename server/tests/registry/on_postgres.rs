//! What only PostgreSQL can do to a registry: crash, be gone, be asked for by two servers; and how one comes
//! there from a file.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::{SERIALS, becomes, decide, holds, rig, state};
use crate::rig::{Place, Server, postgres::Postgres};

#[test]
fn a_database_that_crashes_and_comes_back_is_written_on() {
    let mut postgres = Postgres::start();
    let place = Place::with_registry(&postgres.database());
    let server = Server::start_on(place);
    server.with_devices("B-0001", &SERIALS);
    let stop = AtomicBool::new(false);
    let data = server.place().data();
    let (answered, failed) = thread::scope(|scope| {
        let deciding = scope.spawn(|| decide(&data, &stop));
        thread::sleep(Duration::from_millis(300));
        postgres.crash_and_restart();
        thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Release);
        deciding.join().unwrap()
    });
    for ran in &failed {
        assert!(ran.err.contains("error[M"), "a refusal, not a crash: {ran:?}");
    }
    holds(&server, &answered, failed.len());
    let again = rig::LIMIT;
    let until = std::time::Instant::now() + again;
    loop {
        let ran = server.muster(&["device", "quarantine", SERIALS[0], "--reason", "after the crash"]);
        if ran.status == 0 {
            break;
        }
        assert!(std::time::Instant::now() < until, "{ran:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn with_the_database_gone_the_node_is_not_ready_and_is_again_by_itself() {
    let mut postgres = Postgres::start();
    let place = Place::with_registry(&postgres.database());
    let server = Server::start_on(place);
    server.with_devices("B-0001", &SERIALS);
    becomes(&server, None);
    postgres.crash();
    // Nobody asks it for anything, and it is found out.
    becomes(&server, Some("the registry's database does not answer"));
    let suspend = || server.muster(&["device", "suspend", SERIALS[0], "--reason", "a reason of ten"]);
    suspend().exits(7).refused("M545");
    postgres.restart();
    becomes(&server, None);
    suspend().exits(0);
}

#[test]
fn a_second_server_on_the_same_database_is_refused_and_the_first_goes_on() {
    let postgres = Postgres::start();
    let url = postgres.database();
    let place = Place::with_registry(&url);
    let server = Server::start_on(place);
    let other = Place::embedded();
    let mut second = other.command(rig::SERVE);
    second.env("MUSTER_REGISTRY_URL", &url);
    let refused = rig::run(&mut second).exits(3).refused("M540");
    assert!(refused.err.contains("held by a server"), "{refused:?}");
    server.with_devices("B-0001", &SERIALS);
    server.muster(&["device", "suspend", SERIALS[0], "--reason", "still the one"]).exits(0);
}

#[test]
fn a_backup_moves_a_registry_from_a_file_to_postgres() {
    let server = Server::start_on(Place::embedded());
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
