//! What is wrong with a certificate, said field by field: for people, and as a second opinion in tests.
//!
//! It shares no code with the strict readers ([`crate::identity`], [`crate::ca`]): it reads with x509-parser.
//! The readers say yes or no and stop at the first difference; this names all of them.

use std::{collections::BTreeSet, fmt};

use x509_parser::{
    certificate::X509Certificate,
    der_parser::asn1_rs::Tag,
    extensions::{ExtendedKeyUsage, ParsedExtension},
    oid_registry::{self as oid, Oid},
    prelude::FromDer,
    x509::{X509Name, X509Version},
};

use crate::{
    key::PublicKey,
    profile::{BACKDATE_S, NO_END_S, Profile, Purpose},
};

/// What a certificate should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The certificate of a CA.
    Ca(Purpose),
    /// A leaf.
    Leaf(Profile),
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub field: &'static str,
    /// What.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.what)
    }
}

/// Everything that keeps `der` from being a certificate of this kind. Empty: nothing does.
#[must_use]
pub fn certificate(der: &[u8], kind: Kind) -> Vec<Finding> {
    let mut lint = Lint { kind, findings: Vec::new() };
    match X509Certificate::from_der(der) {
        Err(error) => lint.say("certificate", format!("not DER: {error}")),
        Ok((rest, certificate)) => {
            if !rest.is_empty() {
                lint.say("certificate", format!("{} octets follow it", rest.len()));
            }
            lint.frame(&certificate);
            lint.names(&certificate);
            lint.validity(&certificate);
            lint.extensions(&certificate);
        }
    }
    lint.findings
}

struct Lint {
    kind: Kind,
    findings: Vec<Finding>,
}

impl Lint {
    fn say(&mut self, field: &'static str, what: impl Into<String>) {
        self.findings.push(Finding { field, what: what.into() });
    }

    fn must(&mut self, holds: bool, field: &'static str, what: &str) {
        if !holds {
            self.say(field, what);
        }
    }

    fn frame(&mut self, certificate: &X509Certificate<'_>) {
        self.must(certificate.version() == X509Version::V3, "version", "not 3");
        let serial = certificate.raw_serial();
        let fits = serial.len() == 16 && (1..0x80).contains(&serial[0]);
        self.must(fits, "serial number", "not 16 octets of a positive number");
        let algorithms = [&certificate.signature_algorithm, &certificate.tbs_certificate.signature];
        for algorithm in algorithms {
            let ours =
                algorithm.algorithm == oid::OID_SIG_ECDSA_WITH_SHA256 && algorithm.parameters.is_none();
            self.must(ours, "signature algorithm", "not ecdsa-with-SHA256 without parameters");
        }
        let key = PublicKey::from_spki(certificate.public_key().raw);
        self.must(key.is_ok(), "key", "not an uncompressed point of P-256");
        let unique = certificate.issuer_uid.is_some() || certificate.subject_uid.is_some();
        self.must(!unique, "unique identifiers", "present");
    }

