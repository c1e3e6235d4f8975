//! Every refusal says the same on every surface: command line, API, web page, record of what happened, device
//! log, and the factory's screen. What it says stands in `shared/errors.toml`, which these tests read themselves.
//!
//! First code by code, by the code that renders each surface; then some of them brought about for real, with our
//! firmware at the door of the real server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../born/mod.rs"]
mod born;
mod programs;
#[path = "../../../server/tests/rig/mod.rs"]
mod rig;

use std::{collections::BTreeMap, fs, path::Path};

use muster_firmware::log::Cause;
use muster_hil::workspace::Workspace;
use muster_provisioning::{
    fault::Fault,
    screen::{Manner, Result, Screen},
    station::{Failure, Outcome, Step},
};
use muster_server::{
    api::{error::Problem, page_of_refusal},
    cli,
    edge::mqtt,
    registry::timeline,
};
use muster_shared::Code;
use serde::Deserialize;
use serde_json::{Value, json};

const SERIAL: &str = "MU-000001";

/// A row of the file.
#[derive(Debug, Clone, Deserialize)]
struct Row {
    name: String,
    words: String,
    next: String,
    #[serde(default = "one")]
    exit: u8,
    #[serde(default = "internal")]
    http: u16,
    #[serde(default)]
    mqtt: u8,
    device: Option<OnDevice>,
}

#[derive(Debug, Clone, Deserialize)]
struct OnDevice {
    phase: String,
    words: String,
    act: String,
    retry_s: Option<(u16, u16)>,
}

fn one() -> u8 {
    1
}

fn internal() -> u16 {
    500
}

impl Row {
    /// The next step for a device.
    fn next_for(&self, serial: &str) -> String {
        self.next.replace("{}", serial)
    }

    /// What a device's log says of it, up to what the device does: without the alert it usually comes with.
    fn logged(&self, id: &str) -> String {
        let device = self.device.as_ref().unwrap();
        let words = device.words.split(" (alert ").next().unwrap();
        format!("muster {} {id} {words}", device.phase)
    }
}

