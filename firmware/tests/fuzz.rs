//! Octets nobody sane sends: certificates and factory requests that are nearly right.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::LazyLock;

use common::{ENDPOINT, now_s};
use muster_firmware::{
    enrol::{self, ANSWER_MAX, Device},
    entropy,
    platform::{About, Reset},
    store::{self, Store},
    testing::{Flash, TestTrng, block_on},
    verify::{self, Time, Trust},
    x509::View,
};
use muster_pki::{hierarchy::Hierarchy, testing};
use muster_shared::{
    factory::{Answer, Envelope, Install, Request},
    limits::FRAME_PAYLOAD_MAX,
    vendor::{VENDOR_LEN, VendorPage},
};
use proptest::{collection::vec, prelude::*, sample::Index};
use sha2::{Digest, Sha256};

static HIERARCHY: LazyLock<Hierarchy> = LazyLock::new(|| testing::hierarchy(now_s()));
static BROKER: LazyLock<Vec<u8>> = LazyLock::new(|| common::broker(&HIERARCHY).chain[0].clone());

fn trusted(certificate: &[u8]) -> bool {
    let anchor = HIERARCHY.broker.certificate().der();
    let time = Time::Known(now_s() as u64);
    verify::leaf(certificate, &Trust { anchors: &[anchor], server_name: common::NAME, time }).is_ok()
}

/// A board that has made its key and signed a request, and the certificate that answers it.
static ASKED: LazyLock<(Flash, Vec<u8>)> = LazyLock::new(|| {
    let flash = Flash::flashed_for(HIERARCHY.root_digest(), [1; 32]);
    let subject = testing::subject("MU-000001");
    request(&flash, Request::MakeKey);
    let answer = request(&flash, Request::Csr(subject.clone()));
    let Answer::Csr(csr) = common::body(&answer) else { panic!("{:?}", common::body(&answer)) };
    let certificate = common::certify(&HIERARCHY, &subject, csr);
    (flash, certificate)
});

fn install(certificate: &[u8]) -> Install<'_> {
    let issuer = HIERARCHY.stations[0].factory.certificate().der();
    Install { certificate, issuer, endpoint: ENDPOINT, anchors: &HIERARCHY.anchors }
}

fn payload(request: Request<'_>) -> Vec<u8> {
    let mut room = vec![0; FRAME_PAYLOAD_MAX];
    Envelope::new(3, request).write(&mut room).unwrap().to_vec()
}

fn request(flash: &Flash, request: Request<'_>) -> Vec<u8> {
    answer(flash, &payload(request))
}

/// One power-on that answers one payload.
fn answer(flash: &Flash, payload: &[u8]) -> Vec<u8> {
    let mut flash = flash.clone();
    let vendor = VendorPage::from_bytes(flash.contents(0..VENDOR_LEN as u32).first_chunk().unwrap());
    let about = About { version: "0", digest: [0; 32], reset: Reset::PowerOn };
    let mut room = [0; store::ROOM];
    let (mut rng, entropy) = block_on(entropy::start::<_, TestTrng>(&mut flash, None)).unwrap();
    let device = Device { vendor: vendor.as_ref(), about: &about, entropy };
    let mut store = Store::new(flash, &mut room);
    let mut out = [0; ANSWER_MAX];
    block_on(enrol::answer(&mut store, Some(&mut rng), &device, payload, &mut out)).to_vec()
}

#[test]
fn the_install_that_is_not_damaged_is_taken() {
    let (flash, certificate) = &*ASKED;
    let answer = request(&flash.copy(), Request::Install(install(certificate)));
    assert!(matches!(common::body(&answer), Answer::Ack { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_certificate_with_any_octet_changed_is_not_trusted(at in any::<Index>(), flip in 1u8..) {
        let mut certificate = BROKER.clone();
        let at = at.index(certificate.len());
        certificate[at] ^= flip;
        prop_assert!(!trusted(&certificate), "octet {}", at);
    }

    #[test]
    fn a_certificate_cut_or_grown_is_not_trusted(at in any::<Index>(), more in vec(any::<u8>(), 1..20)) {
        let certificate = &BROKER[..];
        prop_assert!(!trusted(&certificate[..at.index(certificate.len())]));
        prop_assert!(!trusted(&[certificate, &more].concat()));
    }

    #[test]
    fn no_octets_make_the_view_panic(octets in vec(any::<u8>(), 0..300)) {
        if let Ok(view) = View::read(&octets) {
            let _ = (view.key(), view.may_sign());
        }
    }

    #[test]
    fn every_factory_payload_gets_an_answer_that_can_be_read(mut payload in vec(any::<u8>(), 0..200), versioned in any::<bool>()) {
        if versioned && !payload.is_empty() {
            payload[0] = 1;
        }
        let answer = answer(&ASKED.0.copy(), &payload);
        let read = Envelope::<Answer<'_>>::read(&answer);
        prop_assert!(read.is_ok(), "{:?}", read);
    }

    /// The endpoint is the only part nobody signs; the digest in the acknowledgement speaks of it.
    #[test]
    fn a_damaged_install_is_refused_or_acknowledged_as_what_it_is(at in any::<Index>(), flip in 1u8..) {
        let (flash, certificate) = &*ASKED;
        let mut damaged = payload(Request::Install(install(certificate)));
        let at = at.index(damaged.len());
        damaged[at] ^= flip;
        if let Answer::Ack { digest } = common::body(&answer(&flash.copy(), &damaged)) {
            let Request::Install(taken) = Envelope::<Request<'_>>::read(&damaged).unwrap().body else { panic!() };
            let whole = install(certificate);
            prop_assert_eq!(
                (taken.certificate, taken.issuer, taken.anchors),
                (whole.certificate, whole.issuer, whole.anchors)
            );
            let mut room = vec![0; FRAME_PAYLOAD_MAX];
            prop_assert_eq!(&digest[..], &Sha256::digest(taken.write(&mut room).unwrap())[..]);
        }
    }
}
