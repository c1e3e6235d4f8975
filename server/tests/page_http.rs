//! The web page as it comes over the wire: headers, escaping, refusals, caching.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use rig::{Place, Server, http::Http};

const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";

/// Every page.
const PAGES: &[&str] = &[
    "/",
    "/devices",
    "/devices?cols=model,id,tenant,address,station,registered,refused&density=compact",
    "/devices?filter=%3Cscript%3Ealert(1)%3C/script%3E",
    "/devices/MU-000001",
    "/devices/MU-000001/readings",
    "/devices/MU-000001?tab=sessions",
    "/devices/MU-000001?tab=certificates",
    "/devices/MU-000001?tab=json",
    "/devices/MU-000001?kind=%3Cb%3E",
    "/devices/MU-000001/suspend",
    "/devices/MU-000001/revoke",
    "/devices/%3Cscript%3E",
    "/devices/MU-000001/%3Cscript%3E",
    "/acts?act=suspend&s=acme%2FMU-000001",
    "/acts?act=%3Cscript%3E",
    "/batches",
    "/batches/B-0001",
    "/batches/%3Cscript%3E",
    "/certificates",
    "/certificates/authorities",
    "/certificates/revoked",
    "/audit?check=1",
    "/settings/operators",
    "/settings/tokens",
    "/settings/trust",
    "/settings/limits",
    "/settings/keep",
    "/settings/about",
    "/%3Cscript%3E",
];

#[test]
fn no_page_holds_markup_of_somebody_else_or_anything_inline() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001", "MU-000002"]);
    server.muster(&["device", "suspend", "MU-000001", "--reason", HOSTILE]).exits(0);
    let http = Http::new(&server);
    for path in PAGES {
        let page = http.get(path);
        assert!(page.status < 500, "{path}: {}", page.head);
        let kind = page.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("text/html"), "{path}: {}", page.head);
        let policy = page.header("content-security-policy").unwrap();
        assert!(
            policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(page.header("referrer-policy"), Some("same-origin"));
        assert_eq!(page.header("cache-control"), Some("no-store"));
        let html = String::from_utf8(page.body).unwrap();
        for inline in ["alert(1)</script>", "<img", "<script>", " style=", " onclick=", "javascript:", "<b>"]
        {
            assert!(!html.contains(inline), "{path} has {inline}");
        }
        assert!(html.matches("<script").count() <= 1, "{path}");
        assert_eq!(html.matches("<h1").count(), 1, "{path} has one main heading");
        assert!(html.contains("<html lang=\"en\">") && html.contains("<main"), "{path}");
    }
    let shown = String::from_utf8(http.get("/devices/MU-000001").body).unwrap();
    assert!(shown.contains("&#60;script&#62;alert(1)"), "the reason is shown as it was written");
}

#[test]
fn files_are_kept_for_ever_and_found_by_their_digest_alone() {
    let server = Server::start();
    let http = Http::new(&server);
    let page = String::from_utf8(http.get("/").body).unwrap();
    let names: Vec<_> = page.split("/assets/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    for name in names {
        // Who is not signed in sees a page too.
        let file = http.with("nobody").get(&format!("/assets/{name}"));
        assert_eq!(file.status, 200, "{name}");
        assert_eq!(file.header("cache-control"), Some("public, max-age=31536000, immutable"));
    }
    assert_eq!(http.get("/assets/muster-0000000000000000.css").status, 404);
}

#[test]
fn who_is_not_signed_in_is_sent_to_sign_in_and_a_program_is_told() {
    let server = Server::start();
    let http = Http::new(&server).with("muster_nobody");
    let page = http.get("/devices?filter=state:active");
    assert_eq!(page.status, 303, "{}", page.head);
    assert_eq!(page.header("location"), Some("/login?then=%2Fdevices%3Ffilter%3Dstate%3Aactive"));
    http.get("/v1/devices").refused(401, "M501");
}

#[test]
fn a_viewer_sees_all_and_has_no_buttons() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001"]);
    let admin = Http::new(&server);
    let made = server
        .muster(&["token", "create", "eve", "--role", "viewer", "--days", "1", "--json"])
        .exits(0)
        .json();
    let viewer = admin.with(made["token"].as_str().unwrap());
    let page = |http: &Http, path: &str| String::from_utf8(http.get(path).body).unwrap();
    assert!(page(&admin, "/devices/MU-000001").contains("/devices/MU-000001/suspend"));
    let seen = page(&viewer, "/devices/MU-000001");
    assert!(seen.contains("MU-000001") && !seen.contains("/devices/MU-000001/suspend"), "{seen}");
    assert!(!page(&viewer, "/devices").contains("type=\"checkbox\" name=\"s\""));
    assert_eq!(viewer.get("/devices/MU-000001/revoke").status, 403);
}

