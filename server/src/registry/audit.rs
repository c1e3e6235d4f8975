//! The audit log: a hash chain.
//!
//! A row's digest is SHA-256 over the digest before it and the row's canonical octets:
//!
//! ```text
//! "muster audit v1\0" ‖ previous (32) ‖ no (8, big-endian) ‖ at_ms (8) ‖
//! node, actor, role, token, action, target, reason, detail: each its length (8) and its UTF-8
//! ```
//!
//! Whoever changes, removes or moves a row breaks the chain at that row. Whoever cuts the tail leaves a head
//! that is behind the one the registry keeps, and behind every checkpoint taken outside.

use std::path::Path;

use muster_shared::Generation;
use sha2::{Digest, Sha256};

use super::{
    database::{self, Connection, Pool, QueryBuilder, digest, int, uint},
    error::RegistryError,
    operator::Actor,
};

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number, from 1 without gaps.
    pub no: u64,
    /// Which node decided.
    pub node: String,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// Who.
    pub actor: String,
    /// As what.
    pub role: String,
    /// With which token; empty when with none.
    pub token: String,
    /// What was done: `device.suspend`.
    pub action: String,
    /// To what: `acme/MU-000118`.
    pub target: String,
    /// Why, in the actor's words.
    pub reason: String,
    /// Particulars, one JSON object.
    pub detail: String,
    /// The digest of the row before it; of nothing, 32 zeros, for the first.
    pub previous: [u8; 32],
    /// SHA-256 over the one before and this row's canonical octets.
    pub digest: [u8; 32],
}

/// The end of the log: what an outside checkpoint keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AuditHead {
    /// Number of the newest row; 0 when there is none.
    pub no: u64,
    /// Its digest; 32 zeros when there is none.
    pub digest: [u8; 32],
}

/// What checking the chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// Rows that are intact, from the first on.
    pub intact: u64,
    /// The end of the intact part.
    pub head: AuditHead,
    /// The first row that is not as it was written; `None` when every row is.
    pub broken: Option<Broken>,
}

/// Where the chain breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The first row that is missing or wrong.
    pub no: u64,
    /// In what way.
    pub why: String,
}

/// What is about to be decided.
pub(super) struct Entry<'a> {
    pub(super) actor: &'a Actor,
    pub(super) action: &'a str,
    pub(super) target: &'a str,
    pub(super) reason: &'a str,
    pub(super) detail: serde_json::Value,
}

/// A decision's place in the registry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    pub(super) no: u64,
    pub(super) generation: Generation,
    pub(super) at_ms: u64,
}

/// The digest before the first row.
const NOTHING: [u8; 32] = [0; 32];
/// Rows read at a time.
const PAGE: i64 = 1000;

impl AuditRow {
    /// The digest this row must have.
    #[must_use]
    pub fn expected_digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"muster audit v1\0");
        hash.update(self.previous);
        hash.update(self.no.to_be_bytes());
        hash.update(self.at_ms.to_be_bytes());
        let texts = [
            &self.node,
            &self.actor,
            &self.role,
            &self.token,
            &self.action,
            &self.target,
            &self.reason,
            &self.detail,
        ];
        for text in texts {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
        hash.finalize().into()
    }

    fn head(&self) -> AuditHead {
        AuditHead { no: self.no, digest: self.digest }
    }
}

impl AuditHead {
    /// Before the first row.
    pub const EMPTY: Self = Self { no: 0, digest: NOTHING };
}

