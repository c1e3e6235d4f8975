//! The grammar: `muster <noun> <verb> [SERIAL…|-] [flags]`. Nouns are singular.
//!
//! Flags that are also configuration keys are plain texts here; [`crate::config`] checks them, so that a
//! wrong value is refused with the same words wherever it was given.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use super::complete;
use crate::config::Given;

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
    /// Times in UTC, where the configuration says that they are local [env: MUSTER_UTC]
    #[arg(long, global = true)]
    pub(super) utc: bool,
    /// Plain ASCII instead of glyphs [env: MUSTER_ASCII]
    #[arg(long, global = true)]
    pub(super) ascii: bool,
    /// Never wait for a person to type: what would is refused, and says what to give instead
    #[arg(long, global = true)]
    pub(super) no_input: bool,
    /// No footers, no warnings
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Request id and cause chain with errors
    #[arg(short, long, global = true)]
    pub(super) verbose: bool,
}

/// Configuration keys that say which server, and their flags.
pub(super) const KEYS: [(&str, &str); 3] =
    [("client.server", "--server"), ("client.ca", "--ca"), ("client.token_file", "--token-file")];

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
        say("client.utc", "--utc", &self.utc.then(|| "true".to_owned()));
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
pub(super) enum Job {
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

#[derive(Debug, ClapArgs)]
pub(super) struct Events {
    /// Stay, and go on after a cut
    #[arg(long)]
    pub(super) follow: bool,
    /// Such as "kind:change MU-000118" or "topic:acme/+/telemetry/#"
    #[arg(long, value_name = "EXPR")]
    pub(super) filter: Option<String>,
    /// Begin after the event with this id
    #[arg(long, value_name = "CURSOR")]
    pub(super) after: Option<String>,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Explain {
    /// SERIAL, or TENANT/SERIAL
    #[arg(add = ArgValueCompleter::new(complete::serials))]
    pub(super) serial: String,
    /// May it use this topic, or this filter, too
    #[arg(long, value_name = "TOPIC")]
    pub(super) topic: Option<String>,
    /// publish or subscribe
    #[arg(long, value_name = "VERB", default_value = "publish")]
    pub(super) verb: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Device {
    /// Devices, a line each
    List(DeviceList),
    /// Everything about one device
    Show {
        /// SERIAL, or TENANT/SERIAL where several tenants have it
        #[arg(add = ArgValueCompleter::new(complete::serials))]
        serial: String,
        /// All of its history
        #[arg(long)]
        history: bool,
    },
    /// Why a device can or cannot connect, check by check
    Explain(Explain),
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
    /// Put another device in a device's place: the old one is revoked, the new one takes its labels, its note and
    /// its desired state. Cannot be undone
    Replace(Replace),
    /// End sessions now; the devices may come back
    Disconnect(Decide),
    /// Send a command to a device's session, live or away
    Command(Command),
    /// Commands sent to a device, newest first, and what it answered
    Commands(Commands),
    /// Write on devices: tags and groups to find them by, and a note
    Label(Label),
    /// What a device's sensors said: least, greatest and last of each bucket
    Readings(Readings),
    /// The state a device should be in, and what it says its state is
    Twin(Twin),
}

#[derive(Debug, ClapArgs)]
pub(super) struct DeviceList {
    /// Such as "state:suspended batch:B-0042 firmware:<1.4.2 seen:>2d expires:<30d refused:>0 tag:x online:yes"
    #[arg(long, value_name = "EXPR", add = ArgValueCompleter::new(complete::filters))]
    pub(super) filter: Option<String>,
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) limit: u32,
    /// attention, serial, seen, changed, expires or refused; -KEY the other way round
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub(super) sort: Option<String>,
    /// Begin after this cursor
    #[arg(long, value_name = "CURSOR")]
    pub(super) after: Option<String>,
    /// Look again and again: the table in place on a terminal, else a line for each change
    #[arg(long)]
    pub(super) watch: bool,
}

/// What is to be written on devices.
#[derive(Debug, ClapArgs)]
pub(super) struct Label {
    /// Serials, or - to read them from standard input
    #[arg(required_unless_present = "filter", conflicts_with = "filter", value_name = "SERIAL", add = ArgValueCompleter::new(complete::serials))]
    pub(super) serials: Vec<String>,
    /// Every device that matches, such as "batch:B-0042 state:active"; a note is written on serials alone
    #[arg(long, value_name = "EXPR", conflicts_with = "note")]
    pub(super) filter: Option<String>,
    /// With --filter: only say what would be done, and how to confirm it
    #[arg(long, requires = "filter", conflicts_with = "confirm")]
    pub(super) dry_run: bool,
    /// With --filter: what the dry run said
    #[arg(long, value_name = "VALUE", requires = "filter")]
    pub(super) confirm: Option<String>,
    /// With --filter: why, in your words; kept in the audit log
    #[arg(long, value_name = "TEXT", requires = "filter")]
    pub(super) reason: Option<String>,
    /// Put this tag on
    #[arg(long, value_name = "WORD")]
    pub(super) tag: Vec<String>,
    /// Take this tag off
    #[arg(long, value_name = "WORD")]
    pub(super) untag: Vec<String>,
    /// Put them in this group
    #[arg(long, value_name = "WORD")]
    pub(super) group: Vec<String>,
    /// Take them out of this group
    #[arg(long, value_name = "WORD")]
    pub(super) ungroup: Vec<String>,
    /// Write this note; an empty one removes it
    #[arg(long, value_name = "TEXT")]
    pub(super) note: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Readings {
    /// SERIAL, or TENANT/SERIAL
    #[arg(add = ArgValueCompleter::new(complete::serials))]
    pub(super) serial: String,
    /// So long until now: 1h, 24h, 7d, 30d
    #[arg(long, value_name = "TIME", conflicts_with = "from")]
    pub(super) range: Option<String>,
    /// From this instant on, such as 2026-11-20T00:00:00Z
    #[arg(long, value_name = "INSTANT")]
    pub(super) from: Option<String>,
    /// Up to this instant
    #[arg(long, value_name = "INSTANT")]
    pub(super) to: Option<String>,
    /// Most buckets
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=1200))]
    pub(super) buckets: u32,
    /// Only this sensor
    #[arg(long, value_name = "NAME")]
    pub(super) sensor: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Twin {
    /// SERIAL, or TENANT/SERIAL
    #[arg(add = ArgValueCompleter::new(complete::serials))]
    pub(super) serial: String,
    /// Set the state it should be in to this JSON object, or - for standard input
    #[arg(long, value_name = "FILE")]
    pub(super) set: Option<PathBuf>,
    /// Only if that is still of this version, 0 for none yet
    #[arg(long, value_name = "N", requires = "set")]
    pub(super) if_version: Option<u64>,
}

/// A decision about devices.
#[derive(Debug, ClapArgs)]
pub(super) struct Decide {
    /// Serials, or - to read them from standard input
    #[arg(required_unless_present = "filter", conflicts_with = "filter", value_name = "SERIAL", add = ArgValueCompleter::new(complete::serials))]
    pub(super) serials: Vec<String>,
    /// Every device that matches, such as "batch:B-0042 state:active"
    #[arg(long, value_name = "EXPR", add = ArgValueCompleter::new(complete::filters))]
    pub(super) filter: Option<String>,
    /// With --filter: only say what would be done, and how to confirm it
    #[arg(long, requires = "filter", conflicts_with = "confirm")]
    pub(super) dry_run: bool,
    /// With --filter: what the dry run said. To revoke serials: the serial again; the number of several
    #[arg(long, value_name = "VALUE")]
    pub(super) confirm: Option<String>,
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
    #[arg(long, value_name = "WORD", add = ArgValueCompleter::new(complete::reasons))]
    pub(super) reason_code: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Replace {
    /// The device that goes: SERIAL, or TENANT/SERIAL
    #[arg(add = ArgValueCompleter::new(complete::serials))]
    pub(super) serial: String,
    /// The device that takes its place; of the same tenant, and one that may connect
    #[arg(long, value_name = "SERIAL")]
    pub(super) by: String,
    /// Only say what would be done
    #[arg(long, conflicts_with = "confirm")]
    pub(super) dry_run: bool,
    /// The serial of the device that goes, again
    #[arg(long, value_name = "SERIAL")]
    pub(super) confirm: Option<String>,
    /// Why, in your words; kept in the audit log, never sent to a device
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Command {
    /// SERIAL, or TENANT/SERIAL
    #[arg(add = ArgValueCompleter::new(complete::serials))]
    pub(super) serial: String,
    /// What to send, or - for standard input
    pub(super) payload: String,
    /// Stay until the device has answered, so many seconds at most
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "30", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) wait: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Commands {
    /// SERIAL, or TENANT/SERIAL
    #[arg(add = ArgValueCompleter::new(complete::serials))]
    pub(super) serial: String,
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) limit: u32,
    /// Begin after this cursor
    #[arg(long, value_name = "CURSOR")]
    pub(super) after: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Batch {
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
    #[arg(long, value_name = "WORD", add = ArgValueCompleter::new(complete::reasons))]
    pub(super) reason_code: Option<String>,
    /// The name again; of a certificate eight digits are enough
    #[arg(long, value_name = "VALUE")]
    pub(super) confirm: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Ca {
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
pub(super) struct Trust {
    /// The record from the ceremony
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Let it take the place of an older record of the same factory CA, such as one of a smaller quota
    #[arg(long)]
    pub(super) replace: bool,
    /// Why, in your words; kept in the audit log
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
    /// Say what would be registered, and register nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Rotate {
    /// operational, service or operator
    pub(super) name: String,
    /// The certificate the root signed for the request; PEM
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    pub(super) certificate: Option<PathBuf>,
    /// Write the request to this new file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// Why, in your words; kept in the audit log
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Cert {
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
pub(super) struct CertVerify {
    /// A certificate in PEM or DER; PEM of those who signed it may stand behind it
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Without a server: against this root, PEM or DER; who signed it stands in the file, or in --authority
    #[arg(long, value_name = "ROOT")]
    pub(super) root: Option<PathBuf>,
    /// With --root: an authority the root has signed
    #[arg(long, value_name = "CA", requires = "root")]
    pub(super) authority: Vec<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct CertList {
    #[command(flatten)]
    pub(super) paged: Paged,
    /// Such as "status:revoked issuer:9a…42 ends:30": the same as the flags of these names
    #[arg(long, value_name = "EXPR")]
    pub(super) filter: Option<String>,
    /// Look again and again: the table in place on a terminal, else a line for each change
    #[arg(long)]
    pub(super) watch: bool,
    /// pending, active, superseded or revoked
    #[arg(long, value_name = "WORD")]
    pub(super) status: Option<String>,
    /// Key identifier of the issuer, hexadecimal
    #[arg(long, value_name = "HEX")]
    pub(super) issuer: Option<String>,
    /// Those that end within so many days
    #[arg(long, value_name = "DAYS")]
    pub(super) ends: Option<u32>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct CertIssue {
    /// Its name, as in its `[[service]]` entry
    #[arg(long, value_name = "NAME", required_unless_present = "operator", conflicts_with = "operator")]
    pub(super) service: Option<String>,
    /// The operator of every tenant it names; accepted in place of a token while they are one
    #[arg(long, value_name = "NAME")]
    pub(super) operator: Option<String>,
    /// Folder for the certificate, its key and what its holder trusts
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum Session {
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
pub(super) struct SessionList {
    /// Such as "tenant:acme mqtt:5.0 kind:device address:10.0. MU-0001": a word is the beginning of a name
    #[arg(long, value_name = "EXPR")]
    pub(super) filter: Option<String>,
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) limit: u32,
    /// Begin after this cursor
    #[arg(long, value_name = "CURSOR")]
    pub(super) after: Option<String>,
    /// Look again and again: the table in place on a terminal, else a line for each change
    #[arg(long)]
    pub(super) watch: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Audit {
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

#[derive(Debug, Subcommand)]
pub(super) enum Token {
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
pub(super) struct TokenCreate {
    /// What it is called, and whom it speaks for unless --operator says otherwise
    pub(super) name: String,
    /// The operator it speaks for, who is made if there is none: NAME, or TENANT/NAME
    #[arg(long, value_name = "NAME")]
    pub(super) operator: Option<String>,
    /// The one tenant it is for
    #[arg(long, value_name = "TENANT")]
    pub(super) tenant: Option<String>,
    /// viewer, auditor, importer, operator, security or admin
    #[arg(long, value_name = "ROLE", add = ArgValueCompleter::new(complete::roles))]
    pub(super) role: String,
    /// How long it lives
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub(super) days: u16,
    /// Write it to this new file of mode 0600 instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Operator {
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

#[derive(Debug, ClapArgs)]
pub(super) struct AuditList {
    /// Such as "actor:ana action:device. since:2026-11-20T00:00:00Z": the same as the flags of these names
    #[arg(long, value_name = "EXPR")]
    pub(super) filter: Option<String>,
    /// Look again and again: the table in place on a terminal, else a line for each new record
    #[arg(long)]
    pub(super) watch: bool,
    /// Begin after this number
    #[arg(long, value_name = "NO", default_value_t = 0)]
    pub(super) after: u64,
    /// By this operator
    #[arg(long, value_name = "NAME")]
    pub(super) actor: Option<String>,
    /// Such as device.revoke, or all of a kind: device.
    #[arg(long, value_name = "ACTION")]
    pub(super) action: Option<String>,
    /// About this, such as acme/MU-000118
    #[arg(long, value_name = "TARGET")]
    pub(super) target: Option<String>,
    /// From then on, such as 2026-11-20T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
    /// Before then
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<String>,
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) limit: u32,
}

#[derive(Debug, ClapArgs)]
pub(super) struct AuditVerify {
    /// Read the registry of the data directory itself, without a server
    #[arg(long)]
    pub(super) offline: bool,
    /// Check this export instead; needs no server and no data directory
    #[arg(long, value_name = "FILE", conflicts_with = "offline")]
    pub(super) file: Option<PathBuf>,
    /// A checkpoint kept elsewhere (`audit checkpoint`, or an earlier `audit verify --json`), against a cut tail
    #[arg(long, value_name = "FILE")]
    pub(super) checkpoint: Option<PathBuf>,
    /// The server's public key (`audit key`, or audit.pub of its data directory)
    #[arg(long, value_name = "PUBKEY")]
    pub(super) key: Option<PathBuf>,
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

/// What a listing that comes whole is narrowed by.
#[derive(Debug, ClapArgs)]
pub(super) struct Narrow {
    /// Such as "role:viewer devices:>100 -station:S-07 text": fields as in --json
    #[arg(long, value_name = "EXPR")]
    pub(super) filter: Option<String>,
    /// A field as in --json; -KEY the other way round
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub(super) sort: Option<String>,
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) limit: u32,
    /// Begin after this line
    #[arg(long, value_name = "CURSOR")]
    pub(super) after: Option<String>,
    /// Look again and again: the table in place on a terminal, else a line for each change
    #[arg(long)]
    pub(super) watch: bool,
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
