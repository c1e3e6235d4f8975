//! The audit log as a file that proves itself: written by the server, checked anywhere with its public key.
//!
//! ```text
//! {"kind":"head","schema":"muster.audit.export/1","node":…,"rows":…,"key":…}    key: the public key, PEM
//! {"kind":"checkpoint",…}     every signed checkpoint, oldest first; the last is of the last row
//! {"kind":"row",…}            every row, oldest first, as its digest was taken
//! ```
//!
//! One JSON document a line. Checking reads the file once, in constant memory but for the checkpoints.

use std::{
    collections::BTreeMap,
    io::{self, BufRead},
};

use muster_pki::PublicKey;
use serde::{Deserialize, Serialize};

use super::{
    AuditHead, AuditReport, AuditRow, Broken, Chain, Origin,
    checkpoint::{Checkpoint, CheckpointDocument, public_key_pem, read_public_key},
};

const SCHEMA: &str = "muster.audit.export/1";
/// Longest line, octets: a reason, a name and particulars fit many times over.
const LINE_MAX: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line {
    Head { schema: String, node: String, rows: u64, key: String },
    Checkpoint(CheckpointDocument),
    Row(Row),
}

/// A row with every octet its digest is over.
#[derive(Serialize, Deserialize)]
struct Row {
    no: u64,
    node: String,
    at_ms: u64,
    actor: String,
    role: String,
    token: String,
    action: String,
    target: String,
    reason: String,
    /// The text itself: a document read and written again may have other octets.
    detail: String,
    tenant: Option<String>,
    request: Option<String>,
    address: Option<String>,
    previous: String,
    digest: String,
}

impl From<&AuditRow> for Row {
    fn from(of: &AuditRow) -> Self {
        Self {
            no: of.no,
            node: of.node.clone(),
            at_ms: of.at_ms,
            actor: of.actor.clone(),
            role: of.role.clone(),
            token: of.token.clone(),
            action: of.action.clone(),
            target: of.target.clone(),
            reason: of.reason.clone(),
            detail: of.detail.clone(),
            tenant: of.origin.as_ref().map(|of| of.tenant.clone()),
            request: of.origin.as_ref().map(|of| of.request.clone()),
            address: of.origin.as_ref().map(|of| of.address.clone()),
            previous: hex::encode(of.previous),
            digest: hex::encode(of.digest),
        }
    }
}

impl Row {
    fn read(self) -> Option<AuditRow> {
        let octets = |text: &str| -> Option<[u8; 32]> { hex::decode(text).ok()?.try_into().ok() };
        let (previous, digest) = (octets(&self.previous)?, octets(&self.digest)?);
        let origin = match (self.tenant, self.request, self.address) {
            (Some(tenant), Some(request), Some(address)) => Some(Origin { tenant, request, address }),
            (None, None, None) => None,
            _ => return None,
        };
        Some(AuditRow {
            no: self.no,
            node: self.node,
            at_ms: self.at_ms,
            actor: self.actor,
            role: self.role,
            token: self.token,
            action: self.action,
            target: self.target,
            reason: self.reason,
            detail: self.detail,
            origin,
            previous,
            digest,
        })
    }
}

fn line(of: &Line) -> String {
    let mut text = serde_json::to_string(of).expect("texts and numbers always serialise");
    text.push('\n');
    text
}

/// What the file begins with: its head and the checkpoints, the last of which is of its last row.
#[must_use]
pub fn begin(key: &PublicKey, checkpoints: &[Checkpoint]) -> String {
    let last = checkpoints.last();
    let mut text = line(&Line::Head {
        schema: SCHEMA.to_owned(),
        node: last.map(|of| of.node.clone()).unwrap_or_default(),
        rows: last.map_or(0, |of| of.head.no),
        key: public_key_pem(key),
    });
    for checkpoint in checkpoints {
        text.push_str(&line(&Line::Checkpoint(checkpoint.to_document())));
    }
    text
}

/// Rows, a line each.
#[must_use]
pub fn rows(rows: &[AuditRow]) -> String {
    rows.iter().map(|row| line(&Line::Row(row.into()))).collect()
}

/// What checking a file found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The chain, with what is first wrong.
    pub report: AuditReport,
    /// The key its checkpoints are signed with, SHA-256 of its SubjectPublicKeyInfo.
    pub key: [u8; 32],
    /// The key was the file's own word: who forged the file may have made it too.
    pub own_key: bool,
    /// Checkpoints in the file.
    pub checkpoints: u64,
}

