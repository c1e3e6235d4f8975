//! `[[service]]`: a program that takes part in the fleet's messages, and what it may publish and subscribe to.
//!
//! A service belongs to one tenant (`tenant`), and then each of its filters begins with that tenant's level;
//! or it is the whole fleet's (`fleet = true`). One of the two is said, so that nobody gets the fleet by
//! leaving something out.

use std::{collections::BTreeSet, sync::Arc};

use muster_shared::{CertificateId, ServiceName, Tenant};

use super::layers::{Layers, Raw, Section};
use crate::edge::principal::{FilterError, Service};

/// A service of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    /// What it is called and what it may do.
    pub service: Arc<Service>,
    /// Its certificates that are not accepted any more.
    pub revoked: Vec<CertificateId>,
}

const KEY: &str = "service";
const KEYS: &[&str] = &["name", "tenant", "fleet", "publish", "subscribe", "revoked"];
/// Services of one server: each costs a session or a few, and a look at every message.
const SERVICES_MAX: usize = 256;
/// Filters of one service in each direction: all are looked at for each message.
const FILTERS_MAX: usize = 64;

/// Reads every section; what is wrong with one is a fault of its key. `topic_max`: octets of the topics they
/// publish on and the filters they subscribe to.
pub(super) fn take(layers: &mut Layers<'_>, topic_max: usize) -> Vec<ServiceEntry> {
    let sections = layers.sections(KEY);
    if sections.len() > SERVICES_MAX {
        let line = sections[SERVICES_MAX].line;
        layers.section_fault(KEY, &sections.len(), line, format!("at most {SERVICES_MAX} are wanted"));
        return Vec::new();
    }
    let mut names = BTreeSet::new();
    let read = sections.into_iter().enumerate().filter_map(|(at, section)| {
        let mut reading = Reading::new(layers, at, section);
        let entry = reading.entry(&mut names, topic_max);
        reading.finish();
        entry
    });
    read.collect()
}

/// One section while it is read. `name` is what its keys are called by.
struct Reading<'l, 'a> {
    layers: &'l mut Layers<'a>,
    section: Section,
    name: String,
}

impl<'l, 'a> Reading<'l, 'a> {
    fn new(layers: &'l mut Layers<'a>, at: usize, section: Section) -> Self {
        Self { layers, section, name: format!("{KEY}.{}", at + 1) }
    }

    /// What nobody took is a misspelling.
    fn finish(self) {
        self.layers.section_rest(&self.name, self.section, KEYS);
    }

    /// The service; `None` when something is wrong, which is then a fault.
    fn entry(&mut self, names: &mut BTreeSet<ServiceName>, topic_max: usize) -> Option<ServiceEntry> {
        let line = self.section.line;
        let name: Option<ServiceName> = self.text("name").and_then(|(name, line)| {
            let read: Result<ServiceName, _> = name.parse();
            match read {
                Ok(name) if names.insert(name.clone()) => return Some(name),
                Ok(_) => self.fault("name", &Raw::Text(name), line, "another service has this name"),
                Err(error) => self.fault("name", &Raw::Text(name), line, error.to_string()),
            }
            None
        });
        if let Some(name) = &name {
            self.name = format!("{KEY}.{name}");
        }
        let owner = self.owner(line);
        let publish = self.filters("publish");
        let subscribe = self.filters("subscribe");
        let revoked = self.revoked();
        let (name, tenant) = (name?, owner?);
        let (publish, subscribe, revoked) = (publish?, subscribe?, revoked?);
        let none: [Box<str>; 0] = [];
        for (key, list) in [("publish", &publish), ("subscribe", &subscribe)] {
            if let Err(error) = Service::new(name.clone(), tenant.clone(), list.filters(), none.clone()) {
                return self.filter_fault(key, list, &error);
            }
        }
        let service = Service::new(name, tenant, publish.filters(), subscribe.filters()).ok()?;
        self.show(&service, &revoked, &[&publish, &subscribe]);
        let service = Arc::new(service.with_topics_up_to(topic_max));
        Some(ServiceEntry { service, revoked: revoked.ids })
    }

    fn filter_fault(&mut self, key: &str, list: &Filters, error: &FilterError) -> Option<ServiceEntry> {
        self.fault(key, &Raw::List(list.filters.clone()), list.line, error.to_string());
        None
    }

