//! Somebody is asked about each first connection, over real HTTPS: their signed yes lets in, their signed no
//! refuses, and whatever else happens is nobody's answer.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use muster_pki::{
    Signer as _,
    hierarchy::Hierarchy,
    testing::{self, Credential},
};
use muster_server::registry::audit::checkpoint::public_key_pem;
use muster_shared::Code;
use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

use crate::{
    device, recorded, refused,
    rig::{LIMIT, Place},
    serials, serving, works,
};

type Answering = dyn Fn(&Value) -> Option<String> + Send + Sync;

/// Answers questions until it is dropped.
struct Approver {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<Value>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Approver {
    /// One that shows a certificate of the hierarchy's HTTPS authority, and says what `answering` makes of a
    /// question: a whole answer of HTTP, or nothing.
    fn start(hierarchy: &Hierarchy, answering: Box<Answering>) -> Self {
        let shown = testing::server(&hierarchy.https, &["localhost".parse().unwrap()], crate::now_s());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(shown.chain[0].clone())],
                PrivatePkcs8KeyDer::from(shown.key_pkcs8()).into(),
            );
        let config = Arc::new(config.unwrap());
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stopping = Arc::<AtomicBool>::default();
        let asked = Arc::<Mutex<Vec<Value>>>::default();
        let (until, heard) = (stopping.clone(), asked.clone());
        let thread = thread::spawn(move || {
            // Whom it does not answer stays connected.
            let mut kept = Vec::new();
            while let Ok((stream, _)) = listener.accept() {
                if until.load(Ordering::Acquire) {
                    return;
                }
                kept.extend(answer(&config, stream, &heard, &*answering));
            }
        });
        Self { address, stopping, asked, thread: Some(thread) }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/device", self.address.port())
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Approver {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // It waits for somebody.
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

type Asking = StreamOwned<ServerConnection, TcpStream>;

/// Takes one request. `Some`: nothing was said to it, and its connection stays.
fn answer(
    config: &Arc<ServerConfig>,
    stream: TcpStream,
    asked: &Mutex<Vec<Value>>,
    answering: &Answering,
) -> Option<Asking> {
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(config.clone()).ok()?, stream));
    let (mut head, mut length) = (String::new(), 0);
    // A client that does not trust this server goes here.
    while stream.read_line(&mut head).ok()? > 2 {
        let line = head.lines().next_back()?.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let question: Value = serde_json::from_slice(&body).ok()?;
    asked.lock().unwrap().push(question.clone());
    let mut stream = stream.into_inner();
    let Some(answer) = answering(&question) else { return Some(stream) };
    let _ = stream.write_all(answer.as_bytes());
    stream.conn.send_close_notify();
    let _ = stream.flush();
    None
}

fn http(status: &str, more: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// The answer to a question, signed by this key.
fn signed(key: &Credential, question: &Value, approve: bool) -> String {
    let octets = |key: &str| hex::decode(question[key].as_str().unwrap()).unwrap();
    let (nonce, certificate) = (octets("nonce"), octets("certificate_id"));
    assert_eq!((nonce.len(), certificate.len()), (32, 32));
    let said = [b"muster approval v1\0", &nonce[..], &certificate, &[u8::from(approve)]].concat();
    let signature = STANDARD.encode(key.key.sign(&said).unwrap());
    http("200 OK", "", &json!({ "approve": approve, "signature": signature }).to_string())
}

/// A section that asks this one, trusted by this authority, whose answers are signed by this key.
fn section(place: &Place, approver: &Approver, authority: &str, key: &Credential, within: &str) -> String {
    // Named as in the file: relative to it.
    std::fs::write(place.data().join("approve-ca.pem"), authority).unwrap();
    std::fs::write(place.data().join("approve.pub"), public_key_pem(key.key.public_key())).unwrap();
    format!(
        "{}approve_url = \"{}\"\napprove_key = \"approve.pub\"\napprove_ca = \"approve-ca.pem\"\n\
         approve_within = \"{within}\"\n",
        crate::ACME,
        approver.url()
    )
}

/// A key, with whatever certificate.
fn key(place: &Place) -> Credential {
    place.devices(&["MU-009999"]).remove(0)
}

#[test]
fn a_signed_yes_lets_in_and_a_signed_no_and_no_answer_do_not() {
    let place = Place::new();
    let (own, other) = (key(&place), key(&place));
    let signer = own.clone();
    let answering = move |question: &Value| match question["serial"].as_str().unwrap() {
        "MU-000001" => Some(signed(&signer, question, true)),
        "MU-000002" => Some(signed(&signer, question, false)),
        "MU-000003" => Some(signed(&other, question, true)),
        "MU-000004" => Some(http("500 Internal Server Error", "", "")),
        "MU-000005" => Some(http("307 Temporary Redirect", "location: /yes\r\n", "")),
        "MU-000006" => Some(http("200 OK", "", &" ".repeat(100_000))),
        "MU-000007" => Some(http("200 OK", "", "{\"approve\":true}")),
        other => panic!("asked about {other}"),
    };
    let approver = Approver::start(&place.hierarchy, Box::new(answering));
    let authority = place.hierarchy.https.certificate().pem();
    // No answer is waited for here: the deadline is far away.
    let section = section(&place, &approver, &authority, &own, "30s");
    let server = serving(place, &section);
    let approved = device(&server, "MU-000001");
    works(&server, &approved);
    assert_eq!(refused(&server, &device(&server, "MU-000002")), (0x87, Code::DeviceNotApproved));
    recorded(&server, "MU-000002", Code::DeviceNotApproved);
    for serial in ["MU-000003", "MU-000004", "MU-000005", "MU-000006", "MU-000007"] {
        assert_eq!(refused(&server, &device(&server, serial)), (0x88, Code::ApprovalUnavailable), "{serial}");
    }
    assert_eq!(serials(&server), ["MU-000001"]);
    let asked = approver.asked();
    assert_eq!(asked.len(), 7, "each once, and nobody was sent elsewhere: {asked:?}");
    let question = &asked[0];
    assert_eq!((&question["schema"], &question["tenant"]), (&"muster.approval/1".into(), &"acme".into()));
    assert_eq!((&question["device_id"], &question["station"]), (&"MU-000001".into(), &"S-07".into()));
    assert_eq!(question["address"], "127.0.0.1");
    let mut nonces: Vec<_> = asked.iter().map(|question| question["nonce"].as_str().unwrap()).collect();
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), 7, "a nonce is of one question");
    works(&server, &approved);
    assert_eq!(approver.asked().len(), 7, "who is registered is not asked about");
}

