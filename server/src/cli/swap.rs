//! `muster device replace`: one device in another's place.

use muster_shared::Code;
use serde_json::json;

use super::{
    Done,
    args::Replace,
    bulk,
    client::{Client, read},
    device::encode,
    screen::Screen,
};
use crate::{
    api::{error::Problem, view::Replacement},
    config::Output,
};

pub(super) fn run(asked: &Replace, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let place = || format!("muster device replace {} --by {}", asked.serial, asked.by);
    let reason = asked.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    if reason.is_none() && !asked.dry_run {
        return Err(Problem::new(Code::ReasonMissing).what("device replace needs a reason").at(place()));
    }
    if !asked.dry_run && asked.confirm.as_deref() != Some(&asked.serial) {
        let why = asked.confirm.as_ref().map_or("--confirm is not there".to_owned(), |given| {
            format!("--confirm {given:?} is not {:?}", asked.serial)
        });
        return Err(Problem::new(Code::ConfirmationMissing).at(place()).because(why).serial(&asked.serial));
    }
    let body = json!({
        "successor": asked.by, "reason": reason, "dry_run": asked.dry_run, "confirm": asked.confirm,
    });
    let document = client.post(&format!("/v1/devices/{}/replace", encode(&asked.serial)), &body)?;
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(Done::Well);
    }
    let of: Replacement = read(&document)?;
    if of.dry_run {
        screen.line(format!(
            "{} would be revoked, superseded · {}",
            of.decision.serial,
            of.takes("would take")
        ));
        screen.footer(format!(
            "nothing was done · to do it: {} --reason \"…\" --confirm {}",
            place(),
            asked.serial
        ));
        return Ok(Done::Well);
    }
    bulk::said(&of.decision, screen);
    if screen.output != Output::Serial {
        screen.line(format!("  {}", of.takes("takes")));
    }
    Ok(Done::Well)
}
