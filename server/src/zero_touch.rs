//! Zero touch: devices that are registered by their own first connection.
//!
//! Off, until a tenant has a `[[zero_touch]]` section. Then a device that the gate does not know, and for which
//! the factory CA of one of that tenant's stations vouches, is registered and goes on in the same session:
//!
//! ```text
//! CONNECT → gate: M202 → the tenant's policy → is a group of its held? → approval, where somebody is asked
//!   → queue → one import of all that wait → gate, again → seat → CONNACK
//! ```
//!
//! # Invariants
//!
//! - A device comes in by the import of lists and no other way ([`crate::registry::import`]): its profile, its
//!   CA, its tenant, its station's serials and quota, tombstones and other holders of its key or its names are
//!   looked at there and nowhere else.
//! - Nothing here lets anybody in. The gate is asked again after the import, and decides.
//! - While a group is held, nobody is registered into it: what was stopped does not grow by itself.
//! - Where somebody is asked, nobody is registered without their signature for this very connection.
//! - Whoever waits does so within bounds: of places in the queue, of questions at once, of time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use muster_shared::{BatchId, CertificateId, Code, StationId, Tenant};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

pub use self::approval::Unusable;
use self::approval::{Approval, Question};
use crate::{
    config::ZeroTouchEntry,
    registry::{
        Actor, DeviceName, Group, KeyId, Registry, RegistryError, Scope, Verdicts,
        import::{Fate, Listed, ListedRow, Offered, RowReport},
    },
};

mod approval;

/// Devices that wait to be registered: a burst of a production line. Each holds a connection.
const QUEUE_MAX: usize = 1024;
/// Most devices of one decision: its audit row names each, in some 150 octets.
const GATHER_MAX: usize = 256;

/// What a tenant allows.
struct Policy {
    stations: Option<BTreeSet<StationId>>,
    batch: BatchId,
    product: String,
    approval: Option<Approval>,
}

/// A device at the door that nobody has registered.
#[derive(Debug, Clone, Copy)]
pub struct Knock<'k> {
    /// What its certificate calls it.
    pub name: &'k DeviceName,
    /// SHA-256 of its certificate.
    pub certificate: CertificateId,
    /// Key identifier of the CA that issued it.
    pub issuer_key_id: &'k KeyId,
    /// The certificate itself, DER: the connection was verified with it.
    pub leaf: &'k [u8],
    /// Where it connects from.
    pub peer: SocketAddr,
}

/// A device that is to be registered, and who waits for it.
struct Waiting {
    name: DeviceName,
    leaf: Vec<u8>,
    address: IpAddr,
    policy: Arc<Policy>,
    answer: oneshot::Sender<Result<(), Code>>,
}

/// The policies of all tenants that have one, and the way into the registry.
pub struct ZeroTouch {
    policies: BTreeMap<Tenant, Arc<Policy>>,
    verdicts: Arc<Verdicts>,
    queue: mpsc::Sender<Waiting>,
}

impl ZeroTouch {
    /// Reads what the sections name and starts the task that registers, on the runtime this is called on; it
    /// ends when this is dropped. `None`: there are no sections.
    ///
    /// # Errors
    /// [`Unusable`] for a file that is not what its key says.
    pub fn start(entries: &[ZeroTouchEntry], registry: &Registry) -> Result<Option<Arc<Self>>, Unusable> {
        if entries.is_empty() {
            return Ok(None);
        }
        let policies = entries.iter().map(|entry| {
            let asked = entry.approval.as_ref().map(|asked| Approval::open(&entry.tenant, asked));
            let policy = Policy {
                stations: entry.stations.clone(),
                batch: entry.batch.clone(),
                product: entry.product.clone(),
                approval: asked.transpose()?,
            };
            Ok((entry.tenant.clone(), Arc::new(policy)))
        });
        let policies: BTreeMap<_, _> = policies.collect::<Result<_, _>>()?;
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        drop(tokio::spawn(register(registry.clone(), waiting)));
        let zero_touch = Self { policies, verdicts: registry.verdicts(), queue };
        zero_touch.warn_of_strangers();
        Ok(Some(Arc::new(zero_touch)))
    }

