use super::*;
use crate::message::{Length, Method, Name, Version};

fn written(head: &RequestHead, options: RequestOptions) -> String {
    let mut out = Vec::new();
    write_request(head, &options, &mut out);
    String::from_utf8(out).unwrap()
}

fn answered(head: &ResponseHead, to: RequestKind, version: Version, keep_alive: bool) -> String {
    let options = ResponseOptions {
        to,
        version,
        keep_alive,
    };
    let mut out = Vec::new();
    write_response(head, &options, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_request_is_written_in_one_form_whatever_it_came_as() {
    let (_, mut head) = request(
        b"POST http://B.test:81/x?y HTTP/1.0\r\nx-A:1\r\nHost: b.test:81\r\nContent-length: 007\r\n\
          Connection: keep-alive, TE\r\nTE: trailers;q=0.5, trailers\r\n\r\n",
    )
    .unwrap();
    assert_eq!(
        written(&head, RequestOptions::default()),
        "POST /x?y HTTP/1.1\r\nHost: b.test:81\r\nx-A: 1\r\nContent-Length: 7\r\n\
         TE: trailers\r\nConnection: TE\r\n\r\n"
    );
    head.accepts_trailers = false;
    head.expects_continue = true;
    head.length = Length::Unknown;
    head.fields.append(Name::Via, b"1.0 sluice");
    assert_eq!(
        written(&head, RequestOptions { close: true }),
        "POST /x?y HTTP/1.1\r\nHost: b.test:81\r\nx-A: 1\r\nVia: 1.0 sluice\r\n\
         Expect: 100-continue\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    );
}

#[test]
fn an_upgrade_is_written_for_http_1_whatever_it_came_as() {
    let (_, mut head) = request(
        b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    )
    .unwrap();
    let expected =
        "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    assert_eq!(written(&head, RequestOptions { close: true }), expected);
    head.method = Method::Connect;
    head.version = Version::Http2;
    assert_eq!(RequestKind::of(&head), RequestKind::Upgrade);
    assert_eq!(written(&head, RequestOptions::default()), expected);
    head.protocol.clear();
    assert_eq!(RequestKind::of(&head), RequestKind::Connect);
    assert_eq!(
        written(&head, RequestOptions::default()),
        "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n"
    );
}

#[test]
fn a_response_is_framed_as_its_reader_understands() {
    use RequestKind::{Connect, Head, Plain};
    use Version::{Http10, Http11};
    let close = "Connection: close\r\n";
    let keep = "Connection: keep-alive\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let five = "Content-Length: 5\r\n";
    let zero = "Content-Length: 0\r\n";
    for (status, length, to, version, keep_alive, fields) in [
        (200, Length::Exact(5), Plain, Http11, true, vec![five]),
        (
            200,
            Length::Exact(5),
            Plain,
            Http11,
            false,
            vec![five, close],
        ),
        (200, Length::Exact(5), Plain, Http10, true, vec![five, keep]),
        (
            200,
            Length::Exact(5),
            Plain,
            Http10,
            false,
            vec![five, close],
        ),
        (200, Length::Unknown, Plain, Http11, true, vec![chunked]),
        (200, Length::Unknown, Plain, Http10, false, vec![close]),
        (200, Length::None, Plain, Http11, true, vec![zero]),
        (200, Length::None, Head, Http11, true, vec![]),
        (200, Length::Unknown, Head, Http11, true, vec![]),
        (200, Length::None, Connect, Http11, true, vec![]),
        (204, Length::None, Plain, Http11, true, vec![]),
        (304, Length::None, Plain, Http11, true, vec![]),
        (100, Length::None, Plain, Http11, false, vec![]),
    ] {
        let head = ResponseHead {
            status,
            length,
            ..ResponseHead::default()
        };
        let expected = format!("HTTP/1.1 {status} \r\n{}\r\n", fields.concat());
        let found = answered(&head, to, version, keep_alive);
        assert_eq!(found, expected, "{status} {length:?} {to:?} {version:?}");
    }
}

#[test]
fn a_described_length_and_a_new_protocol_are_said() {
    let (_, head) = response(
        RequestKind::Head,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    )
    .unwrap();
    assert_eq!(
        answered(&head, RequestKind::Head, Version::Http11, true),
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    );
    let input =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (_, head) = response(RequestKind::Upgrade, input).unwrap();
    assert_eq!(
        answered(&head, RequestKind::Upgrade, Version::Http11, false),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    );
    let input = b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: HTTP/2.0\r\nContent-Length: 0\r\n\r\n";
    let (_, head) = response(RequestKind::Plain, input).unwrap();
    assert_eq!(
        answered(&head, RequestKind::Plain, Version::Http11, true),
        "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nUpgrade: HTTP/2.0\r\n\
         Connection: Upgrade\r\n\r\n"
    );
}

#[test]
fn sizes_are_written_without_leading_zeros() {
    for len in [1, 9, 10, 15, 16, 255, 256, 0xabc, u64::MAX] {
        let mut out = Vec::new();
        write_chunk_head(len, &mut out);
        assert_eq!(out, format!("{len:x}\r\n").into_bytes());
    }
    for length in [0, 9, 10, 12_345, u64::MAX] {
        let mut head = RequestHead::default();
        head.length = Length::Exact(length);
        let found = written(&head, RequestOptions::default());
        assert!(
            found.contains(&format!("\r\nContent-Length: {length}\r\n")),
            "{found}"
        );
    }
}
