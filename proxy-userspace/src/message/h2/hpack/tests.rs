use super::*;
use crate::message::Name;

fn octets(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .bytes()
        .filter(|octet| !octet.is_ascii_whitespace())
        .collect();
    let pairs = digits
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).expect("text"));
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).expect("a digit"))
        .collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<String, DecodeError> {
    let mut text = String::new();
    decoder.decode(block, |field| {
        text.push_str(&String::from_utf8_lossy(field.spelled));
        text.push('=');
        text.push_str(&String::from_utf8_lossy(field.value));
        text.push('\n');
        if let Some(line) = field.line {
            assert_eq!(line, [field.spelled, b": ", field.value].concat());
        }
        assert_eq!(field.name, FieldName::of(field.spelled));
    })?;
    Ok(text)
}

/// RFC 7541 appendix C: blocks of one connection, what they mean, and the table's size after each.
fn check(blocks: &[(&str, &str, usize)]) {
    let mut decoder = Decoder::default();
    for (block, expected, size) in blocks {
        let expected: String = expected
            .split(' ')
            .map(|field| field.to_owned() + "\n")
            .collect();
        let text = decode(&mut decoder, &octets(block)).expect("valid");
        assert_eq!(text.replace(' ', "_"), expected);
        assert_eq!(decoder.table().size(), *size, "{block}");
    }
}

#[test]
fn single_representations_are_those_of_appendix_c_2() {
    check(&[(
        "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
        "custom-key=custom-header",
        55,
    )]);
    check(&[(
        "040c 2f73 616d 706c 652f 7061 7468",
        ":path=/sample/path",
        0,
    )]);
    check(&[(
        "1008 7061 7373 776f 7264 0673 6563 7265 74",
        "password=secret",
        0,
    )]);
    check(&[("82", ":method=GET", 0)]);
}

#[test]
fn requests_are_those_of_appendix_c_3_and_c_4() {
    let first = ":method=GET :scheme=http :path=/ :authority=www.example.com";
    let second =
        ":method=GET :scheme=http :path=/ :authority=www.example.com cache-control=no-cache";
    let third = ":method=GET :scheme=https :path=/index.html :authority=www.example.com \
        custom-key=custom-value";
    check(&[
        (
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            first,
            57,
        ),
        ("8286 84be 5808 6e6f 2d63 6163 6865", second, 110),
        (
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            third,
            164,
        ),
    ]);
    check(&[
        ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", first, 57),
        ("8286 84be 5886 a8eb 1064 9cbf", second, 110),
        (
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            third,
            164,
        ),
    ]);
}

/// Appendix C.5 and C.6 begin with a table of 256 octets.
#[test]
fn responses_and_evictions_are_those_of_appendix_c_5_and_c_6() {
    let first = ":status=302 cache-control=private date=Mon,_21_Oct_2013_20:13:21_GMT \
        location=https://www.example.com";
    let second = ":status=307 cache-control=private date=Mon,_21_Oct_2013_20:13:21_GMT \
        location=https://www.example.com";
    let third = ":status=200 cache-control=private date=Mon,_21_Oct_2013_20:13:22_GMT \
        location=https://www.example.com content-encoding=gzip \
        set-cookie=foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU;_max-age=3600;_version=1";
    check(&[
        (
            "3fe101 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230
             3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70
             6c65 2e63 6f6d",
            first,
            222,
        ),
        ("4803 3330 37c1 c0bf", second, 222),
        (
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0
             5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851
             5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
            third,
            215,
        ),
    ]);
    check(&[
        (
            "3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6
             2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            first,
            222,
        ),
        ("4883 640e ffc1 c0bf", second, 222),
        (
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad
             94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160
             65c0 03ed 4ee5 b106 3d50 07",
            third,
            215,
        ),
    ]);
}

#[test]
fn blocks_that_are_cut_off_or_refer_to_nothing_are_refused() {
    let whole =
        octets("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff 400a 6375 7374 6f6d 2d6b 6579 0161");
    let ends_of_fields = [0, 1, 2, 3, 17, whole.len()];
    for end in 0..=whole.len() {
        let decoded = decode(&mut Decoder::default(), &whole[..end]);
        assert_eq!(decoded.is_ok(), ends_of_fields.contains(&end), "{end}");
    }
    for bad in [
        "80",
        "be",
        "7f00 0161",
        "ffff ffff ffff 0f",
        "ff80 8080 8080 8080 01",
        // A table larger than was allowed, and one that changes within a block.
        "3fe2 1f",
        "8220",
        // A Huffman code with the end in it, and one with eight bits of padding.
        "0084 ffff ffff 0161",
        "0082 1fff 0161",
    ] {
        assert_eq!(
            decode(&mut Decoder::default(), &octets(bad)),
            Err(DecodeError),
            "{bad}"
        );
    }
    assert!(decode(&mut Decoder::default(), &octets("3fe1 1f 20 82")).is_ok());
}