    /// A station may be registered later; it may be a misspelling, too.
    fn warn_of_strangers(&self) {
        for (tenant, policy) in &self.policies {
            for station in policy.stations.iter().flatten() {
                let issuer = self.verdicts.issuer_of(station.as_str());
                if issuer.is_none_or(|issuer| issuer.tenant != *tenant) {
                    warn!(%tenant, %station, "[[zero_touch]] names a station that this tenant does not have");
                }
            }
        }
    }

    /// Whether its tenant allows this device, of this issuer, to be registered by connecting.
    #[must_use]
    pub fn is_open_to(&self, name: &DeviceName, issuer_key_id: &KeyId) -> bool {
        self.place(name, issuer_key_id).is_some()
    }

    /// Its tenant's policy, and the station that made it.
    fn place(&self, name: &DeviceName, issuer_key_id: &KeyId) -> Option<(&Arc<Policy>, StationId)> {
        let policy = self.policies.get(&name.tenant)?;
        let issuer = self.verdicts.issuer(issuer_key_id)?;
        let station = issuer.station.clone();
        let listed = policy.stations.as_ref().is_none_or(|some| some.contains(&station));
        (listed && issuer.tenant == name.tenant).then_some((policy, station))
    }

    /// Registers a device that the gate does not know. Whether it may come in is for the gate to say, again.
    ///
    /// # Errors
    /// M202 where its tenant allows none of this; what its groups are held in; M226 and M227 from who was
    /// asked; M111 when too many wait; M110 when it cannot be stored; else what stands against its import.
    pub async fn admit(&self, knock: &Knock<'_>) -> Result<(), Code> {
        let Some((policy, station)) = self.place(knock.name, knock.issuer_key_id) else {
            return Err(Code::DeviceNotRegistered);
        };
        if let Some(code) = self.held(knock, policy, &station) {
            return Err(code);
        }
        if let Some(approval) = &policy.approval {
            let question = Question {
                name: knock.name,
                certificate: knock.certificate,
                station: &station,
                address: knock.peer.ip(),
            };
            approval.ask(&question).await.map_err(|error| {
                warn!(who = %label(knock.name), peer = %knock.peer, %error, "a first connection is not approved");
                error.code()
            })?;
        }
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            name: knock.name.clone(),
            leaf: knock.leaf.to_vec(),
            address: knock.peer.ip(),
            policy: Arc::clone(policy),
            answer,
        };
        self.queue.try_send(waiting).map_err(|_| Code::ServerBusy)?;
        answered.await.unwrap_or(Err(Code::ServerStopping))
    }

    /// Why nobody is registered into its groups for now: the gravest of what they are held in.
    fn held(&self, knock: &Knock<'_>, policy: &Policy, station: &StationId) -> Option<Code> {
        let groups = [
            Group::Tenant(knock.name.tenant.clone()),
            Group::Station(station.clone()),
            Group::Batch(station.clone(), policy.batch.clone()),
            Group::Ca(*knock.issuer_key_id),
        ];
        groups.iter().filter_map(|group| self.verdicts.held(group)).max().map(|hold| hold.code())
    }
}

/// What a device is told for a refusal: it can do nothing about what its station may make, and is not registered.
#[must_use]
pub fn told(code: Code) -> Code {
    match code {
        Code::ManifestQuota | Code::ManifestRange | Code::ManifestFork => Code::DeviceNotRegistered,
        other => other,
    }
}

fn label(name: &DeviceName) -> String {
    format!("{}/{}", name.tenant, name.serial)
}

