//! A small fleet that requests can be about, and what a description cannot say: which names there are, and what
//! must be sent to what.

use std::collections::{BTreeMap, VecDeque};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::{
    answer::Answered,
    ask::{Ask, Body, Dice, In, Operation, Parameter, encoded},
    rig::{Server, device::Device, http::Http},
};

/// Tokens of everybody who asks, so that each asks less than one may.
const TOKENS: usize = 6;
/// Cursors that are remembered of an operation.
const CURSORS: usize = 4;
const REASON: &str = "a reason of ten";

pub(crate) struct Fleet {
    pub(crate) http: Http,
    /// As who is about to ask: a plan is confirmed by whoever made it.
    asking: Http,
    serials: Vec<String>,
    manifest: Vec<u8>,
    record: Vec<u8>,
    /// Certificates that stand in no manifest.
    unknown: Vec<Vec<u8>>,
    certificates: Vec<String>,
    /// By operation: where its next page began.
    cursors: BTreeMap<String, VecDeque<String>>,
    jobs: Vec<String>,
    commands: Vec<String>,
    online: Option<Device>,
    made: usize,
    /// What is made for one request alone, by what it is, for those that only seem sound.
    spare: BTreeMap<&'static str, String>,
}

impl Fleet {
    pub(crate) fn new(server: &Server) -> Self {
        let serials: Vec<String> = (1..=12).map(|n| format!("MU-{n:06}")).collect();
        let names: Vec<&str> = serials.iter().map(String::as_str).collect();
        let devices = server.with_devices("B-0001", &names);
        server.with_devices("B-0002", &["MU-010001", "MU-010002"]);
        let place = server.place();
        let online = Device::connect(server, &devices[0]);
        let readings = br#"{"temperature":21.5,"<b>":1}"#;
        online.publish("acme/MU-000001/telemetry/env", false, readings, Some("application/json"));
        let http = Http::new(server);
        let mut job = json!({ "act": "suspend", "filter": "serial:MU-000012", "reason": REASON });
        job["confirm"] = http.post("/v1/jobs/plan", &job).is(200)["confirm"].clone();
        let job = http.post("/v1/jobs", &job).is(202)["job"].as_str().unwrap().to_owned();
        let sent = http.post("/v1/devices/MU-000001/command", &json!({ "payload": "blink" })).is(200);
        Self {
            asking: http.with(""),
            http,
            manifest: std::fs::read(place.dir.path().join("B-0001.muster")).unwrap(),
            record: place.hierarchy.stations[0].record_file.clone(),
            unknown: place
                .devices(&["MU-000101", "MU-000102"])
                .iter()
                .map(|of| of.chain[0].clone())
                .collect(),
            certificates: devices.iter().map(|of| of.identity().id.to_string()).collect(),
            serials,
            cursors: BTreeMap::new(),
            jobs: vec![job],
            commands: vec![sent["command_id"].as_str().unwrap().to_owned()],
            online: Some(online),
            made: 0,
            spare: BTreeMap::new(),
        }
    }

    /// Tokens of somebody new.
    pub(crate) fn tokens(&self, operator: &str, role: &str, tenant: Option<&str>) -> Vec<String> {
        let ask = json!({ "operator": operator, "role": role, "tenant": tenant, "days": 1 });
        let made = (0..TOKENS)
            .map(|_| self.http.post("/v1/tokens", &ask).is(200)["token"].as_str().unwrap().to_owned());
        made.collect()
    }

    /// Who asks next.
    pub(crate) fn asks(&mut self, token: Option<&str>) {
        self.asking = self.http.with(token.unwrap_or_default());
    }

    /// Nobody is connected any more.
    pub(crate) fn leave(&mut self) {
        self.online = None;
    }

