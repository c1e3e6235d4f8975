//! `--watch`: the same listing again and again. On a terminal the table in place, else a line for each change,
//! with `+`, `~` or `-` first, or a JSON document. It ends with Ctrl-C.
//!
//! Rows keep their order: what is new comes behind. What changed is bold for a while. A server that does not
//! answer ends nothing: what was seen last stays, with its age, and the next look is as soon as any.

use std::{
    collections::HashMap,
    io::Write as _,
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Done,
    args::Narrow,
    client::{Client, read},
    device::pages,
    screen::{Screen, Style, Text},
    table::{Column, aligned, cells, heads},
    whole, words,
};
use crate::api::{error::Problem, time, view};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// How long what changed stands out.
const BOLD: Duration = Duration::from_secs(3);

/// A listing that is watched.
pub(super) struct Watched<'a, T: 'static> {
    pub(super) path: &'a str,
    /// `&filter=…`, as an address has it.
    pub(super) query: &'a str,
    pub(super) after: Option<&'a str>,
    pub(super) limit: u32,
    /// What is narrowed here, not by the server.
    pub(super) narrow: Option<&'a Narrow>,
    pub(super) columns: &'static [Column<T>],
    /// What a row is known by from one look to the next.
    pub(super) name: fn(&T) -> String,
}

/// A row as it was seen last.
#[derive(Debug, Clone)]
struct Row {
    name: String,
    cells: Vec<Text>,
    /// As the server sent it.
    raw: Value,
    /// When each cell changed last; `None`: not since it was first seen.
    changed: Vec<Option<Instant>>,
}

