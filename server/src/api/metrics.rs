//! `/metrics`: the figures of a node in the Prometheus text format 0.0.4.
//!
//! # Invariants
//!
//! - What is counted over all tenants is for those who see all of them.
//! - A figure is a number that is kept anyway: nobody is asked but for the number of devices.
//! - Times are in seconds, sizes in octets; a name that ends in `_total` only ever grows.

use std::fmt::{Display, Write as _};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::{
    Doors,
    auth::{Caller, Need},
    error::Problem,
    routes::{About, Routes},
    status::{not_ready, seen},
};
use crate::{
    edge::handshakes::{ENDS_US, Handshakes},
    registry::Scope,
};

/// What is told of each figure, for who reads the description of the API.
const TOLD: &str = "Figures, in the Prometheus text format 0.0.4. Gauges: muster_ready, muster_devices, \
    muster_sessions, muster_service_sessions and, for who sees every tenant, muster_certificates, \
    muster_sessions_kept, muster_generation, muster_start_time_seconds, \
    muster_broker_certificate_end_seconds, muster_uplink_octets. Counters since the start, for who sees every \
    tenant: muster_refusals_total{code}, muster_connects_total{protocol}, \
    muster_sessions_ended_total{reason}, muster_messages_received_total{qos}, \
    muster_messages_sent_total{qos}, muster_enforcement_seconds_sum and _count (from a decision to the close \
    of the last session it ended), muster_handshake_seconds (a histogram), muster_takeovers_total, \
    muster_takeovers_suspected_total, \
    muster_slowed_total, muster_bus_restarts_total, muster_bus_dropped_total, muster_facts_dropped_total, \
    muster_facts_writes_total, and those of the guards";

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.get("/metrics", metrics, About::new("Figures").answers_raw("text/plain", TOLD))
}

/// The text, family by family.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP muster_{name} {help}\n# TYPE muster_{name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "gauge", help);
        let _ = writeln!(self.0, "muster_{name} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let name = format!("{name}_total");
        self.head(&name, "counter", help);
        let _ = writeln!(self.0, "muster_{name} {value}");
    }

    /// A counter for each value of a label. The values are words of ours: nothing is escaped.
    fn counters<L: Display>(
        &mut self,
        name: &str,
        label: &str,
        help: &str,
        all: impl IntoIterator<Item = (L, u64)>,
    ) {
        let name = format!("{name}_total");
        self.head(&name, "counter", help);
        for (value, count) in all {
            let _ = writeln!(self.0, "muster_{name}{{{label}=\"{value}\"}} {count}");
        }
    }

    /// How many took how long: each bucket counts what the smaller ones do, too.
    fn handshakes(&mut self, handshakes: &Handshakes) {
        const NAME: &str = "handshake_seconds";
        let (taken, took_us) = handshakes.all();
        self.head(NAME, "histogram", "TLS handshakes of devices and services that came to their end.");
        let mut so_far = 0;
        for (end_us, n) in ENDS_US.iter().zip(taken.bins) {
            so_far += n;
            let _ = writeln!(self.0, "muster_{NAME}_bucket{{le=\"{}\"}} {so_far}", *end_us as f64 / 1e6);
        }
        let (count, sum_s) = (taken.count(), took_us as f64 / 1e6);
        let _ = writeln!(self.0, "muster_{NAME}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(self.0, "muster_{NAME}_sum {sum_s}\nmuster_{NAME}_count {count}");
    }

    /// A sum of times and how many they are.
    fn summary_ms(&mut self, name: &str, help: &str, count: u64, sum_ms: u64) {
        self.head(name, "summary", help);
        let (whole, rest) = (sum_ms / 1000, sum_ms % 1000);
        let _ = writeln!(self.0, "muster_{name}_sum {whole}.{rest:03}\nmuster_{name}_count {count}");
    }
}

async fn metrics(caller: Caller, State(doors): State<Doors>) -> Result<Response, Problem> {
    caller.may(Need::Look)?;
    let scope = caller.scope();
    let devices = doors.registry.device_count(scope).await?;
    let mut text = Text::default();
    let ready = not_ready(&doors).is_empty();
    text.gauge("ready", "1 when devices are taken and their messages stored.", ready.into());
    text.gauge("devices", "Devices in the registry.", devices);
    let (of_devices, of_services) = if *scope == Scope::Every {
        let of_devices = doors.roster.devices().len();
        (of_devices, doors.roster.count().saturating_sub(of_devices))
    } else {
        let own = seen(&doors, scope);
        let of_devices = own.iter().filter(|session| session.arrival.owner.device().is_some()).count();
        (of_devices, own.len().saturating_sub(of_devices))
    };
    text.gauge("sessions", "Live sessions of devices.", of_devices as u64);
    text.gauge("service_sessions", "Live sessions of services.", of_services as u64);
    if *scope == Scope::Every {
        gauges(&mut text, &doors);
        edge(&mut text, &doors);
        guards(&mut text, &doors);
        inside(&mut text, &doors);
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text.0).into_response())
}

