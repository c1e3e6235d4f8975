//! The one writer: everything a person reads on the terminal goes through it, errors too.
//!
//! Data goes to standard output, everything else to standard error. Colour is decided once for each of
//! the two. Text from elsewhere is made printable here, so that no name and no reason can steer a terminal.

use std::{
    cell::RefCell,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::{
    api::error::Problem,
    config::{Color, Output},
};

/// How a piece of text stands out. Sixteen terminal colours at most; never the only sign of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Style {
    #[default]
    Plain,
    Bold,
    Quiet,
    Red,
    Green,
    Yellow,
    Blue,
    Magenta,
}

impl Style {
    fn on(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "\x1b[1m",
            Self::Quiet => "\x1b[90m",
            Self::Red => "\x1b[31m",
            Self::Green => "\x1b[32m",
            Self::Yellow => "\x1b[33m",
            Self::Blue => "\x1b[34m",
            Self::Magenta => "\x1b[35m",
        }
    }
}

/// A piece of text with its style.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) style: Style,
}

impl Text {
    pub(super) fn new(text: impl AsRef<str>, style: Style) -> Self {
        Self { text: printable(text.as_ref()), style }
    }

    pub(super) fn plain(text: impl AsRef<str>) -> Self {
        Self::new(text, Style::Plain)
    }

    /// Columns it takes.
    pub(super) fn width(&self) -> usize {
        self.text.width()
    }

    /// Cut to `width` columns, the cut marked.
    pub(super) fn cut(&mut self, width: usize, ascii: bool) {
        if self.width() <= width {
            return;
        }
        let mark = if ascii { "~" } else { "…" };
        let mut left = width.saturating_sub(1);
        let keep = |c: &char| {
            let wide = c.width().unwrap_or(0);
            let fits = wide <= left;
            left = left.saturating_sub(wide);
            fits
        };
        self.text = self.text.chars().take_while(keep).collect();
        self.text.push_str(mark);
    }
}

/// Standard output and standard error of one command.
pub(super) struct Screen {
    pub(super) output: Output,
    pub(super) ascii: bool,
    /// Nobody is there to type anything.
    pub(super) no_input: bool,
    quiet: bool,
    verbose: bool,
    color_out: bool,
    color_err: bool,
    width_out: Option<usize>,
    height_out: Option<usize>,
    dumb: bool,
    width_err: Option<usize>,
    out: RefCell<String>,
    footer: RefCell<String>,
}

/// What decides how a [`Screen`] looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) output: Output,
    pub(super) color: Color,
    pub(super) ascii: bool,
    pub(super) quiet: bool,
    pub(super) verbose: bool,
    pub(super) no_input: bool,
}

