//! What clients say of whom they speak for: believed only from those who are trusted, and never
//! more than one head.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::config::model::http::Forwarded;
use proxy_fuzz::http::{forwarded, peer::Peer};
use proxy_fuzz::message::h1::{RequestOptions, parse_request, write_request};
use proxy_fuzz::message::{Name, RequestHead};
use proxy_fuzz::{WIDE, assert_one_head, sum};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

fuzz_target!(|input: &[u8]| {
    let mut head = RequestHead::default();
    if !matches!(parse_request(input, &WIDE, &mut head), Ok(Some(_))) {
        return;
    }
    let trusted = ["10.0.0.0/8", "2001:db8::/32"];
    let mut settings = Forwarded {
        x_real_ip: true,
        forwarded: true,
        via: Some("edge".to_owned()),
        ..Forwarded::default()
    };
    settings.trusted = trusted.map(|net| net.parse().expect("a net")).to_vec();
    let (address, is_trusted): (IpAddr, _) = match sum(input) % 4 {
        0 => (Ipv4Addr::new(203, 0, 113, 9).into(), false),
        1 => (Ipv6Addr::LOCALHOST.into(), false),
        2 => (Ipv4Addr::new(10, 1, 2, 3).into(), true),
        _ => (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(), true),
    };
    let server = SocketAddr::from(([192, 0, 2, 1], 80));
    let peer = Peer::new(SocketAddr::new(address, 4711), server, 1);
    let client = forwarded::real_client(&head, &settings, &peer);
    if !is_trusted {
        assert_eq!(client, address);
    }
    let mut scratch = Vec::new();
    forwarded::tell(&mut head, &settings, &peer, client, &mut scratch);
    for name in [
        Name::XForwardedFor,
        Name::XRealIp,
        Name::Forwarded,
        Name::Via,
    ] {
        assert_eq!(head.fields.all(name).count(), 1, "{name:?}");
    }
    let chain = head.fields.get(Name::XForwardedFor).expect("told");
    assert!(chain.ends_with(address.to_string().as_bytes()));
    if !is_trusted {
        assert_eq!(chain, address.to_string().as_bytes());
        assert_eq!(head.fields.get(Name::XRealIp), Some(chain));
    }
    let mut written = Vec::new();
    write_request(&head, &RequestOptions::default(), &mut written);
    assert_one_head(&written);
});
