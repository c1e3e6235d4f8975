//! Jobs: one act on many devices, chosen by a filter. What is to be done is written row by row before the first
//! is done, and what became of each is written too: a restart goes on where the last one ended.
//!
//! A job's own row in the audit log says who ordered what for how many; each device's decision is a row of its
//! own, as if it had been made alone. A row whose outcome was not written before a crash is tried again: if the
//! device is where it should be already, it counts as skipped.

use muster_shared::{SerialNumber, Tenant};
use serde_json::json;

use super::{
    Actor, Inner, Registry, RegistryError, Role,
    audit::{self, Entry},
    changes::What,
    database::{int, parse, uint},
    now_ms,
    session::words,
    verdict::DeviceKey,
};

words!(
    /// Where a job stands.
    JobState, "job state", {
        /// Its rows are being written: it is not on the record yet, and nobody is shown it.
        Preparing = "preparing",
        /// It is at work, or waits for its turn.
        Running = "running",
        /// It ends after the row it is at.
        Cancelling = "cancelling",
        /// Every row has its outcome.
        Done = "done",
        /// It was ended before its last row.
        Cancelled = "cancelled",
    }
);

words!(
    /// What became of a row.
    Outcome, "outcome", {
        /// It was done.
        Done = "done",
        /// It was so already.
        Skipped = "skipped",
        /// It was refused.
        Failed = "failed",
    }
);

/// A job to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// `suspend` and its like.
    pub act: String,
    /// Which devices, as it was asked.
    pub filter: String,
    /// Why.
    pub reason: String,
    /// For a revocation: the RFC 5280 word. For a tag: the tag.
    pub word: Option<String>,
    /// The devices, in the order they are done.
    pub devices: Vec<DeviceKey>,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// Its name.
    pub id: String,
    /// `suspend` and its like.
    pub act: String,
    /// Which devices, as it was asked.
    pub filter: String,
    /// Why.
    pub reason: String,
    /// For a revocation: the RFC 5280 word. For a tag: the tag.
    pub word: Option<String>,
    /// Who ordered it.
    pub actor: Actor,
    /// Where it stands.
    pub state: JobState,
    /// Devices in all.
    pub total: u64,
    /// Of those, done.
    pub done: u64,
    /// So already.
    pub skipped: u64,
    /// Refused.
    pub failed: u64,
    /// When it was ordered, Unix milliseconds.
    pub created_at_ms: u64,
    /// When it ended.
    pub ended_at_ms: Option<u64>,
}

/// A device of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobItem {
    /// Its place, from 1.
    pub no: u64,
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub serial: SerialNumber,
    /// What became of it; `None`: nothing yet.
    pub outcome: Option<Outcome>,
    /// Why it was not done.
    pub code: Option<String>,
    /// The same with the particulars.
    pub what: Option<String>,
    /// The decision's row in the audit log.
    pub audit_no: Option<u64>,
}

/// What became of one row, to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowResult {
    /// Its place.
    pub no: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it was not done.
    pub code: Option<String>,
    /// The same with the particulars.
    pub what: Option<String>,
    /// The decision's row in the audit log.
    pub audit_no: Option<u64>,
}

/// Rows written in one transaction: a decision waits milliseconds for it.
const ROWS: usize = 1000;
/// Jobs that have not ended, at most.
const OPEN_MAX: i64 = 100;
/// How long a job that has ended is kept.
const KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1000;

type Columns = (
    String,
    String,
    String,
    String,
    Option<String>,
    String,
    String,
    Option<String>,
    Option<String>,
    String,
    i64,
    i64,
    i64,
    i64,
    i64,
    Option<i64>,
);

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, act, selection, reason, word, actor, role, token, tenant, state, total, done, skipped,
             failed, created_at_ms, ended_at_ms FROM job ",
            $rest
        )
    };
}

