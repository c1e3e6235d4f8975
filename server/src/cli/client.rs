//! The one client of the HTTPS API. It trusts one file, sends one token, and turns whatever goes wrong
//! into a refusal that says where and what next.

use std::{
    error::Error as _,
    io::{Read, Write},
    net::{IpAddr, ToSocketAddrs},
    path::Path,
    time::{Duration, Instant},
};

use muster_shared::Code;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::{
    Agent,
    http::{Method, Request, StatusCode},
    tls::{Certificate, PemItem, RootCerts, parse_pem},
};

use crate::{
    api::error::{MEDIA_TYPE, Problem},
    app::Addresses,
    config::{Client as Settings, Config},
    https::asking,
};

/// Largest answer read, octets: a listing of a million devices stays below it.
const ANSWER_MAX: u64 = 2 << 30;
/// Largest refusal read, octets.
const PROBLEM_MAX: u64 = 1 << 20;
/// Longest an answer that lasts is read before it is asked for again.
const LASTS: Duration = Duration::from_secs(300);
/// Times a request that came too soon is sent again.
const TOO_SOON: usize = 20;
/// A token is 256 random bits in text; a file that is longer is no token file.
const TOKEN_FILE_MAX: u64 = 4096;

/// A server, a token, and what is trusted.
pub(super) struct Client {
    agent: Agent,
    base: String,
    authorization: String,
    timeout: Duration,
}

/// What a request carries.
#[derive(Debug, Clone, Copy, Default)]
struct Content<'c> {
    /// What `body` is; `None` without one.
    media: Option<&'c str>,
    /// The version that was seen of what is changed.
    seen: Option<u64>,
    body: &'c [u8],
}

impl Client {
    /// Reads the trusted authority and the token. Nothing is sent yet.
    pub(super) fn new(config: &Config) -> Result<Self, Problem> {
        Self::speaking(config, &token(&config.client)?, Some(config.client.timeout))
    }

    /// The same for what may take any time once the server has begun to answer.
    pub(super) fn patient(config: &Config) -> Result<Self, Problem> {
        Self::speaking(config, &token(&config.client)?, None)
    }

    /// The same with another token than the configured one.
    pub(super) fn with(config: &Config, token: &str) -> Result<Self, Problem> {
        Self::speaking(config, token, Some(config.client.timeout))
    }

    fn speaking(config: &Config, token: &str, whole: Option<Duration>) -> Result<Self, Problem> {
        let settings = &config.client;
        let roots = roots(&settings.ca)?;
        let agent = asking(RootCerts::new_with_certs(&roots))
            .timeout_global(whole)
            .timeout_connect(Some(settings.timeout))
            .timeout_recv_response(Some(settings.timeout))
            .build()
            .new_agent();
        Ok(Self {
            agent,
            base: base(config),
            authorization: format!("Bearer {token}"),
            timeout: settings.timeout,
        })
    }

    /// The server's address, as it is shown.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// GET; the answer as a document.
    pub(super) fn get(&self, path: &str) -> Result<Value, Problem> {
        self.send(Method::GET, path, Content::default())
    }

    /// GET; the answer as octets.
    pub(super) fn get_raw(&self, path: &str) -> Result<Vec<u8>, Problem> {
        self.exchange(&Method::GET, path, Content::default())
    }

    /// Host and port.
    pub(super) fn authority(&self) -> String {
        let authority = self.base.trim_start_matches("https://").trim_end_matches('/');
        let port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if port { authority.to_owned() } else { format!("{authority}:443") }
    }

    /// GET of what lasts: the answer as it comes. It ends after a while all the same, so that a connection
    /// that is dead is found to be.
    pub(super) fn open(&self, path: &str) -> Result<impl std::io::Read + use<>, Problem> {
        let url = format!("{}{path}", self.base);
        let request = Request::get(&url).header("authorization", &self.authorization).body(());
        let began = Instant::now();
        let sent = request.map_err(ureq::Error::from).and_then(|request| {
            let request = self.agent.configure_request(request);
            let request = request.timeout_global(None).timeout_connect(Some(self.timeout));
            let request = request.timeout_recv_response(Some(self.timeout)).timeout_recv_body(Some(LASTS));
            self.agent.run(request.build())
        });
        let mut response = sent.map_err(|error| self.unreached(&error, began))?;
        if response.status().is_success() {
            return Ok(response.into_body().into_reader());
        }
        let bytes = response.body_mut().with_config().limit(ANSWER_MAX).read_to_vec().unwrap_or_default();
        Err(self.refused(&bytes, response.status(), &format!("GET {url}")))
    }

