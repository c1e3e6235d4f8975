//! Devices that nobody has registered, at the door of the real server: refused as ever where their tenant says
//! nothing, registered by their first connection where it says so, and let in by nothing else than the gate.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod approval;
#[path = "../faults/client.rs"]
#[allow(dead_code, reason = "this file uses its part")]
mod client;
mod connecting;
#[path = "../rig/mod.rs"]
mod rig;

use std::{
    fs::OpenOptions,
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use client::Client;
use muster_pki::testing::{self, Credential};
use muster_shared::Code;
use rig::{LIMIT, Place, Server, now_s};
use serde_json::Value;

/// A section without anything that may be left out.
const ACME: &str = "[[zero_touch]]\ntenant = \"acme\"\n";

/// A server whose file has this at its end.
fn serving(place: Place, sections: &str) -> Server {
    let file = place.data().join("muster.toml");
    let mut file = OpenOptions::new().append(true).open(file).unwrap();
    file.write_all(format!("\n{sections}").as_bytes()).unwrap();
    Server::start_on(place)
}

/// A device of acme's first station.
fn device(server: &Server, serial: &str) -> Credential {
    server.place().devices(&[serial]).remove(0)
}

/// The same with another serial than its station may give, or with a key that is there already.
fn odd(server: &Server, serial: &str, key: Option<&Credential>) -> Credential {
    let station = &server.place().hierarchy.stations[0];
    let key = key.map_or_else(testing::key, |of| of.key.clone());
    testing::device_with(&station.factory, &testing::subject(serial), key, now_s())
}

/// What CONNACK says to a device that is not let in: its reason, and the code in its words.
fn refused(server: &Server, device: &Credential) -> (u8, Code) {
    let mut client = Client::open(server, device).unwrap();
    client.send(&[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 0b10, 0, 0, 0, 0, 0]).unwrap();
    let connack = client.packet().unwrap();
    assert_eq!(connack[0], 0x20, "{connack:02x?}");
    // Flags, reason, properties: of them the first is the reason string, after its identifier and length.
    let words = connack.get(8..).map(String::from_utf8_lossy).unwrap_or_default();
    let code = Code::from_reason(&words);
    (connack[3], code.unwrap_or_else(|| panic!("{connack:02x?}")))
}

/// Connected for the first time, and at work in the same session.
#[track_caller]
fn works(server: &Server, device: &Credential) {
    let topic = format!("acme/{}/telemetry/x", device.identity().device_id);
    assert_eq!(Client::connected(server, device).publish(&topic, "first"), Ok(0));
}

fn serials(server: &Server) -> Vec<String> {
    let listed =
        server.muster(&["device", "list", "-o", "serial", "--sort", "serial", "--limit", "100"]).exits(0);
    listed.out.lines().map(str::to_owned).collect()
}

fn shown(server: &Server, serial: &str) -> Value {
    server.muster(&["device", "show", serial, "--json"]).exits(0).json()
}

/// The rows of the audit log that say who came in by connecting.
fn rows(server: &Server) -> Vec<Value> {
    let listed = server.muster(&["audit", "list", "--action", "device.zero-touch", "--json"]).exits(0).json();
    listed["items"].as_array().unwrap().clone()
}

/// Waits until the record has a refusal by this code of what claims this serial.
fn recorded(server: &Server, serial: &str, code: Code) {
    let until = Instant::now() + LIMIT;
    loop {
        let export = server.muster(&["export"]).exits(0).out;
        let mut lines = export.lines().map(|line| serde_json::from_str(line).unwrap());
        let claimed = format!("acme/{serial}");
        if lines
            .any(|of: Value| of["kind"] == "refusal" && of["claimed"] == *claimed && of["code"] == code.id())
        {
            return;
        }
        assert!(Instant::now() < until, "{serial} {code}: {export}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Its log, once it has stopped in order.
fn log(server: Server) -> String {
    server.signal("TERM");
    let (status, log, _) = server.wait();
    assert_eq!(status, Some(0), "{log}");
    log
}
