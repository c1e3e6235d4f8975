//! The few lines of X.509 a device needs: a view of a certificate, and a signing request, without alloc.
//!
//! The view finds fields; it validates nothing. Who may be believed is decided by [`crate::verify`] for
//! the broker and by [`crate::enrol`] for the device's own certificate.

use der::{
    Decode,
    asn1::{GeneralizedTime, UtcTime},
};
use muster_shared::{factory::Subject, limits::SPKI_P256};
use p256::ecdsa::{DerSignature, Signature, SigningKey, VerifyingKey, signature::Signer};

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_3: u8 = 0xa3;

/// 2.5.4.3, 2.5.4.5, 2.5.4.10 (X.520 §6).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SERIAL_NUMBER: &[u8] = &[0x55, 0x04, 0x05];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
/// 2.5.29.15 (RFC 5280 §4.2.1.3).
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
/// `SEQUENCE { ecdsa-with-SHA256 }` (RFC 5758 §3.2).
const ECDSA_SHA256: &[u8] = &[SEQUENCE, 0x0a, OID, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// What precedes the uncompressed point in a P-256 SubjectPublicKeyInfo (RFC 5480 §2).
const SPKI_PREFIX: &[u8; SPKI_P256 - 65] = &[
    SEQUENCE, 0x59, SEQUENCE, 0x13, OID, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, OID, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, BIT_STRING, 0x42, 0x00,
];

/// Not the DER it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a certificate in DER")]
pub struct NotDer;

/// Where the fields of a certificate lie. Nothing about it has been verified.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The signed part, with its header.
    pub tbs: &'a [u8],
    /// The issuer's name, with its header.
    pub issuer: &'a [u8],
    /// The subject's name, with its header.
    pub subject: &'a [u8],
    /// SubjectPublicKeyInfo, with its header.
    pub spki: &'a [u8],
    /// Seconds since 1970.
    pub not_before: u64,
    /// Seconds since 1970.
    pub not_after: u64,
    extensions: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> View<'a> {
    /// Finds the fields of a version 3 certificate (RFC 5280 §4.1).
    ///
    /// # Errors
    /// [`NotDer`] when it is none, or octets follow it.
    pub fn read(certificate: &'a [u8]) -> Result<Self, NotDer> {
        let mut outer = Reader(certificate);
        let mut body = Reader(outer.take(SEQUENCE)?.content);
        outer.end()?;
        let tbs = body.take(SEQUENCE)?;
        let algorithm = body.take(SEQUENCE)?.whole;
        let signature = match body.take(BIT_STRING)?.content {
            [0, signature @ ..] => signature,
            _ => return Err(NotDer),
        };
        body.end()?;

        let mut fields = Reader(tbs.content);
        fields.take(CONTEXT_0)?;
        fields.take(INTEGER)?;
        // The two places that name the algorithm agree (RFC 5280 §4.1.1.2).
        if fields.take(SEQUENCE)?.whole != algorithm {
            return Err(NotDer);
        }
        let issuer = fields.take(SEQUENCE)?.whole;
        let mut validity = Reader(fields.take(SEQUENCE)?.content);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        validity.end()?;
        let subject = fields.take(SEQUENCE)?.whole;
        let spki = fields.take(SEQUENCE)?.whole;
        let extensions = match fields.0 {
            [] => &[],
            _ => Reader(fields.take(CONTEXT_3)?.content).take(SEQUENCE)?.content,
        };
        fields.end()?;
        Ok(Self {
            tbs: tbs.whole,
            issuer,
            subject,
            spki,
            not_before,
            not_after,
            extensions,
            algorithm,
            signature,
        })
    }

    /// The public key, where it is an uncompressed P-256 point.
    #[must_use]
    pub fn key(&self) -> Option<VerifyingKey> {
        VerifyingKey::from_sec1_bytes(self.spki.strip_prefix(SPKI_PREFIX)?).ok()
    }

    /// Whether `issuer` signed this certificate, with ecdsa-with-SHA256.
    #[must_use]
    pub fn signed_by(&self, issuer: &VerifyingKey) -> bool {
        self.algorithm == ECDSA_SHA256 && verify(issuer, &[self.tbs], self.signature)
    }

    /// Whether keyUsage is there and has digitalSignature.
    #[must_use]
    pub fn may_sign(&self) -> bool {
        let mut all = Reader(self.extensions);
        while let Ok(one) = all.take(SEQUENCE) {
            let mut one = Reader(one.content);
            if one.take(OID).is_ok_and(|oid| oid.content == KEY_USAGE) {
                // `critical` may stand between; the value is the last element.
                let value =
                    one.take(0x01).and_then(|_| one.take(OCTET_STRING)).or_else(|_| one.take(OCTET_STRING));
                let bits = value.and_then(|value| Reader(value.content).take(BIT_STRING));
                return matches!(bits, Ok(bits) if bits.content.len() >= 2 && bits.content[1] & 0x80 != 0);
            }
        }
        false
    }

    /// Whether the subject is exactly O, CN and serialNumber of `subject`, one value each, in this order.
    #[must_use]
    pub fn is_for(&self, subject: &Subject) -> bool {
        let mut room = [0; NAME_MAX];
        let mut writer = Writer::new(&mut room);
        write_name(&mut writer, subject).is_ok() && writer.written() == self.subject
    }
}

