//! `[client]`: how commands reach a server, and how they print what it answers.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    layers::Layers,
    values::{choice, duration, path, server, switch},
};

/// How commands reach a server.
#[derive(Debug, Clone)]
pub struct Client {
    /// `https://host:port`; `None`: the server that runs on the data directory.
    pub server: Option<String>,
    /// The one certificate commands trust.
    pub ca: PathBuf,
    /// File with the operator's token; `-` reads it from standard input.
    pub token_file: PathBuf,
    /// Longest a request may take.
    pub timeout: Duration,
    /// How results are printed.
    pub output: Output,
    /// Whether to use colour.
    pub color: Color,
    /// Times are said in UTC, else in the zone of this machine.
    pub utc: bool,
    /// Plain ASCII instead of glyphs.
    pub ascii: bool,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Columns that fit 80.
    Table,
    /// All columns.
    Wide,
    /// One JSON document.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values (RFC 4180) with a header line.
    Csv,
    /// The first column alone: what another command reads with `-`.
    Serial,
}

/// Whether to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    /// Where a terminal reads it.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Output {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("table", Self::Table),
        ("wide", Self::Wide),
        ("json", Self::Json),
        ("jsonl", Self::Jsonl),
        ("csv", Self::Csv),
        ("serial", Self::Serial),
    ];

    /// Results and errors are read by a program.
    #[must_use]
    pub fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Jsonl)
    }
}

impl Color {
    const NAMES: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("always", Self::Always), ("never", Self::Never)];
}

impl Client {
    pub(super) fn take(layers: &mut Layers<'_>, base: &Path, data_dir: &Path) -> Self {
        let server = layers.take(
            "client.server",
            None,
            |raw| server(raw).map(Some),
            |server: &Option<String>| {
                server.clone().unwrap_or_else(|| "the one that runs on data_dir".to_owned())
            },
        );
        Self {
            server,
            ca: path(layers, "client.ca", base, data_dir.join("https.pem")),
            token_file: path(layers, "client.token_file", base, data_dir.join("token")),
            timeout: duration(layers, "client.timeout", Duration::from_secs(10)),
            output: choice(layers, "client.output", Output::Table, Output::NAMES),
            color: choice(layers, "client.color", Color::Auto, Color::NAMES),
            utc: switch(layers, "client.utc", true),
            ascii: switch(layers, "client.ascii", false),
        }
    }
}
