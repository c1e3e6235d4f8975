//! A PostgreSQL server of a test's own: Debian's, unprivileged, on a Unix socket in a temporary directory,
//! with everything on disk that a commit confirms. It ends when its value is dropped, and with the thread
//! that started it, however that ends.

use std::{
    env,
    fs::{self, File},
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Where Debian puts the programs of the oldest version this runs on.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// Longest the server may take to begin, or to end.
const LIMIT: Duration = Duration::from_secs(90);

/// The server, running.
pub struct Postgres {
    child: Child,
    dir: TempDir,
    made: AtomicU32,
}

/// Who a server of root's runs as: PostgreSQL refuses to run as root.
fn owner() -> Option<(u32, u32)> {
    let root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    let named = |name: &str| {
        let users = fs::read_to_string("/etc/passwd").ok()?;
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    root.then(|| named("postgres").or_else(|| named("nobody")).expect("a user that is not root"))
}

/// One of PostgreSQL's programs, as the user it may run as, ended with the thread that starts it.
fn program(name: &str) -> Command {
    let path = Path::new(PROGRAMS).join(name);
    assert!(
        path.exists(),
        "PostgreSQL 15 is not on this machine ({} is not there): install Debian's package postgresql-15",
        path.display()
    );
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if let Some((user, group)) = owner() {
        command.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".to_owned()]);
    }
    command.arg(path).env_clear().env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn give(path: &Path) {
    if let Some((user, group)) = owner() {
        chown(path, Some(user), Some(group)).unwrap();
    }
}

/// An empty cluster to copy, made once a build beside the tests: making one takes seconds.
fn template() -> PathBuf {
    let beside = env::current_exe().unwrap().parent().unwrap().to_owned();
    let ready = beside.join("postgres-15-cluster");
    let lock = File::create(beside.join("postgres-15-cluster.lock")).unwrap();
    lock.lock().unwrap();
    if !ready.exists() {
        // Made where its user may write, then taken in whole.
        let dir = TempDir::new().unwrap();
        give(dir.path());
        let cluster = dir.path().join("cluster");
        run(program("initdb").arg("-D").arg(&cluster).args([
            "--username=muster",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--wal-segsize=1",
            "--no-instructions",
        ]));
        let new = beside.join("postgres-15-cluster.new");
        let _ = fs::remove_dir_all(&new);
        run(Command::new("cp").arg("-a").arg(&cluster).arg(&new));
        fs::rename(&new, &ready).unwrap();
    }
    ready
}

impl Postgres {
    /// Starts one.
    pub fn start() -> Self {
        let dir = TempDir::new().unwrap();
        give(dir.path());
        let cluster = dir.path().join("cluster");
        run(Command::new("cp").arg("-a").arg(template()).arg(&cluster));
        let log = File::create(dir.path().join("log")).unwrap();
        let child = program("postgres")
            .arg("-D")
            .arg(&cluster)
            .arg("-k")
            .arg(dir.path())
            .args(["-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "max_connections=40"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Self { child, dir, made: AtomicU32::new(0) };
        server.wait();
        server
    }

    fn wait(&mut self) {
        let until = Instant::now() + LIMIT;
        loop {
            let ready =
                program("pg_isready").arg("-h").arg(self.dir.path()).args(["-q", "-U", "muster"]).status();
            if ready.unwrap().success() {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "PostgreSQL did not start: {}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the server says of itself.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A new, empty database; its URL.
    pub fn database(&self) -> String {
        let name = format!("registry_{}", self.made.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(&name)
    }

    /// The URL of a database.
    pub fn url(&self, name: &str) -> String {
        format!("postgres://muster@localhost/{name}?host={}", self.dir.path().display())
    }

    /// A new database that holds what is committed in another now.
    pub fn copy(&self, url: &str) -> String {
        let copy = self.database();
        let file = self.dir.path().join("dump.sql");
        fs::write(&file, self.dump(url)).unwrap();
        run(program("psql")
            .args(["-q", "-X", "-v", "ON_ERROR_STOP=1", "-d", &Self::plain(&copy), "-f"])
            .arg(&file));
        copy
    }

    /// What is committed in a database now, as SQL.
    pub fn dump(&self, url: &str) -> String {
        run(program("pg_dump").args(["--no-owner", "-d", &Self::plain(url)]))
    }

    /// As the PostgreSQL programs read it.
    fn plain(url: &str) -> String {
        url.replace("@localhost/", "@/")
    }

    /// Runs SQL in a database.
    pub fn psql(&self, name: &str, sql: &str) -> String {
        run(program("psql")
            .args([
                "-q",
                "-X",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                "muster",
                "-d",
                name,
                "-c",
                sql,
                "-h",
            ])
            .arg(self.dir.path()))
    }

    /// Ends it as a machine that loses power does, and starts it again.
    pub fn crash_and_restart(&mut self) {
        self.crash();
        self.restart();
    }

    /// Ends it as a machine that loses power does.
    pub fn crash(&mut self) {
        self.end("QUIT");
    }

    /// Starts it again.
    pub fn restart(&mut self) {
        let log = File::options().append(true).open(self.dir.path().join("log")).unwrap();
        self.child = program("postgres")
            .arg("-D")
            .arg(self.dir.path().join("cluster"))
            .arg("-k")
            .arg(self.dir.path())
            .args(["-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "max_connections=40"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.wait();
    }

    /// By its own process id.
    fn end(&mut self, signal: &str) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-s", signal, &pid]).status();
        let until = Instant::now() + LIMIT;
        while self.child.try_wait().unwrap_or(None).is_none() {
            if Instant::now() > until {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end("QUIT");
    }
}
