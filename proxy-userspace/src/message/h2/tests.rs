use super::hpack::Encoder;
use super::*;
use crate::message::h1::{HeadLimits, RequestKind};
use crate::message::{Fields, Length, Method, Name, Refusal, RequestHead, ResponseHead, Version};

const LIMITS: HeadLimits = HeadLimits {
    fields: 10,
    head_bytes: 1000,
    target_bytes: 20,
};

type Pair<'f> = (&'f str, &'f [u8]);

const PLAIN: [Pair<'_>; 4] = [
    (":method", b"GET"),
    (":scheme", b"http"),
    (":authority", b"a"),
    (":path", b"/"),
];

/// A block with all names and values as they are.
fn block(fields: &[Pair<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    let mut text = |octets: &[u8]| {
        match octets.len() {
            short @ 0..127 => block.push(short as u8),
            long => block.extend([127, (long - 127) as u8 | 0x80, ((long - 127) >> 7) as u8]),
        }
        block.extend_from_slice(octets);
    };
    for (name, value) in fields {
        // A literal that is not put into the table: index 0, which the length that follows is not.
        text(b"");
        text(name.as_bytes());
        text(value);
    }
    block
}

fn read_block(block: &[u8], has_ended: bool) -> Result<RequestHead, BlockError> {
    let mut head = RequestHead::default();
    BlockReader::default().request(block, has_ended, &LIMITS, &mut head)?;
    Ok(head)
}

fn with(more: &[Pair<'_>]) -> Vec<u8> {
    block(&[&PLAIN, more].concat())
}

fn replaced(at: usize, value: &[u8]) -> Vec<u8> {
    let mut fields = PLAIN;
    fields[at].1 = value;
    block(&fields)
}

#[test]
fn a_request_is_read() {
    let fields = block(&[
        (":method", b"GET"),
        (":path", b"/b?c"),
        (":scheme", b"https"),
        (":authority", b"A.test:80"),
        ("x-a", b"b c"),
        ("te", b"trailers"),
        ("trailer", b"x-sum"),
    ]);
    let head = read_block(&fields, true).expect("valid");
    assert_eq!(head.authority(), b"a.test:80");
    assert_eq!(head.host(), b"a.test");
    assert_eq!((head.path(), head.query()), (&b"/b"[..], Some(&b"c"[..])));
    assert_eq!((head.version, head.length), (Version::Http2, Length::None));
    assert_eq!(
        head.scheme,
        crate::message::Scheme::Http,
        "as the connection is"
    );
    assert!(head.accepts_trailers);
    let fields: Vec<_> = head.fields.iter().map(|f| (f.spelled, f.value)).collect();
    assert_eq!(fields, [(&b"x-a"[..], &b"b c"[..])]);
}

#[test]
fn the_length_is_what_the_field_says_or_open() {
    let of = |block: &[u8], has_ended| read_block(block, has_ended).expect("valid").length;
    assert_eq!(of(&with(&[]), true), Length::None);
    assert_eq!(of(&with(&[]), false), Length::Unknown);
    assert_eq!(
        of(&with(&[("content-length", b"7")]), false),
        Length::Exact(7)
    );
    assert_eq!(
        of(&with(&[("content-length", b"0")]), true),
        Length::Exact(0)
    );
}

#[test]
fn an_expectation_without_content_is_none() {
    let fields = with(&[("expect", b"100-Continue")]);
    assert!(read_block(&fields, false).expect("valid").expects_continue);
    assert!(!read_block(&fields, true).expect("valid").expects_continue);
}

#[test]
fn cookies_become_one_field() {
    let mut reader = BlockReader::default();
    for (crumbs, joined) in [(1, &b"a=1"[..]), (3, b"a=1; b=2; c=3"), (0, b"")] {
        let all: [Pair<'_>; 3] = [("cookie", b"a=1"), ("cookie", b"b=2"), ("cookie", b"c=3")];
        let mut head = RequestHead::default();
        reader
            .request(&with(&all[..crumbs]), true, &LIMITS, &mut head)
            .expect("valid");
        let cookies: Vec<_> = head.fields.all(Name::Cookie).collect();
        assert_eq!(cookies.concat(), joined);
        assert_eq!(cookies.len(), crumbs.min(1));
    }
}

#[test]
fn what_would_mean_something_else_as_http_1_is_refused() {
    let long = vec![b'/'; 21];
    let cases: &[(Vec<u8>, Refusal)] = &[
        (block(&[PLAIN[0], PLAIN[1], PLAIN[3]]), Refusal::HostMissing),
        (replaced(2, b"u@a"), Refusal::HostInvalid),
        (replaced(2, b"a,b"), Refusal::HostInvalid),
        (replaced(2, b""), Refusal::HostInvalid),
        (with(&[("host", b"b")]), Refusal::HostAmbiguous),
        (with(&[("host", b"a/b")]), Refusal::HostInvalid),
        (
            with(&[("host", b"a"), ("host", b"a")]),
            Refusal::HostAmbiguous,
        ),
        (replaced(1, b"ftp"), Refusal::Target),
        (replaced(3, b"/\xe4"), Refusal::Target),
        (replaced(3, b"/ b"), Refusal::Target),
        (replaced(3, b"b"), Refusal::Target),
        (replaced(3, b"*"), Refusal::Target),
        (replaced(3, &long), Refusal::TargetTooLong),
        (replaced(0, &[b'A'; 33]), Refusal::Method),
        (with(&[("a", b" b")]), Refusal::FieldValue),
        (with(&[("a", b"b\t")]), Refusal::FieldValue),
        (with(&[("http2-settings", b"b")]), Refusal::ForbiddenField),
        (with(&[("content-length", b"1,1")]), Refusal::ContentLength),
        (with(&[("content-length", b"")]), Refusal::ContentLength),
        (
            with(&[("content-length", b"9223372036854775808")]),
            Refusal::ContentLength,
        ),
        (
            with(&[("content-length", b"1"), ("content-length", b"1")]),
            Refusal::ContentLength,
        ),
        (with(&[("expect", b"x")]), Refusal::Expectation),
        (with(&[("x", &b"y"[..]); 11]), Refusal::TooManyFields),
        (with(&[("x", &[b'y'; 900])]), Refusal::HeadTooLong),
    ];
    for (block, refusal) in cases {
        let read = read_block(block, false).err();
        assert_eq!(
            read,
            Some(BlockError::Refused(*refusal)),
            "{}",
            block.escape_ascii()
        );
    }
}

#[test]
fn what_the_standard_calls_malformed_is() {
    let connect = |path: &[Pair<'_>]| {
        block(
            &[
                &[(":method", &b"CONNECT"[..]), (":authority", b"a:443")],
                path,
            ]
            .concat(),
        )
    };
    let cases: &[Vec<u8>] = &[
        with(&[("connection", b"x")]),
        with(&[("keep-alive", b"x")]),
        with(&[("proxy-connection", b"x")]),
        with(&[("transfer-encoding", b"chunked")]),
        with(&[("upgrade", b"x")]),
        with(&[("te", b"gzip")]),
        with(&[("X-A", b"x")]),
        with(&[("Content-type", b"x")]),
        with(&[("a b", b"x")]),
        with(&[("\"a\"", b"x")]),
        with(&[("", b"x")]),
        with(&[("a", b"x\r\nb: c")]),
        with(&[("a", b"x\0")]),
        with(&[("a", b"b"), (":path", b"/b")]),
        with(&[(":foo", b"b")]),
        with(&[(":status", b"200")]),
        with(&[(":path", b"/b")]),
        with(&[(":method", b"GET")]),
        with(&[(":protocol", b"websocket")]),
        block(&PLAIN[1..]),
        block(&[PLAIN[0], PLAIN[2], PLAIN[3]]),
        block(&PLAIN[..3]),
        replaced(0, b""),
        replaced(0, b"GET /"),
        replaced(3, b""),
        connect(&[(":path", b"/")]),
        connect(&[(":scheme", b"http")]),
    ];
    for block in cases {
        let read = read_block(block, false).err();
        assert_eq!(
            read,
            Some(BlockError::Malformed),
            "{}",
            block.escape_ascii()
        );
    }
    let too_short = read_block(&with(&[("content-length", b"5")]), true).err();
    assert_eq!(too_short, Some(BlockError::Malformed));
    assert!(read_block(&connect(&[]), false).is_ok());
}

#[test]
fn a_block_that_is_refused_leaves_the_tables_as_they_must_be() {
    let mut reader = BlockReader::default();
    let mut head = RequestHead::default();
    // A late pseudo-field, and behind it a field that goes into the table.
    let mut bad = with(&[("a", b"b"), (":path", b"/")]);
    bad.extend(b"\x40\x01x\x01y");
    let read = reader.request(&bad, true, &LIMITS, &mut head);
    assert_eq!(read, Err(BlockError::Malformed));
    let mut good = with(&[]);
    good.push(0x80 | 62);
    reader
        .request(&good, true, &LIMITS, &mut head)
        .expect("valid");
    assert_eq!(head.fields.get_named(b"x"), Some(&b"y"[..]));
    let cut = reader.request(&good[..good.len() - 2], true, &LIMITS, &mut head);
    assert_eq!(cut, Err(BlockError::Compression));
}

#[test]
fn an_asterisk_is_for_options_only() {
    let mut fields = PLAIN;
    (fields[0].1, fields[3].1) = (b"OPTIONS", b"*");
    assert_eq!(
        read_block(&block(&fields), true).expect("valid").target(),
        b"*"
    );
}

fn written(head: &RequestHead) -> (Vec<(String, String)>, Vec<u8>) {
    let mut out = Vec::new();
    encode_request(head, &mut Encoder::default(), &mut out);
    (fields_of(&out), out)
}

fn fields_of(block: &[u8]) -> Vec<(String, String)> {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let mut fields = Vec::new();
    let decoded = super::hpack::Decoder::default().decode(block, |field| {
        fields.push((text(field.spelled), text(field.value)));
    });
    decoded.expect("valid");
    fields
}

fn assert_fields(fields: &[(String, String)], expected: &[(&str, &str)]) {
    let fields: Vec<_> = fields
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    assert_eq!(fields, expected);
}

#[test]
fn a_request_is_written_as_it_was_read() {
    let mut head = RequestHead::default();
    head.method = Method::of(b"PURGE");
    head.set_authority(b"a.test:8080");
    head.set_target(b"/b?c=<d>`");
    head.length = Length::Exact(50);
    head.expects_continue = true;
    head.accepts_trailers = true;
    head.fields.append_named(b"X-Mixed-Case", b"y");
    head.fields.append(Name::UserAgent, b"z");
    head.fields.append(Name::Upgrade, b"added by a filter");
    let (fields, block) = written(&head);
    assert_fields(
        &fields,
        &[
            (":method", "PURGE"),
            (":scheme", "http"),
            (":path", "/b?c=%3Cd%3E%60"),
            (":authority", "a.test:8080"),
            ("x-mixed-case", "y"),
            ("user-agent", "z"),
            ("content-length", "50"),
            ("expect", "100-continue"),
            ("te", "trailers"),
        ],
    );
    let read = read_block(&block, false).expect("valid");
    assert_eq!((read.method, read.length), (head.method, head.length));
    assert!(read.expects_continue && read.accepts_trailers);
}

#[test]
fn an_upgrade_becomes_extended_connect() {
    let mut head = RequestHead::default();
    head.set_authority(b"a");
    head.set_target(b"/chat");
    head.protocol = b"websocket".to_vec();
    head.fields.append(Name::SecWebSocketKey, b"x");
    let (fields, block) = written(&head);
    assert_fields(
        &fields,
        &[
            (":method", "CONNECT"),
            (":scheme", "http"),
            (":path", "/chat"),
            (":authority", "a"),
            (":protocol", "websocket"),
        ],
    );
    let read = read_block(&block, false).expect("valid");
    assert_eq!(
        (read.method, &read.protocol[..]),
        (Method::Connect, &b"websocket"[..])
    );
    assert_eq!(read.length, Length::None);
}

fn answered(
    fields: &[Pair<'_>],
    has_ended: bool,
    to: RequestKind,
) -> Result<ResponseHead, BlockError> {
    let mut head = ResponseHead::default();
    BlockReader::default().response(&block(fields), has_ended, to, &LIMITS, &mut head)?;
    Ok(head)
}

#[test]
fn the_length_of_a_response_depends_on_what_is_answered() {
    let (plain, head) = (RequestKind::Plain, RequestKind::Head);
    let read = |status: &[u8], to| {
        let fields = [(":status", status), ("content-length", b"5")];
        let head = answered(&fields, false, to).expect("valid");
        (head.length, head.described_length)
    };
    assert_eq!(read(b"200", plain), (Length::Exact(5), None));
    assert_eq!(read(b"200", head), (Length::None, Some(5)));
    assert_eq!(read(b"304", plain), (Length::None, Some(5)));
    assert_eq!(read(b"204", plain), (Length::None, None));
    let open = answered(&[(":status", b"200")], false, plain).expect("valid");
    assert_eq!(open.length, Length::Unknown);
    let ended = answered(&[(":status", b"200")], true, plain).expect("valid");
    assert_eq!(
        ended.length,
        Length::Exact(0),
        "or HTTP/1 clients would wait for the close"
    );
}

#[test]
fn a_response_of_no_valid_form_is_refused() {
    const OK: Pair<'_> = (":status", b"200");
    for (fields, has_ended, error) in [
        (
            &[(":status", &b"101"[..])][..],
            true,
            BlockError::Refused(Refusal::Upgrade),
        ),
        (
            &[OK, ("content-length", b"5"), ("content-length", b"6")],
            false,
            BlockError::Refused(Refusal::ContentLength),
        ),
        (
            &[OK, ("content-length", b"5")],
            true,
            BlockError::Refused(Refusal::LengthMismatch),
        ),
        (&[], false, BlockError::Malformed),
        (&[OK, OK], false, BlockError::Malformed),
        (&[("a", b"b"), OK], false, BlockError::Malformed),
        (&[(":status", b"20")], false, BlockError::Malformed),
        (&[(":status", b"099")], false, BlockError::Malformed),
        (&[(":status", b"2000")], false, BlockError::Malformed),
        (&[(":status", b"103")], true, BlockError::Malformed),
        (&[OK, (":path", b"/")], false, BlockError::Malformed),
        (
            &[OK, ("connection", b"close")],
            false,
            BlockError::Malformed,
        ),
        (&[OK, ("a", b"b\nc")], false, BlockError::Malformed),
        (&[OK, ("\"a\"", b"b")], false, BlockError::Malformed),
    ] {
        let read = answered(fields, has_ended, RequestKind::Plain).err();
        assert_eq!(read, Some(error), "{fields:?}");
    }
    let blanks = answered(&[OK, ("a", b" b\t")], true, RequestKind::Plain).expect("valid");
    assert_eq!(blanks.fields.get_named(b"a"), Some(&b"b"[..]));
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
    let mut out = Vec::new();
    encode_response(
        &head,
        RequestKind::Upgrade,
        &mut Encoder::default(),
        &mut out,
    );
    let expected = [(":status", "200"), ("sec-websocket-protocol", "chat")];
    assert_fields(&fields_of(&out), &expected);
}

#[test]
fn a_response_tells_its_length_where_it_may() {
    let mut head = ResponseHead {
        length: Length::Exact(5),
        ..ResponseHead::default()
    };
    for (status, to, described, expected) in [
        (200, RequestKind::Plain, None, Some("5")),
        (103, RequestKind::Plain, None, None),
        (204, RequestKind::Plain, None, None),
        (304, RequestKind::Plain, Some(7), Some("7")),
        (
            200,
            RequestKind::Head,
            Some(u64::MAX),
            Some("18446744073709551615"),
        ),
        (200, RequestKind::Head, None, None),
    ] {
        head.status = status;
        head.described_length = described;
        let mut out = Vec::new();
        encode_response(&head, to, &mut Encoder::default(), &mut out);
        let fields = fields_of(&out);
        assert_eq!(fields[0].1, status.to_string());
        let length = fields.get(1).map(|(_, value)| value.as_str());
        assert_eq!(length, expected, "{status} to {to:?}");
    }
}

fn trailers(fields: &[Pair<'_>]) -> Result<Fields, BlockError> {
    let mut read = Fields::new();
    BlockReader::default().trailers(&block(fields), &LIMITS, &mut read)?;
    Ok(read)
}

#[test]
fn trailers_that_would_be_taken_for_fields_are_dropped() {
    let fields = [
        "grpc-status",
        "x-sum",
        "content-type",
        "host",
        "x-forwarded-for",
    ];
    let fields = trailers(&fields.map(|name| (name, &b"0"[..]))).expect("few");
    let names: Vec<_> = fields.iter().map(|field| field.spelled).collect();
    assert_eq!(names, [&b"grpc-status"[..], b"x-sum"]);
    let mut out = Vec::new();
    encode_trailers(&fields, &mut Encoder::default(), &mut out);
    assert_fields(&fields_of(&out), &[("grpc-status", "0"), ("x-sum", "0")]);
}

#[test]
fn trailers_of_no_valid_form_are_refused() {
    for fields in [
        &[(":path", &b"/"[..])][..],
        &[("a b", b"")],
        &[("connection", b"x")],
    ] {
        assert_eq!(
            trailers(fields).err(),
            Some(BlockError::Malformed),
            "{fields:?}"
        );
    }
    let many = trailers(&[("x", &b"y"[..]); 11]).err();
    assert_eq!(many, Some(BlockError::Refused(Refusal::Trailers)));
}

#[test]
fn known_names_are_written_as_themselves() {
    let mut fields = Fields::new();
    for name in Name::KNOWN.iter().filter(|name| !name.is_hop_by_hop()) {
        fields.append(*name, b"x");
    }
    let mut encoder = Encoder::default();
    let mut decoder = super::hpack::Decoder::default();
    for _ in 0..3 {
        let mut out = Vec::new();
        encode_trailers(&fields, &mut encoder, &mut out);
        let mut read = Vec::new();
        decoder
            .decode(&out, |field| read.push(field.spelled.to_vec()))
            .expect("valid");
        let expected = fields
            .iter()
            .map(|field| field.spelled.to_ascii_lowercase());
        assert!(read.iter().eq(expected.collect::<Vec<_>>().iter()));
    }
}
