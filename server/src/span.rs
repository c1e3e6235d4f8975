//! A span of time as people read it, the same on the command line, the page and a device's timeline.

/// `41d`, `3h`, `12m`, `8s`: the largest unit; from a year on `9y 363d`. Milliseconds; less than nothing, which a
/// clock that runs behind makes, is `0s`.
#[must_use]
pub(crate) fn span(ms: i64) -> String {
    let s = ms.max(0) / 1000;
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m", s / 60),
        3_600..86_400 => format!("{}h", s / 3_600),
        86_400..31_536_000 => format!("{}d", s / 86_400),
        _ => format!("{}y {}d", s / 31_536_000, s % 31_536_000 / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_says_its_largest_unit() {
        let of = |s: i64| span(s * 1000);
        assert_eq!(
            [of(0), of(59), of(60), of(3_599), of(3_600), of(86_400), of(86_400 * 400)],
            ["0s", "59s", "1m", "59m", "1h", "1d", "1y 35d"]
        );
        assert_eq!(span(-5), "0s", "a clock behind the server's is no reason to fail");
    }
}
