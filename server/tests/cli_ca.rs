//! Whom the server trusts: a station's record, and a new authority in the place of one of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use muster_pki::{
    StationRecord, VerifiedCaRequest,
    hierarchy::{Plan, StationKeys, StationPlan, add_stations},
    station::SerialRange,
    testing,
};
use rig::{Place, Server, http::Http, now_s, read};
use serde_json::{Value, json};

/// A record of this station with another quota, signed so many seconds later.
fn resigned(server: &Server, station: &StationKeys, quota: u64, later_s: u64) -> String {
    let record =
        StationRecord { quota, signed_at_s: station.record.signed_at_s + later_s, ..station.record.clone() };
    let octets = record.sign(&server.place().hierarchy.root).unwrap();
    server.place().file(&format!("q{quota}-{later_s}.record"), octets).display().to_string()
}

#[test]
fn a_station_s_record_is_taken_once_and_a_different_one_only_in_its_place() {
    let server = Server::start();
    let station = server.place().hierarchy.stations[1].clone();
    let same = server.place().file("same.record", &station.record_file).display().to_string();
    let again = server.muster(&["ca", "trust", &same, "--json"]).exits(0).json();
    assert_eq!(
        (&again["station"], &again["tenant"], &again["quota"], &again["already"], &again["audit_no"]),
        (&json!("S-08"), &json!("acme"), &json!(100), &json!(true), &Value::Null)
    );
    assert_eq!((&again["serial_first"], &again["serial_last"]), (&json!("MU-010000"), &json!("MU-019999")));
    assert_eq!(again["factory_ca"], hex::encode(station.factory.certificate().key_id()));

    let more = resigned(&server, &station, 200, 60);
    let refused = server.muster(&["ca", "trust", &more]).exits(3).refused("M409");
    assert!(refused.err.contains("it differs in quota, signed_at"), "{}", refused.err);
    let would = server.muster(&["ca", "trust", &more, "--replace", "--dry-run", "--json"]).exits(0).json();
    assert_eq!((&would["replaced"], &would["audit_no"]), (&json!(["quota", "signed_at"]), &Value::Null));
    let quota = || {
        let stations = server.muster(&["ca", "list", "--json"]).exits(0).json();
        let all = stations["items"].as_array().unwrap().clone();
        all.into_iter().find(|of| of["station"] == "S-08").unwrap()["quota"].clone()
    };
    assert_eq!(quota(), 100, "a dry run changes nothing");
    let reason = "order 77 needs more";
    let taken =
        server.muster(&["ca", "trust", &more, "--replace", "--reason", reason, "--json"]).exits(0).json();
    assert_eq!((&taken["already"], quota()), (&json!(false), json!(200)));
    let audit = server.muster(&["audit", "list", "--action", "station.trust", "--json"]).exits(0).json();
    let row = audit["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&row["no"], &row["reason"], &row["target"]),
        (&taken["audit_no"], &json!(reason), &json!("S-08"))
    );
    // An older one, and another of the same second, are not taken even so.
    server.muster(&["ca", "trust", &same, "--replace"]).exits(3).refused("M409");
    let twin = resigned(&server, &station, 300, 60);
    server.muster(&["ca", "trust", &twin, "--replace"]).exits(3).refused("M409");
    assert_eq!(quota(), 200);
    let stranger = testing::hierarchy(now_s());
    let foreign = server.place().file("foreign.record", &stranger.stations[0].record_file);
    let foreign = server.muster(&["ca", "trust-station", foreign.to_str().unwrap()]).exits(8).refused("M408");
    assert!(foreign.err.contains("not signed by this root"), "{}", foreign.err);
    // The bundle still has the record it was made with: the one signed later goes on to count.
    let server = Server::start_on(server.killed());
    let stations = server.muster(&["ca", "list", "--json"]).exits(0).json();
    assert!(stations["items"].as_array().unwrap().iter().any(|of| of["quota"] == 200), "{stations}");
}

