use muster_pki::{
    manifest::{self, Header, Row},
    testing::{self, Credential, OddDevice},
};
use muster_shared::Code;
use rustls_pki_types::CertificateDer;

use super::Fleet;
use crate::registry::{
    Act, DeviceState, Filter, ImportReport, RegistryError, Scope, now_ms,
    testing::{HIERARCHY, ana, credential, now_s},
};

fn first_manifest(credentials: &[Credential]) -> Vec<u8> {
    testing::manifest(&HIERARCHY, "B-0001", credentials, now_ms())
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    let record = &HIERARCHY.stations[0].record;
    manifest::read(bytes).unwrap().verify(record).unwrap().digest
}

fn next(before: &[u8], sequence: u64, batch: &str, credentials: &[Credential]) -> Vec<u8> {
    testing::manifest_of(
        &HIERARCHY.stations[0],
        batch,
        Some((sequence - 1, digest(before))),
        credentials,
        now_ms(),
    )
}

async fn import(fleet: &Fleet, bytes: &[u8]) -> Result<ImportReport, RegistryError> {
    fleet.registry.import_manifest(&ana(), bytes).await
}

/// Refused with this code, and nothing is left of it.
async fn refused(fleet: &Fleet, bytes: &[u8], code: Code) -> String {
    let count = |page: crate::registry::Page<_>| page.total;
    let before = (
        fleet.registry.audit_head().await.unwrap(),
        count(fleet.registry.devices(&Filter::default(), None, 1).await.unwrap()),
        fleet.registry.verdicts().certificates(),
    );
    let error = import(fleet, bytes).await.unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    let after = (
        fleet.registry.audit_head().await.unwrap(),
        count(fleet.registry.devices(&Filter::default(), None, 1).await.unwrap()),
        fleet.registry.verdicts().certificates(),
    );
    assert_eq!(after, before, "nothing was imported");
    error.to_string()
}

#[tokio::test]
async fn an_import_registers_and_a_second_one_changes_nothing() {
    let fleet = Fleet::empty().await;
    let credentials = [credential("MU-000001"), credential("MU-000002")];
    let bytes = first_manifest(&credentials);
    let report = import(&fleet, &bytes).await.unwrap();
    assert_eq!((report.registered, report.already, report.refused.len()), (2, 0, 0));
    assert_eq!((report.batch.as_str(), report.station.as_str(), report.sequence), ("B-0001", "S-07", 1));
    let detail =
        fleet.registry.device(&"MU-000001".parse::<crate::registry::Target>().unwrap()).await.unwrap();
    assert_eq!(detail.row.state, DeviceState::Registered);
    assert_eq!(detail.certificates[0].der, credentials[0].chain[0], "the certificate itself is kept");
    assert_eq!(detail.why.unwrap().action, "batch.import");
    let head = fleet.registry.audit_head().await.unwrap();
    let again = import(&fleet, &bytes).await.unwrap();
    assert_eq!((again.registered, again.already, again.audit_no), (0, 2, None));
    assert_eq!(fleet.registry.audit_head().await.unwrap(), head);
    assert_eq!(fleet.registry.stations(&Scope::Every).await.unwrap()[0].devices, 2);
}

#[tokio::test]
async fn every_flipped_byte_is_found() {
    let fleet = Fleet::empty().await;
    let bytes = first_manifest(&[credential("MU-000001")]);
    // Every octet would be thousands of imports; a step coprime to the line structure visits every part.
    for at in (0..bytes.len()).step_by(37) {
        let mut other = bytes.clone();
        other[at] ^= 1;
        let error = import(&fleet, &other).await.unwrap_err();
        assert!(
            matches!(
                error.code(),
                Code::ManifestMalformed
                    | Code::ManifestAltered
                    | Code::ManifestSignerUnknown
                    | Code::CertificateProfile
            ),
            "octet {at}: {error}"
        );
    }
    for len in [0, 1, bytes.len() / 2, bytes.len() - 2] {
        refused(&fleet, &bytes[..len], Code::ManifestMalformed).await;
    }
    refused(&fleet, &[bytes.as_slice(), b"x\n"].concat(), Code::ManifestMalformed).await;
    refused(&fleet, b"PK\x03\x04 not a manifest \xff\xfe", Code::ManifestMalformed).await;
    assert_eq!(import(&fleet, &bytes).await.unwrap().registered, 1, "the right one still goes in");
}

