//! The command line of `muster-factory`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use muster_provisioning::port::PortName;
use muster_shared::{BatchId, DeviceId, SerialNumber};

/// From a blank board to a certified device: key ceremony, station, batches, manifests.
#[derive(Parser)]
#[command(name = "muster-factory", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Errors and results as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) act: Act,
}

#[derive(Subcommand)]
pub(crate) enum Act {
    /// Carry out a key ceremony: one reviewed file becomes keys, certificates and records.
    Ceremony(Ceremony),
    /// Sign, with the root of a ceremony, an authority that is to take an older one's place.
    SignAuthority(SignAuthority),
    /// Make more stations below the root of a ceremony, from a reviewed file that names them alone.
    AddStations(AddStations),
    /// Take one unit through all its steps.
    Run(Box<Run>),
    /// End a batch.
    Batch {
        #[command(subcommand)]
        act: BatchAct,
    },
    /// Look at a manifest.
    Manifest {
        #[command(subcommand)]
        act: ManifestAct,
    },
    /// Write the vendor page of a board: the root it obeys, and what it is.
    VendorPage {
        /// The root's certificate, PEM.
        #[arg(long)]
        root: PathBuf,
        /// The board's kind.
        #[arg(long)]
        hardware: String,
        /// Where to.
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct Ceremony {
    /// The reviewed plan.
    #[arg(required_unless_present = "sample")]
    pub(crate) plan: Option<PathBuf>,
    /// A folder that is not there yet.
    #[arg(long, required_unless_present = "sample")]
    pub(crate) out: Option<PathBuf>,
    /// Print an annotated plan and end.
    #[arg(long)]
    pub(crate) sample: bool,
    /// One passphrase for all folders; else the environment, else a prompt for each.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// The passphrase of `root/`.
    #[arg(long, value_name = "FILE")]
    pub(crate) root_passphrase_file: Option<PathBuf>,
    /// The passphrase of `server/`.
    #[arg(long, value_name = "FILE")]
    pub(crate) server_passphrase_file: Option<PathBuf>,
    /// The passphrase of each of `stations/`.
    #[arg(long, value_name = "FILE")]
    pub(crate) station_passphrase_file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct SignAuthority {
    /// The request, as `muster ca rotate` wrote it.
    pub(crate) request: PathBuf,
    /// The key identifier that `muster ca rotate` said, 40 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    pub(crate) key: String,
    /// The folder `root` of the ceremony.
    #[arg(long, value_name = "DIR")]
    pub(crate) root: PathBuf,
    /// Where to; a file that is there is not replaced.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Opens the root's key; else MUSTER_FACTORY_PASSPHRASE, else a prompt.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct AddStations {
    /// The reviewed plan: the owner, and the new stations.
    pub(crate) plan: PathBuf,
    /// The folder `root` of the ceremony.
    #[arg(long, value_name = "DIR")]
    pub(crate) root: PathBuf,
    /// `anchors.bin` of a station there is: what devices pin.
    #[arg(long, value_name = "FILE")]
    pub(crate) anchors: PathBuf,
    /// `station.record` of a station there is; once for each, so that no name and no serial is given twice.
    #[arg(long, value_name = "RECORD", required = true)]
    pub(crate) beside: Vec<PathBuf>,
    /// A folder that is not there yet.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// One passphrase for the root and the new folders; else the environment, else a prompt for each.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Opens the root's key.
    #[arg(long, value_name = "FILE")]
    pub(crate) root_passphrase_file: Option<PathBuf>,
    /// The passphrase of each new station's folder.
    #[arg(long, value_name = "FILE")]
    pub(crate) station_passphrase_file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Station {
    /// The station's folder from the ceremony.
    #[arg(long)]
    pub(crate) station: PathBuf,
    /// What the station remembers.
    #[arg(long)]
    pub(crate) journal: PathBuf,
    /// Opens the station's keys; else MUSTER_FACTORY_PASSPHRASE, else a prompt.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) station: Station,
    /// Where the unit is plugged in: /dev/ttyX, tcp:HOST:PORT or unix:PATH.
    #[arg(long)]
    pub(crate) port: PortName,
    /// The order.
    #[arg(long)]
    pub(crate) batch: BatchId,
    /// What the unit is.
    #[arg(long)]
    pub(crate) product: String,
    /// The serial on the label; the next of the range unless given.
    #[arg(long)]
    pub(crate) serial: Option<SerialNumber>,
    /// The unit's name in topics; its serial unless given.
    #[arg(long)]
    pub(crate) device_id: Option<DeviceId>,
    /// The order's settings, TOML; flags stand over it.
    #[arg(long, value_name = "FILE")]
    pub(crate) order: Option<PathBuf>,
    /// Where the unit will connect.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) endpoint: Option<String>,
    /// The name the broker's certificate must carry; the host unless given.
    #[arg(long)]
    pub(crate) server_name: Option<String>,
    /// MQTT keep-alive, seconds.
    #[arg(long)]
    pub(crate) keep_alive_s: Option<u16>,
    /// Seconds between telemetry messages.
    #[arg(long)]
    pub(crate) telemetry_s: Option<u16>,
    /// Longest wait before a reconnect, seconds.
    #[arg(long)]
    pub(crate) retry_s_max: Option<u16>,
    /// Refuse any other kind of board (E04).
    #[arg(long)]
    pub(crate) hardware: Option<String>,
    /// Refuse any other firmware image (E03): its SHA-256.
    #[arg(long)]
    pub(crate) firmware_digest: Option<String>,
    /// Seconds to wait for a unit to answer.
    #[arg(long, default_value_t = 15)]
    pub(crate) wait_s: u32,
}

#[derive(Subcommand)]
pub(crate) enum BatchAct {
    /// Sign the manifest of a batch; no unit can be added to it afterwards.
    Close {
        #[command(flatten)]
        station: Station,
        /// Which; may be left out where only one is open.
        #[arg(long)]
        batch: Option<BatchId>,
        /// Where to; a file that is there is not replaced.
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Subcommand)]
pub(crate) enum ManifestAct {
    /// Check a manifest against its station's record, and that against the root.
    Verify {
        /// The manifest.
        file: PathBuf,
        /// The station's record from the ceremony.
        #[arg(long)]
        station_record: PathBuf,
        /// The root's certificate, PEM.
        #[arg(long)]
        root: PathBuf,
    },
}
