//! Tenants never see each other, whatever is asked: every route that is read and every page, with generated names,
//! filters, orders and cursors, is answered as if the other tenant were not there; and with names and cursors that
//! only the other one could have, nothing of theirs is told.

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

/// What the other tenant has, by name.
const SERIALS: [&str; 2] = ["OT-0001", "OT-0002"];
const BATCH: &str = "B-OTHER";
const OPERATOR: &str = "other/bob";
/// Requests of each round.
const REQUESTS: usize = 600;
/// What a run is repeated by.
const SEED: u64 = 0x6d75_7374_6572;

/// Numbers in a row that look like chance (xorshift64).
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }

    fn of<'a>(&mut self, words: &'a [String]) -> &'a str {
        &words[self.next(words.len())]
    }
}

/// A route that is read: its path with `{parameters}`, and what its query takes.
struct Route {
    path: String,
    query: Vec<String>,
}

/// Every route of the API that is read, as the served document has them, and every page.
fn routes(admin: &Http) -> Vec<Route> {
    let document = admin.get("/v1/openapi.json").is(200);
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let get = &methods["get"];
        // An event stream does not end; it is looked at by itself.
        if get.is_null() || path.contains("stream") || path.contains("events") {
            continue;
        }
        let of_query = |of: &&Value| of["in"] == "query";
        let parameters = get["parameters"].as_array().into_iter().flatten().filter(of_query);
        let query = parameters.map(|of| of["name"].as_str().unwrap().to_owned()).collect();
        all.push(Route { path: path.clone(), query });
    }
    let api = all.len();
    // The pages' own list: what is added there is asked here.
    for line in include_str!("../src/api/page/routes.rs").lines().filter(|line| line.contains("get(")) {
        let path = line.split('"').nth(1).unwrap().to_owned();
        // Whoever fails to sign in is made to wait, from one address: asked by its own tests.
        if path.starts_with("/once") {
            continue;
        }
        let query =
            ["filter", "after", "sort", "kind", "tab", "target", "actor", "topic", "s", "act", "check"];
        all.push(Route { path, query: query.map(str::to_owned).to_vec() });
    }
    assert!(api > 25 && all.len() > api + 20, "{api} routes, {} with the pages", all.len());
    all
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, octet| {
        match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(octet.into()),
            _ => out.push_str(&format!("%{octet:02X}")),
        }
        out
    })
}

/// What may stand in a parameter of this name.
fn words(name: &str, names: &[String]) -> Vec<String> {
    let of = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut all = match name {
        "filter" => of(&[
            "",
            "OT-0001",
            "batch:B-OTHER",
            "state:suspended",
            "tag:their-tag",
            "online:yes",
            "tenant:other",
            "colour:red",
        ]),
        "sort" => of(&["serial", "-serial", "attention", "-seen", "changed", "expires", "refused", "colour"]),
        "limit" => of(&["1", "2", "1000"]),
        "order" => of(&["newest", "oldest"]),
        "kind" => of(&["decision", "session", "refusal"]),
        "tab" => of(&["", "sessions", "certificates", "json"]),
        "action" => of(&["device.", "device.suspend", "operator.add"]),
        "act" => of(&["suspend", "revoke"]),
        "status" => of(&["active", "revoked"]),
        "topic" => of(&["other/OT-0001/app/x", "acme/MU-000001/app/x", "other/+/telemetry/#"]),
        "after" => of(&["1", "3", "999999", "OT-0001", "x"]),
        _ => Vec::new(),
    };
    if all.is_empty() || matches!(name, "filter" | "after" | "status") {
        all.extend(names.iter().cloned());
    }
    all
}

/// Requests, by chance: each route as often as any other.
fn requests(chance: &mut Chance, routes: &[Route], names: &[String], count: usize) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for n in 0..count {
        let route = &routes[n % routes.len()];
        let parts = route.path.split('/').map(|part| match part {
            _ if !part.starts_with('{') => part.to_owned(),
            "{act}" => "suspend".to_owned(),
            "{section}" => ["operators", "tokens", "trust", "about"][chance.next(4)].to_owned(),
            _ => encoded(chance.of(names)),
        });
        let mut path = parts.collect::<Vec<_>>().join("/");
        let mut sign = '?';
        for name in &route.query {
            if chance.next(3) == 0 {
                path.push_str(&format!("{sign}{name}={}", encoded(chance.of(&words(name, names)))));
                sign = '&';
            }
        }
        all.insert(path);
    }
    all
}

