use super::*;
use crate::config::model::http::CompressionLevel;
use std::io::Read as _;

fn filter() -> Compress {
    Compress {
        by_listener: vec![("web".to_owned(), Compression::default())],
    }
}

fn context() -> RequestContext<'static> {
    RequestContext {
        listener: "web",
        client: std::net::Ipv4Addr::LOCALHOST.into(),
        random: 0,
    }
}

fn response(length: Length, fields: &[(&str, &str)]) -> ResponseHead {
    let mut head = ResponseHead {
        status: 200,
        length,
        ..ResponseHead::default()
    };
    for (name, value) in fields {
        head.fields.append_named(name.as_bytes(), value.as_bytes());
    }
    head
}

/// The head of a response to a client with this wish, and what becomes of its content.
fn answer(method: Method, accept: &str, mut head: ResponseHead) -> (ResponseHead, Content, Chosen) {
    let filter = filter();
    let mut request = RequestHead::default();
    request.method = method;
    request
        .fields
        .append(Name::AcceptEncoding, accept.as_bytes());
    let mut chosen = Chosen::default();
    let flow = filter.request_head(&mut chosen, &mut request, &context());
    assert!(matches!(flow, Flow::Continue));
    let content = filter.response_head(&mut chosen, &mut head);
    (head, content, chosen)
}

