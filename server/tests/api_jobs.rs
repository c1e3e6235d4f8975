//! One act on many devices, over the API and on the command line; why a device cannot connect; how the server is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::time::{Duration, Instant};

use rig::{Server, http::Http};
use serde_json::{Value, json};

#[test]
fn many_are_decided_about_at_once() {
    let server = Server::start();
    let http = Http::new(&server);
    let serials: Vec<String> = (1..=40).map(|n| format!("MU-{n:06}")).collect();
    server.with_devices("B-1", &serials.iter().map(String::as_str).collect::<Vec<_>>());
    nothing_happens_without_the_confirmation_of_a_plan(&http);
    a_confirmed_plan_is_done_and_reported(&http);
    only_who_may_decides_about_many(&server, &http);
    the_command_line_shows_then_does(&server);
    tags_and_groups_are_written_on_many(&server, &http);
    a_job_is_cancelled_or_goes_on_after_a_crash(server);
}

fn asked(act: &str, filter: &str) -> Value {
    json!({ "act": act, "filter": filter, "reason": "a reason of ten" })
}

fn ended(http: &Http, job: &str) -> Value {
    let until = Instant::now() + rig::LIMIT;
    loop {
        let job = http.get(&format!("/v1/jobs/{job}")).is(200);
        if job["ended"] == true {
            return job;
        }
        assert!(Instant::now() < until, "{job}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn nothing_happens_without_the_confirmation_of_a_plan(http: &Http) {
    let mut ask = asked("suspend", "batch:B-1");
    let plan = http.post("/v1/jobs/plan", &ask).is(200);
    assert_eq!((plan["count"].as_u64(), plan["would_do"].as_u64()), (Some(40), Some(40)), "{plan}");
    assert_eq!(plan["first"][0], "MU-000001");
    assert_eq!(plan["first"].as_array().unwrap().len(), 5);
    http.post("/v1/jobs", &ask).refused(428, "M213");
    for wrong in ["40", "", "1-40-000000000000000000000000"] {
        ask["confirm"] = json!(wrong);
        http.post("/v1/jobs", &ask).refused(409, "M534");
    }
    // Another act, another filter, or a device that has changed since: the confirmation is not for that.
    let mut other = asked("quarantine", "batch:B-1");
    other["confirm"] = plan["confirm"].clone();
    http.post("/v1/jobs", &other).refused(409, "M534");
    let mut other = asked("suspend", "state:registered");
    other["confirm"] = plan["confirm"].clone();
    http.post("/v1/jobs", &other).refused(409, "M534");
    http.post("/v1/devices/MU-000007/suspend", &json!({ "reason": "alone" })).is(200);
    ask["confirm"] = plan["confirm"].clone();
    http.post("/v1/jobs", &ask).refused(409, "M534");
    let whole = http.get("/v1/jobs").is(200);
    assert_eq!(whole["items"], json!([]), "nothing was begun");
    for (body, status, code) in [
        (asked("delete", "batch:B-1"), 400, "M504"),
        (asked("suspend", ""), 400, "M504"),
        (asked("suspend", "colour:red"), 400, "M504"),
        (asked("revoke", "batch:B-1"), 400, "M214"),
        (json!({ "act": "suspend", "filter": "batch:B-1" }), 400, "M214"),
        (json!({ "act": "suspend", "filter": "batch:B-1", "reason": "a\u{7}" }), 400, "M504"),
        (json!({ "act": "suspend", "filter": "batch:B-1", "reason": "x", "force": true }), 400, "M504"),
    ] {
        http.post("/v1/jobs/plan", &body).refused(status, code);
    }
    http.get("/v1/jobs/j-0").refused(404, "M533");
    http.get("/v1/jobs/j-0/rows").refused(404, "M533");
    http.post("/v1/jobs/j-0/cancel", &json!({})).refused(404, "M533");
}

fn tags_and_groups_are_written_on_many(server: &Server, http: &Http) {
    for (label, act, code) in [
        (json!(null), "label", "M504"),
        (json!({}), "label", "M504"),
        (json!({ "add_tags": ["a\"b"] }), "label", "M504"),
        (json!({ "add_tags": ["x"] }), "suspend", "M504"),
        (json!({ "note": "x" }), "label", "M504"),
    ] {
        let mut ask = asked(act, "batch:B-1");
        ask["label"] = label;
        http.post("/v1/jobs/plan", &ask).refused(400, code);
    }
    http.post("/v1/devices/MU-000002/labels", &json!({ "add_tags": ["roof"] })).is(200);
    let line = [
        "device",
        "label",
        "--filter",
        "batch:B-1",
        "--reason",
        "moved up",
        "--tag",
        "Roof",
        "--untag",
        "cellar",
    ];
    let run = |more: &[&str]| server.muster(&[&line[..], more, &["--json"]].concat());
    server.muster(&line).exits(2).refused("M213");
    let plan = run(&["--dry-run"]).exits(0).json();
    assert_eq!((&plan["act"], &plan["count"]), (&json!("label"), &json!(40)));
    let said = server.muster(&[&line[..], &["--dry-run"]].concat()).exits(0).err;
    assert!(said.contains("--tag \"Roof\" --untag \"cellar\" --reason"), "{said}");
    assert_eq!(server.muster(&["device", "list", "--filter", "tag:roof", "--json"]).json()["total"], 1);
    // The confirmation is for this label and no other.
    let confirm = plan["confirm"].as_str().unwrap();
    let other = ["device", "label", "--filter", "batch:B-1", "--reason", "moved up", "--tag", "cellar"];
    server.muster(&[&other[..], &["--confirm", confirm]].concat()).exits(3).refused("M534");
    let job = run(&["--confirm", confirm]).exits(0).json();
    assert_eq!((&job["done"], &job["skipped"], &job["failed"]), (&json!(39), &json!(1), &json!(0)), "{job}");
    let label =
        json!({ "add_tags": ["roof"], "remove_tags": ["cellar"], "add_groups": [], "remove_groups": [] });
    assert_eq!((&job["label"], &job["reason_code"]), (&label, &Value::Null));
    assert_eq!(server.muster(&["device", "list", "--filter", "tag:roof", "--json"]).json()["total"], 40);
    let audit = http.get("/v1/audit?action=device.label&limit=1000").is(200);
    let rows = audit["items"].as_array().unwrap();
    assert_eq!(rows.iter().filter(|row| row["reason"] == "moved up").count(), 39, "{rows:?}");
    server.muster(&["device", "label", "MU-000001", "--filter", "x"]).exits(2).refused("M504");
    server.muster(&["device", "label", "--filter", "batch:B-1", "--note", "x"]).exits(2).refused("M504");
}

fn a_confirmed_plan_is_done_and_reported(http: &Http) {
    let mut ask = asked("suspend", "batch:B-1");
    let plan = http.post("/v1/jobs/plan", &ask).is(200);
    assert_eq!((plan["would_do"].as_u64(), plan["would_skip"].as_u64()), (Some(39), Some(1)), "{plan}");
    ask["confirm"] = plan["confirm"].clone();
    let job = http.post("/v1/jobs", &ask).is(202);
    let done = ended(http, job["job"].as_str().unwrap());
    let counts = ["total", "done", "skipped", "failed"].map(|name| done[name].as_u64().unwrap());
    assert_eq!(counts, [40, 39, 1, 0], "{done}");
    assert_eq!(done["state"], "done");
    let rows = http.get(&format!("/v1/jobs/{}/rows?outcome=skipped", done["job"].as_str().unwrap())).is(200);
    assert_eq!(rows["items"][0]["serial"], "MU-000007", "{rows}");
    let rows = http.get(&format!("/v1/jobs/{}/rows?limit=7", done["job"].as_str().unwrap())).is(200);
    assert_eq!((rows["items"].as_array().unwrap().len(), &rows["next"]), (7, &json!("7")));
    // Each decision is on the record as if it had been made alone, and so is the order.
    let audit = http.get("/v1/audit?limit=1000").is(200);
    let of = |action: &str| {
        audit["items"].as_array().unwrap().iter().filter(|row| row["action"] == action).count()
    };
    assert_eq!((of("job.create"), of("device.suspend")), (1, 40));
    // What a state does not allow fails by itself.
    http.post(
        "/v1/devices/MU-000001/revoke",
        &json!({
        "reason": "lost", "reason_code": "keyCompromise", "confirm": "MU-000001" }),
    )
    .is(200);
    let mut ask = asked("resume", "batch:B-1");
    ask["confirm"] = http.post("/v1/jobs/plan", &ask).is(200)["confirm"].clone();
    let job = http.post("/v1/jobs", &ask).is(202);
    let done = ended(http, job["job"].as_str().unwrap());
    assert_eq!((done["done"].as_u64(), done["failed"].as_u64()), (Some(39), Some(1)), "{done}");
    let rows = http.get(&format!("/v1/jobs/{}/rows?outcome=failed", done["job"].as_str().unwrap())).is(200);
    assert_eq!(
        (&rows["items"][0]["serial"], &rows["items"][0]["code"]),
        (&json!("MU-000001"), &json!("M203"))
    );
}

fn only_who_may_decides_about_many(server: &Server, http: &Http) {
    let with = |role: &str| {
        let made = server.muster(&["token", "create", role, "--role", role, "--json"]).exits(0).json();
        http.with(made["token"].as_str().unwrap())
    };
    with("viewer").post("/v1/jobs/plan", &asked("suspend", "batch:B-1")).refused(403, "M503");
    let operator = with("operator");
    operator.post("/v1/jobs/plan", &asked("suspend", "batch:B-1")).is(200);
    let mut revoke = asked("revoke", "batch:B-1");
    revoke["reason_code"] = json!("superseded");
    operator.post("/v1/jobs/plan", &revoke).refused(403, "M503");
    let plan = with("security").post("/v1/jobs/plan", &revoke).is(200);
    revoke["confirm"] = plan["confirm"].clone();
    http.post("/v1/jobs", &revoke).refused(409, "M534");
}

fn the_command_line_shows_then_does(server: &Server) {
    let suspend = ["device", "suspend", "--filter", "batch:B-1 state:registered", "--reason", "case 9"];
    server.muster(&suspend).exits(2).refused("M213");
    server.muster(&["device", "suspend", "--filter", "batch:B-1", "--dry-run"]).exits(2).refused("M214");
    server.muster(&["device", "suspend", "MU-000002", "--filter", "batch:B-1"]).exits(2);
    let shown = server.muster(&[&suspend[..], &["--dry-run"]].concat()).exits(0);
    assert!(shown.out.contains("suspend 39 devices") && shown.err.contains("nothing was done"), "{shown:?}");
    let plan = server.muster(&[&suspend[..], &["--dry-run", "--json"]].concat()).exits(0).json();
    let confirm = plan["confirm"].as_str().unwrap();
    let done = server.muster(&[&suspend[..], &["--confirm", confirm]].concat()).exits(0);
    assert!(done.err.contains("done 39 · skipped 0 · failed 0"), "{done:?}");
    server.muster(&[&suspend[..], &["--confirm", confirm]].concat()).exits(3).refused("M534");
    let resume = ["device", "resume", "--filter", "batch:B-1", "--reason", "case 9"];
    let plan = server.muster(&[&resume[..], &["--dry-run", "--json"]].concat()).exits(0).json();
    let done =
        server.muster(&[&resume[..], &["--confirm", plan["confirm"].as_str().unwrap()]].concat()).exits(9);
    assert!(done.err.contains("done 39 · skipped 0 · failed 1"), "{done:?}");
    assert!(done.err.contains("again: muster device resume MU-000001 --reason"), "{done:?}");
    let jobs = server.muster(&["job", "list"]).exits(0);
    assert_eq!(jobs.out.lines().count(), 5, "{jobs:?}");
}

fn a_job_is_cancelled_or_goes_on_after_a_crash(server: Server) {
    let http = Http::new(&server);
    let mut ask = asked("suspend", "batch:B-1 state:registered");
    ask["confirm"] = http.post("/v1/jobs/plan", &ask).is(200)["confirm"].clone();
    let job = http.post("/v1/jobs", &ask).is(202)["job"].as_str().unwrap().to_owned();
    server.signal("KILL");
    let (_, _, place) = server.wait();
    let server = Server::start_on(place);
    let http = Http::new(&server);
    let done = ended(&http, &job);
    let [total, made, skipped, failed] =
        ["total", "done", "skipped", "failed"].map(|name| done[name].as_u64().unwrap());
    assert_eq!((total, made + skipped, failed), (39, 39, 0), "{done}");
    let list = http.get("/v1/devices?filter=state%3Asuspended&limit=1").is(200);
    assert_eq!(list["total"], 39);
    let mut ask = asked("resume", "batch:B-1 state:suspended");
    ask["confirm"] = http.post("/v1/jobs/plan", &ask).is(200)["confirm"].clone();
    let job = http.post("/v1/jobs", &ask).is(202)["job"].as_str().unwrap().to_owned();
    http.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).is(200);
    let job = ended(&http, &job);
    // It may have been quicker than the cancel.
    assert!(job["state"] == "cancelled" || job["done"] == 39, "{job}");
}

#[test]
fn why_and_how_it_is() {
    let server = Server::start();
    let http = Http::new(&server);
    let devices = server.with_devices("B-1", &["MU-000001", "MU-000002"]);
    let explain = |serial: &str, more: &str| http.get(&format!("/v1/explain/{serial}{more}"));
    let said = explain("MU-000001", "").is(200);
    assert_eq!((&said["may_connect"], &said["code"]), (&json!(true), &json!(null)), "{said}");
    let outcomes: Vec<_> = said["checks"].as_array().unwrap().iter().map(|check| &check["outcome"]).collect();
    let yes = outcomes.iter().filter(|outcome| **outcome == "yes").count();
    let depends = outcomes.iter().filter(|outcome| **outcome == "depends").count();
    assert_eq!((yes, depends, outcomes.len()), (8, 2, 10), "what it sends is not known: {said}");
    http.post("/v1/devices/MU-000001/suspend", &json!({ "reason": "case 881" })).is(200);
    let said = explain("MU-000001", "").is(200);
    assert_eq!((&said["may_connect"], &said["code"]), (&json!(false), &json!("M201")), "{said}");
    assert_eq!(said["why"]["reason"], "case 881");
    let failed: Vec<_> =
        said["checks"].as_array().unwrap().iter().filter(|check| check["outcome"] == "no").collect();
    assert_eq!((failed.len(), &failed[0]["check"]), (1, &json!("state")));
    let device = said["device_id"].as_str().unwrap();
    for (topic, verb, allowed) in [
        (format!("acme/{device}/telemetry/t"), "publish", true),
        (format!("acme/{device}/twin/desired"), "publish", false),
        (format!("acme/{device}/%23"), "subscribe", true),
        ("other/%23".to_owned(), "subscribe", false),
        (format!("acme/{device}/%23"), "publish", false),
    ] {
        let said = explain("MU-000001", &format!("?topic={}&verb={verb}", topic.replace('/', "%2F"))).is(200);
        assert_eq!(said["topic"]["allowed"], allowed, "{topic} {verb}: {said}");
        assert_eq!(said["topic"]["code"].is_null(), allowed);
    }
    explain("MU-000009", "").refused(404, "M208");
    explain("MU-000001", "?verb=shout").refused(400, "M504");
    explain("MU-000001", "?certificate=ff").refused(400, "M504");
    let said = server.muster(&["device", "explain", "MU-000001", "--topic", "other/x"]).exits(10);
    assert!(
        said.out.contains("✕ state") && said.out.contains("[M201]") && said.out.contains("[M210]"),
        "{said:?}"
    );
    server.muster(&["device", "explain", "MU-000002"]).exits(0);

    // Nothing is wrong with its certificate, and it was turned away for what it sent.
    rig::device::Device::turned_away_with(&server, &devices[1], "made up");
    let until = Instant::now() + Duration::from_secs(30);
    let said = loop {
        let said = explain("MU-000002", "").is(200);
        if said["refused_since"] == true || Instant::now() > until {
            break said;
        }
    };
    assert_eq!(
        (&said["may_connect"], &said["last_refusal"]["code"]),
        (&json!(true), &json!("M217")),
        "{said}"
    );
    assert!(said["next"].as_str().unwrap().contains("MU-000002"), "{said}");
    let shown = server.muster(&["device", "explain", "MU-000002"]).exits(10);
    assert!(shown.out.contains("M217") && shown.out.contains("? continuity token"), "{shown:?}");
    let _device = rig::device::Device::connect(&server, &devices[1]);
    let said = explain("MU-000002", "").is(200);
    assert_eq!(said["refused_since"], json!(false), "it was let in since: {said}");
    figures(&http);

    let doctor = server.muster(&["doctor"]).exits(0);
    for word in ["reach", "TLS", "token", "clock", "registry", "disk"] {
        assert!(doctor.out.contains(&format!("✓ {word}")), "{word}: {doctor:?}");
    }
    let elsewhere = server.muster(&["doctor", "--server", "https://127.0.0.1:1"]).exits(10);
    assert!(elsewhere.out.contains("✕ reach") && elsewhere.out.contains("· TLS"), "{elsewhere:?}");
    let wrong = server.place().file("wrong-token", "muster_wrong\n");
    let refused = server.muster(&["doctor", "--token-file", wrong.to_str().unwrap()]).exits(10);
    assert!(refused.out.contains("✕ token") && refused.out.contains("[M501]"), "{refused:?}");
}

/// One device was turned away and let in; another was suspended.
fn figures(http: &Http) {
    let until = Instant::now() + rig::LIMIT;
    loop {
        let text = String::from_utf8(http.get("/metrics").body).unwrap();
        let of =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        let families = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let named = samples.clone().all(|line| line.starts_with("muster_") && line.split(' ').count() == 2);
        assert!(families > 30 && named, "{text}");
        let found = [
            "muster_refusals_total{code=\"M217\"}",
            "muster_connects_total{protocol=\"5.0\"}",
            "muster_connects_total{protocol=\"3.1.1\"}",
            "muster_sessions_ended_total{reason=\"throttled\"}",
            "muster_messages_received_total{qos=\"1\"}",
            "muster_messages_sent_total{qos=\"2\"}",
            "muster_takeovers_suspected_total",
            "muster_slowed_total",
            "muster_bus_restarts_total",
            "muster_bus_dropped_total",
            "muster_facts_dropped_total",
            "muster_enforcement_seconds_count",
        ]
        .map(of);
        let wanted = [1., 1., 0., 0., 0., 0., 0., 0., 0., 0., 0., 1.].map(Some);
        if found == wanted && of("muster_enforcement_seconds_sum").is_some() {
            return;
        }
        assert!(Instant::now() < until, "{found:?}\n{text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_commands_describe_themselves() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = rig::run(&mut rig::muster(["completions", shell])).exits(0);
        assert!(
            script.out.contains("MUSTER_COMPLETE") && script.out.contains("muster"),
            "{shell}: {}",
            script.out
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let man = dir.path().join("man");
    rig::run(rig::muster(["man"]).arg(&man)).exits(0);
    assert!(rig::read(man.join("muster.1")).contains("muster"));
    assert!(man.join("muster-device-suspend.1").is_file());
    let names = rig::run(&mut rig::muster(["schema"])).exits(0);
    for name in names.out.lines() {
        let schema = rig::run(&mut rig::muster(["schema", name])).exits(0).json();
        assert!(schema["properties"].is_object(), "{name}: {schema}");
    }
    assert!(names.out.lines().count() > 15, "{names:?}");
    rig::run(&mut rig::muster(["schema", "nothing"])).exits(2).refused("M504");
}
