//! Brought about for real: the server as it is shipped, its commands, its API and its page, and a device of our
//! firmware that it refuses.

use std::{net::SocketAddr, time::Duration};

use muster_hil::workspace::Workspace;
use muster_sim::{Config, Device, Fleet, Route};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    Row, SERIAL,
    born::provisioned,
    file, is_on, read,
    rig::{self, Server, http::Http},
};

const PATIENCE: Duration = Duration::from_secs(120);
const BATCH: &str = "B-0001";
const REASON: [&str; 2] = ["--reason", "a reason of ten"];

fn started() -> Server {
    let programs = Workspace::find().unwrap().programs().unwrap();
    rig::PROGRAM.get_or_init(|| programs.muster);
    Server::start()
}

/// One refusal, asked for in each way there is.
struct Asked {
    code: &'static str,
    /// The API's path, and a body where it is a POST.
    api: (&'static str, Option<Value>),
    command: &'static [&'static str],
    page: Option<&'static str>,
}

const NO_CERTIFICATE: &str =
    "/v1/certificates/0000000000000000000000000000000000000000000000000000000000000000";

fn asked() -> Vec<Asked> {
    let look = |code, api, command, page| Asked { code, api: (api, None), command, page };
    let act = |code, api, body, command| Asked { code, api: (api, Some(body)), command, page: None };
    vec![
        look("M208", "/v1/devices/MU-009999", &["device", "show", "MU-009999"], Some("/devices/MU-009999")),
        look("M407", "/v1/batches/B-9999", &["batch", "show", "B-9999"], Some("/batches/B-9999")),
        look(
            "M533",
            "/v1/jobs/j-0123456789abcdef",
            &["job", "show", "j-0123456789abcdef"],
            Some("/jobs/j-0123456789abcdef"),
        ),
        look(
            "M314",
            NO_CERTIFICATE,
            &["cert", "show", "0000000000000000000000000000000000000000000000000000000000000000"],
            None,
        ),
        act(
            "M203",
            "/v1/devices/MU-000001/resume",
            json!({ "reason": REASON[1] }),
            &["device", "resume", SERIAL, "--reason", "a reason of ten"],
        ),
        act(
            "M520",
            "/v1/tokens/t-none/revoke",
            json!({ "reason": REASON[1] }),
            &["token", "revoke", "t-none", "--reason", "a reason of ten"],
        ),
        act(
            "M213",
            "/v1/devices/MU-000001/revoke",
            json!({ "reason": REASON[1], "reason_code": "keyCompromise" }),
            &["device", "revoke", SERIAL, "--reason", "a reason of ten", "--reason-code", "keyCompromise"],
        ),
    ]
}

#[test]
fn what_an_operator_is_refused_is_said_the_same_by_a_command_the_api_and_the_page() {
    let (file, server) = (file(), started());
    server.with_devices(BATCH, &[SERIAL]);
    let http = Http::new(&server);
    for Asked { code, api: (path, body), command, page } in asked() {
        let row = &file[code];
        let answer = match &body {
            Some(body) => http.post(path, body),
            None => http.get(path),
        };
        let said = answer.refused(row.http, code);
        assert_eq!((&said["title"], &said["exit"]), (&json!(row.words), &json!(row.exit)), "{said}");
        let [what, next] = ["what", "next"].map(|key| said[key].as_str().unwrap().to_owned());
        assert_eq!(next, row.next_for(SERIAL), "{code}");

        let with_json = server.muster(&[command, &["--json"]].concat()).exits(row.exit.into()).error_json();
        for key in ["code", "what", "next", "exit"] {
            assert_eq!(with_json[key], said[key], "{code} {key}: {with_json}");
        }
        let text = server.muster(command).exits(row.exit.into()).refused(code).err;
        assert!(text.starts_with(&format!("error[{code}] {what}\n")), "{text}");
        assert!(text.ends_with(&format!("\n  next   {next}\n")), "{text}");

        if let Some(page) = page {
            let answer = http.get(page);
            assert_eq!(answer.status, row.http, "{code}: {}", answer.head);
            is_on(&read(&String::from_utf8(answer.body).unwrap()), code, &what, &next);
        }
    }
    // Who is not known at all: the page has its door in the way, and says so there.
    let row = &file["M501"];
    let said = http.with("muster_nobody").get("/v1/devices").refused(row.http, "M501");
    assert_eq!((&said["title"], &said["next"]), (&json!(row.words), &json!(row.next)));
    let row = &file["M521"];
    let door = http.with("").get("/once/nobody");
    let page = read(&String::from_utf8(door.body).unwrap());
    assert_eq!(door.status, row.http);
    assert!(page.contains("M521") && page.contains(&row.words) && page.contains(&row.next), "{page}");
}

/// A device, and the server that refuses it.
struct Refused<'a> {
    server: &'a Server,
    http: Http,
    device: &'a Device,
}

