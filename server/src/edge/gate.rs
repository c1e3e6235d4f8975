//! May this client come in? Asked with the registry's verdicts, in memory, as often as it takes: when
//! CONNECT has come, and again when the session has its seat.

use muster_shared::Code;

use super::identity::Visitor;
use crate::registry::{Claimed, DeviceKey, DeviceState, Verdicts};

/// A client that may come in now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Which device it is.
    pub device: DeviceKey,
    /// Its state: a registered one connects for the first time.
    pub state: DeviceState,
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
/// does not hold for what its factory CA makes of it.
pub fn verdict(verdicts: &Verdicts, visitor: &Visitor, now_s: i64) -> Result<Pass, Refusal> {
    let Some(known) = verdicts.certificate(&visitor.certificate) else {
        return Err(stranger(verdicts, visitor));
    };
    let refused = |code| Refusal { code, who: Claimed::Device(known.device) };
    let state = verdicts.may_talk(known.device, &visitor.certificate, now_s).map_err(refused)?;
    if now_s < visitor.not_before_s {
        return Err(refused(Code::CertificateNotYetValid));
    }
    Ok(Pass { device: known.device, state })
}

/// Vouched for by a factory CA, and not in the registry. An impostor of a known device is held against
/// that device, where its operator looks.
fn stranger(verdicts: &Verdicts, visitor: &Visitor) -> Refusal {
    let name = &visitor.name;
    let claimed = || Claimed::Name(name.tenant.clone(), name.serial.clone());
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
