//! What a decision is given: devices by serial or by filter, a group by its name. And `job`: how far those by
//! filter are.

use clap::{Args as ClapArgs, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use super::flags::Narrow;
use crate::cli::complete;

/// A decision about devices.
#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Decide {
    /// Serials, or - to read them from standard input
    #[arg(required_unless_present = "filter", conflicts_with = "filter", value_name = "SERIAL", add = ArgValueCompleter::new(complete::serials))]
    pub(in crate::cli) serials: Vec<String>,
    /// Every device that matches, such as "batch:B-0042 state:active"
    #[arg(long, value_name = "EXPR", add = ArgValueCompleter::new(complete::filters))]
    pub(in crate::cli) filter: Option<String>,
    /// With --filter: only say what would be done, and how to confirm it
    #[arg(long, requires = "filter", conflicts_with = "confirm")]
    pub(in crate::cli) dry_run: bool,
    /// With --filter: what the dry run said. To revoke serials: the serial again; the number of several
    #[arg(long, value_name = "VALUE")]
    pub(in crate::cli) confirm: Option<String>,
    /// Why, in your words; kept in the audit log, never sent to the device
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) reason: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Revoke {
    #[command(flatten)]
    pub(in crate::cli) decide: Decide,
    /// RFC 5280 word: keyCompromise, cACompromise, affiliationChanged, superseded,
    /// cessationOfOperation, privilegeWithdrawn, unspecified
    #[arg(long, value_name = "WORD", add = ArgValueCompleter::new(complete::reasons))]
    pub(in crate::cli) reason_code: Option<String>,
}

/// A decision about many at once.
#[derive(Debug, Clone, ClapArgs)]
pub(in crate::cli) struct Hold {
    /// Its name; a batch as STATION/BATCH where several stations have it
    #[arg(value_name = "NAME")]
    pub(in crate::cli) name: String,
    /// Why, in your words; kept in the audit log, never sent to a device
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) reason: Option<String>,
    /// Say how many devices it is about, and decide nothing
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
}

#[derive(Debug, Clone, ClapArgs)]
pub(in crate::cli) struct RevokeGroup {
    #[command(flatten)]
    pub(in crate::cli) hold: Hold,
    /// RFC 5280 word: keyCompromise, cACompromise, affiliationChanged, superseded,
    /// cessationOfOperation, privilegeWithdrawn, unspecified
    #[arg(long, value_name = "WORD", add = ArgValueCompleter::new(complete::reasons))]
    pub(in crate::cli) reason_code: Option<String>,
    /// The name again; of a certificate eight digits are enough
    #[arg(long, value_name = "VALUE")]
    pub(in crate::cli) confirm: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Job {
    /// Jobs, newest first
    List(Narrow),
    /// How far one is, and what failed
    Show {
        /// Such as j-3f9a17c2b0de45aa
        job: String,
        /// Stay until it has ended
        #[arg(long)]
        follow: bool,
    },
    /// End one after the device it is at
    Cancel {
        /// Its name
        job: String,
    },
}
