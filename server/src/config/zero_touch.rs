//! `[[zero_touch]]`: a tenant whose devices may be registered by their own first connection.
//!
//! A tenant without a section is one whose devices come by manifest or by list alone: nobody opens this door by
//! leaving something out. With `approve_url` somebody else is asked about each device first; whose signature an
//! approval carries, `approve_key`, is then said too.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use muster_pki::manifest::{PRODUCT_MAX, is_product};
use muster_shared::{BatchId, StationId, Tenant, id::IdError};

use super::{
    layers::{Layers, Raw},
    reading::Reading,
    values::{parse_duration, show_duration, words},
};

/// A tenant's section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZeroTouchEntry {
    /// Whose devices.
    pub tenant: Tenant,
    /// Which stations' devices; `None`: every registered station's of the tenant.
    pub stations: Option<BTreeSet<StationId>>,
    /// The batch they are of, within each's station.
    pub batch: BatchId,
    /// What they are, where the batch is new.
    pub product: String,
    /// Who is asked about each first; `None`: nobody.
    pub approval: Option<ApprovalEntry>,
}

/// Who is asked whether a device may join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalEntry {
    /// `https://…`.
    pub url: String,
    /// PEM file of the public key that signs the answers.
    pub key: PathBuf,
    /// PEM file of the authority trusted for that address; `None`: the public ones.
    pub ca: Option<PathBuf>,
    /// How long an answer may take.
    pub within: Duration,
}

const KEY: &str = "zero_touch";
const KEYS: &[&str] =
    &["tenant", "stations", "batch", "product", "approve_url", "approve_key", "approve_ca", "approve_within"];
const BATCH: &str = "first-connect";
/// A listing has a column for it, which a manifest never leaves empty.
const PRODUCT: &str = "unknown";
const WITHIN: Duration = Duration::from_secs(3);
/// The device waits for its CONNACK meanwhile.
const WITHIN_MAX: Duration = Duration::from_secs(30);

/// Reads every section; what is wrong with one is a fault of its key. Paths are relative to `base`.
pub(super) fn take(layers: &mut Layers<'_>, base: &Path) -> Vec<ZeroTouchEntry> {
    let mut tenants = BTreeSet::new();
    let read = layers.sections(KEY).into_iter().enumerate().filter_map(|(at, section)| {
        let mut reading = Reading::new(layers, KEY, KEYS, at, section);
        let entry = reading.zero_touch(&mut tenants, base);
        reading.finish();
        entry
    });
    read.collect()
}

impl Reading<'_, '_> {
    /// The tenant's entry; `None` when something is wrong, which is then a fault.
    fn zero_touch(&mut self, tenants: &mut BTreeSet<Tenant>, base: &Path) -> Option<ZeroTouchEntry> {
        let tenant = self.tenant(tenants);
        if let Some(tenant) = &tenant {
            self.name = format!("{KEY}.{tenant}");
        }
        let stations = self.read("stations", None, |raw| stations(raw).map(Some));
        let batch = self.read("batch", BATCH.parse().expect("an id"), id);
        let product = self.read("product", PRODUCT.to_owned(), product);
        let approval = self.approval(base);
        let entry = ZeroTouchEntry {
            tenant: tenant?,
            stations: stations?,
            batch: batch?,
            product: product?,
            approval: approval?,
        };
        self.show_zero_touch(&entry);
        Some(entry)
    }

    fn tenant(&mut self, tenants: &mut BTreeSet<Tenant>) -> Option<Tenant> {
        let read = self.read("tenant", None, |raw| {
            let tenant: Tenant = id(raw)?;
            match tenants.insert(tenant.clone()) {
                true => Ok(Some(tenant)),
                false => Err("another section is about this tenant".to_owned()),
            }
        })?;
        if read.is_none() {
            self.section_fault("tenant is missing");
        }
        read
    }

    /// Who is asked, if anybody is; `None` when something is wrong.
    fn approval(&mut self, base: &Path) -> Option<Option<ApprovalEntry>> {
        let given = self.read("approve_url", None, |raw| url(raw).map(Some));
        let key = self.read("approve_key", None, |raw| path(raw, base).map(Some));
        let ca = self.read("approve_ca", None, |raw| path(raw, base).map(Some));
        let within = self.read("approve_within", None, |raw| within(raw).map(Some));
        let (given, key, ca, within) = (given?, key?, ca?, within?);
        match (given, key) {
            (Some(url), Some(key)) => {
                Some(Some(ApprovalEntry { url, key, ca, within: within.unwrap_or(WITHIN) }))
            }
            (Some(url), None) => self.lonely("approve_url", &url, "approve_key"),
            (None, Some(key)) => self.lonely("approve_key", &key.display(), "approve_url"),
            (None, None) => match (ca, within) {
                (Some(ca), _) => self.lonely("approve_ca", &ca.display(), "approve_url"),
                (None, Some(span)) => self.lonely("approve_within", &show_duration(&span), "approve_url"),
                (None, None) => Some(None),
            },
        }
    }

