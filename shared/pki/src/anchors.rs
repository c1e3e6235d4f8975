//! The broker CAs a device pins, as the root signs them.

use muster_shared::{
    factory::{ANCHORS_CONTEXT, Anchors, SignedAnchors},
    limits::ANCHOR_SET_MAX,
};

use crate::{
    ca::{Ca, CaCertificate, CaError},
    key::Signer,
    profile::Purpose,
};

/// Signs an anchor set: `muster_shared::factory::SignedAnchors` in postcard.
///
/// # Errors
/// [`CaError::Purpose`] when an anchor is no broker CA; [`CaError::Key`].
pub fn sign(
    root: &Ca,
    generation: u32,
    current: &CaCertificate,
    next: Option<&CaCertificate>,
) -> Result<Vec<u8>, CaError> {
    root.certificate().must_be(Purpose::Root)?;
    for anchor in std::iter::once(current).chain(next) {
        anchor.must_be(Purpose::Broker)?;
        root.certificate().vouches_for(anchor.der())?;
    }
    let mut set = [0; ANCHOR_SET_MAX];
    let set = Anchors::new(generation, current.der(), next.map(CaCertificate::der))
        .write(&mut set)
        .expect("two certificates within CERTIFICATE_MAX fit");
    let signature = root.key().sign(&[ANCHORS_CONTEXT, set].concat())?;
    let signed = SignedAnchors { anchors: set, root: root.certificate().key().spki(), signature: &signature };
    let mut out = [0; ANCHOR_SET_MAX];
    Ok(signed.write(&mut out).expect("the set, a key and a signature fit").to_vec())
}

/// Reads a signed set and checks it as a device does: the key against the root's, the signature, every anchor.
///
/// # Errors
/// [`CaError::OtherKey`], [`CaError::WrongSignature`], [`CaError::Profile`], [`CaError::Purpose`].
pub fn verify(signed: &[u8], root: &CaCertificate) -> Result<(u32, Vec<CaCertificate>), CaError> {
    let malformed = |_| CaError::from(("anchors", "malformed"));
    let signed = SignedAnchors::read(signed).map_err(malformed)?;
    if signed.root != root.key().spki() {
        return Err(CaError::OtherKey);
    }
    root.key()
        .verify(&[ANCHORS_CONTEXT, signed.anchors].concat(), signed.signature)
        .map_err(|_| CaError::WrongSignature)?;
    let set = Anchors::read(signed.anchors).map_err(malformed)?;
    let anchors = std::iter::once(set.current).chain(set.next);
    let anchors =
        anchors.map(|der| CaCertificate::issuing(der, Purpose::Broker, root)).collect::<Result<_, _>>()?;
    Ok((set.generation, anchors))
}