    /// POST of a JSON document.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Problem> {
        self.post_as(path, "application/json", body.to_string().as_bytes())
    }

    /// POST of what has a media type of its own.
    pub(super) fn post_as(&self, path: &str, content: &str, body: &[u8]) -> Result<Value, Problem> {
        self.send(Method::POST, path, Content { media: Some(content), body, ..Content::default() })
    }

    /// POST of a file.
    pub(super) fn post_file(&self, path: &str, body: &[u8]) -> Result<Value, Problem> {
        self.post_as(path, "application/octet-stream", body)
    }

    /// PUT of a JSON document in its octets, where what it replaces is still of the version that was seen.
    pub(super) fn put(&self, path: &str, seen: Option<u64>, body: &[u8]) -> Result<Value, Problem> {
        self.send(Method::PUT, path, Content { media: Some("application/json"), seen, body })
    }

    /// GET; the answer as it comes, into a file.
    pub(super) fn get_into(&self, path: &str, to: &mut impl Write) -> Result<u64, Problem> {
        let began = Instant::now();
        let request = Request::builder()
            .method(Method::GET)
            .uri(format!("{}{path}", self.base))
            .header("authorization", &self.authorization);
        let sent = match request.body(()) {
            Ok(request) => self.agent.run(request),
            Err(error) => Err(error.into()),
        };
        let mut response = sent.map_err(|error| self.unreached(&error, began))?;
        if !response.status().is_success() {
            let bytes = response.body_mut().with_config().limit(PROBLEM_MAX).read_to_vec();
            let problem = bytes.ok().and_then(|bytes| Problem::from_document(&bytes));
            return Err(problem.unwrap_or_else(|| Problem::new(Code::Fault).at(format!("GET {path}"))));
        }
        std::io::copy(&mut response.body_mut().as_reader(), to).map_err(|error| {
            Problem::new(Code::ServerUnreachable)
                .what("the answer was cut short, or could not be kept")
                .at(format!("GET {}{path}", self.base))
                .because(error.to_string())
        })
    }

    /// GET; the answer is read as it comes, however long it is.
    pub(super) fn stream(&self, path: &str) -> Result<impl Read + use<>, Problem> {
        let url = format!("{}{path}", self.base);
        let request = Request::get(&url)
            .header("authorization", &self.authorization)
            .header("accept", format!("*/*, {MEDIA_TYPE}"));
        let began = Instant::now();
        let sent = match request.body(()) {
            Ok(request) => self.agent.run(request),
            Err(error) => Err(error.into()),
        };
        let response = sent.map_err(|error| self.unreached(&error, began))?;
        let status = response.status();
        let mut answer = response.into_body().into_with_config().limit(u64::MAX).reader();
        if status.is_success() {
            return Ok(answer);
        }
        let mut bytes = Vec::new();
        let _ = answer.by_ref().take(PROBLEM_MAX).read_to_end(&mut bytes);
        Err(Problem::from_document(&bytes).unwrap_or_else(|| {
            Problem::new(Code::Fault)
                .what(format!("the server answered {status} without saying why"))
                .at(format!("GET {url}"))
                .next("is --server a Muster server? something between may have answered")
        }))
    }

    fn send(&self, method: Method, path: &str, content: Content<'_>) -> Result<Value, Problem> {
        let octets = self.exchange(&method, path, content)?;
        serde_json::from_slice(&octets).map_err(|error| {
            Problem::new(Code::Fault)
                .what("the server's answer is not the document it should be")
                .at(format!("{method} {}{path}", self.base))
                .because(error.to_string())
                .next("is --server a Muster server of this version? muster status -v")
        })
    }

    /// A request; one that the server finds too soon after others is sent again when it says.
    fn exchange(&self, method: &Method, path: &str, content: Content<'_>) -> Result<Vec<u8>, Problem> {
        for _ in 0..TOO_SOON {
            match self.exchange_once(method, path, content) {
                Err(problem) if problem.retry_s.is_some_and(|s| s <= 2) => {
                    std::thread::sleep(Duration::from_secs(problem.retry_s.unwrap_or(1)));
                }
                other => return other,
            }
        }
        self.exchange_once(method, path, content)
    }

    fn exchange_once(&self, method: &Method, path: &str, content: Content<'_>) -> Result<Vec<u8>, Problem> {
        let url = format!("{}{path}", self.base);
        let mut request = Request::builder()
            .method(method)
            .uri(&url)
            .header("authorization", &self.authorization)
            .header("accept", format!("application/json, {MEDIA_TYPE}"));
        if let Some(media) = content.media {
            request = request.header("content-type", media);
        }
        if let Some(seen) = content.seen {
            request = request.header("if-match", format!("\"{seen}\""));
        }
        let began = Instant::now();
        let sent = match request.body(content.body) {
            Ok(request) => self.agent.run(request),
            Err(error) => Err(error.into()),
        };
        let mut response = sent.map_err(|error| self.unreached(&error, began))?;
        let status = response.status();
        let retry_s =
            response.headers().get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok());
        let read = response.body_mut().with_config().limit(ANSWER_MAX).read_to_vec();
        let bytes = read.map_err(|error| self.unreached(&error, began))?;
        let place = || format!("{method} {url}");
        if status.is_success() {
            return Ok(bytes);
        }
        let mut problem = self.refused(&bytes, status, &place());
        problem.retry_s = retry_s;
        Err(problem)
    }

    fn refused(&self, bytes: &[u8], status: StatusCode, place: &str) -> Problem {
        Problem::from_document(bytes).unwrap_or_else(|| {
            Problem::new(Code::Fault)
                .what(format!("the server answered {status} without saying why"))
                .at(place)
                .next("is --server a Muster server? something between may have answered")
        })
    }

    fn unreached(&self, error: &ureq::Error, began: Instant) -> Problem {
        let ms = began.elapsed().as_millis();
        let place = format!("{}{}", self.base, self.resolved());
        if let Some(tls) = rustls_error(error) {
            return match tls {
                rustls::Error::InvalidCertificate(why) => {
                    Problem::new(Code::ServerNotTrusted).at(place).because(certificate_words(why))
                }
                other => Problem::new(Code::ServerUnreachable)
                    .what("what answers there does not speak TLS as this server does")
                    .at(place)
                    .because(other.to_string()),
            };
        }
        match error {
            ureq::Error::Io(_) if self.address().is_err() => Problem::new(Code::NameUnknown).at(&self.base),
            ureq::Error::HostNotFound => Problem::new(Code::NameUnknown).at(&self.base),
            ureq::Error::Timeout(_) => Problem::new(Code::ServerUnreachable)
                .at(place)
                .because(format!("nothing within {} ms; --timeout sets the limit", self.timeout.as_millis())),
            ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
                Problem::new(Code::ServerUnreachable).at(format!("{place} · TCP refused after {ms} ms"))
            }
            other => Problem::new(Code::ServerUnreachable).at(place).because(other.to_string()),
        }
    }

    /// ` · resolved 10.0.4.2`, for a name.
    fn resolved(&self) -> String {
        match self.address() {
            Ok(Some(address)) => format!(" · resolved {address}"),
            _ => String::new(),
        }
    }

    /// The address behind a name; `None` where no name was given.
    fn address(&self) -> std::io::Result<Option<IpAddr>> {
        let authority = self.base.trim_start_matches("https://");
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|octet| octet.is_ascii_digit()) => host,
            _ => authority,
        };
        if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            return Ok(None);
        }
        Ok((host, 443).to_socket_addrs()?.next().map(|address| address.ip()))
    }
}