impl Screen {
    pub(super) fn new(manner: Manner) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let dumb = variable("TERM").is_some_and(|term| term == "dumb");
        let color = |terminal: bool| decide_color(manner.color, terminal && !dumb, &variable);
        let (out, err) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let columns = || {
            let said = variable("COLUMNS").and_then(|columns| columns.parse().ok());
            said.or_else(|| terminal_size::terminal_size().map(|(width, _)| usize::from(width.0)))
        };
        let lines = || {
            let said = variable("LINES").and_then(|lines| lines.parse().ok());
            said.or_else(|| terminal_size::terminal_size().map(|(_, height)| usize::from(height.0)))
        };
        Self {
            output: manner.output,
            ascii: manner.ascii || dumb || !is_utf8(&variable),
            quiet: manner.quiet,
            verbose: manner.verbose,
            no_input: manner.no_input,
            color_out: color(out),
            color_err: color(err),
            width_out: out.then(columns).flatten(),
            height_out: out.then(lines).flatten(),
            dumb,
            width_err: err.then(columns).flatten(),
            out: RefCell::default(),
            footer: RefCell::default(),
        }
    }

    /// The same for what is kept: without colour, lines as long as they are.
    pub(super) fn kept(self) -> Self {
        Self {
            color_out: false,
            color_err: false,
            width_out: None,
            height_out: None,
            width_err: None,
            ..self
        }
    }

    /// Columns of the terminal that reads standard output; `None` where no terminal does.
    pub(super) fn width(&self) -> Option<usize> {
        self.width_out
    }

    /// Lines of the terminal that reads standard output; `None` where no terminal does.
    pub(super) fn height(&self) -> Option<usize> {
        self.height_out
    }

    /// Whether a terminal reads standard output that can be written over.
    pub(super) fn is_redrawn(&self) -> bool {
        self.width_out.is_some() && !self.dumb
    }

    /// Pieces as a line of data is written: with colour where that was decided.
    pub(super) fn painted(&self, pieces: &[Text]) -> String {
        let mut line = String::new();
        for piece in pieces {
            paint(&mut line, piece, self.color_out);
        }
        line.trim_end().to_owned()
    }

    /// The glyph, or what stands for it in ASCII.
    pub(super) fn glyph(&self, glyph: &'static str, ascii: &'static str) -> &'static str {
        if self.ascii { ascii } else { glyph }
    }

    /// A line of data from pieces.
    pub(super) fn pieces(&self, pieces: &[Text]) {
        self.raw(&self.painted(pieces));
    }

    /// A line of data.
    pub(super) fn line(&self, line: impl AsRef<str>) {
        self.raw(&printable(line.as_ref()));
    }

    /// A line of data as it is: a document this program wrote.
    pub(super) fn raw(&self, line: &str) {
        let mut out = self.out.borrow_mut();
        out.push_str(line);
        out.push('\n');
    }

    /// What comes after the data on standard error: counts, what to do next.
    pub(super) fn footer(&self, line: impl AsRef<str>) {
        if !self.quiet {
            let _ = writeln!(self.footer.borrow_mut(), "{}", printable(line.as_ref()));
        }
    }

    /// A warning; it stands above the data.
    pub(super) fn warning(&self, line: impl AsRef<str>) {
        if !self.quiet {
            let mut text = String::new();
            paint(&mut text, &Text::new("warning", Style::Yellow), self.color_err);
            let _ = writeln!(io::stderr(), "{text} {}", printable(line.as_ref()));
        }
    }

    /// A refusal: what, where, why, next. With JSON output, one JSON line.
    pub(super) fn error(&self, problem: &Problem) {
        let _ = io::stderr().write_all(self.refusal(problem).as_bytes());
    }

    /// The same, as it is written.
    pub(super) fn refusal(&self, problem: &Problem) -> String {
        match self.output {
            Output::Json | Output::Jsonl => format!("{}\n", problem.to_cli_json()),
            _ => self.anatomy(problem),
        }
    }

    fn anatomy(&self, problem: &Problem) -> String {
        let mut text = String::new();
        paint(&mut text, &Text::new(format!("error[{}]", problem.code), Style::Red), self.color_err);
        let head = format!("error[{}] ", problem.code).len();
        let _ = writeln!(text, " {}", hang(&problem.what, head, 2, self.width_err));
        let next = Some(&problem.next);
        for (label, said) in
            [("where", problem.place.as_ref()), ("why", problem.why.as_ref()), ("next", next)]
        {
            if let Some(said) = said.filter(|said| !said.is_empty()) {
                let _ = writeln!(text, "  {label:<5}  {}", hang(said, 9, 9, self.width_err));
            }
        }
        if let Some(id) = problem.request_id.as_ref().filter(|_| self.verbose) {
            let _ = writeln!(text, "  id     request {}", printable(id));
        }
        text
    }

    /// Writes what was collected.
    ///
    /// # Errors
    /// When standard output cannot be written; a reader that went away is no error.
    pub(super) fn finish(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let text = std::mem::take(&mut *self.out.borrow_mut());
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        let _ = io::stderr().write_all(self.footer.borrow_mut().as_bytes());
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

fn paint(into: &mut String, piece: &Text, color: bool) {
    if color && piece.style != Style::Plain && !piece.text.trim().is_empty() {
        let _ = write!(into, "{}{}\x1b[0m", piece.style.on(), piece.text);
    } else {
        into.push_str(&piece.text);
    }
}

/// `--color`, then `NO_COLOR`, then `CLICOLOR_FORCE`, then what reads the stream.
fn decide_color(said: Color, terminal: bool, variable: &dyn Fn(&str) -> Option<String>) -> bool {
    match said {
        Color::Always => true,
        Color::Never => false,
        Color::Auto if variable("NO_COLOR").is_some() => false,
        Color::Auto => terminal || variable("CLICOLOR_FORCE").is_some_and(|value| value != "0"),
    }
}

/// The first of these that is set decides the character set (POSIX XBD §8.2).
fn is_utf8(variable: &dyn Fn(&str) -> Option<String>) -> bool {
    let said = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| variable(name));
    said.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// Control characters and what turns the direction of text become visible; a line break stays.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let steers = c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c {
            '\n' => out.push(c),
            '\t' => out.push(' '),
            _ if steers => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out
}