    /// Whose it is: a tenant's, or the whole fleet's. `None` when neither or both are said.
    fn owner(&mut self, line: usize) -> Option<Option<Tenant>> {
        let fleet = match self.section.take("fleet") {
            None => false,
            Some((Raw::Switch(true), _)) => true,
            Some((raw, line)) => {
                self.fault("fleet", &raw, line, "true is wanted, or tenant = \"NAME\" in its place");
                return None;
            }
        };
        let said = self.section.entry_line("tenant");
        let tenant = self.text("tenant");
        match (tenant, fleet) {
            (None, true) if said.is_none() => Some(None),
            (Some((tenant, line)), false) => match tenant.parse() {
                Ok(tenant) => Some(Some(tenant)),
                Err(error) => {
                    let error: muster_shared::id::IdError = error;
                    self.fault("tenant", &Raw::Text(tenant), line, error.to_string());
                    None
                }
            },
            (Some((tenant, line)), true) => {
                self.fault(
                    "tenant",
                    &Raw::Text(tenant),
                    line,
                    "fleet = true is said beside it; one is wanted",
                );
                None
            }
            (None, _) => {
                if said.is_none() {
                    let cause = "tenant = \"NAME\" is missing, or fleet = true in its place";
                    self.layers.section_fault(self.name.clone(), &"a section", line, cause);
                }
                None
            }
        }
    }

    fn filters(&mut self, key: &'static str) -> Option<Filters> {
        let (list, line) = self.list(key)?;
        if list.len() > FILTERS_MAX {
            self.fault(key, &list.len(), line, format!("at most {FILTERS_MAX} filters are wanted"));
            return None;
        }
        Some(Filters { filters: list, line })
    }

    fn revoked(&mut self) -> Option<Revoked> {
        let (list, line) = self.list("revoked")?;
        let ids: Result<Vec<CertificateId>, _> = list.iter().map(|id| id.parse()).collect();
        match ids {
            Ok(ids) => Some(Revoked { ids, line }),
            Err(error) => {
                let error: muster_shared::id::IdError = error;
                self.fault("revoked", &Raw::List(list), line, error.to_string());
                None
            }
        }
    }

    /// A list of texts, empty where the key is left out; `None` when it is something else.
    fn list(&mut self, key: &'static str) -> Option<(Vec<String>, usize)> {
        match self.section.take(key) {
            None => Some((Vec::new(), self.section.line)),
            Some((Raw::List(list), line)) => Some((list, line)),
            Some((raw, line)) => {
                self.fault(key, &raw, line, "a list of texts is wanted");
                None
            }
        }
    }

    /// A text and its line. A name that is missing is a fault.
    fn text(&mut self, key: &'static str) -> Option<(String, usize)> {
        match self.section.take(key) {
            Some((Raw::Text(text), line)) => Some((text, line)),
            Some((raw, line)) => {
                self.fault(key, &raw, line, "a text is wanted");
                None
            }
            None if key == "name" => {
                let line = self.section.line;
                self.layers.section_fault(self.name.clone(), &"a section", line, "name is missing");
                None
            }
            None => None,
        }
    }

    fn fault(&mut self, key: &str, given: &impl std::fmt::Display, line: usize, cause: impl Into<String>) {
        self.layers.section_fault(format!("{}.{key}", self.name), given, line, cause);
    }

    fn show(&mut self, service: &Service, revoked: &Revoked, lists: &[&Filters; 2]) {
        let line = self.section.line;
        let name = self.name.clone();
        let mut say = |key: &str, value: String, line| {
            self.layers.section_setting(format!("{name}.{key}"), value, line);
        };
        match service.tenant() {
            Some(tenant) => say("tenant", tenant.to_string(), line),
            None => say("fleet", "true".to_owned(), line),
        }
        for (key, list) in ["publish", "subscribe"].into_iter().zip(lists) {
            let value = if list.filters.is_empty() { "none".to_owned() } else { list.filters.join(",") };
            say(key, value, list.line);
        }
        if !revoked.ids.is_empty() {
            let ids: Vec<_> = revoked.ids.iter().map(ToString::to_string).collect();
            say("revoked", ids.join(","), revoked.line);
        }
    }
}

struct Filters {
    filters: Vec<String>,
    line: usize,
}

impl Filters {
    fn filters(&self) -> impl Iterator<Item = &str> {
        self.filters.iter().map(String::as_str)
    }
}

struct Revoked {
    ids: Vec<CertificateId>,
    line: usize,
}
