//! The factory port of the real image, in the wrong hands: damaged frames, wrong subjects, foreign
//! anchors, power cuts. Whatever it is told, the board answers with a reason and can still be made.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod qemu {
    use std::{thread, time::Duration};

    use muster_firmware::platform::Layout;
    use muster_hil::{
        cable::{Cable, frame_of},
        process::{self, Running},
        rig::{self, Parts, Rig, unit_of},
        workbench::{Workbench, key_digest, now_s, refusal, signing_request, subject},
    };
    use muster_pki::testing;
    use muster_shared::{
        factory::{Answer, Entropy, Refusal, Request, SignedAnchors, Stage},
        limits::{FRAME_MAX, NONCE},
    };
    use rand_chacha::{
        ChaCha20Rng,
        rand_core::{RngCore, SeedableRng},
    };

    const PATIENCE: Duration = Duration::from_secs(120);

    #[test]
    fn damaged_frames_cost_nothing_and_the_board_is_made_afterwards() {
        let mut bench = Workbench::new().unwrap();
        let mut cable = bench.cable().unwrap();
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
        bench.provision(&mut cable).unwrap();
        assert!(bench.board.is_on());
    }

    #[test]
    fn what_does_not_fit_this_board_is_refused_with_its_reason() {
        let bench = Workbench::new().unwrap();
        let mut cable = bench.cable().unwrap();
        let nonce = [1; NONCE];
        assert_eq!(refusal(&mut cable, &Request::Csr(subject())).unwrap(), Some(Refusal::Order));
        assert_eq!(refusal(&mut cable, &Request::Prove { nonce }).unwrap(), Some(Refusal::Order));
        assert_eq!(refusal(&mut cable, &Request::Lock).unwrap(), Some(Refusal::Order));
        let digest = key_digest(&mut cable).unwrap();
        assert_eq!(key_digest(&mut cable).unwrap(), digest, "a repeated request made another key");
        let request = signing_request(&mut cable, &subject()).unwrap();
        let other = testing::subject("MU-000002");
        assert_eq!(refusal(&mut cable, &Request::Csr(other.clone())).unwrap(), Some(Refusal::Subject));

        let good = bench.certificate(&request, &subject()).unwrap();
        let foreign_key = testing::device(bench.hierarchy(), &subject(), now_s());
        let foreign_root = testing::hierarchy(now_s());
        let mut altered = bench.hierarchy().anchors.clone();
        let signed = SignedAnchors::read(&bench.hierarchy().anchors).unwrap();
        let inside = signed.anchors.as_ptr() as usize - bench.hierarchy().anchors.as_ptr() as usize;
        altered[inside + signed.anchors.len() / 2] ^= 1;
        let cases = [
            (
                "a certificate of another key",
                foreign_key.chain[0].as_slice(),
                &bench.hierarchy().anchors,
                Refusal::Certificate,
            ),
            (
                "a certificate cut short",
                &good[..good.len() - 1],
                &bench.hierarchy().anchors,
                Refusal::Certificate,
            ),
            ("anchors of another root", &good, &foreign_root.anchors, Refusal::Root),
            ("anchors changed after they were signed", &good, &altered, Refusal::Anchors),
        ];
        for (name, certificate, anchors, why) in cases {
            let install = bench.install(certificate, anchors);
            assert_eq!(refusal(&mut cable, &Request::Install(install)).unwrap(), Some(why), "{name}");
            assert_eq!(cable.hello().unwrap().stage, Stage::KeyMade, "after {name}");
        }
        bench.provision(&mut cable).unwrap();
        for request in [Request::MakeKey, Request::Csr(subject()), Request::Prove { nonce }] {
            assert_eq!(refusal(&mut cable, &request).unwrap(), Some(Refusal::Locked), "{request:?}");
        }
        let install = bench.install(&good, &bench.hierarchy().anchors);
        assert_eq!(refusal(&mut cable, &Request::Install(install)).unwrap(), Some(Refusal::Locked));
    }

    /// Each request is sent, and the power goes at once, a little later, or after the answer. What the
    /// board then says of itself is a step that was finished, and making it goes on from there.
    #[test]
    fn a_power_cut_at_any_step_leaves_a_finished_step() {
        let mut bench = Workbench::new().unwrap();
        let subject = subject();
        let image_flash = bench.board.flash().clone();
        let blank = image_flash.copy(&bench.dir().join("blank")).unwrap();
        for after in [0, 3, 25, 150].map(Duration::from_millis) {
            bench.board.power_cut();
            let octets = blank.read(0..Layout::SIZE).unwrap();
            bench.board.flash().write(0, &octets).unwrap();
            bench.forget();
            let mut shown: Option<[u8; 32]> = None;
            let mut before = Stage::Blank;
            for step in 0..5 {
                bench.board.power_on().unwrap();
                let mut cable = bench.cable().unwrap();
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
                        shown = Some(key_digest(&mut cable).unwrap());
                        Some(signing_request(&mut cable, &subject).unwrap())
                    }
                };
                let certificate = request.map(|request| bench.certificate(&request, &subject).unwrap());
                let install = certificate
                    .as_ref()
                    .map(|certificate| bench.install(certificate, &bench.hierarchy().anchors));
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
            let mut cable = bench.cable().unwrap();
            if cable.hello().unwrap().stage < Stage::Locked {
                bench.provision(&mut cable).unwrap();
            }
            let hello = cable.hello().unwrap();
            assert_eq!(
                (hello.stage, hello.key_digest),
                (Stage::Locked, shown),
                "cut {after:?} after each request"
            );
        }
    }

    /// The factory tool is killed at random points, and called again until the unit has passed. The random
    /// points come from a seed, which is printed; `MUSTER_SEED=N` repeats one.
    #[test]
    fn a_factory_tool_that_is_killed_goes_on_where_it_was() {
        const UNITS: u32 = 3;
        const KILLS: u32 = 6;
        let seed =
            std::env::var("MUSTER_SEED").ok().map(|text| text.parse().expect("MUSTER_SEED is a number"));
        let seed: u64 = seed.unwrap_or_else(|| getrandom::u64().unwrap());
        println!("MUSTER_SEED={seed}");
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let parts = Parts::make(&mut |text| println!("{text}")).unwrap();
        let rig = Rig::open(&parts, None).unwrap();
        rig.ceremony().unwrap();
        let factory = rig.factory().unwrap();
        for number in 1..=UNITS {
            let serial = rig::serial(number);
            let mut board = rig.blank_board(&serial, rig.root_digest().unwrap()).unwrap();
            board.power_on().unwrap();
            let run = rig.run_command(&factory, &board.port(), &serial, "B-0001", ("10.0.2.2", 9)).unwrap();
            // How long one run takes on this machine now is not known beforehand: the kills find out.
            let mut longest_ms = 400;
            for _ in 0..KILLS {
                let mut tool = Running::start("muster-factory", &run, None).unwrap();
                thread::sleep(Duration::from_millis(u64::from(rng.next_u32()) % longest_ms));
                longest_ms = if tool.ended() { longest_ms } else { longest_ms + 200 };
                tool.kill();
            }
            let unit = unit_of(&process::run("muster-factory", &run, PATIENCE).unwrap()).unwrap();
            assert!(unit.passed(), "{unit:?}");
            let again = unit_of(&process::run("muster-factory", &run, PATIENCE).unwrap()).unwrap();
            assert_eq!(
                (again.result.as_str(), &again.certificate_id),
                ("already_done", &unit.certificate_id)
            );
            let hello = Cable::plug(board.port_path()).unwrap().hello().unwrap();
            assert_eq!(hello.certificate_id.map(|id| id.to_string()), unit.certificate_id);
        }
        let manifest = std::fs::read(rig.close_batch(&factory, "B-0001").unwrap()).unwrap();
        let rows = String::from_utf8_lossy(&manifest).matches("\"certificate\":").count();
        assert_eq!(rows, UNITS as usize, "one certificate a unit");
    }
}
