//! A device refuses every server that isn't its broker, before a byte of application data, without a panic
//! and without a hang; and lives with a broker gone wrong. The host build of the firmware's checked TLS
//! against the table of [`muster_hil::hostile`].

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{pin::Pin, sync::OnceLock, task::Poll, time::Duration};

use muster_firmware::tls::{self, Buffers, Time, TlsError, Trust, Wire};
use muster_hil::hostile::{
    Attack, Cast, Seen, Verdict,
    attacks::{self, BAIT, Then},
    play,
};
use muster_pki::testing;
use p256::{ecdsa::SigningKey, pkcs8::DecodePrivateKey};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// The name devices ask for.
const NAME: &str = "localhost";
/// What a device sends as soon as it believes its server.
const GREETING: &[u8] = b"secret greeting";
/// Longer than any row needs.
const DEADLINE: Duration = Duration::from_secs(60);
/// For rows in which only a deadline ends the wait: long enough to show that nothing else does.
const WAIT: Duration = Duration::from_millis(300);

#[test]
fn honest_brokers_are_accepted() {
    check(attacks::controls());
}

#[test]
fn every_attack_is_refused() {
    check(attacks::table(cast()));
}

#[test]
fn a_flight_cut_anywhere_is_refused() {
    check(attacks::truncations(3));
}

#[test]
fn random_changes_are_refused() {
    check(attacks::mutations(0x6d75_7374_6572, 250));
}

/// The hostile server can be honest: an independent client shakes hands with it.
#[test]
fn an_independent_client_believes_the_honest_flight() {
    let accepted = run(async {
        for attack in attacks::controls() {
            let got = rustls_client(&attack).await;
            assert_eq!(got, BAIT, "{}", attack.name);
        }
        true
    });
    assert!(accepted);
}

/// What became of the device.
#[derive(Debug)]
#[expect(dead_code, reason = "reasons are for whoever reads the table")]
enum Outcome {
    /// No connection, for this reason.
    Refused(TlsError),
    /// A connection, these octets over it, and then this end.
    Connected { got: Vec<u8>, end: TlsError },
    /// The deadline passed.
    Deadline,
    /// It fell.
    Panicked,
}

fn check(attacks: Vec<Attack>) {
    assert!(!attacks.is_empty());
    let mut wrong = Vec::new();
    run(async {
        for attack in &attacks {
            let (outcome, seen) = meet(attack).await;
            let line = format!("{:<60} {:?} -> {outcome:?}", attack.name, attack.verdict);
            println!("{line}");
            if !holds(attack, &outcome, &seen) {
                wrong.push(format!("{line} {seen:?}"));
            }
        }
    });
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), attacks.len(), wrong.join("\n"));
}

fn holds(attack: &Attack, outcome: &Outcome, seen: &Seen) -> bool {
    let silent = seen.application.is_empty() && seen.unreadable == 0;
    match (attack.verdict, outcome) {
        (Verdict::Refused, Outcome::Refused(why)) => {
            silent && !seen.certificate && attack.then != Then::Hold && comes_back(*why)
        }
        (Verdict::Refused, Outcome::Deadline) => silent && !seen.certificate && attack.then == Then::Hold,
        (Verdict::Ended, Outcome::Connected { got, .. }) => got.is_empty(),
        (Verdict::Accepted, Outcome::Connected { got, .. }) => *got == BAIT && seen.application == GREETING,
        (Verdict::Survived, Outcome::Refused(_)) => silent,
        (Verdict::Survived, Outcome::Connected { got, .. }) => got.is_empty() || *got == BAIT,
        _ => false,
    }
}

/// Nobody but the broker can make a device give up.
fn comes_back(why: TlsError) -> bool {
    why.code().entry().device.is_some_and(|device| device.retry_s.is_some())
}

/// One device meets one server.
async fn meet(attack: &Attack) -> (Outcome, Seen) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let deadline = if attack.then == Then::Hold { WAIT } else { DEADLINE };
    let device = tokio::task::spawn_local(async move {
        let device = tokio::time::timeout(deadline, device(ours));
        device.await.unwrap_or(Outcome::Deadline)
    });
    let (outcome, seen) = tokio::join!(device, play(theirs, attack, cast()));
    (outcome.unwrap_or(Outcome::Panicked), seen)
}

