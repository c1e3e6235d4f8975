//! Up to where a client has followed, as one opaque text: of each source and node the last number told.

use std::{collections::BTreeMap, fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// What is numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// Rows of the audit log.
    Decisions,
    /// Messages of the uplink log.
    Messages,
    /// Refusals, by the turn they were written in.
    Refusals,
}

impl Source {
    const ALL: [Self; 3] = [Self::Decisions, Self::Messages, Self::Refusals];

    /// Its word in a gap.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Decisions => "decisions",
            Self::Messages => "messages",
            Self::Refusals => "refusals",
        }
    }
}

/// Of each source and node the last number told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Cursor(BTreeMap<(Source, u64), u64>);

/// First letter of a cursor's text: its format.
const FORMAT: char = 'e';
/// Octets of a source, a node and a number.
const ENTRY: usize = 17;
/// Most entries read: three sources of more nodes than a fleet has.
const ENTRIES_MAX: usize = 192;

impl Cursor {
    /// The last number told of a node's source; `None` where this cursor knows nothing of that node.
    pub(super) fn of(&self, source: Source, node: u64) -> Option<u64> {
        self.0.get(&(source, node)).copied()
    }

    /// Whether it knows anything of the source, of any node.
    pub(super) fn has(&self, source: Source) -> bool {
        self.0.keys().any(|(of, _)| *of == source)
    }

    /// Up to there it was told.
    pub(super) fn set(&mut self, source: Source, node: u64, number: u64) {
        self.0.insert((source, node), number);
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut octets = Vec::with_capacity(self.0.len() * ENTRY);
        for ((source, node), number) in &self.0 {
            octets.push(*source as u8);
            octets.extend_from_slice(&node.to_be_bytes());
            octets.extend_from_slice(&number.to_be_bytes());
        }
        write!(f, "{FORMAT}{}", URL_SAFE_NO_PAD.encode(octets))
    }
}

/// A text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not an id that a stream has given")]
pub(super) struct NoCursor;

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let octets = text.strip_prefix(FORMAT).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let whole =
            |octets: &Vec<u8>| octets.len().is_multiple_of(ENTRY) && octets.len() <= ENTRIES_MAX * ENTRY;
        let octets = octets.filter(whole).ok_or(NoCursor)?;
        let mut cursor = Self::default();
        for entry in octets.chunks_exact(ENTRY) {
            let source = Source::ALL.into_iter().find(|source| *source as u8 == entry[0]).ok_or(NoCursor)?;
            let number = |octets: &[u8]| octets.try_into().map(u64::from_be_bytes).map_err(|_| NoCursor);
            cursor.set(source, number(&entry[1..9])?, number(&entry[9..])?);
        }
        // One text a cursor: entries in order, none twice.
        if cursor.to_string() == text { Ok(cursor) } else { Err(NoCursor) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_as_text_and_nothing_else_is_one() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.to_string().parse(), Ok(cursor.clone()));
        cursor.set(Source::Messages, 7, 9);
        cursor.set(Source::Decisions, u64::MAX, 0);
        let text = cursor.to_string();
        assert_eq!(text.parse(), Ok(cursor.clone()));
        assert_eq!(cursor.of(Source::Messages, 7), Some(9));
        assert_eq!(cursor.of(Source::Messages, 8), None);
        assert!(cursor.has(Source::Decisions) && !cursor.has(Source::Refusals));
        let octets = URL_SAFE_NO_PAD.decode(&text[1..]).unwrap();
        let swapped = format!("e{}", URL_SAFE_NO_PAD.encode([&octets[ENTRY..], &octets[..ENTRY]].concat()));
        let mut foreign = octets.clone();
        foreign[0] = 3;
        let foreign = format!("e{}", URL_SAFE_NO_PAD.encode(foreign));
        for wrong in ["", "a", "e=", "eAAAA", &text[1..], &text[..text.len() - 1], &swapped, &foreign] {
            assert_eq!(wrong.parse::<Cursor>(), Err(NoCursor), "{wrong}");
        }
    }
}