/// The file, by code.
fn file() -> BTreeMap<String, Row> {
    let path = Workspace::find().unwrap().root.join("shared/errors.toml");
    toml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Markup as it is read: the entities that a template writes.
fn read(html: &str) -> String {
    [("&#34;", "\""), ("&#39;", "'"), ("&#60;", "<"), ("&#62;", ">"), ("&#38;", "&")]
        .iter()
        .fold(html.to_owned(), |text, (entity, sign)| text.replace(entity, sign))
}

fn document(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn every_row_of_the_file_is_a_code_and_every_code_a_row() {
    let file = file();
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.id()).collect();
    assert_eq!(codes, file.keys().collect::<Vec<_>>());
    for (id, row) in &file {
        let entry = id.parse::<Code>().unwrap().entry();
        assert_eq!((entry.words, entry.next), (&*row.words, &*row.next), "{id}");
        assert_eq!((entry.exit, entry.http, entry.mqtt), (row.exit, row.http, row.mqtt), "{id}");
        let device = entry.device.map(|of| (of.phase, of.words, of.act, of.retry_s));
        let expected = row.device.as_ref().map(|of| (&*of.phase, &*of.words, &*of.act, of.retry_s));
        assert_eq!(device, expected, "{id}");
    }
}

#[test]
fn on_the_command_line_every_code_has_the_file_s_words_and_next_step() {
    for (id, row) in file() {
        let problem = Problem::new(id.parse().unwrap()).serial(SERIAL);
        let next = row.next_for(SERIAL);
        assert_eq!(cli::refusal(&problem, false), format!("error[{id}] {}\n  next   {next}\n", row.words));
        let said = document(&cli::refusal(&problem, true));
        let expected = json!({
            "schema": "muster.error/1", "code": id, "what": row.words, "where": null, "why": null,
            "next": next, "exit": row.exit, "request_id": null,
        });
        assert_eq!(said, expected);
    }
}

#[test]
fn in_the_api_every_code_has_the_file_s_words_and_next_step_and_the_command_line_reads_them_back() {
    for (id, row) in file() {
        let problem = Problem::new(id.parse().unwrap()).serial(SERIAL);
        let written = problem.to_document();
        let expected = json!({
            "type": format!("urn:muster:error:{id}"), "title": row.words, "status": row.http,
            "detail": row.words, "code": id, "what": row.words, "where": null, "why": null,
            "next": row.next_for(SERIAL), "exit": row.exit, "request_id": null,
        });
        assert_eq!(document(&written), expected);
        assert_eq!(Problem::from_document(written.as_bytes()), Some(problem), "{id}");
    }
}

#[test]
fn on_the_page_every_code_has_the_file_s_words_and_next_step() {
    for (id, row) in file() {
        let problem = Problem::new(id.parse().unwrap()).serial(SERIAL);
        let page = read(&page_of_refusal(&problem).unwrap());
        is_on(&page, &id, &row.words, &row.next_for(SERIAL));
    }
}

/// A page of a refusal says these three where a person looks for them.
#[track_caller]
fn is_on(page: &str, id: &str, what: &str, next: &str) {
    assert!(page.contains(&format!("<h1>{what}</h1>")), "{id} {what}: {page}");
    assert!(page.contains(&format!("<dt>next</dt><dd>{next}</dd>")), "{id} {next}: {page}");
    assert!(page.contains(&format!("<dt>code</dt><dd class=\"mono\">{id}")), "{id}: {page}");
}

#[test]
fn on_the_record_and_on_the_wire_every_code_has_the_file_s_words_and_a_device_reads_the_code_back() {
    for (id, row) in file() {
        let code: Code = id.parse().unwrap();
        let event = timeline::refused_at(code, 0, 1, None, "");
        assert_eq!((event.code, event.text), (Some(code), format!("refused [{id}] {}", row.words)));
        let reason = mqtt::reason(code);
        assert_eq!(reason, format!("{id} {}", row.words));
        assert_eq!(Code::from_reason(&reason), Some(code));
    }
}

#[test]
fn in_the_device_log_every_code_that_a_device_meets_has_the_file_s_words_and_act() {
    let mut met = 0;
    for (id, row) in file() {
        let Some(device) = &row.device else { continue };
        met += 1;
        let line = Cause::of(id.parse().unwrap()).line(&device.act);
        assert_eq!(*line, format!("{} | {}", row.logged(&id), device.act));
        // What MQTT carries reaches a device, or a client that is none: never with a code that says nothing.
        assert!(row.mqtt == 0 || row.mqtt >= 0x80, "{id} {:#x}", row.mqtt);
    }
    assert!(met > 20, "{met}");
}

#[test]
fn at_the_factory_every_code_has_the_file_s_words_and_next_step() {
    for (id, row) in file() {
        let code: Code = id.parse().unwrap();
        let fault = Fault::new(code, "port P1");
        let said = format!("error[{id}] {}\n  where  port P1\n  next   {}", row.words, row.next);
        assert_eq!(fault.to_string(), said);
        let json = document(&fault.json());
        assert_eq!((&json["code"], &json["what"]), (&json!(id), &json!(row.words)));
        assert_eq!((&json["next"], &json["exit"]), (&json!(row.next), &json!(row.exit)));
        // A unit that failed, on the screen beside the line: only a station's own codes are said there.
        if id.starts_with('E') {
            on_the_screen(code, &id, &row);
        }
    }
}

fn on_the_screen(code: Code, id: &str, row: &Row) {
    let failure = Failure { code, step: Step::Prove, subject: None, detail: "x".into() };
    let result = Result { at: "2026-11-22T14:02:11Z".into(), outcome: Outcome::Fail(failure), ms: 4100 };
    let shown = |manner| {
        let mut out = Vec::new();
        Screen::new(manner, "P3").result(&mut out, &result).unwrap();
        String::from_utf8(out).unwrap()
    };
    // Without the frame's sides, and where it breaks lines.
    let frame = shown(Manner::Terminal { colour: false }).replace('▓', " ");
    let frame = frame.split_whitespace().collect::<Vec<_>>().join(" ");
    for said in [format!("FAIL unknown {id}"), row.words.clone(), format!("NEXT: {}", row.next)] {
        assert!(frame.contains(&said), "{id} {said}: {frame}");
    }
    assert!(shown(Manner::Lines).contains(&format!(" FAIL {id} ")), "{id}");
    assert_eq!(document(&shown(Manner::Json))["code"], id);
}

/// Sources of what we ship, without their tests.
fn sources() -> Vec<(String, String)> {
    const ROOMS: [&str; 9] = [
        "shared/src",
        "shared/pki/src",
        "server/src",
        "server/templates",
        "server/assets",
        "provisioning/src",
        "firmware/src",
        "firmware/boards",
        "firmware/sim/src",
    ];
    let root = Workspace::find().unwrap().root;
    let mut found = Vec::new();
    let mut open: Vec<_> = ROOMS.iter().map(|room| root.join(room)).collect();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let named = |name: &str| path.file_stem().is_some_and(|stem| stem == name);
            if path.is_dir() && !named("target") && !named("tests") {
                open.push(path);
            } else if is_text(&path) && !named("tests") && !named("testing") {
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
                found.push((path.display().to_string(), text));
            }
        }
    }
    assert!(found.len() > 100, "{}", found.len());
    found
}

fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|end| ["rs", "html", "js"].iter().any(|text| end == *text))
}

/// Words of letters, digits and `_`.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// As codes are written: a letter of a family, then three digits, or two.
fn is_code(word: &str) -> bool {
    let (family, number) = word.split_at_checked(1).unwrap_or_default();
    let digits = number.bytes().all(|octet| octet.is_ascii_digit());
    digits
        && match family {
            "M" => number.len() == 3,
            "E" => number.len() == 2,
            "N" | "T" => number.len() == 2 && number.starts_with('0'),
            _ => false,
        }
}

#[test]
fn every_code_is_used_and_every_code_that_is_spelled_out_is_in_the_file() {
    let (file, sources) = (file(), sources());
    let used: std::collections::BTreeSet<&str> = sources
        .iter()
        .flat_map(|(_, text)| text.split("Code::").skip(1).filter_map(|rest| words(rest).next()))
        .collect();
    for (id, row) in &file {
        assert!(used.contains(&*row.name), "nothing refuses with {id} {}", row.name);
    }
    for (path, text) in &sources {
        let unknown = words(text).find(|word| is_code(word) && !file.contains_key(*word));
        assert_eq!(unknown, None, "{path}");
    }
}