/// A line that is opened a year later, below the same root: registered by its record, it hands over batches.
#[test]
fn a_station_of_a_later_ceremony_hands_over_batches() {
    let server = Server::start();
    let hierarchy = &server.place().hierarchy;
    let plan = |first: &str, last: &str| Plan {
        owner: hierarchy.root.certificate().owner().to_owned(),
        stations: vec![StationPlan {
            station: "S-21".parse().unwrap(),
            tenant: "acme".parse().unwrap(),
            quota: 10,
            serials: SerialRange::new(&first.parse().unwrap(), &last.parse().unwrap()).unwrap(),
        }],
    };
    let known: Vec<_> = hierarchy.stations.iter().map(|of| of.record.clone()).collect();
    let root = hierarchy.root_bundle();
    let make = |plan: &Plan| add_stations(&root, plan, &known, &hierarchy.anchors, now_s() + 60);
    let taken = plan(known[0].serials.first().as_str(), known[0].serials.last().as_str());
    assert!(make(&taken).is_err(), "its serials are another's");
    let station = make(&plan("MU-500000", "MU-500009")).unwrap().remove(0);
    let record = server.place().file("later.record", &station.record_file).display().to_string();
    let keys = StationKeys {
        factory: station.factory.clone(),
        manifest_key: station.manifest_key.clone(),
        manifest_certificate: station.manifest_certificate.clone(),
        record_file: station.record_file.clone(),
        record: station.record.clone(),
    };
    let devices =
        [testing::device_with(&keys.factory, &testing::subject("MU-500000"), testing::key(), now_s())];
    let manifest = testing::manifest_of(&keys, "B-2100", None, &devices, now_s() as u64 * 1000);
    let manifest = server.place().file("later.muster", manifest).display().to_string();
    server.muster(&["batch", "import", &manifest]).exits(8);
    server.muster(&["ca", "trust", &record, "--reason", "a second line"]).exits(0);
    server.muster(&["batch", "import", &manifest]).exits(0);
    let shown = server.muster(&["device", "show", "MU-500000"]).exits(0);
    assert!(shown.out.contains("station S-21") && shown.out.contains("factory CA of S-21"), "{}", shown.out);
}

/// Has the root sign what was asked for.
fn answer(place: &Place, request: &str) -> String {
    let request = VerifiedCaRequest::verify(request.as_bytes()).unwrap();
    let signed = place.hierarchy.root.certify(&request, now_s()).unwrap();
    place.file("answer.pem", signed.pem()).display().to_string()
}

#[test]
fn a_new_operator_authority_takes_over_and_the_old_one_stays_trusted() {
    let server = Server::start();
    let rotate = |more: &[&str]| server.muster(&[&["ca", "rotate", "operator"], more].concat());
    let issue = |server: &Server, out: &str| {
        let dir = server.place().dir.path().join(out);
        server.muster(&["cert", "issue", "--operator", "admin", "--out", dir.to_str().unwrap()]).exits(0);
        dir
    };
    let old = issue(&server, "old");
    rotate(&["--dry-run"]).exits(0);
    assert!(!server.place().data().join("pki/rotated").exists(), "a dry run makes nothing");
    let asked = rotate(&["--reason", "yearly"]).exits(0);
    assert!(asked.out.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"), "{asked:?}");
    assert!(asked.err.contains("muster-factory sign-authority"), "{asked:?}");
    assert_eq!(rotate(&[]).exits(0).out, asked.out, "asked again it is the same request");
    // What is no answer.
    let wrong = server.place().file("wrong.pem", server.place().hierarchy.operator.certificate().pem());
    rotate(&["--certificate", wrong.to_str().unwrap()]).exits(8).refused("M316");
    let text = server.place().file("text.pem", "nothing");
    rotate(&["--certificate", text.to_str().unwrap()]).exits(8).refused("M316");
    for (name, code) in [("broker", "M315"), ("https", "M315")] {
        server.muster(&["ca", "rotate", name]).exits(3).refused(code);
    }
    server.muster(&["ca", "rotate", "root"]).exits(4).refused("M314");
    let file = answer(server.place(), &asked.out);
    rotate(&["--certificate", &file, "--dry-run"]).exits(0);
    let installed = rotate(&["--certificate", &file, "--reason", "yearly", "--json"]).exits(0).json();
    assert_eq!((&installed["step"], &installed["subject"]), (&json!("install"), &json!("operator CA 2")));
    assert_eq!(rotate(&["--certificate", &file, "--json"]).exits(0).json()["already"], true);
    let audit = server.muster(&["audit", "list", "--action", "authority.", "--json"]).exits(0).json();
    let rows: Vec<_> = audit["items"].as_array().unwrap().iter().map(|row| row["action"].clone()).collect();
    assert_eq!(rows, ["authority.request", "authority.rotate"]);

    let server = Server::start_on(server.killed());
    let listed = Http::new(&server).get("/v1/authorities").is(200);
    let of = |name: &str| {
        listed["items"].as_array().unwrap().iter().find(|of| of["name"] == name).cloned().unwrap_or_default()
    };
    assert_eq!((&of("operator")["key_id"], &of("operator")["issues"]), (&installed["key_id"], &json!(true)));
    let former = installed["former_key_id"].as_str().unwrap();
    let name = format!("operator-{}", &former[..8]);
    assert_eq!((of(&name)["key_id"].as_str(), &of(&name)["issues"]), (Some(former), &json!(false)));
    server
        .muster(&[
            "ca",
            "crl",
            &name,
            "--out",
            server.place().file("x", "").with_extension("crl").to_str().unwrap(),
        ])
        .exits(0);
    // Both let an operator in.
    let new = issue(&server, "new");
    for dir in [&old, &new] {
        let http = Http::showing(&server, &dir.join("admin.pem"), &dir.join("admin.key.pem"));
        http.get("/v1/devices").is(200);
    }
    assert_ne!(read(old.join("admin.pem")), read(new.join("admin.pem")));
}
