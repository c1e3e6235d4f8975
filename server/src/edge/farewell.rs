//! How the server ends a session: the word for the record, the code and reason for the client.

use muster_shared::Code;

use crate::registry::DisconnectReason;

/// How the server ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Farewell {
    /// For the record.
    pub why: DisconnectReason,
    /// For the client, in the reason string of MQTT 5.
    pub code: Code,
}

impl Farewell {
    /// The MQTT 5 reason code of the DISCONNECT. A decision about the device is an administrative
    /// action, 0x98, whatever CONNACK would say; the reason string tells them apart.
    #[must_use]
    pub fn mqtt(self) -> u8 {
        use DisconnectReason::{
            Administrative, CertificateExpired, CertificateRevoked, DeviceQuarantined, DeviceSuspended,
        };
        match (self.why, self.code.entry().mqtt) {
            (CertificateRevoked | CertificateExpired | DeviceSuspended | DeviceQuarantined, _) => 0x98,
            // The server's own trouble has a reason of its own.
            (Administrative, _) if self.code != Code::NotStored => 0x98,
            (_, 0) => 0x80,
            (_, reason) => reason,
        }
    }

    /// Does the will stay unsent? A session the server ends for what the device may no longer do takes
    /// its will along; so does a stop of the server, which is no end of the device.
    #[must_use]
    pub fn drops_will(self) -> bool {
        use DisconnectReason as Why;
        match self.why {
            Why::ClientInitiated
            | Why::CertificateRevoked
            | Why::CertificateExpired
            | Why::DeviceSuspended
            | Why::DeviceQuarantined
            | Why::Administrative
            | Why::ServerShutdown => true,
            Why::KeepAliveTimeout
            | Why::ConnectionLost
            | Why::SessionTakenOver
            | Why::ProtocolError
            | Why::TopicRefused
            | Why::Throttled => false,
        }
    }
}

impl Farewell {
    /// Was something refused by ending the session? Such an end is counted with its code, as a refusal that a
    /// session survives is. Not a decision about the device, which is on its record anyway, nor silence: a
    /// client that was not heard within its keep-alive was refused nothing, and on a poor link that is
    /// every day's end of a session.
    #[must_use]
    pub fn refuses(self) -> bool {
        use DisconnectReason as Why;
        match self.why {
            Why::ProtocolError | Why::TopicRefused | Why::Throttled => true,
            Why::Administrative => self.code == Code::NotStored,
            Why::ClientInitiated
            | Why::KeepAliveTimeout
            | Why::ConnectionLost
            | Why::SessionTakenOver
            | Why::CertificateRevoked
            | Why::CertificateExpired
            | Why::DeviceSuspended
            | Why::DeviceQuarantined
            | Why::ServerShutdown => false,
        }
    }

    /// Does nothing of the session stay? Not of a device that may not talk any more: what waits for it and
    /// what is retained of it go, too.
    #[must_use]
    pub fn purges(self) -> bool {
        use DisconnectReason as Why;
        matches!(
            self.why,
            Why::CertificateRevoked | Why::CertificateExpired | Why::DeviceSuspended | Why::DeviceQuarantined
        )
    }
}

impl From<DisconnectReason> for Farewell {
    /// With the code a session ends with when nobody names a better one.
    fn from(why: DisconnectReason) -> Self {
        use DisconnectReason as Why;
        let code = match why {
            Why::ClientInitiated | Why::ConnectionLost => Code::ConnectionLost,
            Why::KeepAliveTimeout => Code::KeepAliveTimeout,
            Why::SessionTakenOver => Code::SessionTakenOver,
            Why::ProtocolError => Code::PacketOutOfPlace,
            Why::TopicRefused => Code::TopicNotIts,
            Why::Throttled => Code::ReaderTooSlow,
            Why::CertificateRevoked => Code::CertificateRevoked,
            Why::CertificateExpired => Code::CertificateExpired,
            Why::DeviceSuspended => Code::DeviceSuspended,
            Why::DeviceQuarantined => Code::DeviceQuarantined,
            Why::Administrative => Code::Disconnected,
            Why::ServerShutdown => Code::ServerStopping,
        };
        Self { why, code }
    }
}

impl From<(DisconnectReason, Code)> for Farewell {
    fn from((why, code): (DisconnectReason, Code)) -> Self {
        Self { why, code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_administrative_actions_on_the_wire() {
        for why in [
            DisconnectReason::CertificateRevoked,
            DisconnectReason::CertificateExpired,
            DisconnectReason::DeviceSuspended,
            DisconnectReason::DeviceQuarantined,
            DisconnectReason::Administrative,
        ] {
            assert_eq!(Farewell::from(why).mqtt(), 0x98, "{why}");
            assert!(Farewell::from(why).drops_will(), "{why}");
        }
        assert_eq!(
            Farewell::from((DisconnectReason::Administrative, Code::DeviceDecommissioned)).mqtt(),
            0x98
        );
    }

    #[test]
    fn everything_else_has_the_reason_of_its_code() {
        assert_eq!(Farewell::from(DisconnectReason::SessionTakenOver).mqtt(), 0x8E);
        assert_eq!(Farewell::from(DisconnectReason::ServerShutdown).mqtt(), 0x8B);
        assert_eq!(Farewell::from(DisconnectReason::KeepAliveTimeout).mqtt(), 0x8D);
        assert_eq!(Farewell::from((DisconnectReason::Administrative, Code::NotStored)).mqtt(), 0x83);
        assert_eq!(Farewell::from((DisconnectReason::ProtocolError, Code::PacketMalformed)).mqtt(), 0x81);
    }

    #[test]
    fn no_farewell_says_success() {
        for why in DisconnectReason::ALL {
            assert!(Farewell::from(*why).mqtt() >= 0x80, "{why}");
        }
    }
}
