//! `muster audit …`: who decided what, and whether the record of it is whole.

use std::{io::Write as _, path::Path};

use muster_pki::PublicKey;
use muster_shared::Code;
use serde_json::{Value, json};

use super::{
    Done,
    args::{Audit, AuditList, AuditVerify, Global},
    batch::slurp,
    client::{Client, read},
    device::{encode, pages},
    screen::{Screen, Style, Text},
    table::{self, About, Column, thousands},
    token::{new_file, unwritable},
    watch::{self, Watched},
    whole, words,
};
use crate::{
    api::{
        audit::{self, verdict, verdict_offline},
        error::Problem,
        view::{self, AuditKey, AuditRow, AuditVerdict, Page},
    },
    app::Addresses,
    config::Config,
    registry::{
        AuditHead, Checkpoint,
        audit::{
            checkpoint::{CheckpointDocument, read_public_key},
            export,
        },
    },
};

pub(super) fn run(verb: Audit, global: &Global, config: &Config, screen: &Screen) -> Result<Done, Problem> {
    match verb {
        Audit::List(list) => self::list(&list, &Client::new(config)?, screen),
        Audit::Verify(verify) => match &verify.file {
            Some(file) => verify_export(file, &verify, screen),
            None => self::verify(&verify, global, config, screen),
        },
        Audit::Export { out } => export(&out, &Client::new(config)?, screen),
        Audit::Checkpoint { out } => checkpoint(out.as_deref(), &Client::new(config)?, screen),
        Audit::Key => {
            let document = Client::new(config)?.get("/v1/audit/key")?;
            if screen.output.is_json() {
                screen.raw(&document.to_string());
            } else {
                let key: AuditKey = read(&document)?;
                screen.raw(key.pem.trim_end());
                screen.footer(format!("SHA-256 {}", key.key));
            }
            Ok(Done::Well)
        }
    }
}

const COLUMNS: &[Column<AuditRow>] = &[
    Column { head: "NO.", wide: false, cell: |of, _| Text::plain(of.no.to_string()) },
    Column { head: "TIME", wide: false, cell: |of, _| Text::plain(words::instant(&of.at)) },
    Column { head: "ACTOR", wide: false, cell: |of, _| Text::plain(&of.actor) },
    Column { head: "ACTION", wide: false, cell: |of, _| Text::plain(&of.action) },
    Column { head: "TARGET", wide: false, cell: |of, _| Text::plain(&of.target) },
    Column { head: "ROLE", wide: true, cell: |of, _| Text::plain(&of.role) },
    Column { head: "TOKEN", wide: true, cell: |of, _| Text::plain(of.token.as_deref().unwrap_or("none")) },
    Column {
        head: "REQUEST-ID",
        wide: true,
        cell: |of, _| Text::plain(of.request_id.as_deref().unwrap_or("none")),
    },
    Column {
        head: "ADDRESS",
        wide: true,
        cell: |of, _| Text::plain(of.address.as_deref().unwrap_or("none")),
    },
    Column { head: "PREV-HASH", wide: true, cell: |of, _| Text::plain(words::short(&of.previous)) },
    Column { head: "HASH", wide: true, cell: |of, _| Text::plain(words::short(&of.digest)) },
    Column {
        head: "REASON",
        wide: false,
        cell: |of, _| match &of.reason {
            Some(reason) => Text::plain(reason.replace('\n', " ")),
            None => Text::new("none given", Style::Quiet),
        },
    },
];

