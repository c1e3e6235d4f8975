//! Listings that the server gives whole, and batches by what no index has: filtered, ordered and cut here, in the
//! grammar of `device list`.
//!
//! A filter's words are the names of the fields in `--json`: `role:viewer`, `devices:>100`, `-station:S-07`,
//! `removed_at:none`; a word alone is the beginning of one of its words. So what can be asked for is what can be
//! seen.

use std::cmp::Ordering;

use muster_shared::Code;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    Done,
    args::Narrow,
    client::{Client, read},
    device::pages,
    screen::Screen,
    table::{self, About, Column},
    watch::{self, Watched},
};
use crate::api::{error::Problem, view::Page};

/// Most lines read from the server.
const LINES_MAX: u32 = 1_000_000;

/// A listing.
pub(super) struct Whole<T: 'static> {
    pub(super) path: &'static str,
    pub(super) noun: &'static str,
    pub(super) columns: &'static [Column<T>],
    /// What a line is known by: `--after` takes it.
    pub(super) name: fn(&T) -> String,
    pub(super) empty: &'static str,
}

impl<T: DeserializeOwned> Whole<T> {
    pub(super) fn run(&self, narrow: &Narrow, client: &Client, screen: &Screen) -> Result<Done, Problem> {
        if narrow.watch {
            let watched = Watched {
                path: self.path,
                query: "",
                after: None,
                limit: narrow.limit,
                narrow: Some(narrow),
                columns: self.columns,
                name: self.name,
            };
            return watch::run(&watched, client, screen);
        }
        let (document, total) = document(self.path, narrow, self.name, client)?;
        let page: Page<T> = read(&document)?;
        let about = About {
            noun: self.noun,
            total: Some(total),
            filter: narrow.filter.as_deref(),
            next: page.next.as_deref(),
            empty: self.empty,
        };
        table::print(screen, &document, &page.items, self.columns, &about);
        Ok(Done::Well)
    }
}

/// What the server gives, narrowed; and how many lines match.
pub(super) fn document<T: DeserializeOwned>(
    path: &str,
    narrow: &Narrow,
    name: fn(&T) -> String,
    client: &Client,
) -> Result<(Value, u64), Problem> {
    // What is wrong with it is said without a look at the server.
    let terms = terms(narrow.filter.as_deref().unwrap_or_default())?;
    let mut document = pages(client, path, "", None, LINES_MAX)?;
    let items = document["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let fields: Vec<String> =
        items.first().and_then(Value::as_object).map(|of| of.keys().cloned().collect()).unwrap_or_default();
    let asked = terms.iter().filter_map(|term| term.field.as_deref()).chain(narrow.sort.as_deref().map(bare));
    if let Some(unknown) =
        asked.into_iter().find(|field| !items.is_empty() && !fields.iter().any(|of| of == field))
    {
        return Err(wrong(
            unknown,
            format!("a line has no field of this name; it has {}", fields.join(", ")),
        ));
    }
    let mut items: Vec<Value> =
        items.into_iter().filter(|item| terms.iter().all(|term| term.holds(item))).collect();
    if let Some(sort) = &narrow.sort {
        items.sort_by(|one, other| {
            let order = compared(&one[bare(sort)], &other[bare(sort)]);
            if sort.starts_with('-') { order.reverse() } else { order }
        });
    }
    let total = items.len() as u64;
    let names =
        items.iter().map(|item| read(item).map(|item: T| name(&item))).collect::<Result<Vec<_>, _>>()?;
    let begin = match &narrow.after {
        None => 0,
        Some(after) => {
            let unknown = || {
                wrong(after, "no line is called so: --after takes what the page before ended with".to_owned())
            };
            names.iter().position(|name| name == after).ok_or_else(unknown)? + 1
        }
    };
    let end = (begin + narrow.limit as usize).min(items.len());
    document["next"] = if end < items.len() { json!(names[end - 1]) } else { Value::Null };
    document["items"] = items.drain(begin..end).collect();
    Ok((document, total))
}

/// A sort's field, without its sign.
fn bare(sort: &str) -> &str {
    sort.trim_start_matches('-')
}

fn wrong(token: &str, why: String) -> Problem {
    Problem::new(Code::UsageWrong)
        .what(format!("{token:?} cannot be asked for here"))
        .at("--filter, --sort or --after")
        .because(why)
        .next("the fields are those of -o json")
}

/// One part of a filter.
#[derive(Debug, PartialEq, Eq)]
struct Term {
    not: bool,
    /// `None`: any of them.
    field: Option<String>,
    value: String,
}

/// Parts between spaces; a value with spaces stands in quotes.
fn terms(filter: &str) -> Result<Vec<Term>, Problem> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in filter.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    if quoted {
        return Err(wrong(filter, "a quote is not closed".to_owned()));
    }
    words.push(word);
    let term = |word: &String| {
        let (not, rest) = word.strip_prefix('-').map_or((false, word.as_str()), |rest| (true, rest));
        let (field, value) = match rest.split_once(':') {
            Some((field, value)) => (Some(field.to_owned()), value),
            None => (None, rest),
        };
        if value.is_empty() {
            return Err(wrong(word, "a value is wanted, such as role:viewer".to_owned()));
        }
        Ok(Term { not, field, value: value.to_lowercase() })
    };
    words.iter().filter(|word| !word.is_empty()).map(term).collect()
}

