//! A board that follows the protocol to the letter, and can be told to misbehave in one thing.

use std::sync::Arc;

use muster_pki::{DeviceIdentity, PublicKey, Signer, SoftKey, testing};
use muster_shared::{
    CertificateId,
    factory::{Answer, Entropy, Envelope, Hello, Install, Refusal, Request, Stage, Subject, possession},
    frame,
    limits::{FRAME_MAX, FRAME_PAYLOAD_MAX},
};
use sha2::{Digest, Sha256};

/// The one thing a board gets wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Silent,
    NoEntropy,
    OtherHardware,
    FutureWire,
    KeyRefused,
    StoreRefused,
    CsrForAnotherSubject,
    CsrBadSignature,
    CsrByAnotherKey,
    CsrGarbage,
    ReadsBackSomethingElse,
    ProvesWithAnotherKey,
    ProvesAnotherNonce,
    AnswersGarbage,
    AnswersOtherKind,
    RefusesOrderForEver,
    DoesNotLock,
}

/// What survives a restart.
#[derive(Clone)]
pub(crate) struct Board {
    pub fault: Fault,
    pub key: Option<Arc<SoftKey>>,
    pub subject: Option<Subject>,
    pub install: Option<Vec<u8>>,
    pub locked: bool,
    /// Requests answered, by kind: to see that nothing is done behind the station's back.
    pub served: Vec<&'static str>,
    decoder: Arc<std::sync::Mutex<frame::Decoder>>,
}

impl Board {
    pub(crate) fn blank() -> Self {
        Self::with(Fault::None)
    }

    pub(crate) fn with(fault: Fault) -> Self {
        Self {
            fault,
            key: None,
            subject: None,
            install: None,
            locked: false,
            served: Vec::new(),
            decoder: Arc::new(frame::Decoder::new().into()),
        }
    }

    /// Power off and on: what was half received is gone.
    pub(crate) fn restart(&mut self) {
        *self.decoder.lock().unwrap() = frame::Decoder::new();
    }

    /// Takes octets, gives octets.
    pub(crate) fn receive(&mut self, octets: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for &octet in octets {
            let payload = match self.decoder.lock().unwrap().push(octet) {
                Some(Ok(payload)) => payload.to_vec(),
                _ => continue,
            };
            if let Some(answer) = self.answer(&payload) {
                out.extend(framed(&answer));
            }
        }
        out
    }

    pub(crate) fn certificate(&self) -> Option<Vec<u8>> {
        let install = self.install.as_ref()?;
        Some(Install::read(install).unwrap().certificate.to_vec())
    }

