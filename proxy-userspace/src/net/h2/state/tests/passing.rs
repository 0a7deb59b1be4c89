//! What passes, in whatever pieces, and how far windows let it.

use super::*;
use crate::message::h1::RequestKind;
use crate::message::h2::frame::MOST;
use crate::message::{Fields, Length, Method, Name};

#[test]
fn a_request_and_its_answer_pass_in_whatever_pieces_they_come() {
    for piece in [1, 2, 9, 10, 100, usize::MAX] {
        let (mut client, mut server) = (state(Role::Client), state(Role::Server));
        pass(&mut client, &mut server, piece);
        pass(&mut server, &mut client, piece);
        assert!(client.peer.has_connect && client.peer.max_streams == 3);
        let mut head = RequestHead::default();
        head.method = Method::Post;
        head.set_authority(b"a.test");
        head.set_target(b"/path");
        head.length = Length::Exact(4);
        let asked = client.request(&head, false).expect("room");
        assert_eq!(client.copy_content(asked, b"ping"), 4);
        client.finish(asked, &Fields::new());
        let events = pass(&mut client, &mut server, piece);
        let [Event::Request(key, Ok(()))] = events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(server.request.target(), b"/path");
        assert_eq!(server.request.length, Length::Exact(4));
        assert_eq!(fetch(&mut server, key), b"ping");
        assert_eq!(server.streams[key].coming, Coming::Ended);

        let mut answer = ResponseHead {
            status: 103,
            ..ResponseHead::default()
        };
        server.respond(key, &answer, RequestKind::Plain, false);
        answer.status = 200;
        answer.length = Length::Unknown;
        server.respond(key, &answer, RequestKind::Plain, false);
        server.copy_content(key, b"pong");
        let mut trailers = Fields::new();
        trailers.append(Name::GrpcStatus, b"0");
        server.finish(key, &trailers);
        pass(&mut server, &mut client, piece);
        let mut came = ResponseHead::default();
        for status in [103, 200] {
            assert!(client.fetch_head(asked, &mut came));
            assert_eq!(came.status, status);
        }
        assert_eq!(fetch(&mut client, asked), b"pong");
        let trailers = client.streams[asked].trailers.take().expect("trailers");
        assert_eq!(trailers.get(Name::GrpcStatus), Some(&b"0"[..]));
        assert_eq!((client.open, server.open), (0, 0));
        client.release(asked);
        server.release(key);
        assert!(
            client.output.is_empty() && server.output.is_empty(),
            "nothing to reset"
        );
        assert!(client.ids.is_empty() && server.ids.is_empty());
    }
}

#[test]
fn the_end_goes_out_with_what_is_last_unless_that_has_left() {
    let mut state = server();
    let key = begin(&mut state, &get(1, flag::END_STREAM));
    let head = ResponseHead {
        status: 200,
        length: Length::Unknown,
        ..ResponseHead::default()
    };
    state.respond(key, &head, RequestKind::Plain, false);
    state.finish(key, &Fields::new());
    let frames = sent(&mut state);
    assert_eq!(frames.len(), 1);
    assert!(frames[0].0.has(flag::END_STREAM));
    state.release(key);

    let key = begin(&mut state, &get(3, flag::END_STREAM));
    state.respond(key, &head, RequestKind::Plain, false);
    state.copy_content(key, &[7; 20_000]);
    assert_eq!(kinds(&mut state), [kind::HEADERS, kind::DATA, kind::DATA]);
    state.finish(key, &Fields::new());
    let frames = sent(&mut state);
    assert_eq!((frames[0].0.kind, frames[0].0.length), (kind::DATA, 0));
    assert!(frames[0].0.has(flag::END_STREAM));
}

#[test]
fn small_pieces_become_one_frame_as_long_as_it_has_not_left() {
    let mut state = server();
    let first = begin(&mut state, &get(1, flag::END_STREAM));
    let second = begin(&mut state, &get(3, flag::END_STREAM));
    for _ in 0..3 {
        state.copy_content(first, b"abc");
    }
    state.copy_content(second, b"x");
    state.copy_content(first, b"abc");
    state.finish(first, &Fields::new());
    let payloads: Vec<_> = sent(&mut state)
        .into_iter()
        .map(|(_, payload)| payload)
        .collect();
    assert_eq!(payloads, [&b"abcabcabc"[..], b"x", b"abc"]);
    state.copy_content(second, b"y");
    state.copy_content(second, &[7; 20_000]);
    let lengths: Vec<_> = sent(&mut state)
        .iter()
        .map(|(head, _)| head.length)
        .collect();
    assert_eq!(lengths, [FRAME_SIZE, 20_001 - FRAME_SIZE]);
    assert_eq!(state.streams[second].room, 65_535 - 20_002);
}

