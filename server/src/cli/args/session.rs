//! `session` and `events`: who is connected now, and what happens, as it happens.

use clap::{Args as ClapArgs, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use super::decision::Decide;
use crate::cli::complete;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Session {
    /// Live sessions: devices by tenant and id, then services
    List(SessionList),
    /// End sessions now; the devices may come back. The same as device disconnect
    Disconnect(Decide),
    /// A device's last sessions, and why each ended
    Show {
        /// SERIAL, or TENANT/SERIAL
        #[arg(add = ArgValueCompleter::new(complete::serials))]
        serial: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct SessionList {
    /// Such as "tenant:acme mqtt:5.0 kind:device address:10.0. MU-0001": a word is the beginning of a name
    #[arg(long, value_name = "EXPR")]
    pub(in crate::cli) filter: Option<String>,
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(in crate::cli) limit: u32,
    /// Begin after this cursor
    #[arg(long, value_name = "CURSOR")]
    pub(in crate::cli) after: Option<String>,
    /// Look again and again: the table in place on a terminal, else a line for each change
    #[arg(long)]
    pub(in crate::cli) watch: bool,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Events {
    /// Stay, and go on after a cut
    #[arg(long)]
    pub(in crate::cli) follow: bool,
    /// Such as "kind:change MU-000118" or "topic:acme/+/telemetry/#"
    #[arg(long, value_name = "EXPR")]
    pub(in crate::cli) filter: Option<String>,
    /// Begin after the event with this id
    #[arg(long, value_name = "CURSOR")]
    pub(in crate::cli) after: Option<String>,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(in crate::cli) limit: Option<u64>,
}
