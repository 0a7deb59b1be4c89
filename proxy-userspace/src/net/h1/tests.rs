use super::*;
use crate::message::Fields;
use crate::message::h1::HeadLimits;
use crate::net::body::{BodyError, Filled, InFile, Sink as _, Source as _};
use crate::net::{Buffers, Stream};
use std::future::poll_fn;
use std::rc::Rc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const LIMITS: HeadLimits = HeadLimits {
    fields: 10,
    head_bytes: 1000,
    target_bytes: 100,
};

/// A connection: our two halves, and the other end.
async fn connection() -> (Reader, Writer, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let other = TcpStream::connect(address).await.expect("connects");
    let (ours, _) = listener.accept().await.expect("accepts");
    let stream = Rc::new(Stream::new(ours).expect("connected"));
    let buffers = Buffers::default();
    let reader = Reader::new(Rc::clone(&stream), buffers.clone(), LIMITS);
    (reader, Writer::new(stream, buffers), other)
}

/// All content, or what went wrong, and the content before that.
async fn content(reader: &mut Reader) -> (Vec<u8>, Result<(), BodyError>) {
    let mut all = Vec::new();
    loop {
        match poll_fn(|cx| reader.poll_fill(cx)).await {
            Ok(Filled::End) => return (all, Ok(())),
            Ok(Filled::Content) => {
                // In small steps, as a slow sink would.
                let taken = reader.content().len().div_ceil(2);
                all.extend_from_slice(&reader.content()[..taken]);
                reader.consume(taken);
            }
            Err(error) => return (all, Err(error)),
        }
    }
}

async fn write(writer: &mut Writer, mut octets: &[u8]) {
    while !octets.is_empty() {
        let taken = poll_fn(|cx| writer.poll_write(cx, octets)).await;
        octets = &octets[taken.expect("writes")..];
    }
}

#[tokio::test]
async fn content_ends_where_its_length_says_and_the_rest_stays() {
    let (mut reader, _writer, mut other) = connection().await;
    other.write_all(b"helloGET /").await.expect("writes");
    reader.begin(Delimited::Exact(5));
    let (all, end) = content(&mut reader).await;
    assert_eq!(all, b"hello");
    end.expect("whole");
    assert_eq!(reader.octets(), b"GET /");
    assert!(reader.is_done() && !reader.is_idle());
}

#[tokio::test]
async fn chunks_and_trailers_pass_from_reader_to_writer() {
    let (mut reader, mut writer, mut other) = connection().await;
    other
        .write_all(b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n")
        .await
        .expect("writes");
    reader.begin(Delimited::Chunked);
    let (all, end) = content(&mut reader).await;
    assert_eq!(all, b"hello world");
    end.expect("whole");
    assert_eq!(reader.trailers().get_named(b"x-sum"), Some(&b"11"[..]));

    writer.head(|out| out.extend_from_slice(b"HEAD:"));
    writer.begin(Delimited::Chunked);
    write(&mut writer, b"hello").await;
    let long = vec![b'x'; 0x5000];
    write(&mut writer, &long).await;
    let trailers = reader.trailers().clone();
    poll_fn(|cx| writer.poll_finish(cx, &trailers))
        .await
        .expect("ends");
    let expected = [
        b"HEAD:5\r\nhello\r\n5000\r\n".as_slice(),
        &long,
        b"\r\n0\r\nX-Sum: 11\r\n\r\n",
    ]
    .concat();
    let mut received = vec![0; expected.len()];
    other.read_exact(&mut received).await.expect("reads");
    assert!(received == expected);
}

#[tokio::test]
async fn content_that_ends_early_is_an_error_unless_the_end_delimits_it() {
    for (delimited, whole) in [(Delimited::Exact(9), false), (Delimited::ByClose, true)] {
        let (mut reader, _writer, mut other) = connection().await;
        other.write_all(b"hello").await.expect("writes");
        drop(other);
        reader.begin(delimited);
        let (all, end) = content(&mut reader).await;
        assert_eq!(all, b"hello");
        assert_eq!(end.is_ok(), whole, "{delimited:?}: {end:?}");
    }
}

#[tokio::test]
async fn less_content_than_announced_cannot_be_ended() {
    let (_reader, mut writer, _other) = connection().await;
    writer.begin(Delimited::Exact(9));
    write(&mut writer, b"hello").await;
    let end = poll_fn(|cx| writer.poll_finish(cx, &Fields::new())).await;
    assert!(matches!(end, Err(BodyError::Truncated)), "{end:?}");
}

#[tokio::test]
async fn long_content_arrives_whole_through_a_socket_that_fills_up() {
    let (mut reader, mut writer, other) = connection().await;
    let octets: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut from_us, mut to_us) = other.into_split();
    let receive = async {
        let mut received = Vec::new();
        from_us.read_to_end(&mut received).await.expect("reads");
        received
    };
    let send = async {
        writer.begin(Delimited::ByClose);
        write(&mut writer, &octets).await;
        poll_fn(|cx| writer.poll_finish(cx, &Fields::new()))
            .await
            .expect("ends");
    };
    let echo = async {
        to_us.write_all(&octets).await.expect("writes");
        to_us.shutdown().await.expect("ends");
    };
    reader.begin(Delimited::ByClose);
    let (received, (), (), (all, end)) = tokio::join!(receive, send, echo, content(&mut reader));
    end.expect("whole");
    assert!(received == octets && all == octets);
    assert_eq!(writer.written(), octets.len() as u64);
    assert_eq!(reader.received(), octets.len() as u64);
}

#[tokio::test]
async fn a_file_follows_its_head_through_a_socket_that_fills_up() {
    let (_reader, mut writer, mut other) = connection().await;
    let octets: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut file = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut file, &octets).expect("writes");
    let send = async {
        writer.head(|out| out.extend_from_slice(b"HEAD:"));
        writer.begin(Delimited::Exact(octets.len() as u64));
        let mut at = 0;
        while at < octets.len() as u64 {
            // More than may follow: the framing decides.
            let octets = octets.len() as u64 + 10 - at;
            let file = InFile {
                file: &file,
                at,
                octets,
            };
            let taken = poll_fn(|cx| writer.poll_write_file(cx, file)).await;
            at += taken.expect("sends") as u64;
        }
        poll_fn(|cx| writer.poll_finish(cx, &Fields::new()))
            .await
            .expect("ends");
    };
    let mut received = vec![0; 5 + octets.len()];
    let receive = other.read_exact(&mut received);
    let ((), read) = tokio::join!(send, receive);
    read.expect("reads");
    assert_eq!(&received[..5], b"HEAD:");
    assert!(received[5..] == octets);
    assert_eq!(writer.written(), received.len() as u64);

    writer.begin(Delimited::Exact(1));
    let beyond = InFile {
        file: &file,
        at: octets.len() as u64,
        octets: 1,
    };
    let end = poll_fn(|cx| writer.poll_write_file(cx, beyond)).await;
    assert!(matches!(end, Err(BodyError::Truncated)), "{end:?}");
}
