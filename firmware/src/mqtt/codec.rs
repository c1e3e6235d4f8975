//! MQTT 5 packets as octets: what a client reads, and the pieces of what it writes.

use muster_shared::continuity;

/// Largest packet the client reads; told to the server as its maximum packet size (§3.1.2.11.4).
pub const PACKET_IN: usize = 2048;

/// Why the connection cannot go on, or a packet cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MqttError {
    /// Not a well-formed packet.
    #[error("malformed packet")]
    Malformed,
    /// A packet that may not come, or be sent, now.
    #[error("packet out of place")]
    OutOfPlace,
    /// Larger than the one who reads it allows.
    #[error("packet too long")]
    TooLong,
    /// The server owes an answer for too long.
    #[error("server is silent")]
    Silent,
    /// The buffer to write into is too small.
    #[error("packet does not fit its buffer")]
    NoRoom,
}

/// Gathers octets into whole packets.
#[derive(Debug)]
pub struct Decoder {
    buffer: [u8; PACKET_IN],
    used: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// An empty decoder.
    #[must_use]
    pub const fn new() -> Self {
        Self { buffer: [0; PACKET_IN], used: 0 }
    }

    /// Starts over, for a new connection.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Takes octets; returns how many. Fewer only when the buffer is full, which a packet within
    /// [`PACKET_IN`] never leaves it once [`Decoder::packet`] has been asked.
    pub fn push(&mut self, octets: &[u8]) -> usize {
        let n = octets.len().min(PACKET_IN - self.used);
        self.buffer[self.used..self.used + n].copy_from_slice(&octets[..n]);
        self.used += n;
        n
    }

    /// The first packet, once it is whole. It stays until [`Decoder::consume`].
    ///
    /// # Errors
    /// [`MqttError`] when it can never be one.
    pub fn packet(&self) -> Result<Option<&[u8]>, MqttError> {
        let octets = &self.buffer[..self.used];
        let Some(rest) = octets.get(1..) else { return Ok(None) };
        let Some((length, header)) = varint(rest)? else { return Ok(None) };
        let total = 1 + header + length;
        if total > PACKET_IN {
            return Err(MqttError::TooLong);
        }
        Ok(octets.get(..total))
    }

    /// Takes a packet of this many octets out.
    pub fn consume(&mut self, octets: usize) {
        let octets = octets.min(self.used);
        self.buffer.copy_within(octets..self.used, 0);
        self.used -= octets;
    }
}

/// A variable byte integer (§1.5.5) and its length; `None` while it is not whole.
fn varint(octets: &[u8]) -> Result<Option<(usize, usize)>, MqttError> {
    let mut value = 0;
    for (n, &octet) in octets.iter().enumerate().take(4) {
        value |= usize::from(octet & 0x7f) << (7 * n);
        if octet & 0x80 == 0 {
            // In its shortest form [MQTT-1.5.5-1].
            return if octet == 0 && n > 0 { Err(MqttError::Malformed) } else { Ok(Some((value, n + 1))) };
        }
    }
    if octets.len() < 4 { Ok(None) } else { Err(MqttError::Malformed) }
}

