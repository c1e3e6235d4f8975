//! The frame every certificate of ours has, read strictly: version 3, ecdsa-with-SHA256, one key, extensions
//! each at most once. What the fields must be is the business of the profile's reader.

use crate::{
    der::{self, Der, NotDer, tag},
    profile::CertificateSerial,
};

/// AlgorithmIdentifier of ecdsa-with-SHA256, without parameters (RFC 5758 §3.2).
pub(crate) const ECDSA_WITH_SHA256: &[u8] =
    &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// basicConstraints, 2.5.29.19.
pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
/// keyUsage, 2.5.29.15.
pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
/// extKeyUsage, 2.5.29.37.
pub(crate) const EXT_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// subjectAltName, 2.5.29.17.
pub(crate) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// subjectKeyIdentifier, 2.5.29.14.
pub(crate) const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
/// authorityKeyIdentifier, 2.5.29.35.
pub(crate) const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];

/// Contents of keyUsage: digitalSignature alone.
pub(crate) const DIGITAL_SIGNATURE: &[u8] = &[0x03, 0x02, 0x07, 0x80];
/// Contents of keyUsage: keyCertSign and cRLSign.
pub(crate) const CERT_AND_CRL_SIGN: &[u8] = &[0x03, 0x02, 0x01, 0x06];
/// Contents of extKeyUsage: id-kp-clientAuth alone.
pub(crate) const CLIENT_AUTH: &[u8] =
    &[0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
/// Contents of extKeyUsage: id-kp-serverAuth alone.
pub(crate) const SERVER_AUTH: &[u8] =
    &[0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];

/// A field that is not as it must be, and why.
pub(crate) type Wrong = (&'static str, &'static str);

/// A certificate's fields.
#[derive(Debug, Clone)]
pub(crate) struct Certificate<'a> {
    /// What is signed.
    pub(crate) tbs: &'a [u8],
    pub(crate) serial: CertificateSerial,
    /// Name, DER.
    pub(crate) issuer: &'a [u8],
    pub(crate) not_before_s: i64,
    pub(crate) not_after_s: i64,
    /// Name, DER.
    pub(crate) subject: &'a [u8],
    /// SubjectPublicKeyInfo, DER.
    pub(crate) spki: &'a [u8],
    pub(crate) extensions: Vec<Extension<'a>>,
    /// ECDSA-Sig-Value, DER.
    pub(crate) signature: &'a [u8],
}

/// One extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extension<'a> {
    pub(crate) oid: &'a [u8],
    pub(crate) critical: bool,
    pub(crate) value: &'a [u8],
}

impl<'a> Certificate<'a> {
    pub(crate) fn read(octets: &'a [u8]) -> Result<Self, Wrong> {
        let frame = || {
            let mut outer = Der::new(octets);
            let mut certificate = outer.inside(tag::SEQUENCE)?;
            outer.end()?;
            let tbs = certificate.element(tag::SEQUENCE)?;
            let algorithm = certificate.element(tag::SEQUENCE)?;
            let signature = certificate.value(tag::BIT_STRING)?;
            certificate.end()?;
            Ok((tbs, algorithm.whole, signature))
        };
        let (tbs, algorithm, signature) =
            frame().map_err(|_: NotDer| ("certificate", "not one DER certificate, or octets follow it"))?;
        let Some((0, signature)) = signature.split_first() else {
            return Err(("signature", "not a whole number of octets"));
        };
        let mut body = Der::new(tbs.value);
        let field = |name: &'static str| move |_: NotDer| (name, "missing or malformed");
        if body.value(tag::CONTEXT_0).map_err(field("version"))? != [0x02, 0x01, 0x02] {
            return Err(("version", "not 3"));
        }
        let serial = body.value(tag::INTEGER).map_err(field("serial number"))?;
        let serial = serial.try_into().ok().and_then(CertificateSerial::new);
        let serial = serial.ok_or(("serial number", "not 16 octets of a positive number"))?;
        let inner = body.element(tag::SEQUENCE).map_err(field("signature algorithm"))?.whole;
        if inner != ECDSA_WITH_SHA256 || algorithm != ECDSA_WITH_SHA256 {
            return Err(("signature algorithm", "not ecdsa-with-SHA256 in both places"));
        }
        let issuer = body.element(tag::SEQUENCE).map_err(field("issuer"))?.whole;
        let mut validity = body.inside(tag::SEQUENCE).map_err(field("validity"))?;
        let not_before_s = der::time(&mut validity).map_err(field("notBefore"))?;
        let not_after_s = der::time(&mut validity).map_err(field("notAfter"))?;
        validity.end().map_err(field("validity"))?;
        if not_before_s > not_after_s {
            return Err(("validity", "ends before it begins"));
        }
        let subject = body.element(tag::SEQUENCE).map_err(field("subject"))?.whole;
        let spki = body.element(tag::SEQUENCE).map_err(field("key"))?.whole;
        let extensions = extensions(&mut body)?;
        body.end().map_err(|_| ("certificate", "fields after the extensions, or unique identifiers"))?;
        Ok(Self {
            tbs: tbs.whole,
            serial,
            issuer,
            not_before_s,
            not_after_s,
            subject,
            spki,
            extensions,
            signature,
        })
    }

