//! Orders, and where a page ended in one.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sqlx::Row as _;

use crate::registry::{database::Row, error::RegistryError, session::words};

words!(
    /// What devices are ordered by.
    Sort, "order", {
        /// What needs somebody first, then what changed last.
        Attention = "attention",
        /// By serial.
        Serial = "serial",
        /// Last heard of first.
        Seen = "seen",
        /// Last changed first.
        Changed = "changed",
        /// What ends first.
        Expires = "expires",
        /// Most often refused first.
        Refused = "refused",
    }
);

/// What devices are ordered by, or the other way round: `serial`, `-serial`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// By what.
    pub sort: Sort,
    /// The other way round.
    pub reverse: bool,
}

impl Default for Order {
    fn default() -> Self {
        Self { sort: Sort::Attention, reverse: false }
    }
}

impl Sort {
    /// The columns, the last of which tells every device from every other.
    pub(super) fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Attention => &["device.urgency", "device.changed_back", "device.id"],
            Self::Serial => &["device.serial", "device.id"],
            Self::Seen => &["device.heard_ms", "device.id"],
            Self::Changed => &["device.changed_at_ms", "device.id"],
            Self::Expires => &["device.expires_s", "device.id"],
            Self::Refused => &["device.refused", "device.id"],
        }
    }

    /// The index over them.
    pub(super) fn index(self) -> &'static str {
        match self {
            Self::Attention => "device_urgency",
            Self::Serial => "device_serial",
            Self::Seen => "device_heard",
            Self::Changed => "device_changed",
            Self::Expires => "device_expires",
            Self::Refused => "device_refused",
        }
    }
}

impl Order {
    /// Whether the largest come first.
    pub(super) fn falls(self) -> bool {
        matches!(self.sort, Sort::Seen | Sort::Changed | Sort::Refused) != self.reverse
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reverse {
            f.write_str("-")?;
        }
        f.write_str(self.sort.as_str())
    }
}

impl FromStr for Order {
    type Err = RegistryError;
    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let (reverse, word) = match text.strip_prefix('-') {
            Some(word) => (true, word),
            None => (false, text),
        };
        let all = || Sort::ALL.iter().map(|sort| sort.as_str()).collect::<Vec<_>>().join(", ");
        let sort = word.parse().map_err(|_| RegistryError::Value {
            what: "sort",
            why: format!("{word:?} is none of {}", all()),
        })?;
        Ok(Self { sort, reverse })
    }
}

/// A value that is ordered by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Key {
    Number(i64),
    Text(String),
}

/// Where a page ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// In which order: a cursor of another says nothing about this one.
    order: String,
    pub(super) keys: Vec<Key>,
    pub(super) id: i64,
}

impl Cursor {
    /// The place of a row that was selected by the order's keys.
    pub(super) fn of(row: &Row, order: Order) -> Result<Self, RegistryError> {
        let last = order.sort.keys().len() - 1;
        let mut keys = Vec::with_capacity(last);
        for at in 0..last {
            keys.push(match order.sort {
                Sort::Serial => Key::Text(row.try_get(at)?),
                _ => Key::Number(row.try_get(at)?),
            });
        }
        Ok(Self { order: order.to_string(), keys, id: row.try_get(last)? })
    }

    pub(super) fn write(&self) -> String {
        let octets = postcard::to_stdvec(self).expect("octets are added to a vector without end");
        URL_SAFE_NO_PAD.encode(octets)
    }

    /// Reads what [`Self::write`] wrote for the same order.
    pub(super) fn read(text: &str, order: Order) -> Result<Self, RegistryError> {
        let wrong = |why: String| RegistryError::Value { what: "after", why };
        let octets = URL_SAFE_NO_PAD.decode(text).ok();
        let cursor: Self = octets
            .and_then(|octets| postcard::from_bytes(&octets).ok())
            .ok_or_else(|| wrong(format!("{text:?} is no cursor of a listing")))?;
        if cursor.order != order.to_string() {
            return Err(wrong(format!("the cursor is of order {}, this listing's is {order}", cursor.order)));
        }
        let numbers = |key: &Key| matches!(key, Key::Number(_)) != (order.sort == Sort::Serial);
        if cursor.keys.len() + 1 != order.sort.keys().len() || !cursor.keys.iter().all(numbers) {
            return Err(wrong(format!("{text:?} is no cursor of a listing")));
        }
        Ok(cursor)
    }
}
