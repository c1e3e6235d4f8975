//! The server's suite on PostgreSQL: the same tests as on SQLite, each registry on a server of its own.
//!
//! What a suite's registry is kept in is chosen by the rig (`server/tests/rig/mod.rs`), by [`DATABASE`]. A test
//! that is about one of the two lives in a module named for it and runs once, with the others on SQLite.

use std::process::Command;

/// Names the database for the rig; unset, it is SQLite.
pub(super) const DATABASE: (&str, &str) = ("MUSTER_TEST_DATABASE", "postgres");
/// Modules of tests that choose their database themselves.
const CHOSEN: &str = "test(/^on_(sqlite|postgres)::/)";
const CHOSEN_MODULES: [&str; 2] = ["on_sqlite::", "on_postgres::"];

/// Suites of a server whose registry is in the database that the run is on.
const ON_BOTH: [&str; 24] = [
    "api_commands",
    "api_device",
    "api_http",
    "api_jobs",
    "api_login",
    "api_openapi",
    "api_replace",
    "api_stream",
    "api_tenants",
    "api_twice",
    "api_twin",
    "api_versions",
    "asked",
    "cli_access",
    "cli_ca",
    "cli_serve",
    "cli_server",
    "cli_watch",
    "generated",
    "page_http",
    "page_list",
    "registry",
    "tenants_generated",
    "zero_touch",
];

/// Suites that run once, and why.
#[cfg(test)]
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
    format!("package(muster-server) & binary(/^({})$/) & not {CHOSEN}", ON_BOTH.join("|"))
}

/// For `cargo test`: the same.
pub(super) fn select(test: &mut Command) {
    test.args(["-p", "muster-server"]);
    for suite in ON_BOTH {
        test.args(["--test", suite]);
    }
    test.arg("--");
    for module in CHOSEN_MODULES {
        test.args(["--skip", module]);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;

    /// The suites there are: a file, or a folder with a `main.rs`.
    fn there() -> BTreeSet<String> {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/tests");
        let entries = std::fs::read_dir(tests).unwrap().map(|entry| entry.unwrap().path());
        let suites = entries.filter(|path| path.is_file() || path.join("main.rs").is_file());
        suites.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_suite_of_the_server_runs_on_both_databases_or_says_why_not() {
        let once = ONCE.map(|(suite, why)| {
            assert!(!why.is_empty());
            suite
        });
        let listed: Vec<_> = ON_BOTH.into_iter().chain(once).map(str::to_owned).collect();
        assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), there());
        assert_eq!(listed.len(), there().len(), "each is listed once");
    }
}
