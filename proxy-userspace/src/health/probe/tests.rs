//! Probes over loopback. What can be played over memory with a paused clock is in `http/tests.rs`;
//! here is what only a kernel does: refusing, resetting, not answering a SYN.

use super::super::testing::{health_check, http_probe};
use super::*;
use crate::config::model::HttpProbe;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Long enough for the slowest machine where an answer is expected.
const PATIENCE: Duration = Duration::from_secs(60);

async fn tcp(address: SocketAddr) -> Outcome {
    probe(
        Target::new(address),
        Arc::new(HealthCheck {
            timeout: PATIENCE,
            ..health_check()
        }),
        None,
    )
    .await
}

async fn http(address: SocketAddr, expected: HttpProbe) -> Outcome {
    let probe_http = Probe::Http(expected);
    let check = HealthCheck {
        probe: probe_http,
        timeout: PATIENCE,
        ..health_check()
    };
    probe(Target::new(address), Arc::new(check), None).await
}

/// A listener whose first connection is handed to `serve` while `probe` runs.
async fn against<F: Future>(
    serve: impl AsyncFnOnce(TcpStream),
    probe: impl FnOnce(SocketAddr) -> F,
) -> F::Output {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let peer = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream).await;
    };
    tokio::join!(probe(address), peer).0
}

async fn read_request(stream: &mut TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
}

#[tokio::test]
async fn tcp_probe_passes_where_something_listens_v4_and_v6() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(address).await else {
            assert!(address.starts_with('['), "loopback has IPv4");
            continue;
        };
        let passed = tcp(listener.local_addr().unwrap()).await.unwrap();
        assert!(passed.latency < PATIENCE);
    }
}

#[tokio::test]
async fn probe_to_a_vip_is_not_sent_without_its_mark() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target {
        through: Some("127.0.0.1".parse().unwrap()),
        ..Target::new(listener.local_addr().unwrap())
    };
    let check = HealthCheck {
        timeout: Duration::from_millis(50),
        ..health_check()
    };
    let failure = probe(target, Arc::new(check), None).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Local, "{failure}");
    let accepted = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
    assert!(accepted.is_err(), "a connection was opened");
}

#[tokio::test]
async fn tcp_probe_closes_without_a_reset() {
    let mut end = None;
    against(
        async |mut stream| end = Some(stream.read(&mut [0]).await),
        tcp,
    )
    .await
    .unwrap();
    assert_eq!(end.unwrap().unwrap(), 0, "an orderly end");
}

#[tokio::test]
async fn port_where_nothing_listens_is_refused() {
    // Bound but not listening, so that no other test can be given the port meanwhile.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    assert_eq!(tcp(address).await.unwrap_err().kind, FailureKind::Refused);
    assert_eq!(
        http(address, http_probe()).await.unwrap_err().kind,
        FailureKind::Refused
    );
}

#[tokio::test]
async fn listener_that_takes_no_more_connections_is_a_timeout() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let check = Arc::new(HealthCheck {
        timeout: Duration::from_millis(100),
        ..health_check()
    });
    // Nobody accepts, so each probe that passes fills the queue, from when on the kernel drops
    // SYNs. With a backlog of 0 that is the second.
    for _ in 0..10 {
        let Err(failure) = probe(Target::new(address), check.clone(), None).await else {
            continue;
        };
        assert_eq!(failure.kind, FailureKind::Timeout, "{failure}");
        assert_eq!(&*failure.detail, "timed out connecting");
        return;
    }
    panic!("the queue is never full");
}

#[tokio::test]
async fn http_probe_passes_against_a_server() {
    let expected = HttpProbe {
        body_contains: Some("ok".to_owned()),
        ..http_probe()
    };
    let serve = async |mut stream: TcpStream| {
        read_request(&mut stream).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(answer).await.unwrap();
    };
    against(serve, |address| http(address, expected))
        .await
        .unwrap();
}

#[tokio::test]
async fn reset_instead_of_an_answer_is_a_reset() {
    let serve = async |mut stream: TcpStream| {
        read_request(&mut stream).await;
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    };
    let failure = against(serve, |address| http(address, http_probe()))
        .await
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Reset, "{failure}");
}

#[tokio::test]
async fn reset_within_the_body_is_a_reset() {
    let expected = HttpProbe {
        body_contains: Some("ok".to_owned()),
        ..http_probe()
    };
    let serve = async |mut stream: TcpStream| {
        read_request(&mut stream).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\npart";
        stream.write_all(answer).await.unwrap();
        // A reset also throws away what the probe has not read, so the head may be lost with it:
        // either way it is a reset.
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    };
    let failure = against(serve, |address| http(address, expected))
        .await
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Reset, "{failure}");
}

#[tokio::test]
async fn dropped_probe_closes_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut stream = {
        let probe = http(address, http_probe());
        tokio::select! {
            _ = probe => unreachable!("nobody answers"),
            accepted = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                read_request(&mut stream).await;
                stream
            } => accepted,
        }
    };
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "an orderly end");
}

/// As fast as it can write, so that the probe always finds something to read.
#[tokio::test]
async fn flood_of_interim_answers_cannot_outrun_the_deadline() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let flood = "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000);
        while std::io::Write::write_all(&mut stream, flood.as_bytes()).is_ok() {}
    });
    let check = HealthCheck {
        probe: Probe::Http(http_probe()),
        timeout: Duration::from_millis(200),
        ..health_check()
    };
    let failure = probe(Target::new(address), Arc::new(check), None)
        .await
        .unwrap_err();
    // Where the flood comes before the request, it is a protocol failure.
    let expected = [FailureKind::Timeout, FailureKind::Protocol];
    assert!(expected.contains(&failure.kind), "{failure}");
    peer.join().unwrap();
}

#[tokio::test]
async fn absurd_timeout_does_not_overflow() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let check = HealthCheck {
        timeout: Duration::MAX,
        ..health_check()
    };
    let target = Target::new(listener.local_addr().unwrap());
    probe(target, Arc::new(check), None).await.unwrap();
}