#[test]
fn what_may_not_stand_in_a_field_is_marked_wherever_it_is_repeated() {
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    let block = octets("4001 4101 61 4001 6203 630d 0a 4001 6302 2064 c0 bf be");
    decoder
        .decode(&block, |field| {
            seen.push((
                field.has_valid_name(),
                field.has_valid_value(),
                field.is_trimmed(),
            ));
        })
        .expect("valid");
    let expected = [
        (false, true, true),
        (true, false, true),
        (true, true, false),
    ];
    assert_eq!(seen[..3], expected);
    assert_eq!(seen[3..], expected);
}

fn encode(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value) in fields {
        encoder.field(
            Name::of(name.as_bytes()),
            name.as_bytes(),
            value.as_bytes(),
            &mut out,
        );
    }
    out
}

#[test]
fn what_is_encoded_is_decoded_and_what_comes_again_becomes_short() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    let fields = [
        ("User-Agent", "a thing/1.0"),
        ("accept-language", "en"),
        ("X-Unknown-Thing", "its value"),
        ("x-other", ""),
        ("Server", "sluice"),
    ];
    let expected: String = fields
        .iter()
        .map(|(name, value)| format!("{}={value}\n", name.to_lowercase()))
        .collect();
    let mut lengths = Vec::new();
    for _ in 0..4 {
        let block = encode(&mut encoder, &fields);
        lengths.push(block.len());
        assert_eq!(decode(&mut decoder, &block).expect("valid"), expected);
    }
    assert_eq!(lengths[2..], [5, 5], "an octet each");
}

#[test]
fn a_table_that_overflows_is_the_same_on_both_sides() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    for round in 0..3000_u32 {
        // Values come again after a while, and are of all lengths.
        let number = round.wrapping_mul(2_654_435_761) >> 22;
        let (name, value) = (
            format!("X-{}", number % 37),
            "v".repeat(number as usize % 700),
        );
        for _ in 0..2 {
            let block = encode(&mut encoder, &[(&name, &value), ("accept", &value)]);
            let decoded = decode(&mut decoder, &block).expect("valid");
            assert_eq!(
                decoded,
                format!("{}={value}\naccept={value}\n", name.to_lowercase())
            );
        }
        if round % 500 == 250 {
            let size = [0, 100, 4096, 70_000, 1000][round as usize / 500 % 5];
            encoder.resize(0);
            encoder.resize(size);
        }
    }
}

#[test]
fn credentials_go_into_no_table_and_tell_the_next_hop_so() {
    let mut encoder = Encoder::default();
    for _ in 0..3 {
        for name in [
            "cookie",
            "set-cookie",
            "authorization",
            "proxy-authorization",
        ] {
            let block = encode(&mut encoder, &[(name, "secret")]);
            assert_eq!(block[0] & 0xf0, 0x10, "{name}: {block:x?}");
            assert!(block.ends_with(b"secret"));
        }
        let mut out = Vec::new();
        encoder.path(b"/secret", &mut out);
        assert_eq!(out, b"\x04\x07/secret");
    }
}

#[test]
fn pseudo_fields_are_written_as_they_are_read() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    for _ in 0..3 {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        encoder.method(b"GET", &mut out);
        encoder.method(b"PURGE", &mut out);
        encoder.scheme(false, &mut out);
        encoder.scheme(true, &mut out);
        encoder.authority(b"a.test", &mut out);
        encoder.path(b"/", &mut out);
        encoder.path(b"/a", &mut out);
        encoder.protocol(b"websocket", &mut out);
        for status in [200, 204, 206, 304, 400, 404, 500, 201, 999] {
            encoder.status(status, &mut out);
        }
        let text = decode(&mut decoder, &out)
            .expect("valid")
            .replace('\n', " ");
        assert_eq!(
            text,
            ":method=GET :method=PURGE :scheme=http :scheme=https :authority=a.test :path=/ \
             :path=/a :protocol=websocket :status=200 :status=204 :status=206 :status=304 \
             :status=400 :status=404 :status=500 :status=201 :status=999 "
        );
    }
}
