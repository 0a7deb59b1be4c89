use super::*;
use proptest::prelude::*;
use std::sync::Arc;

/// A hello with these extensions, as the message with its header.
fn message(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    let list: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &with_length(content)].concat())
        .collect();
    body.extend(with_length(&list));
    framed(&body)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&[1], &length[1..], body].concat()
}

fn with_length(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u16).to_be_bytes();
    [&length[..], content].concat()
}

/// In records of up to this many octets.
fn records(message: &[u8], most: usize) -> Vec<u8> {
    let pieces = message.chunks(most);
    pieces
        .flat_map(|piece| [&[22, 3, 1][..], &with_length(piece)].concat())
        .collect()
}

fn name(name: &[u8]) -> (u16, Vec<u8>) {
    (0, with_length(&[&[0], &with_length(name)[..]].concat()))
}

fn alpn(names: &[&[u8]]) -> (u16, Vec<u8>) {
    let list = names
        .iter()
        .flat_map(|name| [&[name.len() as u8], *name].concat());
    (16, with_length(&list.collect::<Vec<u8>>()))
}

fn read(input: &[u8]) -> Result<Option<ClientHello>, Fault> {
    Reader::default().read(input)
}

fn hello(extensions: &[(u16, Vec<u8>)]) -> Result<ClientHello, Fault> {
    read(&records(&message(extensions), MAX_RECORD)).map(|hello| hello.expect("whole"))
}

fn server_name(octets: &[u8]) -> Result<Option<String>, Fault> {
    hello(&[name(octets)]).map(|hello| hello.server_name.map(String::from))
}

/// Shown piece by piece, as it comes from a network.
fn by_steps(input: &[u8], step: usize) -> Result<Option<ClientHello>, Fault> {
    let mut reader = Reader::default();
    let ends = (0..input.len()).step_by(step).chain([input.len()]);
    for end in ends {
        match reader.read(&input[..end]) {
            Ok(None) => {}
            done => return done,
        }
    }
    Ok(None)
}

/// What rustls says first, with post-quantum keys: more than one segment holds.
fn of_rustls(host: &str, protocols: &[&[u8]]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let host = host.to_owned().try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), host).expect("a client");
    let mut octets = Vec::new();
    client.write_tls(&mut octets).expect("writes");
    octets
}

#[test]
fn a_hello_of_a_real_client_is_read_however_it_is_cut() {
    let octets = of_rustls("Shop.Example.com", &[b"h2", b"http/1.1"]);
    assert!(octets.len() > 1460, "post-quantum keys are in it");
    let payload = &octets[HEADER..];
    for input in [octets.clone(), records(payload, 1), records(payload, 700)] {
        for step in [1, 2, 5, 1460, input.len()] {
            let hello = by_steps(&input, step).expect("valid").expect("whole");
            assert_eq!(hello.server_name.as_deref(), Some("shop.example.com"));
            let protocols: Vec<_> = hello.protocols().collect();
            assert_eq!(protocols, [&b"h2"[..], b"http/1.1"]);
            assert_eq!(hello.version_name(), "TLSv1.3");
        }
    }
    let nameless = read(&of_rustls("192.0.2.1", &[])).expect("valid");
    let nameless = nameless.expect("whole");
    assert_eq!(nameless.server_name, None);
    assert_eq!(nameless.protocols().count(), 0);
}

#[test]
fn names_have_one_form() {
    for written in ["a.test", "A.TEST", "a.test.", "A.test."] {
        let read = server_name(written.as_bytes());
        assert_eq!(read, Ok(Some("a.test".to_owned())), "{written}");
    }
    let idn = server_name(b"xn--bcher-kva.example").expect("valid");
    assert_eq!(idn.as_deref(), Some("xn--bcher-kva.example"));
    for address in ["192.0.2.1", "2001:db8::1", "[2001:db8::1]"] {
        assert_eq!(server_name(address.as_bytes()), Ok(None), "{address}");
    }
    let long = [b'a'; 64];
    let labels = "a.".repeat(127);
    let bad: [&[u8]; 9] = [
        b"",
        b".",
        b"a..test",
        b".test",
        b"a test",
        "bücher.example".as_bytes(),
        b"a\0.test",
        &long,
        labels.as_bytes(),
    ];
    for name in bad {
        // 127 labels are 253 octets without the last dot, and as many may be.
        let expected = match name == labels.as_bytes() {
            true => Ok(Some(labels.trim_end_matches('.').to_owned())),
            false => Err(Fault::ServerName),
        };
        assert_eq!(server_name(name), expected, "{name:?}");
    }
    let too_long = "a.".repeat(128);
    assert_eq!(server_name(too_long.as_bytes()), Err(Fault::ServerName));
}

