//! A board is swapped over the API, on the command line and on the page; and a form about a device that changed
//! meanwhile does nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use rig::{Server, http::Http};
use serde_json::json;

const OURS: &str = "sec-fetch-site: same-origin\r\ncontent-type: application/x-www-form-urlencoded\r\n";

#[test]
fn a_board_is_swapped_over_the_api_and_on_the_command_line() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001", "MU-000002", "MU-000003", "MU-000004"]);
    let http = Http::new(&server);
    http.post("/v1/devices/MU-000001/labels", &json!({ "add_tags": ["roof"], "note": "hall 4" })).is(200);
    let path = "/v1/devices/MU-000001/replace";
    let planned = http.post(path, &json!({ "successor": "MU-000002", "dry_run": true })).is(200);
    assert_eq!((&planned["dry_run"], &planned["tags"]), (&json!(true), &json!(["roof"])));
    assert_eq!(
        (&planned["decision"]["to"], &planned["decision"]["audit_no"]),
        (&json!("revoked"), &json!(null))
    );
    assert_eq!(http.get("/v1/devices/MU-000001").is(200)["state"], "registered");

    let whole = json!({ "successor": "MU-000002", "reason": "a swapped board", "confirm": "MU-000001" });
    let without = |key: &str| {
        let mut some = whole.clone();
        some.as_object_mut().unwrap().remove(key);
        http.post(path, &some)
    };
    without("reason").refused(400, "M214");
    without("confirm").refused(428, "M213");
    without("successor").refused(400, "M504");
    http.post_with(path, "if-match: \"999\"\r\n", &whole).refused(412, "M532");
    http.post(path, &json!({ "successor": "MU-000001", "dry_run": true })).refused(409, "M230");
    http.post(path, &json!({ "successor": "../x", "dry_run": true })).refused(400, "M504");
    let seen = http.get("/v1/devices/MU-000001").header("etag").unwrap().to_owned();
    let done = http.post_with(path, &format!("if-match: {seen}\r\n"), &whole).is(200);
    assert_eq!((&done["decision"]["to"], &done["note"]), (&json!("revoked"), &json!("hall 4")));
    let (old, new) = (http.get("/v1/devices/MU-000001").is(200), http.get("/v1/devices/MU-000002").is(200));
    assert_eq!((&old["replaced_by"], &new["replaces"]), (&json!("MU-000002"), &json!("MU-000001")));
    assert_eq!((&old["why"]["action"], &new["labels"]["tags"]), (&json!("device.replace"), &json!(["roof"])));
    http.post("/v1/devices/MU-000003/replace", &json!({ "successor": "MU-000002", "dry_run": true }))
        .refused(409, "M230");

    let swap = |more: &[&str]| {
        server.muster(&[&["device", "replace", "MU-000003", "--by", "MU-000004"], more].concat())
    };
    swap(&[]).exits(2).refused("M214");
    swap(&["--reason", "a swapped board"]).exits(2).refused("M213");
    let dry = swap(&["--dry-run"]).exits(0);
    assert!(
        dry.out.contains("MU-000003 would be revoked") && dry.err.contains("--confirm MU-000003"),
        "{dry:?}"
    );
    let ran = swap(&["--reason", "a swapped board", "--confirm", "MU-000003"]).exits(0);
    assert!(
        ran.out.contains("registered → revoked") && ran.out.contains("MU-000004 takes its place"),
        "{ran:?}"
    );
    let shown = server.muster(&["device", "show", "MU-000003"]).exits(0);
    assert!(shown.out.contains("replaced by MU-000004"), "{shown:?}");
    swap(&["--dry-run"]).exits(3).refused("M203");
}

#[test]
fn a_form_about_a_device_that_changed_meanwhile_does_nothing() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001", "MU-000002", "MU-000003"]);
    let http = Http::new(&server);
    let form = |path: &str, body: &str| http.ask("POST", path, OURS, body.as_bytes());
    let html = |answer: &rig::http::Answer| String::from_utf8(answer.body.clone()).unwrap();
    let state = |serial: &str| http.get(&format!("/v1/devices/{serial}")).is(200)["state"].clone();
    let seen = |page: &str| {
        let page = html(&http.get(page));
        page.split("name=\"seen\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    };
    let forms = [
        ("/devices/MU-000001/suspend", "reason=returned+for+repair".to_owned()),
        (
            "/devices/MU-000001/revoke",
            "reason=returned+for+repair&reason_code=keyCompromise&typed=0001".to_owned(),
        ),
        (
            "/devices/MU-000001/replace",
            "reason=returned+for+repair&successor=MU-000002&typed=0001".to_owned(),
        ),
    ];
    let shown: Vec<_> = forms.iter().map(|(path, _)| seen(path)).collect();
    let several = seen("/acts?act=suspend&s=acme%2FMU-000001");
    // Somebody else is quicker, twice: it is what it was, and yet it has changed.
    for act in ["quarantine", "release"] {
        http.post(&format!("/v1/devices/MU-000001/{act}"), &json!({ "reason": "looked at it" })).is(200);
    }
    for ((path, body), seen) in forms.iter().zip(&shown) {
        let answer = form(path, &format!("{body}&seen={seen}"));
        assert_eq!(answer.status, 412, "{path}: {}", html(&answer));
        let page = html(&answer);
        assert!(page.contains("Nothing was done: MU-000001 changed meanwhile"), "{path}: {page}");
        assert!(page.contains("released by admin"), "{path}: {page}");
        assert_eq!(state("MU-000001"), "registered", "{path}");
    }
    let many = form("/acts", &format!("act=suspend&s=acme%2FMU-000001&seen={several}&reason=repair"));
    assert!(html(&many).contains("[M532]"), "{}", html(&many));
    assert_eq!(state("MU-000001"), "registered");
    // What cannot be undone is never done unseen.
    let (path, body) = &forms[1];
    assert_eq!(form(path, body).status, 412);

    // A page says first what it would come to, then does it once it was seen as it is.
    let path = "/devices/MU-000001/replace";
    let told = html(&form(path, "preview=1&successor=MU-000002"));
    assert!(told.contains("MU-000002 would take its place"), "{told}");
    assert_eq!(state("MU-000001"), "registered");
    let missing = form(path, &format!("reason=returned+for+repair&typed=0001&seen={}", seen(path)));
    assert!(html(&missing).contains("say which device takes its place"), "{}", html(&missing));
    let done = form(path, &format!("{}&seen={}", forms[2].1, seen(path)));
    assert_eq!(done.status, 303, "{}", html(&done));
    assert_eq!(state("MU-000001"), "revoked");
    let page = html(&http.get("/devices/MU-000001"));
    assert!(page.contains("href=\"/devices/MU-000002\"") && page.contains("replaced by"), "{page}");
}
