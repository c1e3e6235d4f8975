//! `device`: what is known of one or many, and what may be done.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use super::decision::{Decide, Revoke};
use crate::cli::complete;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Device {
    /// Devices, a line each
    List(DeviceList),
    /// Everything about one device
    Show {
        /// SERIAL, or TENANT/SERIAL where several tenants have it
        #[arg(add = ArgValueCompleter::new(complete::serials))]
        serial: String,
        /// All of its history
        #[arg(long)]
        history: bool,
    },
    /// Why a device can or cannot connect, check by check
    Explain(Explain),
    /// Take devices in from a list of their certificates, CSV or lines of JSON
    Import(DeviceImport),
    /// Refuse devices for now; their sessions end
    Suspend(Decide),
    /// Let suspended devices back
    Resume(Decide),
    /// Refuse devices because something is wrong; their sessions end
    Quarantine(Decide),
    /// Let quarantined devices back
    Release(Decide),
    /// Refuse devices for ever; their sessions end. Cannot be undone
    Revoke(Revoke),
    /// Take devices out of use: revoked, their data removed, the record kept. Cannot be undone
    Decommission(Revoke),
    /// Put another device in a device's place: the old one is revoked, the new one takes its labels, its note and
    /// its desired state. Cannot be undone
    Replace(Replace),
    /// End sessions now; the devices may come back
    Disconnect(Decide),
    /// Send a command to a device's session, live or away
    Command(Command),
    /// Commands sent to a device, newest first, and what it answered
    Commands(Commands),
    /// Write on devices: tags and groups to find them by, and a note
    Label(Label),
    /// What a device's sensors said: least, greatest and last of each bucket
    Readings(Readings),
    /// The state a device should be in, and what it says its state is
    Twin(Twin),
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct DeviceList {
    /// Such as "state:suspended batch:B-0042 firmware:<1.4.2 seen:>2d expires:<30d refused:>0 tag:x online:yes"
    #[arg(long, value_name = "EXPR", add = ArgValueCompleter::new(complete::filters))]
    pub(in crate::cli) filter: Option<String>,
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(in crate::cli) limit: u32,
    /// attention, serial, seen, changed, expires or refused; -KEY the other way round
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub(in crate::cli) sort: Option<String>,
    /// Begin after this cursor
    #[arg(long, value_name = "CURSOR")]
    pub(in crate::cli) after: Option<String>,
    /// Look again and again: the table in place on a terminal, else a line for each change
    #[arg(long)]
    pub(in crate::cli) watch: bool,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct DeviceImport {
    /// The list, or - for standard input: certificate (PEM or base64 DER) and perhaps serial of each device
    pub(in crate::cli) file: PathBuf,
    /// The batch they are to be of, within the station whose factory CA signed each
    #[arg(long, value_name = "BATCH")]
    pub(in crate::cli) batch: String,
    /// What they are, where the batch is new
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) product: Option<String>,
    /// How the list is written [default: csv where the file is named so, else ndjson]
    #[arg(long, value_name = "FORMAT", value_parser = ["csv", "ndjson"])]
    pub(in crate::cli) format: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Explain {
    /// SERIAL, or TENANT/SERIAL
    #[arg(add = ArgValueCompleter::new(complete::serials))]
    pub(in crate::cli) serial: String,
    /// May it use this topic, or this filter, too
    #[arg(long, value_name = "TOPIC")]
    pub(in crate::cli) topic: Option<String>,
    /// publish or subscribe
    #[arg(long, value_name = "VERB", default_value = "publish")]
    pub(in crate::cli) verb: String,
}

/// What is to be written on devices.
#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Label {
    /// Serials, or - to read them from standard input
    #[arg(required_unless_present = "filter", conflicts_with = "filter", value_name = "SERIAL", add = ArgValueCompleter::new(complete::serials))]
    pub(in crate::cli) serials: Vec<String>,
    /// Every device that matches, such as "batch:B-0042 state:active"; a note is written on serials alone
    #[arg(long, value_name = "EXPR", conflicts_with = "note")]
    pub(in crate::cli) filter: Option<String>,
    /// With --filter: only say what would be done, and how to confirm it
    #[arg(long, requires = "filter", conflicts_with = "confirm")]
    pub(in crate::cli) dry_run: bool,
    /// With --filter: what the dry run said
    #[arg(long, value_name = "VALUE", requires = "filter")]
    pub(in crate::cli) confirm: Option<String>,
    /// With --filter: why, in your words; kept in the audit log
    #[arg(long, value_name = "TEXT", requires = "filter")]
    pub(in crate::cli) reason: Option<String>,
    /// Put this tag on
    #[arg(long, value_name = "WORD")]
    pub(in crate::cli) tag: Vec<String>,
    /// Take this tag off
    #[arg(long, value_name = "WORD")]
    pub(in crate::cli) untag: Vec<String>,
    /// Put them in this group
    #[arg(long, value_name = "WORD")]
    pub(in crate::cli) group: Vec<String>,
    /// Take them out of this group
    #[arg(long, value_name = "WORD")]
    pub(in crate::cli) ungroup: Vec<String>,
    /// Write this note; an empty one removes it
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) note: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Readings {
    /// SERIAL, or TENANT/SERIAL
    #[arg(add = ArgValueCompleter::new(complete::serials))]
    pub(in crate::cli) serial: String,
    /// So long until now: 1h, 24h, 7d, 30d
    #[arg(long, value_name = "TIME", conflicts_with = "from")]
    pub(in crate::cli) range: Option<String>,
    /// From this instant on, such as 2026-11-20T00:00:00Z
    #[arg(long, value_name = "INSTANT")]
    pub(in crate::cli) from: Option<String>,
    /// Up to this instant
    #[arg(long, value_name = "INSTANT")]
    pub(in crate::cli) to: Option<String>,
    /// Most buckets
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=1200))]
    pub(in crate::cli) buckets: u32,
    /// Only this sensor
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) sensor: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Twin {
    /// SERIAL, or TENANT/SERIAL
    #[arg(add = ArgValueCompleter::new(complete::serials))]
    pub(in crate::cli) serial: String,
    /// Set the state it should be in to this JSON object, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) set: Option<PathBuf>,
    /// Only if that is still of this version, 0 for none yet
    #[arg(long, value_name = "N", requires = "set")]
    pub(in crate::cli) if_version: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Replace {
    /// The device that goes: SERIAL, or TENANT/SERIAL
    #[arg(add = ArgValueCompleter::new(complete::serials))]
    pub(in crate::cli) serial: String,
    /// The device that takes its place; of the same tenant, and one that may connect
    #[arg(long, value_name = "SERIAL")]
    pub(in crate::cli) by: String,
    /// Only say what would be done
    #[arg(long, conflicts_with = "confirm")]
    pub(in crate::cli) dry_run: bool,
    /// The serial of the device that goes, again
    #[arg(long, value_name = "SERIAL")]
    pub(in crate::cli) confirm: Option<String>,
    /// Why, in your words; kept in the audit log, never sent to a device
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) reason: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Command {
    /// SERIAL, or TENANT/SERIAL
    #[arg(add = ArgValueCompleter::new(complete::serials))]
    pub(in crate::cli) serial: String,
    /// What to send, or - for standard input
    pub(in crate::cli) payload: String,
    /// Stay until the device has answered, so many seconds at most
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "30", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(in crate::cli) wait: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Commands {
    /// SERIAL, or TENANT/SERIAL
    #[arg(add = ArgValueCompleter::new(complete::serials))]
    pub(in crate::cli) serial: String,
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(in crate::cli) limit: u32,
    /// Begin after this cursor
    #[arg(long, value_name = "CURSOR")]
    pub(in crate::cli) after: Option<String>,
}
