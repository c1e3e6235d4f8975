//! A full disk, a locked database, no descriptors left: the real server, with the fault in its process and
//! none in the test's. Nothing is acknowledged that is not stored, everything that needs no disk goes on, and
//! the server recovers by itself once the fault is gone.
//!
//! A disk is full for a process whose files may not grow (RLIMIT_FSIZE): a write fails with EFBIG where a
//! full disk has ENOSPC, and is an error of the commit either way. Any user may set a limit of a process of
//! his, and lift it again. In `disk` a small disk is full indeed, where the machine lets one be mounted.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod client;
mod disk;
#[path = "../rig/mod.rs"]
mod rig;
#[path = "../rig/small_disk.rs"]
mod small_disk;

use std::{
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use client::Client;
use muster_pki::testing::Credential;
use muster_server::{
    registry,
    uplink::{self, Cursor, Reader, StoredPublisher},
};
use rig::{LIMIT, Place, Server};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

const FIRST: &str = "acme/MU-000001/telemetry/x";
const SECOND: &str = "acme/MU-000002/telemetry/x";
/// "Implementation specific error" in DISCONNECT and CONNACK: what was sent could not be stored.
const NOT_STORED: u8 = 0x83;

/// A server with three devices: two have been here before, the third has not.
fn started() -> (Server, Vec<Credential>) {
    let server = Server::start();
    let devices = server.with_devices("B-0001", &["MU-000001", "MU-000002", "MU-000003"]);
    for (device, topic) in [(&devices[0], FIRST), (&devices[1], SECOND)] {
        assert_eq!(Client::connected(&server, device).publish(topic, "before"), Ok(0));
    }
    (server, devices)
}

/// Lowers a limit of the server's, or lifts it to where it was.
fn limit(server: &Server, resource: Resource, to: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    let Rlimit { maximum, .. } = rustix::process::getrlimit(resource);
    let current = to.or(maximum);
    prlimit(pid, resource, Rlimit { current, maximum }).unwrap();
}

/// Tries until it works.
fn soon<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < until, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A connection on which the device's messages are stored again.
fn recovered(server: &Server, device: &Credential, topic: &str) -> Client {
    soon("the server does not recover", || {
        let (mut client, reason) = Client::connecting(server, device).ok()?;
        (reason == 0 && client.publish(topic, "after") == Ok(0)).then_some(client)
    })
}

fn is_ready(server: &Server) -> bool {
    let status = server.muster(&["status", "--json"]);
    let ready = status.json()["ready"] == true;
    status.exits(if ready { 0 } else { 10 });
    ready
}

/// What is in the log of a server that has stopped, of this device.
fn stored(place: &Place, device: &str) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let reader = Reader::open(&place.data()).await.unwrap();
        let read = reader.read(&Cursor::default(), 100_000).await.unwrap();
        reader.close().await;
        let its = read.messages.into_iter().filter(|(_, message)| {
            matches!(&message.publisher, StoredPublisher::Device { device_id, .. } if device_id.as_str() == device)
        });
        its.map(|(_, message)| String::from_utf8(message.payload.to_vec()).unwrap()).collect()
    })
}

/// What services are told of devices, oldest first.
fn presences(place: &Place) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let reader = Reader::open(&place.data()).await.unwrap();
        let read = reader.read(&Cursor::default(), 100_000).await.unwrap();
        reader.close().await;
        let said = read.messages.into_iter().filter_map(|(_, message)| {
            let topic = String::from_utf8(message.topic.to_vec()).unwrap();
            let device = topic.strip_prefix("acme/")?.strip_suffix("/presence")?.to_owned();
            let said: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            let why = said["reason"].as_str().unwrap_or("online");
            Some(format!("{device} {why}"))
        });
        said.collect()
    })
}