#[test]
fn content_goes_as_far_as_both_windows_and_the_output_have_room() {
    let mut state = server();
    let first = begin(&mut state, &get(1, flag::END_STREAM));
    let second = begin(&mut state, &get(3, flag::END_STREAM));
    let long = vec![0; 100_000];
    assert_eq!(
        state.copy_content(first, &long),
        65_535,
        "of the stream and the connection"
    );
    assert_eq!((state.room(first), state.room(second)), (0, 0));
    sent(&mut state);
    let update = |id, more: u32| frame(kind::WINDOW_UPDATE, 0, id, &more.to_be_bytes());
    feed(&mut state, &update(0, 1000), 100).expect("valid");
    assert_eq!((state.room(first), state.room(second)), (0, 1000));
    feed(&mut state, &update(1, 10), 100).expect("valid");
    assert_eq!(state.copy_content(first, &long), 10);
    assert_eq!(state.room(second), 990);
    // A smaller window for streams makes that of one which is open negative.
    let smaller = [0, 4, 0, 0, 0, 5];
    feed(&mut state, &frame(kind::SETTINGS, 0, 0, &smaller), 100).expect("valid");
    assert_eq!((state.room(first), state.room(second)), (0, 5));
    feed(&mut state, &update(1, 65_531), 100).expect("valid");
    assert_eq!(state.room(first), 1);
    feed(&mut state, &update(0, MOST - 990), 100).expect("valid");
    feed(&mut state, &update(1, 1_000_000), 100).expect("valid");
    sent(&mut state);
    assert_eq!(
        state.copy_content(first, &long),
        crate::net::h2::state::send::HELD
    );
    assert_eq!(
        state.copy_content(first, &long),
        0,
        "nobody has written anything"
    );
}

#[test]
fn windows_are_given_back_in_bulk_as_content_is_taken() {
    let mut state = server();
    let key = begin(&mut state, &get(1, 0));
    let piece = frame(kind::DATA, 0, 1, &[1; 16_000]);
    for _ in 0..3 {
        feed(&mut state, &piece, 5000).expect("valid");
    }
    assert!(kinds(&mut state).is_empty(), "nothing was taken");
    assert_eq!(fetch(&mut state, key).len(), 48_000);
    assert!(kinds(&mut state).is_empty(), "not enough");
    for _ in 0..2 {
        feed(&mut state, &piece, usize::MAX).expect("valid");
        fetch(&mut state, key);
    }
    let frames = sent(&mut state);
    let ids: Vec<_> = frames
        .iter()
        .map(|(head, _)| (head.kind, head.stream))
        .collect();
    assert_eq!(ids, [(kind::WINDOW_UPDATE, 1), (kind::WINDOW_UPDATE, 0)]);
    // What a stream leaves behind is given back with it, without the stream.
    for _ in 0..5 {
        feed(&mut state, &piece, usize::MAX).expect("valid");
    }
    state.release(key);
    assert_eq!(state.window + i64::from(state.taken), 150_000);
    assert_eq!(kinds(&mut state), [kind::RST_STREAM, kind::WINDOW_UPDATE]);
}

#[test]
fn padding_counts_and_is_given_back_at_once() {
    let mut state = server();
    let key = begin(&mut state, &get(1, 0));
    let mut payload = vec![200];
    payload.extend(b"content");
    payload.extend([0; 200]);
    for piece in [1, 3, 250] {
        let padded = frame(kind::DATA, flag::PADDED, 1, &payload);
        feed(&mut state, &padded, piece).expect("valid");
        assert_eq!(fetch(&mut state, key), b"content", "{piece}");
    }
    assert_eq!(state.taken, 3 * 208);
    let too_much = frame(kind::DATA, flag::PADDED, 1, &[1]);
    assert_eq!(
        feed(&mut state, &too_much, 100),
        Err(ErrorCode::PROTOCOL_ERROR)
    );
}

#[test]
fn who_is_left_is_told_twice_and_late_requests_are_not_served() {
    let mut state = server();
    let key = begin(&mut state, &get(1, flag::END_STREAM));
    state.leave();
    state.leave();
    let frames = sent(&mut state);
    assert_eq!(frames[0].1[..4], MOST.to_be_bytes());
    let (ping, octets) = &frames[1];
    assert_eq!((ping.kind, frames.len()), (kind::PING, 2));
    // Sent before it was known.
    let second = begin(&mut state, &get(3, flag::END_STREAM));
    feed(&mut state, &frame(kind::PING, flag::ACK, 0, octets), 50).expect("valid");
    assert_eq!(sent(&mut state)[0].1, [0, 0, 0, 3, 0, 0, 0, 0]);
    assert_eq!(
        feed(&mut state, &get(5, flag::END_STREAM), 50),
        Ok(Vec::new())
    );
    for key in [key, second] {
        assert!(!state.is_left());
        state.release(key);
        sent(&mut state);
    }
    assert!(state.is_left());
}
