//! Three credential slots: birth, and operational A and B.
//!
//! Birth is written at the factory and never again once the device is locked. An operational slot is
//! rewritten as a whole: key, certificate, issuer, and its seal last, with a generation one above the
//! newest. The sealed slot of the highest generation is the active one; on refusal the other operational
//! slot is tried, then birth ([`slots`]).
//!
//! The stage of provisioning is not stored anywhere: it follows from what is, so it cannot be ahead of it.

use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use heapless::Vec;
use muster_shared::{
    CertificateId,
    factory::{Stage, Subject},
    limits::CERTIFICATE_MAX,
};
use p256::ecdsa::SigningKey;
use rand_core::CryptoRngCore;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    store::{Record, Slot, Store, StoreError},
    x509,
};

const SLOTS: [Slot; 3] = [Slot::A, Slot::B, Slot::Birth];
const SEAL: usize = 4 + 32;

/// A slot's certificate and key, as read from flash.
pub struct Credential {
    /// The private key; wiped when dropped.
    pub key: SigningKey,
    /// X.509 in DER.
    pub certificate: Vec<u8, CERTIFICATE_MAX>,
}

/// How far provisioning has come.
///
/// # Errors
/// [`StoreError::Damaged`] when a sealed birth slot does not hold what was sealed.
pub async fn stage<F: MultiwriteNorFlash>(store: &mut Store<'_, F>) -> Result<Stage, StoreError> {
    if store.get(Record::Lock).await?.is_some() {
        return match generation(store, Slot::Birth).await? {
            Some(_) => Ok(Stage::Locked),
            None => Err(StoreError::Damaged),
        };
    }
    if generation(store, Slot::Birth).await?.is_some() {
        return Ok(Stage::Installed);
    }
    let made = key(store, Slot::Birth).await?.is_some();
    Ok(if made { Stage::KeyMade } else { Stage::Blank })
}

/// Who the device was asked to be, once it was.
///
/// # Errors
/// [`StoreError`].
pub async fn subject<F: MultiwriteNorFlash>(store: &mut Store<'_, F>) -> Result<Option<Subject>, StoreError> {
    match store.get(Record::Subject).await? {
        Some(octets) => postcard::from_bytes(octets).map(Some).map_err(|_| StoreError::Damaged),
        None => Ok(None),
    }
}

/// A slot's key, sealed or not.
///
/// # Errors
/// [`StoreError`].
pub async fn key<F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
    slot: Slot,
) -> Result<Option<SigningKey>, StoreError> {
    let key = match store.get(Record::Key(slot)).await? {
        Some(scalar) => SigningKey::from_slice(scalar).map(Some).map_err(|_| StoreError::Damaged),
        None => Ok(None),
    };
    store.wipe();
    key
}

/// The slot's key, made now if there is none. It is in flash, and was read back, before it is returned.
///
/// # Errors
/// [`StoreError`].
pub async fn make_key<F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
    slot: Slot,
    rng: &mut impl CryptoRngCore,
) -> Result<SigningKey, StoreError> {
    if let Some(key) = key(store, slot).await? {
        return Ok(key);
    }
    let scalar = Zeroizing::new(<[u8; 32]>::from(SigningKey::random(rng).to_bytes()));
    store.put(Record::Key(slot), &*scalar).await?;
    key(store, slot).await?.ok_or(StoreError::ReadBack)
}

/// Opens a slot for writing: from here on, until [`seal`], it does not count.
///
/// # Errors
/// [`StoreError`].
pub async fn unseal<F: MultiwriteNorFlash>(store: &mut Store<'_, F>, slot: Slot) -> Result<(), StoreError> {
    match store.get(Record::Seal(slot)).await? {
        None | Some([]) => Ok(()),
        Some(_) => store.put(Record::Seal(slot), &[]).await,
    }
}

