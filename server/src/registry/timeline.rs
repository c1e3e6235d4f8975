//! What happened to a device and what it did, newest first, each in one line. Every surface shows these lines.
//!
//! Put together when it is asked for, from what is kept anyway: the audit log, sessions, refusals, notices, changes
//! of firmware, certificates and the manifest it came with. Refusals of one code on one day (UTC) are one line, and so are
//! notices of one kind.

use std::collections::HashMap;

use muster_pki::profile::NO_END_S;
use muster_shared::{CertificateId, Code};
use sqlx::Row as _;

use super::{
    Inner, Page,
    database::{Connection, QueryBuilder, digest, int, parse, uint},
    decide::{Target, find},
    device::Act,
    error::RegistryError,
    facts::Notice,
    now_ms,
    session::{DisconnectReason, words},
};

words!(
    /// What kind of thing happened.
    EventKind, "kind of event", {
        /// Its certificate was made, or its manifest imported.
        Made = "made",
        /// A session began.
        Connected = "connected",
        /// A session ended.
        Disconnected = "disconnected",
        /// It was refused.
        Refused = "refused",
        /// Somebody decided about it.
        Decided = "decided",
        /// It has another certificate.
        Certificate = "certificate",
        /// Somebody wrote on it, or ordered something of it.
        Ordered = "ordered",
        /// It sent faster than it may, and was held back.
        Slowed = "slowed",
        /// It reported to run something else than before.
        Firmware = "firmware",
        /// Perhaps there are two of it; nobody was kept out.
        CloneSuspected = "clone_suspected",
    }
);

words!(
    /// The shape that stands before a line.
    Mark, "mark", {
        /// ○
        Made = "made",
        /// ◇
        Registered = "registered",
        /// ●
        Active = "active",
        /// ‖
        Suspended = "suspended",
        /// ▲
        Quarantined = "quarantined",
        /// ✕
        Refused = "refused",
        /// □
        Gone = "gone",
        /// ·
        Plain = "plain",
    }
);

words!(
    /// Which lines of a timeline: what it was asked of, so that the rest is not even read.
    Only, "kind of line", {
        /// What somebody decided or ordered, and how it came to be here.
        Decisions = "decision",
        /// Its sessions, and what was noticed of them.
        Sessions = "session",
        /// Its refusals.
        Refusals = "refusal",
    }
);

impl Mark {
    /// The shape.
    #[must_use]
    pub fn glyph(self) -> &'static str {
        match self {
            Self::Made => "○",
            Self::Registered => "◇",
            Self::Active => "●",
            Self::Suspended => "‖",
            Self::Quarantined => "▲",
            Self::Refused => "✕",
            Self::Gone => "□",
            Self::Plain => "·",
        }
    }

    /// The shape, in ASCII.
    #[must_use]
    pub fn ascii(self) -> &'static str {
        match self {
            Self::Made => "o",
            Self::Registered => "+",
            Self::Active => "*",
            Self::Suspended => "=",
            Self::Quarantined => "!",
            Self::Refused => "x",
            Self::Gone => "-",
            Self::Plain => ".",
        }
    }
}

/// One line of a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// What kind of thing.
    pub kind: EventKind,
    /// The shape before the line.
    pub mark: Mark,
    /// The line, without time and shape.
    pub text: String,
    /// Who did it, where somebody did.
    pub actor: Option<String>,
    /// The row of the audit log that says so.
    pub audit_no: Option<u64>,
    /// Why it was refused.
    pub code: Option<Code>,
}

/// Most lines of a page.
pub const LINES_MAX: u32 = 200;
/// Minutes of refusals that are folded for a page at most.
const MINUTES: i64 = 5000;
const DAY_MS: u64 = 86_400_000;
/// How long before its end a certificate is said to end.
const SOON_DAYS: i64 = 30;

