//! The grammar: `muster <noun> <verb> [SERIAL…|-] [flags]`. Nouns are singular.
//!
//! Flags that are also configuration keys are plain texts here; [`crate::config`] checks them, so that a
//! wrong value is refused with the same words wherever it was given.
//!
//! | module | is |
//! |---|---|
//! | `flags`, `decision` | what many verbs are given: every command and listing, every decision; `job` |
//! | `device`, `batch`, `ca`, `cert` | what may be decided about, and who vouches for it |
//! | `session`, `audit`, `operator` | who is connected and what happens; who decided what; who may act, `token` |
//! | `local` | what is done where the data directory lies |

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use super::complete;

mod audit;
mod batch;
mod ca;
mod cert;
mod decision;
mod device;
mod flags;
mod local;
mod operator;
mod session;

use self::local::ConfigArgs;
pub(super) use self::{
    audit::{Audit, AuditList, AuditVerify},
    batch::Batch,
    ca::{Ca, Rotate, Trust},
    cert::{Cert, CertIssue, CertList, CertVerify},
    decision::{Decide, Hold, Job, Revoke, RevokeGroup},
    device::{Command, Commands, Device, DeviceImport, DeviceList, Explain, Label, Readings, Replace, Twin},
    flags::{Global, KEYS, Narrow},
    local::{ConfigVerb, Init, Restore, Serve},
    operator::{Operator, Token, TokenCreate},
    session::{Events, Session},
};

/// What `muster` prints when nothing was asked: what it is, three examples, the nouns.
pub const FRONT: &str = "\
muster: from a blank board to a trusted member of a fleet, and out of it again

  muster init && muster serve                           make keys and a token; run the server
  muster batch import B-0042.muster                     take in what a station has made
  muster device suspend MU-000118 --reason \"case 881\"   refuse it for now; its session ends

device    list show import explain twin label command replace disconnect decommission; acts as batch
batch     list show import export verify suspend resume quarantine release revoke
ca        init list show crl trust rotate withdraw {ACT}-station   token list create revoke
cert      list show inspect verify issue revoke   session list show disconnect
audit     list verify export checkpoint key   operator list add remove role invite   job list cancel
top       init serve login status events doctor config explain backup restore export schema man …
";

/// The command line, parsed.
#[derive(Debug, Parser)]
#[command(
    name = "muster",
    version,
    about = "From a blank board to a trusted member of a fleet, and out of it again",
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Args {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) noun: Option<Noun>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Noun {
    /// One device or many: what is known, and what may be done
    #[command(subcommand, arg_required_else_help = true)]
    Device(Device),
    /// What stations have handed over
    #[command(subcommand, arg_required_else_help = true)]
    Batch(Batch),
    /// Whom this server trusts
    #[command(subcommand, arg_required_else_help = true)]
    Ca(Ca),
    /// Certificates: those of devices, those made here for services, and any by its SHA-256
    #[command(subcommand, arg_required_else_help = true)]
    Cert(Cert),
    /// Who is connected now
    #[command(subcommand, arg_required_else_help = true)]
    Session(Session),
    /// Who decided what, when and why
    #[command(subcommand, arg_required_else_help = true)]
    Audit(Audit),
    /// Who may act at all, as what and for which tenant
    #[command(subcommand, arg_required_else_help = true)]
    Operator(Operator),
    /// What programs and the command line come with
    #[command(subcommand, arg_required_else_help = true)]
    Token(Token),
    /// Keep a token for these commands: from a token or a one-time link on standard input
    Login,
    /// Make a data directory: keys, certificates, the first token, a configuration file
    Init(Init),
    /// Run the server
    Serve(Serve),
    /// Acts on many devices: how far they are
    #[command(subcommand, arg_required_else_help = true)]
    Job(Job),
    /// Is the server well, and what does it hold
    Status,
    /// What happens, as it happens
    Events(Events),
    /// Is the server reachable, trusted and well: each question answered
    Doctor,
    /// A script that completes commands in a shell
    Completions {
        /// bash, elvish, fish, powershell or zsh
        shell: clap_complete::Shell,
    },
    /// Write manual pages
    Man {
        /// Folder for them
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// The JSON Schema of a document; without a name, which there are
    Schema {
        /// Such as device.list
        name: Option<String>,
    },
    /// Copy registry and uplink log of the running server into one file
    Backup {
        /// The file to make; it must not be there yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Everything the registry knows of its fleet, a JSON object a line
    Export {
        /// The file to make instead of standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Bring a backup back into a data directory on which no server runs
    Restore(Restore),
    /// Each configuration value in force, and where it came from
    Config(ConfigArgs),
    /// What a code means and what to do: muster explain M201
    Explain {
        /// Such as M201 or E13
        #[arg(add = ArgValueCompleter::new(complete::codes))]
        code: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_front_page_is_twelve_lines_of_at_most_100_columns() {
        assert_eq!(FRONT.lines().count(), 12);
        assert!(FRONT.lines().all(|line| line.len() <= 100));
    }

    /// A command in a refusal's next step runs to the end, to a comma or to a semicolon.
    #[test]
    fn every_command_a_refusal_recommends_exists() {
        let mut commands = 0;
        for code in muster_shared::Code::ALL {
            let next = code.entry().next.replace("{}", "MU-000118").replace("\"…\"", "why");
            for said in next.split([';', ',']) {
                let Some(at) = said.find("muster ").filter(|at| *at == 0 || said[..*at].ends_with(' '))
                else {
                    continue;
                };
                commands += 1;
                let parsed = Args::try_parse_from(said[at..].split_whitespace());
                let help = |error: &clap::Error| error.kind() == clap::error::ErrorKind::DisplayHelp;
                if let Err(error) = parsed {
                    assert!(help(&error), "{code}: {} {error}", &said[at..]);
                }
            }
        }
        assert!(commands > 10, "{commands}");
    }
}
