//! `batch`: what stations have handed over.

use std::path::PathBuf;

use clap::Subcommand;
use clap_complete::engine::ArgValueCompleter;

use super::{
    decision::{Hold, RevokeGroup},
    flags::Narrow,
};
use crate::cli::complete;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Batch {
    /// Batches that were imported
    List(Narrow),
    /// Take in a station's signed manifest
    Import {
        /// The manifest
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// A batch against what was made: overproduction, gaps, duplicates
    Show {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::batches))]
        batch: String,
    },
    /// A batch's manifest, as it was imported
    Export {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::batches))]
        batch: String,
        /// Its place in its station's chain; the newest without it
        #[arg(long, value_name = "NO")]
        sequence: Option<u64>,
        /// Write it to this new file instead of standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Check a batch's manifests again, and their rows against what is here
    Verify {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::batches))]
        batch: String,
    },
    /// Refuse a batch for now, and whatever is imported into it; its sessions end
    Suspend(Hold),
    /// Let a suspended batch back: each device is what it was
    Resume(Hold),
    /// Refuse a batch because something is wrong; its sessions end
    Quarantine(Hold),
    /// Let a quarantined batch back
    Release(Hold),
    /// Refuse a batch for ever, and whatever is imported into it; its sessions end. Cannot be undone
    Revoke(RevokeGroup),
}
