//! Where a value comes from: a flag, the environment, the file, or the default, in that order.
//!
//! [`Layers`] knows nothing about what the keys mean. [`super::Config::load`] takes each key once; what
//! the file has and nobody took is an unknown key, and refused.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A flag of the command line, as it is written.
    Flag(String),
    /// An environment variable, by name.
    Environment(String),
    /// The configuration file and the line in it, from 1.
    File(PathBuf, usize),
    /// Nobody said otherwise.
    Default,
    /// Nobody can: what it bounds, and where it comes from.
    Fixed(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File(path, line) => write!(f, "{} line {line}", path.display()),
            Self::Default => f.write_str("default"),
            Self::Fixed(source) => write!(f, "fixed: {source}"),
        }
    }
}

/// One key with the value in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `mqtt.listen`; `service.NAME.publish` for what stands in a section of its own.
    pub key: Cow<'static, str>,
    /// As it would be written.
    pub value: String,
    /// Who said so.
    pub source: Source,
}

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFault {
    /// The file is not there or not readable.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        cause: String,
    },
    /// Not TOML.
    #[error("{} line {line}: {cause}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What the parser says.
        cause: String,
    },
    /// A key nothing reads: a misspelling, or a key of another version.
    #[error("{} line {line}: unknown key {key}{}", path.display(), near(nearest))]
    Unknown {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// As written.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
    },
    /// A value that does not fit its key.
    #[error("{key} = {given} ({from}): {cause}")]
    Value {
        /// Which key.
        key: Cow<'static, str>,
        /// As written.
        given: String,
        /// Who said so.
        from: Source,
        /// What would fit.
        cause: String,
    },
}

fn near(nearest: &Option<&'static str>) -> String {
    nearest.map(|key| format!(" (did you mean {key}?)")).unwrap_or_default()
}

/// A value before it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    /// From a flag or the environment: untyped words; a list is separated by commas.
    Words(String),
    Text(String),
    Number(i64),
    Switch(bool),
    List(Vec<String>),
    /// One for each `[[key]]`.
    Sections(Vec<Section>),
    /// A TOML type no key has.
    Other(&'static str),
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(text) | Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Switch(on) => write!(f, "{on}"),
            Self::List(items) => write!(f, "{items:?}"),
            Self::Sections(sections) => write!(f, "{} sections", sections.len()),
            Self::Other(kind) => write!(f, "a {kind}"),
        }
    }
}

/// One section of a kind there may be several of: `[[service]]`. Such a section is of the file alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    /// Where it begins, from 1.
    pub(super) line: usize,
    entries: BTreeMap<String, (Raw, usize)>,
}

impl Section {
    /// Takes a value and its line out.
    pub(super) fn take(&mut self, key: &str) -> Option<(Raw, usize)> {
        self.entries.remove(key)
    }

    /// The line of a value that is there.
    pub(super) fn entry_line(&self, key: &str) -> Option<usize> {
        self.entries.get(key).map(|(_, line)| *line)
    }

    /// What nobody took.
    pub(super) fn rest(self) -> impl Iterator<Item = (String, usize)> {
        self.entries.into_iter().map(|(key, (_, line))| (key, line))
    }
}

/// The layers, each key taken at most once.
pub(super) struct Layers<'a> {
    flags: &'a [(&'static str, String, String)],
    environment: &'a dyn Fn(&str) -> Option<String>,
    file: Option<PathBuf>,
    entries: BTreeMap<String, (Raw, usize)>,
    pub(super) settings: Vec<Setting>,
    pub(super) faults: Vec<ConfigFault>,
}

