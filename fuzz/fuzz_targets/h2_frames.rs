//! Frames of an HTTP/2 client: nothing that comes breaks the state of a connection, all that is
//! said is whole frames, windows are kept, and it does not matter in which pieces octets come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::net::h2::serve;
use proxy_fuzz::sum;

fuzz_target!(|input: &[u8]| {
    let whole = serve(input, usize::MAX);
    let pieces = serve(input, 1 + sum(input) % 23);
    assert_eq!(whole, pieces);
});
