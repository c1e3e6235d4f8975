//! Tenants never see each other: whoever belongs to one gets, on every route, what they would get if the
//! others did not exist.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::collections::{BTreeMap, BTreeSet};

use muster_pki::testing;
use rig::{
    Server,
    http::Http,
    now_s,
    tenants::{comparable, token},
};
use serde_json::{Value, json};

/// What another tenant has, by name.
const SERIAL: &str = "OT-0001";
const BATCH: &str = "B-OTHER";
const OPERATOR: &str = "other/bob";

/// Asks every route there is, with every name of the other tenant in its path; by what was asked. Not the
/// `whole` of it: with nothing, and with everything an act can want.
fn ask_all(
    http: &Http,
    routes: &[(String, String)],
    names: &[&str],
    whole: bool,
) -> BTreeMap<String, (u16, Value)> {
    let mut answers = BTreeMap::new();
    for (method, path) in routes {
        // An event stream does not end; the operators' link is new each time.
        if path.contains("stream") || path.contains("events") {
            continue;
        }
        // One of each: most paths say nothing of an act.
        let filled: BTreeSet<String> =
            names.iter().flat_map(|name| ACTS.map(|act| fill(path, name, act))).collect();
        for path in filled {
            let reason = json!({ "reason": "a reason of ten" });
            let revoke = json!({
                "reason": "a reason of ten", "reason_code": "superseded",
                "confirm": path.split('/').nth(3).unwrap_or_default(),
            });
            let bodies = [json!({}), revoke, reason, json!({ "dry_run": true })];
            for body in bodies.into_iter().take(if whole { 4 } else { 2 }) {
                let text = if method == "GET" { Vec::new() } else { body.to_string().into_bytes() };
                let ask = || http.ask(method, &path, "content-type: application/json\r\n", &text);
                // How fast one may ask is everybody's own affair.
                let mut answer = ask();
                while answer.status == 429 {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                    answer = ask();
                }
                answers.insert(format!("{method} {path} {body}"), comparable(&answer));
                if method == "GET" {
                    break;
                }
            }
        }
    }
    answers
}

