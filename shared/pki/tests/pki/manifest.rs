//! A manifest with anything changed in it is refused.

use muster_pki::{
    StationRecord,
    hierarchy::Hierarchy,
    manifest::{self, Header, ManifestError, Row},
    testing::{self, Credential},
};
use muster_shared::Code;

use crate::NOW_S;

const NOW_MS: u64 = NOW_S as u64 * 1000;

fn units(hierarchy: &Hierarchy, serials: &[&str]) -> Vec<Credential> {
    serials.iter().map(|serial| testing::device(hierarchy, &testing::subject(serial), NOW_S)).collect()
}

fn three() -> (Hierarchy, Vec<u8>) {
    let hierarchy = testing::hierarchy(NOW_S);
    let units = units(&hierarchy, &["MU-000001", "MU-000002", "MU-000003"]);
    let octets = testing::manifest(&hierarchy, "B-0042", &units, NOW_MS);
    (hierarchy, octets)
}

fn check(octets: &[u8], record: &StationRecord) -> Result<manifest::Verified, ManifestError> {
    manifest::read(octets)?.verify(record)
}

#[test]
fn what_is_written_is_read() {
    let hierarchy = testing::hierarchy(NOW_S);
    let units = units(&hierarchy, &["MU-000003", "MU-000001"]);
    let octets = testing::manifest(&hierarchy, "B-0042", &units, NOW_MS);
    let record = &hierarchy.stations[0].record;
    let claim = manifest::claim(&octets).unwrap();
    assert_eq!((claim.station.as_str(), claim.signer), ("S-07", record.manifest_key.digest()));
    let verified = check(&octets, record).unwrap();
    assert_eq!(verified.header.batch.as_str(), "B-0042");
    assert_eq!((verified.header.sequence, verified.header.previous), (1, None));
    assert_eq!(verified.header.closed_at_ms, NOW_MS);
    let rows: Vec<Row> = units.iter().map(|unit| testing::row(unit, NOW_MS)).collect();
    assert_eq!(verified.rows, rows, "in the order they were made");
    assert!(verified.devices.iter().cloned().eq(units.iter().map(testing::Credential::identity)));
    // A second manifest continues the first.
    let after = Some((1, verified.digest));
    let more = [testing::device(&hierarchy, &testing::subject("MU-000004"), NOW_S)];
    let second = testing::manifest_of(&hierarchy.stations[0], "B-0043", after, &more, NOW_MS);
    let second = check(&second, record).unwrap();
    assert_eq!((second.header.sequence, second.header.previous), (2, Some(verified.digest)));
    assert_ne!(second.digest, verified.digest);
}

#[test]
fn every_octet_of_a_manifest_counts() {
    let (hierarchy, octets) = three();
    let record = &hierarchy.stations[0].record;
    check(&octets, record).unwrap();
    for at in 0..octets.len() {
        for bit in [0, 5] {
            let mut odd = octets.clone();
            odd[at] ^= 1 << bit;
            assert!(check(&odd, record).is_err(), "octet {at} bit {bit}");
        }
    }
}

#[test]
fn a_manifest_cut_anywhere_is_refused() {
    let (hierarchy, octets) = three();
    let record = &hierarchy.stations[0].record;
    for end in 0..octets.len() {
        let error = check(&octets[..end], record).expect_err("cut short");
        assert_eq!(error.code(), Code::ManifestMalformed, "cut at {end}: {error}");
    }
    let doubled = [&octets[..], &octets[..]].concat();
    assert!(check(&doubled, record).is_err());
    assert!(check(&[&octets[..], b"\n"].concat(), record).is_err());
}

#[test]
fn rows_moved_missing_or_repeated_are_found_at_their_place() {
    let (hierarchy, octets) = three();
    let record = &hierarchy.stations[0].record;
    let text = String::from_utf8(octets).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let with = |order: &[usize]| {
        let text: String = order.iter().map(|&at| format!("{}\n", lines[at])).collect();
        check(text.as_bytes(), record).expect_err("changed")
    };
    for (order, told) in [
        (&[0, 2, 1, 3, 4][..], 2),
        (&[0, 1, 3, 2, 4], 3),
        (&[0, 2, 3, 4], 2),
        (&[0, 1, 3, 4], 3),
        (&[0, 1, 1, 2, 3, 4], 3),
    ] {
        match with(order) {
            ManifestError::Altered { line, .. } => assert_eq!(line, told, "{order:?}"),
            error => panic!("{order:?}: {error}"),
        }
    }
    // Without the last row the chain holds; the signature does not.
    assert_eq!(with(&[0, 1, 2, 4]).code(), Code::ManifestAltered);
}

#[test]
fn another_spelling_of_the_same_rows_is_refused() {
    let (hierarchy, octets) = three();
    let record = &hierarchy.stations[0].record;
    let text = String::from_utf8(octets).unwrap();
    for (from, to) in [
        ("{\"muster\"", "{ \"muster\""),
        ("\"previous\":null,", ""),
        ("\"sequence\":1", "\"sequence\":1.0"),
        ("\"batch\":\"B-0042\"", "\"batch\":\"\\u0042-0042\""),
        ("\"product\"", "\"extra\":1,\"product\""),
        ("manifest/1", "manifest/2"),
        ("\n{\"signer\"", "\r\n{\"signer\""),
    ] {
        let odd = text.replacen(from, to, 1);
        assert_ne!(odd, text, "{from}");
        let error = check(odd.as_bytes(), record).expect_err(to);
        assert_eq!(error.code(), Code::ManifestMalformed, "{to}: {error}");
    }
}

