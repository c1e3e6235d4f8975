//! A listing in the form that was asked for: columns, CSV, first column alone, JSON, JSON lines.

use serde_json::Value;

use super::screen::{Screen, Style, Text};
use crate::config::Output;

/// A column: its head, whether only `-o wide` shows it, and what stands in it.
pub(super) struct Column<T> {
    pub(super) head: &'static str,
    pub(super) wide: bool,
    pub(super) cell: fn(&T, &Screen) -> Text,
}

/// What is said about a listing beside its lines.
pub(super) struct About<'a> {
    /// `device`, `batch`: what a line is.
    pub(super) noun: &'a str,
    /// How many match in all, where that is known.
    pub(super) total: Option<u64>,
    /// The filter that was given.
    pub(super) filter: Option<&'a str>,
    /// The cursor of the next page.
    pub(super) next: Option<&'a str>,
    /// Said when there is nothing: why, and what next.
    pub(super) empty: &'a str,
}

/// Prints a listing: `document` as it came from the server, `items` as the command reads them.
pub(super) fn print<T>(
    screen: &Screen,
    document: &Value,
    items: &[T],
    columns: &[Column<T>],
    about: &About<'_>,
) {
    match screen.output {
        Output::Json => screen.raw(&document.to_string()),
        Output::Jsonl => {
            for item in document["items"].as_array().into_iter().flatten() {
                screen.raw(&item.to_string());
            }
        }
        Output::Csv => csv(screen, items, columns),
        Output::Serial => {
            for item in items {
                screen.line((columns[0].cell)(item, screen).text);
            }
        }
        Output::Table | Output::Wide => {
            columns_of(screen, items, columns);
            footer(screen, items.len(), about);
        }
    }
}

fn columns_of<T>(screen: &Screen, items: &[T], columns: &[Column<T>]) {
    if items.is_empty() {
        return;
    }
    let mut rows = vec![heads(screen, columns)];
    rows.extend(items.iter().map(|item| cells(screen, item, columns)));
    for line in aligned(screen, rows) {
        screen.raw(&line);
    }
}

fn shown<'a, T>(
    screen: &Screen,
    columns: &'a [Column<T>],
) -> impl Iterator<Item = &'a Column<T>> + use<'a, T> {
    let wide = screen.output == Output::Wide;
    columns.iter().filter(move |column| !column.wide || wide)
}

/// The heads of the columns that are shown.
pub(super) fn heads<T>(screen: &Screen, columns: &[Column<T>]) -> Vec<Text> {
    shown(screen, columns).map(|column| Text::new(column.head, Style::Bold)).collect()
}

/// What stands in them.
pub(super) fn cells<T>(screen: &Screen, item: &T, columns: &[Column<T>]) -> Vec<Text> {
    let cells = shown(screen, columns).map(|column| (column.cell)(item, screen));
    // A blank cell would leave open whether nothing is known or nothing is there.
    cells.map(|cell| if cell.text.is_empty() { Text::new("-", Style::Quiet) } else { cell }).collect()
}

/// Rows as lines: each column as wide as its longest cell, the last one cut to the terminal.
pub(super) fn aligned(screen: &Screen, mut rows: Vec<Vec<Text>>) -> Vec<String> {
    let Some(last) = rows.first().map(|row| row.len().saturating_sub(1)) else { return Vec::new() };
    let widths: Vec<usize> =
        (0..=last).map(|at| rows.iter().map(|row| row[at].width()).max().unwrap_or(0)).collect();
    let before_last: usize = widths[..last].iter().map(|width| width + 2).sum();
    let mut lines = Vec::with_capacity(rows.len());
    for row in &mut rows {
        if let Some(width) = screen.width().filter(|_| screen.output == Output::Table) {
            // The last column gives way; what identifies a line never does.
            row[last].cut(width.saturating_sub(before_last).max(8), screen.ascii);
        }
        let mut line = Vec::with_capacity(2 * row.len());
        for (at, cell) in row.iter().enumerate() {
            let pad = if at == last { 0 } else { widths[at] - cell.width() + 2 };
            line.push(cell.clone());
            line.push(Text::plain(" ".repeat(pad)));
        }
        lines.push(screen.painted(&line));
    }
    lines
}

fn footer(screen: &Screen, shown: usize, about: &About<'_>) {
    if shown == 0 {
        return match about.filter {
            Some(filter) => {
                screen.footer(format!("no {} matches {filter} · drop a part of --filter", about.noun));
            }
            None => screen.footer(about.empty),
        };
    }
    let mut line = match about.total {
        Some(total) if total > shown as u64 => format!("{shown} of {}", thousands(total)),
        _ => thousands(shown as u64),
    };
    line.push(' ');
    line.push_str(about.noun);
    if about.total.unwrap_or(shown as u64) != 1 {
        line.push_str(if about.noun.ends_with("ch") { "es" } else { "s" });
    }
    if let Some(filter) = about.filter {
        line.push_str(&format!(" · filter {filter}"));
    }
    if let Some(next) = about.next {
        line.push_str(&format!(" · more: --after {next}"));
    }
    screen.footer(line);
}

/// Comma-separated values with a header line (RFC 4180).
fn csv<T>(screen: &Screen, items: &[T], columns: &[Column<T>]) {
    let heads = columns.iter().map(|column| field(&column.head.to_ascii_lowercase().replace('-', "_")));
    screen.line(heads.collect::<Vec<_>>().join(","));
    for item in items {
        let cells = columns.iter().map(|column| field(&(column.cell)(item, screen).text));
        screen.line(cells.collect::<Vec<_>>().join(","));
    }
}

fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// `31 204`: digits in groups of three.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(1204), "1 204");
        assert_eq!(thousands(1_000_000), "1 000 000");
    }

    #[test]
    fn a_field_with_a_comma_or_a_quote_is_quoted() {
        assert_eq!(field("plain"), "plain");
        assert_eq!(field("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