    /// The contents of an extension that must be there with this criticality.
    pub(crate) fn required(&self, oid: &[u8], name: &'static str, critical: bool) -> Result<&'a [u8], Wrong> {
        match self.extensions.iter().find(|extension| extension.oid == oid) {
            None => Err((name, "missing")),
            Some(found) if found.critical != critical => Err((name, "of the wrong criticality")),
            Some(found) => Ok(found.value),
        }
    }

    /// No other extensions than these.
    pub(crate) fn only(&self, known: &[&[u8]]) -> Result<(), Wrong> {
        match self.extensions.iter().find(|extension| !known.contains(&extension.oid)) {
            None => Ok(()),
            Some(Extension { critical: true, .. }) => Err(("extensions", "an unexpected critical one")),
            Some(_) => Err(("extensions", "one the profile does not have")),
        }
    }

    /// The key identifier of the issuer: keyIdentifier alone, 20 octets.
    pub(crate) fn authority_key_id(&self) -> Result<[u8; 20], Wrong> {
        const NAME: &str = "authorityKeyIdentifier";
        match self.required(AUTHORITY_KEY_ID, NAME, false)? {
            [0x30, 0x16, 0x80, 0x14, id @ ..] => id.try_into().map_err(|_| (NAME, "not 20 octets alone")),
            _ => Err((NAME, "not a key identifier of 20 octets alone")),
        }
    }
}

fn extensions<'a>(body: &mut Der<'a>) -> Result<Vec<Extension<'a>>, Wrong> {
    let mut read = || {
        let mut outer = body.inside(tag::CONTEXT_3)?;
        let mut list = outer.inside(tag::SEQUENCE)?;
        outer.end()?;
        let mut out = Vec::with_capacity(4);
        while !list.is_empty() {
            let mut extension = list.inside(tag::SEQUENCE)?;
            let oid = extension.value(tag::OID)?;
            // FALSE is the default and so is never written in DER (X.690 §11.5).
            let critical = match extension.optional(tag::BOOLEAN)? {
                None => false,
                Some([0xff]) => true,
                Some(_) => return Err(NotDer),
            };
            let value = extension.value(tag::OCTET_STRING)?;
            extension.end()?;
            out.push(Extension { oid, critical, value });
        }
        Ok(out)
    };
    let list: Vec<Extension<'a>> = read().map_err(|_| ("extensions", "missing or malformed"))?;
    for (at, extension) in list.iter().enumerate() {
        if list[..at].iter().any(|before| before.oid == extension.oid) {
            return Err(("extensions", "one of them twice"));
        }
    }
    Ok(list)
}
