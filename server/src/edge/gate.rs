//! May this client come in? Asked with the registry's verdicts, in memory, as often as it takes: when
//! CONNECT has come, and again when the session has its seat.

use std::sync::Arc;

use muster_shared::Code;

use super::{
    identity::Visitor,
    principal::{Principal, Service},
    trust::Trust,
};
use crate::registry::{Claimed, DeviceKey, DeviceName, DeviceState, Verdicts};

/// A client that may come in now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pass {
    /// A device.
    Device {
        /// Which one.
        device: DeviceKey,
        /// What it is called.
        name: Arc<DeviceName>,
        /// Its state: a registered one connects for the first time.
        state: DeviceState,
        /// Its certificate's last good second, Unix seconds: no session outlives it.
        not_after_s: i64,
    },
    /// A service of the configuration.
    Service {
        /// Which one.
        service: Arc<Service>,
        /// Its certificate's last good second, Unix seconds: no session outlives it.
        not_after_s: i64,
    },
}

/// A client that may not, and whose record says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// Who it is for the record.
    pub who: Claimed,
}

/// The verdict on a client, now.
///
/// # Errors
/// [`Refusal`]: of a device of the registry for what was decided about it; of a certificate the registry
/// does not hold for what its factory CA makes of it; of a service for its certificate's end or withdrawal,
/// and for having no entry in the configuration.
pub fn verdict(
    verdicts: &Verdicts,
    trust: &Trust,
    visitor: &Visitor,
    now_s: i64,
) -> Result<Pass, Box<Refusal>> {
    match &visitor.principal {
        Principal::Device(name) => device(verdicts, visitor, name, now_s),
        Principal::Service(service) => self::service(verdicts, trust, visitor, service, now_s)
            .map_err(|code| Box::new(Refusal { code, who: Claimed::Nobody })),
    }
}

fn device(
    verdicts: &Verdicts,
    visitor: &Visitor,
    name: &Arc<DeviceName>,
    now_s: i64,
) -> Result<Pass, Box<Refusal>> {
    let Some(known) = verdicts.certificate(&visitor.certificate) else {
        return Err(Box::new(stranger(verdicts, visitor, name)));
    };
    let refused = |code| Box::new(Refusal { code, who: Claimed::Device(known.device) });
    let state = verdicts.may_talk(known.device, &visitor.certificate, now_s).map_err(refused)?;
    if now_s < visitor.not_before_s {
        return Err(refused(Code::CertificateNotYetValid));
    }
    Ok(Pass::Device { device: known.device, name: Arc::clone(name), state, not_after_s: known.not_after_s })
}

/// The verifier has seen to its chain and its time; time goes on.
fn service(
    verdicts: &Verdicts,
    trust: &Trust,
    visitor: &Visitor,
    service: &Service,
    now_s: i64,
) -> Result<Pass, Code> {
    if let Some(code) = verdicts.withdrawn(&visitor.certificate, &visitor.issuer_key_id) {
        return Err(code);
    }
    if trust.revoked(&visitor.certificate) {
        return Err(Code::CertificateRevoked);
    }
    if now_s > visitor.not_after_s {
        return Err(Code::CertificateExpired);
    }
    let configured = trust.service(service.name()).ok_or(Code::ServiceUnknown)?;
    Ok(Pass::Service { service: Arc::clone(configured), not_after_s: visitor.not_after_s })
}

/// Vouched for by a factory CA, and not in the registry. An impostor of a known device is held against
/// that device, where its operator looks.
fn stranger(verdicts: &Verdicts, visitor: &Visitor, name: &DeviceName) -> Refusal {
    let claimed = || Claimed::Name(name.tenant.clone(), name.serial.clone());
    if let Some(code) = verdicts.withdrawn(&visitor.certificate, &visitor.issuer_key_id) {
        return Refusal { code, who: claimed() };
    }
    let code = match verdicts.issuer(&visitor.issuer_key_id) {
        None => Code::IssuerUnknown,
        Some(issuer) if issuer.withdrawn => Code::IssuerWithdrawn,
        Some(issuer) if issuer.tenant != name.tenant => Code::TenantForeign,
        Some(_) => match verdicts.device(&name.tenant, &name.device_id, &name.serial) {
            Some(device) => return Refusal { code: Code::SerialTaken, who: Claimed::Device(device) },
            None => Code::DeviceNotRegistered,
        },
    };
    Refusal { code, who: claimed() }
}

#[cfg(test)]
mod tests {
    use muster_pki::testing::{self, Credential};

    use super::*;
    use crate::registry::{
        Act,
        testing::{Fleet, HIERARCHY, credential, now_s},
    };

