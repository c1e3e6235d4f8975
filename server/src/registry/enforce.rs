//! Which decisions still have to end live sessions.

use muster_shared::Generation;

use super::{
    Inner,
    database::{int, parse, uint},
    decide::Decided,
    error::RegistryError,
};

/// A decision whose live sessions have not been reported ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unenforced {
    /// The decision.
    pub decided: Decided,
    /// Whether a later decision lets the device talk again: then there is nothing to end.
    pub overtaken: bool,
}

/// What records that a decision's sessions have ended. The first report stands: a replay finds nothing left to
/// end and must not say it ended nothing.
pub(super) const OF_A_DEVICE: &str = "UPDATE enforcement SET enforced_at_ms = $1, sessions_ended = $2
    WHERE generation = $3 AND enforced_at_ms IS NULL";
/// The same for a rule.
pub(super) const OF_A_GROUP: &str = "UPDATE rule SET enforced_at_ms = $1, sessions_ended = $2
    WHERE generation = $3 AND enforced_at_ms IS NULL";

/// Records that the sessions of a decision have ended, and when.
pub(super) async fn mark(
    inner: &Inner,
    what: &'static str,
    generation: Generation,
    enforced_at_ms: u64,
    sessions_ended: u64,
) -> Result<(), RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    sqlx::query(what)
        .bind(int(enforced_at_ms))
        .bind(int(sessions_ended))
        .bind(int(generation.0))
        .execute(&mut *tx)
        .await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())
}

pub(super) async fn open(inner: &Inner) -> Result<Vec<Unenforced>, RegistryError> {
    type Row = (i64, i64, i64, String, String, String, i64);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT generation, device, audit_no, act, from_state, to_state, decided_at_ms
         FROM enforcement WHERE enforced_at_ms IS NULL ORDER BY generation",
    )
    .fetch_all(inner.database.readers())
    .await?;
    rows.into_iter()
        .map(|(generation, row, audit_no, act, from, to, at_ms)| {
            let device = inner.verdicts.of_row(row)?;
            let overtaken = inner.verdicts.state(device).is_some_and(|state| state.refusal().is_none());
            Ok(Unenforced {
                decided: Decided {
                    device,
                    act: parse(&act, "a decision's act")?,
                    from: parse(&from, "a decision's state")?,
                    to: parse(&to, "a decision's state")?,
                    generation: Generation(uint(generation)),
                    audit_no: uint(audit_no),
                    decided_at_ms: uint(at_ms),
                },
                overtaken,
            })
        })
        .collect()
}
