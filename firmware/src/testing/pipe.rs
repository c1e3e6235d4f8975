//! Octets from one end to the other, in memory.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
};

use embedded_io_async::{ErrorKind, ErrorType, Read, Write};

use super::lock;

/// One end of a pair. Clones are the same end; dropping the last clone of an end closes it.
#[derive(Clone)]
pub struct Pipe {
    read: Arc<Mutex<Way>>,
    write: Arc<Mutex<Way>>,
    /// Counts the clones of this end.
    alive: Arc<()>,
}

#[derive(Default)]
struct Way {
    octets: VecDeque<u8>,
    closed: bool,
    waiting: Option<Waker>,
}

impl Way {
    fn wake(&mut self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

/// The other end is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other end is gone")]
pub struct PipeError;

impl embedded_io_async::Error for PipeError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::BrokenPipe
    }
}

impl Pipe {
    /// Two ends.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let (there, back) = (Arc::<Mutex<Way>>::default(), Arc::<Mutex<Way>>::default());
        let end = |read: &Arc<Mutex<Way>>, write: &Arc<Mutex<Way>>| Self {
            read: Arc::clone(read),
            write: Arc::clone(write),
            alive: Arc::new(()),
        };
        (end(&there, &back), end(&back, &there))
    }

    /// Closes this end: the other reads to the end and finds it there.
    pub fn close(&self) {
        for way in [&self.read, &self.write] {
            let mut way = lock(way);
            way.closed = true;
            way.wake();
        }
    }

    /// What has arrived here and was not read yet; takes it.
    #[must_use]
    pub fn drain(&self) -> Vec<u8> {
        lock(&self.read).octets.drain(..).collect()
    }

    /// Whether the other end is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        lock(&self.read).closed
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if Arc::strong_count(&self.alive) == 1 {
            self.close();
        }
    }
}

impl ErrorType for Pipe {
    type Error = PipeError;
}

impl Read for Pipe {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, PipeError> {
        poll_fn(|cx| {
            let mut way = lock(&self.read);
            if way.octets.is_empty() && !way.closed && !out.is_empty() {
                way.waiting = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let n = out.len().min(way.octets.len());
            for (place, octet) in out.iter_mut().zip(way.octets.drain(..n)) {
                *place = octet;
            }
            Poll::Ready(Ok(n))
        })
        .await
    }
}

impl Write for Pipe {
    async fn write(&mut self, octets: &[u8]) -> Result<usize, PipeError> {
        let mut way = lock(&self.write);
        if way.closed {
            return Err(PipeError);
        }
        way.octets.extend(octets);
        way.wake();
        Ok(octets.len())
    }

    async fn flush(&mut self) -> Result<(), PipeError> {
        Ok(())
    }
}