fn job(columns: Columns) -> Result<JobRow, RegistryError> {
    let (
        id,
        act,
        filter,
        reason,
        word,
        name,
        role,
        token_id,
        tenant,
        state,
        total,
        done,
        skipped,
        failed,
        at,
        ended,
    ) = columns;
    let role: Role = parse(&role, "a job's role")?;
    let tenant: Option<Tenant> = tenant.map(|tenant| parse(&tenant, "a job's tenant")).transpose()?;
    Ok(JobRow {
        id,
        act,
        filter,
        reason,
        word,
        actor: actor(name, role, token_id, tenant),
        state: parse(&state, "a job's state")?,
        total: uint(total),
        done: uint(done),
        skipped: uint(skipped),
        failed: uint(failed),
        created_at_ms: uint(at),
        ended_at_ms: ended.map(uint),
    })
}

fn actor(name: String, role: Role, token_id: Option<String>, tenant: Option<Tenant>) -> Actor {
    Actor { token_id, ..Actor::named(&name, role).within(tenant.into()) }
}

/// Writes a job without its rows, if there is room for one: nobody sees it yet. Removes what was kept for long.
async fn prepare(inner: &Inner, actor: &Actor, id: &str, new: &NewJob) -> Result<(), RegistryError> {
    let at_ms = now_ms();
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    for sql in [
        "DELETE FROM job_row WHERE job IN (SELECT id FROM job WHERE ended_at_ms < $1)",
        "DELETE FROM job WHERE ended_at_ms < $1",
    ] {
        sqlx::query(sql).bind(int(at_ms.saturating_sub(KEPT_MS))).execute(&mut *tx).await?;
    }
    let (open,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM job WHERE ended_at_ms IS NULL").fetch_one(&mut *tx).await?;
    if open >= OPEN_MAX {
        let why = format!("{open} have not ended, which is as many as there may be");
        return Err(RegistryError::Value { what: "job", why });
    }
    sqlx::query(
        "INSERT INTO job (id, act, selection, reason, word, actor, role, token, tenant, state, total,
         done, skipped, failed, created_at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, 0, 0, $12)",
    )
    .bind(id)
    .bind(&new.act)
    .bind(&new.filter)
    .bind(&new.reason)
    .bind(&new.word)
    .bind(&actor.name)
    .bind(actor.role.as_str())
    .bind(&actor.token_id)
    .bind(actor.tenant().map(ToString::to_string))
    .bind(JobState::Preparing.as_str())
    .bind(int(new.devices.len() as u64))
    .bind(int(at_ms))
    .execute(&mut *tx)
    .await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())
}

/// Writes the rows of a job, a few at a time: nobody's decision waits for all of them.
async fn fill(inner: &Inner, id: &str, devices: &[DeviceKey]) -> Result<(), RegistryError> {
    for (chunk, devices) in devices.chunks(ROWS).enumerate() {
        let mut writer = inner.writer().await?;
        let mut tx = writer.begin().await?;
        for (at, device) in devices.iter().enumerate() {
            sqlx::query("INSERT INTO job_row (job, no, device) VALUES ($1, $2, $3)")
                .bind(id)
                .bind(int((chunk * ROWS + at + 1) as u64))
                .bind(inner.verdicts.row(*device))
                .execute(&mut *tx)
                .await?;
        }
        inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    }
    Ok(())
}

/// Puts a job whose rows are all there on the record, and to work.
async fn begin(inner: &Inner, actor: &Actor, id: &str, new: &NewJob) -> Result<(), RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let target = format!("job/{id}");
    let entry = Entry {
        actor,
        tenant: actor.tenant(),
        action: "job.create",
        target: &target,
        reason: &new.reason,
        detail: json!({ "act": new.act, "filter": new.filter, "devices": new.devices.len(), "word": new.word }),
    };
    let stamp = audit::append(&mut tx, entry, now_ms()).await?;
    sqlx::query("UPDATE job SET state = $1 WHERE id = $2")
        .bind(JobState::Running.as_str())
        .bind(id)
        .execute(&mut *tx)
        .await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Access);
    Ok(())
}