/// Lines before an instant, Unix milliseconds: `after` is the `next` of the page before.
pub(super) async fn timeline(
    inner: &Inner,
    target: &Target,
    only: Option<Only>,
    after: Option<&str>,
    limit: u32,
) -> Result<Page<Event>, RegistryError> {
    let wrong = |_| RegistryError::Value { what: "after", why: "it is no cursor of a timeline".to_owned() };
    let before = after.map(str::parse::<u64>).transpose().map_err(wrong)?.unwrap_or(u64::MAX);
    let limit = limit.clamp(1, LINES_MAX) as usize;
    let mut connection = inner.database.readers().acquire().await?;
    let id = find(&mut connection, target).await?;
    let mut events = Vec::new();
    let rows = limit as i64 + 1;
    let wanted = |kind| only.is_none_or(|only| only == kind);
    if wanted(Only::Decisions) {
        events.extend(made(&mut connection, id).await?);
        let groups = groups(inner, &mut connection, id).await?;
        events.extend(decided(&mut connection, id, &groups, before, rows).await?);
    }
    if wanted(Only::Sessions) {
        events.extend(sessions(&mut connection, id, before, rows).await?);
        events.extend(noticed(&mut connection, id, before).await?);
        events.extend(firmware(&mut connection, id, before, rows).await?);
    }
    if wanted(Only::Refusals) {
        events.extend(refused(&mut connection, id, before).await?);
    }
    events.retain(|event| event.at_ms < before);
    events.sort_by_key(|event| std::cmp::Reverse(event.at_ms));
    // What happened in one millisecond stays on one page: the cursor is an instant.
    let cut = events.get(limit).map(|beyond| {
        let at = beyond.at_ms;
        let whole = events.iter().take(limit).rposition(|event| event.at_ms > at);
        whole.map_or_else(|| events.iter().take_while(|event| event.at_ms >= at).count(), |last| last + 1)
    });
    let more = cut.is_some_and(|cut| cut < events.len());
    events.truncate(cut.unwrap_or(events.len()));
    let next = events.last().filter(|_| more).map(|event| event.at_ms.to_string());
    let total = events.len() as u64;
    Ok(Page { exact: next.is_none() && after.is_none(), items: events, next, total })
}

/// How it came to be here, and what certificates it was given since.
async fn made(connection: &mut Connection, id: i64) -> Result<Vec<Event>, RegistryError> {
    let row = sqlx::query(
        "SELECT device.registered_at_ms, batch.name AS batch, station.name AS station,
         (SELECT manifest.imported_by FROM manifest WHERE manifest.batch = device.batch
          AND manifest.imported_at_ms = device.registered_at_ms ORDER BY manifest.id LIMIT 1) AS imported_by,
         (SELECT count(*) FROM manifest WHERE manifest.batch = device.batch) AS manifests
         FROM device JOIN batch ON batch.id = device.batch JOIN station ON station.id = batch.station
         WHERE device.id = $1",
    )
    .bind(id)
    .fetch_one(&mut *connection)
    .await?;
    let (batch, station): (String, String) = (row.try_get("batch")?, row.try_get("station")?);
    let by: Option<String> = row.try_get("imported_by")?;
    let said = by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let manifests: i64 = row.try_get("manifests")?;
    // A batch without one has come by a list, or device by device.
    let from = if manifests > 0 { "from manifest" } else { "in batch" };
    let mut events = vec![Event {
        at_ms: uint(row.try_get("registered_at_ms")?),
        kind: EventKind::Made,
        mark: Mark::Registered,
        text: format!("registered {from} {batch}{said}"),
        actor: by,
        audit_no: None,
        code: None,
    }];
    let certificates: Vec<(Vec<u8>, i64, i64, i64)> = sqlx::query_as(
        "SELECT id, not_before_s, added_at_ms, not_after_s FROM certificate
         WHERE device = $1 ORDER BY added_at_ms, not_after_s",
    )
    .bind(id)
    .fetch_all(connection)
    .await?;
    let mut before: Option<String> = None;
    let next = certificates.iter().skip(1).map(|(_, _, added_at_ms, _)| *added_at_ms).chain([i64::MAX]);
    for ((digest, not_before_s, added_at_ms, not_after_s), next_ms) in certificates.iter().zip(next) {
        let (not_before_s, added_at_ms) = (*not_before_s, *added_at_ms);
        let name = hex::encode(digest.get(..4).unwrap_or(digest));
        events.extend(ending(&name, added_at_ms, *not_after_s, next_ms.min(int(now_ms()))));
        let (at_ms, kind, mark, text) = match &before {
            None => {
                let at_ms = uint(not_before_s.saturating_mul(1000));
                (at_ms, EventKind::Made, Mark::Made, format!("certificate {name} made at {station}"))
            }
            Some(old) => {
                let text = format!("certificate renewed {old} → {name}");
                (uint(added_at_ms), EventKind::Certificate, Mark::Plain, text)
            }
        };
        events.push(Event { at_ms, kind, mark, text, actor: None, audit_no: None, code: None });
        before = Some(name);
    }
    Ok(events)
}

