//! A new authority in the place of one of the server's own, in two steps with the root in between: what is asked
//! for is made here, with its key; what the root signed is installed here.
//!
//! The key of the new authority never leaves the server, and the root's never comes to it. The new authority
//! issues from the server's next start on; the old one stays trusted for what it has issued, and stays whole for
//! its revocation lists.

use axum::{Json, extract::State};
use muster_pki::{
    CaCertificate, Purpose,
    bundle::{
        BundleError,
        rotation::{self, Asked, ROTATING},
    },
    keyfile::{self, FileError},
};
use muster_shared::Code;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Document, Doors, Path,
    auth::{Caller, Need},
    certificates::fingerprint,
    error::Problem,
    routes::{About, Routes},
    view,
};
use crate::{
    config::Keys,
    init::read_passphrase,
    registry::{Actor, AuditFilter, AuditRow, Scope, is_full},
};

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.post(
        "/v1/authorities/{name}/rotate",
        rotate,
        About::new(
            "Ask for a new authority in the place of one of the server's own, or install the root's answer",
        )
        .takes::<Posted>()
        .answers::<view::Rotation>("authority.rotation")
        .refuses([
            Code::CertificateUnknown,
            Code::AuthorityPinned,
            Code::AuthorityAnswer,
            Code::FileUnreadable,
            Code::KeyFileUnreadable,
        ]),
    )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Posted {
    /// Why, for the audit log.
    reason: Option<String>,
    /// The root's answer, PEM. Without it the request is made, or told again.
    certificate: Option<String>,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    dry_run: bool,
}

async fn rotate(
    caller: Caller,
    State(doors): State<Doors>,
    Path(name): Path<String>,
    Document(posted): Document<Posted>,
) -> Result<Json<view::Rotation>, Problem> {
    // The server's own authorities are every tenant's.
    let actor = caller.may_everywhere(Need::Trust)?;
    let current = doors.held.current(&name)?.certificate().clone();
    let purpose = current.purpose();
    if !ROTATING.contains(&purpose) {
        return Err(Problem::new(Code::AuthorityPinned).at(format!("authority {name}")).because(match purpose {
            Purpose::Broker => "every device pins it since it was made, and would not know another",
            _ => "commands and programs hold a copy of it; https.certificate gives the server another certificate",
        }));
    }
    let reason = posted.reason.unwrap_or_default().trim().to_owned();
    crate::registry::Reason::new(&reason).check_text()?;
    // One at a time: two would make two keys for one request.
    let _turn = doors.held.turn().await;
    let step = Step { doors: &doors, actor, current, reason, dry_run: posted.dry_run };
    let answer = match posted.certificate {
        None => step.ask().await,
        Some(pem) => step.install(&pem).await,
    };
    answer.map(Json)
}

/// One of the two steps.
struct Step<'a> {
    doors: &'a Doors,
    actor: &'a Actor,
    current: CaCertificate,
    reason: String,
    dry_run: bool,
}

