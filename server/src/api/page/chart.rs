//! Charts in SVG, drawn by the server: a line with the least and the most of each bucket, or bars.
//!
//! The drawing is stretched to the width there is, so it holds no text: figures and times stand beside it in
//! HTML. A bucket without a sample is a gap, never a joined line. Every chart has a sentence that says what it
//! shows, and its data in a table.

use std::fmt::Write as _;

use askama::Template;

use super::parts::When;
use crate::api::time;

/// The drawing's own width and height; the page stretches it.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 100.0;
/// Lines a chart may have: each with a colour and a dash of its own.
pub(super) const LINES_MAX: usize = 4;
/// Parts of the upright axis, and of the other.
const Y_PARTS: usize = 4;
const X_PARTS: usize = 4;

/// What was in one bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bucket {
    /// Its beginning, Unix milliseconds.
    pub(super) at_ms: i64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) last: f64,
}

/// One line.
pub(super) struct Series {
    pub(super) name: String,
    /// In the order of time; what is missing is not there.
    pub(super) buckets: Vec<Bucket>,
}

/// What changed at an instant: an upright line.
pub(super) struct Mark {
    pub(super) at_ms: i64,
    pub(super) word: String,
}

/// How the values are drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Lines,
    Bars,
}

/// What to draw.
pub(super) struct Plan {
    pub(super) title: String,
    /// What is counted: `devices`, `°C`.
    pub(super) unit: String,
    pub(super) from_ms: i64,
    pub(super) to_ms: i64,
    pub(super) bucket_ms: i64,
    pub(super) series: Vec<Series>,
    pub(super) marks: Vec<Mark>,
    pub(super) form: Form,
    /// Whether the upright axis begins at nought.
    pub(super) from_zero: bool,
}

/// A name beside its dash, and the number of both.
struct Key {
    name: String,
    number: usize,
}

struct Line {
    at: When,
    cells: Vec<String>,
}

/// A chart, ready to stand in a page.
#[derive(Template)]
#[template(path = "chart.html")]
pub(super) struct Chart {
    title: String,
    summary: String,
    drawing: String,
    y: Vec<String>,
    x: Vec<When>,
    keys: Vec<Key>,
    heads: Vec<String>,
    lines: Vec<Line>,
    empty: bool,
    bars: bool,
}

impl askama::filters::HtmlSafe for Chart {}

impl Chart {
    pub(super) fn new(plan: &Plan) -> Self {
        let all = || plan.series.iter().flat_map(|series| &series.buckets);
        let empty = all().next().is_none();
        let scale = Scale::over(all(), plan.from_zero || plan.form == Form::Bars);
        let frame = Frame { plan, scale };
        let step = (plan.to_ms - plan.from_ms) / X_PARTS as i64;
        let instant = |at: i64| time::from_ms(u64::try_from(at).unwrap_or(0));
        let long = plan.to_ms - plan.from_ms > 2 * 86_400_000;
        let label = |at: i64| if long { When::date(&instant(at)) } else { When::minute(&instant(at)) };
        Self {
            title: plan.title.clone(),
            summary: summary(plan),
            drawing: if empty { String::new() } else { frame.draw() },
            y: (0..=Y_PARTS).rev().map(|at| number(scale.at(at as f64 / Y_PARTS as f64))).collect(),
            x: (0..=X_PARTS as i64).map(|at| label(plan.from_ms + at * step)).collect(),
            keys: plan
                .series
                .iter()
                .enumerate()
                .map(|(at, of)| Key { name: of.name.clone(), number: at + 1 })
                .collect(),
            heads: heads(plan),
            lines: lines(plan),
            empty,
            bars: plan.form == Form::Bars,
        }
    }
}

/// From the lowest to the highest value that is drawn, in round figures.
#[derive(Clone, Copy)]
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn over<'a>(buckets: impl Iterator<Item = &'a Bucket>, from_zero: bool) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for bucket in buckets.filter(|bucket| bucket.min.is_finite() && bucket.max.is_finite()) {
            low = low.min(bucket.min);
            high = high.max(bucket.max);
        }
        if !low.is_finite() {
            return Self { low: 0.0, high: Y_PARTS as f64 };
        }
        if from_zero {
            low = low.min(0.0);
        }
        let step = round_step((high - low).max(f64::EPSILON) / Y_PARTS as f64, from_zero);
        let low = (low / step).floor() * step;
        // Whole steps in whole parts: every figure beside the drawing is round.
        let mut step = step;
        while low + step * (Y_PARTS as f64) < high {
            step = round_step(step * 1.5, from_zero);
        }
        Self { low, high: low + step * Y_PARTS as f64 }
    }

    fn at(self, part: f64) -> f64 {
        self.low + (self.high - self.low) * part
    }
}

