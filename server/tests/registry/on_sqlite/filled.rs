//! Every write, on a disk that is full, or fills up meanwhile: what is refused is not done, what is not refused is
//! on disk, nothing is spoiled, and the server is ready again by itself.

use std::{fs, path::Path, time::Instant};

use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use sqlx::{Connection as _, SqliteConnection};

use crate::{
    becomes,
    rig::{
        LIMIT, Place, Server,
        http::{self, Http},
    },
    small_disk,
    struck::{Answer, again, agrees, read},
    writes::{World, Write, rows},
};

/// No file of the server's may become longer than this; `None`: as long as it wants.
fn files_end_at(server: &Server, octets: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Fsize);
    prlimit(pid, Resource::Fsize, Rlimit { current: octets.or(maximum), maximum }).unwrap();
}

/// A write of each row, with what it needs made.
fn one_of_each(server: &Server, http: &Http, world: &mut World) -> Vec<Write> {
    rows().into_iter().map(|row| world.write(server, http, row)).collect()
}

fn key_of(n: usize) -> String {
    format!("full-{n}")
}

/// It was done, or it is this refusal and no other.
#[track_caller]
fn fitted(write: &Write, answer: &http::Answer) -> bool {
    if answer.status < 300 {
        return true;
    }
    assert_eq!(
        (answer.status, answer.header("content-type"), answer.json()["code"].as_str()),
        (503, Some("application/problem+json"), Some("M110")),
        "{} {}: {answer:?}",
        write.route,
        write.path
    );
    false
}

#[test]
fn a_full_disk_refuses_every_write_and_spoils_none() {
    let server = Server::start_on(Place::embedded());
    let http = Http::new(&server);
    let mut world = World::new(&server, &http, rows().len());
    let writes = one_of_each(&server, &http, &mut world);
    files_end_at(&server, Some(0));
    for (n, write) in writes.iter().enumerate() {
        for key in [None, Some(key_of(n))] {
            let answer = write.ask(&http, key.as_deref()).unwrap();
            let fitted = fitted(write, &answer);
            assert!(!fitted || write.idle, "{} {}: {answer:?}", write.route, write.path);
        }
        // Reading goes on, and says that nothing was done.
        agrees(&http, write, Answer::Refused);
        assert_eq!(write.recorded(&http), 0, "{}", write.path);
    }
    becomes(&server, Some("the disk of the registry is full, or fails"));
    files_end_at(&server, None);
    becomes(&server, None);
    for (n, write) in writes.iter().enumerate() {
        again(&http, write, &key_of(n));
        assert!(write.idle || write.recorded(&http) == 1, "{}", write.path);
    }
    server.muster(&["audit", "verify"]).exits(0);
}

/// Brings what is in SQLite's log into the database, so that the log is as long as what is written from now on.
fn with_a_new_log(registry: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut other = SqliteConnection::connect(&format!("sqlite://{}", registry.display())).await.unwrap();
        let until = Instant::now() + LIMIT;
        loop {
            let (busy, ..): (i64, i64, i64) =
                sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut other).await.unwrap();
            if busy == 0 {
                break;
            }
            assert!(Instant::now() < until, "somebody always reads");
        }
        other.close().await.unwrap();
    });
}

#[test]
fn a_disk_that_fills_up_in_the_middle_of_a_write_leaves_it_done_or_not_done() {
    let mut dice = TestRng::from_seed(RngAlgorithm::ChaCha, &[42; 32]);
    let server = Server::start_on(Place::embedded());
    let http = Http::new(&server);
    let mut world = World::new(&server, &http, rows().len());
    let writes = one_of_each(&server, &http, &mut world);
    with_a_new_log(&server.place().data().join("registry.sqlite"));
    let log = server.place().data().join("registry.sqlite-wal");
    let mut answers = Vec::new();
    for (n, write) in writes.iter().enumerate() {
        // A key, the decision and how it ended are some pages each: it ends before one of them, or in it, or not.
        let room = dice.next_u64() % (24 * 4096);
        files_end_at(&server, Some(fs::metadata(&log).unwrap().len() + room));
        let answer = write.ask(&http, Some(&key_of(n))).unwrap();
        fitted(write, &answer);
        files_end_at(&server, None);
        answers.push(read(Some(&answer)));
        agrees(&http, write, answers[n]);
    }
    becomes(&server, None);
    for (n, write) in writes.iter().enumerate() {
        agrees(&http, write, answers[n]);
        again(&http, write, &key_of(n));
    }
    let of = |what: Answer| answers.iter().filter(|answer| **answer == what).count();
    println!("{} done, {} refused", of(Answer::Done), of(Answer::Refused));
    assert!(of(Answer::Done) > 0 && of(Answer::Refused) > 0, "there was always room, or never");
    server.muster(&["audit", "verify"]).exits(0);
}

/// Decides until that is refused for want of room.
fn decided_until_full(http: &Http, disk: &small_disk::Disk) {
    let until = Instant::now() + LIMIT;
    for act in ["suspend", "resume"].into_iter().cycle() {
        assert!(Instant::now() < until, "decisions need no disk");
        disk.fill();
        let answer =
            http.post(&format!("/v1/devices/MU-000001/{act}"), &json!({ "reason": "is there room?" }));
        if answer.status != 200 {
            answer.refused(503, "M110");
            return;
        }
    }
}

#[test]
fn a_disk_that_is_really_full_refuses_what_it_cannot_keep_and_is_ready_again_by_itself() {
    let Some((server, disk)) = small_disk::start(Place::embedded(), "48m") else {
        return a_full_disk_refuses_every_write_and_spoils_none();
    };
    let http = Http::new(&server);
    let mut world = World::new(&server, &http, rows().len());
    let writes = one_of_each(&server, &http, &mut world);
    decided_until_full(&http, &disk);
    let asked = writes.iter().enumerate();
    let answers: Vec<_> = asked
        .map(|(n, write)| {
            disk.fill();
            let answer = write.ask(&http, Some(&key_of(n))).unwrap();
            fitted(write, &answer);
            read(Some(&answer))
        })
        .collect();
    disk.free();
    becomes(&server, None);
    // What was not refused is on disk, and not only in the server.
    let server = Server::start_on(disk.kept(|| server.killed()));
    let http = Http::new(&server);
    for (n, (write, answer)) in writes.iter().zip(answers).enumerate() {
        agrees(&http, write, answer);
        again(&http, write, &key_of(n));
    }
    server.muster(&["audit", "verify"]).exits(0);
}
