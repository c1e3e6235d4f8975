//! `muster operator …`: who may act at all.

use std::io::Write as _;

use serde_json::{Value, json};

use super::{
    Done,
    args::Operator,
    client::{Client, read},
    device::encode,
    screen::{Screen, Style, Text},
    table::Column,
    token::{new_file, unwritable},
    whole::Whole,
    words,
};
use crate::{
    api::{
        error::Problem,
        view::{self, Invitation, OperatorDetail},
    },
    app::host_secret,
    config::Config,
};

const COLUMNS: &[Column<view::Operator>] = &[
    Column { head: "NAME", wide: false, cell: |of, _| Text::plain(&of.name) },
    Column {
        head: "ROLE",
        wide: false,
        cell: |of, _| match of.removed_at {
            Some(_) => Text::new(format!("removed ({})", of.role), Style::Quiet),
            None => Text::plain(&of.role),
        },
    },
    Column {
        head: "LAST-SEEN",
        wide: false,
        cell: |of, _| match &of.last_seen_at {
            Some(at) => Text::plain(words::ago(at)),
            None => Text::new("never", Style::Quiet),
        },
    },
    Column { head: "TOKENS", wide: false, cell: |of, _| Text::plain(of.tokens.to_string()) },
    Column {
        head: "TENANT",
        wide: true,
        cell: |of, _| Text::plain(of.tenant.as_deref().unwrap_or("every tenant")),
    },
    Column { head: "ADDED-BY", wide: true, cell: |of, _| Text::plain(&of.added_by) },
    Column { head: "ADDED", wide: true, cell: |of, _| Text::plain(words::instant(&of.added_at)) },
];

const LIST: Whole<view::Operator> = Whole {
    path: "/v1/operators",
    noun: "operator",
    columns: COLUMNS,
    name: |of| of.name.clone(),
    empty: "no operators; add one: muster operator add NAME --role ROLE",
};

pub(super) fn run(verb: Operator, config: &Config, screen: &Screen) -> Result<Done, Problem> {
    match verb {
        Operator::List(narrow) => LIST.run(&narrow, &Client::new(config)?, screen),
        Operator::Add { name, role } => {
            let body = json!({ "name": name, "role": role });
            let document = Client::new(config)?.post("/v1/operators", &body)?;
            told(&document, "added", screen)
        }
        Operator::Remove { names, reason } => {
            let client = Client::new(config)?;
            for name in names {
                told(&act(&client, &name, "remove", &json!({ "reason": reason }))?, "removed", screen)?;
            }
            Ok(Done::Well)
        }
        Operator::Role { name, role, reason } => {
            let body = json!({ "role": role, "reason": reason });
            told(&act(&Client::new(config)?, &name, "role", &body)?, "changed", screen)
        }
        Operator::Invite { name, role, out } => {
            // The file is made first: a link that cannot be kept is not asked for.
            let file = out.as_deref().map(new_file).transpose()?;
            let body = json!({ "role": role });
            let asked = for_invitations(config)
                .and_then(|client| Ok((client.base().to_owned(), act(&client, &name, "invite", &body)?)));
            let (base, document) = asked.inspect_err(|_| {
                let _ = out.as_deref().map(std::fs::remove_file);
            })?;
            let link: Invitation = read(&document)?;
            let url = format!("{base}{}", link.path);
            if let (Some(mut file), Some(path)) = (file, &out) {
                writeln!(file, "{url}")
                    .and_then(|()| file.sync_all())
                    .map_err(|error| unwritable(path, &error))?;
                screen.line(format!(
                    "the link for {} ({}) is in {}",
                    link.operator,
                    link.role,
                    path.display()
                ));
            } else if screen.output.is_json() {
                screen.raw(&document.to_string());
                return Ok(Done::Well);
            } else {
                screen.line(&url);
            }
            screen.footer(format!(
                "lets {} in as {}, once, until {} · in a browser, or with: muster login",
                link.operator,
                link.role,
                words::instant(&link.ends_at)
            ));
            Ok(Done::Well)
        }
    }
}

/// On the server's host whoever can read its data directory needs no token, so that nobody is locked out.
fn for_invitations(config: &Config) -> Result<Client, Problem> {
    match host_secret(&config.data_dir).filter(|_| config.client.server.is_none()) {
        Some(secret) => Client::with(config, &secret),
        None => Client::new(config),
    }
}

fn act(client: &Client, name: &str, verb: &str, body: &Value) -> Result<Value, Problem> {
    client.post(&format!("/v1/operators/{}/{verb}", encode(name)), body)
}

fn told(document: &Value, what: &str, screen: &Screen) -> Result<Done, Problem> {
    let OperatorDetail { operator: of, .. } = read(document)?;
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(Done::Well);
    }
    let whose = of.tenant.as_deref().unwrap_or("every tenant");
    screen.line(format!("{} {what}: {} of {whose}", of.name, of.role));
    if of.removed_at.is_none() && of.tokens == 0 && what == "added" {
        screen.footer(format!(
            "next: muster operator invite {0}, or muster token create {0} --role {1}",
            of.name, of.role
        ));
    }
    Ok(Done::Well)
}