/// Reads a document as the type it should be.
pub(super) fn read<T: DeserializeOwned>(document: &Value) -> Result<T, Problem> {
    T::deserialize(document).map_err(|error| {
        Problem::new(Code::Fault)
            .what("the server's answer lacks what this command needs")
            .because(error.to_string())
            .next("is the server older than this command? muster status")
    })
}

/// The server that was named, else the one that runs on the data directory, else where one would.
fn base(config: &Config) -> String {
    if let Some(server) = &config.client.server {
        return server.clone();
    }
    Addresses::read(&config.data_dir)
        .map_or_else(|| format!("https://{}", config.https.listen), |addresses| addresses.https)
}

fn roots(path: &Path) -> Result<Vec<Certificate<'static>>, Problem> {
    let unusable = |why: String| {
        Problem::new(Code::ServerNotTrusted)
            .what("there is no authority to trust the server by")
            .at(format!("--ca {}", path.display()))
            .because(why)
            .next("copy https.pem from the server's data directory and give it with --ca")
    };
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let mut roots = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => roots.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(unusable(error.to_string())),
        }
    }
    if roots.is_empty() {
        return Err(unusable("the file holds no certificate".to_owned()));
    }
    Ok(roots)
}

fn token(settings: &Settings) -> Result<String, Problem> {
    let path = &settings.token_file;
    let missing = |why: String| {
        Problem::new(Code::NotSignedIn).at(format!("token file {}", path.display())).because(why)
    };
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(TOKEN_FILE_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(TOKEN_FILE_MAX).read_to_string(&mut text))
    };
    read.map_err(|error| missing(error.to_string()))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(missing("it is empty".to_owned()));
    }
    if !token.bytes().all(|octet| octet.is_ascii_graphic()) {
        return Err(missing("it holds more than one token, or something else".to_owned()));
    }
    Ok(token.to_owned())
}

/// The TLS library's own error, wherever it is wrapped.
fn rustls_error(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(io) => io.get_ref()?.downcast_ref(),
        other => other.source()?.downcast_ref(),
    }
}

fn certificate_words(error: &rustls::CertificateError) -> String {
    use rustls::CertificateError as E;
    match error {
        // A signature that fails is another key under the same authority's name.
        E::UnknownIssuer | E::BadSignature => {
            "it was issued by another authority than the one in the --ca file".to_owned()
        }
        E::Expired | E::ExpiredContext { .. } => "it has ended; compare the clocks".to_owned(),
        E::NotValidYet | E::NotValidYetContext { .. } => "it is not valid yet; compare the clocks".to_owned(),
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            "it is not for this name; https.names on the server says which it has".to_owned()
        }
        other => other.to_string(),
    }
}
