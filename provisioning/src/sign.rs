//! What the root signs after its ceremony: an issuing CA that asks to take an older one's place.

use std::path::Path;

use muster_pki::{
    CaCertificate, Passphrase, VerifiedCaRequest,
    bundle::{BundleError, RootBundle},
    keyfile,
};
use muster_shared::Code;

use crate::{fault::Fault, journal::hex};

/// Signs the request in `file` with the root in the folder `root`, if it is for the key that the asking side
/// named: whoever carries the file cannot have put another into it. Writes the certificate to `out`, PEM.
///
/// # Errors
/// A [`Fault`]: M307 when the request is not one, not for this key, or not for this root; M311 when the root's
/// key does not open.
pub fn sign(
    file: &Path,
    key_id: &str,
    root: &Path,
    passphrase: &Passphrase,
    out: &Path,
    now_ms: u64,
) -> Result<CaCertificate, Fault> {
    let place = || file.display().to_string();
    let octets = std::fs::read(file)
        .map_err(|error| Fault::new(Code::FileUnreadable, format!("{}: {error}", file.display())))?;
    let wrong = |why: String| {
        Fault::new(Code::CsrInvalid, format!("{}: {why}", place()))
            .what("the root does not sign this request")
            .next("take the request and its key again from: muster ca rotate")
    };
    let request = VerifiedCaRequest::verify(&octets).map_err(|error| wrong(error.to_string()))?;
    let asked = hex(&request.key().key_id());
    if !asked.eq_ignore_ascii_case(key_id) {
        return Err(wrong(format!("it is for key {asked}, not for {key_id}")));
    }
    let bundle = RootBundle::read(root, passphrase).map_err(|error: BundleError| {
        Fault::new(Code::KeyFileUnreadable, error).what("the root's key cannot be opened")
    })?;
    let now_s = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    let signed = bundle.root.certify(&request, now_s).map_err(|error| wrong(error.to_string()))?;
    keyfile::write(out, signed.pem().as_bytes(), 0o644)
        .map_err(|error| Fault::new(Code::FileUnreadable, error))?;
    Ok(signed)
}