/// Removes what was written of jobs that were not begun, by a pattern of their names.
async fn drop_unprepared(inner: &Inner, names: &str) -> Result<(), RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    for sql in [
        "DELETE FROM job_row WHERE job IN (SELECT id FROM job WHERE state = 'preparing' AND id LIKE $1)",
        "DELETE FROM job WHERE state = 'preparing' AND id LIKE $1",
    ] {
        sqlx::query(sql).bind(names).execute(&mut *tx).await?;
    }
    inner.commit(tx).await.inspect_err(|_| writer.fail())
}

impl Registry {
    /// Writes a job and its rows; it is at work when this returns.
    ///
    /// # Errors
    /// [`RegistryError`]; M504 when there are too many that have not ended. Then there is no such job.
    pub async fn create_job(&self, owner: &Actor, id: &str, new: NewJob) -> Result<JobRow, RegistryError> {
        let (actor, name) = (owner.clone(), id.to_owned());
        self.run(|inner| async move {
            prepare(&inner, &actor, &name, &new).await?;
            let begun = async {
                fill(&inner, &name, &new.devices).await?;
                begin(&inner, &actor, &name, &new).await
            };
            let begun = begun.await;
            if begun.is_err()
                && let Err(error) = drop_unprepared(&inner, &name).await
            {
                // Nobody sees it; the next start tries again.
                tracing::warn!(%error, "a job that was not begun cannot be removed");
            }
            begun
        })
        .await?;
        self.job(id).await?.ok_or_else(|| RegistryError::Damaged("a job has gone".to_owned()))
    }