/// That a certificate will end soon, and that it has ended, as far as that was so before `until_ms`: by now, or
/// when another took its place. Nobody writes it down: it is so by the clock.
fn ending(name: &str, added_at_ms: i64, not_after_s: i64, until_ms: i64) -> Vec<Event> {
    let end_ms = not_after_s.saturating_mul(1000);
    let soon_ms = end_ms.saturating_sub(SOON_DAYS * int(DAY_MS)).max(added_at_ms);
    let days = (end_ms - soon_ms) / int(DAY_MS);
    [
        (soon_ms, Mark::Plain, format!("certificate {name} ends in {days} days")),
        (end_ms, Mark::Refused, format!("certificate {name} has ended")),
    ]
    .into_iter()
    .filter(|(at_ms, ..)| not_after_s < NO_END_S && *at_ms < until_ms)
    .map(|(at_ms, mark, text)| seen(uint(at_ms), EventKind::Certificate, mark, text))
    .collect()
}

/// `now 1.4.2 (was 1.4.1)`.
async fn firmware(
    connection: &mut Connection,
    id: i64,
    before: u64,
    limit: i64,
) -> Result<Vec<Event>, RegistryError> {
    let rows: Vec<(i64, String, String)> = sqlx::query_as(
        "SELECT at_ms, version, was FROM firmware_change WHERE device = $1 AND at_ms < $2
         ORDER BY at_ms DESC LIMIT $3",
    )
    .bind(id)
    .bind(int(before))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let line = |(at_ms, version, was): (i64, String, String)| {
        let was = if was.is_empty() { "the first it reported".to_owned() } else { format!("was {was}") };
        seen(uint(at_ms), EventKind::Firmware, Mark::Plain, format!("firmware: now {version} ({was})"))
    };
    Ok(rows.into_iter().map(line).collect())
}

/// A row of the audit log, as far as a line needs it: number, time, actor, action, reason, detail.
type Decision = (i64, i64, String, String, String, String);
/// What became of its sessions: when decided, when closed, how many.
type Closed = (i64, Option<i64>, i64);

/// Itself and every group it is in, as the audit log names them: what was decided about a group was decided
/// about its members.
async fn groups(inner: &Inner, connection: &mut Connection, id: i64) -> Result<Vec<String>, RegistryError> {
    let (own, certificate): (String, Option<Vec<u8>>) =
        sqlx::query_as("SELECT tenant || '/' || serial, certificate FROM device WHERE id = $1")
            .bind(id)
            .fetch_one(connection)
            .await?;
    let key = inner.verdicts.by_row(id);
    let mut about = match (key, certificate) {
        (Some(key), Some(certificate)) => {
            inner.verdicts.groups(key, &CertificateId(digest(&certificate, "a certificate's id")?))
        }
        _ => Vec::new(),
    };
    about.push(own);
    Ok(about)
}