#[tokio::test]
async fn a_station_nobody_registered_or_another_stations_key_is_unknown() {
    let fleet = Fleet::empty().await;
    let stranger = testing::hierarchy(now_s());
    let device = testing::device(&stranger, &testing::subject("MU-000001"), now_s());
    let bytes = testing::manifest(&stranger, "B-0001", std::slice::from_ref(&device), now_ms());
    let text = refused(&fleet, &bytes, Code::ManifestSignerUnknown).await;
    assert!(text.contains("S-07"), "{text}");
    let header = Header { station: "S-77".parse().unwrap(), ..header(1, None) };
    let key = &*HIERARCHY.stations[0].manifest_key;
    let bytes = manifest::write(&header, &[testing::row(&credential("MU-000001"), 1)], key).unwrap();
    let text = refused(&fleet, &bytes, Code::ManifestSignerUnknown).await;
    assert!(text.contains("S-77") && text.contains("known: S-07"), "{text}");

    let Fleet { registry, .. } = &Fleet::nothing().await;
    let error = registry.import_manifest(&ana(), &bytes).await.unwrap_err();
    assert_eq!(error.code(), Code::ManifestSignerUnknown);
    registry.close().await;
}

fn header(sequence: u64, previous: Option<[u8; 32]>) -> Header {
    Header {
        tenant: "acme".parse().unwrap(),
        station: "S-07".parse().unwrap(),
        batch: "B-0001".parse().unwrap(),
        product: "TH-2".to_owned(),
        sequence,
        previous,
        opened_at_ms: 1,
        closed_at_ms: 2,
    }
}

fn signed(rows: &[Row]) -> Vec<u8> {
    manifest::write(&header(1, None), rows, &*HIERARCHY.stations[0].manifest_key).unwrap()
}

#[tokio::test]
async fn range_tenant_issuer_and_profile_of_every_row_are_checked() {
    let fleet = Fleet::empty().await;
    let good = testing::row(&credential("MU-000001"), 1);
    let factory = &HIERARCHY.stations[0].factory;
    let beyond = testing::device_with(factory, &testing::subject("MU-010001"), testing::key(), now_s());
    let bytes = signed(&[good.clone(), testing::row(&beyond, 1)]);
    let error = import(&fleet, &bytes).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Manifest { line: Some(3), .. }), "{error}");
    refused(&fleet, &bytes, Code::ManifestRange).await;

    let foreign =
        testing::device_with(factory, &testing::subject_of("other", "MU-000002"), testing::key(), now_s());
    refused(&fleet, &signed(&[testing::row(&foreign, 1)]), Code::CertificateProfile).await;
    let of_other_ca = testing::device_with(
        &HIERARCHY.stations[1].factory,
        &testing::subject("MU-000003"),
        testing::key(),
        now_s(),
    );
    refused(&fleet, &signed(&[testing::row(&of_other_ca, 1)]), Code::CertificateProfile).await;
    // The row says one serial, its certificate another.
    let lying = Row { serial: "MU-000009".parse().unwrap(), ..good.clone() };
    refused(&fleet, &signed(&[lying]), Code::CertificateProfile).await;
    refused(&fleet, &signed(&[good.clone(), good]), Code::CertificateProfile).await;
    for odd in OddDevice::ALL {
        let chain = odd.make(&HIERARCHY, &testing::subject("MU-000004"), now_s()).chain;
        let row = Row {
            serial: "MU-000004".parse().unwrap(),
            device_id: "MU-000004".parse().unwrap(),
            certificate_id: muster_shared::CertificateId(
                <sha2::Sha256 as sha2::Digest>::digest(&chain[0]).into(),
            ),
            certificate: chain[0].clone(),
            at_ms: 1,
        };
        assert!(import(&fleet, &signed(&[row])).await.is_err(), "{odd:?} went in");
    }
    assert_eq!(fleet.registry.verdicts().devices(), 0);
}

#[tokio::test]
async fn the_quota_is_over_all_manifests_of_a_station() {
    let mut plan = testing::plan();
    plan.stations[0].quota = 3;
    let small = muster_pki::hierarchy::Hierarchy::create(&plan, now_s()).unwrap();
    let Fleet { registry, .. } = &Fleet::nothing().await;
    registry.trust_root(&ana(), &CertificateDer::from(small.root.certificate().der())).await.unwrap();
    registry.trust_station(&ana(), &small.stations[0].record_file).await.unwrap();
    let device = |n: u32| testing::device(&small, &testing::subject(&format!("MU-{n:06}")), now_s());
    let station = &small.stations[0];
    let first = testing::manifest_of(station, "B-1", None, &[device(1), device(2)], 1);
    registry.import_manifest(&ana(), &first).await.unwrap();
    let digest = manifest::read(&first).unwrap().verify(&station.record).unwrap().digest;
    let second = testing::manifest_of(station, "B-2", Some((1, digest)), &[device(3), device(4)], 1);
    let error = registry.import_manifest(&ana(), &second).await.unwrap_err();
    assert_eq!(error.code(), Code::ManifestQuota, "{error}");
    assert_eq!(registry.verdicts().devices(), 2);
    let four = [device(1), device(2), device(3), device(4)];
    let alone = testing::manifest_of(station, "B-2", Some((1, digest)), &four, 1);
    assert_eq!(registry.import_manifest(&ana(), &alone).await.unwrap_err().code(), Code::ManifestQuota);
    let third = testing::manifest_of(station, "B-2", Some((1, digest)), &[device(3)], 1);
    assert_eq!(registry.import_manifest(&ana(), &third).await.unwrap().registered, 1);
    registry.close().await;
}

