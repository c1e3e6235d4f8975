//! One act on every device a filter selects: `--dry-run` shows what it would be done to, `--confirm` does it as
//! a job of the server; and `muster job …`.

use std::{thread::sleep, time::Duration};

use muster_shared::Code;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{
    Done,
    args::{Decide, Job as Verb},
    bulk::{Progress, again},
    client::{Client, read},
    device::encode,
    interrupt::Interrupt,
    screen::{Screen, Style, Text},
    table::{Column, thousands},
    whole::Whole,
    words,
};
use crate::api::{
    error::Problem,
    view::{Job, JobPlan, JobRow, LabelEdit, Page},
};

/// How often a job is asked after.
const LOOK: Duration = Duration::from_millis(300);
/// Failed devices that are named.
const NAMED_MAX: u32 = 20;

const COLUMNS: &[Column<Job>] = &[
    Column { head: "JOB", wide: false, cell: |of, _| Text::plain(&of.job) },
    Column { head: "ACT", wide: false, cell: |of, _| Text::plain(&of.act) },
    Column { head: "STATE", wide: false, cell: |of, _| Text::plain(&of.state) },
    Column { head: "DONE", wide: false, cell: |of, _| Text::plain(counts(of)) },
    Column { head: "OPERATOR", wide: false, cell: |of, _| Text::plain(&of.operator) },
    Column { head: "ORDERED", wide: false, cell: |of, _| Text::plain(words::instant(&of.created_at)) },
    Column { head: "FILTER", wide: true, cell: |of, _| Text::plain(&of.filter) },
    Column { head: "REASON", wide: true, cell: |of, _| Text::plain(&of.reason) },
];

const LIST: Whole<Job> = Whole {
    path: "/v1/jobs",
    noun: "job",
    columns: COLUMNS,
    name: |of| of.job.clone(),
    empty: "no jobs yet. One is made by an act on a filter: muster device suspend --filter … --dry-run",
};

fn counts(of: &Job) -> String {
    let all = of.done + of.skipped + of.failed;
    let failed = if of.failed > 0 { format!(" · {} failed", of.failed) } else { String::new() };
    format!("{all}/{}{failed}", of.total)
}

/// `muster job …`
pub(super) fn run(verb: &Verb, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    match verb {
        Verb::List(narrow) => LIST.run(narrow, client, screen),
        Verb::Show { job, follow } => {
            let (job, interrupted) =
                if *follow { followed(job, client)? } else { (read(&client.get(&path(job, ""))?)?, false) };
            ended(report(&job, client, screen)?, interrupted, &job)
        }
        Verb::Cancel { job } => {
            let document = client.post(&path(job, "/cancel"), &json!({}))?;
            let job: Job = read(&document)?;
            if screen.output.is_json() {
                screen.raw(&document.to_string());
            } else {
                screen.line(format!("{} {}", job.job, job.state));
            }
            Ok(Done::Well)
        }
    }
}

fn path(job: &str, rest: &str) -> String {
    format!("/v1/jobs/{}{rest}", encode(job))
}

/// What is said of an act on a filter, whichever it is.
pub(super) struct On<'a> {
    /// Which devices.
    pub(super) filter: &'a str,
    /// Why.
    pub(super) reason: Option<&'a str>,
    /// Only look.
    pub(super) dry_run: bool,
    /// What a look said.
    pub(super) confirm: Option<&'a str>,
}

impl<'a> On<'a> {
    /// What is said of a decision.
    pub(super) fn of(decide: &'a Decide) -> Self {
        Self {
            filter: decide.filter.as_deref().unwrap_or_default(),
            reason: decide.reason.as_deref(),
            dry_run: decide.dry_run,
            confirm: decide.confirm.as_deref(),
        }
    }
}

/// An act on a filter; `more` is what this act alone is asked with.
pub(super) fn filtered(
    verb: &str,
    decide: &On<'_>,
    more: &Value,
    client: &Client,
    screen: &Screen,
) -> Result<Done, Problem> {
    let filter = decide.filter;
    let words = LabelEdit::deserialize(&more["label"]).map(|label| flags(&label)).unwrap_or_default();
    let command = || format!("muster device {verb} --filter {filter:?}{words} --reason \"…\"");
    let Some(reason) = decide.reason.filter(|reason| !reason.trim().is_empty()) else {
        return Err(Problem::new(Code::ReasonMissing)
            .what(format!("device {verb} needs a reason"))
            .at(format!("muster device {verb} --filter {filter:?}")));
    };
    let mut body = json!({ "act": verb, "filter": filter, "reason": reason });
    if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
        body.extend(more.clone());
    }
    if decide.dry_run {
        let document = client.post("/v1/jobs/plan", &body)?;
        if screen.output.is_json() {
            screen.raw(&document.to_string());
        } else {
            plan(&read(&document)?, &command(), screen);
        }
        return Ok(Done::Well);
    }
    let Some(confirm) = decide.confirm else {
        return Err(Problem::new(Code::ConfirmationMissing)
            .what("an act on a filter is looked at first, then confirmed")
            .at(format!("muster device {verb} --filter {filter:?}"))
            .because("neither --dry-run nor --confirm is there")
            .next(format!("{} --dry-run", command())));
    };
    body["confirm"] = json!(confirm);
    let job: Job = read(&client.post("/v1/jobs", &body)?)?;
    let (job, interrupted) = followed(&job.job, client)?;
    ended(report(&job, client, screen)?, interrupted, &job)
}