async fn decided(
    connection: &mut Connection,
    id: i64,
    about: &[String],
    before: u64,
    limit: i64,
) -> Result<Vec<Event>, RegistryError> {
    let enforced: Vec<(i64, i64, Option<i64>, i64)> = sqlx::query_as(
        "SELECT audit_no, decided_at_ms, enforced_at_ms, sessions_ended FROM enforcement
         WHERE device = $1 ORDER BY generation DESC LIMIT $2",
    )
    .bind(id)
    .bind(limit)
    .fetch_all(&mut *connection)
    .await?;
    let enforced: HashMap<i64, Closed> =
        enforced.into_iter().map(|(no, decided, at, ended)| (no, (decided, at, ended))).collect();
    let mut query = QueryBuilder::new(
        "SELECT audit.no, audit.at_ms, audit.actor, audit.action, audit.reason, audit.detail FROM audit
         WHERE audit.target IN (",
    );
    let mut list = query.separated(", ");
    for target in about {
        list.push_bind(target.clone());
    }
    query.push(") AND audit.at_ms < ").push_bind(int(before));
    query.push(" ORDER BY audit.no DESC LIMIT ").push_bind(limit);
    let rows: Vec<Decision> = query.build_query_as().fetch_all(connection).await?;
    Ok(rows.into_iter().map(|row| decision(&row, enforced.get(&row.0))).collect())
}

/// `suspended by ana "returned for repair", session closed in 9 ms`.
fn decision((no, at_ms, actor, action, reason, detail): &Decision, closed: Option<&Closed>) -> Event {
    let (whom, verb) = action.split_once('.').unwrap_or(("device", action));
    let act: Option<Act> = verb.parse().ok();
    // Its group's, not its own.
    let with = if whom == "device" { String::new() } else { format!(" with its {whom}") };
    let detail: serde_json::Value = serde_json::from_str(detail).unwrap_or_default();
    let mut text = match (act, verb) {
        (Some(Act::FirstConnection), _) => "first connection → active".to_owned(),
        (Some(act), _) => format!("{}{with} by {actor}", act.participle()),
        (None, "disconnect") => format!("disconnected by {actor}"),
        (None, "command") => format!("command sent by {actor}"),
        (None, "twin") => format!("desired state {} set by {actor}", detail["version"]),
        (None, "replace") => format!("replaced by {} by {actor}", other(&detail, "successor")),
        (None, "succeed") => format!("took the place of {} by {actor}", other(&detail, "predecessor")),
        (None, "label") => format!("labelled by {actor}{}", labelled(&detail)),
        (None, verb) => format!("{verb} by {actor}"),
    };
    if let Some(code) = detail["code"].as_str().filter(|_| act == Some(Act::Revoke) || verb == "replace") {
        text.push_str(&format!(", {code}"));
    }
    if !reason.is_empty() {
        text.push_str(&format!(" \"{reason}\""));
    }
    match closed {
        Some((decided, Some(enforced), ended)) if *ended > 0 => {
            text.push_str(&format!(", session closed in {} ms", uint(enforced - decided)));
        }
        Some((_, None, _)) => text.push_str(", session being closed"),
        _ => {}
    }
    let replaced = verb == "replace";
    Event {
        at_ms: uint(*at_ms),
        kind: if act.is_some() || replaced { EventKind::Decided } else { EventKind::Ordered },
        mark: act.or(replaced.then_some(Act::Revoke)).map_or(Mark::Plain, mark),
        text,
        actor: Some(actor.clone()),
        audit_no: Some(uint(*no)),
        code: None,
    }
}

/// The serial of the other device of a swap.
fn other<'a>(detail: &'a serde_json::Value, key: &str) -> &'a str {
    let name = detail[key].as_str().unwrap_or("another");
    name.split_once('/').map_or(name, |(_, serial)| serial)
}

fn mark(act: Act) -> Mark {
    match act {
        Act::FirstConnection | Act::Resume | Act::Release => Mark::Active,
        Act::Suspend => Mark::Suspended,
        Act::Quarantine => Mark::Quarantined,
        Act::Revoke => Mark::Refused,
        Act::Decommission => Mark::Gone,
    }
}

/// `: +tag a, -group b, note`.
fn labelled(detail: &serde_json::Value) -> String {
    let mut said = Vec::new();
    for (key, sign) in [("add", '+'), ("remove", '-')] {
        for kind in ["tag", "group"] {
            let words = detail[key][kind].as_array().into_iter().flatten();
            said.extend(words.filter_map(|word| Some(format!("{sign}{kind} {}", word.as_str()?))));
        }
    }
    if detail["note"].is_string() {
        said.push("note".to_owned());
    }
    if said.is_empty() { String::new() } else { format!(": {}", said.join(", ")) }
}

