//! Blocks of HPACK: nothing that comes breaks the decoder, its table stays within its bound, and
//! what it has read is the same when it was encoded anew.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::message::h2::hpack::{Decoder, Encoder, FieldName};

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Option<Pairs> {
    let mut pairs = Pairs::new();
    let decoded = decoder.decode(block, |field| {
        assert_eq!(field.name, FieldName::of(field.spelled));
        pairs.push((field.spelled.to_vec(), field.value.to_vec()));
    });
    decoded.is_ok().then_some(pairs)
}

fuzz_target!(|input: &[u8]| {
    let mut decoder = Decoder::default();
    let (mut encoder, mut reader) = (Encoder::default(), Decoder::default());
    // Blocks of a connection, one after the other: each has its length before it.
    let mut rest = input;
    while let Some((&length, more)) = rest.split_first() {
        let (block, after) = more.split_at(more.len().min(length.into()));
        rest = after;
        let Some(pairs) = decode(&mut decoder, block) else {
            return;
        };
        let mut written = Vec::new();
        encoder.begin(&mut written);
        let mut expected = Pairs::new();
        for (spelled, value) in pairs {
            if let FieldName::Field(name) = FieldName::of(&spelled) {
                encoder.field(name, &spelled, &value, &mut written);
                expected.push((spelled.to_ascii_lowercase(), value));
            }
        }
        assert_eq!(decode(&mut reader, &written), Some(expected));
        if length == 77 {
            encoder.resize(u32::from(block.first().copied().unwrap_or(0)) * 16);
        }
    }
});
