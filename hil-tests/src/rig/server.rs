//! The server of a rig, and the operator's commands to it.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use muster_server::app::{Addresses, LINK_FILE};
use muster_shared::Code;
use serde::de::DeserializeOwned;

use super::Rig;
use crate::process::{self, Running, Said};

/// How long the server may take to listen, and a command to be answered.
const PATIENCE: Duration = Duration::from_secs(60);
/// The operator whom `muster init` makes, unless it is told otherwise.
pub const OPERATOR: &str = "admin";
/// How long an orderly stop may take: open sessions are told, what is acknowledged is on disk.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// Where the server listens, on loopback; 0 takes a free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// MQTT over TLS.
    pub mqtt: u16,
    /// HTTPS.
    pub https: u16,
}

impl Ports {
    /// Any free ones.
    pub const FREE: Self = Self { mqtt: 0, https: 0 };

    /// Are both free? A port that is taken is never exchanged silently: the person chose it, or the
    /// documentation did.
    ///
    /// # Errors
    /// Names the port that is taken and the flag that gives another, `--mqtt-port` or `--https-port`.
    pub fn check(self) -> Result<(), Taken> {
        for (port, what, flag) in
            [(self.mqtt, "MQTT over TLS", "--mqtt-port"), (self.https, "HTTPS", "--https-port")]
        {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if TcpListener::bind(address).is_err() {
                return Err(Taken { address, what, flag });
            }
        }
        Ok(())
    }
}

/// Another program listens where the server should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "error[{id}] {words}\n  where  {address} ({what})\n  next   stop it, or give another port: {flag} PORT (0 takes a free one)",
    id = Code::AddressInUse.id(),
    words = Code::AddressInUse.words(),
)]
pub struct Taken {
    /// Where.
    pub address: SocketAddr,
    what: &'static str,
    flag: &'static str,
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    running: Running,
    /// Where devices connect.
    pub mqtt: SocketAddr,
    /// Where people and programs connect.
    pub https: SocketAddr,
    /// How long it took from its start until it listened.
    pub took: Duration,
}

impl Rig {
    /// Makes the server's data directory from the ceremony's bundle, if it is not there.
    ///
    /// # Errors
    /// What `muster init` says.
    pub fn init_server(&self) -> Result<()> {
        if self.token_file().exists() {
            return Ok(());
        }
        let bundle = self.server_bundle();
        let said = self.muster(&[
            "init",
            "--pki",
            &text(bundle)?,
            "--passphrase-file",
            &text(self.passphrase_file())?,
        ])?;
        expect_success("muster init", &said)
    }

    /// Starts the server and waits until it listens.
    ///
    /// # Errors
    /// What the server says.
    pub fn start_server(&self, ports: Ports) -> Result<Server> {
        let mut serve = self.muster_command();
        serve.arg("serve");
        serve.args(["--listen-mqtt", &format!("127.0.0.1:{}", ports.mqtt)]);
        serve.args(["--listen-https", &format!("127.0.0.1:{}", ports.https)]);
        let began = Instant::now();
        let mut running = Running::start("the server", &serve, Some(&self.dir().join("server.log")))?;
        let (line, _) = running.wait_for(0, "listening", PATIENCE)?;
        let took = line.at.saturating_duration_since(began);
        let at = Addresses::read(&self.data_dir()).context("the server listens and does not say where")?;
        ensure!(
            at.pid == running.id(),
            "another server, process {}, runs on {}",
            at.pid,
            self.data_dir().display()
        );
        Ok(Server { running, mqtt: at.mqtt_address, https: at.https_address, took })
    }

    /// Runs an operator's command on this rig's server.
    ///
    /// # Errors
    /// When it cannot be run or does not end; a refusal is no error.
    pub fn muster(&self, arguments: &[&str]) -> Result<Said> {
        let mut command = self.muster_command();
        command.args(["--color", "never"]).args(arguments);
        Ok(process::run("muster", &command, PATIENCE)?)
    }

    /// Runs an operator's command and reads the document it answers.
    ///
    /// # Errors
    /// What the command says when it is refused, or when the answer is no such document.
    pub fn ask<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let mut with_json = vec!["--json"];
        with_json.extend(arguments);
        let said = self.muster(&with_json)?;
        expect_success(&format!("muster {}", arguments.join(" ")), &said)?;
        serde_json::from_str(&said.out)
            .with_context(|| format!("not the document of {arguments:?}: {}", said.out))
    }

    /// The address that lets this rig's operator into the page, once and within 15 minutes: the first one, which
    /// the server wrote as it started; another one where somebody has signed in since the rig was made.
    ///
    /// # Errors
    /// When there is none and the server makes none.
    pub fn sign_in_link(&self, server: &Server) -> Result<String> {
        let link = match std::fs::read_to_string(self.data_dir().join(LINK_FILE)) {
            Ok(first) => first,
            Err(_) => {
                let said = self.muster(&["operator", "invite", OPERATOR])?;
                expect_success("muster operator invite", &said)?;
                said.out
            }
        };
        // The server's name for a person, where the link has the address it listens on.
        let (_, secret) = link.trim().split_once("/once/").context("the link is none")?;
        Ok(format!("https://localhost:{}/once/{secret}", server.https.port()))
    }

    fn muster_command(&self) -> Command {
        let mut command = Command::new(&self.programs().muster);
        for (name, _) in std::env::vars_os() {
            // An operator's own settings are not for this server.
            if name.to_string_lossy().starts_with("MUSTER_") {
                command.env_remove(name);
            }
        }
        command.arg("--data-dir").arg(self.data_dir());
        command
    }
}

impl Server {
    /// Its process.
    pub fn process(&mut self) -> &mut Running {
        &mut self.running
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.running.log.tail(20)
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// When it does not stop by itself, or says that it could not.
    pub fn stop(mut self) -> Result<Duration> {
        let began = Instant::now();
        match self.running.stop(STOP_PATIENCE) {
            Some(status) if status.success() => Ok(began.elapsed()),
            Some(status) => bail!("the server stopped with {status}:\n{}", self.log_tail()),
            None => {
                bail!("the server did not stop within {} s:\n{}", STOP_PATIENCE.as_secs(), self.log_tail())
            }
        }
    }

    /// Ends it as a power cut would.
    pub fn kill(mut self) {
        self.running.kill();
    }
}

/// Turns a program's refusal into an error in its own words.
///
/// # Errors
/// When it ended with another status than 0.
pub(super) fn expect_success(what: &str, said: &Said) -> Result<()> {
    if said.status.success() {
        return Ok(());
    }
    bail!("{what} ended with {}:\n{}{}", said.status, said.out, said.err)
}

pub(super) fn text(path: PathBuf) -> Result<String> {
    path.into_os_string().into_string().map_err(|path| anyhow::anyhow!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_the_flag_that_gives_another() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = holder.local_addr().unwrap().port();
        let refused = Ports { mqtt: 0, https: taken }.check().unwrap_err().to_string();
        assert!(refused.starts_with("error[M115] "), "{refused}");
        assert!(refused.contains(&format!("127.0.0.1:{taken} (HTTPS)")), "{refused}");
        assert!(refused.contains("--https-port"), "{refused}");
        drop(holder);
        assert_eq!(Ports { mqtt: taken, https: 0 }.check(), Ok(()));
    }
}
