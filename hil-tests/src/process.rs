//! A child process that cannot outlive its parent, and its log.
//!
//! Everything has a deadline. A child is killed when its [`Running`] is dropped and, through
//! `setpriv --pdeathsig` (util-linux), when the thread that started it ends in any other way.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{packages, toolchain::spell};

/// How often a wait looks whether the run was interrupted, or the child has ended.
const TICK: Duration = Duration::from_millis(20);

/// Why a wait for a process or its log ended without what was waited for.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program cannot be started.
    #[error("{0} cannot be started")]
    Start(String, #[source] std::io::Error),
    /// Its log cannot be kept.
    #[error("the log of {0} cannot be written")]
    Log(&'static str, #[source] std::io::Error),
    /// The deadline passed.
    #[error("{name} did not say {wanted:?} within {within_s} s; its last lines:\n{tail}")]
    Silent {
        /// Whose log.
        name: &'static str,
        /// What was waited for.
        wanted: String,
        /// The deadline.
        within_s: u64,
        /// The end of its log.
        tail: String,
    },
    /// It ended before it said it.
    #[error("{name} ended ({status}) before it said {wanted:?}; its last lines:\n{tail}")]
    Ended {
        /// Which program.
        name: &'static str,
        /// How it ended.
        status: String,
        /// What was waited for.
        wanted: String,
        /// The end of its log.
        tail: String,
    },
    /// It did not end in time and was killed.
    #[error("{name} did not end within {within_s} s and was killed; its last lines:\n{tail}")]
    Hangs {
        /// Which program.
        name: &'static str,
        /// The deadline.
        within_s: u64,
        /// The end of its log.
        tail: String,
    },
    /// Somebody pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C and SIGTERM end waits with [`ProcessError::Interrupted`] instead of the process,
/// so that what was started is ended in order.
///
/// # Errors
/// When the signals cannot be caught.
pub fn catch_interrupts() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    drop(entered);
    thread::Builder::new().name("interrupts".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
            INTERRUPTED.store(true, Ordering::SeqCst);
            // The second one means at once; children die with this process.
            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
            std::process::exit(130);
        });
    })?;
    Ok(())
}

/// Has somebody pressed Ctrl-C?
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Waits, unless somebody presses Ctrl-C.
///
/// # Errors
/// [`ProcessError::Interrupted`].
pub fn pause(time: Duration) -> Result<(), ProcessError> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        if interrupted() {
            return Err(ProcessError::Interrupted);
        }
        thread::sleep(TICK.min(until.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

/// One line of a log, and when it arrived.
#[derive(Debug, Clone)]
pub struct Line {
    /// Without its line end.
    pub text: String,
    /// When it was read.
    pub at: Instant,
}

/// All lines a process has written.
#[derive(Debug, Default)]
pub struct Log {
    lines: Mutex<Vec<Line>>,
    grown: Condvar,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
        // A reader that panicked has pushed whole lines or none.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many lines there are: a place to search from later.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The lines from a place on.
    #[must_use]
    pub fn since(&self, from: usize) -> Vec<String> {
        self.lock().iter().skip(from).map(|line| line.text.clone()).collect()
    }

    /// The end of the log, indented, for an error.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let all = self.lock();
        let from = all.len().saturating_sub(lines);
        let tail: Vec<String> = all[from..].iter().map(|line| format!("    | {}", line.text)).collect();
        tail.join("\n")
    }

    fn push(&self, text: String) {
        self.lock().push(Line { text, at: Instant::now() });
        self.grown.notify_all();
    }

    /// Takes lines from a stream until it ends, also into a file.
    fn follow(self: Arc<Self>, stream: impl Read + Send + 'static, mut kept: Option<File>) {
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                if let Some(file) = &mut kept {
                    // The log in memory is what counts; the file is for whoever looks later.
                    let _ = file.write_all(&line).and_then(|()| file.write_all(b"\n"));
                }
                self.push(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned());
            }
        });
    }
}

/// A child process and its log.
#[derive(Debug)]
pub struct Running {
    name: &'static str,
    child: Child,
    /// What it has written, standard output and error together.
    pub log: Arc<Log>,
}

