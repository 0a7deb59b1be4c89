use super::*;
use crate::message::h1::{HeadLimits, RequestKind};
use crate::message::{Fields, Length, Method, RequestHead, ResponseHead};
use crate::net::body::{Filled, Sink as _, Source as _};
use crate::net::{Buffers, Stream};
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use tokio::net::{TcpListener, TcpStream};

const SETTINGS: Settings = Settings {
    max_streams: 10,
    stream_window: 100_000,
    connection_window: 150_000,
    max_frame: 16 << 10,
    limits: HeadLimits {
        fields: 10,
        head_bytes: 1000,
        target_bytes: 100,
    },
};

/// Both ends of a connection.
async fn connected() -> [(Rc<Connection>, Driver); 2] {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let ours = TcpStream::connect(address).await.expect("connects");
    let (theirs, _) = listener.accept().await.expect("accepts");
    let buffers = Buffers::default();
    [(Role::Client, ours), (Role::Server, theirs)].map(|(role, socket)| {
        let stream = Rc::new(Stream::new(socket).expect("connected"));
        Connection::begin(role, stream, SETTINGS, &buffers, &[])
    })
}

/// Drives a connection for ever, and keeps the requests that come.
async fn drive(mut driver: Driver, requests: &RefCell<Vec<Place>>) -> Ended {
    loop {
        match poll_fn(|cx| driver.poll(cx)).await {
            Ok(Step::Looked) => {}
            Ok(Step::Request(place, read)) => {
                read.expect("valid");
                requests.borrow_mut().push(place);
            }
            Err(ended) => return ended,
        }
    }
}

async fn send(sender: &mut Sender, mut octets: &[u8], piece: usize) {
    while !octets.is_empty() {
        let some = &octets[..octets.len().min(piece)];
        let taken = poll_fn(|cx| sender.poll_write(cx, some)).await;
        octets = &octets[taken.expect("takes")..];
    }
    let finished = poll_fn(|cx| sender.poll_finish(cx, &Fields::new())).await;
    finished.expect("ends");
}

async fn content(body: &mut Body) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        match poll_fn(|cx| body.poll_fill(cx)).await.expect("content") {
            Filled::End => return all,
            Filled::Content => {
                // In small steps, as a slow sink would.
                let taken = body.content().len().div_ceil(2);
                all.extend_from_slice(&body.content()[..taken]);
                body.consume(taken);
            }
        }
    }
}

fn post() -> RequestHead {
    let mut head = RequestHead::default();
    head.method = Method::Post;
    head.set_authority(b"a");
    head.set_target(b"/");
    head.length = Length::Unknown;
    head
}

/// Long content goes through whatever way is right for its pieces: copied, or from where it is
/// through a socket that fills up in the middle of frames.
#[tokio::test]
async fn content_arrives_whole_through_windows_and_sockets_that_fill_up() {
    let octets: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    let [(client, ours), (_server, theirs)] = connected().await;
    let (requests, none): (RefCell<Vec<Place>>, RefCell<Vec<Place>>) = Default::default();
    let talk = async {
        for piece in [1000, 9000, 100_000, usize::MAX] {
            let place = client.request(&post(), false).expect("room");
            let (mut sender, mut body) = (Sender::default(), Body::default());
            sender.begin(&place, false);
            body.begin(&place);
            let serve = async {
                let place = poll_fn(|cx| match requests.borrow_mut().pop() {
                    Some(place) => Poll::Ready(place),
                    None => {
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                })
                .await;
                let head = ResponseHead {
                    status: 200,
                    length: Length::Unknown,
                    ..ResponseHead::default()
                };
                place.respond(&head, RequestKind::Plain, false);
                let (mut sender, mut body) = (Sender::default(), Body::default());
                sender.begin(&place, false);
                body.begin(&place);
                let got = content(&mut body).await;
                assert!(got == octets, "{} octets by {piece}", got.len());
                send(&mut sender, &got, piece).await;
                assert_eq!(sender.sent(), octets.len() as u64);
            };
            let receive = async {
                let mut head = ResponseHead::default();
                let come = poll_fn(|cx| place.poll_head(cx, &mut head)).await;
                come.expect("an answer");
                assert_eq!(head.status, 200);
                content(&mut body).await
            };
            let (got, (), ()) = tokio::join!(receive, serve, send(&mut sender, &octets, piece));
            assert!(got == octets, "{} octets by {piece}", got.len());
        }
    };
    tokio::select! {
        ended = drive(ours, &none) => panic!("{ended:?}"),
        ended = drive(theirs, &requests) => panic!("{ended:?}"),
        () = talk => {}
    }
}

#[tokio::test]
async fn streams_end_with_their_connection() {
    let [(client, ours), (_server, theirs)] = connected().await;
    let place = client.request(&post(), false).expect("room");
    let (requests, none): (RefCell<Vec<Place>>, RefCell<Vec<Place>>) = Default::default();
    tokio::select! {
        ended = drive(ours, &none) => panic!("{ended:?}"),
        ended = drive(theirs, &requests) => panic!("{ended:?}"),
        () = poll_fn(|cx| match requests.borrow().is_empty() {
            false => Poll::Ready(()),
            true => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }) => {}
    }
    // Both drivers are gone.
    let mut head = ResponseHead::default();
    let over = poll_fn(|cx| place.poll_head(cx, &mut head)).await;
    assert_eq!(over, Err(Over::Failed));
    poll_fn(|cx| requests.borrow()[0].poll_over(cx)).await;
    assert!(client.request(&post(), true).is_none());
}
