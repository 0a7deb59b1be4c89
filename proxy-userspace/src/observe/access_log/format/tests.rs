use super::*;
use crate::message::{
    Fields, Length, Name, Refusal, RefusedBy, RequestHead, ResponseHead, Version,
};
use crate::observe::access_log::{
    Attempt, Counts, End, Octets, Phase, StickyRequest, StickyResponse, Times, Traffic,
};
use std::time::Duration;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn head(target: &[u8], fields: &[(&str, &[u8])]) -> RequestHead {
    let mut head = RequestHead::default();
    head.set_authority(b"example.com:8080");
    head.set_target(target);
    for (name, value) in fields {
        head.fields.append_named(name.as_bytes(), value);
    }
    head
}

fn attempt(backend: &str) -> Attempt<'_> {
    Attempt {
        backend,
        address: "10.0.0.7:80".parse().expect("an address"),
        reused: false,
        status: 200,
        end: End::Complete,
        connect: Some(ms(30)),
        head: Some(ms(99)),
        total: ms(109),
        sent: 90,
        received: Octets {
            head: 150,
            body: 2600,
        },
    }
}

/// The example of HAProxy's manual.
fn record<'a>(head: &'a RequestHead, attempts: &'a [Attempt<'a>]) -> Record<'a> {
    Record {
        service: Some("static"),
        attempts,
        request: Some(head),
        status: 200,
        received: Octets {
            head: 100,
            body: 20,
        },
        sent: Octets {
            head: 150,
            body: 2600,
        },
        times: Times {
            // 2009-02-06T12:14:14.655 and 109 ms.
            ended_at: Duration::from_millis(1_233_922_454_764),
            total: ms(109),
            idle: ms(5),
            request_head: Some(ms(10)),
            queue: Some(ms(0)),
            connect: Some(ms(30)),
            response_head: Some(ms(69)),
        },
        counts: Counts {
            process: 1,
            listener: 1,
            service: 1,
            backend: 1,
            ..Counts::default()
        },
        ..Record::new(
            "http-in",
            "10.0.1.2:33317".parse().expect("an address"),
            "10.0.0.1:8080".parse().expect("an address"),
        )
    }
}

fn line(format: &LogFormat, record: &Record<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let format = Format::compile(format).expect("valid");
    format.line(record, &mut Calendar::new(|_| 3600), &mut out);
    assert_eq!(out.pop(), Some(b'\n'));
    assert!(!out.contains(&b'\n'), "two lines");
    out
}

fn text(format: &LogFormat, record: &Record<'_>) -> String {
    String::from_utf8(line(format, record)).expect("UTF-8")
}

fn template(text: &str, record: &Record<'_>) -> String {
    self::text(&LogFormat::Template(text.to_owned()), record)
}

#[test]
fn combined_is_as_nginx_writes_it() {
    let head = head(
        b"/a?b=\"c\\",
        &[
            ("User-Agent", b"x\xc3\xa9\x7f\x01~"),
            ("Referer", b""),
            ("Authorization", b"Basic  dXNlciIxOnB3"),
        ],
    );
    let attempts = [attempt("srv1")];
    assert_eq!(
        text(&LogFormat::Combined, &record(&head, &attempts)),
        r#"10.0.1.2 - user\x221 [06/Feb/2009:13:14:14 +0100] "GET /a?b=\x22c\x5C HTTP/1.1" 200 2600 "" "x\xC3\xA9\x7F\x01~""#
    );
}

#[test]
fn common_says_no_octets_with_a_dash() {
    let head = head(b"/", &[]);
    let mut record = record(&head, &[]);
    record.sent.body = 0;
    assert_eq!(
        text(&LogFormat::Common, &record),
        r#"10.0.1.2 - - [06/Feb/2009:13:14:14 +0100] "GET / HTTP/1.1" 200 -"#
    );
}

#[test]
fn haproxy_is_as_its_manual_shows_it() {
    let head = head(b"/index.html", &[]);
    let attempts = [attempt("srv1")];
    assert_eq!(
        text(&LogFormat::Haproxy, &record(&head, &attempts)),
        "10.0.1.2:33317 [06/Feb/2009:13:14:14.655] http-in static/srv1 10/0/30/69/109 200 2750 \
         - - ---- 1/1/1/1/0 0/0 \"GET /index.html HTTP/1.1\""
    );
}

