//! The controller of one unit: what a station says to a board, and what it makes of the answers.
//!
//! Sans-IO: [`Unit::receive`] takes octets from the line, [`Unit::poll`] says what to do next. The shell does
//! it and reports back: a record is on disk ([`Unit::recorded`]), a serial was chosen ([`Unit::assigned`]), a
//! certificate was issued ([`Unit::issued`]).
//!
//! ```text
//! Hello → who are you → assign → [journal: started] → MakeKey → Csr → check → [journal: intent] issue
//!       → Install → compare the digest read back → Prove → verify → [journal: proved] → Lock → [journal: done]
//! ```
//!
//! Every request may be repeated and every answer may be lost: a request is sent again under its number until
//! its tries are used up; then the unit is asked anew who it is and how far it has come, and the work goes on
//! where both sides agree. An answer with another number, of another kind, or that cannot be read is as good
//! as none.

use std::collections::VecDeque;

use muster_pki::{PublicKey, VerifiedCsr};
use muster_shared::{
    CertificateId, Code, WIRE_CURRENT, WIRE_MIN,
    factory::{
        Answer, Entropy, Envelope, Hello, Install, MessageError, Refusal, Request, Stage, Subject, possession,
    },
    frame,
    limits::{FRAME_MAX, FRAME_PAYLOAD_MAX, NONCE},
};
use sha2::{Digest, Sha256};

use crate::journal::hex;

mod terms;

pub use terms::{Command, Failure, Keep, Known, Material, Outcome, Patience, Step};

/// One unit on one port.
pub struct Unit {
    material: Material,
    patience: Patience,
    nonce: [u8; NONCE],
    decoder: frame::Decoder,
    /// Answers of the right number, yet to be looked at.
    inbox: VecDeque<Vec<u8>>,
    /// Number of the request on the line.
    number: u16,
    restarts: u32,
    answered: bool,
    step: Step,
    announced: Option<Step>,
    subject: Option<Subject>,
    known: Option<Known>,
    started: bool,
    state: State,
}

/// Where the work stands.
enum State {
    /// A request is on the line.
    Asking(Asking),
    /// The shell chooses a serial.
    Assigning(Hello),
    /// The journal keeps `Started`; then the unit goes on from here.
    Starting(Hello),
    /// The authority issues.
    Issuing(VerifiedCsr),
    /// The journal keeps `Proved`.
    Proving(CertificateId),
    /// The journal keeps `Done`.
    Finishing(CertificateId),
    /// Over.
    Over(Outcome),
}

/// What was issued to the unit.
#[derive(Clone)]
struct Birth {
    certificate: Vec<u8>,
    id: CertificateId,
    key: PublicKey,
}

enum Wanted {
    Hello,
    Key,
    Csr {
        key_digest: [u8; 32],
    },
    Ack(Birth),
    Proof(Birth),
    /// The journal says the unit proved its key; the answer to Lock may have been lost.
    Locked(CertificateId),
}

/// A request and its deadline.
struct Asking {
    wanted: Wanted,
    payload: Vec<u8>,
    tries: u32,
    /// When to send it again; `None` before it was first sent.
    again_ms: Option<u64>,
}

impl Unit {
    /// A unit nobody has spoken to yet. `number` is the first request's (random, so that an answer left on the
    /// line by an earlier session fits none); `nonce` is fresh.
    #[must_use]
    pub fn new(material: Material, patience: Patience, number: u16, nonce: [u8; NONCE]) -> Self {
        let hello = prepare(number, Wanted::Hello, &Request::Hello).expect("a Hello is a few octets");
        Self {
            material,
            patience,
            nonce,
            decoder: frame::Decoder::new(),
            inbox: VecDeque::new(),
            number,
            restarts: 0,
            answered: false,
            step: Step::Talk,
            announced: None,
            subject: None,
            known: None,
            started: false,
            state: State::Asking(hello),
        }
    }

    /// Who the unit shall be, once a serial was chosen.
    #[must_use]
    pub fn subject(&self) -> Option<&Subject> {
        self.subject.as_ref()
    }

    /// Takes octets from the line.
    pub fn receive(&mut self, octets: &[u8]) {
        for &octet in octets {
            // A damaged frame is as good as none: the request is sent again.
            let Some(Ok(payload)) = self.decoder.push(octet) else { continue };
            let ours =
                Envelope::<Answer<'_>>::read(payload).is_ok_and(|answer| answer.request == self.number);
            if ours {
                self.inbox.push_back(payload.to_vec());
            }
        }
    }

