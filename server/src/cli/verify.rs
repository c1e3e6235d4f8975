//! `muster cert verify`: each question about a certificate, answered. Exit 10 when one of the answers is no.
//!
//! ```text
//! form ─► chain: signed by whom, up to the root ─► dates ─► revoked? ─► whose ─► would it be let in now?
//!         └──────────── with --root: these, without a server ─────┘
//! ```
//!
//! The signatures are checked here, against authorities that the server names or files hold; what was decided
//! about a certificate only the server knows.

use std::path::Path;

use muster_pki::{CaCertificate, Purpose};
use muster_shared::{CertificateId, Code};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use super::{
    Done,
    args::CertVerify,
    batch::slurp,
    certs::parsed,
    client::{Client, read},
    device::encode,
    screen::{Screen, Style, Text},
    words,
};
use crate::{
    api::{
        error::Problem,
        time,
        view::{Authority, CertificateDetail, Explanation, Page},
    },
    config::Config,
};

/// A question, and what was found.
struct Answer {
    check: &'static str,
    /// `None`: nobody was asked.
    good: Option<bool>,
    said: String,
}

fn answer(check: &'static str, good: Option<bool>, said: impl Into<String>) -> Answer {
    Answer { check, good, said: said.into() }
}

/// Those who may have signed it.
struct Trusted {
    root: CaCertificate,
    /// What each is called, and it.
    issuing: Vec<(String, CaCertificate)>,
}

pub(super) fn run(asked: &CertVerify, config: &Config, screen: &Screen) -> Result<Done, Problem> {
    let mut chain = all(&slurp(&asked.file)?).into_iter();
    let der = chain.next().unwrap_or_default();
    let certificate = parsed(&der, &asked.file)?;
    let behind: Vec<_> = chain.collect();
    let client = match asked.root {
        Some(_) => None,
        None => Some(Client::new(config)?),
    };
    let trusted = match (&client, &asked.root) {
        (Some(client), _) => told(client)?,
        (None, root) => given(root.as_deref().unwrap_or(Path::new("")), &asked.authority, &behind)?,
    };
    let id = CertificateId(Sha256::digest(&der).into());
    let signer = signer(&trusted, &der);
    let mut answers = vec![of_chain(&trusted, &der, signer), dates(&certificate)];
    match &client {
        Some(client) => of_server(client, &id, &certificate, signer, &mut answers)?,
        None => answers.push(answer("decisions", None, "no server was asked what was decided about it")),
    }
    let good = answers.iter().all(|answer| answer.good != Some(false));
    show(asked, &id, &certificate, &answers, good, screen);
    Ok(if good { Done::Well } else { Done::AnswerIsNo })
}

/// The certificates of a PEM text in their order; else the one that is in the octets as they are.
fn all(octets: &[u8]) -> Vec<Vec<u8>> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(octets).filter_map(Result::ok).map(|der| der.to_vec()).collect();
    if found.is_empty() { vec![octets.to_vec()] } else { found }
}

/// The root and what it has signed, as the server names them. The connection it comes over is trusted; the
/// signatures of the root are checked all the same.
fn told(client: &Client) -> Result<Trusted, Problem> {
    let page: Page<Authority> = read(&client.get("/v1/authorities")?)?;
    let mut authorities = page.items.iter().filter_map(|of| Some((of, all(of.pem.as_bytes()).pop()?)));
    let unfit = |why: String| Problem::new(Code::Fault).what("the server names no root").because(why);
    let root = authorities.clone().find(|(of, _)| of.purpose == Purpose::Root.word());
    let (_, root) = root.ok_or_else(|| unfit("none is on its list".to_owned()))?;
    let root = CaCertificate::root(&root).map_err(|error| unfit(error.to_string()))?;
    let issuing = authorities.by_ref().filter_map(|(of, der)| Some((of.name.clone(), signed(&der, &root)?)));
    Ok(Trusted { issuing: issuing.collect(), root })
}

/// The same out of files.
fn given(root: &Path, authorities: &[std::path::PathBuf], behind: &[Vec<u8>]) -> Result<Trusted, Problem> {
    let unfit = |path: &Path, why: String| {
        Problem::new(Code::CertificateProfile)
            .what("this is no authority of this root")
            .at(path.display().to_string())
            .because(why)
            .next("give the root of the ceremony, and what it has signed")
    };
    let der = all(&slurp(root)?).into_iter().next().unwrap_or_default();
    let root = CaCertificate::root(&der).map_err(|error| unfit(root, error.to_string()))?;
    let mut found: Vec<_> = behind.iter().filter_map(|der| signed(der, &root)).collect();
    for path in authorities {
        for der in all(&slurp(path)?) {
            let ca = signed(&der, &root);
            found.push(ca.ok_or_else(|| unfit(path, "the root has not signed it as one".to_owned()))?);
        }
    }
    Ok(Trusted { issuing: found.into_iter().map(|ca| (ca.name().to_owned(), ca)).collect(), root })
}

/// An authority of whatever purpose that the root has signed.
fn signed(der: &[u8], root: &CaCertificate) -> Option<CaCertificate> {
    let purposes = Purpose::ALL.into_iter().filter(|purpose| *purpose != Purpose::Root);
    purposes.into_iter().find_map(|purpose| CaCertificate::issuing(der, purpose, root).ok())
}

fn signer<'a>(trusted: &'a Trusted, der: &[u8]) -> Option<&'a (String, CaCertificate)> {
    trusted.issuing.iter().find(|(_, ca)| ca.vouches_for(der).is_ok())
}

