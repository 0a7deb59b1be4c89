use super::*;
use crate::message::h1::{HeadLimits, RequestKind};
use crate::message::{Fields, Length, Method, Name, Refusal, RequestHead, ResponseHead, Version};
use http::{HeaderMap, Request, Response};

const LIMITS: HeadLimits = HeadLimits {
    fields: 10,
    head_bytes: 1000,
    target_bytes: 20,
};

type Edit = fn(&mut http::request::Parts);

fn read(uri: &str, has_ended: bool, edit: Edit) -> Result<RequestHead, Refusal> {
    let (mut parts, ()) = Request::get(uri).body(()).expect("a request").into_parts();
    edit(&mut parts);
    let mut head = RequestHead::default();
    read_request(&parts, has_ended, &LIMITS, &mut head)?;
    Ok(head)
}

fn field(parts: &mut http::request::Parts, name: &'static str, value: &str) {
    parts.headers.append(name, value.parse().expect("a value"));
}

#[test]
fn a_request_is_read() {
    let head = read("http://A.test:80/b?c", true, |parts| {
        field(parts, "x-a", "b c");
        field(parts, "te", "trailers");
        field(parts, "trailer", "x-sum");
    });
    let head = head.expect("valid");
    assert_eq!(head.authority(), b"a.test:80");
    assert_eq!(head.host(), b"a.test");
    assert_eq!((head.path(), head.query()), (&b"/b"[..], Some(&b"c"[..])));
    assert_eq!((head.version, head.length), (Version::Http2, Length::None));
    assert!(head.accepts_trailers);
    let fields: Vec<_> = head.fields.iter().map(|f| (f.spelled, f.value)).collect();
    assert_eq!(fields, [(&b"x-a"[..], &b"b c"[..])]);
}

#[test]
fn the_length_is_what_the_field_says_or_open() {
    let of = |has_ended, edit| read("http://a/", has_ended, edit).expect("valid").length;
    assert_eq!(of(true, |_| {}), Length::None);
    assert_eq!(of(false, |_| {}), Length::Unknown);
    let with_length: Edit = |parts| field(parts, "content-length", "7");
    assert_eq!(of(false, with_length), Length::Exact(7));
}

#[test]
fn an_expectation_without_content_is_none() {
    let expecting: Edit = |parts| field(parts, "expect", "100-Continue");
    assert!(
        read("http://a/", false, expecting)
            .expect("valid")
            .expects_continue
    );
    assert!(
        !read("http://a/", true, expecting)
            .expect("valid")
            .expects_continue
    );
}

#[test]
fn cookies_become_one_field() {
    let head = read("http://a/", true, |parts| {
        for crumb in ["a=1", "b=2", "c=3"] {
            field(parts, "cookie", crumb);
        }
    });
    let head = head.expect("valid");
    let cookies: Vec<_> = head.fields.all(Name::Cookie).collect();
    assert_eq!(cookies, [b"a=1; b=2; c=3"]);
}

#[test]
fn what_would_mean_something_else_as_http_1_is_refused() {
    let long = "/".repeat(21);
    let cases: &[(&str, Edit, Refusal)] = &[
        ("/a", |_| {}, Refusal::HostMissing),
        ("http://u@a/", |_| {}, Refusal::HostInvalid),
        ("http://a,b/", |_| {}, Refusal::HostInvalid),
        (
            "http://a/",
            |p| field(p, "host", "b"),
            Refusal::HostAmbiguous,
        ),
        ("/a", |p| field(p, "host", "a/b"), Refusal::HostInvalid),
        ("ftp://a/", |_| {}, Refusal::Target),
        ("http://a/\u{e4}", |_| {}, Refusal::Target),
        (&format!("http://a{long}"), |_| {}, Refusal::TargetTooLong),
        ("http://a/", |p| field(p, "a", " b"), Refusal::FieldValue),
        ("http://a/", |p| field(p, "a", "b\t"), Refusal::FieldValue),
        (
            "http://a/",
            |p| field(p, "upgrade", "b"),
            Refusal::ForbiddenField,
        ),
        (
            "http://a/",
            |p| field(p, "connection", "b"),
            Refusal::ForbiddenField,
        ),
        (
            "http://a/",
            |p| field(p, "http2-settings", "b"),
            Refusal::ForbiddenField,
        ),
        (
            "http://a/",
            |p| field(p, "te", "gzip"),
            Refusal::ForbiddenField,
        ),
        (
            "http://a/",
            |p| field(p, "content-length", "1,1"),
            Refusal::ContentLength,
        ),
        (
            "http://a/",
            |p| field(p, "content-length", ""),
            Refusal::ContentLength,
        ),
        (
            "http://a/",
            |p| field(p, "content-length", "9223372036854775808"),
            Refusal::ContentLength,
        ),
        (
            "http://a/",
            |p| field(p, "expect", "x"),
            Refusal::Expectation,
        ),
        (
            "http://a/",
            |p| (0..11).for_each(|_| field(p, "x", "y")),
            Refusal::TooManyFields,
        ),
    ];
    for (uri, edit, refusal) in cases {
        assert_eq!(read(uri, false, *edit).err(), Some(*refusal), "{uri}");
    }
}

