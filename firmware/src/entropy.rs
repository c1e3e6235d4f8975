//! Randomness: one stored seed a start, a counter committed before it is used, a hardware generator mixed
//! in where there is one.
//!
//! ```text
//! unit 0, unit 1    one muster_shared::vendor::SeedRecord each; the higher counter counts
//! start             base = HMAC(seed, "muster entropy v1" ‖ counter + 1 ‖ hardware octets)
//!                   next = HMAC(base, "seed")     goes to the other unit, is read back, and only then
//!                   key  = HMAC(base, "stream")   starts ChaCha20; the old record is erased before that
//! ```
//!
//! No stream is ever given out twice: a start that cannot commit its counter gets none, and a seed that
//! was used is gone from flash before its stream is used. What was drawn cannot be computed from what the
//! flash holds afterwards. When anything fails the device makes no key and runs no TLS
//! ([`Entropy::Failed`]).

use embedded_storage_async::nor_flash::NorFlash;
use hmac::{Hmac, Mac};
use muster_shared::{
    factory::Entropy,
    vendor::{SEED_LEN, SeedRecord},
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::platform::{Layout, Trng};

/// Why there is no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntropyError {
    /// No seed was ever written, and there is no hardware generator.
    #[error("no seed")]
    NoSeed,
    /// The counter could not be committed, or read back otherwise than written.
    #[error("counter cannot be committed")]
    Counter,
    /// The hardware generator failed its own test.
    #[error("hardware generator failed")]
    Hardware,
}

/// A record padded to whole words of any flash.
const PADDED: usize = SEED_LEN.next_multiple_of(64);

/// Commits the next counter and seed, and gives this start's generator.
///
/// # Errors
/// [`EntropyError`]: there is none for this start.
pub async fn start<F: NorFlash, T: Trng>(
    flash: &mut F,
    trng: Option<&mut T>,
) -> Result<(ChaCha20Rng, Entropy), EntropyError> {
    let first = read(flash, unit(0)).await?;
    let second = read(flash, unit(1)).await?;
    let (current, at) = match (first, second) {
        (Some(a), Some(b)) if b.counter > a.counter => (Some(b), 1),
        (Some(a), _) => (Some(a), 0),
        (None, Some(b)) => (Some(b), 1),
        (None, None) => (None, 1),
    };

    let mut hardware = Zeroizing::new([0; 32]);
    let source = match trng {
        Some(trng) => {
            trng.fill(&mut *hardware).map_err(|_| EntropyError::Hardware)?;
            // A generator that is stuck gives zeros.
            if *hardware == [0; 32] {
                return Err(EntropyError::Hardware);
            }
            Entropy::Hardware
        }
        None => Entropy::Seed,
    };
    let mut old = match (current, source) {
        (Some(record), _) => record,
        (None, Entropy::Hardware) => SeedRecord { counter: 0, seed: *hardware },
        (None, _) => return Err(EntropyError::NoSeed),
    };

    let counter = old.counter.checked_add(1).ok_or(EntropyError::Counter)?;
    let base = Zeroizing::new(derive(&old.seed, &[b"muster entropy v1", &counter.to_le_bytes(), &*hardware]));
    old.seed.zeroize();
    let mut next = SeedRecord { counter, seed: derive(&base, &[b"seed"]) };
    let committed = commit(flash, unit(1 - at), &next).await;
    next.seed.zeroize();
    committed?;
    // The used seed must not come back, should the new record be lost one day.
    flash.erase(unit(at), unit(at) + Layout::ERASE).await.map_err(|_| EntropyError::Counter)?;
    if read(flash, unit(at)).await?.is_some() {
        return Err(EntropyError::Counter);
    }

    let key = Zeroizing::new(derive(&base, &[b"stream"]));
    Ok((ChaCha20Rng::from_seed(*key), source))
}

fn unit(index: u32) -> u32 {
    Layout::ENTROPY.start + index * Layout::ERASE
}

async fn read<F: NorFlash>(flash: &mut F, at: u32) -> Result<Option<SeedRecord>, EntropyError> {
    let mut octets = Zeroizing::new([0; PADDED]);
    flash.read(at, &mut *octets).await.map_err(|_| EntropyError::Counter)?;
    Ok(octets.first_chunk().and_then(SeedRecord::from_bytes))
}