fn of_chain(trusted: &Trusted, der: &[u8], signer: Option<&(String, CaCertificate)>) -> Answer {
    let root = &trusted.root;
    let digest = |der: &[u8]| CertificateId(Sha256::digest(der).into()).to_string();
    if let Some((name, ca)) = signer {
        let said = format!(
            "signed by {name} ({} CA, SHA-256 {}), which {} (SHA-256 {}) has signed",
            ca.purpose(),
            digest(ca.der()),
            root.name(),
            digest(root.der())
        );
        return answer("chain", Some(true), said);
    }
    if let Some(ca) = signed(der, root) {
        let said = format!("it is an authority itself, for {}; {} has signed it", ca.purpose(), root.name());
        return answer("chain", Some(true), said);
    }
    if CaCertificate::root(der).is_ok_and(|own| own == *root) {
        return answer("chain", Some(true), "it is the root itself");
    }
    answer("chain", Some(false), format!("nobody below {} has signed it, as far as is known", root.name()))
}

fn dates(certificate: &X509Certificate<'_>) -> Answer {
    let validity = certificate.validity();
    let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let now_s = words::now_ms() / 1000;
    let said = |at| words::instant(&time::from_s(at));
    match now_s {
        now if now < from => answer("dates", Some(false), format!("not good before {}", said(from))),
        now if now > to => answer("dates", Some(false), format!("it ended {}", said(to))),
        _ => answer("dates", Some(true), format!("good from {} to {}", said(from), said(to))),
    }
}

/// What only the server knows: whose it is, whether it was revoked, whether it would be let in.
fn of_server(
    client: &Client,
    id: &CertificateId,
    certificate: &X509Certificate<'_>,
    signer: Option<&(String, CaCertificate)>,
    answers: &mut Vec<Answer>,
) -> Result<(), Problem> {
    let known: CertificateDetail = match client.get(&format!("/v1/certificates/{id}")) {
        Ok(document) => read(&document)?,
        Err(problem) if problem.code == Code::CertificateUnknown => {
            return unregistered(client, certificate, signer, answers);
        }
        Err(problem) => return Err(problem),
    };
    let of = &known.certificate;
    let whose = format!("registered to {}/{}, device id {}", of.tenant, of.serial, of.device_id);
    answers.push(answer("registered", Some(true), whose));
    let device = encode(&format!("{}/{}", of.tenant, of.serial));
    let told: Explanation = read(&client.get(&format!("/v1/explain/{device}?certificate={id}"))?)?;
    answers.push(match (&told.code, &told.words) {
        (None, _) => answer("verdict", Some(true), format!("may connect; the device is {}", told.state)),
        (Some(code), words) => {
            let words = words::or_unknown(words.as_deref());
            let next = told.next.as_ref().map(|next| format!(" · {next}")).unwrap_or_default();
            answer("verdict", Some(false), format!("would be refused [{code}] {words}{next}"))
        }
    });
    Ok(())
}

/// No device's, as far as the server knows: a device's certificate has to be registered, any other must not be on
/// the revocation list of the authority that signed it, where the server holds that one's key.
fn unregistered(
    client: &Client,
    certificate: &X509Certificate<'_>,
    signer: Option<&(String, CaCertificate)>,
    answers: &mut Vec<Answer>,
) -> Result<(), Problem> {
    let purpose = signer.map(|(_, ca)| ca.purpose());
    match (signer, purpose) {
        (Some(_), Some(Purpose::Factory | Purpose::Operational)) => {
            answers.push(answer("registered", Some(false), "no device of the registry has it"));
        }
        (Some((name, _)), Some(_)) => {
            let list = client.get_raw(&format!("/v1/crl/{}", encode(name)))?;
            let (_, list) = CertificateRevocationList::from_der(&list).map_err(|error| {
                Problem::new(Code::Fault)
                    .what("the revocation list cannot be read")
                    .because(error.to_string())
            })?;
            let listed = list
                .iter_revoked_certificates()
                .any(|one| one.raw_serial() == certificate.tbs_certificate.raw_serial());
            answers.push(match listed {
                true => answer("revoked", Some(false), format!("it is on the revocation list of {name}")),
                false => answer("revoked", Some(true), format!("not on the revocation list of {name}")),
            });
        }
        _ => answers.push(answer("registered", None, "it is no device's, by who has signed it")),
    }
    Ok(())
}

fn show(
    asked: &CertVerify,
    id: &CertificateId,
    certificate: &X509Certificate<'_>,
    answers: &[Answer],
    good: bool,
    screen: &Screen,
) {
    if screen.output.is_json() {
        let checks: Vec<_> = answers
            .iter()
            .map(|of| {
                let outcome = of.good.map_or("not_asked", |good| if good { "yes" } else { "no" });
                json!({ "check": of.check, "outcome": outcome, "said": of.said })
            })
            .collect();
        let document = json!({
            "schema": "muster.cert.verify/1",
            "certificate_id": id.to_string(),
            "subject": certificate.subject().to_string(),
            "issuer": certificate.issuer().to_string(),
            "good": good,
            "checks": checks,
        });
        return screen.raw(&document.to_string());
    }
    screen.line(format!("{} · SHA-256 {id}", asked.file.display()));
    screen.line(format!("  subject {} · issuer {}", certificate.subject(), certificate.issuer()));
    for of in answers {
        let (mark, style) = match of.good {
            Some(true) => (screen.glyph("✓", "ok"), Style::Green),
            Some(false) => (screen.glyph("✕", "x"), Style::Red),
            None => (screen.glyph("·", "."), Style::Quiet),
        };
        screen.pieces(&[
            Text::plain("  "),
            Text::new(mark, style),
            Text::plain(format!(" {:<10} {}", of.check, of.said)),
        ]);
    }
}
