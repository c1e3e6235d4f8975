//! Who a session acts for, and what that one may publish, subscribe to and be handed.
//!
//! A device's rights follow from its name ([`muster_shared::topic`]). A service's are the filters of its
//! `[[service]]` entry in the configuration:
//!
//! - it may publish on a topic that one of its publish filters matches,
//! - it may hold a subscription that one of its subscribe filters [covers],
//! - it is handed what one of its subscribe filters matches, and nothing else.
//!
//! # Invariants
//!
//! - Every filter of a service that belongs to a tenant begins with that tenant's level: [`Service::new`] is
//!   the check, so no later question can reach over the border.
//! - `presence` and topics that begin with `$` are the server's to publish, whatever a filter says.
//! - `#` and `+` at a filter's start stand for no topic that begins with `$` [MQTT-4.7.2-1].

use std::sync::Arc;

use muster_shared::{
    ServiceName, Tenant,
    topic::{self, Bounds, Forbidden, Kind, Topic, TopicError},
};

use crate::registry::DeviceName;

/// Who a session acts for, as its certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A device: its own topics, and what is meant for it.
    Device(Arc<DeviceName>),
    /// A service: what its entry in the configuration grants.
    Service(Arc<Service>),
}

impl Principal {
    /// May it publish on this topic name?
    ///
    /// # Errors
    /// [`Forbidden`] says why not.
    pub fn may_publish(&self, topic: &str) -> Result<(), Forbidden> {
        match self {
            Self::Device(name) => topic::may_publish(&name.tenant, &name.device_id, topic).map(|_| ()),
            Self::Service(service) => service.may_publish(topic),
        }
    }

    /// May it hold this subscription? Of a shared one, `filter` is what follows `$share/{group}/`.
    ///
    /// # Errors
    /// [`Forbidden`] says why not.
    pub fn may_subscribe(&self, filter: &str) -> Result<(), Forbidden> {
        match self {
            Self::Device(name) => topic::may_subscribe(&name.tenant, &name.device_id, filter),
            Self::Service(service) => service.may_subscribe(filter),
        }
    }

    /// May it be handed a message on this topic?
    #[must_use]
    pub fn may_receive(&self, topic: &str) -> bool {
        match self {
            Self::Device(name) => topic::may_receive(&name.tenant, &name.device_id, topic),
            Self::Service(service) => service.may_receive(topic),
        }
    }

    /// The only client id it may use, and the one it is assigned; `None`: any, its sessions are told apart
    /// by it.
    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        match self {
            Self::Device(name) => Some(name.device_id.as_str()),
            Self::Service(_) => None,
        }
    }

    /// May it hold shared subscriptions (MQTT 5.0 §4.8.2)?
    #[must_use]
    pub fn shares(&self) -> bool {
        matches!(self, Self::Service(_))
    }

    /// Its name for a log line: the device id, or the service's name.
    #[must_use]
    pub fn label(&self) -> &str {
        match self {
            Self::Device(name) => name.device_id.as_str(),
            Self::Service(service) => service.name(),
        }
    }
}

/// A service, as the configuration describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    name: ServiceName,
    tenant: Option<Tenant>,
    publish: Box<[Box<str>]>,
    subscribe: Box<[Box<str>]>,
    topics: Bounds,
}

/// A filter that a service cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not a filter.
    #[error("{filter:?}: {source}")]
    Malformed {
        /// The filter.
        filter: Box<str>,
        /// What is wrong with it.
        source: TopicError,
    },
    /// It begins with `$`, where only the server is at home; `$share/` is the subscriber's to write.
    #[error("{filter:?} begins with $, where no service reads or writes")]
    Reserved {
        /// The filter.
        filter: Box<str>,
    },
    /// It does not begin with the tenant's level.
    #[error("{filter:?} does not begin with {tenant}/, the service's tenant")]
    Foreign {
        /// The filter.
        filter: Box<str>,
        /// Whose service it is.
        tenant: Tenant,
    },
}

