//! `muster device explain`: why a device can or cannot connect, check by check.

use super::{
    Done,
    args::Explain,
    client::{Client, read},
    device::encode,
    screen::{Screen, Style, Text},
    words,
};
use crate::api::{error::Problem, view::Explanation};

pub(super) fn run(explain: &Explain, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let mut path = format!("/v1/explain/{}?verb={}", encode(&explain.serial), encode(&explain.verb));
    if let Some(topic) = &explain.topic {
        path.push_str(&format!("&topic={}", encode(topic)));
    }
    let document = client.get(&path)?;
    let said: Explanation = read(&document)?;
    if screen.output.is_json() {
        screen.raw(&document.to_string());
    } else {
        show(&said, screen);
    }
    let well =
        said.may_connect && !said.refused_since && said.topic.as_ref().is_none_or(|topic| topic.allowed);
    Ok(if well { Done::Well } else { Done::AnswerIsNo })
}

fn show(said: &Explanation, screen: &Screen) {
    let answer = match (said.may_connect, said.refused_since) {
        (true, false) => "its certificate may connect",
        (true, true) => "its certificate may connect, and it was refused for what it sent",
        (false, _) => "may not connect",
    };
    screen.pieces(&[
        words::glyph(&said.state, screen),
        Text::plain(" "),
        Text::new(&said.serial, Style::Bold),
        Text::plain(format!(" · {} · {answer}", said.state)),
    ]);
    let mut checks = vec![Text::plain("  checks      ")];
    for check in &said.checks {
        checks.push(match &*check.outcome {
            "yes" => Text::new(format!("{} {}  ", screen.glyph("✓", "ok"), check.words), Style::Green),
            "no" => Text::new(format!("{} {}  ", screen.glyph("✕", "no"), check.words), Style::Red),
            "depends" => Text::new(format!("? {}  ", check.words), Style::Quiet),
            _ => Text::new(format!("{} {}  ", screen.glyph("·", "-"), check.words), Style::Quiet),
        });
    }
    screen.pieces(&checks);
    let mut facts = vec![(
        "certificate",
        format!("{} · ends {}", words::short(&said.certificate_id), words::day(&said.certificate_ends_at)),
    )];
    if let (Some(code), Some(words)) = (&said.code, &said.words) {
        facts.push(("refused", format!("[{code}] {words}")));
    }
    for check in said.checks.iter().filter(|check| check.outcome == "depends") {
        if let Some(known) = &check.said {
            facts.push(("depends on", format!("{}: {known}", check.words)));
        }
    }
    if let Some(row) = &said.why {
        let reason = row.reason.as_ref().map(|reason| format!(" {reason:?}")).unwrap_or_default();
        facts.push(("why", format!("{} by {} {}{reason}", row.action, row.actor, words::ago(&row.at))));
    }
    facts.push(("online", if said.online { "yes" } else { "no" }.to_owned()));
    facts.push((
        "last time",
        said.last_refusal.as_ref().map_or_else(
            || "never refused".to_owned(),
            |of| format!("refused {} [{} {}]", words::ago(&of.last_at), of.code, of.words),
        ),
    ));
    if let Some(topic) = &said.topic {
        let answer = match (&topic.code, &topic.why) {
            (Some(code), Some(why)) => format!("refused [{code}] {why}"),
            _ => "allowed".to_owned(),
        };
        facts.push(("topic", format!("{} {}: {answer}", topic.verb, topic.topic)));
    }
    if let Some(next) = &said.next {
        facts.push(("next", next.clone()));
    }
    for (label, text) in facts {
        screen.line(format!("  {label:<11} {text}"));
    }
}