impl<'a> Layers<'a> {
    /// Layers of `flags` (key, flag as written, value), `environment` and, where given, a file.
    pub(super) fn new(
        flags: &'a [(&'static str, String, String)],
        environment: &'a dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let (settings, faults, entries) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { flags, environment, file: None, entries, settings, faults }
    }

    /// Reads the file's keys. What cannot be read is a fault, kept with the others.
    pub(super) fn read_file(&mut self, path: &Path) {
        match std::fs::read_to_string(path) {
            Ok(text) => self.read_text(path, &text),
            Err(cause) => {
                self.faults.push(ConfigFault::File { path: path.to_owned(), cause: cause.to_string() })
            }
        }
    }

    /// Reads `text` as the file `path`.
    pub(super) fn read_text(&mut self, path: &Path, text: &str) {
        self.file = Some(path.to_owned());
        match DeTable::parse(text) {
            Ok(table) => flatten(table.get_ref(), "", text, &mut self.entries),
            Err(error) => self.faults.push(ConfigFault::Syntax {
                path: path.to_owned(),
                line: error.span().map_or(1, |span| line_of(text, span.start)),
                cause: error.message().to_owned(),
            }),
        }
    }

    /// The value in force for `key`, parsed; the default where nobody said otherwise or what was said
    /// does not fit, which is then a fault.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl Fn(&Raw) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> T {
        let (value, source) = match self.find(key) {
            None => (default, Source::Default),
            Some((raw, source)) => match parse(&raw) {
                Ok(value) => (value, source),
                Err(cause) => {
                    let given = raw.to_string();
                    let (key, from) = (key.into(), source.clone());
                    self.faults.push(ConfigFault::Value { key, given, from, cause });
                    (default, source)
                }
            },
        };
        self.settings.push(Setting { key: key.into(), value: show(&value), source });
        value
    }

    /// Records a fault of a value that reads well alone and not beside the others.
    pub(super) fn reject(&mut self, key: &'static str, cause: impl Into<String>) {
        if let Some(setting) = self.settings.iter().find(|setting| setting.key == key) {
            let (given, from) = (setting.value.clone(), setting.source.clone());
            self.faults.push(ConfigFault::Value { key: key.into(), given, from, cause: cause.into() });
        }
    }

    /// The sections headed `[[key]]`, in their order.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section> {
        match self.entries.remove(key) {
            None => Vec::new(),
            Some((Raw::Sections(sections), _)) => sections,
            Some((raw, line)) => {
                let cause = format!("sections are wanted, each headed [[{key}]]");
                self.section_fault(key, &raw, line, cause);
                Vec::new()
            }
        }
    }

    /// Records a value of a section in force.
    pub(super) fn section_setting(&mut self, key: String, value: String, line: usize) {
        self.settings.push(Setting { key: key.into(), value, source: self.at(line) });
    }

    /// Records a fault of a section's value.
    pub(super) fn section_fault(
        &mut self,
        key: impl Into<Cow<'static, str>>,
        given: &impl fmt::Display,
        line: usize,
        cause: impl Into<String>,
    ) {
        let (key, given, from, cause) = (key.into(), given.to_string(), self.at(line), cause.into());
        self.faults.push(ConfigFault::Value { key, given, from, cause });
    }

    /// Records what nobody took of a section whose keys are `known`.
    pub(super) fn section_rest(&mut self, name: &str, section: Section, known: &[&'static str]) {
        let path = self.file.clone().unwrap_or_default();
        for (key, line) in section.rest() {
            let nearest = nearest(&key, known.iter().copied());
            let key = format!("{name}.{key}");
            self.faults.push(ConfigFault::Unknown { path: path.clone(), line, key, nearest });
        }
    }

    fn at(&self, line: usize) -> Source {
        Source::File(self.file.clone().unwrap_or_default(), line)
    }

    /// Everything the file has that nobody took.
    pub(super) fn finish(&mut self) {
        let Some(path) = self.file.clone() else { return };
        for (key, (raw, line)) in std::mem::take(&mut self.entries) {
            let section = format!("{key}.");
            if raw == Raw::Other("table") && self.settings.iter().any(|of| of.key.starts_with(&section)) {
                continue;
            }
            let known = self.settings.iter().filter_map(|setting| match setting.key {
                Cow::Borrowed(key) => Some(key),
                Cow::Owned(_) => None,
            });
            let nearest = nearest(&key, known);
            self.faults.push(ConfigFault::Unknown { path: path.clone(), line, key, nearest });
        }
    }

    fn find(&mut self, key: &'static str) -> Option<(Raw, Source)> {
        // Taken from the file even where another layer wins, so that it does not count as unknown.
        let from_file = self.entries.remove(key).map(|(raw, line)| {
            let path = self.file.clone().unwrap_or_default();
            (raw, Source::File(path, line))
        });
        if let Some((_, flag, value)) = self.flags.iter().find(|(of, _, _)| *of == key) {
            return Some((Raw::Words(value.clone()), Source::Flag(flag.clone())));
        }
        let name = environment_name(key);
        match (self.environment)(&name) {
            Some(value) if !value.is_empty() => Some((Raw::Words(value), Source::Environment(name))),
            _ => from_file,
        }
    }
}

