use std::collections::HashMap;

use super::*;
use crate::edge::Principal;

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
        let optional =
            ["client.server", "https.certificate", "https.key", "registry.url", "registry.password_file"];
        if optional.contains(&&*said.key) {
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
        "[https]\nrequests_per_s = 0",
        "[https]\nrequests_burst = \"many\"",
        "[https]\nstreams_each = 300",
        "[https]\njson_max = 100",
        "[https]\nsign_in_failures_max = 1",
        "[https]\nbody_max = 99999999999999999999",
        "[limits]\npacket_max = 70000",
        "[limits]\nhandshakes_per_address = 0",
        "[limits]\nkeep_alive_max_s = 65536",
        "[limits]\nservice_topic_max = 255",
        "[limits]\nqueue_max = 0",
        "[limits]\nqueue_bytes_max = 131071",
        "[limits]\nretained_device_bytes_max = 1000",
        "[limits]\nreceive_max = 0",
        "[limits]\ntopic_alias_max = 1025",
        "[limits]\nsubscriptions_max = 0",
        "[limits]\nwill_max = 65537",
        "[limits]\nsession_expiry_max_s = -1",
        "[limits]\nservice_topic_max = 65536",
        "[mqtt]\nproxy_protocol = [\"10.0.0.0/33\"]",
        "[mqtt]\nproxy_protocol = \"10.0.0.0/8\"",
        "[clones]\ncontinuity = \"quarantine\"",
        "[clones]\ntakeovers_max = 0",
        "[retention]\nuplink_days = -1",
        "[registry]\nurl = \"mysql://db/muster\"",
        "[registry]\nurl = \"postgres://muster:secret@db/muster\"",
        "[registry]\npassword_file = \"p\"",
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
    assert_eq!((*limits.sessions, Bounds::default()), (defaults.limits.sessions, defaults.limits.kept));
    assert_eq!(limits.keep_alive_max_s.unwrap_or(0), defaults.limits.keep_alive_max_s);
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
fn the_keep_alive_and_the_topics_of_services_have_their_bounds() {
    let service = "[[service]]\nname = \"a\"\nfleet = true\npublish = [\"#\"]\nsubscribe = [\"#\"]\n";
    let text = format!("{service}[limits]\nkeep_alive_max_s = 90\nservice_topic_max = 1000");
    let config = Config::from_text(Path::new("m"), &text).unwrap();
    assert_eq!((config.limits.keep_alive_max_s, config.limits.service_topic_max), (90, 1000));
    let shown = |key: &str| config.settings.iter().find(|of| of.key == key).unwrap().value.clone();
    assert_eq!(shown("limits.keep_alive_max_s"), "90");
    assert_eq!(shown("limits.service_topic_max"), "1000");
    let service = Principal::Service(config.services[0].service.clone());
    for (octets, fits) in [(1000, true), (1001, false)] {
        assert_eq!(service.may_publish(&"x".repeat(octets)).is_ok(), fits);
        assert_eq!(service.may_subscribe(&"x".repeat(octets)).is_ok(), fits);
    }
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

/// The sample's service, without the marks that make a comment of it.
fn sample_service() -> String {
    let section = SAMPLE.split("# [[service]]").nth(1).unwrap().split("\n\n").next().unwrap();
    section
        .lines()
        .map(|line| line.trim_start_matches("# "))
        .fold("[[service]]".to_owned(), |text, line| text + line + "\n")
}

#[test]
fn the_samples_service_is_valid_and_has_every_key_but_the_one_in_its_place() {
    let text = sample_service().replacen("[[service]]", "[[service]]\n", 1);
    let config = Config::from_text(Path::new("muster.toml"), &text).unwrap();
    let [entry] = &config.services[..] else { panic!("{:?}", config.services) };
    assert_eq!((entry.service.name(), entry.service.tenant().unwrap().as_str()), ("historian", "acme"));
    for key in ["name", "tenant", "publish", "subscribe", "revoked"] {
        assert!(text.contains(&format!("\n{key} = ")), "{key} is not in the sample");
    }
    assert!(SAMPLE.contains("fleet = true"));
    let shown: Vec<_> = config.settings.iter().filter(|of| of.key.starts_with("service.")).collect();
    let keys: Vec<_> = shown.iter().map(|of| &*of.key).collect();
    assert_eq!(
        keys,
        ["service.historian.tenant", "service.historian.publish", "service.historian.subscribe"]
    );
    assert_eq!(shown[1].value, "acme/+/command/+/request");
    assert!(shown.iter().all(|of| matches!(of.source, Source::File(..))));
}

#[test]
fn a_service_belongs_to_a_tenant_or_to_the_fleet_and_says_so() {
    let text = "[[service]]\nname = \"all\"\nfleet = true\npublish = [\"#\"]\nsubscribe = [\"#\"]\n";
    let config = Config::from_text(Path::new("m"), text).unwrap();
    assert_eq!(config.services[0].service.tenant(), None);
    let service = |rest: &str| format!("[[service]]\nname = \"a\"\n{rest}\n");
    let id = "0123456789abcdef".repeat(4);
    for (text, fault) in [
        (
            service(""),
            "service.a = a section (muster.toml line 1): tenant = \"NAME\" is missing, or fleet = true in its place",
        ),
        (
            service("fleet = false"),
            "service.a.fleet = false (muster.toml line 3): true is wanted, or tenant = \"NAME\" in its place",
        ),
        (
            service("fleet = true\ntenant = \"acme\""),
            "service.a.tenant = \"acme\" (muster.toml line 4): fleet = true is said beside it; one is wanted",
        ),
        (service("tenant = 5"), "service.a.tenant = 5 (muster.toml line 3): a text is wanted"),
        (
            service("tenant = \"acme\"\nsubscribe = [\"acme/#\", \"other/#\"]"),
            "service.a.subscribe = [\"acme/#\", \"other/#\"] (muster.toml line 4): \"other/#\" does not begin with acme/, the service's tenant",
        ),
        (
            service("fleet = true\npublish = [\"a/#/b\"]"),
            "service.a.publish = [\"a/#/b\"] (muster.toml line 4): \"a/#/b\": topic filter has a wildcard out of place",
        ),
        (
            service("fleet = true\npublish = \"#\""),
            "service.a.publish = \"#\" (muster.toml line 4): a list of texts is wanted",
        ),
        (
            service("fleet = true\nrevoked = [\"ab\"]"),
            "service.a.revoked = [\"ab\"] (muster.toml line 4): certificate id is not 64 lower-case hexadecimal digits",
        ),
        (
            service("fleet = true\nsubscribes = []"),
            "muster.toml line 4: unknown key service.a.subscribes (did you mean subscribe?)",
        ),
        (
            "[[service]]\nfleet = true\n".to_owned(),
            "service.1 = a section (muster.toml line 1): name is missing",
        ),
        (
            service(&format!("fleet = true\nrevoked = [\"{id}\"]\n[[service]]\nname = \"a\"\nfleet = true")),
            "service.2.name = \"a\" (muster.toml line 6): another service has this name",
        ),
        ("[service]\nname = \"a\"\n".to_owned(), "muster.toml line 2: unknown key service.name"),
        (
            "service = 5".to_owned(),
            "service = 5 (muster.toml line 1): sections are wanted, each headed [[service]]",
        ),
        ("[[mqtt]]\nlisten = \"127.0.0.1:1\"\n".to_owned(), "muster.toml line 1: unknown key mqtt"),
    ] {
        assert_eq!(faults(&text), [fault], "{text}");
    }
}

#[test]
fn what_nobody_sets_is_shown_with_its_source_behind_what_is_set() {
    let config = Config::from_text(Path::new("m"), "[limits]\nqueue_max = 7").unwrap();
    assert_eq!(config.limits.kept.queue.messages, 7);
    let shown = config.shown();
    let of = |key: &str| {
        shown.iter().find(|of| of.key == key).map(|of| (of.value.as_str(), of.source.to_string()))
    };
    assert_eq!(of("limits.queue_max"), Some(("7", "m line 2".to_owned())));
    let (value, source) = of("fixed.outbound_bytes_max").unwrap();
    assert_eq!(value, "262144");
    assert!(source.starts_with("fixed: Octets written to a connection"), "{source}");
    assert!(shown.len() > config.settings.len() + 30);
}
