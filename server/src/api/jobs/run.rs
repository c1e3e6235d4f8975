//! The one task that works on jobs: the oldest first, one device after the other.

use std::time::Duration;

use muster_shared::Code;
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    super::{Doors, error::Problem},
    Verb, edit_of, is_there, label_of,
};
use crate::registry::{
    Act, DisconnectReason, Order, Reason, RegistryError, RevocationReason, Target,
    jobs::{JobItem, JobRow, JobState, Outcome, RowResult},
};

/// Rows read at a time.
const PAGE: u32 = 100;
/// Outcomes gather so long, or so many, before they are written.
const GATHER: Duration = Duration::from_millis(500);
const GATHERED: usize = 50;
/// How long to wait where the registry cannot be read or written now.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a row is tried when the database fails.
const TRIES: usize = 5;

/// The task, running.
pub struct Runner(JoinHandle<()>);

impl Runner {
    /// Waits for its end, which [`super::super::asking::Asking::stop`] asks for: after the device it is at.
    pub async fn ended(self) {
        if self.0.await.is_err() {
            tracing::error!("the task that works on jobs panicked");
        }
    }
}

/// Works on what is left of before, and on what comes.
#[must_use]
pub fn start(doors: Doors) -> Runner {
    let stop = doors.asking.stopped();
    Runner(tokio::spawn(work(doors, stop)))
}

async fn work(doors: Doors, mut stop: watch::Receiver<bool>) {
    if let Err(error) = doors.registry.drop_unprepared_jobs().await {
        tracing::error!(%error, "jobs that were never begun cannot be removed");
    }
    while !*stop.borrow() {
        let next = match doors.registry.next_job().await {
            Ok(Some(job)) => one(&doors, &job, &stop).await,
            Ok(None) => {
                tokio::select! {
                    () = doors.asking.work.notified() => {}
                    _ = stop.changed() => {}
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = next {
            tracing::error!(%error, "a job cannot go on now; trying again");
            let _ = timeout(AGAIN, stop.changed()).await;
        }
    }
}

/// Works on one job until it has ended, or the server stops.
async fn one(doors: &Doors, job: &JobRow, stop: &watch::Receiver<bool>) -> Result<(), RegistryError> {
    let Some(verb) = Verb::read(&job.act) else {
        return Err(RegistryError::Damaged(format!("a job's act is {:?}", job.act)));
    };
    let mut after = 0;
    loop {
        let items = doors.registry.job_items(&job.id, Some(None), after, PAGE).await?;
        if items.is_empty() {
            return doors.registry.end_job(&job.id, JobState::Done).await;
        }
        let mut results = Vec::new();
        let mut since = Instant::now();
        for item in &items {
            let state = doors.registry.job(&job.id).await?.map(|job| job.state);
            let cancelled = state != Some(JobState::Running);
            if cancelled || *stop.borrow() {
                doors.registry.job_results(&job.id, &results).await?;
                if cancelled {
                    doors.registry.end_job(&job.id, JobState::Cancelled).await?;
                }
                return Ok(());
            }
            results.push(row(doors, job, verb, item).await);
            if results.len() >= GATHERED || since.elapsed() >= GATHER {
                doors.registry.job_results(&job.id, &results).await?;
                results.clear();
                since = Instant::now();
            }
        }
        doors.registry.job_results(&job.id, &results).await?;
        after = items.last().map_or(after, |item| item.no);
    }
}

/// One device, and what became of it.
async fn row(doors: &Doors, job: &JobRow, verb: Verb, item: &JobItem) -> RowResult {
    let target = Target { tenant: Some(item.tenant.clone()), serial: item.serial.clone() };
    let mut tries = 0;
    let done = loop {
        tries += 1;
        match act(doors, job, verb, &target).await {
            Err(RegistryError::Database(_)) if tries < TRIES => tokio::time::sleep(AGAIN).await,
            done => break done,
        }
    };
    let result = |outcome, code: Option<Code>, what| RowResult {
        no: item.no,
        outcome,
        code: code.map(|code| code.id().to_owned()),
        what,
        audit_no: None,
    };
    match done {
        Ok(Some(audit_no)) => RowResult { audit_no: Some(audit_no), ..result(Outcome::Done, None, None) },
        Ok(None) => result(Outcome::Skipped, None, Some("that is written on it already".to_owned())),
        Err(RegistryError::Transition { error, .. }) if is_there(error.from, error.act) => {
            result(Outcome::Skipped, None, Some(format!("it is {} already", error.from)))
        }
        Err(error) => {
            let problem = Problem::from(error);
            result(Outcome::Failed, Some(problem.code), Some(problem.what.clone()))
        }
    }
}

/// Does it; the number of its row in the audit log, where there was something to do.
async fn act(doors: &Doors, job: &JobRow, verb: Verb, target: &Target) -> Result<Option<u64>, RegistryError> {
    let code: Option<RevocationReason> = job.word.as_deref().and_then(|word| word.parse().ok());
    let reason = Reason { text: job.reason.clone(), code };
    let decide = |act| doors.revocation.decide(&job.actor, target, act, &reason);
    match verb {
        Verb::Decide(Act::Decommission) => match decide(Act::Decommission).await {
            // On any other state it revokes first.
            Err(RegistryError::Transition { error, .. }) if !is_there(error.from, Act::Decommission) => {
                decide(Act::Revoke).await?;
                Ok(Some(decide(Act::Decommission).await?.decided.audit_no))
            }
            decided => Ok(Some(decided?.decided.audit_no)),
        },
        Verb::Decide(act) => Ok(Some(decide(act).await?.decided.audit_no)),
        Verb::Disconnect => {
            let detail = json!({ "job": job.id });
            let ordered =
                doors.registry.order(&job.actor, target, Order::Disconnect, &job.reason, detail).await?;
            // It closes by itself; the next device does not wait for it.
            drop(doors.roster.close(ordered.device, DisconnectReason::Administrative));
            Ok(Some(ordered.audit_no))
        }
        Verb::Label => {
            let label = label_of(job.word.as_deref());
            let label =
                label.ok_or_else(|| RegistryError::Damaged("a job's label cannot be read".to_owned()))?;
            doors.registry.label_as_of(&job.actor, target, edit_of(label), &job.reason).await
        }
    }
}
