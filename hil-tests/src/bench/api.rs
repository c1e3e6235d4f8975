//! The server's HTTPS, on one connection, with the first operator's token.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::server::{Fleet, Server};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The connection.
pub(super) struct Api {
    stream: TlsStream<TcpStream>,
    token: String,
}

/// An answer, whole.
pub(super) struct Answer {
    head: String,
    pub(super) body: String,
}

impl Answer {
    /// The body of a good one.
    pub(super) fn good(self) -> Result<String> {
        ensure!(self.head.starts_with("HTTP/1.1 200 "), "refused: {} {}", self.head, self.body);
        Ok(self.body)
    }
}

impl Api {
    /// Connects to the server of a fleet, whose data is in `dir`.
    pub(super) async fn connect(server: &Server, fleet: &Fleet, dir: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(fleet.hierarchy.https.certificate().der().to_vec().into())?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(server.https).await?;
        tcp.set_nodelay(true)?;
        let tls = TlsConnector::from(Arc::new(config));
        let stream = tls.connect(ServerName::try_from("localhost")?, tcp).await?;
        let token = std::fs::read_to_string(dir.join("data").join("token"))?;
        Ok(Self { stream, token: token.trim().to_owned() })
    }

    /// One request; its answer is whole when this returns.
    pub(super) async fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Answer> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        timeout(PATIENCE, self.answer()).await.context("the API does not answer")?
    }

    async fn answer(&mut self) -> Result<Answer> {
        let mut octets = Vec::new();
        let head_end = loop {
            if let Some(at) = octets.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            ensure!(self.stream.read_buf(&mut octets).await? > 0, "the API hung up");
        };
        let head = String::from_utf8(octets[..head_end].to_vec())?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.context("an answer without a length")?.trim().parse()?;
        let mut body = octets.split_off(head_end + 4);
        while body.len() < length {
            ensure!(self.stream.read_buf(&mut body).await? > 0, "the API hung up");
        }
        Ok(Answer { head, body: String::from_utf8(body)? })
    }
}