#[test]
fn an_asterisk_is_for_options_only() {
    let asterisk: Edit = |parts| {
        parts.uri = http::Uri::builder()
            .scheme("http")
            .authority("a")
            .path_and_query("*")
            .build()
            .expect("a URI")
    };
    assert_eq!(
        read("http://a/", true, asterisk).err(),
        Some(Refusal::Target)
    );
    let (mut parts, ()) = Request::options("http://a/")
        .body(())
        .expect("one")
        .into_parts();
    asterisk(&mut parts);
    let mut head = RequestHead::default();
    read_request(&parts, true, &LIMITS, &mut head).expect("valid");
    assert_eq!(head.target(), b"*");
}

#[test]
fn a_request_is_written_as_it_was_read() {
    let mut head = RequestHead::default();
    head.method = Method::of(b"PURGE");
    head.set_authority(b"a.test:8080");
    head.set_target(b"/b?c=<d>`");
    head.length = Length::Exact(5);
    head.expects_continue = true;
    head.accepts_trailers = true;
    head.fields.append_named(b"X-Mixed-Case", b"y");
    head.fields.append(Name::UserAgent, b"z");
    head.fields.append(Name::Upgrade, b"added by a filter");
    let request = write_request(&head).expect("valid");
    assert_eq!(request.method(), "PURGE");
    assert_eq!(
        request.uri().to_string(),
        "http://a.test:8080/b?c=%3Cd%3E%60"
    );
    let fields = request.headers();
    for (name, value) in [
        ("x-mixed-case", "y"),
        ("user-agent", "z"),
        ("content-length", "5"),
        ("expect", "100-continue"),
        ("te", "trailers"),
    ] {
        assert_eq!(
            fields.get(name).map(|v| v.as_bytes()),
            Some(value.as_bytes()),
            "{name}"
        );
    }
    assert_eq!(fields.len(), 5);
}

#[test]
fn an_upgrade_becomes_extended_connect() {
    let mut head = RequestHead::default();
    head.set_authority(b"a");
    head.set_target(b"/chat");
    head.protocol = b"websocket".to_vec();
    head.fields.append(Name::SecWebSocketKey, b"x");
    let request = write_request(&head).expect("valid");
    assert_eq!(request.method(), http::Method::CONNECT);
    assert_eq!(request.uri().path(), "/chat");
    let protocol = request
        .extensions()
        .get::<h2::ext::Protocol>()
        .expect("one");
    assert_eq!(protocol.as_str(), "websocket");
    assert!(request.headers().is_empty());
}

fn answered(
    edit: impl FnOnce(&mut http::response::Parts),
    has_ended: bool,
    to: RequestKind,
) -> Result<ResponseHead, Refusal> {
    let (mut parts, ()) = Response::new(()).into_parts();
    edit(&mut parts);
    let mut head = ResponseHead::default();
    read_response(&parts, has_ended, to, &mut head)?;
    Ok(head)
}

#[test]
fn the_length_of_a_response_depends_on_what_is_answered() {
    let length = |status: u16| {
        move |parts: &mut http::response::Parts| {
            parts.status = http::StatusCode::from_u16(status).expect("a status");
            parts.headers.insert("content-length", 5.into());
        }
    };
    let (plain, head) = (RequestKind::Plain, RequestKind::Head);
    let read = |status, to| answered(length(status), false, to).expect("valid");
    assert_eq!(read(200, plain).length, Length::Exact(5));
    assert_eq!(
        (read(200, head).length, read(200, head).described_length),
        (Length::None, Some(5))
    );
    assert_eq!(read(304, plain).described_length, Some(5));
    assert_eq!(
        (read(204, plain).length, read(204, plain).described_length),
        (Length::None, None)
    );
    let open = answered(|_| {}, false, plain).expect("valid");
    assert_eq!(open.length, Length::Unknown);
    let ended = answered(|_| {}, true, plain).expect("valid");
    assert_eq!(
        ended.length,
        Length::Exact(0),
        "or HTTP/1 clients would wait for the close"
    );
}

