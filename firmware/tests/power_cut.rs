//! The credential store under a power cut at every flash operation, with every way a word can be torn.
//!
//! The model is the stage: after any cut the board is at the stage before the step or after it, with
//! everything that stage promises; and the station can go on from there to the end.
#![allow(clippy::unwrap_used)]

mod common;

use common::{ENDPOINT, now_s};
use muster_firmware::{
    credentials,
    enrol::{self, ANSWER_MAX, Device},
    entropy,
    platform::{About, Layout, Reset},
    store::{self, Record, Slot, Store, StoreError},
    testing::{Flash, TestTrng, Torn, block_on},
};
use muster_pki::{hierarchy::Hierarchy, testing};
use muster_shared::{
    factory::{Answer, Entropy, Envelope, Install, Request, Stage, Subject},
    limits::FRAME_PAYLOAD_MAX,
    vendor::{VENDOR_LEN, VendorPage},
};

/// A board's power-on, answering these requests; the octets of its answers.
fn answers(flash: &Flash, requests: &[Request<'_>]) -> Vec<Vec<u8>> {
    let mut flash = flash.clone();
    let page = flash.contains_page();
    let about = About { version: "0", digest: [0; 32], reset: Reset::PowerOn };
    let mut room = [0; store::ROOM];
    block_on(async {
        let rng = entropy::start::<_, TestTrng>(&mut flash, None).await;
        let entropy = if rng.is_ok() { Entropy::Seed } else { Entropy::Failed };
        let mut rng = rng.ok().map(|(rng, _)| rng);
        let device = Device { vendor: page.as_ref(), about: &about, entropy };
        let mut store = Store::new(flash, &mut room);
        let mut out = Vec::new();
        for request in requests {
            let mut payload = vec![0; FRAME_PAYLOAD_MAX];
            let payload = Envelope::new(1, request.clone()).write(&mut payload).unwrap();
            let mut answer = [0; ANSWER_MAX];
            out.push(enrol::answer(&mut store, rng.as_mut(), &device, payload, &mut answer).await.to_vec());
        }
        out
    })
}

trait Page {
    fn contains_page(&self) -> Option<VendorPage>;
}

impl Page for Flash {
    fn contains_page(&self) -> Option<VendorPage> {
        let octets = self.contents(0..VENDOR_LEN as u32);
        VendorPage::from_bytes(octets.first_chunk()?)
    }
}

fn stage(flash: &Flash) -> Result<Stage, StoreError> {
    let mut room = [0; store::ROOM];
    block_on(credentials::stage(&mut Store::new(flash.clone(), &mut room)))
}

struct Factory {
    hierarchy: Hierarchy,
    subject: Subject,
}

impl Factory {
    fn install<'a>(&'a self, certificate: &'a [u8]) -> Install<'a> {
        Install {
            certificate,
            issuer: self.hierarchy.stations[0].factory.certificate().der(),
            endpoint: ENDPOINT,
            anchors: &self.hierarchy.anchors,
        }
    }

    /// From wherever the board is to the lock; the certificate it ends with.
    fn finish(&self, flash: &Flash) -> Vec<u8> {
        let csr = answers(flash, &[Request::MakeKey, Request::Csr(self.subject.clone())]).pop().unwrap();
        let Answer::Csr(csr) = common::body(&csr) else { panic!("{:?}", common::body(&csr)) };
        let certificate = common::certify(&self.hierarchy, &self.subject, csr);
        let last = answers(flash, &[Request::Install(self.install(&certificate)), Request::Lock]);
        assert!(matches!(common::body(&last[0]), Answer::Ack { .. }), "{:?}", common::body(&last[0]));
        assert_eq!(common::body(&last[1]), Answer::Locked);
        certificate
    }

    /// What a stage promises.
    fn check(&self, flash: &Flash, at: Stage) {
        let mut room = [0; store::ROOM];
        let mut store = Store::new(flash.clone(), &mut room);
        block_on(async {
            let key = credentials::key(&mut store, Slot::Birth).await.unwrap();
            assert_eq!(key.is_some(), at >= Stage::KeyMade);
            let sealed = credentials::load(&mut store, Slot::Birth).await.unwrap();
            assert_eq!(sealed.is_some(), at >= Stage::Installed);
            if let Some(credential) = sealed {
                let view = muster_firmware::x509::View::read(&credential.certificate).unwrap();
                assert_eq!(view.key(), Some(*credential.key.verifying_key()));
                assert!(view.is_for(&self.subject));
                for record in [Record::Endpoint, Record::Anchors, Record::Issuer(Slot::Birth)] {
                    assert!(store.get(record).await.unwrap().is_some(), "{record:?}");
                }
            }
        });
    }
}

#[test]
fn every_step_of_the_factory_is_before_or_after_never_between() {
    let factory = Factory { hierarchy: testing::hierarchy(now_s()), subject: testing::subject("MU-000001") };
    let blank = Flash::flashed_for(factory.hierarchy.root_digest(), [0x55; 32]);

    // The flash before each step, and the step.
    let key_made = blank.copy();
    answers(&key_made, &[Request::MakeKey]);
    let asked = key_made.copy();
    let csr = answers(&asked, &[Request::Csr(factory.subject.clone())]).pop().unwrap();
    let Answer::Csr(csr) = common::body(&csr) else { panic!() };
    let certificate = common::certify(&factory.hierarchy, &factory.subject, csr);
    let installed = asked.copy();
    answers(&installed, &[Request::Install(factory.install(&certificate))]);
    let steps = [
        (&blank, Request::MakeKey, Stage::Blank, Stage::KeyMade),
        (&key_made, Request::Csr(factory.subject.clone()), Stage::KeyMade, Stage::KeyMade),
        (&asked, Request::Install(factory.install(&certificate)), Stage::KeyMade, Stage::Installed),
        (&installed, Request::Lock, Stage::Installed, Stage::Locked),
    ];

    for (flash, request, before, after) in steps {
        let start = {
            let count = flash.copy();
            answers(&count, &[]);
            count.operations()
        };
        for torn in Flash::TORN {
            for cut in start.. {
                let board = flash.copy();
                board.cut_after(cut, torn);
                let answer = answers(&board, std::slice::from_ref(&request)).pop().unwrap();
                let happened = board.power_on();
                let now = stage(&board).unwrap_or_else(|e| panic!("{before:?} {torn:?} cut {cut}: {e}"));
                assert!(
                    now == before || now == after,
                    "{before:?} to {after:?}, {torn:?} cut {cut}: {now:?}"
                );
                factory.check(&board, now);
                if !matches!(common::body(&answer), Answer::Refused(_)) {
                    assert_eq!(now, after, "an answer that claims it came before it was there");
                }
                if now < Stage::Locked && (cut - start) % 7 == 0 {
                    factory.finish(&board);
                    assert_eq!(stage(&board), Ok(Stage::Locked));
                }
                if !happened {
                    break;
                }
            }
        }
    }
}

/// An operational slot is rewritten as a whole: after a cut it is the old one, the new one, or does not
/// count; birth is untouched.
#[test]
fn a_slot_that_is_rewritten_is_old_new_or_blank() {
    let hierarchy = testing::hierarchy(now_s());
    let subject = testing::subject("MU-000002");
    let base = common::provisioned(&hierarchy, &subject);
    let write = |flash: &Flash, certificate: &[u8], generation| {
        let mut room = [0; store::ROOM];
        let mut store = Store::new(flash.clone(), &mut room);
        block_on(async {
            credentials::unseal(&mut store, Slot::A).await?;
            let key = [generation as u8; 32];
            store.put(Record::Key(Slot::A), &key).await?;
            store.put(Record::Certificate(Slot::A), certificate).await?;
            store.put(Record::Issuer(Slot::A), b"issuer").await?;
            credentials::seal(&mut store, Slot::A, generation).await
        })
    };
    let (old, new) = (vec![1; 500], vec![2; 700]);
    // So many rewrites that the store has gone round its erase units; and one of the next three moves on.
    for generation in 1..37 {
        write(&base, &old, generation).unwrap();
    }
    let mut moved = false;
    for (n, torn) in (0..3).flat_map(|n| Flash::TORN.map(|torn| (n, torn))) {
        if torn == Torn::Nothing {
            write(&base, &old, 37 + n).unwrap();
            let whole = base.copy();
            write(&whole, &new, 40).unwrap();
            moved |= whole.erases() > 0;
        }
        for cut in (n as u64..).step_by(7) {
            let board = base.copy();
            board.cut_after(cut, torn);
            let written = write(&board, &new, 40);
            let happened = board.power_on();
            let mut room = [0; store::ROOM];
            let mut store = Store::new(board.clone(), &mut room);
            block_on(async {
                let slots = credentials::slots(&mut store).await.unwrap();
                assert_eq!(slots.last(), Some(&Slot::Birth), "{torn:?} cut {cut}");
                let now = credentials::load(&mut store, Slot::A).await.unwrap();
                match now {
                    Some(credential) => {
                        let generation = credentials::generation(&mut store, Slot::A).await.unwrap();
                        let is_old = credential.certificate[..] == old[..] && generation == Some(37 + n);
                        let is_new = credential.certificate[..] == new[..] && generation == Some(40);
                        assert!(is_old || is_new, "{torn:?} cut {cut}");
                        assert!(written.is_err() || is_new);
                    }
                    None => assert!(written.is_err()),
                }
            });
            // And the store goes on.
            write(&board, &new, 41).unwrap_or_else(|e| panic!("{torn:?} cut {cut}: {e}"));
            if !happened {
                break;
            }
        }
    }
    assert!(moved, "none of the cuts fell into a move to the next erase unit");
}

/// The token of the session before or the one just given, never neither; everything else stays; and the
/// flash is spared: a unit is erased no more often than the front page of the store says.
#[test]
fn a_continuity_token_is_the_old_one_or_the_new_one_and_wears_little() {
    let hierarchy = testing::hierarchy(now_s());
    let flash = common::provisioned(&hierarchy, &testing::subject("MU-000004"));
    // Text of the length of a real one.
    let token = |session: u64| format!("{session:055}");
    let keep = |flash: &Flash, session| {
        let mut room = [0; store::ROOM];
        block_on(Store::new(flash.clone(), &mut room).put(Record::Continuity, token(session).as_bytes()))
    };
    let mut moves = 0;
    let (sessions, before) = (1000, flash.erases());
    for session in 1..=sessions {
        let spare = flash.copy();
        let (erases, operations) = (flash.erases(), flash.operations());
        keep(&flash, session).unwrap();
        // Every write that moves on to the next unit, up to the third, and some that do not.
        let moved = flash.erases() > erases;
        moves += u64::from(moved);
        if !(moved && moves <= 3 || session % 250 == 0) {
            continue;
        }
        let steps = flash.operations() - operations;
        for (cut, torn) in (0..steps).step_by(3).flat_map(|cut| Flash::TORN.map(|torn| (cut, torn))) {
            let board = spare.copy();
            board.cut_after(cut, torn);
            let kept = keep(&board, session);
            board.power_on();
            let mut room = [0; store::ROOM];
            let mut store = Store::new(board.clone(), &mut room);
            let shown = block_on(store.get(Record::Continuity)).unwrap().map(<[u8]>::to_vec);
            let is = |session: u64| shown.as_deref() == Some(token(session).as_bytes());
            assert!(
                is(session) || kept.is_err() && (is(session - 1) || session == 1 && shown.is_none()),
                "session {session}, {torn:?} cut {cut}: {shown:?}"
            );
            assert_eq!(block_on(credentials::stage(&mut store)), Ok(Stage::Locked));
            drop(store);
            keep(&board, session + 1)
                .unwrap_or_else(|e| panic!("session {session}, {torn:?} cut {cut}: {e}"));
        }
    }
    assert!(moves > 3, "the store has not gone round");
    let (erases, units) = (flash.erases() - before, u64::from(Layout::CREDENTIALS.end / Layout::ERASE - 3));
    assert!(erases * 380 <= sessions * units, "{erases} erasures of {units} units in {sessions} sessions");
}

#[test]
fn a_damaged_seal_or_key_is_noticed() {
    let hierarchy = testing::hierarchy(now_s());
    let flash = common::provisioned(&hierarchy, &testing::subject("MU-000003"));
    let mut room = [0; store::ROOM];
    let mut store = Store::new(flash, &mut room);
    block_on(async {
        store.put(Record::Certificate(Slot::Birth), b"something else").await.unwrap();
        assert_eq!(credentials::stage(&mut store).await, Err(StoreError::Damaged));
        assert!(credentials::load(&mut store, Slot::Birth).await.is_err());
    });
}
