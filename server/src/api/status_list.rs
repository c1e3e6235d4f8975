//! The signed status list: which devices' birth certificates are good, for who cannot ask.
//!
//! A Token Status List (IETF draft-ietf-oauth-status-list): a JWT of type `statuslist+jwt`, signed ES256 (RFC
//! 7518 §3.4), whose claim `status_list` holds two bits for each device, compressed (ZLIB, RFC 1950). The place
//! of a device is the `status_index` of its certificates. Values as in the draft's §7.1: 0 valid, 1 invalid,
//! 2 suspended.
//!
//! It is signed by the operational CA, whose certificate stands in `x5c`: like a revocation list, what a CA
//! says about certificates. The factory CAs, which issued them, hold no key here.

use std::io;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use muster_pki::{Ca, Signer as _, key::KeyError};
use muster_shared::Code;
use serde_json::json;

/// Bits of a device's status.
const BITS: u64 = 2;
/// How long a list is good, seconds: a day, as a revocation list is.
pub(super) const LIFE_S: u64 = 24 * 3600;
/// How long a copy may be kept before it is asked for again, seconds.
const TTL_S: u64 = 900;
/// The highest effort of the compressor.
const EFFORT: u8 = 9;

/// What a refusal is in the list: what can be taken back is a suspension.
fn value(refused: Code) -> u8 {
    match refused {
        Code::DeviceSuspended | Code::DeviceQuarantined | Code::DeviceNotRegistered => 2,
        _ => 1,
    }
}

/// The list's octets: the first device in the lowest bits of the first octet.
fn octets(refused: &[(u64, Code)]) -> Vec<u8> {
    let last = refused.iter().map(|(at, _)| *at).max().unwrap_or(0);
    let each = 8 / BITS;
    let mut octets = vec![0_u8; usize::try_from(last / each + 1).unwrap_or(usize::MAX)];
    for (at, why) in refused {
        octets[(at / each) as usize] |= value(*why) << (at % each * BITS);
    }
    octets
}

/// The list as a signed token.
///
/// # Errors
/// [`KeyError`] when it cannot be signed.
pub(super) fn sign(refused: &[(u64, Code)], address: &str, now_s: u64, ca: &Ca) -> Result<String, KeyError> {
    let list = miniz_oxide::deflate::compress_to_vec_zlib(&octets(refused), EFFORT);
    let head = json!({
        "alg": "ES256",
        "typ": "statuslist+jwt",
        "kid": hex::encode(ca.certificate().key_id()),
        "x5c": [STANDARD.encode(ca.certificate().der())],
    });
    let claims = json!({
        "sub": address,
        "iat": now_s,
        "exp": now_s + LIFE_S,
        "ttl": TTL_S,
        "status_list": { "bits": BITS, "lst": URL_SAFE_NO_PAD.encode(list) },
    });
    let part = |part: serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", part(head), part(claims));
    let der = ca.key().sign(signed.as_bytes())?;
    let signature = fixed(&der).map_err(|_| KeyError::NotSigned)?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// A signature's two numbers, each in 32 octets (RFC 7518 §3.4), out of their DER (RFC 3279 §2.2.3).
fn fixed(der: &[u8]) -> io::Result<[u8; 64]> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "not an ECDSA signature of P-256 in DER");
    let [0x30, length, rest @ ..] = der else { return Err(wrong()) };
    if rest.len() != usize::from(*length) {
        return Err(wrong());
    }
    let (mut rest, mut out) = (rest, [0; 64]);
    for half in out.chunks_exact_mut(32) {
        let [0x02, length, after @ ..] = rest else { return Err(wrong()) };
        let (number, after) = after.split_at_checked(usize::from(*length)).ok_or_else(wrong)?;
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        let at = half.len().checked_sub(number.len()).ok_or_else(wrong)?;
        half[at..].copy_from_slice(number);
        rest = after;
    }
    if rest.is_empty() { Ok(out) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use muster_pki::testing;
    use p256::ecdsa::{Signature, VerifyingKey, signature::Verifier as _};

    use super::*;

    /// Reads a list with other code than what wrote it, and says what it says of a place.
    fn says(token: &str, key: &[u8], at: usize) -> u8 {
        let parts: Vec<_> = token.split('.').collect();
        let [head, claims, signature] = parts[..] else { panic!("{token}") };
        let document = |part: &str| -> serde_json::Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        assert_eq!(
            (&document(head)["alg"], &document(head)["typ"]),
            (&json!("ES256"), &json!("statuslist+jwt"))
        );
        let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        let key = VerifyingKey::from_sec1_bytes(key).unwrap();
        key.verify(format!("{head}.{claims}").as_bytes(), &signature).unwrap();
        let list = document(claims)["status_list"].clone();
        assert_eq!(list["bits"], 2);
        let packed = URL_SAFE_NO_PAD.decode(list["lst"].as_str().unwrap()).unwrap();
        let octets = miniz_oxide::inflate::decompress_to_vec_zlib(&packed).unwrap();
        octets.get(at / 4).map_or(0, |octet| octet >> (at % 4 * 2) & 3)
    }

    #[test]
    fn each_device_s_status_is_read_back_and_the_signature_holds() {
        let hierarchy = testing::hierarchy(1_800_000_000);
        let ca = &hierarchy.operational;
        let refused = [
            (3, Code::CertificateRevoked),
            (4, Code::DeviceSuspended),
            (9, Code::DeviceQuarantined),
            (1000, Code::DeviceDecommissioned),
        ];
        // Signatures differ in length in DER: several.
        for now_s in 0..40 {
            let token = sign(&refused, "https://localhost/v1/status-list", now_s, ca).unwrap();
            let at = |at| says(&token, ca.key().public_key().point(), at);
            assert_eq!(
                [at(2), at(3), at(4), at(5), at(9), at(999), at(1000), at(5000)],
                [0, 1, 2, 0, 2, 0, 1, 0]
            );
        }
        assert_eq!(octets(&[]), [0]);
        // The draft's example of two bits (§4.1): 1 2 0 3 | 0 1 0 1 …, the first in the lowest bits.
        assert_eq!(octets(&[(0, Code::CertificateRevoked), (1, Code::DeviceSuspended)]), [0b1001]);
    }

    #[test]
    fn what_is_no_signature_is_not_made_one() {
        for wrong in [&[][..], &[0x30, 0], &[0x30, 3, 2, 1, 1], &[0x30, 6, 2, 1, 1, 2, 1, 1, 0], &[0x31, 0]] {
            assert!(fixed(wrong).is_err(), "{wrong:?}");
        }
        let good = fixed(&[0x30, 6, 2, 1, 5, 2, 1, 7]).unwrap();
        assert_eq!((good[31], good[63]), (5, 7));
    }
}
