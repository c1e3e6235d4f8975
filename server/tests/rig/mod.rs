//! The real binary on free ports in a temporary directory, used as a person would. Every process is ended
//! and waited for, every file removed, when its value is dropped.

#![allow(dead_code, unreachable_pub, reason = "each test file is a crate of its own and uses its part")]

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use muster_pki::{
    Passphrase,
    hierarchy::Hierarchy,
    testing::{self, Credential},
};
use muster_server::registry;
use serde_json::Value;
use tempfile::TempDir;

pub mod device;
pub mod http;
pub mod postgres;
pub mod tenants;

use postgres::Postgres;

/// Longest anything may take here. A noisy machine needs room; a hang still ends.
pub const LIMIT: Duration = Duration::from_secs(90);
/// Which database a test's registry is in where the test does not choose: SQLite where this is unset,
/// PostgreSQL, a server of the place's own, where it is [`ON_POSTGRES`]. `cargo verify` runs the suite on both.
const DATABASE: &str = "MUSTER_TEST_DATABASE";
const ON_POSTGRES: &str = "postgres";

/// What a command did.
#[derive(Debug, Clone)]
pub struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Standard output as one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Standard error as one JSON document.
    pub fn error_json(&self) -> Value {
        serde_json::from_str(&self.err).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// It ended with `status`; the answer, for the next assertion.
    #[track_caller]
    pub fn exits(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Standard error names this code, and all four parts of a refusal that has a place.
    #[track_caller]
    pub fn refused(self, code: &str) -> Self {
        assert!(self.err.contains(&format!("error[{code}] ")), "{self:?}");
        assert!(self.err.contains("\n  where  ") && self.err.contains("\n  next   "), "{self:?}");
        self
    }
}

/// Where `muster` is, for the tests of another package: whoever uses the rig from there has built it.
pub static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

fn program() -> &'static Path {
    let own = option_env!("CARGO_BIN_EXE_muster").map(Path::new);
    own.or_else(|| PROGRAM.get().map(PathBuf::as_path)).expect("cargo, or PROGRAM, says where it is")
}

/// `muster` with these arguments, a clean environment and nothing on standard input.
pub fn muster<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).env_clear().env("LANG", "C.UTF-8").stdin(Stdio::null());
    command
}

/// Runs a command to its end, or ends it.
pub fn run(command: &mut Command) -> Ran {
    run_with(command, None)
}

/// The same with something on standard input.
pub fn run_with(command: &mut Command, input: Option<&str>) -> Ran {
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(input.as_bytes()).unwrap();
    }
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let out = thread::spawn(move || read_all(&mut stdout));
    let err = thread::spawn(move || read_all(&mut stderr));
    let until = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > until => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("{command:?} did not end: {} {}", out.join().unwrap(), err.join().unwrap());
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    Ran { status: status.code().unwrap_or(-1), out: out.join().unwrap(), err: err.join().unwrap() }
}

fn read_all(from: &mut impl std::io::Read) -> String {
    let mut octets = Vec::new();
    from.read_to_end(&mut octets).unwrap();
    String::from_utf8(octets).unwrap()
}

/// Now, Unix seconds.
pub fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// A directory made by `muster init` from a ceremony's bundle, and the hierarchy behind it.
pub struct Place {
    pub dir: TempDir,
    pub hierarchy: Hierarchy,
    /// Where its registry is, when that is not in the data directory and of nobody else.
    postgres: Option<(Postgres, String)>,
}

impl Place {
    /// Makes it, with its registry in the database that this run of the suite is on.
    pub fn new() -> Self {
        match std::env::var(DATABASE).as_deref() {
            Err(_) => Self::embedded(),
            Ok(ON_POSTGRES) => {
                let postgres = Postgres::start();
                let url = postgres.database();
                let place = Self { postgres: Some((postgres, url.clone())), ..Self::at(Some(&url)) };
                assert!(!place.data().join(registry::FILE).exists(), "there is no second registry");
                place
            }
            Ok(other) => panic!("{DATABASE} is {other}; it is unset or {ON_POSTGRES}"),
        }
    }

    /// Makes it, with its registry on SQLite: for a test that is about that file, whatever the run is on.
    pub fn embedded() -> Self {
        Self::at(None)
    }

    /// Makes it, with its registry at the URL of a server that the test itself keeps.
    pub fn with_registry(url: &str) -> Self {
        Self::at(Some(url))
    }