    /// A key that says nothing without another.
    fn lonely<T>(&mut self, key: &'static str, given: &impl fmt::Display, missing: &str) -> Option<T> {
        self.fault(key, given, format!("{missing} is missing beside it"));
        None
    }

    fn show_zero_touch(&mut self, entry: &ZeroTouchEntry) {
        let mut say = |key: &str, value: String| self.say(key, value);
        say("tenant", entry.tenant.to_string());
        let stations: Option<Vec<_>> =
            entry.stations.as_ref().map(|some| some.iter().map(ToString::to_string).collect());
        say("stations", stations.map_or("every one of the tenant".to_owned(), |some| some.join(",")));
        say("batch", entry.batch.to_string());
        say("product", entry.product.clone());
        let Some(approval) = &entry.approval else { return say("approve_url", "nobody is asked".to_owned()) };
        say("approve_url", approval.url.clone());
        say("approve_key", approval.key.display().to_string());
        let ca = approval.ca.as_ref().map(|path| path.display().to_string());
        say("approve_ca", ca.unwrap_or_else(|| "the public ones".to_owned()));
        say("approve_within", show_duration(&approval.within));
    }
}

fn id<T: FromStr<Err = IdError>>(raw: &Raw) -> Result<T, String> {
    words(raw)?.parse().map_err(|error: IdError| error.to_string())
}

fn stations(raw: &Raw) -> Result<BTreeSet<StationId>, String> {
    match raw {
        Raw::List(list) if list.is_empty() => {
            Err("at least one station is wanted; leave it out for every one of the tenant".to_owned())
        }
        Raw::List(list) => {
            list.iter().map(|one| one.parse().map_err(|error: IdError| format!("{one:?}: {error}"))).collect()
        }
        _ => Err("a list of stations is wanted".to_owned()),
    }
}

fn product(raw: &Raw) -> Result<String, String> {
    let product = words(raw)?;
    is_product(&product)
        .then_some(product)
        .ok_or_else(|| format!("1 to {PRODUCT_MAX} octets of text are wanted"))
}

/// An address whose host proves itself. What else somebody may know of it stands in the signature, not in the
/// address, which is shown.
fn url(raw: &Raw) -> Result<String, String> {
    let url = words(raw)?;
    let cause = || "an address such as https://approve.example/device is wanted".to_owned();
    let uri: hyper::Uri = url.parse().map_err(|_| cause())?;
    let host = uri.host().is_some_and(|host| !host.is_empty());
    let credentials = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    let whole = uri.scheme_str() == Some("https") && host && !credentials && !url.contains('#');
    if whole { Ok(url) } else { Err(cause()) }
}

fn path(raw: &Raw, base: &Path) -> Result<PathBuf, String> {
    match raw {
        Raw::Text(text) if !text.is_empty() => Ok(base.join(text)),
        _ => Err("a path is wanted".to_owned()),
    }
}

