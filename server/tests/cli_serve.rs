//! `muster serve`: how it starts, what keeps it from starting, how it ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::{net::TcpListener, path::Path};

use rig::{Place, Server, read, run};
use serde_json::Value;

fn addresses(data: &Path) -> Value {
    serde_json::from_str(&read(data.join("run/addresses.json"))).unwrap()
}

#[test]
fn it_says_where_it_listens_and_leaves_no_trace_of_it() {
    let server = Server::start();
    let data = server.place().data();
    let said = addresses(&data);
    assert_eq!(said["schema"], "muster.addresses/1");
    assert_eq!(said["https"], format!("https://{}", server.https));
    assert_eq!(said["mqtt"], format!("mqtts://127.0.0.1:{}", server.mqtt_port));
    let status = server.muster(&["status", "--json"]).exits(0).json();
    assert_eq!((&status["ready"], &status["devices"]), (&Value::Bool(true), &0.into()));
    server.signal("TERM");
    let (status, log, place) = server.wait();
    assert_eq!(status, Some(0), "{log}");
    assert!(!data.join("run/addresses.json").exists());
    let verify = place.muster(&["audit", "verify", "--json"]).exits(0);
    assert_eq!(verify.json()["intact"], true);
    finds_no_server(&place);
    what_was_decided_is_there_after_a_stop_and_after_a_kill(Server::start_on(place));
}

/// Asked is the default address; on it there may be somebody else's server, which is not the one that is trusted.
fn finds_no_server(place: &Place) {
    let ran = place.muster(&["status"]);
    assert!(ran.status == 7 && ran.err.contains("https://127.0.0.1:8443") || ran.status == 8, "{ran:?}");
    let code = if ran.status == 7 { "M101" } else { "M104" };
    ran.refused(code);
}

fn what_was_decided_is_there_after_a_stop_and_after_a_kill(server: Server) {
    server.with_devices("B-0001", &["MU-000001", "MU-000002"]);
    server.muster(&["device", "suspend", "MU-000001", "--reason", "x"]).exits(0);
    server.signal("INT");
    let (status, log, place) = server.wait();
    assert_eq!(status, Some(0), "{log}");
    let server = Server::start_on(place);
    let list = |server: &Server, filter: &str| {
        server.muster(&["device", "list", "--filter", filter, "-o", "serial"]).exits(0).out
    };
    assert_eq!(list(&server, "state:suspended"), "MU-000001\n");
    server.muster(&["device", "quarantine", "MU-000002", "--reason", "x"]).exits(0);
    server.signal("KILL");
    let (_, _, place) = server.wait();
    // The killed server left its addresses behind; nobody believes them.
    assert!(place.data().join("run/addresses.json").exists());
    finds_no_server(&place);
    let server = Server::start_on(place);
    assert_eq!(list(&server, "state:quarantined"), "MU-000002\n");
    server.muster(&["audit", "verify"]).exits(0);
}

#[test]
fn a_second_server_on_the_directory_or_the_address_is_refused() {
    let server = Server::start();
    let second = server.muster(&["serve", "--listen-mqtt", "127.0.0.1:0", "--listen-https", "127.0.0.1:0"]);
    second.exits(3).refused("M515");
    // Its registry's file is spoilt at the end.
    let other = Place::embedded();
    let https = server.https.as_str();
    let taken = other.muster(&["serve", "--listen-mqtt", "127.0.0.1:0", "--listen-https", https]);
    assert!(taken.exits(3).refused("M115").err.contains(https));
    let mqtt = format!("127.0.0.1:{}", server.mqtt_port);
    let taken = other.muster(&["serve", "--listen-mqtt", &mqtt, "--listen-https", "127.0.0.1:0"]);
    assert!(taken.exits(3).refused("M115").err.contains(&mqtt));
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = plain.local_addr().unwrap().to_string();
    other
        .muster(&["serve", "--listen-mqtt", &address, "--listen-https", "127.0.0.1:0"])
        .exits(3)
        .refused("M115");
    other
        .muster(&["serve", "--listen-mqtt", "192.0.2.1:1", "--listen-https", "127.0.0.1:0"])
        .exits(2)
        .refused("M505");
    other.muster(&["serve", "--listen-mqtt", "nowhere"]).exits(2).refused("M505");
    server.muster(&["status"]).exits(0);
    the_https_certificate_is_never_one_of_the_broker_authority(&other);
    keys_that_do_not_open_or_a_broken_registry_keep_it_from_starting(&other);
}

fn keys_that_do_not_open_or_a_broken_registry_keep_it_from_starting(place: &Place) {
    let serve = || place.muster(&["serve", "--listen-mqtt", "127.0.0.1:0", "--listen-https", "127.0.0.1:0"]);
    let passphrase = place.dir.path().join("passphrase");
    let right = read(&passphrase);
    std::fs::write(&passphrase, "wrong\n").unwrap();
    serve().exits(8).refused("M311");
    std::fs::remove_file(&passphrase).unwrap();
    serve().exits(2).refused("M509");
    std::fs::write(&passphrase, right).unwrap();
    std::fs::write(place.data().join("registry.sqlite"), "this is no database at all, not even nearly")
        .unwrap();
    serve().exits(1).refused("M506");
    place.muster(&["audit", "verify", "--offline"]).exits(2).refused("M511");
}

fn the_https_certificate_is_never_one_of_the_broker_authority(place: &Place) {
    let names = ["localhost".parse().unwrap()];
    let broker = muster_pki::testing::server(&place.hierarchy.broker, &names, rig::now_s());
    let pem = |kind: &str, der: &[u8]| {
        use base64::Engine as _;
        let coded = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {kind}-----\n{coded}\n-----END {kind}-----\n")
    };
    let write = |name: &str, credential: &muster_pki::testing::Credential| {
        place.file(&format!("{name}.pem"), pem("CERTIFICATE", &credential.chain[0]));
        place.file(&format!("{name}.key"), pem("PRIVATE KEY", &credential.key_pkcs8()));
    };
    write("broker", &broker);
    let serve = |name: &str| {
        let path = |end: &str| place.dir.path().join(format!("{name}.{end}"));
        let mut serve =
            place.command(&["serve", "--listen-mqtt", "127.0.0.1:0", "--listen-https", "127.0.0.1:0"]);
        run(serve.env("MUSTER_HTTPS_CERTIFICATE", path("pem")).env("MUSTER_HTTPS_KEY", path("key")))
    };
    assert!(serve("broker").exits(2).refused("M505").err.contains("broker authority"));
    serve("nothing").exits(2).refused("M505");
}
