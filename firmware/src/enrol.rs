//! The factory responder: what a blank device answers to a station, one request at a time.
//!
//! Idempotent: a repeated request gives the same answer, so a lost frame or a restart on either side
//! costs a retry. A stage is in flash before it is claimed. The key is made here and stays here; what
//! comes in is believed only as far as it can be checked against the vendor page's root digest and the
//! device's own key ([`verify_install`]).

use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use muster_shared::{
    WIRE_CURRENT, WIRE_MIN,
    factory::{
        ANCHORS_CONTEXT, Anchors, Answer, Entropy, Envelope, Hello, Install, MessageError, Refusal, Request,
        SignedAnchors, Stage, Subject, possession,
    },
    limits::{ANCHOR_SET_MAX, CERTIFICATE_MAX, CSR_MAX, HOST_MAX, NONCE, SIGNATURE_MAX},
    vendor::VendorPage,
};
use p256::ecdsa::{DerSignature, Signature, SigningKey, signature::hazmat::PrehashSigner};
use rand_chacha::ChaCha20Rng;
use rustls_pki_types::ServerName;
use sha2::{Digest, Sha256};

use crate::{
    credentials,
    platform::About,
    store::{Record, Slot, Store, StoreError},
    x509::{self, View},
};

/// Longest answer: a signing request, or a Hello with its three names.
pub const ANSWER_MAX: usize = CSR_MAX + 64;

/// What the responder knows besides its store.
pub struct Device<'d> {
    /// The vendor page; `None` when the flasher left none.
    pub vendor: Option<&'d VendorPage>,
    /// What the image is.
    pub about: &'d About,
    /// Where randomness comes from.
    pub entropy: Entropy,
}

/// Answers one request: reads a message from `payload`, writes one into `out`.
///
/// Never fails: what cannot be done is a [`Refusal`].
pub async fn answer<'b, F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
    rng: Option<&mut ChaCha20Rng>,
    device: &Device<'_>,
    payload: &[u8],
    out: &'b mut [u8],
) -> &'b [u8] {
    let mut room = [0; CSR_MAX];
    let (number, result) = match Envelope::<Request<'_>>::read(payload) {
        Ok(Envelope { request, body, .. }) => (request, perform(store, rng, device, body, &mut room).await),
        Err(MessageError::Version(_)) => (number(payload), Err(Refusal::Version)),
        Err(_) => (number(payload), Err(Refusal::Malformed)),
    };
    write(number, result, out)
}

/// Answers one request of a locked device: to Hello with `hello`, to everything else with a refusal.
pub fn answer_locked<'b>(hello: &Hello, payload: &[u8], out: &'b mut [u8]) -> &'b [u8] {
    let (number, result) = match Envelope::<Request<'_>>::read(payload) {
        Ok(Envelope { request, body, .. }) => (request, locked(hello, &body)),
        Err(MessageError::Version(_)) => (number(payload), Err(Refusal::Version)),
        Err(_) => (number(payload), Err(Refusal::Malformed)),
    };
    write(number, result, out)
}

fn locked<'a>(hello: &Hello, request: &Request<'_>) -> Result<Answer<'a>, Refusal> {
    match request {
        Request::Hello => Ok(Answer::Hello(hello.clone())),
        // The answer to the first may have been lost.
        Request::Lock => Ok(Answer::Locked),
        _ => Err(Refusal::Locked),
    }
}

/// The request's number, as far as a message that cannot be read has one.
fn number(payload: &[u8]) -> u16 {
    postcard::take_from_bytes::<(u8, u16)>(payload).map_or(0, |((_, number), _)| number)
}

fn write<'b>(number: u16, result: Result<Answer<'_>, Refusal>, out: &'b mut [u8]) -> &'b [u8] {
    let body = result.unwrap_or_else(Answer::Refused);
    Envelope::new(number, body).write(out).expect("ANSWER_MAX holds every answer")
}

