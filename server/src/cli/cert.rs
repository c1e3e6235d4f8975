//! `muster cert revoke` is [`group`]'s. `muster cert issue`: a certificate for a service, with a new key, by the authority whose key the server's
//! bundle holds. It is made on the server's host and needs no running server.
//!
//! ```text
//! DIR/                  0700
//!   NAME.pem            certificate and authority, to show
//!   NAME.key.pem        0600, PKCS #8: the one copy of the key
//!   broker-ca.pem       what the service trusts: the broker CA, self-signed, as OpenSSL wants an anchor to be
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use muster_pki::{
    Authority, CaCertificate, CertificateSerial, Intent, Issued, Ledger, Profile, Request, Signer as _,
    SoftKey,
    keyfile::{self, FileError},
};
use muster_shared::{Code, ServiceName, factory::Subject, id::IdError};
use serde_json::{Value, json};

use super::{
    Done,
    args::{Cert, CertIssue},
    certs,
    client::Client,
    group,
    screen::Screen,
    words,
};
use crate::{
    api::{error::Problem, time},
    config::Config,
    init::open_bundle,
    registry::now_ms,
};

/// In the data directory: everything that was signed here, a line before and a line after.
const LEDGER: &str = "issued.jsonl";

pub(super) fn run(verb: &Cert, config: &Config, screen: &Screen) -> Result<Done, Problem> {
    match verb {
        Cert::Issue(args) => issue(args, config, screen),
        Cert::Revoke(revoke) => group::revoke_certificate(revoke, &Client::new(config)?, screen),
        other => certs::run(other, &Client::new(config)?, screen),
    }
}

fn issue(args: &CertIssue, config: &Config, screen: &Screen) -> Result<Done, Problem> {
    let name: ServiceName = args.service.parse().map_err(|error: IdError| {
        Problem::new(Code::UsageWrong)
            .what(error.to_string())
            .at("--service")
            .next("muster cert issue --help")
    })?;
    let (bundle, _) = open_bundle(&config.keys.bundle, &config.keys.passphrase_file)?;
    let files = Files::of(&args.out, &name);
    let anchor = bundle.broker.anchor((now_ms() / 1000).cast_signed()).map_err(|error| fault(&error))?;
    files.make(&anchor, bundle.broker.certificate()).map_err(|error| unwritable(&error))?;
    let key = SoftKey::generate().map_err(|error| fault(&error))?;
    // The key is on disk before there is a certificate for it.
    keyfile::write_open_key(&files.key, &key).map_err(|error| unwritable(&error))?;
    let authority = Authority::new(&bundle.service);
    let signed = sign(&authority, &name, &key, &config.data_dir).and_then(|issued| {
        let chain = [&issued.certificate[..], authority.certificate().der()];
        keyfile::write_chain(&files.certificate, &chain).map_err(|error| unwritable(&error))?;
        Ok(issued)
    });
    let issued = signed.inspect_err(|_| {
        // A key without a certificate is of no use to anybody.
        let _ = fs::remove_file(&files.key);
    })?;
    tell(&name, &issued, &files, config, screen);
    Ok(Done::Well)
}

fn sign(authority: &Authority, name: &ServiceName, key: &SoftKey, dir: &Path) -> Result<Issued, Problem> {
    let path = dir.join(LEDGER);
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

fn tell(name: &ServiceName, issued: &Issued, files: &Files, config: &Config, screen: &Screen) {
    let ends = time::from_s(issued.intent.not_after_s);
    let configured = config.services.iter().any(|entry| entry.service.name() == name.as_str());
    if screen.output.is_json() {
        let document = json!({
            "schema": "muster.cert.issue/1",
            "service": name.as_str(),
            "certificate_id": issued.id.to_string(),
            "ends_at": ends,
            "certificate": files.certificate,
            "key": files.key,
            "ca": files.broker,
            "configured": configured,
        });
        return screen.raw(&document.to_string());
    }
    screen.line(format!("{:<15} {}", "certificate", files.certificate.display()));
    screen.line(format!("{:<15} {}", "its key", files.key.display()));
    screen.line(format!("{:<15} {}", "broker trust", files.broker.display()));
    screen.line(format!("{:<15} {}", "SHA-256", issued.id));
    screen.line(format!("{:<15} {}", "ends", words::instant(&ends)));
    if !configured {
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
    broker: PathBuf,
}

impl Files {
    fn of(dir: &Path, name: &ServiceName) -> Self {
        Self {
            dir: dir.to_owned(),
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key.pem")),
            broker: dir.join("broker-ca.pem"),
        }
    }

    /// Makes the folder and what is the same for every service; refuses to replace the rest, before anything
    /// is signed.
    fn make(&self, anchor: &str, broker: &CaCertificate) -> Result<(), FileError> {
        keyfile::make_folder(&self.dir)?;
        for path in [&self.certificate, &self.key] {
            if path.exists() {
                return Err(FileError::Exists(path.clone()));
            }
        }
        let there = fs::read(&self.broker).ok().and_then(|pem| keyfile::certificate_from_pem(&pem));
        if there.is_some_and(|there| broker.vouches_for(&there).is_ok()) {
            // Another service's, of the same broker CA.
            return Ok(());
        }
        keyfile::write(&self.broker, anchor.as_bytes(), 0o644)
    }
}

fn unwritable(error: &FileError) -> Problem {
    Problem::new(Code::FileUnreadable)
        .what("the service's files cannot be written")
        .at("--out")
        .because(error.to_string())
        .next("give a directory where these files are not yet: --out DIR")
}

fn fault(error: &dyn std::error::Error) -> Problem {
    Problem::new(Code::Fault).what("no certificate was issued").because(error.to_string())
}

/// A ledger of lines, each on disk before the next step.
struct Lines(File);

impl Lines {
    fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(path).map(Self)
    }

    fn add(&mut self, line: &Value) -> io::Result<()> {
        // One write a line: two commands at once do not mix theirs.
        self.0.write_all(format!("{line}\n").as_bytes())?;
        self.0.sync_all()
    }
}

impl Ledger for Lines {
    type Error = io::Error;

    fn find(&self, _: Profile, _: &Subject) -> io::Result<Option<Intent>> {
        // A device's certificates are the registry's.
        Ok(None)
    }

    fn intend(&mut self, intent: &Intent) -> io::Result<()> {
        self.add(&json!({ "intended": intent }))
    }

    fn issued(&mut self, intent: &Intent, certificate: &[u8]) -> io::Result<()> {
        let serial = intent.certificate_serial.to_string();
        self.add(&json!({ "issued": serial, "certificate": hex::encode(certificate) }))
    }
}
