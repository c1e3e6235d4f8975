//! `ca`: whom this server trusts, and what it takes from each station.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use super::{
    decision::{Hold, RevokeGroup},
    flags::Narrow,
    local::Init,
};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Ca {
    /// Make a data directory with keys of its own or those of a ceremony. The same as muster init
    Init(Init),
    /// Stations this server takes devices from
    List(Narrow),
    /// Register a station and its factory CA by their root-signed record
    #[command(visible_alias = "trust-station")]
    Trust(Trust),
    /// Let a new authority of the server's own take over: first the request for the root to sign, then, with
    /// --certificate, the root's answer. The old one stays trusted for what it has issued
    Rotate(Rotate),
    /// Refuse every certificate of an authority for ever: its key identifier, the station that holds it,
    /// `operational` or `service`. Sessions end. Cannot be undone
    Withdraw(RevokeGroup),
    /// Refuse for now what a station has made, and will make; its devices' sessions end
    SuspendStation(Hold),
    /// Let the devices of a suspended station back: each is what it was
    ResumeStation(Hold),
    /// Refuse what a station has made because something is wrong; its devices' sessions end
    QuarantineStation(Hold),
    /// Let the devices of a quarantined station back
    ReleaseStation(Hold),
    /// Refuse for ever what a station has made, and will make; sessions end. Cannot be undone
    RevokeStation(RevokeGroup),
    /// An authority: its fingerprint to compare by eye, and where its key lives
    Show {
        /// root, broker, operational, https, service, operator, or a station; all without it
        name: Option<String>,
    },
    /// The revocation list of an authority whose key the server holds
    Crl {
        /// broker, operational, https, service or operator
        name: String,
        /// Write it (DER) to this new file instead of standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Trust {
    /// The record from the ceremony
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
    /// Let it take the place of an older record of the same factory CA, such as one of a smaller quota
    #[arg(long)]
    pub(in crate::cli) replace: bool,
    /// Why, in your words; kept in the audit log
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) reason: Option<String>,
    /// Say what would be registered, and register nothing
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Rotate {
    /// operational, service or operator
    pub(in crate::cli) name: String,
    /// The certificate the root signed for the request; PEM
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    pub(in crate::cli) certificate: Option<PathBuf>,
    /// Write the request to this new file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) out: Option<PathBuf>,
    /// Why, in your words; kept in the audit log
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) reason: Option<String>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
}
