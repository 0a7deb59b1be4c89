//! Properties that hold for any input: readers do not care in which pieces it comes, and what is
//! written is read as what it was.

use super::chunks::decode;
use super::*;
use crate::message::{Length, Method, Version};
use proptest::prelude::*;

/// Octets that come near the grammar, so that most of it is reached.
fn near(words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        12 => prop::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
        1 => prop::sample::select(&b"\r\n\t \0:;,=\"\\"[..]).prop_map(|octet| vec![octet]),
    ];
    prop::collection::vec(word, 0..24).prop_map(|words| words.concat())
}

fn requests() -> impl Strategy<Value = Vec<u8>> {
    const BEGINS: &[&str] = &[
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST http://a.test/x HTTP/1.1\r\n",
        "CONNECT a:1 HTTP/1.0\r\n",
        "\r\nOPTIONS * HTTP/1.1\r\n",
        "",
    ];
    const WORDS: &[&str] = &[
        "GET ",
        "/",
        "http://a.test",
        " ",
        "HTTP/1.1",
        "HTTP/1.0",
        "\r\n",
        "\r\n\r\n",
        "Host: a.test\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Connection: close, x\r\n",
        "Connection: upgrade\r\n",
        "Upgrade: websocket\r\n",
        "X: y\r\n",
        "Expect: 100-continue\r\n",
        "TE: trailers\r\n",
        "x",
        ": ",
        "\t",
        "x-long: ",
        "0123456789012345678901234567890123456789",
    ];
    (prop::sample::select(BEGINS), near(WORDS))
        .prop_map(|(begin, rest)| [begin.as_bytes(), &rest].concat())
}

fn responses() -> impl Strategy<Value = Vec<u8>> {
    const BEGINS: &[&str] = &[
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 204\r\n",
        "HTTP/1.1 101 X\r\n",
        "HTTP/1.1 100 Continue\r\n",
        "",
    ];
    const WORDS: &[&str] = &[
        "HTTP/1.1",
        " ",
        "200",
        "304",
        "OK",
        "\r\n",
        "\r\n\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 6, 6\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close, x\r\n",
        "Connection: upgrade\r\n",
        "Upgrade: websocket\r\n",
        "X: y\r\n",
        "x",
        ": ",
    ];
    (prop::sample::select(BEGINS), near(WORDS))
        .prop_map(|(begin, rest)| [begin.as_bytes(), &rest].concat())
}

fn chunks() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: &[&str] = &[
        "5\r\nhello\r\n",
        "1\r\nx\r\n",
        "0\r\n\r\n",
        "0\r\n",
        "A: b\r\n",
        "Host: b\r\n",
        "\r\n",
        ";a=b",
        ";a=\"b\"",
        "f",
        "3",
        "10\r\n0123456789abcdef\r\n",
    ];
    near(WORDS)
}

/// The ends of pieces, as parts of a length.
fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..6)
}

/// The lengths of the beginnings that a reader sees, one after the other.
fn beginnings(len: usize, cuts: &[prop::sample::Index]) -> Vec<usize> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(len + 1)).collect();
    ends.push(len);
    ends.sort_unstable();
    ends
}

const TIGHT: HeadLimits = HeadLimits {
    fields: 6,
    head_bytes: 160,
    target_bytes: 40,
};

fn by_pieces<T>(
    input: &[u8],
    ends: &[usize],
    mut parse: impl FnMut(&[u8]) -> Result<Option<T>, Refusal>,
) -> Result<Option<T>, Refusal> {
    for &end in ends {
        match parse(&input[..end]) {
            Ok(None) => {}
            done => return done,
        }
    }
    Ok(None)
}

