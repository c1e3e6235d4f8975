//! The factory port: frames in, frames out.

use core::fmt;

use embedded_io_async::{Read, Write};
use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use muster_shared::{
    factory::{Hello, Stage},
    frame::{self, Decoder, FrameError},
};
use rand_chacha::ChaCha20Rng;

use super::Log;
use crate::{
    credentials,
    enrol::{self, ANSWER_MAX, Device},
    platform::Clock,
    store::Store,
};

/// COBS, checksum and two delimiters around an answer.
const ENCODED_MAX: usize = ANSWER_MAX + 4 + (ANSWER_MAX + 4) / 254 + 1 + 2;
/// A port that fails is asked again after this.
const PORT_RETRY_MS: u64 = 1000;

/// Room for one frame each way.
pub(super) struct Room {
    decoder: Decoder,
    answer: [u8; ANSWER_MAX],
    scratch: [u8; ANSWER_MAX + 4],
    encoded: [u8; ENCODED_MAX],
}

impl Room {
    pub(super) const fn new() -> Self {
        Self {
            decoder: Decoder::new(),
            answer: [0; ANSWER_MAX],
            scratch: [0; ANSWER_MAX + 4],
            encoded: [0; ENCODED_MAX],
        }
    }
}

pub(super) struct Port<'a, S, C> {
    serial: S,
    clock: &'a C,
    room: &'a mut Room,
    chunk: [u8; 64],
    /// Of the chunk: handled, and arrived.
    at: (usize, usize),
}

impl<'a, S: Read + Write, C: Clock> Port<'a, S, C> {
    pub(super) fn new(serial: S, clock: &'a C, room: &'a mut Room) -> Self {
        Self { serial, clock, room, chunk: [0; 64], at: (0, 0) }
    }

    /// Answers a station until the device is locked.
    pub(super) async fn enrol<F: MultiwriteNorFlash, L: fmt::Write>(
        &mut self,
        store: &mut Store<'_, F>,
        mut rng: Option<&mut ChaCha20Rng>,
        device: &Device<'_>,
        log: &mut Log<L>,
    ) {
        let mut stage = credentials::stage(store).await.ok();
        while stage != Some(Stage::Locked) {
            let octet = self.octet().await;
            let used = match self.room.decoder.push(octet) {
                None => continue,
                Some(Err(error)) => {
                    report(log, error);
                    continue;
                }
                Some(Ok(payload)) => {
                    enrol::answer(store, rng.as_deref_mut(), device, payload, &mut self.room.answer)
                        .await
                        .len()
                }
            };
            // The stage is in flash before the answer that claims it leaves.
            let now = credentials::stage(store).await.ok();
            if now != stage {
                stage = now;
                match stage {
                    Some(Stage::KeyMade) => {
                        log.line(format_args!("muster factory key made | waiting for the certificate"))
                    }
                    Some(Stage::Installed) => {
                        log.line(format_args!("muster factory certificate stored | waiting for the lock"));
                    }
                    Some(Stage::Locked) => {
                        log.line(format_args!("muster factory locked | the port answers hello only"))
                    }
                    Some(Stage::Blank) | None => {}
                }
            }
            self.send(used).await;
        }
    }

    /// Answers hello, and refuses everything else.
    pub(super) async fn serve_locked(&mut self, hello: &Hello) -> ! {
        loop {
            let octet = self.octet().await;
            if let Some(Ok(payload)) = self.room.decoder.push(octet) {
                let used = enrol::answer_locked(hello, payload, &mut self.room.answer).len();
                self.send(used).await;
            }
        }
    }

    async fn octet(&mut self) -> u8 {
        while self.at.0 == self.at.1 {
            self.at = match self.serial.read(&mut self.chunk).await {
                Ok(n) if n > 0 => (0, n),
                // The other end is gone; another may come.
                _ => {
                    self.clock.wait_until(self.clock.now_ms() + PORT_RETRY_MS).await;
                    (0, 0)
                }
            };
        }
        let octet = self.chunk[self.at.0];
        self.at.0 += 1;
        octet
    }

    async fn send(&mut self, used: usize) {
        let Room { answer, scratch, encoded, .. } = &mut *self.room;
        let framed =
            frame::encode(&answer[..used], scratch, encoded).expect("the room holds the largest answer");
        // An answer that is lost is asked for again.
        let _ = self.serial.write_all(&encoded[..framed]).await;
        let _ = self.serial.flush().await;
    }
}

fn report<L: fmt::Write>(log: &mut Log<L>, error: FrameError) {
    let why = match error {
        FrameError::Oversized => "too long",
        FrameError::Checksum { .. } => "checksum differs",
        FrameError::Malformed | FrameError::NoRoom(_) => "malformed",
    };
    log.line(format_args!("muster factory frame dropped | {why}"));
}
