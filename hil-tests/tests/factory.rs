//! The factory port of the real image, in the wrong hands: damaged frames, wrong subjects, foreign
//! anchors, power cuts. Whatever it is told, the board answers with a reason and can still be made.

#![allow(clippy::unwrap_used, reason = "a test")]

mod qemu {
    use std::{
        cell::RefCell,
        path::PathBuf,
        thread,
        time::{Duration, SystemTime, UNIX_EPOCH},
    };

    use muster_firmware::platform::Layout;
    use muster_hil::{
        cable::{Cable, frame_of},
        flash::Flash,
        packages,
        qemu::Board,
        toolchain,
        workspace::Workspace,
    };
    use muster_pki::{
        Authority, MemoryLedger, Request as Wanted, VerifiedCsr, hierarchy::Hierarchy, key::PublicKey,
        profile::CertificateSerial, testing,
    };
    use muster_shared::{
        factory::{
            Answer, Endpoint, Entropy, Install, Refusal, Request, SignedAnchors, Stage, Subject, possession,
        },
        limits::{FRAME_MAX, FRAME_PAYLOAD_MAX, NONCE},
    };
    use sha2::{Digest, Sha256};
    use tempfile::TempDir;

    const ENDPOINT: Endpoint<'_> = Endpoint {
        host: "10.0.2.2",
        // Discard: nobody listens there on this machine.
        port: 9,
        server_name: "localhost",
        keep_alive_s: 30,
        telemetry_s: 5,
        retry_s_max: 2,
    };

    /// A board, the hierarchy it obeys, and a station held by hand.
    struct Bench {
        _dir: TempDir,
        dir: PathBuf,
        hierarchy: Hierarchy,
        ledger: RefCell<MemoryLedger>,
        board: Board,
    }

    impl Bench {
        fn new() -> Self {
            let mut say = |text: &str| println!("{text}");
            packages::ensure(&[packages::QEMU], &mut say).unwrap();
            let image = toolchain::image(&Workspace::find().unwrap(), &mut say).unwrap();
            let temporary = tempfile::Builder::new().prefix("mf-").tempdir().unwrap();
            let dir = temporary.path().to_owned();
            let hierarchy = testing::hierarchy(now_s());
            let flash = Flash::blank(&dir.join("flash"), hierarchy.root_digest()).unwrap();
            let mut board = Board::new(&image, flash, &dir, "board");
            board.power_on().unwrap();
            Self { _dir: temporary, dir, hierarchy, ledger: RefCell::default(), board }
        }

        fn cable(&self) -> Cable {
            Cable::plug(self.board.port_path()).unwrap()
        }

        /// What the station would install for this request: the same for the same key.
        fn certificate(&self, request: &[u8], subject: &Subject) -> Vec<u8> {
            let csr = VerifiedCsr::verify(request, subject).unwrap();
            let authority = Authority::new(&self.hierarchy.stations[0].factory);
            let fresh = CertificateSerial::draw().unwrap();
            let mut ledger = self.ledger.borrow_mut();
            authority.issue(&Wanted::Device(&csr), &mut *ledger, fresh, now_s()).unwrap().certificate
        }

        fn install<'a>(&'a self, certificate: &'a [u8], anchors: &'a [u8]) -> Install<'a> {
            let issuer = self.hierarchy.stations[0].factory.certificate().der();
            Install { certificate, issuer, endpoint: ENDPOINT, anchors }
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            if thread::panicking() {
                let log = std::fs::read_to_string(self.board.log_path()).unwrap_or_default();
                println!("the board's log, over all its starts:\n{log}");
            }
        }
    }

    fn now_s() -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
    }

    fn subject() -> Subject {
        testing::subject("MU-000001")
    }

    fn refusal(cable: &mut Cable, request: &Request<'_>) -> Option<Refusal> {
        let read = |answer: &Answer<'_>| match answer {
            Answer::Refused(why) => Some(*why),
            _ => None,
        };
        cable.ask(request, read).unwrap()
    }

    fn key_digest(cable: &mut Cable) -> [u8; 32] {
        let read = |answer: &Answer<'_>| match answer {
            Answer::KeyMade { key_digest } => *key_digest,
            other => panic!("asked for a key, got {other:?}"),
        };
        cable.ask(&Request::MakeKey, read).unwrap()
    }

    fn signing_request(cable: &mut Cable, subject: &Subject) -> Vec<u8> {
        let read = |answer: &Answer<'_>| match answer {
            Answer::Csr(der) => der.to_vec(),
            other => panic!("asked for a signing request, got {other:?}"),
        };
        cable.ask(&Request::Csr(subject.clone()), read).unwrap()
    }

    /// Everything from where the board is to the closed port; checks each answer.
    fn provision(bench: &Bench, cable: &mut Cable) {
        let subject = subject();
        let digest = key_digest(cable);
        let request = signing_request(cable, &subject);
        let key = VerifiedCsr::verify(&request, &subject).unwrap().key().clone();
        assert_eq!(digest, key.digest(), "the request is signed with another key than was shown");
        let certificate = bench.certificate(&request, &subject);
        install_prove_lock(bench, cable, &certificate, &key);
    }

    fn install_prove_lock(bench: &Bench, cable: &mut Cable, certificate: &[u8], key: &PublicKey) {
        let install = bench.install(certificate, &bench.hierarchy.anchors);
        let mut room = vec![0; FRAME_PAYLOAD_MAX];
        let wanted: [u8; 32] = Sha256::digest(install.write(&mut room).unwrap()).into();
        let acknowledged = |answer: &Answer<'_>| assert_eq!(answer, &Answer::Ack { digest: wanted });
        cable.ask(&Request::Install(install), acknowledged).unwrap();
        let nonce = [0x5a; NONCE];
        let serial = subject().serial;
        let id = muster_shared::CertificateId(Sha256::digest(certificate).into());
        let proven = |answer: &Answer<'_>| match answer {
            Answer::Proof(signature) => {
                key.verify(&possession(&serial, &id, &nonce).concat(), signature).unwrap();
            }
            other => panic!("asked for a proof, got {other:?}"),
        };
        cable.ask(&Request::Prove { nonce }, proven).unwrap();
        cable.ask(&Request::Lock, |answer| assert_eq!(answer, &Answer::Locked)).unwrap();
        let hello = cable.hello().unwrap();
        assert_eq!((hello.stage, hello.certificate_id), (Stage::Locked, Some(id)));
    }

    #[test]
    fn damaged_frames_cost_nothing_and_the_board_is_made_afterwards() {
        let mut bench = Bench::new();
        let mut cable = bench.cable();
        assert_eq!(cable.hello().unwrap().stage, Stage::Blank);
        let hello = frame_of(&[1, 1, 0, 0]).unwrap();
        let mut flipped = hello.clone();
        flipped[2] ^= 0x40;
        let longest = vec![0x55; FRAME_MAX];
        let noise: Vec<u8> = (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let cases: [(&str, Vec<u8>); 8] = [
            ("a checksum that differs", flipped),
            ("a frame cut short", [&hello[..hello.len() - 3], &[0]].concat()),
            ("a frame that is only a delimiter", vec![0; 64]),
            ("noise", [noise.as_slice(), &[0]].concat()),
            ("a frame longer than any", [longest.as_slice(), &longest, &[0]].concat()),
            ("a message of a version to come", frame_of(&[200, 9, 0]).unwrap()),
            ("a message of no known kind", frame_of(&[1, 9, 77]).unwrap()),
            ("a message with octets after its end", frame_of(&[1, 9, 0, 0, 0, 0]).unwrap()),
        ];
        for (name, octets) in &cases {
            println!("{name}");
            cable.send_raw(octets).unwrap();
            assert_eq!(cable.hello().unwrap().stage, Stage::Blank, "after {name}");
        }
        provision(&bench, &mut cable);
        assert!(bench.board.is_on());
    }

    #[test]
    fn what_does_not_fit_this_board_is_refused_with_its_reason() {
        let bench = Bench::new();
        let mut cable = bench.cable();
        let nonce = [1; NONCE];
        assert_eq!(refusal(&mut cable, &Request::Csr(subject())), Some(Refusal::Order));
        assert_eq!(refusal(&mut cable, &Request::Prove { nonce }), Some(Refusal::Order));
        assert_eq!(refusal(&mut cable, &Request::Lock), Some(Refusal::Order));
        let digest = key_digest(&mut cable);
        assert_eq!(key_digest(&mut cable), digest, "a repeated request made another key");
        let request = signing_request(&mut cable, &subject());
        let other = testing::subject("MU-000002");
        assert_eq!(refusal(&mut cable, &Request::Csr(other.clone())), Some(Refusal::Subject));

        let good = bench.certificate(&request, &subject());
        let foreign_key = testing::device(&bench.hierarchy, &subject(), now_s());
        let foreign_root = testing::hierarchy(now_s());
        let mut altered = bench.hierarchy.anchors.clone();
        let signed = SignedAnchors::read(&bench.hierarchy.anchors).unwrap();
        let inside = signed.anchors.as_ptr() as usize - bench.hierarchy.anchors.as_ptr() as usize;
        altered[inside + signed.anchors.len() / 2] ^= 1;
        let cases = [
            (
                "a certificate of another key",
                foreign_key.chain[0].as_slice(),
                &bench.hierarchy.anchors,
                Refusal::Certificate,
            ),
            (
                "a certificate cut short",
                &good[..good.len() - 1],
                &bench.hierarchy.anchors,
                Refusal::Certificate,
            ),
            ("anchors of another root", &good, &foreign_root.anchors, Refusal::Root),
            ("anchors changed after they were signed", &good, &altered, Refusal::Anchors),
        ];
        for (name, certificate, anchors, why) in cases {
            let install = bench.install(certificate, anchors);
            assert_eq!(refusal(&mut cable, &Request::Install(install)), Some(why), "{name}");
            assert_eq!(cable.hello().unwrap().stage, Stage::KeyMade, "after {name}");
        }
        provision(&bench, &mut cable);
        for request in [Request::MakeKey, Request::Csr(subject()), Request::Prove { nonce }] {
            assert_eq!(refusal(&mut cable, &request), Some(Refusal::Locked), "{request:?}");
        }
        let install = bench.install(&good, &bench.hierarchy.anchors);
        assert_eq!(refusal(&mut cable, &Request::Install(install)), Some(Refusal::Locked));
    }

    /// Each request is sent, and the power goes at once, a little later, or after the answer. What the
    /// board then says of itself is a step that was finished, and making it goes on from there.
    #[test]
    fn a_power_cut_at_any_step_leaves_a_finished_step() {
        let mut bench = Bench::new();
        let subject = subject();
        let image_flash = bench.board.flash().clone();
        let blank = image_flash.copy(&bench.dir.join("blank")).unwrap();
        for after in [0, 3, 25, 150].map(Duration::from_millis) {
            bench.board.power_cut();
            let octets = blank.read(0..Layout::SIZE).unwrap();
            bench.board.flash().write(0, &octets).unwrap();
            bench.ledger = RefCell::default();
            let mut shown: Option<[u8; 32]> = None;
            let mut before = Stage::Blank;
            for step in 0..5 {
                bench.board.power_on().unwrap();
                let mut cable = bench.cable();
                let hello = cable.hello().unwrap();
                assert!(hello.stage >= before, "fell back from {before:?} to {:?}", hello.stage);
                assert!(hello.stage <= Stage::Locked && hello.entropy != Entropy::Failed);
                if let Some(shown) = shown {
                    assert_eq!(hello.key_digest, Some(shown), "the key changed after {before:?}");
                }
                before = hello.stage;
                if before == Stage::Locked {
                    break;
                }
                // What is needed for the request that will be cut off.
                let request = match step {
                    0 => None,
                    _ => {
                        shown = Some(key_digest(&mut cable));
                        Some(signing_request(&mut cable, &subject))
                    }
                };
                let certificate = request.map(|request| bench.certificate(&request, &subject));
                let install = certificate
                    .as_ref()
                    .map(|certificate| bench.install(certificate, &bench.hierarchy.anchors));
                let cut_off = match (step, install) {
                    (0, _) => Request::MakeKey,
                    (1, _) => Request::Csr(subject.clone()),
                    (2, Some(install)) => Request::Install(install),
                    (_, Some(install)) => {
                        cable
                            .ask(&Request::Install(install), |answer| {
                                assert!(matches!(answer, Answer::Ack { .. }), "{answer:?}");
                            })
                            .unwrap();
                        if step == 3 { Request::Prove { nonce: [3; NONCE] } } else { Request::Lock }
                    }
                    (_, None) => unreachable!("made above"),
                };
                cable.send_request(&cut_off).unwrap();
                thread::sleep(after);
                drop(cable);
                bench.board.power_cut();
            }
            bench.board.power_on().unwrap();
            let mut cable = bench.cable();
            if cable.hello().unwrap().stage < Stage::Locked {
                provision(&bench, &mut cable);
            }
            let hello = cable.hello().unwrap();
            assert_eq!(
                (hello.stage, hello.key_digest),
                (Stage::Locked, shown),
                "cut {after:?} after each request"
            );
        }
    }
}
