//! The PROXY protocol: what a TCP balancer says in front of a connection, about whose connection it is
//! (proxy-protocol.txt of HAProxy, §2.1 for version 1, §2.2 for version 2).
//!
//! # Invariants
//!
//! - Only a peer in `mqtt.proxy_protocol` is asked for a header, and it must send one (§5 of the document:
//!   a receiver never guesses whether a header is there, or any client could claim any address).
//! - Not one octet behind the header is taken.
//! - What is claimed is used for limits and for the record. Who a device is, its certificate alone says.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use tokio::{io::AsyncReadExt, net::TcpStream};

use super::limits::{PROXY_HEADER_MAX, PROXY_LINE_MAX};

/// Addresses that share their first bits: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u8,
}

/// Not a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an address or a network is wanted, such as 10.0.0.7, 10.0.0.0/8 or 2001:db8::/32")]
pub struct NetworkError;

impl Network {
    /// Does the address lie in it? An IPv4 address is one, however a socket spells it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let differ = u32::from(base) ^ u32::from(address);
                differ.checked_shr(32 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let differ = u128::from(base) ^ u128::from(address);
                differ.checked_shr(128 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let base: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => decimal(bits).filter(|bits| *bits <= most).ok_or(NetworkError)?,
            None => most,
        };
        Ok(Self { base, bits: bits as u8 })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A client behind the balancer.
    Client(SocketAddr),
    /// The balancer's own, such as a health check, or one whose client it does not name.
    Balancer,
}

/// Why a header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It begins otherwise.
    #[error("no PROXY protocol header")]
    NoHeader,
    /// A line of more than [`PROXY_LINE_MAX`] octets, a header of more than [`PROXY_HEADER_MAX`].
    #[error("header is longer than the limit")]
    TooLong,
    /// Not a line of version 1 (§2.1).
    #[error("line of version 1 is malformed")]
    Line,
    /// Neither LOCAL nor PROXY of version 2 (§2.2).
    #[error("version and command 0x{0:02x} are not known")]
    Version(u8),
    /// Datagrams, or nothing the document has (§2.2).
    #[error("address family 0x{0:02x} is not one of TCP")]
    Family(u8),
    /// Its parts are longer than the whole.
    #[error("addresses or extensions do not fit the header's length")]
    Length,
    /// Of a header that has one (§2.2.3).
    #[error("checksum is wrong")]
    Checksum,
}

/// What came of some octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// How many of them belong to the header.
    pub used: usize,
    /// What it says, once it is whole.
    pub origin: Option<Origin>,
}

/// Reads a header, in whatever pieces it comes.
#[derive(Debug, Default)]
pub struct Parser {
    held: Vec<u8>,
}

const LINE: &[u8] = b"PROXY ";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length (§2.2).
const HEAD: usize = 16;
/// The type of the extension that holds a CRC-32C (§2.2.3).
const CHECKSUM: u8 = 0x03;

impl Parser {
    /// Takes octets that follow those taken before. Not to be called again after an origin or a fault.
    ///
    /// # Errors
    /// [`Fault`]: the connection is of no use.
    pub fn take(&mut self, octets: &[u8]) -> Result<Taken, Fault> {
        let before = self.held.len();
        let room = PROXY_HEADER_MAX - before;
        self.held.extend_from_slice(&octets[..octets.len().min(room)]);
        match parse(&self.held)? {
            Some((length, origin)) => Ok(Taken { used: length - before, origin: Some(origin) }),
            None if self.held.len() == PROXY_HEADER_MAX => Err(Fault::TooLong),
            None => Ok(Taken { used: octets.len(), origin: None }),
        }
    }
}

/// The header at the start of `octets`, and its length; `None` while more of it is to come.
fn parse(octets: &[u8]) -> Result<Option<(usize, Origin)>, Fault> {
    let begins = |with: &[u8]| octets.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        binary(octets)
    } else if begins(LINE) {
        line(octets)
    } else {
        Err(Fault::NoHeader)
    }
}

fn line(octets: &[u8]) -> Result<Option<(usize, Origin)>, Fault> {
    let most = octets.len().min(PROXY_LINE_MAX);
    let Some(end) = octets[..most].windows(2).position(|two| two == b"\r\n") else {
        return if octets.len() >= PROXY_LINE_MAX { Err(Fault::TooLong) } else { Ok(None) };
    };
    let text = std::str::from_utf8(&octets[LINE.len()..end]).map_err(|_| Fault::Line)?;
    let mut words = text.split(' ');
    let origin = match words.next() {
        // Whatever else stands there is to be ignored.
        Some("UNKNOWN") => Origin::Balancer,
        Some("TCP4") => endpoints::<Ipv4Addr>(words)?,
        Some("TCP6") => endpoints::<Ipv6Addr>(words)?,
        _ => return Err(Fault::Line),
    };
    Ok(Some((end + 2, origin)))
}

