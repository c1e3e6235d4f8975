//! The grammar: `muster <noun> <verb> [SERIAL…|-] [flags]`. Nouns are singular.
//!
//! Flags that are also configuration keys are plain texts here; [`crate::config`] checks them, so that a
//! wrong value is refused with the same words wherever it was given.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::config::Given;

/// What `muster` prints when nothing was asked: what it is, three examples, the nouns.
pub const FRONT: &str = "\
muster: from a blank board to a trusted member of a fleet, and out of it again

  muster init && muster serve                           make keys and a token; run the server
  muster batch import B-0042.muster                     take in what a station has made
  muster device suspend MU-000118 --reason \"case 881\"   refuse it for now; its session ends

device    list show import suspend resume quarantine release revoke decommission disconnect command
batch     list import suspend resume quarantine release revoke      session   list
ca        list trust-station withdraw {suspend,resume,quarantine,release,revoke}-station
cert      issue revoke             token     list create revoke     audit     list verify
top       init serve status config explain backup restore export
help      muster NOUN --help; muster explain CODE; muster config
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

/// Flags of every command.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Everywhere")]
pub(super) struct Global {
    /// Configuration file [env: MUSTER_CONFIG] [default: muster.toml in the data directory]
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,
    /// Data directory [env: MUSTER_DATA_DIR]
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) data_dir: Option<PathBuf>,
    /// Server [env: MUSTER_SERVER] [default: the one that runs on the data directory]
    #[arg(long, value_name = "URL", global = true)]
    pub(super) server: Option<String>,
    /// The one authority to trust [env: MUSTER_CA] [default: https.pem in the data directory]
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) ca: Option<String>,
    /// File with the token, or - for standard input [env: MUSTER_TOKEN_FILE]
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) token_file: Option<String>,
    /// table, wide, json, jsonl, csv or serial [env: MUSTER_OUTPUT]
    #[arg(short, long, value_name = "FORMAT", global = true)]
    pub(super) output: Option<String>,
    /// The same as -o json
    #[arg(long, global = true, conflicts_with = "output")]
    pub(super) json: bool,
    /// Longest a request may take, such as 10s [env: MUSTER_TIMEOUT]
    #[arg(long, value_name = "TIME", global = true)]
    pub(super) timeout: Option<String>,
    /// auto, always or never [env: MUSTER_COLOR, NO_COLOR]
    #[arg(long, value_name = "WHEN", global = true)]
    pub(super) color: Option<String>,
    /// Plain ASCII instead of glyphs [env: MUSTER_ASCII]
    #[arg(long, global = true)]
    pub(super) ascii: bool,
    /// Never ask; this build never does, so it changes nothing
    #[arg(long, global = true)]
    pub(super) no_input: bool,
    /// No footers, no warnings
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Request id and cause chain with errors
    #[arg(short, long, global = true)]
    pub(super) verbose: bool,
}