/// Without the column at which a body could not be read: it counts the octets of the name in it.
fn placeless(said: &str) -> String {
    let mut parts = said.split(" column ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// What is tried wherever a path says what is done.
const ACTS: [&str; 3] = ["suspend", "revoke", "withdraw"];

/// The path with this name in each of its parameters but the act.
fn fill(path: &str, name: &str, act: &str) -> String {
    let parts = path.split('/').map(|part| match part {
        "{act}" | "{verb}" => act.to_owned(),
        _ if part.starts_with('{') => name.replace('/', "%2F"),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("/")
}

#[test]
fn a_tenant_s_operator_gets_what_they_would_get_if_nobody_else_were_here() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001", "MU-000002"]);
    let admin = Http::new(&server);
    admin.post("/v1/devices/MU-000001/suspend", &json!({ "reason": "a reason of ten" })).is(200);
    admin.post("/v1/operators", &json!({ "name": "acme/bob", "role": "viewer" })).is(200);
    let (security, _) = token(&admin, "acme/ana", "security", None);
    let (narrow, _) = token(&admin, "zoe", "admin", Some("acme"));
    let routes: Vec<(String, String)> = admin.get("/v1").is(200)["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|route| {
            (route["method"].as_str().unwrap().to_owned(), route["path"].as_str().unwrap().to_owned())
        })
        .collect();
    assert!(routes.len() > 20, "{routes:?}");
    let nobody = "t-000000000000";
    let station = server.place().hierarchy.stations.iter().find(|of| of.record.tenant.as_str() == "other");
    let authority = hex::encode(station.unwrap().record.factory.key_id());
    let station = station.unwrap().record.station.to_string();
    let named: Vec<_> = routes.iter().filter(|(_, path)| path.contains('{')).cloned().collect();
    let names = [SERIAL, "other/OT-0001", BATCH, OPERATOR, nobody, &station];
    let before: Vec<_> = [&security, &narrow]
        .map(|token| ask_all(&admin.with(token), &routes, &names, true))
        .into_iter()
        .collect();

    // Another tenant moves in, and much happens there.
    let subject = testing::subject_of("other", SERIAL);
    let devices = vec![testing::device(&server.place().hierarchy, &subject, now_s())];
    let certificate = devices[0].identity().id.to_string();
    let manifest = server.place().manifest(BATCH, &devices);
    server.muster(&["batch", "import", manifest.to_str().unwrap()]).exits(0);
    admin.post("/v1/operators", &json!({ "name": OPERATOR, "role": "operator" })).is(200);
    let (theirs, id) = token(&admin, OPERATOR, "operator", None);
    let other = admin.with(&theirs);
    for act in ["suspend", "resume", "quarantine", "release"] {
        other.post(&format!("/v1/devices/{SERIAL}/{act}"), &json!({ "reason": "theirs alone" })).is(200);
    }

    for (token, before) in [&security, &narrow].iter().zip(&before) {
        let after = ask_all(&admin.with(token), &routes, &names, true);
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        for (asked, answer) in before {
            assert_eq!(&after[asked], answer, "{asked}");
        }
        // What is there is as unknown as what never was.
        let pairs = [
            (SERIAL, "OT-7777"),
            ("other/OT-0001", "other/OT-7777"),
            (BATCH, "B-NOBODY"),
            (OPERATOR, "other/nobody"),
            (&id, nobody),
            (&station, "S-77"),
            ("other", "nowhere"),
            (&certificate, &"ab".repeat(32)),
            (&authority, &"cd".repeat(20)),
        ];
        for (real, made_up) in pairs {
            let of = |name: &str| {
                let answers = ask_all(&admin.with(token), &named, &[name], false).into_iter();
                let said = answers.map(|(asked, (status, document))| format!("{asked} {status} {document}"));
                // The other tenant's name stands in this word by chance.
                let said = said.map(|said| placeless(&said.replace("another", "any")));
                said.map(|said| said.replace(name, "NAME").replace(&name.replace('/', "%2F"), "NAME"))
                    .collect::<BTreeSet<_>>()
            };
            assert_eq!(of(real), of(made_up), "{real}");
        }
        let foreign = admin.with(token);
        foreign.get(&format!("/v1/devices/{SERIAL}")).refused(404, "M208");
        foreign.get("/v1/devices/other%2FOT-0001").refused(404, "M208");
        let suspend = foreign.post("/v1/devices/OT-0001/suspend", &json!({ "reason": "a reason of ten" }));
        suspend.refused(404, "M208");
        foreign.post("/v1/operators/other%2Fbob/remove", &json!({})).refused(404, "M520");
        foreign.post(&format!("/v1/tokens/{id}/revoke"), &json!({})).refused(404, "M520");
        assert_eq!(foreign.get("/v1/devices").is(200)["total"], 2);
        let octets = std::fs::read(&manifest).unwrap();
        let import = foreign.ask("POST", "/v1/batches", "", &octets);
        let refused = import.refused(422, "M402");
        assert!(!refused.to_string().contains("other"), "{refused}");
    }
    // And the other way round.
    assert_eq!(other.get("/v1/devices").is(200)["total"], 1);
    other.get("/v1/devices/MU-000001").refused(404, "M208");
    let rows = other.get("/v1/audit?limit=1000").is(200);
    let rows = rows["items"].as_array().unwrap();
    assert!(rows.len() >= 6 && rows.iter().all(|row| row["tenant"] == "other"), "{rows:?}");
    // What no tenant has a part of is for those who see every tenant.
    for (method, path) in [
        ("GET", "/v1/audit/verify"),
        ("GET", "/v1/audit/export"),
        ("POST", "/v1/audit/checkpoint"),
        ("GET", "/v1/config"),
    ] {
        admin.with(&security).ask(method, path, "", b"").refused(403, "M503");
        let whole = admin.ask(method, path, "", b"");
        assert_eq!(whole.status, 200);
    }
}

#[test]
fn nobody_gives_away_more_than_they_have() {
    let server = Server::start();
    let admin = Http::new(&server);
    let (ana, _) = token(&admin, "acme/ana", "security", None);
    let ana = admin.with(&ana);
    // Within their tenant and role: yes. A name without a tenant is one of their own.
    let added = ana.post("/v1/operators", &json!({ "name": "ben", "role": "operator" })).is(200);
    assert_eq!((&added["name"], &added["tenant"]), (&json!("acme/ben"), &json!("acme")));
    let made = ana.post("/v1/tokens", &json!({ "operator": "ben", "role": "viewer", "days": 1 })).is(200);
    assert_eq!((&made["operator"], &made["tenant"]), (&json!("acme/ben"), &json!("acme")));
    // Beyond: no.
    for (name, role) in [("eve", "admin"), ("other/eve", "viewer"), ("admin2", "admin")] {
        ana.post("/v1/operators", &json!({ "name": name, "role": role })).refused(403, "M503");
    }
    let wider = json!({ "operator": "ben", "role": "security", "days": 1 });
    ana.post("/v1/tokens", &wider).refused(403, "M503");
    let elsewhere = json!({ "operator": "ben", "role": "viewer", "tenant": "other", "days": 1 });
    ana.post("/v1/tokens", &elsewhere).refused(403, "M503");
    // Nobody of every tenant is theirs to touch, or to see.
    ana.post("/v1/operators/admin/remove", &json!({})).refused(404, "M520");
    let listed = ana.get("/v1/operators").is(200);
    let names: Vec<_> = listed["items"].as_array().unwrap().iter().map(|of| of["name"].clone()).collect();
    assert_eq!(names, [json!("acme/ana"), json!("acme/ben")]);
    // An operator cannot be given away at all.
    let (carl, _) = token(&admin, "carl", "operator", None);
    let carl = admin.with(&carl);
    carl.post("/v1/operators", &json!({ "name": "dan", "role": "viewer" })).refused(403, "M503");
    // What somebody comes with shrinks with them, at once, and ends with them.
    let ben = admin.with(made["token"].as_str().unwrap());
    ben.get("/v1/devices").is(200);
    ana.post("/v1/operators/ben/role", &json!({ "role": "importer", "reason": "moved" })).is(200);
    ana.post("/v1/operators/ben/remove", &json!({ "reason": "left" })).is(200);
    ben.get("/v1/devices").refused(401, "M502");
    ana.post("/v1/operators/ben/remove", &json!({})).refused(404, "M520");
    // Whose role shrinks below their token's is held to the role.
    admin.post("/v1/operators/carl/role", &json!({ "role": "viewer" })).is(200);
    carl.get("/v1/devices").is(200);
    let suspend = carl.post("/v1/devices/MU-000001/suspend", &json!({ "reason": "a reason of ten" }));
    suspend.refused(403, "M503");
    // The last admin stays.
    admin.post("/v1/operators/admin/remove", &json!({})).refused(409, "M524");
    admin.post("/v1/operators/admin/role", &json!({ "role": "security" })).refused(409, "M524");
    admin.post("/v1/operators", &json!({ "name": "carl", "role": "admin" })).refused(409, "M524");
    admin.post("/v1/operators", &json!({ "name": "zoe", "role": "admin" })).is(200);
    admin.post("/v1/operators/admin/remove", &json!({ "reason": "handed over" })).is(200);
    admin.get("/v1/devices").refused(401, "M502");
}
