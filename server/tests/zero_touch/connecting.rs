//! Who comes unregistered.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use muster_pki::testing::{self, Credential};
use muster_shared::Code;

use crate::{
    ACME,
    client::Client,
    device, log, odd, recorded, refused,
    rig::{LIMIT, Place, Server, now_s},
    rows, serials, serving, shown, works,
};

#[test]
fn nobody_is_registered_by_connecting_unless_the_tenant_says_so() {
    let server = Server::start();
    assert_eq!(refused(&server, &device(&server, "MU-000001")), (0x87, Code::DeviceNotRegistered));
    recorded(&server, "MU-000001", Code::DeviceNotRegistered);
    assert_eq!(serials(&server), Vec::<String>::new());
}

#[test]
fn the_first_connection_registers_and_goes_on_and_the_next_is_any_other() {
    let server = serving(Place::new(), &format!("{ACME}batch = \"walk-in\"\nproduct = \"TH-2\"\n"));
    let first = device(&server, "MU-000001");
    works(&server, &first);
    let device = shown(&server, "MU-000001");
    assert_eq!((&device["state"], &device["batch"]), (&"active".into(), &"walk-in".into()), "{device}");
    assert_eq!((&device["product"], &device["station"]), (&"TH-2".into(), &"S-07".into()), "{device}");
    let page = server.muster(&["device", "show", "MU-000001", "--history"]).exits(0).out;
    assert!(page.contains("registered in batch walk-in"), "{page}");

    let row = rows(&server).remove(0);
    assert_eq!((&row["actor"], &row["tenant"]), (&"server".into(), &"acme".into()), "{row}");
    assert_eq!((&row["address"], &row["target"]), (&"127.0.0.1".into(), &"walk-in".into()), "{row}");
    assert_eq!(row["detail"]["devices"][0]["serial"], "MU-000001", "{row}");
    assert_eq!(row["detail"]["devices"][0]["certificate"], first.identity().id.to_string(), "{row}");

    works(&server, &first);
    assert_eq!((serials(&server).len(), rows(&server).len()), (1, 1));
    // Another tenant, which says nothing, is as it was.
    let other = testing::device(&server.place().hierarchy, &testing::subject_of("other", "OT-0001"), now_s());
    assert_eq!(refused(&server, &other), (0x87, Code::DeviceNotRegistered));
    server.muster(&["audit", "verify"]).exits(0);
}

#[test]
fn what_an_import_would_refuse_a_first_connection_does_not_bring_in() {
    let server = serving(Place::new(), ACME);
    let [live, gone] = ["MU-000001", "MU-000002"].map(|serial| device(&server, serial));
    works(&server, &live);
    works(&server, &gone);
    let lost = ["--reason", "lost on the way", "--reason-code", "keyCompromise", "--confirm", "MU-000002"];
    server.muster(&[&["device", "revoke", "MU-000002"][..], &lost].concat()).exits(0);
    for (what, who, reason, code) in [
        ("out of range", odd(&server, "MU-010001", None), 0x87, Code::DeviceNotRegistered),
        ("the revoked one", gone.clone(), 0x8a, Code::CertificateRevoked),
        (
            "its key under another name",
            odd(&server, "MU-000003", Some(&gone)),
            0x8a,
            Code::CertificateRevoked,
        ),
        ("a live one's key", odd(&server, "MU-000004", Some(&live)), 0x87, Code::SerialTaken),
        ("a live one's serial", odd(&server, "MU-000001", None), 0x87, Code::SerialTaken),
    ] {
        assert_eq!(refused(&server, &who), (reason, code), "{what}");
    }
    let foreign = &server.place().hierarchy.stations[0].factory;
    let foreign =
        testing::device_with(foreign, &testing::subject_of("other", "OT-0002"), testing::key(), now_s());
    assert_eq!(refused(&server, &foreign), (0x87, Code::TenantForeign));
    assert_eq!(serials(&server), ["MU-000001", "MU-000002"]);
    // The device is told what it can use, the operator what it was.
    recorded(&server, "MU-010001", Code::ManifestRange);
    let log = log(server);
    assert!(log.contains("S-07 may give MU-000001"), "{log}");
}