fn endpoints<'a, A: FromStr + Into<IpAddr>>(words: impl Iterator<Item = &'a str>) -> Result<Origin, Fault> {
    let words: Vec<_> = words.collect();
    let [source, destination, source_port, destination_port] = words[..] else { return Err(Fault::Line) };
    let address = |text: &str| text.parse::<A>().map(Into::into).map_err(|_| Fault::Line);
    let port = |text| decimal(text).and_then(|port| u16::try_from(port).ok()).ok_or(Fault::Line);
    // The other end is checked and not used: a line that is wrong anywhere was not written by a balancer.
    address(destination)?;
    port(destination_port)?;
    Ok(client(address(source)?, port(source_port)?))
}

/// Digits without a leading zero.
fn decimal(text: &str) -> Option<u32> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_digit());
    let leading = text.len() > 1 && text.starts_with('0');
    (digits && !leading).then(|| text.parse().ok()).flatten()
}

fn client(address: IpAddr, port: u16) -> Origin {
    Origin::Client(SocketAddr::new(address.to_canonical(), port))
}

fn binary(octets: &[u8]) -> Result<Option<(usize, Origin)>, Fault> {
    let Some(head) = octets.first_chunk::<HEAD>() else { return Ok(None) };
    let [.., command, family, high, low] = *head;
    let length = HEAD + usize::from(u16::from_be_bytes([high, low]));
    if !matches!(command, 0x20 | 0x21) {
        return Err(Fault::Version(command));
    }
    if !matches!(family, 0x00 | 0x11 | 0x12 | 0x21 | 0x22 | 0x31 | 0x32) {
        return Err(Fault::Family(family));
    }
    if length > PROXY_HEADER_MAX {
        return Err(Fault::TooLong);
    }
    let Some(header) = octets.get(..length) else { return Ok(None) };
    let body = &header[HEAD..];
    // LOCAL: the whole block is discarded, its family too.
    if command == 0x20 {
        return Ok(Some((length, Origin::Balancer)));
    }
    let (origin, rest) = match family {
        0x11 => {
            let (block, rest) = body.split_first_chunk::<12>().ok_or(Fault::Length)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *block;
            (client(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low])), rest)
        }
        0x21 => {
            let (block, rest) = body.split_first_chunk::<36>().ok_or(Fault::Length)?;
            let source = block.first_chunk::<16>().ok_or(Fault::Length)?;
            (client(Ipv6Addr::from(*source).into(), u16::from_be_bytes([block[32], block[33]])), rest)
        }
        0x31 => (Origin::Balancer, body.get(216..).ok_or(Fault::Length)?),
        // A family the balancer cannot name: the receiver may use the connection's own address.
        0x00 => return Ok(Some((length, Origin::Balancer))),
        datagrams => return Err(Fault::Family(datagrams)),
    };
    extensions(header, rest)?;
    Ok(Some((length, origin)))
}

/// Type, length, value, one behind the other to the header's end. A checksum must be right (§2.2.3).
fn extensions(header: &[u8], mut rest: &[u8]) -> Result<(), Fault> {
    while !rest.is_empty() {
        let ([kind, high, low], after) = rest.split_first_chunk::<3>().ok_or(Fault::Length)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let value = after.get(..length).ok_or(Fault::Length)?;
        if *kind == CHECKSUM {
            let said = u32::from_be_bytes(value.try_into().map_err(|_| Fault::Length)?);
            let at = header.len() - after.len();
            // It covers the header with its own four octets at zero.
            let blank = [&header[..at], &[0; 4], &header[at + 4..]].concat();
            if crc32c(&blank) != said {
                return Err(Fault::Checksum);
            }
        }
        rest = &after[length..];
    }
    Ok(())
}

/// CRC-32C (RFC 3720 §B.4). A bit at a time: it is for headers, once a connection.
fn crc32c(octets: &[u8]) -> u32 {
    !octets.iter().fold(!0, |crc, octet| {
        (0..8).fold(crc ^ u32::from(*octet), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

/// Reads the header a balancer sends, and nothing behind it.
///
/// # Errors
/// An [`io::Error`] of the socket; of kind [`io::ErrorKind::InvalidData`] for a [`Fault`].
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Origin> {
    let mut parser = Parser::default();
    let mut octets = [0; 256];
    loop {
        // Looked at first and then taken: what belongs to TLS stays in the socket.
        let seen = stream.peek(&mut octets).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = parser
            .take(&octets[..seen])
            .map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))?;
        stream.read_exact(&mut octets[..taken.used]).await?;
        if let Some(origin) = taken.origin {
            return Ok(origin);
        }
    }
}

#[cfg(test)]
mod tests;