fn shown(head: &RequestHead) -> String {
    let fields = lines(&head.fields);
    let mut plain = head.clone();
    plain.fields.clear();
    format!("{plain:?} {fields:?}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_in_pieces_is_read_as_in_one(input in requests(), cuts in cuts()) {
        for limits in [LIMITS, TIGHT] {
            let mut head = RequestHead::default();
            let whole = parse_request(&input, &limits, &mut head);
            let mut ends = beginnings(input.len(), &cuts);
            for _ in 0..2 {
                let mut pieces_head = RequestHead::default();
                let mut parser = RequestParser::default();
                let pieces = by_pieces(&input, &ends, |piece| parser.parse(piece, &limits, &mut pieces_head));
                prop_assert_eq!(whole, pieces);
                if whole.is_ok_and(|meta| meta.is_some()) {
                    prop_assert_eq!(shown(&head), shown(&pieces_head));
                }
                ends = (0..=input.len()).collect();
            }
        }
    }

    #[test]
    fn a_response_in_pieces_is_read_as_in_one(input in responses(), cuts in cuts(), kind in 0..4_usize) {
        let to = [RequestKind::Plain, RequestKind::Head, RequestKind::Connect, RequestKind::Upgrade][kind];
        for limits in [LIMITS, TIGHT] {
            let mut head = ResponseHead::default();
            let whole = parse_response(&input, &limits, to, &mut head);
            let mut ends = beginnings(input.len(), &cuts);
            for _ in 0..2 {
                let mut pieces_head = ResponseHead::default();
                let mut parser = ResponseParser::default();
                let pieces = by_pieces(&input, &ends, |piece| parser.parse(piece, &limits, to, &mut pieces_head));
                prop_assert_eq!(whole, pieces);
                if whole.is_ok_and(|meta| meta.is_some()) {
                    prop_assert_eq!(lines(&head.fields), lines(&pieces_head.fields));
                    prop_assert_eq!((head.status, head.length), (pieces_head.status, pieces_head.length));
                }
                ends = (0..=input.len()).collect();
            }
        }
    }

    #[test]
    fn chunks_in_pieces_are_read_as_in_one(input in chunks(), cuts in cuts()) {
        let whole = decode(&input, &mut ChunkDecoder::new());
        for ends in [beginnings(input.len(), &cuts), (0..=input.len()).collect()] {
            let mut decoder = ChunkDecoder::new();
            let (mut at, mut content, mut found) = (0, Vec::new(), Ok(None));
            'input: for end in ends {
                loop {
                    match decoder.next(&input[at..end], &LIMITS) {
                        Err(refusal) => {
                            found = Err(refusal);
                            break 'input;
                        }
                        Ok(ChunkStep::Data { skip, len }) => {
                            content.extend_from_slice(&input[at + skip..at + skip + len]);
                            at += skip + len;
                        }
                        Ok(ChunkStep::NeedMore { consumed }) => {
                            at += consumed;
                            break;
                        }
                        Ok(ChunkStep::End { consumed }) => {
                            let rest = input.len() - at - consumed;
                            found = Ok(Some((content, lines(decoder.trailers()), rest)));
                            break 'input;
                        }
                    }
                }
            }
            prop_assert_eq!(&whole, &found);
        }
    }

    #[test]
    fn random_octets_are_no_reason_to_panic(input in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_request(&input, &LIMITS, &mut RequestHead::default());
        let _ = parse_response(&input, &LIMITS, RequestKind::Plain, &mut ResponseHead::default());
        let _ = decode(&input, &mut ChunkDecoder::new());
    }

    #[test]
    fn what_is_read_and_written_is_read_as_the_same(input in requests()) {
        let mut head = RequestHead::default();
        if let Ok(Some(meta)) = parse_request(&input, &LIMITS, &mut head) && !head.authority().is_empty() {
            let mut out = Vec::new();
            write_request(&head, &RequestOptions { close: !meta.keep_alive }, &mut out);
            let wide = HeadLimits { fields: 64, head_bytes: 8192, target_bytes: 8192 };
            let mut again = RequestHead::default();
            let read = parse_request(&out, &wide, &mut again).unwrap().unwrap();
            prop_assert_eq!(read.consumed, out.len());
            prop_assert_eq!(read.framing, meta.framing);
            again.version = head.version;
            prop_assert_eq!(shown(&head), shown(&again));
        }
    }

    #[test]
    fn a_head_that_is_made_is_read_as_the_same(
        target in "/[!-\"$-~]{0,40}",
        host in "[a-z0-9.-]{1,20}(:[1-9][0-9]{0,3})?",
        fields in prop::collection::vec(("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", "[!-~]([ -~\u{80}-\u{ff}]{0,8}[!-~])?"), 0..8),
        length in prop_oneof![Just(Length::None), Just(Length::Unknown), (0..=i64::MAX as u64).prop_map(Length::Exact)],
    ) {
        let mut head = RequestHead::default();
        head.method = Method::Put;
        head.set_authority(host.as_bytes());
        head.set_target(target.as_bytes());
        head.length = length;
        for (name, value) in &fields {
            head.fields.append_named(name.as_bytes(), value.as_bytes());
        }
        // Names with a meaning of their own are not among an unread head's fields.
        prop_assume!(head.fields.iter().all(|field| field.name == crate::message::Name::Other));
        let mut out = Vec::new();
        write_request(&head, &RequestOptions::default(), &mut out);
        let wide = HeadLimits { fields: 64, head_bytes: 8192, target_bytes: 8192 };
        let mut again = RequestHead::default();
        let meta = parse_request(&out, &wide, &mut again).unwrap().unwrap();
        prop_assert_eq!(meta.consumed, out.len());
        prop_assert_eq!(again.version, Version::Http11);
        prop_assert_eq!(shown(&head), shown(&again));
    }
}
