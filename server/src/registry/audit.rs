//! The audit log: a hash chain.
//!
//! A row's digest is SHA-256 over the digest before it and the row's canonical octets:
//!
//! ```text
//! "muster audit v2\0" ‖ previous (32) ‖ no (8, big-endian) ‖ at_ms (8) ‖
//! node, actor, role, token, action, target, reason, detail, tenant, request, address:
//! each its length (8) and its UTF-8
//! ```
//!
//! A row of version 1 ("muster audit v1\0") ends with the detail: it is from before the last three.
//!
//! Whoever changes, removes or moves a row breaks the chain at that row. Whoever cuts the tail leaves a head
//! that is behind the one the registry keeps, and behind every checkpoint taken outside.

pub mod checkpoint;
pub mod export;
mod read;
pub mod standing;

use std::{collections::BTreeMap, path::Path};

use muster_pki::PublicKey;
use muster_shared::{Generation, Tenant};
use sha2::{Digest, Sha256};

use super::{
    Inner, Place, Registry,
    actor::Actor,
    changes::What,
    database::{self, Connection, Pool, digest, int, uint},
    error::RegistryError,
    now_ms,
};

pub use read::AuditFilter;
pub(super) use read::{about, list};

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
    /// Where it came from; `None` in a row of version 1.
    pub origin: Option<Origin>,
    /// The digest of the row before it; of nothing, 32 zeros, for the first.
    pub previous: [u8; 32],
    /// SHA-256 over the one before and this row's canonical octets.
    pub digest: [u8; 32],
}

/// Whose a decision was, and where it came from. Each is empty where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The tenant whose thing it is about.
    pub tenant: String,
    /// The request's id, as the server's log has it.
    pub request: String,
    /// The address the request came from.
    pub address: String,
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
    /// Whose thing it is about: an actor of another tenant never sees the row. `None`: every tenant's.
    pub(super) tenant: Option<&'a Tenant>,
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
        hash.update(if self.origin.is_some() { b"muster audit v2\0" } else { b"muster audit v1\0" });
        hash.update(self.previous);
        hash.update(self.no.to_be_bytes());
        hash.update(self.at_ms.to_be_bytes());
        let origin = self.origin.iter().flat_map(|of| [&of.tenant, &of.request, &of.address]);
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
        for text in texts.into_iter().chain(origin) {
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

/// Puts something on the record that changes nothing else here; the row's number.
pub(super) async fn record(inner: &Inner, entry: Entry<'_>) -> Result<u64, RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let stamp = append(&mut tx, entry, now_ms()).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Access);
    Ok(stamp.no)
}

impl Registry {
    /// Puts on the record what was decided about the server itself, and is kept elsewhere; the row's number.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn record(
        &self,
        actor: &Actor,
        action: &'static str,
        target: &str,
        reason: &str,
        detail: serde_json::Value,
    ) -> Result<u64, RegistryError> {
        let (actor, target, reason) = (actor.clone(), target.to_owned(), reason.to_owned());
        self.run(|inner| async move {
            let (target, reason) = (&*target, &*reason);
            record(&inner, Entry { actor: &actor, tenant: None, action, target, reason, detail }).await
        })
        .await
    }
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
        origin: Some(Origin {
            tenant: entry.tenant.map(ToString::to_string).unwrap_or_default(),
            request: entry.actor.request.clone(),
            address: entry.actor.address.clone(),
        }),
        previous: digest(&previous, "the audit log's head")?,
        digest: NOTHING,
    };
    row.digest = row.expected_digest();
    sqlx::query(
        "INSERT INTO audit (no, node, at_ms, actor, role, token, action, target, reason, detail, previous, digest,
                            tenant, request, address)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
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
    .bind(row.origin.as_ref().map(|of| &of.tenant))
    .bind(row.origin.as_ref().map(|of| &of.request))
    .bind(row.origin.as_ref().map(|of| &of.address))
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

/// The head the registry keeps beside the log.
pub(super) async fn head(connection: &mut Connection) -> Result<AuditHead, RegistryError> {
    let (no, at): (i64, Vec<u8>) =
        sqlx::query_as("SELECT audit_no, audit_digest FROM registry WHERE one = 1")
            .fetch_one(connection)
            .await?;
    Ok(AuditHead { no: uint(no), digest: digest(&at, "the audit log's head")? })
}

