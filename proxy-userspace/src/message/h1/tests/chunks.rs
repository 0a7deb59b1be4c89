use super::*;

/// Decodes what is there. Returns the content, the trailers, and the octets after the end; or
/// `None` if there is no end.
type Decoded = Option<(Vec<u8>, Vec<String>, usize)>;

pub(super) fn decode(input: &[u8], decoder: &mut ChunkDecoder) -> Result<Decoded, Refusal> {
    let mut content = Vec::new();
    let mut rest = input;
    loop {
        match decoder.next(rest, &LIMITS)? {
            ChunkStep::Data { skip, len } => {
                assert!(len > 0);
                content.extend_from_slice(&rest[skip..skip + len]);
                rest = &rest[skip + len..];
            }
            ChunkStep::NeedMore { consumed } => {
                assert!(consumed <= rest.len());
                return Ok(None);
            }
            ChunkStep::End { consumed } => {
                let trailers = lines(decoder.trailers());
                return Ok(Some((content, trailers, rest.len() - consumed)));
            }
        }
    }
}

fn all(input: &str) -> Result<Decoded, Refusal> {
    decode(input.as_bytes(), &mut ChunkDecoder::new())
}

#[test]
fn content_is_told_from_framing() {
    for (input, content) in [
        ("0\r\n\r\n", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        (
            "5\r\nhello\r\n00000006\r\n world\r\n000\r\n\r\n",
            "hello world",
        ),
        ("a\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("1;a\r\nx\r\n0;b\r\n\r\n", "x"),
        ("1;a=b;c=\"d\\\";\";e\r\nx\r\n0\r\n\r\n", "x"),
        ("1 ; a = b ; c\r\nx\r\n0\r\n\r\n", "x"),
        ("1;a=\"\"\r\nx\r\n0\r\n\r\n", "x"),
    ] {
        let found = all(&format!("{input}GET")).expect(input);
        assert_eq!(found, Some((content.into(), vec![], 3)), "{input:?}");
    }
}

#[test]
fn what_the_grammar_does_not_allow_is_refused_with_its_reason() {
    for (input, refusal) in [
        ("\r\n", Refusal::Chunk),
        (";a\r\n", Refusal::Chunk),
        (" 1\r\n", Refusal::Chunk),
        ("+1\r\n", Refusal::Chunk),
        ("-0\r\n", Refusal::Chunk),
        ("0x1\r\n", Refusal::Chunk),
        ("1_0\r\n", Refusal::Chunk),
        ("1h\r\n", Refusal::Chunk),
        ("g\r\n", Refusal::Chunk),
        ("1,1\r\n", Refusal::Chunk),
        ("1\0\r\n", Refusal::Chunk),
        ("1 1\r\n", Refusal::Chunk),
        ("1 \r\n", Refusal::Chunk),
        ("1\t\r\n", Refusal::Chunk),
        ("8000000000000000\r\n", Refusal::Chunk),
        ("10000000000000000\r\n", Refusal::Chunk),
        ("ffffffffffffffff1\r\n", Refusal::Chunk),
        ("00000000000000001\r\n", Refusal::Chunk),
        ("1;\r\n", Refusal::Chunk),
        ("1;;a\r\n", Refusal::Chunk),
        ("1;a \r\n", Refusal::Chunk),
        ("1;a=\r\n", Refusal::Chunk),
        ("1;a b\r\n", Refusal::Chunk),
        ("1;a=b c\r\n", Refusal::Chunk),
        ("1;=b\r\n", Refusal::Chunk),
        ("1;a=\"b\r\n", Refusal::Chunk),
        ("1;a=\"b\"c\r\n", Refusal::Chunk),
        ("1;a=\"\\\r\n", Refusal::Chunk),
        ("1;a=\"\0\"\r\n", Refusal::Chunk),
        ("1;a\0\r\n", Refusal::Chunk),
        ("1\n", Refusal::BareLineEnd),
        ("1;a\n", Refusal::BareLineEnd),
        ("1;a=\"\n", Refusal::BareLineEnd),
        ("1\rx", Refusal::BareLineEnd),
        ("1;a=b\r\rx", Refusal::BareLineEnd),
        ("1\r\nxy", Refusal::Chunk),
        ("1\r\nx0\r\n", Refusal::Chunk),
        ("1\r\nx\n", Refusal::BareLineEnd),
        ("1\r\nx\r0", Refusal::BareLineEnd),
        ("1\r\nx\r\n\r\n0\r\n", Refusal::Chunk),
        ("0\r\nA : b\r\n", Refusal::Trailers),
        ("0\r\n A: b\r\n", Refusal::Trailers),
        ("0\r\nA: b\r\n c\r\n", Refusal::Trailers),
        ("0\r\nA\r\n", Refusal::Trailers),
        ("0\r\nA: \0\r\n", Refusal::Trailers),
        ("0\r\nGET / HTTP/1.1\r\n", Refusal::Trailers),
        ("0\r\nA: b\n", Refusal::BareLineEnd),
        ("0\r\n\n", Refusal::BareLineEnd),
        ("0\r\n\rX", Refusal::BareLineEnd),
    ] {
        assert_eq!(all(input), Err(refusal), "{input:?}");
    }
}

#[test]
fn the_largest_size_is_what_signed_arithmetic_holds() {
    let step = ChunkDecoder::new().next(b"7fffffffffffffff\r\nab", &LIMITS);
    assert_eq!(step, Ok(ChunkStep::Data { skip: 18, len: 2 }));
}

#[test]
fn trailers_that_concern_framing_routing_or_rights_are_dropped() {
    let input = "0\r\ngrpc-status: 0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\
                 Host: b\r\nAuthorization: x\r\nX-Forwarded-For: 1\r\nx-forwarded-user: y\r\n\
                 Cookie: a\r\nCache-Control: x\r\nContent-Foo: y\r\nPragma: z\r\nX-Sum: 1\r\n\r\n";
    let (_, trailers, _) = all(input).unwrap().unwrap();
    assert_eq!(trailers, ["grpc-status: 0", "X-Sum: 1"]);
}

#[test]
fn extensions_and_trailers_have_bounds() {
    let long = format!("1;{}\r\n", "a".repeat(1023));
    assert_eq!(all(&long), Ok(None));
    let longer = format!("1;{}", "a".repeat(1025));
    assert_eq!(all(&longer), Err(Refusal::Chunk));

    let chatty = format!("1;{}\r\nx\r\n", "a".repeat(500)).repeat(100);
    assert_eq!(all(&chatty), Err(Refusal::Chunk));
    let honest = format!("{}0\r\n\r\n", "1;a=b\r\nx\r\n".repeat(10_000));
    assert_eq!(all(&honest).unwrap().unwrap().0.len(), 10_000);

    let many = format!("0\r\n{}", "A: b\r\n".repeat(17));
    assert_eq!(all(&many), Err(Refusal::Trailers));
    let long = format!("0\r\nA: {}", "b".repeat(1100));
    assert_eq!(all(&long), Err(Refusal::Trailers));
}

#[test]
fn a_decoder_reads_one_message_after_the_other() {
    let mut decoder = ChunkDecoder::new();
    let first = decode(b"1\r\nx\r\n0\r\nA: b\r\n\r\n", &mut decoder).unwrap();
    assert_eq!(first.unwrap().1, ["A: b"]);
    let second = decode(b"1\r\ny\r\n0\r\n\r\n", &mut decoder).unwrap();
    assert_eq!(second, Some((b"y".to_vec(), vec![], 0)));
    assert_eq!(decode(b"5\r\nhel", &mut decoder), Ok(None));
    decoder.reset();
    let third = decode(b"1\r\nz\r\n0\r\n\r\n", &mut decoder).unwrap();
    assert_eq!(third.unwrap().0, b"z");
}
