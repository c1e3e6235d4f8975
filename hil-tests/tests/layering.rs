//! The house's walls: which crate may see which, and which file may see which library.
//!
//! Both lists are complete. A new crate or edge fails here until it is written down, which is the
//! moment to ask whether it belongs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use muster_hil::workspace::{Workspace, cargo};
use serde::Deserialize;

/// Every crate, and what it may see of the workspace.
const EDGES: [(&str, &[&str]); 8] = [
    ("muster-shared", &[]),
    ("muster-pki", &["muster-shared"]),
    ("muster-provisioning", &["muster-pki", "muster-shared"]),
    ("muster-server", &["muster-pki", "muster-shared"]),
    ("muster-firmware", &["muster-shared"]),
    ("muster-sim", &["muster-firmware", "muster-shared"]),
    ("muster-board-mps2-an386", &["muster-firmware", "muster-shared"]),
    (
        "muster-hil",
        &[
            "muster-firmware",
            "muster-pki",
            "muster-provisioning",
            "muster-server",
            "muster-shared",
            "muster-sim",
        ],
    ),
];

/// What a crate's tests may see beside that and itself: test certificates come from the production code.
const TEST_EDGES: [(&str, &[&str]); 2] =
    [("muster-firmware", &["muster-pki"]), ("muster-sim", &["muster-pki"])];

/// A library, the folder whose sources are searched, and the only places below it that may name it.
const SEEN_BY: [(&str, &str, &[&str]); 11] = [
    ("sqlx", "server/src", &["registry", "uplink"]),
    ("axum", "server/src", &["api"]),
    ("rumqttd", "server/src", &["bus"]),
    ("socket2", "server/src", &["edge", "api"]),
    ("TcpListener", "server/src", &["edge", "api"]),
    ("embedded_tls", "firmware", &["src/tls", "src/tls.rs", "src/verify.rs"]),
    ("serialport", "provisioning/src", &["port.rs"]),
    ("embassy_net", "firmware/src", &[]),
    ("embassy_executor", "firmware/src", &[]),
    ("embassy_time", "firmware/src", &[]),
    ("cortex_m", "firmware/src", &[]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<PathBuf>,
}

fn packages() -> Vec<Package> {
    let workspace = Workspace::find().unwrap();
    let mut ask: Command = cargo();
    ask.args(["metadata", "--format-version=1", "--no-deps", "--offline"]).current_dir(workspace.root);
    let said = ask.output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice::<Metadata>(&said.stdout).unwrap().packages
}

#[test]
fn every_crate_is_on_the_list_and_no_other() {
    let there: BTreeSet<String> = packages().into_iter().map(|package| package.name).collect();
    let listed: BTreeSet<String> = EDGES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(there, listed);
}

#[test]
fn a_crate_sees_only_what_the_design_allows() {
    let allowed = |list: &[(&str, &[&str])], from: &str, to: &str| {
        list.iter().any(|(name, may)| *name == from && may.contains(&to))
    };
    let mut edges = 0;
    for package in packages() {
        for seen in package.dependencies.iter().filter(|dependency| dependency.path.is_some()) {
            edges += 1;
            let (from, to) = (package.name.as_str(), seen.name.as_str());
            let by_tests = seen.kind.as_deref() == Some("dev");
            let ok =
                allowed(&EDGES, from, to) || (by_tests && (from == to || allowed(&TEST_EDGES, from, to)));
            assert!(ok, "{from} must not depend on {to} ({})", seen.kind.as_deref().unwrap_or("normal"));
        }
    }
    assert!(edges >= EDGES.len(), "the workspace's edges were not found");
}

#[test]
fn a_library_is_seen_only_where_the_design_says() {
    let root = Workspace::find().unwrap().root;
    for (library, below, places) in SEEN_BY {
        let below = root.join(below);
        for file in sources(&below) {
            let place = file.strip_prefix(&below).unwrap();
            if places.iter().any(|allowed| place.starts_with(allowed)) {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            if let Some(line) = first_use(&text, library) {
                panic!("{}:{line} names {library}; only {places:?} may", file.display());
            }
        }
    }
}

#[test]
fn unsafe_code_is_allowed_in_boards_only() {
    let root = Workspace::find().unwrap().root;
    for room in ["shared", "provisioning", "server", "firmware/src", "firmware/sim", "hil-tests/src"] {
        for file in sources(&root.join(room)) {
            let text = std::fs::read_to_string(&file).unwrap();
            for (at, line) in text.lines().enumerate() {
                let code = code_of(line);
                let lifted = code.contains("allow(unsafe_code") || code.contains("expect(unsafe_code");
                assert!(!lifted, "{}:{} lifts the ban on unsafe", file.display(), at + 1);
            }
        }
    }
}

/// Rust files below a folder, not those of a nested target folder.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() && !path.ends_with("target") => open.push(path),
                Some(extension) if extension == "rs" => found.push(path),
                _ => {}
            }
        }
    }
    assert!(!found.is_empty(), "{} has no sources", dir.display());
    found
}

/// The first line, from 1, whose code names the word.
fn first_use(text: &str, word: &str) -> Option<usize> {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    let named = |code: &str| {
        code.match_indices(word).any(|(at, _)| {
            let before = code[..at].chars().next_back();
            let after = code[at + word.len()..].chars().next();
            !before.is_some_and(inside) && !after.is_some_and(inside)
        })
    };
    text.lines().position(|line| named(&code_of(line))).map(|at| at + 1)
}

/// A line without its comment and without what stands between quotes.
fn code_of(line: &str) -> String {
    let mut code = String::new();
    for (n, piece) in line.split('"').enumerate() {
        if n % 2 == 0 {
            if let Some((before, _)) = piece.split_once("//") {
                code.push_str(before);
                break;
            }
            code.push_str(piece);
        }
    }
    code
}

#[test]
fn words_are_found_in_code_and_not_in_comments_or_text() {
    assert_eq!(first_use("\nuse sqlx::Row;", "sqlx"), Some(2));
    assert_eq!(first_use("let x = sqlx ::query();", "sqlx"), Some(1));
    assert_eq!(first_use("//! sqlx is elsewhere\n/// sqlx\nlet a = 1; // sqlx", "sqlx"), None);
    assert_eq!(first_use("let a = \"sqlx\"; let my_sqlx = sqlx2;", "sqlx"), None);
    assert_eq!(first_use("let a = \"x\"; sqlx::query()", "sqlx"), Some(1));
}