impl Service {
    /// A service of `tenant`, or of the whole fleet when there is none, with the filters it may publish
    /// under and subscribe to.
    ///
    /// # Errors
    /// [`FilterError`] for the first filter that a service of this tenant cannot have.
    pub fn new(
        name: ServiceName,
        tenant: Option<Tenant>,
        publish: impl IntoIterator<Item = impl Into<Box<str>>>,
        subscribe: impl IntoIterator<Item = impl Into<Box<str>>>,
    ) -> Result<Self, FilterError> {
        let publish = publish.into_iter().map(Into::into).collect();
        let subscribe = subscribe.into_iter().map(Into::into).collect();
        let service = Self { name, tenant, publish, subscribe, topics: Bounds::WIDEST };
        service.filters().try_for_each(|filter| service.fits(filter))?;
        Ok(service)
    }

    /// A service that may do nothing: it has a certificate, and no entry in the configuration.
    #[must_use]
    pub fn powerless(name: ServiceName) -> Self {
        Self {
            name,
            tenant: None,
            publish: Box::default(),
            subscribe: Box::default(),
            topics: Bounds::WIDEST,
        }
    }

    /// The same, with topics and filters of at most so many octets; its grants may be longer.
    #[must_use]
    pub fn with_topics_up_to(self, octets: usize) -> Self {
        Self { topics: Bounds { octets, ..Bounds::WIDEST }, ..self }
    }

    /// `CN` of its certificate.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Whose service it is; `None`: the whole fleet's.
    #[must_use]
    pub fn tenant(&self) -> Option<&Tenant> {
        self.tenant.as_ref()
    }

    /// The filters it may publish under.
    #[must_use]
    pub fn publish(&self) -> &[Box<str>] {
        &self.publish
    }

    /// The filters it may subscribe to.
    #[must_use]
    pub fn subscribe(&self) -> &[Box<str>] {
        &self.subscribe
    }

    fn filters(&self) -> impl Iterator<Item = &str> {
        self.publish.iter().chain(&self.subscribe).map(|filter| &**filter)
    }

    fn fits(&self, filter: &str) -> Result<(), FilterError> {
        let named = || Box::from(filter);
        topic::check_filter(filter, Bounds::WIDEST)
            .map_err(|source| FilterError::Malformed { filter: named(), source })?;
        if filter.starts_with('$') {
            return Err(FilterError::Reserved { filter: named() });
        }
        match &self.tenant {
            Some(tenant) if !begins_with(filter, tenant) => {
                Err(FilterError::Foreign { filter: named(), tenant: tenant.clone() })
            }
            _ => Ok(()),
        }
    }

    fn may_publish(&self, topic: &str) -> Result<(), Forbidden> {
        topic::check_name(topic, self.topics)?;
        if topic.starts_with('$') {
            return Err(Forbidden::NotItsTopic);
        }
        if matches!(Topic::parse(topic), Ok(Topic::Device { kind: Kind::Presence, .. })) {
            return Err(Forbidden::NotItsDirection);
        }
        let granted = self.publish.iter().any(|filter| topic::matches(filter, topic));
        if granted { Ok(()) } else { Err(Forbidden::NotItsTopic) }
    }

    fn may_subscribe(&self, filter: &str) -> Result<(), Forbidden> {
        topic::check_filter(filter, self.topics)?;
        let granted = self.subscribe.iter().any(|own| covers(own, filter));
        if granted { Ok(()) } else { Err(Forbidden::NotItsTopic) }
    }

    fn may_receive(&self, topic: &str) -> bool {
        self.subscribe.iter().any(|filter| topic::matches(filter, topic))
    }
}

/// The first level, and one behind it: `acme` alone is no topic of anybody's.
fn begins_with(filter: &str, tenant: &Tenant) -> bool {
    matches!(filter.split_once('/'), Some((first, rest)) if first == tenant.as_str() && !rest.is_empty())
}