fn field(head: &ResponseHead, name: &str) -> Option<String> {
    let value = head.fields.get_named(name.as_bytes())?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn text(length: Length) -> ResponseHead {
    response(length, &[("Content-Type", "text/html; charset=utf-8")])
}

#[test]
fn the_coding_that_the_client_likes_best_is_used() {
    for (accept, coding) in [
        ("gzip", Some("gzip")),
        ("gzip, br", Some("br")),
        ("gzip, deflate, br, zstd", Some("zstd")),
        ("gzip;q=1, zstd;q=0.5", Some("gzip")),
        ("*", Some("zstd")),
        ("gzip;q=0", None),
        ("deflate", None),
        ("identity, gzip;q=0.5", None),
    ] {
        let (head, content, _) = answer(Method::Get, accept, text(Length::Exact(5000)));
        assert_eq!(
            field(&head, "Content-Encoding").as_deref(),
            coding,
            "{accept}"
        );
        assert_eq!(content == Content::Filter, coding.is_some(), "{accept}");
        let length = if coding.is_some() {
            Length::Unknown
        } else {
            Length::Exact(5000)
        };
        assert_eq!(head.length, length, "{accept}");
        assert_eq!(
            field(&head, "Vary").as_deref(),
            Some("Accept-Encoding"),
            "{accept}"
        );
    }
}

#[test]
fn what_must_not_or_need_not_be_compressed_stays() {
    let html = ("Content-Type", "text/html");
    let stay = [
        response(Length::Exact(5000), &[]),
        response(Length::Exact(5000), &[("Content-Type", "image/png")]),
        response(Length::Exact(1023), &[html]),
        response(Length::None, &[html]),
        response(
            Length::Exact(5000),
            &[html, ("Content-Encoding", "identity")],
        ),
        response(
            Length::Exact(5000),
            &[html, ("Content-Range", "bytes 0-1/9")],
        ),
        response(
            Length::Exact(5000),
            &[html, ("Cache-Control", "max-age=1, No-Transform")],
        ),
        ResponseHead {
            status: 206,
            ..text(Length::Exact(5000))
        },
        ResponseHead {
            status: 304,
            ..text(Length::None)
        },
    ];
    for before in stay {
        let (head, content, _) = answer(Method::Get, "gzip", before.clone());
        assert_eq!(content, Content::Pass, "{before:?}");
        assert_eq!(head.length, before.length);
        assert_eq!(field(&head, "Vary"), None, "{before:?}");
        assert_eq!(
            field(&head, "Content-Encoding"),
            field(&before, "Content-Encoding")
        );
    }
}

#[test]
fn the_head_says_what_the_compressed_form_is() {
    let before = response(
        Length::Unknown,
        &[
            ("Content-Type", "Application/JSON"),
            ("ETag", "\"abc\""),
            ("Accept-Ranges", "bytes"),
            ("Content-Digest", "sha-256=:x:"),
            ("Vary", "Origin"),
        ],
    );
    let (head, content, _) = answer(Method::Get, "br", before);
    assert_eq!(content, Content::Filter);
    assert_eq!(field(&head, "ETag").as_deref(), Some("W/\"abc\""));
    assert_eq!(field(&head, "Accept-Ranges"), None);
    assert_eq!(field(&head, "Content-Digest"), None);
    let vary: Vec<_> = head.fields.all(Name::Vary).collect();
    assert_eq!(vary, [&b"Origin"[..], b"Accept-Encoding"]);
    // A weak tag stays, and `Vary` is not said twice.
    let again = response(
        Length::Unknown,
        &[
            ("Content-Type", "text/css"),
            ("ETag", "W/\"abc\""),
            ("Vary", "origin, accept-encoding"),
        ],
    );
    let (head, ..) = answer(Method::Get, "br", again);
    assert_eq!(field(&head, "ETag").as_deref(), Some("W/\"abc\""));
    assert_eq!(head.fields.all(Name::Vary).count(), 1);
}

#[test]
fn an_answer_to_head_says_the_same_and_has_no_content() {
    let before = ResponseHead {
        described_length: Some(5000),
        ..text(Length::None)
    };
    let (head, content, _) = answer(Method::Head, "gzip", before);
    assert_eq!(content, Content::Pass);
    assert_eq!(field(&head, "Content-Encoding").as_deref(), Some("gzip"));
    assert_eq!(head.described_length, None);
}

fn decoded(coding: &str, octets: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match coding {
        "gzip" => flate2::read::GzDecoder::new(octets).read_to_end(&mut plain),
        "br" => brotli::Decompressor::new(octets, 4096).read_to_end(&mut plain),
        _ => zstd::stream::read::Decoder::new(octets)
            .expect("a decoder")
            .read_to_end(&mut plain),
    }
    .expect("decodes");
    plain
}

#[test]
fn what_is_compressed_can_be_read_again_at_any_level_in_any_pieces() {
    let line = b"the same words again and again, and some others: ";
    let plain: Vec<u8> = (0..20_000_u32)
        .flat_map(|number| [line[number as usize % line.len()], (number >> 8) as u8])
        .collect();
    for accept in ["gzip", "br", "zstd"] {
        for level in [
            CompressionLevel::Fast,
            CompressionLevel::Balanced,
            CompressionLevel::Best,
        ] {
            for size in [1, 100, 40_000] {
                let (_, _, mut chosen) = answer(Method::Get, accept, text(Length::Unknown));
                chosen.encoder = Encoder::new(chosen.coding.expect("one"), level).map(Box::new);
                let mut out = Vec::new();
                for piece in plain.chunks(size) {
                    filter().response_content(&mut chosen, Piece::Octets(piece), &mut out);
                }
                filter().response_content(&mut chosen, Piece::End, &mut out);
                assert!(
                    out.len() < plain.len() / 3,
                    "{accept} {level:?} {}",
                    out.len()
                );
                assert_eq!(decoded(accept, &out), plain, "{accept} {level:?} {size}");
                assert!(chosen.encoder.is_none(), "its memory is free again");
            }
        }
    }
}

#[test]
fn a_pause_brings_out_what_was_taken() {
    for accept in ["gzip", "br", "zstd"] {
        let (_, _, mut chosen) = answer(Method::Get, accept, text(Length::Unknown));
        let mut out = Vec::new();
        filter().response_content(&mut chosen, Piece::Octets(b"an event"), &mut out);
        filter().response_content(&mut chosen, Piece::Pause, &mut out);
        let mut plain = [0; 8];
        let mut flushed: Box<dyn std::io::Read> = match accept {
            "gzip" => Box::new(flate2::read::GzDecoder::new(&out[..])),
            "br" => Box::new(brotli::Decompressor::new(&out[..], 16)),
            _ => Box::new(zstd::stream::read::Decoder::new(&out[..]).expect("a decoder")),
        };
        flushed.read_exact(&mut plain).expect("is there");
        assert_eq!(&plain, b"an event", "{accept}");
    }
}

#[test]
fn types_are_compared_without_case_and_parameters() {
    let settings = Compression {
        types: vec!["text/*".to_owned(), "application/json".to_owned()],
        ..Compression::default()
    };
    for (value, is_type) in [
        ("text/html", true),
        ("TEXT/plain;charset=x", true),
        ("application/json ; a=b", true),
        ("application/json-seq", false),
        ("text", false),
        ("", false),
    ] {
        assert_eq!(
            super::is_type(&settings, value.as_bytes()),
            is_type,
            "{value}"
        );
    }
}

#[test]
fn each_listener_of_a_route_has_its_own_settings() {
    use crate::config::model::http::{Action, HttpListener};
    let listener = |name: &str, compression| {
        let mut listener = HttpListener::new(name, (std::net::Ipv4Addr::LOCALHOST, 0).into());
        listener.compression = compression;
        listener
    };
    let config = Config {
        http_listeners: vec![
            listener("plain", None),
            listener("web", Some(Compression::default())),
        ],
        ..Config::default()
    };
    let mut route = Route::catch_all("all", "web", Action::service("app"));
    route.listeners.push("plain".to_owned());
    let filter = Compress::of_route(&route, &config).expect("one of them asks for it");
    for (name, is_compressed) in [("plain", false), ("web", true)] {
        let mut request = RequestHead::default();
        request.fields.append(Name::AcceptEncoding, b"gzip");
        let context = RequestContext {
            listener: name,
            ..context()
        };
        let mut chosen = Chosen::default();
        filter.request_head(&mut chosen, &mut request, &context);
        let content = filter.response_head(&mut chosen, &mut text(Length::Unknown));
        assert_eq!(content == Content::Filter, is_compressed, "{name}");
    }
    route.compression = Some(Compression {
        codings: Vec::new(),
        ..Compression::default()
    });
    assert!(
        Compress::of_route(&route, &config).is_none(),
        "the route has the last word"
    );
}
