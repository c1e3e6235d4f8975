//! A client of the HTTPS API: one connection a request, octets as they are.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::Value;

use super::{LIMIT, Server, read};

/// An encrypted connection.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Asks one server with one token.
pub struct Http {
    address: String,
    config: Arc<ClientConfig>,
    pub token: String,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The body as a document; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body without the frames of a transfer in chunks (RFC 9112 §7.1).
    pub fn unchunked(&self) -> Vec<u8> {
        if self.header("transfer-encoding") != Some("chunked") {
            return self.body.clone();
        }
        let (mut out, mut rest) = (Vec::new(), &self.body[..]);
        loop {
            let line = rest.windows(2).position(|two| two == b"\r\n").expect("a chunk's size");
            let size = std::str::from_utf8(&rest[..line]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            rest = &rest[line + 2..];
            if size == 0 {
                return out;
            }
            out.extend_from_slice(&rest[..size]);
            rest = &rest[size + 2..];
        }
    }

    /// It has this status; the document.
    #[track_caller]
    pub fn is(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{} {}", self.head, String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// It is this refusal.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        let problem = self.is(status);
        assert_eq!(problem["code"], code, "{problem}");
        problem
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// A client's settings that trust the server alone.
fn trusting(server: &Server) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    let ca = server.place().data().join("https.pem");
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
}

impl Http {
    /// With the token `muster init` wrote.
    pub fn new(server: &Server) -> Self {
        let config = trusting(server).with_no_client_auth();
        let token = read(server.place().data().join("token")).trim().to_owned();
        Self { address: server.https.clone(), config: Arc::new(config), token }
    }

    /// With the certificate in these files, its key in the other, and no token.
    pub fn showing(server: &Server, certificate: &Path, key: &Path) -> Self {
        let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let config = trusting(server).with_client_auth_cert(chain, key).unwrap();
        Self { address: server.https.clone(), config: Arc::new(config), token: String::new() }
    }

    /// The same server, another token; none when it is empty.
    pub fn with(&self, token: &str) -> Self {
        Self { address: self.address.clone(), config: self.config.clone(), token: token.to_owned() }
    }

    /// The header line that shows the token.
    fn authorization(&self) -> String {
        if self.token.is_empty() {
            String::new()
        } else {
            format!("authorization: Bearer {}\r\n", self.token)
        }
    }

    /// A new connection.
    pub fn connect(&self) -> Stream {
        self.try_connect().unwrap()
    }

    fn try_connect(&self) -> std::io::Result<Stream> {
        let name = "localhost".try_into().unwrap();
        let connection = ClientConnection::new(self.config.clone(), name).unwrap();
        let socket = TcpStream::connect(&self.address)?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(StreamOwned::new(connection, socket))
    }

    /// GET.
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", b"")
    }

    /// POST of a document.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, "", body)
    }

    /// POST of a document with more header lines, each ended.
    pub fn post_with(&self, path: &str, headers: &str, body: &Value) -> Answer {
        self.ask(
            "POST",
            path,
            &format!("content-type: application/json\r\n{headers}"),
            body.to_string().as_bytes(),
        )
    }

    /// One request; `None` when the server ended before it had answered in full.
    pub fn try_ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Option<Answer> {
        let answer = self.exchange(self.try_connect().ok()?, method, path, headers, body)?;
        let length = answer.header("content-length").and_then(|length| length.parse::<usize>().ok());
        length.is_none_or(|length| answer.body.len() == length).then_some(answer)
    }

    /// One request.
    pub fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        self.exchange(self.connect(), method, path, headers, body).expect("an answer")
    }

    fn exchange(
        &self,
        mut stream: Stream,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> Option<Answer> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{}connection: close\r\n\
             {headers}content-length: {}\r\n\r\n",
            self.authorization(),
            body.len()
        );
        // A server that has answered already may have closed its end.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        let _ = stream.flush();
        let mut octets = Vec::new();
        let _ = stream.read_to_end(&mut octets);
        let end = octets.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(octets.len());
        let head = String::from_utf8_lossy(&octets[..end]).into_owned();
        let body = octets.get(end + 4..).unwrap_or_default().to_vec();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Some(Answer { status: status?, head, body })
    }

    /// Opens an event stream.
    pub fn events(&self, path: &str, headers: &str) -> Events {
        let mut stream = self.connect();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\n{}accept: text/event-stream\r\n{headers}\r\n",
            self.authorization()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while lines.read_line(&mut head).unwrap() > 2 {}
        Events { head, lines, last_id: None }
    }
}

/// An event stream that is being read.
pub struct Events {
    pub head: String,
    lines: BufReader<Stream>,
    /// The id of the last block that had one.
    pub last_id: Option<String>,
}

/// One event.
#[derive(Debug, Clone, Default)]
pub struct Event {
    pub kind: String,
    pub id: Option<String>,
    pub data: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

impl Events {
    /// Its status.
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap()
    }

    /// How long a read may take from now on.
    pub fn patience(&self, limit: Duration) {
        self.lines.get_ref().sock.set_read_timeout(Some(limit)).unwrap();
    }

    /// The next event; `None` at the stream's end, or when nothing came within the patience.
    pub fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        loop {
            let mut line = String::new();
            match self.lines.read_line(&mut line) {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
            let line = line.trim_end();
            match line.split_once(':') {
                Some(("event", kind)) => kind.trim().clone_into(&mut event.kind),
                Some(("id", id)) => {
                    event.id = Some(id.trim().to_owned());
                    self.last_id.clone_from(&event.id);
                }
                Some(("data", data)) => event.data.push_str(data.strip_prefix(' ').unwrap_or(data)),
                _ if line.is_empty() && !event.data.is_empty() => return Some(event),
                // A chunk's size, a comment, or the end of a block without data.
                _ => {}
            }
        }
    }

    /// The next event of this kind.
    #[track_caller]
    pub fn next_of(&mut self, kind: &str) -> Event {
        loop {
            let event = self.next().unwrap_or_else(|| panic!("the stream ended before a {kind}"));
            if event.kind == kind {
                return event;
            }
        }
    }
}
