//! The broker CAs a device pins, as the root signs them.

use crate::ca::{Ca, CaCertificate, CaError};

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
    let _ = (root, generation, current, next);
    unimplemented!()
}
