//! Commands that need no server: usage, configuration, init, explain. As a person types them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::os::unix::fs::PermissionsExt as _;

use muster_pki::{
    Passphrase, ServiceIdentity,
    bundle::{ServerBundle, StationBundle},
    keyfile::certificate_from_pem,
};
use rig::{muster, read, run};

#[test]
fn alone_it_prints_twelve_lines_and_succeeds() {
    let ran = run(&mut muster::<&str>([])).exits(0);
    assert_eq!(ran.out.lines().count(), 12);
    assert!(ran.err.is_empty());
}

#[test]
fn a_wrong_command_line_is_refused_in_the_same_form_as_everything_else() {
    for line in [
        &["devices"][..],
        &["device", "lists"],
        &["device", "suspend"],
        &["device", "list", "--limit", "0"],
        &["device", "list", "--colour"],
        &["explain"],
        &["init", "--pki", "x"],
    ] {
        let ran = run(&mut muster(line)).exits(2).refused("M504");
        assert!(ran.out.is_empty(), "{ran:?}");
    }
    let ran = run(&mut muster(["device", "lists", "--json"])).exits(2);
    let error = ran.error_json();
    assert_eq!(
        (&error["schema"], &error["code"], &error["exit"]),
        (&"muster.error/1".into(), &"M504".into(), &2.into())
    );
    for field in ["what", "where", "why", "next", "request_id"] {
        assert!(error.get(field).is_some(), "{field} is not there");
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    for line in [&["--help"][..], &["device", "--help"], &["device", "revoke", "-h"], &["-V"]] {
        let ran = run(&mut muster(line)).exits(0);
        assert!(!ran.out.is_empty() && ran.err.is_empty(), "{ran:?}");
    }
}

/// Every command people are told of, as the table of the grammar has it: noun, then verbs; no noun for those on top.
const GRAMMAR: &[(&str, &str)] = &[
    ("device", "list show suspend resume quarantine release revoke decommission disconnect explain"),
    ("batch", "list show import export verify"),
    ("cert", "list show inspect verify"),
    ("ca", "init show trust trust-station rotate crl"),
    ("session", "list show disconnect"),
    ("audit", "list verify export"),
    ("operator", "list add remove role"),
    ("token", "list create revoke"),
    ("", "serve status events explain doctor login config schema completions"),
];
/// Flags of every command.
const FLAGS: &str = "--server --ca --token-file --output --json --no-input --timeout --utc --color --ascii --quiet \
                     --verbose --help -o -q -v -h";

#[test]
fn every_command_and_flag_of_the_grammar_is_there() {
    let help = |line: &[&str]| run(muster(line.iter().copied()).arg("--help")).exits(0).out;
    for (noun, verbs) in GRAMMAR {
        let nouns: Vec<&str> = [*noun].into_iter().filter(|noun| !noun.is_empty()).collect();
        let listed = help(&nouns);
        for verb in verbs.split(' ') {
            let named = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()) == verb;
            assert!(listed.split_whitespace().any(named), "{noun} {verb} is not in the help");
            let own = help(&[&nouns[..], &[verb]].concat());
            for flag in FLAGS.split_whitespace() {
                let named = |word: &str| word.trim_end_matches(',') == flag;
                assert!(own.split_whitespace().any(named), "{noun} {verb} has no {flag}");
            }
            let act = ["suspend", "resume", "quarantine", "release", "revoke", "decommission", "disconnect"];
            let wanted = match verb {
                "list" => "--filter --limit --after --watch",
                verb if noun == &"device" && act.contains(&verb) => "--filter --dry-run --reason --confirm",
                _ => "",
            };
            for flag in wanted.split_whitespace() {
                assert!(own.contains(flag), "{noun} {verb} has no {flag}");
            }
        }
    }
    for line in
        [&["operator", "list"][..], &["token", "list"], &["ca", "list"], &["job", "list"], &["batch", "list"]]
    {
        assert!(help(line).contains("--sort"), "{line:?}");
    }
    assert!(run(&mut muster(["-V"])).exits(0).out.starts_with("muster "));
}

#[test]
fn explain_says_the_words_of_a_code_and_refuses_what_is_none() {
    let ran = run(&mut muster(["explain", "m201"])).exits(0);
    assert!(ran.out.starts_with("M201 device is suspended\n"), "{}", ran.out);
    assert!(ran.out.contains("muster device resume"), "{}", ran.out);
    let json = run(&mut muster(["explain", "M201", "--json"])).exits(0).json();
    assert_eq!((&json["exit"], &json["http"], &json["mqtt"]), (&3.into(), &403.into(), &0x87.into()));
    run(&mut muster(["explain", "M999"])).exits(2).refused("M504");
    run(&mut muster(["explain", "'; drop"])).exits(2).refused("M504");
}

