//! The server is killed at random points while a fleet of our firmware's agents sends at QoS 1. After every
//! restart: no acknowledged message is missing from the log, and none is there twice.
//!
//! The random points come from a seed, which is printed; `MUSTER_SEED=N` repeats one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod programs {
    use std::{
        collections::{BTreeMap, BTreeSet},
        path::Path,
        process::Command,
        thread,
        time::{Duration, Instant},
    };

    use muster_hil::{
        process::Running,
        rig::{Parts, Ports, Rig, serial, unit_of},
    };
    use muster_server::{
        api::view::Import,
        uplink::{Cursor, Reader},
    };
    use muster_shared::telemetry::Boot;
    use rand_chacha::{
        ChaCha20Rng,
        rand_core::{RngCore, SeedableRng},
    };

    const DEVICES: u32 = 16;
    const KILLS: u32 = 8;
    const PATIENCE: Duration = Duration::from_secs(120);
    const BATCH: &str = "B-0001";

    /// Device and number of a message.
    type Name = (String, u64);

    #[test]
    fn nothing_acknowledged_is_missing_and_nothing_is_there_twice() {
        let mut rng = seeded();
        let parts = Parts::make(&mut |text| println!("{text}")).unwrap();
        let rig = Rig::open(&parts, None).unwrap();
        rig.ceremony().unwrap();
        rig.init_server().unwrap();
        let mut server = Some(rig.start_server(Ports::FREE).unwrap());
        let address = server.as_ref().unwrap();
        let ports = Ports { mqtt: address.mqtt.port(), https: address.https.port() };
        let mut fleet = start_fleet(&rig);
        provision(&rig, ports);
        for number in 0..DEVICES {
            fleet.wait_for(0, &format!("{} muster mqtt connected", name(number)), PATIENCE).unwrap();
        }
        let mut restarts = Vec::new();
        for kill in 1..=KILLS {
            let before = acknowledged(&fleet).len();
            wait_for_more(&mut fleet, before + usize::try_from(rng.next_u32() % DEVICES).unwrap());
            thread::sleep(Duration::from_micros(u64::from(rng.next_u32() % 1_500_000)));
            if let Some(server) = server.take() {
                server.kill();
            }
            let acked = acknowledged(&fleet).len();
            println!("kill {kill} after {acked} acknowledged messages");
            let restarted = rig.start_server(ports).unwrap();
            restarts.push(restarted.took);
            server = Some(restarted);
        }
        let before = acknowledged(&fleet).len();
        wait_for_more(&mut fleet, before + usize::try_from(2 * DEVICES).unwrap());
        fleet.kill();
        let acked = acknowledged(&fleet);
        server.take().unwrap().stop().unwrap();

        let stored = stored(&rig.data_dir());
        let twice: Vec<_> = stored.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "stored more than once: {twice:?}");
        let there: BTreeSet<Name> = stored.keys().map(|(device, _, seq)| (device.clone(), *seq)).collect();
        assert_eq!(there.len(), stored.len(), "a device that was never restarted has two starts");
        let missing: Vec<_> = acked.difference(&there).collect();
        assert!(missing.is_empty(), "acknowledged and not stored: {missing:?}");
        println!("{} acknowledged, {} stored, restarts took {restarts:?}", acked.len(), stored.len());
    }

    fn seeded() -> ChaCha20Rng {
        let seed =
            std::env::var("MUSTER_SEED").ok().map(|text| text.parse().expect("MUSTER_SEED is a number"));
        let seed = seed.unwrap_or_else(|| getrandom::u64().unwrap());
        println!("MUSTER_SEED={seed}");
        ChaCha20Rng::seed_from_u64(seed)
    }

    fn name(number: u32) -> String {
        format!("sim-{number:05}")
    }

    fn start_fleet(rig: &Rig) -> Running {
        let dir = rig.dir().join("fleet");
        let digest: String = rig.root_digest().unwrap().iter().map(|octet| format!("{octet:02x}")).collect();
        let mut sim = Command::new(&rig.programs().sim);
        sim.args([
            "--count",
            &DEVICES.to_string(),
            "--logs",
            "--every",
            "3600",
            "--root-digest",
            &digest,
            "--dir",
        ]);
        sim.arg(&dir);
        let fleet = Running::start("the fleet", &sim, None).unwrap();
        let until = Instant::now() + PATIENCE;
        while !(0..DEVICES).all(|number| dir.join(format!("{}.port", name(number))).exists()) {
            assert!(Instant::now() < until, "the fleet has no ports:\n{}", fleet.log.tail(20));
            thread::sleep(Duration::from_millis(20));
        }
        fleet
    }

    fn provision(rig: &Rig, ports: Ports) {
        let mut factory = rig.factory().unwrap();
        (factory.telemetry_s, factory.hardware, factory.firmware_digest) = (1, "sim", None);
        for number in 0..DEVICES {
            let port =
                format!("unix:{}", rig.dir().join("fleet").join(format!("{}.port", name(number))).display());
            let server = ("127.0.0.1", ports.mqtt);
            let run = rig.run_command(&factory, &port, &serial(number + 1), BATCH, server).unwrap();
            let unit = unit_of(&muster_hil::process::run("muster-factory", &run, PATIENCE).unwrap()).unwrap();
            assert!(unit.passed(), "{unit:?}");
        }
        let manifest = rig.close_batch(&factory, BATCH).unwrap();
        let import: Import = rig.ask(&["batch", "import", manifest.to_str().unwrap()]).unwrap();
        assert_eq!((import.registered, import.refused.len()), (u64::from(DEVICES), 0));
    }

    /// What the devices say was acknowledged.
    fn acknowledged(fleet: &Running) -> BTreeSet<Name> {
        fleet.log.since(0).iter().filter_map(|line| acknowledgement(line)).collect()
    }

    /// `sim-00003 muster telemetry 17 acked`
    fn acknowledgement(line: &str) -> Option<Name> {
        let (name, line) = line.split_once(' ')?;
        let number: u32 = name.strip_prefix("sim-")?.parse().ok()?;
        let seq = line.strip_prefix("muster telemetry ")?.strip_suffix(" acked")?;
        Some((serial(number + 1), seq.parse().ok()?))
    }

    fn wait_for_more(fleet: &mut Running, wanted: usize) {
        let until = Instant::now() + PATIENCE;
        while acknowledged(fleet).len() < wanted {
            assert!(!fleet.ended() && Instant::now() < until, "no acknowledgements:\n{}", fleet.log.tail(20));
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Every telemetry message in the log, and how often it is there.
    fn stored(data: &Path) -> BTreeMap<(String, Boot, u64), u32> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let reader = Reader::open(data).await.unwrap();
            let mut stored = BTreeMap::new();
            let mut cursor = Cursor::default();
            loop {
                let read = reader.read(&cursor, 1000).await.unwrap();
                if read.messages.is_empty() {
                    break;
                }
                cursor = read.next;
                for (_, message) in read.messages {
                    // The server's own word on who is here stands between them.
                    let Some((_, device_id)) = message.device() else { continue };
                    if message.topic.ends_with(b"/twin/reported") {
                        // Once a start, and it has no number: a repeat says the same.
                        continue;
                    }
                    let (boot, seq) = message.name.expect("our firmware names its telemetry");
                    *stored.entry((device_id.to_string(), boot, seq)).or_insert(0) += 1;
                }
            }
            reader.close().await;
            stored
        })
    }

    #[test]
    fn an_acknowledgement_is_read_from_its_log_line() {
        assert_eq!(acknowledgement("sim-00003 muster telemetry 17 acked"), Some(("MU-000004".into(), 17)));
        for other in [
            "sim-00003 muster telemetry 17 refused",
            "muster telemetry 17 acked",
            "sim-x muster telemetry 1 acked",
        ] {
            assert_eq!(acknowledgement(other), None, "{other}");
        }
    }
}
