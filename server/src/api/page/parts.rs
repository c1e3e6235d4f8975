//! The small things every page is made of: state chips, presence, instants, icons. Each writes its own
//! markup and escapes what it is given, so a template may take it as it is.

use std::fmt;

use askama::filters::HtmlSafe;

use crate::{
    api::{time, view},
    registry::now_ms,
    span::span,
};

/// Text within markup.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&#38;")?,
                '<' => f.write_str("&#60;")?,
                '>' => f.write_str("&#62;")?,
                '"' => f.write_str("&#34;")?,
                '\'' => f.write_str("&#39;")?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

/// Glyph and tooltip of a device's state.
pub(super) fn look(state: &str) -> (&'static str, &'static str) {
    match state {
        "manufactured" => ("○", "certificate made at a station; this server has not been told yet"),
        "registered" => ("◇", "manifest imported; has not connected"),
        "active" => ("●", "allowed, has connected at least once"),
        "suspended" => ("‖", "refused for now; reversible"),
        "quarantined" => ("▲", "refused because something is wrong"),
        "revoked" => ("✕", "refused for ever; certificate on the revocation list"),
        _ => ("□", "out of use; record kept for audit"),
    }
}

/// `● active`: shape, then word, then colour.
pub(super) struct Chip(pub(super) String);

impl fmt::Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (glyph, meaning) = look(&self.0);
        let word = Escaped(&self.0);
        write!(
            f,
            "<span class=\"chip s-{word}\" title=\"{meaning}\"><i class=\"glyph\" aria-hidden=\"true\">{glyph}</i>{word}</span>"
        )
    }
}

impl HtmlSafe for Chip {}

/// `online 3h`, `offline 2d`, `never seen`.
pub(super) struct Seen {
    word: String,
    since: Option<When>,
}

impl Seen {
    pub(super) fn of(presence: &view::Presence) -> Self {
        let since = presence.since.as_deref().map(When::span);
        Self { word: presence.word.replace('_', " "), since }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = self.word.split(' ').next().unwrap_or_default();
        write!(f, "<span class=\"presence {}\">{}", Escaped(class), Escaped(&self.word))?;
        if let Some(since) = &self.since {
            write!(f, " {since}")?;
        }
        f.write_str("</span>")
    }
}

impl HtmlSafe for Seen {}

/// How an instant is said.
#[derive(Clone, Copy)]
enum Form {
    /// `3h ago`.
    Ago,
    /// `3h`: since then.
    Span,
    /// `in 9y 363d`, `no end`, `ended 2d ago`.
    Ends,
    /// `14:02:11`.
    Clock,
    /// `2026-11-20 09:12:04 UTC`.
    Exact,
    /// `14:02`.
    Minute,
    /// `11-20`.
    Date,
}

/// An instant. The script keeps what is relative in step, and shows all of them in one zone.
#[derive(Clone)]
pub(super) struct When {
    text: String,
    ms: Option<i64>,
    form: Form,
}

impl When {
    fn new(text: &str, form: Form) -> Self {
        Self { text: text.to_owned(), ms: time::to_ms(text), form }
    }

    pub(super) fn ago(text: &str) -> Self {
        Self::new(text, Form::Ago)
    }

    pub(super) fn span(text: &str) -> Self {
        Self::new(text, Form::Span)
    }

    pub(super) fn ends(text: &str) -> Self {
        Self::new(text, Form::Ends)
    }

    pub(super) fn clock(text: &str) -> Self {
        Self::new(text, Form::Clock)
    }

    pub(super) fn exact(text: &str) -> Self {
        Self::new(text, Form::Exact)
    }

    pub(super) fn minute(text: &str) -> Self {
        Self::new(text, Form::Minute)
    }

    pub(super) fn date(text: &str) -> Self {
        Self::new(text, Form::Date)
    }

    /// `14:02`.
    pub(super) fn minute_of_day(&self) -> &str {
        self.text.get(11..16).unwrap_or_default()
    }

    /// Unix milliseconds; an end that there is none of is the last of all.
    pub(super) fn ms(&self) -> i64 {
        self.ms.unwrap_or(i64::MAX)
    }

    /// `2026-11-20`.
    pub(super) fn day(&self) -> &str {
        self.text.get(..10).unwrap_or(&self.text)
    }

    fn exactly(&self) -> String {
        let clock = self.text.get(11..19).unwrap_or("");
        format!("{} {clock} UTC", self.day())
    }

