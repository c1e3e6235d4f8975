//! `audit`: who decided what, when and why.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Audit {
    /// Rows, oldest first
    List(AuditList),
    /// Check that the log, or an export of it, is whole
    Verify(AuditVerify),
    /// Take the whole log out, with what proves it
    Export {
        /// The new file; one JSON document a line
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Sign where the log stands now; keep it elsewhere, against a log that is cut
    Checkpoint {
        /// The new file; standard output without it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// The public key checkpoints are signed with, PEM
    Key,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct AuditList {
    /// Such as "actor:ana action:device. since:2026-11-20T00:00:00Z": the same as the flags of these names
    #[arg(long, value_name = "EXPR")]
    pub(in crate::cli) filter: Option<String>,
    /// Look again and again: the table in place on a terminal, else a line for each new record
    #[arg(long)]
    pub(in crate::cli) watch: bool,
    /// Begin after this number
    #[arg(long, value_name = "NO", default_value_t = 0)]
    pub(in crate::cli) after: u64,
    /// By this operator
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) actor: Option<String>,
    /// Such as device.revoke, or all of a kind: device.
    #[arg(long, value_name = "ACTION")]
    pub(in crate::cli) action: Option<String>,
    /// About this, such as acme/MU-000118
    #[arg(long, value_name = "TARGET")]
    pub(in crate::cli) target: Option<String>,
    /// From then on, such as 2026-11-20T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(in crate::cli) since: Option<String>,
    /// Before then
    #[arg(long, value_name = "TIME")]
    pub(in crate::cli) until: Option<String>,
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(in crate::cli) limit: u32,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct AuditVerify {
    /// Read the registry of the data directory itself, without a server
    #[arg(long)]
    pub(in crate::cli) offline: bool,
    /// Check this export instead; needs no server and no data directory
    #[arg(long, value_name = "FILE", conflicts_with = "offline")]
    pub(in crate::cli) file: Option<PathBuf>,
    /// A checkpoint kept elsewhere (`audit checkpoint`, or an earlier `audit verify --json`), against a cut tail
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) checkpoint: Option<PathBuf>,
    /// The server's public key (`audit key`, or audit.pub of its data directory)
    #[arg(long, value_name = "PUBKEY")]
    pub(in crate::cli) key: Option<PathBuf>,
}