#[test]
fn who_does_not_answer_in_time_has_not_answered() {
    let place = Place::new();
    let own = key(&place);
    let approver = Approver::start(&place.hierarchy, Box::new(|_| None));
    let authority = place.hierarchy.https.certificate().pem();
    let section = section(&place, &approver, &authority, &own, "300ms");
    let server = serving(place, &section);
    assert_eq!(refused(&server, &device(&server, "MU-000001")), (0x88, Code::ApprovalUnavailable));
    recorded(&server, "MU-000001", Code::ApprovalUnavailable);
    assert_eq!(serials(&server), Vec::<String>::new());
}

#[test]
fn only_the_authority_that_is_named_is_trusted_for_the_address() {
    let place = Place::new();
    let own = key(&place);
    let signer = own.clone();
    let yes = move |question: &Value| Some(signed(&signer, question, true));
    let approver = Approver::start(&place.hierarchy, Box::new(yes));
    let another = place.hierarchy.broker.certificate().pem();
    let section = section(&place, &approver, &another, &own, "30s");
    let server = serving(place, &section);
    assert_eq!(refused(&server, &device(&server, "MU-000001")), (0x88, Code::ApprovalUnavailable));
    assert_eq!(approver.asked(), Vec::<Value>::new(), "nothing is said to a stranger");
}

#[test]
fn a_key_that_cannot_be_read_keeps_the_server_from_starting() {
    let place = Place::new();
    let own = key(&place);
    let approver = Approver::start(&place.hierarchy, Box::new(|_| None));
    let authority = place.hierarchy.https.certificate().pem();
    let section = section(&place, &approver, &authority, &own, "1s");
    let file = place.data().join("muster.toml");
    let text = crate::rig::read(&file) + &section;
    std::fs::write(&file, text).unwrap();
    std::fs::write(place.data().join("approve.pub"), "no key").unwrap();
    let ran = place.muster(crate::rig::SERVE).exits(2).refused("M505");
    assert!(ran.err.contains("zero_touch.acme.approve_key"), "{ran:?}");
}
