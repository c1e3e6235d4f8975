//! What the edge would decide now, without a connection: by the very functions that decide for one.

use std::{sync::Arc, time::Duration};

use muster_shared::{Code, topic::Forbidden};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{
    gate::{self, Pass},
    identity::Visitor,
    principal::Principal,
    tls,
    trust::Trust,
};
use crate::registry::{DeviceName, Verdicts};

/// A client with this certificate, and the key to it, connects at `now_s` (Unix seconds).
///
/// # Errors
/// The code it is refused with: by an alert of the handshake, or in CONNACK.
pub fn connect(verdicts: &Arc<Verdicts>, trust: &Arc<Trust>, leaf: &[u8], now_s: i64) -> Result<Pass, Code> {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now_s).unwrap_or(0)));
    let certificate = CertificateDer::from(leaf);
    tls::verify(verdicts, trust, &certificate, now)
        .map_err(|fault| fault.code().unwrap_or(Code::CertificateProfile))?;
    let visitor = Visitor::from_leaf(leaf, trust).map_err(|_| Code::CertificateProfile)?;
    gate::verdict(verdicts, trust, &visitor, now_s).map_err(|refusal| refusal.code)
}

/// What a client wants to do on a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Publish on a topic name.
    Publish,
    /// Subscribe to a topic filter.
    Subscribe,
}

/// A device wants this of a topic.
///
/// # Errors
/// [`Forbidden`] says why it may not.
pub fn topic(name: &Arc<DeviceName>, verb: Verb, topic: &str) -> Result<(), Forbidden> {
    let principal = Principal::Device(Arc::clone(name));
    match verb {
        Verb::Publish => principal.may_publish(topic),
        Verb::Subscribe => principal.may_subscribe(topic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{
        Act, DeviceState,
        testing::{Fleet, credential, now_s},
    };

    #[tokio::test]
    async fn it_answers_as_the_edge_does() {
        let fleet = Fleet::with(3).await;
        let verdicts = fleet.registry.verdicts();
        let trust = Arc::new(Trust::default());
        let ask = |device: usize, now_s: i64| {
            let who = fleet.devices[device].credential.as_ref().unwrap();
            connect(&verdicts, &trust, &who.chain[0], now_s)
        };
        assert!(matches!(ask(0, now_s()), Ok(Pass::Device { state: DeviceState::Registered, .. })));
        let last = fleet.devices[0].credential.as_ref().unwrap().identity().not_after_s;
        assert_eq!(ask(0, last + 1), Err(Code::CertificateExpired));
        fleet.act(1, Act::Suspend).await.unwrap();
        assert_eq!(ask(1, now_s()), Err(Code::DeviceSuspended));
        fleet.act(2, Act::Revoke).await.unwrap();
        assert_eq!(ask(2, now_s()), Err(Code::CertificateRevoked));
        let stranger = credential("MU-000009");
        assert_eq!(connect(&verdicts, &trust, &stranger.chain[0], now_s()), Err(Code::DeviceNotRegistered));
        assert_eq!(connect(&verdicts, &trust, b"no certificate", now_s()), Err(Code::CertificateProfile));
        let name = verdicts.name(fleet.devices[0].key);
        let own = format!("{}/{}", name.tenant, name.device_id);
        assert_eq!(topic(&name, Verb::Publish, &format!("{own}/telemetry/t")), Ok(()));
        assert!(topic(&name, Verb::Publish, &format!("{own}/twin/desired")).is_err());
        assert_eq!(topic(&name, Verb::Subscribe, &format!("{own}/#")), Ok(()));
        assert!(topic(&name, Verb::Subscribe, "other/#").is_err());
    }
}