/// Registers who waits, all of a tenant by one decision: while one is on its way to the disk, the next gather.
async fn register(registry: Registry, mut queue: mpsc::Receiver<Waiting>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, GATHER_MAX).await > 0 {
        let mut tenants: BTreeMap<Tenant, Vec<Waiting>> = BTreeMap::new();
        // Who has gone meanwhile asks again when it is back.
        for one in waiting.drain(..).filter(|one| !one.answer.is_closed()) {
            tenants.entry(one.name.tenant.clone()).or_default().push(one);
        }
        for (tenant, some) in tenants {
            import(&registry, tenant, some).await;
        }
    }
}

/// One decision about devices of one tenant, and so of one policy.
async fn import(registry: &Registry, tenant: Tenant, mut some: Vec<Waiting>) {
    let Some(policy) = some.first().map(|one| Arc::clone(&one.policy)) else { return };
    let addresses: BTreeMap<_, _> = (1..).zip(some.iter().map(|one| one.address)).collect();
    let alone = (some.len() == 1).then(|| some[0].address.to_string());
    let rows = some.iter_mut().zip(1..).map(|(one, line)| ListedRow {
        line,
        certificate: Ok(std::mem::take(&mut one.leaf)),
        serial: None,
    });
    let list = Listed {
        batch: policy.batch.clone(),
        product: policy.product.clone(),
        rows: rows.collect(),
        offered: Offered::ByConnecting(addresses),
    };
    // Its tenant's operators see the row; what is not this tenant's cannot come in by it.
    let actor = Actor { address: alone.unwrap_or_default(), ..Actor::server().within(Scope::One(tenant)) };
    match registry.import_listed(&actor, list).await {
        Ok(reports) => {
            for (one, report) in some.into_iter().zip(reports) {
                let answer = outcome(&one, &policy.batch, &report);
                // Who has gone meanwhile is registered all the same.
                let _ = one.answer.send(answer);
            }
        }
        Err(error) => {
            error!(%error, devices = some.len(), "first connections are not registered");
            let code =
                if matches!(error, RegistryError::Closed) { Code::ServerStopping } else { Code::NotStored };
            for one in some {
                let _ = one.answer.send(Err(code));
            }
        }
    }
}

