//! A factory cable held by hand: frames and raw octets to a board's factory port, with deadlines.
//!
//! The factory tool does what is right. This says anything.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use muster_shared::{
    factory::{Answer, Envelope, Hello, Request},
    frame::{self, Decoder, FrameError},
    limits::{FRAME_MAX, FRAME_PAYLOAD_MAX},
};

/// How long a board may take to answer: it makes keys, and shares the machine with compilers.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum CableError {
    /// The socket, or the board behind it, is gone.
    #[error("the factory port is gone")]
    Gone(#[source] std::io::Error),
    /// Nothing came before the deadline.
    #[error("no answer on the factory port within {0:?}")]
    Silent(Duration),
    /// A frame came that is none.
    #[error("the board sent a damaged frame")]
    Frame(#[from] FrameError),
    /// A frame came that holds no answer.
    #[error("the board sent no answer: {0}")]
    Message(#[from] muster_shared::factory::MessageError),
    /// An answer came to another request.
    #[error("the board answered request {found}, not {wanted}")]
    Other {
        /// Its number.
        found: u16,
        /// The number asked with.
        wanted: u16,
    },
}

/// A cable that is plugged in.
#[derive(Debug)]
pub struct Cable {
    stream: UnixStream,
    decoder: Box<Decoder>,
    received: std::collections::VecDeque<u8>,
    request: u16,
}

impl Cable {
    /// Plugs it in.
    ///
    /// # Errors
    /// [`CableError::Gone`].
    pub fn plug(port: &Path) -> Result<Self, CableError> {
        let stream = UnixStream::connect(port).map_err(CableError::Gone)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(CableError::Gone)?;
        Ok(Self { stream, decoder: Box::default(), received: std::collections::VecDeque::new(), request: 0 })
    }

    /// Sends octets as they are.
    ///
    /// # Errors
    /// [`CableError::Gone`].
    pub fn send_raw(&mut self, octets: &[u8]) -> Result<(), CableError> {
        self.stream.write_all(octets).map_err(CableError::Gone)
    }

    /// Sends a payload in a frame, whatever it holds.
    ///
    /// # Errors
    /// [`CableError::Frame`] when it is too long for one, and [`CableError::Gone`].
    pub fn send(&mut self, payload: &[u8]) -> Result<(), CableError> {
        let framed = frame_of(payload)?;
        self.send_raw(&framed)
    }

    /// Sends a request without waiting for its answer.
    ///
    /// # Errors
    /// [`CableError::Gone`].
    pub fn send_request(&mut self, request: &Request<'_>) -> Result<(), CableError> {
        self.request = self.request.wrapping_add(1);
        let mut room = vec![0; FRAME_PAYLOAD_MAX];
        let payload = Envelope::new(self.request, request).write(&mut room)?.to_vec();
        self.send(&payload)
    }

    /// Asks, and gives the answer to `read`: an answer borrows its frame.
    ///
    /// # Errors
    /// [`CableError`].
    pub fn ask<T>(
        &mut self,
        request: &Request<'_>,
        read: impl FnOnce(&Answer<'_>) -> T,
    ) -> Result<T, CableError> {
        self.send_request(request)?;
        let payload = self.receive(PATIENCE)?;
        let answer = Envelope::<Answer<'_>>::read(&payload)?;
        if answer.request != self.request {
            return Err(CableError::Other { found: answer.request, wanted: self.request });
        }
        Ok(read(&answer.body))
    }

    /// Asks who the board is. Answers that are still on their way from before are passed over.
    ///
    /// # Errors
    /// [`CableError`].
    pub fn hello(&mut self) -> Result<Hello, CableError> {
        self.send_request(&Request::Hello)?;
        let until = Instant::now() + PATIENCE;
        loop {
            let payload = match self.receive(until.saturating_duration_since(Instant::now())) {
                Err(CableError::Frame(_)) => continue,
                other => other?,
            };
            if let Ok(Envelope { request, body: Answer::Hello(hello), .. }) = Envelope::read(&payload)
                && request == self.request
            {
                return Ok(hello);
            }
        }
    }

    /// The payload of the next frame.
    ///
    /// # Errors
    /// [`CableError`].
    pub fn receive(&mut self, within: Duration) -> Result<Vec<u8>, CableError> {
        let until = Instant::now() + within;
        loop {
            while let Some(octet) = self.received.pop_front() {
                if let Some(frame) = self.decoder.push(octet) {
                    return Ok(frame?.to_vec());
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(CableError::Silent(within));
            }
            self.stream.set_read_timeout(Some(left)).map_err(CableError::Gone)?;
            let mut room = [0; 1024];
            match self.stream.read(&mut room) {
                Ok(0) => return Err(CableError::Gone(ErrorKind::UnexpectedEof.into())),
                Ok(octets) => self.received.extend(&room[..octets]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(CableError::Gone(e)),
            }
        }
    }
}

/// A whole frame around a payload.
///
/// # Errors
/// [`FrameError::NoRoom`] when it is longer than a frame may be.
pub fn frame_of(payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let mut scratch = vec![0; FRAME_PAYLOAD_MAX + 4];
    let mut framed = vec![0; FRAME_MAX + 2];
    let used = frame::encode(payload, &mut scratch, &mut framed)?;
    framed.truncate(used);
    Ok(framed)
}
