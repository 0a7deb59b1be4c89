//! Chunked content: the pieces do not matter, and what is encoded anew decodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::message::h1::{ChunkDecoder, write_chunk_end, write_chunk_head, write_last_chunk};
use proxy_fuzz::{LIMITS, WIDE, decode, pairs, sum};

fuzz_target!(|input: &[u8]| {
    let mut decoder = ChunkDecoder::new();
    let whole = decode(input, input.len().max(1), &mut decoder, &LIMITS);
    let mut pieces_decoder = ChunkDecoder::new();
    let step = 1 + sum(input) % 7;
    let pieces = decode(input, step, &mut pieces_decoder, &LIMITS);
    assert_eq!(whole, pieces);
    let Ok(Some((content, _))) = whole else {
        return;
    };
    assert_eq!(pairs(decoder.trailers()), pairs(pieces_decoder.trailers()));

    let mut written = Vec::new();
    for chunk in content.chunks(1 + sum(input) % 40) {
        write_chunk_head(chunk.len() as u64, &mut written);
        written.extend_from_slice(chunk);
        write_chunk_end(&mut written);
    }
    write_last_chunk(decoder.trailers(), &mut written);
    let mut again = ChunkDecoder::new();
    let read = decode(&written, step, &mut again, &WIDE).expect("what is written is valid");
    assert_eq!(read, Some((content, written.len())));
    assert_eq!(pairs(decoder.trailers()), pairs(again.trailers()));
});
