//! What the controller of a unit and its shell say to each other.

use muster_pki::VerifiedCsr;
use muster_shared::{CertificateId, Code, factory::Subject};

use crate::order::Order;

/// How long a unit is waited for. Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Between two Hellos.
    pub hello_ms: u64,
    /// Hellos before there is no answer (E01).
    pub hello_tries: u32,
    /// Between two sendings of any other request.
    pub request_ms: u64,
    /// Sendings of one request before the unit is asked anew who it is.
    pub request_tries: u32,
    /// Times a unit may be asked anew before it has restarted once too often (E14).
    pub restarts: u32,
}

impl Default for Patience {
    /// A unit that is booting answers within 15 s; making a key takes one second on a slow board.
    fn default() -> Self {
        Self { hello_ms: 500, hello_tries: 30, request_ms: 4000, request_tries: 3, restarts: 3 }
    }
}

/// The five steps an operator sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// talk to unit
    Talk,
    /// make key on unit
    Key,
    /// sign
    Sign,
    /// write certificate
    Write,
    /// read back and prove
    Prove,
}

impl Step {
    /// In order.
    pub const ALL: [Step; 5] = [Step::Talk, Step::Key, Step::Sign, Step::Write, Step::Prove];

    /// As the screen says it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Step::Talk => "talk to unit",
            Step::Key => "make key on unit",
            Step::Sign => "sign",
            Step::Write => "write certificate",
            Step::Prove => "read back and prove",
        }
    }

    /// As records and lines say it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Step::Talk => "talk",
            Step::Key => "key",
            Step::Sign => "sign",
            Step::Write => "write",
            Step::Prove => "prove",
        }
    }
}

/// What the journal knows of the unit's serial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// SHA-256 of the key's SubjectPublicKeyInfo that was to be certified.
    pub key_digest: [u8; 32],
    /// Its certificate, once signed.
    pub certificate_id: Option<CertificateId>,
    /// It has proved its key before.
    pub proved: bool,
    /// It has passed before.
    pub done: bool,
}

/// What is to be kept before the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Work on the unit begins.
    Started,
    /// It proved its key and read back what it was given.
    Proved,
    /// It is locked.
    Done,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Put these octets on the line.
    Send(Vec<u8>),
    /// Nothing, until octets arrive or this time has come (milliseconds of the clock `poll` is given).
    Wait(u64),
    /// Choose the serial; the unit may have been asked to be somebody before. Answer with [`super::Unit::assigned`]
    /// or [`super::Unit::refuse`].
    Assign(Option<Subject>),
    /// Put this into the journal; answer with [`super::Unit::recorded`].
    Record(Keep),
    /// Issue a birth certificate; answer with [`super::Unit::issued`] or [`super::Unit::refuse`].
    Issue(Box<VerifiedCsr>),
    /// This step has begun.
    Begin(Step),
    /// It is over.
    Done(Outcome),
}

/// How a unit ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// PASS.
    Pass {
        /// Who it is now.
        subject: Subject,
        /// Its certificate.
        certificate_id: CertificateId,
        /// It had passed before: same unit, same key, no second certificate.
        already: bool,
    },
    /// FAIL.
    Fail(Failure),
}

/// Why a unit failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `E13`.
    pub code: Code,
    /// In which step.
    pub step: Step,
    /// Who it was to become, when that was known.
    pub subject: Option<Subject>,
    /// The values that disagree.
    pub detail: String,
}

/// What a unit is given: the same for every unit of an order at one station.
#[derive(Debug, Clone)]
pub struct Material {
    /// Where it connects, what it must be.
    pub order: Order,
    /// The factory CA's certificate, DER.
    pub issuer: Vec<u8>,
    /// Root-signed anchors, as the ceremony made them.
    pub anchors: Vec<u8>,
}