#[tokio::test]
async fn a_gap_waits_for_the_missing_manifest() {
    let fleet = Fleet::empty().await;
    let first = first_manifest(&[credential("MU-000001")]);
    let second = next(&first, 2, "B-0002", &[credential("MU-000002")]);
    let text = refused(&fleet, &second, Code::ManifestFork).await;
    assert!(text.contains("number 1 is missing"), "{text}");
    import(&fleet, &first).await.unwrap();
    assert_eq!(import(&fleet, &second).await.unwrap().registered, 1);
    assert_eq!(import(&fleet, &first).await.unwrap().already, 1, "an old one again is no fork");
}

#[tokio::test]
async fn a_fork_stops_the_station_and_only_it() {
    let fleet = Fleet::empty().await;
    let first = first_manifest(&[credential("MU-000001")]);
    import(&fleet, &first).await.unwrap();
    let other = testing::manifest(&HIERARCHY, "B-0009", &[credential("MU-000009")], now_ms());
    let mut changes = fleet.registry.changes();
    let error = import(&fleet, &other).await.unwrap_err();
    assert_eq!(error.code(), Code::ManifestFork, "{error}");
    assert!(matches!(
        changes.try_recv().unwrap().what,
        crate::registry::changes::What::StationStopped(station) if station.as_str() == "S-07"
    ));
    let stations = fleet.registry.stations(&Scope::Every).await.unwrap();
    assert!(stations[0].stopped.is_some() && stations[1].stopped.is_none());
    let second = next(&first, 2, "B-0002", &[credential("MU-000002")]);
    let text = refused(&fleet, &second, Code::ManifestFork).await;
    assert!(text.contains("stopped since"), "{text}");
    refused(&fleet, &other, Code::ManifestFork).await;
    assert_eq!(import(&fleet, &first).await.unwrap().already, 1);
    let s08 = &HIERARCHY.stations[1];
    let theirs = testing::manifest_of(s08, "B-0100", None, &[credential("MU-010000")], now_ms());
    assert_eq!(import(&fleet, &theirs).await.unwrap().registered, 1);
    assert_eq!(fleet.registry.audit_verify(None).await.unwrap().broken, None);
}

#[tokio::test]
async fn a_manifest_that_continues_another_one_is_a_fork() {
    let fleet = Fleet::empty().await;
    let first = first_manifest(&[credential("MU-000001")]);
    import(&fleet, &first).await.unwrap();
    let never_imported = testing::manifest(&HIERARCHY, "B-0005", &[credential("MU-000005")], now_ms());
    let second = next(&never_imported, 2, "B-0002", &[credential("MU-000002")]);
    assert_eq!(import(&fleet, &second).await.unwrap_err().code(), Code::ManifestFork);
    assert!(fleet.registry.stations(&Scope::Every).await.unwrap()[0].stopped.is_some());
}

#[tokio::test]
async fn a_known_serial_with_another_key_is_refused_alone() {
    let fleet = Fleet::empty().await;
    let first = first_manifest(&[credential("MU-000001")]);
    import(&fleet, &first).await.unwrap();
    let same_serial = credential("MU-000001");
    let second = next(&first, 2, "B-0002", &[same_serial, credential("MU-000002")]);
    let report = import(&fleet, &second).await.unwrap();
    assert_eq!((report.registered, report.refused.len()), (1, 1));
    let row = &report.refused[0];
    assert_eq!((row.line, row.serial.as_str(), row.code), (2, "MU-000001", Code::SerialTaken));
    assert!(row.why.contains("B-0001"), "{}", row.why);
    assert_eq!(fleet.registry.verdicts().certificate(&row.certificate), None);

    // And a known key under another serial.
    let one = credential("MU-000003");
    let cloned = testing::device_with(
        &HIERARCHY.stations[0].factory,
        &testing::subject("MU-000004"),
        one.key.clone(),
        now_s(),
    );
    let third = next(&second, 3, "B-0003", &[one]);
    import(&fleet, &third).await.unwrap();
    let fourth = next(&third, 4, "B-0004", &[cloned]);
    let report = import(&fleet, &fourth).await.unwrap();
    assert_eq!((report.registered, report.refused[0].code), (0, Code::SerialTaken));
    assert!(report.refused[0].why.contains("acme/MU-000003"), "{}", report.refused[0].why);
}

