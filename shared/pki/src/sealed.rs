//! Signed lines: what a station record and a manifest have in common.
//!
//! ```text
//! body     lines of JSON, each ended by "\n"
//! seal     {"signer":"<SHA-256 of the SubjectPublicKeyInfo, hex>","signature":"<ECDSA in DER, hex>"}"\n"
//! ```
//!
//! The signature is over `context ‖ body`; the digest of a document is SHA-256 of the same, so that it names
//! what was said and not how it was signed. Each line has one spelling: it is read, written again and
//! compared, so there is no second text with the same meaning.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::key::{KeyError, PublicKey, Signer};

/// Why octets are not signed lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotSealed {
    /// From 1.
    pub(crate) line: usize,
    pub(crate) why: &'static str,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    signer: String,
    signature: String,
}

/// Signed lines whose signature is yet to be checked.
#[derive(Debug, Clone)]
pub(crate) struct Sealed<'a> {
    context: &'static [u8],
    body: &'a str,
    pub(crate) signer: [u8; 32],
    signature: Vec<u8>,
}

/// Writes a line.
pub(crate) fn line(fields: &impl Serialize) -> String {
    let mut line = serde_json::to_string(fields).expect("structs of strings and numbers are JSON");
    line.push('\n');
    line
}

/// Reads a line that has exactly one spelling.
pub(crate) fn read_line<T: Serialize + DeserializeOwned>(text: &str) -> Result<T, &'static str> {
    let fields: T = serde_json::from_str(text).map_err(|_| "not JSON, a field too many, or one missing")?;
    if line(&fields).strip_suffix('\n') == Some(text) { Ok(fields) } else { Err("not in its one spelling") }
}

/// Signs `body` (whole lines) and puts the seal below it.
pub(crate) fn seal(context: &'static [u8], body: String, key: &dyn Signer) -> Result<Vec<u8>, KeyError> {
    debug_assert!(body.ends_with('\n'), "a body is whole lines");
    let signature = key.sign(&message(context, &body))?;
    let seal = Seal { signer: hex(&key.public_key().digest()), signature: hex(&signature) };
    Ok((body + &line(&seal)).into_bytes())
}

/// Takes the seal off. Nothing is checked yet but its form.
pub(crate) fn open<'a>(context: &'static [u8], octets: &'a [u8]) -> Result<Sealed<'a>, NotSealed> {
    let text = std::str::from_utf8(octets).map_err(|_| NotSealed { line: 1, why: "not text" })?;
    let lines = text.bytes().filter(|&octet| octet == b'\n').count();
    let wrong = |why| NotSealed { line: lines.max(1), why };
    let whole = text.strip_suffix('\n').ok_or(wrong("does not end in a line end: cut short"))?;
    let (body, last) = match whole.rsplit_once('\n') {
        Some((body, last)) => (&text[..=body.len()], last),
        None => return Err(wrong("one line only: cut short")),
    };
    let seal: Seal = read_line(last).map_err(|_| wrong("the last line is not a signature: cut short"))?;
    let signer = unhex(&seal.signer).and_then(|digest| digest.try_into().ok());
    Ok(Sealed {
        context,
        body,
        signer: signer.ok_or(wrong("the signer is not a SHA-256 in hexadecimal"))?,
        signature: unhex(&seal.signature).ok_or(wrong("the signature is not hexadecimal"))?,
    })
}

impl<'a> Sealed<'a> {
    /// The lines above the seal, with their numbers from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &'a str)> {
        self.body.split_terminator('\n').enumerate().map(|(at, line)| (at + 1, line))
    }

    /// SHA-256 of what is signed.
    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::digest(message(self.context, self.body)).into()
    }

    /// Is it `key` who signed?
    pub(crate) fn verify(&self, key: &PublicKey) -> Result<(), KeyError> {
        if key.digest() != self.signer {
            return Err(KeyError::WrongSignature);
        }
        key.verify(&message(self.context, self.body), &self.signature)
    }
}

fn message(context: &[u8], body: &str) -> Vec<u8> {
    [context, body.as_bytes()].concat()
}

/// Lower-case hexadecimal.
pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::with_capacity(2 * octets.len()), |mut out, octet| {
        out.push(char::from_digit(u32::from(octet >> 4), 16).expect("below 16"));
        out.push(char::from_digit(u32::from(octet & 15), 16).expect("below 16"));
        out
    })
}

/// Reads lower-case hexadecimal.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |octet: u8| match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'a'..=b'f' => Some(octet - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// Milliseconds since 1970 as RFC 3339 in UTC with milliseconds.
pub(crate) fn time_text(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", at.unwrap_or(jiff::Timestamp::MAX))
}

/// Reads such a time.
pub(crate) fn read_time(text: &str) -> Option<u64> {
    let at: jiff::Timestamp = text.parse().ok()?;
    let at_ms = u64::try_from(at.as_millisecond()).ok()?;
    (time_text(at_ms) == text).then_some(at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_one_spelling() {
        assert_eq!(time_text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(read_time("2026-11-22T14:02:11.045Z"), Some(1_795_356_131_045));
        for text in ["2026-11-22T14:02:11Z", "2026-11-22T14:02:11.045+00:00", "2026-11-22t14:02:11.045Z", ""]
        {
            assert_eq!(read_time(text), None, "{text}");
        }
    }

    #[test]
    fn hexadecimal_is_lower_case_and_whole() {
        assert_eq!(unhex(&hex(&[0, 1, 0xab, 0xff])), Some(vec![0, 1, 0xab, 0xff]));
        for text in ["0", "AB", "0g", "é"] {
            assert_eq!(unhex(text), None, "{text}");
        }
    }
}
