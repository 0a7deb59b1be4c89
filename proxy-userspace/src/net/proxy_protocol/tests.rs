//! The specification's examples and limits, every truncation, and arbitrary octets.

use super::*;
use proptest::prelude::*;

fn client(client: &str, server: &str) -> Origin {
    Origin::Client {
        client: client.parse().expect("address"),
        server: server.parse().expect("address"),
        is_datagram: false,
    }
}

fn origin(input: &[u8]) -> Result<Option<Origin>, Fault> {
    Ok(parse(input)?.map(|(header, length)| {
        assert!(length <= input.len());
        header.origin
    }))
}

/// Version 2 with what stands behind the signature.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut octets = v2::SIGNATURE.to_vec();
    octets.extend([command, family]);
    octets.extend((rest.len() as u16).to_be_bytes());
    octets.extend(rest);
    octets
}

const V4: [u8; 12] = [192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 4, 1, 187];

fn v4_with(values: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&V4[..], values].concat())
}

/// A header, and all its beginnings, which only ask for more.
#[track_caller]
fn check(header: &[u8], expected: Origin) {
    for end in 0..header.len() {
        assert_eq!(parse(&header[..end]), Ok(None), "{end} octets");
    }
    for more in [&b""[..], b"GET / HTTP/1.1\r\n", b"\n", b"PROXY "] {
        let input = [header, more].concat();
        let (parsed, length) = parse(&input).expect("valid").expect("whole");
        assert_eq!((parsed.origin, length), (expected, header.len()));
    }
}

#[test]
fn lines() {
    let widest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    check(
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        client("192.168.0.1:56324", "192.168.0.11:443"),
    );
    check(
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        client("255.255.255.255:65535", "255.255.255.255:65535"),
    );
    let line = format!("PROXY TCP6 {widest} {widest} 65535 65535\r\n");
    assert_eq!(line.len(), 104);
    let address = format!("[{widest}]:65535");
    check(line.as_bytes(), client(&address, &address));
    check(
        b"PROXY TCP6 ::1 fe80::2 1 0\r\n",
        client("[::1]:1", "[fe80::2]:0"),
    );
    check(b"PROXY UNKNOWN\r\n", Origin::Unknown);
    let line = format!("PROXY UNKNOWN {widest} {widest} 65535 65535\r\n");
    assert_eq!(line.len(), 107);
    check(line.as_bytes(), Origin::Unknown);
    check(b"PROXY UNKNOWN any thing\r\n", Origin::Unknown);
}

#[test]
fn mapped_addresses_are_the_ones_that_they_stand_for() {
    check(
        b"PROXY TCP6 ::ffff:10.0.0.1 ::ffff:10.0.0.2 1 2\r\n",
        client("10.0.0.1:1", "10.0.0.2:2"),
    );
}

#[test]
fn lines_that_are_refused() {
    for line in [
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rx",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4\t1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
        "PROXY TCP4 256.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 ::1 ::2 1 2\r\n",
        "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP6 ::1%lo ::2 1 2\r\n",
        "PROXY TCP6 [::1] ::2 1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 \r\n",
        "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
        "PROXY UNKNOWN\n\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(Fault::Line), "{line:?}");
    }
    for (line, fault) in [
        (&b"PROXY\r\n"[..], Fault::Signature),
        (b"proxy TCP4 ", Fault::Signature),
        (b"GET / HTTP/1.1\r\n", Fault::Signature),
        (b"PRI * HTTP/2.0\r\n", Fault::Signature),
        (b"\x16\x03\x01", Fault::Signature),
        (b"\r\n\r\n\x01", Fault::Signature),
        (b"\0", Fault::Signature),
    ] {
        assert_eq!(parse(line), Err(fault), "{line:?}");
    }
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
    assert_eq!(parse(&endless.as_bytes()[..106]), Ok(None));
    assert_eq!(parse(&endless.as_bytes()[..107]), Err(Fault::TooLong));
    // The 107th octet is a CR whose LF would be the 108th.
    let one_more = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(one_more.len(), 108);
    assert_eq!(parse(one_more.as_bytes()), Err(Fault::TooLong));
}