#[tokio::test]
async fn an_import_never_raises_a_state_and_honours_tombstones() {
    let mut fleet = Fleet::empty().await;
    let credentials = [credential("MU-000001"), credential("MU-000002"), credential("MU-000003")];
    let first = first_manifest(&credentials);
    import(&fleet, &first).await.unwrap();
    for (credential, acts) in
        credentials.iter().zip([&[Act::Suspend][..], &[Act::Revoke], &[Act::Revoke, Act::Decommission]])
    {
        let serial = credential.identity().serial;
        for act in acts {
            let reason = crate::registry::Reason::new("test");
            fleet.registry.decide(&ana(), &serial, *act, &reason).await.unwrap();
        }
    }
    assert_eq!(import(&fleet, &first).await.unwrap().already, 3);
    fleet = fleet.reopened().await;
    let state = |fleet: &Fleet, n: usize| {
        let verdicts = fleet.registry.verdicts();
        verdicts.state(verdicts.certificate(&credentials[n].identity().id).unwrap().device).unwrap()
    };
    assert_eq!(state(&fleet, 0), DeviceState::Suspended);
    assert_eq!(state(&fleet, 1), DeviceState::Revoked);
    assert_eq!(state(&fleet, 2), DeviceState::Decommissioned);

    let factory = &HIERARCHY.stations[0].factory;
    let revoked_key = credentials[1].key.clone();
    let second = next(
        &first,
        2,
        "B-0002",
        &[
            credential("MU-000002"),
            credential("MU-000003"),
            testing::device_with(factory, &testing::subject("MU-000008"), revoked_key, now_s()),
            credential("MU-000009"),
        ],
    );
    let report = import(&fleet, &second).await.unwrap();
    let codes: Vec<_> = report.refused.iter().map(|row| (row.line, row.code)).collect();
    assert_eq!(
        codes,
        [(2, Code::CertificateRevoked), (3, Code::DeviceDecommissioned), (4, Code::CertificateRevoked)]
    );
    assert!(report.refused[2].why.contains("key"), "{}", report.refused[2].why);
    assert_eq!(report.registered, 1);
}

#[tokio::test]
async fn only_records_of_the_one_root_register_a_station() {
    let Fleet { registry, .. } = &Fleet::nothing().await;
    let record = &HIERARCHY.stations[0].record_file;
    let error = registry.trust_station(&ana(), record).await.unwrap_err();
    assert_eq!(error.code(), Code::StationRecordInvalid, "no root yet: {error}");
    let stranger = testing::hierarchy(now_s());
    let root = CertificateDer::from(HIERARCHY.root.certificate().der());
    let leaf = credential("MU-000001").chain[0].clone();
    assert!(registry.trust_root(&ana(), &CertificateDer::from(leaf)).await.is_err(), "a leaf is no root");
    registry.trust_root(&ana(), &root).await.unwrap();
    registry.trust_root(&ana(), &root).await.unwrap();
    let other = CertificateDer::from(stranger.root.certificate().der());
    assert!(matches!(registry.trust_root(&ana(), &other).await, Err(RegistryError::RootDiffers(_))));
    for bytes in [&stranger.stations[0].record_file[..], b"", &record[..record.len() - 1]] {
        let error = registry.trust_station(&ana(), bytes).await.unwrap_err();
        assert_eq!(error.code(), Code::StationRecordInvalid, "{error}");
    }
    assert!(!registry.trust_station(&ana(), record).await.unwrap().already);
    assert!(registry.trust_station(&ana(), record).await.unwrap().already);
    let verdicts = registry.verdicts();
    let key_id = HIERARCHY.stations[0].factory.certificate().key_id();
    let issuer = verdicts.issuer(&key_id).unwrap();
    assert_eq!((issuer.station.as_str(), issuer.tenant.as_str()), ("S-07", "acme"));
    assert_eq!(verdicts.factory_roots().len(), 1);
    assert!(verdicts.issuer(&stranger.stations[0].factory.certificate().key_id()).is_none());
    registry.close().await;
}
