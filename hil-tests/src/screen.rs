//! What a person reads: one writer for marks, colours, numbered lines and times.
//!
//! Colour is decided once (`--color`, `NO_COLOR`, `CLICOLOR_FORCE`, terminal and `TERM`); without a
//! UTF-8 locale the marks are ASCII. A mark is a shape and a word first, a colour last.

use std::{
    env,
    io::{IsTerminal, Write},
    time::Duration,
};

use unicode_width::UnicodeWidthStr;

/// Column where a line's mark begins.
const MARK_COLUMN: usize = 74;

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Color {
    /// On a terminal.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How a line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Done, as designed.
    Done,
    /// Refused, as designed.
    Refused,
    /// Not as designed.
    Wrong,
}

/// Standard output, as a person reads it.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    ascii: bool,
    color: bool,
    terminal: bool,
}

impl Screen {
    /// Decides once.
    #[must_use]
    pub fn new(color: Color, ascii: bool) -> Self {
        let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let terminal = std::io::stdout().is_terminal();
        let dumb = env::var("TERM").is_ok_and(|term| term == "dumb");
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto if set("NO_COLOR") => false,
            Color::Auto if set("CLICOLOR_FORCE") => true,
            Color::Auto => terminal && !dumb,
        };
        Self { ascii: ascii || dumb || !utf8_locale(), color, terminal }
    }

    /// Is somebody looking?
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// A line as it is.
    pub fn line(&self, text: &str) {
        let text = self.plain(text);
        // A closed pipe ends no run: what is shown is not what is done.
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }

    /// Text that the next line overwrites: a sign of life, on a terminal only.
    pub fn passing(&self, text: &str) {
        if self.terminal {
            let shown: String = self.plain(text).chars().take(MARK_COLUMN + 10).collect();
            let mut out = std::io::stdout().lock();
            let _ = write!(out, "\r\x1b[2K{shown}").and_then(|()| out.flush());
        }
    }

    /// Removes what [`Screen::passing`] left.
    pub fn clear_passing(&self) {
        if self.terminal {
            let mut out = std::io::stdout().lock();
            let _ = write!(out, "\r\x1b[2K").and_then(|()| out.flush());
        }
    }

    /// The head of a numbered step.
    pub fn head(&self, number: usize, name: &str, text: &str) -> String {
        format!("{number:>2} {} {text}", pad(name, 11))
    }

    /// A line with its mark in the mark's column, and its time where there is one.
    pub fn marked(&self, text: &str, mark: Mark, took: Option<Duration>) {
        let took = took.map(|took| format!("  {}", seconds(took))).unwrap_or_default();
        self.line(&format!("{} {}{took}", pad(text, MARK_COLUMN), self.mark(mark)));
    }

    fn mark(&self, mark: Mark) -> String {
        let (color, text) = match (mark, self.ascii) {
            (Mark::Done, false) => (32, "✓"),
            (Mark::Done, true) => (32, "ok"),
            (Mark::Refused, false) => (32, "✓ refused"),
            (Mark::Refused, true) => (32, "ok refused"),
            (Mark::Wrong, false) => (31, "✗ NOT AS DESIGNED"),
            (Mark::Wrong, true) => (31, "x NOT AS DESIGNED"),
        };
        self.paint(color, text)
    }

    /// Bold, where there is colour.
    #[must_use]
    pub fn bold(&self, text: &str) -> String {
        self.paint(1, text)
    }

    /// Red, where there is colour.
    #[must_use]
    pub fn red(&self, text: &str) -> String {
        self.paint(31, text)
    }

    fn paint(&self, color: u8, text: &str) -> String {
        if self.color { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn plain(&self, text: &str) -> String {
        if !self.ascii {
            return text.to_owned();
        }
        let spelled = |c: char| match c {
            '·' | '–' => "-",
            '→' => "->",
            '…' => "...",
            '✓' => "ok",
            '✗' | '✕' => "x",
            '●' => "*",
            '◇' => "+",
            '‖' => "=",
            '═' => "=",
            '°' => "",
            _ => "?",
        };
        text.chars().fold(String::new(), |mut out, c| {
            if c.is_ascii() {
                out.push(c)
            } else {
                out.push_str(spelled(c))
            }
            out
        })
    }
}

/// `0.3 s`, `2 min 05 s`.
#[must_use]
pub fn seconds(took: Duration) -> String {
    let ms = took.as_millis();
    match ms {
        0..100 => format!("{ms} ms"),
        100..100_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min {:02} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

fn utf8_locale() -> bool {
    let first = ["LC_ALL", "LC_CTYPE", "LANG"].iter().filter_map(|name| env::var(name).ok());
    first.into_iter().find(|value| !value.is_empty()).is_some_and(|value| {
        let value = value.to_ascii_lowercase();
        value.contains("utf-8") || value.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_and_say_their_unit() {
        let of = |ms| seconds(Duration::from_millis(ms));
        assert_eq!([of(0), of(99), of(100), of(1_949)], ["0 ms", "99 ms", "0.1 s", "1.9 s"]);
        assert_eq!([of(99_999), of(100_000), of(605_000)], ["99.9 s", "1 min 40 s", "10 min 05 s"]);
    }

    #[test]
    fn without_utf8_every_line_is_ascii() {
        let screen = Screen { ascii: true, color: false, terminal: false };
        let shown = screen.plain("● manufactured → registered · 21.4 °C ✓ ═══ … é");
        assert!(shown.is_ascii(), "{shown}");
        assert!(shown.starts_with("* manufactured -> registered - 21.4 C ok"));
    }
}
