//! Many clients at one device, over HTTPS: what comes of it is what some order of their acts would have come to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::{
    collections::BTreeMap,
    sync::{Arc, Barrier},
    thread,
};

use rig::{Server, http::Http};
use serde_json::{Value, json};

const CLIENTS: usize = 64;
/// Acts of each client.
const EACH: usize = 3;
const VERBS: [&str; 5] = ["suspend", "resume", "quarantine", "release", "revoke"];

/// The state after an act, by the table of transitions; `None` where it is not allowed. The device never connected.
fn step(state: &str, verb: &str) -> Option<&'static str> {
    match (state, verb) {
        ("registered", "suspend") => Some("suspended"),
        ("registered" | "suspended", "quarantine") => Some("quarantined"),
        ("quarantined", "suspend") => Some("suspended"),
        ("suspended", "resume") | ("quarantined", "release") => Some("registered"),
        ("registered" | "suspended" | "quarantined", "revoke") => Some("revoked"),
        _ => None,
    }
}

/// What a client asked for, and the number of its row in the audit log; `None`: it was refused.
type Asked = (&'static str, Option<u64>);

fn client(http: &Http, number: usize, barrier: &Barrier) -> Vec<Asked> {
    barrier.wait();
    let mut asked = Vec::new();
    for turn in 0..EACH {
        // The last verb is for ever, so one client alone asks for it, at its end.
        let last = number == 0 && turn + 1 == EACH;
        let verb = if last { VERBS[4] } else { VERBS[(number + turn) % 4] };
        let mut body = json!({ "reason": format!("client {number}, turn {turn}") });
        if last {
            body["reason_code"] = json!("keyCompromise");
            body["confirm"] = json!("MU-000001");
        }
        let answer = http.post(&format!("/v1/devices/MU-000001/{verb}"), &body);
        let no = match answer.status {
            200 => Some(answer.json()["audit_no"].as_u64().unwrap()),
            409 => {
                answer.refused(409, "M203");
                None
            }
            other => panic!("{other}: {answer:?}"),
        };
        asked.push((verb, no));
    }
    asked
}

#[test]
fn what_64_clients_do_to_one_device_is_what_one_after_the_other_would_have_done() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001", "MU-000002"]);
    let http = Http::new(&server);
    let barrier = Arc::new(Barrier::new(CLIENTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (http, barrier) = (http.with(&token(&http)), barrier.clone());
            thread::spawn(move || client(&http, number, &barrier))
        })
        .collect();
    let asked: Vec<Asked> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert_eq!(asked.len(), CLIENTS * EACH);
    let done: BTreeMap<u64, &str> = asked.iter().filter_map(|(verb, no)| Some(((*no)?, *verb))).collect();
    let yes = asked.iter().filter(|(_, no)| no.is_some()).count();
    assert_eq!(done.len(), yes, "each decision has a row of its own");
    // The log has them, and nothing else, in an order in which each was allowed.
    let rows = http.get("/v1/audit?target=acme%2FMU-000001&limit=1000").is(200);
    let rows: Vec<Value> = rows["items"].as_array().unwrap().clone();
    let acts: Vec<_> = rows.iter().filter(|row| VERBS.contains(&verb(row))).collect();
    assert_eq!(acts.len(), done.len());
    let mut state = "registered";
    for row in &acts {
        let no = row["no"].as_u64().unwrap();
        assert_eq!(done.get(&no), Some(&verb(row)), "{row}");
        assert_eq!((&row["detail"]["from"], row["reason"].is_string()), (&json!(state), true), "{row}");
        state = step(state, verb(row)).unwrap_or_else(|| panic!("{row} is not allowed from {state}"));
    }
    let device = http.get("/v1/devices/MU-000001").is(200);
    assert_eq!((&device["state"], &device["own_state"]), (&json!(state), &json!(state)));
    // The one that revokes was not overtaken for ever: revoked is where every order of these acts ends.
    assert_eq!(state, "revoked");
    assert_eq!(http.get("/v1/devices/MU-000002").is(200)["state"], "registered");
    assert_eq!(http.get("/v1/audit/verify").is(200)["intact"], true);
}

fn verb(row: &Value) -> &str {
    row["action"].as_str().and_then(|action| action.strip_prefix("device.")).unwrap_or_default()
}

/// A credential of its own for each client, so that none is slowed for the others.
fn token(http: &Http) -> String {
    let body = json!({ "operator": "admin", "name": "crowd", "role": "admin", "days": 1 });
    http.post("/v1/tokens", &body).is(200)["token"].as_str().unwrap().to_owned()
}
