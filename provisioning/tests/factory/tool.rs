//! The program itself, over a socket to a scripted board.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use muster_pki::DeviceIdentity;
use serde_json::Value;

use super::board::{Board, Fault};

/// A folder with a ceremony in it, and a way to call the tool.
struct Factory {
    folder: tempfile::TempDir,
}

#[test]
fn the_root_signs_an_authority_only_for_the_key_that_was_named() {
    let factory = Factory::new();
    let key = muster_pki::SoftKey::generate().unwrap();
    let key_id = muster_pki::Signer::public_key(&key).key_id();
    let key_id: String = key_id.iter().map(|octet| format!("{octet:02x}")).collect();
    let write = |owner: &str, purpose| {
        muster_pki::VerifiedCaRequest::write(owner, purpose, "service CA 2", &key).unwrap()
    };
    let request = write("Acme", muster_pki::Purpose::Service);
    fs::write(factory.path("request.pem"), &request).unwrap();
    let sign = |file: &str, key: &str, out: &str| {
        let (file, root) = (factory.text(file), factory.text("out/root"));
        let (out, words) = (factory.text(out), factory.text("words"));
        let args = ["sign-authority", &file, "--key", key, "--root", &root, "--out", &out];
        factory.call(&[&args[..], &["--passphrase-file", &words]].concat())
    };
    let other = "00".repeat(20);
    let refused = sign("request.pem", &other, "no.pem");
    assert_eq!(refused.status.code(), Some(3), "{}", err(&refused));
    assert!(err(&refused).contains("M307") && err(&refused).contains(&key_id), "{}", err(&refused));
    for (name, purpose, owner) in [
        ("root.pem", muster_pki::Purpose::Root, "Acme"),
        ("foreign.pem", muster_pki::Purpose::Service, "Else"),
    ] {
        fs::write(factory.path(name), write(owner, purpose)).unwrap();
        assert_eq!(sign(name, &key_id, "no.pem").status.code(), Some(3));
    }
    assert!(!factory.path("no.pem").exists());
    let signed = sign("request.pem", &key_id, "service.pem");
    assert!(signed.status.success(), "{}", err(&signed));
    let der = |name: &str| {
        muster_pki::keyfile::certificate_from_pem(&fs::read(factory.path(name)).unwrap()).unwrap()
    };
    let root = muster_pki::CaCertificate::root(&der("out/root/root.pem")).unwrap();
    let made = muster_pki::CaCertificate::issuing(&der("service.pem"), muster_pki::Purpose::Service, &root);
    assert_eq!(made.unwrap().key(), muster_pki::Signer::public_key(&key));
    // What is there is not replaced.
    assert!(!sign("request.pem", &key_id, "service.pem").status.success());
}

/// A second line below the same root, later: its folder is whole, and makes units whose manifest holds.
#[test]
fn a_later_station_is_made_below_the_same_root() {
    let factory = Factory::new();
    let plan = |name: &str, owner: &str, station: &str, first: u32| {
        let text = format!(
            "owner = \"{owner}\"\n[[station]]\nname = \"{station}\"\ntenant = \"acme\"\n\
             first_serial = \"MU-{first:06}\"\nlast_serial = \"MU-{:06}\"\n",
            first + 9
        );
        fs::write(factory.path(name), text).unwrap();
    };
    let add = |plan: &str, beside: &str, out: &str| {
        let [plan, root, words, out] = [plan, "out/root", "words", out].map(|name| factory.text(name));
        let (anchors, beside) = (factory.text("out/stations/S-07/anchors.bin"), factory.text(beside));
        let args = ["add-stations", &plan, "--root", &root, "--anchors", &anchors, "--beside", &beside];
        factory.call(&[&args[..], &["--out", &out, "--passphrase-file", &words]].concat())
    };
    let record = "out/stations/S-07/station.record";
    for (name, owner, station, first) in [
        ("overlap.toml", "Acme", "S-09", 9),
        ("same.toml", "Acme", "S-07", 100),
        ("foreign.toml", "Else", "S-09", 100),
    ] {
        plan(name, owner, station, first);
        let refused = add(name, record, "no");
        assert_eq!(refused.status.code(), Some(2), "{name}: {}", err(&refused));
        assert!(!factory.path("no").exists(), "{name}");
    }
    plan("good.toml", "Acme", "S-09", 100);
    assert!(!add("good.toml", "words", "no").status.success(), "no record of this root");
    let made = add("good.toml", record, "later");
    assert!(made.status.success(), "{}", err(&made));
    assert!(out(&made).contains("muster ca trust") && out(&made).contains("S-09"), "{}", out(&made));
    assert!(!add("good.toml", record, "later").status.success(), "what is there is not replaced");
    let words = muster_pki::Passphrase::new("correct horse").unwrap();
    let read = |path: &str| muster_pki::bundle::StationBundle::read(&factory.path(path), &words).unwrap();
    let (first, later) = (read("out/stations/S-07"), read("later/S-09"));
    assert_eq!((&first.root, &first.anchors), (&later.root, &later.anchors));
    assert_ne!(first.factory.certificate(), later.factory.certificate());
    assert!(muster_pki::StationRecord::verify(&later.record_file, &first.root).is_ok());
    let listening = listen(Board::blank());
    let [station, journal, words] = ["later/S-09", "journal-9", "words"].map(|name| factory.text(name));
    let common =
        ["--station", &station, "--journal", &journal, "--passphrase-file", &words, "--batch", "B-9"];
    let unit = [
        "run",
        "--port",
        &listening.port,
        "--product",
        "TH-2",
        "--endpoint",
        "10.0.2.2:8883",
        "--server-name",
        "localhost",
    ];
    let ran = factory.call(&[&unit[..], &common].concat());
    assert!(ran.status.success(), "{}", err(&ran));
    let manifest = factory.text("b9.muster");
    let closed = factory.call(&[&["batch", "close", "--out", &manifest][..], &common].concat());
    assert!(closed.status.success(), "{}", err(&closed));
    let [root, record] = ["out/root/root.pem", "later/S-09/station.record"].map(|name| factory.text(name));
    let verified =
        factory.call(&["manifest", "verify", &manifest, "--station-record", &record, "--root", &root]);
    assert!(verified.status.success() && out(&verified).contains("B-9"), "{}", err(&verified));
}

