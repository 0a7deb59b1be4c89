//! Content in both directions: lengths, chunks, trailers, expectations, early answers.

use crate::support::{Client, Origin, Proxy, eventually, field, pattern};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Sends back what it is sent, in the framing in which it came.
fn echo() -> Origin {
    Origin::new(|mut client, _| {
        while let Some(head) = client.head() {
            if field(&head, "transfer-encoding").is_some() {
                let Some((body, trailers)) = client.chunked() else {
                    return;
                };
                client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                for chunk in body.chunks(100_000) {
                    client.send(format!("{:x};ext=1\r\n", chunk.len()));
                    client.send(chunk);
                    client.send("\r\n");
                }
                client.send(format!("0\r\n{trailers}\r\n"));
            } else {
                let length = field(&head, "content-length").unwrap_or("0");
                let body = client.exactly(length.parse().expect("a length"));
                client.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
                ));
                client.send(body);
            }
        }
    })
}

#[test]
fn content_with_a_length_arrives_octet_by_octet() {
    let origin = echo();
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    for length in [0, 1, 4095, 4096, 16_384, 131_072, 131_073, 3_000_000] {
        let body = pattern(length);
        let mut sending = client.clone();
        let sent = body.clone();
        let send = thread::spawn(move || {
            sending.send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
            ));
            sending.send(sent);
        });
        let answer = client.answer();
        send.join().expect("sends");
        assert!(answer.body == body, "{length}");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn what_follows_long_content_is_the_next_request() {
    let origin = echo();
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    let lengths = [500_000, 3, 200_000];
    let mut sending = client.clone();
    let send = thread::spawn(move || {
        for length in lengths {
            sending.send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
            ));
            sending.send(pattern(length));
        }
    });
    for length in lengths {
        assert!(client.answer().body == pattern(length), "{length}");
    }
    send.join().expect("sends");
}

#[test]
fn a_long_answer_that_breaks_off_arrives_as_far_as_it_came() {
    const SENT: usize = 700_000;
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        client.send(pattern(SENT));
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head().expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(client.rest() == pattern(SENT), "and no octet more");
}

#[test]
fn chunks_and_trailers_pass_both_ways() {
    let proxy = Proxy::to(&[echo().address]);
    let mut client = proxy.client();
    for length in [0, 1, 5000, 1_000_000] {
        let body = pattern(length);
        let mut sending = client.clone();
        let sent = body.clone();
        let send = thread::spawn(move || {
            sending.send(
                "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Sum\r\n\
                 Transfer-Encoding: chunked\r\n\r\n",
            );
            for chunk in sent.chunks(70_001) {
                sending.send(format!("{:X}\r\n", chunk.len()));
                sending.send(chunk);
                sending.send("\r\n");
            }
            sending.send("0\r\nX-Sum: 42\r\n\r\n");
        });
        let answer = client.answer();
        send.join().expect("sends");
        assert!(answer.body == body, "{length}");
        assert_eq!(answer.trailers, "X-Sum: 42\r\n");
    }
}

#[test]
fn an_expectation_is_for_the_backend_to_meet() {
    let origin = Origin::new(|mut client, _| {
        while let Some(head) = client.head() {
            assert_eq!(field(&head, "expect"), Some("100-continue"));
            client.send("HTTP/1.1 100 Continue\r\n\r\n");
            let body = client.exactly(5);
            assert_eq!(body, b"hello");
            client.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    for _ in 0..2 {
        client
            .send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(client.answer().status, 100);
        client.send("hello");
        assert_eq!(client.answer().status, 201);
    }
}

#[test]
fn an_expectation_that_is_not_met_ends_the_connection() {
    let origin = Origin::answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let answer = client.answer();
    assert_eq!(
        (answer.status, answer.field("connection")),
        (403, Some("close"))
    );
    client.end();
    assert!(client.is_ended());
}

#[test]
fn an_early_answer_comes_through_while_content_is_still_sent() {
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.exactly(1000);
        client.send(
            "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig",
        );
        client.rest();
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    client.send(pattern(2000));
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
}

#[test]
fn an_answer_may_flow_while_its_request_does() {
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while let Some(line) = client.until(b"\r\n") {
            let size = usize::from_str_radix(line.trim(), 16).expect("a size");
            let data = client.exactly(size);
            client.until(b"\r\n");
            client.send(format!("{size:x}\r\n"));
            client.send(&data);
            client.send("\r\n");
            if size == 0 {
                return;
            }
        }
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let head = client.head().expect("a head before the content");
    assert!(head.starts_with("HTTP/1.1 200"));
    for word in ["ping", "pong!"] {
        client.send(format!("{:x}\r\n{word}\r\n", word.len()));
        assert_eq!(
            client.until(b"\r\n").expect("a size").trim(),
            format!("{:x}", word.len())
        );
        assert_eq!(
            client.exactly(word.len() + 2),
            format!("{word}\r\n").as_bytes()
        );
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.exactly(5), b"0\r\n\r\n");
}

#[test]
fn a_client_that_leaves_is_told_to_the_backend() {
    let gone = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&gone);
    let origin = Origin::new(move |mut client, _| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while client.try_send(b"5\r\nhello\r\n") {
            thread::sleep(std::time::Duration::from_millis(2));
        }
        seen.fetch_add(1, Ordering::SeqCst);
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut client = Client::to(proxy.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head().expect("a head");
    client.abort();
    eventually("the backend's connection ends", || {
        gone.load(Ordering::SeqCst) == 1
    });
}

#[test]
fn a_client_that_leaves_before_the_answer_is_told_too() {
    let gone = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&gone);
    let origin = Origin::new(move |mut client, _| {
        client.head();
        client.rest();
        seen.fetch_add(1, Ordering::SeqCst);
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut client = Client::to(proxy.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request arrives", || origin.connections() == 1);
    client.abort();
    eventually("the backend's connection ends", || {
        gone.load(Ordering::SeqCst) == 1
    });
}
