//! What was changed meanwhile is not written over: If-Match on what is edited.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use rig::{Server, http::Http};
use serde_json::{Value, json};

/// The same with the version that was seen.
fn seen(http: &Http, path: &str, version: &Value, body: &Value) -> rig::http::Answer {
    http.post_with(path, &format!("if-match: \"{version}\"\r\n"), body)
}

#[test]
fn an_edit_of_what_changed_meanwhile_is_refused() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001"]);
    let http = Http::new(&server);
    let path = "/v1/devices/MU-000001/labels";
    assert_eq!(http.get("/v1/devices/MU-000001").is(200)["labels"]["version"], 0);
    let first = seen(&http, path, &json!(0), &json!({ "add_tags": ["roof"] }));
    let etag = first.header("etag").unwrap().to_owned();
    let first = first.is(200);
    assert_eq!(etag, format!("\"{}\"", first["version"]));
    assert_eq!(http.get("/v1/devices/MU-000001").is(200)["labels"]["version"], first["version"]);
    let second = seen(&http, path, &first["version"], &json!({ "note": "hall 4" })).is(200);
    assert_ne!(first["version"], second["version"]);
    let late = seen(&http, path, &first["version"], &json!({ "note": "hall 5" })).refused(412, "M532");
    assert!(late["why"].as_str().unwrap().contains(&second["version"].to_string()), "{late}");
    assert_eq!(http.get("/v1/devices/MU-000001").is(200)["labels"]["note"], "hall 4");
    http.post(path, &json!({ "note": "hall 6" })).is(200);

    let zoe = http.post("/v1/operators", &json!({ "name": "zoe", "role": "viewer" })).is(200);
    let role = |version: &Value, role: &str| {
        seen(&http, "/v1/operators/zoe/role", version, &json!({ "role": role, "reason": "moved" }))
    };
    let changed = role(&zoe["version"], "operator").is(200);
    role(&zoe["version"], "auditor").refused(412, "M532");
    seen(&http, "/v1/operators/zoe/remove", &zoe["version"], &json!({})).refused(412, "M532");
    let listed = http.get("/v1/operators").is(200);
    let row = listed["items"].as_array().unwrap().iter().find(|row| row["name"] == "zoe").unwrap();
    assert_eq!((&row["role"], &row["version"]), (&json!("operator"), &changed["version"]));
    seen(&http, "/v1/operators/zoe/remove", &changed["version"], &json!({})).is(200);

    let reason = json!({ "reason": "a reason of ten" });
    let hold =
        |version: &Value, act: &str| seen(&http, &format!("/v1/batches/B-0001/{act}"), version, &reason);
    let planned = http.post("/v1/batches/B-0001/suspend", &json!({ "dry_run": true })).is(200);
    assert_eq!(planned["version"], 0);
    let suspended = hold(&planned["version"], "suspend").is(200);
    // Somebody lets it go and takes it back: it is what it was, and yet it has changed.
    let resumed = http.post("/v1/batches/B-0001/resume", &reason).is(200);
    let again = http.post("/v1/batches/B-0001/suspend", &reason).is(200);
    for stale in [&planned["version"], &suspended["version"], &resumed["version"]] {
        hold(stale, "resume").refused(412, "M532");
    }
    hold(&again["version"], "resume").is(200);
}