    fn names(&mut self, certificate: &X509Certificate<'_>) {
        let (o, ou, cn, serial) = (
            oid::OID_X509_ORGANIZATION_NAME,
            oid::OID_X509_ORGANIZATIONAL_UNIT,
            oid::OID_X509_COMMON_NAME,
            oid::OID_X509_SERIALNUMBER,
        );
        let utf8 = Tag::Utf8String;
        let expected: &[(Oid<'_>, Tag)] = match self.kind {
            Kind::Ca(_) => &[(o, utf8), (ou, utf8), (cn, utf8)],
            Kind::Leaf(Profile::Birth | Profile::Operational) => {
                &[(o, utf8), (cn, utf8), (serial, Tag::PrintableString)]
            }
            Kind::Leaf(_) => &[(o, utf8), (cn, utf8)],
        };
        self.must(
            form(certificate.subject()) == expected,
            "subject",
            "other attributes, order or string types",
        );
        match self.kind {
            Kind::Ca(purpose) => {
                let unit = certificate.subject().iter_organizational_unit().next();
                let word = unit.and_then(|unit| unit.as_str().ok());
                self.must(word == Some(purpose.word()), "subject", "OU is not the CA's purpose");
            }
            Kind::Leaf(Profile::Birth | Profile::Operational) => self.device(certificate.subject()),
            Kind::Leaf(_) => {}
        }
        self.must(form(certificate.issuer()).len() == 3, "issuer", "not O, OU, CN");
    }

    fn device(&mut self, subject: &X509Name<'_>) {
        let text = |attribute: Oid<'_>| {
            subject
                .iter_by_oid(&attribute)
                .next()
                .and_then(|value| value.as_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let tenant = text(oid::OID_X509_ORGANIZATION_NAME).parse::<muster_shared::Tenant>();
        let device = text(oid::OID_X509_COMMON_NAME).parse::<muster_shared::DeviceId>();
        let serial = text(oid::OID_X509_SERIALNUMBER).parse::<muster_shared::SerialNumber>();
        for error in [tenant.err(), device.err(), serial.err()].into_iter().flatten() {
            self.say("subject", error.to_string());
        }
    }

    fn validity(&mut self, certificate: &X509Certificate<'_>) {
        let from = certificate.validity().not_before.timestamp();
        let to = certificate.validity().not_after.timestamp();
        self.must(from <= to, "validity", "ends before it begins");
        let days = match self.kind {
            Kind::Leaf(Profile::Birth) | Kind::Ca(Purpose::Root | Purpose::Factory) => {
                return self.must(to == NO_END_S, "notAfter", "not 99991231235959Z");
            }
            Kind::Leaf(Profile::Broker) => 30,
            Kind::Leaf(Profile::StationManifest) | Kind::Ca(_) => 3650,
            Kind::Leaf(_) => 90,
        };
        let slack = if days == 30 { 0 } else { BACKDATE_S };
        self.must(to - from <= days * 86_400 + slack, "validity", &format!("longer than {days} days"));
    }

    fn extensions(&mut self, certificate: &X509Certificate<'_>) {
        let mut seen = BTreeSet::new();
        let mut present = [false; 6];
        for extension in certificate.extensions() {
            if !seen.insert(extension.oid.to_id_string()) {
                self.say("extensions", format!("{} twice", extension.oid));
            }
            let critical = |lint: &mut Self, should: bool, field| {
                lint.must(extension.critical == should, field, "of the wrong criticality");
            };
            match extension.parsed_extension() {
                ParsedExtension::KeyUsage(usage) => {
                    present[0] = true;
                    critical(self, true, "keyUsage");
                    // Bit 0 is digitalSignature, 5 keyCertSign, 6 cRLSign (RFC 5280 §4.2.1.3).
                    let flags = if matches!(self.kind, Kind::Ca(_)) { 0b110_0000 } else { 1 };
                    self.must(usage.flags == flags, "keyUsage", "other usages than the profile's");
                }
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    present[1] = true;
                    critical(self, false, "extKeyUsage");
                    self.must(Some(usage_of(usage)) == self.usage(), "extKeyUsage", "not the profile's");
                }
                ParsedExtension::BasicConstraints(basic) => {
                    present[2] = true;
                    critical(self, true, "basicConstraints");
                    let right = match self.kind {
                        Kind::Ca(purpose) => {
                            basic.ca && basic.path_len_constraint == Some(u32::from(purpose.path_len()))
                        }
                        Kind::Leaf(_) => false,
                    };
                    self.must(right, "basicConstraints", "not the profile's");
                }
                ParsedExtension::SubjectKeyIdentifier(id) => {
                    present[3] = true;
                    critical(self, false, "subjectKeyIdentifier");
                    let key = PublicKey::from_spki(certificate.public_key().raw);
                    let right = key.is_ok_and(|key| id.0 == key.key_id());
                    self.must(right, "subjectKeyIdentifier", "not the digest of the key");
                }
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    present[4] = true;
                    critical(self, false, "authorityKeyIdentifier");
                    let alone = id.authority_cert_issuer.is_none() && id.authority_cert_serial.is_none();
                    let right = alone && id.key_identifier.as_ref().is_some_and(|id| id.0.len() == 20);
                    self.must(right, "authorityKeyIdentifier", "not a key identifier of 20 octets alone");
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    present[5] = true;
                    critical(self, false, "subjectAltName");
                    self.must(!names.general_names.is_empty(), "subjectAltName", "empty");
                }
                _ => self.say("extensions", format!("{} is not of the profile", extension.oid)),
            }
        }
        self.presence(present);
    }

    fn presence(&mut self, present: [bool; 6]) {
        const NAMES: [&str; 6] = [
            "keyUsage",
            "extKeyUsage",
            "basicConstraints",
            "subjectKeyIdentifier",
            "authorityKeyIdentifier",
            "subjectAltName",
        ];
        let ca = matches!(self.kind, Kind::Ca(_));
        let server = matches!(self.kind, Kind::Leaf(Profile::Broker | Profile::Https));
        let issued = self.kind != Kind::Ca(Purpose::Root);
        let needed = [true, self.usage().is_some(), ca, ca, issued, server];
        for (name, (needed, present)) in NAMES.into_iter().zip(needed.into_iter().zip(present)) {
            match (needed, present) {
                (true, false) => self.say(name, "missing"),
                (false, true) => self.say(name, "present"),
                _ => {}
            }
        }
    }

    /// Client, server: the one usage of the profile.
    fn usage(&self) -> Option<(bool, bool)> {
        match self.kind {
            Kind::Leaf(Profile::Broker | Profile::Https) => Some((false, true)),
            Kind::Leaf(Profile::Operational | Profile::Service | Profile::Operator) => Some((true, false)),
            Kind::Leaf(Profile::Birth | Profile::StationManifest) | Kind::Ca(_) => None,
        }
    }
}

/// Client, server; both when there is any other usage, which no profile has.
fn usage_of(usage: &ExtendedKeyUsage<'_>) -> (bool, bool) {
    let more = usage.any
        || usage.code_signing
        || usage.email_protection
        || usage.time_stamping
        || usage.ocsp_signing
        || !usage.other.is_empty();
    (usage.client_auth || more, usage.server_auth || more)
}

fn form<'a>(name: &'a X509Name<'_>) -> Vec<(Oid<'a>, Tag)> {
    let single = name.iter().all(|set| set.iter().count() == 1);
    let pairs =
        name.iter_attributes().map(|attribute| (attribute.attr_type().clone(), attribute.attr_value().tag()));
    if single { pairs.collect() } else { Vec::new() }
}
