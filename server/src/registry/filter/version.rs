//! Versions of firmware, in an order a database keeps: by number, not by letter.

use std::{fmt, str::FromStr};

/// Most numbers of a version.
const PARTS_MAX: usize = 4;
/// Longest version, octets: what a device may report.
const VERSION_MAX: usize = 32;

/// Numbers with dots between and perhaps a pre-release after a dash: `1.4.2`, `2.0.0-rc1`. `1.4` and `1.4.0`
/// are the same version; a pre-release comes before its release.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(String);

/// A text is not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version")]
pub struct VersionError(String);

impl Version {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A text whose order, octet by octet, is the order of versions: ten digits a number, and after them
    /// `~` for a release, which comes after the `-` of what led to it.
    #[must_use]
    pub fn key(&self) -> String {
        let (numbers, before) = split(&self.0);
        let mut key = String::new();
        let numbers = numbers.split('.').map(|number| number.parse::<u32>().unwrap_or(u32::MAX));
        for number in numbers.chain(std::iter::repeat(0)).take(PARTS_MAX) {
            key.push_str(&format!("{number:010}"));
        }
        match before {
            Some(before) => key.push_str(&format!("-{before}")),
            None => key.push('~'),
        }
        key
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('-') {
        Some((numbers, before)) => (numbers, Some(before)),
        None => (text, None),
    }
}

impl FromStr for Version {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let (numbers, before) = split(text);
        let number =
            |part: &str| part.bytes().all(|octet| octet.is_ascii_digit()) && part.parse::<u32>().is_ok();
        let letter = |octet: u8| octet.is_ascii_alphanumeric() || b".-_+".contains(&octet);
        let good = text.len() <= VERSION_MAX
            && numbers.split('.').count() <= PARTS_MAX
            && numbers.split('.').all(number)
            && before.is_none_or(|before| !before.is_empty() && before.bytes().all(letter));
        if good { Ok(Self(text.to_owned())) } else { Err(VersionError(text.to_owned())) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