#[test]
fn a_listing_is_taken_out_whole() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001", "MU-000002", "MU-000003"]);
    let http = Http::new(&server);
    let csv = http.get("/devices.csv?filter=state:registered");
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
    let text = String::from_utf8(csv.unchunked()).unwrap();
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.lines().nth(1).unwrap().contains("MU-000001"), "{text}");
}

#[test]
fn the_overview_counts_what_there_is() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001", "MU-000002", "MU-000003"]);
    server.muster(&["device", "quarantine", "MU-000002", "--reason", "seen twice"]).exits(0);
    let http = Http::new(&server);
    let told = http.get("/v1/overview").is(200);
    assert_eq!((&told["devices"], &told["online"]), (&3.into(), &0.into()));
    let states: Vec<_> =
        told["states"].as_array().unwrap().iter().map(|of| (&of["state"], &of["devices"])).collect();
    assert_eq!(states, [(&"registered".into(), &2.into()), (&"quarantined".into(), &1.into())]);
    assert!(told["quarantined_at"].is_string(), "{told}");
    assert_eq!(told["ends"].as_array().unwrap().len(), 12, "{told}");
    let online = told["online_24h"].as_array().unwrap();
    assert!((96..=97).contains(&online.len()) && online.iter().all(|of| of["max"] == 0), "{told}");
    let page = String::from_utf8(http.get("/").body).unwrap();
    assert!(page.contains("1 device quarantined"), "{page}");
}

#[test]
fn limits_and_periods_in_force_are_told_and_where_keys_lie_is_not() {
    let place = Place::new();
    let file = place.data().join("muster.toml");
    let mut text = rig::read(&file);
    for (default, said) in [
        ("# messages_per_s = 100\n", "messages_per_s = 7\n"),
        ("# refusals_days = 365\n", "refusals_days = 1\n"),
    ] {
        assert!(text.contains(default), "{text}");
        text = text.replace(default, said);
    }
    std::fs::write(&file, text).unwrap();
    let server = Server::start_on(place);
    let http = Http::new(&server);
    let told = http.get("/v1/config").is(200);
    assert_eq!(told["schema"], "muster.config/1");
    let in_force = server.muster(&["config", "--json"]).exits(0).json();
    let of = |document: &serde_json::Value, key: &str| {
        let items = document["items"].as_array().unwrap();
        items.iter().find(|item| item["key"] == key).cloned().unwrap_or_else(|| panic!("no {key}"))
    };
    for key in ["limits.messages_per_s", "limits.packet_max", "retention.refusals_days", "mqtt.names"] {
        assert_eq!(of(&told, key), of(&in_force, key));
    }
    assert_eq!(of(&told, "https.listen")["source"], "flag --listen-https");
    for key in ["keys.bundle", "keys.passphrase_file", "data_dir", "https.key"] {
        assert!(of(&told, key)["value"].is_null(), "{key}");
    }
    let passphrase = of(&in_force, "keys.passphrase_file");
    assert!(!told.to_string().contains(passphrase["value"].as_str().unwrap()), "{told}");
    let page = |path: &str| String::from_utf8(http.get(path).body).unwrap();
    let (limits, keep) = (page("/settings/limits"), page("/settings/keep"));
    assert!(limits.contains("Messages of a device") && limits.contains(">7 a second<"), "{limits}");
    assert!(keep.contains("Refusals") && keep.contains(">1 day<"), "{keep}");
    // A tenant's own operator is told that it is not for them, and where else to go.
    let body = serde_json::json!({ "operator": "acme/ana", "role": "security", "days": 1 });
    let made = http.post("/v1/tokens", &body).is(200);
    let ana = http.with(made["token"].as_str().unwrap());
    ana.get("/v1/config").refused(403, "M503");
    let page = ana.get("/settings/limits");
    let html = String::from_utf8(page.body).unwrap();
    assert!(page.status == 403 && html.contains("M503") && html.contains("/settings/about"), "{html}");
    assert!(!html.contains("limits.packet_max"), "{html}");
}

