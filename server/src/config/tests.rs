use std::collections::HashMap;

use super::*;

fn faults(text: &str) -> Vec<String> {
    let faults = Config::from_text(Path::new("muster.toml"), text).unwrap_err();
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn the_sample_has_every_key_with_its_default() {
    let sample = Config::from_text(Path::new("muster.toml"), SAMPLE).unwrap();
    let empty = Config::from_text(Path::new("muster.toml"), "").unwrap();
    for (said, default) in sample.settings.iter().zip(&empty.settings) {
        assert_eq!(said.key, default.key);
        // Paths are spelled relative to the file there, and to the data directory here.
        let plain = |value: &str| value.trim_start_matches("./").trim_matches('.').to_owned();
        assert_eq!(plain(&said.value), plain(&default.value), "{}", said.key);
        let optional = ["client.server", "https.certificate", "https.key"];
        if optional.contains(&said.key) {
            assert!(SAMPLE.contains(&format!("# {} = ", said.key.rsplit('.').next().unwrap())));
        } else {
            assert!(matches!(said.source, Source::File(..)), "{} is not in the sample", said.key);
        }
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_key_that_was_meant() {
    assert_eq!(
        faults("[mqtt]\nlisten = \"127.0.0.1:0\"\nlistne = \"x\"\n"),
        ["muster.toml line 3: unknown key mqtt.listne (did you mean mqtt.listen?)"]
    );
    assert_eq!(faults("[https.tls]\nversion = 12"), ["muster.toml line 2: unknown key https.tls.version"]);
    assert_eq!(faults("mqtt = 5"), ["muster.toml line 1: unknown key mqtt"]);
    assert_eq!(faults("[mqqt]\n"), ["muster.toml line 1: unknown key mqqt"]);
    assert!(Config::from_text(Path::new("m"), "[mqtt]\n[log]\n").is_ok());
}

#[test]
fn every_fault_is_named_not_only_the_first() {
    let faults = faults("[mqtt]\nshards = 1000\n[https]\nlisten = 8443\n[log]\njson = \"yes\"\n");
    assert_eq!(
        faults,
        [
            "mqtt.shards = 1000 (muster.toml line 2): a whole number from 0 to 256 is wanted",
            "https.listen = 8443 (muster.toml line 4): a text is wanted",
            "log.json = \"yes\" (muster.toml line 6): true or false is wanted",
        ]
    );
}

#[test]
fn text_that_is_no_toml_names_its_line() {
    let faults = faults("[mqtt]\nlisten = \n");
    assert!(faults[0].starts_with("muster.toml line 2: "), "{faults:?}");
    assert!(self::faults("a = 1\na = 2")[0].starts_with("muster.toml line 2: "));
}

#[test]
fn values_out_of_bounds_are_refused() {
    for text in [
        "[mqtt]\nnames = []",
        "[mqtt]\nnames = [\"not a name\"]",
        "[mqtt]\nnames = [1]",
        "[mqtt]\nlisten = \"localhost:8883\"",
        "[https]\nrequest = \"0s\"",
        "[https]\nrequest = \"25h\"",
        "[https]\nrequest = \"10\"",
        "[https]\nbody_max = -1",
        "[https]\nbody_max = 99999999999999999999",
        "[limits]\npacket_max = 70000",
        "[limits]\nhandshakes_per_address = 0",
        "[mqtt]\nproxy_protocol = [\"10.0.0.0/33\"]",
        "[mqtt]\nproxy_protocol = \"10.0.0.0/8\"",
        "[clones]\ncontinuity = \"quarantine\"",
        "[clones]\ntakeovers_max = 0",
        "[client]\nserver = \"http://muster.example\"",
        "[client]\nserver = \"https://u:p@muster.example\"",
        "[client]\nserver = \"https://muster.example/v1\"",
        "[client]\noutput = \"xml\"",
        "[https]\nkey = \"key.pem\"",
        "[https]\ncertificate = \"chain.pem\"",
        "data_dir = \"\"",
    ] {
        assert_eq!(faults(text).len(), 1, "{text}");
    }
}

#[test]
fn balancers_and_the_policy_on_clones_are_shown_as_they_are_in_force() {
    let text = "[mqtt]\nproxy_protocol = [\"10.0.0.0/8\", \"::1\"]\n[clones]\ntakeovers = \"enforce\"";
    let config = Config::from_text(Path::new("m"), text).unwrap();
    assert!(config.mqtt.proxy_protocol[0].contains("10.9.8.7".parse().unwrap()));
    assert_eq!(config.clones.takeovers, Response::Enforce);
    let shown = |key: &str| config.settings.iter().find(|of| of.key == key).unwrap().value.clone();
    assert_eq!(shown("mqtt.proxy_protocol"), "10.0.0.0/8,::1/128");
    assert_eq!(shown("clones.takeovers"), "enforce");
    let defaults = Config::from_text(Path::new("m"), "").unwrap();
    assert_eq!(defaults.clones, Policy::default(), "the same defaults on both sides");
    let limits = crate::edge::Limits::default();
    assert_eq!(
        (limits.handshakes_per_s, limits.handshakes_per_address_per_s, limits.handshakes_per_address),
        (
            defaults.limits.handshakes_per_s,
            defaults.limits.handshakes_per_address_per_s,
            defaults.limits.handshakes_per_address
        )
    );
}

#[test]
fn numbers_may_be_written_as_toml_allows() {
    let config = Config::from_text(Path::new("m"), "[https]\nbody_max = 0x10_0000").unwrap();
    assert_eq!(config.https.body_max, 1 << 20);
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("muster.toml");
    std::fs::write(&file, "[mqtt]\nlisten = \"127.0.0.1:1\"\nshards = 1\nnames = [\"a.example\"]\n").unwrap();
    let variables = HashMap::from([("MUSTER_MQTT_LISTEN", "127.0.0.1:2"), ("MUSTER_MQTT_SHARDS", "2")]);
    let environment = |name: &str| variables.get(name).map(|&value| value.to_owned());
    let given = Given {
        data_dir: Some(dir.path().to_owned()),
        flags: vec![("mqtt.listen", "--listen-mqtt".to_owned(), "127.0.0.1:3".to_owned())],
        ..Given::default()
    };
    let config = Config::load(&given, &environment).unwrap();
    assert_eq!((config.mqtt.listen.port(), config.mqtt.shards, config.mqtt.names.len()), (3, 2, 1));
    let source = |key: &str| config.settings.iter().find(|of| of.key == key).unwrap().source.to_string();
    assert_eq!(source("mqtt.listen"), "flag --listen-mqtt");
    assert_eq!(source("mqtt.shards"), "environment MUSTER_MQTT_SHARDS");
    assert_eq!(source("mqtt.names"), format!("{} line 4", file.display()));
    assert_eq!(source("https.listen"), "default");
    assert_eq!(config.client.ca, dir.path().join("https.pem"));
}

#[test]
fn paths_in_the_file_are_relative_to_it() {
    let config = Config::from_text(Path::new("/etc/muster/muster.toml"), "data_dir = \".\"").unwrap();
    assert_eq!(config.data_dir, Path::new("/etc/muster"));
    assert_eq!(config.keys.bundle, Path::new("/etc/muster/pki"));
    let text = "data_dir = \"/var/lib/muster\"\n[https]\nkey = \"tls/key.pem\"\ncertificate = \"chain.pem\"";
    let config = Config::from_text(Path::new("/etc/muster/muster.toml"), text).unwrap();
    let (certificate, key) = config.https.certificate.unwrap();
    assert_eq!(
        (&*certificate, &*key),
        (Path::new("/etc/muster/chain.pem"), Path::new("/etc/muster/tls/key.pem"))
    );
    assert_eq!(config.client.ca, Path::new("/var/lib/muster/https.pem"));
}

#[test]
fn a_file_that_was_named_and_is_not_there_is_a_fault() {
    let given = Given { file: Some("/nonexistent/muster.toml".into()), ..Given::default() };
    let faults = Config::load(&given, &|_| None).unwrap_err();
    assert!(matches!(&faults[..], [ConfigFault::File { .. }]), "{faults:?}");
}