/// Appends the row of a decision to the chain, inside the decision's transaction, and counts the generation.
pub(super) async fn append(
    tx: &mut Connection,
    entry: Entry<'_>,
    at_ms: u64,
) -> Result<Stamp, RegistryError> {
    let (node, generation, no, previous): (String, i64, i64, Vec<u8>) =
        sqlx::query_as("SELECT node, generation, audit_no, audit_digest FROM registry WHERE one = 1")
            .fetch_one(&mut *tx)
            .await?;
    let mut row = AuditRow {
        no: uint(no) + 1,
        node,
        at_ms,
        actor: entry.actor.name.clone(),
        role: entry.actor.role.as_str().to_owned(),
        token: entry.actor.token_id.clone().unwrap_or_default(),
        action: entry.action.to_owned(),
        target: entry.target.to_owned(),
        reason: entry.reason.to_owned(),
        detail: entry.detail.to_string(),
        previous: digest(&previous, "the audit log's head")?,
        digest: NOTHING,
    };
    row.digest = row.expected_digest();
    sqlx::query(
        "INSERT INTO audit (no, node, at_ms, actor, role, token, action, target, reason, detail, previous, digest)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(int(row.no))
    .bind(&row.node)
    .bind(int(row.at_ms))
    .bind(&row.actor)
    .bind(&row.role)
    .bind(&row.token)
    .bind(&row.action)
    .bind(&row.target)
    .bind(&row.reason)
    .bind(&row.detail)
    .bind(row.previous.as_slice())
    .bind(row.digest.as_slice())
    .execute(&mut *tx)
    .await?;
    sqlx::query("UPDATE registry SET generation = $1, audit_no = $2, audit_digest = $3 WHERE one = 1")
        .bind(generation + 1)
        .bind(int(row.no))
        .bind(row.digest.as_slice())
        .execute(&mut *tx)
        .await?;
    Ok(Stamp { no: row.no, generation: Generation(uint(generation) + 1), at_ms })
}

type Columns = (i64, String, i64, String, String, String, String, String, String, String, Vec<u8>, Vec<u8>);

/// A row as it stands in the database, even when its digests are not 32 octets: then they are zeros, which
/// no chain continues.
fn row(columns: Columns) -> AuditRow {
    let (no, node, at_ms, actor, role, token, action, target, reason, detail, previous, digest) = columns;
    AuditRow {
        no: uint(no),
        node,
        at_ms: uint(at_ms),
        actor,
        role,
        token,
        action,
        target,
        reason,
        detail,
        previous: previous.try_into().unwrap_or(NOTHING),
        digest: digest.try_into().unwrap_or(NOTHING),
    }
}

/// Rows after number `after`, oldest first.
pub(super) async fn list(
    connection: &mut Connection,
    after: u64,
    limit: i64,
) -> Result<Vec<AuditRow>, sqlx::Error> {
    let rows: Vec<Columns> = sqlx::query_as(
        "SELECT no, node, at_ms, actor, role, token, action, target, reason, detail, previous, digest
         FROM audit WHERE no > $1 ORDER BY no LIMIT $2",
    )
    .bind(int(after))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(row).collect())
}