/// Breaks `text` at spaces to `width` columns where a terminal reads it; later lines are indented.
fn hang(text: &str, first: usize, indent: usize, width: Option<usize>) -> String {
    let text = printable(text);
    let mut out = String::new();
    for (at, line) in text.lines().enumerate() {
        let mut column = if at == 0 { first } else { indent };
        if at > 0 {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
        }
        for (word_at, word) in line.split(' ').enumerate() {
            let needs = usize::from(word_at > 0) + word.width();
            if word_at > 0 && width.is_some_and(|width| column + needs > width) {
                out.push('\n');
                out.push_str(&" ".repeat(indent));
                column = indent + word.width();
            } else {
                out.push_str(if word_at > 0 { " " } else { "" });
                column += needs;
            }
            out.push_str(word);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_decided_in_the_documented_order() {
        let none = |_: &str| None;
        let set = |wanted: &'static str| move |name: &str| (name == wanted).then(|| "1".to_owned());
        assert!(decide_color(Color::Always, false, &set("NO_COLOR")));
        assert!(!decide_color(Color::Never, true, &set("CLICOLOR_FORCE")));
        assert!(!decide_color(Color::Auto, true, &set("NO_COLOR")));
        assert!(decide_color(Color::Auto, false, &set("CLICOLOR_FORCE")));
        assert!(decide_color(Color::Auto, true, &none));
        assert!(!decide_color(Color::Auto, false, &none));
    }

    #[test]
    fn text_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(printable("a\u{202e}b\u{9b}"), "a\\u{202e}b\\u{9b}");
        assert_eq!(printable("Grüße …"), "Grüße …");
    }

    #[test]
    fn a_cut_is_marked_and_counts_columns_not_characters() {
        let mut text = Text::plain("日本語テスト");
        assert_eq!(text.width(), 12);
        text.cut(6, false);
        assert_eq!((text.text.as_str(), text.width()), ("日本…", 5));
        let mut short = Text::plain("abc");
        short.cut(3, false);
        assert_eq!(short.text, "abc");
    }

    #[test]
    fn long_lines_hang() {
        assert_eq!(hang("one two three", 9, 2, Some(14)), "one\n  two three");
        assert_eq!(hang("one two three", 9, 2, None), "one two three");
        assert_eq!(hang("a\nb", 9, 2, None), "a\n  b");
    }

    #[test]
    fn the_locale_decides_on_glyphs() {
        let of = |pairs: &'static [(&'static str, &'static str)]| {
            move |name: &str| pairs.iter().find(|(of, _)| *of == name).map(|(_, v)| (*v).to_owned())
        };
        assert!(is_utf8(&of(&[("LANG", "en_GB.UTF-8")])));
        assert!(is_utf8(&of(&[("LANG", "C"), ("LC_ALL", "C.utf8")])));
        assert!(!is_utf8(&of(&[("LANG", "en_GB.UTF-8"), ("LC_ALL", "C")])));
        assert!(!is_utf8(&of(&[])));
    }
}
