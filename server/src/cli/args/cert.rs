//! `cert`: certificates of devices, those made here for services, and any by its SHA-256.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use super::decision::RevokeGroup;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Cert {
    /// Make a key and a certificate for a service or an operator, with the keys of the data directory
    Issue(CertIssue),
    /// Refuse one certificate for ever, of a device or of a service, by its SHA-256 or the file it is in; its
    /// session ends. Cannot be undone
    Revoke(RevokeGroup),
    /// Certificates of devices, what ends first first
    List(CertList),
    /// One certificate, by the SHA-256 of its DER
    Show {
        /// 64 hexadecimal digits
        #[arg(value_name = "CERT-ID")]
        id: String,
    },
    /// Check a certificate: who signed it, its dates, whose it is, and whether it would be let in now
    Verify(CertVerify),
    /// What a file says, and what the server knows of it
    Inspect {
        /// A certificate in PEM or DER
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct CertIssue {
    /// Its name, as in its `[[service]]` entry
    #[arg(long, value_name = "NAME", required_unless_present = "operator", conflicts_with = "operator")]
    pub(in crate::cli) service: Option<String>,
    /// The operator of every tenant it names; accepted in place of a token while they are one
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) operator: Option<String>,
    /// Folder for the certificate, its key and what its holder trusts
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) out: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct CertList {
    #[command(flatten)]
    pub(in crate::cli) paged: Paged,
    /// Such as "status:revoked issuer:9a…42 ends:30": the same as the flags of these names
    #[arg(long, value_name = "EXPR")]
    pub(in crate::cli) filter: Option<String>,
    /// Look again and again: the table in place on a terminal, else a line for each change
    #[arg(long)]
    pub(in crate::cli) watch: bool,
    /// pending, active, superseded or revoked
    #[arg(long, value_name = "WORD")]
    pub(in crate::cli) status: Option<String>,
    /// Key identifier of the issuer, hexadecimal
    #[arg(long, value_name = "HEX")]
    pub(in crate::cli) issuer: Option<String>,
    /// Those that end within so many days
    #[arg(long, value_name = "DAYS")]
    pub(in crate::cli) ends: Option<u32>,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Paged {
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(in crate::cli) limit: u32,
    /// Begin after this cursor
    #[arg(long, value_name = "CURSOR")]
    pub(in crate::cli) after: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct CertVerify {
    /// A certificate in PEM or DER; PEM of those who signed it may stand behind it
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
    /// Without a server: against this root, PEM or DER; who signed it stands in the file, or in --authority
    #[arg(long, value_name = "ROOT")]
    pub(in crate::cli) root: Option<PathBuf>,
    /// With --root: an authority the root has signed
    #[arg(long, value_name = "CA", requires = "root")]
    pub(in crate::cli) authority: Vec<PathBuf>,
}
