//! Instants on the API: RFC 3339, UTC, milliseconds. Writer and reader.

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use muster_pki::profile::NO_END_S;

/// The end of a certificate that has none (RFC 5280 §4.1.2.5). Later than [`Timestamp::MAX`].
pub const NO_END: &str = "9999-12-31T23:59:59.000Z";

/// `2026-11-20T09:12:04.000Z`. What lies outside the calendar becomes its nearest end.
#[must_use]
pub fn from_ms(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    DateTimePrinter::new().precision(Some(3)).timestamp_to_string(&at.unwrap_or(Timestamp::MAX))
}

/// The same, from seconds since 1970, which may lie before it.
#[must_use]
pub fn from_s(s: i64) -> String {
    if s >= NO_END_S {
        return NO_END.to_owned();
    }
    let at = Timestamp::from_second(s).unwrap_or(if s < 0 { Timestamp::MIN } else { Timestamp::MAX });
    DateTimePrinter::new().precision(Some(3)).timestamp_to_string(&at)
}

/// Reads an instant back, in Unix milliseconds. `None` for what is no instant, and for [`NO_END`].
#[must_use]
pub fn to_ms(text: &str) -> Option<i64> {
    if text == NO_END { None } else { text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_has_milliseconds_and_its_zone() {
        assert_eq!(from_ms(1_795_166_524_000), "2026-11-20T09:22:04.000Z");
        assert_eq!(from_ms(1_795_166_524_007), "2026-11-20T09:22:04.007Z");
        assert_eq!(to_ms("2026-11-20T09:22:04.007Z"), Some(1_795_166_524_007));
        assert_eq!(from_s(0), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_certificate_without_an_end_says_the_rfc_s_last_second() {
        assert_eq!(from_s(NO_END_S), NO_END);
        assert_eq!(to_ms(NO_END), None);
    }

    #[test]
    fn what_no_calendar_has_does_not_fail() {
        assert!(from_ms(u64::MAX).starts_with("9999-"));
        assert!(from_s(i64::MIN).starts_with('-'));
        assert_eq!(to_ms("yesterday"), None);
    }
}