/// Stops it in order; nothing has panicked.
fn stop(server: Server) -> Place {
    server.signal("TERM");
    let (status, log, place) = server.wait();
    assert_eq!(status, Some(0), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    place
}

#[test]
fn a_full_disk_costs_the_acknowledgement_and_nothing_else() {
    let (server, devices) = started();
    let mut first = Client::connected(&server, &devices[0]);
    let mut second = Client::connected(&server, &devices[1]);
    limit(&server, Resource::Fsize, Some(0));
    assert_eq!(first.publish(FIRST, "lost"), Err(Some(NOT_STORED)));
    second.ping();
    assert!(!is_ready(&server));
    // It is let in again, and its messages are not acknowledged still.
    let mut first = Client::connected(&server, &devices[0]);
    first.ping();
    assert_eq!(first.publish(FIRST, "lost"), Err(Some(NOT_STORED)));
    // What must be on disk before it is true does not become true.
    assert_eq!(Client::connecting(&server, &devices[2]).unwrap().1, NOT_STORED);
    let refused = server.muster(&["device", "suspend", "MU-000002", "--reason", "a full disk"]);
    assert_ne!(refused.status, 0, "{refused:?}");
    assert!(refused.err.contains("error[M110]"), "{refused:?}");
    second.ping();
    assert_eq!(server.muster(&["device", "list", "-o", "serial"]).exits(0).out.lines().count(), 3);

    limit(&server, Resource::Fsize, None);
    drop(recovered(&server, &devices[0], FIRST));
    // The registry tries by itself, from time to time.
    soon("the server is not ready", || is_ready(&server).then_some(()));
    assert_eq!(second.publish(SECOND, "after"), Ok(0), "the same connection");
    drop(Client::connected(&server, &devices[2]));
    server.muster(&["device", "suspend", "MU-000002", "--reason", "there is room"]).exits(0);
    assert_eq!(second.disconnected(), 0x98);
    let place = stop(server);
    assert_eq!(stored(&place, "MU-000001"), ["before", "after"]);
    assert_eq!(stored(&place, "MU-000002"), ["before", "after"]);
    place.muster(&["audit", "verify"]).exits(0);
}

/// Somebody else holds the file.
struct Held {
    runtime: tokio::runtime::Runtime,
    connection: SqliteConnection,
}

impl Held {
    fn new(place: &Place, file: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = SqliteConnectOptions::new().filename(place.data().join(file)).busy_timeout(LIMIT);
        let connection = runtime.block_on(async {
            let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::query("BEGIN EXCLUSIVE").execute(&mut connection).await.unwrap();
            connection
        });
        Self { runtime, connection }
    }

    fn release(self) {
        let Self { runtime, mut connection } = self;
        runtime.block_on(async {
            sqlx::query("ROLLBACK").execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        });
    }
}

#[test]
fn a_locked_log_costs_the_acknowledgement_and_a_locked_registry_the_decision() {
    let (server, devices) = started();
    let mut first = Client::connected(&server, &devices[0]);
    let mut second = Client::connected(&server, &devices[1]);

    let held = Held::new(server.place(), uplink::FILE);
    assert_eq!(first.publish(FIRST, "lost"), Err(Some(NOT_STORED)));
    second.ping();
    assert!(!is_ready(&server));
    assert_eq!(server.muster(&["device", "list", "-o", "serial"]).exits(0).out.lines().count(), 3);
    held.release();
    let mut first = recovered(&server, &devices[0], FIRST);
    assert_eq!(second.publish(SECOND, "after"), Ok(0));

    let held = Held::new(server.place(), registry::FILE);
    assert_eq!(first.publish(FIRST, "beside"), Ok(0), "the log is a file of its own");
    drop(Client::connected(&server, &devices[0]));
    assert_eq!(Client::connecting(&server, &devices[2]).unwrap().1, NOT_STORED);
    // The server's own patience with the lock ends before the command's: there is an answer, and it is no.
    let suspend = ["--timeout", "60s", "device", "suspend", "MU-000002", "--reason", "a locked registry"];
    let refused = server.muster(&suspend);
    assert!(refused.status != 0 && refused.err.contains("error["), "{refused:?}");
    second.ping();
    assert!(!is_ready(&server), "what is decided cannot be stored");
    held.release();
    soon("the server is not ready", || is_ready(&server).then_some(()));
    drop(Client::connected(&server, &devices[2]));
    server.muster(&["device", "suspend", "MU-000002", "--reason", "nobody holds it"]).exits(0);
    assert_eq!(second.disconnected(), 0x98);
    let place = stop(server);
    assert_eq!(stored(&place, "MU-000001"), ["before", "after", "beside"]);
    place.muster(&["audit", "verify"]).exits(0);
}

#[test]
fn without_descriptors_who_is_here_goes_on_and_who_comes_waits() {
    let (server, devices) = started();
    let mut first = Client::connected(&server, &devices[0]);
    assert_eq!(first.publish(FIRST, "0"), Ok(0));
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count() as u64;
    limit(&server, Resource::Nofile, Some(open));
    // Those who come wait in the kernel; one of them is in the middle of its handshake.
    let strangers: Vec<_> =
        (0..50).map(|_| TcpStream::connect(("127.0.0.1", server.mqtt_port)).unwrap()).collect();
    for n in 1..200 {
        assert_eq!(first.publish(FIRST, &n.to_string()), Ok(0), "message {n}");
    }
    thread::scope(|scope| {
        let waits = scope.spawn(|| Client::connecting(&server, &devices[1]).map(|(_, reason)| reason));
        first.ping();
        drop(strangers);
        limit(&server, Resource::Nofile, None);
        assert_eq!(waits.join().unwrap().unwrap(), 0);
    });
    first.ping();
    assert!(is_ready(&server));
    let place = stop(server);
    let messages: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(stored(&place, "MU-000001")[1..], messages);
}

#[test]
fn whom_a_killed_server_left_behind_is_said_to_be_gone_unless_they_came_back() {
    let (server, devices) = started();
    let here: Vec<_> = devices.iter().map(|device| Client::connected(&server, device)).collect();
    let last = |server: &Server, wanted: [&str; 3]| {
        soon("what services are told is not what is so", || {
            let said = presences(server.place());
            let newest = ["MU-000001", "MU-000002", "MU-000003"].map(|name| {
                said.iter().rev().find(|said| said.starts_with(name)).cloned().unwrap_or_default()
            });
            (newest == wanted).then_some(said)
        })
    };
    last(&server, ["MU-000001 online", "MU-000002 online", "MU-000003 online"]);
    let place = server.killed();
    drop(here);
    let server = Server::start_on(place);
    let _back = Client::connected(&server, &devices[1]);
    let gone = last(&server, ["MU-000001 server_shutdown", "MU-000002 online", "MU-000003 server_shutdown"]);
    // Said once, and not again at the next start.
    let server = Server::start_on(server.killed());
    let said = last(
        &server,
        ["MU-000001 server_shutdown", "MU-000002 server_shutdown", "MU-000003 server_shutdown"],
    );
    assert_eq!(said[..gone.len()], gone);
    assert_eq!(said[gone.len()..], ["MU-000002 server_shutdown"]);
    stop(server);
}

#[test]
fn what_was_retained_and_had_no_room_comes_after_a_kill() {
    let (server, devices) = started();
    let mut speaker = Client::connected(&server, &devices[0]);
    for n in ["1", "2", "3"] {
        speaker.keep(&format!("acme/MU-000001/app/{n}"), n);
    }
    drop(speaker);
    let (mut client, before) = Client::lasting(&server, &devices[0]);
    assert!(!before);
    client.subscribe("acme/MU-000001/app/+");
    let (first, _, again) = client.told();
    assert_eq!((&*first, again), ("1", false));
    client.ping();
    let server = Server::start_on(server.killed());
    let (mut client, before) = Client::lasting(&server, &devices[0]);
    assert!(before, "the session goes on");
    // What was under way may have been noted or not; what was still to come was with the SUBSCRIBE.
    let mut told = vec![client.told()];
    while told[told.len() - 1].0 != "3" {
        client.acknowledge(told[told.len() - 1].1);
        told.push(client.told());
    }
    let said: Vec<_> = told.iter().map(|(said, ..)| said.as_str()).collect();
    assert_eq!(said, ["1", "2", "3"]);
    client.acknowledge(told[2].1);
    client.ping();
    stop(server);
}
