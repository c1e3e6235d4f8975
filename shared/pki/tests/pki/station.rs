//! Station records and anchor sets: what the root signed, to the last octet. Serial ranges.

use muster_pki::{
    CaCertificate, SerialRange, StationRecord, anchors,
    ca::CaError,
    hierarchy::{Hierarchy, HierarchyError, Plan},
    station::StationError,
    testing,
};
use muster_shared::factory::{Anchors, SignedAnchors};
use proptest::prelude::*;

use crate::NOW_S;

#[test]
fn a_record_is_what_the_root_signed() {
    let hierarchy = testing::hierarchy(NOW_S);
    let root = hierarchy.root.certificate();
    for station in &hierarchy.stations {
        assert_eq!(StationRecord::verify(&station.record_file, root).unwrap(), station.record);
    }
    let file = &hierarchy.stations[0].record_file;
    for at in 0..file.len() {
        for bit in [0, 5] {
            let mut odd = file.clone();
            odd[at] ^= 1 << bit;
            assert!(StationRecord::verify(&odd, root).is_err(), "octet {at} bit {bit}");
        }
    }
    for end in 0..file.len() {
        assert!(StationRecord::verify(&file[..end], root).is_err(), "cut at {end}");
    }
    let other = testing::hierarchy(NOW_S);
    let error = StationRecord::verify(file, other.root.certificate());
    assert_eq!(error, Err(StationError::NotSigned));
    let error = StationRecord::verify(file, hierarchy.broker.certificate());
    assert!(matches!(error, Err(StationError::Factory(CaError::Purpose { .. }))), "{error:?}");
}

#[test]
fn a_record_is_not_a_manifest_and_a_manifest_is_no_record() {
    let hierarchy = testing::hierarchy(NOW_S);
    let record = &hierarchy.stations[0].record_file;
    assert!(muster_pki::manifest::read(record).is_err());
    let manifest = testing::manifest(&hierarchy, "B-1", &[], 1);
    assert!(StationRecord::verify(&manifest, hierarchy.root.certificate()).is_err());
}

#[test]
fn odd_records_are_not_signed() {
    let hierarchy = testing::hierarchy(NOW_S);
    let record = &hierarchy.stations[0].record;
    let same_key = StationRecord { manifest_key: *record.factory.key(), ..record.clone() };
    assert!(matches!(same_key.sign(&hierarchy.root), Err(StationError::Malformed(_))));
    let other = testing::hierarchy(NOW_S);
    let foreign =
        StationRecord { factory: other.stations[0].factory.certificate().clone(), ..record.clone() };
    assert!(matches!(foreign.sign(&hierarchy.root), Err(StationError::Factory(_))));
    let broker = StationRecord { factory: hierarchy.broker.certificate().clone(), ..record.clone() };
    assert!(matches!(broker.sign(&hierarchy.root), Err(StationError::Factory(CaError::Purpose { .. }))));
    assert!(record.sign(&hierarchy.broker).is_err(), "only the root signs records");
}

#[test]
fn anchors_are_what_a_device_reads() {
    let hierarchy = testing::hierarchy(NOW_S);
    let (root, broker) = (hierarchy.root.certificate(), hierarchy.broker.certificate());
    let signed = SignedAnchors::read(&hierarchy.anchors).unwrap();
    assert_eq!(signed.root, root.key().spki());
    let set = Anchors::read(signed.anchors).unwrap();
    assert_eq!((set.generation, set.current, set.next), (1, broker.der(), None));
    assert_eq!(anchors::verify(&hierarchy.anchors, root).unwrap(), (1, vec![broker.clone()]));
    for at in 0..hierarchy.anchors.len() {
        let mut odd = hierarchy.anchors.clone();
        odd[at] ^= 1;
        assert!(anchors::verify(&odd, root).is_err(), "octet {at}");
    }
    let next = hierarchy.root.make_issuing(muster_pki::Purpose::Broker, "next broker CA", NOW_S).unwrap();
    let both = anchors::sign(&hierarchy.root, 2, broker, Some(next.certificate())).unwrap();
    let read: (u32, Vec<CaCertificate>) = anchors::verify(&both, root).unwrap();
    assert_eq!(read, (2, vec![broker.clone(), next.certificate().clone()]));
    let wrong = anchors::sign(&hierarchy.root, 2, hierarchy.https.certificate(), None);
    assert!(matches!(wrong, Err(CaError::Purpose { .. })));
    let other = testing::hierarchy(NOW_S);
    assert!(anchors::sign(&hierarchy.root, 2, other.broker.certificate(), None).is_err());
    assert!(anchors::sign(&hierarchy.https, 2, broker, None).is_err(), "only the root signs anchors");
}

