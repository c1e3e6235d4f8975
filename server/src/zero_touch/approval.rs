//! Somebody else is asked whether a device may join, and signs the answer.
//!
//! ```text
//! → POST  {"schema":"muster.approval/1","tenant":…,"device_id":…,"serial":…,"certificate_id":…,"station":…,
//!          "address":…,"nonce":64 hexadecimal digits}
//! ← 200   {"approve":true,"signature":base64 of ECDSA P-256 with SHA-256, DER}
//! over    "muster approval v1\0" ‖ nonce (32) ‖ certificate_id (32) ‖ 0x01, or 0x00 for "approve":false
//! ```
//!
//! The signature decides, not the connection it came by: whoever holds a certificate for the address cannot say
//! yes, and cannot say no. The nonce is new for each question and the certificate's digest names the device, so
//! an answer is good once and for one. A `false` that is signed is a refusal; everything else that is no signed
//! `true` is nobody's answer.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use muster_pki::PublicKey;
use muster_shared::{CertificateId, Code, StationId, Tenant};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, timeout_at},
};
use ureq::{
    Agent,
    http::{Request, StatusCode},
    tls::{Certificate, RootCerts},
};

use crate::{
    config::ApprovalEntry,
    https::asking,
    registry::{DeviceName, audit::checkpoint::read_public_key},
};

const SCHEMA: &str = "muster.approval/1";
const CONTEXT: &[u8] = b"muster approval v1\0";
/// Octets of a nonce.
const NONCE: usize = 32;
/// Questions of one tenant at once: each is a thread and a connection. Further ones wait within their deadline.
const QUESTIONS_MAX: usize = 16;
/// Longest answer read, octets. One is below 200.
const ANSWER_MAX: u64 = 64 << 10;

/// A file of the configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key} = {}: {why}", path.display())]
pub struct Unusable {
    /// The key that names it.
    pub key: String,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// Why a device was not approved.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApprovalError {
    #[error("the answer is no")]
    Refused,
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("it cannot be asked: {0}")]
    Unreached(String),
    #[error("the answer has status {0}")]
    Status(StatusCode),
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
    #[error("the answer is not signed for this question by the key of approve_key")]
    Unsigned,
}

impl ApprovalError {
    /// M226 for a signed no, M227 for everything else.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Refused => Code::DeviceNotApproved,
            Self::Late(_) | Self::Unreached(_) | Self::Status(_) | Self::Unreadable(_) | Self::Unsigned => {
                Code::ApprovalUnavailable
            }
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'q> {
    /// What the device's certificate calls it.
    pub(super) name: &'q DeviceName,
    /// SHA-256 of that certificate.
    pub(super) certificate: CertificateId,
    /// Which station made it.
    pub(super) station: &'q StationId,
    /// Where it connects from.
    pub(super) address: IpAddr,
}

impl Question<'_> {
    fn document(&self, nonce: &[u8; NONCE]) -> String {
        json!({
            "schema": SCHEMA,
            "tenant": self.name.tenant.as_str(),
            "device_id": self.name.device_id.as_str(),
            "serial": self.name.serial.as_str(),
            "certificate_id": self.certificate.to_string(),
            "station": self.station.as_str(),
            "address": self.address.to_string(),
            "nonce": hex::encode(nonce),
        })
        .to_string()
    }
}

/// Who is asked for one tenant.
pub(super) struct Approval {
    agent: Agent,
    url: String,
    key: PublicKey,
    within: Duration,
    places: Arc<Semaphore>,
}