async fn commit<F: NorFlash>(flash: &mut F, at: u32, record: &SeedRecord) -> Result<(), EntropyError> {
    flash.erase(at, at + Layout::ERASE).await.map_err(|_| EntropyError::Counter)?;
    let mut octets = Zeroizing::new([0xff; PADDED]);
    octets[..SEED_LEN].copy_from_slice(&record.to_bytes());
    flash.write(at, &*octets).await.map_err(|_| EntropyError::Counter)?;
    match read(flash, at).await? {
        Some(back) if back == *record => Ok(()),
        _ => Err(EntropyError::Counter),
    }
}

fn derive(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use rand_core::RngCore;

    use super::*;
    use crate::testing::{Flash, TestTrng, block_on};

    fn start_on(flash: &mut Flash) -> Result<[u8; 32], EntropyError> {
        block_on(start::<_, TestTrng>(flash, None)).map(|(mut rng, source)| {
            assert_eq!(source, Entropy::Seed);
            let mut out = [0; 32];
            rng.fill_bytes(&mut out);
            out
        })
    }

    fn counters(flash: &mut Flash) -> [Option<u64>; 2] {
        [0, 1].map(|n| block_on(read(flash, unit(n))).unwrap().map(|record| record.counter))
    }

    #[test]
    fn every_start_has_its_own_stream_and_leaves_one_record() {
        let mut flash = Flash::flashed();
        let mut seen = std::collections::HashSet::new();
        for n in 1..20 {
            assert!(seen.insert(start_on(&mut flash).unwrap()), "a stream came twice");
            let mut held = counters(&mut flash);
            held.sort();
            assert_eq!(held, [None, Some(n)]);
        }
    }

    #[test]
    fn without_a_seed_or_with_a_damaged_one_there_is_no_randomness() {
        assert_eq!(start_on(&mut Flash::blank()), Err(EntropyError::NoSeed));
        let mut flash = Flash::flashed();
        flash.damage(Layout::ENTROPY.start + 20);
        assert_eq!(start_on(&mut flash), Err(EntropyError::NoSeed));
    }

    #[test]
    fn without_a_committed_counter_there_is_no_randomness() {
        let mut flash = Flash::flashed();
        flash.write_protect(Layout::ENTROPY);
        assert_eq!(start_on(&mut flash), Err(EntropyError::Counter));
        // Silently lost writes are found by reading back.
        let mut flash = Flash::flashed();
        flash.ignore_writes(Layout::ENTROPY);
        assert_eq!(start_on(&mut flash), Err(EntropyError::Counter));
    }

    #[test]
    fn the_last_counter_is_the_end() {
        let mut flash = Flash::blank();
        flash.program(Layout::ENTROPY.start, &SeedRecord { counter: u64::MAX, seed: [7; 32] }.to_bytes());
        assert_eq!(start_on(&mut flash), Err(EntropyError::Counter));
    }

    #[test]
    fn hardware_is_mixed_in_and_its_failure_is_final() {
        let run = |trng: &mut TestTrng| block_on(start(&mut Flash::flashed(), Some(trng)));
        let draw = |trng: &mut TestTrng| {
            let (mut rng, source) = run(trng).unwrap();
            assert_eq!(source, Entropy::Hardware);
            rng.next_u64()
        };
        assert_ne!(draw(&mut TestTrng::Counting(1)), draw(&mut TestTrng::Counting(2)));
        assert_eq!(run(&mut TestTrng::Failing).err(), Some(EntropyError::Hardware));
        assert_eq!(run(&mut TestTrng::Stuck).err(), Some(EntropyError::Hardware));
        // A board with a generator needs no flasher's seed.
        assert!(block_on(start(&mut Flash::blank(), Some(&mut TestTrng::Counting(3)))).is_ok());
    }

    #[test]
    fn a_power_cut_at_any_operation_never_repeats_a_stream() {
        let mut seen = std::collections::HashSet::new();
        for torn in Flash::TORN {
            for cut in 0.. {
                let mut flash = Flash::flashed();
                seen.clear();
                seen.insert(start_on(&mut flash).unwrap());
                flash.cut_after(cut, torn);
                if let Ok(stream) = start_on(&mut flash) {
                    assert!(seen.insert(stream));
                }
                let cut_happened = flash.power_on();
                for _ in 0..3 {
                    let stream = start_on(&mut flash).expect("a cut leaves a record to go on from");
                    assert!(seen.insert(stream), "stream repeated after a cut at operation {cut}");
                }
                if !cut_happened {
                    break;
                }
            }
        }
    }
}
