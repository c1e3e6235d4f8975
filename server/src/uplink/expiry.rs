//! What a message's properties say of it: when its time is over, and what its payload is. Pure.

/// Message Expiry Interval (MQTT 5.0 §3.3.2.3.3).
const MESSAGE_EXPIRY: u8 = 0x02;
/// Content Type (MQTT 5.0 §3.3.2.3.9).
const CONTENT_TYPE: u8 = 0x03;

/// When a message's time is over, Unix milliseconds: its expiry interval after it was received. `None` when
/// it says nothing of it. Properties that are not well-formed end where they are not.
pub(super) fn expires_ms(properties: &[u8], received_ms: u64) -> Option<u64> {
    let seconds = u32::from_be_bytes(find(properties, MESSAGE_EXPIRY)?.first_chunk().copied()?);
    Some(received_ms.saturating_add(u64::from(seconds) * 1000))
}

/// What the payload is, in its publisher's words; `None` when it says nothing of it.
pub(super) fn content_type(properties: &[u8]) -> Option<&str> {
    let value = find(properties, CONTENT_TYPE)?;
    let len = u16::from_be_bytes(value.first_chunk().copied()?);
    std::str::from_utf8(value.get(2..2 + usize::from(len))?).ok()
}

/// The octets from the value of the first property of this kind on.
fn find(properties: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = properties;
    loop {
        let (id, value) = rest.split_first()?;
        if *id == wanted {
            return Some(value);
        }
        rest = value.get(length(*id, value)?..)?;
    }
}

/// Octets of a property's value, by its type (MQTT 5.0 §2.2.2.2); of what PUBLISH may carry.
fn length(id: u8, value: &[u8]) -> Option<usize> {
    let text = |at: usize| {
        let len = u16::from_be_bytes(value.get(at..)?.first_chunk().copied()?);
        Some(at + 2 + usize::from(len))
    };
    match id {
        // Payload Format Indicator.
        0x01 => Some(1),
        MESSAGE_EXPIRY => Some(4),
        // Content Type, Response Topic, Correlation Data.
        0x03 | 0x08 | 0x09 => text(0),
        // Subscription Identifier.
        0x0B => Some(value.iter().take(4).position(|octet| octet & 0x80 == 0)? + 1),
        // Topic Alias.
        0x23 => Some(2),
        // User Property.
        0x26 => text(text(0)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_interval_is_found_behind_every_other_property() {
        let others: [&[u8]; 7] = [
            b"",
            b"\x01\x01",
            b"\x03\x00\x02ab",
            b"\x08\x00\x01t\x09\x00\x03\x02\x02\x02",
            b"\x0B\x81\x02",
            b"\x23\x00\x02",
            b"\x26\x00\x01a\x00\x02\x02\x02",
        ];
        for before in others {
            assert_eq!(expires_ms(before, 5), None, "{before:x?}");
            let with = [before, b"\x02\x00\x00\x01\x00", b"\x01\x00"].concat();
            assert_eq!(expires_ms(&with, 5), Some(256_005), "{before:x?}");
        }
    }

    #[test]
    fn the_longest_and_the_shortest_interval() {
        assert_eq!(expires_ms(b"\x02\xff\xff\xff\xff", 0), Some(4_294_967_295_000));
        assert_eq!(expires_ms(b"\x02\xff\xff\xff\xff", u64::MAX), Some(u64::MAX));
        assert_eq!(expires_ms(b"\x02\x00\x00\x00\x00", 7), Some(7));
        assert_eq!(expires_ms(b"\x02\x00\x00\x00", 7), None);
    }

    #[test]
    fn what_the_payload_is_stands_behind_other_properties_too() {
        for before in [&b""[..], b"\x02\x00\x00\x00\x01", b"\x26\x00\x01a\x00\x02\x02\x03\x01\x01"] {
            assert_eq!(content_type(before), None, "{before:x?}");
            let with = [before, b"\x03\x00\x04a/\xc3\xa9\x01\x00"].concat();
            assert_eq!(content_type(&with), Some("a/é"), "{before:x?}");
        }
        assert_eq!(content_type(b"\x03\x00\x05abcd"), None);
        assert_eq!(content_type(b"\x03\x00\x01\xff"), None);
    }

    proptest! {
        #[test]
        fn any_octets_are_read(octets in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = expires_ms(&octets, 1);
            let _ = content_type(&octets);
        }
    }
}
