//! The one shape of an error: code, what, where, next. Text for people, one JSON object for programs.

use std::fmt;

use muster_shared::Code;
use serde_json::json;

/// Something went wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its row in `errors.toml`.
    pub code: Code,
    /// What happened, when the code's words are not the whole of it.
    pub what: Option<String>,
    /// Where: the file, the port, the values that disagree.
    pub place: String,
    /// What to do, when it is not the code's.
    pub next: Option<String>,
    /// The exit status, when it is not the code's.
    pub exit: Option<u8>,
}

impl Fault {
    /// A fault at a place.
    pub fn new(code: Code, place: impl fmt::Display) -> Self {
        Self { code, what: None, place: place.to_string(), next: None, exit: None }
    }

    /// Says what happened in place of the code's words.
    #[must_use]
    pub fn what(mut self, what: impl Into<String>) -> Self {
        self.what = Some(what.into());
        self
    }

    /// Says what to do in place of the code's act.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Ends with this status in place of the code's.
    #[must_use]
    pub fn exit(mut self, exit: u8) -> Self {
        self.exit = Some(exit);
        self
    }

    /// The process's exit status.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.exit.unwrap_or(self.code.entry().exit)
    }

    /// What happened.
    #[must_use]
    pub fn words(&self) -> &str {
        self.what.as_deref().unwrap_or(self.code.words())
    }

    /// What to do.
    #[must_use]
    pub fn act(&self) -> &str {
        self.next.as_deref().unwrap_or(self.code.entry().next)
    }

    /// `muster.error/1`.
    #[must_use]
    pub fn json(&self) -> String {
        json!({
            "schema": "muster.error/1",
            "code": self.code.id(),
            "what": self.words(),
            "where": self.place,
            "why": null,
            "next": self.act(),
            "exit": self.status(),
            "request_id": null,
        })
        .to_string()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error[{}] {}", self.code, self.words())?;
        writeln!(f, "  where  {}", self.place)?;
        write!(f, "  next   {}", self.act())
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anatomy() {
        let fault = Fault::new(Code::StationSerialTaken, "port P1 · known key 5be1, this unit's key c477");
        assert_eq!(
            fault.to_string(),
            "error[E06] SERIAL BELONGS TO ANOTHER UNIT\n  where  port P1 · known key 5be1, this unit's key c477\n  \
             next   STOP: keep both units, CALL"
        );
        assert_eq!(fault.status(), 11);
        let read: serde_json::Value = serde_json::from_str(&fault.json()).unwrap();
        assert_eq!((&read["code"], &read["exit"]), (&json!("E06"), &json!(11)));
    }
}
