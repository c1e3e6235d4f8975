//! What only SQLite can do to a registry: its disk full, its file held by another program, lost with the keys.

use std::{process::Command, sync::atomic::AtomicBool};

use super::{SERIALS, becomes, decide, holds, rig};
use crate::rig::{Place, Server};

mod filled;

#[test]
fn a_full_disk_refuses_decisions_and_loses_none_that_was_answered() {
    // A file that may not grow is a disk that is full: EFBIG in place of ENOSPC, for the log beside it too.
    let server = Server::start_on(Place::embedded());
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

#[test]
fn a_registry_that_another_program_holds_is_told_apart_and_is_free_again() {
    let server = Server::start_on(Place::embedded());
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

/// A data directory that was lost with its keys: what an auditor keeps is still checked with the key they have.
#[test]
fn checkpoints_are_signed_with_the_same_key_after_a_restore_elsewhere() {
    let server = Server::start_on(Place::embedded());
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
