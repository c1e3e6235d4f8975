use proptest::prelude::*;

use super::*;

/// Everything `octets` says, given in pieces of these sizes, over and over.
fn said(octets: &[u8], pieces: &[usize]) -> Result<Option<(usize, Origin)>, Fault> {
    let mut parser = Parser::default();
    let mut at = 0;
    for piece in pieces.iter().cycle() {
        let end = octets.len().min(at + piece);
        if at == end {
            return Ok(None);
        }
        let taken = parser.take(&octets[at..end])?;
        assert!(taken.used <= end - at, "more was used than there is");
        assert!(taken.origin.is_some() || taken.used == end - at, "what is not used is not the header's");
        at += taken.used;
        if let Some(origin) = taken.origin {
            return Ok(Some((at, origin)));
        }
    }
    Ok(None)
}

fn whole(octets: &[u8]) -> Result<Option<(usize, Origin)>, Fault> {
    said(octets, &[usize::MAX / 2])
}

fn from(address: &str) -> Origin {
    Origin::Client(address.parse().unwrap())
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family][..], &length, body].concat()
}

fn checked(mut header: Vec<u8>) -> Vec<u8> {
    let length = (header.len() as u16 - 16 + 7).to_be_bytes();
    header[14..16].copy_from_slice(&length);
    header.extend([CHECKSUM, 0, 4, 0, 0, 0, 0]);
    let sum = crc32c(&header).to_be_bytes();
    let at = header.len() - 4;
    header[at..].copy_from_slice(&sum);
    header
}

const TCP4: [u8; 12] = [203, 0, 113, 7, 10, 0, 0, 1, 0xc9, 0x42, 0x22, 0xb3];

#[test]
fn lines_of_version_1() {
    for (line, origin) in [
        ("PROXY TCP4 203.0.113.7 10.0.0.1 51522 8883\r\n", from("203.0.113.7:51522")),
        ("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", from("0.0.0.0:0")),
        ("PROXY TCP6 2001:db8::7 2001:db8::1 51522 8883\r\n", from("[2001:db8::7]:51522")),
        ("PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n", from("203.0.113.7:1")),
        ("PROXY UNKNOWN\r\n", Origin::Balancer),
        ("PROXY UNKNOWN ffff:f...f:ffff whatever it is 65535 65535\r\n", Origin::Balancer),
    ] {
        let octets = [line.as_bytes(), b"\x16\x03\x01\r\n"].concat();
        assert_eq!(whole(&octets), Ok(Some((line.len(), origin))), "{line:?}");
    }
}

#[test]
fn lines_no_balancer_writes_are_refused() {
    for line in [
        "PROXY TCP4 203.0.113.7 10.0.0.1 51522\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 51522 8883 \r\n",
        "PROXY TCP4  203.0.113.7 10.0.0.1 51522 8883\r\n",
        "PROXY TCP4 203.0.113.07 10.0.0.1 51522 8883\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 051522 8883\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 65536 8883\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 51522 -1\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 +1 8883\r\n",
        "PROXY TCP4 2001:db8::7 2001:db8::1 51522 8883\r\n",
        "PROXY TCP6 203.0.113.7 10.0.0.1 51522 8883\r\n",
        "PROXY TCP4 203.0.113.7 localhost 51522 8883\r\n",
        "PROXY UDP4 203.0.113.7 10.0.0.1 51522 8883\r\n",
        "PROXY tcp4 203.0.113.7 10.0.0.1 51522 8883\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
        "PROXY TCP4 203.0.113.7\n10.0.0.1 51522 8883\r\n",
        "PROXY TCP4 \u{fe}\r\n",
    ] {
        assert_eq!(whole(line.as_bytes()), Err(Fault::Line), "{line:?}");
    }
}

#[test]
fn what_is_no_header_is_known_by_its_first_octet_that_differs() {
    for octets in
        [&b"\x16\x03\x01"[..], b"PROXy", b"PROXYTCP4", b"\r\n\r\n\0\r\nQUIT\r", b"GET / HTTP/1.1\r\n"]
    {
        assert_eq!(whole(octets), Err(Fault::NoHeader), "{octets:?}");
    }
    for octets in [&b"P"[..], b"PROXY", b"\r", b"\r\n\r\n\0\r\nQUIT\n", b"PROXY TCP4 "] {
        assert_eq!(whole(octets), Ok(None), "{octets:?}");
    }
}

