//! A board on a desk: the image in QEMU, a hierarchy in memory that it obeys, and a station held by hand.
//!
//! Tests that ask what a board does with wrong requests work here; the real factory tool makes none.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use muster_pki::{
    Authority, MemoryLedger, Request as Wanted, VerifiedCsr, hierarchy::Hierarchy, key::PublicKey,
    profile::CertificateSerial, testing,
};
use muster_shared::{
    CertificateId,
    factory::{Answer, Endpoint, Install, Refusal, Request, Stage, Subject, possession},
    limits::{FRAME_PAYLOAD_MAX, NONCE},
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{cable::Cable, flash::Flash, packages, qemu::Board, toolchain, workspace::Workspace};

/// Where the board is told to connect, unless a test says otherwise: nobody listens there.
pub const NOWHERE: Endpoint<'static> = Endpoint {
    host: "10.0.2.2",
    port: 9,
    server_name: "localhost",
    keep_alive_s: 30,
    telemetry_s: 5,
    retry_s_max: 2,
};

/// The desk.
pub struct Workbench {
    _temporary: TempDir,
    dir: PathBuf,
    hierarchy: Hierarchy,
    ledger: RefCell<MemoryLedger>,
    /// The board.
    pub board: Board,
    /// Where it is told to connect.
    pub endpoint: Endpoint<'static>,
}

impl Workbench {
    /// A desk with a blank board, switched on.
    ///
    /// # Errors
    /// When there is no QEMU, no image, or the board does not start.
    pub fn new() -> Result<Self> {
        let mut say = |text: &str| println!("{text}");
        packages::ensure(&[packages::QEMU], &mut say)?;
        let image = toolchain::image(&Workspace::find()?, &mut say)?;
        let temporary = tempfile::Builder::new().prefix("mw-").tempdir()?;
        let dir = temporary.path().to_owned();
        let hierarchy = testing::hierarchy(now_s());
        let flash = Flash::blank(&dir.join("flash"), hierarchy.root_digest())?;
        let mut board = Board::new(&image, flash, &dir, "board");
        board.power_on()?;
        let ledger = RefCell::default();
        Ok(Self { _temporary: temporary, dir, hierarchy, ledger, board, endpoint: NOWHERE })
    }

    /// A folder for a test's own files; it goes with the desk.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The keys behind the board's root.
    #[must_use]
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// Forgets which certificates were issued.
    pub fn forget(&mut self) {
        self.ledger = RefCell::default();
    }

    /// Plugs a cable into the board's factory port.
    ///
    /// # Errors
    /// When the board is off.
    pub fn cable(&self) -> Result<Cable> {
        Ok(Cable::plug(self.board.port_path())?)
    }

    /// What the station would install for this request: the same for the same key.
    ///
    /// # Errors
    /// When the request is not the subject's own.
    pub fn certificate(&self, request: &[u8], subject: &Subject) -> Result<Vec<u8>> {
        let csr = VerifiedCsr::verify(request, subject)?;
        let authority = Authority::new(&self.hierarchy.stations[0].factory);
        let fresh = CertificateSerial::draw()?;
        let mut ledger = self.ledger.borrow_mut();
        Ok(authority.issue(&Wanted::Device(&csr), &mut *ledger, fresh, now_s())?.certificate)
    }

    /// An install message with this certificate and these anchors.
    #[must_use]
    pub fn install<'a>(&'a self, certificate: &'a [u8], anchors: &'a [u8]) -> Install<'a> {
        let issuer = self.hierarchy.stations[0].factory.certificate().der();
        Install { certificate, issuer, endpoint: self.endpoint, anchors }
    }

    /// Everything from where the board is to the closed port; checks each answer.
    ///
    /// # Errors
    /// When an answer is not what it must be.
    pub fn provision(&self, cable: &mut Cable) -> Result<()> {
        let subject = subject();
        let digest = key_digest(cable)?;
        let request = signing_request(cable, &subject)?;
        let key = *VerifiedCsr::verify(&request, &subject)?.key();
        ensure!(digest == key.digest(), "the request is signed with another key than was shown");
        let certificate = self.certificate(&request, &subject)?;
        self.install_prove_lock(cable, &certificate, &key)
    }

    fn install_prove_lock(&self, cable: &mut Cable, certificate: &[u8], key: &PublicKey) -> Result<()> {
        let install = self.install(certificate, &self.hierarchy.anchors);
        let mut room = vec![0; FRAME_PAYLOAD_MAX];
        let digest: [u8; 32] = Sha256::digest(install.write(&mut room)?).into();
        let acknowledged =
            cable.ask(&Request::Install(install), |answer| *answer == Answer::Ack { digest })?;
        ensure!(acknowledged, "what the board acknowledges is not what was installed");
        let nonce = [0x5a; NONCE];
        let (serial, id) = (subject().serial, CertificateId(Sha256::digest(certificate).into()));
        let proven = cable.ask(&Request::Prove { nonce }, |answer| match answer {
            Answer::Proof(signature) => {
                key.verify(&possession(&serial, &id, &nonce).concat(), signature).is_ok()
            }
            _ => false,
        })?;
        ensure!(proven, "the board cannot prove its key");
        ensure!(cable.ask(&Request::Lock, |answer| *answer == Answer::Locked)?, "the board did not lock");
        let hello = cable.hello()?;
        ensure!(
            (hello.stage, hello.certificate_id) == (Stage::Locked, Some(id)),
            "after the lock the board says {hello:?}"
        );
        Ok(())
    }
}

impl Drop for Workbench {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = std::fs::read_to_string(self.board.log_path()).unwrap_or_default();
            println!("the board's log, over all its starts:\n{log}");
        }
    }
}

/// Who the board on the desk is made to be.
#[must_use]
pub fn subject() -> Subject {
    testing::subject("MU-000001")
}

/// Seconds since 1970.
#[must_use]
pub fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Asks; `Some` when the board refuses.
///
/// # Errors
/// When there is no answer.
pub fn refusal(cable: &mut Cable, request: &Request<'_>) -> Result<Option<Refusal>> {
    let read = |answer: &Answer<'_>| match answer {
        Answer::Refused(why) => Some(*why),
        _ => None,
    };
    Ok(cable.ask(request, read)?)
}

/// Asks for a key; the digest of what the board made.
///
/// # Errors
/// When the board does not show one.
pub fn key_digest(cable: &mut Cable) -> Result<[u8; 32]> {
    let read = |answer: &Answer<'_>| match answer {
        Answer::KeyMade { key_digest } => Ok(*key_digest),
        other => bail!("asked for a key, the board says {other:?}"),
    };
    cable.ask(&Request::MakeKey, read).context("MakeKey")?
}

/// Asks for a signing request, DER.
///
/// # Errors
/// When the board does not give one.
pub fn signing_request(cable: &mut Cable, subject: &Subject) -> Result<Vec<u8>> {
    let read = |answer: &Answer<'_>| match answer {
        Answer::Csr(der) => Ok(der.to_vec()),
        other => bail!("asked for a signing request, the board says {other:?}"),
    };
    cable.ask(&Request::Csr(subject.clone()), read).context("Csr")?
}
