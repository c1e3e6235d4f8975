//! What followers of facts are told: refusals and notices in the order they were written.
//!
//! Each time such a row is written it takes the next turn. Who has read up to a turn reads on behind it and
//! meets every row that has changed since, once, as it is now: so a hammering device is one row a minute here
//! too. Rows whose time is over are gone, and are not told.

use muster_shared::{Code, DeviceId, SerialNumber, Tenant};

use super::{
    Notice, Registry, RegistryError,
    database::{Connection, int, parse, uint},
};

/// What a row counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Refusals, and why.
    Refused(Code),
    /// Something that refused nothing.
    Noticed(Notice),
}

/// A row, as a follower meets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// The turn it was written in last.
    pub turn: u64,
    /// Whose tenant it is about; `None`: nobody's.
    pub tenant: Option<Tenant>,
    /// Which serial.
    pub serial: Option<SerialNumber>,
    /// The registered device's name on topics; `None` where it only claimed to be one.
    pub device_id: Option<DeviceId>,
    /// What is counted.
    pub what: Counted,
    /// The minute it is counted in, Unix milliseconds.
    pub minute_ms: u64,
    /// How many in that minute so far.
    pub count: u64,
    /// The newest of them.
    pub last_at_ms: u64,
    /// From where the newest came.
    pub remote: Option<String>,
}

/// Takes `count` turns; the first of them.
pub(super) async fn turns(tx: &mut Connection, count: u64) -> Result<u64, RegistryError> {
    let (last,): (i64,) =
        sqlx::query_as("UPDATE follow SET refusal = refusal + $1 WHERE one = 1 RETURNING refusal")
            .bind(int(count))
            .fetch_one(tx)
            .await?;
    Ok(uint(last) - count + 1)
}

impl Registry {
    /// Which registry this is: a number that one made anew does not share.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn node(&self) -> Result<u64, RegistryError> {
        let (node,): (String,) = sqlx::query_as("SELECT node FROM registry WHERE one = 1")
            .fetch_one(self.inner.database.readers())
            .await?;
        u64::from_str_radix(&node, 16).map_err(|_| RegistryError::Damaged(format!("the node is {node:?}")))
    }

    /// The newest turn of a refusal or a notice; 0 before the first.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn refusals_end(&self) -> Result<u64, RegistryError> {
        let (last,): (i64,) = sqlx::query_as("SELECT refusal FROM follow WHERE one = 1")
            .fetch_one(self.inner.database.readers())
            .await?;
        Ok(uint(last))
    }

    /// Refusals and notices written after this turn, in the order of their turns.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn facts_after(&self, turn: u64, limit: u32) -> Result<Vec<Followed>, RegistryError> {
        let mut connection = self.inner.database.readers().acquire().await?;
        let rows: Vec<Columns> = sqlx::query_as(
            "SELECT refusal.turn, refusal.claimed, refusal.code, refusal.minute_ms, refusal.count,
                    refusal.last_at_ms, refusal.remote, device.tenant, device.device_id, device.serial
             FROM refusal LEFT JOIN device ON device.id = refusal.device
             WHERE refusal.turn > $1 ORDER BY refusal.turn LIMIT $2",
        )
        .bind(int(turn))
        .bind(i64::from(limit))
        .fetch_all(&mut *connection)
        .await?;
        let mut all: Vec<Followed> = rows.into_iter().map(followed).collect::<Result<_, _>>()?;
        let rows: Vec<Noticed> = sqlx::query_as(
            "SELECT notice.turn, notice.kind, notice.bound, notice.minute_ms, notice.count, notice.last_at_ms,
                    notice.remote, device.tenant, device.device_id, device.serial
             FROM notice JOIN device ON device.id = notice.device
             WHERE notice.turn > $1 ORDER BY notice.turn LIMIT $2",
        )
        .bind(int(turn))
        .bind(i64::from(limit))
        .fetch_all(&mut *connection)
        .await?;
        for row in rows {
            all.push(noticed(row)?);
        }
        // Both in order, and cut alike: nothing before the cut is missing.
        all.sort_by_key(|row| row.turn);
        all.truncate(limit as usize);
        Ok(all)
    }
}

type Noticed = (i64, String, i64, i64, i64, i64, Option<String>, String, String, String);

