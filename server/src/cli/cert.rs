//! `muster cert issue`: a certificate for a service or an operator, with a new key, by the authority whose key
//! the server's bundle holds. It is made on the server's host and needs no running server. `muster cert revoke`
//! is [`group`]'s.
//!
//! ```text
//! DIR/                  0700
//!   NAME.pem            certificate and authority, to show
//!   NAME.key.pem        0600, PKCS #8: the one copy of the key
//!   broker-ca.pem       what a service trusts: the broker CA, self-signed, as OpenSSL wants an anchor to be
//!   https-ca.pem        what an operator's program trusts: the HTTPS CA, in the same form
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use muster_pki::{
    Authority, CaCertificate, CertificateSerial, Issued, Request, Signer as _, SoftKey,
    keyfile::{self, FileError},
};
use muster_shared::{Code, ServiceName, id::IdError};
use serde_json::json;

use super::{
    Done,
    args::{Cert, CertIssue},
    certs,
    client::Client,
    group,
    screen::Screen,
    verify, words,
};
use crate::{
    api::{error::Problem, time},
    config::Config,
    init::open_bundle,
    issued::{self, Lines},
    registry::now_ms,
};

pub(super) fn run(verb: &Cert, config: &Config, screen: &Screen) -> Result<Done, Problem> {
    match verb {
        Cert::Issue(args) => issue(args, config, screen),
        Cert::Revoke(revoke) => group::revoke_certificate(revoke, &Client::new(config)?, screen),
        Cert::Verify(verify) => verify::run(verify, config, screen),
        other => certs::run(other, &Client::new(config)?, screen),
    }
}

/// Whom a certificate is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Service,
    Operator,
}

impl Holder {
    fn word(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Operator => "operator",
        }
    }
}

fn issue(args: &CertIssue, config: &Config, screen: &Screen) -> Result<Done, Problem> {
    let (holder, said) = match (&args.service, &args.operator) {
        (Some(name), _) => (Holder::Service, name.as_str()),
        (None, name) => (Holder::Operator, name.as_deref().unwrap_or_default()),
    };
    let name: ServiceName = said.parse().map_err(|error: IdError| {
        Problem::new(Code::UsageWrong)
            .what(error.to_string())
            .at(format!("--{}", holder.word()))
            .next("muster cert issue --help")
    })?;
    let (bundle, _) = open_bundle(&config.keys.bundle, &config.keys.passphrase_file)?;
    let (issuer, trusted) = match holder {
        Holder::Service => (&bundle.service, &bundle.broker),
        Holder::Operator => (&bundle.operator, &bundle.https),
    };
    let files = Files::of(&args.out, &name, holder);
    let anchor = trusted.anchor((now_ms() / 1000).cast_signed()).map_err(|error| fault(&error))?;
    files.make(&anchor, trusted.certificate()).map_err(|error| unwritable(&error))?;
    let key = SoftKey::generate().map_err(|error| fault(&error))?;
    // The key is on disk before there is a certificate for it.
    keyfile::write_open_key(&files.key, &key).map_err(|error| unwritable(&error))?;
    let authority = Authority::new(issuer);
    let signed = sign(&authority, &name, &key, &config.data_dir).and_then(|issued| {
        let chain = [&issued.certificate[..], authority.certificate().der()];
        keyfile::write_chain(&files.certificate, &chain).map_err(|error| unwritable(&error))?;
        Ok(issued)
    });
    let issued = signed.inspect_err(|_| {
        // A key without a certificate is of no use to anybody.
        let _ = fs::remove_file(&files.key);
    })?;
    tell(holder, &name, &issued, &files, config, screen);
    Ok(Done::Well)
}

fn sign(authority: &Authority, name: &ServiceName, key: &SoftKey, dir: &Path) -> Result<Issued, Problem> {
    let path = issued::path(dir);
    let kept = |error: &io::Error| {
        Problem::new(Code::DataDirectory).at(path.display().to_string()).because(error.to_string())
    };
    let mut ledger = Lines::open(&path).map_err(|error| kept(&error))?;
    let fresh = CertificateSerial::draw().map_err(|error| fault(&error))?;
    let request = Request::Named { name: name.as_str(), key: key.public_key() };
    let now_s = i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX);
    authority.issue(&request, &mut ledger, fresh, now_s).map_err(|error| match error {
        muster_pki::authority::IssueError::Ledger(error) => kept(&error),
        error => fault(&error),
    })
}

fn tell(
    holder: Holder,
    name: &ServiceName,
    issued: &Issued,
    files: &Files,
    config: &Config,
    screen: &Screen,
) {
    let ends = time::from_s(issued.intent.not_after_s);
    let configured = config.services.iter().any(|entry| entry.service.name() == name.as_str());
    if screen.output.is_json() {
        let document = json!({
            "schema": "muster.cert.issue/1",
            (holder.word()): name.as_str(),
            "certificate_id": issued.id.to_string(),
            "ends_at": ends,
            "certificate": files.certificate,
            "key": files.key,
            "ca": files.trust,
            "configured": configured,
        });
        return screen.raw(&document.to_string());
    }
    screen.line(format!("{:<15} {}", "certificate", files.certificate.display()));
    screen.line(format!("{:<15} {}", "its key", files.key.display()));
    let trust = if holder == Holder::Service { "broker trust" } else { "HTTPS trust" };
    screen.line(format!("{trust:<15} {}", files.trust.display()));
    screen.line(format!("{:<15} {}", "SHA-256", issued.id));
    screen.line(format!("{:<15} {}", "ends", words::instant(&ends)));
    if holder == Holder::Operator {
        screen.footer(format!("next: muster operator add {name} --role ROLE, unless {name} is one already"));
    } else if !configured {
        screen.footer(format!(
            "next: give it a [[service]] entry named \"{name}\", then start the server again"
        ));
    }
}

/// Where it goes.
struct Files {
    dir: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    trust: PathBuf,
}

impl Files {
    fn of(dir: &Path, name: &ServiceName, holder: Holder) -> Self {
        let trust = if holder == Holder::Service { "broker-ca.pem" } else { "https-ca.pem" };
        Self {
            dir: dir.to_owned(),
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key.pem")),
            trust: dir.join(trust),
        }
    }

    /// Makes the folder and what is the same for every holder; refuses to replace the rest, before anything
    /// is signed.
    fn make(&self, anchor: &str, trusted: &CaCertificate) -> Result<(), FileError> {
        keyfile::make_folder(&self.dir)?;
        for path in [&self.certificate, &self.key] {
            if path.exists() {
                return Err(FileError::Exists(path.clone()));
            }
        }
        let there = fs::read(&self.trust).ok().and_then(|pem| keyfile::certificate_from_pem(&pem));
        if there.is_some_and(|there| trusted.vouches_for(&there).is_ok()) {
            // Another's, of the same CA.
            return Ok(());
        }
        keyfile::write(&self.trust, anchor.as_bytes(), 0o644)
    }
}

fn unwritable(error: &FileError) -> Problem {
    Problem::new(Code::FileUnreadable)
        .what("the files cannot be written")
        .at("--out")
        .because(error.to_string())
        .next("give a directory where these files are not yet: --out DIR")
}

fn fault(error: &dyn std::error::Error) -> Problem {
    Problem::new(Code::Fault).what("no certificate was issued").because(error.to_string())
}