fn list(list: &AuditList, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let asked = [
        ("actor", &list.actor),
        ("action", &list.action),
        ("target", &list.target),
        ("since", &list.since),
        ("until", &list.until),
    ];
    let mut wanted = whole::asked(list.filter.as_deref(), &asked.map(|(key, _)| key))?;
    wanted.extend(asked.iter().filter_map(|(key, value)| Some(((*key).to_owned(), (*value).clone()?))));
    let asked = wanted;
    let query: String = asked.iter().map(|(key, value)| format!("&{key}={}", encode(value))).collect();
    let after = list.after.to_string();
    if list.watch {
        let watched = Watched {
            path: "/v1/audit",
            query: &query,
            after: Some(&after),
            limit: list.limit,
            narrow: None,
            columns: COLUMNS,
            name: |of: &AuditRow| of.no.to_string(),
        };
        return watch::run(&watched, client, screen);
    }
    let document = pages(client, "/v1/audit", &query, Some(after), list.limit)?;
    let page: Page<AuditRow> = read(&document)?;
    let said: Vec<_> = asked.iter().map(|(key, value)| format!("{key} {value}")).collect();
    let said = said.join(", ");
    let about = About {
        noun: "record",
        total: page.total,
        filter: (!said.is_empty()).then_some(&*said),
        next: page.next.as_deref(),
        empty: "no records after that number; the newest is the last of: muster audit list",
    };
    table::print(screen, &document, &page.items, COLUMNS, &about);
    Ok(Done::Well)
}

fn verify(verify: &AuditVerify, global: &Global, config: &Config, screen: &Screen) -> Result<Done, Problem> {
    let key = verify.key.as_deref().map(read_key).transpose()?;
    let checkpoint =
        verify.checkpoint.as_deref().map(|path| read_checkpoint(path, key.as_ref())).transpose()?;
    // A data directory that was named and that no server runs on is read directly.
    let idle = global.data_dir.is_some()
        && config.client.server.is_none()
        && Addresses::read(&config.data_dir).is_none();
    let document = if verify.offline || idle {
        let place = config.registry.place(&config.data_dir)?;
        let verdict = verdict_offline(&config.data_dir, &place, key.as_ref(), checkpoint.as_ref())?;
        serde_json::to_value(verdict).map_err(|error| Problem::new(Code::Fault).because(error.to_string()))?
    } else {
        if verify.key.is_some() {
            return Err(Problem::new(Code::UsageWrong)
                .what("a running server checks its log with its own key")
                .at("--key")
                .next("take the log out and check that: muster audit export --out FILE; muster audit verify --file FILE --key PUBKEY"));
        }
        let query = checkpoint.map_or(String::new(), |head| {
            format!("?checkpoint_no={}&checkpoint_digest={}", head.no, hex::encode(head.digest))
        });
        Client::new(config)?.get(&format!("/v1/audit/verify{query}"))?
    };
    told(&read(&document)?, &document, screen)
}

/// Says what was found.
fn told(verdict: &AuditVerdict, document: &Value, screen: &Screen) -> Result<Done, Problem> {
    if screen.output.is_json() {
        screen.raw(&document.to_string());
    } else if verdict.intact {
        let mark = screen.glyph("✓", "ok");
        screen.line(format!(
            "{mark} {} records, hash chain intact, 0 gaps · head {} {}",
            thousands(verdict.rows),
            verdict.head.no,
            words::short(&verdict.head.digest)
        ));
    } else {
        screen.error(
            &Problem::new(Code::AuditBroken)
                .at(format!(
                    "record no. {} · intact up to no. {}",
                    verdict.broken_no.unwrap_or_default(),
                    verdict.head.no
                ))
                .because(verdict.broken_why.clone().unwrap_or_default()),
        );
    }
    Ok(if verdict.intact { Done::Well } else { Done::AnswerIsNo })
}

/// Checks an export: with the key that was given, the file alone and nothing else.
fn verify_export(file: &Path, verify: &AuditVerify, screen: &Screen) -> Result<Done, Problem> {
    let key = verify.key.as_deref().map(read_key).transpose()?;
    let outside = verify.checkpoint.as_deref().map(|path| read_checkpoint(path, key.as_ref())).transpose()?;
    let unreadable = |error: std::io::Error| {
        Problem::new(Code::FileUnreadable).at(file.display().to_string()).because(error.to_string())
    };
    let from = std::io::BufReader::new(std::fs::File::open(file).map_err(unreadable)?);
    let checked = export::check(from, key.as_ref(), outside.as_ref()).map_err(unreadable)?;
    if checked.own_key {
        screen.warning(format!(
            "no --key was given: the checkpoints were checked with the key in the file itself (SHA-256 {}), \
             which whoever forged the file could have made; compare it with: muster audit key",
            words::short(&hex::encode(checked.key))
        ));
    }
    let verdict = verdict(&checked.report);
    let mut document = serde_json::to_value(&verdict)
        .map_err(|error| Problem::new(Code::Fault).because(error.to_string()))?;
    document["key"] = hex::encode(checked.key).into();
    document["key_given"] = (!checked.own_key).into();
    document["checkpoints"] = checked.checkpoints.into();
    told(&verdict, &document, screen)
}

