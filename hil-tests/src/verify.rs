//! `cargo verify`: what every change must pass, in one command.
//!
//! Each step is a command that can be run by hand; a step that fails is named with that command, the
//! others still run, and the last line counts: `N passed, N failed`. A test counts as one, and so does
//! every other step.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    packages,
    screen::{Mark, Screen, seconds},
    toolchain::{self, BOARD, RISCV32IMAC, THUMBV7EM, Toolchain, spell},
    workspace::{Workspace, cargo},
};

mod databases;

/// What a device is made of: compiles without std, each crate alone.
const PORTABLE: [&str; 2] = ["muster-shared", "muster-firmware"];
/// Tests that boot a board, or run the real programs, by name: they live in these modules.
const ON_BOARDS: &str = "test(/^(qemu|programs)::/)";
const ON_BOARDS_MODULES: [&str; 2] = ["qemu::", "programs::"];
/// Tests of the web page in a real browser.
const IN_BROWSER: &str = "test(/^browser::/)";
const IN_BROWSER_MODULE: &str = "browser::";
/// What judges whether everybody can use the page: fetched to test with, no part of Muster.
const AXE: &str = "axe-core@4.14.1";
/// The version `cargo verify` builds where cargo-deny is absent.
const DENY: &str = "0.20.2";

/// A step's name and what it does.
type Step = (&'static str, fn(&mut Run<'_>) -> Result<Counts>);

const STEPS: [Step; 11] = [
    ("format", format),
    ("lint", lint),
    ("lint-device", lint_device),
    ("docs", docs),
    ("licences", licences),
    ("tests", tests),
    ("tests-postgres", tests_postgres),
    ("doctests", doctests),
    ("page", page),
    ("image", image),
    ("board-tests", board_tests),
];

/// Names of all steps, in order.
#[must_use]
pub fn step_names() -> [&'static str; STEPS.len()] {
    STEPS.map(|(name, _)| name)
}

/// What was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    passed: u64,
    failed: u64,
}

/// Runs the steps named, or all; returns whether every one passed.
///
/// # Errors
/// When the workspace cannot be read; a step that fails is no error.
pub fn verify(screen: Screen, wanted: &[String]) -> Result<bool> {
    let workspace = Workspace::find()?;
    let began = Instant::now();
    let mut run = Run { screen, workspace: &workspace, commands: Vec::new(), toolchain: None };
    let mut total = Counts::default();
    let mut failures = Vec::new();
    let steps = STEPS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name));
    for (at, (name, step)) in steps.enumerate() {
        let step_began = Instant::now();
        screen.line(&screen.bold(&screen.head(at + 1, name, "")));
        run.commands.clear();
        let counts = step(&mut run).unwrap_or_else(|fault| {
            screen.line(&format!("   {}", screen.red(&format!("{fault:#}"))));
            Counts { passed: 0, failed: 1 }
        });
        total.passed += counts.passed;
        total.failed += counts.failed;
        let mark = if counts.failed == 0 { Mark::Done } else { Mark::Wrong };
        screen.marked(
            &format!("   {} passed, {} failed", counts.passed, counts.failed),
            mark,
            Some(step_began.elapsed()),
        );
        if counts.failed > 0 {
            failures.push((*name, run.commands.last().cloned()));
        }
    }
    screen.line("");
    for (name, command) in &failures {
        screen.line(&format!("{} {name}", screen.red("failed")));
        screen.line(&format!("  next   cargo verify {name}"));
        if let Some(command) = command {
            screen.line(&format!("  runs   {command}"));
        }
    }
    screen.line(&format!("took {}", seconds(began.elapsed())));
    screen.line(&format!("{} passed, {} failed", total.passed, total.failed));
    Ok(total.failed == 0)
}

fn format(run: &mut Run<'_>) -> Result<Counts> {
    let mut fmt = cargo();
    fmt.args(["fmt", "--all", "--check"]);
    run.check(fmt)
}

fn lint(run: &mut Run<'_>) -> Result<Counts> {
    let mut clippy = cargo();
    clippy.args(["clippy", "--locked", "--all-targets", "--", "-D", "warnings"]);
    run.check(clippy)
}