async fn perform<'b, F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
    rng: Option<&mut ChaCha20Rng>,
    device: &Device<'_>,
    request: Request<'_>,
    room: &'b mut [u8; CSR_MAX],
) -> Result<Answer<'b>, Refusal> {
    let stage = credentials::stage(store).await.map_err(refusal)?;
    if stage == Stage::Locked {
        let hello = hello(store, device).await.map_err(refusal)?;
        return locked(&hello, &request);
    }
    match request {
        Request::Hello => hello(store, device).await.map(Answer::Hello).map_err(refusal),
        Request::MakeKey => {
            let rng = rng.ok_or(Refusal::Entropy)?;
            let key = credentials::make_key(store, Slot::Birth, rng).await.map_err(refusal)?;
            Ok(Answer::KeyMade { key_digest: credentials::key_digest(&key) })
        }
        Request::Csr(subject) => {
            let key = own_key(store).await?;
            match credentials::subject(store).await.map_err(refusal)? {
                Some(before) if before != subject => return Err(Refusal::Subject),
                Some(_) => {}
                None => {
                    // In flash before anything is signed for it.
                    let mut octets = [0; 3 * 49 + 8];
                    let octets = postcard::to_slice(&subject, &mut octets).map_err(|_| Refusal::Malformed)?;
                    store.put(Record::Subject, octets).await.map_err(refusal)?;
                }
            }
            x509::request(&key, &subject, room).map(Answer::Csr).map_err(|_| Refusal::Key)
        }
        Request::Install(install) => self::install(store, device, stage, &install).await,
        Request::Prove { nonce } if stage >= Stage::Installed => prove(store, &nonce, room).await,
        Request::Lock if stage >= Stage::Installed => {
            store.put(Record::Lock, &[1]).await.map_err(refusal)?;
            Ok(Answer::Locked)
        }
        Request::Prove { .. } | Request::Lock => Err(Refusal::Order),
    }
}

fn refusal(_: StoreError) -> Refusal {
    Refusal::Store
}

async fn own_key<F: MultiwriteNorFlash>(store: &mut Store<'_, F>) -> Result<SigningKey, Refusal> {
    credentials::key(store, Slot::Birth).await.map_err(refusal)?.ok_or(Refusal::Order)
}

/// What the device says of itself.
///
/// # Errors
/// [`StoreError`].
pub async fn hello<F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
    device: &Device<'_>,
) -> Result<Hello, StoreError> {
    let key = credentials::key(store, Slot::Birth).await?;
    Ok(Hello {
        wire_min: WIRE_MIN,
        wire_max: WIRE_CURRENT,
        hardware: device.vendor.map(|page| page.hardware.clone()).unwrap_or_default(),
        firmware_version: device.about.version.chars().take(16).collect(),
        firmware_digest: device.about.digest,
        entropy: device.entropy,
        stage: credentials::stage(store).await?,
        subject: credentials::subject(store).await?,
        key_digest: key.as_ref().map(credentials::key_digest),
        certificate_id: credentials::certificate_id(store, Slot::Birth).await?,
    })
}

async fn install<'b, F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
    device: &Device<'_>,
    stage: Stage,
    install: &Install<'_>,
) -> Result<Answer<'b>, Refusal> {
    let key = own_key(store).await?;
    let subject = credentials::subject(store).await.map_err(refusal)?.ok_or(Refusal::Order)?;
    let root_digest = device.vendor.ok_or(Refusal::Root)?.root_digest;
    verify_install(install, &key, &subject, &root_digest)?;
    let held = store.get(Record::Anchors).await.map_err(refusal)?.and_then(anchors_generation);
    if stage == Stage::Installed && held > anchors_generation(install.anchors) {
        return Err(Refusal::Anchors);
    }

    let asked = digest_of(install)?;
    if stage < Stage::Installed || stored_digest(store).await.map_err(refusal)? != Some(asked) {
        write_install(store, install).await.map_err(refusal)?;
    }
    // The answer speaks of what is in flash, not of what was meant to be.
    match stored_digest(store).await.map_err(refusal)? {
        Some(digest) if digest == asked => Ok(Answer::Ack { digest }),
        _ => Err(Refusal::Store),
    }
}

/// Is this for us, and from those the vendor page names?
///
/// The leaf is for our key and the subject we signed a request for; the issuer signed it, and the root
/// signed the issuer; the root signed the anchors; and the root is the vendor page's.
///
/// # Errors
/// [`Refusal`] names the first thing that is wrong.
pub fn verify_install(
    install: &Install<'_>,
    key: &SigningKey,
    subject: &Subject,
    root_digest: &[u8; 32],
) -> Result<(), Refusal> {
    let endpoint = &install.endpoint;
    let sized = install.certificate.len() <= CERTIFICATE_MAX
        && install.issuer.len() <= CERTIFICATE_MAX
        && install.anchors.len() <= ANCHOR_SET_MAX
        && (1..=HOST_MAX).contains(&endpoint.host.len())
        && endpoint.server_name.len() <= HOST_MAX;
    let plain = endpoint.host.bytes().all(|octet| octet.is_ascii_graphic());
    if !sized || !plain || endpoint.port == 0 || ServerName::try_from(endpoint.server_name).is_err() {
        return Err(Refusal::Malformed);
    }

    let signed = SignedAnchors::read(install.anchors).map_err(|_| Refusal::Malformed)?;
    if <[u8; 32]>::from(Sha256::digest(signed.root)) != *root_digest {
        return Err(Refusal::Root);
    }
    let root = x509::key_of_spki(signed.root).ok_or(Refusal::Root)?;
    if !x509::verify(&root, &[ANCHORS_CONTEXT, signed.anchors], signed.signature) {
        return Err(Refusal::Anchors);
    }
    let anchors = Anchors::read(signed.anchors).map_err(|_| Refusal::Anchors)?;
    for anchor in core::iter::once(anchors.current).chain(anchors.next) {
        let usable = View::read(anchor).is_ok_and(|view| view.key().is_some());
        if !usable || anchor.len() > CERTIFICATE_MAX {
            return Err(Refusal::Anchors);
        }
    }

    let leaf = View::read(install.certificate).map_err(|_| Refusal::Certificate)?;
    let issuer = View::read(install.issuer).map_err(|_| Refusal::Certificate)?;
    let issuer_key = issuer.key().ok_or(Refusal::Certificate)?;
    let ours = leaf.spki == x509::spki(key.verifying_key())
        && leaf.is_for(subject)
        && leaf.issuer == issuer.subject
        && leaf.signed_by(&issuer_key)
        && issuer.signed_by(&root);
    if ours { Ok(()) } else { Err(Refusal::Certificate) }
}