#[test]
fn config_check_names_every_fault_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("muster.toml");
    std::fs::write(&file, "[mqtt]\nlisten = \"here\"\nshrads = 3\n").unwrap();
    let ran = run(muster(["config", "check", "--config"]).arg(&file)).exits(2).refused("M505");
    assert!(ran.err.contains("line 2") && ran.err.contains("mqtt.listen"), "{}", ran.err);
    assert!(ran.err.contains("line 3") && ran.err.contains("did you mean mqtt.shards?"), "{}", ran.err);
    std::fs::write(&file, "[mqtt]\nlisten = \"127.0.0.1:1883\"\n").unwrap();
    run(muster(["config", "check", "--config"]).arg(&file)).exits(0);
    run(&mut muster(["config", "check", "--config", "/nonexistent"])).exits(2).refused("M505");
    // A broken configuration stops the other commands too, before anything is done.
    std::fs::write(&file, "mqtt = 5\n").unwrap();
    run(muster(["status", "--config"]).arg(&file)).exits(2).refused("M505");
}

#[test]
fn config_says_where_each_value_came_from() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("muster.toml"), "[mqtt]\nshards = 3\n").unwrap();
    let mut command = muster(["config", "--json", "--timeout", "3s", "--data-dir"]);
    let json = run(command.arg(dir.path()).env("MUSTER_HTTPS_LISTEN", "127.0.0.1:7")).exits(0).json();
    assert_eq!(json["schema"], "muster.config/1");
    let of = |key: &str| {
        let items = json["items"].as_array().unwrap();
        let item = items.iter().find(|item| item["key"] == key).unwrap();
        (item["value"].as_str().unwrap().to_owned(), item["source"].as_str().unwrap().to_owned())
    };
    assert_eq!(of("https.listen"), ("127.0.0.1:7".into(), "environment MUSTER_HTTPS_LISTEN".into()));
    assert_eq!(of("client.timeout"), ("3s".into(), "flag --timeout".into()));
    assert_eq!(of("mqtt.listen").1, "default");
    assert!(of("mqtt.shards").1.ends_with("muster.toml line 2"));
    let sample = run(&mut muster(["config", "sample"])).exits(0).out;
    let file = dir.path().join("sample.toml");
    std::fs::write(&file, sample).unwrap();
    run(muster(["config", "check", "--config"]).arg(&file)).exits(0);
}

#[test]
fn init_makes_development_keys_loudly_privately_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let init = || run(muster(["init", "--data-dir"]).arg(&data));
    let ran = init().exits(0);
    assert!(ran.err.contains("DEVELOPMENT KEYS"), "{ran:?}");
    let mut pending = vec![data.clone()];
    while let Some(path) = pending.pop() {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        if path.is_dir() {
            assert_eq!(mode, 0o700, "{}", path.display());
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            // Certificates and records are public, and the directories keep others out; the rest is secret.
            let public = path.extension().is_some_and(|end| end == "pem" || end == "record" || end == "bin");
            let secret = !public || path.to_string_lossy().contains("key");
            assert!(!secret || mode == 0o600, "{} is {mode:o}", path.display());
        }
    }
    assert!(!ran.out.contains(read(data.join("token")).trim()), "a token is never printed");
    // A station can work with what was made for it, and the server was told of that station.
    let passphrase = Passphrase::new(&read(data.join("station.passphrase"))).unwrap();
    let station = StationBundle::read(&data.join("station"), &passphrase).unwrap();
    assert_eq!((station.record.station.as_str(), station.record.tenant.as_str()), ("S-01", "acme"));
    let before = read(data.join("token"));
    let again = init().exits(2).refused("M511");
    assert!(again.err.contains("nothing is overwritten"), "{}", again.err);
    assert_eq!(read(data.join("token")), before);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    run(muster(["config", "check", "--data-dir"]).arg(&data)).exits(0);
    let verify = run(muster(["audit", "verify", "--offline", "--json", "--data-dir"]).arg(&data)).exits(0);
    assert_eq!(verify.json()["intact"], true);
}