impl Factory {
    fn new() -> Self {
        let factory = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(factory.path("words"), "correct horse\n").unwrap();
        fs::set_permissions(factory.path("words"), fs::Permissions::from_mode(0o600)).unwrap();
        let plan = "owner = \"Acme\"\n[[station]]\nname = \"S-07\"\ntenant = \"acme\"\n\
                    first_serial = \"MU-000001\"\nlast_serial = \"MU-000009\"\nquota = 2\n";
        fs::write(factory.path("plan.toml"), plan).unwrap();
        let words = factory.path("words").display().to_string();
        let made = factory.call(&[
            "ceremony",
            &factory.text("plan.toml"),
            "--out",
            &factory.text("out"),
            "--passphrase-file",
            &words,
        ]);
        assert!(made.status.success(), "{}", err(&made));
        factory
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn call(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_muster-factory"))
            .args(args)
            .env_remove("MUSTER_FACTORY_PASSPHRASE")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    }

    fn run(&self, port: &str, more: &[&str]) -> Output {
        let given = |flag| more.contains(&flag);
        let (station, journal, words) =
            (self.text("out/stations/S-07"), self.text("journal"), self.text("words"));
        let mut args = vec!["run", "--station", &station, "--journal", &journal, "--passphrase-file", &words];
        args.extend(["--port", port, "--product", "TH-2", "--server-name", "localhost"]);
        if !given("--batch") {
            args.extend(["--batch", "B-0042"]);
        }
        if !given("--endpoint") {
            args.extend(["--endpoint", "10.0.2.2:8883"]);
        }
        args.extend(more);
        self.call(&args)
    }

    fn close(&self, batch: &str, out: &str) -> Output {
        let (station, journal, words) =
            (self.text("out/stations/S-07"), self.text("journal"), self.text("words"));
        self.call(&[
            "batch",
            "close",
            "--station",
            &station,
            "--journal",
            &journal,
            "--passphrase-file",
            &words,
            "--batch",
            batch,
            "--out",
            &self.text(out),
            "--json",
        ])
    }

    fn verify(&self, file: &Path) -> Output {
        let (record, root) = (self.text("out/server/stations/S-07.record"), self.text("out/server/root.pem"));
        self.call(&[
            "manifest",
            "verify",
            &file.display().to_string(),
            "--station-record",
            &record,
            "--root",
            &root,
        ])
    }
}

/// A board that listens, for as long as the test holds it.
struct Listening {
    board: Arc<Mutex<Board>>,
    port: String,
}

fn listen(board: Board) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("tcp:{}", listener.local_addr().unwrap());
    let board = Arc::new(Mutex::new(board));
    let weak = Arc::downgrade(&board);
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        // Ends with the test: then nobody holds the board any more.
        while weak.strong_count() > 0 {
            let Ok((mut line, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            line.set_nonblocking(false).unwrap();
            line.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let mut room = [0; 512];
            while let Some(board) = weak.upgrade() {
                match line.read(&mut room) {
                    Ok(0) => break,
                    Ok(read) => {
                        let answer = board.lock().unwrap().receive(&room[..read]);
                        if line.write_all(&answer).is_err() {
                            break;
                        }
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
        }
    });
    Listening { board, port }
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_batch_from_blank_boards_to_a_verified_manifest() {
    let factory = Factory::new();
    let first = listen(Board::blank());
    let ran = factory.run(&first.port, &["--json"]);
    assert!(ran.status.success(), "{}", err(&ran));
    let lines = json(&out(&ran));
    let steps: Vec<_> =
        lines.iter().filter_map(|line| line["step"].as_str().filter(|_| line["ok"] == true)).collect();
    assert_eq!(steps, ["talk", "key", "sign", "write", "prove"]);
    let result = lines.last().unwrap();
    assert_eq!((&result["result"], &result["serial"]), (&Value::from("pass"), &Value::from("MU-000001")));

    // The same unit again: nothing new is made.
    let again = factory.run(&first.port, &[]);
    assert!(again.status.success() && out(&again).contains("PASS MU-000001 ALREADY DONE"), "{}", out(&again));

    let second = listen(Board::blank());
    let ran = factory.run(&second.port, &["--serial", "MU-000005", "--device-id", "kitchen"]);
    assert!(ran.status.success() && out(&ran).contains(" P1 PASS MU-000005 "), "{}{}", out(&ran), err(&ran));
    assert_eq!(out(&ran).lines().count(), 1, "one line a result");

    // The quota of two is used up.
    let third = listen(Board::blank());
    let ran = factory.run(&third.port, &[]);
    assert_eq!(ran.status.code(), Some(11));
    assert!(err(&ran).starts_with("error[E17]") && err(&ran).contains("quota of 2"), "{}", err(&ran));
    assert!(out(&ran).contains("FAIL E17 MU-000006 step=sign"), "{}", out(&ran));

    let closed = factory.close("B-0042", "B-0042.muster");
    assert!(closed.status.success(), "{}", err(&closed));
    assert_eq!(json(&out(&closed))[0]["devices"], 2);
    let manifest = fs::read(factory.path("B-0042.muster")).unwrap();
    let verified = factory.verify(&factory.path("B-0042.muster"));
    assert!(verified.status.success() && out(&verified).contains("2 devices"), "{}", err(&verified));

    // What stands in it is what the boards hold.
    let read = muster_pki::manifest::read(&manifest).unwrap();
    let root = muster_pki::CaCertificate::root(
        &muster_pki::keyfile::certificate_from_pem(&fs::read(factory.path("out/server/root.pem")).unwrap())
            .unwrap(),
    )
    .unwrap();
    let record = fs::read(factory.path("out/server/stations/S-07.record")).unwrap();
    let record = muster_pki::StationRecord::verify(&record, &root).unwrap();
    let rows = read.verify(&record).unwrap().rows;
    let held = [&first, &second].map(|unit| unit.board.lock().unwrap().certificate().unwrap());
    assert_eq!(rows.iter().map(|row| row.certificate.clone()).collect::<Vec<_>>(), held);
    assert_eq!(DeviceIdentity::from_certificate(&held[1]).unwrap().device_id.as_str(), "kitchen");

    // Closing again gives the same file; a closed batch takes no more units.
    fs::rename(factory.path("B-0042.muster"), factory.path("first.muster")).unwrap();
    let again = factory.close("B-0042", "B-0042.muster");
    assert!(again.status.success());
    assert_eq!(json(&out(&again))[0]["again"], true);
    assert_eq!(fs::read(factory.path("B-0042.muster")).unwrap(), manifest);
    let late = factory.run(&first.port, &[]);
    assert!(err(&late).starts_with("error[E20]"), "{}", err(&late));

    // Any change, and the answer is no: 10.
    let mut odd = manifest.clone();
    odd[40] ^= 1;
    fs::write(factory.path("odd.muster"), &odd).unwrap();
    let verified = factory.verify(&factory.path("odd.muster"));
    assert_eq!(verified.status.code(), Some(10), "{}", err(&verified));
    assert!(err(&verified).starts_with("error[M40"), "{}", err(&verified));
}

#[test]
fn failures_exit_11_and_say_what_where_next() {
    let factory = Factory::new();
    for (fault, code, words) in [
        (Fault::NoEntropy, "E09", "random source failed"),
        (Fault::ReadsBackSomethingElse, "E13", "read-back differs"),
        (Fault::ProvesWithAnotherKey, "E15", "unit cannot prove its key"),
    ] {
        let unit = listen(Board::with(fault));
        let ran = factory.run(&unit.port, &["--serial", "MU-000001"]);
        // The serial belongs to the first unit that got a request signed for it.
        let told = err(&ran);
        assert_eq!(ran.status.code(), Some(11), "{told}");
        assert!(
            told.starts_with(&format!("error[{code}] {words}\n  where  station S-07 port tcp:")),
            "{told}"
        );
        assert!(told.contains("\n  next   "), "{told}");
        assert!(out(&ran).contains(&format!("FAIL {code}")), "{}", out(&ran));
        fs::remove_file(factory.path("journal")).unwrap();
    }
    let ran = factory.run("tcp:127.0.0.1:1", &[]);
    assert!(err(&ran).starts_with("error[E02] port is not there"), "{}", err(&ran));
    assert_eq!(ran.status.code(), Some(11));
    let silent = listen(Board::with(Fault::Silent));
    let ran = factory.run(&silent.port, &["--wait-s", "1", "--json"]);
    assert_eq!(json(&err(&ran))[0]["code"], "E01");
    assert_eq!(json(&out(&ran)).last().unwrap()["result"], "fail");
}

#[test]
fn a_second_unit_with_a_known_serial_is_a_hard_stop() {
    let factory = Factory::new();
    let right = listen(Board::blank());
    assert!(factory.run(&right.port, &["--serial", "MU-000003"]).status.success());
    let impostor = listen(Board::blank());
    let ran = factory.run(&impostor.port, &["--serial", "MU-000003"]);
    assert!(err(&ran).starts_with("error[E06] SERIAL BELONGS TO ANOTHER UNIT"), "{}", err(&ran));
    assert!(err(&ran).contains("known key"), "{}", err(&ran));
    assert!(impostor.board.lock().unwrap().key.is_none(), "nothing was done to it");
}

#[test]
fn wrong_use_exits_2_and_names_the_value() {
    let factory = Factory::new();
    let again = factory.call(&[
        "ceremony",
        &factory.text("plan.toml"),
        "--out",
        &factory.text("out"),
        "--passphrase-file",
        &factory.text("words"),
    ]);
    assert_eq!(again.status.code(), Some(2));
    assert!(err(&again).contains("is there already"), "{}", err(&again));
    let unit = listen(Board::blank());
    for (args, told) in [
        (vec!["--endpoint", "nowhere"], "nowhere"),
        (vec!["--serial", "MU 1"], "MU 1"),
        (vec!["--firmware-digest", "abc"], "abc"),
        (vec!["--batch", "a/b"], "a/b"),
        (vec!["--order", "/nowhere.toml"], "/nowhere.toml"),
    ] {
        let ran = factory.run(&unit.port, &args);
        assert_eq!(ran.status.code(), Some(2), "{args:?}: {}", err(&ran));
        assert!(err(&ran).contains(told), "{args:?}: {}", err(&ran));
    }
    let no_words = factory.call(&[
        "run",
        "--station",
        &factory.text("out/stations/S-07"),
        "--journal",
        &factory.text("journal"),
        "--port",
        "tcp:127.0.0.1:1",
        "--batch",
        "B",
        "--product",
        "P",
        "--endpoint",
        "h:1",
    ]);
    assert_eq!(no_words.status.code(), Some(2), "{}", err(&no_words));
    assert!(err(&no_words).contains("--passphrase-file"), "{}", err(&no_words));
    fs::write(factory.path("words"), "wrong").unwrap();
    let ran = factory.run(&unit.port, &[]);
    assert_eq!(ran.status.code(), Some(8), "{}", err(&ran));
    assert!(err(&ran).starts_with("error[M311]"), "{}", err(&ran));
    fs::set_permissions(factory.path("words"), fs::Permissions::from_mode(0o644)).unwrap();
    let ran = factory.run(&unit.port, &[]);
    assert!(err(&ran).contains("mode 644"), "{}", err(&ran));
}

#[test]
fn the_second_batch_continues_the_chain_of_the_first() {
    let factory = Factory::new();
    let first = listen(Board::blank());
    assert!(factory.run(&first.port, &[]).status.success());
    let one = json(&out(&factory.close("B-0042", "1.muster")))[0].clone();
    let nothing = factory.close("B-0043", "2.muster");
    assert_eq!(nothing.status.code(), Some(4), "{}", err(&nothing));
    let second = listen(Board::blank());
    let ran = factory.run(&second.port, &["--batch", "B-0043"]);
    assert!(ran.status.success(), "{}", err(&ran));
    let two = json(&out(&factory.close("B-0043", "2.muster")))[0].clone();
    assert_eq!((&one["sequence"], &two["sequence"]), (&Value::from(1), &Value::from(2)));
    let text = fs::read_to_string(factory.path("2.muster")).unwrap();
    let header: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(header["previous"], one["digest"]);
    assert!(factory.verify(&factory.path("2.muster")).status.success());
}
