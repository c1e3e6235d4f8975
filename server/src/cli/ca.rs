//! `muster ca …`: whom the server trusts, and the authorities whose keys it holds.

use std::path::Path;

use muster_shared::Code;
use serde_json::json;

use super::{
    Done,
    args::{Ca, Rotate, Trust},
    batch::{deliver, slurp},
    client::{Client, read},
    device::encode,
    group::{self, CA, STATION},
    screen::{Screen, Style, Text},
    table::{Column, thousands},
    whole::Whole,
    words,
};
use crate::api::{
    error::Problem,
    view::{self, Page, Rotation, Station, Trusted},
};

pub(super) fn run(verb: Ca, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    match verb {
        // `dispatch` does this one, which needs no server.
        Ca::Init(_) => Ok(Done::Well),
        Ca::List(narrow) => STATIONS.run(&narrow, client, screen),
        Ca::Trust(args) => trust(&args, client, screen),
        Ca::Rotate(args) => rotate(&args, client, screen),
        Ca::Withdraw(revoke) => group::revoke(CA, "withdraw", &revoke, client, screen),
        Ca::SuspendStation(hold) => group::hold(STATION, "suspend", &hold, client, screen),
        Ca::ResumeStation(hold) => group::hold(STATION, "resume", &hold, client, screen),
        Ca::QuarantineStation(hold) => group::hold(STATION, "quarantine", &hold, client, screen),
        Ca::ReleaseStation(hold) => group::hold(STATION, "release", &hold, client, screen),
        Ca::RevokeStation(revoke) => group::revoke(STATION, "revoke", &revoke, client, screen),
        Ca::Show { name } => authority(name.as_deref(), client, screen),
        Ca::Crl { name, out } => {
            let octets = client.get_raw(&format!("/v1/crl/{}", encode(&name)))?;
            deliver(&octets, out.as_deref(), screen)
        }
    }
}

fn authority(name: Option<&str>, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let document = client.get("/v1/authorities")?;
    let page: Page<view::Authority> = read(&document)?;
    let found: Vec<_> = page.items.iter().filter(|of| name.is_none_or(|name| of.name == name)).collect();
    if found.is_empty() {
        let all: Vec<_> = page.items.iter().map(|of| of.name.as_str()).collect();
        return Err(Problem::new(Code::CertificateUnknown)
            .what(format!("no authority {}", name.unwrap_or_default()))
            .next(format!("possible: {}", all.join(", "))));
    }
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(Done::Well);
    }
    for of in found {
        screen.pieces(&[
            Text::new(&of.name, Style::Bold),
            Text::plain(format!(" · {} authority · {}", of.purpose, of.subject)),
        ]);
        for line in fingerprint(&of.fingerprint) {
            screen.line(format!("  {line}"));
        }
        let ends = words::day(&of.not_after);
        let devices = of.devices.map(|count| format!(" · {} devices", thousands(count))).unwrap_or_default();
        screen.line(format!("  key {} at {} · ends {ends}{devices}", words::short(&of.key_id), of.key_at));
    }
    Ok(Done::Well)
}

/// A digest to compare by eye: four lines of four groups of four.
fn fingerprint(hex: &str) -> Vec<String> {
    let groups: Vec<String> =
        hex.as_bytes().chunks(4).map(|group| String::from_utf8_lossy(group).into_owned()).collect();
    groups.chunks(4).map(|line| line.join(" ")).collect()
}

const STATION_COLUMNS: &[Column<Station>] = &[
    Column { head: "STATION", wide: false, cell: |of, _| Text::plain(&of.station) },
    Column { head: "TENANT", wide: false, cell: |of, _| Text::plain(&of.tenant) },
    Column {
        head: "DEVICES",
        wide: false,
        cell: |of, _| Text::plain(format!("{} of {}", thousands(of.devices), thousands(of.quota))),
    },
    Column {
        head: "SERIALS",
        wide: false,
        cell: |of, _| Text::plain(format!("{} to {}", of.serial_first, of.serial_last)),
    },
    Column { head: "KEY", wide: false, cell: |of, _| Text::plain(words::short(&of.manifest_key)) },
    Column {
        head: "MANIFESTS",
        wide: false,
        cell: |of, _| match of.last_sequence {
            Some(no) => Text::plain(format!("up to no. {no}")),
            None => Text::new("none yet", Style::Quiet),
        },
    },
    Column {
        head: "NOTE",
        wide: false,
        cell: |of, _| match &of.stopped_why {
            Some(why) => Text::new(format!("stopped: {why}"), Style::Red),
            None => Text::new("nothing", Style::Quiet),
        },
    },
];

