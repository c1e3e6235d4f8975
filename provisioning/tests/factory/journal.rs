//! A journal survives a power cut at any octet, and any other damage is told.

use std::fs;

use muster_pki::{
    Authority, CertificateSerial, Ledger, Profile, Request, VerifiedCsr, bundle::StationBundle, testing,
};
use muster_provisioning::journal::{Journal, JournalError, Record};

use crate::{NOW_S, station};

fn fill(journal: &mut Journal, bundle: &StationBundle) {
    for serial in ["MU-000001", "MU-000002"] {
        let subject = testing::subject(serial);
        let (batch, at_ms) = ("B-1".parse().unwrap(), 1_795_356_131_000);
        let serial = subject.serial.clone();
        let product = "TH-2".to_owned();
        journal.append(Record::Started { serial: serial.clone(), batch, product, at_ms }).unwrap();
        let csr = VerifiedCsr::verify(&testing::csr(&subject, &testing::key()), &subject).unwrap();
        let fresh = CertificateSerial::draw().unwrap();
        Authority::new(&bundle.factory).issue(&Request::Device(&csr), journal, fresh, NOW_S).unwrap();
        journal.append(Record::Proved { serial: serial.clone(), at_ms }).unwrap();
        journal.append(Record::Done { serial, batch: "B-1".parse().unwrap(), at_ms }).unwrap();
    }
}

fn open(path: &std::path::Path) -> Result<Journal, JournalError> {
    Journal::open(path, &"acme".parse().unwrap(), &"S-07".parse().unwrap())
}

#[test]
fn replay_gives_back_what_was_appended() {
    let (_, bundle) = station();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = open(&path).unwrap();
    fill(&mut journal, &bundle);
    let records = journal.records().to_vec();
    let units: Vec<_> = journal.units().map(|(serial, unit)| (serial.clone(), unit.clone())).collect();
    drop(journal);
    let journal = open(&path).unwrap();
    assert_eq!(journal.records(), records);
    assert_eq!(journal.units().map(|(s, u)| (s.clone(), u.clone())).collect::<Vec<_>>(), units);
    assert_eq!((journal.cut(), units.len()), (0, 2));
    let known = journal.unit(&"MU-000002".parse().unwrap()).unwrap();
    assert!(known.proved && known.done.is_some() && known.certificate.is_some());
    let subject = testing::subject("MU-000002");
    assert_eq!(journal.find(Profile::Birth, &subject).unwrap().as_ref(), Some(&known.intent));
    assert_eq!(journal.find(Profile::Operational, &subject).unwrap(), None);
}

#[test]
fn a_power_cut_at_every_octet_leaves_whole_records() {
    let (_, bundle) = station();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    fill(&mut open(&path).unwrap(), &bundle);
    let (octets, records) = (fs::read(&path).unwrap(), open(&path).unwrap().records().to_vec());
    let mut whole = 0;
    for end in 0..=octets.len() {
        let cut = folder.path().join("cut");
        fs::write(&cut, &octets[..end]).unwrap();
        let lines = octets[..end].iter().filter(|&&octet| octet == b'\n').count();
        whole = whole.max(lines);
        let mut journal = open(&cut).unwrap();
        // An empty journal begins with its first record.
        assert_eq!(journal.records(), &records[..lines.max(1)], "cut at {end}");
        let at_ms = 5;
        journal.append(Record::Proved { serial: "MU-000001".parse().unwrap(), at_ms }).unwrap();
        drop(journal);
        assert_eq!(open(&cut).unwrap().records().len(), lines.max(1) + 1, "goes on after a cut at {end}");
        fs::remove_file(&cut).unwrap();
    }
    assert_eq!(whole, records.len());
}

#[test]
fn a_block_that_was_never_written_is_cut_off() {
    let (_, bundle) = station();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    fill(&mut open(&path).unwrap(), &bundle);
    let mut octets = fs::read(&path).unwrap();
    let last = octets[..octets.len() - 1].iter().rposition(|&octet| octet == b'\n').unwrap() + 1;
    let end = octets.len() - 1;
    octets[last + 4..end].fill(0);
    fs::write(&path, &octets).unwrap();
    let journal = open(&path).unwrap();
    assert!(journal.cut() > 0);
    assert!(matches!(journal.records().last(), Some(Record::Proved { .. })));
}

#[test]
fn any_octet_changed_in_a_whole_record_is_damage() {
    let (_, bundle) = station();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    fill(&mut open(&path).unwrap(), &bundle);
    let octets = fs::read(&path).unwrap();
    let end = octets.len();
    // Every octet of the short records, every seventh of the long ones.
    for at in (0..end - 1).filter(|at| at % 7 == 0 || *at < 200 || *at > end - 200) {
        let mut damaged = octets.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let line = octets[..at].iter().filter(|&&octet| octet == b'\n').count() + 1;
        match open(&path) {
            Err(JournalError::Damaged { line: told, .. }) => {
                // A changed line end joins two lines; the fault is told at the first of them.
                assert_eq!(told, line, "octet {at}");
            }
            other => panic!("octet {at}: {other:?}"),
        }
    }
}

#[test]
fn a_missing_or_moved_line_is_damage() {
    let (_, bundle) = station();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    fill(&mut open(&path).unwrap(), &bundle);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for gone in 0..lines.len() - 1 {
        let mut rest = lines.clone();
        rest.remove(gone);
        fs::write(&path, rest.join("\n") + "\n").unwrap();
        assert!(matches!(open(&path), Err(JournalError::Damaged { .. })), "line {}", gone + 1);
        let mut moved = lines.clone();
        moved.swap(gone, gone + 1);
        fs::write(&path, moved.join("\n") + "\n").unwrap();
        assert!(matches!(open(&path), Err(JournalError::Damaged { .. })), "line {}", gone + 1);
    }
}

#[test]
fn one_station_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let journal = open(&path).unwrap();
    assert!(matches!(open(&path), Err(JournalError::Locked(_))));
    drop(journal);
    let other = Journal::open(&path, &"acme".parse().unwrap(), &"S-08".parse().unwrap());
    assert!(matches!(other, Err(JournalError::OtherStation { .. })), "{other:?}");
    let other = Journal::open(&path, &"other".parse().unwrap(), &"S-07".parse().unwrap());
    assert!(matches!(other, Err(JournalError::OtherStation { .. })), "{other:?}");
    assert!(matches!(open(folder.path()), Err(JournalError::Io { .. })), "a folder is no journal");
}

#[test]
fn only_its_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    drop(open(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}