#[test]
fn everything_is_in_an_export_and_one_s_own_is_read_back() {
    let server = Server::start();
    let credentials = server.with_devices("B-0001", &["MU-000001", "MU-000002", "MU-000003"]);
    let http = Http::new(&server);
    http.post(
        "/v1/devices/MU-000001/labels",
        &json!({ "add_tags": ["roof"], "add_groups": ["north"], "note": "hall 4" }),
    )
    .is(200);
    let swap = json!({ "successor": "MU-000002", "reason": "a swapped board", "confirm": "MU-000001" });
    http.post("/v1/devices/MU-000001/replace", &swap).is(200);
    http.post("/v1/batches/B-0001/suspend", &json!({ "reason": "a reason of ten" })).is(200);
    http.post("/v1/batches/B-0001/resume", &json!({ "reason": "a reason of ten" })).is(200);
    http.post("/v1/operators", &json!({ "name": "acme/ana", "role": "viewer" })).is(200);
    let made =
        http.post("/v1/tokens", &json!({ "operator": "acme/ana", "role": "viewer", "days": 1 })).is(200);
    let secret = made["token"].as_str().unwrap().to_owned();
    let quarantine = json!({ "act": "quarantine", "filter": "MU-000003", "reason": "seen twice" });
    let plan = http.post("/v1/jobs/plan", &quarantine).is(200);
    let mut confirmed = quarantine.clone();
    confirmed["confirm"] = plan["confirm"].clone();
    http.post("/v1/jobs", &confirmed).is(202);
    // A device says how it is.
    let device = rig::device::Device::connect(&server, &credentials[1]);
    device.publish("acme/MU-000002/twin/reported", true, b"{\"fan\":\"on\"}", None);
    rig::eventually(
        "the reported state",
        || http.get("/v1/devices/MU-000002/twin").is(200),
        |twin| twin["reported"]["fan"] == "on",
    );

    let lines = |http: &Http| -> Vec<Value> {
        let text = String::from_utf8(http.get("/v1/export").unchunked()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = lines(&http);
    let of = |kind: &str| all.iter().filter(|line| line["kind"] == kind).collect::<Vec<_>>();
    let counts =
        ["manifest", "label", "note", "replacement", "hold", "job", "reported"].map(|kind| of(kind).len());
    assert_eq!(counts, [1, 4, 2, 1, 1, 1, 1], "{all:#?}");
    assert_eq!((&of("label")[0]["list"], &of("label")[0]["word"]), (&json!("group"), &json!("north")));
    assert_eq!(of("replacement")[0]["successor"], "MU-000002");
    assert_eq!(of("reported")[0]["reported"], json!({ "fan": "on" }));
    assert!(of("tombstone").iter().any(|line| line["of"] == "serial" && line["value"] == "acme/MU-000001"));
    assert!(of("operator").iter().any(|line| line["operator"] == "acme/ana" && line["role"] == "viewer"));
    assert!(of("token").iter().any(|line| line["token"] == made["id"]));
    let text = String::from_utf8(http.get("/v1/export").unchunked()).unwrap();
    assert!(!text.contains(&secret) && !text.contains(&http.token), "what lets in is not in it");
    // A row of the audit log has all that its digest covers.
    let rows = of("audit");
    for row in &rows {
        assert_eq!(row["digest"], digest(row), "{row}");
    }
    assert!(rows.windows(2).all(|two| two[0]["digest"] == two[1]["previous"]));

    // A tenant's own has its rows, and nobody else's.
    let own = lines(&http.with(&secret));
    let rows: Vec<_> = own.iter().filter(|line| line["kind"] == "audit").collect();
    assert!(rows.len() > 5 && rows.iter().all(|row| row["tenant"] == "acme" && row["digest"] == digest(row)));
    assert!(own.iter().all(|line| line["kind"] != "operator" || line["operator"] == "acme/ana"));
    assert!(own.iter().any(|line| line["kind"] == "reported"));

    // One's own export is a list, of which every device is there already.
    let into = "/v1/import?batch=B-0001";
    let kind = "content-type: application/x-ndjson\r\n";
    let report = http.ask("POST", into, kind, text.as_bytes()).is(200);
    assert_eq!((&report["already"], &report["registered"]), (&json!(3), &json!(0)), "{report}");
    // A line that cannot be read is a row that was not taken; the others are.
    let spoilt = format!("nonsense\n{text}[1]\n");
    let report = http.ask("POST", into, kind, spoilt.as_bytes()).is(200);
    let refused: Vec<_> =
        report["items"].as_array().unwrap().iter().filter(|row| row["result"] == "refused").collect();
    assert_eq!(report["already"], 3);
    assert_eq!((&refused[0]["line"], refused.len()), (&json!(1), 2), "{refused:?}");
    assert!(refused[0]["why"].as_str().unwrap().starts_with("it is no JSON: "), "{refused:?}");

    // A batch says what its manifest does, and nothing that none does.
    let batch = http.get("/v1/batches").is(200)["items"][0].clone();
    assert_eq!((&batch["made"], batch["s_per_unit"].is_number()), (&json!(3), true), "{batch}");
    assert!(batch.get("yield").is_none() && batch.get("faults").is_none());
    let wide = server.muster(&["batch", "list", "-o", "wide"]).exits(0).out;
    assert!(wide.contains("MADE") && wide.contains("SEC/UNIT"), "{wide}");
    let page = String::from_utf8(http.get("/batches").body).unwrap();
    assert!(page.contains("data-word=\"made\">3<"), "{page}");
}

/// The digest a line of the audit log must have, computed from the line alone.
fn digest(row: &Value) -> String {
    use sha2::{Digest as _, Sha256};
    let mut hash = Sha256::new();
    hash.update(b"muster audit v2\0");
    hash.update(hex::decode(row["previous"].as_str().unwrap()).unwrap());
    hash.update(row["no"].as_u64().unwrap().to_be_bytes());
    hash.update(row["at_ms"].as_u64().unwrap().to_be_bytes());
    for key in [
        "node", "actor", "role", "token", "action", "target", "reason", "detail", "tenant", "request",
        "address",
    ] {
        let text = row[key].as_str().unwrap_or_else(|| panic!("no {key}: {row}"));
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    hex::encode(hash.finalize())
}
