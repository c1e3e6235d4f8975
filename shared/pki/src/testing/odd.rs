//! Odd chains: each starts from a right one and differs in the one thing its name says.

use std::sync::Arc;

use muster_shared::factory::Subject;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType,
};

use super::{Credential, device, hierarchy as another_hierarchy, key, server};
use crate::{
    ca::Ca,
    hierarchy::Hierarchy,
    key::{Signer, SoftKey},
    ledger::{Holder, Intent},
    name,
    profile::{self, BACKDATE_S, CertificateSerial, NO_END_S, Profile, Purpose, ServerName},
};

const DAY_S: i64 = 86_400;

/// What can be wrong with a server's certificate. A device must refuse every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OddServer {
    /// Right in form, of another hierarchy.
    WrongRoot,
    /// Of the factory CA.
    FactoryIssued,
    /// Of the HTTPS CA of the same root, chain included.
    HttpsIssued,
    /// Of the operational CA of the same root, chain included.
    OperationalIssued,
    /// Signed by a device's birth key, with the device's certificate in the chain.
    DeviceAsCa,
    /// Signed by a broker leaf's key, with that leaf in the chain.
    BrokerLeafAsCa,
    /// Below an intermediate of the broker CA, whose pathLen is 0.
    TooDeep,
    /// Signed by another key under the broker CA's name.
    ForgedSignature,
    /// The broker CA signed it, under another issuer name.
    WrongIssuerName,
    /// Ended yesterday.
    Expired,
    /// Begins tomorrow.
    NotYetValid,
    /// EKU clientAuth only.
    ClientAuthOnly,
    /// keyUsage keyCertSign only.
    CertSignOnly,
    /// `CN` is the name, no SAN.
    NameInCnOnly,
    /// `CN` is the name, the SAN is another.
    NameInCnOtherSan,
    /// SAN is another name.
    WrongName,
    /// A critical extension nobody knows.
    UnknownCritical,
    /// basicConstraints CA true on the leaf.
    LeafIsCa,
    /// P-384 key.
    OtherCurve,
    /// A device's birth certificate as the server's.
    DeviceCertificate,
    /// Self-signed.
    SelfSigned,
}

/// What can be wrong with a device's certificate. The profile check or the gate must refuse every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OddDevice {
    /// Right in form, of another hierarchy.
    WrongRoot,
    /// Signed by another key under the factory CA's name and key identifier.
    ForgedSignature,
    /// Of the broker CA.
    BrokerIssued,
    /// The broker's own certificate.
    BrokerCertificate,
    /// A tenant the factory CA does not serve.
    OtherTenant,
    /// Ended yesterday (operational).
    Expired,
    /// Begins tomorrow (operational).
    NotYetValid,
    /// EKU serverAuth.
    ServerAuth,
    /// EKU clientAuth and serverAuth.
    TwoUsages,
    /// No keyUsage.
    NoKeyUsage,
    /// keyUsage not critical.
    KeyUsageNotCritical,
    /// keyUsage with keyCertSign.
    CertSign,
    /// basicConstraints, CA false.
    BasicConstraints,
    /// basicConstraints, CA true.
    LeafIsCa,
    /// A critical extension nobody knows.
    UnknownCritical,
    /// An extension nobody knows, not critical.
    UnknownExtension,
    /// A subject key identifier.
    SubjectKeyId,
    /// No authority key identifier.
    NoAuthorityKeyId,
    /// A SAN.
    Names,
    /// Two `CN`.
    TwoCommonNames,
    /// Two `O`.
    TwoTenants,
    /// No `serialNumber`.
    NoSerial,
    /// An `OU` besides.
    ExtraAttribute,
    /// `CN` as PrintableString.
    CommonNamePrintable,
    /// `serialNumber` as UTF8String.
    SerialUtf8,
    /// `CN` is `~all`.
    EveryDevice,
    /// `CN` has a slash.
    SlashInName,
    /// `CN` has a `+`.
    WildcardInName,
    /// `CN` ends in NUL.
    NulInName,
    /// `CN` of 49 octets.
    LongName,
    /// P-384 key.
    OtherCurve,
    /// Certificate serial number of 20 octets.
    LongCertificateSerial,
    /// Octets after the certificate.
    TrailingOctets,
}

