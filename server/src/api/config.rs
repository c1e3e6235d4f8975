//! `/v1/config`: each value of the configuration in force, and who said so, as `muster config --json` has it.
//!
//! # Invariants
//!
//! - A value is told because its key is on the list here ([`TOLD`]); of every other key only that it is there
//!   and where it came from. So what a key of a later version holds is not told by oversight.
//! - What an operator may decide here is how long what was seen is kept, and only where the configuration does
//!   not say it: that is read once, when the server starts.
//! - Where keys, passwords and tokens lie is not told. What they hold is in no configuration.

use axum::{Json, extract::State};
use muster_shared::Code;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Document, Doors,
    auth::{Caller, Need},
    error::Problem,
    routes::{About, Routes},
    time, view,
};
use crate::{
    config::{Config, Setting},
    registry::retention::Period,
};

/// Keys whose values are told, or the beginnings of several. A registry's address with a password in it is
/// refused when it is read.
const TOLD: [&str; 9] =
    ["registry.url", "mqtt.", "https.", "limits.", "clones.", "retention.", "service.", "log.", "fixed."];
/// Of those, where a key lies.
const WITHHELD: [&str; 2] = ["https.certificate", "https.key"];
/// How commands reach a server: nothing of this one's.
const COMMANDS: &str = "client.";

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get(
            "/v1/config",
            config,
            About::new("Each value of the configuration in force, and where it came from")
                .answers::<view::Config>("config"),
        )
        .post(
            "/v1/config/retention",
            keep_for,
            About::new("Decide how long what was seen is kept, where the configuration leaves it open")
                .takes::<KeepFor>()
                .answers::<view::Config>("config")
                .refuses([Code::SettingPinned]),
        )
}

/// How long something is kept from now on.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeepFor {
    /// Such as `retention.sessions_days`.
    key: String,
    /// How long, in the unit its name ends with; 0 is without end.
    value: u64,
    /// Why, in your words.
    reason: Option<String>,
}

async fn keep_for(
    caller: Caller,
    State(doors): State<Doors>,
    Document(asked): Document<KeepFor>,
) -> Result<Json<view::Config>, Problem> {
    let actor = caller.may_everywhere(Need::Trust)?;
    let period: Period = asked.key.parse().map_err(|_| {
        let keys: Vec<_> = Period::ALL.iter().map(|period| period.as_str()).collect();
        Problem::new(Code::UsageWrong)
            .what(format!("{:?} cannot be changed while the server runs", asked.key))
            .because("it stands in its configuration, which is read when it starts")
            .next(format!("what can: {}", keys.join(", ")))
    })?;
    let pinned = doors.facts.config.items.iter().find(|item| item.key == asked.key && item.pinned);
    if let Some(pinned) = pinned {
        let value = pinned.value.as_deref().unwrap_or_default();
        return Err(Problem::new(Code::SettingPinned)
            .what(format!("{} is {value} by the server's configuration", asked.key))
            .at(pinned.source.clone()));
    }
    doors.registry.keep_for(actor, period, asked.value, asked.reason.as_deref().unwrap_or_default()).await?;
    in_force(&doors).await.map(Json)
}

/// As it was read, and what was decided where it leaves that open.
async fn in_force(doors: &Doors) -> Result<view::Config, Problem> {
    let mut told = doors.facts.config.clone();
    for decided in doors.registry.periods().await? {
        let open = |item: &&mut view::Setting| item.key == decided.period.as_str() && !item.pinned;
        if let Some(item) = told.items.iter_mut().find(open) {
            item.value = Some(decided.value.to_string());
            item.source = format!("{} at {}", decided.by, time::from_ms(decided.at_ms));
        }
    }
    Ok(told)
}

/// The configuration is the server's, not a tenant's.
pub(super) async fn config(
    caller: Caller,
    State(doors): State<Doors>,
) -> Result<Json<view::Config>, Problem> {
    caller.may_everywhere(Need::Look)?;
    in_force(&doors).await.map(Json)
}

/// What is told of a configuration.
#[must_use]
pub fn told(config: &Config) -> view::Config {
    let shown = config.shown();
    let own = shown.iter().filter(|setting| !setting.key.starts_with(COMMANDS));
    view::Config {
        schema: "muster.config/1".to_owned(),
        file: config.file.as_ref().map(|file| file.display().to_string()),
        items: own.map(setting).collect(),
        next: None,
    }
}

fn setting(of: &Setting) -> view::Setting {
    let listed = TOLD.iter().any(|told| of.key.starts_with(told));
    let told = listed && !WITHHELD.contains(&&*of.key);
    view::Setting {
        key: of.key.to_string(),
        value: told.then(|| of.value.clone()),
        source: of.source.to_string(),
        pinned: of.is_pinned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TEXT: &str = "data_dir = \"/srv/secret\"\n\
        [registry]\nurl = \"postgres://muster@db/muster\"\npassword_file = \"/srv/secret/password\"\n\
        [https]\ncertificate = \"/srv/secret/chain\"\nkey = \"/srv/secret/key\"\nbody_max = 70000\n\
        [keys]\nbundle = \"/srv/secret/pki\"\npassphrase_file = \"/srv/secret/passphrase\"\n\
        [client]\ntoken_file = \"/srv/secret/token\"\nca = \"/srv/secret/ca\"\n\
        [[service]]\nname = \"meter\"\ntenant = \"acme\"\nsubscribe = [\"acme/+/telemetry/#\"]\n";

    #[test]
    fn values_are_told_and_where_secrets_lie_is_not() {
        let told = told(&Config::from_text(Path::new("/etc/muster.toml"), TEXT).unwrap());
        let text = serde_json::to_string(&told).unwrap();
        assert!(!text.contains("/srv/secret"), "{text}");
        let of = |key: &str| told.items.iter().find(|item| item.key == key).unwrap();
        assert_eq!(of("https.body_max").value.as_deref(), Some("70000"));
        assert_eq!(of("https.body_max").source, "/etc/muster.toml line 8");
        assert_eq!(of("retention.uplink_days").value.as_deref(), Some("90"));
        assert_eq!(of("retention.uplink_days").source, "default");
        assert_eq!(of("registry.url").value.as_deref(), Some("postgres://muster@db/muster"));
        assert!(of("service.meter.subscribe").value.is_some());
        for withheld in ["data_dir", "keys.bundle", "keys.passphrase_file", "registry.password_file"] {
            assert_eq!(of(withheld).value, None, "{withheld}");
            assert!(of(withheld).source.starts_with("/etc/muster.toml line "), "{withheld}");
        }
        assert!(!told.items.iter().any(|item| item.key.starts_with("client.")));
    }
}
