//! A station and a blank board: the whole way, and everything a station can do wrong.
#![allow(clippy::unwrap_used)]

mod common;

use common::{ENDPOINT, Station, body, certify, now_s};
use embassy_futures::select::{Either, select};
use embedded_io_async::Write;
use muster_firmware::{
    Resources,
    testing::{Flash, TestNetwork, TestPlatform, block_on},
};
use muster_pki::{hierarchy::Hierarchy, testing};
use muster_shared::{
    CertificateId,
    factory::{Answer, Endpoint, Entropy, Envelope, Install, Refusal, Request, Stage, possession},
    limits::{FRAME_MAX, FRAME_PAYLOAD_MAX},
    vendor::SeedRecord,
};
use sha2::{Digest, Sha256};

/// Runs a board on this flash while the station works.
fn with_board<T>(flash: &Flash, work: impl AsyncFnOnce(&mut Station) -> T) -> (T, Vec<String>) {
    let (platform, pipe) = TestPlatform::on(flash.clone(), TestNetwork::default());
    let log = platform.log.clone();
    let mut station = Station::new(pipe);
    let mut resources = Box::new(Resources::new());
    let device = muster_firmware::run(platform, &mut resources);
    let done = match block_on(select(Box::pin(device), Box::pin(work(&mut station)))) {
        Either::First(never) => never,
        Either::Second(done) => done,
    };
    (done, log.lines())
}

fn flash(hierarchy: &Hierarchy) -> Flash {
    Flash::flashed_for(hierarchy.root_digest(), [0x44; 32])
}

fn sha256(octets: &[u8]) -> [u8; 32] {
    Sha256::digest(octets).into()
}

async fn hello(station: &mut Station) -> muster_shared::factory::Hello {
    match body(&station.ask(Request::Hello).await) {
        Answer::Hello(hello) => hello,
        other => panic!("{other:?}"),
    }
}

