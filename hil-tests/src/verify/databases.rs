//! The server's suite on PostgreSQL: the same tests as on SQLite, each registry on a server of its own.
//!
//! What a suite's registry is kept in is chosen by the rig (`server/tests/rig/mod.rs`), by [`DATABASE`]. A test
//! that is about one of the two lives in a module named for it and runs once, with the others on SQLite.

use std::{collections::BTreeSet, fs, io, path::Path, process::Command};

/// Names the database for the rig; unset, it is SQLite.
pub(super) const DATABASE: (&str, &str) = ("MUSTER_TEST_DATABASE", "postgres");
/// Modules of tests that choose their database themselves.
const CHOSEN: &str = "test(/^on_(sqlite|postgres)::/)";
const CHOSEN_MODULES: [&str; 2] = ["on_sqlite::", "on_postgres::"];

/// Suites that run on SQLite only, and why. Any other runs on both.
const ONCE: [(&str, &str); 6] = [
    ("attack", "the edge in the test's own process, and what it allocates"),
    ("cli_local", "commands that have no server and no registry"),
    ("edge", "the edge in the test's own process; it asks the registry's copy in memory"),
    ("faults", "faults of the files: a full disk, a lock, no descriptors"),
    ("mqtt", "the protocol, in the test's own process"),
    ("page", "a browser on the pages whose content page_http checks on both"),
];

/// For nextest: those tests and no others.
pub(super) fn filter() -> String {
    let once = ONCE.map(|(suite, _)| suite).join("|");
    format!("package(muster-server) & kind(test) & not binary(/^({once})$/) & not {CHOSEN}")
}

/// For `cargo test`: the same.
///
/// # Errors
/// When the workspace's suites cannot be listed.
pub(super) fn select(test: &mut Command, root: &Path) -> io::Result<()> {
    test.args(["-p", "muster-server"]);
    for suite in suites(root)?.iter().filter(|suite| ONCE.iter().all(|(once, _)| once != suite)) {
        test.args(["--test", suite]);
    }
    test.arg("--");
    for module in CHOSEN_MODULES {
        test.args(["--skip", module]);
    }
    Ok(())
}

/// The suites of the server that there are: a file, or a folder with a `main.rs`.
fn suites(root: &Path) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(root.join("server/tests"))? {
        let path = entry?.path();
        if path.is_file() || path.join("main.rs").is_file() {
            found.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_on_one_database_is_there_and_says_why() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let there = suites(&root).unwrap();
        for (suite, why) in ONCE {
            assert!(there.contains(suite) && !why.is_empty(), "{suite}");
        }
        let mut test = Command::new("cargo");
        select(&mut test, &root).unwrap();
        let chosen: Vec<_> = test.get_args().map(|word| word.to_str().unwrap()).collect();
        assert!(chosen.contains(&"api_http") && !chosen.contains(&"mqtt"), "{chosen:?}");
        assert_eq!(chosen.iter().filter(|word| **word == "--test").count(), there.len() - ONCE.len());
    }
}