const STATIONS: Whole<Station> = Whole {
    path: "/v1/stations",
    noun: "station",
    columns: STATION_COLUMNS,
    name: |of| of.station.clone(),
    empty: "no stations yet. A station is registered by its root-signed record: muster ca trust FILE",
};

fn trust(args: &Trust, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let mut path = format!("/v1/stations?replace={}&dry_run={}", args.replace, args.dry_run);
    if let Some(reason) = &args.reason {
        path.push_str(&format!("&reason={}", encode(reason)));
    }
    let document =
        client.post_file(&path, &slurp(&args.file)?).map_err(|problem| named(problem, &args.file))?;
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(Done::Well);
    }
    let of: Trusted = read(&document)?;
    let how = match (of.already, of.dry_run, of.replaced.is_empty()) {
        (true, ..) => "was registered already, exactly so".to_owned(),
        (_, true, _) => "would be registered · dry run: nothing was decided".to_owned(),
        (_, _, true) => "is registered; its manifests can be imported".to_owned(),
        _ => format!("is registered anew; this differs from before: {}", of.replaced.join(", ")),
    };
    let mark = screen.glyph("✓", "ok");
    screen.line(format!("{mark} station {} {how}", of.station));
    for (what, is) in [
        ("tenant", of.tenant),
        ("serials", format!("{} to {}", of.serial_first, of.serial_last)),
        ("quota", thousands(of.quota)),
        ("factory CA", of.factory_ca),
        ("manifest key", of.manifest_key),
        ("signed", words::instant(&of.signed_at)),
    ] {
        screen.line(format!("  {what:<12} {is}"));
    }
    Ok(Done::Well)
}

/// A refusal that is about a file names it as the person knows it.
fn named(mut problem: Problem, file: &Path) -> Problem {
    problem.place = Some(file.display().to_string());
    problem
}

fn rotate(args: &Rotate, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let certificate = args.certificate.as_deref().map(slurp).transpose()?;
    let certificate = certificate.map(|octets| String::from_utf8_lossy(&octets).into_owned());
    let body = json!({ "reason": args.reason, "certificate": certificate, "dry_run": args.dry_run });
    let asked = client.post(&format!("/v1/authorities/{}/rotate", encode(&args.name)), &body);
    let document = asked.map_err(|problem| match &args.certificate {
        Some(file) => named(problem, file),
        None => problem,
    })?;
    let of: Rotation = read(&document)?;
    let request = of.request.as_deref().unwrap_or_default();
    if let Some(out) = args.out.as_deref().filter(|_| !args.dry_run) {
        deliver(request.as_bytes(), Some(out), screen)?;
    }
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(Done::Well);
    }
    if args.out.is_none() && !request.is_empty() {
        screen.raw(request.trim_end());
    }
    for line in told(&of) {
        if of.step == "ask" { screen.footer(line) } else { screen.line(line) }
    }
    Ok(Done::Well)
}

/// What was done, and what happens next.
fn told(of: &Rotation) -> Vec<String> {
    let subject = of.subject.as_deref().unwrap_or("the new authority");
    let key = of.key_id.as_deref().unwrap_or_default();
    let did = match (of.step.as_str(), of.dry_run, of.already) {
        ("ask", true, false) => "dry run: nothing was made".to_owned(),
        ("ask", _, true) => format!("{subject} was asked for already, and is not answered · key {key}"),
        ("ask", ..) => format!("{subject} is asked for; its key is made and stays here · key {key}"),
        (_, true, false) => {
            format!("{subject} would be installed · key {key} · dry run: nothing was decided")
        }
        (_, _, true) => format!("{subject} was installed already · key {key}"),
        _ => format!("{subject} is installed · key {key}"),
    };
    let mut lines = vec![did];
    if let Some(fingerprint) = &of.fingerprint {
        lines.push(format!("SHA-256 {fingerprint}"));
    }
    lines.push(format!("next: {}", of.next));
    lines
}