fn range(first: &str, last: &str) -> Result<SerialRange, StationError> {
    SerialRange::new(&first.parse().unwrap(), &last.parse().unwrap())
}

#[test]
fn ranges() {
    let mu = range("MU-000010", "MU-000019").unwrap();
    assert_eq!((mu.count(), mu.to_string()), (10, "MU-000010..=MU-000019".to_owned()));
    for (serial, place) in [
        ("MU-000010", Some(0)),
        ("MU-000019", Some(9)),
        ("MU-000009", None),
        ("MU-000020", None),
        ("MU-00010", None),
        ("MU-0000010", None),
        ("MX-000010", None),
        ("MU-10", None),
    ] {
        assert_eq!(mu.place(&serial.parse().unwrap()), place, "{serial}");
    }
    assert_eq!(mu.serial(9).unwrap().as_str(), "MU-000019");
    assert_eq!((mu.serial(10), mu.serial(u64::MAX)), (None, None));
    for (first, last) in [("MU-2", "MU-1"), ("MU-1", "MU-10"), ("MU-1", "MX-2"), ("MU-", "MU-"), ("A", "B")] {
        assert!(matches!(range(first, last), Err(StationError::Range(..))), "{first} {last}");
    }
    assert!(mu.overlaps(&range("MU-000019", "MU-000030").unwrap()));
    assert!(!mu.overlaps(&range("MU-000020", "MU-000030").unwrap()));
    assert!(!mu.overlaps(&range("MU-10", "MU-19").unwrap()), "another number of digits is another serial");
}

proptest! {
    #[test]
    fn place_and_serial_are_inverse(first in 0..900_000_u64, count in 1..1000_u64, place in 0..2000_u64) {
        let spell = |n: u64| format!("A.{n:06}");
        let range = range(&spell(first), &spell(first + count - 1)).unwrap();
        let serial = range.serial(place);
        prop_assert_eq!(serial.is_some(), place < count);
        if let Some(serial) = serial {
            prop_assert_eq!(range.place(&serial), Some(place));
        }
    }
}

#[test]
fn plans_that_contradict_themselves_are_refused() {
    let plan = testing::plan();
    let with = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        Hierarchy::create(&plan, NOW_S).err().expect("contradicts itself")
    };
    let twice = with(&|plan| plan.stations[1].station = plan.stations[0].station.clone());
    assert!(matches!(twice, HierarchyError::Overlap(..)));
    let overlap = with(&|plan| {
        plan.stations[1].serials = range("MU-009999", "MU-010001").unwrap();
        plan.stations[1].quota = 3;
    });
    assert!(matches!(overlap, HierarchyError::Overlap(..)));
    assert!(matches!(with(&|plan| plan.stations[0].quota = 0), HierarchyError::Quota(..)));
    assert!(matches!(with(&|plan| plan.stations[0].quota = 10_000), HierarchyError::Quota(..)));
    for owner in ["", " Acme", "Acme\n", &"a".repeat(60)] {
        let refused = with(&|plan| plan.owner = owner.to_owned());
        assert!(matches!(refused, HierarchyError::Owner(_)), "{owner:?}: {refused}");
    }
    // Another tenant may use the same serials.
    let mut shared = plan.clone();
    shared.stations[2].serials = shared.stations[0].serials.clone();
    assert!(Hierarchy::create(&shared, NOW_S).is_ok());
}