#[test]
fn a_manifest_of_another_station_or_signer_is_refused() {
    let (hierarchy, octets) = three();
    for (station, code) in [(1, Code::ManifestSignerUnknown), (2, Code::ManifestSignerUnknown)] {
        let error = check(&octets, &hierarchy.stations[station].record).expect_err("another station");
        assert_eq!(error.code(), code, "{error}");
    }
    // The right station's name, another station's key.
    let mut forged = hierarchy.stations[0].clone();
    forged.manifest_key = hierarchy.stations[1].manifest_key.clone();
    let units = units(&hierarchy, &["MU-000001"]);
    let octets = testing::manifest_of(&forged, "B-0042", None, &units, NOW_MS);
    let error = check(&octets, &hierarchy.stations[0].record).expect_err("forged");
    assert!(matches!(error, ManifestError::OtherSigner { .. }), "{error}");
}

#[test]
fn what_a_station_may_not_make_is_refused() {
    let hierarchy = testing::hierarchy(NOW_S);
    let keys = &hierarchy.stations[0];
    let refused = |devices: &[Credential]| {
        let octets = testing::manifest_of(keys, "B-0042", None, devices, NOW_MS);
        check(&octets, &keys.record).expect_err("not the station's to make")
    };
    let factory = &keys.factory;
    let make = |ca, tenant, serial| {
        testing::device_with(ca, &testing::subject_of(tenant, serial), testing::key(), NOW_S)
    };
    let out_of_range = refused(&[make(factory, "acme", "MU-010000")]);
    assert_eq!(out_of_range.code(), Code::ManifestRange, "{out_of_range}");
    assert!(out_of_range.to_string().contains("MU-000001..=MU-009999"), "{out_of_range}");
    let elsewhere = testing::hierarchy(NOW_S);
    for odd in [
        make(factory, "foreign", "MU-000001"),
        make(&hierarchy.stations[1].factory, "acme", "MU-000001"),
        make(&elsewhere.stations[0].factory, "acme", "MU-000001"),
        testing::operational(&hierarchy, &testing::subject("MU-000001"), NOW_S),
    ] {
        let error = refused(&[odd]);
        assert!(matches!(error, ManifestError::Certificate { line: 2, .. }), "{error}");
    }
    // One serial twice, one key twice.
    let unit = make(factory, "acme", "MU-000001");
    let error = refused(&[unit.clone(), make(factory, "acme", "MU-000001")]);
    assert!(matches!(error, ManifestError::Certificate { line: 3, .. }), "{error}");
    let same_key = testing::device_with(factory, &testing::subject("MU-000002"), unit.key.clone(), NOW_S);
    let error = refused(&[unit, same_key]);
    assert!(matches!(error, ManifestError::Certificate { line: 3, .. }), "{error}");
}

#[test]
fn a_row_with_another_devices_certificate_is_refused() {
    let hierarchy = testing::hierarchy(NOW_S);
    let keys = &hierarchy.stations[0];
    let unit = testing::device(&hierarchy, &testing::subject("MU-000001"), NOW_S);
    let mut row = testing::row(&unit, NOW_MS);
    row.serial = "MU-000002".parse().unwrap();
    let header = header(1, None);
    let octets = manifest::write(&header, &[row], &*keys.manifest_key).unwrap();
    let error = check(&octets, &keys.record).expect_err("another row's");
    assert_eq!(error.code(), Code::CertificateProfile, "{error}");
}

fn header(sequence: u64, previous: Option<[u8; 32]>) -> Header {
    Header {
        tenant: "acme".parse().unwrap(),
        station: "S-07".parse().unwrap(),
        batch: "B-0042".parse().unwrap(),
        product: "TH-2".into(),
        sequence,
        previous,
        opened_at_ms: NOW_MS,
        closed_at_ms: NOW_MS,
    }
}

#[test]
fn quota_and_chain_of_manifests() {
    let hierarchy = testing::hierarchy(NOW_S);
    let keys = &hierarchy.stations[0];
    let units = units(&hierarchy, &["MU-000001", "MU-000002"]);
    let octets = testing::manifest_of(keys, "B-0042", None, &units, NOW_MS);
    let small = StationRecord { quota: 1, ..keys.record.clone() };
    let error = check(&octets, &small).expect_err("over quota");
    assert_eq!(
        (error.code(), error.to_string()),
        (Code::ManifestQuota, "2 rows, the station's quota is 1".into())
    );
    for (sequence, previous) in [(0, None), (2, None), (1, Some([1; 32])), (0, Some([1; 32]))] {
        let octets = manifest::write(&header(sequence, previous), &[], &*keys.manifest_key).unwrap();
        assert!(manifest::read(&octets).is_err(), "{sequence} after {previous:?}");
    }
    for product in [String::new(), "x".repeat(65), "TH\0".to_owned(), "TH\u{1b}[2J".to_owned()] {
        let header = Header { product, ..header(1, None) };
        let octets = manifest::write(&header, &[], &*keys.manifest_key).unwrap();
        assert!(manifest::read(&octets).is_err());
    }
    assert!(manifest::read(b"").is_err());
    assert!(manifest::read(b"\n\n").is_err());
    assert!(manifest::read(&[0xff; 100]).is_err());
}
