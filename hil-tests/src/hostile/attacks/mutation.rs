//! Attacks without number: an honest flight cut anywhere, and flights with octets changed at random.

use super::{Attack, Verdict, honest};
use crate::hostile::flight::Tamper;

/// An honest flight cut after `octets` and closed, for every count below the shortest flight, `step` apart.
#[must_use]
pub fn truncations(step: usize) -> Vec<Attack> {
    // Every honest flight is longer: a ServerHello of 128 octets, a leaf, a signature and a Finished.
    (0..700)
        .step_by(step.max(1))
        .map(|octets| {
            Attack::refused(&format!("cut after {octets} octets"), move |flight, cast| {
                honest(flight, cast);
                let all = flight.take();
                flight.raw(&all[..octets]);
            })
        })
        .collect()
}

/// `count` flights of each kind, from `seed`: octets changed on the path; a stranger's flight with messages
/// changed under protection; the broker's own with messages changed before they are hashed and signed.
#[must_use]
pub fn mutations(seed: u64, count: u64) -> Vec<Attack> {
    (0..count)
        .flat_map(|n| {
            let mut dice = Dice(seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            [on_the_path(n, dice.split()), by_a_stranger(n, dice.split()), by_the_broker(n, dice.split())]
        })
        .collect()
}

fn on_the_path(n: u64, dice: Dice) -> Attack {
    Attack::refused(&format!("mutation {n} on the path"), move |flight, cast| {
        let mut dice = dice;
        honest(flight, cast);
        let mut octets = flight.take();
        // The last record is Finished's; whatever is changed before its end breaks the handshake, but for the
        // legacy version in the one unprotected header, which RFC 8446 §5.1 has everybody ignore.
        for _ in 0..=dice.below(3) {
            let at = match dice.below(octets.len()) {
                1 | 2 => 0,
                at => at,
            };
            octets[at] ^= 1 << dice.below(8);
        }
        flight.raw(&octets);
    })
}

fn by_a_stranger(n: u64, dice: Dice) -> Attack {
    Attack::refused(&format!("mutation {n} by a stranger"), move |flight, cast| {
        flight.tamper = Some(tamper(dice));
        flight.opening();
        flight.certificate(&cast.broker.chain);
        flight.certificate_verify(&cast.stranger.key);
        flight.finished();
    })
}

fn by_the_broker(n: u64, dice: Dice) -> Attack {
    Attack::new(&format!("mutation {n} by the broker"), Verdict::Survived, move |flight, cast| {
        flight.tamper = Some(tamper(dice));
        honest(flight, cast);
    })
}

/// Changes about every third message: an octet flipped, set, cut off, doubled or put in.
fn tamper(mut dice: Dice) -> Tamper {
    Box::new(move |message: &mut Vec<u8>| {
        while dice.below(3) == 0 {
            if message.is_empty() {
                return;
            }
            let at = dice.below(message.len());
            match dice.below(6) {
                0 => message[at] ^= 1 << dice.below(8),
                1 => message[at] = 0xff,
                2 => message[at] = 0,
                3 => message.truncate(at),
                4 => message.extend_from_within(at..),
                _ => message.insert(at, 0x80),
            }
        }
    })
}

/// A small generator (xorshift64*): the same seed gives the same attack.
#[derive(Clone, Copy)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % bound.max(1)
    }

    fn split(&mut self) -> Self {
        Self(self.next() | 1)
    }
}
