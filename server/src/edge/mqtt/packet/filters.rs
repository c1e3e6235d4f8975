//! SUBSCRIBE and UNSUBSCRIBE: filters, and how each is asked for.

use super::{Qos, properties};
use crate::edge::{
    limits::FILTERS_PER_PACKET_MAX,
    mqtt::{
        codec::{Fault, Kind, Reader, Reason},
        property::Place,
    },
    roster::Protocol,
};

/// SUBSCRIBE or UNSUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filters<'a> {
    /// The packet identifier.
    pub id: u16,
    /// Of SUBSCRIBE in MQTT 5.
    pub subscription_id: Option<u32>,
    left: Reader<'a>,
    form: Form,
}

/// One filter and how it is asked for; UNSUBSCRIBE asks with the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter<'a> {
    /// The filter; not looked into yet.
    pub filter: &'a str,
    /// How it is asked for.
    pub options: Options,
}

/// The options of a subscription (MQTT 5.0 §3.8.3.1); 3.1.1 has the QoS and the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// At most this QoS.
    pub qos: Qos,
    /// Not what the client itself publishes.
    pub no_local: bool,
    /// With the retain flag as the publisher set it.
    pub retain_as_published: bool,
    /// Which retained messages are sent at once.
    pub retain_handling: RetainHandling,
}

/// When a subscription is answered with retained messages (MQTT 5.0 §3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetainHandling {
    /// Each time it is made.
    Always,
    /// When it is new.
    IfNew,
    /// Never.
    Never,
}

impl Options {
    const NONE: Self = Self {
        qos: Qos::AtMostOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Always,
    };

    fn read(octet: u8, protocol: Protocol) -> Result<Self, Fault> {
        let reserved = match protocol {
            Protocol::V3 => 0b1111_1100,
            Protocol::V5 => 0b1100_0000,
        };
        if octet & reserved != 0 {
            return Err(Fault::malformed("reserved bits of the subscription options")); // [MQTT-3.8.3-5]
        }
        Ok(Self {
            qos: Qos::of(octet & 0b11)?,
            no_local: octet & 0b100 != 0,
            retain_as_published: octet & 0b1000 != 0,
            retain_handling: match octet >> 4 & 0b11 {
                0 => RetainHandling::Always,
                1 => RetainHandling::IfNew,
                2 => RetainHandling::Never,
                _ => return Err(Fault::protocol("retain handling 3")),
            },
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Subscribe(Protocol),
    Unsubscribe,
}

impl<'a> Filters<'a> {
    pub(super) fn read(mut reader: Reader<'a>, protocol: Protocol, unsubscribe: bool) -> Result<Self, Fault> {
        let id = reader.packet_id()?;
        let (kind, form) = match unsubscribe {
            true => (Kind::Unsubscribe, Form::Unsubscribe),
            false => (Kind::Subscribe, Form::Subscribe(protocol)),
        };
        let subscription_id = properties(protocol, &mut reader, Place::In(kind))?.subscription_id;
        if reader.is_empty() {
            return Err(Fault::protocol("no filter")); // [MQTT-3.8.3-2], [MQTT-3.10.3-2]
        }
        let all = Self { id, subscription_id, left: reader, form };
        let mut rest = all;
        let mut count = 0;
        while rest.step()?.is_some() {
            count += 1;
            if count > FILTERS_PER_PACKET_MAX {
                return Err(Fault { reason: Reason::QUOTA_EXCEEDED, what: "more filters than the limit" });
            }
        }
        Ok(all)
    }

    fn step(&mut self) -> Result<Option<Filter<'a>>, Fault> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let filter = self.left.string()?;
        let Form::Subscribe(protocol) = self.form else {
            return Ok(Some(Filter { filter, options: Options::NONE }));
        };
        let options = Options::read(self.left.u8()?, protocol)?;
        if options.no_local && filter.starts_with("$share/") {
            return Err(Fault::protocol("no-local on a shared subscription")); // [MQTT-3.8.3-4]
        }
        Ok(Some(Filter { filter, options }))
    }
}

impl<'a> Iterator for Filters<'a> {
    type Item = Filter<'a>;
    /// The packet was read to its end once, so every step succeeds.
    fn next(&mut self) -> Option<Filter<'a>> {
        self.step().ok().flatten()
    }
}
