//! Hostile peers, played over memory with a paused clock: a step that waits costs no time, and a
//! probe that would hang shows as a probe that reaches its deadline.

use super::super::super::testing::http_probe;
use super::*;
use proptest::prelude::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Which side acts first. Not left to chance, so that a test shows the same each time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum First {
    Probe,
    Peer,
}

/// Probes a peer that runs `script` and then keeps the connection open, unless the script drops
/// its end.
async fn play<F>(
    expected: &HttpProbe,
    script: impl FnOnce(DuplexStream) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Option<DuplexStream>>,
{
    play_in_order(First::Probe, expected, script).await
}

async fn play_in_order<F>(
    first: First,
    expected: &HttpProbe,
    script: impl FnOnce(DuplexStream) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Option<DuplexStream>>,
{
    let (ours, theirs) = duplex(16 * 1024);
    let started = Instant::now();
    let request = request(expected, "10.0.0.1:8080".parse().unwrap(), 80).unwrap();
    let probe = exchange(ours, request, expected, Deadline(started + TIMEOUT));
    let peer = script(theirs);
    let peer = async move {
        let _open = peer.await;
        std::future::pending::<()>().await;
    };
    let (probe, mut peer) = (std::pin::pin!(probe), std::pin::pin!(peer));
    if first == First::Peer {
        assert!(futures_util::poll!(&mut peer).is_pending());
    }
    let verdict = tokio::select! {
        biased;
        verdict = probe => verdict,
        () = peer => unreachable!("the peer never ends"),
    };
    assert!(
        started.elapsed() <= TIMEOUT + Duration::from_millis(1),
        "it outlived its deadline"
    );
    verdict
}

/// Probes a peer that reads the request, sends `answer` and keeps the connection open.
async fn answer(expected: &HttpProbe, answer: impl AsRef<[u8]>) -> Result<(), Failure> {
    play(expected, async |mut peer| {
        read_request(&mut peer).await;
        peer.write_all(answer.as_ref()).await.ok()?;
        Some(peer)
    })
    .await
}

/// As [`answer`], but the peer closes afterwards.
async fn answer_and_close(expected: &HttpProbe, answer: impl AsRef<[u8]>) -> Result<(), Failure> {
    play(expected, async |mut peer| {
        read_request(&mut peer).await;
        peer.write_all(answer.as_ref()).await.ok()?;
        None
    })
    .await
}

async fn read_request(peer: &mut DuplexStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(peer.read_u8().await.expect("a request"));
    }
    String::from_utf8(request).expect("text")
}

fn expecting(text: &str) -> HttpProbe {
    HttpProbe {
        body_contains: Some(text.to_owned()),
        ..http_probe()
    }
}

#[track_caller]
fn assert_fails(verdict: Result<(), Failure>, kind: FailureKind, detail: &str) {
    let failure = verdict.expect_err("a failure");
    assert_eq!(failure.kind, kind, "{failure}");
    assert!(
        failure.detail.contains(detail),
        "`{failure}` does not say `{detail}`"
    );
}

fn with_length(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[tokio::test(start_paused = true)]
async fn request_says_what_the_check_says_and_asks_to_close() {
    let expected = HttpProbe {
        method: "HEAD".to_owned(),
        ..http_probe()
    };
    let verdict = play(&expected, async |mut peer| {
        let request = read_request(&mut peer).await.to_ascii_lowercase();
        assert!(
            request.starts_with("head /health?deep=1 http/1.1\r\n"),
            "{request}"
        );
        assert!(request.contains("\r\nhost: 10.0.0.1:8080\r\n"), "{request}");
        assert!(request.contains("\r\nconnection: close\r\n"), "{request}");
        assert!(
            request.contains("\r\nuser-agent: sluice-health/"),
            "{request}"
        );
        assert_eq!(request.matches("host:").count(), 1);
        peer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .ok()?;
        Some(peer)
    })
    .await;
    assert_eq!(verdict, Ok(()));
}

#[test]
fn host_is_the_given_one_or_the_address_without_a_default_port() {
    let host = |host: Option<&str>, address: &str| {
        let expected = HttpProbe {
            host: host.map(str::to_owned),
            ..http_probe()
        };
        let request = request(&expected, address.parse().unwrap(), 80).unwrap();
        request.headers()[header::HOST].to_str().unwrap().to_owned()
    };
    assert_eq!(host(Some("example.org"), "10.0.0.1:80"), "example.org");
    assert_eq!(host(None, "10.0.0.1:80"), "10.0.0.1");
    assert_eq!(host(None, "10.0.0.1:8080"), "10.0.0.1:8080");
    assert_eq!(host(None, "[2001:db8::1]:80"), "[2001:db8::1]");
    assert_eq!(host(None, "[2001:db8::1]:8080"), "[2001:db8::1]:8080");
}

#[test]
fn request_that_cannot_be_built_is_a_local_failure() {
    let address = "10.0.0.1:80".parse().unwrap();
    let check = |expected: HttpProbe| {
        assert_eq!(
            request(&expected, address, 80).unwrap_err().kind,
            FailureKind::Local
        );
    };
    check(HttpProbe {
        method: "GE T".to_owned(),
        ..http_probe()
    });
    check(HttpProbe {
        path: "/a b".to_owned(),
        ..http_probe()
    });
    check(HttpProbe {
        host: Some("a\r\nb: c".to_owned()),
        ..http_probe()
    });
}

#[tokio::test(start_paused = true)]
async fn status_in_a_range_passes_and_any_other_fails() {
    let expected = HttpProbe {
        statuses: vec![(200, 204), (401, 401)],
        ..http_probe()
    };
    for (status, passes) in [
        (200, true),
        (204, true),
        (401, true),
        (205, false),
        (503, false),
    ] {
        let verdict = answer(&expected, format!("HTTP/1.1 {status} X\r\n\r\n")).await;
        assert_eq!(verdict.is_ok(), passes, "{status}");
    }
    let verdict = answer(&expected, "HTTP/1.1 503 No\r\n\r\n").await;
    assert_fails(
        verdict,
        FailureKind::Status,
        "status 503, expected 200-204, 401",
    );
}

#[tokio::test(start_paused = true)]
async fn body_that_never_ends_is_not_waited_for_when_only_the_status_counts() {
    let verdict = answer(
        &http_probe(),
        "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\npart",
    )
    .await;
    assert_eq!(verdict, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn old_and_interim_answers_are_understood() {
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    assert_eq!(answer(&http_probe(), interim).await, Ok(()));
    assert_eq!(
        answer_and_close(&expecting("hi"), "HTTP/1.0 200 OK\r\n\r\nhi").await,
        Ok(())
    );
}

#[tokio::test(start_paused = true)]
async fn text_is_found_in_a_body_of_any_framing() {
    let expected = expecting("all is well");
    assert_eq!(
        answer(&expected, with_length(b"<p>all is well</p>")).await,
        Ok(())
    );
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                   4\r\nall \r\n3\r\nis \r\n4\r\nwell\r\n";
    assert_eq!(
        answer(&expected, chunked).await,
        Ok(()),
        "split over chunks, end not awaited"
    );
    let until_close = "HTTP/1.1 200 OK\r\n\r\nyes, all is well";
    assert_eq!(answer_and_close(&expected, until_close).await, Ok(()));
    assert_eq!(
        answer(&expecting(""), "HTTP/1.1 200 OK\r\n\r\n").await,
        Ok(())
    );
}

#[tokio::test(start_paused = true)]
async fn text_is_found_in_bytes_that_come_one_by_one() {
    let verdict = play(&expecting("well"), async |mut peer| {
        read_request(&mut peer).await;
        peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            .await
            .ok()?;
        for byte in b"wewelwell" {
            sleep(Duration::from_millis(100)).await;
            peer.write_all(&[*byte]).await.ok()?;
        }
        Some(peer)
    })
    .await;
    assert_eq!(verdict, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn body_without_the_text_fails() {
    let verdict = answer(&expecting("well"), with_length(b"ill")).await;
    assert_fails(verdict, FailureKind::Body, "body of 3 bytes");
    let verdict = answer(&expecting("well"), "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_fails(verdict, FailureKind::Body, "body of 0 bytes");
}

#[tokio::test(start_paused = true)]
async fn only_the_first_64_kib_of_a_body_are_searched() {
    let text = b"well";
    let mut body = vec![b'x'; 2 * MAX_BODY_BYTES];
    body[MAX_BODY_BYTES - text.len()..MAX_BODY_BYTES].copy_from_slice(text);
    assert_eq!(answer(&expecting("well"), with_length(&body)).await, Ok(()));
    body.insert(0, b'x');
    let verdict = answer(&expecting("well"), with_length(&body)).await;
    assert_fails(verdict, FailureKind::Body, "first 64 KiB");
}

#[tokio::test(start_paused = true)]
async fn endless_body_is_cut_off() {
    let verdict = play(&expecting("well"), async |mut peer| {
        read_request(&mut peer).await;
        peer.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
        while peer.write_all(&[b'x'; 1000]).await.is_ok() {}
        None
    })
    .await;
    assert_fails(verdict, FailureKind::Body, "first 64 KiB");
}

#[tokio::test(start_paused = true)]
async fn garbage_is_a_protocol_failure() {
    for garbage in [
        &b"\x00\x01\x02\x03\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"220 mail ESMTP\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\x1b[2J: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80",
        b"<html>just a page</html>\r\n\r\n",
    ] {
        let shown = garbage.escape_ascii();
        let failure = answer(&http_probe(), garbage).await.expect_err("garbage");
        assert_eq!(failure.kind, FailureKind::Protocol, "{shown}: {failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn broken_chunks_are_a_protocol_failure() {
    for chunk in [
        "FFFFFFFFFFFFFFFFF\r\n",
        "-1\r\n",
        "zz\r\n",
        "4\r\nwxyzw",
        "\r\n",
    ] {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let verdict = answer(&expecting("well"), format!("{head}{chunk}")).await;
        assert_eq!(
            verdict.clone().unwrap_err().kind,
            FailureKind::Protocol,
            "{verdict:?}"
        );
    }
    // The largest size that can be written down is legal, and awaited no longer than the rest.
    let huge = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nx";
    let verdict = answer(&expecting("well"), huge).await;
    assert_fails(verdict, FailureKind::Timeout, "reading the body");
}

#[tokio::test(start_paused = true)]
async fn endless_head_is_a_protocol_failure_in_bounded_memory() {
    for line in ["x-long: y\r\n", "y"] {
        let sent = std::cell::Cell::new(0);
        let verdict = play(&http_probe(), async |mut peer| {
            read_request(&mut peer).await;
            peer.write_all(b"HTTP/1.1 200 OK\r\nx: ").await.ok()?;
            while peer.write_all(line.as_bytes()).await.is_ok() {
                sent.set(sent.get() + line.len());
            }
            None
        })
        .await;
        assert_fails(verdict, FailureKind::Protocol, "waiting for the answer");
        assert!(
            sent.get() < 2 * MAX_HEAD_BYTES,
            "it took {} bytes",
            sent.get()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn endless_trailers_are_a_protocol_failure() {
    let verdict = play(&expecting("well"), async |mut peer| {
        read_request(&mut peer).await;
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n";
        peer.write_all(head.as_bytes()).await.ok()?;
        while peer.write_all(b"x: y\r\n").await.is_ok() {}
        None
    })
    .await;
    assert_fails(verdict, FailureKind::Protocol, "reading the body");
}

#[tokio::test(start_paused = true)]
async fn large_head_within_the_limit_passes() {
    let field = format!("x-field: {}\r\n", "y".repeat(600));
    let head = format!("HTTP/1.1 200 OK\r\n{}\r\n", field.repeat(100));
    assert!(head.len() > 60_000 && head.len() < MAX_HEAD_BYTES);
    assert_eq!(answer(&http_probe(), head).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn too_many_fields_are_a_protocol_failure() {
    let head = format!(
        "HTTP/1.1 200 OK\r\n{}\r\n",
        "a: b\r\n".repeat(MAX_FIELDS + 1)
    );
    assert_fails(
        answer(&http_probe(), head).await,
        FailureKind::Protocol,
        "answer",
    );
}

#[tokio::test(start_paused = true)]
async fn endless_interim_answers_reach_the_deadline() {
    let verdict = play(&http_probe(), async |mut peer| {
        read_request(&mut peer).await;
        while peer
            .write_all(b"HTTP/1.1 102 Processing\r\n\r\n")
            .await
            .is_ok()
        {
            sleep(Duration::from_millis(1)).await;
        }
        None
    })
    .await;
    assert_fails(verdict, FailureKind::Timeout, "waiting for the answer");
}

#[tokio::test(start_paused = true)]
async fn silence_reaches_the_deadline() {
    let reads_nothing = play(&http_probe(), async |peer| Some(peer)).await;
    assert_fails(
        reads_nothing,
        FailureKind::Timeout,
        "waiting for the answer",
    );
    let reads = answer(&http_probe(), "").await;
    assert_fails(reads, FailureKind::Timeout, "waiting for the answer");
}

#[tokio::test(start_paused = true)]
async fn slow_drip_gains_nothing() {
    let drip = async |mut peer: DuplexStream| {
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nand so on and on and on";
        read_request(&mut peer).await;
        for byte in text.bytes() {
            peer.write_all(&[byte]).await.ok()?;
            sleep(Duration::from_millis(100)).await;
        }
        Some(peer)
    };
    let verdict = play(&http_probe(), drip).await;
    assert_fails(verdict, FailureKind::Timeout, "waiting for the answer");

    let verdict = play(&expecting("well"), async |mut peer| {
        read_request(&mut peer).await;
        peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            .await
            .ok()?;
        while peer.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
        None
    })
    .await;
    assert_fails(verdict, FailureKind::Timeout, "reading the body");
}

#[tokio::test(start_paused = true)]
async fn early_close_is_named_wherever_it_comes() {
    for first in [First::Probe, First::Peer] {
        let at_once = play_in_order(first, &http_probe(), async |_peer| None).await;
        let failure = at_once.expect_err("closed");
        // Writing to a closed pipe of this test is a broken pipe, and reading from it an end.
        let expected = [FailureKind::Closed, FailureKind::Reset];
        assert!(expected.contains(&failure.kind), "{first:?}: {failure}");
    }
    for part in ["", "HTTP/1.1", "HTTP/1.1 200 OK\r\nx: y"] {
        let verdict = answer_and_close(&http_probe(), part).await;
        assert_fails(verdict, FailureKind::Closed, "waiting for the answer");
    }
    for part in [
        "content-length: 9\r\n\r\npart",
        "transfer-encoding: chunked\r\n\r\n9\r\npart",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{part}");
        let verdict = answer_and_close(&expecting("well"), answer).await;
        assert_fails(verdict, FailureKind::Closed, "reading the body");
    }
}

#[tokio::test(start_paused = true)]
async fn half_close_before_an_answer_is_a_close_and_after_it_is_harmless() {
    for first in [First::Probe, First::Peer] {
        let before = play_in_order(first, &http_probe(), async |mut peer| {
            peer.shutdown().await.ok()?;
            Some(peer)
        })
        .await;
        assert_fails(before, FailureKind::Closed, "");
    }
    let after = play(&expecting("well"), async |mut peer| {
        read_request(&mut peer).await;
        peer.write_all(&with_length(b"well")).await.ok()?;
        peer.shutdown().await.ok()?;
        Some(peer)
    })
    .await;
    assert_eq!(after, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn answer_before_the_question_is_a_protocol_failure() {
    let verdict = play_in_order(First::Peer, &http_probe(), async |mut peer| {
        peer.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
        Some(peer)
    })
    .await;
    assert_fails(verdict, FailureKind::Protocol, "");
}

#[tokio::test(start_paused = true)]
async fn switch_to_another_protocol_is_judged_by_its_status() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
    let failure = answer(&http_probe(), switch)
        .await
        .expect_err("not expected");
    assert!(
        matches!(failure.kind, FailureKind::Status | FailureKind::Protocol),
        "{failure}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Valid beginnings lead the noise deeper into the parser.
    #[test]
    fn noise_is_answered_with_a_verdict_and_no_byte_of_it_is_repeated(
        beginning in prop::sample::select(vec![
            "",
            "HTTP/1.1 ",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n",
        ]),
        noise in prop::collection::vec(any::<u8>(), 0..300),
        closes in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let bytes = [beginning.as_bytes(), &noise].concat();
        let expected = expecting("this text is not in the noise");
        let verdict = runtime.block_on(async {
            if closes {
                answer_and_close(&expected, bytes).await
            } else {
                answer(&expected, bytes).await
            }
        });
        let failure = verdict.expect_err("noise");
        prop_assert!(failure.is_evidence(), "{}", failure);
        prop_assert!(failure.detail.chars().all(|c| (' '..='~').contains(&c)), "{}", failure);
    }
}