/// Connects, greets, and reads until the end or the bait.
async fn device(socket: DuplexStream) -> Outcome {
    let cast = cast();
    let me = testing::device(&cast.hierarchy, &testing::subject("MU-000001"), cast.now_s);
    let key = SigningKey::from_pkcs8_der(&me.key.expose_secret().unwrap()).unwrap();
    let identity = tls::Identity { certificate: &me.chain[0], key: &key };
    let now = Time::Known(cast.now_s.unsigned_abs());
    let anchors: [&[u8]; 1] = [cast.hierarchy.broker.certificate().der()];
    let trust = Trust { anchors: &anchors, server_name: NAME, time: now };
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let wire = Wire::new(Socket(socket));
    let mut buffers = Buffers::new();
    let mut checked = match tls::connect(&wire, &mut rng, &identity, &trust, &mut buffers).await {
        Ok(checked) => checked,
        Err(why) => return Outcome::Refused(why),
    };
    let (mut reader, mut writer) = checked.split();
    let mut got = Vec::new();
    // The server may have left: then reading says so.
    let _ = writer.write(GREETING).await;
    loop {
        let mut octets = [0; 64];
        match reader.read(&mut octets).await {
            Ok(n) => got.extend_from_slice(&octets[..n]),
            Err(end) => return Outcome::Connected { got, end },
        }
        if got.len() >= BAIT.len() {
            return Outcome::Connected { got, end: TlsError::Closed };
        }
    }
}

fn cast() -> &'static Cast {
    static CAST: OnceLock<Cast> = OnceLock::new();
    CAST.get_or_init(|| {
        let now_s = i64::try_from(
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(),
        );
        let now_s = now_s.unwrap();
        Cast::new(testing::hierarchy(now_s), NAME.parse().unwrap(), now_s)
    })
}

fn run<T>(play: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, play)
}

async fn rustls_client(attack: &Attack) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let cast = cast();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::SECP256R1];
    provider.cipher_suites = vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let me = testing::device(&cast.hierarchy, &testing::subject("MU-000001"), cast.now_s);
    let key = PrivateKeyDer::Pkcs8(me.key.expose_secret().unwrap().to_vec().into());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(cast.hierarchy.broker.certificate().der().to_vec())).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![me.chain[0].clone().into()], key)
        .unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let client = async {
        let mut tls = connector.connect(ServerName::try_from(NAME).unwrap(), ours).await.unwrap();
        tls.write_all(GREETING).await.unwrap();
        let mut got = vec![0; BAIT.len()];
        tls.read_exact(&mut got).await.unwrap();
        got
    };
    let (got, seen) = tokio::join!(client, play(theirs, attack, cast));
    assert!(seen.certificate && seen.finished);
    assert_eq!(seen.application, GREETING);
    got
}

/// A stream of the host as a socket of the firmware.
struct Socket(DuplexStream);

impl embedded_io::ErrorType for Socket {
    type Error = embedded_io::ErrorKind;
}

impl embedded_io_async::Read for Socket {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, Self::Error> {
        std::future::poll_fn(|cx| {
            let mut buf = ReadBuf::new(out);
            match Pin::new(&mut self.0).poll_read(cx, &mut buf) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(())) => Poll::Ready(Ok(buf.filled().len())),
                Poll::Ready(Err(_)) => Poll::Ready(Err(embedded_io::ErrorKind::ConnectionReset)),
            }
        })
        .await
    }
}

impl embedded_io_async::Write for Socket {
    async fn write(&mut self, octets: &[u8]) -> Result<usize, Self::Error> {
        let written = std::future::poll_fn(|cx| Pin::new(&mut self.0).poll_write(cx, octets)).await;
        written.map_err(|_| embedded_io::ErrorKind::BrokenPipe)
    }

    async fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// The same table against the real image.
mod qemu {
    use std::{collections::VecDeque, sync::Mutex, thread};

    use muster_hil::workbench::{self, Workbench};
    use muster_shared::factory::Endpoint;
    use tokio::{net::TcpListener, runtime, time::timeout};

    use super::{Attack, Cast, Duration, NAME, Seen, Verdict, attacks, cast, play};