/// The next larger of 1, 2, 2.5 and 5 times a power of ten. What is counted has no halves.
fn round_step(step: f64, whole: bool) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let of = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|of| of * power >= step * 0.999_999).unwrap_or(10.0);
    let step = of * power;
    if whole && step < 1.0 { 1.0 } else { step }
}

/// At most three digits behind the point, and none that say nothing.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return "not a number".to_owned();
    }
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

struct Frame<'a> {
    plan: &'a Plan,
    scale: Scale,
}

impl Frame<'_> {
    fn x(&self, at_ms: i64) -> f64 {
        let whole = (self.plan.to_ms - self.plan.from_ms).max(1) as f64;
        ((at_ms - self.plan.from_ms) as f64 / whole * WIDTH).clamp(0.0, WIDTH)
    }

    fn y(&self, value: f64) -> f64 {
        let height = (self.scale.high - self.scale.low).max(f64::EPSILON);
        (HEIGHT - (value - self.scale.low) / height * HEIGHT).clamp(0.0, HEIGHT)
    }

    fn draw(&self) -> String {
        let mut out = String::new();
        for part in 0..=Y_PARTS {
            let y = part as f64 * HEIGHT / Y_PARTS as f64;
            let _ = write!(out, "<path class=\"grid\" d=\"M0 {y:.1}H{WIDTH}\"/>");
        }
        for mark in &self.plan.marks {
            let _ = write!(out, "<path class=\"mark\" d=\"M{:.1} 0V{HEIGHT}\"/>", self.x(mark.at_ms));
        }
        for (at, series) in self.plan.series.iter().take(LINES_MAX).enumerate() {
            match self.plan.form {
                Form::Lines => self.line(&mut out, at + 1, series),
                Form::Bars => self.bars(&mut out, at, series),
            }
        }
        out
    }

    fn line(&self, out: &mut String, number: usize, series: &Series) {
        for run in runs(&series.buckets, self.plan.bucket_ms) {
            let at = |bucket: &Bucket| self.x(bucket.at_ms + self.plan.bucket_ms / 2);
            if run.iter().any(|bucket| bucket.max > bucket.min) {
                let up = run.iter().map(|of| format!("{:.1} {:.2}", at(of), self.y(of.max)));
                let down = run.iter().rev().map(|of| format!("{:.1} {:.2}", at(of), self.y(of.min)));
                let points: Vec<_> = up.chain(down).collect();
                let _ = write!(out, "<path class=\"band f{number}\" d=\"M{}Z\"/>", points.join("L"));
            }
            let mut points: Vec<_> =
                run.iter().map(|of| format!("{:.1} {:.2}", at(of), self.y(of.last))).collect();
            if let [only] = &points[..] {
                // A lone sample is a dot: a line of no length with round ends.
                points.push(only.clone());
            }
            let _ = write!(out, "<path class=\"trace l{number}\" d=\"M{}\"/>", points.join("L"));
        }
    }

    fn bars(&self, out: &mut String, at: usize, series: &Series) {
        let slot = self.x(self.plan.from_ms + self.plan.bucket_ms);
        let width = slot * 0.8 / self.plan.series.len().max(1) as f64;
        for bucket in &series.buckets {
            let (x, y) = (self.x(bucket.at_ms) + slot * 0.1 + width * at as f64, self.y(bucket.max));
            let height = HEIGHT - y;
            let _ = write!(
                out,
                "<rect class=\"f{}\" x=\"{x:.1}\" y=\"{y:.2}\" width=\"{width:.1}\" height=\"{height:.2}\"/>",
                at + 1
            );
        }
    }
}

/// Stretches without a gap: no two neighbours are more than two buckets apart.
fn runs(buckets: &[Bucket], bucket_ms: i64) -> impl Iterator<Item = &[Bucket]> {
    buckets
        .chunk_by(move |a, b| b.at_ms - a.at_ms <= 2 * bucket_ms && a.last.is_finite() && b.last.is_finite())
}

/// What the chart shows, in a sentence.
fn summary(plan: &Plan) -> String {
    let bucket = crate::span::span(plan.bucket_ms);
    let mut said = Vec::new();
    for series in &plan.series {
        let Some(last) = series.buckets.last() else {
            said.push(format!("{}: nothing in this time", series.name));
            continue;
        };
        if plan.form == Form::Bars {
            let total: f64 = series.buckets.iter().map(|of| of.max).sum();
            said.push(format!("{}: {} in all", series.name, number(total)));
            continue;
        }
        let low = series.buckets.iter().map(|of| of.min).fold(f64::INFINITY, f64::min);
        let high = series.buckets.iter().map(|of| of.max).fold(f64::NEG_INFINITY, f64::max);
        let unit = if plan.unit.is_empty() { String::new() } else { format!(" {}", plan.unit) };
        said.push(format!(
            "{}: {} to {}{unit}, last {}",
            series.name,
            number(low),
            number(high),
            number(last.last)
        ));
    }
    for mark in &plan.marks {
        said.push(mark.word.clone());
    }
    if said.is_empty() {
        return "Nothing in this time.".to_owned();
    }
    format!("{}. Each point is {bucket}.", said.join("; "))
}