#[test]
fn who_signs_in_goes_on_where_they_were_going_and_nowhere_else() {
    const OURS: &str = "sec-fetch-site: same-origin\r\n";
    let server = Server::start();
    let http = Http::new(&server);
    let nobody = http.with("");
    let asked = "/login?then=%2Fdevices%2FMU-000001%3Ftab%3Dsessions";
    let wrong = nobody.ask("POST", asked, OURS, b"token=muster_wrong");
    assert_eq!(wrong.status, 401, "{}", wrong.head);
    for page in [nobody.get(asked), wrong] {
        let html = String::from_utf8(page.body).unwrap();
        assert!(html.contains("value=\"/devices/MU-000001?tab=sessions\""), "{html}");
        assert!(html.contains(&format!("action=\"{asked}\"")), "{html}");
    }
    let sign_in = |then: &str| {
        let form = format!("token={}&then={then}", http.token);
        let answer = nobody.ask("POST", "/login", OURS, form.as_bytes());
        assert_eq!(answer.status, 303, "{}", answer.head);
        answer.header("location").unwrap().to_owned()
    };
    let there = sign_in("%2Fdevices%2FMU-000001%3Ftab%3Dsessions");
    assert_eq!(there, "/devices/MU-000001?tab=sessions");
    for away in ["https%3A%2F%2Fevil.example%2F", "%2F%2Fevil.example", "%2F%5Cevil.example", "%2Fa%0D%0Ab"] {
        assert_eq!(sign_in(away), "/", "{away}");
    }
}

#[test]
fn charts_tell_how_long_handshakes_take_and_how_fast_a_batch_was_made() {
    let server = Server::start();
    let devices = server.with_devices("B-0001", &["MU-000001", "MU-000002", "MU-000003"]);
    let http = Http::new(&server);
    let page = |http: &Http, path: &str| String::from_utf8(http.get(path).body).unwrap();
    assert!(!page(&http, "/").contains("Handshake time"), "nobody has come yet");
    let here = rig::device::Device::connect(&server, &devices[0]);

    let told = http.get("/v1/overview").is(200);
    let [quarter] = told["handshakes_24h"].as_array().unwrap().as_slice() else { panic!("{told}") };
    assert_eq!(quarter["count"], 1);
    let (p50, p99) = (quarter["p50_ms"].as_f64().unwrap(), quarter["p99_ms"].as_f64().unwrap());
    assert!(p50 > 0.0 && p99 >= p50, "{quarter}");
    let metrics = page(&http, "/metrics");
    for line in ["_bucket{le=\"10\"} 1", "_bucket{le=\"+Inf\"} 1", "_count 1"] {
        assert!(metrics.contains(&format!("\nmuster_handshake_seconds{line}\n")), "{metrics}");
    }
    let overview = page(&http, "/");
    for part in ["Handshake time, 24 h", "<th scope=\"col\" class=\"num\">p99 last</th>", " ms, last "] {
        assert!(overview.contains(part), "{part}");
    }
    // It is every tenant's, and none is told of the others.
    let ask = serde_json::json!({ "operator": "acme/ana", "role": "security", "days": 1 });
    let made = http.post("/v1/tokens", &ask).is(200);
    let ana = http.with(made["token"].as_str().unwrap());
    assert_eq!(ana.get("/v1/overview").is(200)["handshakes_24h"], serde_json::json!([]));
    assert!(!page(&ana, "/").contains("Handshake time"));

    let batch = http.get("/v1/batches/B-0001").is(200);
    let hours = batch["made_hours"].as_array().unwrap();
    assert_eq!(hours.iter().map(|of| of["devices"].as_u64().unwrap()).sum::<u64>(), 3, "{batch}");
    let shown = page(&http, "/batches/B-0001");
    assert!(
        shown.contains("Pace of the line") && shown.contains("units: 3 in all. Each point is 1h."),
        "{shown}"
    );
    here.leave();
}

