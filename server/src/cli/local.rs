//! Commands that need no server: `init`, `serve`, `config`, `explain`.

use std::time::Duration;

use muster_shared::{Code, Tenant};
use serde_json::json;

use super::{
    Done,
    args::{ConfigVerb, Global, Init, Serve},
    client::{Client, read},
    screen::{Screen, Style, Text},
    table::{self, About, Column},
};
use crate::{
    api::{error::Problem, view},
    app, config,
    config::{Config, ConfigFault, Setting},
    init,
};

const SETTINGS: &[Column<Setting>] = &[
    Column { head: "KEY", wide: false, cell: |of, _| Text::plain(&of.key) },
    Column { head: "VALUE", wide: false, cell: |of, _| Text::plain(&of.value) },
    Column { head: "FROM", wide: false, cell: |of, _| Text::new(of.source.to_string(), Style::Quiet) },
];

pub(super) fn config(
    verb: Option<&ConfigVerb>,
    loaded: Result<Config, Vec<ConfigFault>>,
    screen: &Screen,
) -> Result<Done, Problem> {
    if let Some(ConfigVerb::Sample) = verb {
        screen.raw(config::SAMPLE.trim_end());
        return Ok(Done::Well);
    }
    let config = loaded.map_err(|faults| config_problem(&faults))?;
    if let Some(ConfigVerb::Set { key, value, reason }) = verb {
        return set(key, *value, reason.as_deref(), &Client::new(&config)?, screen);
    }
    let file = config.file.as_ref().map(|file| file.display().to_string());
    if let Some(ConfigVerb::Check) = verb {
        if screen.output.is_json() {
            screen
                .raw(&json!({ "schema": "muster.config.check/1", "file": file, "valid": true }).to_string());
        } else {
            let mark = screen.glyph("✓", "ok");
            let what = file.unwrap_or_else(|| "no file; every value is a default".to_owned());
            screen.line(format!("{mark} {what}: {} keys, all valid", config.settings.len()));
        }
        return Ok(Done::Well);
    }
    let shown = config.shown();
    let items = shown.iter().map(|of| {
        json!({ "key": of.key, "value": of.value, "source": of.source.to_string(), "pinned": of.is_pinned() })
    });
    let document = json!({ "schema": "muster.config/1", "file": file, "items": items.collect::<Vec<_>>(), "next": null });
    let about = About { noun: "key", total: None, filter: None, next: None, empty: "no keys" };
    table::print(screen, &document, &shown, SETTINGS, &about);
    Ok(Done::Well)
}

/// `muster config set`: the one verb of these that asks the server.
fn set(
    key: &str,
    value: u64,
    reason: Option<&str>,
    client: &Client,
    screen: &Screen,
) -> Result<Done, Problem> {
    let asked = json!({ "key": key, "value": value, "reason": reason });
    let document = client.post("/v1/config/retention", &asked)?;
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(Done::Well);
    }
    let told: view::Config = read(&document)?;
    for item in told.items.iter().filter(|item| item.key == key) {
        screen.line(format!("{key} is {value} now, by {}", item.source));
    }
    Ok(Done::Well)
}

/// Everything that is wrong with the configuration, as one refusal.
pub(super) fn config_problem(faults: &[ConfigFault]) -> Problem {
    let all: Vec<_> = faults.iter().map(ToString::to_string).collect();
    let what = match faults.len() {
        1 => "configuration is not valid".to_owned(),
        n => format!("configuration is not valid in {n} places"),
    };
    Problem::new(Code::ConfigInvalid)
        .what(what)
        .at(all.join("\n"))
        .next("correct it; every key is in: muster config sample")
}

