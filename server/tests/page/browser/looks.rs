//! Every page, wide and narrow, light and dark: nothing from elsewhere, no complaint, no sideways scroll, and
//! what axe-core looks for. A picture of each is kept.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{clean, fleet};
use crate::{
    driver::Browser,
    rig::{Server, http::Http},
};

/// Every page there is, and what its picture is called.
const PAGES: &[(&str, &str)] = &[
    ("overview", "/"),
    ("devices", "/devices"),
    ("devices-columns", "/devices?cols=model,id,address&density=compact"),
    ("devices-none", "/devices?filter=batch%3AB-0001%20state%3Adecommissioned"),
    ("devices-filter-wrong", "/devices?filter=colour%3Ared"),
    ("device", "/devices/MU-000001"),
    ("device-suspended", "/devices/MU-000002"),
    ("device-hostile", "/devices/MU-000003"),
    ("device-revoked", "/devices/MU-000004"),
    ("device-readings", "/devices/MU-000001/readings"),
    ("device-sessions", "/devices/MU-000001?tab=sessions"),
    ("device-certificates", "/devices/MU-000001?tab=certificates"),
    ("device-json", "/devices/MU-000001?tab=json"),
    ("suspend", "/devices/MU-000001/suspend"),
    ("revoke", "/devices/MU-000001/revoke"),
    ("replace", "/devices/MU-000001/replace"),
    ("disconnect", "/devices/MU-000001/disconnect"),
    ("quarantine", "/devices/MU-000001/quarantine"),
    ("decommission", "/devices/MU-000001/decommission"),
    ("why", "/devices/MU-000002/why"),
    ("why-topic", "/devices/MU-000001/why?topic=acme%2Fmu-000001%2Fapp%2Fx"),
    ("several-undone", "/acts?act=suspend&s=acme%2FMU-000006&s=acme%2FMU-000004"),
    ("all", "/acts/all?act=suspend&filter=batch%3AB-0001"),
    ("all-final", "/acts/all?act=revoke&filter=batch%3AB-0001%20state%3Aregistered"),
    ("several", "/acts?act=revoke&s=acme%2FMU-000006&s=acme%2FMU-000004"),
    ("batches", "/batches"),
    ("batch", "/batches/B-0001"),
    ("certificates", "/certificates"),
    ("authorities", "/certificates/authorities"),
    ("certificates-revoked", "/certificates/revoked"),
    ("audit", "/audit?check=1"),
    ("operators", "/settings/operators"),
    ("tokens", "/settings/tokens"),
    ("trust", "/settings/trust"),
    ("limits", "/settings/limits"),
    ("keep", "/settings/keep"),
    ("about", "/settings/about"),
    ("no-such-device", "/devices/MU-999999"),
    ("no-such-page", "/nothing"),
];

/// Forms that open over a page: the page, and what opens them.
const DIALOGS: &[(&str, &str, &str)] = &[
    ("dialog-suspend", "/devices/MU-000001", "a[data-dialog][href$='/suspend']"),
    ("dialog-disconnect", "/devices/MU-000001", "a[data-dialog][href$='/disconnect']"),
];

/// Pages whose address this run makes: a job, and a link that lets somebody in.
fn made(server: &Server) -> Vec<(String, String)> {
    let act = ["device", "quarantine", "--filter", "MU-000059", "--reason", "seen twice", "--json"];
    let plan = server.muster(&[&act[..], &["--dry-run"]].concat()).exits(0).json();
    let confirm = plan["confirm"].as_str().unwrap().to_owned();
    let job = server.muster(&[&act[..], &["--confirm", &confirm]].concat()).exits(0).json();
    let http = Http::new(server);
    http.post("/v1/operators", &json!({ "name": "zoe", "role": "viewer" })).is(200);
    let link = http.post("/v1/operators/zoe/invite", &json!({})).is(200);
    let token = http.get("/v1/tokens").is(200)["items"][0]["id"].as_str().unwrap().to_owned();
    let path = |of: &Value| of.as_str().unwrap().to_owned();
    vec![
        ("login".to_owned(), "/login".to_owned()),
        ("once".to_owned(), path(&link["path"])),
        ("job".to_owned(), format!("/jobs/{}", path(&job["job"]))),
        ("token-end".to_owned(), format!("/settings/tokens/{token}/revoke")),
    ]
}