#[test]
fn a_line_ends_in_time() {
    let unknown = |more: usize| [b"PROXY UNKNOWN ", &vec![b'x'; more][..], b"\r\n"].concat();
    let longest = unknown(PROXY_LINE_MAX - 16);
    assert_eq!(longest.len(), PROXY_LINE_MAX);
    assert_eq!(whole(&longest), Ok(Some((PROXY_LINE_MAX, Origin::Balancer))));
    assert_eq!(whole(&unknown(PROXY_LINE_MAX - 15)), Err(Fault::TooLong));
    assert_eq!(said(&[b"PROXY ", &[b' '; 200][..]].concat(), &[1]), Err(Fault::TooLong));
}

#[test]
fn headers_of_version_2() {
    let tcp6: Vec<u8> = [
        &"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets()[..],
        &"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets(),
        &[0xc9, 0x42, 0x22, 0xb3],
    ]
    .concat();
    let with = |addresses: &[u8], extensions: &[u8]| [addresses, extensions].concat();
    for (header, origin) in [
        (v2(0x21, 0x11, &TCP4), from("203.0.113.7:51522")),
        (v2(0x21, 0x11, &with(&TCP4, &[4, 0, 0, 0xee, 0, 2, 9, 9])), from("203.0.113.7:51522")),
        (v2(0x21, 0x21, &tcp6), from("[2001:db8::7]:51522")),
        (checked(v2(0x21, 0x11, &TCP4)), from("203.0.113.7:51522")),
        (v2(0x21, 0x31, &[7; 216]), Origin::Balancer),
        (v2(0x21, 0x00, &[1, 2, 3]), Origin::Balancer),
        (v2(0x20, 0x00, &[]), Origin::Balancer),
        // LOCAL: what else is said does not count, well-formed or not.
        (v2(0x20, 0x11, &TCP4), Origin::Balancer),
        (v2(0x20, 0x21, &[1]), Origin::Balancer),
    ] {
        let octets = [&header[..], b"\x16\x03\x01"].concat();
        assert_eq!(whole(&octets), Ok(Some((header.len(), origin))), "{header:02x?}");
    }
}

#[test]
fn headers_of_version_2_that_are_wrong_are_refused() {
    let mut sum = checked(v2(0x21, 0x11, &TCP4));
    sum[16] ^= 1;
    let with = |extensions: &[u8]| v2(0x21, 0x11, &[&TCP4, extensions].concat());
    for (header, fault) in [
        (v2(0x11, 0x11, &TCP4), Fault::Version(0x11)),
        (v2(0x22, 0x11, &TCP4), Fault::Version(0x22)),
        (v2(0x21, 0x13, &TCP4), Fault::Family(0x13)),
        (v2(0x21, 0x41, &TCP4), Fault::Family(0x41)),
        (v2(0x20, 0x99, &[]), Fault::Family(0x99)),
        (v2(0x21, 0x12, &TCP4), Fault::Family(0x12)),
        (v2(0x21, 0x11, &TCP4[..11]), Fault::Length),
        (v2(0x21, 0x21, &[0; 35]), Fault::Length),
        (v2(0x21, 0x31, &[0; 215]), Fault::Length),
        (with(&[4]), Fault::Length),
        (with(&[4, 0]), Fault::Length),
        (with(&[4, 0, 1]), Fault::Length),
        (with(&[4, 0xff, 0xff, 1]), Fault::Length),
        (with(&[CHECKSUM, 0, 3, 1, 2, 3]), Fault::Length),
        (with(&[CHECKSUM, 0, 4, 1, 2, 3, 4]), Fault::Checksum),
        (sum, Fault::Checksum),
        (v2(0x21, 0x11, &vec![0; PROXY_HEADER_MAX - 15]), Fault::TooLong),
    ] {
        assert_eq!(whole(&header), Err(fault), "{header:02x?}");
        assert_eq!(said(&header, &[1]), Err(fault), "{header:02x?}, octet by octet");
    }
}

