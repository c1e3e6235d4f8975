//! Between socket and TLS library: which records may come, and one socket for both directions.
//!
//! The library decides by what arrives; the guard decides first what may arrive (RFC 8446 §5):
//!
//! | phase | record types let in | length |
//! |---|---|---|
//! | hello | handshake, alert | 1 to 4096 |
//! | handshake | encrypted; one change_cipher_spec | 17 to 4352 |
//! | application | encrypted | 17 to 4352 |
//!
//! So a handshake message in the clear after ServerHello, a forged plaintext alert or end of stream, and
//! an encrypted record too short to hold its own type never reach it.
//!
//! The version field of an encrypted record is always 0x0303 and means nothing. The guard checks it and
//! writes the phase in its place ([`PHASE_HANDSHAKE`], [`PHASE_APPLICATION`]), where the cipher of
//! [`super::suite`] finds it again: that is how the cipher, which is made anew for every record, knows
//! whether a handshake message may still come.

use core::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll, ready},
};

use embedded_io::{Error as _, ErrorKind, ErrorType};
use embedded_io_async::{Read, Write};
use muster_shared::limits::TLS_FRAGMENT_MAX;

/// Second version octet of a record while the handshake runs: as it stands on the wire.
pub(super) const PHASE_HANDSHAKE: u8 = 0x03;
/// Second version octet of a record after it.
pub(super) const PHASE_APPLICATION: u8 = 0xa7;

pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

const HEADER: usize = 5;
/// An AES-GCM tag and the inner type (RFC 8446 §5.2).
const ENCRYPTED_MIN: usize = 17;
/// A full fragment with the overhead RFC 8446 §5.2 allows.
const ENCRYPTED_MAX: usize = TLS_FRAGMENT_MAX + 256;

/// A socket with the record guard in front of it, shared by the two directions of a connection.
pub struct Wire<S>(RefCell<Guarded<S>>);

struct Guarded<S> {
    socket: S,
    guard: Guard,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Hello,
    Handshake { compatible: bool },
    Application,
}

/// Where in a record the stream stands.
enum Guard {
    /// This many octets of the header are here.
    Header([u8; HEADER], usize),
    /// The header has been judged; this many of its octets have been passed on.
    Passing([u8; HEADER], usize),
    /// This many octets of the body are still to come.
    Body(usize),
}

/// Why the wire gives nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The socket's own error.
    #[error("socket: {0:?}")]
    Socket(ErrorKind),
    /// A record that may not come here.
    #[error("record out of place")]
    Record,
}

impl embedded_io::Error for WireError {
    fn kind(&self) -> ErrorKind {
        match self {
            WireError::Socket(kind) => *kind,
            WireError::Record => ErrorKind::InvalidData,
        }
    }
}

impl<S> Wire<S> {
    /// Takes a fresh socket. Its `read` and `write` must be cancel-safe: one dropped while it waits has
    /// moved no octet.
    pub fn new(socket: S) -> Self {
        let guard = Guard::Header([0; HEADER], 0);
        Self(RefCell::new(Guarded { socket, guard, phase: Phase::Hello }))
    }

    /// From now on only application records.
    pub(super) fn opened(&self) {
        self.0.borrow_mut().phase = Phase::Application;
    }
}

/// One direction's handle.
pub(super) struct Port<'a, S>(pub(super) &'a Wire<S>);

impl<S> Clone for Port<'_, S> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<S> ErrorType for Port<'_, S> {
    type Error = WireError;
}

/// Polls a cancel-safe operation once; the borrow it needs ends with the poll.
fn once<F: Future>(cx: &mut Context<'_>, operation: F) -> Poll<F::Output> {
    pin!(operation).poll(cx)
}

