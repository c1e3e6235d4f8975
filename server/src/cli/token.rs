//! `muster token …`: what programs and the command line come with.

use std::{fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use muster_shared::Code;
use serde_json::json;

use super::{
    Done,
    args::{Token, TokenCreate},
    client::{Client, read},
    device::encode,
    screen::{Screen, Style, Text},
    table::Column,
    whole::Whole,
    words,
};
use crate::api::{
    error::Problem,
    view::{self, NewToken},
};

const COLUMNS: &[Column<view::Token>] = &[
    Column { head: "NAME", wide: false, cell: |of, _| Text::plain(&of.name) },
    Column { head: "OWNER", wide: false, cell: |of, _| Text::plain(&of.operator) },
    Column { head: "SCOPE", wide: false, cell: |of, _| scope(of) },
    Column {
        head: "LAST-USED",
        wide: false,
        cell: |of, _| match &of.last_used_at {
            Some(at) => Text::plain(words::ago(at)),
            None => Text::new("never", Style::Quiet),
        },
    },
    Column { head: "ENDS", wide: false, cell: |of, _| ends(of) },
    Column { head: "ID", wide: false, cell: |of, _| Text::plain(&of.id) },
    Column { head: "CREATED", wide: true, cell: |of, _| Text::plain(words::instant(&of.created_at)) },
];

const LIST: Whole<view::Token> = Whole {
    path: "/v1/tokens",
    noun: "token",
    columns: COLUMNS,
    name: |of| of.id.clone(),
    empty: "no tokens; muster init makes the first",
};

/// `operator`, or `operator of acme`.
fn scope(of: &view::Token) -> Text {
    match &of.tenant {
        Some(tenant) => Text::plain(format!("{} of {tenant}", of.role)),
        None => Text::plain(&of.role),
    }
}

fn ends(of: &view::Token) -> Text {
    match &of.ends_at {
        Some(at) if of.ended => Text::new(format!("ended {}", words::ago(at)), Style::Quiet),
        Some(at) => Text::plain(words::instant(at)),
        None => Text::plain("no end"),
    }
}

pub(super) fn run(verb: Token, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    match verb {
        Token::List(narrow) => LIST.run(&narrow, client, screen),
        Token::Create(create) => self::create(&create, client, screen),
        Token::Revoke { ids, reason } => revoke(&ids, reason.as_deref(), client, screen),
    }
}

fn create(create: &TokenCreate, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    // The file is made first: a token that cannot be kept is not asked for.
    let file = create.out.as_deref().map(new_file).transpose()?;
    let operator = create.operator.as_ref().unwrap_or(&create.name);
    let name = create.name.rsplit('/').next();
    let body = json!({
        "operator": operator, "name": name, "role": create.role, "tenant": create.tenant, "days": create.days,
    });
    let answered = client.post("/v1/tokens", &body).and_then(|document| Ok((read(&document)?, document)));
    let (made, document): (NewToken, _) = match answered {
        Ok(answered) => answered,
        Err(problem) => {
            // Nothing is left of a token that was not made.
            let _ = create.out.as_deref().map(std::fs::remove_file);
            return Err(problem);
        }
    };
    let ends = made.ends_at.as_deref().map_or("no end".to_owned(), words::instant);
    if let (Some(mut file), Some(path)) = (file, &create.out) {
        writeln!(file, "{}", made.token)
            .and_then(|()| file.sync_all())
            .map_err(|error| unwritable(path, &error))?;
        screen.line(format!(
            "token {} of {} ({}), ends {ends}: {}",
            made.id,
            made.operator,
            made.role,
            path.display()
        ));
    } else if screen.output.is_json() {
        screen.raw(&document.to_string());
    } else {
        screen.line(&made.token);
        screen.footer(format!(
            "token {} of {} ({}), ends {ends}; it is not shown again",
            made.id, made.operator, made.role
        ));
    }
    Ok(Done::Well)
}

/// A new file of mode 0600.
///
/// # Errors
/// M509.
pub(super) fn new_file(path: &Path) -> Result<std::fs::File, Problem> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    opened.map_err(|error| unwritable(path, &error))
}

pub(super) fn unwritable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(Code::FileUnreadable)
        .what(format!("{} cannot be written", path.display()))
        .at(path.display().to_string())
        .because(error.to_string())
}

fn revoke(ids: &[String], reason: Option<&str>, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    for id in ids {
        let document =
            client.post(&format!("/v1/tokens/{}/revoke", encode(id)), &json!({ "reason": reason }))?;
        if screen.output.is_json() {
            screen.raw(&document.to_string());
            continue;
        }
        let token: view::Token = read(&document)?;
        screen.line(format!("token {} of {} has ended", token.id, token.operator));
    }
    Ok(Done::Well)
}