/// Each crate alone: features that another crate switches on would hide what is missing.
fn lint_device(run: &mut Run<'_>) -> Result<Counts> {
    let toolchain = run.toolchain()?;
    run.say(&format!("with {toolchain}"));
    toolchain.ensure_clippy(&mut |text| run.say(text))?;
    let portable = |target| PORTABLE.map(|package| (target, package));
    let all = portable(THUMBV7EM).into_iter().chain([(THUMBV7EM, BOARD)]).chain(portable(RISCV32IMAC));
    let mut counts = Counts::default();
    for (target, package) in all {
        let mut clippy = toolchain.cargo(run.workspace, "clippy", target);
        clippy.args(["--locked", "-p", package, "--", "-D", "warnings"]);
        let one = run.check(clippy)?;
        counts.passed += one.passed;
        counts.failed += one.failed;
        if one.failed > 0 {
            // The command that failed is the one to name.
            break;
        }
    }
    Ok(counts)
}

fn docs(run: &mut Run<'_>) -> Result<Counts> {
    let mut doc = cargo();
    // Whoever reads the sources reads the private parts too, and a front page may point at them.
    doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    doc.args(["doc", "--locked", "--no-deps", "--document-private-items"]);
    run.check(doc)
}

fn licences(run: &mut Run<'_>) -> Result<Counts> {
    let deny = run.tool("cargo-deny", DENY)?.context("cargo-deny could not be installed")?;
    let advisories = cargo_home().map(|home| home.join("advisory-dbs")).filter(|dir| has_entries(dir));
    let mut check = Command::new(deny);
    check.args(["--locked", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"]);
    match advisories {
        Some(_) => drop(check.args(["advisories", "--disable-fetch"])),
        None => {
            run.say("advisories are not checked: their database is not on this machine (cargo deny fetch)")
        }
    }
    run.check(check)
}

fn tests(run: &mut Run<'_>) -> Result<Counts> {
    packages::ensure(&[packages::POSTGRES], &mut |text| run.say(text))?;
    if run.has_nextest()? {
        let nextest = run.nextest(&format!("not ({ON_BOARDS} | {IN_BROWSER})"));
        return run.count(nextest);
    }
    let mut test = cargo();
    test.args(["test", "--locked", "--lib", "--bins", "--tests", "--no-fail-fast", "--"]);
    for module in ON_BOARDS_MODULES.into_iter().chain([IN_BROWSER_MODULE]) {
        test.args(["--skip", module]);
    }
    run.count(test)
}

/// The server's suite again, its registry on PostgreSQL.
fn tests_postgres(run: &mut Run<'_>) -> Result<Counts> {
    packages::ensure(&[packages::POSTGRES], &mut |text| run.say(text))?;
    let mut test = if run.has_nextest()? {
        let mut nextest = run.nextest(&databases::filter());
        nextest.args(["-p", "muster-server"]);
        nextest
    } else {
        let mut test = cargo();
        test.args(["test", "--locked", "--no-fail-fast"]);
        databases::select(&mut test, &run.workspace.root)?;
        test
    };
    let (name, database) = databases::DATABASE;
    test.env(name, database);
    run.count(test)
}

fn doctests(run: &mut Run<'_>) -> Result<Counts> {
    let mut test = cargo();
    test.args(["test", "--locked", "--doc", "--no-fail-fast"]);
    run.count(test)
}

/// The web page in Chromium; its pictures are left in the target directory.
fn page(run: &mut Run<'_>) -> Result<Counts> {
    packages::ensure(&packages::BROWSER, &mut |text| run.say(text))?;
    let axe = run.axe()?;
    let mut test = if run.has_nextest()? {
        let mut nextest = run.nextest(IN_BROWSER);
        nextest.args(["-p", "muster-server"]);
        nextest
    } else {
        let mut test = cargo();
        test.args(["test", "--locked", "-p", "muster-server", "--test", "page", "--no-fail-fast"]);
        test.args(["--", "--test-threads=1", IN_BROWSER_MODULE]);
        test
    };
    test.env("MUSTER_AXE", axe);
    run.count(test)
}

fn image(run: &mut Run<'_>) -> Result<Counts> {
    let toolchain = run.toolchain()?;
    let screen = run.screen;
    let path = toolchain::image(run.workspace, &mut |text| screen.line(&format!("   {text}")))?;
    let size = crate::image::Size::of(&path)?;
    run.say(&format!("{} · {size}", toolchain));
    size.check()?;
    Ok(Counts { passed: 1, failed: 0 })
}

fn board_tests(run: &mut Run<'_>) -> Result<Counts> {
    board_tests_matching(run, None)
}

/// Runs the tests that boot boards, those whose name contains `name`; says whether all passed.
///
/// # Errors
/// When something is missing on this machine.
pub fn board_tests_named(screen: Screen, name: Option<&str>) -> Result<bool> {
    let workspace = Workspace::find()?;
    let mut run = Run { screen, workspace: &workspace, commands: Vec::new(), toolchain: None };
    let counts = board_tests_matching(&mut run, name)?;
    screen.line(&format!("{} passed, {} failed", counts.passed, counts.failed));
    Ok(counts.failed == 0)
}

fn board_tests_matching(run: &mut Run<'_>, name: Option<&str>) -> Result<Counts> {
    // One of them looks at its boards through the web page.
    packages::ensure(&[&[packages::QEMU][..], &packages::BROWSER].concat(), &mut |text| run.say(text))?;
    let image = toolchain::image(run.workspace, &mut |text| run.say(text))?;
    let programs = run.workspace.programs()?;
    let dir = programs.muster.parent().context("a program has a folder")?.to_owned();
    let mut test = if run.has_nextest()? {
        run.nextest(&match name {
            Some(name) => format!("{ON_BOARDS} & test(~{name})"),
            None => ON_BOARDS.to_owned(),
        })
    } else {
        let mut test = cargo();
        test.args(["test", "--locked", "-p", "muster-hil", "--tests", "--no-fail-fast"]);
        test.args(["--", "--test-threads=1"]);
        match name {
            Some(name) => test.arg(name),
            None => test.args(ON_BOARDS_MODULES),
        };
        test
    };
    test.env("MUSTER_IMAGE", image).env("MUSTER_PROGRAMS", dir);
    run.count(test)
}

/// One run of the steps.
struct Run<'a> {
    screen: Screen,
    workspace: &'a Workspace,
    /// What this step has started, as one would type it.
    commands: Vec<String>,
    toolchain: Option<Toolchain>,
}

impl Run<'_> {
    fn say(&self, text: &str) {
        self.screen.line(&format!("   {text}"));
    }

    fn toolchain(&mut self) -> Result<Toolchain> {
        if let Some(found) = self.toolchain {
            return Ok(found);
        }
        let found = Toolchain::find(&[THUMBV7EM, RISCV32IMAC], &mut |text| self.say(text))?;
        self.toolchain = Some(found);
        Ok(found)
    }

    fn nextest(&self, filter: &str) -> Command {
        let mut nextest = cargo();
        nextest.args(["nextest", "run", "--locked", "--no-fail-fast", "--status-level", "slow"]);
        nextest.args(["--final-status-level", "fail", "--no-tests", "fail", "-E", filter]);
        nextest
    }

    fn has_nextest(&self) -> Result<bool> {
        let mut ask = cargo();
        let there = ask.args(["nextest", "--version"]).stdin(Stdio::null()).output()?.status.success();
        if !there {
            self.say("cargo-nextest is not here, so cargo test runs the tests (cargo install cargo-nextest --locked)");
        }
        Ok(there)
    }

    /// A cargo tool: where it is, or built into the target folder, where the next run finds it.
    fn tool(&mut self, name: &str, version: &str) -> Result<Option<PathBuf>> {
        let home = self.workspace.target.join("tools");
        let ours = home.join("bin").join(name);
        if let Some(there) = packages::find(name).or_else(|| ours.is_file().then_some(ours.clone())) {
            return Ok(Some(there));
        }
        self.say(&format!("{name} is not here; building it once, which takes minutes"));
        let mut install = cargo();
        // Unoptimised, it builds in half the time and still checks within seconds.
        install
            .args(["install", name, "--version", version, "--locked", "--debug", "--root"])
            .arg(&home)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_TARGET_DIR", home.join("build"));
        let built = self.check(install)?;
        // What built it is larger than all of ours.
        let _ = std::fs::remove_dir_all(home.join("build"));
        Ok((built.failed == 0).then_some(ours))
    }

    /// Where axe-core's script is: fetched once into the target folder by npm, which checks its digest.
    fn axe(&mut self) -> Result<PathBuf> {
        let home = self.workspace.target.join("tools").join(AXE.replace('@', "-"));
        let script = home.join("package").join("axe.min.js");
        if script.is_file() {
            return Ok(script);
        }
        std::fs::create_dir_all(&home).with_context(|| format!("{} cannot be made", home.display()))?;
        let mut pack = Command::new("npm");
        pack.args(["pack", "--silent", AXE]).current_dir(&home);
        let mut unpack = Command::new("tar");
        unpack.args(["-xzf", &format!("{}.tgz", AXE.replace('@', "-"))]).current_dir(&home);
        for command in [pack, unpack] {
            if self.check(command)?.failed > 0 {
                bail!("{AXE} could not be fetched from the npm registry");
            }
        }
        Ok(script)
    }

    /// Runs a command that either passes or fails.
    fn check(&mut self, command: Command) -> Result<Counts> {
        let (ok, _) = self.stream(command)?;
        Ok(if ok { Counts { passed: 1, failed: 0 } } else { Counts { passed: 0, failed: 1 } })
    }

    /// Runs a command that counts tests.
    fn count(&mut self, command: Command) -> Result<Counts> {
        let (ok, lines) = self.stream(command)?;
        let mut counts = count_tests(&lines);
        if !ok && counts.failed == 0 {
            // It did not get as far as a test.
            counts.failed = 1;
        }
        if ok && counts.failed > 0 {
            bail!("the runner says it passed and counts {} failed", counts.failed);
        }
        Ok(counts)
    }

    /// Shows what a command says as it says it, without the progress of compiling.
    fn stream(&mut self, mut command: Command) -> Result<(bool, Vec<String>)> {
        let spelled = spell(&command);
        self.say(&format!("$ {spelled}"));
        self.commands.push(spelled);
        if command.get_current_dir().is_none() {
            command.current_dir(&self.workspace.root);
        }
        command.env("CARGO_TERM_PROGRESS_WHEN", "never").env("CARGO_TERM_COLOR", "never");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{:?} cannot be started", command.get_program()))?;
        let (to_us, lines) = mpsc::channel();
        let mut readers = Vec::new();
        let out = child.stdout.take().map(|out| Box::new(out) as Box<dyn std::io::Read + Send>);
        let err = child.stderr.take().map(|err| Box::new(err) as Box<dyn std::io::Read + Send>);
        for stream in [out, err].into_iter().flatten() {
            let to_us = to_us.clone();
            readers.push(thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    if to_us.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                        break;
                    }
                }
            }));
        }
        drop(to_us);
        let mut said = Vec::new();
        let mut shown = Instant::now();
        loop {
            match lines.recv_timeout(Duration::from_secs(60)) {
                Ok(line) if is_progress(&line) => self.screen.passing(&line),
                Ok(line) => {
                    self.screen.clear_passing();
                    self.screen.line(&line);
                    shown = Instant::now();
                    said.push(line);
                }
                // A log that stands still for long looks dead.
                Err(mpsc::RecvTimeoutError::Timeout) if !self.screen.is_terminal() => {
                    self.say(&format!("… {}", seconds(shown.elapsed())));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        self.screen.clear_passing();
        for reader in readers {
            let _ = reader.join();
        }
        Ok((child.wait()?.success(), said))
    }
}

fn is_progress(line: &str) -> bool {
    const VERBS: [&str; 12] = [
        "Compiling",
        "Checking",
        "Documenting",
        "Downloading",
        "Downloaded",
        "Updating",
        "Locking",
        "Adding",
        "Blocking",
        "Fresh",
        "Finished",
        "Running",
    ];
    let line = line.trim_start();
    VERBS.iter().any(|verb| line.strip_prefix(verb).is_some_and(|rest| rest.starts_with(' ')))
}

/// Reads nextest's and libtest's closing lines.
fn count_tests(lines: &[String]) -> Counts {
    let mut counts = Counts::default();
    for line in lines {
        let tail = match line.split_once(" run: ") {
            Some((head, tail)) if head.contains("Summary") => tail,
            _ => match line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) {
                Some((_, tail)) => tail,
                None => continue,
            },
        };
        for part in tail.split([',', ';', '(', ')']) {
            let Some((number, what)) = part.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => counts.passed += number,
                "failed" | "timed out" | "exec failed" => counts.failed += number,
                _ => {}
            }
        }
    }
    counts
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
}

fn has_entries(dir: &std::path::Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> (u64, u64) {
        let counts = count_tests(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
        (counts.passed, counts.failed)
    }

    #[test]
    fn the_closing_lines_of_both_runners_are_read() {
        assert_eq!(of(&["     Summary [   0.019s] 3 tests run: 3 passed, 7 skipped"]), (3, 0));
        assert_eq!(
            of(&[
                "     Summary [ 9.1s] 9 tests run: 6 passed (1 slow, 1 flaky), 2 failed, 1 timed out, 0 skipped"
            ]),
            (6, 3)
        );
        assert_eq!(
            of(&[
                "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.1s",
                "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            ]),
            (13, 2)
        );
    }

    #[test]
    fn what_a_test_prints_is_not_counted() {
        assert_eq!(of(&["a run: 5 passed", "12 passed, 0 failed", "result: ok. 3 passed"]), (0, 0));
    }

    #[test]
    fn only_compiling_is_progress() {
        assert!(is_progress("   Compiling muster-shared v0.1.0"));
        assert!(!is_progress("error: Compiling is hard"));
        assert!(!is_progress("Compilingx"));
    }
}
