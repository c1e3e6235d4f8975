//! `operator` and `token`: who may act at all, and what programs and the command line come with.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use super::flags::Narrow;
use crate::cli::complete;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Operator {
    /// Operators, a line each
    List(Narrow),
    /// Add one; what they come with is made by: token create, operator invite
    Add {
        /// NAME, or TENANT/NAME for one tenant's own
        name: String,
        /// viewer, auditor, importer, operator, security or admin
        #[arg(long, value_name = "ROLE", add = ArgValueCompleter::new(complete::roles))]
        role: String,
    },
    /// Remove operators, with their tokens, sessions and links
    Remove {
        /// NAME, or TENANT/NAME
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Why, in your words
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Change the most an operator may do
    Role {
        /// NAME, or TENANT/NAME
        name: String,
        /// viewer, auditor, importer, operator, security or admin
        role: String,
        /// Why, in your words
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Make a link that lets an operator in once, within 15 minutes; on the server's host, without a token
    Invite {
        /// NAME, or TENANT/NAME
        name: String,
        /// Make the operator, with this role
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
        /// Write the link to this new file of mode 0600 instead of standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Token {
    /// Tokens, without what would let one use them
    List(Narrow),
    /// Make a token; it is shown once
    Create(TokenCreate),
    /// End tokens now
    Revoke {
        /// Their ids, such as t-3f9a17c2b0de
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// Why, in your words
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct TokenCreate {
    /// What it is called, and whom it speaks for unless --operator says otherwise
    pub(in crate::cli) name: String,
    /// The operator it speaks for, who is made if there is none: NAME, or TENANT/NAME
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) operator: Option<String>,
    /// The one tenant it is for
    #[arg(long, value_name = "TENANT")]
    pub(in crate::cli) tenant: Option<String>,
    /// viewer, auditor, importer, operator, security or admin
    #[arg(long, value_name = "ROLE", add = ArgValueCompleter::new(complete::roles))]
    pub(in crate::cli) role: String,
    /// How long it lives
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub(in crate::cli) days: u16,
    /// Write it to this new file of mode 0600 instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) out: Option<PathBuf>,
}