impl<S: Read> Read for Port<'_, S> {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, WireError> {
        if out.is_empty() {
            return Ok(0);
        }
        poll_fn(|cx| {
            let Guarded { socket, guard, phase } = &mut *self.0.0.borrow_mut();
            loop {
                match guard {
                    Guard::Header(header, have) => {
                        let read = ready!(once(cx, socket.read(&mut header[*have..])));
                        match read.map_err(|e| WireError::Socket(e.kind()))? {
                            0 => return Poll::Ready(Ok(0)),
                            n => *have += n,
                        }
                        if *have == HEADER {
                            judge(header, phase)?;
                            *guard = Guard::Passing(*header, 0);
                        }
                    }
                    Guard::Passing(header, given) => {
                        let n = out.len().min(HEADER - *given);
                        out[..n].copy_from_slice(&header[*given..*given + n]);
                        *given += n;
                        if *given == HEADER {
                            *guard = Guard::Body(length(header));
                        }
                        return Poll::Ready(Ok(n));
                    }
                    Guard::Body(0) => *guard = Guard::Header([0; HEADER], 0),
                    Guard::Body(left) => {
                        let room = out.len().min(*left);
                        let read = ready!(once(cx, socket.read(&mut out[..room])));
                        let n = read.map_err(|e| WireError::Socket(e.kind()))?;
                        *left -= n;
                        return Poll::Ready(Ok(n));
                    }
                }
            }
        })
        .await
    }
}

fn length(header: &[u8; HEADER]) -> usize {
    usize::from(u16::from_be_bytes([header[3], header[4]]))
}

/// Whether this record may come now. Marks it with the phase, and steps the phase where it ends one.
fn judge(header: &mut [u8; HEADER], phase: &mut Phase) -> Result<(), WireError> {
    let encrypted = (ENCRYPTED_MIN..=ENCRYPTED_MAX).contains(&length(header));
    let plain = (1..=TLS_FRAGMENT_MAX).contains(&length(header));
    if header[1..3] != [0x03, 0x03] {
        return Err(WireError::Record);
    }
    match (*phase, header[0]) {
        (Phase::Hello, HANDSHAKE) if plain => *phase = Phase::Handshake { compatible: false },
        (Phase::Hello, ALERT) if length(header) == 2 => {}
        (Phase::Handshake { .. }, APPLICATION_DATA) if encrypted => header[2] = PHASE_HANDSHAKE,
        // Middlebox compatibility (RFC 8446 appendix D.4): one, of one octet.
        (Phase::Handshake { compatible: false }, CHANGE_CIPHER_SPEC) if length(header) == 1 => {
            *phase = Phase::Handshake { compatible: true };
        }
        (Phase::Application, APPLICATION_DATA) if encrypted => header[2] = PHASE_APPLICATION,
        _ => return Err(WireError::Record),
    }
    Ok(())
}