impl Term {
    fn holds(&self, item: &Value) -> bool {
        let found = match &self.field {
            Some(field) => is(&item[field.as_str()], &self.value),
            None => item.as_object().is_some_and(|of| of.values().any(|value| begins(value, &self.value))),
        };
        found != self.not
    }
}

/// `>100`, `<=3`, `none`, or the whole value.
fn is(value: &Value, wanted: &str) -> bool {
    for (sign, holds) in [
        (">=", Ordering::is_ge as fn(Ordering) -> bool),
        ("<=", Ordering::is_le),
        (">", Ordering::is_gt),
        ("<", Ordering::is_lt),
    ] {
        if let Some(bound) = wanted.strip_prefix(sign) {
            return match (value, bound.parse::<f64>()) {
                (Value::Number(number), Ok(bound)) => {
                    number.as_f64().and_then(|number| number.partial_cmp(&bound)).is_some_and(holds)
                }
                // An instant: its text is in its order.
                (Value::String(text), _) => holds(text.to_lowercase().as_str().cmp(bound)),
                _ => false,
            };
        }
    }
    match value {
        Value::Null => wanted == "none",
        Value::String(text) => text.to_lowercase() == wanted,
        Value::Bool(is) => wanted == if *is { "true" } else { "false" },
        Value::Number(is) => wanted.parse().is_ok_and(|wanted| is.as_f64() == Some(wanted)),
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// One of its words begins so.
fn begins(value: &Value, with: &str) -> bool {
    let Value::String(text) = value else { return false };
    let text = text.to_lowercase();
    text.starts_with(with) || text.split([' ', '/']).any(|word| word.starts_with(with))
}

/// Numbers by their size, everything else as text; what is not known comes last.
fn compared(one: &Value, other: &Value) -> Ordering {
    match (one, other) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Greater,
        (_, Value::Null) => Ordering::Less,
        (Value::Number(one), Value::Number(other)) => {
            one.as_f64().partial_cmp(&other.as_f64()).unwrap_or(Ordering::Equal)
        }
        (Value::String(one), Value::String(other)) => one.cmp(other),
        (one, other) => one.to_string().cmp(&other.to_string()),
    }
}

/// The parts of a filter that the server itself looks for, each by one of these names; a flag of the same name
/// says the same.
pub(super) fn asked(filter: Option<&str>, names: &[&str]) -> Result<Vec<(String, String)>, Problem> {
    let mut found = Vec::new();
    for term in terms(filter.unwrap_or_default())? {
        match term.field {
            Some(field) if names.contains(&&*field) && !term.not => {
                // As it was written: actions and names are compared letter by letter.
                let begin = format!("{field}:");
                let parts = filter.unwrap_or_default().split_whitespace();
                let own = parts.filter_map(|part| part.strip_prefix(&begin)).next();
                found.push((field, own.map_or(term.value, |own| own.trim_matches('"').to_owned())));
            }
            other => {
                let token = other.unwrap_or(term.value);
                return Err(wrong(&token, format!("it is one of {}, each with a value", names.join(", "))));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(filter: &str, item: &Value) -> bool {
        terms(filter).unwrap().iter().all(|term| term.holds(item))
    }

    #[test]
    fn a_line_is_found_by_its_fields_and_by_its_words() {
        let item = json!({ "name": "acme/Ana", "role": "viewer", "tokens": 3, "removed_at": null });
        for filter in
            ["role:viewer", "ana", "acme", "tokens:>2 tokens:<=3", "removed_at:none", "-role:admin", ""]
        {
            assert!(holds(filter, &item), "{filter}");
        }
        for filter in ["role:view", "na", "tokens:>3", "-removed_at:none", "role:viewer -ana", "tokens:x"] {
            assert!(!holds(filter, &item), "{filter}");
        }
        assert!(holds("name:\"a b\"", &json!({ "name": "A b" })));
        assert!(terms("name:\"a").is_err() && terms("role:").is_err());
    }

    #[test]
    fn what_the_server_looks_for_keeps_its_letters() {
        let names = ["actor", "action"];
        let found = asked(Some("actor:Ana action:device."), &names).unwrap();
        assert_eq!(
            found,
            [("actor".to_owned(), "Ana".to_owned()), ("action".to_owned(), "device.".to_owned())]
        );
        for wrong in ["colour:red", "ana", "-actor:ana"] {
            assert!(asked(Some(wrong), &names).is_err(), "{wrong}");
        }
    }
}
