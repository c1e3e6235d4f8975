//! `muster cert list`, `show` and `inspect`: certificates of devices, and what a file says.

use muster_pki::DeviceIdentity;
use muster_shared::{CertificateId, Code};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::path::Path;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    Done,
    args::{Cert, CertList},
    batch::slurp,
    client::{Client, read},
    device::{encode, pages},
    screen::{Screen, Style, Text},
    table::{self, About, Column},
    watch::{self, Watched},
    whole, words,
};
use crate::api::{
    error::Problem,
    time,
    view::{CertificateDetail, ListedCertificate, Page},
};

pub(super) fn run(verb: &Cert, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    match verb {
        Cert::List(asked) => list(asked, client, screen),
        Cert::Show { id } => show(id, client, screen),
        Cert::Inspect { file } => inspect(file, client, screen),
        // `cert::run` does these.
        Cert::Issue(_) | Cert::Revoke(_) | Cert::Verify(_) => Ok(Done::Well),
    }
}

const COLUMNS: &[Column<ListedCertificate>] = &[
    Column { head: "CERT-ID", wide: false, cell: |of, _| Text::plain(words::short(&of.certificate_id)) },
    Column { head: "SERIAL", wide: false, cell: |of, _| Text::plain(&of.serial) },
    Column {
        head: "STATUS",
        wide: false,
        cell: |of, _| {
            let style = if of.status == "revoked" { Style::Red } else { Style::Plain };
            let why = of.revocation_reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            Text::new(format!("{}{why}", of.status), style)
        },
    },
    Column { head: "ISSUER", wide: false, cell: |of, _| Text::plain(words::short(&of.issuer)) },
    Column { head: "ENDS", wide: false, cell: |of, _| Text::plain(words::day(&of.not_after)) },
    Column { head: "NOT-BEFORE", wide: true, cell: |of, _| Text::plain(words::day(&of.not_before)) },
    Column { head: "TENANT", wide: true, cell: |of, _| Text::plain(&of.tenant) },
    // There is one kind of each (DESIGN §3).
    Column { head: "KEY", wide: true, cell: |_, _| Text::plain("P-256") },
    Column { head: "SIG", wide: true, cell: |_, _| Text::plain("ecdsa-with-SHA256") },
    Column {
        head: "REPLACED-BY",
        wide: true,
        cell: |of, _| Text::plain(of.replaced_by.as_deref().map_or("nothing", words::short)),
    },
];

fn list(asked: &CertList, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let mut wanted = whole::asked(asked.filter.as_deref(), &["status", "issuer", "ends"])?;
    let flags = [
        ("status", asked.status.clone()),
        ("issuer", asked.issuer.clone()),
        ("ends", asked.ends.map(|days| days.to_string())),
    ];
    wanted.extend(flags.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    let name = |key: &str| if key == "ends" { "ends_days".to_owned() } else { key.to_owned() };
    let query: String =
        wanted.iter().map(|(key, value)| format!("&{}={}", name(key), encode(value))).collect();
    if asked.watch {
        let watched = Watched {
            path: "/v1/certificates",
            query: &query,
            after: asked.paged.after.as_deref(),
            limit: asked.paged.limit,
            narrow: None,
            columns: COLUMNS,
            name: |of: &ListedCertificate| of.certificate_id.clone(),
        };
        return watch::run(&watched, client, screen);
    }
    let document = pages(client, "/v1/certificates", &query, asked.paged.after.clone(), asked.paged.limit)?;
    let page: Page<ListedCertificate> = read(&document)?;
    let about = About {
        noun: "certificate",
        total: page.total,
        filter: asked.filter.as_deref(),
        next: page.next.as_deref(),
        empty: "no certificate is so. All of them: muster cert list",
    };
    table::print(screen, &document, &page.items, COLUMNS, &about);
    Ok(Done::Well)
}

fn show(id: &str, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let document = client.get(&format!("/v1/certificates/{}", encode(id)))?;
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(Done::Well);
    }
    let detail: CertificateDetail = read(&document)?;
    known(&detail, screen);
    screen.raw(detail.pem.trim_end());
    Ok(Done::Well)
}

fn known(detail: &CertificateDetail, screen: &Screen) {
    let of = &detail.certificate;
    let line = |label: &str, said: String| screen.line(format!("{label:<12} {said}"));
    line("certificate", of.certificate_id.clone());
    line("device", format!("{}/{} · {}", of.tenant, of.serial, detail.device_state));
    let why = of.revocation_reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    let at = of.revoked_at.as_deref().map(|at| format!(" at {}", words::instant(at))).unwrap_or_default();
    line("status", format!("{}{why}{at}", of.status));
    line("issuer", format!("key {}", of.issuer));
    line("good", format!("{} to {}", words::instant(&of.not_before), words::instant(&of.not_after)));
    if let Some(by) = &of.replaced_by {
        line("replaced by", by.clone());
    }
}

/// The certificate a file is about: the first of a PEM text, behind which its authority's may stand, as in what
/// `muster cert issue` writes; else what is in the file as it is.
pub(super) fn own(octets: Vec<u8>) -> Vec<u8> {
    let first = CertificateDer::pem_slice_iter(&octets).next().and_then(Result::ok);
    first.map(|der| der.to_vec()).unwrap_or(octets)
}

/// Reads a certificate and nothing behind it.
pub(super) fn parsed<'a>(der: &'a [u8], file: &Path) -> Result<X509Certificate<'a>, Problem> {
    let unreadable = |why: String| {
        Problem::new(Code::CertificateProfile)
            .what("this is no certificate")
            .at(file.display().to_string())
            .because(why)
            .next("give a certificate in PEM or DER")
    };
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(unreadable(format!("{} octets follow it", rest.len()))),
        Err(_) => Err(unreadable("it holds neither a certificate in PEM nor one in DER".to_owned())),
    }
}

/// What a file says by itself, and what the server knows of it. Exit 4 when it knows nothing.
fn inspect(file: &Path, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let der = own(slurp(file)?);
    let certificate = parsed(&der, file)?;
    let id = CertificateId(Sha256::digest(&der).into());
    let identity = DeviceIdentity::from_certificate(&der);
    let profile = match &identity {
        Ok(of) => format!("a device's: {}/{}, device id {}", of.tenant, of.serial, of.device_id),
        Err(error) => format!("not a device's: {error}"),
    };
    let validity = certificate.validity();
    let (from, to) =
        (time::from_s(validity.not_before.timestamp()), time::from_s(validity.not_after.timestamp()));
    let found = client.get(&format!("/v1/certificates/{id}"));
    if screen.output.is_json() {
        let document = json!({
            "schema": "muster.cert.inspect/1",
            "certificate_id": id.to_string(),
            "subject": certificate.subject().to_string(),
            "issuer": certificate.issuer().to_string(),
            "not_before": from,
            "not_after": to,
            "profile": profile,
            "known": found.as_ref().ok(),
        });
        screen.raw(&document.to_string());
        return found.map(|_| Done::Well);
    }
    let line = |label: &str, said: String| screen.line(format!("{label:<12} {said}"));
    line("file", file.display().to_string());
    line("SHA-256", id.to_string());
    line("subject", certificate.subject().to_string());
    line("issuer", certificate.issuer().to_string());
    line("good", format!("{} to {}", words::instant(&from), words::instant(&to)));
    line("is", profile);
    let detail: CertificateDetail = read(&found?)?;
    known(&detail, screen);
    Ok(Done::Well)
}