impl Running {
    /// Starts a program. Its standard output and error become its log, kept in a file as well where one
    /// is named. The calling thread must live as long as the child.
    ///
    /// # Errors
    /// [`ProcessError::Start`] and [`ProcessError::Log`].
    pub fn start(name: &'static str, command: &Command, kept: Option<&Path>) -> Result<Self, ProcessError> {
        let open = |path: &Path| File::options().create(true).append(true).open(path);
        let kept = kept.map(open).transpose().map_err(|e| ProcessError::Log(name, e))?;
        let also = kept.as_ref().map(File::try_clone).transpose().map_err(|e| ProcessError::Log(name, e))?;
        let mut bound = bound_to_us(command);
        bound.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = bound.spawn().map_err(|e| ProcessError::Start(spell(command), e))?;
        let log = Arc::new(Log::default());
        if let Some(out) = child.stdout.take() {
            Arc::clone(&log).follow(out, kept);
        }
        if let Some(err) = child.stderr.take() {
            Arc::clone(&log).follow(err, also);
        }
        Ok(Self { name, child, log })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that holds `wanted`, from place `from` on; returns the line and the place after it.
    ///
    /// # Errors
    /// [`ProcessError`]: the deadline passed, the process ended, or somebody pressed Ctrl-C.
    pub fn wait_for(
        &mut self,
        from: usize,
        wanted: &str,
        within: Duration,
    ) -> Result<(Line, usize), ProcessError> {
        let found = |line: &str| line.contains(wanted);
        self.wait_until(from, wanted, &found, within)
    }

    /// Waits for a line that `found` accepts; `wanted` names it in the error.
    ///
    /// # Errors
    /// As [`Running::wait_for`].
    pub fn wait_until(
        &mut self,
        from: usize,
        wanted: &str,
        found: &dyn Fn(&str) -> bool,
        within: Duration,
    ) -> Result<(Line, usize), ProcessError> {
        let until = Instant::now() + within;
        let log = Arc::clone(&self.log);
        let mut next = from;
        let mut last_look = false;
        loop {
            let lines = log.lock();
            if let Some(at) = lines.iter().skip(next).position(|line| found(&line.text)) {
                return Ok((lines[next + at].clone(), next + at + 1));
            }
            next = next.max(lines.len());
            if interrupted() {
                return Err(ProcessError::Interrupted);
            }
            let (wanted, name) = (wanted.to_owned(), self.name);
            if last_look {
                drop(lines);
                let status = self.child.wait().map(|s| s.to_string()).unwrap_or_default();
                return Err(ProcessError::Ended { name, status, wanted, tail: log.tail(12) });
            }
            if Instant::now() >= until {
                drop(lines);
                return Err(ProcessError::Silent {
                    name,
                    wanted,
                    within_s: within.as_secs(),
                    tail: log.tail(12),
                });
            }
            let (lines, _) = log.grown.wait_timeout(lines, TICK).unwrap_or_else(PoisonError::into_inner);
            drop(lines);
            if self.ended() {
                // Its last words may still be on their way through the pipe.
                thread::sleep(TICK * 2);
                last_look = true;
            }
        }
    }

    /// Has it ended?
    pub fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// [`ProcessError::Hangs`] after it was killed, and [`ProcessError::Interrupted`].
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus, ProcessError> {
        let until = Instant::now() + within;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if interrupted() => return Err(ProcessError::Interrupted),
                Ok(None) if Instant::now() < until => thread::sleep(TICK),
                Ok(None) => {
                    self.kill();
                    let tail = self.log.tail(12);
                    return Err(ProcessError::Hangs { name: self.name, within_s: within.as_secs(), tail });
                }
                Err(e) => return Err(ProcessError::Start(self.name.to_owned(), e)),
            }
        }
    }

    /// Asks it to stop (SIGTERM) and waits; kills it when it does not.
    pub fn stop(&mut self, within: Duration) -> Option<ExitStatus> {
        let _ = Command::new("kill").args(["-TERM", &self.id().to_string()]).status();
        let until = Instant::now() + within;
        while Instant::now() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            thread::sleep(TICK);
        }
        self.kill();
        None
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a program that runs to its end has said.
#[derive(Debug, Clone)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// How long it took.
    pub took: Duration,
}

