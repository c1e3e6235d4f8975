//! tokio-rustls with a chain verifier: what a broker written in the usual way would take to be connected to,
//! before it does anything. It answers CONNECT and nothing else, on a thread of its own whose time is taken.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use muster_pki::hierarchy::Hierarchy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc as asks,
};
use tokio_rustls::TlsAcceptor;

use super::{client, clock::thread_time, tls};

/// CONNACK of MQTT 5: no session, success, no properties.
const CONNACK: [u8; 5] = [0x20, 3, 0, 0, 0];

/// The server, until it is dropped.
pub(super) struct TokioTls {
    pub(super) mqtt: SocketAddr,
    asks: asks::UnboundedSender<mpsc::Sender<Duration>>,
}

impl TokioTls {
    pub(super) fn start(hierarchy: &Hierarchy) -> Result<Self> {
        let config = tls::server_config(hierarchy, "localhost", tls::chain_verifier(hierarchy)?)?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let mqtt = listener.local_addr()?;
        let (asks, asked) = asks::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("tokio-tls".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    error = accept(listener, TlsAcceptor::from(config)) => eprintln!("tokio-rustls: {error:?}"),
                    () = answer(asked) => {}
                }
            });
        })?;
        Ok(Self { mqtt, asks })
    }

    /// Processor time it has used, µs.
    pub(super) fn cpu_us(&self) -> Result<f64> {
        let (tell, told) = mpsc::channel();
        self.asks.send(tell).ok().context("the tokio-rustls server has ended")?;
        Ok(told.recv()?.as_secs_f64() * 1e6)
    }
}

/// Says what the thread has used, until nobody can ask any more.
async fn answer(mut asked: asks::UnboundedReceiver<mpsc::Sender<Duration>>) {
    while let Some(tell) = asked.recv().await {
        // Whoever asked may have gone.
        let _ = tell.send(thread_time());
    }
}

async fn accept(listener: std::net::TcpListener, acceptor: TlsAcceptor) -> Result<std::convert::Infallible> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (tcp, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        // A connection that fails is missed by its client.
        tokio::spawn(async move { serve(acceptor, tcp).await.ok() });
    }
}

async fn serve(acceptor: TlsAcceptor, tcp: TcpStream) -> Result<()> {
    tcp.set_nodelay(true)?;
    let mut session = acceptor.accept(tcp).await?;
    client::read(&mut session).await?;
    session.write_all(&CONNACK).await?;
    session.flush().await?;
    let mut rest = [0; 64];
    while session.read(&mut rest).await? > 0 {}
    session.shutdown().await?;
    Ok(())
}
