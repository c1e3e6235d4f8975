//! Lists of devices as they come: lines of JSON, or comma-separated values with a header line (RFC 4180).
//!
//! A list is read while it arrives; of each row its certificate is kept, as DER, and its line. A row that cannot be
//! read is a row all the same, which says why: the others are taken. Refused as a whole is only what has no rows:
//! a list without a header line, or with a line that does not end.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::Value;

use crate::registry::import::ListedRow;

/// Longest line, octets: a certificate in PEM is some two thousand.
const LINE_MAX: usize = 256 * 1024;

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A JSON object a line. A line of another kind than `certificate`, as an export has them, is passed over; so is
    /// every field but `certificate` and `serial`.
    Lines,
    /// The header names `certificate`, and `serial` perhaps.
    Csv,
}

/// A list that is being read.
pub(super) struct Reading {
    form: Form,
    /// What has come of the line that is not over.
    rest: Vec<u8>,
    /// Lines that are over.
    line: u64,
    record: Record,
    /// Where the certificate stands in a record, and the serial.
    columns: Option<(usize, Option<usize>)>,
    rows: Vec<ListedRow>,
}

impl Reading {
    pub(super) fn new(form: Form) -> Self {
        let record = Record::default();
        Self { form, rest: Vec::new(), line: 0, record, columns: None, rows: Vec::new() }
    }

    /// The next octets of the list.
    ///
    /// # Errors
    /// Why the list cannot be read at all.
    pub(super) fn take(&mut self, mut octets: &[u8]) -> Result<(), String> {
        while let Some(end) = octets.iter().position(|octet| *octet == b'\n') {
            let (line, after) = octets.split_at(end + 1);
            octets = after;
            self.keep(line)?;
            let whole = std::mem::take(&mut self.rest);
            self.whole(&whole)?;
        }
        self.keep(octets)
    }

    fn keep(&mut self, octets: &[u8]) -> Result<(), String> {
        if self.rest.len() + octets.len() > LINE_MAX {
            return Err(format!("line {} is longer than {LINE_MAX} octets", self.line + 1));
        }
        self.rest.extend_from_slice(octets);
        Ok(())
    }

    /// The rows, when all has come.
    ///
    /// # Errors
    /// Why the list cannot be read at all.
    pub(super) fn end(mut self) -> Result<Vec<ListedRow>, String> {
        if !self.rest.is_empty() {
            let whole = std::mem::take(&mut self.rest);
            self.whole(&whole)?;
        }
        if self.record.quoted {
            let why = "a quoted field that begins here does not end".to_owned();
            self.rows.push(refused(self.record.began, why));
        } else if let Some((line, fields)) = self.record.last() {
            self.fields(line, &fields)?;
        }
        if self.form == Form::Csv && self.columns.is_none() {
            return Err("it has no header line".to_owned());
        }
        Ok(self.rows)
    }

    fn whole(&mut self, octets: &[u8]) -> Result<(), String> {
        self.line += 1;
        let line = self.line;
        let Ok(text) = std::str::from_utf8(octets) else {
            self.rows.push(refused(line, "it is no text".to_owned()));
            return Ok(());
        };
        match self.form {
            Form::Lines => self.rows.extend(object(line, text)),
            Form::Csv => {
                if let Some((began, fields)) = self.record.line(line, text) {
                    self.fields(began, &fields)?;
                }
            }
        }
        Ok(())
    }

    /// A record: the header, or a row.
    fn fields(&mut self, line: u64, fields: &[String]) -> Result<(), String> {
        let Some((certificate, serial)) = self.columns else {
            let of = |name: &str| fields.iter().position(|field| field.trim() == name);
            let certificate = of("certificate").ok_or("its header line names no column certificate")?;
            self.columns = Some((certificate, of("serial")));
            return Ok(());
        };
        let serial = serial.and_then(|at| fields.get(at)).filter(|serial| !serial.is_empty()).cloned();
        self.rows.push(ListedRow {
            line,
            certificate: der(fields.get(certificate).map_or("", String::as_str)),
            serial,
        });
        Ok(())
    }
}

fn refused(line: u64, why: String) -> ListedRow {
    ListedRow { line, certificate: Err(why), serial: None }
}

fn object(line: u64, text: &str) -> Option<ListedRow> {
    if text.trim().is_empty() {
        return None;
    }
    let object: Value = match serde_json::from_str(text) {
        Ok(object @ Value::Object(_)) => object,
        Ok(_) => return Some(refused(line, "it is no JSON object".to_owned())),
        Err(error) => return Some(refused(line, format!("it is no JSON: {error}"))),
    };
    if object["kind"].as_str().is_some_and(|kind| kind != "certificate") {
        return None;
    }
    let certificate = der(object["certificate"].as_str().unwrap_or_default());
    Some(ListedRow { line, certificate, serial: object["serial"].as_str().map(str::to_owned) })
}

