//! `muster doctor`: is the server reachable, trusted, and well; each question answered, the first that is wrong
//! with what to do about it.

use std::{
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    time::{Duration, Instant},
};

use muster_shared::Code;
use serde_json::json;

use super::{
    Done,
    client::{Client, read},
    screen::{Screen, Style, Text},
    words,
};
use crate::{
    api::{error::Problem, time, view::Health},
    config::Config,
};

/// How far a clock may be from the server's, milliseconds: certificates and audit times stay right within it.
const CLOCK_MS: i64 = 60_000;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A question and its answer.
struct Finding {
    name: String,
    /// `None`: it could not be asked.
    ok: Option<bool>,
    said: String,
    next: Option<String>,
}

impl Finding {
    fn new(name: &str, ok: bool, said: impl Into<String>) -> Self {
        Self { name: name.to_owned(), ok: Some(ok), said: said.into(), next: None }
    }

    fn refused(name: &str, problem: &Problem) -> Self {
        let why = problem.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let said = format!("[{}] {}{why}", problem.code, problem.what);
        Self { next: Some(problem.next.clone()), ..Self::new(name, false, said) }
    }

    fn not_asked(name: &str) -> Self {
        Self { name: name.to_owned(), ok: None, said: "not asked".to_owned(), next: None }
    }
}

pub(super) fn run(config: &Config, screen: &Screen) -> Result<Done, Problem> {
    let mut findings = Vec::new();
    match Client::new(config) {
        Err(problem) => {
            let name = if problem.code == Code::ServerNotTrusted { "authority" } else { "token file" };
            findings.push(Finding::refused(name, &problem));
        }
        Ok(client) => {
            findings.push(Finding::new("configuration", true, client.base()));
            reach(&client, &mut findings);
        }
    }
    print(&findings, screen);
    let well = findings.iter().all(|finding| finding.ok == Some(true));
    Ok(if well { Done::Well } else { Done::AnswerIsNo })
}

fn reach(client: &Client, findings: &mut Vec<Finding>) {
    let rest = |findings: &mut Vec<Finding>, names: &[&str]| {
        findings.extend(names.iter().map(|name| Finding::not_asked(name)));
    };
    let addresses: Vec<SocketAddr> = match client.authority().to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            findings.push(Finding::new("name", false, format!("{}: {error}", client.authority())));
            return rest(findings, &["reach", "TLS", "token", "clock", "server"]);
        }
    };
    let shown: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    findings.push(Finding::new("name", true, shown.join(" ")));
    let began = Instant::now();
    let connected = addresses.iter().find_map(|address| TcpStream::connect_timeout(address, CONNECT).ok());
    let ms = began.elapsed().as_millis();
    if connected.is_none() {
        let refused = Problem::new(Code::ServerUnreachable).because(format!("no connection within {ms} ms"));
        findings.push(Finding::refused("reach", &refused));
        return rest(findings, &["TLS", "token", "clock", "server"]);
    }
    findings.push(Finding::new("reach", true, format!("TCP in {ms} ms")));
    let asked = client.get("/v1/health").and_then(|document| read::<Health>(&document));
    match asked {
        Err(problem) => {
            let tls = matches!(problem.code, Code::ServerNotTrusted | Code::ServerUnreachable);
            if tls {
                findings.push(Finding::refused("TLS", &problem));
                return rest(findings, &["token", "clock", "server"]);
            }
            findings.push(Finding::new("TLS", true, "the server's certificate is the trusted one's"));
            let name = if problem.status() == 401 { "token" } else { "server" };
            findings.push(Finding::refused(name, &problem));
        }
        Ok(health) => {
            findings.push(Finding::new("TLS", true, "the server's certificate is the trusted one's"));
            findings.push(Finding::new("token", true, format!("{} as {}", health.operator, health.role)));
            findings.push(clock(&health));
            findings.extend(health.checks.into_iter().map(|check| Finding {
                name: check.check,
                ok: Some(check.ok),
                said: check.said,
                next: check.next,
            }));
        }
    }
}

fn clock(health: &Health) -> Finding {
    let off = time::to_ms(&health.now).map_or(i64::MAX, |server| words::now_ms() - server);
    let side = if off < 0 { "behind" } else { "ahead of" };
    let said = format!("this machine is {} ms {side} the server", off.unsigned_abs());
    Finding::new("clock", off.abs() <= CLOCK_MS, said)
}

fn print(findings: &[Finding], screen: &Screen) {
    if screen.output.is_json() {
        let items = findings
            .iter()
            .map(|of| json!({ "check": of.name, "ok": of.ok, "said": of.said, "next": of.next }));
        screen.raw(&json!({ "schema": "muster.doctor/1", "items": items.collect::<Vec<_>>() }).to_string());
        return;
    }
    for finding in findings {
        let mark = match finding.ok {
            Some(true) => Text::new(screen.glyph("✓", "ok"), Style::Green),
            Some(false) => Text::new(screen.glyph("✕", "no"), Style::Red),
            None => Text::new(screen.glyph("·", "-"), Style::Quiet),
        };
        screen.pieces(&[mark, Text::plain(format!(" {:<16} {}", finding.name, finding.said))]);
        if let Some(next) = &finding.next {
            screen.line(format!("  {:<16} next: {next}", ""));
        }
    }
}