pub(super) fn init(args: &Init, config: &Config, screen: &Screen) -> Result<Done, Problem> {
    let tenant: Tenant = args.tenant.parse().map_err(|error: muster_shared::id::IdError| {
        Problem::new(Code::UsageWrong).what(error.to_string()).at("--tenant").next("muster init --help")
    })?;
    let keys = match (&args.pki, &args.passphrase_file) {
        (Some(bundle), Some(passphrase_file)) => {
            init::KeySource::Ceremony { bundle: bundle.clone(), passphrase_file: passphrase_file.clone() }
        }
        _ => init::KeySource::Development { tenant },
    };
    let plan = init::Plan {
        data_dir: config.data_dir.clone(),
        keys,
        operator: args.operator.clone(),
        registry: config.registry.clone(),
    };
    let made = init::make(&plan)?;
    if screen.output.is_json() {
        screen.raw(&made.to_document().to_string());
        return Ok(Done::Well);
    }
    if made.development {
        screen.warning(
            "DEVELOPMENT KEYS. The authorities' keys, a station's keys and their passphrases lie together in \
             this directory: whoever reads it can make devices and brokers. For anything else hold a key \
             ceremony: muster-factory ceremony, then muster init --pki DIR --passphrase-file FILE",
        );
    }
    for (what, path) in made.files() {
        screen.line(format!("{what:<15} {}", path.display()));
    }
    screen.footer(format!("next: muster serve --data-dir {}", config.data_dir.display()));
    Ok(Done::Well)
}

pub(super) fn serve(args: &Serve, global: &Global, screen: &Screen) -> Result<Done, Problem> {
    let mut given = global.given();
    for (key, flag, value) in [
        ("mqtt.listen", "--listen-mqtt", &args.listen_mqtt),
        ("https.listen", "--listen-https", &args.listen_https),
    ] {
        given.flags.extend(value.iter().map(|value| (key, flag.to_owned(), value.clone())));
    }
    let config =
        Config::load(&given, &|name| std::env::var(name).ok()).map_err(|faults| config_problem(&faults))?;
    app::run(&config, |addresses, first_link| {
        if screen.output.is_json() {
            let document = serde_json::to_string(addresses);
            screen.raw(&document.unwrap_or_default());
        } else {
            screen.line(format!("https  {}", addresses.https));
            screen.line(format!("mqtt   {}", addresses.mqtt));
        }
        match first_link {
            Some(app::FirstLink::Terminal { url }) => {
                // To the terminal, never to standard error: that may be a log somebody keeps.
                screen.line(format!("sign in within 15 minutes, once: {url}"));
            }
            Some(app::FirstLink::File(path)) => {
                screen.footer(format!("sign in within 15 minutes, once: the link is in {}", path.display()));
            }
            None => {}
        }
        // Whoever started the server waits for these lines.
        let _ = screen.finish();
    })?;
    Ok(Done::Well)
}

pub(super) fn explain(code: &str, screen: &Screen) -> Result<Done, Problem> {
    let code: Code = code.to_ascii_uppercase().parse().map_err(|_| {
        Problem::new(Code::UsageWrong).what(format!("there is no code {code}")).at("muster explain").next(
            "codes are M1xx reach, M2xx device, M3xx certificate, M4xx manifest, M5xx operator, \
                   E01 to E20 station, Nxx and Txx device",
        )
    })?;
    let entry = code.entry();
    if screen.output.is_json() {
        let device = entry.device.map(|device| {
            json!({
                "phase": device.phase, "words": device.words, "act": device.act,
                "retry_min_s": device.retry_s.map(|(min, _)| min), "retry_max_s": device.retry_s.map(|(_, max)| max),
            })
        });
        let mqtt = (entry.mqtt != 0).then_some(entry.mqtt);
        screen.raw(
            &json!({
                "schema": "muster.code/1", "code": entry.id, "words": entry.words, "next": entry.next,
                "exit": entry.exit, "http": entry.http, "mqtt": mqtt, "device": device,
            })
            .to_string(),
        );
        return Ok(Done::Well);
    }
    screen.pieces(&[Text::new(entry.id, Style::Bold), Text::plain(format!(" {}", entry.words))]);
    screen.line(format!("  {:<8} {}", "next", entry.next.replace("{}", "SERIAL")));
    screen.line(format!(
        "  {:<8} exit {} · HTTP {}{}",
        "is",
        entry.exit,
        entry.http,
        match entry.mqtt {
            0 => String::new(),
            reason => format!(" · MQTT reason 0x{reason:02X}"),
        }
    ));
    if let Some(device) = entry.device {
        let retry = match device.retry_s {
            Some((min, max)) => {
                let [min, max] = [min, max].map(|s| format!("{:?}", Duration::from_secs(s.into())));
                format!(" (waits {min} to {max})")
            }
            None => " (does not try again before power-on)".to_owned(),
        };
        screen.line(format!(
            "  {:<8} muster {} {} {} | {}{retry}",
            "device", device.phase, entry.id, device.words, device.act
        ));
    }
    Ok(Done::Well)
}
