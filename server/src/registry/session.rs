//! A device's sessions: how each began and why it ended.

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal, { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
        }

        impl $name {
            /// Every one of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its word.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::registry::device::UnknownWord;
            fn from_str(word: &str) -> Result<Self, Self::Err> {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|one| one.as_str() == word)
                    .ok_or_else(|| $crate::registry::device::UnknownWord { what: $what, word: word.to_owned() })
            }
        }
    };
}
pub(crate) use words;

words!(
    /// Why a session ended.
    DisconnectReason, "disconnect reason", {
        /// The device sent DISCONNECT.
        ClientInitiated = "client_initiated",
        /// Nothing was heard for one and a half keep-alive intervals (MQTT 5.0 §3.1.2.10).
        KeepAliveTimeout = "keep_alive_timeout",
        /// The connection broke.
        ConnectionLost = "connection_lost",
        /// A newer session of the same identity took over.
        SessionTakenOver = "session_taken_over",
        /// A packet that is malformed or out of place.
        ProtocolError = "protocol_error",
        /// A topic that is not the device's.
        TopicRefused = "topic_refused",
        /// More messages than the limit.
        Throttled = "throttled",
        /// Its certificate, or the device, was revoked.
        CertificateRevoked = "certificate_revoked",
        /// Its certificate's notAfter has passed.
        CertificateExpired = "certificate_expired",
        /// The device was suspended.
        DeviceSuspended = "device_suspended",
        /// The device was quarantined.
        DeviceQuarantined = "device_quarantined",
        /// An operator disconnected it.
        Administrative = "administrative",
        /// The server stopped, or was found to have stopped.
        ServerShutdown = "server_shutdown",
    }
);

/// Names one session within this registry; larger is later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_are_distinct() {
        assert_eq!(DisconnectReason::ALL.len(), 13);
        for reason in DisconnectReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
        }
        assert!("gone".parse::<DisconnectReason>().is_err());
    }
}
