//! mosquitto, where it is installed: another broker, with the same certificates on the same loopback.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use muster_pki::testing;

use super::server::Fleet;
use crate::process::{Running, pause};

/// How long it may take to listen.
const START: Duration = Duration::from_secs(20);
/// Where distributions put it; not every user's path has it.
const PROGRAMS: [&str; 2] = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"];

/// A running mosquitto.
pub(super) struct Mosquitto {
    pub(super) mqtt: SocketAddr,
    process: Running,
}

impl Mosquitto {
    /// Starts it and waits until it listens; `None` where it is not installed.
    pub(super) fn start(dir: &Path, fleet: &Fleet) -> Result<Option<Self>> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let Some(command) = Self::command(dir, fleet, port)? else { return Ok(None) };
        let mut process = Running::start("mosquitto", &command, None)?;
        let mqtt = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let until = Instant::now() + START;
        while TcpStream::connect(mqtt).is_err() {
            ensure!(!process.ended() && Instant::now() < until, "mosquitto: {}", process.log.tail(5));
            pause(Duration::from_millis(20))?;
        }
        Ok(Some(Self { mqtt, process }))
    }

    /// What starts it on this port: no persistence, and no bound on what waits for a subscriber.
    pub(super) fn command(dir: &Path, fleet: &Fleet, port: u16) -> Result<Option<Command>> {
        let Some(program) = PROGRAMS.iter().find(|program| Path::new(program).is_file()) else {
            return Ok(None);
        };
        let now_s = i64::try_from(muster_server::registry::now_ms() / 1000)?;
        let broker = testing::server(&fleet.hierarchy.broker, &["localhost".parse()?], now_s);
        let roots = [&fleet.hierarchy.root, &fleet.hierarchy.stations[0].factory, &fleet.hierarchy.service]
            .map(|ca| ca.certificate().pem())
            .concat();
        std::fs::write(dir.join("roots.pem"), roots)?;
        std::fs::write(dir.join("chain.pem"), pem("CERTIFICATE", &broker.chain[0]))?;
        std::fs::write(dir.join("key.pem"), pem("PRIVATE KEY", &broker.key_pkcs8()))?;
        let at = dir.display();
        let config = dir.join("mosquitto.conf");
        std::fs::write(
            &config,
            format!(
                "listener {port} 127.0.0.1\nuser root\npersistence false\nlog_type error\n\
                 cafile {at}/roots.pem\ncertfile {at}/chain.pem\nkeyfile {at}/key.pem\ntls_version tlsv1.3\n\
                 require_certificate true\nuse_identity_as_username true\nallow_anonymous false\n\
                 set_tcp_nodelay true\nmax_queued_messages 0\nmax_inflight_messages 256\n"
            ),
        )?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&config);
        Ok(Some(command))
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }
}

/// One object in PEM, 48 octets a line (RFC 7468 §2).
fn pem(label: &str, der: &[u8]) -> String {
    let lines: String = der.chunks(48).map(|line| STANDARD.encode(line) + "\n").collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}