#[test]
fn a_station_that_has_made_all_it_may_make_brings_nobody_in() {
    let server = serving(Place::new(), ACME);
    // The plan allows S-08 a hundred.
    let made: Vec<_> = (10_000..10_100).map(|n| format!("MU-{n:06}")).collect();
    server.with_devices("B-0001", &made.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(refused(&server, &device(&server, "MU-010100")), (0x87, Code::DeviceNotRegistered));
    recorded(&server, "MU-010100", Code::ManifestQuota);
    works(&server, &device(&server, "MU-000001"));
    let log = log(server);
    assert!(log.contains("its station has made all it may make"), "{log}");
}

#[test]
fn only_stations_that_are_listed_and_not_held_bring_devices_in() {
    let server = serving(Place::new(), &format!("{ACME}stations = [\"S-08\"]\n"));
    let [unlisted, listed] = ["MU-000001", "MU-010000"].map(|serial| device(&server, serial));
    assert_eq!(refused(&server, &unlisted), (0x87, Code::DeviceNotRegistered));
    server.muster(&["ca", "suspend-station", "S-08", "--reason", "a count is off"]).exits(0);
    assert_eq!(refused(&server, &listed), (0x87, Code::DeviceSuspended));
    assert_eq!(serials(&server), Vec::<String>::new(), "nobody is registered meanwhile");
    server.muster(&["ca", "resume-station", "S-08", "--reason", "it was right"]).exits(0);
    works(&server, &listed);
    assert_eq!(serials(&server), ["MU-010000"]);
}

#[test]
fn devices_that_come_together_are_registered_each_once() {
    let server = serving(Place::new(), ACME);
    let names: Vec<_> = (1..=32).map(|n| format!("MU-{n:06}")).collect();
    let devices = server.place().devices(&names.iter().map(String::as_str).collect::<Vec<_>>());
    thread::scope(|scope| {
        for device in &devices {
            scope.spawn(|| works(&server, device));
        }
    });
    assert_eq!(serials(&server), names);
    let rows = rows(&server);
    let registered: u64 = rows.iter().map(|row| row["detail"]["registered"].as_u64().unwrap()).sum();
    let mut said: Vec<_> = rows.iter().flat_map(|row| row["detail"]["devices"].as_array().unwrap()).collect();
    said.sort_by_key(|device| device["serial"].as_str());
    assert_eq!(registered, 32);
    assert_eq!(said.iter().map(|device| device["serial"].as_str().unwrap()).collect::<Vec<_>>(), names);
    assert!(said.iter().all(|device| device["address"] == "127.0.0.1"), "{said:?}");
    server.muster(&["audit", "verify"]).exits(0);
}

/// Devices come one after another until the server is killed; which were let in.
fn struck(server: &Server, devices: &[Credential], after: usize) -> Vec<String> {
    let let_in = AtomicUsize::new(0);
    thread::scope(|scope| {
        let lines: Vec<_> = devices
            .chunks(devices.len() / 4)
            .map(|line| {
                let let_in = &let_in;
                scope.spawn(move || {
                    let mut in_before = Vec::new();
                    for device in line {
                        // After the kill there is nobody to connect to.
                        let Ok((_client, reason)) = Client::connecting(server, device) else { break };
                        assert_eq!(reason, 0);
                        in_before.push(device.identity().serial.to_string());
                        let_in.fetch_add(1, Ordering::AcqRel);
                    }
                    in_before
                })
            })
            .collect();
        let until = Instant::now() + LIMIT;
        while let_in.load(Ordering::Acquire) < after {
            assert!(Instant::now() < until, "the devices do not come in");
            thread::sleep(Duration::from_millis(1));
        }
        server.signal("KILL");
        lines.into_iter().flat_map(|line| line.join().unwrap()).collect()
    })
}

#[test]
fn after_a_kill_a_device_is_there_whole_or_not_at_all() {
    for after in [3, 17] {
        let server = serving(Place::new(), ACME);
        let names: Vec<_> = (1..=60).map(|n| format!("MU-{n:06}")).collect();
        let devices = server.place().devices(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let let_in = struck(&server, &devices, after);
        let (_, _, place) = server.wait();
        let server = Server::start_on(place);
        let known = serials(&server);
        for serial in &let_in {
            assert!(known.contains(serial), "{serial} was let in");
            assert_eq!(shown(&server, serial)["state"], "active");
        }
        for serial in &known {
            assert!(matches!(shown(&server, serial)["state"].as_str(), Some("registered" | "active")));
        }
        for device in &devices {
            works(&server, device);
        }
        assert_eq!(serials(&server), names);
        server.muster(&["audit", "verify"]).exits(0);
    }
}
