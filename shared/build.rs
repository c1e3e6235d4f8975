//! Turns `errors.toml` into the `Code` enum.

use std::{collections::BTreeMap, env, fmt::Write, fs, path::PathBuf};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    words: String,
    next: String,
    #[serde(default = "one")]
    exit: u8,
    #[serde(default)]
    http: Option<u16>,
    #[serde(default)]
    mqtt: u8,
    #[serde(default)]
    device: Option<Device>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Device {
    phase: String,
    words: String,
    act: String,
    #[serde(default)]
    retry_s: Option<[u16; 2]>,
}

fn one() -> u8 {
    1
}

fn main() {
    println!("cargo:rerun-if-changed=errors.toml");
    let text = fs::read_to_string("errors.toml").expect("errors.toml stands beside build.rs");
    let rows: BTreeMap<String, Row> = toml::from_str(&text).expect("errors.toml is a table of codes");
    let mut variants = String::new();
    let mut all = String::new();
    let mut arms = String::new();
    for (id, row) in &rows {
        let Row { name, words, next, exit, http, mqtt, device } = row;
        let device = match device {
            None => "None".to_owned(),
            Some(Device { phase, words, act, retry_s }) => {
                assert!(
                    "muster ".len() + phase.len() + id.len() + words.len() + act.len() + 5 <= 96
                        && act.is_ascii(),
                    "{id}: a serial line is at most 96 ASCII octets"
                );
                let retry = retry_s.map(|[min, max]| (min, max));
                format!(
                    "Some(DeviceEntry {{ phase: {phase:?}, words: {words:?}, act: {act:?}, retry_s: {retry:?} }})"
                )
            }
        };
        let http = http.unwrap_or(500);
        writeln!(variants, "    /// {id}: {words}.\n    {name},").expect("a String takes text");
        write!(all, "Code::{name}, ").expect("a String takes text");
        writeln!(
            arms,
            "            Code::{name} => &Entry {{ id: {id:?}, words: {words:?}, next: {next:?}, exit: {exit}, http: {http}, mqtt: {mqtt}, device: {device} }},"
        )
        .expect("a String takes text");
    }
    let code = format!(
        "/// Every refusal by name; [`Code::id`] gives its code.\n\
         #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]\n\
         pub enum Code {{\n{variants}}}\n\n\
         impl Code {{\n\
         \x20   /// Every code, in order.\n    pub const ALL: &'static [Code] = &[{all}];\n\n\
         \x20   /// The row of `errors.toml`.\n    #[must_use]\n    pub const fn entry(self) -> &'static Entry {{\n        match self {{\n{arms}        }}\n    }}\n}}\n"
    );
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("codes.rs");
    fs::write(out, code).expect("OUT_DIR can be written");
}