/// A record of RFC 4180, which may be several lines long.
#[derive(Default)]
struct Record {
    fields: Vec<String>,
    field: String,
    quoted: bool,
    /// The line it begins on.
    began: u64,
}

impl Record {
    /// Another line; the record, when that ends one. Empty lines are none.
    fn line(&mut self, line: u64, text: &str) -> Option<(u64, Vec<String>)> {
        if !self.quoted && self.fields.is_empty() && self.field.is_empty() {
            self.began = line;
        }
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '"' if self.quoted && characters.peek() == Some(&'"') => {
                    characters.next();
                    self.field.push('"');
                }
                '"' if self.quoted => self.quoted = false,
                '"' if self.field.is_empty() => self.quoted = true,
                ',' if !self.quoted => self.fields.push(std::mem::take(&mut self.field)),
                '\r' if !self.quoted && characters.peek() == Some(&'\n') => {}
                '\n' if !self.quoted => {
                    self.fields.push(std::mem::take(&mut self.field));
                    let fields = std::mem::take(&mut self.fields);
                    return (fields != [""]).then_some((self.began, fields));
                }
                other => self.field.push(other),
            }
        }
        None
    }

    /// The record that no line break ends.
    fn last(&mut self) -> Option<(u64, Vec<String>)> {
        if self.field.is_empty() && self.fields.is_empty() {
            return None;
        }
        self.fields.push(std::mem::take(&mut self.field));
        Some((self.began, std::mem::take(&mut self.fields)))
    }
}

/// A certificate as PEM, in one line or several, or as base64 of its DER.
fn der(text: &str) -> Result<Vec<u8>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it has no certificate".to_owned());
    }
    if text.starts_with("-----BEGIN") {
        let text = text.replace("\\n", "\n");
        return CertificateDer::from_pem_slice(text.as_bytes())
            .map(|der| der.to_vec())
            .map_err(|error| format!("its certificate is no PEM: {error}"));
    }
    STANDARD.decode(text).map_err(|error| format!("its certificate is no base64: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list in pieces of this many octets.
    fn read(form: Form, text: &[u8], piece: usize) -> Result<Vec<ListedRow>, String> {
        let mut reading = Reading::new(form);
        for piece in text.chunks(piece) {
            reading.take(piece)?;
        }
        reading.end()
    }

    #[test]
    fn records_are_read_as_rfc_4180_has_them_however_they_come() {
        let text = "serial,certificate\r\nA,\"AQ\"\"I=\"\r\n\nB,\"AQ\nI=\"\nC,AQI=\nD,é\nE,AQM=";
        for piece in [1, 2, 7, 1000] {
            let rows = read(Form::Csv, text.as_bytes(), piece).unwrap();
            let said: Vec<_> = rows.iter().map(|row| (row.line, row.serial.as_deref().unwrap())).collect();
            assert_eq!(said, [(2, "A"), (4, "B"), (6, "C"), (7, "D"), (8, "E")], "{piece}");
            let good: Vec<_> = rows.iter().map(|row| row.certificate.is_ok()).collect();
            assert_eq!(good, [false, false, true, false, true], "{piece}");
            assert_eq!(rows[4].certificate, Ok(vec![1, 3]));
        }
        let open = read(Form::Csv, b"certificate\nAQI=\n\"x\nAQI=\n", 3).unwrap();
        assert_eq!((open.len(), open[1].line), (2, 3));
        assert!(open[1].certificate.as_ref().unwrap_err().contains("does not end"));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_a_row_that_says_why() {
        let text =
            b"{\"serial\":\"A\"}\n\nnonsense\n{\"kind\":\"audit\"}\n[]\n\xff\xfe\n{\"certificate\":\"AQI=\"}";
        for piece in [1, 5, 1000] {
            let rows = read(Form::Lines, text, piece).unwrap();
            assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 3, 5, 6, 7]);
            let why = |at: usize| rows[at].certificate.as_ref().unwrap_err().clone();
            assert!(
                why(1).starts_with("it is no JSON: ") && why(2).contains("object") && why(3).contains("text")
            );
            assert_eq!(rows[4].certificate, Ok(vec![1, 2]));
        }
    }

    #[test]
    fn what_has_no_rows_is_refused_whole() {
        assert!(read(Form::Csv, b"", 1).is_err() && read(Form::Csv, b"serial\nA\n", 4).is_err());
        assert!(read(Form::Lines, &vec![b'x'; LINE_MAX + 1], 4096).is_err());
        assert_eq!(read(Form::Lines, b"", 1), Ok(Vec::new()));
    }
}