    fn answer(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        if self.fault == Fault::Silent {
            return None;
        }
        let (number, request) = match Envelope::<Request<'_>>::read(payload) {
            Ok(envelope) => (envelope.request, envelope.body),
            Err(_) => return Some(write(0, Answer::Refused(Refusal::Malformed))),
        };
        self.served.push(word(&request));
        match self.fault {
            Fault::AnswersGarbage => return Some(vec![1, 0xff, 0xff, 9, 9, 9]),
            Fault::AnswersOtherKind => return Some(write(number, Answer::Locked)),
            Fault::RefusesOrderForEver if !matches!(request, Request::Hello) => {
                return Some(write(number, Answer::Refused(Refusal::Order)));
            }
            _ => {}
        }
        Some(self.perform(number, request))
    }

    fn perform(&mut self, number: u16, request: Request<'_>) -> Vec<u8> {
        let refuse = |refusal| write(number, Answer::Refused(refusal));
        if self.locked && !matches!(request, Request::Hello | Request::Lock) {
            return refuse(Refusal::Locked);
        }
        match request {
            Request::Hello => write(number, Answer::Hello(self.hello())),
            Request::MakeKey if self.fault == Fault::KeyRefused => refuse(Refusal::Key),
            Request::MakeKey => {
                let key = self.key.get_or_insert_with(testing::key);
                write(number, Answer::KeyMade { key_digest: key.public_key().digest() })
            }
            Request::Csr(subject) => {
                let Some(key) = self.key.clone() else { return refuse(Refusal::Order) };
                if self.subject.as_ref().is_some_and(|before| *before != subject) {
                    return refuse(Refusal::Subject);
                }
                self.subject = Some(subject.clone());
                write(number, Answer::Csr(&self.csr(&subject, &key)))
            }
            Request::Install(_) if self.fault == Fault::StoreRefused => refuse(Refusal::Store),
            Request::Install(install) => self.install(number, &install),
            Request::Prove { nonce } => {
                let (Some(key), Some(der)) = (self.key.clone(), self.certificate()) else {
                    return refuse(Refusal::Order);
                };
                let nonce = if self.fault == Fault::ProvesAnotherNonce { [9; 32] } else { nonce };
                let key = if self.fault == Fault::ProvesWithAnotherKey { testing::key() } else { key };
                let id = CertificateId(Sha256::digest(&der).into());
                let message = possession(&self.subject.as_ref().unwrap().serial, &id, &nonce).concat();
                write(number, Answer::Proof(&key.sign(&message).unwrap()))
            }
            Request::Lock if self.fault == Fault::DoesNotLock => refuse(Refusal::Store),
            Request::Lock if self.install.is_some() => {
                self.locked = true;
                write(number, Answer::Locked)
            }
            Request::Lock => refuse(Refusal::Order),
        }
    }

    fn csr(&self, subject: &Subject, key: &SoftKey) -> Vec<u8> {
        match self.fault {
            Fault::CsrForAnotherSubject => testing::csr(&testing::subject("MU-000666"), key),
            Fault::CsrByAnotherKey => testing::csr(subject, &testing::key()),
            Fault::CsrGarbage => vec![0x30, 0x82, 0xff, 0xff],
            Fault::CsrBadSignature => {
                let mut csr = testing::csr(subject, key);
                *csr.last_mut().unwrap() ^= 1;
                csr
            }
            _ => testing::csr(subject, key),
        }
    }

    fn install(&mut self, number: u16, install: &Install<'_>) -> Vec<u8> {
        // As a device does: for its key and subject, or not at all.
        let identity = DeviceIdentity::from_certificate(install.certificate).unwrap();
        let key = self.key.as_ref().unwrap();
        if PublicKey::from_spki(&identity.spki).unwrap() != *key.public_key()
            || Some(identity.subject()) != self.subject
        {
            return write(number, Answer::Refused(Refusal::Certificate));
        }
        let mut room = [0; FRAME_PAYLOAD_MAX];
        let octets = install.write(&mut room).unwrap().to_vec();
        let mut digest: [u8; 32] = Sha256::digest(&octets).into();
        self.install = Some(octets);
        if self.fault == Fault::ReadsBackSomethingElse {
            digest[0] ^= 1;
        }
        write(number, Answer::Ack { digest })
    }

    fn hello(&self) -> Hello {
        let stage = match (&self.key, &self.install, self.locked) {
            (_, _, true) => Stage::Locked,
            (_, Some(_), false) => Stage::Installed,
            (Some(_), None, false) => Stage::KeyMade,
            (None, None, false) => Stage::Blank,
        };
        let (wire_min, wire_max) = if self.fault == Fault::FutureWire { (9, 9) } else { (1, 1) };
        let hardware = if self.fault == Fault::OtherHardware { "toaster" } else { "mps2-an386" };
        Hello {
            wire_min,
            wire_max,
            hardware: hardware.try_into().unwrap(),
            firmware_version: "0.1.0".try_into().unwrap(),
            firmware_digest: [3; 32],
            entropy: if self.fault == Fault::NoEntropy { Entropy::Failed } else { Entropy::Seed },
            stage,
            subject: self.subject.clone(),
            key_digest: self.key.as_ref().map(|key| key.public_key().digest()),
            certificate_id: self.certificate().map(|der| CertificateId(Sha256::digest(der).into())),
        }
    }
}

fn word(request: &Request<'_>) -> &'static str {
    match request {
        Request::Hello => "hello",
        Request::MakeKey => "key",
        Request::Csr(_) => "csr",
        Request::Install(_) => "install",
        Request::Prove { .. } => "prove",
        Request::Lock => "lock",
    }
}

fn write(number: u16, answer: Answer<'_>) -> Vec<u8> {
    let mut room = [0; FRAME_PAYLOAD_MAX];
    Envelope::new(number, answer).write(&mut room).unwrap().to_vec()
}

pub(crate) fn framed(payload: &[u8]) -> Vec<u8> {
    let (mut scratch, mut out) = (vec![0; payload.len() + 4], vec![0; FRAME_MAX + 2]);
    let used = frame::encode(payload, &mut scratch, &mut out).unwrap();
    out.truncate(used);
    out
}