fn noticed(columns: Noticed) -> Result<Followed, RegistryError> {
    let (turn, kind, bound, minute, count, last, remote, tenant, device_id, serial) = columns;
    Ok(Followed {
        turn: uint(turn),
        tenant: Some(parse(&tenant, "a device's tenant")?),
        serial: Some(parse(&serial, "a device's serial")?),
        device_id: Some(parse(&device_id, "a device's id")?),
        what: Counted::Noticed(Notice::read(&kind, bound)?),
        minute_ms: uint(minute),
        count: uint(count),
        last_at_ms: uint(last),
        remote,
    })
}

type Columns =
    (i64, String, String, i64, i64, i64, Option<String>, Option<String>, Option<String>, Option<String>);

fn followed(columns: Columns) -> Result<Followed, RegistryError> {
    let (turn, claimed, code, minute, count, last, remote, tenant, device_id, serial) = columns;
    let (tenant, device_id, serial) = match (tenant, device_id, serial, claimed.split_once('/')) {
        (Some(tenant), Some(device_id), Some(serial), _) => {
            let device_id = parse(&device_id, "a device's id")?;
            (
                Some(parse(&tenant, "a device's tenant")?),
                Some(device_id),
                Some(parse(&serial, "a device's serial")?),
            )
        }
        (.., Some((tenant, serial))) => {
            (Some(parse(tenant, "a claimed tenant")?), None, Some(parse(serial, "a claimed serial")?))
        }
        _ => (None, None, None),
    };
    Ok(Followed {
        turn: uint(turn),
        tenant,
        serial,
        device_id,
        what: Counted::Refused(parse(&code, "a refusal's code")?),
        minute_ms: uint(minute),
        count: uint(count),
        last_at_ms: uint(last),
        remote,
    })
}

#[cfg(test)]
mod tests {
    use muster_shared::Code;

    use super::Counted;
    use crate::registry::{Claimed, Notice, now_ms, testing::Fleet};

    #[tokio::test]
    async fn a_follower_meets_each_row_once_and_again_when_it_has_grown() {
        let fleet = Fleet::with(2).await;
        let facts = fleet.registry.facts();
        let now = now_ms() - now_ms() % 60_000;
        let refuse = |who: &Claimed| facts.refused(who, Code::DeviceSuspended, now, None);
        assert_eq!(fleet.registry.refusals_end().await.unwrap(), 0);
        let first = Claimed::Device(fleet.devices[0].key);
        refuse(&first);
        refuse(&first);
        refuse(&Claimed::Name("acme".parse().unwrap(), "MU-9".parse().unwrap()));
        refuse(&Claimed::Nobody);
        facts.flush().await;
        let all = fleet.registry.facts_after(0, 10).await.unwrap();
        assert_eq!(all.iter().map(|row| row.turn).collect::<Vec<_>>(), [1, 2, 3]);
        let of = |serial: &str| {
            all.iter().find(|row| row.serial.as_ref().is_some_and(|own| own.as_str() == serial))
        };
        assert_eq!(of("MU-000001").map(|row| (row.count, row.device_id.is_some())), Some((2, true)));
        assert_eq!(of("MU-9").map(|row| (row.count, row.device_id.is_some())), Some((1, false)));
        assert!(all.iter().any(|row| row.tenant.is_none()));
        refuse(&first);
        facts.flush().await;
        let more = fleet.registry.facts_after(3, 10).await.unwrap();
        assert_eq!(more.iter().map(|row| (row.turn, row.count)).collect::<Vec<_>>(), [(4, 3)]);
        assert_eq!(fleet.registry.refusals_end().await.unwrap(), 4);
        // A notice takes its turn among them; who reads a few at a time meets all, in order.
        facts.noticed(fleet.devices[1].key, Notice::Slowed { per_s: 100 }, now, None);
        refuse(&first);
        facts.flush().await;
        let (mut turn, mut met) = (0, Vec::new());
        loop {
            let rows = fleet.registry.facts_after(turn, 1).await.unwrap();
            let Some(row) = rows.last() else { break };
            turn = row.turn;
            met.push(row.what);
        }
        assert_eq!(met.len(), 4, "{met:?}");
        assert!(met[2..].contains(&Counted::Noticed(Notice::Slowed { per_s: 100 })), "{met:?}");
        let fleet = fleet.reopened().await;
        assert_eq!(fleet.registry.refusals_end().await.unwrap(), 6);
    }
}
