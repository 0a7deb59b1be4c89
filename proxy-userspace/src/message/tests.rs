use super::*;

#[test]
fn known_names_are_found_whatever_their_case() {
    for &name in Name::KNOWN {
        assert_eq!(Name::of(name.spelled().as_bytes()), name);
        assert_eq!(
            Name::of(name.spelled().to_ascii_uppercase().as_bytes()),
            name
        );
    }
    for other in [
        "",
        "hos",
        "hostt",
        "x",
        "a-name-that-is-longer-than-all-others",
    ] {
        assert_eq!(Name::of(other.as_bytes()), Name::Other);
    }
}

#[test]
fn fields_keep_order_spelling_and_doubles() {
    let mut fields = Fields::new();
    fields.append_named(b"x-a", b"1");
    fields.append_named(b"COOKIE", b"a=1");
    fields.append_named(b"X-A", b"2");
    let all: Vec<_> = fields.all_named(b"x-A").collect();
    assert_eq!(all, [b"1", b"2"]);
    assert_eq!(fields.get(Name::Cookie), Some(&b"a=1"[..]));
    let spelled: Vec<_> = fields.iter().map(|field| field.spelled).collect();
    assert_eq!(spelled, [&b"x-a"[..], b"COOKIE", b"X-A"]);
}

#[test]
fn removed_fields_are_gone_and_their_bit_too() {
    let mut fields = Fields::new();
    fields.append(Name::Via, b"1.1 a");
    fields.append(Name::Via, b"1.1 b");
    fields.append_named(b"x-b", b"1");
    fields.remove(Name::Via);
    assert!(!fields.contains(Name::Via));
    assert_eq!(fields.get(Name::Via), None);
    fields.remove_named(b"X-B");
    assert!(fields.is_empty());
    fields.set(Name::Via, b"1.1 c");
    fields.set(Name::Via, b"1.1 d");
    assert_eq!(fields.len(), 1);
    fields.retain(|_| false);
    assert!(!fields.contains(Name::Via));
}

#[test]
fn fields_are_written_in_order_whatever_was_removed_between_them() {
    let mut fields = Fields::new();
    let written = |fields: &Fields| {
        let mut out = b"> ".to_vec();
        fields.write(&mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(written(&fields), "> ");
    fields.append(Name::Via, b"1.1 a");
    fields.push_line(Name::Other, b"x-a:\t 1", 3, 6);
    fields.push_line(Name::Other, b"X-B: 2", 3, 5);
    fields.push_line(Name::Other, b"x-c:\t3", 3, 5);
    fields.append_named(b"x-d", b"");
    let all = "> Via: 1.1 a\r\nx-a: 1\r\nX-B: 2\r\nx-c: 3\r\nx-d: \r\n";
    assert_eq!(written(&fields), all);
    fields.remove_named(b"absent");
    fields.set_named(b"x-b", b"4");
    fields.remove(Name::Via);
    assert_eq!(
        written(&fields),
        "> x-a: 1\r\nx-c: 3\r\nx-d: \r\nx-b: 4\r\n"
    );
    assert_eq!(fields.get_named(b"X-C"), Some(&b"3"[..]));
    fields.clear();
    fields.append(Name::Via, b"1.1 b");
    assert_eq!(written(&fields), "> Via: 1.1 b\r\n");
}

#[test]
fn a_host_is_told_from_its_port() {
    let mut head = RequestHead::default();
    for (authority, host) in [
        ("Example.COM", "example.com"),
        ("example.com:80", "example.com"),
        ("[::1]", "[::1]"),
        ("[::1]:8080", "[::1]"),
        ("", ""),
    ] {
        head.set_authority(authority.as_bytes());
        assert_eq!(head.host(), host.as_bytes());
    }
}

#[test]
fn a_path_is_told_from_its_query() {
    let mut head = RequestHead::default();
    head.set_target(b"/a?b=1?c");
    assert_eq!(
        (head.path(), head.query()),
        (&b"/a"[..], Some(&b"b=1?c"[..]))
    );
    head.set_path(b"/longer/path");
    assert_eq!(head.target(), b"/longer/path?b=1?c");
    head.set_target(b"/a?");
    assert_eq!(head.query(), Some(&b""[..]));
    head.set_target(b"/a");
    assert_eq!(head.query(), None);
    head.set_path(b"/");
    assert_eq!(head.target(), b"/");
}

#[test]
fn refusals_have_their_own_labels_and_error_statuses() {
    let labels: std::collections::BTreeSet<_> = Refusal::ALL.iter().map(|r| r.label()).collect();
    assert_eq!(labels.len(), Refusal::ALL.len());
    for (index, refusal) in Refusal::ALL.iter().enumerate() {
        assert_eq!(*refusal as usize, index);
        assert!((400..600).contains(&refusal.status()));
    }
}

#[test]
fn a_name_that_differs_in_one_octet_is_another() {
    for &name in Name::KNOWN {
        let spelled = name.spelled().as_bytes();
        for at in 0..spelled.len() {
            for octet in (0..=255_u8).filter(|octet| !octet.eq_ignore_ascii_case(&spelled[at])) {
                let mut other = spelled.to_vec();
                other[at] = octet;
                assert_ne!(Name::of(&other), name, "{other:?}");
            }
        }
        assert_ne!(Name::of(&spelled[1..]), name);
        assert_ne!(Name::of(&[spelled, b"x"].concat()), name);
    }
}