/// An odd chain and the key of its leaf; the key may be of another curve.
#[derive(Clone)]
pub struct OddCredential {
    /// Leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// The leaf's private key, PKCS #8 in DER. A key of a test, known to nobody else's hierarchy.
    pub key_pkcs8: Vec<u8>,
}

/// Who has to notice that a device's certificate is odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// [`crate::DeviceIdentity::from_certificate`]: the form.
    Profile,
    /// [`crate::CaCertificate::vouches_for`] of the CA it should be of: the signature.
    Issuer,
    /// Whoever compares the tenant with the issuer's station record.
    Tenant,
    /// Whoever has a clock.
    Time,
}

impl OddServer {
    /// Every one.
    pub const ALL: &'static [OddServer] = &[
        Self::WrongRoot,
        Self::FactoryIssued,
        Self::HttpsIssued,
        Self::OperationalIssued,
        Self::DeviceAsCa,
        Self::BrokerLeafAsCa,
        Self::TooDeep,
        Self::ForgedSignature,
        Self::WrongIssuerName,
        Self::Expired,
        Self::NotYetValid,
        Self::ClientAuthOnly,
        Self::CertSignOnly,
        Self::NameInCnOnly,
        Self::NameInCnOtherSan,
        Self::WrongName,
        Self::UnknownCritical,
        Self::LeafIsCa,
        Self::OtherCurve,
        Self::DeviceCertificate,
        Self::SelfSigned,
    ];

    /// The chain a hostile server presents, right in all else: for `name`, leaf first, with the leaf's key as
    /// PKCS #8 in DER.
    ///
    /// # Panics
    /// When the system has no randomness.
    #[must_use]
    pub fn make(self, hierarchy: &Hierarchy, name: &ServerName, now_s: i64) -> OddCredential {
        let names = std::slice::from_ref(name);
        let broker = &hierarchy.broker;
        let unit = || device(hierarchy, &super::subject("MU-000666"), now_s);
        let below = |ca: &Ca| {
            let made = leaf(&server_params(ca, names, now_s), ca);
            with_issuer(made, ca.certificate().der())
        };
        match self {
            Self::WrongRoot => server(&another_hierarchy(now_s).broker, names, now_s).into(),
            Self::FactoryIssued => below(&hierarchy.stations[0].factory),
            Self::HttpsIssued => below(&hierarchy.https),
            Self::OperationalIssued => below(&hierarchy.operational),
            Self::DeviceAsCa => below_leaf(&unit(), broker, names, now_s),
            Self::BrokerLeafAsCa => below_leaf(&server(broker, names, now_s), broker, names, now_s),
            Self::TooDeep => too_deep(broker, names, now_s),
            Self::ForgedSignature => {
                let ca = broker.certificate();
                let forger = key();
                let issuer = profile::issuer_named(
                    name::ca(ca.owner(), ca.purpose(), ca.name()),
                    ca.key_id(),
                    &*forger,
                );
                signed(&server_params(broker, names, now_s), &issuer)
            }
            Self::WrongIssuerName => {
                let ca = broker.certificate();
                let other = name::ca(ca.owner(), ca.purpose(), "another CA");
                let issuer = profile::issuer_named(other, ca.key_id(), &**broker.key());
                signed(&server_params(broker, names, now_s), &issuer)
            }
            Self::DeviceCertificate => unit().into(),
            Self::SelfSigned => {
                let own = key();
                let issuer = profile::issuer_named(
                    name::other(broker.certificate().owner(), &name.to_string()),
                    own.public_key().key_id(),
                    &*own,
                );
                let params = server_params(broker, names, now_s);
                let made = params.signed_by(own.public_key(), &issuer).expect("a key in memory signs");
                Credential { chain: vec![made.der().to_vec()], key: own }.into()
            }
            Self::OtherCurve => other_curve(&server_params(broker, names, now_s), broker),
            field => {
                let mut params = server_params(broker, names, now_s);
                field.bend(&mut params, name, now_s);
                leaf(&params, broker)
            }
        }
    }

    /// Changes the one field.
    fn bend(self, params: &mut CertificateParams, name: &ServerName, now_s: i64) {
        let other = || SanType::DnsName("elsewhere.example".try_into().expect("ASCII"));
        match self {
            Self::Expired => validity(params, now_s - 20 * DAY_S, now_s - DAY_S),
            Self::NotYetValid => validity(params, now_s + DAY_S, now_s + 20 * DAY_S),
            Self::ClientAuthOnly => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }
            Self::CertSignOnly => params.key_usages = vec![KeyUsagePurpose::KeyCertSign],
            Self::NameInCnOnly => params.subject_alt_names.clear(),
            Self::NameInCnOtherSan => params.subject_alt_names = vec![other()],
            Self::WrongName => {
                params.distinguished_name.push(DnType::CommonName, "elsewhere.example");
                params.subject_alt_names = vec![other()];
            }
            Self::UnknownCritical => params.custom_extensions.push(unknown_extension(true)),
            Self::LeafIsCa => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            whole => unreachable!("{whole:?} for {name} is no matter of one field"),
        }
    }
}

