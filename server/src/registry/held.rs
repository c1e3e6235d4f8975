//! What groups hold devices in, for statements that ask for it.
//!
//! A rule writes nothing into its devices' rows, so a state that is listed or counted is computed: a device is in
//! its own state, or in what a group holds it in, where that is graver. What the rules of a batch, its station and
//! its tenant come to stands in the batch, written in the transaction of the rule; whose certificate a withdrawn
//! CA has issued is looked up, which costs something only while there is one.
//!
//! [`Verdicts::in_force`](super::Verdicts) says the same of one device.

use super::{
    database::{Connection, QueryBuilder},
    error::RegistryError,
    group::{Group, KeyId},
    rules,
};

/// Of a row of `batch`: the gravest of the rules about it, its station and its tenant.
const FOLDED: &str = "coalesce((SELECT rule.state FROM rule JOIN station AS at ON at.id = batch.station
    WHERE rule.lifted IS NULL
      AND ((rule.kind = 'batch' AND rule.value = at.name || '/' || batch.name)
        OR (rule.kind = 'station' AND rule.value = at.name)
        OR (rule.kind = 'tenant' AND rule.value = at.tenant))
    ORDER BY CASE rule.state WHEN 'revoked' THEN 0 WHEN 'quarantined' THEN 1 ELSE 2 END LIMIT 1), '')";

/// Of a row of `device`: what its batch, its station or its tenant holds it in.
pub(super) const OF_DEVICE: &str = "(SELECT batch.held FROM batch WHERE batch.id = device.batch)";

/// Which groups hold anybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Some batch, by itself, its station or its tenant.
    pub(super) batches: bool,
    /// The withdrawn CAs that certificates name.
    pub(super) cas: Vec<KeyId>,
}

impl Held {
    /// Is everybody in his own state?
    pub(super) fn is_nobody(&self) -> bool {
        !self.batches && self.cas.is_empty()
    }
}

/// A rule about a group was made or lifted: writes what its batches are held in now.
pub(super) async fn fold(tx: &mut Connection, group: &Group) -> Result<(), RegistryError> {
    let mut query = QueryBuilder::new(format!("UPDATE batch SET held = {FOLDED} WHERE batch.id IN "));
    rules::push_batches(&mut query, group);
    query.build().execute(tx).await?;
    Ok(())
}

/// The same of a batch that may be new.
pub(super) async fn fold_batch(tx: &mut Connection, id: i64) -> Result<(), RegistryError> {
    let mut query = QueryBuilder::new(format!("UPDATE batch SET held = {FOLDED} WHERE batch.id = "));
    query.push_bind(id).build().execute(tx).await?;
    Ok(())
}

/// The state that is in force for a row of `device`. `held`: what the rules of its batch, its station and its
/// tenant hold it in; `cas`: those that were withdrawn.
pub(super) fn in_force(query: &mut QueryBuilder, held: &str, cas: &[KeyId]) {
    query.push("CASE WHEN device.state IN ('revoked', 'decommissioned') THEN device.state");
    if !cas.is_empty() {
        query.push(
            " WHEN EXISTS (SELECT 1 FROM certificate AS shown WHERE shown.id = device.certificate
              AND shown.issuer_key_id IN ",
        );
        push_cas(query, cas);
        query.push(") THEN 'revoked'");
    }
    query.push(format!(
        " WHEN {held} = 'revoked' THEN 'revoked'
          WHEN device.state = 'quarantined' OR {held} = 'quarantined' THEN 'quarantined'
          WHEN device.state = 'suspended' OR {held} = 'suspended' THEN 'suspended'
          ELSE device.state END"
    ));
}

/// How soon a row of `device` needs somebody, by the state that is in force for it: 0 is worst. What it comes to
/// by the device's own state stands in its row.
pub(super) fn urgency(query: &mut QueryBuilder, cas: &[KeyId]) {
    query.push("CASE (");
    in_force(query, OF_DEVICE, cas);
    query.push(
        ") WHEN 'quarantined' THEN 0 WHEN 'revoked' THEN 3 WHEN 'decommissioned' THEN 3 ELSE device.urgency END",
    );
}

/// Rows of `device` whose urgency a group may change: it holds them in what is worse than suspended.
pub(super) fn changed_by_group(query: &mut QueryBuilder, cas: &[KeyId]) {
    query.push(
        "(device.batch IN (SELECT batch.id FROM batch WHERE batch.held <> '' AND batch.held <> 'suspended')",
    );
    if !cas.is_empty() {
        query.push(
            " OR device.certificate IN (SELECT shown.id FROM certificate AS shown WHERE shown.issuer_key_id IN ",
        );
        push_cas(query, cas);
        query.push(")");
    }
    query.push(")");
}

/// `(key identifiers)`.
pub(super) fn push_cas(query: &mut QueryBuilder, cas: &[KeyId]) {
    query.push("(");
    let mut list = query.separated(", ");
    for key_id in cas {
        list.push_bind(key_id.to_vec());
    }
    query.push(")");
}
