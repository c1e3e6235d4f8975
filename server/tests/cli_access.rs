//! The operator's commands about operators, tokens and the audit log, as a person meets them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use rig::{Server, muster, read, run};
use serde_json::json;

#[test]
fn operators_come_change_and_go() {
    let server = Server::start();
    let first = server.muster(&["operator", "list"]).exits(0);
    assert!(first.out.starts_with("NAME") && first.out.contains("admin"), "{}", first.out);
    let added = server.muster(&["operator", "add", "acme/ana", "--role", "operator"]).exits(0);
    assert_eq!(added.out, "acme/ana added: operator of acme\n");
    assert!(added.err.contains("next: muster operator invite acme/ana"), "{}", added.err);
    server.muster(&["operator", "add", "acme/ana", "--role", "viewer"]).exits(3).refused("M524");
    server.muster(&["operator", "add", "a b", "--role", "viewer"]).exits(2).refused("M504");
    server.muster(&["operator", "add", "eve", "--role", "king"]).exits(2).refused("M504");
    server.muster(&["operator", "add", "eve"]).exits(2).refused("M504");
    server.muster(&["operator", "role", "acme/ana", "security", "--reason", "promoted"]).exits(0);
    server.muster(&["operator", "role", "nobody", "viewer"]).exits(4).refused("M520");
    let json = server.muster(&["operator", "list", "--json"]).exits(0).json();
    assert_eq!(json["schema"], "muster.operator.list/1");
    let ana = &json["items"][0];
    assert_eq!(
        (&ana["name"], &ana["role"], &ana["tenant"]),
        (&json!("acme/ana"), &json!("security"), &json!("acme"))
    );
    assert!(ana["last_seen_at"].is_null() && ana["removed_at"].is_null(), "{ana}");
    let wide = server.muster(&["operator", "list", "-o", "wide"]).exits(0);
    assert!(wide.out.contains("ADDED-BY") && wide.out.contains("every tenant"), "{}", wide.out);
    // A token of theirs sees their tenant alone, and goes with them.
    let file = server.place().dir.path().join("ana");
    let create = [
        "token",
        "create",
        "ci-line2",
        "--operator",
        "acme/ana",
        "--role",
        "viewer",
        "--out",
        file.to_str().unwrap(),
    ];
    let made = server.muster(&create).exits(0);
    assert!(made.out.contains("of acme/ana (viewer)"), "{}", made.out);
    let listed = server.muster(&["token", "list"]).exits(0);
    assert!(listed.out.contains("ci-line2") && listed.out.contains("viewer of acme"), "{}", listed.out);
    let too_much = ["token", "create", "x", "--operator", "acme/ana", "--role", "admin"];
    server.muster(&too_much).exits(6).refused("M503");
    let elsewhere =
        ["token", "create", "x", "--operator", "acme/ana", "--role", "viewer", "--tenant", "other"];
    server.muster(&elsewhere).exits(6).refused("M503");
    let as_ana =
        |arguments: &[&str]| server.muster(&[arguments, &["--token-file", file.to_str().unwrap()]].concat());
    let status = as_ana(&["status", "--json"]).exits(0).json();
    assert_eq!((&status["operator"], &status["tenant"]), (&json!("acme/ana"), &json!("acme")));
    as_ana(&["audit", "verify"]).exits(6).refused("M503");
    server.muster(&["operator", "remove", "acme/ana", "--reason", "left"]).exits(0);
    let ended = as_ana(&["device", "list"]).exits(5).refused("M502");
    assert!(ended.err.contains("token \"ci-line2\" ended"), "{}", ended.err);
    server.muster(&["operator", "remove", "acme/ana"]).exits(4).refused("M520");
    server.muster(&["operator", "remove", "admin"]).exits(3).refused("M524");
    let gone = server.muster(&["operator", "list"]).exits(0);
    assert!(gone.out.contains("removed (security)"), "{}", gone.out);
    // All of it is in the log, with who and why.
    let rows = server.muster(&["audit", "list", "--action", "operator.", "--json"]).exits(0).json();
    let rows = rows["items"].as_array().unwrap();
    let removed = rows.iter().find(|row| row["action"] == "operator.remove").unwrap();
    assert_eq!(
        (&removed["target"], &removed["reason"], &removed["tenant"]),
        (&json!("acme/ana"), &json!("left"), &json!("acme"))
    );
    assert!(removed["request_id"].is_string() && removed["address"] == "127.0.0.1", "{removed}");
    let none = server.muster(&["audit", "list", "--actor", "nobody-here"]).exits(0);
    assert!(none.out.is_empty() && none.err.contains("no record matches actor nobody-here"), "{none:?}");
    server.muster(&["audit", "list", "--since", "yesterday"]).exits(2).refused("M504");
}

