//! One device's whole life on the real image, beside the real server and the real factory tool: the demo,
//! as a program would read it. A second run on the same folder goes on with the next device.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod qemu {
    use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

    use muster_hil::process;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Step {
        step: String,
        ok: bool,
        ms: u64,
        detail: String,
    }

    const STEPS: [&str; 15] = [
        "authority",
        "server",
        "power on",
        "factory",
        "too early",
        "ship",
        "first use",
        "telemetry",
        "impostor",
        "snoop",
        "suspend",
        "resume",
        "revoke",
        "too late",
        "audit",
    ];

    fn live_once(dir: &Path) -> Vec<Step> {
        let mut hil = Command::new(env!("CARGO_BIN_EXE_hil"));
        hil.args(["demo", "--once", "--json", "--mqtt-port", "0", "--https-port", "0", "--data-dir"])
            .arg(dir);
        let said = process::run("hil", &hil, Duration::from_secs(400)).unwrap();
        let read = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let steps: Vec<Step> = said.out.lines().map(read).collect();
        for step in &steps {
            println!(
                "{:>6} ms {} {}: {}",
                step.ms,
                if step.ok { "ok" } else { "NOT OK" },
                step.step,
                step.detail
            );
        }
        assert!(said.status.success(), "{}: {}", said.status, said.err);
        steps
    }

    fn detail<'a>(steps: &'a [Step], name: &str) -> &'a str {
        &steps.iter().find(|step| step.step == name).unwrap().detail
    }

    #[test]
    fn from_a_blank_board_to_revoked_and_once_more_in_the_same_folder() {
        let dir = tempfile::Builder::new().prefix("ml-").tempdir().unwrap();
        for serial in ["MU-000001", "MU-000002"] {
            let steps = live_once(dir.path());
            let names: Vec<&str> = steps.iter().map(|step| step.step.as_str()).collect();
            assert_eq!(names, STEPS);
            assert!(steps.iter().all(|step| step.ok), "{steps:?}");
            assert!(
                !detail(&steps, "server").contains("/once/"),
                "a program is not told what lets somebody in"
            );
            assert!(detail(&steps, "factory").contains(serial));
            assert!(detail(&steps, "too early").contains("muster mqtt M202 not registered yet"));
            assert!(detail(&steps, "first use").contains(&format!("as acme/{serial}")));
            assert!(detail(&steps, "impostor").contains("M204"));
            assert!(detail(&steps, "snoop").contains("muster acl M210 topic not ours"));
            assert!(detail(&steps, "revoke").contains("muster mqtt M302 our certificate is revoked"));
            assert!(detail(&steps, "too late").contains("muster mqtt M302 our certificate is revoked"));
        }
        assert_eq!(processes_on(dir.path()), BTreeSet::new(), "processes were left behind");
    }

    /// Command lines of processes that name the folder.
    fn processes_on(dir: &Path) -> BTreeSet<String> {
        let dir = dir.to_str().unwrap();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        lines.filter(|line| line.contains(dir)).collect()
    }
}