async fn sessions(
    connection: &mut Connection,
    id: i64,
    before: u64,
    limit: i64,
) -> Result<Vec<Event>, RegistryError> {
    type Row = (i64, String, i64, i64, Option<i64>, Option<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT began_at_ms, remote, protocol, keep_alive_s, ended_at_ms, reason FROM session
         WHERE device = $1 AND began_at_ms < $2 ORDER BY id DESC LIMIT $3",
    )
    .bind(id)
    .bind(int(before))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let mut events = Vec::new();
    for (began, remote, protocol, keep_alive_s, ended, reason) in rows {
        events.push(connected(uint(began), &remote, protocol));
        if let (Some(ended), Some(reason)) = (ended, reason) {
            events.push(left_at(began, ended, parse(&reason, "a disconnect reason")?, keep_alive_s));
        }
    }
    Ok(events)
}

fn seen(at_ms: u64, kind: EventKind, mark: Mark, text: String) -> Event {
    Event { at_ms, kind, mark, text, actor: None, audit_no: None, code: None }
}

/// `connected from 10.0.4.17, MQTT 5`.
pub(super) fn connected(at_ms: u64, remote: &str, protocol: i64) -> Event {
    let mqtt = if protocol == 4 { "MQTT 3.1.1" } else { "MQTT 5" };
    let text = format!("connected from {}, {mqtt}", host(remote));
    seen(at_ms, EventKind::Connected, Mark::Active, text)
}

/// `offline: left normally (was online 3h)`.
pub(super) fn left_at(began: i64, ended: i64, reason: DisconnectReason, keep_alive_s: i64) -> Event {
    let was = crate::span::span(ended.saturating_sub(began));
    let text = format!("offline: {} (was online {was})", left(reason, keep_alive_s));
    seen(uint(ended), EventKind::Disconnected, Mark::Plain, text)
}

/// Why a session ended, as people say it.
fn left(reason: DisconnectReason, keep_alive_s: i64) -> String {
    match reason {
        DisconnectReason::ClientInitiated => "left normally".to_owned(),
        // One and a half times the keep-alive (MQTT 5.0 §3.1.2.10).
        DisconnectReason::KeepAliveTimeout => format!("no sign for {} s", keep_alive_s + keep_alive_s / 2),
        DisconnectReason::ConnectionLost => "connection lost".to_owned(),
        DisconnectReason::SessionTakenOver => "replaced by a newer session".to_owned(),
        DisconnectReason::ServerShutdown => "server stopping".to_owned(),
        DisconnectReason::Administrative => "disconnected by an operator".to_owned(),
        other => other.as_str().replace('_', " "),
    }
}

/// An address without its port: the port says nothing about a device.
fn host(remote: &str) -> String {
    remote
        .parse::<std::net::SocketAddr>()
        .map_or_else(|_| remote.to_owned(), |remote| remote.ip().to_string())
}

async fn refused(connection: &mut Connection, id: i64, before: u64) -> Result<Vec<Event>, RegistryError> {
    type Row = (String, i64, i64, Option<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT code, count, last_at_ms, remote FROM refusal WHERE device = $1 AND minute_ms < $2
         ORDER BY minute_ms DESC LIMIT $3",
    )
    .bind(id)
    .bind(int(end_of_day(before)))
    .bind(MINUTES)
    .fetch_all(connection)
    .await?;
    let rows = rows.into_iter().map(|(code, count, last_at_ms, remote)| {
        Ok((parse::<Code>(&code, "a refusal's code")?, count, last_at_ms, remote))
    });
    let folds = folded(rows.collect::<Result<_, RegistryError>>()?);
    Ok(folds.iter().map(refusal).collect())
}