    fn at(url: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hierarchy = testing::hierarchy(now_s());
        let bundle = dir.path().join("bundle");
        // One that nobody can guess takes no time to try: servers start at once.
        let passphrase = Passphrase::generate().unwrap();
        hierarchy.server_bundle().write(&bundle, &passphrase).unwrap();
        let file = dir.path().join("passphrase");
        std::fs::write(&file, format!("{}\n", passphrase.expose_secret())).unwrap();
        let place = Self { dir, hierarchy, postgres: None };
        let mut init = muster(["init", "--data-dir"]);
        init.arg(place.data()).arg("--pki").arg(bundle).arg("--passphrase-file").arg(file);
        if let Some(url) = url {
            init.env("MUSTER_REGISTRY_URL", url);
        }
        run(&mut init).exits(0);
        place
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What its registry holds, as it is stored, once no server is at work on it.
    pub fn stored(&self) -> Vec<u8> {
        match &self.postgres {
            Some((postgres, url)) => postgres.dump(url).into_bytes(),
            None => ["", "-wal"]
                .iter()
                .flat_map(|end| {
                    std::fs::read(self.data().join(format!("{}{end}", registry::FILE))).unwrap_or_default()
                })
                .collect(),
        }
    }

    /// A file beside it.
    pub fn file(&self, name: &str, octets: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, octets).unwrap();
        path
    }

    /// `muster … --data-dir`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = muster(arguments);
        command.arg("--data-dir").arg(self.data());
        command
    }

    /// Runs a command on it.
    pub fn muster(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// Devices with these serials, of the station whose range they are in.
    pub fn devices(&self, serials: &[&str]) -> Vec<Credential> {
        serials
            .iter()
            .map(|serial| testing::device(&self.hierarchy, &testing::subject(serial), now_s()))
            .collect()
    }

    /// The first manifest of the station whose range the devices' serials are in, as a file.
    pub fn manifest(&self, batch: &str, devices: &[Credential]) -> PathBuf {
        let serial = devices[0].identity().serial;
        let mut stations = self.hierarchy.stations.iter();
        let station = stations.find(|keys| keys.record.serials.place(&serial).is_some()).unwrap();
        let octets = testing::manifest_of(station, batch, None, devices, now_s() as u64 * 1000);
        self.file(&format!("{batch}.muster"), octets)
    }
}

/// Serves on free ports.
pub const SERVE: &[&str] = &["serve", "--listen-mqtt", "127.0.0.1:0", "--listen-https", "127.0.0.1:0"];

/// A server at work on a [`Place`].
pub struct Server {
    place: Option<Place>,
    child: Child,
    /// `127.0.0.1:PORT`.
    pub https: String,
    pub mqtt_port: u16,
    log: Option<thread::JoinHandle<String>>,
}

impl Server {
    /// Starts one on a new place.
    pub fn start() -> Self {
        Self::start_on(Place::new())
    }

    /// Starts one on free ports.
    pub fn start_on(place: Place) -> Self {
        let command = place.command(SERVE);
        Self::start_by(place, command)
    }

    /// The same by a command that becomes `muster serve` on the place's data directory.
    pub fn start_by(place: Place, mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = thread::spawn(move || read_all(&mut stderr));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let mut server =
            Self { place: Some(place), child, https: String::new(), mqtt_port: 0, log: Some(log) };
        for _ in 0..2 {
            let Ok(line) = told.recv_timeout(LIMIT) else {
                let log = server.kill();
                panic!("the server did not start: {log}");
            };
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["https", url] => url.strip_prefix("https://").unwrap().clone_into(&mut server.https),
                ["mqtt", url] => server.mqtt_port = url.rsplit(':').next().unwrap().parse().unwrap(),
                _ => panic!("{line}"),
            }
        }
        server
    }

    /// What it runs on.
    pub fn place(&self) -> &Place {
        self.place.as_ref().unwrap()
    }

    /// Runs a command on its data directory.
    pub fn muster(&self, arguments: &[&str]) -> Ran {
        self.place().muster(arguments)
    }

    /// Imports a batch of devices with these serials; they are registered then.
    pub fn with_devices(&self, batch: &str, serials: &[&str]) -> Vec<Credential> {
        let devices = self.place().devices(serials);
        let manifest = self.place().manifest(batch, &devices);
        self.muster(&["batch", "import", manifest.to_str().unwrap()]).exits(0);
        devices
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, by name.
    pub fn signal(&self, name: &str) {
        let kill = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(kill.unwrap().success());
    }

    /// Waits for its end: exit status and log.
    pub fn wait(mut self) -> (Option<i32>, String, Place) {
        let until = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "the server did not end");
            thread::sleep(Duration::from_millis(5));
        };
        let log = self.log.take().unwrap().join().unwrap();
        let place = self.place.take().unwrap();
        (status.code(), log, place)
    }

    /// Ends it as a crash does; what it ran on.
    pub fn killed(mut self) -> Place {
        self.kill();
        self.place.take().unwrap()
    }

    fn kill(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.log.take().and_then(|log| log.join().ok()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let log = self.kill();
        if thread::panicking() {
            eprintln!("the server said:\n{log}");
        }
    }
}

/// Asks until `done`: what devices do shows after a moment.
#[track_caller]
pub fn eventually(what: &str, ask: impl Fn() -> Value, done: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + LIMIT;
    loop {
        let value = ask();
        if done(&value) {
            return value;
        }
        assert!(Instant::now() < end, "{what}: {value}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Reads what a path holds.
pub fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}