fn export(out: &Path, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let mut file = new_file(out)?;
    let kept = client.get_into("/v1/audit/export", &mut file).and_then(|octets| {
        file.sync_all().map_err(|error| unwritable(out, &error))?;
        Ok(octets)
    });
    let octets = kept.inspect_err(|_| {
        // Half an export proves nothing.
        let _ = std::fs::remove_file(out);
    })?;
    // What cannot be checked here and now cannot be later either.
    let from = std::fs::File::open(out).map_err(|error| unwritable(out, &error))?;
    let checked = export::check(std::io::BufReader::new(from), None, None);
    let checked = checked.map_err(|error| unwritable(out, &error))?;
    let rows = checked.report.intact;
    if screen.output.is_json() {
        screen.raw(
            &json!({
                "schema": "muster.audit.exported/1", "file": out, "octets": octets, "rows": rows,
                "intact": checked.report.broken.is_none(), "key": hex::encode(checked.key),
            })
            .to_string(),
        );
    } else {
        screen.line(format!("{} records in {}", thousands(rows), out.display()));
        screen.footer(format!(
            "check it anywhere: muster audit verify --file {} --key PUBKEY · the key: muster audit key",
            out.display()
        ));
    }
    if let Some(broken) = &checked.report.broken {
        screen.error(
            &Problem::new(Code::AuditBroken).at(format!("record no. {}", broken.no)).because(&broken.why),
        );
        return Ok(Done::AnswerIsNo);
    }
    Ok(Done::Well)
}

fn checkpoint(out: Option<&Path>, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let file = out.map(new_file).transpose()?;
    let document = client.post("/v1/audit/checkpoint", &json!({})).inspect_err(|_| {
        let _ = out.map(std::fs::remove_file);
    })?;
    match (file, out) {
        (Some(mut file), Some(path)) => {
            writeln!(file, "{document}")
                .and_then(|()| file.sync_all())
                .map_err(|error| unwritable(path, &error))?;
            screen.line(format!("the log stands at no. {}, signed: {}", document["no"], path.display()));
        }
        _ => screen.raw(&document.to_string()),
    }
    Ok(Done::Well)
}

fn read_key(path: &Path) -> Result<PublicKey, Problem> {
    read_public_key(&slurp(path)?).map_err(|why| {
        Problem::new(Code::UsageWrong)
            .what("the key file holds no P-256 public key in PEM")
            .at(path.display().to_string())
            .because(why)
            .next("take it from the server itself: muster audit key > FILE")
    })
}

/// A signed checkpoint, or a head as `audit verify --json` printed it, alone or within the whole document.
fn read_checkpoint(path: &Path, key: Option<&PublicKey>) -> Result<AuditHead, Problem> {
    let octets = slurp(path)?;
    let document: Value = serde_json::from_slice(&octets).unwrap_or(json!(null));
    let wrong = |why: String| {
        Problem::new(Code::UsageWrong)
            .what("the checkpoint file holds no checkpoint of an audit log")
            .at(path.display().to_string())
            .because(why)
            .next("keep one with: muster audit checkpoint --out FILE")
    };
    if document.get("signature").is_some() {
        let document: CheckpointDocument =
            serde_json::from_value(document).map_err(|error| wrong(error.to_string()))?;
        let checkpoint = Checkpoint::from_document(&document);
        let checkpoint = checkpoint.ok_or_else(|| wrong("a field of it is malformed".to_owned()))?;
        if key.is_some_and(|key| !checkpoint.is_signed_by(key)) {
            return Err(wrong("it is not signed with the key given".to_owned()));
        }
        return Ok(checkpoint.head);
    }
    let head = document.get("head").unwrap_or(&document);
    let head: view::AuditHead =
        serde_json::from_value(head.clone()).map_err(|error| wrong(error.to_string()))?;
    audit::head(&head)
}