impl Approval {
    /// Reads the files of a section. Nothing is sent yet.
    pub(super) fn open(tenant: &Tenant, entry: &ApprovalEntry) -> Result<Self, Unusable> {
        let unusable = |key: &str, path: &Path, why: String| Unusable {
            key: format!("zero_touch.{tenant}.{key}"),
            path: path.to_owned(),
            why,
        };
        let key = fs::read(&entry.key).map_err(|error| error.to_string());
        let key = key.and_then(|pem| read_public_key(&pem));
        let key = key.map_err(|why| unusable("approve_key", &entry.key, why))?;
        let roots = match &entry.ca {
            None => RootCerts::WebPki,
            Some(path) => authority(path).map_err(|why| unusable("approve_ca", path, why))?,
        };
        let agent = asking(roots)
            // One that was kept may have been closed at the other end, and then nobody would have answered.
            .max_idle_connections(0)
            .build()
            .new_agent();
        let places = Arc::new(Semaphore::new(QUESTIONS_MAX));
        Ok(Self { agent, url: entry.url.clone(), key, within: entry.within, places })
    }

    /// Asks, and does not return later than the deadline.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<(), ApprovalError> {
        let until = Instant::now() + self.within;
        let late = || ApprovalError::Late(self.within);
        let mut nonce = [0; NONCE];
        rand::fill(&mut nonce).map_err(|_| ApprovalError::Unreached("no random numbers".to_owned()))?;
        let body = question.document(&nonce);
        let asked = async {
            let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| late())?;
            let (agent, url) = (self.agent.clone(), self.url.clone());
            let (tell, told) = oneshot::channel();
            // A thread of its own: a stop waits for every thread of a runtime's pool, and not for a stranger.
            let thread = thread::Builder::new().name("approval".to_owned()).spawn(move || {
                let answer = exchange(&agent, &url, body, until);
                // Whoever asked may have gone.
                let _ = tell.send(answer);
                drop(place);
            });
            thread.map_err(|error| ApprovalError::Unreached(error.to_string()))?;
            told.await.unwrap_or_else(|_| Err(late()))
        };
        let answer = timeout_at(until, asked).await.map_err(|_| late())??;
        judge(&answer, &self.key, &nonce, question.certificate)
    }
}

/// The one authority that is trusted, or several in one file.
fn authority(path: &Path) -> Result<RootCerts, String> {
    let read: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found = read.map_err(|error| error.to_string())?;
    if found.is_empty() {
        return Err("the file holds no certificate".to_owned());
    }
    for der in &found {
        webpki::anchor_from_trusted_cert(der).map_err(|error| format!("it is no authority's: {error}"))?;
    }
    let found: Vec<_> = found.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    Ok(RootCerts::new_with_certs(&found))
}

/// Sends the question; the answer's octets.
fn exchange(agent: &Agent, url: &str, body: String, until: Instant) -> Result<Vec<u8>, ApprovalError> {
    let unreached = |error: ureq::Error| ApprovalError::Unreached(error.to_string());
    let request = Request::post(url)
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .body(body)
        .map_err(|error| unreached(error.into()))?;
    let left = until.saturating_duration_since(Instant::now());
    let request = agent.configure_request(request).timeout_global(Some(left)).build();
    let mut response = agent.run(request).map_err(unreached)?;
    if response.status() != StatusCode::OK {
        return Err(ApprovalError::Status(response.status()));
    }
    let read = response.body_mut().with_config().limit(ANSWER_MAX).read_to_vec();
    read.map_err(|error| ApprovalError::Unreadable(error.to_string()))
}

#[derive(Deserialize)]
struct Answer {
    approve: bool,
    signature: String,
}

/// What an answer comes to.
fn judge(
    octets: &[u8],
    key: &PublicKey,
    nonce: &[u8; NONCE],
    certificate: CertificateId,
) -> Result<(), ApprovalError> {
    let unreadable = |why: String| ApprovalError::Unreadable(why);
    let Answer { approve, signature } =
        serde_json::from_slice(octets).map_err(|error| unreadable(error.to_string()))?;
    let signature = STANDARD.decode(signature).map_err(|error| unreadable(format!("signature: {error}")))?;
    let signed = [CONTEXT, nonce, &certificate.0, &[u8::from(approve)]].concat();
    key.verify(&signed, &signature).map_err(|_| ApprovalError::Unsigned)?;
    if approve { Ok(()) } else { Err(ApprovalError::Refused) }
}

