//! A manifest's place in its station's chain.

use muster_pki::{
    StationRecord,
    manifest::{Claim, Verified},
};
use muster_shared::{BatchId, Code};
use serde_json::json;

use super::refused;
use crate::registry::{
    actor::{Actor, Scope},
    audit::{self, Entry, Stamp},
    database::{Connection, int, uint},
    error::RegistryError,
    now_ms, station,
};

/// A registered station as it stands.
pub(super) struct Station {
    pub(super) id: i64,
    pub(super) record: StationRecord,
    stopped: Option<(u64, String)>,
    last: Option<(u64, Vec<u8>)>,
}

/// Where a manifest stands.
pub(super) enum Place {
    /// It is the next.
    Next,
    /// It was imported before.
    Again,
    /// One is missing before it, or the station is stopped: the words say which.
    Refused(String),
    /// Two different manifests claim one place.
    Fork(String),
}

/// The station a manifest says it is of, if the root vouches for it and the scope knows it.
pub(super) async fn find(
    connection: &mut Connection,
    claim: &Claim,
    scope: &Scope,
) -> Result<Station, RegistryError> {
    type Row = (i64, Vec<u8>, Option<i64>, Option<String>, Option<i64>, Option<Vec<u8>>);
    let unknown = |what: String| refused(Code::ManifestSignerUnknown, None, what);
    let Some(root) = station::root(connection).await? else {
        return Err(unknown("no root is trusted yet".to_owned()));
    };
    let root = station::read_root(&root)?;
    let found: Option<Row> = sqlx::query_as(
        "SELECT id, record, stopped_at_ms, stopped_why, last_sequence, last_digest FROM station
         WHERE name = $1 AND ($2 = '' OR tenant = $2)",
    )
    .bind(claim.station.as_str())
    .bind(scope.to_sql())
    .fetch_optional(&mut *connection)
    .await?;
    let Some((id, record, stopped_at, why, sequence, digest)) = found else {
        let known = station::records(connection, &root).await?;
        let known: Vec<_> = known
            .iter()
            .filter(|record| scope.covers(&record.tenant))
            .map(|record| format!("{} {}", record.station, hex::encode(record.manifest_key.digest())))
            .collect();
        return Err(unknown(format!(
            "station {} is not registered · signer key {} · known: {}",
            claim.station,
            hex::encode(claim.signer),
            if known.is_empty() { "none".to_owned() } else { known.join(", ") },
        )));
    };
    let record = StationRecord::verify(&record, &root)
        .map_err(|error| RegistryError::Damaged(format!("record of station {}: {error}", claim.station)))?;
    Ok(Station {
        id,
        record,
        stopped: stopped_at.map(|at| (uint(at), why.unwrap_or_default())),
        last: sequence.map(uint).zip(digest),
    })
}

impl Station {
    /// Where a manifest of this station stands.
    pub(super) async fn place(
        &self,
        connection: &mut Connection,
        verified: &Verified,
    ) -> Result<Place, RegistryError> {
        let place = self.compare(connection, verified).await?;
        Ok(match (place, &self.stopped) {
            (Place::Fork(_) | Place::Next, Some((at_ms, why))) => Place::Refused(format!(
                "station {} is stopped since {at_ms} (Unix ms): {why}",
                self.record.station
            )),
            (place, _) => place,
        })
    }

    async fn compare(
        &self,
        connection: &mut Connection,
        verified: &Verified,
    ) -> Result<Place, RegistryError> {
        let sequence = verified.header.sequence;
        let (last, last_digest) = match &self.last {
            Some((sequence, digest)) => (*sequence, Some(digest.as_slice())),
            None => (0, None),
        };
        if sequence > last + 1 {
            return Ok(Place::Refused(format!(
                "manifest {} is number {sequence} of station {}; number {} is missing",
                verified.header.batch,
                self.record.station,
                last + 1
            )));
        }
        if sequence == last + 1 {
            let previous = verified.header.previous.as_ref().map(<[u8; 32]>::as_slice);
            if previous == last_digest {
                return Ok(Place::Next);
            }
            let name = |digest: Option<&[u8]>| digest.map_or_else(|| "nothing".to_owned(), hex::encode);
            return Ok(Place::Fork(format!(
                "number {sequence} continues {}, number {last} here is {}",
                name(previous),
                name(last_digest)
            )));
        }
        let known: Option<(Vec<u8>,)> =
            sqlx::query_as("SELECT digest FROM manifest WHERE station = $1 AND sequence = $2")
                .bind(self.id)
                .bind(int(sequence))
                .fetch_optional(connection)
                .await?;
        Ok(match known {
            Some((digest,)) if digest == verified.digest => Place::Again,
            Some((digest,)) => Place::Fork(format!(
                "number {sequence} is {}, and was imported as {}",
                hex::encode(verified.digest),
                hex::encode(digest)
            )),
            None => Place::Fork(format!("number {sequence} was never given")),
        })
    }

    /// Takes nothing more from this station: two of its manifests claim one place.
    pub(super) async fn stop(
        &self,
        tx: &mut Connection,
        actor: &Actor,
        batch: &BatchId,
        why: &str,
    ) -> Result<Stamp, RegistryError> {
        let at_ms = now_ms();
        sqlx::query("UPDATE station SET stopped_at_ms = $1, stopped_why = $2 WHERE id = $3")
            .bind(int(at_ms))
            .bind(why)
            .bind(self.id)
            .execute(&mut *tx)
            .await?;
        let entry = Entry {
            actor,
            tenant: Some(&self.record.tenant),
            action: "station.stop",
            target: self.record.station.as_str(),
            reason: "its manifests do not form one chain",
            detail: json!({ "batch": batch.as_str(), "why": why }),
        };
        audit::append(tx, entry, at_ms).await
    }
}