    /// What to do now.
    pub fn poll(&mut self, now_ms: u64) -> Command {
        while let Some(payload) = self.inbox.pop_front() {
            if let State::Asking(_) = self.state {
                self.answer(&payload);
            }
        }
        if self.announced < Some(self.step) {
            self.announced = Some(self.step);
            return Command::Begin(self.step);
        }
        match &self.state {
            State::Asking(_) => self.ask(now_ms),
            State::Assigning(hello) => Command::Assign(hello.subject.clone()),
            State::Starting(_) => Command::Record(Keep::Started),
            State::Issuing(csr) => Command::Issue(Box::new(csr.clone())),
            State::Proving(_) => Command::Record(Keep::Proved),
            State::Finishing(_) => Command::Record(Keep::Done),
            State::Over(outcome) => Command::Done(outcome.clone()),
        }
    }

    /// The serial was chosen: who the unit shall be, and what the journal knows of that serial.
    pub fn assigned(&mut self, subject: Subject, known: Option<Known>) {
        if let State::Assigning(hello) = &self.state {
            let hello = hello.clone();
            self.subject = Some(subject);
            self.known = known;
            match self.agree(&hello) {
                Err((code, detail)) => self.fail(code, detail),
                Ok(()) if self.started => self.resume(&hello),
                Ok(()) => self.state = State::Starting(hello),
            }
        }
    }

    /// The record asked for last is on disk.
    pub fn recorded(&mut self) {
        match &self.state {
            State::Starting(hello) => {
                let hello = hello.clone();
                self.started = true;
                self.resume(&hello);
            }
            State::Proving(id) => {
                let id = *id;
                if let Some(known) = &mut self.known {
                    known.proved = true;
                }
                self.request(Wanted::Locked(id), &Request::Lock);
            }
            State::Finishing(id) => {
                let id = *id;
                self.pass(id);
            }
            State::Asking(_) | State::Assigning(_) | State::Issuing(_) | State::Over(_) => {}
        }
    }

    /// The certificate was issued, and both intent and certificate are on disk.
    pub fn issued(&mut self, certificate: Vec<u8>) {
        if let State::Issuing(csr) = &self.state {
            let key = *csr.key();
            let id = CertificateId(Sha256::digest(&certificate).into());
            let birth = Birth { certificate, id, key };
            // From here on the journal knows the unit; a restart in the middle finds it known.
            let proved = self.known.as_ref().is_some_and(|known| known.proved);
            let done = self.known.as_ref().is_some_and(|known| known.done);
            self.known = Some(Known { key_digest: key.digest(), certificate_id: Some(id), proved, done });
            self.enter(Step::Write);
            self.install(birth);
        }
    }

    /// The shell cannot do what was asked of it: the unit fails.
    pub fn refuse(&mut self, code: Code, detail: impl Into<String>) {
        self.fail(code, detail.into());
    }

    /// Sends the request on the line, again when its time has come.
    fn ask(&mut self, now_ms: u64) -> Command {
        let patience = self.patience;
        let State::Asking(asking) = &mut self.state else { unreachable!("poll looked") };
        if let Some(again_ms) = asking.again_ms.filter(|again_ms| now_ms < *again_ms) {
            return Command::Wait(again_ms);
        }
        let (every_ms, tries) = match asking.wanted {
            Wanted::Hello => (patience.hello_ms, patience.hello_tries),
            _ => (patience.request_ms, patience.request_tries),
        };
        if asking.tries < tries {
            asking.tries += 1;
            asking.again_ms = Some(now_ms + every_ms);
            return Command::Send(encode(&asking.payload));
        }
        match asking.wanted {
            Wanted::Hello if self.answered => {
                self.fail(Code::StationRestarted, "the unit stopped answering in the middle".to_owned());
            }
            Wanted::Hello => self.fail(Code::StationNoAnswer, format!("{tries} tries, {every_ms} ms apart")),
            _ => self.again("requests go unanswered"),
        }
        self.poll(now_ms)
    }

    /// Asks the unit anew who it is and how far it has come.
    fn again(&mut self, why: &str) {
        self.restarts += 1;
        if self.restarts > self.patience.restarts {
            self.fail(Code::StationRestarted, format!("{} restarts: {why}", self.restarts));
        } else {
            self.hello();
        }
    }