/// Whether `signature` (DER) of `key` is good for the concatenated `parts`.
#[must_use]
pub fn verify(key: &VerifyingKey, parts: &[&[u8]], signature: &[u8]) -> bool {
    use p256::ecdsa::signature::hazmat::PrehashVerifier;
    use sha2::{Digest, Sha256};
    let Ok(signature) = Signature::from_der(signature) else { return false };
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    key.verify_prehash(&hash.finalize(), &signature).is_ok()
}

/// SubjectPublicKeyInfo of a P-256 key, DER.
#[must_use]
pub fn spki(key: &VerifyingKey) -> [u8; SPKI_P256] {
    let mut out = [0; SPKI_P256];
    let (prefix, point) = out.split_at_mut(SPKI_PREFIX.len());
    prefix.copy_from_slice(SPKI_PREFIX);
    point.copy_from_slice(key.to_encoded_point(false).as_bytes());
    out
}

/// The key of a SubjectPublicKeyInfo in DER, where it is an uncompressed P-256 point.
#[must_use]
pub fn key_of_spki(spki: &[u8]) -> Option<VerifyingKey> {
    VerifyingKey::from_sec1_bytes(spki.strip_prefix(SPKI_PREFIX)?).ok()
}

/// Three attributes of at most 48 octets, each with 11 octets around it, in a SEQUENCE.
const NAME_MAX: usize = 3 * (48 + 11) + 4;

/// Writes a PKCS #10 request (RFC 2986) for `subject`, signed by `key`, into the end of `out`.
///
/// # Errors
/// [`NotDer`] when `out` is too small; `muster_shared::limits::CSR_MAX` is enough.
pub fn request<'b>(key: &SigningKey, subject: &Subject, out: &'b mut [u8]) -> Result<&'b [u8], NotDer> {
    let mut info_room = [0; NAME_MAX + SPKI_P256 + 16];
    let mut info = Writer::new(&mut info_room);
    info.wrap(SEQUENCE, |info| {
        info.put(&[CONTEXT_0, 0x00])?;
        info.put(&spki(key.verifying_key()))?;
        write_name(info, subject)?;
        info.put(&[INTEGER, 0x01, 0x00])
    })?;
    let signature: DerSignature = key.try_sign(info.written()).map_err(|_| NotDer)?;
    let mut request = Writer::new(out);
    request.wrap(SEQUENCE, |request| {
        request.wrap(BIT_STRING, |bits| {
            bits.put(signature.as_bytes())?;
            bits.put(&[0])
        })?;
        request.put(ECDSA_SHA256)?;
        request.put(info.written())
    })?;
    Ok(request.into_written())
}