fn ask(http: &Http, path: &str) -> rig::http::Answer {
    loop {
        let answer = http.get(path);
        // How fast one may ask is everybody's own affair.
        if answer.status != 429 {
            return answer;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Every value of a document that is an id or a cursor.
fn ids(document: &Value, into: &mut BTreeSet<String>) {
    match document {
        Value::Object(fields) => {
            for (key, value) in fields {
                if let Some(text) = value.as_str().filter(|text| text.len() >= 6)
                    && ["next", "id", "job", "certificate_id", "command_id", "token", "digest"]
                        .contains(&&**key)
                {
                    into.insert(text.to_owned());
                }
                ids(value, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| ids(item, into)),
        _ => {}
    }
}

#[test]
fn whatever_is_asked_is_answered_as_if_nobody_else_were_here() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001", "MU-000002", "MU-000003"]);
    let admin = Http::new(&server);
    admin.post("/v1/devices/MU-000001/suspend", &json!({ "reason": "a reason of ten" })).is(200);
    admin.post("/v1/devices/MU-000002/labels", &json!({ "add_tags": ["ours"] })).is(200);
    let (ana, _) = token(&admin, "acme/ana", "security", None);
    let (zoe, _) = token(&admin, "zeta/zoe", "security", None);
    let hierarchy = &server.place().hierarchy;
    let station = hierarchy.stations.iter().find(|of| of.record.tenant.as_str() == "other").unwrap();
    let subject = |serial: &&str| testing::device(hierarchy, &testing::subject_of("other", serial), now_s());
    let devices: Vec<_> = SERIALS.iter().map(subject).collect();
    let certificate = devices[0].identity().id.to_string();
    let known: Vec<String> = [
        SERIALS[0],
        SERIALS[1],
        "other/OT-0001",
        BATCH,
        OPERATOR,
        "other",
        station.record.station.as_str(),
        &certificate,
        &hex::encode(station.record.factory.key_id()),
        "MU-000001",
        "acme/MU-000002",
        "B-0001",
        "acme",
    ]
    .map(str::to_owned)
    .to_vec();
    let routes = routes(&admin);
    let mut chance = Chance(SEED);
    let asked = requests(&mut chance, &routes, &known, REQUESTS);
    let tenants = [admin.with(&ana), admin.with(&zoe)];
    // What is drawn over time moves by itself; its figures are compared where they are documents.
    let compared = |path: &&String| *path != "/" && !path.starts_with("/?") && !path.contains("/readings");
    let round = |http: &Http| -> BTreeMap<String, (u16, Value)> {
        asked.iter().filter(compared).map(|path| (path.clone(), comparable(&ask(http, path)))).collect()
    };
    let before: Vec<_> = tenants.iter().map(round).collect();

    // Another tenant moves in, and much happens there.
    let manifest = server.place().manifest(BATCH, &devices);
    server.muster(&["batch", "import", manifest.to_str().unwrap()]).exits(0);
    let (bob, token_id) = token(&admin, OPERATOR, "security", None);
    let bob = admin.with(&bob);
    bob.post("/v1/devices/OT-0001/labels", &json!({ "add_tags": ["their-tag"], "note": "THEIR NOTE" }))
        .is(200);
    let live = rig::device::Device::connect(&server, &devices[0]);
    live.publish("other/OT-0001/twin/reported", true, b"{\"their-tag\":1}", Some("application/json"));
    bob.ask("PUT", "/v1/devices/OT-0001/twin", "content-type: application/json\r\n", b"{\"fan\":\"THEIRS\"}")
        .is(200);
    let act = json!({ "act": "suspend", "filter": "OT-0002", "reason": "THEIR REASON" });
    let plan = bob.post("/v1/jobs/plan", &act).is(200);
    let mut confirmed = act.clone();
    confirmed["confirm"] = plan["confirm"].clone();
    let job = bob.post("/v1/jobs", &confirmed).is(202);
    rig::eventually("the job", || bob.get("/v1/jobs").is(200), |jobs| jobs["items"][0]["ended"] == true);

    for (http, before) in tenants.iter().zip(&before) {
        let after = round(http);
        for (path, answer) in before {
            let after = &after[path];
            // A page that differs is told by its lines.
            if let (Value::Array(was), Value::Array(is)) = (&answer.1, &after.1) {
                for (was, is) in was.iter().zip(is) {
                    assert_eq!(is, was, "seed {SEED:#x}: {path}");
                }
            }
            assert_eq!(after, answer, "seed {SEED:#x}: {path}");
        }
    }

    // Names and cursors that only they could have.
    let mut theirs: BTreeSet<String> = [token_id, job["job"].as_str().unwrap().to_owned()].into();
    for route in routes.iter().filter(|route| !route.path.contains('{') && route.path.starts_with("/v1/")) {
        let limit = if route.query.iter().any(|name| name == "limit") { "?limit=1" } else { "" };
        let answer = ask(&bob, &format!("{}{limit}", route.path));
        // A refusal's `next` is what to do about it, and no cursor.
        if answer.status == 200 {
            ids(&answer.json(), &mut theirs);
        }
    }
    ids(&ask(&bob, "/v1/devices/OT-0001").json(), &mut theirs);
    // What both have: the root, the server's own.
    for http in &tenants {
        for path in [
            "/v1/authorities",
            "/v1/status",
            "/v1/certificates",
            "/v1/audit?limit=1000",
            "/v1/devices/MU-000001",
        ] {
            let mut own = BTreeSet::new();
            ids(&ask(http, path).json(), &mut own);
            theirs.retain(|id| !own.contains(id));
        }
    }
    assert!(theirs.len() > 8, "{theirs:?}");
    let mut names: Vec<String> = theirs.iter().cloned().collect();
    names.extend(known.iter().take(9).cloned());
    let secret = ["OT-000", "B-OTHER", "THEIR", "their-tag", "other/", &certificate];
    for path in requests(&mut chance, &routes, &names, REQUESTS) {
        for http in &tenants {
            let answer = ask(http, &path);
            assert!(answer.status < 500, "{path}: {}", answer.head);
            // What was said in the question may be said in the answer.
            let mut said = String::from_utf8_lossy(&answer.unchunked()).into_owned();
            let mut words: Vec<String> = names.clone();
            words.extend(
                ["their-tag", "tag:their-tag", "batch:B-OTHER", "other/+/telemetry/#", "other/OT-0001/app/x"]
                    .map(str::to_owned),
            );
            words.sort_by_key(|word| std::cmp::Reverse(word.len()));
            for word in words.iter().filter(|word| path.contains(&encoded(word))) {
                said = said.replace(word.as_str(), "").replace(&encoded(word), "");
                said = said.replace(&word.replace('/', "&#47;"), "");
            }
            let said = said.replace("another/", "").replace("any other/", "");
            for word in secret.iter().map(|word| (*word).to_owned()).chain(theirs.iter().cloned()) {
                let bare = path.contains(&encoded(&word)) || path.contains(&word);
                assert!(bare || !said.contains(&word), "seed {SEED:#x}: {path} tells {word}");
            }
        }
    }
}

#[test]
fn a_stream_carries_nothing_of_another_tenant_whatever_it_goes_on_from() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001"]);
    let admin = Http::new(&server);
    let (ana, _) = token(&admin, "acme/ana", "security", None);
    let devices =
        vec![testing::device(&server.place().hierarchy, &testing::subject_of("other", SERIALS[0]), now_s())];
    let manifest = server.place().manifest(BATCH, &devices);
    server.muster(&["batch", "import", manifest.to_str().unwrap()]).exits(0);
    let (bob, _) = token(&admin, OPERATOR, "security", None);
    let (ana, bob) = (admin.with(&ana), admin.with(&bob));
    let theirs = |act: &str| {
        bob.post(&format!("/v1/devices/OT-0001/{act}"), &json!({ "reason": "THEIR REASON" })).is(200);
    };
    let mut watched = bob.events("/v1/stream", "");
    theirs("suspend");
    let event = watched.next_of("change");
    let cursor = event.id.or(watched.last_id.clone()).unwrap();
    for path in [
        "/v1/stream".to_owned(),
        format!("/v1/stream?after={}", encoded(&cursor)),
        format!("/v1/stream?filter={}", encoded("kind:change OT-0001")),
        format!("/v1/stream?filter={}", encoded("topic:other/#")),
    ] {
        let mut events = ana.events(&path, "");
        if events.status() != 200 {
            // A topic of theirs is no topic there is.
            continue;
        }
        theirs("resume");
        let live = rig::device::Device::connect(&server, &devices[0]);
        live.publish("other/OT-0001/app/x", false, b"THEIR MESSAGE", None);
        live.leave();
        theirs("suspend");
        // One of their own comes behind it, where nothing is filtered; else silence.
        let own = !path.contains("filter");
        ana.post("/v1/devices/MU-000001/suspend", &json!({ "reason": "a reason of ten" })).is(200);
        ana.post("/v1/devices/MU-000001/resume", &json!({ "reason": "a reason of ten" })).is(200);
        events.patience(std::time::Duration::from_secs(if own { 60 } else { 2 }));
        let mut seen = false;
        while let Some(event) = events.next() {
            let said = format!("{} {}", event.kind, event.data);
            assert!(!said.contains("OT-0001") && !said.contains("THEIR"), "{path}: {said}");
            seen = said.contains("MU-000001") && said.contains("resume");
            if seen {
                break;
            }
        }
        assert_eq!(seen, own, "{path}");
    }
}
