//! A device's log: its lines, kept up to a bound, and waited for.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Lines kept; older ones are dropped.
const LINES_MAX: usize = 1024;
/// Octets of a line that is kept; a device's lines are shorter (`LOG_LINE_MAX`).
const LINE_MAX: usize = 512;

/// The log of one device. Clones are the same log.
#[derive(Clone, Default)]
pub struct Log(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    grown: Notify,
}

#[derive(Default)]
struct State {
    lines: VecDeque<String>,
    /// Lines dropped from the front.
    dropped: usize,
    unfinished: String,
    echo: Option<String>,
}

impl Log {
    /// From now on every line also goes to standard output, behind this name.
    pub fn echo(&self, name: &str) {
        self.lock().echo = Some(name.to_owned());
    }

    /// The lines kept, oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.iter().cloned().collect()
    }

    /// The lines kept from number `from` on, and the number after the last.
    #[must_use]
    pub fn since(&self, from: usize) -> (Vec<String>, usize) {
        let state = self.lock();
        let skip = from.saturating_sub(state.dropped);
        (state.lines.iter().skip(skip).cloned().collect(), state.dropped + state.lines.len())
    }

    /// How many lines there have been: a place to wait from.
    #[must_use]
    pub fn len(&self) -> usize {
        let state = self.lock();
        state.dropped + state.lines.len()
    }

    /// Nothing said yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first line from number `from` on of which `wanted` holds, with the number after it. Waits for
    /// ever: the caller sets the deadline.
    pub async fn wait_from(&self, mut from: usize, wanted: impl Fn(&str) -> bool) -> (String, usize) {
        loop {
            let grown = self.0.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            {
                let state = self.lock();
                let kept = from.saturating_sub(state.dropped);
                if let Some(at) = state.lines.iter().skip(kept).position(|line| wanted(line)) {
                    return (state.lines[kept + at].clone(), state.dropped + kept + at + 1);
                }
                from = from.max(state.dropped + state.lines.len());
            }
            grown.await;
        }
    }

    /// The first line, ever or to come, that contains `text`.
    pub async fn wait_for(&self, text: &str) -> String {
        self.wait_from(0, |line| line.contains(text)).await.0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Write for Log {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut state = self.lock();
        let mut parts = text.split('\n');
        state.append(parts.next().unwrap_or_default());
        for part in parts {
            state.finish_line();
            state.append(part);
        }
        drop(state);
        if text.contains('\n') {
            self.0.grown.notify_waiters();
        }
        Ok(())
    }
}

impl State {
    fn append(&mut self, text: &str) {
        let room = LINE_MAX.saturating_sub(self.unfinished.len());
        self.unfinished.extend(text.chars().take(room));
    }

    fn finish_line(&mut self) {
        let line = std::mem::take(&mut self.unfinished);
        if line.is_empty() {
            return;
        }
        if let Some(name) = &self.echo {
            println!("{name} {line}");
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, time::Duration};

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn lines_end_at_newlines_however_they_are_written() {
        let mut log = Log::default();
        for part in ["muster ", "boot", "\nmuster a\n\nmus", "ter b", "\n", "half"] {
            log.write_str(part).unwrap();
        }
        assert_eq!(log.lines(), ["muster boot", "muster a", "muster b"]);
    }

    #[test]
    fn a_bounded_number_of_bounded_lines_is_kept() {
        let mut log = Log::default();
        for n in 0..LINES_MAX + 10 {
            writeln!(log, "{n} {}", "x".repeat(2 * LINE_MAX)).unwrap();
        }
        assert_eq!(log.len(), LINES_MAX + 10);
        let lines = log.lines();
        assert_eq!(lines.len(), LINES_MAX);
        assert!(lines[0].starts_with("10 ") && lines[0].len() == LINE_MAX);
    }

    #[tokio::test]
    async fn waiting_sees_lines_from_before_and_after() {
        let mut log = Log::default();
        writeln!(log, "early").unwrap();
        assert_eq!(log.wait_for("ear").await, "early");
        let mut writer = log.clone();
        let (line, ()) = tokio::join!(log.wait_for("late"), async move {
            tokio::task::yield_now().await;
            writeln!(writer, "too late").unwrap();
        });
        assert_eq!(line, "too late");
        let (_, next) = log.wait_from(0, |line| line == "early").await;
        assert_eq!(log.since(next), (vec!["too late".to_owned()], 2));
        let again = log.wait_from(next, |line| line == "early");
        assert!(timeout(Duration::from_millis(50), again).await.is_err());
    }
}