#[test]
fn lists_of_names_are_strict() {
    let list = |list: &[u8]| hello(&[(0, list.to_vec())]).map(|hello| hello.server_name.is_some());
    assert_eq!(list(b"\0\x04\0\0\x01a"), Ok(true));
    // A kind of name that there may be one day, beside the one that there is.
    assert_eq!(list(b"\0\x08\x07\0\x01b\0\0\x01a"), Ok(true));
    assert_eq!(list(b"\0\x04\x07\0\x01b"), Ok(false));
    for bad in [
        &b""[..],
        b"\0",
        b"\0\0",
        b"\0\x03\0\0\0",
        b"\0\x04\0\0\x02a",
        b"\0\x04\0\0\x01a\0",
        b"\0\x08\0\0\x01a\0\0\x01b",
        b"\0\x05\0\0\x01a\0",
    ] {
        assert_eq!(list(bad), Err(Fault::ServerName), "{bad:?}");
    }
}

#[test]
fn protocols_are_strict_and_in_the_client_s_order() {
    let grease = [0x0a, 0x0a];
    let read = hello(&[alpn(&[&grease, b"h2", b"x"])]).expect("valid");
    let protocols: Vec<_> = read.protocols().collect();
    assert_eq!(protocols, [&grease[..], b"h2", b"x"]);
    for bad in [
        &b""[..],
        b"\0",
        b"\0\0",
        b"\0\x01\0",
        b"\0\x02\x02h",
        b"\0\x02\x01h1",
        b"\0\x03\x01h",
    ] {
        assert_eq!(hello(&[(16, bad.to_vec())]), Err(Fault::Alpn), "{bad:?}");
    }
}

#[test]
fn the_newest_version_is_the_newest_that_is_real() {
    let version = |list: &[u8]| hello(&[(43, list.to_vec())]).map(|hello| hello.version);
    assert_eq!(version(&[6, 0xfa, 0xfa, 3, 4, 3, 3]), Ok(0x0304));
    assert_eq!(version(&[2, 0x3a, 0x3a]), Ok(0x0303));
    assert_eq!(hello(&[]).map(|hello| hello.version_name()), Ok("TLSv1.2"));
    for bad in [&[][..], &[0], &[1, 3], &[2, 3], &[2, 3, 4, 0]] {
        assert_eq!(version(bad), Err(Fault::Body), "{bad:?}");
    }
}

#[test]
fn an_encrypted_hello_is_that_of_the_name_it_shows() {
    let outer = hello(&[(0xfe0d, vec![0, 1, 2]), name(b"public.example")]).expect("valid");
    assert!(outer.has_encrypted_hello);
    assert_eq!(outer.server_name.as_deref(), Some("public.example"));
}

#[test]
fn extensions_may_lack_and_do_not_come_twice() {
    let mut body = vec![3, 1];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0, 10, 1, 0]);
    let old = read(&records(&framed(&body), 99))
        .expect("valid")
        .expect("whole");
    assert_eq!(
        (old.server_name.as_deref(), old.version_name()),
        (None, "TLSv1")
    );
    let twice = [name(b"a"), (21, vec![]), name(b"b")];
    assert_eq!(hello(&twice), Err(Fault::Body));
    assert!(hello(&[(0x1a1a, vec![]), (0x2a2a, vec![0])]).is_ok());
    for surplus in [&[0][..], &[0, 0, 0], &[0, 5, 0, 0, 0, 0]] {
        let wrong = [&body[..], surplus].concat();
        let wrong = read(&records(&framed(&wrong), 99));
        assert_eq!(wrong, Err(Fault::Body), "{surplus:?}");
    }
}

#[test]
fn every_shorter_body_is_refused() {
    let whole = message(&[name(b"a.test"), alpn(&[b"h2"])]);
    let body = &whole[4..];
    let without_extensions = 2 + 32 + 1 + 4 + 2;
    for length in (0..body.len()).filter(|&length| length != without_extensions) {
        let cut = read(&records(&framed(&body[..length]), 999));
        assert_eq!(cut, Err(Fault::Body), "{length}");
    }
}

