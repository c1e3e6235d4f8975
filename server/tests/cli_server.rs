//! Operator commands against a server: what an operator types, right and wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::{net::TcpListener, os::unix::fs::PermissionsExt as _};

use muster_pki::testing;
use rig::{Server, muster, read, run, run_with};
use serde_json::json;

/// Starting a server costs seconds of key derivation: what does not get in one another's way shares one.
#[test]
fn what_stations_hand_over() {
    let server = Server::start();
    a_manifest_that_is_not_right_imports_nothing(&server);
    a_batch_is_imported_listed_and_imported_again_without_effect(&server);
}

#[test]
fn what_operators_decide() {
    let server = Server::start();
    decisions_follow_the_table_and_say_why_not(&server);
    many_at_once_go_on_after_a_failure_and_say_which(&server);
}

#[test]
fn what_is_decided_about_many() {
    let server = Server::start();
    a_batch_is_held_let_go_and_revoked(&server);
    certificates_and_authorities_are_withdrawn(&server);
}

#[test]
fn who_may_and_who_answers() {
    let server = Server::start();
    a_role_covers_what_it_says_and_a_token_ends(&server);
    what_cannot_be_reached_or_trusted_is_told_apart(&server);
}

fn a_batch_is_imported_listed_and_imported_again_without_effect(server: &Server) {
    let devices = server.place().devices(&["MU-000001", "MU-000002", "MU-000003"]);
    let manifest = server.place().manifest("B-0001", &devices);
    let manifest = manifest.to_str().unwrap();
    let import = server.muster(&["batch", "import", manifest, "--json"]).exits(0).json();
    assert_eq!(import["schema"], "muster.import/1");
    assert_eq!(
        (&import["registered"], &import["already"], &import["refused"]),
        (&json!(3), &json!(0), &json!([]))
    );
    let again = server.muster(&["batch", "import", manifest, "--json"]).exits(0).json();
    assert_eq!((&again["registered"], &again["already"]), (&json!(0), &json!(3)));

    let list = server.muster(&["device", "list", "--json"]).exits(0).json();
    assert_eq!(
        (&list["schema"], &list["next"], &list["total"]),
        (&json!("muster.device.list/1"), &json!(null), &json!(3))
    );
    let first = &list["items"][0];
    assert_eq!((&first["serial"], &first["state"]), (&json!("MU-000001"), &json!("registered")));
    assert_eq!(first["presence"]["word"], "never_seen");
    assert_eq!(first["certificate_ends_at"], "9999-12-31T23:59:59.000Z");
    for field in ["firmware", "first_connected_at", "last_refusal"] {
        assert!(first.get(field).is_some_and(serde_json::Value::is_null), "{field} in {first}");
    }
    let table = server.muster(&["device", "list"]).exits(0);
    assert!(table.out.starts_with("SERIAL     STATE"), "{}", table.out);
    assert!(table.out.contains("◇ registered") && table.out.contains("never seen"), "{}", table.out);
    assert!(table.err.starts_with("3 devices"), "{}", table.err);
    let ascii = server.muster(&["device", "list", "--ascii"]).exits(0);
    assert!(ascii.out.contains("+ registered") && ascii.out.is_ascii(), "{}", ascii.out);
    let serials = server.muster(&["device", "list", "-o", "serial"]).exits(0);
    assert_eq!(serials.out, "MU-000001\nMU-000002\nMU-000003\n");
    let csv = server.muster(&["device", "list", "-o", "csv"]).exits(0);
    assert_eq!(csv.out.lines().count(), 4);
    assert!(csv.out.lines().all(|line| line.matches(',').count() == 14), "{}", csv.out);
    let jsonl = server.muster(&["device", "list", "-o", "jsonl"]).exits(0);
    assert!(jsonl.out.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    let page = server.muster(&["device", "list", "--limit", "2", "--json"]).exits(0).json();
    let next = page["next"].as_str().unwrap();
    let rest = server.muster(&["device", "list", "--after", next, "-o", "serial"]).exits(0);
    assert_eq!(rest.out, "MU-000003\n");
    let none = server.muster(&["device", "list", "--filter", "state:revoked"]).exits(0);
    assert!(none.out.is_empty() && none.err.contains("no device matches state:revoked"), "{none:?}");

    let batches = server.muster(&["batch", "list", "--json"]).exits(0).json();
    let batch = &batches["items"][0];
    assert_eq!(
        (&batch["batch"], &batch["devices"], &batch["active"]),
        (&json!("B-0001"), &json!(3), &json!(0))
    );
    assert_eq!(batch["imported_by"], "admin");
    let stations = server.muster(&["ca", "list"]).exits(0);
    assert!(stations.out.contains("3 of 9 999"), "{}", stations.out);
}

fn a_manifest_that_is_not_right_imports_nothing(server: &Server) {
    let devices = server.place().devices(&["MU-000001", "MU-000002"]);
    let good = std::fs::read(server.place().manifest("B-0001", &devices)).unwrap();
    let import = |octets: &[u8]| {
        let file = server.place().file("x.muster", octets);
        server.muster(&["batch", "import", file.to_str().unwrap()])
    };
    import(b"").exits(3).refused("M401");
    import(&good[..good.len() / 2]).exits(3).refused("M401");
    for at in [good.len() / 3, good.len() / 2] {
        let mut altered = good.clone();
        altered[at] ^= 1;
        let ran = import(&altered);
        assert!(matches!(ran.status, 3 | 8), "{ran:?}");
        assert!(ran.err.contains("nothing was imported") || ran.err.contains("error[M"), "{ran:?}");
    }
    let stranger = testing::hierarchy(rig::now_s());
    let unknown = testing::device(&stranger, &testing::subject("MU-000001"), rig::now_s());
    let ran = import(&testing::manifest(&stranger, "B-0009", &[unknown], rig::now_s() as u64 * 1000));
    assert!(matches!(ran.status, 3 | 8) && ran.err.contains("error[M4"), "{ran:?}");
    let missing = server.muster(&["batch", "import", "/nonexistent.muster"]).exits(2).refused("M509");
    assert!(missing.err.contains("/nonexistent.muster"));
    let json = server.muster(&["batch", "import", "/nonexistent.muster", "--json"]).exits(2).error_json();
    assert_eq!((&json["schema"], &json["code"]), (&json!("muster.error/1"), &json!("M509")));
    assert_eq!(server.muster(&["device", "list", "--json"]).exits(0).json()["total"], 0);
}

fn a_batch_is_held_let_go_and_revoked(server: &Server) {
    server.with_devices("B-0001", &["MU-000001", "MU-000002", "MU-000003"]);
    let why = ["--reason", "recall of the first order"];
    let batch = |words: &[&str]| server.muster(&[&["batch"], words].concat());
    batch(&["suspend", "B-0001"]).exits(2).refused("M214");
    batch(&[&["suspend", "B-7777"], &why[..]].concat()).exits(4).refused("M407");
    let dry = batch(&["suspend", "B-0001", "--dry-run", "--json"]).exits(0).json();
    assert_eq!(
        (&dry["dry_run"], &dry["devices"], &dry["to"]),
        (&json!(true), &json!(3), &json!("suspended"))
    );
    let done = batch(&[&["suspend", "B-0001", "--json"], &why[..]].concat()).exits(0).json();
    assert_eq!((&done["schema"], &done["kind"]), (&json!("muster.group.decision/1"), &json!("batch")));
    assert_eq!((&done["enforced"], &done["sessions_closed"]), (&json!(true), &json!(0)));
    let listed = |filter: &str| {
        let listed = server.muster(&["device", "list", "--filter", filter, "-o", "serial"]).exits(0);
        listed.out.lines().count()
    };
    assert_eq!((listed("state:suspended"), listed("state:registered")), (3, 0));
    let table = server.muster(&["device", "list", "--filter", "state:suspended"]).exits(0);
    assert!(
        table.out.contains("suspended") && table.out.contains("refused as its group is [M201]"),
        "{table:?}"
    );
    let show = server.muster(&["device", "show", "MU-000001"]).exits(0);
    assert!(show.out.contains("MU-000001 · suspended by admin"), "{}", show.out);
    assert!(show.out.contains("recall of the first order\" · itself registered"), "{}", show.out);
    let show = server.muster(&["device", "show", "MU-000001", "--json"]).exits(0).json();
    assert_eq!((&show["state"], &show["own_state"]), (&json!("suspended"), &json!("registered")));
    let explain = server.muster(&["device", "explain", "MU-000001", "--json"]).exits(10).json();
    assert_eq!((&explain["state"], &explain["code"]), (&json!("suspended"), &json!("M201")), "{explain}");
    let overview = rig::http::Http::new(server).get("/v1/overview").is(200);
    assert_eq!(overview["states"], json!([{ "state": "suspended", "devices": 3 }]));
    let said = batch(&[&["resume", "B-0001"], &why[..]].concat()).exits(0);
    assert!(said.out.contains("suspended → active · 3 devices"), "{}", said.out);
    batch(&[&["resume", "B-0001"], &why[..]].concat()).exits(3).refused("M203");
    let revoke = [&["revoke", "B-0001"], &why[..]].concat();
    batch(&revoke).exits(2).refused("M214");
    let coded = [&revoke[..], &["--reason-code", "keyCompromise"]].concat();
    batch(&coded).exits(2).refused("M213");
    batch(&[&coded[..], &["--confirm", "B-0002"]].concat()).exits(2).refused("M213");
    batch(&[&coded[..], &["--confirm", "B-0001"]].concat()).exits(0);
    let show = server.muster(&["device", "show", "MU-000002", "--history"]).exits(0);
    assert!(show.out.contains("revoked with its batch by admin, keyCompromise"), "{}", show.out);
    assert!(show.out.contains("suspended with its batch by admin"), "{}", show.out);
    let wanted = ["--confirm", "MU-000003", "--reason-code", "cessationOfOperation"];
    let away = [&["device", "decommission", "MU-000003"], &why[..], &wanted[..]].concat();
    let away = server.muster(&away).exits(0);
    assert!(away.out.contains("revoked → decommissioned"), "{}", away.out);
}

fn certificates_and_authorities_are_withdrawn(server: &Server) {
    let why = ["--reason", "stolen from a van", "--reason-code", "keyCompromise"];
    let unknown = "ab".repeat(32);
    let cert = |words: &[&str]| server.muster(&[&["cert", "revoke"], words].concat());
    cert(&[&[&*unknown], &why[..]].concat()).exits(2).refused("M213");
    let done = cert(&[&[&*unknown, "--confirm", "abababab", "--json"], &why[..]].concat()).exits(0).json();
    assert_eq!((&done["kind"], &done["devices"]), (&json!("certificate"), &json!(0)));
    cert(&[&["/nonexistent.pem", "--confirm", "x"], &why[..]].concat()).exits(2).refused("M509");
    let ca = |words: &[&str]| server.muster(&[&["ca"], words].concat());
    ca(&[&["withdraw", "nobody", "--confirm", "nobody"], &why[..]].concat()).exits(4).refused("M510");
    let done = ca(&[&["withdraw", "service", "--confirm", "service"], &why[..]].concat()).exits(0);
    assert!(done.out.contains("active → revoked"), "{}", done.out);
    let stations = ca(&["list", "--json"]).exits(0).json();
    let station = stations["items"][0]["station"].as_str().unwrap();
    let held = ca(&["suspend-station", station, "--reason", "under inspection"]).exits(0);
    assert!(held.out.contains("active → suspended"), "{}", held.out);
    ca(&["release-station", station, "--reason", "wrong verb"]).exits(3).refused("M203");
    let token = server.place().dir.path().join("operator.token");
    let file = token.to_str().unwrap();
    server.muster(&["token", "create", "ben", "--role", "operator", "--out", file]).exits(0);
    let may_not = ["ca", "resume-station", station, "--reason", "not his to do", "--token-file", file];
    server.muster(&may_not).exits(6).refused("M503");
}

fn decisions_follow_the_table_and_say_why_not(server: &Server) {
    server.with_devices("B-0001", &["MU-000001", "MU-000002", "MU-000003"]);
    let suspend =
        server.muster(&["device", "suspend", "MU-000001", "--reason", "case 881", "--json"]).exits(0).json();
    assert_eq!(suspend["schema"], "muster.decision/1");
    assert_eq!((&suspend["from"], &suspend["to"]), (&json!("registered"), &json!("suspended")));
    assert_eq!((&suspend["enforced"], &suspend["sessions_closed"]), (&json!(true), &json!(0)));
    for field in ["decided_at", "enforced_at", "commit_to_closed_ms", "audit_no", "generation", "mqtt_reason"]
    {
        assert!(suspend.get(field).is_some(), "{field} in {suspend}");
    }
    let twice =
        server.muster(&["device", "suspend", "MU-000001", "--reason", "again"]).exits(3).refused("M203");
    assert!(twice.err.contains("suspended → suspended is not allowed"), "{}", twice.err);
    let show = server.muster(&["device", "show", "MU-000001"]).exits(0);
    assert!(
        show.out.contains("suspended by admin \"case 881\"") && show.out.contains("\"case 881\""),
        "{}",
        show.out
    );
    assert!(show.out.contains("can do      resume · quarantine · revoke"), "{}", show.out);
    server.muster(&["device", "resume", "MU-000001", "--reason", "repaired"]).exits(0);
    server.muster(&["device", "release", "MU-000001", "--reason", "x"]).exits(3).refused("M203");
    server.muster(&["device", "suspend", "MU-000001"]).exits(2).refused("M214");
    server.muster(&["device", "suspend", "MU-000001", "--reason", "  "]).exits(2).refused("M214");
    server.muster(&["device", "suspend", "MU-999999", "--reason", "x"]).exits(4).refused("M208");
    server.muster(&["device", "suspend", "no serial", "--reason", "x"]).exits(2).refused("M504");

    let revoke = |more: &[&str]| server.muster(&[&["device", "revoke", "MU-000002"][..], more].concat());
    revoke(&["--reason", "x"]).exits(2).refused("M214");
    let code = ["--reason", "stolen", "--reason-code", "keyCompromise"];
    revoke(&code).exits(2).refused("M213");
    revoke(&[&code[..], &["--confirm", "MU-000001"]].concat()).exits(2).refused("M213");
    let wrong = ["--reason", "x", "--reason-code", "stolen", "--confirm", "MU-000002"];
    assert!(revoke(&wrong).exits(2).refused("M504").err.contains("keyCompromise"));
    let done = revoke(&[&code[..], &["--confirm", "MU-000002"]].concat()).exits(0);
    assert!(
        done.out.contains("registered → revoked") && done.out.contains("no live session"),
        "{}",
        done.out
    );
    let back = server.muster(&["device", "resume", "MU-000002", "--reason", "x"]).exits(3).refused("M203");
    assert!(back.err.contains("a revoked device cannot be resumed"), "{}", back.err);
    let show = server.muster(&["device", "show", "MU-000002", "--json"]).exits(0).json();
    assert_eq!(show["certificates"][0]["revocation_reason"], "keyCompromise");
    assert!(show["certificates"][0]["pem"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert_eq!((&show["state"], &show["can_do"]), (&json!("revoked"), &json!(["decommission"])));

    server.muster(&["device", "disconnect", "MU-000003", "--reason", "x"]).exits(0);
    let command = server.muster(&["device", "command", "MU-000003", "reboot"]).exits(10);
    assert!(command.out.contains("not connected"), "{command:?}");
    server.muster(&["device", "command", "MU-000002", "reboot"]).exits(3).refused("M302");
    let audit = server.muster(&["audit", "list", "--json"]).exits(0).json();
    let actions: Vec<_> =
        audit["items"].as_array().unwrap().iter().map(|row| row["action"].as_str().unwrap()).collect();
    for action in [
        "batch.import",
        "device.suspend",
        "device.resume",
        "device.revoke",
        "device.disconnect",
        "device.command",
    ] {
        assert!(actions.contains(&action), "{action} in {actions:?}");
    }
    let verify = server.muster(&["audit", "verify"]).exits(0);
    assert!(verify.out.contains("hash chain intact"), "{}", verify.out);
}

fn many_at_once_go_on_after_a_failure_and_say_which(server: &Server) {
    server.with_devices("B-0002", &["MU-010001", "MU-010002"]);
    let given = ["MU-010001", "MU-019999", "MU-010002"];
    let ran = server.muster(&[&["device", "suspend", "--reason", "recall"][..], &given].concat()).exits(9);
    assert_eq!(ran.out.lines().count(), 2);
    assert!(
        ran.err.contains("error[M208]") && ran.err.contains("done 2 · skipped 0 · failed 1"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("again: muster device suspend MU-019999"), "{}", ran.err);
    let mut resume = server.place().command(&["device", "resume", "-", "--reason", "over"]);
    run_with(&mut resume, Some("MU-010001\nMU-010002 extra words\n\nMU-010001\n")).exits(0);
    let mut none = server.place().command(&["device", "resume", "-", "--reason", "over"]);
    run_with(&mut none, Some("\n")).exits(2).refused("M504");
    let revoke =
        ["device", "revoke", "MU-010001", "MU-010002", "--reason", "recall", "--reason-code", "superseded"];
    server.muster(&[&revoke[..], &["--confirm", "MU-010001"]].concat()).exits(2).refused("M213");
    server.muster(&[&revoke[..], &["--confirm", "2"]].concat()).exits(0);
    let left = server
        .muster(&[
            "device",
            "list",
            "--filter",
            "state:revoked batch:B-0002",
            "--sort",
            "serial",
            "-o",
            "serial",
        ])
        .exits(0);
    assert_eq!(left.out, "MU-010001\nMU-010002\n");
}

fn a_role_covers_what_it_says_and_a_token_ends(server: &Server) {
    server.with_devices("B-0001", &["MU-000001"]);
    let file = |name: &str| server.place().dir.path().join(name);
    let make = |name: &str, role: &str| {
        let out = file(name);
        let ran = server
            .muster(&["token", "create", name, "--role", role, "--out", out.to_str().unwrap()])
            .exits(0);
        assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!ran.out.contains(read(&out).trim()), "a token in a file is not printed too");
    };
    make("eve", "viewer");
    make("ana", "operator");
    let as_ = |name: &str, arguments: &[&str]| {
        let token = file(name);
        server.muster(&[arguments, &["--token-file", token.to_str().unwrap()]].concat())
    };
    as_("eve", &["device", "list"]).exits(0);
    let refused = as_("eve", &["device", "suspend", "MU-000001", "--reason", "x"]).exits(6).refused("M503");
    assert!(refused.err.contains("eve may not do that as viewer"), "{}", refused.err);
    as_("eve", &["batch", "import", "/proc/self/status"]).exits(6).refused("M503");
    as_("ana", &["device", "suspend", "MU-000001", "--reason", "x"]).exits(0);
    as_("ana", &["token", "list"]).exits(6).refused("M503");
    as_("ana", &["ca", "trust-station", "/proc/self/status"]).exits(6).refused("M503");
    let again = ["token", "create", "eve", "--role", "viewer", "--out", file("eve").to_str().unwrap()]
        .map(str::to_owned);
    let again: Vec<_> = again.iter().map(String::as_str).collect();
    server.muster(&again).exits(2).refused("M509");
    let absent = file("bob");
    server
        .muster(&["token", "create", "bob", "--role", "king", "--out", absent.to_str().unwrap()])
        .exits(2)
        .refused("M504");
    assert!(!absent.exists(), "nothing is left of a token that was not made");

    let tokens = server.muster(&["token", "list", "--json"]).exits(0).json();
    let items = tokens["items"].as_array().unwrap();
    assert_eq!(items.len(), 3);
    let id = items.iter().find(|of| of["operator"] == "ana").unwrap()["id"].as_str().unwrap();
    assert!(!tokens.to_string().contains("muster_"), "no listing holds a token");
    server.muster(&["token", "revoke", id]).exits(0);
    as_("ana", &["device", "list"]).exits(5).refused("M502");
    let json = as_("ana", &["device", "list", "--json"]).exits(5).error_json();
    assert_eq!((&json["code"], &json["exit"]), (&json!("M502"), &json!(5)));
    as_("nobody", &["device", "list"]).exits(5).refused("M501");
    std::fs::write(file("junk"), "muster_AAAA").unwrap();
    as_("junk", &["device", "list"]).exits(5).refused("M501");
    let mut stdin = server.place().command(&["status", "--token-file", "-"]);
    run_with(&mut stdin, Some(&read(server.place().data().join("token")))).exits(0);
}

fn what_cannot_be_reached_or_trusted_is_told_apart(server: &Server) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("https://{}", free.local_addr().unwrap());
    drop(free);
    let ran = server.muster(&["status", "--server", &nobody]).exits(7).refused("M101");
    assert!(ran.err.contains("TCP refused"), "{}", ran.err);
    server.muster(&["status", "--server", "https://nowhere.invalid:1"]).exits(7).refused("M102");
    server.muster(&["status", "--server", "http://127.0.0.1:1"]).exits(2).refused("M505");
    let stranger = testing::hierarchy(rig::now_s());
    let ca = server.place().file("stranger.pem", stranger.https.certificate().pem());
    let untrusted = server.muster(&["status", "--ca", ca.to_str().unwrap()]).exits(8).refused("M104");
    assert!(untrusted.err.contains("another authority"), "{}", untrusted.err);
    server.muster(&["status", "--ca", "/nonexistent"]).exits(8).refused("M104");
    server.muster(&["status", "--ca", "/proc/self/status"]).exits(8).refused("M104");
    // One that takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    server.muster(&["status", "--server", &url, "--timeout", "300ms"]).exits(7).refused("M101");
    let data = server.place().data();
    run(muster(["status", "--data-dir"]).arg(&data).env("HTTPS_PROXY", &url)).exits(0);
}