/// A packet a server sends.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Packet<'a> {
    ConnAck { session_present: bool, reason: u8, properties: Properties<'a> },
    Publish(Publish<'a>),
    PubAck { id: u16, reason: u8, properties: Properties<'a> },
    SubAck { id: u16, reasons: &'a [u8], properties: Properties<'a> },
    PingResp,
    Disconnect { reason: u8, properties: Properties<'a> },
}

/// A message from the server.
#[derive(Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Its topic; never empty, for we allow no topic alias.
    pub topic: &'a str,
    /// Its payload.
    pub payload: &'a [u8],
    /// Its packet id at QoS 1; none at QoS 0.
    pub id: Option<u16>,
}

/// The properties a client acts on (§2.2.2.2); the others are read over.
#[derive(Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Properties<'a> {
    pub reason_string: Option<&'a str>,
    pub receive_maximum: Option<u16>,
    pub packet_max: Option<u32>,
    pub qos_max: Option<u8>,
    pub server_keep_alive: Option<u16>,
    pub continuity: Option<&'a str>,
    topic_alias: Option<u16>,
}

impl<'a> Packet<'a> {
    /// Reads one whole packet.
    ///
    /// # Errors
    /// [`MqttError::Malformed`], or [`MqttError::OutOfPlace`] for one only a client sends.
    pub fn read(octets: &'a [u8]) -> Result<Self, MqttError> {
        let (&first, rest) = octets.split_first().ok_or(MqttError::Malformed)?;
        let (length, header) = varint(rest)?.ok_or(MqttError::Malformed)?;
        let body = rest.get(header..).filter(|body| body.len() == length).ok_or(MqttError::Malformed)?;
        let mut body = Body(body);
        let packet = match first {
            0x20 => {
                let flags = body.u8()?;
                if flags > 1 {
                    return Err(MqttError::Malformed);
                }
                let (reason, properties) = (body.u8()?, body.properties()?);
                Packet::ConnAck { session_present: flags == 1, reason, properties }
            }
            0x30..=0x3f => return publish(first & 0x0f, body),
            0x40 => {
                let id = body.id()?;
                let (reason, properties) = body.reason()?;
                Packet::PubAck { id, reason, properties }
            }
            0x90 => {
                let (id, properties) = (body.id()?, body.properties()?);
                Packet::SubAck { id, reasons: body.rest(), properties }
            }
            0xd0 => Packet::PingResp,
            0xe0 => {
                let (reason, properties) = body.reason()?;
                Packet::Disconnect { reason, properties }
            }
            // UNSUBACK, AUTH, QoS 2: nothing of ours calls for them.
            0x50 | 0x62 | 0x70 | 0xb0 | 0xf0 => return Err(MqttError::OutOfPlace),
            _ => return Err(MqttError::Malformed),
        };
        if body.0.is_empty() { Ok(packet) } else { Err(MqttError::Malformed) }
    }
}

fn publish(flags: u8, mut body: Body<'_>) -> Result<Packet<'_>, MqttError> {
    let qos = flags >> 1 & 0x03;
    // DUP at QoS 0, and QoS 3, are malformed (§3.3.1); QoS 2 was not subscribed to.
    if qos == 3 || (qos == 0 && flags & 0x08 != 0) {
        return Err(MqttError::Malformed);
    }
    if qos == 2 {
        return Err(MqttError::OutOfPlace);
    }
    let topic = body.string()?;
    let id = if qos == 1 { Some(body.id()?) } else { None };
    let properties = body.properties()?;
    if topic.is_empty() || topic.contains(['+', '#', '\0']) || properties.topic_alias.is_some() {
        return Err(MqttError::Malformed);
    }
    Ok(Packet::Publish(Publish { topic, payload: body.rest(), id }))
}

struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], MqttError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(MqttError::Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, MqttError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, MqttError> {
        let octets = self.take(2)?;
        Ok(u16::from_be_bytes([octets[0], octets[1]]))
    }

    /// A packet id is not zero [MQTT-2.2.1-3].
    fn id(&mut self) -> Result<u16, MqttError> {
        match self.u16()? {
            0 => Err(MqttError::Malformed),
            id => Ok(id),
        }
    }

    fn string(&mut self) -> Result<&'a str, MqttError> {
        let len = self.u16()?;
        core::str::from_utf8(self.take(usize::from(len))?).map_err(|_| MqttError::Malformed)
    }

    fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }

    /// A reason and its properties, both of which may be left out (§3.4.2.1, §3.14.2.1).
    fn reason(&mut self) -> Result<(u8, Properties<'a>), MqttError> {
        if self.0.is_empty() {
            return Ok((0, Properties::default()));
        }
        let reason = self.u8()?;
        let properties = if self.0.is_empty() { Properties::default() } else { self.properties()? };
        Ok((reason, properties))
    }

    fn properties(&mut self) -> Result<Properties<'a>, MqttError> {
        let (length, header) = varint(self.0)?.ok_or(MqttError::Malformed)?;
        self.take(header)?;
        let mut list = Body(self.take(length)?);
        let mut found = Properties::default();
        while !list.0.is_empty() {
            match list.u8()? {
                0x13 => once(&mut found.server_keep_alive, list.u16()?)?,
                0x1f => once(&mut found.reason_string, list.string()?)?,
                0x21 => match list.u16()? {
                    0 => return Err(MqttError::Malformed),
                    maximum => once(&mut found.receive_maximum, maximum)?,
                },
                0x23 => once(&mut found.topic_alias, list.u16()?)?,
                0x24 => once(&mut found.qos_max, list.u8()?)?,
                0x27 => {
                    let octets = list.take(4)?;
                    match u32::from_be_bytes([octets[0], octets[1], octets[2], octets[3]]) {
                        0 => return Err(MqttError::Malformed),
                        maximum => once(&mut found.packet_max, maximum)?,
                    }
                }
                0x01 | 0x17 | 0x19 | 0x25 | 0x28 | 0x29 | 0x2a => drop(list.u8()?),
                0x22 => drop(list.u16()?),
                0x02 | 0x11 | 0x18 => drop(list.take(4)?),
                0x0b => {
                    let (_, octets) = varint(list.0)?.ok_or(MqttError::Malformed)?;
                    list.take(octets)?;
                }
                0x03 | 0x08 | 0x12 | 0x15 | 0x1a | 0x1c => drop(list.string()?),
                0x09 | 0x16 => {
                    let len = list.u16()?;
                    list.take(usize::from(len))?;
                }
                0x26 => {
                    let (name, token) = (list.string()?, list.string()?);
                    // User properties may stand more than once: the first counts, here and at the server.
                    if name == continuity::PROPERTY {
                        found.continuity.get_or_insert(token);
                    }
                }
                _ => return Err(MqttError::Malformed),
            }
        }
        Ok(found)
    }
}