/// Makes a slot count, with what lies in it now.
///
/// # Errors
/// [`StoreError`].
pub async fn seal<F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
    slot: Slot,
    generation: u32,
) -> Result<(), StoreError> {
    let digest = digest(store, slot).await?.ok_or(StoreError::Damaged)?;
    let mut seal = [0; SEAL];
    seal[..4].copy_from_slice(&generation.to_le_bytes());
    seal[4..].copy_from_slice(&digest);
    store.put(Record::Seal(slot), &seal).await
}

/// The generation of a sealed slot; `None` when the slot does not count.
///
/// # Errors
/// [`StoreError::Damaged`] when it is sealed but holds something else.
pub async fn generation<F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
    slot: Slot,
) -> Result<Option<u32>, StoreError> {
    let seal: [u8; SEAL] = match store.get(Record::Seal(slot)).await? {
        None | Some([]) => return Ok(None),
        Some(seal) => seal.try_into().map_err(|_| StoreError::Damaged)?,
    };
    let holds = digest(store, slot).await?;
    if key(store, slot).await?.is_none() || holds.as_ref().map(|held| &held[..]) != Some(&seal[4..]) {
        return Err(StoreError::Damaged);
    }
    Ok(Some(u32::from_le_bytes([seal[0], seal[1], seal[2], seal[3]])))
}

/// The slots that count, in the order in which they are tried.
///
/// # Errors
/// [`StoreError::Flash`]; a damaged operational slot is passed over.
pub async fn slots<F: MultiwriteNorFlash>(store: &mut Store<'_, F>) -> Result<Vec<Slot, 3>, StoreError> {
    let mut found = Vec::<(Slot, u32), 3>::new();
    for slot in SLOTS {
        match generation(store, slot).await {
            Ok(Some(generation)) => {
                let _ = found.push((slot, generation));
            }
            Ok(None) => {}
            Err(StoreError::Damaged) if slot != Slot::Birth => {}
            Err(e) => return Err(e),
        }
    }
    found.sort_unstable_by_key(|&(slot, generation)| (slot == Slot::Birth, core::cmp::Reverse(generation)));
    Ok(found.into_iter().map(|(slot, _)| slot).collect())
}

/// A slot's credential, if the slot counts.
///
/// # Errors
/// [`StoreError`].
pub async fn load<F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
    slot: Slot,
) -> Result<Option<Credential>, StoreError> {
    if generation(store, slot).await?.is_none() {
        return Ok(None);
    }
    let certificate = match store.get(Record::Certificate(slot)).await? {
        Some(der) => Vec::from_slice(der).map_err(|_| StoreError::Damaged)?,
        None => return Err(StoreError::Damaged),
    };
    let key = key(store, slot).await?.ok_or(StoreError::Damaged)?;
    Ok(Some(Credential { key, certificate }))
}

/// The id of a slot's certificate, if the slot counts.
///
/// # Errors
/// [`StoreError`].
pub async fn certificate_id<F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
    slot: Slot,
) -> Result<Option<CertificateId>, StoreError> {
    if generation(store, slot).await?.is_none() {
        return Ok(None);
    }
    let certificate = store.get(Record::Certificate(slot)).await?;
    Ok(certificate.map(|der| CertificateId(Sha256::digest(der).into())))
}

/// SHA-256 of the key's SubjectPublicKeyInfo in DER.
#[must_use]
pub fn key_digest(key: &SigningKey) -> [u8; 32] {
    Sha256::digest(x509::spki(key.verifying_key())).into()
}

async fn digest<F: MultiwriteNorFlash>(
    store: &mut Store<'_, F>,
    slot: Slot,
) -> Result<Option<[u8; 32]>, StoreError> {
    let mut hash = Sha256::new();
    for record in [Record::Certificate(slot), Record::Issuer(slot)] {
        match store.get(record).await? {
            Some(octets) => hash.update(octets),
            None => return Ok(None),
        }
    }
    Ok(Some(hash.finalize().into()))
}
