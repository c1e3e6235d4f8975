//! Names in certificates: a device's subject, a CA's, a leaf's. Writer and reader together; the reader takes
//! what the writer writes and nothing else.
//!
//! ```text
//! device   O=tenant (UTF8String)  CN=device_id (UTF8String)  serialNumber=serial (PrintableString)
//! CA       O=owner  (UTF8String)  OU=purpose   (UTF8String)  CN=name (UTF8String)
//! other    O=owner  (UTF8String)  CN=name      (UTF8String)
//! ```

use muster_shared::factory::Subject;
use rcgen::{DistinguishedName, DnType, DnValue};

use crate::{
    der::{Der, tag},
    profile::Purpose,
};

/// `O`, 2.5.4.10.
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
/// `OU`, 2.5.4.11.
const UNIT: &[u8] = &[0x55, 0x04, 0x0b];
/// `CN`, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// `serialNumber`, 2.5.4.5.
const SERIAL: &[u8] = &[0x55, 0x04, 0x05];
const SERIAL_OID: &[u64] = &[2, 5, 4, 5];
/// Longest `O`, `OU` and `CN` (RFC 5280 appendix A: ub-organization-name, ub-common-name).
pub(crate) const TEXT_MAX: usize = 64;

/// A device's subject.
pub(crate) fn device(subject: &Subject) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, subject.tenant.as_str());
    name.push(DnType::CommonName, subject.device_id.as_str());
    let serial = rcgen::string::PrintableString::try_from(subject.serial.as_str())
        .expect("the alphabet of serials lies within PrintableString");
    name.push(DnType::CustomDnType(SERIAL_OID.to_vec()), DnValue::PrintableString(serial));
    name
}

/// Reads a device's subject; says what is wrong with it.
pub(crate) fn read_device(name: &[u8]) -> Result<Subject, &'static str> {
    let attributes = attributes(name)?;
    let mut seen = [None; 3];
    for attribute in &attributes {
        let (at, form) = match attribute.oid {
            ORGANIZATION => (0, tag::UTF8),
            COMMON_NAME => (1, tag::UTF8),
            SERIAL => (2, tag::PRINTABLE),
            _ => return Err("an attribute besides O, CN and serialNumber"),
        };
        if attribute.tag != form {
            return Err("a value of another string type than the profile's");
        }
        if seen[at].replace(attribute.text).is_some() {
            return Err("an attribute twice");
        }
    }
    let [Some(tenant), Some(device_id), Some(serial)] = seen else {
        return Err("O, CN or serialNumber is missing");
    };
    if !matches!(&attributes[..], [a, b, _] if a.oid == ORGANIZATION && b.oid == COMMON_NAME) {
        return Err("attributes in another order than O, CN, serialNumber");
    }
    Ok(Subject {
        tenant: tenant.parse().map_err(|_| "O is not a tenant")?,
        device_id: device_id.parse().map_err(|_| "CN is not a device id")?,
        serial: serial.parse().map_err(|_| "serialNumber is not a serial")?,
    })
}

/// A CA's name.
pub(crate) fn ca(owner: &str, purpose: Purpose, name: &str) -> DistinguishedName {
    let mut out = DistinguishedName::new();
    out.push(DnType::OrganizationName, owner);
    out.push(DnType::OrganizationalUnitName, purpose.word());
    out.push(DnType::CommonName, name);
    out
}

/// Reads a CA's name: owner, purpose, name.
pub(crate) fn read_ca(name: &[u8]) -> Result<(String, Purpose, String), &'static str> {
    let attributes = attributes(name)?;
    let [owner, unit, common] = &attributes[..] else {
        return Err("name is not O, OU, CN");
    };
    if (owner.oid, unit.oid, common.oid) != (ORGANIZATION, UNIT, COMMON_NAME)
        || attributes.iter().any(|attribute| attribute.tag != tag::UTF8)
    {
        return Err("name is not O, OU, CN");
    }
    let purpose = Purpose::from_word(unit.text).ok_or("OU is no purpose of a CA")?;
    Ok((owner.text.to_owned(), purpose, common.text.to_owned()))
}

/// The name of a server, a service, a person or a station.
pub(crate) fn other(owner: &str, name: &str) -> DistinguishedName {
    let mut out = DistinguishedName::new();
    out.push(DnType::OrganizationName, owner);
    out.push(DnType::CommonName, name);
    out
}

/// Reads such a name: owner and name.
pub(crate) fn read_other(name: &[u8]) -> Result<(&str, &str), &'static str> {
    match &attributes(name)?[..] {
        [o, cn]
            if o.oid == ORGANIZATION
                && cn.oid == COMMON_NAME
                && o.tag == tag::UTF8
                && cn.tag == tag::UTF8 =>
        {
            Ok((o.text, cn.text))
        }
        _ => Err("name is not O, CN"),
    }
}

/// Is this text fit for `O` or `CN`?
pub(crate) fn fits(text: &str) -> bool {
    !text.is_empty()
        && text.chars().count() <= TEXT_MAX
        && !text.chars().any(char::is_control)
        && text.trim() == text
}

struct Attribute<'a> {
    oid: &'a [u8],
    tag: u8,
    text: &'a str,
}

/// The attributes of a name, each in a set of its own.
fn attributes(name: &[u8]) -> Result<Vec<Attribute<'_>>, &'static str> {
    const MALFORMED: &str = "name is not DER, or has a set of several attributes";
    let read = || {
        let mut outer = Der::new(name);
        let mut sets = outer.inside(tag::SEQUENCE)?;
        outer.end()?;
        let mut out = Vec::with_capacity(3);
        while !sets.is_empty() {
            let mut set = sets.inside(tag::SET)?;
            let mut pair = set.inside(tag::SEQUENCE)?;
            set.end()?;
            let (oid, value) = (pair.value(tag::OID)?, pair.any()?);
            pair.end()?;
            out.push((oid, value));
        }
        Ok(out)
    };
    let read: Result<Vec<_>, crate::der::NotDer> = read();
    read.map_err(|_| MALFORMED)?
        .into_iter()
        .map(|(oid, value)| {
            let text = std::str::from_utf8(value.value).map_err(|_| "a value that is not text")?;
            Ok(Attribute { oid, tag: value.tag, text })
        })
        .collect()
}