async fn refused(station: &mut Station, request: Request<'_>) -> Refusal {
    match body(&station.ask(request).await) {
        Answer::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_whole_way_and_every_step_twice() {
    let hierarchy = testing::hierarchy(now_s());
    let flash = flash(&hierarchy);
    let subject = testing::subject("MU-000001");
    let (certificate, lines) = with_board(&flash, async |station| {
        let first = hello(station).await;
        assert_eq!(
            (first.stage, first.entropy, first.hardware.as_str()),
            (Stage::Blank, Entropy::Seed, "test")
        );
        assert_eq!((&first.subject, &first.key_digest, &first.certificate_id), (&None, &None, &None));

        let Answer::KeyMade { key_digest } = body(&station.ask(Request::MakeKey).await) else { panic!() };
        assert_eq!(body(&station.ask(Request::MakeKey).await), Answer::KeyMade { key_digest });
        let csr = station.ask(Request::Csr(subject.clone())).await;
        let again = station.ask(Request::Csr(subject.clone())).await;
        let (Answer::Csr(csr), Answer::Csr(again)) = (body(&csr), body(&again)) else { panic!() };
        assert_eq!(csr, again);

        let certificate = certify(&hierarchy, &subject, csr);
        let install = Install {
            certificate: &certificate,
            issuer: hierarchy.stations[0].factory.certificate().der(),
            endpoint: ENDPOINT,
            anchors: &hierarchy.anchors,
        };
        let mut octets = [0; FRAME_PAYLOAD_MAX];
        let digest = sha256(install.write(&mut octets).unwrap());
        for _ in 0..2 {
            assert_eq!(body(&station.ask(Request::Install(install.clone())).await), Answer::Ack { digest });
        }
        let id = CertificateId(sha256(&certificate));
        let key = muster_pki::identity::DeviceIdentity::from_certificate(&certificate).unwrap();
        assert_eq!(key.id, id);

        let nonce = [7; 32];
        let answer = station.ask(Request::Prove { nonce }).await;
        let Answer::Proof(proof) = body(&answer) else { panic!() };
        let view = muster_firmware::x509::View::read(&certificate).unwrap();
        let parts = possession(&subject.serial, &id, &nonce);
        assert!(muster_firmware::x509::verify(&view.key().unwrap(), &parts, proof));

        assert_eq!(body(&station.ask(Request::Lock).await), Answer::Locked);
        assert_eq!(body(&station.ask(Request::Lock).await), Answer::Locked);
        for request in [
            Request::MakeKey,
            Request::Csr(subject.clone()),
            Request::Install(install),
            Request::Prove { nonce },
        ] {
            assert_eq!(refused(station, request).await, Refusal::Locked);
        }
        let last = hello(station).await;
        assert_eq!(last.stage, Stage::Locked);
        assert_eq!(
            (last.subject, last.key_digest, last.certificate_id),
            (Some(subject.clone()), Some(key_digest), Some(id))
        );
        certificate
    });
    assert_eq!(
        lines[..5],
        [
            "muster boot 0.0.0 no identity | waiting for a station",
            "muster factory key made | waiting for the certificate",
            "muster factory certificate stored | waiting for the lock",
            "muster factory locked | the port answers hello only",
            "muster boot 0.0.0 acme/MU-000001 | connecting to 10.0.2.2:8883",
        ]
    );
    // Locked it stays, and it is who it was.
    let (again, _) = with_board(&flash, async |station| hello(station).await);
    assert_eq!(again.stage, Stage::Locked);
    assert_eq!(again.certificate_id, Some(CertificateId(sha256(&certificate))));
}

#[test]
fn a_restart_between_any_two_steps_costs_nothing() {
    let hierarchy = testing::hierarchy(now_s());
    let flash = flash(&hierarchy);
    let subject = testing::subject("MU-000002");
    let stage = |flash: &Flash| with_board(flash, async |station| hello(station).await).0;
    let (made, _) = with_board(&flash, async |station| station.ask(Request::MakeKey).await);
    let Answer::KeyMade { key_digest } = body(&made) else { panic!() };
    let now = stage(&flash);
    assert_eq!((now.stage, now.key_digest), (Stage::KeyMade, Some(key_digest)));
    let (csr, _) = with_board(&flash, async |station| station.ask(Request::Csr(subject.clone())).await);
    let Answer::Csr(csr) = body(&csr) else { panic!() };
    assert_eq!(stage(&flash).subject, Some(subject.clone()));
    let certificate = certify(&hierarchy, &subject, csr);
    let issuer = hierarchy.stations[0].factory.certificate().der();
    let install =
        Install { certificate: &certificate, issuer, endpoint: ENDPOINT, anchors: &hierarchy.anchors };
    let (ack, _) = with_board(&flash, async |station| station.ask(Request::Install(install.clone())).await);
    assert!(matches!(body(&ack), Answer::Ack { .. }));
    assert_eq!(stage(&flash).stage, Stage::Installed);
    let (again, _) = with_board(&flash, async |station| station.ask(Request::Install(install.clone())).await);
    assert_eq!(body(&ack), body(&again));
}

#[test]
fn steps_out_of_order_are_refused() {
    let hierarchy = testing::hierarchy(now_s());
    let subject = testing::subject("MU-000003");
    with_board(&flash(&hierarchy), async |station| {
        assert_eq!(refused(station, Request::Csr(subject.clone())).await, Refusal::Order);
        assert_eq!(refused(station, Request::Prove { nonce: [0; 32] }).await, Refusal::Order);
        assert_eq!(refused(station, Request::Lock).await, Refusal::Order);
        station.ask(Request::MakeKey).await;
        let issuer = hierarchy.stations[0].factory.certificate().der();
        let install =
            Install { certificate: issuer, issuer, endpoint: ENDPOINT, anchors: &hierarchy.anchors };
        assert_eq!(refused(station, Request::Install(install)).await, Refusal::Order);
        assert_eq!(refused(station, Request::Lock).await, Refusal::Order);
        station.ask(Request::Csr(subject)).await;
        assert_eq!(refused(station, Request::Csr(testing::subject("MU-000004"))).await, Refusal::Subject);
        assert_eq!(hello(station).await.stage, Stage::KeyMade);
    });
}

#[test]
fn what_the_root_and_the_key_do_not_vouch_for_is_not_installed() {
    let hierarchy = testing::hierarchy(now_s());
    let stranger = testing::hierarchy(now_s());
    let subject = testing::subject("MU-000005");
    with_board(&flash(&hierarchy), async |station| {
        station.ask(Request::MakeKey).await;
        let csr = station.ask(Request::Csr(subject.clone())).await;
        let Answer::Csr(csr) = body(&csr) else { panic!() };
        let certificate = certify(&hierarchy, &subject, csr);
        let issuer = hierarchy.stations[0].factory.certificate().der();
        let good =
            Install { certificate: &certificate, issuer, endpoint: ENDPOINT, anchors: &hierarchy.anchors };

        let with_certificate = |certificate: &'static [u8]| certificate;
        let _ = with_certificate;
        let theirs = certify(&stranger, &subject, csr);
        let other_key = testing::device(&hierarchy, &subject, now_s()).chain[0].clone();
        let mut flipped = certificate.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut long = certificate.clone();
        long.push(0);
        for (what, bad) in [
            ("another hierarchy's", &theirs),
            ("another key's", &other_key),
            ("forged", &flipped),
            ("followed by more", &long),
            ("empty", &vec![]),
        ] {
            let install = Install { certificate: bad, ..good.clone() };
            assert_eq!(refused(station, Request::Install(install)).await, Refusal::Certificate, "{what}");
        }
        let their_issuer = stranger.stations[0].factory.certificate().der();
        let install = Install { certificate: &theirs, issuer: their_issuer, ..good.clone() };
        assert_eq!(refused(station, Request::Install(install)).await, Refusal::Certificate);

        let install = Install { anchors: &stranger.anchors, ..good.clone() };
        assert_eq!(refused(station, Request::Install(install)).await, Refusal::Root);
        for at in 0..hierarchy.anchors.len() {
            let mut anchors = hierarchy.anchors.clone();
            anchors[at] ^= 0x10;
            let install = Install { anchors: &anchors, ..good.clone() };
            let refusal = refused(station, Request::Install(install)).await;
            assert!(
                matches!(refusal, Refusal::Root | Refusal::Anchors | Refusal::Malformed),
                "{at}: {refusal:?}"
            );
        }
        for endpoint in [
            Endpoint { host: "", ..ENDPOINT },
            Endpoint { host: "a b", ..ENDPOINT },
            Endpoint { port: 0, ..ENDPOINT },
            Endpoint { server_name: "not a name", ..ENDPOINT },
        ] {
            let install = Install { endpoint, ..good.clone() };
            assert_eq!(refused(station, Request::Install(install)).await, Refusal::Malformed, "{endpoint:?}");
        }
        assert_eq!(hello(station).await.stage, Stage::KeyMade);
        assert!(matches!(body(&station.ask(Request::Install(good)).await), Answer::Ack { .. }));
    });
}

#[test]
fn noise_on_the_line_costs_a_retry_and_nothing_else() {
    let hierarchy = testing::hierarchy(now_s());
    let ((), lines) = with_board(&flash(&hierarchy), async |station| {
        // Truncated, oversized, damaged, and pure noise, each followed by a good frame.
        let mut noise = vec![vec![1, 2, 3, 0], vec![0x55; FRAME_MAX + 100], vec![0xff; 3], vec![0; 50]];
        noise[1].push(0);
        noise[2].push(0);
        for noise in noise {
            station.pipe.write_all(&noise).await.unwrap();
            assert_eq!(hello(station).await.stage, Stage::Blank);
        }
        // Frames that are whole and no messages: answered, so the station need not wait.
        for payload in [&[][..], &[9, 1, 0], &[1, 5, 99], &[1, 5, 0, 0], &[0xff; 300], &[1]] {
            let answer = station.raw(payload).await;
            let Answer::Refused(refusal) = body(&answer) else { panic!("{payload:?}") };
            assert!(matches!(refusal, Refusal::Malformed | Refusal::Version), "{payload:?}: {refusal:?}");
        }
        let answer = station.raw(&[1, 5, 99]).await;
        assert_eq!(
            Envelope::<Answer<'_>>::read(&answer).unwrap().request,
            5,
            "the number is kept where there is one"
        );
    });
    assert!(lines.contains(&"muster factory frame dropped | too long".to_owned()), "{lines:?}");
    assert!(lines.contains(&"muster factory frame dropped | malformed".to_owned()), "{lines:?}");
}

#[test]
fn a_board_without_entropy_makes_no_key_and_says_so() {
    for flash in [Flash::blank(), {
        let flash = Flash::blank();
        flash.program(0x1000, &SeedRecord { counter: 3, seed: [1; 32] }.to_bytes());
        flash.write_protect(muster_firmware::platform::Layout::ENTROPY);
        flash
    }] {
        let ((), lines) = with_board(&flash, async |station| {
            assert_eq!(hello(station).await.entropy, Entropy::Failed);
            assert_eq!(refused(station, Request::MakeKey).await, Refusal::Entropy);
            assert_eq!(hello(station).await.stage, Stage::Blank);
        });
        assert_eq!(lines[0], "muster tls T03 entropy counter cannot be committed | no TLS, stop");
    }
}

#[test]
fn a_board_whose_store_fails_claims_nothing() {
    let hierarchy = testing::hierarchy(now_s());
    let flash = flash(&hierarchy);
    flash.write_protect(muster_firmware::platform::Layout::CREDENTIALS);
    with_board(&flash, async |station| {
        assert_eq!(refused(station, Request::MakeKey).await, Refusal::Store);
        assert_eq!(hello(station).await.stage, Stage::Blank);
    });
    let flash = self::flash(&hierarchy);
    flash.ignore_writes(muster_firmware::platform::Layout::CREDENTIALS);
    with_board(&flash, async |station| {
        assert_eq!(refused(station, Request::MakeKey).await, Refusal::Store);
    });
}