    /// Remembers what later requests can name.
    pub(crate) fn learn(&mut self, operation: &Operation, answered: &Answered) {
        if answered.status >= 300 {
            return;
        }
        let document = answered.json();
        if let Some(next) = document["next"].as_str() {
            let cursors = self.cursors.entry(operation.id.clone()).or_default();
            cursors.push_back(next.to_owned());
            if cursors.len() > CURSORS {
                cursors.pop_front();
            }
        }
        for (list, name) in [(&mut self.jobs, "job"), (&mut self.commands, "command_id")] {
            list.extend(document[name].as_str().map(str::to_owned));
        }
    }

    /// A request as it is meant to be, if its turn finds things as they were. Without a turn it is to be spoilt.
    pub(crate) fn sound(&mut self, operation: &Operation, turn: Option<usize>, dice: &mut Dice) -> Ask {
        let mut ask = Ask {
            method: operation.method.clone(),
            path: operation.path.clone(),
            said: "sound".to_owned(),
            ..Ask::default()
        };
        for parameter in operation.parameters.iter().filter(|of| of.within == In::Path) {
            let value = self.in_path(operation, parameter, turn, dice);
            ask.in_path.push((parameter.name.clone(), encoded(&value)));
        }
        for parameter in operation.parameters.iter().filter(|of| of.within == In::Query) {
            // The first time nothing that may be left out, then some of it.
            if parameter.required || (turn != Some(0) && dice.below(3) == 0) {
                let value = self.in_query(operation, &parameter.name, dice);
                if let Some(value) = value {
                    ask.set_query(&parameter.name, &encoded(&value));
                }
            }
        }
        match &operation.body {
            Body::Nothing => {}
            Body::Json(_) => {
                ask.body = self.document(operation, &ask, turn, dice).to_string().into_bytes();
                ask.set_header("content-type", b"application/json");
            }
            Body::Raw(media) => {
                ask.body = self.raw(operation, dice);
                ask.set_header("content-type", media.as_bytes());
            }
        }
        ask
    }

    fn in_path(
        &mut self,
        operation: &Operation,
        parameter: &Parameter,
        turn: Option<usize>,
        dice: &mut Dice,
    ) -> String {
        if let Some(words) = parameter.schema["enum"].as_array() {
            return words[turn.unwrap_or_else(|| dice.below(words.len())) % words.len()]
                .as_str()
                .unwrap()
                .to_owned();
        }
        let serials: Vec<&str> = self.serials.iter().map(String::as_str).collect();
        let one = |all: &[String], dice: &mut Dice| match all.len() {
            0 => "none".to_owned(),
            n => all[dice.below(n)].clone(),
        };
        match (&*parameter.name, &*operation.path) {
            // Whoever is connected is asked about first.
            ("serial" | "device", _) if turn == Some(0) => serials[0].to_owned(),
            ("serial" | "device", _) => dice.of(&serials).to_owned(),
            // Those that are taken out of use are not those the other requests are about.
            ("batch", path) if path.ends_with("{act}") => "B-0002".to_owned(),
            ("batch", _) => "B-0001".to_owned(),
            ("station" | "ca", _) => "S-08".to_owned(),
            ("tenant", _) => "other".to_owned(),
            ("id", path) if path.starts_with("/v1/certificates") => one(&self.certificates, dice),
            ("id", path) if path.starts_with("/v1/jobs") => one(&self.jobs, dice),
            ("id", path) if path.starts_with("/v1/tokens") => self.token_id(turn),
            ("id", _) => one(&self.commands, dice),
            ("name", path) if path.starts_with("/v1/authorities") => {
                dice.of(&["operational", "service", "operator"]).to_owned()
            }
            ("name", path) if path.starts_with("/v1/crl") => dice.of(&["operational", "service"]).to_owned(),
            ("name", _) => self.operator(turn),
            (name, path) => panic!("say here what {name} is in {path}"),
        }
    }

    /// What is used up by a request: made now where the turn is a sound request's, the last one otherwise.
    fn used_up(
        &mut self,
        what: &'static str,
        turn: Option<usize>,
        make: impl FnOnce(&mut Self) -> String,
    ) -> String {
        if turn.is_none()
            && let Some(made) = self.spare.get(what)
        {
            return made.clone();
        }
        let made = make(self);
        self.spare.insert(what, made.clone());
        made
    }