#[test]
fn a_listing_is_narrowed_by_the_fields_it_has() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001", "MU-000002"]);
    for (name, role) in [("acme/ana", "viewer"), ("acme/ben", "auditor"), ("acme/eve", "viewer")] {
        server.muster(&["operator", "add", name, "--role", role]).exits(0);
    }
    let names = |arguments: &[&str]| {
        let ran = server.muster(&[&["operator", "list", "-o", "serial"], arguments].concat()).exits(0);
        ran.out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(&["--filter", "role:viewer"]), ["acme/ana", "acme/eve"]);
    assert_eq!(names(&["--filter", "tenant:acme -role:viewer"]), ["acme/ben"]);
    assert_eq!(names(&["--filter", "tenant:acme", "--sort", "-name"]), ["acme/eve", "acme/ben", "acme/ana"]);
    let first =
        server.muster(&["operator", "list", "--filter", "acme", "--sort", "name", "--limit", "2"]).exits(0);
    assert!(
        first.err.contains("2 of 3 operators") && first.err.contains("more: --after acme/ben"),
        "{}",
        first.err
    );
    assert_eq!(names(&["--filter", "acme", "--sort", "name", "--after", "acme/ben"]), ["acme/eve"]);
    let json = server.muster(&["operator", "list", "--limit", "1", "--json"]).exits(0).json();
    assert_eq!((json["items"].as_array().unwrap().len(), json["next"].is_string()), (1, true));
    let none = server.muster(&["operator", "list", "--filter", "nobody"]).exits(0);
    assert!(none.out.is_empty() && none.err.contains("drop a part of --filter"), "{none:?}");
    for wrong in
        [["--filter", "colour:red"], ["--sort", "colour"], ["--after", "acme/zoe"], ["--filter", "role:"]]
    {
        server.muster(&[&["operator", "list"][..], &wrong].concat()).exits(2).refused("M504");
    }
    let lines = |arguments: &[&str]| server.muster(arguments).exits(0).out.lines().count();
    assert_eq!(lines(&["batch", "list", "-o", "serial", "--filter", "devices:>1 station:S-07"]), 1);
    assert_eq!(lines(&["batch", "list", "-o", "serial", "--filter", "devices:>2", "--sort", "devices"]), 0);
    assert_eq!(lines(&["ca", "list", "-o", "serial", "--filter", "station:S-07"]), 1);
    assert_eq!(lines(&["token", "list", "-o", "serial", "--filter", "role:admin"]), 1);
    assert_eq!(lines(&["job", "list", "-o", "serial", "--filter", "suspend"]), 0);
    assert_eq!(lines(&["cert", "list", "-o", "serial", "--filter", "status:active"]), 2);
    server.muster(&["cert", "list", "--filter", "colour:red"]).exits(2).refused("M504");
    assert_eq!(
        lines(&["audit", "list", "-o", "serial", "--filter", "action:operator.add target:acme/ana"]),
        1
    );
    server.muster(&["audit", "list", "--filter", "ana"]).exits(2).refused("M504");
}

