//! `--watch`: the same listing again and again. On a terminal the table in place, else a line for each change,
//! with `+`, `~` or `-` first. It ends with Ctrl-C.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use serde_json::Value;

use super::{
    Done,
    args::DeviceList,
    client::{Client, read},
    device::{COLUMNS, pages, query},
    screen::Screen,
    words,
};
use crate::api::{error::Problem, time, view};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

pub(super) fn devices(list: &DeviceList, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let terminal = std::io::stdout().is_terminal() && !screen.output.is_json();
    let query = query(list);
    let mut before: Vec<(String, String)> = Vec::new();
    loop {
        let document = pages(client, "/v1/devices", &query, list.after.clone(), list.limit)?;
        let page: view::Page<view::Device> = read(&document)?;
        let now = lines(&document, &page, screen);
        let out = if terminal { in_place(&before, &now) } else { changes(&before, &now) };
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            // Nobody reads any more.
            return Ok(Done::Well);
        }
        drop(stdout);
        // Rows keep their order: what is new comes behind.
        before = merged(before, now);
        std::thread::sleep(LOOK);
    }
}

/// Each device's line, by its serial.
fn lines(document: &Value, page: &view::Page<view::Device>, screen: &Screen) -> Vec<(String, String)> {
    let raw = document["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let one = |(device, raw): (&view::Device, &Value)| {
        let name = format!("{}/{}", device.tenant, device.serial);
        if screen.output.is_json() {
            return (name, raw.to_string());
        }
        let shown = COLUMNS.iter().filter(|column| !column.wide);
        let cells: Vec<_> = shown.map(|column| (column.cell)(device, screen).text).collect();
        (name, cells.join("  "))
    };
    page.items.iter().zip(raw).map(one).collect()
}

/// The lines of before, as they are now, and what is new.
fn merged(before: Vec<(String, String)>, now: Vec<(String, String)>) -> Vec<(String, String)> {
    let stays = before.into_iter().filter_map(|(name, _)| now.iter().find(|(of, _)| *of == name).cloned());
    let mut merged: Vec<_> = stays.collect();
    let new =
        now.into_iter().filter(|(name, _)| !merged.iter().any(|(of, _)| of == name)).collect::<Vec<_>>();
    merged.extend(new);
    merged
}

/// A line for each change.
fn changes(before: &[(String, String)], now: &[(String, String)]) -> String {
    let mut out = String::new();
    for (name, line) in now {
        match before.iter().find(|(of, _)| of == name) {
            None => out.push_str(&format!("+ {line}\n")),
            Some((_, old)) if old != line => out.push_str(&format!("~ {line}\n")),
            Some(_) => {}
        }
    }
    for (_, line) in before.iter().filter(|(name, _)| !now.iter().any(|(of, _)| of == name)) {
        out.push_str(&format!("- {line}\n"));
    }
    out
}

/// The table, from the top of the screen; what has changed is bold.
fn in_place(before: &[(String, String)], now: &[(String, String)]) -> String {
    let mut out = String::from("\x1b[H\x1b[J");
    for (name, line) in merged(before.to_vec(), now.to_vec()) {
        let changed = before.iter().any(|(of, old)| *of == name && *old != line);
        if changed {
            out.push_str(&format!("\x1b[1m{line}\x1b[0m\n"));
        } else {
            out.push_str(&format!("{line}\n"));
        }
    }
    let at = time::from_ms(words::now_ms().max(0).cast_unsigned());
    out.push_str(&format!("live · updated {}\n", words::instant(&at)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, line)| ((*name).to_owned(), (*line).to_owned())).collect()
    }

    #[test]
    fn each_change_is_a_line_and_rows_keep_their_order() {
        let (first, second) = (of(&[("a", "a 1"), ("b", "b 1")]), of(&[("c", "c 1"), ("b", "b 2")]));
        assert_eq!(changes(&[], &first), "+ a 1\n+ b 1\n");
        assert_eq!(changes(&first, &second), "+ c 1\n~ b 2\n- a 1\n");
        assert_eq!(changes(&second, &second), "");
        assert_eq!(merged(first.clone(), second.clone()), of(&[("b", "b 2"), ("c", "c 1")]));
        let shown = in_place(&first, &second);
        assert!(shown.contains("\u{1b}[1mb 2\u{1b}[0m\nc 1\nlive · updated "), "{shown:?}");
    }
}