/// Does `own` match every topic that `asked` matches? Both are well-formed filters. A filter that is
/// covered by several together, and by none alone, counts as not covered.
#[must_use]
pub fn covers(own: &str, asked: &str) -> bool {
    if asked.starts_with('$') && own.starts_with(['+', '#']) {
        return false;
    }
    let mut own = own.split('/');
    let mut asked = asked.split('/');
    loop {
        match (own.next(), asked.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(mine), Some(level)) if mine == level => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn service(tenant: Option<&str>, publish: &[&str], subscribe: &[&str]) -> Result<Service, FilterError> {
        Service::new(
            "historian".parse().unwrap(),
            tenant.map(|tenant| tenant.parse().unwrap()),
            publish.iter().copied(),
            subscribe.iter().copied(),
        )
    }

    fn principal(tenant: Option<&str>, publish: &[&str], subscribe: &[&str]) -> Principal {
        Principal::Service(Arc::new(service(tenant, publish, subscribe).unwrap()))
    }

    #[test]
    fn a_service_publishes_where_its_filters_say() {
        let acme = principal(Some("acme"), &["acme/+/command/+/request", "acme/~all/#"], &[]);
        for (topic, answer) in [
            ("acme/MU-1/command/7/request", Ok(())),
            ("acme/~all/app/hello", Ok(())),
            ("acme/MU-1/command/7/response", Err(Forbidden::NotItsTopic)),
            ("other/MU-1/command/7/request", Err(Forbidden::NotItsTopic)),
            ("acme/+/command/7/request", Err(TopicError::Character(0x2b).into())),
            ("acme/~all/#", Err(TopicError::Character(0x23).into())),
            ("acme/a\0b", Err(TopicError::Character(0).into())),
            ("", Err(TopicError::Empty.into())),
        ] {
            assert_eq!(acme.may_publish(topic), answer, "{topic:?}");
        }
    }

    #[test]
    fn the_whole_fleet_is_any_topic_but_the_servers_own() {
        let fleet = principal(None, &["#"], &["#"]);
        for topic in ["TopicA/B", "/TopicA", "TopicA", "a//b", "/", "acme/MU-1/telemetry/t", "a/b/c/presence"]
        {
            assert_eq!(fleet.may_publish(topic), Ok(()), "{topic}");
            assert!(fleet.may_receive(topic), "{topic}");
        }
        assert_eq!(fleet.may_publish("acme/MU-1/presence"), Err(Forbidden::NotItsDirection));
        assert!(fleet.may_receive("acme/MU-1/presence"));
        assert_eq!(fleet.may_publish("$SYS/uptime"), Err(Forbidden::NotItsTopic));
        assert!(!fleet.may_receive("$SYS/uptime"));
        for (filter, granted) in [
            ("#", true),
            ("+/+", true),
            ("/+", true),
            ("acme/+/presence", true),
            ("$SYS/#", false),
            ("$share/g/a", false),
        ] {
            assert_eq!(fleet.may_subscribe(filter).is_ok(), granted, "{filter}");
        }
        assert!(matches!(fleet.may_subscribe("a/#/b"), Err(Forbidden::Malformed(TopicError::Wildcard))));
    }

    #[test]
    fn nobody_publishes_presence_where_a_filter_names_it() {
        let acme = principal(Some("acme"), &["acme/+/presence"], &["acme/+/presence"]);
        assert_eq!(acme.may_publish("acme/MU-1/presence"), Err(Forbidden::NotItsDirection));
        assert_eq!(acme.may_subscribe("acme/MU-1/presence"), Ok(()));
    }

    #[test]
    fn a_subscription_is_granted_when_a_filter_covers_it() {
        for (own, asked, covered) in [
            ("acme/#", "acme/+/telemetry/#", true),
            ("acme/#", "acme/#", true),
            ("acme/#", "acme", true),
            ("acme/+/telemetry/+", "acme/MU-1/telemetry/t", true),
            ("acme/+/telemetry/+", "acme/+/telemetry/#", false),
            ("acme/+/telemetry/+", "acme/+/+/t", false),
            ("acme/+", "acme/#", false),
            ("acme/+", "acme", false),
            ("acme/x", "acme/x/y", false),
            ("#", "$SYS/#", false),
            ("+/#", "$SYS/#", false),
        ] {
            assert_eq!(covers(own, asked), covered, "{own} over {asked}");
        }
    }

    #[test]
    fn a_filter_that_reaches_out_is_no_filter_of_a_tenants_service() {
        let foreign = |filter: &str| {
            matches!(service(Some("acme"), &[filter], &[]), Err(FilterError::Foreign { .. }))
                && matches!(service(Some("acme"), &[], &[filter]), Err(FilterError::Foreign { .. }))
        };
        for filter in ["#", "+/MU-1/app/x", "other/#", "acme", "acme/", "acmes/#", "/acme/#", "+", "Acme/#"] {
            assert!(foreign(filter), "{filter}");
        }
        assert!(matches!(service(None, &["$SYS/#"], &[]), Err(FilterError::Reserved { .. })));
        assert!(matches!(service(None, &[], &["$share/g/#"]), Err(FilterError::Reserved { .. })));
        assert!(matches!(service(None, &["a/#/b"], &[]), Err(FilterError::Malformed { .. })));
    }

    #[test]
    fn a_device_is_what_its_name_says() {
        let device = Principal::Device(Arc::new(DeviceName {
            tenant: "acme".parse().unwrap(),
            device_id: "MU-1".parse().unwrap(),
            serial: "MU-000001".parse().unwrap(),
        }));
        assert_eq!(device.may_publish("acme/MU-1/telemetry/t"), Ok(()));
        assert_eq!(device.may_publish("acme/MU-2/telemetry/t"), Err(Forbidden::NotItsTopic));
        assert_eq!(device.may_subscribe("acme/MU-1/#"), Ok(()));
        assert_eq!(device.may_subscribe("acme/#"), Err(Forbidden::NotItsTopic));
        assert!(device.may_receive("acme/~all/app/x"));
        assert!(!device.may_receive("acme/MU-1/telemetry/t"));
        assert_eq!(device.client_id(), Some("MU-1"));
        assert!(!device.shares());
    }

    fn levels(level: &'static str) -> impl Strategy<Value = String> {
        prop::collection::vec(level, 1..5).prop_map(|levels| levels.join("/"))
    }

    /// Few letters, so that things meet; tenants `a` and `b` among them.
    fn filter() -> impl Strategy<Value = String> {
        (levels("a|b|ab|\\$x|\\+|~all|"), any::<bool>())
            .prop_map(|(levels, open)| if open { format!("{levels}/#") } else { levels })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn a_service_of_one_tenant_never_reaches_another(
            own in prop::collection::vec(filter(), 0..4), asked in filter(), topic in levels("a|b|ab|\\$x|~all|"),
        ) {
            let own: Vec<&str> = own.iter().map(String::as_str).collect();
            if let Ok(service) = service(Some("a"), &own, &own) {
                let service = Principal::Service(Arc::new(service));
                // The tenant's level alone is its own, too: `a/#` matches it (MQTT 5.0 §4.7.1.2).
                if topic != "a" && !topic.starts_with("a/") {
                    prop_assert!(service.may_publish(&topic).is_err(), "{own:?} publishes {topic}");
                    prop_assert!(!service.may_receive(&topic), "{own:?} is handed {topic}");
                }
                if service.may_subscribe(&asked).is_ok() && topic != "a" && !topic.starts_with("a/") {
                    prop_assert!(!topic::matches(&asked, &topic), "{own:?} reads {topic} by {asked}");
                }
            }
        }

        #[test]
        fn what_is_covered_matches_no_topic_more(
            own in filter(), asked in filter(), topic in levels("a|b|ab|\\$x|~all|"),
        ) {
            if covers(&own, &asked) && topic::matches(&asked, &topic) {
                prop_assert!(topic::matches(&own, &topic), "{own} covers {asked}, which matches {topic}");
            }
        }
    }
}