/// `mqtt.listen` is `MUSTER_MQTT_LISTEN`; what every command uses is shorter: `client.server` is
/// `MUSTER_SERVER`.
pub(super) fn environment_name(key: &str) -> String {
    let key = key.strip_prefix("client.").unwrap_or(key);
    format!("MUSTER_{}", key.replace('.', "_").to_ascii_uppercase())
}

fn flatten(table: &DeTable<'_>, prefix: &str, text: &str, into: &mut BTreeMap<String, (Raw, usize)>) {
    for (key, value) in table {
        let line = line_of(text, key.span().start);
        let key = format!("{prefix}{}", key.get_ref());
        let raw = match value.get_ref() {
            // An empty section is kept, so that a misspelt one is still found.
            DeValue::Table(inner) if !inner.is_empty() => {
                flatten(inner, &format!("{key}."), text, into);
                continue;
            }
            DeValue::String(text) => Raw::Text(text.clone().into_owned()),
            DeValue::Boolean(on) => Raw::Switch(*on),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Raw::Other("number out of range"), Raw::Number),
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                sections(items, text).map_or(Raw::Other("list of other things"), Raw::Sections)
            }
            DeValue::Array(items) => {
                let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
                texts.collect::<Option<_>>().map_or(Raw::Other("list of other things"), Raw::List)
            }
            other => Raw::Other(other.type_str()),
        };
        into.insert(key, (raw, line));
    }
}

/// `None` when not all of them are tables.
fn sections(items: &DeArray<'_>, text: &str) -> Option<Vec<Section>> {
    let section = |item: &Spanned<DeValue<'_>>| {
        let mut entries = BTreeMap::new();
        flatten(item.get_ref().as_table()?, "", text, &mut entries);
        Some(Section { line: line_of(text, item.span().start), entries })
    };
    items.iter().map(section).collect()
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&octet| octet == b'\n').count()
}

/// The known key at the smallest edit distance, if that is small enough to be a misspelling.
fn nearest(key: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let limit = 1 + key.len() / 4;
    known.map(|of| (distance(key, of), of)).filter(|(far, _)| *far <= limit).min().map(|(_, of)| of)
}

/// Levenshtein distance by octets; keys are ASCII.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_named_only_when_it_looks_alike() {
        let known = || ["mqtt.listen", "https.listen", "log.level"].into_iter();
        assert_eq!(nearest("mqtt.listten", known()), Some("mqtt.listen"));
        assert_eq!(nearest("http.listen", known()), Some("https.listen"));
        assert_eq!(nearest("colour", known()), None);
    }

    #[test]
    fn the_environment_name_follows_from_the_key() {
        assert_eq!(environment_name("mqtt.listen"), "MUSTER_MQTT_LISTEN");
        assert_eq!(environment_name("client.server"), "MUSTER_SERVER");
        assert_eq!(environment_name("data_dir"), "MUSTER_DATA_DIR");
    }
}
