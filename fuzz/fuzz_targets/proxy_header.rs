//! PROXY headers: the pieces do not matter, nothing beyond the header does, and what is written
//! reads as what was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::net::proxy_protocol::{MAX_LENGTH, Origin, parse, write_v1, write_v2};
use proxy_fuzz::sum;

fuzz_target!(|input: &[u8]| {
    let whole = parse(input);
    let step = 1 + sum(input) % 19;
    let mut pieces = Ok(None);
    for end in (0..input.len()).step_by(step).chain([input.len()]) {
        pieces = parse(&input[..end]);
        if pieces != Ok(None) {
            break;
        }
    }
    assert_eq!(whole, pieces);
    let Ok(Some((header, length))) = whole else {
        return;
    };
    assert!(length <= input.len() && length <= MAX_LENGTH);
    assert_eq!(parse(&input[..length]), whole);
    let values = header.extensions;
    let _ = (values.authority(), values.alpn(), values.netns());
    assert!(values.unique_id().is_none_or(|id| id.len() <= 128));
    if let Some(tls) = values.tls() {
        let _ = (tls.is_client_verified(), tls.version(), tls.common_name());
    }

    let Origin::Client { client, server, .. } = header.origin else {
        return;
    };
    let (mut line, mut binary) = (Vec::new(), Vec::new());
    write_v1(client, server, &mut line);
    write_v2(client, server, false, &[], true, &mut binary);
    for written in [line, binary] {
        let (again, consumed) = parse(&written).expect("valid").expect("whole");
        assert_eq!(consumed, written.len());
        let Origin::Client {
            client: c,
            server: s,
            ..
        } = again.origin
        else {
            panic!("{:?}", again.origin);
        };
        assert_eq!((c.port(), s.port()), (client.port(), server.port()));
        assert_eq!((c.ip(), s.ip()), (client.ip(), server.ip()));
    }
});
