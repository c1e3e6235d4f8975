//! `/v1/config`: each value of the configuration in force, and who said so, as `muster config --json` has it.
//!
//! # Invariants
//!
//! - A value is told because its key is on the list here ([`TOLD`]); of every other key only that it is there
//!   and where it came from. So what a key of a later version holds is not told by oversight.
//! - Where keys, passwords and tokens lie is not told. What they hold is in no configuration.

use axum::{Json, extract::State};

use super::{
    Doors,
    auth::{Caller, Need},
    error::Problem,
    routes::{About, Routes},
    view,
};
use crate::config::{Config, Setting};

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
    routes.get(
        "/v1/config",
        config,
        About::new("Each value of the configuration in force, and where it came from")
            .answers::<view::Config>("config"),
    )
}

/// The configuration is the server's, not a tenant's.
pub(super) async fn config(
    caller: Caller,
    State(doors): State<Doors>,
) -> Result<Json<view::Config>, Problem> {
    caller.may_everywhere(Need::Look)?;
    Ok(Json(doors.facts.config.clone()))
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
