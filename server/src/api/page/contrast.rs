//! The colours people read: every pair's contrast, computed from the style sheet.

use std::collections::HashMap;

const SHEET: &str = include_str!("../../../assets/muster.css");

/// The tokens of one theme.
fn tokens(dark: bool) -> HashMap<&'static str, [f64; 3]> {
    let blocks: Vec<&str> =
        SHEET.split(":root {").skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
    let mut all = HashMap::new();
    for block in &blocks[..if dark { 2 } else { 1 }] {
        for line in block.lines() {
            let Some((name, value)) = line.trim().trim_end_matches(';').split_once(": #") else { continue };
            let channel = |at: usize| f64::from(u8::from_str_radix(&value[at..at + 2], 16).unwrap()) / 255.0;
            all.insert(name.trim_start_matches("--"), [channel(0), channel(2), channel(4)]);
        }
    }
    all
}

/// Relative luminance (WCAG 2.2).
fn luminance(colour: [f64; 3]) -> f64 {
    let linear = |c: f64| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
    0.2126 * linear(colour[0]) + 0.7152 * linear(colour[1]) + 0.0722 * linear(colour[2])
}

fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

const STATES: [&str; 7] =
    ["manufactured", "registered", "active", "suspended", "quarantined", "revoked", "decommissioned"];

#[test]
fn every_pair_of_colours_is_as_readable_as_promised() {
    assert!((contrast([0.0; 3], [1.0; 3]) - 21.0).abs() < 1e-9);
    for (dark, chip_least) in [(false, 5.7), (true, 7.7)] {
        let tokens = tokens(dark);
        let of = |a: &str, b: &str| contrast(tokens[a], tokens[b]);
        for ground in ["page", "surface"] {
            assert!(of("text", ground) >= 14.0, "{dark} text on {ground}: {}", of("text", ground));
            assert!(of("quiet", ground) >= 6.0, "{dark} quiet on {ground}: {}", of("quiet", ground));
            assert!(of("accent", ground) >= 4.5, "{dark} accent on {ground}");
            assert!(of("edge", ground) >= 3.7, "{dark} edge on {ground}: {}", of("edge", ground));
            for line in ["line-1", "line-2", "line-3", "line-4"] {
                assert!(of(line, ground) >= 4.5, "{dark} {line} on {ground}: {}", of(line, ground));
            }
        }
        for line in ["line-1", "line-2", "line-3", "line-4"] {
            assert!(of(line, "page") >= 5.0, "{dark} {line}: {}", of(line, "page"));
        }
        for state in STATES {
            let ground = format!("{state}-bg");
            assert!(of(state, &ground) >= chip_least, "{dark} {state}: {}", of(state, &ground));
            assert!(of(state, "page") >= 4.5 && of(state, "surface") >= 4.5, "{dark} {state} as text");
            assert!(of("text", &ground) >= 4.5 && of("quiet", &ground) >= 4.5, "{dark} text on {ground}");
        }
        assert!(of("on-accent", "accent") >= 4.5, "{dark} a button's word");
        assert!(of("page", "revoked") >= 4.5, "{dark} a dangerous button's word");
    }
}