#[test]
fn a_chain_is_drawn_with_what_is_wrong_in_it() {
    let server = Server::start();
    let devices = server.with_devices("B-0001", &["MU-000001", "MU-000002"]);
    let http = Http::new(&server);
    let faults = |serial: &str| -> Vec<_> {
        let detail = http.get(&format!("/v1/devices/{serial}")).is(200);
        detail["chain"].as_array().unwrap().iter().map(|of| of["fault"].clone()).collect()
    };
    assert!(faults("MU-000001").iter().all(serde_json::Value::is_null));
    let one = devices[0].identity().id;
    let revoke = |confirm: &str| serde_json::json!({ "reason": "a reason of ten", "reason_code": "keyCompromise", "confirm": confirm });
    http.post(&format!("/v1/certificates/{one}/revoke"), &revoke(&one.to_string())).is(200);
    assert!(faults("MU-000001")[0].as_str().unwrap().contains("revoked"), "{:?}", faults("MU-000001"));
    assert!(faults("MU-000002")[0].is_null());
    let authority = hex::encode(server.place().hierarchy.stations[0].record.factory.key_id());
    http.post(&format!("/v1/cas/{authority}/withdraw"), &revoke(&authority)).is(200);
    let second = faults("MU-000002");
    assert!(second[1].is_string() && second[2].is_null(), "{second:?}");
    let html = String::from_utf8(http.get("/devices/MU-000002").body).unwrap();
    let drawn = html.split("<ol class=\"chain\">").nth(1).unwrap().split("</ol>").next().unwrap();
    assert!(drawn.contains('✕') && drawn.contains(second[1].as_str().unwrap()), "{drawn}");
}

#[test]
fn an_auditor_sees_every_setting_and_changes_none() {
    let server = Server::start();
    let admin = Http::new(&server);
    admin.post("/v1/operators", &serde_json::json!({ "name": "zoe", "role": "viewer" })).is(200);
    let token = |name: &str, role: &str| {
        let body = serde_json::json!({ "operator": name, "role": role, "days": 1 });
        let made = admin.post("/v1/tokens", &body).is(200);
        (made["token"].as_str().unwrap().to_owned(), made["id"].as_str().unwrap().to_owned())
    };
    let (auditor, id) = token("eve", "auditor");
    let (viewer, _) = token("vic", "viewer");
    let (auditor, viewer) = (admin.with(&auditor), admin.with(&viewer));
    let page = |http: &Http, path: &str| {
        let answer = http.get(path);
        (answer.status, String::from_utf8(answer.body).unwrap())
    };
    for tab in ["operators", "tokens", "trust", "limits", "keep", "about"] {
        let (status, html) = page(&auditor, &format!("/settings/{tab}"));
        assert_eq!(status, 200, "{tab}: {html}");
        assert!(!html.contains("action=\"/settings") && !html.contains("/revoke\""), "{tab}: {html}");
    }
    // Who has no token is an operator all the same.
    assert!(page(&auditor, "/settings/operators").1.contains("<strong>zoe</strong>"));
    assert!(page(&viewer, "/settings/operators").1.contains("<strong>zoe</strong>"));
    assert!(page(&auditor, "/settings/tokens").1.contains(&id));
    let (status, html) = page(&viewer, "/settings/tokens");
    assert!(status == 403 && html.contains("M503") && !html.contains(&id), "{html}");
    let (_, about) = page(&viewer, "/settings/about");
    assert!(
        about.contains("<strong>registry</strong>") && about.contains("<strong>broker</strong>"),
        "{about}"
    );

    // Nobody's token ends by one press.
    let path = format!("/settings/tokens/{id}/revoke");
    assert!(page(&admin, "/settings/tokens").1.contains(&format!("href=\"{path}\"")));
    assert_eq!(page(&auditor, &path).0, 403);
    assert!(page(&admin, &path).1.contains("whoever comes with it is refused from now on"));
    const OURS: &str = "sec-fetch-site: same-origin\r\n";
    assert_eq!(admin.ask("POST", &path, OURS, b"").status, 400);
    auditor.get("/v1/devices").is(200);
    assert_eq!(admin.ask("POST", &path, OURS, b"reason=left+us").status, 303);
    auditor.get("/v1/devices").refused(401, "M502");
}