/// Ctrl-C that left some untried, and nothing else, is what it ended with.
fn ended(done: Done, interrupted: bool, job: &Job) -> Result<Done, Problem> {
    let left = job.total > job.done + job.skipped + job.failed;
    Ok(if interrupted && left && done == Done::Well { Done::Interrupted } else { done })
}

fn plan(plan: &JobPlan, command: &str, screen: &Screen) {
    let number = thousands(plan.count);
    screen.pieces(&[
        Text::new(format!("{} {number} devices", plan.act), Style::Bold),
        Text::plain(format!(" · filter {}", plan.filter)),
    ]);
    let mut first = plan.first.join(" ");
    if plan.count > plan.first.len() as u64 {
        first.push_str(&format!(" and {} more", thousands(plan.count - plan.first.len() as u64)));
    }
    for (label, said) in [
        ("devices", if plan.count == 0 { "none".to_owned() } else { first }),
        ("would", format!("do {} · skip {} · fail {}", plan.would_do, plan.would_skip, plan.would_fail)),
        ("online", format!("{} of them now", plan.online)),
        ("confirm", plan.confirm.clone()),
    ] {
        screen.line(format!("  {label:<8} {said}"));
    }
    screen.footer(format!("nothing was done · to do it: {command} --confirm {}", plan.confirm));
}

/// Watches a job to its end. The first Ctrl-C asks it to end after the device it is at.
fn followed(name: &str, client: &Client) -> Result<(Job, bool), Problem> {
    let interrupt = Interrupt::take();
    let mut cancelled = false;
    let mut progress: Option<Progress> = None;
    loop {
        let job: Job = read(&client.get(&path(name, ""))?)?;
        let tried = (job.done + job.skipped + job.failed) as usize;
        let bar = progress.get_or_insert_with(|| Progress::new(&job.act, job.total as usize, tried));
        bar.step(tried, job.failed as usize);
        if job.ended {
            if let Some(progress) = progress {
                progress.end();
            }
            return Ok((job, cancelled));
        }
        if interrupt.pressed() && !cancelled {
            client.post(&path(name, "/cancel"), &json!({}))?;
            cancelled = true;
        }
        sleep(LOOK);
    }
}

/// What is written, as it is said on the command line.
fn flags(label: &LabelEdit) -> String {
    let kinds = [
        ("tag", &label.add_tags),
        ("untag", &label.remove_tags),
        ("group", &label.add_groups),
        ("ungroup", &label.remove_groups),
    ];
    let words = kinds.iter().flat_map(|(flag, words)| words.iter().map(move |word| (flag, word)));
    words.map(|(flag, word)| format!(" --{flag} {word:?}")).collect()
}

/// What a job came to, and how to try again what failed.
fn report(job: &Job, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let document = client.get(&path(&job.job, &format!("/rows?outcome=failed&limit={NAMED_MAX}")))?;
    let failed: Page<JobRow> = read(&document)?;
    if screen.output.is_json() {
        screen.raw(&serde_json::to_string(job).unwrap_or_default());
    } else {
        let state = if job.ended { job.state.as_str() } else { "not ended" };
        screen.line(format!("{} {} {state} · {}", job.job, job.act, counts(job)));
        for row in &failed.items {
            let code = row.code.as_deref().unwrap_or("-");
            screen.line(format!("  {}  [{code}] {}", row.serial, row.what.as_deref().unwrap_or("unknown")));
        }
    }
    let (done, skipped) = (thousands(job.done), thousands(job.skipped));
    screen.footer(format!("done {done} · skipped {skipped} · failed {}", thousands(job.failed)));
    let left = job.total - job.done - job.skipped - job.failed;
    if left > 0 {
        screen.footer(format!("not tried {}", thousands(left)));
    }
    if job.failed == 0 {
        return Ok(Done::Well);
    }
    let serials: Vec<&str> = failed.items.iter().map(|row| row.serial.as_str()).collect();
    if job.failed <= u64::from(NAMED_MAX) {
        screen.footer(match &job.label {
            Some(label) => format!("again: muster device label {}{}", serials.join(" "), flags(label)),
            None => again(&job.act, &serials),
        });
    }
    Ok(Done::SomeFailed)
}