    /// Looks at an answer to the request on the line.
    fn answer(&mut self, payload: &[u8]) {
        let Ok(Envelope { body, .. }) = Envelope::<Answer<'_>>::read(payload) else { return };
        let State::Asking(asking) = &self.state else { return };
        match (&asking.wanted, body) {
            (Wanted::Hello, Answer::Hello(hello)) => self.met(hello),
            (Wanted::Key, Answer::KeyMade { key_digest }) => self.key_made(key_digest),
            (Wanted::Csr { key_digest }, Answer::Csr(csr)) => {
                let key_digest = *key_digest;
                self.csr(csr, key_digest);
            }
            (Wanted::Ack(birth), Answer::Ack { digest }) => {
                let birth = birth.clone();
                self.acknowledged(birth, digest);
            }
            (Wanted::Proof(birth), Answer::Proof(signature)) => {
                let birth = birth.clone();
                self.proved(birth, signature);
            }
            (Wanted::Locked(id), Answer::Locked) => {
                let id = *id;
                self.locked(id);
            }
            // The unit has lost what it had: it started anew, perhaps from an older state.
            (_, Answer::Refused(Refusal::Order)) => self.again("the unit is at an earlier step"),
            // Locked before the answer to Lock arrived, or behind our back: Hello tells.
            (Wanted::Ack(_) | Wanted::Proof(_), Answer::Refused(Refusal::Locked)) => {
                self.again("the unit is locked");
            }
            // Whatever keeps it from locking, it is one that must not leave the station.
            (Wanted::Locked(_), Answer::Refused(refusal)) => {
                self.fail(Code::StationUnlocked, format!("unit says: {refusal}"));
            }
            (_, Answer::Refused(refusal)) => self.fail(refusal.code(), format!("unit says: {refusal}")),
            // Another kind than the request's: nothing that can be built on.
            _ => {}
        }
    }

    /// The unit has said who it is.
    fn met(&mut self, hello: Hello) {
        self.answered = true;
        if let Err((code, detail)) = self.fit(&hello) {
            return self.fail(code, detail);
        }
        match self.subject.clone() {
            // Asked anew in the middle: the serial stays.
            Some(subject) => {
                let known = self.known.clone();
                self.state = State::Assigning(hello);
                self.assigned(subject, known);
            }
            None => self.state = State::Assigning(hello),
        }
    }

    /// Is it a unit of this order at all?
    fn fit(&self, hello: &Hello) -> Result<(), (Code, String)> {
        let order = &self.material.order;
        if hello.wire_min > WIRE_CURRENT || hello.wire_max < WIRE_MIN {
            let (min, max) = (hello.wire_min, hello.wire_max);
            return Err((
                Code::StationFirmware,
                format!("unit speaks wire {min} to {max}, this is {WIRE_CURRENT}"),
            ));
        }
        if let Some(hardware) = order.hardware.as_deref().filter(|name| *name != hello.hardware.as_str()) {
            return Err((
                Code::StationProduct,
                format!("unit is {:?}, the order is for {hardware:?}", hello.hardware),
            ));
        }
        if let Some(digest) = order.firmware_digest.filter(|digest| *digest != hello.firmware_digest) {
            let found = hex(&hello.firmware_digest);
            return Err((
                Code::StationFirmware,
                format!("unit runs {found}, the order says {}", hex(&digest)),
            ));
        }
        if hello.entropy == Entropy::Failed {
            return Err((
                Code::StationEntropy,
                "the unit's self-test of its random source failed".to_owned(),
            ));
        }
        Ok(())
    }

    /// Do the unit and the journal speak of the same key and certificate? If not, two units carry one serial,
    /// or one unit has two: no step may follow.
    fn agree(&self, hello: &Hello) -> Result<(), (Code, String)> {
        let other = |detail: String| Err((Code::StationSerialTaken, detail));
        if let (Some(before), Some(subject)) = (&hello.subject, &self.subject)
            && before != subject
        {
            return other(format!("unit was asked to be {} before, now {}", before.serial, subject.serial));
        }
        match &self.known {
            Some(known) => {
                let (ours, found) = (hex(&known.key_digest), hello.key_digest.map(|digest| hex(&digest)));
                if found.as_ref() != Some(&ours) {
                    let found = found.as_deref().unwrap_or("none");
                    return other(format!("known key {ours} · this unit's key {found}"));
                }
                match (known.certificate_id, hello.certificate_id) {
                    (_, None) => Ok(()),
                    (Some(ours), Some(found)) if ours == found => Ok(()),
                    (_, Some(found)) => Err((
                        Code::StationReadback,
                        format!("unit holds certificate {found}, which is not the one it was issued"),
                    )),
                }
            }
            None if hello.stage >= Stage::Installed => {
                let id = hello.certificate_id.map(|id| id.to_string()).unwrap_or_default();
                other(format!("unit has certificate {id} that this station's journal does not know"))
            }
            None => Ok(()),
        }
    }

    /// Goes on where both sides agree.
    fn resume(&mut self, hello: &Hello) {
        match (hello.stage, &self.known) {
            (Stage::Locked, Some(Known { proved: true, certificate_id: Some(id), .. })) => {
                let id = *id;
                self.enter(Step::Prove);
                self.locked(id);
            }
            (Stage::Locked, _) => {
                self.fail(Code::StationProof, "unit is locked, and never proved its key here".to_owned());
            }
            // A unit passes only once it is locked, and it stays so.
            (_, Some(Known { done: true, .. })) => {
                self.fail(Code::StationUnlocked, "it has passed, and its port is open again".to_owned());
            }
            // Asking again for key and request costs little, and gives back what was lost on our side.
            (Stage::Blank | Stage::KeyMade | Stage::Installed, _) => {
                self.enter(Step::Key);
                self.request(Wanted::Key, &Request::MakeKey);
            }
        }
    }

