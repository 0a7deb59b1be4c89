//! Deadlines of gRPC clients: whatever is read is told on as no more than it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::http::exchange::deadline::{LONGEST, read, write};

fuzz_target!(|input: &[u8]| {
    let Some(left) = read(input) else {
        return;
    };
    assert!(input.len() <= LONGEST);
    let mut room = [0; LONGEST];
    let told = write(left, &mut room);
    let again = read(told).expect("valid");
    assert!(again <= left);
    // What is lost is less than the unit that was written.
    let unit = match told.last() {
        Some(b'u') => 1_000,
        Some(b'm') => 1_000_000,
        _ => u64::MAX,
    };
    assert!(left - again < unit);
});