/// Rows about any of these targets, newest first.
pub(super) async fn about(
    connection: &mut Connection,
    targets: &[String],
    limit: i64,
) -> Result<Vec<AuditRow>, RegistryError> {
    let mut query = QueryBuilder::new(
        "SELECT no, node, at_ms, actor, role, token, action, target, reason, detail, previous, digest
         FROM audit WHERE target IN (",
    );
    let mut list = query.separated(", ");
    for target in targets {
        list.push_bind(target.as_str());
    }
    query.push(") ORDER BY no DESC LIMIT ").push_bind(limit);
    let rows: Vec<Columns> = query.build_query_as().fetch_all(connection).await?;
    Ok(rows.into_iter().map(row).collect())
}

/// The head the registry keeps beside the log.
pub(super) async fn head(connection: &mut Connection) -> Result<AuditHead, RegistryError> {
    let (no, at): (i64, Vec<u8>) =
        sqlx::query_as("SELECT audit_no, audit_digest FROM registry WHERE one = 1")
            .fetch_one(connection)
            .await?;
    Ok(AuditHead { no: uint(no), digest: digest(&at, "the audit log's head")? })
}

/// Reads the whole log in one snapshot and follows its chain.
pub(super) async fn verify(
    pool: &Pool,
    checkpoint: Option<&AuditHead>,
) -> Result<AuditReport, RegistryError> {
    let mut snapshot = pool.begin().await?;
    let kept = head(&mut snapshot).await?;
    let mut chain = Chain { at: AuditHead::EMPTY, checkpoint: checkpoint.copied() };
    let mut page = PAGE;
    loop {
        let rows = match list(&mut snapshot, chain.at.no, page).await {
            Ok(rows) => rows,
            // A row of this page does not even have the columns' types: go on one by one, to name it.
            Err(sqlx::Error::ColumnDecode { .. }) if page > 1 => {
                page = 1;
                continue;
            }
            Err(sqlx::Error::ColumnDecode { .. }) => {
                let broken = Broken { no: chain.at.no + 1, why: "it cannot be read".to_owned() };
                return Ok(chain.report(Some(broken)));
            }
            Err(error) => return Err(error.into()),
        };
        for row in &rows {
            if let Err(broken) = chain.follow(row) {
                return Ok(chain.report(Some(broken)));
            }
        }
        if rows.is_empty() {
            break;
        }
    }
    let (rows,): (i64,) = sqlx::query_as("SELECT count(*) FROM audit").fetch_one(&mut *snapshot).await?;
    let broken = chain.end(&kept, uint(rows)).err();
    Ok(chain.report(broken))
}

/// Checks the log of a registry's file without a server, changing nothing.
///
/// # Errors
/// [`RegistryError`] when the file is not there or cannot be read.
pub async fn verify_file(
    data_dir: &Path,
    checkpoint: Option<&AuditHead>,
) -> Result<AuditReport, RegistryError> {
    let pool = database::readers_of(data_dir).await?;
    let report = verify(&pool, checkpoint).await;
    pool.close().await;
    report
}

/// Follows the chain row by row. Pure: an export is checked by the same steps.
struct Chain {
    at: AuditHead,
    checkpoint: Option<AuditHead>,
}

impl Chain {
    fn follow(&mut self, row: &AuditRow) -> Result<(), Broken> {
        let no = self.at.no + 1;
        let broken = |why: &str| Err(Broken { no, why: why.to_owned() });
        if row.no != no {
            return broken(&format!("row {no} is missing, row {} follows", row.no));
        }
        if row.previous != self.at.digest {
            return broken("it does not continue the row before it");
        }
        if row.digest != row.expected_digest() {
            return broken("it is not as it was written");
        }
        if self.checkpoint.is_some_and(|kept| kept.no == no && kept.digest != row.digest) {
            return broken("it is another row than the checkpoint's");
        }
        self.at = row.head();
        Ok(())
    }

    fn end(&self, kept: &AuditHead, rows: u64) -> Result<(), Broken> {
        let missing = |no: u64, whose: &str| {
            Err(Broken {
                no: self.at.no + 1,
                why: format!("rows {} to {no} are missing, says the {whose}", self.at.no + 1),
            })
        };
        match self.checkpoint {
            Some(checkpoint) if checkpoint.no > self.at.no => return missing(checkpoint.no, "checkpoint"),
            Some(checkpoint) if checkpoint.no == 0 && checkpoint.digest != NOTHING => {
                return Err(Broken { no: 1, why: "the checkpoint is not one of an empty log".to_owned() });
            }
            _ => {}
        }
        if kept.no > self.at.no {
            return missing(kept.no, "registry's own head");
        }
        if *kept != self.at {
            return Err(Broken {
                no: kept.no + 1,
                why: "the registry's own head is another row's".to_owned(),
            });
        }
        if rows != self.at.no {
            return Err(Broken { no: 0, why: format!("{} rows stand before the first", rows - self.at.no) });
        }
        Ok(())
    }

    fn report(&self, broken: Option<Broken>) -> AuditReport {
        AuditReport { intact: self.at.no, head: self.at, broken }
    }
}