#[test]
fn a_response_of_no_valid_form_is_refused() {
    let switching = |parts: &mut http::response::Parts| {
        parts.status = http::StatusCode::SWITCHING_PROTOCOLS;
    };
    let refused = answered(switching, true, RequestKind::Plain).err();
    assert_eq!(refused, Some(Refusal::Upgrade));
    let differing = |parts: &mut http::response::Parts| {
        parts.headers.append("content-length", 5.into());
        parts.headers.append("content-length", 6.into());
    };
    let refused = answered(differing, true, RequestKind::Plain).err();
    assert_eq!(refused, Some(Refusal::ContentLength));
}

#[test]
fn a_switch_of_protocols_is_200_on_the_wire() {
    let mut head = ResponseHead {
        status: 101,
        protocol: b"websocket".to_vec(),
        ..ResponseHead::default()
    };
    head.fields.append(Name::SecWebSocketAccept, b"x");
    head.fields.append_named(b"Sec-WebSocket-Protocol", b"chat");
    let response = write_response(&head, RequestKind::Upgrade);
    assert_eq!(response.status(), 200);
    let names: Vec<_> = response
        .headers()
        .keys()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(names, ["sec-websocket-protocol"]);
}

#[test]
fn a_response_tells_its_length_where_it_may() {
    let mut head = ResponseHead {
        length: Length::Exact(5),
        ..ResponseHead::default()
    };
    let length = |head: &ResponseHead, to| {
        let response = write_response(head, to);
        let value = response.headers().get("content-length").cloned();
        value.map(|value| value.to_str().expect("text").to_owned())
    };
    for (status, to, described, expected) in [
        (200, RequestKind::Plain, None, Some("5")),
        (103, RequestKind::Plain, None, None),
        (204, RequestKind::Plain, None, None),
        (304, RequestKind::Plain, Some(7), Some("7")),
        (200, RequestKind::Head, Some(7), Some("7")),
        (200, RequestKind::Head, None, None),
    ] {
        head.status = status;
        head.described_length = described;
        assert_eq!(length(&head, to).as_deref(), expected, "{status} to {to:?}");
    }
}

#[test]
fn trailers_that_would_be_taken_for_fields_are_dropped() {
    let mut map = HeaderMap::new();
    for name in [
        "grpc-status",
        "x-sum",
        "content-type",
        "host",
        "x-forwarded-for",
    ] {
        map.insert(name, "0".parse().expect("a value"));
    }
    let mut fields = Fields::new();
    read_trailers(&map, &LIMITS, &mut fields).expect("few");
    let names: Vec<_> = fields.iter().map(|field| field.spelled).collect();
    assert_eq!(names, [&b"grpc-status"[..], b"x-sum"]);
    assert_eq!(write_trailers(&fields).len(), 2);
}

#[test]
fn known_names_are_written_as_themselves() {
    let mut fields = Fields::new();
    for name in Name::KNOWN.iter().filter(|name| !name.is_hop_by_hop()) {
        fields.append(*name, b"x");
    }
    let map = write_trailers(&fields);
    for field in fields.iter() {
        let spelled = String::from_utf8_lossy(field.spelled).to_lowercase();
        assert!(map.contains_key(spelled.as_str()), "{spelled}");
    }
}

#[test]
fn names_that_are_no_tokens_are_refused_wherever_they_stand() {
    let quoted = || http::HeaderName::from_lowercase(b"\"a\"").expect("taken by the crate");
    let value = || http::HeaderValue::from_static("b");
    let (mut parts, ()) = Request::get("http://a/")
        .body(())
        .expect("one")
        .into_parts();
    parts.headers.append(quoted(), value());
    let refused = read_request(&parts, true, &LIMITS, &mut RequestHead::default());
    assert_eq!(refused, Err(Refusal::FieldName));
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.headers.append(quoted(), value());
    let kind = RequestKind::Plain;
    let refused = read_response(&parts, true, kind, &mut ResponseHead::default());
    assert_eq!(refused, Err(Refusal::FieldName));
    let refused = read_trailers(&parts.headers, &LIMITS, &mut Fields::new());
    assert_eq!(refused, Err(Refusal::Trailers));
}

#[test]
fn a_request_without_a_path_is_refused() {
    let without = read("a.test:80", true, |_| {});
    assert_eq!(without.err(), Some(Refusal::PseudoField));
}
