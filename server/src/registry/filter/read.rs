//! Reads a filter, token by token.

use super::{Age, Compare, FILTER_MAX, Filter, FilterError, Is, TERMS_MAX, Term, UNITS, WORD_MAX};
use crate::registry::device::DeviceState;

/// Keys as they are said when one is not known.
const KEYS: &str = "state, tenant, batch, station, product, tag, group, online, seen, expires, refused, \
                    firmware, serial, or a text without a colon";
/// Longest length of time, seconds: beyond any clock's use.
const AGE_MAX_S: u64 = 1000 * 365 * 86_400;

/// A part between spaces; spaces within quotes do not part.
struct Token<'a> {
    text: &'a str,
    at: usize,
}

impl Token<'_> {
    fn wrong(&self, why: impl Into<String>, possible: impl Into<String>) -> FilterError {
        FilterError { token: self.text.to_owned(), at: self.at, why: why.into(), possible: possible.into() }
    }
}

pub(super) fn filter(text: &str) -> Result<Filter, FilterError> {
    let whole = Token { text, at: 0 };
    if text.len() > FILTER_MAX {
        let why = format!("a filter of {} octets is too long", text.len());
        return Err(whole.wrong(why, format!("up to {FILTER_MAX} octets")));
    }
    let mut terms = Vec::new();
    for token in tokens(text)? {
        if terms.len() == TERMS_MAX {
            return Err(token.wrong("one term too many", format!("up to {TERMS_MAX} terms")));
        }
        terms.push(term(&token)?);
    }
    Ok(Filter { terms })
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, FilterError> {
    let mut tokens = Vec::new();
    let mut begin = None;
    let mut quoted = false;
    for (at, character) in text.char_indices() {
        match character {
            '"' => {
                quoted = !quoted;
                begin.get_or_insert(at);
            }
            _ if character.is_whitespace() && !quoted => {
                tokens.extend(begin.take().map(|from| Token { text: &text[from..at], at: from }));
            }
            _ if character.is_control() => {
                let token = Token { text: &text[at..], at };
                return Err(token.wrong("a control character", "letters, digits and signs"));
            }
            _ => {
                begin.get_or_insert(at);
            }
        }
    }
    if let Some(from) = begin {
        let token = Token { text: &text[from..], at: from };
        if quoted {
            return Err(token.wrong("the quote is not closed", "a second \""));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

fn term(token: &Token<'_>) -> Result<Term, FilterError> {
    let (not, rest) = match token.text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, token.text),
    };
    // What is quoted from its beginning is text, whatever is in it.
    let key_end = if rest.starts_with('"') {
        None
    } else {
        rest.find([':', '"']).filter(|at| rest.as_bytes()[*at] == b':')
    };
    let unequal = rest.find("!=").filter(|at| key_end.is_none_or(|colon| at < &colon));
    match (unequal, key_end) {
        (Some(at), _) => Ok(Term { not: !not, is: is(token, &rest[..at], &rest[at + 2..])? }),
        (None, Some(at)) => Ok(Term { not, is: is(token, &rest[..at], &rest[at + 1..])? }),
        (None, None) => Ok(Term { not, is: bare(token, rest)? }),
    }
}

/// A word without a key: a state where it is one's, a text where it is not.
fn bare(token: &Token<'_>, word: &str) -> Result<Is, FilterError> {
    let quoted = word.starts_with('"');
    let text = self::word(token, word)?;
    match state(&text).filter(|_| !quoted) {
        Some(state) => Ok(Is::State(vec![state])),
        None => Ok(Is::Text(text.to_lowercase())),
    }
}

fn is(token: &Token<'_>, key: &str, value: &str) -> Result<Is, FilterError> {
    let value = word(token, value)?;
    let id = |error: muster_shared::id::IdError| token.wrong(error.to_string(), "letters, digits, - and _");
    match key.to_ascii_lowercase().as_str() {
        "state" => states(token, &value),
        "tenant" => value.parse().map(Is::Tenant).map_err(id),
        "batch" => value.parse().map(Is::Batch).map_err(id),
        "station" => value.parse().map(Is::Station).map_err(id),
        "product" | "model" => Ok(Is::Product(value)),
        "tag" => Ok(Is::Tag(value.to_lowercase())),
        "group" => Ok(Is::Group(value.to_lowercase())),
        "online" | "session" | "client" => match value.to_ascii_lowercase().as_str() {
            "yes" | "true" => Ok(Is::Online(true)),
            "no" | "false" => Ok(Is::Online(false)),
            _ => Err(token.wrong(format!("{value:?} is neither yes nor no"), "online:yes, online:no")),
        },
        "seen" => age(token, &value).map(Is::Seen),
        "expires" => age(token, &value).map(Is::Expires),
        "refused" => {
            let (compare, number) = compare(&value);
            let wrong =
                |_| token.wrong(format!("{number:?} is no count"), "refused:>0, refused:<=3, refused:14");
            number.parse::<u32>().map(|count| Is::Refused(compare, count.into())).map_err(wrong)
        }
        "firmware" => firmware(token, &value),
        "serial" | "device" | "thing" => Ok(Is::Serial(value.to_lowercase())),
        _ => Err(token.wrong(format!("{key:?} is no key"), KEYS)),
    }
}

/// What stands after the colon, without its quotes.
fn word(token: &Token<'_>, text: &str) -> Result<String, FilterError> {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).filter(|_| text.len() > 1);
    let word = inner.unwrap_or(text);
    if word.contains('"') {
        return Err(token.wrong("a quote in the middle", "a whole value in quotes: product:\"TH 2\""));
    }
    if word.trim().is_empty() {
        return Err(token.wrong("nothing stands there", "a value after the colon, or a text"));
    }
    if word.len() > WORD_MAX {
        let why = format!("{} octets are too long", word.len());
        return Err(token.wrong(why, format!("up to {WORD_MAX} octets")));
    }
    Ok(word.to_owned())
}

fn states(token: &Token<'_>, value: &str) -> Result<Is, FilterError> {
    let mut states = Vec::new();
    for word in value.split(',') {
        let all = DeviceState::ALL.map(DeviceState::as_str).join(", ");
        let state = state(word).ok_or_else(|| token.wrong(format!("{word:?} is no state"), all))?;
        if !states.contains(&state) {
            states.push(state);
        }
    }
    Ok(Is::State(states))
}

/// Our word for a state, or another's.
fn state(word: &str) -> Option<DeviceState> {
    match word.to_ascii_lowercase().as_str() {
        "disabled" | "blocked" => Some(DeviceState::Suspended),
        "pending" => Some(DeviceState::Registered),
        word => word.parse().ok(),
    }
}

fn compare(value: &str) -> (Compare, &str) {
    let signs = [
        ("<=", Compare::LessOrEqual),
        (">=", Compare::MoreOrEqual),
        ("<", Compare::Less),
        (">", Compare::More),
        ("=", Compare::Equal),
    ];
    let found = signs.into_iter().find_map(|(sign, compare)| Some((compare, value.strip_prefix(sign)?)));
    found.unwrap_or((Compare::Equal, value))
}

fn age(token: &Token<'_>, value: &str) -> Result<Age, FilterError> {
    let possible = ">2d, <1h, <=30d, never; in s, m, h, d, w or y";
    if value.eq_ignore_ascii_case("never") {
        return Ok(Age::Never);
    }
    let (compare, span) = compare(value);
    let unit = UNITS.into_iter().find_map(|(letter, unit)| Some((span.strip_suffix(letter)?, unit)));
    let seconds = unit
        .and_then(|(number, unit)| number.parse::<u64>().ok()?.checked_mul(unit))
        .filter(|seconds| (1..=AGE_MAX_S).contains(seconds))
        .ok_or_else(|| token.wrong(format!("{span:?} is no length of time"), possible))?;
    match compare {
        // A second is finer than anything these are asked about: "at most" is said as "less than".
        Compare::Less | Compare::LessOrEqual => Ok(Age::Less(seconds)),
        Compare::More | Compare::MoreOrEqual => Ok(Age::More(seconds)),
        Compare::Equal => Err(token.wrong("more or less than that?", possible)),
    }
}

fn firmware(token: &Token<'_>, value: &str) -> Result<Is, FilterError> {
    if value.eq_ignore_ascii_case("unknown") {
        return Ok(Is::Firmware(None));
    }
    let (compare, version) = compare(value);
    let wrong = |_| {
        let possible = "numbers with dots between, such as 1.4.2 or 2.0.0-rc1; unknown";
        token.wrong(format!("{version:?} is no version"), possible)
    };
    version.parse().map(|version| Is::Firmware(Some((compare, version)))).map_err(wrong)
}
