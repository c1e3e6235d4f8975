//! Controller and board in one process, in virtual time, over a line that loses, repeats and damages frames,
//! with either side restarting at any step.

use std::collections::VecDeque;

use muster_pki::{Authority, CertificateSerial, DeviceIdentity, Request, bundle::StationBundle};
use muster_provisioning::{
    journal::{Journal, Record},
    run::{Job, assign, clock},
    station::{Command, Failure, Keep, Outcome, Patience, Step, Unit},
};
use muster_shared::Code;
use proptest::prelude::*;

use super::board::{Board, Fault, framed};
use crate::{NOW_S, material, station};

/// What the line does to one frame, in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Fair,
    Lost,
    Twice,
    Damaged,
    Halved,
    Noise,
    /// The board restarts instead of taking it.
    BoardRestarts,
}

fn carry(line: Line, octets: &[u8]) -> Vec<u8> {
    if octets.is_empty() {
        return Vec::new();
    }
    match line {
        Line::Fair => octets.to_vec(),
        Line::Lost | Line::BoardRestarts => Vec::new(),
        Line::Twice => [octets, octets].concat(),
        Line::Damaged => {
            let mut octets = octets.to_vec();
            let middle = octets.len() / 2;
            octets[middle] ^= 0x55;
            octets
        }
        Line::Halved => octets[..octets.len() / 2].to_vec(),
        Line::Noise => [&[0x7f, 0, 1, 2, 3, 0, 0xff][..], octets].concat(),
    }
}

/// How far the station comes before its power is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Over,
    /// After this many commands.
    CutAfter(usize),
}

struct Rig<'a> {
    bundle: &'a StationBundle,
    journal: Journal,
    job: Job,
    /// What the line does to the next frames; fair when it is empty.
    line: VecDeque<Line>,
    now_ms: u64,
    steps: Vec<Step>,
}

impl<'a> Rig<'a> {
    fn new(bundle: &'a StationBundle, folder: &tempfile::TempDir, serial: Option<&str>) -> Self {
        Self {
            bundle,
            journal: crate::journal(&folder.path().join("journal")),
            job: Job {
                batch: "B-0042".parse().unwrap(),
                product: "TH-2".into(),
                serial: serial.map(|serial| serial.parse().unwrap()),
                device_id: None,
            },
            line: VecDeque::new(),
            now_ms: 0,
            steps: Vec::new(),
        }
    }

    fn unit(&mut self, board: &mut Board) -> Outcome {
        self.run(board, End::Over).expect("not cut")
    }

    fn run(&mut self, board: &mut Board, end: End) -> Option<Outcome> {
        let patience = Patience { hello_tries: 5, ..Patience::default() };
        let mut unit = Unit::new(material(self.bundle), patience, 0xfffe, [5; 32]);
        for turn in 0.. {
            assert!(turn < 10_000, "no end in sight");
            if end == End::CutAfter(turn) {
                return None;
            }
            match unit.poll(self.now_ms) {
                Command::Send(octets) => {
                    let answers = self.hand_over(board, &octets);
                    let line = self.line.pop_front().unwrap_or(Line::Fair);
                    unit.receive(&carry(line, &answers));
                }
                Command::Wait(until_ms) => {
                    assert!(until_ms > self.now_ms, "waits for the past");
                    self.now_ms = until_ms;
                }
                Command::Begin(step) => self.steps.push(step),
                Command::Assign(asked) => match assign(self.bundle, &self.journal, &self.job, asked) {
                    Ok((subject, known)) => unit.assigned(subject, known),
                    Err(fault) => unit.refuse(fault.code, fault.place),
                },
                Command::Record(keep) => {
                    self.keep(keep, &unit);
                    unit.recorded();
                }
                Command::Issue(csr) => {
                    let fresh = CertificateSerial::draw().unwrap();
                    let authority = Authority::new(&self.bundle.factory);
                    let issued =
                        authority.issue(&Request::Device(&csr), &mut self.journal, fresh, NOW_S).unwrap();
                    unit.issued(issued.certificate);
                }
                Command::Done(outcome) => return Some(outcome),
            }
        }
        unreachable!()
    }

