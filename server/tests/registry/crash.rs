//! Killed at any moment, with a full disk, with the database gone: what was answered is so, and the audit log
//! is whole.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{Answered, SERIALS, decide, holds, postgres::Postgres, rig};
use crate::rig::{Place, Server, http::Http};

/// Decides until `strike` has happened to the server; what was answered, and the server as it is then.
fn struck(server: Server, after: Duration, strike: impl FnOnce(Server) -> Place) -> (Place, Answered) {
    server.with_devices("B-0001", &SERIALS);
    let stop = AtomicBool::new(false);
    let data = server.place().data();
    thread::scope(|scope| {
        let deciding = scope.spawn(|| decide(&data, &stop));
        thread::sleep(after);
        let place = strike(server);
        stop.store(true, Ordering::Release);
        let (answered, _) = deciding.join().unwrap();
        (place, answered)
    })
}

#[test]
fn after_a_kill_what_was_answered_is_so() {
    // Wherever the kill falls between a commit and its answer.
    for after in [150, 400, 700] {
        let (place, answered) = struck(Server::start(), Duration::from_millis(after), Server::killed);
        let server = Server::start_on(place);
        holds(&server, &answered, 1);
    }
}

#[test]
fn after_a_kill_what_was_answered_is_so_on_postgres() {
    let postgres = Postgres::start();
    let place = Place::with_registry(Some(&postgres.database()));
    let (place, answered) = struck(Server::start_on(place), Duration::from_millis(500), Server::killed);
    // The database may still be finding out that the killed server is gone: the next one waits for it.
    let server = Server::start_on(place);
    holds(&server, &answered, 1);
}

#[test]
fn a_database_that_crashes_and_comes_back_is_written_on() {
    let mut postgres = Postgres::start();
    let place = Place::with_registry(Some(&postgres.database()));
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
fn a_full_disk_refuses_decisions_and_loses_none_that_was_answered() {
    // A file that may not grow is a disk that is full: EFBIG in place of ENOSPC, for the log beside it too.
    let server = Server::start();
    server.with_devices("B-0001", &SERIALS);
    server.signal("TERM");
    let (_, _, place) = server.wait();
    let largest = std::fs::metadata(place.data().join("registry.sqlite")).unwrap().len();
    let blocks = largest.div_ceil(1024) + 96;
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    let serve = place.command(rig::SERVE);
    let mut command = Command::new("bash");
    command.args(["-c", &script, "bash"]).arg(serve.get_program()).args(serve.get_args()).env_clear();
    command.env("LANG", "C.UTF-8");
    let server = Server::start_by(place, command);
    let stop = AtomicBool::new(false);
    // Each decision writes: sooner or later one does not fit, and is refused.
    let (answered, failed) = decide(&server.place().data(), &stop);
    assert_eq!(failed.len(), 1, "it ended by a refusal");
    assert!(failed[0].err.contains("error[M110]"), "{failed:?}");
    becomes(&server, Some("the disk of the registry is full, or fails"));
    let server = Server::start_on(server.killed());
    holds(&server, &answered, 1);
    server.muster(&["device", "quarantine", SERIALS[0], "--reason", "there is room again"]).exits(0);
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

#[test]
fn with_the_database_gone_the_node_is_not_ready_and_is_again_by_itself() {
    let mut postgres = Postgres::start();
    let place = Place::with_registry(Some(&postgres.database()));
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
fn a_registry_that_another_program_holds_is_told_apart_and_is_free_again() {
    let server = Server::start();
    server.with_devices("B-0001", &SERIALS);
    let file = server.place().data().join("registry.sqlite");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut other = runtime.block_on(async {
        use sqlx::Connection as _;
        let url = format!("sqlite://{}", file.display());
        let mut other = sqlx::SqliteConnection::connect(&url).await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        other
    });
    let suspend = || server.muster(&["device", "suspend", SERIALS[0], "--reason", "a reason of ten"]);
    suspend().exits(7).refused("M544");
    becomes(&server, Some("another program holds the registry's database"));
    runtime.block_on(async { sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap() });
    becomes(&server, None);
    suspend().exits(0);
}

#[test]
fn a_second_server_on_the_same_database_is_refused_and_the_first_goes_on() {
    let postgres = Postgres::start();
    let url = postgres.database();
    let place = Place::with_registry(Some(&url));
    let server = Server::start_on(place);
    let other = Place::new();
    let mut second = other.command(rig::SERVE);
    second.env("MUSTER_REGISTRY_URL", &url);
    let refused = rig::run(&mut second).exits(3).refused("M540");
    assert!(refused.err.contains("held by a server"), "{refused:?}");
    server.with_devices("B-0001", &SERIALS);
    server.muster(&["device", "suspend", SERIALS[0], "--reason", "still the one"]).exits(0);
}