impl OddDevice {
    /// Every one.
    pub const ALL: &'static [OddDevice] = &[
        Self::WrongRoot,
        Self::ForgedSignature,
        Self::BrokerIssued,
        Self::BrokerCertificate,
        Self::OtherTenant,
        Self::Expired,
        Self::NotYetValid,
        Self::ServerAuth,
        Self::TwoUsages,
        Self::NoKeyUsage,
        Self::KeyUsageNotCritical,
        Self::CertSign,
        Self::BasicConstraints,
        Self::LeafIsCa,
        Self::UnknownCritical,
        Self::UnknownExtension,
        Self::SubjectKeyId,
        Self::NoAuthorityKeyId,
        Self::Names,
        Self::TwoCommonNames,
        Self::TwoTenants,
        Self::NoSerial,
        Self::ExtraAttribute,
        Self::CommonNamePrintable,
        Self::SerialUtf8,
        Self::EveryDevice,
        Self::SlashInName,
        Self::WildcardInName,
        Self::NulInName,
        Self::LongName,
        Self::OtherCurve,
        Self::LongCertificateSerial,
        Self::TrailingOctets,
    ];

    /// Who has to notice.
    #[must_use]
    pub fn refused_by(self) -> Refused {
        match self {
            Self::WrongRoot | Self::ForgedSignature | Self::BrokerIssued => Refused::Issuer,
            Self::OtherTenant => Refused::Tenant,
            Self::Expired | Self::NotYetValid => Refused::Time,
            _ => Refused::Profile,
        }
    }

    /// The chain a hostile device presents as `subject`, right in all else: leaf, and the CA it should be of.
    ///
    /// # Panics
    /// When the system has no randomness.
    #[must_use]
    pub fn make(self, hierarchy: &Hierarchy, subject: &Subject, now_s: i64) -> OddCredential {
        let factory = &super::station_of(hierarchy, subject).factory;
        let params = device_params(factory, subject, now_s);
        match self {
            Self::WrongRoot => device(&another_hierarchy(now_s), subject, now_s).into(),
            Self::ForgedSignature => {
                let ca = factory.certificate();
                let forger = key();
                let issuer = profile::issuer_named(
                    name::ca(ca.owner(), ca.purpose(), ca.name()),
                    ca.key_id(),
                    &*forger,
                );
                with_issuer(signed(&params, &issuer), ca.der())
            }
            Self::BrokerIssued => {
                let broker = &hierarchy.broker;
                with_issuer(leaf(&params, broker), broker.certificate().der())
            }
            Self::BrokerCertificate => {
                let names = [ServerName::Dns("localhost".to_owned())];
                server(&hierarchy.broker, &names, now_s).into()
            }
            Self::OtherTenant => {
                let foreign = Subject { tenant: "foreign".parse().expect("a tenant"), ..subject.clone() };
                let params = device_params(factory, &foreign, now_s);
                with_issuer(leaf(&params, factory), factory.certificate().der())
            }
            Self::Expired | Self::NotYetValid => {
                let ca = &hierarchy.operational;
                let intent = intent(Profile::Operational, ca, Holder::Device(subject.clone()), now_s);
                let mut params = profile::leaf_params(&intent, ca.certificate().owner());
                let shift = if self == Self::Expired { -21 * DAY_S } else { DAY_S + BACKDATE_S };
                validity(&mut params, intent.not_before_s + shift, intent.not_after_s + shift);
                with_issuer(leaf(&params, ca), ca.certificate().der())
            }
            Self::OtherCurve => with_issuer(other_curve(&params, factory), factory.certificate().der()),
            Self::TrailingOctets => {
                let mut made: OddCredential = device(hierarchy, subject, now_s).into();
                made.chain[0].push(0);
                made
            }
            field => {
                let mut params = params;
                field.bend(&mut params, subject);
                with_issuer(leaf(&params, factory), factory.certificate().der())
            }
        }
    }

    /// Changes the one field.
    fn bend(self, params: &mut CertificateParams, subject: &Subject) {
        let extension = |oid: &[u64], content: &[u8], critical: bool| {
            let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
            extension.set_criticality(critical);
            extension
        };
        let device_id = subject.device_id.as_str();
        match self {
            Self::ServerAuth => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            Self::TwoUsages => {
                params.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
            }
            Self::NoKeyUsage => params.key_usages.clear(),
            Self::KeyUsageNotCritical => {
                params.key_usages.clear();
                params.custom_extensions.push(extension(&[2, 5, 29, 15], &[3, 2, 7, 0x80], false));
            }
            Self::CertSign => params.key_usages.push(KeyUsagePurpose::KeyCertSign),
            Self::BasicConstraints => params.is_ca = IsCa::ExplicitNoCa,
            Self::LeafIsCa => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            Self::UnknownCritical => params.custom_extensions.push(unknown_extension(true)),
            Self::UnknownExtension => params.custom_extensions.push(unknown_extension(false)),
            Self::SubjectKeyId => {
                let id = [&[4, 20][..], &[7; 20]].concat();
                params.custom_extensions.push(extension(&[2, 5, 29, 14], &id, false));
            }
            Self::NoAuthorityKeyId => params.use_authority_key_identifier_extension = false,
            Self::Names => {
                let name = device_id.to_ascii_lowercase().try_into().expect("an id is ASCII");
                params.subject_alt_names = vec![SanType::DnsName(name)];
            }
            Self::LongCertificateSerial => {
                params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x42; 20]));
            }
            name => name.bend_name(params, subject),
        }
    }

    /// Changes the subject.
    fn bend_name(self, params: &mut CertificateParams, subject: &Subject) {
        let again = |oid: &[u64]| DnType::CustomDnType(oid.to_vec());
        let printable =
            |text: &str| DnValue::PrintableString(text.try_into().expect("ids are PrintableString"));
        let name = &mut params.distinguished_name;
        let device_id = subject.device_id.as_str();
        match self {
            Self::TwoCommonNames => name.push(again(&[2, 5, 4, 3]), device_id),
            Self::TwoTenants => name.push(again(&[2, 5, 4, 10]), subject.tenant.as_str()),
            Self::NoSerial => {
                name.remove(again(&[2, 5, 4, 5]));
            }
            Self::ExtraAttribute => name.push(DnType::OrganizationalUnitName, "extra"),
            Self::CommonNamePrintable => name.push(DnType::CommonName, printable(device_id)),
            Self::SerialUtf8 => name.push(again(&[2, 5, 4, 5]), subject.serial.as_str()),
            Self::EveryDevice => name.push(DnType::CommonName, "~all"),
            Self::SlashInName => name.push(DnType::CommonName, "MU/000001"),
            Self::WildcardInName => name.push(DnType::CommonName, "MU-+"),
            Self::NulInName => name.push(DnType::CommonName, format!("{device_id}\0")),
            Self::LongName => name.push(DnType::CommonName, "M".repeat(49)),
            whole => unreachable!("{whole:?} is no matter of the subject"),
        }
    }
}