    fn said(&self) -> String {
        let Some(ms) = self.ms else {
            return if self.text == time::NO_END { "no end".to_owned() } else { self.text.clone() };
        };
        let past = i64::try_from(now_ms()).unwrap_or(i64::MAX).saturating_sub(ms);
        match self.form {
            Form::Ago if past < 5_000 => "just now".to_owned(),
            Form::Ago => format!("{} ago", span(past)),
            Form::Span => span(past),
            Form::Ends if past > 0 => format!("ended {} ago", span(past)),
            Form::Ends => format!("in {}", span(-past)),
            Form::Clock => self.text.get(11..19).unwrap_or(&self.text).to_owned(),
            Form::Exact => self.exactly(),
            Form::Minute => self.minute_of_day().to_owned(),
            Form::Date => self.text.get(5..10).unwrap_or(&self.text).to_owned(),
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ms.is_none() {
            return write!(f, "<span>{}</span>", Escaped(&self.said()));
        }
        let form = match self.form {
            Form::Ago => "ago",
            Form::Span => "span",
            Form::Ends => "ends",
            Form::Clock => "clock",
            Form::Exact => "exact",
            Form::Minute => "minute",
            Form::Date => "date",
        };
        write!(
            f,
            "<time datetime=\"{}\" data-form=\"{form}\" title=\"{}\">{}</time>",
            Escaped(&self.text),
            Escaped(&self.exactly()),
            Escaped(&self.said())
        )
    }
}

impl HtmlSafe for When {}

/// `1 204`: a count, its thousands apart by a space that does not break.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{a0}');
        }
        out.push(digit);
    }
    out
}

/// `1 device`, `3 devices`.
pub(super) fn counted(n: u64, one: &str) -> String {
    format!("{} {one}{}", count(n), if n == 1 { "" } else { "s" })
}

/// The first eight digits of a digest.
pub(super) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// Our own icons, drawn on a square of 20.
pub(super) struct Icon(pub(super) &'static str);

impl fmt::Display for Icon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self.0 {
            "muster" => "M4 16V5l6 6 6-6v11",
            "overview" => "M3 17h14M5 17v-5M10 17V4M15 17V9",
            "devices" => "M5 5h10v10H5zM8 8h4v4H8zM8 2v3M12 2v3M8 15v3M12 15v3M2 8h3M2 12h3M15 8h3M15 12h3",
            "batches" => "M3 7l7-4 7 4v7l-7 4-7-4zM3 7l7 4 7-4M10 11v7",
            "certificates" => "M4 3h12v9H4zM7 6h6M7 9h3M12 12v6l2-1.500 2 1.500v-6",
            "audit" => "M5 3h10v14H5zM8 7h4M8 10h4M8 13h2",
            "settings" => "M3 6h7M14 6h3M10 4v4M3 14h3M10 14h7M10 12v4",
            "copy" => "M7 7h9v9H7zM4 13V4h9",
            "out" => "M8 4H4v12h4M9 10h8M14 7l3 3-3 3",
            "download" => "M10 3v9M6.500 9l3.500 3.500 3.500-3.500M4 16.500h12",
            _ => "M5 8l5 5 5-5",
        };
        write!(f, "<svg class=\"icon\" viewBox=\"0 0 20 20\" aria-hidden=\"true\"><path d=\"{path}\"/></svg>")
    }
}

impl HtmlSafe for Icon {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_said_is_never_markup() {
        let hostile = "<img src=x onerror=\"alert('1')\">&";
        for shown in [
            Chip(hostile.to_owned()).to_string(),
            When::ago(hostile).to_string(),
            Escaped(hostile).to_string(),
            Seen { word: hostile.to_owned(), since: Some(When::span(hostile)) }.to_string(),
        ] {
            assert!(!shown.contains("<img") && !shown.contains("onerror=\""), "{shown}");
        }
    }

    #[test]
    fn a_count_is_readable() {
        assert_eq!([count(0), count(999), count(1_204)], ["0", "999", "1\u{a0}204"]);
        assert_eq!(count(12_345_678), "12\u{a0}345\u{a0}678");
        assert_eq!([counted(1, "device"), counted(2, "device")], ["1 device", "2 devices"]);
    }

    #[test]
    fn an_instant_says_what_it_is_to_people_and_programs() {
        let end = When::ends(time::NO_END).to_string();
        assert_eq!(end, "<span>no end</span>");
        let exact = When::exact("2026-11-20T09:12:04.123Z").to_string();
        assert!(exact.contains("datetime=\"2026-11-20T09:12:04.123Z\""), "{exact}");
        assert!(exact.ends_with(">2026-11-20 09:12:04 UTC</time>"), "{exact}");
        assert!(When::ends("2001-01-01T00:00:00.000Z").to_string().contains(">ended "));
    }
}
