//! The fields of a form, from an address or a body (`application/x-www-form-urlencoded`).

use axum::{
    extract::{FromRequest, Request},
    http::Method,
};
use muster_shared::Code;

use crate::api::{Doors, body, error::Problem};

/// Name and value, in the order they stand.
#[derive(Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// The first of that name.
    pub(super) fn one(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every one of that name.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(of, _)| of == name).map(|(_, value)| value.as_str())
    }

    /// Reads them; `None` when they are not as a browser writes them.
    pub(super) fn read(text: &str) -> Option<Self> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name)?, decoded(value)?))
        });
        pairs.collect::<Option<_>>().map(Self)
    }
}

/// `None` when it is not UTF-8, or a percent sign is not followed by two hexadecimal digits.
fn decoded(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'+' => b' ',
            b'%' => {
                let pair = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(octets).ok()
}

impl FromRequest<Doors> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, doors: &Doors) -> Result<Self, Problem> {
        let wrong = || Problem::new(Code::UsageWrong).what("the form cannot be read");
        if request.method() == Method::GET || request.method() == Method::HEAD {
            return Self::read(request.uri().query().unwrap_or_default()).ok_or_else(wrong);
        }
        let octets = body(request.into_body(), doors.facts.limits.json_max).await?;
        let text = std::str::from_utf8(&octets).map_err(|_| wrong())?;
        Self::read(text).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_a_browser_writes_them() {
        let fields = Fields::read("s=acme%2FMU-1&s=MU-2&reason=case+881%3A+%C3%BC&empty=").unwrap();
        assert_eq!(fields.all("s").collect::<Vec<_>>(), ["acme/MU-1", "MU-2"]);
        assert_eq!(fields.one("reason"), Some("case 881: ü"));
        assert_eq!((fields.one("empty"), fields.one("none")), (Some(""), None));
        assert!(Fields::read("").unwrap().0.is_empty());
        for wrong in ["a=%", "a=%4", "a=%zz", "a=%ff"] {
            assert!(Fields::read(wrong).is_none(), "{wrong}");
        }
    }
}