#[cfg(test)]
mod tests {
    use muster_pki::{Signer as _, SoftKey, testing};

    use super::*;
    use crate::registry::testing::HIERARCHY;

    const NONCE_OF_IT: [u8; NONCE] = [7; NONCE];
    const CERTIFICATE: CertificateId = CertificateId([9; 32]);

    /// What somebody with this key answers, who was asked this.
    fn answer(
        key: &SoftKey,
        nonce: [u8; NONCE],
        certificate: CertificateId,
        says: bool,
        signs: u8,
    ) -> String {
        let octets = [b"muster approval v1\0", &nonce[..], &certificate.0, &[signs]].concat();
        let signature = STANDARD.encode(key.sign(&octets).unwrap());
        json!({ "approve": says, "signature": signature }).to_string()
    }

    #[test]
    fn a_signed_yes_lets_in_a_signed_no_refuses_and_nothing_else_is_an_answer() {
        let (key, other) = (testing::key(), testing::key());
        let of = |text: &str| judge(text.as_bytes(), key.public_key(), &NONCE_OF_IT, CERTIFICATE);
        assert!(of(&answer(&key, NONCE_OF_IT, CERTIFICATE, true, 1)).is_ok());
        let no = of(&answer(&key, NONCE_OF_IT, CERTIFICATE, false, 0)).unwrap_err();
        assert_eq!(no.code(), Code::DeviceNotApproved);
        for (what, text) in [
            ("another key", answer(&other, NONCE_OF_IT, CERTIFICATE, true, 1)),
            ("an answer to another question", answer(&key, [8; NONCE], CERTIFICATE, true, 1)),
            ("about another device", answer(&key, NONCE_OF_IT, CertificateId([1; 32]), true, 1)),
            ("a no made a yes", answer(&key, NONCE_OF_IT, CERTIFICATE, true, 0)),
            ("a yes made a no", answer(&key, NONCE_OF_IT, CERTIFICATE, false, 1)),
            ("a no that nobody signed", json!({ "approve": false, "signature": "" }).to_string()),
            ("no base64", json!({ "approve": true, "signature": "*" }).to_string()),
            ("no signature", json!({ "approve": true }).to_string()),
            ("no JSON", "yes".to_owned()),
            ("nothing", String::new()),
        ] {
            assert_eq!(of(&text).unwrap_err().code(), Code::ApprovalUnavailable, "{what}");
        }
    }

    #[test]
    fn a_file_that_is_not_what_its_key_says_is_refused_by_that_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let key =
            file("key", &crate::registry::audit::checkpoint::public_key_pem(testing::key().public_key()));
        let ca = file("ca", &HIERARCHY.https.certificate().pem());
        let junk = file("junk", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let missing = dir.path().join("missing");
        let tenant = "acme".parse().unwrap();
        let open = |key: &PathBuf, ca: &PathBuf| {
            let (url, within) = ("https://localhost/".to_owned(), Duration::from_secs(3));
            let entry = ApprovalEntry { url, key: key.clone(), ca: Some(ca.clone()), within };
            Approval::open(&tenant, &entry).map(drop).map_err(|unusable| unusable.key)
        };
        assert_eq!(open(&key, &ca), Ok(()));
        for wrong in [&missing, &junk, &ca] {
            assert_eq!(
                open(wrong, &ca),
                Err("zero_touch.acme.approve_key".to_owned()),
                "{}",
                wrong.display()
            );
        }
        for wrong in [&missing, &junk, &key] {
            assert_eq!(
                open(&key, wrong),
                Err("zero_touch.acme.approve_ca".to_owned()),
                "{}",
                wrong.display()
            );
        }
    }
}
