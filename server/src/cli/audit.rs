//! `muster audit …`: who decided what, and whether the record of it is whole.

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
    words,
};
use crate::{
    api::{
        audit::verdict_offline,
        error::Problem,
        view::{AuditHead, AuditRow, AuditVerdict, Page},
    },
    app::Addresses,
    config::Config,
};

pub(super) fn run(verb: Audit, global: &Global, config: &Config, screen: &Screen) -> Result<Done, Problem> {
    match verb {
        Audit::List(list) => self::list(&list, &Client::new(config)?, screen),
        Audit::Verify(verify) => self::verify(&verify, global, config, screen),
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
    let document = pages(client, "/v1/audit", "", Some(list.after.to_string()), list.limit)?;
    let page: Page<AuditRow> = read(&document)?;
    let about = About {
        noun: "record",
        total: page.total,
        filter: None,
        next: page.next.as_deref(),
        empty: "no records after that number; the newest is the last of: muster audit list",
    };
    table::print(screen, &document, &page.items, COLUMNS, &about);
    Ok(Done::Well)
}

fn verify(verify: &AuditVerify, global: &Global, config: &Config, screen: &Screen) -> Result<Done, Problem> {
    let checkpoint = verify.checkpoint.as_deref().map(read_checkpoint).transpose()?;
    // A data directory that was named and that no server runs on is read directly.
    let idle = global.data_dir.is_some()
        && config.client.server.is_none()
        && Addresses::read(&config.data_dir).is_none();
    let document = if verify.offline || idle {
        let verdict = verdict_offline(&config.data_dir, checkpoint.as_ref())?;
        serde_json::to_value(verdict).map_err(|error| Problem::new(Code::Fault).because(error.to_string()))?
    } else {
        let query = checkpoint.map_or(String::new(), |head| {
            format!("?checkpoint_no={}&checkpoint_digest={}", head.no, encode(&head.digest))
        });
        Client::new(config)?.get(&format!("/v1/audit/verify{query}"))?
    };
    let verdict: AuditVerdict = read(&document)?;
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

/// A head as `audit verify --json` printed it, alone or within the whole document.
fn read_checkpoint(path: &std::path::Path) -> Result<AuditHead, Problem> {
    let octets = slurp(path)?;
    let document: Value = serde_json::from_slice(&octets).unwrap_or(json!(null));
    let head = document.get("head").unwrap_or(&document);
    serde_json::from_value(head.clone()).map_err(|error| {
        Problem::new(Code::UsageWrong)
            .what("the checkpoint file holds no head of an audit log")
            .at(path.display().to_string())
            .because(error.to_string())
            .next("keep one with: muster audit verify --json > FILE")
    })
}