/// Runs a program to its end.
///
/// # Errors
/// [`ProcessError`]; a status other than 0 is no error.
pub fn run(name: &'static str, command: &Command, within: Duration) -> Result<Said, ProcessError> {
    let mut bound = bound_to_us(command);
    bound.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut child = bound.spawn().map_err(|e| ProcessError::Start(spell(command), e))?;
    let collect = |stream: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut all = Vec::new();
            if let Some(mut stream) = stream {
                let _ = stream.read_to_end(&mut all);
            }
            String::from_utf8_lossy(&all).into_owned()
        })
    };
    let out = collect(child.stdout.take().map(|out| Box::new(out) as _));
    let err = collect(child.stderr.take().map(|err| Box::new(err) as _));
    let mut running = Running { name, child, log: Arc::default() };
    let status = running.wait(within)?;
    let took = began.elapsed();
    let text = |reader: thread::JoinHandle<String>| reader.join().unwrap_or_default();
    Ok(Said { status, out: text(out), err: text(err), took })
}

/// The same command, to be killed when this thread ends, in a process group of its own, so that Ctrl-C
/// reaches only us.
fn bound_to_us(command: &Command) -> Command {
    let mut bound = match packages::find("setpriv") {
        Some(setpriv) => {
            let mut bound = Command::new(setpriv);
            bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program());
            bound
        }
        None => Command::new(command.get_program()),
    };
    bound.args(command.get_args()).process_group(0);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        bound.current_dir(dir);
    }
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn lines_are_found_in_order_and_once() {
        let mut run =
            Running::start("sh", &shell("echo one; echo two >&2; sleep 0.1; echo one"), None).unwrap();
        let (_, after) = run.wait_for(0, "one", LONG).unwrap();
        run.wait_for(0, "two", LONG).unwrap();
        let (second, end) = run.wait_for(after, "one", LONG).unwrap();
        assert_eq!((second.text.as_str(), end), ("one", 3));
    }

    #[test]
    fn an_ended_process_ends_the_wait_and_shows_its_last_words() {
        let mut run = Running::start("sh", &shell("echo last words; exit 3"), None).unwrap();
        let fault = run.wait_for(0, "never", LONG).unwrap_err();
        assert!(matches!(&fault, ProcessError::Ended { tail, .. } if tail.contains("last words")), "{fault}");
        assert!(fault.to_string().contains("exit status: 3"), "{fault}");
    }

    #[test]
    fn a_silent_process_meets_the_deadline() {
        let mut run = Running::start("sh", &shell("sleep 60"), None).unwrap();
        let fault = run.wait_for(0, "never", Duration::from_millis(100)).unwrap_err();
        assert!(matches!(fault, ProcessError::Silent { .. }), "{fault}");
    }

    #[test]
    fn dropping_kills() {
        let run = Running::start("sh", &shell("sleep 60"), None).unwrap();
        let entry = format!("/proc/{}", run.id());
        assert!(Path::new(&entry).exists());
        drop(run);
        assert!(!Path::new(&entry).exists());
    }

    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        let id = thread::spawn(|| {
            let mut run = Running::start("sh", &shell("echo up; sleep 60"), None).unwrap();
            run.wait_for(0, "up", LONG).unwrap();
            let id = run.id();
            std::mem::forget(run);
            id
        });
        let id = id.join().unwrap();
        let until = Instant::now() + LONG;
        let state = || std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // A zombie is dead: its parent, this process, has not collected it.
        while !(state().is_empty() || state().contains(") Z")) {
            assert!(Instant::now() < until, "still there: {}", state());
            thread::sleep(TICK);
        }
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let fault = run("sh", &shell("sleep 60"), Duration::from_millis(100)).unwrap_err();
        assert!(matches!(fault, ProcessError::Hangs { .. }), "{fault}");
        let said = run("sh", &shell("echo out; echo err >&2; exit 4"), LONG).unwrap();
        assert_eq!((said.out.as_str(), said.err.as_str(), said.status.code()), ("out\n", "err\n", Some(4)));
    }
}
