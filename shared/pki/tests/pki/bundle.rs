//! Folders that read are whole; keys at rest are encrypted and nobody else's to read.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use muster_pki::{
    CaCertificate, Passphrase, Purpose, Signer, SoftKey, VerifiedCaRequest,
    bundle::{BundleError, RootBundle, ServerBundle, StationBundle, rotation},
    ca::CaError,
    csr::CsrError,
    keyfile::{self, FileError},
    testing,
};

use base64::Engine as _;

use crate::NOW_S;

fn words(text: &str) -> Passphrase {
    Passphrase::new(text).unwrap()
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            out.extend(files(&entry.path()))
        } else {
            out.push(entry.path())
        }
    }
    out.sort();
    out
}

#[test]
fn bundles_come_back_as_they_were() {
    let hierarchy = testing::hierarchy(NOW_S);
    let folder = tempfile::tempdir().unwrap();
    let pass = words("correct horse");
    let (root, server, station) =
        (folder.path().join("root"), folder.path().join("server"), folder.path().join("station"));
    hierarchy.root_bundle().write(&root, &pass).unwrap();
    hierarchy.server_bundle().write(&server, &pass).unwrap();
    let given = hierarchy.station_bundle(&"S-07".parse().unwrap()).unwrap();
    given.write(&station, &pass).unwrap();

    let read = RootBundle::read(&root, &pass).unwrap();
    assert_eq!(read.root.certificate(), hierarchy.root.certificate());
    assert_eq!(read.station.key().public_key(), hierarchy.station.key().public_key());
    let read = ServerBundle::read(&server, &pass).unwrap();
    assert_eq!(read.stations.len(), 3);
    for (read, made) in [
        (&read.broker, &hierarchy.broker),
        (&read.operational, &hierarchy.operational),
        (&read.https, &hierarchy.https),
        (&read.service, &hierarchy.service),
        (&read.operator, &hierarchy.operator),
    ] {
        assert_eq!(read.certificate(), made.certificate());
        assert_eq!(read.key().sign(b"x").unwrap(), made.key().sign(b"x").unwrap());
    }
    let read = StationBundle::read(&station, &pass).unwrap();
    assert_eq!((&read.record, &read.anchors), (&given.record, &given.anchors));
    assert_eq!(read.manifest_certificate, given.manifest_certificate);
    assert!(hierarchy.station_bundle(&"S-00".parse().unwrap()).is_err());

    // Nothing is replaced, and a wrong passphrase opens nothing.
    assert!(matches!(
        hierarchy.server_bundle().write(&server, &pass),
        Err(BundleError::File(FileError::Exists(_)))
    ));
    let wrong = ServerBundle::read(&server, &words("battery staple")).err().unwrap();
    assert!(matches!(wrong, BundleError::File(FileError::WrongPassphrase(_))), "{wrong}");
}