impl Refused<'_> {
    /// Its log says it, in the words it has for it.
    async fn is_told(&self, from: usize, id: &str, row: &Row) {
        let head = row.logged(id) + " ";
        let said = timeout(PATIENCE, self.device.log().wait_from(from, |line| line.starts_with(&head))).await;
        assert!(said.is_ok(), "no {head:?} in {:#?}", self.device.log().lines());
    }

    /// The record of it is the same wherever it is looked at: the device's line, its refusals, why it is not let
    /// in, by the API, a command and the page.
    fn is_recorded(&self, id: &str, row: &Row) {
        let line = format!("refused [{id}] {}", row.words);
        let text = |value: &Value| value["text"].as_str().unwrap().to_owned();
        let path = format!("/v1/devices/{SERIAL}/timeline");
        let timeline = rig::eventually(
            &line,
            || self.http.get(&path).is(200),
            |said| said["items"].as_array().unwrap().iter().any(|event| event["code"] == id),
        );
        let events = timeline["items"].as_array().unwrap();
        let event = events.iter().find(|event| event["code"] == id).unwrap();
        assert!(text(event).starts_with(&line), "{event}");

        let device = self.http.get(&format!("/v1/devices/{SERIAL}")).is(200);
        let refusals = device["refusals"].as_array().unwrap();
        let refusal = refusals.iter().find(|refusal| refusal["code"] == id);
        assert_eq!(refusal.unwrap_or_else(|| panic!("{device}"))["words"], row.words);

        let history = self.server.muster(&["device", "show", SERIAL, "--history"]).exits(0).out;
        assert!(history.contains(&line), "{history}");
        let page = self.page("");
        assert!(page.contains(&line), "{line}: {page}");
    }

    /// Why it is not let in, where that is asked.
    fn is_explained(&self, id: &str, row: &Row) {
        let next = row.next_for(SERIAL);
        let why = self.http.get(&format!("/v1/explain/{SERIAL}")).is(200);
        let said = [&why["code"], &why["words"], &why["next"]];
        assert_eq!(said, [&json!(id), &json!(row.words), &json!(next)], "{why}");
        let told = self.server.muster(&["device", "explain", SERIAL]).out;
        assert!(told.contains(id) && told.contains(&row.words) && told.contains(&next), "{told}");
        let page = self.page("/why");
        assert!(page.contains(id) && page.contains(&row.words) && page.contains(&next), "{page}");
    }

    fn page(&self, which: &str) -> String {
        let answer = self.http.get(&format!("/devices/{SERIAL}{which}"));
        read(&String::from_utf8(answer.body).unwrap())
    }

    fn decide(&self, act: &str, more: &[&str]) {
        self.server.muster(&[&["device", act, SERIAL][..], &REASON, more].concat()).exits(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_is_refused_with_is_in_its_log_and_on_every_record_of_it() {
    let (file, server) = (file(), started());
    let birth = server.place().devices(&[SERIAL]).remove(0);
    let flash = provisioned(&server.place().hierarchy, SERIAL, &birth).await;
    let mut config = Config::new(flash);
    config.route = Route::To(SocketAddr::from(([127, 0, 0, 1], server.mqtt_port)));
    let mut fleet = Fleet::start(1).unwrap();
    let device = fleet.spawn(config).await.unwrap();
    let refused = Refused { server: &server, http: Http::new(&server), device: &device };

    refused.is_told(0, "M202", &file["M202"]).await;
    // Nobody knows the device yet: what it claimed to be is what the record has.
    let exported = || -> Value {
        let lines = server.muster(&["export"]).exits(0).out;
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect()
    };
    let claimed = |of: &Value| of["kind"] == "refusal" && of["claimed"] == format!("acme/{SERIAL}");
    let of = |all: &Value| all.as_array().unwrap().iter().any(|of| claimed(of) && of["code"] == "M202");
    rig::eventually("M202 is on the record", exported, of);
    let manifest = server.place().manifest(BATCH, std::slice::from_ref(&birth));
    server.muster(&["batch", "import", manifest.to_str().unwrap()]).exits(0);
    let connected = device.log().wait_from(0, |line| line.starts_with("muster mqtt connected"));
    timeout(PATIENCE, connected).await.unwrap();

    let confirm = ["--reason-code", "keyCompromise", "--confirm", SERIAL];
    for (id, act, more, back) in [
        ("M201", "suspend", &[][..], Some("resume")),
        ("M205", "quarantine", &[], Some("release")),
        ("M302", "revoke", &confirm, None),
    ] {
        let (row, from) = (&file[id], device.log().len());
        refused.decide(act, more);
        refused.is_told(from, id, row).await;
        refused.is_explained(id, row);
        if let Some(back) = back {
            // It tries again, and is refused at the door.
            refused.is_recorded(id, row);
            let from = device.log().len();
            refused.decide(back, &[]);
            let connected = device.log().wait_from(from, |line| line.starts_with("muster mqtt connected"));
            timeout(PATIENCE, connected).await.unwrap();
        }
    }
    device.unplug().await.unwrap();
}