    fn hand_over(&mut self, board: &mut Board, octets: &[u8]) -> Vec<u8> {
        let line = self.line.pop_front().unwrap_or(Line::Fair);
        if line == Line::BoardRestarts {
            board.restart();
        }
        board.receive(&carry(line, octets))
    }

    fn keep(&mut self, keep: Keep, unit: &Unit) {
        let serial = unit.subject().unwrap().serial.clone();
        let (batch, at_ms) = (self.job.batch.clone(), 1);
        let record = match keep {
            Keep::Started => Record::Started { serial, batch, product: "TH-2".into(), at_ms },
            Keep::Proved => Record::Proved { serial, at_ms },
            Keep::Done => Record::Done { serial, batch, at_ms },
        };
        self.journal.append(record).unwrap();
    }

    /// Certificates this station has ever signed for a serial: never more than one.
    fn intents(&self) -> usize {
        self.journal.records().iter().filter(|record| matches!(record, Record::Intent { .. })).count()
    }
}

fn passed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Pass { already: false, .. })
}

fn failed(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Fail(failure) => failure,
        pass => panic!("{pass:?}"),
    }
}

#[test]
fn a_blank_unit_passes_in_five_steps() {
    let (_, bundle) = station();
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(&bundle, &folder, None);
    let mut board = Board::blank();
    let outcome = rig.unit(&mut board);
    let Outcome::Pass { subject, certificate_id, already: false } = outcome else { panic!("{outcome:?}") };
    assert_eq!(subject.serial.as_str(), "MU-000001");
    assert_eq!(rig.steps, Step::ALL);
    assert_eq!(board.served, ["hello", "key", "csr", "install", "prove", "lock"]);
    assert!(board.locked);
    let certificate = board.certificate().unwrap();
    let identity = DeviceIdentity::from_certificate(&certificate).unwrap();
    assert_eq!((identity.id, identity.subject()), (certificate_id, subject));
    bundle.factory.certificate().vouches_for(&certificate).unwrap();
    let kinds: Vec<_> =
        rig.journal.records().iter().map(|record| serde_json::to_value(record).unwrap()).collect();
    let kinds: Vec<_> = kinds.iter().map(|record| record["record"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["opened", "started", "intent", "issued", "proved", "done"]);
}

#[test]
fn the_next_unit_gets_the_next_serial() {
    let (_, bundle) = station();
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(&bundle, &folder, None);
    for expected in ["MU-000001", "MU-000002", "MU-000003"] {
        let Outcome::Pass { subject, .. } = rig.unit(&mut Board::blank()) else { panic!() };
        assert_eq!(subject.serial.as_str(), expected);
        assert_eq!(subject.device_id.as_str(), expected);
    }
}

#[test]
fn same_unit_again_is_already_done_and_gets_no_second_certificate() {
    let (_, bundle) = station();
    let folder = tempfile::tempdir().unwrap();
    for serial in [None, Some("MU-000001")] {
        let mut rig = Rig::new(&bundle, &folder, serial);
        let mut board = Board::blank();
        if serial.is_none() {
            assert!(passed(&rig.unit(&mut board)));
            let certificate = board.certificate();
            let outcome = rig.unit(&mut board);
            assert!(matches!(outcome, Outcome::Pass { already: true, .. }), "{outcome:?}");
            assert_eq!(board.certificate(), certificate);
            assert_eq!(rig.intents(), 1);
        } else {
            let failure = failed(rig.unit(&mut board));
            assert_eq!(failure.code, Code::StationSerialTaken, "a blank unit under a known serial");
            assert_eq!(board.served, ["hello"], "nothing was done to it");
            assert!(failure.detail.contains("known key"), "{}", failure.detail);
        }
    }
}

#[test]
fn a_known_serial_with_another_key_is_a_hard_stop() {
    let (_, bundle) = station();
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(&bundle, &folder, Some("MU-000117"));
    assert!(passed(&rig.unit(&mut Board::blank())));
    let mut impostor = Board::blank();
    impostor.key = Some(muster_pki::testing::key());
    impostor.subject = Some(muster_pki::testing::subject("MU-000117"));
    assert_eq!(failed(rig.unit(&mut impostor)).code, Code::StationSerialTaken);
    assert!(impostor.install.is_none());
    assert_eq!(rig.intents(), 1);
}

#[test]
fn a_unit_of_another_label_is_a_hard_stop() {
    let (_, bundle) = station();
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(&bundle, &folder, Some("MU-000117"));
    let mut board = Board::blank();
    assert!(passed(&rig.unit(&mut board)));
    rig.job.serial = Some("MU-000118".parse().unwrap());
    assert_eq!(failed(rig.unit(&mut board)).code, Code::StationSerialTaken);
}

#[test]
fn a_unit_this_journal_does_not_know_is_not_certified_again() {
    let (_, bundle) = station();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut board = Board::blank();
    assert!(passed(&Rig::new(&bundle, &one, Some("MU-000117")).unit(&mut board)));
    let failure = failed(Rig::new(&bundle, &two, Some("MU-000117")).unit(&mut board));
    assert_eq!(failure.code, Code::StationSerialTaken);
    board.locked = false;
    assert_eq!(failed(Rig::new(&bundle, &two, None).unit(&mut board)).code, Code::StationSerialTaken);
}

#[test]
fn a_unit_that_passed_and_is_open_again_is_not_passed_again() {
    let (_, bundle) = station();
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(&bundle, &folder, Some("MU-000117"));
    let mut board = Board::blank();
    assert!(passed(&rig.unit(&mut board)));
    board.locked = false;
    board.served.clear();
    let failure = failed(rig.unit(&mut board));
    assert_eq!(failure.code, Code::StationUnlocked, "{}", failure.detail);
    assert_eq!(board.served, ["hello"], "nothing was done to it");
}

#[test]
fn a_station_whose_clock_went_back_does_nothing() {
    let (_, bundle) = station();
    let folder = tempfile::tempdir().unwrap();
    let mut journal = crate::journal(&folder.path().join("journal"));
    let signed_ms = bundle.record.signed_at_s * 1000;
    let code = |journal: &Journal, now_ms| clock(&bundle, journal, now_ms).map_err(|fault| fault.code);
    // The root signed its record then.
    assert_eq!(code(&journal, signed_ms - 60_000), Ok(()));
    assert_eq!(code(&journal, signed_ms - 60_001), Err(Code::StationClock));
    let at_ms = signed_ms + 3_600_000;
    let failed = Record::Failed { serial: None, code: "E01".into(), step: "talk".into(), at_ms };
    journal.append(failed).unwrap();
    assert_eq!(code(&journal, at_ms - 60_000), Ok(()));
    assert_eq!(code(&journal, at_ms - 60_001), Err(Code::StationClock));
}

#[test]
fn every_misbehaviour_has_its_code() {
    let (_, bundle) = station();
    for (fault, code, step) in [
        (Fault::Silent, Code::StationNoAnswer, Step::Talk),
        (Fault::AnswersGarbage, Code::StationNoAnswer, Step::Talk),
        (Fault::AnswersOtherKind, Code::StationNoAnswer, Step::Talk),
        (Fault::NoEntropy, Code::StationEntropy, Step::Talk),
        (Fault::OtherHardware, Code::StationProduct, Step::Talk),
        (Fault::FutureWire, Code::StationFirmware, Step::Talk),
        (Fault::KeyRefused, Code::StationKey, Step::Key),
        (Fault::CsrForAnotherSubject, Code::StationRequest, Step::Key),
        (Fault::CsrBadSignature, Code::StationRequest, Step::Key),
        (Fault::CsrByAnotherKey, Code::StationRequest, Step::Key),
        (Fault::CsrGarbage, Code::StationRequest, Step::Key),
        (Fault::StoreRefused, Code::StationWrite, Step::Write),
        (Fault::ReadsBackSomethingElse, Code::StationReadback, Step::Write),
        (Fault::ProvesWithAnotherKey, Code::StationProof, Step::Prove),
        (Fault::ProvesAnotherNonce, Code::StationProof, Step::Prove),
        (Fault::RefusesOrderForEver, Code::StationRestarted, Step::Key),
        (Fault::DoesNotLock, Code::StationUnlocked, Step::Prove),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = Rig::new(&bundle, &folder, None);
        let mut board = Board::with(fault);
        let failure = failed(rig.unit(&mut board));
        assert_eq!((failure.code, failure.step), (code, step), "{fault:?}: {}", failure.detail);
        assert!(!board.locked, "{fault:?}");
        let done = rig.journal.records().iter().any(|record| matches!(record, Record::Done { .. }));
        assert!(!done, "{fault:?} must not count");
    }
}

#[test]
fn wrong_firmware_is_told_where_the_order_names_one() {
    let (_, bundle) = station();
    for (digest, right) in [([3; 32], true), ([4; 32], false)] {
        let mut material = material(&bundle);
        material.order.firmware_digest = Some(digest);
        let mut unit = Unit::new(material, Patience::default(), 7, [5; 32]);
        let mut board = Board::blank();
        let outcome = loop {
            match unit.poll(0) {
                Command::Send(octets) => unit.receive(&board.receive(&octets)),
                Command::Begin(_) => {}
                Command::Assign(_) => break None,
                Command::Done(outcome) => break Some(outcome),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(outcome.is_none(), right);
        if let Some(outcome) = outcome {
            assert_eq!(failed(outcome).code, Code::StationFirmware);
        }
    }
}

#[test]
fn serials_outside_the_range_and_a_used_up_range() {
    let (hierarchy, bundle) = station();
    for serial in ["MU-010000", "MU-1", "MX-000001", "MU-0000001", "ABC"] {
        let folder = tempfile::tempdir().unwrap();
        let mut board = Board::blank();
        let failure = failed(Rig::new(&bundle, &folder, Some(serial)).unit(&mut board));
        assert_eq!(failure.code, Code::StationSerialRange, "{serial}");
        assert_eq!(board.served, ["hello"]);
    }
    let small = hierarchy.station_bundle(&"S-07".parse().unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(&small, &folder, None);
    let last = "MU-009999".parse().unwrap();
    let record =
        Record::Started { serial: last, batch: rig.job.batch.clone(), product: "x".into(), at_ms: 1 };
    rig.journal.append(record).unwrap();
    assert_eq!(failed(rig.unit(&mut Board::blank())).code, Code::StationOrderFull);
}

#[test]
fn answers_of_an_earlier_session_are_not_taken_for_new_ones() {
    let (_, bundle) = station();
    let mut unit = Unit::new(material(&bundle), Patience::default(), 100, [5; 32]);
    let mut board = Board::blank();
    let Command::Begin(_) = unit.poll(0) else { panic!() };
    let Command::Send(hello) = unit.poll(0) else { panic!() };
    let mut other = Unit::new(material(&bundle), Patience::default(), 200, [5; 32]);
    other.poll(0);
    let Command::Send(stale) = other.poll(0) else { panic!() };
    unit.receive(&board.receive(&stale));
    assert!(matches!(unit.poll(0), Command::Wait(_)), "an answer to request 200 is none to 100");
    unit.receive(&board.receive(&hello));
    assert!(matches!(unit.poll(0), Command::Assign(None)));
}

#[test]
fn oversized_and_malformed_frames_cost_a_retry_at_most() {
    let (_, bundle) = station();
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(&bundle, &folder, None);
    let mut unit = Unit::new(material(&bundle), Patience::default(), 1, [5; 32]);
    unit.receive(&[0x41; 20_000]);
    unit.receive(&[0]);
    unit.receive(&framed(&[]));
    unit.receive(&framed(&[1]));
    unit.receive(&framed(&[9, 9, 9, 9]));
    assert!(matches!(unit.poll(0), Command::Begin(Step::Talk)));
    assert!(matches!(unit.poll(0), Command::Send(_)));
    assert!(matches!(unit.poll(0), Command::Wait(_)));
    rig.line = VecDeque::from([Line::Noise, Line::Noise, Line::Damaged]);
    assert!(passed(&rig.unit(&mut Board::blank())));
}

/// The station's power is cut after every single command; then it is started again.
#[test]
fn a_station_restarted_anywhere_finishes_the_unit_with_one_certificate() {
    let (_, bundle) = station();
    for cut in 1.. {
        let folder = tempfile::tempdir().unwrap();
        let mut board = Board::blank();
        let whole = {
            let mut rig = Rig::new(&bundle, &folder, None);
            rig.run(&mut board, End::CutAfter(cut)).is_some()
        };
        let certificate = board.certificate();
        let mut rig = Rig::new(&bundle, &folder, None);
        let outcome = rig.unit(&mut board);
        let Outcome::Pass { subject, .. } = &outcome else { panic!("cut after {cut}: {outcome:?}") };
        let before = certificate.is_none() || certificate == board.certificate();
        assert!(before, "cut after {cut}: another certificate");
        assert_eq!(rig.intents(), 1, "cut after {cut}");
        assert!(board.locked);
        // Either it had its serial before the cut, or it is the first or second one handed out.
        assert!(
            ["MU-000001", "MU-000002"].contains(&subject.serial.as_str()),
            "cut after {cut}: {subject:?}"
        );
        if whole {
            assert!(cut > 10, "the loop has seen every step");
            break;
        }
    }
}

/// The board restarts while any one frame is on its way to it.
#[test]
fn a_board_restarted_anywhere_is_finished() {
    let (_, bundle) = station();
    for at in 0..16 {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = Rig::new(&bundle, &folder, None);
        rig.line = (0..at).map(|_| Line::Fair).collect();
        rig.line.push_back(Line::BoardRestarts);
        let mut board = Board::blank();
        let outcome = rig.unit(&mut board);
        assert!(passed(&outcome), "restart at frame {at}: {outcome:?}");
        assert_eq!(rig.intents(), 1);
    }
}

#[test]
fn every_single_frame_may_be_lost_repeated_or_damaged() {
    let (_, bundle) = station();
    for line in [Line::Lost, Line::Twice, Line::Damaged, Line::Halved, Line::Noise] {
        for at in 0..14 {
            let folder = tempfile::tempdir().unwrap();
            let mut rig = Rig::new(&bundle, &folder, None);
            rig.line = (0..at).map(|_| Line::Fair).collect();
            rig.line.push_back(line);
            let outcome = rig.unit(&mut Board::blank());
            assert!(passed(&outcome), "{line:?} at frame {at}: {outcome:?}");
            assert_eq!(rig.intents(), 1);
        }
    }
}

#[test]
fn a_board_that_forgets_its_key_in_the_middle_is_stopped() {
    let (_, bundle) = station();
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(&bundle, &folder, Some("MU-000117"));
    let mut board = Board::blank();
    assert!(rig.run(&mut board, End::CutAfter(12)).is_none());
    assert_eq!(rig.intents(), 1);
    board.key = None;
    board.install = None;
    assert_eq!(failed(rig.unit(&mut board)).code, Code::StationSerialTaken);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever a bad line does to forty frames, a unit that is plugged in again until it passes has one
    /// certificate and counts once.
    #[test]
    fn a_bad_line_costs_retries_and_nothing_else(lines in prop::collection::vec(0..7_u8, 40)) {
        let (_, bundle) = station();
        let folder = tempfile::tempdir().unwrap();
        let mut rig = Rig::new(&bundle, &folder, Some("MU-000117"));
        let all = [Line::Fair, Line::Lost, Line::Twice, Line::Damaged, Line::Halved, Line::Noise, Line::BoardRestarts];
        rig.line = lines.iter().map(|&line| all[usize::from(line)]).collect();
        let mut board = Board::blank();
        let mut outcome = rig.unit(&mut board);
        for _ in 0..20 {
            if matches!(outcome, Outcome::Pass { .. }) {
                break;
            }
            let code = failed(outcome.clone()).code;
            prop_assert!([Code::StationNoAnswer, Code::StationRestarted].contains(&code), "{:?}", code);
            outcome = rig.unit(&mut board);
        }
        prop_assert!(matches!(outcome, Outcome::Pass { .. }), "never passed");
        prop_assert_eq!(rig.intents(), 1);
        let done = rig.journal.records().iter().filter(|record| matches!(record, Record::Done { .. })).count();
        prop_assert_eq!(done, 1);
    }

    /// No octets whatever from the line make the controller do anything but ask again.
    #[test]
    fn octets_from_the_line_never_panic(octets in prop::collection::vec(any::<u8>(), 0..4096)) {
        let (_, bundle) = station();
        let mut unit = Unit::new(material(&bundle), Patience::default(), 1, [5; 32]);
        unit.receive(&octets);
        prop_assert_eq!(unit.poll(0), Command::Begin(Step::Talk));
        prop_assert!(matches!(unit.poll(0), Command::Send(_)));
    }
}