/// A property stands once (§2.2.2.2).
fn once<T>(place: &mut Option<T>, value: T) -> Result<(), MqttError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(MqttError::Malformed),
    }
}

/// Octets kept free in front of a packet for its type and length.
const HEADER: usize = 5;

/// Writes one packet: the body first, then its header in front of it.
pub(super) struct Encoder<'b> {
    out: &'b mut [u8],
    used: usize,
}

impl<'b> Encoder<'b> {
    pub(super) fn new(out: &'b mut [u8]) -> Self {
        Self { out, used: HEADER }
    }

    pub(super) fn octets(&mut self, octets: &[u8]) -> Result<(), MqttError> {
        let place = self.out.get_mut(self.used..self.used + octets.len()).ok_or(MqttError::NoRoom)?;
        place.copy_from_slice(octets);
        self.used += octets.len();
        Ok(())
    }

    pub(super) fn u16(&mut self, value: u16) -> Result<(), MqttError> {
        self.octets(&value.to_be_bytes())
    }

    pub(super) fn string(&mut self, text: &str) -> Result<(), MqttError> {
        self.u16(u16::try_from(text.len()).map_err(|_| MqttError::TooLong)?)?;
        self.octets(text.as_bytes())
    }

    pub(super) fn finish(self, first: u8) -> Result<&'b [u8], MqttError> {
        if self.out.len() < HEADER {
            return Err(MqttError::NoRoom);
        }
        let mut left = self.used - HEADER;
        let (mut length, mut n) = ([0; 4], 0);
        loop {
            let more = if left > 0x7f { 0x80 } else { 0 };
            *length.get_mut(n).ok_or(MqttError::TooLong)? = (left & 0x7f) as u8 | more;
            n += 1;
            left >>= 7;
            if more == 0 {
                break;
            }
        }
        let start = HEADER - 1 - n;
        self.out[start] = first;
        self.out[start + 1..HEADER].copy_from_slice(&length[..n]);
        Ok(&self.out[start..self.used])
    }
}
