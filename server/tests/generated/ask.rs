//! What the description says can be asked, and a request, before it is octets.

use std::fmt;

use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// What is drawn by lot: the same for the same seed and words.
pub(crate) struct Dice(TestRng);

impl Dice {
    pub(crate) fn new(seed: u64, of: &str) -> Self {
        let seed: [u8; 32] = Sha256::digest(format!("{seed} {of}")).into();
        Self(TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0.next_u64() as usize % end.max(1)
    }

    /// One of them.
    pub(crate) fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// Letters nobody has used.
    pub(crate) fn word(&mut self) -> String {
        format!("{:016x}", self.0.next_u64())
    }
}

/// Where a parameter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum In {
    Path,
    Query,
    Header,
}

#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) within: In,
    pub(crate) required: bool,
    pub(crate) schema: Value,
}

/// What is sent with a request.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Nothing,
    Json(Value),
    Raw(String),
}

/// One operation of the description.
pub(crate) struct Operation {
    /// `POST /v1/devices/{serial}/{act}`.
    pub(crate) id: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) body: Body,
    /// It does without a body too.
    pub(crate) may_be_empty: bool,
    pub(crate) responses: Map<String, Value>,
    /// Anybody may ask.
    pub(crate) open: bool,
    pub(crate) writes: bool,
    /// It answers what is shown once.
    pub(crate) secret: bool,
    /// The whole of the description, for what is referred to.
    pub(crate) document: Value,
}

impl Operation {
    /// Whether it answers so when all is well.
    pub(crate) fn is_good(&self, status: u16) -> bool {
        status < 300 && self.responses.contains_key(&status.to_string())
    }

    /// How many words a parameter of its path may be, where it may be few.
    pub(crate) fn words(&self) -> usize {
        let words = self.parameters.iter().filter_map(|of| of.schema["enum"].as_array());
        words.map(Vec::len).max().unwrap_or(1)
    }
}

/// Every operation: those that only read first, so that they have something to read.
pub(crate) fn read(document: &Value) -> Vec<Operation> {
    let mut all = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, of) in operations.as_object().unwrap() {
            all.push(operation(document, path, &method.to_uppercase(), of));
        }
    }
    all.sort_by_key(|of| (of.writes, of.id.clone()));
    all
}

fn operation(document: &Value, path: &str, method: &str, of: &Value) -> Operation {
    let parameters = of["parameters"].as_array().unwrap().iter().map(|of| Parameter {
        name: of["name"].as_str().unwrap().to_owned(),
        within: match of["in"].as_str().unwrap() {
            "path" => In::Path,
            "query" => In::Query,
            "header" => In::Header,
            other => panic!("a parameter in {other}"),
        },
        required: of["required"] == true,
        schema: of["schema"].clone(),
    });
    let body = match of["requestBody"]["content"].as_object().and_then(|content| content.iter().next()) {
        None => Body::Nothing,
        Some((media, content)) if media == "application/json" => Body::Json(content["schema"].clone()),
        Some((media, _)) => Body::Raw(media.clone()),
    };
    let responses = of["responses"].as_object().unwrap().clone();
    let shown_once = ["#/components/schemas/NewToken", "#/components/schemas/Invitation"];
    let good = &responses.iter().find(|(status, _)| status.starts_with('2')).unwrap().1["content"];
    let answers = good["application/json"]["schema"]["$ref"].as_str().unwrap_or_default();
    Operation {
        id: format!("{method} {path}"),
        method: method.to_owned(),
        path: path.to_owned(),
        parameters: parameters.collect(),
        body,
        may_be_empty: of["requestBody"]["required"] == false,
        secret: shown_once.contains(&answers),
        responses,
        open: of["security"].as_array().is_some_and(Vec::is_empty),
        writes: method != "GET",
        document: document.clone(),
    }
}

/// A request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask {
    pub(crate) method: String,
    /// The path's template, and what stands for its parameters, as it is sent.
    pub(crate) path: String,
    pub(crate) in_path: Vec<(String, String)>,
    /// As it is sent: `name=value`.
    pub(crate) query: Vec<String>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    /// What is odd about it.
    pub(crate) said: String,
    /// The description says that it is no request.
    pub(crate) ruled_out: bool,
    /// Its body ends before its announced end, and with it the connection.
    pub(crate) torn: bool,
    /// It may be refused before its path is looked at.
    pub(crate) unread: bool,
}

impl Ask {
    /// The octets on the wire.
    pub(crate) fn octets(&self, token: Option<&str>) -> Vec<u8> {
        let mut head =
            format!("{} {} HTTP/1.1\r\nhost: localhost\r\n", self.method, self.target()).into_bytes();
        if let Some(token) = token {
            head.extend_from_slice(format!("authorization: Bearer {token}\r\n").as_bytes());
        }
        for (name, value) in &self.headers {
            head.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        head.extend_from_slice(format!("content-length: {}\r\n\r\n", self.body.len()).as_bytes());
        let sent = if self.torn { self.body.len() / 2 } else { self.body.len() };
        [&head[..], &self.body[..sent]].concat()
    }

    fn target(&self) -> String {
        let mut path = self.path.clone();
        for (name, value) in &self.in_path {
            path = path.replace(&format!("{{{name}}}"), value);
        }
        if self.query.is_empty() { path } else { format!("{path}?{}", self.query.join("&")) }
    }

    /// The body as a document.
    pub(crate) fn document(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// This value for a parameter of the query, in place of any it has.
    pub(crate) fn set_query(&mut self, name: &str, value: &str) {
        let begin = format!("{name}=");
        self.query.retain(|of| !of.starts_with(&begin));
        self.query.push(format!("{begin}{value}"));
    }

    /// This header, in place of any it has.
    pub(crate) fn set_header(&mut self, name: &str, value: &[u8]) {
        self.headers.retain(|(of, _)| !of.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_vec()));
    }

    /// Under an idempotency key nobody has used.
    pub(crate) fn under_a_new_key(&mut self, dice: &mut Dice) {
        let key = format!("\"{}\"", dice.word());
        self.set_header("Idempotency-Key", key.as_bytes());
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let octets = self.octets(None);
        let text: String = String::from_utf8_lossy(&octets).chars().take(700).collect();
        write!(f, "{}\n  {}", self.said, text.trim_end().replace("\r\n", "\n    "))
    }
}

/// As it stands in a path or a query (RFC 3986 §2.1).
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for octet in text.bytes() {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            out.push(octet as char);
        } else {
            out.push_str(&format!("%{octet:02X}"));
        }
    }
    out
}
