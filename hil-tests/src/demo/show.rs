//! How the demo tells its story: numbered steps for a person, one JSON line a step for a program.

use std::{
    io::{BufRead, Write},
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;

use crate::{
    process::ProcessError,
    screen::{Mark, Screen, seconds},
};

/// What a step has seen.
#[derive(Debug, Default)]
pub struct Told {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    text: String,
    /// For a person's eyes: no program that keeps what it is told gets it.
    private: bool,
    mark: Option<(Mark, Option<Duration>)>,
}

impl Told {
    /// A step whose first line is this, and which went as designed.
    #[must_use]
    pub fn done(text: impl Into<String>) -> Self {
        Self::marked(text, Mark::Done)
    }

    /// A step whose first line is this, and which ended in the refusal that was wanted.
    #[must_use]
    pub fn refused(text: impl Into<String>) -> Self {
        Self::marked(text, Mark::Refused)
    }

    fn marked(text: impl Into<String>, mark: Mark) -> Self {
        Self { lines: vec![Line { text: text.into(), private: false, mark: Some((mark, None)) }] }
    }

    /// A line below the first.
    #[must_use]
    pub fn and(mut self, text: impl Into<String>) -> Self {
        self.lines.push(Line { text: text.into(), private: false, mark: None });
        self
    }

    /// A line below the first that only a person is told: it lets in whoever has it.
    #[must_use]
    pub fn in_private(mut self, text: impl Into<String>) -> Self {
        self.lines.push(Line { text: text.into(), private: true, mark: None });
        self
    }

    /// A line of the device's serial log.
    #[must_use]
    pub fn device(mut self, line: &str) -> Self {
        self.lines.push(Line { text: format!("{DEVICE}{line}"), private: false, mark: None });
        self
    }

    /// The time to show instead of the step's own: what the step measured.
    #[must_use]
    pub fn took(mut self, took: Duration) -> Self {
        if let Some(Line { mark: Some((_, time)), .. }) = self.lines.first_mut() {
            *time = Some(took);
        }
        self
    }

    /// All of it in one line, but what is private.
    fn detail(&self) -> String {
        let told = self.lines.iter().filter(|line| !line.private);
        let texts: Vec<&str> = told.map(|line| line.text.trim()).collect();
        texts.join("; ")
    }
}

/// Stands before a line of the serial log; it takes the place of the margin.
const DEVICE: &str = "\u{1}";
const MARGIN: &str = "               ";

/// The story as it is told.
#[derive(Debug)]
pub struct Show {
    screen: Screen,
    json: bool,
    stepwise: bool,
    began: Instant,
    number: usize,
    wrong: usize,
    closed: bool,
}

#[derive(Serialize)]
struct JsonStep<'a> {
    step: &'a str,
    ok: bool,
    ms: u64,
    detail: String,
}

impl Show {
    /// Begins. `stepwise` waits for Enter before each step.
    #[must_use]
    pub fn new(screen: Screen, json: bool, stepwise: bool) -> Self {
        Self { screen, json, stepwise, began: Instant::now(), number: 0, wrong: 0, closed: false }
    }

    /// Runs a step and tells it; says whether it went as designed.
    ///
    /// # Errors
    /// [`ProcessError::Interrupted`], which is nobody's fault.
    pub fn step(&mut self, name: &str, doing: &str, act: impl FnOnce() -> Result<Told>) -> Result<bool> {
        self.number += 1;
        if self.stepwise {
            self.wait_for_enter(name, doing)?;
        }
        let head = |text: &str| self.screen.head(self.number, name, text);
        if !self.json {
            self.screen.passing(&head(doing));
        }
        let began = Instant::now();
        let told = act();
        let took = began.elapsed();
        self.screen.clear_passing();
        if let Err(fault) = &told
            && matches!(fault.downcast_ref(), Some(ProcessError::Interrupted))
        {
            return told.map(|_| true);
        }
        let ok = told.is_ok();
        self.wrong += usize::from(!ok);
        if self.json {
            let detail = told.map_or_else(|fault| format!("{fault:#}"), |told| told.detail());
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            let line = serde_json::to_string(&JsonStep { step: name, ok, ms, detail })?;
            writeln!(std::io::stdout().lock(), "{line}")?;
            return Ok(ok);
        }
        match told {
            Ok(told) => self.tell(&head, &told, took),
            Err(fault) => {
                self.screen.marked(&head(doing), Mark::Wrong, Some(took));
                for line in format!("{fault:#}").lines() {
                    self.screen.line(&format!("{MARGIN}{}", self.screen.red(line)));
                }
            }
        }
        Ok(ok)
    }

    fn tell(&self, head: &dyn Fn(&str) -> String, told: &Told, took: Duration) {
        for (at, line) in told.lines.iter().enumerate() {
            let text = match line.text.strip_prefix(DEVICE) {
                Some(said) => format!("   device    | {said}"),
                None if at == 0 => head(&line.text),
                None => format!("{MARGIN}{}", line.text),
            };
            match line.mark {
                Some((mark, measured)) => self.screen.marked(&text, mark, Some(measured.unwrap_or(took))),
                None => self.screen.line(&text),
            }
        }
    }

    /// The last line of the story.
    pub fn close(&mut self) {
        self.closed = true;
        if self.json {
            return;
        }
        let (all, took) = (self.number, seconds(self.began.elapsed()));
        let held = all - self.wrong;
        self.screen.line("");
        self.screen
            .line(&self.screen.bold(&format!("{held} of {all} as designed, {took} · next: cargo verify")));
    }

    /// Was the last line told?
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Did every step go as designed?
    #[must_use]
    pub fn held(&self) -> bool {
        self.wrong == 0 && self.number > 0
    }

    /// A line for a person only.
    pub fn say(&self, text: &str) {
        if !self.json {
            self.screen.line(text);
        }
    }

    fn wait_for_enter(&self, name: &str, doing: &str) -> Result<()> {
        self.screen.passing(&format!("{} · Enter goes on", self.screen.head(self.number, name, doing)));
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line)?;
        anyhow::ensure!(read > 0, ProcessError::Interrupted);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_not_told_what_lets_somebody_in() {
        let told = Told::done("listens").in_private("watch along: https://localhost/once/secret").and("well");
        assert_eq!(told.detail(), "listens; well");
    }
}