#[test]
fn cert_issue_makes_a_services_key_privately_and_never_over_another() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("data"), dir.path().join("out"));
    run(muster(["init", "--data-dir"]).arg(&data)).exits(0);
    let issue = |name: &str| {
        let mut command = muster(["cert", "issue", "--json", "--service", name, "--out"]);
        run(command.arg(&out).arg("--data-dir").arg(&data))
    };
    let json = issue("historian").exits(0).json();
    assert_eq!((&json["schema"], &json["configured"]), (&"muster.cert.issue/1".into(), &false.into()));
    let mode = |name: &str| std::fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("historian.key.pem"), mode("historian.pem"), mode(".")), (0o600, 0o644, 0o700));
    let key = read(out.join("historian.key.pem"));
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    // The chain is the certificate and its authority; the authority is the one the server holds.
    let passphrase = Passphrase::new(&read(data.join("pki.passphrase"))).unwrap();
    let bundle = ServerBundle::read(&data.join("pki"), &passphrase).unwrap();
    let chain = read(out.join("historian.pem"));
    let (leaf, rest) = chain.split_at(chain[1..].find("-----BEGIN").unwrap() + 1);
    assert_eq!(rest, bundle.service.certificate().pem());
    let leaf = certificate_from_pem(leaf.as_bytes()).unwrap();
    bundle.service.certificate().vouches_for(&leaf).unwrap();
    let identity = ServiceIdentity::from_certificate(&leaf).unwrap();
    assert_eq!(
        (identity.name.as_str(), identity.id.to_string().into()),
        ("historian", json["certificate_id"].clone())
    );
    // The broker CA by its own signature: an anchor for any TLS library, and for nothing but the broker.
    let anchor = certificate_from_pem(read(out.join("broker-ca.pem")).as_bytes()).unwrap();
    bundle.broker.certificate().vouches_for(&anchor).unwrap();
    assert!(bundle.root.vouches_for(&anchor).is_err());
    // What was signed is on record, before and after.
    let ledger = read(data.join("issued.jsonl"));
    assert!(ledger.lines().next().unwrap().starts_with("{\"intended\":"), "{ledger}");
    assert!(ledger.lines().nth(1).unwrap().contains(&hex::encode(&leaf)), "{ledger}");
    // Never twice over the same files; another name goes beside them.
    assert_eq!(issue("historian").exits(2).error_json()["code"], "M509");
    assert_eq!(read(out.join("historian.key.pem")), key);
    assert_eq!(read(data.join("issued.jsonl")).lines().count(), 2, "nothing was signed");
    issue("planner").exits(0);
    assert_eq!(issue("no/slash").exits(2).error_json()["code"], "M504");
    let config = "[[service]]\nname = \"planned\"\nfleet = true\n";
    std::fs::write(data.join("muster.toml"), config).unwrap();
    assert_eq!(issue("planned").exits(0).json()["configured"], true);
}

#[test]
fn config_shows_each_service_and_refuses_one_that_reaches_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("muster.toml");
    let service = "[[service]]\nname = \"historian\"\ntenant = \"acme\"\nsubscribe = [\"acme/#\"]\n";
    std::fs::write(&file, service).unwrap();
    let json = run(muster(["config", "--json", "--config"]).arg(&file)).exits(0).json();
    let items = json["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["key"] == "service.historian.subscribe").unwrap();
    assert_eq!(item["value"], "acme/#");
    std::fs::write(&file, service.replace("acme/#", "#")).unwrap();
    let ran = run(muster(["config", "check", "--config"]).arg(&file)).exits(2).refused("M505");
    assert!(ran.err.contains("service.historian.subscribe") && ran.err.contains("line 4"), "{}", ran.err);
}

#[test]
fn init_refuses_what_it_cannot_use_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let passphrase = dir.path().join("passphrase");
    let with = |bundle: &str, file: &str| {
        run(muster(["init", "--pki", bundle, "--passphrase-file", file, "--data-dir"]).arg(&data))
    };
    with("/nonexistent", "/nonexistent").exits(2).refused("M509");
    std::fs::write(&passphrase, "\n").unwrap();
    with("/nonexistent", passphrase.to_str().unwrap()).exits(2).refused("M509");
    std::fs::write(&passphrase, "wrong\n").unwrap();
    with("/nonexistent", passphrase.to_str().unwrap()).exits(8).refused("M311");
    run(muster(["init", "--tenant", "no/slash", "--data-dir"]).arg(&data)).exits(2).refused("M504");
    run(&mut muster(["init", "--data-dir", "/proc/nowhere"])).exits(2).refused("M511");
    assert!(!data.exists());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "only the passphrase file is there");
}

#[test]
fn serve_refuses_a_directory_that_was_never_initialised() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run(muster(["serve", "--data-dir"]).arg(dir.path())).exits(2).refused("M511");
    assert!(ran.err.contains("muster init --data-dir"), "{}", ran.err);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