impl<S: Write> Write for Port<'_, S> {
    async fn write(&mut self, octets: &[u8]) -> Result<usize, WireError> {
        poll_fn(|cx| {
            let Guarded { socket, phase, .. } = &mut *self.0.0.borrow_mut();
            // The library labels its plaintext alert as change_cipher_spec; a server can make sense of
            // the refusal only under its right name (RFC 8446 §6).
            let written = match *octets {
                [CHANGE_CIPHER_SPEC, _, _, 0, 2, level, description] if *phase != Phase::Application => {
                    once(cx, socket.write(&[ALERT, 0x03, 0x03, 0, 2, level, description]))
                }
                _ => once(cx, socket.write(octets)),
            };
            written.map_err(|e| WireError::Socket(e.kind()))
        })
        .await
    }

    async fn flush(&mut self) -> Result<(), WireError> {
        poll_fn(|cx| {
            let Guarded { socket, .. } = &mut *self.0.0.borrow_mut();
            once(cx, socket.flush()).map_err(|e| WireError::Socket(e.kind()))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pipe, block_on};

    /// Reads these octets through a guard in this phase, in small pieces, to their end or its verdict.
    fn through(phase: Phase, octets: &[u8]) -> (Vec<u8>, Result<(), WireError>) {
        let (here, mut there) = Pipe::pair();
        let wire = Wire::new(here);
        wire.0.borrow_mut().phase = phase;
        block_on(async {
            there.write_all(octets).await.unwrap();
            drop(there);
            let (mut came, mut room) = (Vec::new(), [0; 3]);
            loop {
                match Port(&wire).read(&mut room).await {
                    Ok(0) => return (came, Ok(())),
                    Ok(n) => came.extend_from_slice(&room[..n]),
                    Err(e) => return (came, Err(e)),
                }
            }
        })
    }

    fn record(kind: u8, len: usize) -> Vec<u8> {
        let [high, low] = u16::try_from(len).unwrap().to_be_bytes();
        let mut record = vec![kind, 3, 3, high, low];
        record.resize(5 + len, 0xee);
        record
    }

    const RUNNING: Phase = Phase::Handshake { compatible: false };

    #[test]
    fn each_phase_lets_in_its_records_and_marks_them() {
        for (phase, kind, len, mark) in [
            (Phase::Hello, HANDSHAKE, 90, 3),
            (Phase::Hello, ALERT, 2, 3),
            (RUNNING, APPLICATION_DATA, 17, PHASE_HANDSHAKE),
            (RUNNING, APPLICATION_DATA, ENCRYPTED_MAX, PHASE_HANDSHAKE),
            (RUNNING, CHANGE_CIPHER_SPEC, 1, 3),
            (Phase::Application, APPLICATION_DATA, 500, PHASE_APPLICATION),
        ] {
            let mut expected = record(kind, len);
            expected[2] = mark;
            assert_eq!(through(phase, &record(kind, len)), (expected, Ok(())));
        }
    }

    #[test]
    fn nothing_else_passes() {
        for (phase, kind, len) in [
            (Phase::Hello, APPLICATION_DATA, 50),
            (Phase::Hello, CHANGE_CIPHER_SPEC, 1),
            (Phase::Hello, HANDSHAKE, 0),
            (Phase::Hello, HANDSHAKE, TLS_FRAGMENT_MAX + 1),
            (Phase::Hello, ALERT, 3),
            (Phase::Hello, 0, 4),
            (RUNNING, HANDSHAKE, 50),
            (RUNNING, ALERT, 2),
            (RUNNING, APPLICATION_DATA, 16),
            (RUNNING, APPLICATION_DATA, ENCRYPTED_MAX + 1),
            (Phase::Handshake { compatible: true }, CHANGE_CIPHER_SPEC, 1),
            (Phase::Application, HANDSHAKE, 50),
            (Phase::Application, ALERT, 2),
            (Phase::Application, CHANGE_CIPHER_SPEC, 1),
            (Phase::Application, APPLICATION_DATA, 0),
        ] {
            let (came, verdict) = through(phase, &record(kind, len));
            assert_eq!((came.len(), verdict), (0, Err(WireError::Record)), "type {kind}, {len} octets");
        }
        let mut version = record(APPLICATION_DATA, 50);
        version[2] = PHASE_APPLICATION;
        assert_eq!(through(RUNNING, &version).1, Err(WireError::Record), "a mark that is not ours");
    }

    #[test]
    fn the_handshake_phase_begins_with_the_first_message() {
        let two = [record(HANDSHAKE, 90), record(HANDSHAKE, 90)].concat();
        let (came, verdict) = through(Phase::Hello, &two);
        assert_eq!((came.len(), verdict), (95, Err(WireError::Record)));
    }

    #[test]
    fn a_refusal_goes_out_as_an_alert() {
        let (here, there) = Pipe::pair();
        let wire = Wire::new(here);
        block_on(Port(&wire).write(&[CHANGE_CIPHER_SPEC, 3, 1, 0, 2, 2, 48])).unwrap();
        assert_eq!(there.drain(), [ALERT, 3, 3, 0, 2, 2, 48]);
    }
}