#[test]
fn binary_headers() {
    let expected = client("192.168.0.1:56324", "192.168.0.11:443");
    check(&v4_with(&[]), expected);
    // Types that nobody knows are skipped.
    check(&v4_with(&[0xea, 0, 3, 1, 2, 3, 0x04, 0, 0]), expected);
    let mut v6 = [0; 36];
    (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 3, 4);
    check(&v2(0x21, 0x21, &v6), client("[::1]:3", "[::2]:4"));
    let datagram = v2(0x21, 0x22, &v6);
    let (header, _) = parse(&datagram).expect("valid").expect("whole");
    assert!(matches!(
        header.origin,
        Origin::Client {
            is_datagram: true,
            ..
        }
    ));
    check(&v2(0x21, 0x31, &[7; 216]), Origin::Unknown);
    check(&v2(0x21, 0x32, &[7; 216]), Origin::Unknown);
    check(&v2(0x21, 0x00, &[]), Origin::Unknown);
    check(&v2(0x21, 0x00, b"anything"), Origin::Unknown);
    check(&v2(0x20, 0x00, &[]), Origin::Local);
    // A local header's family and block are skipped, whatever they are.
    check(&v2(0x20, 0x99, b"anything"), Origin::Local);
    check(&v2(0x20, 0x11, &V4), Origin::Local);
}

#[test]
fn binary_headers_that_are_refused() {
    for (octets, fault) in [
        (v2(0x11, 0x11, &V4), Fault::Command),
        (v2(0x22, 0x11, &V4), Fault::Command),
        (v2(0x31, 0x11, &V4), Fault::Command),
        (v2(0x21, 0x13, &V4), Fault::Family),
        (v2(0x21, 0x41, &V4), Fault::Family),
        (v2(0x21, 0x10, &V4), Fault::Family),
        (v2(0x21, 0x01, &V4), Fault::Family),
        (v2(0x21, 0x11, &V4[..11]), Fault::Addresses),
        (v2(0x21, 0x21, &V4), Fault::Addresses),
        (v2(0x21, 0x31, &[0; 215]), Fault::Addresses),
        (v4_with(&[1]), Fault::Extensions),
        (v4_with(&[1, 0]), Fault::Extensions),
        (v4_with(&[1, 0, 1]), Fault::Extensions),
        (v4_with(&[1, 0xff, 0xff, 1]), Fault::Extensions),
        (v4_with(&[2, 0, 1, 0xff]), Fault::Extensions),
        (v4_with(&[3, 0, 3, 0, 0, 0]), Fault::Extensions),
        (v4_with(&[0x20, 0, 4, 0, 0, 0, 0]), Fault::Extensions),
        (
            v4_with(&[0x20, 0, 6, 1, 0, 0, 0, 0, 0x21]),
            Fault::Extensions,
        ),
        (v4_with(&[3, 0, 4, 0, 0, 0, 0]), Fault::Checksum),
        (
            v4_with(&[&[5, 0, 129][..], &[7; 129]].concat()),
            Fault::Extensions,
        ),
        (v2(0x21, 0x00, &[0; MAX_LENGTH - 15]), Fault::TooLong),
    ] {
        assert_eq!(parse(&octets), Err(fault), "{octets:?}");
    }
    // Refused as soon as that is known.
    assert_eq!(parse(&v2(0x22, 0x11, &V4)[..13]), Err(Fault::Command));
    assert_eq!(parse(&v2(0x21, 0x13, &V4)[..14]), Err(Fault::Family));
    assert_eq!(parse(&v2(0x21, 0x21, &V4)[..16]), Err(Fault::Addresses));
}