/// Where pictures are kept: under the target directory.
fn pictures() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_muster"));
    program.parent().unwrap().parent().unwrap().join("page")
}

/// What axe-core found that is serious or worse, as rule and places.
fn serious(browser: &Browser, axe: &str) -> Vec<String> {
    let run = "const done = arguments[arguments.length - 1];
        axe.run(document, { resultTypes: ['violations'] }).then(
            (found) => done(found.violations.map((of) => ({
                id: of.id, impact: of.impact, at: of.nodes.slice(0, 3).map((node) => node.target.join(' ') + ': ' + node.failureSummary),
            }))),
            (error) => done([{ id: String(error), impact: 'critical', at: [] }]));";
    browser.script(axe, &[]);
    let found = browser.script_later(run, &[]);
    let serious = |of: &&Value| matches!(of["impact"].as_str(), Some("serious" | "critical"));
    found.as_array().unwrap().iter().filter(serious).map(Value::to_string).collect()
}

/// What is pressed with a finger and less than 44 px high or wide. A link within a text is as high as its line.
fn small(browser: &Browser) -> Vec<String> {
    let found = browser.script(
        "const shown = (e) => e.getClientRects().length > 0 && getComputedStyle(e).visibility !== 'hidden';
        const target = (e) => e.closest('label') ?? e;
        return [...document.querySelectorAll('button, .button, select, input:not([type=hidden]), .quick a, .tabs a, nav.main-nav a')]
            .filter((e) => shown(e) && !e.closest('.sr, .lines thead'))
            .filter((e) => { const at = target(e).getBoundingClientRect(); return at.height < 43.5 || at.width < 43.5; })
            .map((e) => e.outerHTML.slice(0, 120));",
        &[],
    );
    found.as_array().unwrap().iter().map(|of| of.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_page_is_readable_wide_and_narrow_light_and_dark() {
    let axe = std::env::var_os("MUSTER_AXE").expect("MUSTER_AXE names axe.min.js: cargo verify page sets it");
    let axe = std::fs::read_to_string(axe).unwrap();
    let (mut fleet, browser) = fleet();
    fleet.speak_ill();
    let own = PAGES.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned()));
    let pages: Vec<_> = own.chain(made(&fleet.server)).collect();
    let sideways = || {
        let wide = browser.script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth",
            &[],
        );
        wide.as_i64().filter(|wide| *wide > 0)
    };
    let mut faults = Vec::new();
    for (width, height) in [(1280, 900), (390, 844)] {
        for dark in [false, true] {
            browser.look(width, height, dark);
            let theme = if dark { "dark" } else { "light" };
            let mut looked = |name: &str| {
                browser.picture(&pictures().join(format!("{name}-{width}-{theme}.png")));
                if let Some(wide) = sideways() {
                    faults.push(format!("{name} {width} {theme}: {wide} px sideways"));
                }
                if width < 720 && !dark {
                    faults.extend(
                        small(&browser)
                            .iter()
                            .map(|of| format!("{name} {width}: {of} is small for a finger")),
                    );
                }
                faults
                    .extend(serious(&browser, &axe).iter().map(|of| format!("{name} {width} {theme}: {of}")));
            };
            for (name, path) in &pages {
                browser.go(path);
                looked(name);
            }
            for (name, path, opens) in DIALOGS {
                browser.go(path);
                browser.click(opens);
                browser.until("a form over the page", "document.querySelector('dialog#dialog[open] form')");
                looked(name);
            }
        }
    }
    browser.look(320, 700, false);
    for (name, path) in &pages {
        browser.go(path);
        if let Some(wide) = sideways() {
            faults.push(format!("{name} 320: {wide} px sideways"));
        }
    }
    clean(&browser);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