fn anchors_generation(signed: &[u8]) -> Option<u32> {
    let signed = SignedAnchors::read(signed).ok()?;
    Anchors::read(signed.anchors).ok().map(|anchors| anchors.generation)
}

/// Everything, then the seal: an interruption before it leaves the stage where it was.
async fn write_install<F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
    install: &Install<'_>,
) -> Result<(), StoreError> {
    credentials::unseal(store, Slot::Birth).await?;
    store.put(Record::Certificate(Slot::Birth), install.certificate).await?;
    store.put(Record::Issuer(Slot::Birth), install.issuer).await?;
    let mut endpoint = [0; 2 * (HOST_MAX + 2) + 16];
    let endpoint = postcard::to_slice(&install.endpoint, &mut endpoint).map_err(|_| StoreError::Damaged)?;
    store.put(Record::Endpoint, endpoint).await?;
    store.put(Record::Anchors, install.anchors).await?;
    credentials::seal(store, Slot::Birth, 0).await
}

/// SHA-256 of the message in postcard, in pieces: a structure is its fields, octets follow their length.
struct InstallDigest(Sha256);

impl InstallDigest {
    fn octets(&mut self, octets: &[u8]) -> Option<()> {
        let mut length = [0; 5];
        let length =
            u32::try_from(octets.len()).ok().and_then(|n| postcard::to_slice(&n, &mut length).ok())?;
        self.0.update(length);
        self.0.update(octets);
        Some(())
    }
}

fn digest_of(install: &Install<'_>) -> Result<[u8; 32], Refusal> {
    let mut endpoint = [0; 2 * (HOST_MAX + 2) + 16];
    let endpoint = postcard::to_slice(&install.endpoint, &mut endpoint).map_err(|_| Refusal::Malformed)?;
    let mut hash = InstallDigest(Sha256::new());
    hash.octets(install.certificate).ok_or(Refusal::Malformed)?;
    hash.octets(install.issuer).ok_or(Refusal::Malformed)?;
    hash.0.update(endpoint);
    hash.octets(install.anchors).ok_or(Refusal::Malformed)?;
    Ok(hash.0.finalize().into())
}

async fn stored_digest<F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
) -> Result<Option<[u8; 32]>, StoreError> {
    let mut hash = InstallDigest(Sha256::new());
    for record in
        [Record::Certificate(Slot::Birth), Record::Issuer(Slot::Birth), Record::Endpoint, Record::Anchors]
    {
        let Some(octets) = store.get(record).await? else { return Ok(None) };
        match record {
            Record::Endpoint => hash.0.update(octets),
            _ => hash.octets(octets).ok_or(StoreError::Damaged)?,
        }
    }
    Ok(Some(hash.0.finalize().into()))
}

async fn prove<'b, F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
    nonce: &[u8; NONCE],
    room: &'b mut [u8; CSR_MAX],
) -> Result<Answer<'b>, Refusal> {
    let key = own_key(store).await?;
    let subject = credentials::subject(store).await.map_err(refusal)?.ok_or(Refusal::Order)?;
    let id = credentials::certificate_id(store, Slot::Birth).await.map_err(refusal)?.ok_or(Refusal::Order)?;
    let mut hash = Sha256::new();
    possession(&subject.serial, &id, nonce).iter().for_each(|part| hash.update(part));
    let signature: Signature = key.sign_prehash(&hash.finalize()).map_err(|_| Refusal::Key)?;
    let der: DerSignature = signature.to_der();
    let place = &mut room[..der.as_bytes().len().min(SIGNATURE_MAX)];
    place.copy_from_slice(der.as_bytes());
    Ok(Answer::Proof(place))
}