#[test]
fn the_checksum_is_the_one_of_rfc_3720() {
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn networks_hold_what_their_bits_say() {
    let of = |text: &str| text.parse::<Network>().unwrap();
    let holds = |network: &str, address: &str| of(network).contains(address.parse().unwrap());
    assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.1"));
    assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3"), "an IPv4 peer of an IPv6 socket");
    assert!(holds("0.0.0.0/0", "255.1.2.3") && !holds("0.0.0.0/0", "2001:db8::1"));
    assert!(holds("::/0", "2001:db8::1"));
    assert!(holds("127.0.0.1", "127.0.0.1") && !holds("127.0.0.1", "127.0.0.2"));
    assert!(holds("2001:db8::/33", "2001:db8:7fff::1") && !holds("2001:db8::/33", "2001:db8:8000::1"));
    assert_eq!(of("10.0.0.0/8").to_string(), "10.0.0.0/8");
    for text in ["", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/-1", "::/129", "localhost"] {
        assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text:?}");
    }
}

/// A header somebody could have written.
fn header() -> impl Strategy<Value = (Vec<u8>, Origin)> {
    let v1 = any::<(SocketAddr, u16)>().prop_map(|(mut source, port)| {
        if let SocketAddr::V6(v6) = &mut source {
            v6.set_scope_id(0);
            v6.set_flowinfo(0);
        }
        let (word, other) = if source.is_ipv4() { ("TCP4", "192.0.2.1") } else { ("TCP6", "2001:db8::1") };
        let line = format!("PROXY {word} {} {other} {} {port}\r\n", source.ip(), source.port());
        (line.into_bytes(), client(source.ip(), source.port()))
    });
    let extension = (4_u8.., prop::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(kind, value)| [&[kind][..], &(value.len() as u16).to_be_bytes(), &value].concat());
    let extensions = prop::collection::vec(extension, 0..6).prop_map(|all| all.concat());
    let v2 = (any::<[u8; 4]>(), any::<u16>(), extensions, any::<bool>()).prop_map(
        |(source, port, extensions, sum)| {
            let port_octets = port.to_be_bytes();
            let body = [&source[..], &[10, 0, 0, 1], &port_octets, &[0, 1], &extensions].concat();
            let header = v2(0x21, 0x11, &body);
            (if sum { checked(header) } else { header }, client(Ipv4Addr::from(source).into(), port))
        },
    );
    prop_oneof![v1, v2]
}

proptest! {
    #[test]
    fn a_header_is_read_whole_in_whatever_pieces_it_comes(
        (header, origin) in header(),
        behind in prop::collection::vec(any::<u8>(), 0..50),
        pieces in prop::collection::vec(1_usize..64, 1..8),
    ) {
        let octets = [&header[..], &behind].concat();
        prop_assert_eq!(said(&octets, &pieces), Ok(Some((header.len(), origin))));
        prop_assert_eq!(said(&header[..header.len() - 1], &pieces), Ok(None));
    }

    #[test]
    fn pieces_do_not_change_what_is_said(
        (mut octets, _) in header(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        pieces in prop::collection::vec(1_usize..64, 1..8),
    ) {
        for (at, octet) in flips {
            let at = at.index(octets.len());
            octets[at] = octet;
        }
        prop_assert_eq!(said(&octets, &pieces), whole(&octets));
    }

    #[test]
    fn octets_of_anybody_are_read_or_refused(
        start in prop_oneof![Just(&b""[..]), Just(LINE), Just(&SIGNATURE[..]), Just(&b"PROXY TCP4 "[..])],
        octets in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let octets = [start, &octets].concat();
        if let Ok(Some((used, _))) = whole(&octets) {
            prop_assert!(used <= PROXY_HEADER_MAX && used <= octets.len());
            prop_assert_eq!(whole(&octets[..used - 1]), Ok(None), "one octet less is not a header yet");
        }
    }
}
