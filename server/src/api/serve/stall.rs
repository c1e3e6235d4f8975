//! A connection whose peer takes nothing off it ends, however much it has been sent; and one that ends does so
//! without taking back what was sent last.

use std::{
    future::Future as _,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How long the peer may take to close its side.
const LINGER: Duration = Duration::from_secs(2);

/// Ends writes that make no progress for a time.
pub(super) struct Stall<S> {
    inner: S,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    /// This side is closed, and until then the other is waited for.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S> Stall<S> {
    pub(super) fn new(inner: S, limit: Duration) -> Self {
        Self { inner, limit, waiting: None, lingering: None }
    }

    /// What a write came to, unless it has come to nothing for too long.
    fn judge<T>(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.waiting = None;
            return wrote;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        match waiting.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stall<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stall<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.judge(cx, wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.judge(cx, flushed)
    }

    /// Closes this side, then reads until the peer has closed its own: a socket that is closed over what was
    /// not read, such as the rest of a refused request, is reset, and what was sent last is lost with it.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
            ready!(self.judge(cx, shut))?;
        }
        let this = &mut *self;
        let lingering = this.lingering.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut unread = [MaybeUninit::uninit(); 4096];
        while lingering.as_mut().poll(cx).is_pending() {
            let mut unread = ReadBuf::uninit(&mut unread);
            match ready!(Pin::new(&mut this.inner).poll_read(cx, &mut unread)) {
                Ok(()) if !unread.filled().is_empty() => {}
                // Whatever it is, it is over.
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.judge(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        net::{TcpListener, TcpSocket},
        sync::oneshot,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_not_waited_for() {
        let (mut near, far) = duplex(64);
        let mut far = Stall::new(far, Duration::from_secs(30));
        // One that takes a little now and then is.
        let slow = tokio::spawn(async move {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                near.read_exact(&mut [0; 64]).await.unwrap();
            }
            near
        });
        far.write_all(&[7; 5 * 64]).await.unwrap();
        let _near = slow.await.unwrap();
        let ended = far.write_all(&[7; 64]).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }

    /// Less than the one end holds, and more than the other: some of it is still on its way when all is written.
    const ANSWER: usize = 100_000;

    #[tokio::test]
    async fn an_answer_arrives_though_the_request_was_not_read_to_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4096).unwrap();
        let mut client = client.connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        socket2::SockRef::from(&server).set_send_buffer_size(2 * ANSWER).unwrap();
        client.write_all(b"a request that nobody reads").await.unwrap();
        let (wrote, written) = oneshot::channel();
        let answering = tokio::spawn(async move {
            let mut server = Stall::new(server, Duration::from_secs(30));
            server.write_all(&[7; ANSWER]).await.unwrap();
            wrote.send(()).unwrap();
            server.shutdown().await.unwrap();
        });
        written.await.unwrap();
        // Time for it to be closed, were it closed at once.
        sleep(Duration::from_millis(100)).await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer.len(), ANSWER);
        drop(client);
        answering.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_closes_its_side_is_not_waited_for() {
        let (near, far) = duplex(64);
        Stall::new(far, Duration::from_secs(30)).shutdown().await.unwrap();
        drop(near);
    }
}
