//! The filter grammar: one reader and one writer for the command line, the API and the web page.
//!
//! ```text
//! filter = term …                        all of them hold
//! term   = ["-"] key ":" value           -state:active
//!        | key "!=" value                state!=active, the same
//!        | ["-"] text                    serial, device id or certificate id begins so, or serial ends in so
//! value  = word | '"' anything '"'       product:"TH 2"
//! ```
//!
//! | key | value |
//! |---|---|
//! | `state` | states in force, by itself or by a group it is in, with commas between: `suspended,quarantined` |
//! | `tenant`, `batch`, `station`, `product` | exactly |
//! | `tag`, `group` | a tag; a group |
//! | `online` | `yes` or `no` |
//! | `seen` | `>2d`: last heard of more than two days ago; `<1h`; `never` |
//! | `expires` | `<30d`: its certificate ends within thirty days; `>1y`; `never` |
//! | `refused` | refusals in 24 hours: `>0`, `<=3`, `14` |
//! | `firmware` | `1.4.2`, `<1.4.2`, `unknown` |
//! | `serial` | begins with |
//!
//! Lengths of time are whole numbers of `s`, `m`, `h`, `d`, `w` or `y` (365 days). Other words for the same
//! things are read too and written back as ours: disabled and blocked are suspended, pending is registered,
//! thing and device are the serial, client and session are online.
//!
//! Pure: nothing here asks a clock or a database.

use std::{fmt, str::FromStr};

use muster_shared::{BatchId, StationId, Tenant};

use super::device::DeviceState;

mod read;
mod version;

#[cfg(test)]
mod tests;

pub use version::Version;

/// Most terms of a filter: each is one condition of the query.
pub const TERMS_MAX: usize = 16;
/// Longest filter, octets: an address line holds it several times.
pub const FILTER_MAX: usize = 512;
/// Longest tag, group, product or text, octets.
pub const WORD_MAX: usize = 64;

/// Which devices; empty is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// All of them hold.
    pub terms: Vec<Term>,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Whether it must not hold.
    pub not: bool,
    /// What holds.
    pub is: Is,
}

/// What holds of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Is {
    /// It is in one of these states.
    State(Vec<DeviceState>),
    /// It is this tenant's.
    Tenant(Tenant),
    /// It was made in this order.
    Batch(BatchId),
    /// It was made here.
    Station(StationId),
    /// It is one of these.
    Product(String),
    /// It has this tag; lower case.
    Tag(String),
    /// It is in this group; lower case.
    Group(String),
    /// It is connected.
    Online(bool),
    /// It was last heard of so long ago.
    Seen(Age),
    /// Its certificate ends in so long.
    Expires(Age),
    /// Refusals in 24 hours.
    Refused(Compare, u64),
    /// It reported such a version; `None`: it has reported none.
    Firmware(Option<(Compare, Version)>),
    /// Its serial begins so; lower case.
    Serial(String),
    /// Its serial, device id or certificate id begins so, or the number its serial ends in; lower case.
    Text(String),
}

/// How a value is to stand to the one that is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// Nothing before it, or `=`.
    Equal,
    /// `>=`
    MoreOrEqual,
    /// `>`
    More,
}

/// A length of time, and on which side of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// Less than so many seconds.
    Less(u64),
    /// More than so many seconds.
    More(u64),
    /// It never was, or never will be.
    Never,
}

/// What is wrong with a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{token:?}: {why}; possible: {possible}")]
pub struct FilterError {
    /// The part it is about, as it was given.
    pub token: String,
    /// Where it begins, octets from the start of the filter.
    pub at: usize,
    /// What is wrong with it.
    pub why: String,
    /// What could stand there.
    pub possible: String,
}

impl Filter {
    /// With one more condition.
    #[must_use]
    pub fn and(mut self, is: Is) -> Self {
        self.terms.push(Term { not: false, is });
        self
    }

    /// Devices of this tenant.
    #[must_use]
    pub fn of(tenant: Tenant) -> Self {
        Self::default().and(Is::Tenant(tenant))
    }

    /// Whether every device matches.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.terms.is_empty()
    }

    /// The same filter without each of its terms in turn: what may be dropped when nothing matches.
    pub fn without_one(&self) -> impl Iterator<Item = (&Term, Self)> {
        self.terms.iter().enumerate().map(|(at, term)| {
            let mut rest = self.clone();
            rest.terms.remove(at);
            (term, rest)
        })
    }
}

impl FromStr for Filter {
    type Err = FilterError;
    fn from_str(text: &str) -> Result<Self, FilterError> {
        read::filter(text)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, term) in self.terms.iter().enumerate() {
            if at > 0 {
                f.write_str(" ")?;
            }
            term.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.not {
            f.write_str("-")?;
        }
        match &self.is {
            Is::State(states) => {
                let states: Vec<_> = states.iter().map(|state| state.as_str()).collect();
                write!(f, "state:{}", states.join(","))
            }
            Is::Tenant(tenant) => write!(f, "tenant:{tenant}"),
            Is::Batch(batch) => write!(f, "batch:{batch}"),
            Is::Station(station) => write!(f, "station:{station}"),
            Is::Product(product) => write!(f, "product:{}", Quoted(product)),
            Is::Tag(tag) => write!(f, "tag:{}", Quoted(tag)),
            Is::Group(group) => write!(f, "group:{}", Quoted(group)),
            Is::Online(true) => f.write_str("online:yes"),
            Is::Online(false) => f.write_str("online:no"),
            Is::Seen(age) => write!(f, "seen:{age}"),
            Is::Expires(age) => write!(f, "expires:{age}"),
            Is::Refused(compare, count) => write!(f, "refused:{compare}{count}"),
            Is::Firmware(None) => f.write_str("firmware:unknown"),
            Is::Firmware(Some((compare, version))) => write!(f, "firmware:{compare}{version}"),
            Is::Serial(begin) => write!(f, "serial:{}", Quoted(begin)),
            Is::Text(text) => text_to(f, text),
        }
    }
}

/// A text that would be read as something else is quoted.
fn text_to(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    match read::filter(text) {
        Ok(Filter { terms }) if matches!(&*terms, [Term { not: false, is: Is::Text(same) }] if same == text) => {
            f.write_str(text)
        }
        _ => write!(f, "\"{text}\""),
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() || self.0.contains(char::is_whitespace) {
            write!(f, "\"{}\"", self.0)
        } else {
            f.write_str(self.0)
        }
    }
}

impl fmt::Display for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Equal => "",
            Self::MoreOrEqual => ">=",
            Self::More => ">",
        })
    }
}

/// Units of time, the longest first: letter and seconds.
const UNITS: [(char, u64); 6] =
    [('y', 365 * 86_400), ('w', 7 * 86_400), ('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, seconds) = match *self {
            Self::Never => return f.write_str("never"),
            Self::Less(seconds) => ('<', seconds),
            Self::More(seconds) => ('>', seconds),
        };
        // Weeks are read, and said as days.
        let said = UNITS.iter().filter(|(letter, _)| *letter != 'w');
        let unit = said.copied().find(|(_, unit)| seconds >= *unit && seconds.is_multiple_of(*unit));
        let (letter, unit) = unit.unwrap_or(('s', 1));
        write!(f, "{sign}{}{letter}", seconds / unit)
    }
}
