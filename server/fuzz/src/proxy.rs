//! The PROXY protocol: what stands in front of a connection before anybody is known.

use std::net::IpAddr;

use muster_server::edge::{
    limits::PROXY_HEADER_MAX,
    proxy::{Fault, Origin, Parser},
};

/// Reads octets as a header and what follows it. The first octet says in pieces of how many octets they come:
/// however they come, they say the same.
pub fn run(octets: &[u8]) {
    let Some((piece, octets)) = octets.split_first() else { return };
    let whole = take(octets, octets.len().max(1));
    assert_eq!(take(octets, usize::from(*piece).max(1)), whole);
    let Ok(Some((length, origin))) = whole else { return };
    assert!(length <= octets.len().min(PROXY_HEADER_MAX), "{length} octets of {}", octets.len());
    // The header alone says it, and nothing that is shorter.
    assert_eq!(take(&octets[..length], length), Ok(Some((length, origin))));
    assert_eq!(take(&octets[..length - 1], length), Ok(None));
    // An IPv4 address is one, however it was written.
    if let Origin::Client(address) = origin {
        assert_eq!(address.ip(), address.ip().to_canonical());
        assert!(!matches!(address.ip(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some()));
    }
}

/// What the octets say, in pieces of at most this size, and how many of them the header has.
fn take(octets: &[u8], piece: usize) -> Result<Option<(usize, Origin)>, Fault> {
    let (mut parser, mut used) = (Parser::default(), 0);
    for piece in octets.chunks(piece) {
        let taken = parser.take(piece)?;
        assert!(taken.used <= piece.len(), "more was used than there is");
        used += taken.used;
        match taken.origin {
            Some(origin) => return Ok(Some((used, origin))),
            None => assert_eq!(taken.used, piece.len(), "what is not used is not the header's"),
        }
    }
    Ok(None)
}
