//! A strict DER reader (X.690 §10): definite minimal lengths, low tag numbers, nothing skipped.

/// Tags that occur in what we read.
pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const UTF8: u8 = 0x0c;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;
    pub(crate) const PRINTABLE: u8 = 0x13;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const CONTEXT_0: u8 = 0xa0;
    pub(crate) const CONTEXT_3: u8 = 0xa3;
}

/// Not DER, or not the element that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotDer;

/// One element.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    /// Its content.
    pub(crate) value: &'a [u8],
    /// Header and content.
    pub(crate) whole: &'a [u8],
}

/// Takes elements off the front of some octets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    pub(crate) fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element, whatever it is.
    pub(crate) fn any(&mut self) -> Result<Element<'a>, NotDer> {
        let (&tag, rest) = self.0.split_first().ok_or(NotDer)?;
        if tag & 0x1f == 0x1f {
            return Err(NotDer);
        }
        let (&first, rest) = rest.split_first().ok_or(NotDer)?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => match rest.split_first() {
                Some((&len @ 0x80.., rest)) => (usize::from(len), rest),
                _ => return Err(NotDer),
            },
            0x82 => match rest.split_first_chunk() {
                Some((&len, rest)) if len[0] != 0 => (usize::from(u16::from_be_bytes(len)), rest),
                _ => return Err(NotDer),
            },
            _ => return Err(NotDer),
        };
        let value = rest.get(..len).ok_or(NotDer)?;
        let (whole, rest) = self.0.split_at(self.0.len() - rest.len() + len);
        self.0 = rest;
        Ok(Element { tag, value, whole })
    }

    /// The next element, which must have this tag.
    pub(crate) fn element(&mut self, tag: u8) -> Result<Element<'a>, NotDer> {
        self.any().and_then(|element| if element.tag == tag { Ok(element) } else { Err(NotDer) })
    }

    /// The content of the next element, which must have this tag.
    pub(crate) fn value(&mut self, tag: u8) -> Result<&'a [u8], NotDer> {
        self.element(tag).map(|element| element.value)
    }

    /// The next element if it has this tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, NotDer> {
        if self.0.first() == Some(&tag) { self.value(tag).map(Some) } else { Ok(None) }
    }

    /// A reader of the content of the next element, which must have this tag.
    pub(crate) fn inside(&mut self, tag: u8) -> Result<Der<'a>, NotDer> {
        self.value(tag).map(Der)
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), NotDer> {
        if self.is_empty() { Ok(()) } else { Err(NotDer) }
    }
}

/// A time in a certificate, seconds since 1970: UTCTime up to 2049, GeneralizedTime from 2050, both to the
/// second and in `Z` (RFC 5280 §4.1.2.5).
pub(crate) fn time(der: &mut Der<'_>) -> Result<i64, NotDer> {
    let element = der.any()?;
    let two = |at: usize| match element.value.get(at..at + 2) {
        Some(&[a @ b'0'..=b'9', b @ b'0'..=b'9']) => Ok(i64::from(a - b'0') * 10 + i64::from(b - b'0')),
        _ => Err(NotDer),
    };
    let (year, rest) = match (element.tag, element.value.len()) {
        (tag::UTC_TIME, 13) => (two(0)? + if two(0)? < 50 { 2000 } else { 1900 }, 2),
        (tag::GENERALIZED_TIME, 15) => (two(0)? * 100 + two(2)?, 4),
        _ => return Err(NotDer),
    };
    if element.tag == tag::GENERALIZED_TIME && year < 2050 || element.value.last() != Some(&b'Z') {
        return Err(NotDer);
    }
    let (month, day) = (two(rest)?, two(rest + 2)?);
    let (hour, minute, second) = (two(rest + 4)?, two(rest + 6)?, two(rest + 8)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return Err(NotDer),
    };
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return Err(NotDer);
    }
    Ok(days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. Years begin in March here, so that a leap day
/// is the last of its year and a month's first day is a linear function of its number.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(tag: u8, text: &str) -> Result<i64, NotDer> {
        let mut octets = vec![tag, u8::try_from(text.len()).unwrap()];
        octets.extend_from_slice(text.as_bytes());
        let mut der = Der::new(&octets);
        time(&mut der)
    }

    #[test]
    fn times_are_read_to_the_second() {
        assert_eq!(utc(tag::UTC_TIME, "700101000000Z"), Ok(0));
        assert_eq!(utc(tag::UTC_TIME, "000229235959Z"), Ok(951_868_799));
        assert_eq!(utc(tag::UTC_TIME, "491231235959Z"), Ok(2_524_607_999));
        assert_eq!(utc(tag::GENERALIZED_TIME, "20500101000000Z"), Ok(2_524_608_000));
        assert_eq!(utc(tag::GENERALIZED_TIME, "99991231235959Z"), Ok(crate::profile::NO_END_S));
    }

    #[test]
    fn times_agree_with_a_calendar_library() {
        for days in (0..29_000).step_by(13) {
            let date = jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(days)).unwrap();
            let text = date.strftime("%y%m%d000000Z").to_string();
            assert_eq!(utc(tag::UTC_TIME, &text), Ok(i64::from(days) * 86_400), "{text}");
        }
    }

    #[test]
    fn odd_times_are_refused() {
        for text in ["701301000000Z", "700230000000Z", "010229000000Z", "700101240000Z", "700101006000Z"] {
            assert_eq!(utc(tag::UTC_TIME, text), Err(NotDer), "{text}");
        }
        for text in ["700101000060Z", "700101000000+", "7001010000Z", "70010100000aZ", "700100000000Z"] {
            assert_eq!(utc(tag::UTC_TIME, text), Err(NotDer), "{text}");
        }
        assert_eq!(utc(tag::GENERALIZED_TIME, "20491231235959Z"), Err(NotDer), "belongs into UTCTime");
        assert_eq!(utc(tag::GENERALIZED_TIME, "20500101000000.5Z"), Err(NotDer));
    }

    #[test]
    fn lengths_are_minimal_and_definite() {
        for octets in [
            &[0x30, 0x80, 0, 0][..],
            &[0x30, 0x81, 0x01, 0],
            &[0x30, 0x82, 0x00, 0x81],
            &[0x30, 0x83, 0, 0, 1, 0],
            &[0x30, 0x02, 0],
            &[0x1f, 0x01, 0],
            &[0x30],
            &[],
        ] {
            assert!(Der::new(octets).any().is_err(), "{octets:02x?}");
        }
    }
}
