//! A reload every second for a minute, under load: not one request fails, and nobody notices.

use crate::support::{Client, Daemon, Honest, Origin, is_long};
use bytes::Bytes;
use http::Request;
use std::net::SocketAddr;
use std::time::Duration;

/// Between two reloads: it is the pace that the test is about.
const SECOND: Duration = Duration::from_secs(1);

const GET: &str = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";

/// Asks over HTTP/2 from a thread of its own.
struct H2 {
    runtime: tokio::runtime::Runtime,
    kept: Option<h2::client::SendRequest<Bytes>>,
    address: SocketAddr,
}

impl H2 {
    fn to(address: SocketAddr) -> Self {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        Self {
            runtime: runtime.enable_all().build().expect("a runtime"),
            kept: None,
            address,
        }
    }

    /// Several requests at once, over the kept connection if that takes more: it ends with grace
    /// after many requests, and then the next one is opened.
    fn ask(&mut self) {
        let (kept, address) = (self.kept.take(), self.address);
        let kept = self.runtime.block_on(async move {
            let asked = async {
                let kept = match kept {
                    Some(kept) => kept.ready().await.ok(),
                    None => None,
                };
                let mut send = match kept {
                    Some(send) => send,
                    None => open(address).await,
                };
                let mut answers = Vec::new();
                for _ in 0..4 {
                    let request = Request::get("http://a/x").body(()).expect("a request");
                    answers.push(send.send_request(request, true).expect("sent").0);
                    send = send.ready().await.expect("takes more");
                }
                for answer in answers {
                    let mut answer = answer.await.expect("an answer").into_body();
                    let data = answer.data().await.expect("content").expect("whole");
                    assert!(matches!(&data[..], b"one" | b"two"), "{data:?}");
                }
                send
            };
            let in_time = tokio::time::timeout(proxy_tests::wait::PATIENCE, asked);
            in_time.await.expect("in time")
        });
        self.kept = Some(kept);
    }
}

async fn open(address: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await;
    let (send, connection) = h2::client::handshake(stream.expect("connects"))
        .await
        .expect("greets");
    tokio::spawn(connection);
    send.ready().await.expect("ready")
}

fn is_right(answer: std::io::Result<(u16, String)>) {
    let (status, content) = answer.expect("an answer");
    assert!(
        status == 200 && matches!(&*content, "one" | "two"),
        "{status} {content:?}"
    );
}

#[test]
fn reloads_without_end_fail_no_request() {
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let services = |to: &Origin, more: &str| {
        format!(
            "services: [{{name: app, backends: ['{}']{more}}}]\n\
             routes: [{{name: all, listeners: [web], service: app}}]",
            to.address
        )
    };
    let configurations = [
        ("limits: {fields: 100}", services(&one, "")),
        ("limits: {fields: 90}", services(&two, "")),
        (
            "limits: {fields: 100}",
            services(&two, ", balance: least-requests"),
        ),
    ];
    let (listener, rest) = &configurations[0];
    let daemon = Daemon::start(listener, rest);
    let address = daemon.address;
    let mut honest = Honest::new();
    let mut kept = Client::to(address).expect("connects");
    honest.doing("HTTP/1 over a kept connection", move || {
        is_right(kept.ask(GET))
    });
    honest.doing("HTTP/1 over a new connection", move || {
        is_right(Client::to(address).expect("connects").ask(GET));
    });
    let post = format!(
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{}",
        "x".repeat(100_000)
    );
    let mut kept = Client::to(address).expect("connects");
    honest.doing("content", move || is_right(kept.ask(&post)));
    let mut kept = H2::to(address);
    honest.doing("HTTP/2 over a kept connection", move || kept.ask());
    honest.doing("HTTP/2 over a new connection", move || {
        H2::to(address).ask()
    });
    let mut tunnel = Client::to(address).expect("connects");
    let upgrade = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    tunnel.send(upgrade).expect("sends");
    assert!(tunnel.head().expect("a head").starts_with("HTTP/1.1 101"));
    honest.doing("a tunnel", move || {
        tunnel.send("echo").expect("sends");
        assert_eq!(tunnel.exactly(4).expect("an echo"), b"echo");
    });

    // Five minutes, if there is time.
    let reloads = if is_long() { 300 } else { 60 };
    for number in 1..=reloads {
        let before = honest.answered();
        let (listener, rest) = &configurations[number % configurations.len()];
        daemon.reload(listener, rest);
        std::thread::sleep(SECOND);
        assert!(honest.answered() > before, "nobody was served");
    }
    assert!(honest.end() > 100);
}