fn outcome(one: &Waiting, batch: &BatchId, report: &RowReport) -> Result<(), Code> {
    let (who, address) = (label(&one.name), one.address);
    match &report.fate {
        Fate::Registered => {
            info!(who, %address, %batch, "registered by its first connection");
            Ok(())
        }
        // By another of its connections, or by an import.
        Fate::Already => Ok(()),
        Fate::Refused(code, why) => {
            warn!(who, %address, %code, why, "not registered by its first connection");
            Err(*code)
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_pki::testing::{self, Credential};

    use super::*;
    use crate::registry::{
        Act, DeviceState, Reason,
        testing::{Fleet, HIERARCHY, ana, credential, now_s},
    };

    fn open_to_all() -> ZeroTouchEntry {
        ZeroTouchEntry {
            tenant: "acme".parse().unwrap(),
            stations: None,
            batch: "first-connect".parse().unwrap(),
            product: "unknown".to_owned(),
            approval: None,
        }
    }

    fn started(fleet: &Fleet, entry: ZeroTouchEntry) -> Arc<ZeroTouch> {
        ZeroTouch::start(&[entry], &fleet.registry).unwrap().expect("a section")
    }

    async fn knock(zero_touch: &ZeroTouch, who: &Credential) -> Result<(), Code> {
        let of = who.identity();
        let name = DeviceName { tenant: of.tenant, device_id: of.device_id, serial: of.serial };
        let peer = ([192, 0, 2, 7], 4711).into();
        let (certificate, issuer_key_id) = (of.id, &of.issuer_key_id);
        zero_touch.admit(&Knock { name: &name, certificate, issuer_key_id, leaf: &who.chain[0], peer }).await
    }

    #[tokio::test]
    async fn what_stands_against_an_import_stands_against_a_first_connection() {
        let fleet = Fleet::with(2).await;
        fleet.act(1, Act::Revoke).await.unwrap();
        let zero_touch = started(&fleet, open_to_all());
        let factory = &HIERARCHY.stations[0].factory;
        let known = |device: usize| fleet.devices[device].credential.as_ref().unwrap();
        let made = |serial: &str, key| testing::device_with(factory, &testing::subject(serial), key, now_s());
        let foreign = testing::device(&HIERARCHY, &testing::subject_of("other", "OT-0001"), now_s());
        for (what, who, code) in [
            ("a new device", credential("MU-000003"), Ok(())),
            ("a serial out of range", made("MU-010001", testing::key()), Err(Code::ManifestRange)),
            ("another device's serial", credential("MU-000001"), Err(Code::SerialTaken)),
            ("another device's key", made("MU-000004", known(0).key.clone()), Err(Code::SerialTaken)),
            (
                "a revoked device's key",
                made("MU-000005", known(1).key.clone()),
                Err(Code::CertificateRevoked),
            ),
            ("another tenant's device", foreign, Err(Code::DeviceNotRegistered)),
        ] {
            assert_eq!(knock(&zero_touch, &who).await, code, "{what}");
        }
        assert_eq!(knock(&zero_touch, known(0)).await, Ok(()), "known before, and known then");
        assert_eq!(fleet.registry.verdicts().devices(), 3);
    }

    #[tokio::test]
    async fn a_station_that_is_not_listed_is_as_before() {
        let fleet = Fleet::empty().await;
        let stations = Some(BTreeSet::from(["S-08".parse().unwrap()]));
        let zero_touch = started(&fleet, ZeroTouchEntry { stations, ..open_to_all() });
        assert_eq!(knock(&zero_touch, &credential("MU-000001")).await, Err(Code::DeviceNotRegistered));
        assert_eq!(knock(&zero_touch, &credential("MU-010000")).await, Ok(()));
    }

    #[tokio::test]
    async fn a_group_that_is_held_does_not_grow_by_itself() {
        let fleet = Fleet::empty().await;
        let zero_touch = started(&fleet, open_to_all());
        let [station, tenant] =
            [Group::Station("S-07".parse().unwrap()), Group::Tenant("acme".parse().unwrap())];
        for (group, act, said) in [
            (&station, Act::Suspend, Err(Code::DeviceSuspended)),
            (&tenant, Act::Quarantine, Err(Code::DeviceQuarantined)),
            (&tenant, Act::Release, Err(Code::DeviceSuspended)),
            (&station, Act::Resume, Ok(())),
        ] {
            fleet.registry.decide_group(&ana(), group.clone(), act, &Reason::new("a reason")).await.unwrap();
            assert_eq!(knock(&zero_touch, &credential("MU-000001")).await, said, "{group} {act}");
        }
        assert_eq!(fleet.registry.verdicts().devices(), 1);
    }

    #[tokio::test]
    async fn the_row_says_how_and_from_where_to_its_tenant() {
        let fleet = Fleet::empty().await;
        let zero_touch = started(&fleet, open_to_all());
        let who = credential("MU-000001");
        assert_eq!(knock(&zero_touch, &who).await, Ok(()));
        let known = fleet.registry.verdicts().certificate(&who.identity().id).unwrap();
        assert_eq!(fleet.registry.verdicts().state(known.device), Some(DeviceState::Registered));
        let row = fleet.registry.audit(0, 100).await.unwrap().pop().unwrap();
        assert_eq!(
            (&*row.actor, &*row.action, &*row.target),
            ("server", "device.zero-touch", "first-connect")
        );
        let origin = row.origin.unwrap();
        assert_eq!((&*origin.tenant, &*origin.address), ("acme", "192.0.2.7"));
        let detail: serde_json::Value = serde_json::from_str(&row.detail).unwrap();
        assert_eq!(detail["devices"][0]["serial"], "MU-000001");
        assert_eq!(detail["devices"][0]["address"], "192.0.2.7");
        assert_eq!(detail["devices"][0]["certificate"], who.identity().id.to_string());
    }
}