    /// The name of an operator who was made for this.
    fn operator(&mut self, turn: Option<usize>) -> String {
        self.used_up("operator", turn, |fleet| {
            fleet.made += 1;
            let name = format!("acme/op-{}", fleet.made);
            fleet.http.post("/v1/operators", &json!({ "name": name, "role": "viewer" })).is(200);
            name
        })
    }

    fn token_id(&mut self, turn: Option<usize>) -> String {
        self.used_up("token", turn, |fleet| {
            let ask = json!({ "operator": "spare", "role": "viewer", "days": 1 });
            fleet.http.post("/v1/tokens", &ask).is(200)["id"].as_str().unwrap().to_owned()
        })
    }

    fn link(&mut self, turn: Option<usize>) -> String {
        self.used_up("link", turn, |fleet| {
            let name = fleet.operator(turn);
            let path = format!("/v1/operators/{}/invite", encoded(&name));
            fleet.http.post(&path, &json!({})).is(200)["path"].as_str().unwrap().to_owned()
        })
    }

    fn in_query(&self, operation: &Operation, name: &str, dice: &mut Dice) -> Option<String> {
        let filters = [
            "state:active",
            "-state:revoked MU-0000",
            "online:yes",
            "seen:<1d",
            "expires:never",
            "refused:>0",
            "firmware:unknown",
            "batch:B-0001 product:TH-2",
            "tag:a",
            "acme",
        ];
        let one: &[&str] = match (name, &*operation.path) {
            ("after", "/v1/audit" | "/v1/jobs/{id}/rows") => &["0", "1", "100000"],
            ("after", _) => {
                let cursors = self.cursors.get(&operation.id)?;
                return Some(cursors[dice.below(cursors.len())].clone());
            }
            ("limit", _) => &["1", "2", "1000", "4294967295"],
            ("filter", "/v1/stream") => {
                &["kind:change", "kind:message topic:acme/+/telemetry/#", "MU-000001"]
            }
            ("filter", _) => &filters,
            ("sort", _) => &["serial", "-serial", "seen", "attention"],
            ("order", _) => &["newest", "oldest"],
            ("kind", _) => &["decision", "session", "refusal"],
            ("since" | "from", _) => &["2026-01-01T00:00:00Z", "1970-01-01T00:00:00Z"],
            ("until" | "to", _) => &["2099-01-01T00:00:00Z"],
            ("actor", _) => &["admin", "server"],
            ("action", _) => &["device.suspend", "batch.import"],
            ("target", _) => &["MU-000001", "B-0001"],
            ("checkpoint_no", _) => &["1", "0"],
            ("checkpoint_digest", _) => &["00"],
            ("sequence", _) => &["1", "0"],
            ("status", _) => &["active", "revoked"],
            ("issuer", _) => &["00", "abcdef"],
            ("ends_days", _) => &["30", "4294967295"],
            ("buckets", _) => &["1", "1200"],
            ("range", _) => &["1h", "30d"],
            ("sensor", _) => &["temperature", "env/temperature,none"],
            ("certificate", _) => {
                return Some(self.certificates[dice.below(self.certificates.len())].clone());
            }
            ("topic", _) => &["acme/MU-000001/telemetry/x", "#", "$SYS/x"],
            ("verb", _) => &["publish", "subscribe"],
            ("reason", _) => &[REASON],
            ("replace" | "dry_run", _) => &["true", "false"],
            ("outcome", _) => &["done", "failed"],
            ("batch", _) => &["B-0009"],
            ("product", _) => &["TH-2", ""],
            (name, path) => panic!("say here what {name} is in {path}"),
        };
        Some(dice.of(one).to_owned())
    }

