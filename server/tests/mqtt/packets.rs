//! Packets as a client writes them, octet by octet. Nothing here checks anything: what is malformed is
//! written as easily as what is right.

pub(crate) const V3: u8 = 4;
pub(crate) const V5: u8 = 5;

/// First octets of packets (MQTT 5.0 §2.1.2), with the flags they must have.
pub(crate) const CONNACK: u8 = 0x20;
pub(crate) const PUBLISH: u8 = 0x30;
pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const PUBREC: u8 = 0x50;
pub(crate) const PUBREL: u8 = 0x62;
pub(crate) const PUBCOMP: u8 = 0x70;
pub(crate) const SUBACK: u8 = 0x90;
pub(crate) const UNSUBACK: u8 = 0xb0;
pub(crate) const PINGREQ: [u8; 2] = [0xc0, 0];
pub(crate) const PINGRESP: u8 = 0xd0;
pub(crate) const DISCONNECT: u8 = 0xe0;

/// A variable byte integer in its shortest form.
pub(crate) fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let octet = (value % 128) as u8;
        value /= 128;
        if value == 0 {
            out.push(octet);
            return out;
        }
        out.push(octet | 0x80);
    }
}

/// A packet of these parts.
pub(crate) fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [vec![first], varint(body.len()), body].concat()
}

/// A string or binary field, well-formed or not.
pub(crate) fn text(octets: impl AsRef<[u8]>) -> Vec<u8> {
    let octets = octets.as_ref();
    [&(octets.len() as u16).to_be_bytes(), octets].concat()
}

/// Properties with their length; nothing in 3.1.1.
pub(crate) fn properties(version: u8, octets: &[u8]) -> Vec<u8> {
    if version == V5 { [varint(octets.len()), octets.to_vec()].concat() } else { Vec::new() }
}

/// CONNECT.
#[derive(Debug, Clone)]
pub(crate) struct Connect {
    pub(crate) version: u8,
    name: Vec<u8>,
    level: u8,
    clean: bool,
    keep_alive_s: u16,
    flip: u8,
    properties: Vec<u8>,
    pub(crate) id: Vec<u8>,
    will: Option<Will>,
    user: Option<Vec<u8>>,
    password: Option<Vec<u8>>,
    tail: Vec<u8>,
}

/// A will.
#[derive(Debug, Clone)]
pub(crate) struct Will {
    topic: Vec<u8>,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
    properties: Vec<u8>,
}

impl Will {
    pub(crate) fn new(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Self {
        Self {
            topic: topic.as_ref().to_vec(),
            payload: payload.as_ref().to_vec(),
            qos: 0,
            retain: false,
            properties: Vec::new(),
        }
    }

    pub(crate) fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    pub(crate) fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub(crate) fn property(mut self, octets: impl AsRef<[u8]>) -> Self {
        self.properties.extend_from_slice(octets.as_ref());
        self
    }
}

impl Connect {
    /// A clean session with this client id, keep-alive a minute.
    pub(crate) fn new(version: u8, id: impl AsRef<[u8]>) -> Self {
        Self {
            version,
            name: b"MQTT".to_vec(),
            level: version,
            clean: true,
            keep_alive_s: 60,
            flip: 0,
            properties: Vec::new(),
            id: id.as_ref().to_vec(),
            will: None,
            user: None,
            password: None,
            tail: Vec::new(),
        }
    }

    /// One that goes on with what there is, and outlives its connection by ten minutes.
    pub(crate) fn durable(version: u8, id: impl AsRef<[u8]>) -> Self {
        let connect = Self::new(version, id).resume();
        if version == V5 { connect.property(p::session_expiry(600)) } else { connect }
    }

    /// Goes on with the session there is.
    pub(crate) fn resume(mut self) -> Self {
        self.clean = false;
        self
    }

    pub(crate) fn clean(mut self) -> Self {
        self.clean = true;
        self
    }

    pub(crate) fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive_s = seconds;
        self
    }

