//! Devices from a list, and everything out again.

use base64::Engine as _;
use serde_json::{Value, json};

use super::SERIALS;
use crate::rig::{Server, run_with};

pub(super) fn base64(octets: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(octets)
}

#[test]
fn a_list_is_taken_row_by_row_once_and_never_raises_a_state() {
    let server = Server::start();
    let known = server.with_devices("B-0001", &SERIALS);
    let revoke = ["device", "revoke", SERIALS[3], "--reason-code", "keyCompromise"];
    server
        .muster(&[&revoke[..], &["--reason", "its key was seen", "--confirm", SERIALS[3]]].concat())
        .exits(0);
    let new = server.place().devices(&["MU-000011", "MU-000012"]);
    let other = server.place().devices(&[SERIALS[3]]);
    let certificate = |of: &muster_pki::testing::Credential| base64(&of.chain[0]);
    let mut list = "serial,certificate,note\n".to_owned();
    for row in [
        format!("MU-000011,{},new\n", certificate(&new[0])),
        format!("MU-000012,{},new\n", certificate(&new[1])),
        format!("MU-000012,{},twice\n", certificate(&new[1])),
        format!("{},{},known\n", SERIALS[0], certificate(&known[0])),
        format!("{},{},revoked\n", SERIALS[3], certificate(&other[0])),
        format!("MU-000013,{},\"another, serial\"\n", certificate(&new[0])),
        "MU-000014,,none\n".to_owned(),
        "MU-000015,AAAA,no certificate\n".to_owned(),
    ] {
        list.push_str(&row);
    }
    let file = server.place().file("list.csv", &list);
    let import = ["device", "import", file.to_str().unwrap(), "--batch", "B-0007", "--product", "TH-2"];
    let report = server.muster(&[&import[..], &["--json"]].concat()).exits(9).json();
    let fates: Vec<_> = report["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["line"].as_u64().unwrap(), row["result"].as_str().unwrap(), row["code"].as_str()))
        .collect();
    assert_eq!(
        fates,
        [
            (2, "registered", None),
            (3, "registered", None),
            (4, "already", None),
            (5, "already", None),
            (6, "refused", Some("M302")),
            (7, "refused", Some("M204")),
            (8, "refused", Some("M310")),
            (9, "refused", Some("M305")),
        ]
    );
    let shown = server.muster(&["device", "show", "MU-000012", "--json"]).exits(0).json();
    assert_eq!((&shown["state"], &shown["batch"]), (&json!("registered"), &json!("B-0007")));
    let before = server.muster(&["audit", "verify", "--json"]).exits(0).json()["rows"].clone();
    let again = server.muster(&[&import[..], &["--json"]].concat()).exits(9).json();
    assert_eq!((&again["registered"], &again["already"]), (&json!(0), &json!(4)));
    let after = server.muster(&["audit", "verify", "--json"]).exits(0).json()["rows"].clone();
    assert_eq!(after, before, "nothing changed, so nothing is on the record");
    let revoked = server.muster(&["device", "show", SERIALS[3], "--json"]).exits(0).json();
    assert_eq!(revoked["state"], "revoked");
    // The batch is listed like any other, and says that nothing signed speaks for it.
    let batches = server.muster(&["batch", "list", "--json"]).exits(0).json();
    let listed = batches["items"].as_array().unwrap().iter().find(|of| of["batch"] == "B-0007").unwrap();
    assert_eq!((&listed["devices"], &listed["manifest_digest"]), (&json!(2), &Value::Null), "{batches}");
    assert_eq!(batches["total"], batches["items"].as_array().unwrap().len());
    assert!(server.muster(&["batch", "list"]).exits(0).out.contains("no manifest"));
}

#[test]
fn a_certificate_that_no_registered_factory_signed_is_refused() {
    let (server, stranger) = (Server::start(), crate::rig::Place::new());
    let foreign = stranger.devices(&["MU-000021"]);
    let line = json!({ "certificate": base64(&foreign[0].chain[0]) }).to_string() + "\n";
    let mut command = server.place().command(&["device", "import", "-", "--batch", "B-0001", "--json"]);
    let report = run_with(&mut command, Some(&line)).exits(9).json();
    assert_eq!(report["items"][0]["code"], "M301");
    server.muster(&["device", "show", "MU-000021"]).exits(4);
}

#[test]
fn what_is_exported_can_be_read_line_by_line_and_its_certificates_taken_in_again() {
    let server = Server::start();
    server.with_devices("B-0001", &SERIALS);
    let out = server.place().dir.path().join("all.ndjson");
    server.muster(&["export", "--out", out.to_str().unwrap()]).exits(0);
    let text = std::fs::read_to_string(&out).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!((of("device"), of("certificate"), of("batch")), (SERIALS.len(), SERIALS.len(), 1));
    assert!(of("station") >= 1 && of("audit") >= 2, "{text}");
    let token = std::fs::read_to_string(server.place().data().join("token")).unwrap();
    assert!(!text.contains(token.trim().trim_start_matches("muster_")), "no secret is in it");
    let again = server.muster(&["device", "import", out.to_str().unwrap(), "--batch", "B-0001", "--json"]);
    assert_eq!(again.exits(0).json()["already"], SERIALS.len());
    assert_eq!(server.muster(&["export"]).exits(0).out.lines().count(), lines.len());
}
