//! The factory port: a cable that can be plugged, pulled and plugged again.
//!
//! Like a board's UART, the device's end never ends and never fails: without a cable it hears nothing, and
//! what it says is lost.

use std::{convert::Infallible, future::pending};

use embedded_io_async::{ErrorType, Read, Write};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
};

/// Octets on their way in a cable before the writer waits: more than a frame.
const CABLE: usize = 8192;

/// The socket on the board's edge that cables go into.
#[derive(Clone)]
pub struct Socket(mpsc::UnboundedSender<DuplexStream>);

/// The device's end.
pub struct Serial {
    sockets: mpsc::UnboundedReceiver<DuplexStream>,
    cable: Option<DuplexStream>,
}

pub(crate) fn port() -> (Socket, Serial) {
    let (plug, sockets) = mpsc::unbounded_channel();
    (Socket(plug), Serial { sockets, cable: None })
}

impl Socket {
    /// Plugs a cable in, in place of one that was there; gives its other end.
    #[must_use]
    pub fn plug(&self) -> DuplexStream {
        let (station, device) = tokio::io::duplex(CABLE);
        // Without a device, the station finds its end closed.
        let _ = self.0.send(device);
        station
    }
}

impl ErrorType for Serial {
    type Error = Infallible;
}

impl Read for Serial {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let Some(cable) = &mut self.cable else {
                match self.sockets.recv().await {
                    Some(cable) => self.cable = Some(cable),
                    None => pending().await,
                }
                continue;
            };
            tokio::select! {
                Some(cable) = self.sockets.recv() => self.cable = Some(cable),
                octets = cable.read(buffer) => match octets {
                    Ok(octets @ 1..) => return Ok(octets),
                    _ => self.cable = None,
                },
            }
        }
    }
}

impl Write for Serial {
    async fn write(&mut self, octets: &[u8]) -> Result<usize, Infallible> {
        while let Ok(cable) = self.sockets.try_recv() {
            self.cable = Some(cable);
        }
        let Some(cable) = &mut self.cable else { return Ok(octets.len()) };
        match cable.write(octets).await {
            Ok(sent @ 1..) => Ok(sent),
            _ => {
                self.cable = None;
                Ok(octets.len())
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn octets_pass_both_ways_and_a_new_cable_replaces_the_old() {
        let (socket, mut serial) = port();
        let mut buffer = [0; 16];
        let mut first = socket.plug();
        first.write_all(b"hello").await.unwrap();
        let read = serial.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..read], b"hello");
        let mut second = socket.plug();
        serial.write_all(b"answer").await.unwrap();
        second.read_exact(&mut buffer[..6]).await.unwrap();
        assert_eq!(&buffer[..6], b"answer");
        assert_eq!(first.read(&mut buffer).await.unwrap(), 0, "the first cable is out");
    }

    #[tokio::test]
    async fn without_a_cable_it_hears_nothing_and_never_fails() {
        let (socket, mut serial) = port();
        let mut buffer = [0; 16];
        serial.write_all(b"to nobody").await.unwrap();
        drop(socket.plug());
        assert!(timeout(Duration::from_millis(50), serial.read(&mut buffer)).await.is_err());
        let mut station = socket.plug();
        station.write_all(b"again").await.unwrap();
        let read = serial.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..read], b"again");
    }
}
