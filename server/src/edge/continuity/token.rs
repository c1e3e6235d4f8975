//! A token, as text: made and read here and nowhere else.
//!
//! ```text
//! base64url( version 1 ‖ key id 4 ‖ epoch 4 ‖ counter 8 ‖ random 8 ‖ MAC 16 )      no padding: 55 characters
//! ```
//!
//! The MAC is HMAC-SHA-256, cut to half (RFC 2104 §5), over the device's full name and what stands before it:
//! a token is of no use to another device.

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use muster_shared::limits::CONTINUITY_MAX;

use crate::registry::{
    DeviceName,
    continuity::{Issued, Key},
};

const VERSION: u8 = 1;
const MAC: usize = 16;
const TOKEN: usize = 1 + 4 + Issued::OCTETS + MAC;
/// Keeps these MACs apart from any others the key may ever make.
const PURPOSE: &[u8] = b"muster continuity v1\0";

const _: () = assert!((TOKEN * 4).div_ceil(3) <= CONTINUITY_MAX);

/// What somebody shows for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) enum Presented {
    /// No property.
    Nothing,
    /// Made here, for this device.
    Authentic(Issued),
    /// Of another key, or of a later version: nothing can be said of it.
    Foreign,
    /// Not made here for this device.
    Forged,
}

/// The token's text.
pub(super) fn seal(key: &Key, name: &DeviceName, issued: Issued) -> String {
    let mut token = [0; TOKEN];
    token[0] = VERSION;
    token[1..5].copy_from_slice(&key.id);
    token[5..5 + Issued::OCTETS].copy_from_slice(&issued.to_bytes());
    let (said, mac) = token.split_at_mut(TOKEN - MAC);
    mac.copy_from_slice(&sign(key, name, said));
    URL_SAFE_NO_PAD.encode(token)
}

/// What a text is worth, shown by this device.
pub(super) fn open(key: &Key, name: &DeviceName, text: Option<&str>) -> Presented {
    let Some(text) = text else { return Presented::Nothing };
    if text.len() > CONTINUITY_MAX {
        return Presented::Forged;
    }
    let Ok(octets) = URL_SAFE_NO_PAD.decode(text) else { return Presented::Forged };
    let Ok(token) = <[u8; TOKEN]>::try_from(octets) else { return Presented::Forged };
    if token[0] != VERSION || token[1..5] != key.id {
        return Presented::Foreign;
    }
    let (said, mac) = token.split_at(TOKEN - MAC);
    if verify_slices_are_equal(&sign(key, name, said), mac).is_err() {
        return Presented::Forged;
    }
    match said[5..].first_chunk() {
        Some(issued) => Presented::Authentic(Issued::from_bytes(issued)),
        None => Presented::Forged,
    }
}

fn sign(key: &Key, name: &DeviceName, said: &[u8]) -> [u8; MAC] {
    let mut context = hmac::Context::with_key(&key.hmac);
    context.update(PURPOSE);
    for word in [name.tenant.as_str(), name.device_id.as_str()] {
        // An id has 48 octets at most: its length is one.
        context.update(&[word.len() as u8]);
        context.update(word.as_bytes());
    }
    context.update(said);
    let mut mac = [0; MAC];
    mac.copy_from_slice(&context.sign().as_ref()[..MAC]);
    mac
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(device_id: &str) -> DeviceName {
        DeviceName {
            tenant: "acme".parse().unwrap(),
            device_id: device_id.parse().unwrap(),
            serial: "MU-000001".parse().unwrap(),
        }
    }

    fn key() -> Key {
        Key::new(&[7; 32])
    }

    const ISSUED: Issued = Issued { epoch: 3, counter: 1_700_000_000_000, nonce: *b"8 octets" };

    /// Devices keep these: do not change this test.
    #[test]
    fn a_token_of_version_1() {
        let text = seal(&key(), &name("MU-000001"), ISSUED);
        assert_eq!(text, "AcOiv6cAAAADAAABi8_laAA4IG9jdGV0czXP9WaOIxdg_xfi-DxTQzg");
        assert_eq!(open(&key(), &name("MU-000001"), Some(&text)), Presented::Authentic(ISSUED));
    }

    #[test]
    fn a_token_is_its_device_s_and_its_key_s() {
        let text = seal(&key(), &name("MU-000001"), ISSUED);
        assert_eq!(open(&key(), &name("MU-000002"), Some(&text)), Presented::Forged);
        let other = DeviceName { tenant: "acm".parse().unwrap(), ..name("eMU-000001") };
        assert_eq!(open(&key(), &other, Some(&text)), Presented::Forged);
        assert_eq!(open(&Key::new(&[8; 32]), &name("MU-000001"), Some(&text)), Presented::Foreign);
        assert_eq!(open(&key(), &name("MU-000001"), None), Presented::Nothing);
    }

    #[test]
    fn what_does_not_look_like_one_is_forged() {
        let text = seal(&key(), &name("MU-000001"), ISSUED);
        for not in [
            "",
            "A",
            "muster",
            &text[1..],
            &format!("{text}A"),
            &format!("{text}="),
            &format!("{text} "),
            &text.replace('_', "/"),
            &"A".repeat(100_000),
        ] {
            assert_eq!(open(&key(), &name("MU-000001"), Some(not)), Presented::Forged, "{not:.80}");
        }
    }

    proptest! {
        #[test]
        fn tokens_round_trip_and_no_bit_of_one_may_change(
            epoch in any::<u32>(),
            counter in any::<u64>(),
            nonce in any::<[u8; 8]>(),
            bit in 0..TOKEN * 8,
        ) {
            let issued = Issued { epoch, counter, nonce };
            let text = seal(&key(), &name("MU-000001"), issued);
            prop_assert_eq!(open(&key(), &name("MU-000001"), Some(&text)), Presented::Authentic(issued));
            let mut octets = URL_SAFE_NO_PAD.decode(&text).unwrap();
            octets[bit / 8] ^= 1 << (bit % 8);
            let changed = open(&key(), &name("MU-000001"), Some(&URL_SAFE_NO_PAD.encode(octets)));
            let expected = if bit < 5 * 8 { Presented::Foreign } else { Presented::Forged };
            prop_assert_eq!(changed, expected);
        }

        #[test]
        fn text_of_anybody_is_never_authentic(text in ".{0,80}") {
            prop_assert!(!matches!(open(&key(), &name("MU-000001"), Some(&text)), Presented::Authentic(_)));
        }
    }
}
