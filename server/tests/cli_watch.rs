//! A listing that is watched: on a terminal in place, elsewhere a line a change; and Ctrl-C in the middle of many.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rig::{LIMIT, Server, http::Http};
use serde_json::Value;

/// A command that runs until it is ended, and what it has written so far.
struct Running {
    child: Child,
    out: Arc<Mutex<String>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (mut stdout, out) = (child.stdout.take().unwrap(), Arc::<Mutex<String>>::default());
        let written = Arc::clone(&out);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut buffer) {
                written.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Self { child, out, reader: Some(reader) }
    }

    /// Waits until what it has written since `from` is as wanted; all it has written.
    #[track_caller]
    fn until(&self, what: &str, from: usize, done: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let out = self.out.lock().unwrap().clone();
            if done(out.get(from..).unwrap_or_default()) {
                return out;
            }
            assert!(Instant::now() < end, "{what}: {out:?}");
            thread::sleep(Duration::from_millis(30));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.reader.take().map(thread::JoinHandle::join);
    }
}

/// `muster … --watch` on a terminal of 80 columns and 20 lines.
fn on_a_terminal(server: &Server, arguments: &str) -> Running {
    let line = format!(
        "stty cols 80 rows 20; exec {} {arguments} --watch --data-dir {}",
        env!("CARGO_BIN_EXE_muster"),
        server.place().data().display()
    );
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env_clear().env("TERM", "xterm").env("LANG", "C.UTF-8");
    command.env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    Running::start(command)
}

/// A frame's lines without what steers a terminal.
fn plain(frame: &str) -> Vec<String> {
    let mut out = String::new();
    let mut rest = frame;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        out.push_str(before);
        let end = after.find(|c: char| c.is_ascii_alphabetic()).map_or(after.len(), |at| at + 1);
        rest = &after[end..];
    }
    out.push_str(rest);
    out.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// The last whole frame.
fn last_frame(out: &str) -> Vec<String> {
    let whole = &out[..out.rfind("\u{1b}[J").unwrap()];
    plain(&whole[whole.rfind("\u{1b}[H").unwrap()..])
}

#[test]
fn a_terminal_shows_the_table_in_place_and_outlives_the_server() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001", "MU-000002"]);
    let watch = on_a_terminal(&server, "device list --sort serial");
    let out = watch.until("a frame", 0, |out| out.contains("\u{1b}[J"));
    let frame = last_frame(&out);
    assert!(frame[0].starts_with("SERIAL") && frame[0].contains("  STATE"), "{frame:?}");
    assert!(frame.iter().all(|line| line.chars().count() <= 80), "{frame:?}");
    assert!(frame[1].starts_with("MU-000001 ") && frame[2].starts_with("MU-000002 "), "{frame:?}");
    let column = |line: &str, of: &str| line.find(of).map(|at| line[..at].chars().count());
    assert_eq!(column(&frame[0], "STATE"), column(&frame[1], "◇"), "{frame:?}");
    assert!(frame[3].starts_with("live · updated "), "{frame:?}");
    let from = out.len();
    server.muster(&["device", "suspend", "MU-000002", "--reason", "case 881"]).exits(0);
    // A cell that changed is bold.
    let out = watch.until("the change", from, |out| out.contains("\u{1b}[1m‖ suspended\u{1b}[0m"));
    assert!(last_frame(&out)[2].contains("suspended"));
    // Without colour nothing is styled; it is drawn in place all the same.
    let quiet = on_a_terminal(&server, "device list --color never");
    let out = quiet.until("a frame", 0, |out| out.contains("\u{1b}[J"));
    assert!(out.contains("SERIAL") && !out.contains("\u{1b}[1m") && !out.contains("\u{1b}[9"), "{out:?}");
    let batches = on_a_terminal(&server, "batch list");
    batches.until("a frame", 0, |out| out.contains("B-0001") && out.contains("live · updated"));
    let sessions = on_a_terminal(&server, "session list");
    sessions.until("a frame", 0, |out| out.contains("nothing yet") && out.contains("live · updated"));

    let from = watch.out.lock().unwrap().len();
    let place = server.killed();
    let out = watch.until("the cut", from, |out| out.contains("no answer, looking again · data from "));
    let frame = last_frame(&out);
    assert!(frame[2].starts_with("MU-000002 "), "what was seen last stays: {frame:?}");
    drop((watch, quiet, batches, sessions, place));
}

#[test]
fn without_a_terminal_each_change_is_a_line_or_a_document() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001", "MU-000002"]);
    let watch = |more: &[&str]| {
        Running::start(server.place().command(&[&["device", "list", "--watch"], more].concat()))
    };
    let (lines, documents) = (watch(&[]), watch(&["-o", "jsonl"]));
    let first = lines.until("both", 0, |out| out.lines().count() == 2);
    assert!(
        first.lines().all(|line| line.starts_with("+ MU-00000")) && !first.contains('\u{1b}'),
        "{first:?}"
    );
    let both = documents.until("both", 0, |out| out.lines().count() == 2);
    server.muster(&["device", "suspend", "MU-000002", "--reason", "case 881"]).exits(0);
    let out = lines.until("the change", first.len(), |out| out.ends_with('\n'));
    assert!(out.lines().nth(2).unwrap().starts_with("~ MU-000002 "), "{out}");
    let out = documents.until("the change", both.len(), |out| out.ends_with('\n'));
    let change: Value = serde_json::from_str(out.lines().nth(2).unwrap()).unwrap();
    assert_eq!((&change["change"], &change["item"]["state"]), (&"changed".into(), &"suspended".into()));
    // What no later look makes good ends it.
    let wrong = server.muster(&["device", "list", "--watch", "--after", "nowhere"]);
    wrong.exits(2).refused("M504");
}

#[test]
fn ctrl_c_ends_many_after_the_one_at_hand() {
    let server = Server::start();
    let serials: Vec<_> = (1..=600).map(|n| format!("MU-{n:06}")).collect();
    let names: Vec<&str> = serials.iter().map(String::as_str).collect();
    server.with_devices("B-0001", &names);
    let http = Http::new(&server);
    let decided = || http.get("/v1/audit?limit=1&action=device.suspend").is(200)["total"].as_u64().unwrap();
    let mut command =
        server.place().command(&[&["device", "suspend"], &names[..], &["--reason", "case 881"]].concat());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + LIMIT;
    while decided() < 3 {
        assert!(Instant::now() < end, "nothing is done");
    }
    let kill = Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("skipped 0 · failed 0") && said.contains("not tried "), "{said}");
    let done = decided();
    assert!(done < 600, "{done}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(shown.lines().count() as u64, done, "the one at hand was finished and is told");
}