#[test]
fn haproxy_tells_what_was_not_reached() {
    let mut record = Record {
        request: None,
        service: None,
        status: 400,
        end: End::ClientProtocol,
        phase: Phase::Request,
        times: Times {
            total: ms(7),
            ..Times::default()
        },
        ..Record::default()
    };
    record.listener = "in";
    let line = text(&LogFormat::Haproxy, &record);
    assert!(
        line.contains(" in in/<NOSRV> -1/-1/-1/-1/7 400 0 - - PR-- 0/0/0/0/0 0/0 \"<BADREQ>\""),
        "{line}"
    );
}

#[test]
fn haproxy_marks_another_backend_and_the_cookie() {
    let mut head = head(b"/\"#\x80", &[]);
    head.version = Version::Http2;
    let other = Attempt {
        address: "10.0.0.8:80".parse().expect("an address"),
        ..attempt("srv2")
    };
    let attempts = [attempt("srv1"), other];
    let record = Record {
        end: End::BackendTimeout,
        phase: Phase::ResponseHead,
        sticky_request: StickyRequest::Down,
        sticky_response: StickyResponse::Inserted,
        cookies: [Some(b"a=b"), None],
        ..record(&head, &attempts)
    };
    let line = text(&LogFormat::Haproxy, &record);
    let end = " a=b - sHDI 1/1/1/1/+1 0/0 \"GET http://example.com:8080/#22#23#80 HTTP/2.0\"";
    assert!(line.ends_with(end), "{line}");
}

#[test]
fn connections_are_logged_as_tcplog() {
    let attempts = [attempt("srv1")];
    let head = RequestHead::default();
    let record = Record {
        traffic: Traffic::Tcp,
        request: None,
        ..record(&head, &attempts)
    };
    assert_eq!(
        text(&LogFormat::Haproxy, &record),
        "10.0.1.2:33317 [06/Feb/2009:13:14:14.655] http-in static/srv1 0/30/109 2750 -- \
         1/1/1/1/0 0/0"
    );
}

#[test]
fn fields_cookies_and_arguments_are_found_as_nginx_finds_them() {
    let head = head(
        b"/p?a=1&B=&c",
        &[
            ("X-Forwarded-For", b"1.1.1.1"),
            ("x-forwarded-for", b"2.2.2.2"),
            ("X-Odd", b"odd"),
            ("Cookie", b"aa=0; a=1"),
            ("Cookie", b"b=\"2\""),
        ],
    );
    let mut response = ResponseHead::default();
    response.fields.append(Name::Location, b"/there");
    response.length = Length::Exact(12);
    let record = Record {
        response: Some(&response),
        ..record(&head, &[])
    };
    for (variable, value) in [
        ("$http_x_forwarded_for", "1.1.1.1, 2.2.2.2"),
        ("$http_x_odd", "odd"),
        ("$http_x_other", "-"),
        ("$http_cookie", "aa=0; a=1; b=\\x222\\x22"),
        ("$http_host", "example.com:8080"),
        ("$host", "example.com"),
        ("$cookie_a", "1"),
        ("$cookie_b", "\\x222\\x22"),
        ("$cookie_c", "-"),
        ("$arg_a", "1"),
        ("$arg_b", ""),
        ("$arg_c", "-"),
        ("$args", "a=1&B=&c"),
        ("$uri$is_args$args", "/p?a=1&B=&c"),
        ("$sent_http_location", "/there"),
        ("$sent_http_content_length", "12"),
        ("$sent_http_etag", "-"),
        ("$request_length", "120"),
        ("$request_time", "0.109"),
        ("$msec", "1233922454.764"),
        ("$time_iso8601", "2009-02-06T13:14:14+01:00"),
        ("$upstream_addr", "-"),
        ("$request_id", "-"),
        ("$remote_port", "33317"),
        ("$flags $response_flags", "---- -"),
    ] {
        assert_eq!(template(variable, &record), value, "{variable}");
    }
    assert_eq!(template("escape=json <$http_x_other>", &record), "<>");
}

#[test]
fn attempts_are_listed() {
    let head = head(b"/", &[]);
    let failed = Attempt {
        status: 0,
        end: End::ConnectFailed,
        connect: None,
        head: None,
        total: ms(5),
        ..attempt("a")
    };
    let attempts = [failed, attempt("b")];
    let record = Record {
        end: End::BackendClosed,
        fault_delayed: true,
        ..record(&head, &attempts)
    };
    assert_eq!(
        template(
            "$upstream_addr|$upstream_status|$upstream_connect_time|$upstream_response_time|\
             $backend|$retries|$response_flags",
            &record
        ),
        "10.0.0.7:80, 10.0.0.7:80|502, 200|-, 0.030|0.005, 0.109|b|1|UC,URX,DI"
    );
}