    fn key_made(&mut self, key_digest: [u8; 32]) {
        if let Some(known) = self.known.as_ref().filter(|known| known.key_digest != key_digest) {
            let detail =
                format!("known key {} · this unit's key {}", hex(&known.key_digest), hex(&key_digest));
            return self.fail(Code::StationSerialTaken, detail);
        }
        if let Some(subject) = self.subject.clone() {
            self.request(Wanted::Csr { key_digest }, &Request::Csr(subject));
        }
    }

    fn csr(&mut self, csr: &[u8], key_digest: [u8; 32]) {
        let Some(subject) = self.subject.clone() else { return };
        match VerifiedCsr::verify(csr, &subject) {
            Ok(csr) if csr.key().digest() == key_digest => {
                self.enter(Step::Sign);
                self.state = State::Issuing(csr);
            }
            Ok(_) => self.fail(Code::StationRequest, "request is for another key than the unit's".to_owned()),
            Err(error) => self.fail(Code::StationRequest, error.to_string()),
        }
    }

    fn install(&mut self, birth: Birth) {
        let material = self.material.clone();
        let install = Install {
            certificate: &birth.certificate,
            issuer: &material.issuer,
            endpoint: material.order.endpoint(),
            anchors: &material.anchors,
        };
        self.request(Wanted::Ack(birth.clone()), &Request::Install(install));
    }

    fn acknowledged(&mut self, birth: Birth, digest: [u8; 32]) {
        let install = Install {
            certificate: &birth.certificate,
            issuer: &self.material.issuer,
            endpoint: self.material.order.endpoint(),
            anchors: &self.material.anchors,
        };
        let mut room = [0; FRAME_PAYLOAD_MAX];
        let sent = install.write(&mut room).map(|octets| <[u8; 32]>::from(Sha256::digest(octets)));
        if sent != Ok(digest) {
            let sent = sent.map(|digest| hex(&digest)).unwrap_or_default();
            return self
                .fail(Code::StationReadback, format!("sent {sent}, unit reads back {}", hex(&digest)));
        }
        self.enter(Step::Prove);
        let nonce = self.nonce;
        self.request(Wanted::Proof(birth), &Request::Prove { nonce });
    }

    fn proved(&mut self, birth: Birth, signature: &[u8]) {
        let Some(subject) = &self.subject else { return };
        let message = possession(&subject.serial, &birth.id, &self.nonce).concat();
        match birth.key.verify(&message, signature) {
            Ok(()) => self.state = State::Proving(birth.id),
            Err(_) => self.fail(Code::StationProof, "the signature over the challenge is wrong".to_owned()),
        }
    }

    fn locked(&mut self, id: CertificateId) {
        if self.known.as_ref().is_some_and(|known| known.done) {
            return self.pass(id);
        }
        self.state = State::Finishing(id);
    }

    fn hello(&mut self) {
        self.request(Wanted::Hello, &Request::Hello);
    }

    fn request(&mut self, wanted: Wanted, request: &Request<'_>) {
        self.number = self.number.wrapping_add(1);
        // What is left are repeated answers to the request before.
        self.inbox.clear();
        match prepare(self.number, wanted, request) {
            Ok(asking) => self.state = State::Asking(asking),
            Err(error) => self.fail(Code::StationSignerRefused, format!("what the unit is given: {error}")),
        }
    }

    fn enter(&mut self, step: Step) {
        self.step = self.step.max(step);
    }

    fn pass(&mut self, certificate_id: CertificateId) {
        let already = self.known.as_ref().is_some_and(|known| known.done);
        if let Some(subject) = self.subject.clone() {
            self.state = State::Over(Outcome::Pass { subject, certificate_id, already });
        }
    }

    fn fail(&mut self, code: Code, detail: String) {
        let failure = Failure { code, step: self.step, subject: self.subject.clone(), detail };
        self.state = State::Over(Outcome::Fail(failure));
    }
}

fn prepare(number: u16, wanted: Wanted, request: &Request<'_>) -> Result<Asking, MessageError> {
    let mut room = [0; FRAME_PAYLOAD_MAX];
    let payload = Envelope::new(number, request.clone()).write(&mut room)?.to_vec();
    Ok(Asking { wanted, payload, tries: 0, again_ms: None })
}

fn encode(payload: &[u8]) -> Vec<u8> {
    let (mut scratch, mut out) = (vec![0; payload.len() + 4], vec![0; FRAME_MAX + 2]);
    let used = frame::encode(payload, &mut scratch, &mut out).expect("FRAME_PAYLOAD_MAX fits a frame");
    out.truncate(used);
    out
}