    fn ask(fleet: &Fleet, who: &Credential, now_s: i64) -> Result<DeviceState, Code> {
        let trust = Trust::default();
        let visitor = Visitor::from_leaf(&who.chain[0], &trust).unwrap();
        let verdict = verdict(&fleet.registry.verdicts(), &trust, &visitor, now_s);
        match verdict.map_err(|refusal| refusal.code)? {
            Pass::Device { state, .. } => Ok(state),
            Pass::Service { service, .. } => panic!("a service: {service:?}"),
        }
    }

    #[tokio::test]
    async fn a_known_device_is_what_was_decided_about_it() {
        let fleet = Fleet::with(4).await;
        let now = |device: usize| ask(&fleet, fleet.devices[device].credential.as_ref().unwrap(), now_s());
        assert_eq!(now(0), Ok(DeviceState::Registered));
        for (device, act, code) in [
            (1, Act::Suspend, Code::DeviceSuspended),
            (2, Act::Quarantine, Code::DeviceQuarantined),
            (3, Act::Revoke, Code::CertificateRevoked),
        ] {
            fleet.act(device, act).await.unwrap();
            assert_eq!(now(device), Err(code));
        }
        fleet.act(1, Act::Resume).await.unwrap();
        assert_eq!(now(1), Ok(DeviceState::Registered));
    }

    #[tokio::test]
    async fn a_certificate_is_good_in_its_time() {
        let fleet = Fleet::with(1).await;
        let who = fleet.devices[0].credential.as_ref().unwrap();
        let (first, last) = (who.identity().not_before_s, who.identity().not_after_s);
        assert_eq!(ask(&fleet, who, first - 1), Err(Code::CertificateNotYetValid));
        assert_eq!(ask(&fleet, who, first), Ok(DeviceState::Registered));
        assert_eq!(ask(&fleet, who, last), Ok(DeviceState::Registered));
        assert_eq!(ask(&fleet, who, last + 1), Err(Code::CertificateExpired));
    }

    #[tokio::test]
    async fn a_stranger_is_told_what_its_factory_makes_of_it() {
        let fleet = Fleet::with(1).await;
        let ask = |who: &Credential| ask(&fleet, who, now_s());
        assert_eq!(ask(&credential("MU-000002")), Err(Code::DeviceNotRegistered));
        assert_eq!(ask(&credential("MU-000001")), Err(Code::SerialTaken));
        let mut renamed = testing::subject("MU-000003");
        renamed.device_id = "MU-000001".parse().unwrap();
        let renamed = testing::device(&HIERARCHY, &renamed, now_s());
        assert_eq!(ask(&renamed), Err(Code::SerialTaken), "another serial, the same name on topics");
        let factory = &HIERARCHY.stations[0].factory;
        let subject = testing::subject_of("other", "MU-000004");
        let foreign = testing::device_with(factory, &subject, testing::key(), now_s());
        assert_eq!(ask(&foreign), Err(Code::TenantForeign));
        let unregistered = testing::hierarchy(now_s());
        let unknown = testing::device(&unregistered, &testing::subject("MU-000005"), now_s());
        assert_eq!(ask(&unknown), Err(Code::IssuerUnknown));
    }

    #[tokio::test]
    async fn a_service_needs_an_entry_and_a_certificate_that_was_not_withdrawn() {
        let fleet = Fleet::empty().await;
        let ca = HIERARCHY.service.certificate();
        let who = testing::named(&HIERARCHY.service, "historian", now_s());
        let visitor = |trust: &Trust| Visitor::from_leaf(&who.chain[0], trust).unwrap();
        let ask = |trust: &Trust, now_s: i64| {
            verdict(&fleet.registry.verdicts(), trust, &visitor(trust), now_s).map_err(|refusal| refusal.code)
        };
        let entry = |name: &str| {
            let service = Service::new(name.parse().unwrap(), None, ["#"], ["#"]);
            Arc::new(service.unwrap())
        };
        let last = visitor(&Trust::default().services(ca, [], [])).not_after_s;
        let known = Trust::default().services(ca, [entry("historian")], []);
        let pass = Pass::Service { service: entry("historian"), not_after_s: last };
        assert_eq!(ask(&known, last), Ok(pass));
        assert_eq!(ask(&known, last + 1), Err(Code::CertificateExpired));
        let other = Trust::default().services(ca, [entry("planner")], []);
        assert_eq!(ask(&other, now_s()), Err(Code::ServiceUnknown));
        assert!(visitor(&other).principal.may_publish("a").is_err(), "it may do nothing");
        let id = visitor(&known).certificate;
        let withdrawn = Trust::default().services(ca, [entry("historian")], [id]);
        assert_eq!(ask(&withdrawn, now_s()), Err(Code::CertificateRevoked));
        assert!(Visitor::from_leaf(&who.chain[0], &Trust::default()).is_err(), "nobody issues to services");
    }
}
