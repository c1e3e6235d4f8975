//! A ceremony makes what server, stations and flasher read, or nothing.

use std::{fs, os::unix::fs::PermissionsExt};

use muster_pki::{
    Passphrase,
    bundle::{RootBundle, ServerBundle, StationBundle},
};
use muster_provisioning::ceremony::{self, Passphrases};
use muster_shared::{Code, vendor::VendorPage};

use crate::NOW_S;

fn passphrases() -> Passphrases {
    let make = |text| Passphrase::new(text).unwrap();
    Passphrases { root: make("root words"), server: make("server words"), station: make("station words") }
}

const PLAN: &str = r#"
owner = "Acme"
[[station]]
name = "S-07"
tenant = "acme"
first_serial = "MU-000001"
last_serial = "MU-009999"
[[board]]
hardware = "mps2-an386"
"#;

#[test]
fn the_sample_is_a_plan() {
    let plan = ceremony::parse(ceremony::SAMPLE, "sample").unwrap();
    assert_eq!(plan.hierarchy.stations.len(), 2);
    assert_eq!((plan.hierarchy.stations[0].quota, plan.hierarchy.stations[1].quota), (5000, 10_000));
    assert_eq!(plan.boards, ["mps2-an386"]);
}

#[test]
fn a_ceremony_makes_every_folder_and_each_opens_with_its_own_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let plan = ceremony::parse(PLAN, "plan").unwrap();
    let words = passphrases();
    let made = ceremony::perform(&plan, &words, &out, NOW_S as u64 * 1000).unwrap();
    let root = RootBundle::read(&out.join("root"), &words.root).unwrap();
    let server = ServerBundle::read(&out.join("server"), &words.server).unwrap();
    let station = StationBundle::read(&out.join("stations/S-07"), &words.station).unwrap();
    assert_eq!(root.root.certificate(), &server.root);
    assert_eq!(server.root, station.root);
    assert_eq!(server.stations, std::slice::from_ref(&station.record_file));
    assert!(ServerBundle::read(&out.join("server"), &words.root).is_err(), "another folder's passphrase");

    assert_eq!(made.root_digest, server.root.key().digest());
    let page = fs::read(out.join("flasher/mps2-an386.vendor.bin")).unwrap();
    let page = VendorPage::from_bytes(&page.try_into().unwrap()).unwrap();
    assert_eq!((page.root_digest, page.hardware.as_str()), (made.root_digest, "mps2-an386"));
    let text = fs::read_to_string(out.join("flasher/root-digest.txt")).unwrap();
    assert!(made.transcript.contains(text.trim()));
    assert_eq!(fs::read_to_string(out.join("transcript.txt")).unwrap(), made.transcript);
    for secret in ["PRIVATE KEY", "root words", "station words"] {
        assert!(!made.transcript.contains(secret));
    }

    let mut keys = 0;
    for folder in ["root", "server", "stations/S-07"] {
        for file in fs::read_dir(out.join(folder)).unwrap().map(Result::unwrap) {
            if file.file_name().to_string_lossy().ends_with(".key.pem") {
                keys += 1;
                assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
                let text = fs::read_to_string(file.path()).unwrap();
                assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{:?}", file.path());
            }
        }
    }
    assert_eq!(keys, 2 + 5 + 2);
    let beside: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(beside, ["out"], "nothing is left beside it");
}

#[test]
fn a_ceremony_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let plan = ceremony::parse(PLAN, "plan").unwrap();
    let fault = ceremony::perform(&plan, &passphrases(), folder.path(), 1).unwrap_err();
    assert!(fault.place.contains("is there already"), "{fault}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let nowhere = folder.path().join("a/b");
    assert!(ceremony::perform(&plan, &passphrases(), &nowhere, 1).is_err());
}

#[test]
fn odd_plans_are_refused_with_the_value_that_is_odd() {
    for (from, to, told) in [
        ("owner = \"Acme\"", "owner = \"\"", "owner"),
        ("owner = \"Acme\"", "owner = \"Acme\"\nvendor = 1", "vendor"),
        ("tenant = \"acme\"", "tenant = \"a/b\"", "tenant"),
        ("name = \"S-07\"", "", "name"),
        ("MU-009999", "MU-99999", "MU-99999"),
        ("MU-009999", "MU-000000", "MU-000000"),
        ("MU-009999", "MX-009999", "MX-009999"),
        ("MU-009999", "MU-009999\"\nquota = 10000 #", "quota"),
        ("MU-009999", "MU-009999\"\nquota = 0 #", "quota"),
        ("mps2-an386", "a board that has a very long name", "a very long name"),
        ("mps2-an386", "../mps2", "../mps2"),
    ] {
        let text = PLAN.replace(from, to);
        let folder = tempfile::tempdir().unwrap();
        let fault = ceremony::parse(&text, "plan")
            .and_then(|plan| ceremony::perform(&plan, &passphrases(), &folder.path().join("out"), 1));
        let fault = fault.expect_err(to);
        assert_eq!(fault.code, Code::UsageWrong, "{to}: {fault}");
        assert!(fault.place.contains(told), "{to}: {fault}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    let twice = format!(
        "{PLAN}\n[[station]]\nname = \"S-08\"\ntenant = \"acme\"\nfirst_serial = \"MU-009999\"\nlast_serial = \"MU-010000\""
    );
    let plan = ceremony::parse(&twice, "plan");
    assert!(plan.is_ok(), "the range is sound by itself");
    let folder = tempfile::tempdir().unwrap();
    let fault = ceremony::perform(&plan.unwrap(), &passphrases(), &folder.path().join("out"), 1).unwrap_err();
    assert!(fault.place.contains("overlapping"), "{fault}");
}