#[test]
fn key_files_are_encrypted_and_private() {
    let hierarchy = testing::hierarchy(NOW_S);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broker.key.pem");
    let pass = words("correct horse");
    keyfile::write_key(&path, hierarchy.broker.key(), &pass).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
    let plain = hierarchy.broker.key().expose_secret().unwrap();
    assert!(!text.contains(&*plain.iter().map(|octet| format!("{octet:02x}")).collect::<String>()));
    let again = folder.path().join("again.key.pem");
    keyfile::write_key(&again, hierarchy.broker.key(), &pass).unwrap();
    assert_ne!(fs::read_to_string(&again).unwrap(), text, "a fresh salt each time");

    assert!(matches!(keyfile::write_key(&path, hierarchy.https.key(), &pass), Err(FileError::Exists(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(keyfile::read_key(&path, &pass), Err(FileError::TooOpen { mode: 0o640, .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for (damage, what) in [
        (text.replacen("-----\nM", "-----\nN", 1), "not DER"),
        (text[..text.len() / 2].to_owned(), "cut short"),
        (text.replace("ENCRYPTED ", ""), "another label"),
        (String::new(), "empty"),
        (format!("{text}{text}"), "two keys"),
        ("x".repeat(70_000), "too long"),
    ] {
        fs::write(&path, damage).unwrap();
        assert!(keyfile::read_key(&path, &pass).is_err(), "{what}");
    }
    assert!(matches!(keyfile::read_key(&folder.path().join("none"), &pass), Err(FileError::Io { .. })));
    assert_eq!(files(folder.path()).len(), 2, "no temporary file is left");
}

#[test]
fn a_bundle_with_any_file_swapped_or_gone_does_not_read() {
    let (ours, theirs) = (testing::hierarchy(NOW_S), testing::hierarchy(NOW_S));
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let pass = words("correct horse");
    let station = "S-07".parse().unwrap();
    ours.station_bundle(&station).unwrap().write(&one, &pass).unwrap();
    theirs.station_bundle(&station).unwrap().write(&two, &pass).unwrap();
    let names: Vec<_> = files(&one).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names.len(), 7);
    for name in names {
        let (path, whole) = (one.join(&name), fs::read(one.join(&name)).unwrap());
        fs::write(&path, fs::read(two.join(&name)).unwrap()).unwrap();
        assert!(StationBundle::read(&one, &pass).is_err(), "{name:?} of another hierarchy");
        fs::remove_file(&path).unwrap();
        assert!(StationBundle::read(&one, &pass).is_err(), "{name:?} gone");
        fs::write(&path, &whole).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    StationBundle::read(&one, &pass).unwrap();
}

#[test]
fn passphrases() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("words");
    fs::write(&path, "correct horse\r\n").unwrap();
    assert!(matches!(keyfile::read_passphrase(&path), Err(FileError::TooOpen { .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(keyfile::read_passphrase(&path).unwrap().expose_secret(), "correct horse");
    fs::write(&path, "\n").unwrap();
    assert!(matches!(keyfile::read_passphrase(&path), Err(FileError::Malformed { .. })));
    assert!(Passphrase::new("").is_none());
}

/// How long it takes to try one passphrase on a file is what its scrypt says: much for words, nothing to speak
/// of for one that cannot be guessed. Both are read by their own, and neither by the other.
#[test]
fn words_are_stretched_and_random_bits_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let key = SoftKey::generate().unwrap();
    let (made, other) = (Passphrase::generate().unwrap(), Passphrase::generate().unwrap());
    assert!(made.expose_secret() != other.expose_secret());
    let words = [
        (made.expose_secret().to_owned(), 2),
        ("correct horse".to_owned(), 1 << 14),
        // Says it is random, and is too short to be.
        ("random-256:aG9yc2U=".to_owned(), 1 << 14),
    ];
    for (at, (text, n)) in words.iter().enumerate() {
        let path = folder.path().join(format!("{at}.key"));
        let passphrase = Passphrase::new(&format!("{text}\n")).unwrap();
        keyfile::write_key(&path, &key, &passphrase).unwrap();
        let (_, document) = pkcs8::SecretDocument::from_pem(&fs::read_to_string(&path).unwrap()).unwrap();
        let info = document.decode_msg::<pkcs8::EncryptedPrivateKeyInfo<'_>>().unwrap();
        let pkcs8::pkcs5::pbes2::Kdf::Scrypt(scrypt) = &info.encryption_algorithm.pbes2().unwrap().kdf else {
            panic!("another derivation than scrypt")
        };
        assert_eq!((scrypt.cost_parameter, scrypt.block_size), (*n, 8), "{text}");
        assert_eq!(keyfile::read_key(&path, &passphrase).unwrap().public_key(), key.public_key());
        assert!(matches!(keyfile::read_key(&path, &other), Err(FileError::WrongPassphrase(_))));
    }
}

#[test]
fn a_rotated_authority_issues_and_the_ones_before_it_stay() {
    let hierarchy = testing::hierarchy(NOW_S);
    let folder = tempfile::tempdir().unwrap();
    let (dir, pass) = (folder.path().join("server"), words("correct horse"));
    hierarchy.server_bundle().write(&dir, &pass).unwrap();
    let root = hierarchy.root.certificate();
    let mut line = vec![hierarchy.service.certificate().clone()];
    for number in [2, 3] {
        let current = ServerBundle::read(&dir, &pass).unwrap().service;
        assert_eq!(rotation::asked(&dir, Purpose::Service).unwrap(), None);
        let asked = rotation::prepare(&dir, current.certificate(), &pass).unwrap();
        assert_eq!(rotation::asked(&dir, Purpose::Service).unwrap(), None, "not before it is said");
        let key = asked.request.key().key_id();
        let asked = rotation::prepare(&dir, current.certificate(), &pass).unwrap();
        assert_eq!(asked.request.key().key_id(), key, "prepared again it is the same key");
        rotation::ask(&dir, &asked).unwrap();
        assert_eq!((asked.request.purpose(), asked.already), (Purpose::Service, false));
        assert_eq!(asked.request.name(), format!("service CA {number}"));
        // Asked again it is the same key.
        let again = rotation::prepare(&dir, current.certificate(), &pass).unwrap();
        assert_eq!((&again.pem, again.already), (&asked.pem, true));
        // Until the answer is there, nothing has changed.
        assert_eq!(ServerBundle::read(&dir, &pass).unwrap().service.certificate(), current.certificate());
        let answer = hierarchy.root.certify(&asked.request, NOW_S).unwrap();
        let answer = rotation::check(&asked, answer.der(), root).unwrap();
        if number == 3 {
            // A try that ended after the certificate was written.
            fs::write(dir.join("rotated/service-ca.next/service-ca.pem"), answer.pem()).unwrap();
        }
        rotation::install(&dir, &answer).unwrap();
        line.push(answer);
        let read = ServerBundle::read(&dir, &pass).unwrap();
        let former = read.former_of(Purpose::Service).chain([&read.service]);
        assert!(former.map(|ca| ca.certificate()).eq(&line));
        assert_eq!(rotation::newest(&dir, Purpose::Service, root).unwrap().as_ref(), line.last());
        assert_eq!(read.former.len(), line.len() - 1);
        assert_eq!(read.operational.certificate(), hierarchy.operational.certificate());
    }
    let copy = folder.path().join("copy");
    ServerBundle::read(&dir, &pass).unwrap().write(&copy, &pass).unwrap();
    let copied = ServerBundle::read(&copy, &pass).unwrap();
    let former = copied.former_of(Purpose::Service).chain([&copied.service]);
    assert!(former.map(|ca| ca.certificate()).eq(&line));
    for path in files(&copy).into_iter().filter(|path| path.to_str().unwrap().ends_with(".key.pem")) {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
    }
}

#[test]
fn what_was_not_asked_or_not_signed_by_the_root_is_no_answer() {
    let (hierarchy, stranger) = (testing::hierarchy(NOW_S), testing::hierarchy(NOW_S));
    let folder = tempfile::tempdir().unwrap();
    let (dir, pass) = (folder.path().join("server"), words("correct horse"));
    hierarchy.server_bundle().write(&dir, &pass).unwrap();
    let root = hierarchy.root.certificate();
    let asked = rotation::prepare(&dir, hierarchy.operator.certificate(), &pass).unwrap();
    rotation::ask(&dir, &asked).unwrap();
    let check = |answer: &CaCertificate| rotation::check(&asked, answer.der(), root);
    let foreign = stranger.root.certify(&asked.request, NOW_S).unwrap();
    assert!(matches!(check(&foreign), Err(CaError::OtherIssuer | CaError::WrongSignature)));
    assert_eq!(check(hierarchy.operator.certificate()), Err(CaError::OtherKey));
    assert!(matches!(check(hierarchy.service.certificate()), Err(CaError::Purpose { .. })));
    // The root signs no other root, nothing for another owner, and nothing that does not prove its key.
    let key = SoftKey::generate().unwrap();
    let write = |owner: &str, purpose| {
        let pem = VerifiedCaRequest::write(owner, purpose, "x CA", &key).unwrap();
        VerifiedCaRequest::verify(pem.as_bytes()).unwrap()
    };
    let owner = root.owner();
    assert!(hierarchy.root.certify(&write(owner, Purpose::Root), NOW_S).is_err());
    assert!(hierarchy.root.certify(&write("somebody else", Purpose::Service), NOW_S).is_err());
    assert!(hierarchy.service.certify(&write(owner, Purpose::Service), NOW_S).is_err());
    let mut der = keyfile_request(&asked.pem);
    let last = der.len() - 1;
    der[last] ^= 1;
    let altered = VerifiedCaRequest::verify(armoured(&der).as_bytes());
    assert_eq!(altered, Err(CsrError::WrongSignature));
    for odd in ["", "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"] {
        assert_eq!(VerifiedCaRequest::verify(odd.as_bytes()), Err(CsrError::Malformed));
    }
}

/// The request within its armour.
fn keyfile_request(pem: &str) -> Vec<u8> {
    let certificate = pem.replace("CERTIFICATE REQUEST", "CERTIFICATE");
    keyfile::certificate_from_pem(certificate.as_bytes()).unwrap()
}

fn armoured(der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
}
