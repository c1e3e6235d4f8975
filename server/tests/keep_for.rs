//! How long what was seen is kept: decided by those who may, on the record, in force without a start.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use rig::{Place, Server, http::Http};
use serde_json::{Value, json};

const SESSIONS: &str = "retention.sessions_days";

fn setting(http: &Http, key: &str) -> Value {
    let config = http.get("/v1/config").is(200);
    config["items"].as_array().unwrap().iter().find(|item| item["key"] == key).unwrap().clone()
}

fn token(server: &Server, name: &str, more: &[&str]) -> String {
    let made = server.muster(&[&["token", "create", name, "--json"], more].concat()).exits(0).json();
    made["token"].as_str().unwrap().to_owned()
}

#[test]
fn who_may_decides_it_and_it_is_on_the_record() {
    let server = Server::start();
    let http = Http::new(&server);
    assert_eq!(setting(&http, SESSIONS)["source"], "default");
    let said = server.muster(&["config", "set", SESSIONS, "30", "--reason", "as agreed"]).exits(0);
    assert!(said.out.starts_with("retention.sessions_days is 30 now, by admin at "), "{}", said.out);
    let now = setting(&http, SESSIONS);
    assert_eq!((&now["value"], &now["pinned"]), (&json!("30"), &json!(false)), "{now}");
    let rows = server.muster(&["audit", "list", "--action", "retention.set", "--json"]).exits(0).json();
    let row = &rows["items"][0];
    assert_eq!(
        (&row["target"], &row["reason"], &row["detail"]),
        (&json!(SESSIONS), &json!("as agreed"), &json!({ "value": 30, "before": null }))
    );
    // What is wrong with it is said, and changes nothing.
    server.muster(&["config", "set", SESSIONS, "36501"]).exits(2).refused("M504");
    server.muster(&["config", "set", SESSIONS, "-1"]).exits(2);
    let fixed = server.muster(&["config", "set", "limits.packet_max", "1"]).exits(2).refused("M504");
    assert!(fixed.err.contains("what can: retention.uplink_days"), "{}", fixed.err);
    let ask = |http: &Http| http.post("/v1/config/retention", &json!({ "key": SESSIONS, "value": 1 }));
    for role in ["viewer", "auditor", "importer", "operator"] {
        ask(&http.with(&token(&server, role, &["--role", role]))).refused(403, "M503");
    }
    // One tenant's security does not decide what all share.
    let one = token(&server, "one", &["--role", "security", "--tenant", "acme"]);
    ask(&http.with(&one)).refused(403, "M503");
    assert_eq!(setting(&http, SESSIONS)["value"], "30");
    let all = http.with(&token(&server, "all", &["--role", "security"]));
    ask(&all).is(200);
    assert_eq!(setting(&http, SESSIONS)["value"], "1");
    // It goes on after a start.
    let server = Server::start_on(server.killed());
    assert_eq!(setting(&Http::new(&server), SESSIONS)["value"], "1");
}

#[test]
fn what_the_configuration_says_counts_more_and_is_not_decided_here() {
    let place = Place::new();
    let mut command =
        place.command(&["serve", "--listen-mqtt", "127.0.0.1:0", "--listen-https", "127.0.0.1:0"]);
    command.env("MUSTER_RETENTION_SESSIONS_DAYS", "7");
    let server = Server::start_by(place, command);
    let refused = server.muster(&["config", "set", SESSIONS, "30"]).exits(3).refused("M526");
    assert!(refused.err.contains("environment MUSTER_RETENTION_SESSIONS_DAYS"), "{}", refused.err);
    let now = setting(&Http::new(&server), SESSIONS);
    assert_eq!((&now["value"], &now["pinned"]), (&json!("7"), &json!(true)), "{now}");
    server.muster(&["config", "set", "retention.refusals_days", "30"]).exits(0);
}

#[test]
fn the_page_has_a_form_for_those_who_may() {
    let server = Server::start();
    let http = Http::new(&server);
    let page = |http: &Http| String::from_utf8(http.get("/settings/keep").body).unwrap();
    assert!(page(&http).contains("action=\"/settings/keep/change\""));
    let viewer = http.with(&token(&server, "eve", &["--role", "viewer"]));
    assert!(!page(&viewer).contains("/settings/keep/change"));
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let send = |http: &Http, body: &str| http.ask("POST", "/settings/keep/change", form, body.as_bytes());
    let good = "key=retention.sessions_days&value=30&reason=as+agreed";
    assert_eq!(send(&viewer, good).status, 403);
    assert_eq!(setting(&http, SESSIONS)["value"], "365");
    for wrong in
        ["key=retention.sessions_days&value=x&reason=y", "key=retention.sessions_days&value=3&reason="]
    {
        assert_eq!(send(&http, wrong).status, 400, "{wrong}");
    }
    assert_eq!(send(&http, good).status, 303);
    assert_eq!(setting(&http, SESSIONS)["value"], "30");
    assert!(page(&http).contains("30 days"));
}