impl From<Credential> for OddCredential {
    fn from(right: Credential) -> Self {
        Self { key_pkcs8: right.key_pkcs8(), chain: right.chain }
    }
}

fn intent(profile: Profile, ca: &Ca, holder: Holder, now_s: i64) -> Intent {
    Intent {
        profile,
        issuer_key_id: ca.certificate().key_id(),
        certificate_serial: CertificateSerial::draw().expect("the system has randomness"),
        holder,
        spki: Vec::new(),
        not_before_s: now_s - BACKDATE_S,
        not_after_s: if profile == Profile::Birth { NO_END_S } else { now_s + 20 * DAY_S },
    }
}

fn server_params(ca: &Ca, names: &[ServerName], now_s: i64) -> CertificateParams {
    let intent = intent(Profile::Broker, ca, Holder::Server(names.to_vec()), now_s);
    profile::leaf_params(&intent, ca.certificate().owner())
}

fn device_params(ca: &Ca, subject: &Subject, now_s: i64) -> CertificateParams {
    let intent = intent(Profile::Birth, ca, Holder::Device(subject.clone()), now_s);
    profile::leaf_params(&intent, ca.certificate().owner())
}

fn issuer(ca: &Ca) -> rcgen::Issuer<'static, profile::ForRcgen<'_>> {
    let certificate = ca.certificate();
    profile::issuer(certificate.owner(), certificate.purpose(), certificate.name(), &**ca.key())
}