#[test]
fn what_is_no_tls_is_known_by_its_first_octet() {
    for input in [
        &b"G"[..],
        b"SSH-2.0",
        b"\x80\x2e\x01\x03\x01",
        b"\x16\x02",
        b"\x15\x03",
    ] {
        assert_eq!(read(input), Err(Fault::NotTls), "{input:?}");
    }
    for input in [&b""[..], b"\x16", b"\x16\x03", b"\x16\x03\x01\x00"] {
        assert_eq!(read(input), Ok(None), "{input:?}");
    }
}

#[test]
fn records_are_strict() {
    let whole = message(&[name(b"a.test")]);
    let (one, two) = whole.split_at(20);
    let record = |content: &[u8]| records(content, MAX_RECORD);
    assert_eq!(read(b"\x16\x03\x01\0\0"), Err(Fault::Record));
    assert_eq!(read(b"\x16\x03\x01\x40\x01"), Err(Fault::Record));
    let mut mixed = [record(one), record(two)].concat();
    assert!(read(&mixed).is_ok_and(|hello| hello.is_some()));
    mixed[HEADER + 20] = 23;
    assert_eq!(read(&mixed), Err(Fault::Record));
    // An empty record between two.
    let empty = [record(one), b"\x16\x03\x01\0\0".to_vec(), record(two)].concat();
    assert_eq!(read(&empty), Err(Fault::Record));
    assert_eq!(read(&record(b"\x02")), Err(Fault::Message));
    let more = [&whole[..], &[0]].concat();
    assert_eq!(read(&record(&more)), Err(Fault::Message));
    assert_eq!(read(&records(&more, 50)), Err(Fault::Message));
    // What follows in another record is not the hello's.
    let early = [record(&whole), b"\x14\x03\x03\0\x01\x01".to_vec()].concat();
    assert!(read(&early).is_ok_and(|hello| hello.is_some()));
}

#[test]
fn there_is_an_end_to_what_is_read() {
    let longest = MAX_LENGTH - 4 - 4 * HEADER - 99;
    let padded = |octets: usize| {
        let whole = message(&[(21, vec![0; octets])]);
        records(&whole, MAX_RECORD)
    };
    assert!(read(&padded(longest)).is_ok_and(|hello| hello.is_some()));
    let mut announced = records(&[1, 1, 0, 0], 99);
    assert_eq!(read(&announced), Err(Fault::TooLong));
    // Little by octets, but most of it headers.
    announced = records(&message(&[(21, vec![0; 20_000])]), 1);
    assert_eq!(read(&announced), Err(Fault::TooLong));
    assert_eq!(by_steps(&announced, 777), Err(Fault::TooLong));
}

#[test]
fn alerts_are_records_that_every_client_reads() {
    assert_eq!(Alert::UnrecognizedName.record(), [21, 3, 3, 0, 2, 2, 112]);
    assert_eq!(Fault::NotTls.alert(), None);
}

/// Octets that come near a hello.
fn near() -> impl Strategy<Value = Vec<u8>> {
    let extension = prop_oneof![
        4 => "[A-Za-z0-9.-]{0,20}".prop_map(|text| name(text.as_bytes())),
        2 => prop::collection::vec(any::<u8>(), 0..9).prop_map(|octets| name(&octets)),
        2 => Just(alpn(&[b"h2", b"http/1.1"])),
        1 => (any::<u16>(), prop::collection::vec(any::<u8>(), 0..40)),
        1 => (prop::sample::select(&[0_u16, 16, 43][..]), prop::collection::vec(any::<u8>(), 0..9)),
    ];
    let change = prop::option::weighted(0.4, (any::<prop::sample::Index>(), any::<u8>()));
    let extensions = prop::collection::vec(extension, 0..6);
    (extensions, 1_usize..300, change).prop_map(|(extensions, most, change)| {
        let mut octets = records(&message(&extensions), most);
        if let Some((at, octet)) = change {
            let at = at.index(octets.len());
            octets[at] = octet;
        }
        octets
    })
}

proptest! {
    #[test]
    fn pieces_do_not_matter(input in near(), step in 1_usize..60) {
        prop_assert_eq!(read(&input), by_steps(&input, step));
        prop_assert_eq!(read(&input), by_steps(&input, 1));
    }

    #[test]
    fn records_do_not_matter(host in "[a-z]{1,9}(\\.[a-z]{1,9}){0,3}", most in 1_usize..200) {
        let whole = message(&[alpn(&[b"h2"]), name(host.as_bytes())]);
        let cut = read(&records(&whole, most)).expect("valid").expect("whole");
        prop_assert_eq!(cut.server_name.as_deref(), Some(&*host));
    }
}
