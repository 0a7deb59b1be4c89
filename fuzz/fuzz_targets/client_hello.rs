//! ClientHellos: the pieces do not matter, nothing beyond the hello's record does, and what is handed
//! out is a name of DNS in one form and protocols that are not empty.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::net::client_hello::{MAX_LENGTH, Reader};
use proxy_fuzz::sum;

fuzz_target!(|input: &[u8]| {
    let whole = Reader::default().read(input);
    let step = 1 + sum(input) % 19;
    let (mut reader, mut pieces, mut needed) = (Reader::default(), Ok(None), input.len());
    for end in (0..input.len()).step_by(step).chain([input.len()]) {
        pieces = reader.read(&input[..end]);
        if pieces != Ok(None) {
            needed = end;
            break;
        }
    }
    assert_eq!(whole, pieces);
    // What follows changes nothing once there is an answer.
    assert_eq!(Reader::default().read(&input[..needed]), whole);
    let Ok(Some(hello)) = whole else {
        return;
    };
    assert!(needed <= MAX_LENGTH + step);
    if let Some(name) = &hello.server_name {
        assert!(name.len() <= 253 && !name.ends_with('.') && !name.starts_with('.'));
        assert_eq!(**name, name.to_ascii_lowercase());
        assert!(name.parse::<std::net::IpAddr>().is_err());
    }
    assert!(hello.protocols().all(|name| !name.is_empty()));
});