fn within(raw: &Raw) -> Result<Duration, String> {
    parse_duration(&words(raw)?)
        .filter(|span| (Duration::from_millis(1)..=WITHIN_MAX).contains(span))
        .ok_or_else(|| "a time is wanted, such as 500ms or 3s, up to 30s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, SAMPLE, Source};

    fn read(text: &str) -> Result<Config, Vec<String>> {
        let config = Config::from_text(Path::new("/etc/muster/muster.toml"), text);
        config.map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn nobody_is_let_in_by_a_file_that_does_not_say_so() {
        assert_eq!(read("").unwrap().zero_touch, []);
    }

    #[test]
    fn a_tenant_is_enough() {
        let config = read("[[zero_touch]]\ntenant = \"acme\"\n").unwrap();
        let entry = ZeroTouchEntry {
            tenant: "acme".parse().unwrap(),
            stations: None,
            batch: "first-connect".parse().unwrap(),
            product: "unknown".to_owned(),
            approval: None,
        };
        assert_eq!(config.zero_touch, [entry]);
        let shown = config.settings.iter().find(|of| of.key == "zero_touch.acme.stations").unwrap();
        assert_eq!(shown.value, "every one of the tenant");
        assert!(matches!(shown.source, Source::File(_, 1)));
    }

    #[test]
    fn the_samples_section_is_valid_and_has_every_key() {
        let section = SAMPLE.split("# [[zero_touch]]").nth(1).unwrap().split("\n\n").next().unwrap();
        let lines = section.lines().map(|line| line.trim_start_matches("# "));
        let text = lines.fold("[[zero_touch]]".to_owned(), |text, line| text + line + "\n");
        let text = text.replacen("[[zero_touch]]", "[[zero_touch]]\n", 1);
        let config = read(&text).unwrap();
        let entry = &config.zero_touch[0];
        assert_eq!(entry.stations, Some(BTreeSet::from(["S-07".parse().unwrap()])));
        let approval = entry.approval.as_ref().unwrap();
        assert_eq!(approval.key, Path::new("/etc/muster/approve.pub"));
        assert_eq!(approval.ca.as_deref(), Some(Path::new("/etc/muster/approve-ca.pem")));
        assert_eq!(approval.within, WITHIN, "the sample has the default");
        assert_eq!((entry.batch.as_str(), &*entry.product), (BATCH, PRODUCT), "and here");
        for key in KEYS {
            assert!(text.contains(&format!("\n{key} = ")), "{key} is not in the sample");
            let shown = config.settings.iter().any(|of| of.key == format!("zero_touch.acme.{key}"));
            assert!(shown, "{key} is not shown");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_key_and_line() {
        let url = "an address such as https://approve.example/device is wanted";
        let time = "a time is wanted, such as 500ms or 3s, up to 30s";
        for (line, fault) in [
            ("tenant = 5", "1.tenant = 5 (AT): a text is wanted"),
            (
                "tenant = \"a b\"",
                "1.tenant = \"a b\" (AT): tenant has octet 0x20 at position 1, outside its alphabet",
            ),
            (
                "stations = []",
                "acme.stations = [] (AT): at least one station is wanted; leave it out for every one of the tenant",
            ),
            ("stations = \"S-07\"", "acme.stations = \"S-07\" (AT): a list of stations is wanted"),
            (
                "stations = [\"S 7\"]",
                "acme.stations = [\"S 7\"] (AT): \"S 7\": station has octet 0x20 at position 1, outside its alphabet",
            ),
            ("batch = \"\"", "acme.batch = \"\" (AT): batch is empty"),
            ("product = \"\"", "acme.product = \"\" (AT): 1 to 64 octets of text are wanted"),
            ("product = true", "acme.product = true (AT): a text is wanted"),
            (
                "approve_url = \"http://a.example/\"",
                &format!("acme.approve_url = \"http://a.example/\" (AT): {url}"),
            ),
            (
                "approve_url = \"https://u:p@a.example/\"",
                &format!("acme.approve_url = \"https://u:p@a.example/\" (AT): {url}"),
            ),
            ("approve_url = \"approve\"", &format!("acme.approve_url = \"approve\" (AT): {url}")),
            (
                "approve_url = \"https://a.example/\"",
                "acme.approve_url = https://a.example/ (AT): approve_key is missing beside it",
            ),
            ("approve_key = \"\"", "acme.approve_key = \"\" (AT): a path is wanted"),
            (
                "approve_key = \"k\"",
                "acme.approve_key = /etc/muster/k (AT): approve_url is missing beside it",
            ),
            ("approve_ca = \"c\"", "acme.approve_ca = /etc/muster/c (AT): approve_url is missing beside it"),
            ("approve_within = \"3s\"", "acme.approve_within = 3s (AT): approve_url is missing beside it"),
            ("approve_within = \"31s\"", &format!("acme.approve_within = \"31s\" (AT): {time}")),
            ("approve_within = \"0s\"", &format!("acme.approve_within = \"0s\" (AT): {time}")),
            ("approve_within = 3", "acme.approve_within = 3 (AT): a text is wanted"),
        ] {
            let tenant = if line.starts_with("tenant") { "" } else { "tenant = \"acme\"\n" };
            let at = format!("/etc/muster/muster.toml line {}", 2 + tenant.lines().count());
            let expected = format!("zero_touch.{}", fault.replace("AT", &at));
            assert_eq!(read(&format!("[[zero_touch]]\n{tenant}{line}\n")).unwrap_err(), [expected]);
        }
    }

    #[test]
    fn a_tenant_has_one_section_with_known_keys() {
        let at = "/etc/muster/muster.toml line";
        for (text, fault) in [
            (
                "[[zero_touch]]\nbatch = \"B\"\n",
                format!("zero_touch.1 = a section ({at} 1): tenant is missing"),
            ),
            (
                "[[zero_touch]]\ntenant = \"acme\"\n[[zero_touch]]\ntenant = \"acme\"\n",
                format!("zero_touch.2.tenant = \"acme\" ({at} 4): another section is about this tenant"),
            ),
            (
                "[[zero_touch]]\ntenant = \"acme\"\nstation = [\"S-07\"]\n",
                format!("{at} 3: unknown key zero_touch.acme.station (did you mean stations?)"),
            ),
            (
                "zero_touch = true\n",
                format!("zero_touch = true ({at} 1): sections are wanted, each headed [[zero_touch]]"),
            ),
            ("[zero_touch]\ntenant = \"acme\"\n", format!("{at} 2: unknown key zero_touch.tenant")),
        ] {
            assert_eq!(read(text).unwrap_err(), [fault], "{text}");
        }
    }
}
