//! The HTTPS listener: accepts, bounds, and ends without cutting an answer.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, http::Request};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use muster_pki::{CaCertificate, ServiceIdentity};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    server::{ResolvesServerCert, WebPkiClientVerifier},
};
use rustls_pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::auth::{OperatorCertificate, Peer};

mod stall;

use stall::Stall;

/// Longest a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Longest from a connection's readiness to a whole request head; also how long one may idle.
const HEAD: Duration = Duration::from_secs(30);
/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to answer.
const PING: Duration = Duration::from_secs(20);
/// Largest HTTP/1 head, octets: a token, a cursor and a browser's own headers fit four times over.
const HEAD_MAX: usize = 32 * 1024;
/// How long a client may take nothing of what it is sent.
const STALL: Duration = Duration::from_secs(45);
/// Streams of one HTTP/2 connection at once.
const STREAMS_MAX: u32 = 64;
/// Pause of the accept loop when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listener at work.
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Listens on `listen` and serves `router`.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(
        listen: SocketAddr,
        tls: Arc<ServerConfig>,
        router: Router,
        connections_max: usize,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept(listener, TlsAcceptor::from(tls), router, connections_max, stopped));
        Ok(Self { address, stop, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, lets answers under way finish, and returns when they have or `deadline` is over.
    pub async fn stop(self, deadline: Duration) {
        let _ = self.stop.send(true);
        let abort = self.task.abort_handle();
        if timeout(deadline, self.task).await.is_err() {
            abort.abort();
        }
    }
}

/// TLS 1.3, no resumption, HTTP/2 and HTTP/1.1 by ALPN. A client may show a certificate of an operator CA;
/// any other ends the handshake.
///
/// # Errors
/// When the library refuses its own defaults, or an operator CA.
pub fn tls(
    certificate: Arc<dyn ResolvesServerCert>,
    operators: &[&CaCertificate],
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for ca in operators {
        roots.add(CertificateDer::from(ca.der()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Resolves when the listener is told to stop, or is gone.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    router: Router,
    connections_max: usize,
    mut stopped: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            () = told(&mut stopped) => break,
            permit = permits.clone().acquire_owned() => permit,
        };
        let stream = tokio::select! {
            () = told(&mut stopped) => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match stream {
            Ok((stream, peer)) => {
                let (tls, router, stopped) = (tls.clone(), router.clone(), stopped.clone());
                connections.spawn(async move {
                    connection(stream, peer, tls, router, stopped).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "HTTPS accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: TlsAcceptor,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    // Without it a small answer waits for the peer's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let stream = tokio::select! {
        () = told(&mut stopped) => return,
        stream = timeout(HANDSHAKE, tls.accept(stream)) => stream,
    };
    let stream = match stream {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "HTTPS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "HTTPS handshake took too long"),
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEAD_MAX).unwrap_or(u32::MAX));
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let client = Peer { address: peer, certificate: certificate.and_then(|leaf| operator(leaf)) };
    let service = router.map_request(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(client.clone());
        request
    });
    let stream = TokioIo::new(Stall::new(stream, STALL));
    let serving = builder.serve_connection(stream, TowerToHyperService::new(service));
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = told(&mut stopped) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error = %error, "HTTPS connection failed");
    }
}

/// Whom a certificate names that the handshake has verified up to the operator CA. One of another form than
/// the profile's names nobody.
fn operator(leaf: &CertificateDer<'_>) -> Option<OperatorCertificate> {
    // Operators' certificates have the form of services'; the authority alone tells them apart.
    let identity = ServiceIdentity::from_certificate(leaf).ok()?;
    Some(OperatorCertificate {
        name: identity.name.to_string(),
        id: identity.id,
        not_after_s: identity.not_after_s,
    })
}