pub(super) fn run<T: DeserializeOwned>(
    watched: &Watched<'_, T>,
    client: &Client,
    screen: &Screen,
) -> Result<Done, Problem> {
    let in_place = screen.is_redrawn() && !screen.output.is_json();
    let mut rows: Vec<Row> = Vec::new();
    let mut seen_at: Option<String> = None;
    let mut cut = false;
    loop {
        match look(watched, client, screen) {
            Ok(now) => {
                if cut && !in_place {
                    screen.warning("the server answers again");
                }
                cut = false;
                seen_at = Some(words::instant(&time::from_ms(words::now_ms().max(0).cast_unsigned())));
                let (merged, lines) = merged(&rows, now, Instant::now(), screen);
                rows = merged;
                if !in_place && !put(&lines) {
                    return Ok(Done::Well);
                }
            }
            // What no later look will make good ends it, and so does a first look that fails.
            Err(problem) if seen_at.is_none() || problem.status() < 500 && problem.status() != 429 => {
                return Err(problem);
            }
            Err(problem) => {
                if !cut && !in_place {
                    screen.warning(format!("[{}] {}: looking again", problem.code, problem.what));
                }
                cut = true;
            }
        }
        if in_place {
            let frame = frame(watched, &rows, seen_at.as_deref().filter(|_| !cut), &seen_at, screen);
            if !put(&frame) {
                return Ok(Done::Well);
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// `false`: nobody reads any more.
fn put(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

fn look<T: DeserializeOwned>(
    watched: &Watched<'_, T>,
    client: &Client,
    screen: &Screen,
) -> Result<Vec<Row>, Problem> {
    let document = match watched.narrow {
        Some(narrow) => whole::document(watched.path, narrow, watched.name, client)?.0,
        None => {
            let after = watched.after.map(str::to_owned);
            pages(client, watched.path, watched.query, after, watched.limit)?
        }
    };
    let page: view::Page<T> = read(&document)?;
    let raw = document["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |(item, raw): (&T, &Value)| {
        let cells = cells(screen, item, watched.columns);
        Row { name: (watched.name)(item), changed: vec![None; cells.len()], cells, raw: raw.clone() }
    };
    Ok(page.items.iter().zip(raw).map(row).collect())
}

/// The rows of before as they are now, then what is new; and a line for each change.
fn merged(before: &[Row], now: Vec<Row>, at: Instant, screen: &Screen) -> (Vec<Row>, String) {
    let mut now: HashMap<String, (usize, Row)> =
        now.into_iter().enumerate().map(|(place, row)| (row.name.clone(), (place, row))).collect();
    let mut merged = Vec::with_capacity(now.len());
    let (mut gone, mut other) = (Vec::new(), Vec::new());
    for old in before {
        let Some((_, mut row)) = now.remove(&old.name) else {
            gone.push(old.clone());
            continue;
        };
        let mut same = true;
        for (cell, (is, was)) in row.cells.iter().zip(&old.cells).enumerate() {
            let equal = is.text == was.text;
            row.changed[cell] = if equal { old.changed[cell] } else { Some(at) };
            same &= equal;
        }
        if screen.output.is_json() {
            same = row.raw == old.raw;
        }
        if !same {
            other.push(('~', row.clone()));
        }
        merged.push(row);
    }
    let mut new: Vec<_> = now.into_values().collect();
    new.sort_by_key(|(place, _)| *place);
    other.splice(0..0, new.iter().map(|(_, row)| ('+', row.clone())));
    other.extend(gone.into_iter().map(|row| ('-', row)));
    merged.extend(new.into_iter().map(|(_, row)| row));
    let lines = changes(other, screen);
    (merged, lines)
}

/// A line for each change: aligned with those of the same look.
fn changes(changed: Vec<(char, Row)>, screen: &Screen) -> String {
    let mut out = String::new();
    if screen.output.is_json() {
        for (sign, row) in changed {
            let word = match sign {
                '+' => "new",
                '~' => "changed",
                _ => "gone",
            };
            let line = serde_json::json!({ "change": word, "item": row.raw });
            out.push_str(&format!("{line}\n"));
        }
        return out;
    }
    let (signs, rows): (Vec<_>, Vec<_>) = changed.into_iter().map(|(sign, row)| (sign, row.cells)).unzip();
    for (sign, line) in signs.into_iter().zip(aligned(screen, rows)) {
        out.push_str(&format!("{sign} {line}\n"));
    }
    out
}

/// The table from the top of the screen, over what stood there.
fn frame<T>(
    watched: &Watched<'_, T>,
    rows: &[Row],
    live: Option<&str>,
    seen_at: &Option<String>,
    screen: &Screen,
) -> String {
    let mut all = vec![heads(screen, watched.columns)];
    // The head, the line for what has no room, and the footer.
    let room = screen.height().map_or(usize::MAX, |height| height.saturating_sub(3).max(1));
    for row in rows.iter().take(room) {
        let cells = row.cells.iter().zip(&row.changed).map(|(cell, changed)| Text {
            style: if changed.is_some_and(|at| at.elapsed() < BOLD) { Style::Bold } else { cell.style },
            text: cell.text.clone(),
        });
        all.push(cells.collect());
    }
    let mut lines = aligned(screen, all);
    if rows.is_empty() {
        lines.push("nothing yet".to_owned());
    }
    if rows.len() > room {
        lines.push(format!("and {} more", rows.len() - room));
    }
    let at = seen_at.as_deref().unwrap_or("never");
    lines.push(match live {
        Some(at) => format!("live · updated {at}"),
        None => format!("no answer, looking again · data from {at}"),
    });
    // Home; each line and what stood behind it; what stood below.
    let mut out = String::from("\x1b[H");
    for line in lines {
        out.push_str(&line);
        out.push_str("\x1b[K\n");
    }
    out.push_str("\x1b[J");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::screen::Manner,
        config::{Color, Output},
    };

    fn screen(output: Output) -> Screen {
        Screen::new(Manner {
            output,
            color: Color::Never,
            ascii: true,
            quiet: true,
            verbose: false,
            no_input: true,
        })
    }

    fn rows(pairs: &[(&str, &str)]) -> Vec<Row> {
        let row = |(name, state): &(&str, &str)| Row {
            name: (*name).to_owned(),
            cells: vec![Text::plain(name), Text::plain(state)],
            raw: serde_json::json!({ "serial": name, "state": state }),
            changed: vec![None; 2],
        };
        pairs.iter().map(row).collect()
    }

    #[test]
    fn each_change_is_an_aligned_line_and_rows_keep_their_order() {
        let (screen, at) = (screen(Output::Table), Instant::now());
        let (first, lines) = merged(&[], rows(&[("long-name", "1"), ("b", "1")]), at, &screen);
        assert_eq!(lines, "+ long-name  1\n+ b          1\n");
        let (second, lines) = merged(&first, rows(&[("c", "1"), ("b", "2")]), at, &screen);
        assert_eq!(lines, "+ c          1\n~ b          2\n- long-name  1\n");
        let names: Vec<_> = second.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["b", "c"]);
        assert_eq!((second[0].changed[0], second[0].changed[1]), (None, Some(at)));
        assert_eq!(merged(&second, rows(&[("b", "2"), ("c", "1")]), at, &screen).1, "");
    }

    #[test]
    fn a_change_is_a_document_where_documents_are_wanted() {
        let (first, lines) = merged(&[], rows(&[("a", "1")]), Instant::now(), &screen(Output::Jsonl));
        let line: Value = serde_json::from_str(lines.trim()).unwrap();
        assert_eq!((&line["change"], &line["item"]["serial"]), (&"new".into(), &"a".into()));
        let (_, lines) = merged(&first, Vec::new(), Instant::now(), &screen(Output::Jsonl));
        assert!(lines.contains("\"gone\""), "{lines}");
    }
}