async fn noticed(connection: &mut Connection, id: i64, before: u64) -> Result<Vec<Event>, RegistryError> {
    type Row = (String, i64, i64, i64, Option<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT kind, bound, count, last_at_ms, remote FROM notice WHERE device = $1 AND minute_ms < $2
         ORDER BY minute_ms DESC LIMIT $3",
    )
    .bind(id)
    .bind(int(end_of_day(before)))
    .bind(MINUTES)
    .fetch_all(connection)
    .await?;
    let rows = rows.into_iter().map(|(kind, bound, count, last_at_ms, remote)| {
        Ok((Notice::read(&kind, bound)?, count, last_at_ms, remote))
    });
    let folds = folded(rows.collect::<Result<_, RegistryError>>()?);
    Ok(folds.iter().map(notice).collect())
}

/// To the end of the day before an instant: a fold that has later rows stands on the page before.
fn end_of_day(before: u64) -> u64 {
    before.saturating_sub(1).saturating_add(DAY_MS) / DAY_MS * DAY_MS
}

/// What happened on one day, folded into one line.
struct Fold<T> {
    what: T,
    /// The newest of them, Unix milliseconds.
    at_ms: u64,
    count: u64,
    /// From where the newest came.
    remote: Option<String>,
}

/// Rows of minutes, newest first: what, count, time of the newest, its address.
fn folded<T: PartialEq>(rows: Vec<(T, i64, i64, Option<String>)>) -> Vec<Fold<T>> {
    let mut folds: Vec<Fold<T>> = Vec::new();
    for (what, count, last_at_ms, remote) in rows {
        let (last, count) = (uint(last_at_ms), uint(count));
        match folds.iter_mut().find(|fold| fold.what == what && fold.at_ms / DAY_MS == last / DAY_MS) {
            Some(fold) => (fold.at_ms, fold.count) = (fold.at_ms.max(last), fold.count + count),
            None => folds.push(Fold { what, at_ms: last, count, remote }),
        }
    }
    folds
}

/// `refused [M201] device suspended, from 10.0.4.17 ×14 that day`.
fn refusal(fold: &Fold<Code>) -> Event {
    refused_at(fold.what, fold.at_ms, fold.count, fold.remote.as_deref(), " that day")
}

/// `refused [M201] device suspended, from 10.0.4.17 ×14`.
#[must_use]
pub fn refused_at(code: Code, at_ms: u64, count: u64, remote: Option<&str>, in_which: &str) -> Event {
    let from = remote.map(|remote| format!(", from {}", host(remote))).unwrap_or_default();
    let times = if count > 1 { format!(" ×{count}{in_which}") } else { String::new() };
    let text = format!("refused [{}] {}{from}{times}", code.id(), code.words());
    Event { code: Some(code), ..seen(at_ms, EventKind::Refused, Mark::Refused, text) }
}

/// `slowed: over 100 msg/s, in 4 minutes that day`.
fn notice(fold: &Fold<Notice>) -> Event {
    noticed_at(fold.what, fold.at_ms, fold.count, fold.remote.as_deref(), " that day")
}

/// The same of a minute, or of whatever `in_which` says.
pub(super) fn noticed_at(
    what: Notice,
    at_ms: u64,
    count: u64,
    remote: Option<&str>,
    in_which: &str,
) -> Event {
    let (kind, mark) = match what {
        Notice::Slowed { .. } => (EventKind::Slowed, Mark::Plain),
        Notice::CloneSuspected { .. } => (EventKind::CloneSuspected, Mark::Quarantined),
    };
    seen(at_ms, kind, mark, said(what, count, remote, in_which))
}

/// A notice in words.
pub(crate) fn said(what: Notice, count: u64, remote: Option<&str>, in_which: &str) -> String {
    match what {
        Notice::Slowed { per_s } => {
            let minutes = if count > 1 { format!(", in {count} minutes{in_which}") } else { String::new() };
            format!("slowed: over {per_s} msg/s{minutes}")
        }
        Notice::CloneSuspected { times } => {
            let from = remote.map(|remote| format!(", from {}", host(remote))).unwrap_or_default();
            let again = if count > 1 { format!(" ×{count}{in_which}") } else { String::new() };
            format!("clone suspected: session taken over {times} times{from}{again}")
        }
    }
}