    /// Takes back jobs whose rows were never all written: nothing of them was done.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn drop_unprepared_jobs(&self) -> Result<(), RegistryError> {
        self.run(|inner| async move { drop_unprepared(&inner, "%").await }).await
    }

    /// A job; `None`: there is none of this name, or not yet.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn job(&self, id: &str) -> Result<Option<JobRow>, RegistryError> {
        let row: Option<Columns> = sqlx::query_as(select!("WHERE id = $1 AND state <> 'preparing'"))
            .bind(id)
            .fetch_optional(self.inner.database.readers())
            .await?;
        row.map(job).transpose()
    }

    /// Jobs, newest first.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn jobs(&self, limit: u32) -> Result<Vec<JobRow>, RegistryError> {
        let newest = select!("WHERE state <> 'preparing' ORDER BY created_at_ms DESC, id LIMIT $1");
        let rows: Vec<Columns> =
            sqlx::query_as(newest).bind(i64::from(limit)).fetch_all(self.inner.database.readers()).await?;
        rows.into_iter().map(job).collect()
    }

    /// The job that is to be worked on: the oldest that has not ended.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn next_job(&self) -> Result<Option<JobRow>, RegistryError> {
        let row: Option<Columns> = sqlx::query_as(select!(
            "WHERE state = 'running' OR state = 'cancelling' ORDER BY created_at_ms, id LIMIT 1"
        ))
        .fetch_optional(self.inner.database.readers())
        .await?;
        row.map(job).transpose()
    }

    /// Rows of a job after place `after`; only those with this outcome, or only those without one, when asked.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn job_items(
        &self,
        id: &str,
        outcome: Option<Option<Outcome>>,
        after: u64,
        limit: u32,
    ) -> Result<Vec<JobItem>, RegistryError> {
        // '*': whatever it is; '': none yet.
        let wanted = match outcome {
            None => "*",
            Some(None) => "",
            Some(Some(outcome)) => outcome.as_str(),
        };
        type Row = (i64, String, String, Option<String>, Option<String>, Option<String>, Option<i64>);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT job_row.no, device.tenant, device.serial, job_row.outcome, job_row.code, job_row.what,
                    job_row.audit_no
             FROM job_row JOIN device ON device.id = job_row.device
             WHERE job_row.job = $1 AND job_row.no > $2 AND ($3 = '*' OR coalesce(job_row.outcome, '') = $3)
             ORDER BY job_row.no LIMIT $4",
        )
        .bind(id)
        .bind(int(after))
        .bind(wanted)
        .bind(i64::from(limit))
        .fetch_all(self.inner.database.readers())
        .await?;
        rows.into_iter()
            .map(|(no, tenant, serial, outcome, code, what, audit_no)| {
                Ok(JobItem {
                    no: uint(no),
                    tenant: parse(&tenant, "a device's tenant")?,
                    serial: parse(&serial, "a device's serial")?,
                    outcome: outcome.map(|outcome| parse(&outcome, "an outcome")).transpose()?,
                    code,
                    what,
                    audit_no: audit_no.map(uint),
                })
            })
            .collect()
    }

    /// Writes what became of some rows of a job.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn job_results(&self, id: &str, results: &[RowResult]) -> Result<(), RegistryError> {
        let (id, results) = (id.to_owned(), results.to_vec());
        self.run(|inner| async move {
            let mut writer = inner.writer().await?;
            let mut tx = writer.begin().await?;
            let mut counts = [0_i64; 3];
            for result in &results {
                let written = sqlx::query(
                    "UPDATE job_row SET outcome = $1, code = $2, what = $3, audit_no = $4
                     WHERE job = $5 AND no = $6 AND outcome IS NULL",
                )
                .bind(result.outcome.as_str())
                .bind(&result.code)
                .bind(&result.what)
                .bind(result.audit_no.map(int))
                .bind(&id)
                .bind(int(result.no))
                .execute(&mut *tx)
                .await?;
                // Once only: a write whose commit was in doubt may come again.
                counts[result.outcome as usize] += int(written.rows_affected());
            }
            sqlx::query(
                "UPDATE job SET done = done + $1, skipped = skipped + $2, failed = failed + $3 WHERE id = $4",
            )
            .bind(counts[Outcome::Done as usize])
            .bind(counts[Outcome::Skipped as usize])
            .bind(counts[Outcome::Failed as usize])
            .bind(&id)
            .execute(&mut *tx)
            .await?;
            inner.commit(tx).await.inspect_err(|_| writer.fail())
        })
        .await
    }

    /// Asks a job to end after the row it is at. One that has ended stays as it is.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn cancel_job(&self, owner: &Actor, id: &str) -> Result<(), RegistryError> {
        let (actor, id) = (owner.clone(), id.to_owned());
        self.run(|inner| async move {
            let mut writer = inner.writer().await?;
            let mut tx = writer.begin().await?;
            let asked =
                sqlx::query("UPDATE job SET state = 'cancelling' WHERE id = $1 AND state = 'running'")
                    .bind(&id)
                    .execute(&mut *tx)
                    .await?;
            if asked.rows_affected() == 0 {
                return Ok(());
            }
            let target = format!("job/{id}");
            let entry = Entry {
                actor: &actor,
                tenant: actor.tenant(),
                action: "job.cancel",
                target: &target,
                reason: "",
                detail: json!({}),
            };
            let stamp = audit::append(&mut tx, entry, now_ms()).await?;
            inner.commit(tx).await.inspect_err(|_| writer.fail())?;
            inner.announce(stamp, What::Access);
            Ok(())
        })
        .await
    }

    /// The job has ended: every row has its outcome, or it was to be cancelled.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn end_job(&self, id: &str, state: JobState) -> Result<(), RegistryError> {
        let id = id.to_owned();
        self.run(|inner| async move {
            let mut writer = inner.writer().await?;
            let mut tx = writer.begin().await?;
            sqlx::query("UPDATE job SET state = $1, ended_at_ms = $2 WHERE id = $3 AND ended_at_ms IS NULL")
                .bind(state.as_str())
                .bind(int(now_ms()))
                .bind(&id)
                .execute(&mut *tx)
                .await?;
            inner.commit(tx).await.inspect_err(|_| writer.fail())
        })
        .await
    }
}