#[test]
fn a_client_that_left_has_nginx_status_499() {
    let head = head(b"/", &[]);
    let record = Record {
        status: 0,
        end: End::ClientClosed,
        ..record(&head, &[])
    };
    assert_eq!(template("$status", &record), "499");
    let silent = Record {
        end: End::BackendClosed,
        ..record
    };
    assert_eq!(template("$status", &silent), "000");
}

#[test]
fn json_is_json_whatever_a_client_sends() {
    let octets: Vec<u8> = (0..=255).collect();
    let head = head(
        &octets,
        &[("User-Agent", &octets), ("Referer", "é\u{85}".as_bytes())],
    );
    let attempts = [attempt("a\"")];
    let record = Record {
        original_target: Some(b"/original"),
        route: Some("all"),
        refusal: Some((RefusedBy::Client, Refusal::Flood)),
        trace: Some(([0xab; 16], [0x01; 8])),
        request_id: b"id",
        end: End::ClientProtocol,
        phase: Phase::Data,
        ..record(&head, &attempts)
    };
    let line = line(&LogFormat::Json, &record);
    let value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
    let expected = [
        ("time", "2009-02-06T12:14:14.764000Z"),
        ("target", "/original"),
        ("referer", "é\u{85}"),
        ("backend", "a\""),
        ("refusal", "flood"),
        ("flags", "PD--"),
        ("response_flags", "DPE"),
        ("ended_by", "client"),
        ("trace_id", "abababababababababababababababab"),
        ("span_id", "0101010101010101"),
        ("client", "10.0.1.2:33317"),
    ];
    for (member, text) in expected {
        assert_eq!(value[member], text, "{member}");
    }
    let agent: String = octets.iter().map(|&octet| char::from(octet)).collect();
    assert_eq!(value["user_agent"], agent);
    assert_eq!(value["duration"], 0.109);
    assert_eq!(value["upstream"][0]["status"], 200);
    assert_eq!(value["received_bytes"], 120);
}

#[test]
fn a_request_that_was_not_understood_is_logged_as_it_came() {
    let record = Record {
        first_line: b"\x16\x03\x01 \"x",
        status: 400,
        ..Record::default()
    };
    assert_eq!(
        template("$request $status", &record),
        r"\x16\x03\x01 \x22x 400"
    );
    let nothing = Record::default();
    assert_eq!(template("$request $request_uri $http_a", &nothing), "- - -");
    let value: serde_json::Value =
        serde_json::from_slice(&line(&LogFormat::Json, &record)).expect("JSON");
    assert_eq!(value["first_line"], "\u{16}\u{3}\u{1} \"x");
}

#[test]
fn credentials_that_are_none_have_no_user() {
    for (value, user) in [
        (&b"Basic dTpw"[..], "u"),
        (b"basic dTpw", "u"),
        (b"Basic dTo=", "u"),
        (b"Basic dTo", "u"),
        (b"Basic OnB3", "-"),     // No user.
        (b"Basic dXNlcg==", "-"), // No colon.
        (b"Basic d!pw", "-"),
        (b"Bearer dTpw", "-"),
        (b"Basic", "-"),
        (b"", "-"),
    ] {
        let head = head(b"/", &[("Authorization", value)]);
        assert_eq!(template("$remote_user", &record(&head, &[])), user);
    }
    // Longer than one piece of the decoder.
    let long = format!("{}:p", "u".repeat(1000));
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(&long);
    let head = head(
        b"/",
        &[("Authorization", format!("Basic {encoded}").as_bytes())],
    );
    let user = template("$remote_user", &record(&head, &[]));
    assert_eq!(user, "u".repeat(1000));
}

#[test]
fn every_variable_writes_something_that_json_may_hold() {
    let octets: Vec<u8> = (0..=127).collect();
    let head = head(&octets, &[("X", &octets)]);
    let mut fields = Fields::new();
    fields.append_named(b"X", &octets);
    let response = ResponseHead {
        fields,
        ..ResponseHead::default()
    };
    let attempts = [attempt("b")];
    let record = Record {
        response: Some(&response),
        ..record(&head, &attempts)
    };
    for name in log_template::LogVariable::NAMES
        .iter()
        .copied()
        .chain(["http_x", "sent_http_x"])
    {
        let line = template(&format!("escape=json {{\"v\":\"${name}\"}}"), &record);
        let parsed = serde_json::from_str::<serde_json::Value>(&line);
        assert!(parsed.is_ok(), "{name}: {line}");
    }
}
