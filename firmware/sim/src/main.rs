//! `muster-sim`: a fleet for load, one flash file and one factory port to a device.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use muster_shared::vendor::VendorPage;
use muster_sim::{Config, Device, Entropy, Flash, Fleet, Route, Tally};
use tokio::{net::UnixListener, task::JoinSet};

/// Runs simulated devices: the real agent, many to a process. Each device keeps its flash in DIR/NAME.flash
/// and takes a station at the Unix socket DIR/NAME.port, as `muster-factory run --port unix:DIR/NAME.port`
/// calls it. A device that has been through the factory connects at once.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How many devices.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Where flash files and factory ports are; made if absent.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The first device's number; names are sim-NNNNN.
    #[arg(long, default_value_t = 0)]
    first: u32,
    /// SHA-256 of the root's SubjectPublicKeyInfo, for the vendor page of new devices (64 hex digits).
    #[arg(long, value_name = "HEX", value_parser = digest)]
    root_digest: Option<[u8; 32]>,
    /// Connect here instead of where the station said.
    #[arg(long, value_name = "ADDR:PORT")]
    server: Option<SocketAddr>,
    /// Where a device's randomness comes from, beside the seed in its flash.
    #[arg(long, value_enum, default_value_t = Generator::None)]
    generator: Generator,
    /// Threads the devices live on.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Seconds between counts on standard output.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Counts as JSON, one object a line.
    #[arg(long)]
    json: bool,
    /// Print every device's log, behind its name.
    #[arg(long)]
    logs: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Generator {
    /// None, as on a board without one.
    None,
    /// The operating system's.
    System,
}

fn digest(text: &str) -> Result<[u8; 32], String> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return Err(format!("{} characters, not 64 hex digits", text.chars().count()));
    }
    for (octet, pair) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit =
            |c: u8| char::from(c).to_digit(16).ok_or_else(|| format!("`{}` is not hex", char::from(c)));
        *octet = (digit(pair[0])? << 4 | digit(pair[1])?).to_le_bytes()[0];
    }
    Ok(out)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    fs::create_dir_all(&arguments.dir).with_context(|| format!("cannot make {}", arguments.dir.display()))?;
    let mut fleet = Fleet::start(arguments.threads.into())?;
    let (mut tally, mut devices, mut ports) = (Tally::default(), Vec::new(), JoinSet::new());
    for number in (0..arguments.count).filter_map(|n| arguments.first.checked_add(n)) {
        let name = format!("sim-{number:05}");
        let mut config = Config::new(flash(&arguments, &name)?);
        config.route = arguments.server.map_or(Route::AsTold, Route::To);
        config.entropy = match arguments.generator {
            Generator::None => Entropy::SeedOnly,
            Generator::System => Entropy::System,
        };
        config.echo = arguments.logs.then(|| name.clone());
        let device = fleet.spawn(config).await?;
        tally.follow(&device);
        ports.spawn(serve(listen(&arguments.dir.join(format!("{name}.port")))?, device.port()));
        devices.push(device);
    }
    let ended = watch(&arguments, &mut tally, &devices).await;
    ports.shutdown().await;
    for number in 0..arguments.count {
        let name = format!("sim-{:05}.port", arguments.first.saturating_add(number));
        let _ = fs::remove_file(arguments.dir.join(name));
    }
    ended
}

fn flash(arguments: &Arguments, name: &str) -> anyhow::Result<Flash> {
    let path = arguments.dir.join(format!("{name}.flash"));
    let root_digest = match arguments.root_digest {
        Some(digest) => digest,
        None if path.exists() => [0; 32],
        None => bail!("{} is new: --root-digest says which root it shall obey", path.display()),
    };
    let page = VendorPage { root_digest, hardware: "sim".try_into().context("three letters fit")? };
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::from)?;
    Flash::open(&path, &page, seed).with_context(|| path.display().to_string())
}

/// A socket left by a process that was killed is in the way; it is nobody's.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| path.display().to_string());
    }
    UnixListener::bind(path).with_context(|| path.display().to_string())
}

/// Each caller is a cable; there is one at a time.
async fn serve(listener: UnixListener, port: muster_sim::serial::Socket) {
    while let Ok((mut station, _)) = listener.accept().await {
        let mut cable = port.plug();
        // Either end going is the cable being pulled.
        let _ = tokio::io::copy_bidirectional(&mut station, &mut cable).await;
    }
}

/// Prints counts until Ctrl-C. A device that panicked ends it.
async fn watch(arguments: &Arguments, tally: &mut Tally, devices: &[Device]) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_secs(arguments.every));
    ticks.tick().await;
    let stop = tokio::signal::ctrl_c();
    tokio::pin!(stop);
    loop {
        let stopped = tokio::select! {
            stopped = &mut stop => Some(stopped),
            _ = ticks.tick() => None,
        };
        let count = tally.count();
        if arguments.json {
            println!("{}", serde_json::to_string(&count)?);
        } else {
            println!("{count}");
        }
        if let Some(dead) = devices.iter().position(|device| !device.is_running()) {
            bail!("device {dead} ended by itself: a defect of the firmware");
        }
        if let Some(stopped) = stopped {
            return stopped.context("no signals");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_hex_digits() {
        assert_eq!(digest(&"0f".repeat(32)), Ok([0x0f; 32]));
        for wrong in ["", "0f", &"0g".repeat(32), &"é".repeat(32), &"+f".repeat(32)] {
            assert!(digest(wrong).is_err(), "{wrong}");
        }
    }
}