impl Global {
    /// What was said on the command line, by configuration key.
    pub(super) fn given(&self) -> Given {
        let mut flags = Vec::new();
        let mut say = |key, flag: &str, value: &Option<String>| {
            flags.extend(value.iter().map(|value| (key, flag.to_owned(), value.clone())));
        };
        say("client.server", "--server", &self.server);
        say("client.ca", "--ca", &self.ca);
        say("client.token_file", "--token-file", &self.token_file);
        say("client.output", "-o", &self.output);
        say("client.output", "--json", &self.json.then(|| "json".to_owned()));
        say("client.timeout", "--timeout", &self.timeout);
        say("client.color", "--color", &self.color);
        say("client.ascii", "--ascii", &self.ascii.then(|| "true".to_owned()));
        Given { file: self.config.clone(), data_dir: self.data_dir.clone(), flags }
    }
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
    /// Certificates: those made here for services, and any by its SHA-256
    #[command(subcommand, arg_required_else_help = true)]
    Cert(Cert),
    /// Who is connected now
    #[command(subcommand, arg_required_else_help = true)]
    Session(Session),
    /// Who decided what, when and why
    #[command(subcommand, arg_required_else_help = true)]
    Audit(Audit),
    /// Who may use the API, and as what
    #[command(subcommand, arg_required_else_help = true)]
    Token(Token),
    /// Make a data directory: keys, certificates, the first token, a configuration file
    Init(Init),
    /// Run the server
    Serve(Serve),
    /// Is the server well, and what does it hold
    Status,
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
        code: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(super) struct DeviceImport {
    /// The list, or - for standard input: certificate (PEM or base64 DER) and perhaps serial of each device
    pub(super) file: PathBuf,
    /// The batch they are to be of, within the station whose factory CA signed each
    #[arg(long, value_name = "BATCH")]
    pub(super) batch: String,
    /// What they are, where the batch is new
    #[arg(long, value_name = "NAME")]
    pub(super) product: Option<String>,
    /// How the list is written [default: csv where the file is named so, else ndjson]
    #[arg(long, value_name = "FORMAT", value_parser = ["csv", "ndjson"])]
    pub(super) format: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Restore {
    /// What muster backup made
    pub(super) file: PathBuf,
    /// Replace what is there: registry, uplink log, the key of continuity tokens
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Device {
    /// Devices, a line each
    List(DeviceList),
    /// Everything about one device
    Show {
        /// SERIAL, or TENANT/SERIAL where several tenants have it
        serial: String,
        /// All of its history
        #[arg(long)]
        history: bool,
    },
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
    /// End sessions now; the devices may come back
    Disconnect(Decide),
    /// Send a command to a device's live session
    Command(Command),
}

#[derive(Debug, ClapArgs)]
pub(super) struct DeviceList {
    /// Such as "state:suspended batch:B-0042 tenant:acme"
    #[arg(long, value_name = "EXPR")]
    pub(super) filter: Option<String>,
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) limit: u32,
    /// Begin after this cursor
    #[arg(long, value_name = "CURSOR")]
    pub(super) after: Option<String>,
}

/// A decision about devices.
#[derive(Debug, ClapArgs)]
pub(super) struct Decide {
    /// Serials, or - to read them from standard input
    #[arg(required = true, value_name = "SERIAL")]
    pub(super) serials: Vec<String>,
    /// Why, in your words; kept in the audit log, never sent to the device
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Revoke {
    #[command(flatten)]
    pub(super) decide: Decide,
    /// RFC 5280 word: keyCompromise, cACompromise, affiliationChanged, superseded,
    /// cessationOfOperation, privilegeWithdrawn, unspecified
    #[arg(long, value_name = "WORD")]
    pub(super) reason_code: Option<String>,
    /// The serial again; the number of serials when there are several
    #[arg(long, value_name = "VALUE")]
    pub(super) confirm: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Command {
    /// SERIAL, or TENANT/SERIAL
    pub(super) serial: String,
    /// What to send, or - for standard input
    pub(super) payload: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Batch {
    /// Batches that were imported
    List(Paged),
    /// Take in a station's signed manifest
    Import {
        /// The manifest
        #[arg(value_name = "FILE")]
        file: PathBuf,
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

/// A decision about many at once.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct Hold {
    /// Its name; a batch as STATION/BATCH where several stations have it
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// Why, in your words; kept in the audit log, never sent to a device
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
    /// Say how many devices it is about, and decide nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Clone, ClapArgs)]
pub(super) struct RevokeGroup {
    #[command(flatten)]
    pub(super) hold: Hold,
    /// RFC 5280 word: keyCompromise, cACompromise, affiliationChanged, superseded,
    /// cessationOfOperation, privilegeWithdrawn, unspecified
    #[arg(long, value_name = "WORD")]
    pub(super) reason_code: Option<String>,
    /// The name again; of a certificate eight digits are enough
    #[arg(long, value_name = "VALUE")]
    pub(super) confirm: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Ca {
    /// Stations this server takes devices from
    List,
    /// Register a station by its root-signed record
    TrustStation {
        /// The record from the ceremony
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
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
}

#[derive(Debug, Subcommand)]
pub(super) enum Cert {
    /// Make a key and a certificate for a service, with the keys of the data directory
    Issue(CertIssue),
    /// Refuse one certificate for ever, of a device or of a service, by its SHA-256 or the file it is in; its
    /// session ends. Cannot be undone
    Revoke(RevokeGroup),
}

#[derive(Debug, ClapArgs)]
pub(super) struct CertIssue {
    /// Its name, as in its `[[service]]` entry
    #[arg(long, value_name = "NAME")]
    pub(super) service: String,
    /// Folder for the certificate, its key and what the service trusts
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum Session {
    /// Live sessions, oldest first
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Rows, oldest first
    List(AuditList),
    /// Check that the log is whole
    Verify(AuditVerify),
}

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Tokens, without what would let one use them
    List,
    /// Make a token; it is shown once
    Create(TokenCreate),
    /// End tokens now
    Revoke {
        /// Their names, such as t-3f9a17c2b0de
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(super) struct TokenCreate {
    /// The operator it speaks for
    pub(super) name: String,
    /// viewer, auditor, importer, operator, security or admin
    #[arg(long, value_name = "ROLE")]
    pub(super) role: String,
    /// How long it lives
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub(super) days: u16,
    /// Write it to this new file of mode 0600 instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct AuditList {
    /// Begin after this number
    #[arg(long, value_name = "NO", default_value_t = 0)]
    pub(super) after: u64,
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) limit: u32,
}

#[derive(Debug, ClapArgs)]
pub(super) struct AuditVerify {
    /// Read the registry file of the data directory itself, without a server
    #[arg(long)]
    pub(super) offline: bool,
    /// A head exported earlier (the head of an earlier `audit verify --json`), against a cut tail
    #[arg(long, value_name = "FILE")]
    pub(super) checkpoint: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Paged {
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) limit: u32,
    /// Begin after this cursor
    #[arg(long, value_name = "CURSOR")]
    pub(super) after: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Init {
    /// The server's bundle of a key ceremony; without it, development keys are made
    #[arg(long, value_name = "DIR", requires = "passphrase_file")]
    pub(super) pki: Option<PathBuf>,
    /// File with the passphrase of the bundle's keys
    #[arg(long, value_name = "FILE", requires = "pki")]
    pub(super) passphrase_file: Option<PathBuf>,
    /// Whose fleet the development keys are for
    #[arg(long, value_name = "TENANT", default_value = "acme", conflicts_with = "pki")]
    pub(super) tenant: String,
    /// The operator the first token speaks for
    #[arg(long, value_name = "NAME", default_value = "admin")]
    pub(super) operator: String,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Serve {
    /// Address for devices; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) listen_mqtt: Option<String>,
    /// Address for people and programs; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) listen_https: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    pub(super) verb: Option<ConfigVerb>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Read the configuration and say everything that is wrong with it
    Check,
    /// An annotated file with every key and its default
    Sample,
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
