//! Flags of every command, most of which are configuration keys too, and of every listing that comes whole.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::config::Given;

/// Flags of every command.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Everywhere")]
pub(in crate::cli) struct Global {
    /// Configuration file [env: MUSTER_CONFIG] [default: muster.toml in the data directory]
    #[arg(long, value_name = "FILE", global = true)]
    pub(in crate::cli) config: Option<PathBuf>,
    /// Data directory [env: MUSTER_DATA_DIR]
    #[arg(long, value_name = "DIR", global = true)]
    pub(in crate::cli) data_dir: Option<PathBuf>,
    /// Server [env: MUSTER_SERVER] [default: the one that runs on the data directory]
    #[arg(long, value_name = "URL", global = true)]
    pub(in crate::cli) server: Option<String>,
    /// The one authority to trust [env: MUSTER_CA] [default: https.pem in the data directory]
    #[arg(long, value_name = "FILE", global = true)]
    pub(in crate::cli) ca: Option<String>,
    /// File with the token, or - for standard input [env: MUSTER_TOKEN_FILE]
    #[arg(long, value_name = "FILE", global = true)]
    pub(in crate::cli) token_file: Option<String>,
    /// table, wide, json, jsonl, csv or serial [env: MUSTER_OUTPUT]
    #[arg(short, long, value_name = "FORMAT", global = true)]
    pub(in crate::cli) output: Option<String>,
    /// The same as -o json
    #[arg(long, global = true, conflicts_with = "output")]
    pub(in crate::cli) json: bool,
    /// Longest a request may take, such as 10s [env: MUSTER_TIMEOUT]
    #[arg(long, value_name = "TIME", global = true)]
    pub(in crate::cli) timeout: Option<String>,
    /// auto, always or never [env: MUSTER_COLOR, NO_COLOR]
    #[arg(long, value_name = "WHEN", global = true)]
    pub(in crate::cli) color: Option<String>,
    /// Times in UTC, where the configuration says that they are local [env: MUSTER_UTC]
    #[arg(long, global = true)]
    pub(in crate::cli) utc: bool,
    /// Plain ASCII instead of glyphs [env: MUSTER_ASCII]
    #[arg(long, global = true)]
    pub(in crate::cli) ascii: bool,
    /// Never wait for a person to type: what would is refused, and says what to give instead
    #[arg(long, global = true)]
    pub(in crate::cli) no_input: bool,
    /// No footers, no warnings
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(in crate::cli) quiet: bool,
    /// Request id and cause chain with errors
    #[arg(short, long, global = true)]
    pub(in crate::cli) verbose: bool,
}

impl Global {
    /// What was said on the command line, by configuration key.
    pub(in crate::cli) fn given(&self) -> Given {
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

/// Configuration keys that say which server, and their flags.
pub(in crate::cli) const KEYS: [(&str, &str); 3] =
    [("client.server", "--server"), ("client.ca", "--ca"), ("client.token_file", "--token-file")];

/// What a listing that comes whole is narrowed by.
#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct Narrow {
    /// Such as "role:viewer devices:>100 -station:S-07 text": fields as in --json
    #[arg(long, value_name = "EXPR")]
    pub(in crate::cli) filter: Option<String>,
    /// A field as in --json; -KEY the other way round
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub(in crate::cli) sort: Option<String>,
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(in crate::cli) limit: u32,
    /// Begin after this line
    #[arg(long, value_name = "CURSOR")]
    pub(in crate::cli) after: Option<String>,
    /// Look again and again: the table in place on a terminal, else a line for each change
    #[arg(long)]
    pub(in crate::cli) watch: bool,
}