/// Reads the log in one snapshot and follows its chain, past every checkpoint that was signed: from its first row,
/// or from a row that was checked before.
async fn verify(
    pool: &Pool,
    key: Option<&PublicKey>,
    outside: Option<&AuditHead>,
    from: Option<AuditHead>,
) -> Result<AuditReport, RegistryError> {
    let mut snapshot = pool.begin().await?;
    let kept = head(&mut snapshot).await?;
    let mut chain = Chain { at: from.unwrap_or(AuditHead::EMPTY), marks: BTreeMap::new() };
    let later = |checkpoint: &checkpoint::Checkpoint| from.is_none_or(|from| checkpoint.head.no > from.no);
    for checkpoint in checkpoint::list(&mut snapshot, 0).await?.into_iter().filter(later) {
        if key.is_some_and(|key| !checkpoint.is_signed_by(key)) {
            let why = "its checkpoint is not signed with this server's key".to_owned();
            return Ok(chain.report(Some(Broken { no: checkpoint.head.no, why })));
        }
        chain.mark(checkpoint.head, "a signed checkpoint");
    }
    if let Some(outside) = outside {
        chain.mark(*outside, "the checkpoint given");
    }
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
    let broken = chain.missing().and_then(|()| chain.end(&kept, uint(rows))).err();
    Ok(chain.report(broken))
}

/// Checks the log of a registry without a server, changing nothing; its checkpoints with `key`, else with the
/// public key in the data directory.
///
/// # Errors
/// [`RegistryError`] when the registry is not there or cannot be read.
pub async fn verify_idle(
    data_dir: &Path,
    place: &Place,
    key: Option<&PublicKey>,
    outside: Option<&AuditHead>,
) -> Result<AuditReport, RegistryError> {
    let own = checkpoint::public_key_of(data_dir)?;
    let pool = database::idle_readers(place).await?;
    let report = verify(&pool, key.or(own.as_ref()), outside, None).await;
    pool.close().await;
    report
}

/// Follows the chain row by row. Pure: an export is checked by the same steps.
struct Chain {
    at: AuditHead,
    /// Rows that must be exactly these, and who says so.
    marks: BTreeMap<u64, Vec<([u8; 32], &'static str)>>,
}

impl Chain {
    fn mark(&mut self, head: AuditHead, whose: &'static str) {
        self.marks.entry(head.no).or_default().push((head.digest, whose));
    }

    fn follow(&mut self, row: &AuditRow) -> Result<(), Broken> {
        let no = self.at.no + 1;
        let broken = |why: String| Err(Broken { no, why });
        if row.no != no {
            return broken(format!("row {no} is missing, row {} follows", row.no));
        }
        if row.previous != self.at.digest {
            return broken("it does not continue the row before it".to_owned());
        }
        if row.digest != row.expected_digest() {
            return broken("it is not as it was written".to_owned());
        }
        let marks = self.marks.get(&no).into_iter().flatten();
        if let Some((_, whose)) = marks.into_iter().find(|(digest, _)| *digest != row.digest) {
            return broken(format!("it is another row than that of {whose}"));
        }
        self.at = row.head();
        Ok(())
    }

    /// Whether every mark was passed.
    fn missing(&self) -> Result<(), Broken> {
        let of_nothing = self.marks.get(&0).into_iter().flatten();
        if let Some((_, whose)) = of_nothing.into_iter().find(|(digest, _)| *digest != NOTHING) {
            return Err(Broken { no: 1, why: format!("{whose} is not one of an empty log") });
        }
        let Some((no, marks)) = self.marks.range(self.at.no + 1..).next_back() else { return Ok(()) };
        let whose = marks.first().map_or("a checkpoint", |(_, whose)| whose);
        Err(Broken {
            no: self.at.no + 1,
            why: format!("rows {} to {no} are missing, says {whose}", self.at.no + 1),
        })
    }

    /// Whether it ends where the registry says it does.
    fn end(&self, kept: &AuditHead, rows: u64) -> Result<(), Broken> {
        let next = self.at.no + 1;
        if kept.no > self.at.no {
            let why = format!("rows {next} to {} are missing, says the registry's own head", kept.no);
            return Err(Broken { no: next, why });
        }
        if *kept != self.at {
            let why = "the registry's own head is another row's".to_owned();
            return Err(Broken { no: kept.no + 1, why });
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
