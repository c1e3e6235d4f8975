//! What is done with a data directory where it lies: `init`, `serve`, `restore` and `config`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Init {
    /// The server's bundle of a key ceremony; without it, development keys are made
    #[arg(long, value_name = "DIR", requires = "passphrase_file")]
    pub(in crate::cli) pki: Option<PathBuf>,
    /// File with the passphrase of the bundle's keys
    #[arg(long, value_name = "FILE", requires = "pki")]
    pub(in crate::cli) passphrase_file: Option<PathBuf>,
    /// Whose fleet the development keys are for
    #[arg(long, value_name = "TENANT", default_value = "acme", conflicts_with = "pki")]
    pub(in crate::cli) tenant: String,
    /// The operator the first token speaks for
    #[arg(long, value_name = "NAME", default_value = "admin")]
    pub(in crate::cli) operator: String,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Serve {
    /// Address for devices; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(in crate::cli) listen_mqtt: Option<String>,
    /// Address for people and programs; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(in crate::cli) listen_https: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Restore {
    /// What muster backup made
    pub(in crate::cli) file: PathBuf,
    /// Replace what is there: registry, uplink log, the key of continuity tokens
    #[arg(long)]
    pub(in crate::cli) force: bool,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct ConfigArgs {
    #[command(subcommand)]
    pub(in crate::cli) verb: Option<ConfigVerb>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ConfigVerb {
    /// Read the configuration and say everything that is wrong with it
    Check,
    /// An annotated file with every key and its default
    Sample,
    /// Decide how long the server keeps what was seen; in force at once. Everything else stands in its file
    Set {
        /// Such as retention.sessions_days
        #[arg(value_name = "KEY")]
        key: String,
        /// In the unit the key ends with; 0 is without end
        #[arg(value_name = "N")]
        value: u64,
        /// Why, in your words; kept in the audit log
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}
