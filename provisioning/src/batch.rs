//! A batch ends as a signed manifest; anybody with the station's record can verify one.

use std::{fs, path::Path};

use muster_pki::{
    CaCertificate, DeviceIdentity, StationRecord,
    bundle::StationBundle,
    keyfile::{self, FileError},
    manifest::{self, Header, ManifestError, Row, Verified},
};
use muster_shared::{BatchId, Code};

use crate::{
    fault::Fault,
    journal::{Journal, Record, hex, unhex},
    run::{disk, now_ms},
};

/// A closed batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Which.
    pub batch: BatchId,
    /// The manifest's place in the station's chain, from 1.
    pub sequence: u64,
    /// Devices in it.
    pub devices: usize,
    /// What the next manifest names as its previous one.
    pub digest: [u8; 32],
    /// It had been closed before: the same manifest again.
    pub again: bool,
}

/// Closes a batch: its manifest is made, recorded in the journal, then written to `out`. A batch that is
/// closed gives the same manifest again. `batch` may be left out where only one is open.
///
/// # Errors
/// A [`Fault`]; the journal is unchanged then, unless only `out` could not be written.
pub fn close(
    bundle: &StationBundle,
    journal: &mut Journal,
    batch: Option<&BatchId>,
    out: &Path,
) -> Result<Closed, Fault> {
    let batch = match batch {
        Some(batch) => batch.clone(),
        None => only_open(journal)?,
    };
    let before = journal.records().iter().position(|record| is_closing(record, &batch));
    let (header, rows) = match before {
        Some(at) => (header_of(bundle, &journal.records()[at])?, rows(journal, &batch, at)?),
        None => {
            let rows = rows(journal, &batch, journal.records().len())?;
            if rows.is_empty() {
                return Err(Fault::new(
                    Code::BatchUnknown,
                    format!("batch {batch} · no unit of it has passed"),
                )
                .next("muster-factory run --batch makes units"));
            }
            (new_header(bundle, journal, &batch)?, rows)
        }
    };
    let octets = manifest::write(&header, &rows, &*bundle.manifest_key)
        .map_err(|error| Fault::new(Code::StationSignerAway, error))?;
    // What is handed over is what a server accepts.
    let verified = manifest::read(&octets)
        .and_then(|read| read.verify(&bundle.record))
        .map_err(|error| Fault::new(error.code(), format!("batch {batch}: {error}")))?;
    if before.is_none() {
        // On disk before the manifest exists anywhere: a second one for the same place could never be told apart.
        journal.append(closing(&header, verified.digest)).map_err(disk)?;
    }
    write(out, &octets)?;
    Ok(Closed {
        batch,
        sequence: header.sequence,
        devices: rows.len(),
        digest: verified.digest,
        again: before.is_some(),
    })
}