fn heads(plan: &Plan) -> Vec<String> {
    let names = plan.series.iter().flat_map(|series| match plan.form {
        Form::Lines => vec![format!("{} last", series.name), "min".to_owned(), "max".to_owned()],
        Form::Bars => vec![series.name.clone()],
    });
    names.collect()
}

fn lines(plan: &Plan) -> Vec<Line> {
    let mut instants: Vec<i64> =
        plan.series.iter().flat_map(|series| series.buckets.iter().map(|bucket| bucket.at_ms)).collect();
    instants.sort_unstable();
    instants.dedup();
    instants
        .into_iter()
        .map(|at_ms| {
            let cells = plan.series.iter().flat_map(|series| {
                let found = series.buckets.binary_search_by_key(&at_ms, |bucket| bucket.at_ms).ok();
                let found = found.map(|at| series.buckets[at]);
                let say = |value: Option<f64>| value.map_or_else(|| "none".to_owned(), number);
                match plan.form {
                    Form::Lines => vec![
                        say(found.map(|of| of.last)),
                        say(found.map(|of| of.min)),
                        say(found.map(|of| of.max)),
                    ],
                    Form::Bars => vec![say(found.map(|of| of.max))],
                }
            });
            Line {
                at: When::exact(&time::from_ms(u64::try_from(at_ms).unwrap_or(0))),
                cells: cells.collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(buckets: Vec<Bucket>) -> Plan {
        Plan {
            title: "t".into(),
            unit: "°C".into(),
            from_ms: 0,
            to_ms: 100_000,
            bucket_ms: 1_000,
            series: vec![Series { name: "inside".into(), buckets }],
            marks: vec![],
            form: Form::Lines,
            from_zero: false,
        }
    }

    fn bucket(at_ms: i64, value: f64) -> Bucket {
        Bucket { at_ms, min: value - 1.0, max: value + 1.0, last: value }
    }

    #[test]
    fn what_is_missing_is_a_gap() {
        let chart = Chart::new(&plan(vec![bucket(0, 1.0), bucket(1_000, 2.0), bucket(9_000, 3.0)]));
        assert_eq!(chart.drawing.matches("class=\"trace l1\"").count(), 2, "{}", chart.drawing);
        assert!(chart.summary.starts_with("inside: 0 to 4 °C, last 3"), "{}", chart.summary);
        assert_eq!(chart.lines.len(), 3);
    }

    #[test]
    fn the_axis_has_round_figures_and_holds_every_value() {
        let cases: [(f64, f64, bool, &[f64]); 5] = [
            (0.0, 1.0, true, &[0.0, 4.0]),
            (0.0, 7.0, true, &[0.0, 8.0]),
            (20.9, 21.7, false, &[20.8, 21.8]),
            (-5.0, 5.0, false, &[-5.0, 5.0]),
            (3.0, 3.0, false, &[]),
        ];
        for (low, high, zero, within) in cases {
            let all = [Bucket { at_ms: 0, min: low, max: high, last: low }];
            let scale = Scale::over(all.iter(), zero);
            assert!(
                scale.low <= low + 1e-9 && scale.high >= high - 1e-9,
                "{low} {high}: {} {}",
                scale.low,
                scale.high
            );
            assert!(scale.high > scale.low);
            if let [least, most] = within {
                assert!(
                    scale.low >= least - 1e-9 && scale.high <= most + (most - least),
                    "{} {}",
                    scale.low,
                    scale.high
                );
            }
        }
    }

    #[test]
    fn nothing_to_draw_is_said() {
        let chart = Chart::new(&plan(vec![]));
        assert!(chart.empty && chart.drawing.is_empty());
        assert_eq!(chart.summary, "inside: nothing in this time. Each point is 1s.");
    }

    #[test]
    fn a_value_that_is_no_number_draws_nothing_wrong() {
        let broken = Bucket { at_ms: 1_000, min: f64::NAN, max: f64::NAN, last: f64::NAN };
        let chart = Chart::new(&plan(vec![bucket(0, 1.0), broken, bucket(2_000, 2.0)]));
        assert!(!chart.y.iter().any(|of| of.contains("NaN")), "{:?}", chart.y);
    }
}