#[test]
fn additional_values() {
    let mut tls = vec![7, 0, 0, 0, 0];
    for (kind, value) in [(0x21, "TLSv1.3"), (0x22, "example.com"), (0x23, "AES")] {
        tls.extend([kind, 0, value.len() as u8]);
        tls.extend(value.as_bytes());
    }
    let additions = [
        Addition::Authority("example.org"),
        Addition::UniqueId(b"id"),
        Addition::Alpn(b"h2"),
        Addition::Other(0x20, &tls),
        Addition::Other(0x30, b"blue"),
        Addition::Authority("second"),
    ];
    let (from, to) = ("10.0.0.1:1".parse(), "10.0.0.2:2".parse());
    let mut out = Vec::new();
    let (from, to) = (from.expect("address"), to.expect("address"));
    write_v2(from, to, false, &additions, true, &mut out);
    let (header, length) = parse(&out).expect("valid").expect("whole");
    assert_eq!(length, out.len());
    let values = header.extensions;
    assert_eq!(values.authority(), Some("example.org"));
    assert_eq!(values.unique_id(), Some(&b"id"[..]));
    assert_eq!(values.alpn(), Some(&b"h2"[..]));
    assert_eq!(values.netns(), Some(&b"blue"[..]));
    let tls = values.tls().expect("TLS");
    assert!(tls.is_used() && tls.is_client_verified());
    assert_eq!(tls.version(), Some(&b"TLSv1.3"[..]));
    assert_eq!(tls.common_name(), Some(&b"example.com"[..]));
    assert_eq!(tls.cipher(), Some(&b"AES"[..]));
    // The checksum covers every octet. Only a change of its own type goes unseen: then there is
    // none.
    let own_type = out.len() - 7;
    for at in (16..out.len()).filter(|at| *at != own_type) {
        let mut damaged = out.clone();
        damaged[at] ^= 0x40;
        assert!(parse(&damaged).is_err(), "octet {at}");
    }
}

#[test]
fn checksum_of_the_standard_example() {
    // RFC 3720 B.4: 32 zeros; and the check value of the catalogue of CRCs.
    assert_eq!(crc::of([&[0; 32]]), 0x8a91_36aa);
    assert_eq!(crc::of([b"1234", b"56789"]), 0xe306_9283);
}

#[test]
fn additions_that_do_not_fit_are_left_out() {
    let big = vec![0; 5000];
    let additions = [
        Addition::Other(0xe0, &big),
        Addition::Other(0xe1, &big),
        Addition::UniqueId(&[7; 200]),
    ];
    let mut out = Vec::new();
    let address = "10.0.0.1:1".parse().expect("address");
    write_v2(address, address, true, &additions, true, &mut out);
    let (header, _) = parse(&out).expect("valid").expect("whole");
    assert_eq!(header.extensions.value(0xe0), Some(&big[..]));
    assert_eq!(header.extensions.value(0xe1), None);
    assert_eq!(header.extensions.unique_id(), Some(&[7; 128][..]));
}

#[test]
fn a_local_header_is_read_as_one() {
    let mut out = Vec::new();
    write_local(&mut out);
    check(&out, Origin::Local);
}

fn address() -> impl Strategy<Value = SocketAddr> {
    any::<(std::net::IpAddr, u16)>().prop_map(SocketAddr::from)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

proptest! {
    #[test]
    fn what_is_written_is_read(from in address(), to in address(), checksum: bool) {
        for version in [1, 2] {
            let mut out = b"before".to_vec();
            match version {
                1 => write_v1(from, to, &mut out),
                _ => write_v2(from, to, false, &[], checksum, &mut out),
            }
            let expected = Origin::Client {
                client: canonical(from),
                server: canonical(to),
                is_datagram: false,
            };
            prop_assert_eq!(origin(&out[6..]), Ok(Some(expected)));
        }
    }

    #[test]
    fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&octets);
        let _ = parse(&[b"PROXY ", &octets[..]].concat());
        for family in [0, 0x11, 0x21, 0x31] {
            if let Ok(Some((header, _))) = parse(&v2(0x21, family, &octets)) {
                let values = header.extensions;
                let _ = (values.authority(), values.unique_id(), values.alpn());
                let _ = values.tls().map(|tls| (tls.version(), tls.common_name()));
            }
        }
    }

    #[test]
    fn changed_headers_do_not_make_it_panic(at in 0usize..80, octet: u8, end in 0usize..80) {
        let mut header = v4_with(&[2, 0, 1, b'a', 0x20, 0, 8, 1, 0, 0, 0, 0, 0x21, 0, 0]);
        if let Some(place) = header.get_mut(at) {
            *place = octet;
        }
        let _ = parse(&header[..end.min(header.len())]);
    }
}