    pub(crate) fn protocol(mut self, name: impl AsRef<[u8]>, level: u8) -> Self {
        self.name = name.as_ref().to_vec();
        self.level = level;
        self
    }

    /// Adds a property; of MQTT 5 alone.
    pub(crate) fn property(mut self, octets: impl AsRef<[u8]>) -> Self {
        self.properties.extend_from_slice(octets.as_ref());
        self
    }

    pub(crate) fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    pub(crate) fn user(mut self, octets: impl AsRef<[u8]>) -> Self {
        self.user = Some(octets.as_ref().to_vec());
        self
    }

    pub(crate) fn password(mut self, octets: impl AsRef<[u8]>) -> Self {
        self.password = Some(octets.as_ref().to_vec());
        self
    }

    /// Flips bits of the connect flags, whatever the payload then holds.
    pub(crate) fn flip(mut self, bits: u8) -> Self {
        self.flip ^= bits;
        self
    }

    /// Adds octets behind the last field.
    pub(crate) fn tail(mut self, octets: impl AsRef<[u8]>) -> Self {
        self.tail.extend_from_slice(octets.as_ref());
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut flags = u8::from(self.clean) << 1;
        let mut payload = text(&self.id);
        if let Some(will) = &self.will {
            flags |= 1 << 2 | will.qos << 3 | u8::from(will.retain) << 5;
            payload.extend(properties(self.version, &will.properties));
            payload.extend(text(&will.topic));
            payload.extend(text(&will.payload));
        }
        for (field, bit) in [(&self.user, 7), (&self.password, 6)] {
            if let Some(octets) = field {
                flags |= 1 << bit;
                payload.extend(text(octets));
            }
        }
        let head = [text(&self.name), vec![self.level, flags ^ self.flip]].concat();
        let keep_alive = self.keep_alive_s.to_be_bytes();
        let properties = properties(self.version, &self.properties);
        packet(0x10, &[&head, &keep_alive, &properties, &payload, &self.tail])
    }
}

/// PUBLISH.
#[derive(Debug, Clone)]
pub(crate) struct Publish {
    pub(crate) topic: Vec<u8>,
    payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) id: u16,
    retain: bool,
    dup: bool,
    properties: Vec<u8>,
}

impl Publish {
    /// At QoS 0, not retained.
    pub(crate) fn new(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Self {
        Self {
            topic: topic.as_ref().to_vec(),
            payload: payload.as_ref().to_vec(),
            qos: 0,
            id: 0,
            retain: false,
            dup: false,
            properties: Vec::new(),
        }
    }

    pub(crate) fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    pub(crate) fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    pub(crate) fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub(crate) fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    /// Adds a property; of MQTT 5 alone.
    pub(crate) fn property(mut self, octets: impl AsRef<[u8]>) -> Self {
        self.properties.extend_from_slice(octets.as_ref());
        self
    }

    pub(crate) fn bytes(&self, version: u8) -> Vec<u8> {
        let first = PUBLISH | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let id = if self.qos == 0 { Vec::new() } else { self.id.to_be_bytes().to_vec() };
        let properties = properties(version, &self.properties);
        packet(first, &[&text(&self.topic), &id, &properties, &self.payload])
    }
}

/// SUBSCRIBE with one filter or several, each with its options.
pub(crate) fn subscribe<F: AsRef<[u8]>>(version: u8, id: u16, with: &[u8], filters: &[(F, u8)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (filter, options) in filters {
        payload.extend(text(filter));
        payload.push(*options);
    }
    packet(0x82, &[&id.to_be_bytes(), &properties(version, with), &payload])
}

/// UNSUBSCRIBE.
pub(crate) fn unsubscribe<F: AsRef<[u8]>>(version: u8, id: u16, filters: &[F]) -> Vec<u8> {
    let payload: Vec<u8> = filters.iter().flat_map(text).collect();
    packet(0xa2, &[&id.to_be_bytes(), &properties(version, &[]), &payload])
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP without a reason: success.
pub(crate) fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &[&id.to_be_bytes()])
}

/// The same with a reason, in MQTT 5.
pub(crate) fn ack_with(first: u8, id: u16, reason: u8) -> Vec<u8> {
    packet(first, &[&id.to_be_bytes(), &[reason]])
}

/// DISCONNECT of MQTT 5 with a reason and properties.
pub(crate) fn disconnect(reason: u8, with: &[u8]) -> Vec<u8> {
    packet(DISCONNECT, &[&[reason], &properties(V5, with)])
}

/// Properties, each with its identifier (MQTT 5.0 §2.2.2.2).
pub(crate) mod p {
    use super::{text, varint};

    pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(crate) const CONTENT_TYPE: u8 = 0x03;
    pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
    pub(crate) const CORRELATION: u8 = 0x09;
    pub(crate) const SUBSCRIPTION_ID: u8 = 0x0b;
    pub(crate) const SESSION_EXPIRY: u8 = 0x11;
    pub(crate) const ASSIGNED_ID: u8 = 0x12;
    pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(crate) const AUTH_METHOD: u8 = 0x15;
    pub(crate) const RESPONSE_INFORMATION: u8 = 0x1a;
    pub(crate) const REASON_STRING: u8 = 0x1f;
    pub(crate) const RECEIVE_MAX: u8 = 0x21;
    pub(crate) const ALIAS_MAX: u8 = 0x22;
    pub(crate) const ALIAS: u8 = 0x23;
    pub(crate) const QOS_MAX: u8 = 0x24;
    pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(crate) const USER: u8 = 0x26;
    pub(crate) const PACKET_MAX: u8 = 0x27;

    fn of(id: u8, octets: &[u8]) -> Vec<u8> {
        [&[id], octets].concat()
    }
    pub(crate) fn payload_format(value: u8) -> Vec<u8> {
        of(PAYLOAD_FORMAT, &[value])
    }
    pub(crate) fn message_expiry(seconds: u32) -> Vec<u8> {
        of(MESSAGE_EXPIRY, &seconds.to_be_bytes())
    }
    pub(crate) fn content_type(octets: impl AsRef<[u8]>) -> Vec<u8> {
        of(CONTENT_TYPE, &text(octets))
    }
    pub(crate) fn response_topic(octets: impl AsRef<[u8]>) -> Vec<u8> {
        of(RESPONSE_TOPIC, &text(octets))
    }
    pub(crate) fn correlation(octets: impl AsRef<[u8]>) -> Vec<u8> {
        of(CORRELATION, &text(octets))
    }
    pub(crate) fn subscription_id(id: usize) -> Vec<u8> {
        of(SUBSCRIPTION_ID, &varint(id))
    }
    pub(crate) fn session_expiry(seconds: u32) -> Vec<u8> {
        of(SESSION_EXPIRY, &seconds.to_be_bytes())
    }
    pub(crate) fn auth_method(octets: impl AsRef<[u8]>) -> Vec<u8> {
        of(AUTH_METHOD, &text(octets))
    }
    pub(crate) fn request_problem(value: u8) -> Vec<u8> {
        of(0x17, &[value])
    }
    pub(crate) fn will_delay(seconds: u32) -> Vec<u8> {
        of(0x18, &seconds.to_be_bytes())
    }
    pub(crate) fn request_response(value: u8) -> Vec<u8> {
        of(0x19, &[value])
    }
    pub(crate) fn receive_max(value: u16) -> Vec<u8> {
        of(RECEIVE_MAX, &value.to_be_bytes())
    }
    pub(crate) fn alias_max(value: u16) -> Vec<u8> {
        of(ALIAS_MAX, &value.to_be_bytes())
    }
    pub(crate) fn alias(value: u16) -> Vec<u8> {
        of(ALIAS, &value.to_be_bytes())
    }
    pub(crate) fn user(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
        of(USER, &[text(key), text(value)].concat())
    }
    pub(crate) fn packet_max(octets: u32) -> Vec<u8> {
        of(PACKET_MAX, &octets.to_be_bytes())
    }
}