/// Writers run from the end to the start, so the last attribute comes first.
fn write_name(writer: &mut Writer<'_>, subject: &Subject) -> Result<(), NotDer> {
    writer.wrap(SEQUENCE, |name| {
        let mut attribute = |oid: &[u8], tag: u8, text: &str| {
            name.wrap(SET, |set| {
                set.wrap(SEQUENCE, |pair| {
                    pair.wrap(tag, |value| value.put(text.as_bytes()))?;
                    pair.wrap(OID, |value| value.put(oid))
                })
            })
        };
        attribute(SERIAL_NUMBER, PRINTABLE_STRING, subject.serial.as_str())?;
        attribute(COMMON_NAME, UTF8_STRING, subject.device_id.as_str())?;
        attribute(ORGANIZATION, UTF8_STRING, subject.tenant.as_str())
    })
}

struct Element<'a> {
    whole: &'a [u8],
    content: &'a [u8],
}

/// Reads definite-length DER elements one after another.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, tag: u8) -> Result<Element<'a>, NotDer> {
        let [found, rest @ ..] = self.0 else { return Err(NotDer) };
        if *found != tag {
            return Err(NotDer);
        }
        // Lengths in their shortest form (X.690 §10.1); no certificate of ours needs three octets.
        let (header, len) = match *rest {
            [len @ 0..=0x7f, ..] => (2, usize::from(len)),
            [0x81, len @ 0x80..=0xff, ..] => (3, usize::from(len)),
            [0x82, high @ 1..=0xff, low, ..] => (4, usize::from(high) << 8 | usize::from(low)),
            _ => return Err(NotDer),
        };
        let whole = self.0.get(..header + len).ok_or(NotDer)?;
        self.0 = &self.0[header + len..];
        Ok(Element { whole, content: &whole[header..] })
    }

    fn time(&mut self) -> Result<u64, NotDer> {
        let since = match self.0.first() {
            Some(&UTC_TIME) => UtcTime::from_der(self.take(UTC_TIME)?.whole).map(|t| t.to_unix_duration()),
            Some(&GENERALIZED_TIME) => {
                GeneralizedTime::from_der(self.take(GENERALIZED_TIME)?.whole).map(|t| t.to_unix_duration())
            }
            _ => return Err(NotDer),
        };
        since.map(|since| since.as_secs()).map_err(|_| NotDer)
    }

    fn end(&self) -> Result<(), NotDer> {
        if self.0.is_empty() { Ok(()) } else { Err(NotDer) }
    }
}

/// Writes DER backwards: a content stands before its length is written.
struct Writer<'b> {
    out: &'b mut [u8],
    start: usize,
}

impl<'b> Writer<'b> {
    fn new(out: &'b mut [u8]) -> Self {
        let start = out.len();
        Self { out, start }
    }

    fn written(&self) -> &[u8] {
        &self.out[self.start..]
    }

    fn into_written(self) -> &'b [u8] {
        &self.out[self.start..]
    }

    fn put(&mut self, octets: &[u8]) -> Result<(), NotDer> {
        let start = self.start.checked_sub(octets.len()).ok_or(NotDer)?;
        self.out[start..self.start].copy_from_slice(octets);
        self.start = start;
        Ok(())
    }

    fn wrap(&mut self, tag: u8, content: impl FnOnce(&mut Self) -> Result<(), NotDer>) -> Result<(), NotDer> {
        let end = self.start;
        content(self)?;
        match u16::try_from(end - self.start).map_err(|_| NotDer)?.to_be_bytes() {
            [0, len @ 0..=0x7f] => self.put(&[tag, len]),
            [0, len] => self.put(&[tag, 0x81, len]),
            [high, low] => self.put(&[tag, 0x82, high, low]),
        }
    }
}
