//! Compressed responses: curl reads them, and streams arrive as they are made.

use crate::peers::curl;
use crate::support::{Origin, Proxy, pattern};
use proxy_userspace::config::model::http::{Action, Coding, Compression, Files, Route};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

/// A proxy that compresses, with everything by default.
fn compressing(origin: &Origin) -> Proxy {
    Proxy::with(&[origin.address], |config| {
        config.http_listeners[0].compression = Some(Compression::default());
    })
}

fn text() -> Vec<u8> {
    b"What is written once need not be written twice. ".repeat(5000)
}

/// An origin whose text has a length, or is chunked.
fn origin(is_chunked: bool) -> Origin {
    let text = text();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nETag: \"a\"\r\n";
    let answer = if is_chunked {
        let mut answer = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
        for chunk in text.chunks(7777) {
            answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            answer.extend_from_slice(chunk);
            answer.extend_from_slice(b"\r\n");
        }
        answer.extend_from_slice(b"0\r\n\r\n");
        answer
    } else {
        let head = format!("{head}Content-Length: {}\r\n\r\n", text.len());
        [head.as_bytes(), &text].concat()
    };
    Origin::answering(answer)
}

#[test]
fn curl_reads_each_coding_over_each_version() {
    for is_chunked in [false, true] {
        let origin = origin(is_chunked);
        let proxy = compressing(&origin);
        let url = format!("http://{}/", proxy.address);
        for version in ["--http1.0", "--http1.1", "--http2-prior-knowledge"] {
            for coding in Coding::ALL {
                let accept = format!("Accept-Encoding: {}", coding.name());
                let sent = curl(&[version, "-H", &accept, &url]);
                assert!(sent.len() < 5000, "{version} {coding:?}: {}", sent.len());
                let read = curl(&[version, "-H", &accept, "--compressed", &url]);
                assert!(read == text(), "{version} {coding:?}");
            }
            assert!(curl(&[version, &url]) == text(), "{version}");
        }
        let head = String::from_utf8(curl(&["-I", "-H", "Accept-Encoding: gzip", &url]));
        let head = head.expect("text").to_lowercase();
        assert!(head.contains("content-encoding: gzip"), "{head}");
        assert!(!head.contains("content-length"), "{head}");
        assert!(head.contains("etag: w/\"a\""), "{head}");
        assert!(head.contains("vary: accept-encoding"), "{head}");
    }
}

#[test]
fn a_kept_connection_serves_on_after_a_compressed_response() {
    let origin = origin(false);
    let proxy = compressing(&origin);
    let mut client = proxy.client();
    for accept in ["gzip", "identity", "br"] {
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accept}\r\n\r\n"
        ));
        let answer = client.answer();
        let is_plain = accept == "identity";
        assert_eq!(answer.field("content-encoding").is_none(), is_plain);
        assert_eq!(answer.body == text(), is_plain);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_stream_of_events_arrives_as_it_is_made() {
    let (more, wait) = channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let origin = Origin::new(move |mut client, _| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
        client.send("data: one\n\n");
        // Only when the client has it, the next one is made.
        wait.lock().expect("one").recv().expect("more");
        client.send("data: two\n\n");
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        config.http_listeners[0].compression = Some(Compression {
            types: vec!["text/event-stream".to_owned()],
            codings: vec![Coding::Gzip],
            ..Compression::default()
        });
    });
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
    let head = client.head().expect("a head").to_lowercase();
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let first = client.chunk().expect("an event");
    assert!(!first.is_empty());
    more.send(()).expect("waits");
    let second = client.chunk().expect("another");
    assert!(!second.is_empty());
}

#[test]
fn files_of_this_host_are_compressed_and_a_route_may_turn_it_off() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.txt"), text()).expect("written");
    std::fs::write(folder.path().join("a.bin"), pattern(5000)).expect("written");
    let proxy = Proxy::with(&[], |config| {
        config.http_listeners[0].compression = Some(Compression::default());
        let files = || Action::Files(Files::new(folder.path()));
        config.routes = vec![Route::catch_all("all", "web", files())];
        let mut plain = Route::catch_all("plain", "web", files());
        plain.hosts = vec![proxy_userspace::config::model::http::HostMatch::Exact(
            "plain".to_owned(),
        )];
        plain.compression = Some(Compression {
            codings: Vec::new(),
            ..Compression::default()
        });
        config.routes.push(plain);
    });
    let url = |file: &str| format!("http://{}/{file}", proxy.address);
    assert!(curl(&["--compressed", &url("a.txt")]) == text());
    assert!(curl(&["-H", "Accept-Encoding: gzip", &url("a.txt")]).len() < 5000);
    assert!(curl(&["-H", "Accept-Encoding: gzip", &url("a.bin")]) == pattern(5000));
    let plain = [
        "-H",
        "Accept-Encoding: gzip",
        "-H",
        "Host: plain",
        &url("a.txt"),
    ];
    assert!(curl(&plain) == text());
    // A part is of the plain form.
    let part = curl(&["-H", "Accept-Encoding: gzip", "-r", "0-99", &url("a.txt")]);
    assert!(part == text()[..100]);
}
