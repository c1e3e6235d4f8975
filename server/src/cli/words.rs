//! How single values are said: states with their glyph, presence, spans of time, sizes.

use std::sync::atomic::{AtomicBool, Ordering};

use jiff::{Timestamp, Zoned, tz::TimeZone};

use super::screen::{Screen, Style, Text};
use crate::{
    api::{time, view::Presence},
    span::span,
};

/// Glyph and word of a device's state.
pub(super) fn state(state: &str, screen: &Screen) -> Text {
    let (style, glyph) = look(state, screen);
    Text::new(format!("{glyph} {state}"), style)
}

/// The glyph alone, in the state's colour.
pub(super) fn glyph(state: &str, screen: &Screen) -> Text {
    let (style, glyph) = look(state, screen);
    Text::new(glyph, style)
}

fn look(state: &str, screen: &Screen) -> (Style, &'static str) {
    let (style, glyph, ascii) = match state {
        "manufactured" => (Style::Quiet, "○", "o"),
        "registered" => (Style::Blue, "◇", "+"),
        "active" => (Style::Green, "●", "*"),
        "suspended" => (Style::Yellow, "‖", "="),
        "quarantined" => (Style::Magenta, "▲", "!"),
        "revoked" => (Style::Red, "✕", "x"),
        _ => (Style::Quiet, "□", "-"),
    };
    (style, screen.glyph(glyph, ascii))
}

/// `online 3h`, `offline 2d`, `never seen`.
pub(super) fn presence(presence: &Presence) -> String {
    let word = presence.word.replace('_', " ");
    match presence.since.as_deref().and_then(time::to_ms) {
        Some(since) => format!("{word} {}", span(now_ms() - since)),
        None => word,
    }
}

/// `3h ago`.
pub(super) fn ago(at: &str) -> String {
    time::to_ms(at).map_or_else(|| at.to_owned(), |ms| format!("{} ago", span(now_ms() - ms)))
}

/// Whether times are said in the zone of this machine: decided once, before anything is said.
static LOCAL: AtomicBool = AtomicBool::new(false);

/// Says times from now on in the zone of this machine, or in UTC.
pub(super) fn local(local: bool) {
    LOCAL.store(local, Ordering::Relaxed);
}

/// In the zone of this machine, where that is asked for.
fn here(at: &str) -> Option<Zoned> {
    let at = Some(at).filter(|_| LOCAL.load(Ordering::Relaxed)).and_then(time::to_ms)?;
    Some(Timestamp::from_millisecond(at).ok()?.to_zoned(TimeZone::system()))
}

/// `2026-11-20 09:12:04Z`, or with the zone of this machine: `2026-11-20 10:12:04+01:00`.
pub(super) fn instant(at: &str) -> String {
    if at == time::NO_END {
        return "no end".to_owned();
    }
    if let Some(at) = here(at) {
        return at.strftime("%Y-%m-%d %H:%M:%S%:z").to_string();
    }
    match at.split_once('T') {
        Some((day, clock)) => format!("{day} {}Z", clock.split('.').next().unwrap_or(clock)),
        None => at.to_owned(),
    }
}

/// `2036-11-20`, or `no end`.
pub(super) fn day(at: &str) -> String {
    if at == time::NO_END {
        return "no end".to_owned();
    }
    here(at).map_or_else(|| at.split('T').next().unwrap_or(at).to_owned(), |at| at.date().to_string())
}

/// The first eight digits of a digest.
pub(super) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// The same text, or that it is not known.
pub(super) fn or_unknown(text: Option<&str>) -> &str {
    text.unwrap_or("unknown")
}

/// Now, in Unix milliseconds.
pub(super) fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_keeps_its_zone() {
        assert_eq!(instant("2026-11-20T09:12:04.123Z"), "2026-11-20 09:12:04Z");
        assert_eq!(instant(time::NO_END), "no end");
        assert_eq!(day("2036-11-20T00:00:00.000Z"), "2036-11-20");
    }
}