/// Verifies a manifest against a station's record, and that against the root.
///
/// # Errors
/// A [`Fault`] with exit status 10 when the answer is no, 2 when a file cannot be read.
pub fn verify(file: &Path, station_record: &Path, root: &Path) -> Result<Verified, Fault> {
    let read = |path: &Path, max| read(path, max);
    let root_pem = read(root, 64 * 1024)?;
    let der = keyfile::certificate_from_pem(&root_pem).ok_or_else(|| {
        Fault::new(Code::FileUnreadable, format!("{}: no certificate in PEM", root.display()))
    })?;
    let no = |code, path: &Path, error: &dyn std::fmt::Display| {
        Fault::new(code, format!("{}: {error}", path.display())).exit(10)
    };
    let root_ca = CaCertificate::root(&der).map_err(|error| no(Code::IssuerUnknown, root, &error))?;
    let record = StationRecord::verify(&read(station_record, 64 * 1024)?, &root_ca)
        .map_err(|error| no(Code::StationRecordInvalid, station_record, &error))?;
    let octets = read(file, manifest::MANIFEST_MAX as u64)?;
    manifest::read(&octets)
        .and_then(|manifest| manifest.verify(&record))
        .map_err(|error: ManifestError| no(error.code(), file, &error))
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>, Fault> {
    let unreadable = |error: &dyn std::fmt::Display| {
        Fault::new(Code::FileUnreadable, format!("{}: {error}", path.display()))
    };
    let size = fs::metadata(path).map_err(|error| unreadable(&error))?.len();
    if size > max {
        return Err(unreadable(&format!("{size} octets, at most {max} are read")));
    }
    fs::read(path).map_err(|error| unreadable(&error))
}

fn is_closing(record: &Record, batch: &BatchId) -> bool {
    matches!(record, Record::Closed { batch: closed, .. } if closed == batch)
}

/// The one batch with passed units and no manifest.
fn only_open(journal: &Journal) -> Result<BatchId, Fault> {
    let mut open: Vec<&BatchId> = Vec::new();
    for record in journal.records() {
        match record {
            Record::Done { batch, .. } if !open.contains(&batch) => open.push(batch),
            Record::Closed { batch, .. } => open.retain(|other| *other != batch),
            _ => {}
        }
    }
    match open[..] {
        [batch] => Ok(batch.clone()),
        [] => Err(Fault::new(Code::BatchUnknown, "no batch is open")
            .next("give --batch to write a closed one again")),
        _ => {
            let names: Vec<_> = open.iter().map(ToString::to_string).collect();
            Err(Fault::new(Code::UsageWrong, format!("several batches are open: {}", names.join(", ")))
                .next("give --batch"))
        }
    }
}

/// The units of a batch that passed before the record at `end`, in the order they did.
fn rows(journal: &Journal, batch: &BatchId, end: usize) -> Result<Vec<Row>, Fault> {
    let mut rows = Vec::new();
    for record in &journal.records()[..end] {
        let Record::Done { serial, batch: of, at_ms } = record else { continue };
        // A unit counts for the batch it first passed in, however often it was plugged in again.
        let Some(unit) = journal.unit(serial).filter(|unit| unit.done == Some((of.clone(), *at_ms))) else {
            continue;
        };
        let Some(certificate) = unit.certificate.as_ref().filter(|_| of == batch) else { continue };
        let identity = DeviceIdentity::from_certificate(certificate)
            .map_err(|error| Fault::new(Code::CertificateProfile, format!("serial {serial}: {error}")))?;
        rows.push(Row {
            serial: identity.serial,
            device_id: identity.device_id,
            certificate: certificate.clone(),
            certificate_id: identity.id,
            at_ms: *at_ms,
        });
    }
    Ok(rows)
}

fn new_header(bundle: &StationBundle, journal: &Journal, batch: &BatchId) -> Result<Header, Fault> {
    let last = journal.records().iter().rev().find_map(|record| match record {
        Record::Closed { sequence, digest, .. } => Some((*sequence, digest.clone())),
        _ => None,
    });
    let previous = match &last {
        Some((_, digest)) => Some(digest32(digest)?),
        None => None,
    };
    let started = journal.records().iter().find_map(|record| match record {
        Record::Started { batch: of, product, at_ms, .. } if of == batch => Some((product.clone(), *at_ms)),
        _ => None,
    });
    let (product, opened_at_ms) =
        started.ok_or_else(|| Fault::new(Code::BatchUnknown, format!("batch {batch} was never started")))?;
    Ok(Header {
        tenant: bundle.record.tenant.clone(),
        station: bundle.record.station.clone(),
        batch: batch.clone(),
        product,
        sequence: last.map_or(1, |(sequence, _)| sequence + 1),
        previous,
        opened_at_ms,
        closed_at_ms: now_ms(),
    })
}

fn closing(header: &Header, digest: [u8; 32]) -> Record {
    Record::Closed {
        batch: header.batch.clone(),
        product: header.product.clone(),
        sequence: header.sequence,
        previous: header.previous.map(|digest| hex(&digest)),
        opened_at_ms: header.opened_at_ms,
        closed_at_ms: header.closed_at_ms,
        digest: hex(&digest),
    }
}

fn header_of(bundle: &StationBundle, record: &Record) -> Result<Header, Fault> {
    let Record::Closed { batch, product, sequence, previous, opened_at_ms, closed_at_ms, .. } = record else {
        return Err(Fault::new(Code::Fault, "not a closing record"));
    };
    Ok(Header {
        tenant: bundle.record.tenant.clone(),
        station: bundle.record.station.clone(),
        batch: batch.clone(),
        product: product.clone(),
        sequence: *sequence,
        previous: previous.as_deref().map(digest32).transpose()?,
        opened_at_ms: *opened_at_ms,
        closed_at_ms: *closed_at_ms,
    })
}

fn digest32(text: &str) -> Result<[u8; 32], Fault> {
    let digest = unhex(text).and_then(|octets| octets.try_into().ok());
    digest.ok_or_else(|| Fault::new(Code::StationDisk, format!("journal: {text:?} is no digest")))
}

/// Writes the manifest; the same octets there already are as good.
fn write(out: &Path, octets: &[u8]) -> Result<(), Fault> {
    match keyfile::write(out, octets, 0o644) {
        Ok(()) => Ok(()),
        Err(FileError::Exists(_)) if fs::read(out).is_ok_and(|there| there == octets) => Ok(()),
        Err(error) => Err(Fault::new(Code::FileUnreadable, error)
            .what("the manifest cannot be written")
            .next("give another --out; the same manifest is written again")),
    }
}
