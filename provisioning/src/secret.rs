//! Where a passphrase comes from: a file only its owner may read, the environment, or a prompt. Never argv.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
};

use muster_pki::{Passphrase, keyfile};
use muster_shared::Code;

use crate::fault::Fault;

/// The environment variable looked at when no file is given.
pub const PASSPHRASE_ENV: &str = "MUSTER_FACTORY_PASSPHRASE";

/// Gets the passphrase for `what`: from `file`, else from [`PASSPHRASE_ENV`], else by asking. `twice` asks a
/// second time, where a new passphrase is chosen.
///
/// # Errors
/// A [`Fault`] that names the missing source; nothing is asked where there is no terminal.
pub fn passphrase(file: Option<&PathBuf>, what: &str, twice: bool) -> Result<Passphrase, Fault> {
    if let Some(path) = file {
        return keyfile::read_passphrase(path).map_err(|error| Fault::new(Code::FileUnreadable, error));
    }
    if let Ok(text) = std::env::var(PASSPHRASE_ENV) {
        let text = zeroize::Zeroizing::new(text);
        return Passphrase::new(&text)
            .ok_or_else(|| Fault::new(Code::UsageWrong, format!("{PASSPHRASE_ENV} is empty")));
    }
    if !io::stdin().is_terminal() {
        return Err(Fault::new(
            Code::UsageWrong,
            format!("no passphrase for {what}, and no terminal to ask at"),
        )
        .next(format!("give --passphrase-file FILE, or set {PASSPHRASE_ENV}")));
    }
    let asked = ask(&format!("Passphrase for {what}: "))?;
    if twice && ask("Once more: ")?.expose_secret() != asked.expose_secret() {
        return Err(Fault::new(Code::UsageWrong, "the two passphrases differ").next("say it again"));
    }
    Ok(asked)
}

fn ask(prompt: &str) -> Result<Passphrase, Fault> {
    let text = rpassword::prompt_password(prompt)
        .map_err(|error| Fault::new(Code::UsageWrong, format!("terminal: {error}")))?;
    let text = zeroize::Zeroizing::new(text);
    Passphrase::new(&text).ok_or_else(|| Fault::new(Code::UsageWrong, "an empty passphrase"))
}
