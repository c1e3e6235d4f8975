//! The certificates a hostile server shows: the broker's own, and every odd one by name.

use muster_pki::{
    hierarchy::Hierarchy,
    profile::ServerName,
    testing::{self, Credential, OddServer},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

/// A chain and the key of its leaf, of whatever kind.
pub struct Identity {
    /// Leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// The leaf's key.
    pub key: KeyPair,
}

impl Identity {
    /// A chain with its key in PKCS #8.
    #[must_use]
    pub fn new(chain: Vec<Vec<u8>>, pkcs8: &[u8]) -> Self {
        Self { chain, key: KeyPair::try_from(pkcs8).expect("a key that signed a certificate can be read") }
    }

    /// The signature scheme that fits the key (RFC 8446 §4.2.3).
    #[must_use]
    pub fn scheme(&self) -> u16 {
        let algorithm = self.key.algorithm();
        if algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 {
            0x0503
        } else if algorithm == &rcgen::PKCS_RSA_SHA256 {
            0x0401
        } else if algorithm == &rcgen::PKCS_ED25519 {
            0x0807
        } else {
            super::flight::ECDSA_P256
        }
    }
}

/// Everybody in the play: a hierarchy, its broker, a device of it, and the impostors.
pub struct Cast {
    /// The hierarchy the device trusts.
    pub hierarchy: Hierarchy,
    /// The name the device asks for.
    pub name: ServerName,
    /// The time of the play, seconds since 1970.
    pub now_s: i64,
    /// The broker, as it should be.
    pub broker: Identity,
    /// Somebody who made a key and signed a certificate with it.
    pub stranger: Identity,
    /// Impostors with a key of their own and a chain with one thing wrong.
    pub impostors: Vec<(String, Identity)>,
}

impl Cast {
    /// Casts a play in `hierarchy` for devices that ask for `name`.
    #[must_use]
    pub fn new(hierarchy: Hierarchy, name: ServerName, now_s: i64) -> Self {
        let broker = identity(&testing::server(&hierarchy.broker, std::slice::from_ref(&name), now_s));
        let stranger = stranger(&name.to_string());
        let mut impostors: Vec<(String, Identity)> = OddServer::ALL
            .iter()
            .map(|odd| {
                let credential = odd.make(&hierarchy, &name, now_s);
                (format!("{odd:?}"), Identity::new(credential.chain, &credential.key_pkcs8))
            })
            .collect();
        impostors.extend(more(&hierarchy, &name, &broker));
        Self { hierarchy, name, now_s, broker, stranger, impostors }
    }

    /// The impostor of this name.
    #[must_use]
    pub fn impostor(&self, name: &str) -> &Identity {
        let found = self.impostors.iter().find(|(known, _)| known == name);
        &found.expect("attacks name impostors of the cast").1
    }
}

/// A credential of the public-key code as an identity.
#[must_use]
pub fn identity(credential: &Credential) -> Identity {
    let key = credential.key.expose_secret().expect("a key in memory can be encoded");
    Identity::new(credential.chain.clone(), &key)
}

fn stranger(name: &str) -> Identity {
    let key = generate();
    let certificate = server(&[name]).self_signed(&key).expect("a key in memory signs");
    Identity { chain: vec![certificate.der().to_vec()], key }
}

fn generate() -> KeyPair {
    KeyPair::generate().expect("the generator of the host works")
}

/// Odd chains that only an attacker would think of: other key kinds, names with wildcards, piles of CAs.
fn more(hierarchy: &Hierarchy, name: &ServerName, broker: &Identity) -> Vec<(String, Identity)> {
    let ca = &hierarchy.broker;
    let key = ca.key().expose_secret().expect("a key in memory can be encoded");
    let key = KeyPair::try_from(key.as_slice()).expect("a P-256 key in PKCS #8 can be read");
    let ca_der = ca.certificate().der().to_vec();
    let issuer = Issuer::from_ca_cert_der(&ca_der.clone().into(), key).expect("the broker CA is a CA");
    let leaf = |names: &[&str], key: KeyPair| {
        let chain = vec![signed(&server(names), &key, &issuer)];
        Identity { chain, key }
    };
    let name = name.to_string();
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("the generator of the host works");
    let edwards = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("the generator of the host works");
    let mut odd = vec![
        ("Rsa".to_owned(), leaf(&[&name], rsa)),
        ("Ed25519".to_owned(), leaf(&[&name], edwards)),
        ("WildcardName".to_owned(), leaf(&["*"], generate())),
        ("WildcardBelow".to_owned(), leaf(&[&format!("*.{name}")], generate())),
        ("NameBelow".to_owned(), leaf(&[&format!("broker.{name}")], generate())),
        ("NameWithNul".to_owned(), leaf(&[&format!("{name}\0.example")], generate())),
        ("NoNames".to_owned(), leaf(&[], generate())),
    ];
    odd.push(("PileOfIssuers".to_owned(), pile(ca.certificate().der(), &name)));
    let mut broken = broker.chain[0].clone();
    broken.truncate(broken.len() / 2);
    odd.push(("HalfCertificate".to_owned(), Identity { chain: vec![broken], key: generate() }));
    let garbage = (0..600_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    odd.push(("Garbage".to_owned(), Identity { chain: vec![garbage], key: generate() }));
    odd.push(("EmptyCertificate".to_owned(), Identity { chain: vec![Vec::new()], key: generate() }));
    odd
}

/// A leaf under nine CAs of one name and key, all of them forged in the broker CA's name: each costs a
/// verifier that tries them a signature check before it knows anybody. They fill one record.
fn pile(broker_ca: &[u8], name: &str) -> Identity {
    let forger = Issuer::from_ca_cert_der(&broker_ca.into(), generate()).expect("the broker CA is a CA");
    let issuer_key = generate();
    let mut params = CertificateParams::default();
    params.distinguished_name = named("issuer");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let cas: Vec<Vec<u8>> = (0..9_u64)
        .map(|n| {
            params.serial_number = Some(n.into());
            signed(&params, &issuer_key, &forger)
        })
        .collect();
    let issuer = Issuer::new(params, issuer_key);
    let key = generate();
    let leaf = signed(&server(&[name]), &key, &issuer);
    Identity { chain: [vec![leaf], cas].concat(), key }
}

fn signed(params: &CertificateParams, key: &KeyPair, issuer: &Issuer<'_, impl rcgen::SigningKey>) -> Vec<u8> {
    params.signed_by(key, issuer).expect("a key in memory signs").der().to_vec()
}

fn server(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("broker");
    params.subject_alt_names = names
        .iter()
        .map(|name| SanType::DnsName((*name).try_into().expect("test names are IA5 text")))
        .collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
