//! `[[service]]`: a program that takes part in the fleet's messages, and what it may publish and subscribe to.
//!
//! A service belongs to one tenant (`tenant`), and then each of its filters begins with that tenant's level;
//! or it is the whole fleet's (`fleet = true`). One of the two is said, so that nobody gets the fleet by
//! leaving something out.

use std::{collections::BTreeSet, sync::Arc};

use muster_shared::{CertificateId, ServiceName, Tenant};

use super::{
    layers::{Layers, Raw},
    reading::Reading,
};
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
        let mut reading = Reading::new(layers, KEY, KEYS, at, section);
        let entry = reading.service(&mut names, topic_max);
        reading.finish();
        entry
    });
    read.collect()
}

impl Reading<'_, '_> {
    /// The service; `None` when something is wrong, which is then a fault.
    fn service(&mut self, names: &mut BTreeSet<ServiceName>, topic_max: usize) -> Option<ServiceEntry> {
        if !self.has("name") {
            self.section_fault("name is missing");
        }
        let name = self.text("name").and_then(|name| {
            let read: Result<ServiceName, _> = name.parse();
            match read {
                Ok(name) if names.insert(name.clone()) => return Some(name),
                Ok(_) => self.fault("name", &Raw::Text(name), "another service has this name"),
                Err(error) => self.fault("name", &Raw::Text(name), error.to_string()),
            }
            None
        });
        if let Some(name) = &name {
            self.name = format!("{KEY}.{name}");
        }
        let owner = self.owner();
        let publish = self.filters("publish");
        let subscribe = self.filters("subscribe");
        let revoked = self.revoked();
        let (name, tenant) = (name?, owner?);
        let (publish, subscribe, revoked) = (publish?, subscribe?, revoked?);
        let none: [Box<str>; 0] = [];
        for (key, list) in [("publish", &publish), ("subscribe", &subscribe)] {
            if let Err(error) = Service::new(name.clone(), tenant.clone(), each(list), none.clone()) {
                return self.filter_fault(key, list, &error);
            }
        }
        let service = Service::new(name, tenant, each(&publish), each(&subscribe)).ok()?;
        self.show_service(&service, &revoked, [&publish, &subscribe]);
        let service = Arc::new(service.with_topics_up_to(topic_max));
        Some(ServiceEntry { service, revoked })
    }

    fn filter_fault(&mut self, key: &str, list: &[String], error: &FilterError) -> Option<ServiceEntry> {
        self.fault(key, &Raw::List(list.to_vec()), error.to_string());
        None
    }

    /// Whose it is: a tenant's, or the whole fleet's. `None` when neither or both are said.
    fn owner(&mut self) -> Option<Option<Tenant>> {
        let fleet = match self.take("fleet") {
            None => false,
            Some(Raw::Switch(true)) => true,
            Some(raw) => {
                self.fault("fleet", &raw, "true is wanted, or tenant = \"NAME\" in its place");
                return None;
            }
        };
        let tenant = self.text("tenant");
        match (tenant, fleet) {
            (None, true) if !self.has("tenant") => Some(None),
            (Some(tenant), false) => match tenant.parse() {
                Ok(tenant) => Some(Some(tenant)),
                Err(error) => {
                    let error: muster_shared::id::IdError = error;
                    self.fault("tenant", &Raw::Text(tenant), error.to_string());
                    None
                }
            },
            (Some(tenant), true) => {
                self.fault("tenant", &Raw::Text(tenant), "fleet = true is said beside it; one is wanted");
                None
            }
            (None, _) => {
                if !self.has("tenant") {
                    self.section_fault("tenant = \"NAME\" is missing, or fleet = true in its place");
                }
                None
            }
        }
    }

    fn filters(&mut self, key: &'static str) -> Option<Vec<String>> {
        let list = self.list(key)?;
        if list.len() > FILTERS_MAX {
            self.fault(key, &list.len(), format!("at most {FILTERS_MAX} filters are wanted"));
            return None;
        }
        Some(list)
    }

    fn revoked(&mut self) -> Option<Vec<CertificateId>> {
        let list = self.list("revoked")?;
        let ids: Result<Vec<CertificateId>, _> = list.iter().map(|id| id.parse()).collect();
        ids.map_err(|error: muster_shared::id::IdError| {
            self.fault("revoked", &Raw::List(list), error.to_string());
        })
        .ok()
    }

    /// A list of texts, empty where the key is left out; `None` when it is something else.
    fn list(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.read(key, Vec::new(), |raw| match raw {
            Raw::List(list) => Ok(list.clone()),
            _ => Err("a list of texts is wanted".to_owned()),
        })
    }

    /// A text; `None` where the key is left out, or is something else.
    fn text(&mut self, key: &'static str) -> Option<String> {
        let text = self.read(key, None, |raw| match raw {
            Raw::Text(text) => Ok(Some(text.clone())),
            _ => Err("a text is wanted".to_owned()),
        });
        text.flatten()
    }

    fn show_service(&mut self, service: &Service, revoked: &[CertificateId], lists: [&Vec<String>; 2]) {
        match service.tenant() {
            Some(tenant) => self.say("tenant", tenant.to_string()),
            None => self.say("fleet", "true".to_owned()),
        }
        for (key, list) in ["publish", "subscribe"].into_iter().zip(lists) {
            self.say(key, if list.is_empty() { "none".to_owned() } else { list.join(",") });
        }
        if !revoked.is_empty() {
            let ids: Vec<_> = revoked.iter().map(ToString::to_string).collect();
            self.say("revoked", ids.join(","));
        }
    }
}

fn each(filters: &[String]) -> impl Iterator<Item = &str> {
    filters.iter().map(String::as_str)
}