#[test]
fn the_audit_page_says_how_the_chain_stands_to_whom_it_concerns() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001"]);
    let admin = Http::new(&server);
    let token = |name: &str, role: &str| {
        let body = serde_json::json!({ "operator": name, "role": role, "days": 1 });
        let made = admin.post("/v1/tokens", &body).is(200);
        admin.with(made["token"].as_str().unwrap())
    };
    let page = |http: &Http| String::from_utf8(http.get("/audit").body).unwrap();
    // Whole pages of the chain, export and check.
    let all = ["chain intact up to no.", "Check the chain", "Export with proof"];
    rig::eventually(
        "a check",
        || page(&admin).into(),
        |html| all.iter().all(|said| html.as_str().is_some_and(|html| html.contains(said))),
    );
    for (http, shown) in [
        (token("eve", "auditor"), [true, true, true]),
        (token("vic", "viewer"), [true, true, false]),
        (token("acme/ana", "security"), [false, false, false]),
    ] {
        let html = page(&http);
        assert_eq!(all.map(|said| html.contains(said)), shown, "{html}");
    }
}

#[test]
fn a_long_listing_is_taken_out_in_the_order_it_is_shown_in() {
    let server = Server::start();
    let serials: Vec<_> = (1..=1030).map(|n| format!("MU-{n:06}")).collect();
    server.with_devices("B-0001", &serials.iter().map(String::as_str).collect::<Vec<_>>());
    let http = Http::new(&server);
    let html = String::from_utf8(http.get("/devices?sort=-serial").body).unwrap();
    assert!(html.contains("/devices.csv?sort=-serial") && html.contains("/devices.json?sort=-serial"));
    let csv = String::from_utf8(http.get("/devices.csv?sort=-serial").unchunked()).unwrap();
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines.len(), 1031);
    assert!(lines[1].starts_with("MU-001030,") && lines[1030].starts_with("MU-000001,"), "{}", lines[1]);
    let json = http.get("/devices.json?sort=-serial&filter=state:registered");
    assert_eq!(json.header("content-type"), Some("application/json"));
    let json: serde_json::Value = serde_json::from_slice(&json.unchunked()).unwrap();
    assert_eq!((&json["schema"], &json["next"]), (&"muster.device.list/1".into(), &serde_json::Value::Null));
    let items = json["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["serial"]), (1030, &"MU-001030".into()));
    assert_eq!(items[1029]["serial"], "MU-000001");
    assert_eq!(http.get("/devices.csv?filter=colour:red").status, 400);
    let none: serde_json::Value =
        serde_json::from_slice(&http.get("/devices.json?filter=state:revoked").unchunked()).unwrap();
    assert_eq!(none["items"], serde_json::json!([]));
}

/// The form for labels on everything a filter selects: words, a plan bound to the devices, the job.
#[test]
fn labels_are_written_on_all_that_match_from_a_form() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001", "MU-000002", "MU-000003"]);
    let http = Http::new(&server);
    let page = |path: &str| String::from_utf8(http.get(path).body).unwrap();
    assert!(page("/devices?filter=batch%3AB-0001").contains("<option value=\"label\">"));
    let asked = page("/acts/all?act=label&filter=batch%3AB-0001");
    for name in ["add_tags", "remove_tags", "add_groups", "remove_groups", "reason"] {
        assert!(asked.contains(&format!("name=\"{name}\"")), "{name}");
    }
    assert!(!page("/acts/all?act=suspend&filter=batch%3AB-0001").contains("add_tags"));
    let send = |body: &str| {
        let form = "content-type: application/x-www-form-urlencoded\r\n";
        http.ask("POST", "/acts/all", form, body.as_bytes())
    };
    let nothing = send("act=label&filter=batch%3AB-0001&reason=moved");
    assert_eq!(nothing.status, 400, "{}", nothing.head);
    let words =
        "act=label&filter=batch%3AB-0001&add_tags=Line+2%2C+%3Cb%3Espare&add_groups=north&reason=moved";
    let planned = send(words);
    assert_eq!(planned.status, 200, "{}", planned.head);
    let planned = String::from_utf8(planned.body).unwrap();
    assert!(planned.contains("Line 2, &#60;b&#62;spare") && planned.contains("3 devices"), "{planned}");
    let confirm = planned.split("name=\"confirm\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let done = send(&format!("{words}&confirm={confirm}"));
    assert_eq!(done.status, 303, "{}", done.head);
    let path = format!("/v1{}", done.header("location").unwrap());
    rig::eventually("the job", || http.get(&path).is(200), |job| job["ended"] == true);
    let labels = http.get("/v1/devices/MU-000003").is(200)["labels"].clone();
    assert_eq!(labels["tags"], serde_json::json!(["<b>spare", "line 2"]), "{labels}");
    assert_eq!(labels["groups"], serde_json::json!(["north"]));
}