/// As a shell's script asks: what may stand in the place of the last word.
#[test]
fn a_shell_is_offered_what_there_is() {
    let mut server = Some(Server::start());
    let at = server.as_ref().unwrap();
    at.with_devices("B-0001", &["MU-000001", "MU-000002"]);
    at.with_devices("B-0100", &["MU-010000"]);
    let home = tempfile::tempdir().unwrap();
    let data = at.place().data();
    let ask = |words: &[&str], home: &std::path::Path| {
        let line = [&["--", "muster", "--data-dir", data.to_str().unwrap()], words].concat();
        let ran = run(muster(line).env("MUSTER_COMPLETE", "fish").env("HOME", home)).exits(0);
        assert!(ran.err.is_empty(), "{}", ran.err);
        ran.out.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let offered = |words: &[&str]| ask(words, home.path());
    assert_eq!(offered(&["device", "show", "mu-00"]), ["MU-000001", "MU-000002"]);
    assert_eq!(offered(&["batch", "show", "B-01"]), ["B-0100"]);
    assert_eq!(offered(&["device", "suspend", "MU-000001", "MU-01"]), ["MU-010000"]);
    assert_eq!(
        offered(&["device", "list", "--filter", "batch:B-0001 state:qu"]),
        ["batch:B-0001 state:quarantined"]
    );
    assert_eq!(offered(&["device", "list", "--filter", "batch:B-01"]), ["batch:B-0100"]);
    assert_eq!(offered(&["device", "revoke", "MU-000001", "--reason-code", "keyC"]), ["keyCompromise"]);
    assert_eq!(offered(&["explain", "m20"]).first().map(String::as_str), Some("M200"));
    assert!(offered(&["device", "su"]).contains(&"suspend".to_owned()));
    assert!(offered(&["device", "show", "X"]).is_empty());
    // What was said is used again for a while; a server that is away is silence.
    let place = server.take().unwrap().killed();
    assert_eq!(offered(&["device", "show", "mu-00"]), ["MU-000001", "MU-000002"]);
    let elsewhere = tempfile::tempdir().unwrap();
    assert!(ask(&["device", "show", "mu-00"], elsewhere.path()).is_empty());
    drop(place);
}

#[test]
fn times_are_utc_unless_the_configuration_says_otherwise() {
    let server = Server::start();
    let said = |arguments: &[&str], utc: Option<&str>| {
        let mut command = server.place().command(&[&["audit", "list"], arguments].concat());
        utc.map(|utc| command.env("MUSTER_UTC", utc));
        run(command.env("TZ", "IST-5:30")).exits(0).out
    };
    let offset = "+05:30";
    assert!(said(&[], Some("false")).contains(offset));
    assert!(!said(&[], None).contains(offset) && said(&[], None).contains("Z "));
    assert!(!said(&["--utc"], Some("false")).contains(offset), "the flag counts more");
    assert!(!said(&["--json"], Some("false")).contains(offset), "documents are UTC");
}

#[test]
fn an_export_is_checked_anywhere_with_the_public_key_alone() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001"]);
    let dir = server.place().dir.path().to_owned();
    let file = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (export, key, old) = (file("export.jsonl"), file("audit.pub"), file("old.json"));
    server.muster(&["audit", "checkpoint", "--out", &old]).exits(0);
    server.muster(&["device", "suspend", "MU-000001", "--reason", "case 881"]).exits(0);
    server.muster(&["audit", "export", "--out", &export]).exits(0);
    server.muster(&["audit", "export", "--out", &export]).exits(2).refused("M509");
    let pem = server.muster(&["audit", "key"]).exits(0).out;
    std::fs::write(&key, &pem).unwrap();
    assert_eq!(pem, read(server.place().data().join("audit.pub")));
    // Nothing of the server is needed: no data directory, no token.
    let verify = |arguments: &[&str]| {
        let mut command = muster(["audit", "verify"]);
        run(command.args(arguments).current_dir("/"))
    };
    let good = verify(&["--file", &export, "--key", &key, "--checkpoint", &old]).exits(0);
    assert!(good.out.contains("hash chain intact") && good.err.is_empty(), "{good:?}");
    let unkeyed = verify(&["--file", &export]).exits(0);
    assert!(unkeyed.err.contains("warning") && unkeyed.err.contains("no --key"), "{}", unkeyed.err);
    let json = verify(&["--file", &export, "--key", &key, "--json"]).exits(0).json();
    assert_eq!((&json["intact"], &json["key_given"]), (&json!(true), &json!(true)));
    let rows = json["rows"].as_u64().unwrap();
    // Changed, cut, and signed by somebody else.
    let text = read(&export);
    let altered = file("altered.jsonl");
    let broken = |text: &str, no: u64| {
        std::fs::write(&altered, text).unwrap();
        let ran = verify(&["--file", &altered, "--key", &key]).exits(10).refused("M507");
        assert!(ran.err.contains(&format!("record no. {no} ·")), "{}", ran.err);
    };
    broken(&text.replace("case 881", "case 882"), rows);
    let lines: Vec<_> = text.lines().collect();
    broken(&format!("{}\n", lines[..lines.len() - 1].join("\n")), rows);
    let middle: Vec<_> = lines
        .iter()
        .filter(|line| !line.contains("\"no\":3,\"node\"") || line.contains("checkpoint"))
        .copied()
        .collect();
    assert_eq!(middle.len(), lines.len() - 1);
    broken(&format!("{}\n", middle.join("\n")), 3);
    let stranger = file("stranger.pub");
    let theirs = Server::start();
    std::fs::write(&stranger, theirs.muster(&["audit", "key"]).exits(0).out).unwrap();
    verify(&["--file", &export, "--key", &stranger]).exits(10).refused("M507");
    verify(&["--file", &export, "--key", &stranger, "--checkpoint", &old]).exits(2).refused("M504");
    verify(&["--file", &export, "--key", &export]).exits(2).refused("M504");
    verify(&["--file", &key, "--key", &key]).exits(2).refused("M509");
    verify(&["--file", "/nonexistent"]).exits(2).refused("M509");
    // A running server checks itself, against a checkpoint kept elsewhere too; and so does its directory alone.
    server.muster(&["audit", "verify", "--checkpoint", &old]).exits(0);
    server.signal("TERM");
    let (status, log, place) = server.wait();
    assert_eq!(status, Some(0), "{log}");
    let offline =
        place.muster(&["audit", "verify", "--offline", "--key", &key, "--checkpoint", &old]).exits(0);
    assert!(offline.out.contains("hash chain intact"), "{offline:?}");
    place.muster(&["audit", "verify", "--offline", "--key", &stranger]).exits(10).refused("M507");
}