impl Step<'_> {
    /// Makes the key and the request, or tells the request that is not answered yet.
    async fn ask(&self) -> Result<view::Rotation, Problem> {
        let keys = &self.doors.facts.keys;
        let purpose = self.current.purpose();
        if self.dry_run {
            let asked = rotation::asked(&keys.bundle, purpose).map_err(|error| unusable(keys, &error))?;
            return Ok(self.told("ask", asked.as_ref(), None, asked.is_some()));
        }
        let (dir, file, current) = (keys.bundle.clone(), keys.passphrase_file.clone(), self.current.clone());
        // Encrypting the key takes a good part of a second of computing.
        let made = tokio::task::spawn_blocking(move || {
            let passphrase = read_passphrase(&file)?;
            Ok(rotation::prepare(&dir, &current, &passphrase))
        });
        let made: Result<_, Problem> = made.await.map_err(|_| Problem::new(Code::Fault))?;
        let asked = made?.map_err(|error| unusable(keys, &error))?;
        let mut answer = self.told("ask", Some(&asked), None, asked.already);
        if !asked.already {
            // On the record before there is a request: there is none that nobody decided about.
            answer.audit_no = Some(self.record("authority.request", asked.request.key().key_id()).await?);
            rotation::ask(&keys.bundle, &asked).map_err(|error| unusable(keys, &error))?;
        }
        Ok(answer)
    }

    /// Takes the root's answer to what was asked.
    async fn install(&self, pem: &str) -> Result<view::Rotation, Problem> {
        let keys = &self.doors.facts.keys;
        let purpose = self.current.purpose();
        let no_answer = |why: String| Problem::new(Code::AuthorityAnswer).because(why);
        let der = keyfile::certificate_from_pem(pem.as_bytes())
            .ok_or_else(|| no_answer("it is not one certificate in PEM".to_owned()))?;
        let root = self.doors.held.root();
        let newest = rotation::newest(&keys.bundle, purpose, root).map_err(|error| unusable(keys, &error))?;
        if let Some(installed) = newest.filter(|newest| newest.der() == der) {
            return Ok(self.told("install", None, Some(&installed), true));
        }
        let asked = rotation::asked(&keys.bundle, purpose).map_err(|error| unusable(keys, &error))?;
        let asked = asked.ok_or_else(|| no_answer(format!("no {purpose} authority was asked for")))?;
        let answer = rotation::check(&asked, &der, root).map_err(|error| no_answer(error.to_string()))?;
        let mut told = self.told("install", None, Some(&answer), false);
        if self.dry_run {
            return Ok(told);
        }
        // On the record before it is in force: an authority that nobody decided about is never there.
        told.audit_no = Some(self.record("authority.rotate", answer.key_id()).await?);
        rotation::install(&keys.bundle, &answer).map_err(|error| unusable(keys, &error))?;
        Ok(told)
    }

    /// The number of the row that says so. It is there already when the step was cut short behind it: who repeats
    /// the step ends it, and it was decided once.
    async fn record(&self, action: &'static str, key_id: [u8; 20]) -> Result<u64, Problem> {
        let (registry, key_id) = (&self.doors.registry, hex::encode(key_id));
        let name = self.current.purpose().word();
        let newest = AuditFilter {
            action: Some(action.to_owned()),
            target: Some(name.to_owned()),
            newest_first: true,
            ..AuditFilter::default()
        };
        let newest = registry.audit_page(&Scope::Every, &newest, None, 1).await?.items.pop();
        let is_this = |row: &AuditRow| {
            serde_json::from_str::<Value>(&row.detail).is_ok_and(|detail| detail["key_id"] == *key_id)
        };
        if let Some(row) = newest.filter(is_this) {
            return Ok(row.no);
        }
        let detail = json!({ "key_id": key_id, "former": hex::encode(self.current.key_id()) });
        Ok(registry.record(self.actor, action, name, &self.reason, detail).await?)
    }

    fn told(
        &self,
        step: &str,
        asked: Option<&Asked>,
        answer: Option<&CaCertificate>,
        already: bool,
    ) -> view::Rotation {
        let key_id = asked.map(|of| of.request.key().key_id()).or(answer.map(CaCertificate::key_id));
        let subject = asked.map(|of| of.request.name()).or(answer.map(CaCertificate::name));
        let mut rotation = view::Rotation {
            schema: "muster.authority.rotation/1".to_owned(),
            authority: self.current.purpose().word().to_owned(),
            step: step.to_owned(),
            already,
            dry_run: self.dry_run,
            subject: subject.map(ToOwned::to_owned),
            key_id: key_id.map(hex::encode),
            request: asked.map(|of| of.pem.clone()),
            fingerprint: answer.map(|ca| fingerprint(ca).to_string()),
            former_key_id: hex::encode(self.current.key_id()),
            next: String::new(),
            audit_no: None,
        };
        rotation.next = next(&rotation);
        rotation
    }
}

/// What happens next, said to a person.
fn next(of: &view::Rotation) -> String {
    let name = &of.authority;
    match (of.step.as_str(), &of.key_id) {
        ("ask", Some(key_id)) => format!(
            "carry the request to where the root is kept; there: muster-factory sign-authority request.pem --key \
             {key_id} --root root --out {name}-ca.pem; back here: muster ca rotate {name} --certificate {name}-ca.pem"
        ),
        ("ask", None) => {
            format!(
                "a key and a request for the root would be made; nothing else changes: muster ca rotate {name}"
            )
        }
        _ => format!(
            "it issues from the server's next start on; the one before stays trusted for what it has issued, until: \
             muster ca withdraw {}",
            of.former_key_id
        ),
    }
}

fn unusable(keys: &Keys, error: &BundleError) -> Problem {
    tracing::error!(%error, "the key bundle cannot be used");
    if let BundleError::File(FileError::Io { source, .. }) = error
        && is_full(source)
    {
        return Problem::new(Code::NotStored).at(keys.bundle.display().to_string());
    }
    Problem::new(Code::FileUnreadable)
        .what("the server's key bundle cannot be used")
        .at(keys.bundle.display().to_string())
        .because(error.to_string())
}