fn leaf(params: &CertificateParams, ca: &Ca) -> OddCredential {
    signed(params, &issuer(ca))
}

fn signed(params: &CertificateParams, issuer: &rcgen::Issuer<'_, profile::ForRcgen<'_>>) -> OddCredential {
    let own = key();
    let made = params.signed_by(own.public_key(), issuer).expect("a key in memory signs");
    Credential { chain: vec![made.der().to_vec()], key: own }.into()
}

fn with_issuer(mut made: OddCredential, issuer: &[u8]) -> OddCredential {
    made.chain.push(issuer.to_vec());
    made
}

/// A leaf whose issuer is another leaf; the chain ends below the broker CA or the factory CA.
fn below_leaf(above: &Credential, broker: &Ca, names: &[ServerName], now_s: i64) -> OddCredential {
    let subject = match name::read_device(subject_der(&above.chain[0])) {
        Ok(subject) => name::device(&subject),
        Err(_) => name::other(broker.certificate().owner(), &names[0].to_string()),
    };
    let issuer = profile::issuer_named(subject, above.key.public_key().key_id(), &*above.key);
    let mut made = signed(&server_params(broker, names, now_s), &issuer);
    made.chain.extend(above.chain.iter().cloned());
    made
}

/// A CA below the broker CA, and a leaf below that.
fn too_deep(broker: &Ca, names: &[ServerName], now_s: i64) -> OddCredential {
    let middle: Arc<SoftKey> = key();
    let ca = broker.certificate();
    let serial = CertificateSerial::draw().expect("the system has randomness");
    let params =
        profile::ca_params(ca.owner(), Purpose::Broker, "a CA too many", middle.public_key(), serial, now_s);
    let made = params.signed_by(middle.public_key(), &issuer(broker)).expect("a key in memory signs");
    let below = profile::issuer(ca.owner(), Purpose::Broker, "a CA too many", &*middle);
    with_issuer(signed(&server_params(broker, names, now_s), &below), made.der())
}

fn other_curve(params: &CertificateParams, ca: &Ca) -> OddCredential {
    let own =
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("the system has randomness");
    let made = params.signed_by(&own, &issuer(ca)).expect("a key in memory signs");
    OddCredential { chain: vec![made.der().to_vec()], key_pkcs8: own.serialize_der() }
}

fn unknown_extension(critical: bool) -> CustomExtension {
    // 1.3.6.1.4.1.32473 is set aside for documentation (RFC 5612).
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 32473, 1], vec![5, 0]);
    extension.set_criticality(critical);
    extension
}

fn validity(params: &mut CertificateParams, from_s: i64, to_s: i64) {
    params.not_before = profile::time(from_s);
    params.not_after = profile::time(to_s);
}

fn subject_der(certificate: &[u8]) -> &[u8] {
    crate::x509::Certificate::read(certificate).map(|read| read.subject).unwrap_or_default()
}
