//! `muster device import` and `muster export`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Write as _},
    path::Path,
};

use muster_shared::Code;
use serde_json::json;

use super::{
    Done,
    args::DeviceImport,
    client::{Client, read},
    screen::Screen,
};
use crate::api::{
    error::Problem,
    exchange::{Report, RowResult},
};

/// Rows of one request: each is a decision of its own, so what was answered stays when the rest fails.
const ROWS: usize = 4000;
/// Octets of one request, well below the least a server takes.
const OCTETS: usize = 8 << 20;

/// Sends a list piece by piece. The same list again changes nothing, so who was interrupted repeats it.
pub(super) fn import(args: &DeviceImport, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let name = args.file.display().to_string();
    let unreadable =
        |error: io::Error| Problem::new(Code::FileUnreadable).at(name.clone()).because(error.to_string());
    let input: Box<dyn BufRead> = match args.file.to_str() {
        Some("-") => Box::new(io::stdin().lock()),
        _ => Box::new(BufReader::new(File::open(&args.file).map_err(unreadable)?)),
    };
    let csv = match args.format.as_deref() {
        Some(format) => format == "csv",
        None => args.file.extension().is_some_and(|end| end.eq_ignore_ascii_case("csv")),
    };
    let path = format!(
        "/v1/import?batch={}&product={}",
        super::device::encode(&args.batch),
        super::device::encode(args.product.as_deref().unwrap_or_default())
    );
    let mut pieces = Pieces { input, csv, head: String::new(), line: 0 };
    let mut sum = Report {
        schema: "muster.device.import/1".to_owned(),
        registered: 0,
        already: 0,
        refused: 0,
        items: Vec::new(),
    };
    while let Some((before, piece)) = pieces.next().map_err(unreadable)? {
        let document =
            client.post_as(&path, if csv { "text/csv" } else { "application/x-ndjson" }, &piece)?;
        let mut report: Report = read(&document)?;
        sum.registered += report.registered;
        sum.already += report.already;
        sum.refused += report.refused;
        for row in &mut report.items {
            row.line += before;
            if screen.output.is_json() {
                sum.items.push(row.clone());
            } else if row.result == "refused" {
                screen.line(refusal(row));
            }
        }
    }
    if screen.output.is_json() {
        screen.raw(&json!(sum).to_string());
    } else {
        screen.footer(format!(
            "done {} · already known {} · refused {}",
            sum.registered, sum.already, sum.refused
        ));
    }
    Ok(if sum.refused == 0 { Done::Well } else { Done::SomeFailed })
}

fn refusal(row: &RowResult) -> String {
    let serial = row.serial.as_deref().unwrap_or("-");
    let code = row.code.as_deref().unwrap_or_default();
    format!("line {} {serial} refused [{code}] {}", row.line, row.why.as_deref().unwrap_or_default())
}

/// A list, cut where a row ends.
struct Pieces {
    input: Box<dyn BufRead>,
    csv: bool,
    /// The header line of every piece, when the list has one.
    head: String,
    /// Lines read.
    line: u64,
}

impl Pieces {
    /// The next piece, and by how much its lines are more than it counts itself.
    fn next(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        if self.csv && self.line == 0 {
            self.head = self.row()?;
        }
        let heads = self.head.matches('\n').count() as u64;
        let before = self.line - heads;
        let mut piece = self.head.clone();
        let mut rows = 0;
        while rows < ROWS && piece.len() < OCTETS {
            let row = self.row()?;
            if row.is_empty() {
                break;
            }
            piece.push_str(&row);
            rows += 1;
        }
        Ok((rows > 0).then(|| (before, piece.into_bytes())))
    }

    /// The next row with its end: in a quoted field of a CSV a line's end is none of the row.
    fn row(&mut self) -> io::Result<String> {
        let mut row = String::new();
        loop {
            if self.input.read_line(&mut row)? == 0 {
                return Ok(row);
            }
            self.line += 1;
            let open = self.csv && row.bytes().filter(|octet| *octet == b'"').count() % 2 == 1;
            if !open {
                return Ok(row);
            }
        }
    }
}

/// Writes everything the registry knows, as it comes.
pub(super) fn export(out: Option<&Path>, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let mut answer = client.stream("/v1/export")?;
    let place = out.map_or("standard output".to_owned(), |path| path.display().to_string());
    let failed = |error: io::Error| {
        Problem::new(Code::Fault)
            .what("the export ended before its end")
            .at(place.clone())
            .because(error.to_string())
            .next("repeat it; the server's log says why, if it was the server")
    };
    let mut into: Box<dyn io::Write> = match out {
        Some(path) => Box::new(File::create_new(path).map_err(|error| {
            Problem::new(Code::FileUnreadable)
                .what("the file cannot be made")
                .at(path.display().to_string())
                .because(error.to_string())
        })?),
        None => Box::new(io::stdout().lock()),
    };
    let mut lines = 0;
    let mut piece = vec![0; 1 << 16];
    loop {
        let read = answer.read(&mut piece).map_err(failed)?;
        if read == 0 {
            break;
        }
        lines += piece[..read].iter().filter(|octet| **octet == b'\n').count();
        into.write_all(&piece[..read]).map_err(failed)?;
    }
    into.flush().map_err(failed)?;
    screen.footer(format!("{lines} lines"));
    Ok(Done::Well)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_cut_between_rows_and_each_piece_has_the_header() {
        let mut list = "serial,certificate\n".to_owned();
        for n in 0..ROWS {
            list.push_str(&format!("S-{n},\"two\nlines\"\n"));
        }
        list.push_str("last,x");
        let input: Box<dyn BufRead> = Box::new(io::Cursor::new(list.into_bytes()));
        let mut pieces = Pieces { input, csv: true, head: String::new(), line: 0 };
        let (before, first) = pieces.next().unwrap().unwrap();
        assert_eq!((before, first.iter().filter(|octet| **octet == b'\n').count()), (0, 1 + 2 * ROWS));
        let (before, second) = pieces.next().unwrap().unwrap();
        // Its one row is line 2 of the piece and line 2 + 2 * ROWS of the list.
        assert_eq!((before, &second[..]), (2 * ROWS as u64, &b"serial,certificate\nlast,x"[..]));
        assert!(pieces.next().unwrap().is_none());
    }
}