    /// Boards that share the table: each waits a second between two connections, whoever has the processor.
    const BOARDS: usize = 3;
    /// A board comes back within this: its waits are cut to a second, its deadlines are half a minute.
    const RETURN: Duration = Duration::from_secs(100);
    /// After this long a server that was believed hangs up.
    const VISIT: Duration = Duration::from_secs(4);

    #[test]
    fn the_image_refuses_every_attack_and_lives() {
        // A board has no clock, only a floor: what begins tomorrow is beyond it.
        let rows = attacks::table(cast()).into_iter().filter(|row| row.name != "chain: NotYetValid");
        let rows = Mutex::new(rows.collect::<VecDeque<_>>());
        thread::scope(|scope| {
            let boards: Vec<_> = (0..BOARDS).map(|_| scope.spawn(|| board(&rows))).collect();
            for board in boards {
                board.join().unwrap();
            }
        });
        assert!(rows.into_inner().unwrap().is_empty());
    }

    /// Takes rows from the table until none is left, then meets an honest broker.
    fn board(rows: &Mutex<VecDeque<Attack>>) {
        let mut desk = Workbench::new().unwrap();
        let cast = Cast::new(desk.hierarchy().clone(), NAME.parse().unwrap(), workbench::now_s());
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        desk.endpoint = Endpoint { port, telemetry_s: 600, retry_s_max: 1, ..workbench::NOWHERE };
        desk.provision(&mut desk.cable().unwrap()).unwrap();
        let mut refused = 0;
        loop {
            // The lock must not be held while the board is waited for.
            let row = rows.lock().unwrap().pop_front();
            let Some(row) = row else { break };
            let met = runtime.block_on(visit(&listener, &row, &cast));
            assert!(holds(&row, &met), "{}: {met:?}", row.name);
            refused += usize::from(row.verdict == Verdict::Refused);
        }
        let honest = attacks::controls().remove(0);
        let met = runtime.block_on(visit(&listener, &honest, &cast));
        assert!(holds(&honest, &met), "{met:?}");

        desk.board.wait_for(0, "muster mqtt connected", RETURN).unwrap();
        let lines = desk.board.lines_since(0);
        let starts = lines.iter().filter(|line| line.contains("| connecting to")).count();
        assert_eq!(starts, 1, "it fell and started again");
        assert!(refusals(&lines) >= refused, "{refused} refusals, {} in the log", refusals(&lines));
        assert!(desk.board.is_on());
    }

    /// What became of a connection.
    #[derive(Debug)]
    enum Met {
        /// There was none.
        Nobody,
        /// The board left by itself.
        Left(Seen),
        /// It stayed until the server hung up.
        Stayed,
    }

    /// One attack on the next connection.
    async fn visit(listener: &TcpListener, row: &Attack, cast: &Cast) -> Met {
        let Ok(accepted) = timeout(RETURN, listener.accept()).await else { return Met::Nobody };
        let believed = matches!(row.verdict, Verdict::Accepted | Verdict::Survived);
        let limit = if believed { VISIT } else { RETURN };
        let played = timeout(limit, play(accepted.unwrap().0, row, cast)).await;
        played.map_or(Met::Stayed, Met::Left)
    }

    fn holds(row: &Attack, met: &Met) -> bool {
        match (row.verdict, met) {
            (Verdict::Refused, Met::Left(seen)) => {
                seen.hello && !seen.certificate && seen.application.is_empty() && seen.unreadable == 0
            }
            (Verdict::Ended, Met::Left(seen)) => seen.finished,
            (Verdict::Survived, Met::Left(_) | Met::Stayed) | (Verdict::Accepted, Met::Stayed) => true,
            _ => false,
        }
    }

    /// Refusals in a log: repeats are folded into counts, each of which includes the one before it.
    fn refusals(lines: &[String]) -> usize {
        let mut sum = 0;
        let mut last = 0;
        for line in lines.iter().filter(|line| line.contains(" T0") || line.contains(" M1")) {
            let count = line.split_once("(x").and_then(|(_, rest)| rest.split_once(')'));
            let count = count.map_or(1, |(count, _)| count.parse().unwrap());
            sum += if count == 1 { 1 } else { count - last };
            last = count;
        }
        sum
    }
}