    fn document(&mut self, operation: &Operation, ask: &Ask, turn: Option<usize>, dice: &mut Dice) -> Value {
        let in_path =
            |name: &str| ask.in_path.iter().find(|(of, _)| of == name).map_or("", |(_, value)| &**value);
        match &*operation.path {
            "/v1/devices/{serial}/{act}" => match in_path("act") {
                act @ ("revoke" | "decommission") => {
                    let code = if act == "revoke" { json!("superseded") } else { Value::Null };
                    json!({ "reason": REASON, "reason_code": code, "confirm": in_path("serial") })
                }
                _ => json!({ "reason": REASON }),
            },
            path if path.ends_with("/{act}") => {
                let (_, name) = &ask.in_path[0];
                let last = matches!(in_path("act"), "revoke" | "withdraw");
                let code = if last { json!("superseded") } else { Value::Null };
                json!({ "reason": REASON, "reason_code": code, "confirm": name, "dry_run": dice.below(2) == 0 })
            }
            "/v1/devices/{serial}/command" => json!({ "payload": "reboot", "reason": REASON }),
            "/v1/devices/{serial}/labels" => json!({
                "add_tags": ["a", "b"], "remove_tags": ["c"], "add_groups": ["g"], "remove_groups": [], "note": "n",
            }),
            "/v1/devices/{serial}/replace" => {
                let successor = &self.serials[dice.below(self.serials.len())];
                let dry_run = dice.below(2) == 0;
                json!({ "successor": successor, "reason": REASON, "confirm": in_path("serial"), "dry_run": dry_run })
            }
            "/v1/devices/{serial}/twin" => json!({ "period_s": dice.below(100), "<b>": "&amp;" }),
            "/v1/jobs/plan" => self.many(dice),
            "/v1/jobs" => {
                let mut many = self.many(dice);
                if turn.is_some() {
                    many["confirm"] = self.asking.post("/v1/jobs/plan", &many).json()["confirm"].clone();
                }
                many
            }
            "/v1/login" => {
                json!({ "link": self.link(turn) })
            }
            "/v1/config/retention" => {
                let key = dice.of(&["retention.uplink_days", "retention.sessions_days"]);
                json!({ "key": key, "value": 30 + dice.below(300), "reason": REASON })
            }
            "/v1/authorities/{name}/rotate" => json!({ "reason": REASON, "dry_run": dice.below(2) == 0 }),
            "/v1/operators" => json!({ "name": format!("acme/new-{}", dice.word()), "role": "viewer" }),
            "/v1/operators/{name}/role" => json!({ "role": "operator", "reason": REASON }),
            "/v1/operators/{name}/remove" | "/v1/operators/{name}/invite" | "/v1/tokens/{id}/revoke" => {
                json!({ "reason": REASON })
            }
            "/v1/tokens" => {
                json!({ "operator": "spare", "name": "t", "role": "viewer", "tenant": "acme", "days": 1 })
            }
            path => panic!("say here what is sent to {path}"),
        }
    }

    /// An act on one device, by a filter.
    fn many(&self, dice: &mut Dice) -> Value {
        let serial = &self.serials[dice.below(self.serials.len())];
        json!({ "act": dice.of(&["suspend", "resume", "disconnect"]), "filter": format!("serial:{serial}"), "reason": REASON })
    }

    fn raw(&mut self, operation: &Operation, dice: &mut Dice) -> Vec<u8> {
        match &*operation.path {
            "/v1/batches" => self.manifest.clone(),
            "/v1/stations" => self.record.clone(),
            "/v1/import" => {
                let der = &self.unknown[dice.below(self.unknown.len())];
                let line = json!({ "certificate": base64::engine::general_purpose::STANDARD.encode(der) });
                format!("{line}\n").into_bytes()
            }
            path => panic!("say here what is sent to {path}"),
        }
    }
}

#[test]
fn a_text_is_encoded_as_an_address_holds_it() {
    assert_eq!(encoded("acme/a é"), "acme%2Fa%20%C3%A9");
}