fn gauges(text: &mut Text, doors: &Doors) {
    let verdicts = doors.registry.verdicts();
    let ends_s = u64::try_from(doors.facts.broker.ends_at_s()).unwrap_or(0);
    for (name, help, value) in [
        ("certificates", "Certificates in the registry.", verdicts.certificates() as u64),
        ("sessions_kept", "Sessions that outlive their connection.", doors.sessions.counts().0 as u64),
        ("generation", "Decisions made.", verdicts.generation().0),
        ("start_time_seconds", "Start of the process, Unix seconds.", doors.facts.started_at_ms / 1000),
        ("broker_certificate_end_seconds", "End of the broker's certificate, Unix seconds.", ends_s),
        ("uplink_octets", "Octets of the uplink log that hold something.", doors.uplink.kept().octets),
    ] {
        text.gauge(name, help, value);
    }
}

/// Who came and went, and what was carried.
fn edge(text: &mut Text, doors: &Doors) {
    let facts = doors.registry.facts();
    text.counters(
        "refusals",
        "code",
        "Connections, packets, messages and filters that were refused.",
        facts.refusals().map(|(code, count)| (code.id(), count)),
    );
    let figures = &doors.figures;
    text.counters(
        "connects",
        "protocol",
        "Connections that were let in.",
        figures.connects().map(|(version, count)| (version.as_str(), count)),
    );
    text.counters(
        "sessions_ended",
        "reason",
        "Sessions whose connection ended.",
        figures.endings().map(|(reason, count)| (reason.as_str(), count)),
    );
    let (received, sent) = figures.messages();
    let by_qos = |counts: [u64; 3]| (0..).zip(counts).map(|(qos, count): (u8, u64)| (qos, count));
    text.counters("messages_received", "qos", "Messages clients published.", by_qos(received));
    text.counters("messages_sent", "qos", "Messages sent to clients.", by_qos(sent));
    let (count, sum_ms) = doors.revocation.times();
    let help = "From a decision that ends sessions to the close of the last of them.";
    text.summary_ms("enforcement_seconds", help, count, sum_ms);
    text.handshakes(&doors.facts.tally.handshakes);
}

fn guards(text: &mut Text, doors: &Doors) {
    let seen = doors.facts.tally.read();
    for (name, help, value) in [
        ("takeovers", "Sessions that were taken over.", seen.takeovers),
        ("takeovers_refused", "Takeovers that were refused.", seen.takeovers_refused),
        (
            "takeovers_suspected",
            "Clones suspected: sessions that were taken over too often.",
            seen.takeovers_suspected,
        ),
        ("continuity_alerts", "Continuity tokens that were not the expected ones.", seen.continuity_alerts),
        ("continuity_breaker_openings", "Times there were too many to act on.", seen.breaker_openings),
        ("quarantined", "Devices quarantined by the server.", seen.quarantined),
        ("addresses_busy", "Connections of addresses that had too many.", seen.addresses_busy),
        ("proxy_headers_missing", "Connections of balancers without a header.", seen.headers_missing),
        ("slowed", "Devices held back for their pace, each once a minute.", seen.slowed),
    ] {
        text.counter(name, help, value);
    }
}

/// What the node did not keep up with, and the server's own doings.
fn inside(text: &mut Text, doors: &Doors) {
    let (log, facts) = (doors.uplink.kept(), doors.registry.facts());
    for (name, help, value) in [
        ("dropped", "Messages to devices that found no room.", doors.sessions.counts().1),
        (
            "uplink_segments_removed",
            "Segments of the uplink log that went for their age or its size.",
            log.removed,
        ),
        ("bus_restarts", "Times the bus was started again.", doors.bus.restarts()),
        ("bus_dropped", "Commits the bus did not carry; their readers read the log.", doors.bus.dropped()),
        ("facts_dropped", "Facts that found no room and are not recorded.", facts.dropped()),
        ("facts_writes", "Transactions in which facts were written.", facts.writes()),
    ] {
        text.counter(name, help, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_prometheus_reads_it() {
        let mut text = Text::default();
        text.counters("refusals", "code", "Refused.", [("M201", 3)]);
        text.summary_ms("enforcement_seconds", "How long.", 2, 1007);
        assert_eq!(
            text.0,
            "# HELP muster_refusals_total Refused.\n# TYPE muster_refusals_total counter\n\
             muster_refusals_total{code=\"M201\"} 3\n\
             # HELP muster_enforcement_seconds How long.\n# TYPE muster_enforcement_seconds summary\n\
             muster_enforcement_seconds_sum 1.007\nmuster_enforcement_seconds_count 2\n"
        );
    }
}