/// Checks a file. `key` is the server's public key as it was got from the server itself; `outside` is a
/// checkpoint, or a head, that was kept elsewhere.
///
/// # Errors
/// When it cannot be read, or is no export at all. What is wrong with an export is in [`Checked`].
pub fn check(
    mut from: impl BufRead,
    key: Option<&PublicKey>,
    outside: Option<&AuditHead>,
) -> io::Result<Checked> {
    let not_one = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let Some(Ok(Line::Head { schema, node, key: own, .. })) = next(&mut from)? else {
        return Err(not_one("its first line is no head of an export of the audit log"));
    };
    if schema != SCHEMA {
        return Err(not_one(&format!("its schema is {schema:?}, not {SCHEMA}")));
    }
    let own = read_public_key(own.as_bytes()).map_err(|why| not_one(&format!("its key: {why}")))?;
    let mut reading = Reading {
        node,
        key: *key.unwrap_or(&own),
        chain: Chain { at: AuditHead::EMPTY, marks: BTreeMap::new() },
        last: None,
        checkpoints: 0,
    };
    if let Some(outside) = outside {
        reading.chain.mark(*outside, "the checkpoint given");
    }
    let broken = reading.all(&mut from)?.or_else(|| reading.end());
    Ok(Checked {
        report: reading.chain.report(broken),
        key: reading.key.digest(),
        own_key: key.is_none(),
        checkpoints: reading.checkpoints,
    })
}

/// The next line; `None` at the end, an error within for what is no line of an export.
fn next(from: &mut impl BufRead) -> io::Result<Option<Result<Line, String>>> {
    let mut octets = Vec::new();
    let read = io::Read::take(&mut *from, LINE_MAX).read_until(b'\n', &mut octets)?;
    if read == 0 {
        return Ok(None);
    }
    if octets.last() != Some(&b'\n') {
        return Ok(Some(Err("the line is cut".to_owned())));
    }
    Ok(Some(serde_json::from_slice(&octets).map_err(|error| error.to_string())))
}

struct Reading {
    node: String,
    key: PublicKey,
    chain: Chain,
    /// The newest signed checkpoint.
    last: Option<u64>,
    checkpoints: u64,
}

impl Reading {
    /// Every line after the head, until one is wrong.
    fn all(&mut self, from: &mut impl BufRead) -> io::Result<Option<Broken>> {
        while let Some(line) = next(from)? {
            let no = self.chain.at.no + 1;
            let broken = match line {
                Err(why) => Some(Broken { no, why: format!("what stands in its place is no row: {why}") }),
                Ok(Line::Head { .. }) => {
                    Some(Broken { no, why: "a second head stands in its place".to_owned() })
                }
                Ok(Line::Checkpoint(document)) => self.checkpoint(&document),
                Ok(Line::Row(row)) => self.row(row),
            };
            if broken.is_some() {
                return Ok(broken);
            }
        }
        Ok(None)
    }

    fn checkpoint(&mut self, document: &CheckpointDocument) -> Option<Broken> {
        let broken = |why: &str| Some(Broken { no: document.no, why: why.to_owned() });
        let Some(checkpoint) = Checkpoint::from_document(document) else {
            return broken("its checkpoint is none");
        };
        if self.chain.at != AuditHead::EMPTY {
            return broken("its checkpoint stands behind rows");
        }
        if checkpoint.node != self.node {
            return broken("its checkpoint is of another node");
        }
        if !checkpoint.is_signed_by(&self.key) {
            return broken("its checkpoint is not signed with the key");
        }
        self.checkpoints += 1;
        self.last = self.last.max(Some(checkpoint.head.no));
        self.chain.mark(checkpoint.head, "a signed checkpoint");
        None
    }

    fn row(&mut self, row: Row) -> Option<Broken> {
        let no = self.chain.at.no + 1;
        let broken = |why: &str| Some(Broken { no, why: why.to_owned() });
        let Some(row) = row.read() else { return broken("it has digests that are none") };
        if self.last.is_none_or(|last| no > last) {
            return broken("no signed checkpoint covers it");
        }
        self.chain.follow(&row).err()
    }

    /// What is missing at the end.
    fn end(&self) -> Option<Broken> {
        if self.last.is_none() {
            return Some(Broken { no: 1, why: "there is no signed checkpoint".to_owned() });
        }
        self.chain.missing().err()
    }
}
