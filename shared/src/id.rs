//! Names of things. A value of these types has been checked; compare them octet by octet.

use core::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits::{ID_MAX, SERIAL_MAX};

/// Why a text is not the id it was offered as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there.
    #[error("{what} is empty")]
    Empty {
        /// The id's kind.
        what: &'static str,
    },
    /// Longer than the kind allows.
    #[error("{what} is {len} octets long, at most {max} are allowed")]
    TooLong {
        /// The id's kind.
        what: &'static str,
        /// Octets offered.
        len: usize,
        /// Octets allowed.
        max: usize,
    },
    /// An octet outside the kind's alphabet.
    #[error("{what} has octet 0x{octet:02x} at position {at}, outside its alphabet")]
    Alphabet {
        /// The id's kind.
        what: &'static str,
        /// The first octet that does not belong.
        octet: u8,
        /// Where it stands, from 0.
        at: usize,
    },
    /// Not lower-case hexadecimal of the right length.
    #[error("{what} is not 64 lower-case hexadecimal digits")]
    Hex {
        /// The id's kind.
        what: &'static str,
    },
}

fn check(what: &'static str, text: &str, max: usize, also: &[u8]) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { what });
    }
    if text.len() > max {
        return Err(IdError::TooLong { what, len: text.len(), max });
    }
    for (at, &octet) in text.as_bytes().iter().enumerate() {
        let fits = octet.is_ascii_alphanumeric() || (at > 0 && also.contains(&octet));
        if !fits {
            return Err(IdError::Alphabet { what, octet, at });
        }
    }
    Ok(())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr, $also:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(heapless::String<{ $max }>);

        impl $name {
            /// Checks `text` and takes it as this kind of id.
            ///
            /// # Errors
            /// [`IdError`] names the first thing that is wrong.
            pub fn new(text: &str) -> Result<Self, IdError> {
                check($what, text, $max, $also)?;
                heapless::String::try_from(text)
                    .map(Self)
                    .map_err(|_| IdError::TooLong { what: $what, len: text.len(), max: $max })
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::new(text).map_err(E::custom)
                    }
                }
                from.deserialize_str(Text)
            }
        }
    };
}

text_id!(
    /// Whose fleet a device belongs to: `O` of its certificate, the first level of its topics.
    /// `[A-Za-z0-9][A-Za-z0-9_-]{0,47}`.
    Tenant, "tenant", ID_MAX, b"_-"
);
text_id!(
    /// A device's name within its tenant: `CN` of its certificate, the second level of its topics.
    /// `[A-Za-z0-9][A-Za-z0-9_-]{0,47}`; so `~all` can never be one.
    DeviceId, "device id", ID_MAX, b"_-"
);
text_id!(
    /// A production order at one station. `[A-Za-z0-9][A-Za-z0-9_-]{0,47}`.
    BatchId, "batch", ID_MAX, b"_-"
);
text_id!(
    /// A factory station. `[A-Za-z0-9][A-Za-z0-9_-]{0,47}`.
    StationId, "station", ID_MAX, b"_-"
);
text_id!(
    /// A program that takes part in the fleet's messages: `CN` of its certificate, a name of the
    /// configuration. `[A-Za-z0-9][A-Za-z0-9_-]{0,47}`.
    ServiceName, "service", ID_MAX, b"_-"
);
text_id!(
    /// The number on a device's label: `serialNumber` of its certificate, a PrintableString
    /// (X.520 §6.2.9), hence no underscore. `[A-Za-z0-9][A-Za-z0-9.-]{0,47}`.
    SerialNumber, "serial", SERIAL_MAX, b".-"
);

impl SerialNumber {
    /// Splits `MU-000118` into `MU-` and 118: the form in which a station's serial range is counted.
    /// `None` when the serial does not end in 1 to 18 decimal digits.
    #[must_use]
    pub fn split(&self) -> Option<(&str, u64)> {
        let text = self.as_str();
        let digits = text.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = text.split_at(text.len() - digits);
        match digits {
            1..=18 => number.parse().ok().map(|number| (prefix, number)),
            _ => None,
        }
    }
}

/// SHA-256 of a certificate's DER. Written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CertificateId(pub [u8; 32]);

impl CertificateId {
    /// The first eight digits, as listings show it.
    #[must_use]
    pub fn short(&self) -> heapless::String<8> {
        let mut out = heapless::String::new();
        for octet in &self.0[..4] {
            let _ = fmt::Write::write_fmt(&mut out, format_args!("{octet:02x}"));
        }
        out
    }
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateId({self})")
    }
}

impl FromStr for CertificateId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        const WRONG: IdError = IdError::Hex { what: "certificate id" };
        let digit = |d: u8| match d {
            b'0'..=b'9' => Ok(d - b'0'),
            b'a'..=b'f' => Ok(d - b'a' + 10),
            _ => Err(WRONG),
        };
        let text: &[u8; 64] = text.as_bytes().try_into().map_err(|_| WRONG)?;
        let mut id = [0; 32];
        for (octet, pair) in id.iter_mut().zip(text.chunks_exact(2)) {
            *octet = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(id))
    }
}

/// Counts the registry's decisions; a verdict belongs to one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
