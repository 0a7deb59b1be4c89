//! A handful of the same over TLS (RFC 9113, 3.2 and 9.2).

use crate::case::{
    Answered, Away, COMPRESSION, Case, FRAME_SIZE, IGNORED, MALFORMED, PROTOCOL, SERVED, case,
    connect, run_all,
};
use crate::support::{Sluice, origin};
use proxy_tests::certificates::Authority;
use proxy_tests::http2::hpack::Block;
use proxy_tests::http2::{Connection, Frame, PREFACE, Role, kind};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

fn request(method: &str) -> Block {
    Block::of(&[
        (":method", method),
        (":scheme", "https"),
        (":authority", "a.test"),
        (":path", "/"),
    ])
}

const CASES: &[Case] = &[
    case(
        "8.1: GET",
        |c| {
            c.send(Frame::headers(1, request("GET")).ending());
        },
        SERVED,
    )
    .last(),
    case(
        "6.10: HEADERS and CONTINUATION",
        |c| {
            let (first, rest) = request("GET").split(9);
            c.send(Frame::headers(1, first).ending().unfinished());
            c.send(Frame::continuation(1, rest));
        },
        SERVED,
    )
    .last(),
    case(
        "6.1: DATA of the largest size, padded",
        |c| {
            c.send(Frame::headers(1, request("POST")));
            c.send(Frame::data(1, vec![0; 16_384 - 256]).padded(255).ending());
        },
        SERVED,
    )
    .last(),
    case(
        "6.7: PING",
        |c| {
            c.send(Frame::ping([7; 8]));
        },
        IGNORED,
    )
    .last(),
    case(
        "5.5: an unknown frame",
        |c| {
            c.send(Frame::unknown(0));
        },
        IGNORED,
    )
    .last(),
    case(
        "6.7: PING of 6 octets",
        |c| {
            c.send(Frame::new(kind::PING, 0, 0, [0; 6]));
        },
        FRAME_SIZE,
    ),
    case(
        "5.1: DATA on an idle stream",
        |c| {
            c.send(Frame::data(1, *b"x"));
        },
        PROTOCOL,
    ),
    case(
        "6.1: index 0",
        |c| {
            c.send(Frame::headers(1, request("GET").indexed(0)).ending());
        },
        COMPRESSION,
    ),
    case(
        "8.2.2: connection",
        |c| {
            c.send(Frame::headers(1, request("GET").field("connection", "close")).ending());
        },
        MALFORMED,
    )
    .last(),
    case(
        "3.4: a request in place of SETTINGS",
        |c| {
            c.send_octets(PREFACE);
            c.send(Frame::headers(1, request("GET")).ending());
        },
        PROTOCOL,
    )
    .raw(),
    case(
        "3.4: HTTP/1 where HTTP/2 was agreed on",
        |c| {
            c.send_octets(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        },
        &[
            Away(proxy_tests::http2::error::PROTOCOL_ERROR),
            crate::case::Closed,
        ],
    )
    .raw(),
];

/// A listener with a certificate, and what its clients believe.
fn listener() -> (Sluice, ClientConfig) {
    let authority = Authority::new("conformance");
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = authority.issue(&["a.test"]).write(folder.path(), "a");
    let tls = format!(
        ", tls: {{certificates: [{{certificate: {}, key: {}}}]}}",
        certificate.display(),
        key.display()
    );
    let sluice = Sluice::start_in(folder, origin(), &tls, "");
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).expect("an authority");
    let config = ClientConfig::builder().with_root_certificates(roots);
    (sluice, config.with_no_client_auth())
}

fn handshake(
    address: SocketAddr,
    config: &ClientConfig,
) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from("a.test").expect("a name");
    let mut connection = ClientConnection::new(Arc::new(config.clone()), name).expect("valid");
    let mut socket = connect(address);
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).expect("a handshake");
    }
    StreamOwned::new(connection, socket)
}

#[test]
fn http_2_is_the_same_over_tls() {
    let (mut sluice, mut config) = listener();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let address = sluice.address;
    let connect = || {
        let stream = handshake(address, &config);
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
        stream
    };
    run_all("TLS", CASES, connect, || sluice.complaint());
}

/// RFC 9113, 3.2: HTTP/2 over TLS is agreed on by ALPN. Who begins it without is served as any
/// client that knows better, or refused; nothing breaks.
#[test]
fn a_preface_without_alpn_breaks_nothing() {
    let (mut sluice, config) = listener();
    let mut c = Connection::new(Role::Client, handshake(sluice.address, &config));
    c.send_octets(PREFACE);
    c.send(Frame::settings(&[]));
    c.send(Frame::headers(1, request("GET")).ending());
    let outcome = c.outcome(1, false);
    assert!(
        matches!(outcome, Answered(200) | Away(_) | crate::case::Closed),
        "{outcome:?}"
    );
    assert_eq!(sluice.complaint(), None);
}
