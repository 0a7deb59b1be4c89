use super::*;
use std::future::poll_fn;

async fn receive(socket: &Datagrams, inbox: &mut Inbox) -> usize {
    poll_fn(|cx| socket.poll_receive(cx, inbox))
        .await
        .expect("received")
}

async fn answered_from(bound: &str, asked: &str) {
    let bound: SocketAddr = bound.parse().expect("an address");
    let server = Datagrams::new(bind(bound).expect("binds")).expect("watched");
    let port = server.local_addr().expect("bound").port();
    let asked = SocketAddr::new(asked.parse().expect("an address"), port);
    let client = Datagrams::connect(asked).expect("connects");
    let (mut inbox, mut outbox) = (Inbox::default(), Outbox::default());
    let asked_thrice = [&b"a"[..], b"", b"ccc"];
    let sent = outbox.send(&client, None, b"", asked_thrice.into_iter());
    assert_eq!(sent.expect("sent"), 3);
    let mut got = Vec::new();
    while got.len() < 3 {
        for index in 0..receive(&server, &mut inbox).await {
            got.push(inbox.datagram(index).to_vec());
        }
    }
    assert_eq!(got, asked_thrice);
    let local = inbox.local(0);
    let is_told = bound.ip().is_unspecified();
    assert_eq!(local.map(Local::ip), is_told.then_some(asked.ip()));
    let source = inbox.source(0).expect("a source");
    assert_eq!(source, client.local_addr().expect("bound"));
    // The client hears only what comes from where it asked.
    let way = Way::new(source, local);
    let sent = outbox.send(&server, Some(&way), b"pre", [&b"fix"[..], b""].into_iter());
    assert_eq!(sent.expect("sent"), 2);
    let mut got = Vec::new();
    while got.len() < 2 {
        for index in 0..receive(&client, &mut inbox).await {
            got.push(inbox.datagram(index).to_vec());
        }
    }
    assert_eq!(got, [&b"prefix"[..], b"pre"]);
}

#[tokio::test]
async fn an_answer_comes_from_the_address_that_was_asked() {
    answered_from("0.0.0.0:0", "127.0.0.9").await;
    answered_from("127.0.0.1:0", "127.0.0.1").await;
    answered_from("[::]:0", "::1").await;
}

#[tokio::test]
async fn what_the_network_says_of_a_peer_is_heard_without_reading_or_writing() {
    let nobody = bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
    let address = nobody.local_addr().expect("bound");
    drop(nobody);
    let client = Datagrams::connect(address).expect("connects");
    let mut outbox = Outbox::default();
    outbox
        .send(&client, None, b"", std::iter::once(&b"a"[..]))
        .expect("sent");
    let error = poll_fn(|cx| client.poll_error(cx)).await;
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn the_largest_datagram_is_whole() {
    let server = bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
    let address = server.local_addr().expect("bound");
    let server = Datagrams::new(server).expect("watched");
    let client = Datagrams::connect(address).expect("connects");
    let (mut inbox, mut outbox) = (Inbox::default(), Outbox::default());
    let large = vec![7; 65_507];
    let sent = outbox.send(&client, None, b"", std::iter::once(&large[..]));
    assert_eq!(sent.expect("sent"), 1);
    assert_eq!(receive(&server, &mut inbox).await, 1);
    assert!(inbox.datagram(0) == large);
    let larger = vec![7; 65_508];
    let refused = outbox.send(&client, None, b"", std::iter::once(&larger[..]));
    let error = refused.expect_err("too large");
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
}

#[test]
fn an_address_is_not_free_while_somebody_is_bound() {
    let first = bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
    let address = first.local_addr().expect("bound");
    bind(address).expect("shared within the process");
    check_free(address).expect_err("in use");
    drop(first);
    check_free(address).expect("free");
}
