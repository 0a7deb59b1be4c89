use super::*;
use crate::message::h1::RequestKind;
use crate::message::h2::frame::{FrameHead, HEAD, MOST, flag, kind, write_frame};
use crate::message::{Fields, Length, Method, Name};

const SETTINGS: Settings = Settings {
    max_streams: 3,
    stream_window: 100_000,
    connection_window: 150_000,
    max_frame: FRAME_SIZE,
    limits: HeadLimits {
        fields: 10,
        head_bytes: 1000,
        target_bytes: 100,
    },
};

/// GET http://a/
const GET: &[u8] = b"\x82\x86\x84\x41\x01a";

fn state(role: Role) -> State {
    State::new(role, SETTINGS, Buffers::default())
}

/// What is to be written, as frames; all of it is taken to be written.
fn sent(state: &mut State) -> Vec<(FrameHead, Vec<u8>)> {
    let mut octets = state.output.waiting();
    octets = octets.strip_prefix(PREFACE).unwrap_or(octets);
    let mut frames = Vec::new();
    while let Some(head) = FrameHead::parse(octets) {
        let end = HEAD + head.length as usize;
        frames.push((head, octets[HEAD..end].to_vec()));
        octets = &octets[end..];
    }
    assert!(octets.is_empty(), "a frame is cut off");
    let all = state.output.len();
    state.output.note_written(all, &state.buffers);
    frames
}

fn kinds(state: &mut State) -> Vec<u8> {
    sent(state).iter().map(|(head, _)| head.kind).collect()
}

/// Shows octets to a state in pieces, as a driver would.
fn feed(state: &mut State, octets: &[u8], piece: usize) -> Result<Vec<Event>, ErrorCode> {
    let (mut input, mut events) = (Vec::new(), Vec::new());
    for some in octets.chunks(piece.max(1)) {
        input.extend_from_slice(some);
        loop {
            let (taken, event) = state.receive(&input)?;
            input.drain(..taken);
            if event != Event::None {
                events.push(event);
            } else if taken == 0 {
                break;
            }
        }
    }
    Ok(events)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame(kind, flags, stream, payload, &mut out);
    out
}

/// A server that was greeted, and has answered.
fn server() -> State {
    let mut state = state(Role::Server);
    let greeting = [&PREFACE[..], &frame(kind::SETTINGS, 0, 0, &[])].concat();
    assert_eq!(feed(&mut state, &greeting, 7), Ok(Vec::new()));
    assert_eq!(
        kinds(&mut state),
        [kind::SETTINGS, kind::WINDOW_UPDATE, kind::SETTINGS]
    );
    state
}

/// A request of a whole frame; `flags` beside END_HEADERS.
fn get(stream: u32, flags: u8) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | flags, stream, GET)
}

fn begin(state: &mut State, octets: &[u8]) -> usize {
    match feed(state, octets, octets.len()).as_deref() {
        Ok([Event::Request(key, Ok(()))]) => *key,
        other => panic!("{other:?}"),
    }
}

/// Passes all that one has to say to the other.
fn pass(from: &mut State, to: &mut State, piece: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while !from.output.is_empty() {
        let octets = from.output.waiting().to_vec();
        from.output.note_written(octets.len(), &from.buffers);
        events.extend(feed(to, &octets, piece).expect("valid"));
    }
    events
}

fn fetch(state: &mut State, key: usize) -> Vec<u8> {
    let content = std::mem::take(&mut state.streams[key].content);
    state.consumed(key, content.len());
    content
}

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
    assert_eq!(state.copy_content(first, &long), super::send::HELD);
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
fn what_breaks_the_protocol_ends_the_connection() {
    let of = |kind, flags, stream, payload: &[u8]| frame(kind, flags, stream, payload);
    let open = get(1, 0);
    let head = of(kind::HEADERS, 0, 1, GET);
    let (protocol, size) = (ErrorCode::PROTOCOL_ERROR, ErrorCode::FRAME_SIZE_ERROR);
    let flow = ErrorCode::FLOW_CONTROL_ERROR;
    let cases: &[(&str, Vec<u8>, ErrorCode)] = &[
        ("data of no stream", of(kind::DATA, 0, 0, b"x"), protocol),
        (
            "data of an idle stream",
            of(kind::DATA, 0, 1, b"x"),
            protocol,
        ),
        ("head of no stream", of(kind::HEADERS, 4, 0, GET), protocol),
        (
            "head of a stream of ours",
            of(kind::HEADERS, 4, 2, GET),
            protocol,
        ),
        (
            "a smaller number",
            [get(5, 0), get(3, 0)].concat(),
            protocol,
        ),
        (
            "a frame within a head",
            [head.clone(), of(kind::PING, 0, 0, &[0; 8])].concat(),
            protocol,
        ),
        (
            "another stream's head in a head",
            [head.clone(), get(3, 0)].concat(),
            protocol,
        ),
        (
            "another's continuation",
            [head.clone(), of(9, 4, 3, &[])].concat(),
            protocol,
        ),
        (
            "continuation of nothing",
            of(kind::CONTINUATION, 4, 1, GET),
            protocol,
        ),
        ("a push", of(kind::PUSH_PROMISE, 4, 1, GET), protocol),
        (
            "a block that is none",
            of(kind::HEADERS, 5, 1, b"\x80"),
            ErrorCode::COMPRESSION_ERROR,
        ),
        ("padding only", of(kind::HEADERS, 12, 1, &[9, 0]), protocol),
        (
            "too long",
            of(kind::DATA, 0, 1, &[0; FRAME_SIZE as usize + 1]),
            size,
        ),
        (
            "priority of no stream",
            of(kind::PRIORITY, 0, 0, &[0; 5]),
            protocol,
        ),
        ("a short priority", of(kind::PRIORITY, 0, 1, &[0; 4]), size),
        (
            "a stream on itself",
            of(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 0]),
            protocol,
        ),
        (
            "reset of no stream",
            of(kind::RST_STREAM, 0, 0, &[0; 4]),
            protocol,
        ),
        (
            "reset of an idle stream",
            of(kind::RST_STREAM, 0, 1, &[0; 4]),
            protocol,
        ),
        (
            "a long reset",
            [open.clone(), of(kind::RST_STREAM, 0, 1, &[0; 5])].concat(),
            size,
        ),
        (
            "settings of a stream",
            of(kind::SETTINGS, 0, 1, &[]),
            protocol,
        ),
        (
            "settings of an odd size",
            of(kind::SETTINGS, 0, 0, &[0; 5]),
            size,
        ),
        (
            "an answer with settings",
            of(kind::SETTINGS, 1, 0, &[0; 6]),
            size,
        ),
        (
            "push that is neither",
            of(kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]),
            protocol,
        ),
        (
            "a window too large",
            of(kind::SETTINGS, 0, 0, &[0, 4, 128, 0, 0, 0]),
            flow,
        ),
        (
            "frames too small",
            of(kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 63, 255]),
            protocol,
        ),
        (
            "frames too large",
            of(kind::SETTINGS, 0, 0, &[0, 5, 1, 0, 0, 0]),
            protocol,
        ),
        (
            "a ping of a stream",
            of(kind::PING, 0, 1, &[0; 8]),
            protocol,
        ),
        ("a short ping", of(kind::PING, 0, 0, &[0; 7]), size),
        (
            "a farewell of a stream",
            of(kind::GOAWAY, 0, 1, &[0; 8]),
            protocol,
        ),
        ("a short farewell", of(kind::GOAWAY, 0, 0, &[0; 7]), size),
        (
            "an update of nothing",
            of(kind::WINDOW_UPDATE, 0, 0, &[0; 4]),
            protocol,
        ),
        (
            "an update beyond all",
            of(kind::WINDOW_UPDATE, 0, 0, &[127, 255, 255, 255]),
            flow,
        ),
        (
            "a long update",
            of(kind::WINDOW_UPDATE, 0, 0, &[0; 5]),
            size,
        ),
        (
            "an idle stream's update",
            of(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            protocol,
        ),
    ];
    for (what, octets, code) in cases {
        for piece in [1, usize::MAX] {
            let error = feed(&mut server(), octets, piece).err();
            assert_eq!(error, Some(*code), "{what}");
        }
    }
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    for first in [ping, frame(kind::SETTINGS, flag::ACK, 0, &[])] {
        let octets = [&PREFACE[..], &first].concat();
        let error = feed(&mut state(Role::Server), &octets, 50).err();
        assert_eq!(
            error,
            Some(ErrorCode::PROTOCOL_ERROR),
            "settings come first"
        );
    }
    let error = feed(&mut state(Role::Server), b"PRI * HTTP/1.1\r\n", 5).err();
    assert_eq!(error, Some(ErrorCode::PROTOCOL_ERROR));
}

#[test]
fn what_breaks_one_message_resets_its_stream() {
    let with_length = frame(kind::HEADERS, 4, 1, &[GET, b"\x0f\x0d\x014"].concat());
    let data = |flags, octets: &[u8]| frame(kind::DATA, flags, 1, octets);
    let (protocol, closed) = (ErrorCode::PROTOCOL_ERROR, ErrorCode::STREAM_CLOSED);
    let cases: &[(&str, Vec<u8>, ErrorCode)] = &[
        (
            "upper case",
            frame(kind::HEADERS, 5, 1, &[GET, b"\x00\x01X\x01x"].concat()),
            protocol,
        ),
        (
            "content after the end",
            [get(1, 1), data(0, b"x")].concat(),
            closed,
        ),
        (
            "a head after the end",
            [get(1, 1), get(1, 1)].concat(),
            closed,
        ),
        (
            "too much content",
            [with_length.clone(), data(0, b"12345")].concat(),
            protocol,
        ),
        (
            "too little content",
            [with_length.clone(), data(1, b"123")].concat(),
            protocol,
        ),
        (
            "trailers too early",
            [with_length, frame(1, 5, 1, b"\x00\x01a\x01b")].concat(),
            protocol,
        ),
        (
            "trailers without an end",
            [get(1, 0), frame(1, 4, 1, b"")].concat(),
            protocol,
        ),
        (
            "pseudo-fields in trailers",
            [get(1, 0), get(1, 1)].concat(),
            protocol,
        ),
        (
            "an update of nothing",
            [get(1, 0), frame(8, 0, 1, &[0; 4])].concat(),
            protocol,
        ),
        (
            "an update beyond all",
            [get(1, 0), frame(8, 0, 1, &[127, 255, 255, 255])].concat(),
            ErrorCode::FLOW_CONTROL_ERROR,
        ),
        (
            "content beyond the window",
            [get(1, 0), data(0, &[0; 16_384]).repeat(7)].concat(),
            ErrorCode::FLOW_CONTROL_ERROR,
        ),
        (
            "a stream on itself",
            frame(1, 0x25, 1, &[&[0, 0, 0, 1, 9], GET].concat()),
            protocol,
        ),
    ];
    for (what, octets, code) in cases {
        let mut state = server();
        feed(&mut state, octets, 100).expect(what);
        let frames = sent(&mut state);
        let reset = frames
            .iter()
            .find(|(head, _)| head.kind == kind::RST_STREAM)
            .expect(what);
        assert_eq!(reset.1, code.0.to_be_bytes(), "{what}");
        assert_eq!(state.watch.faults, 1, "{what}");
        assert_eq!(
            state.watch.malformed,
            u32::from(*code == protocol),
            "{what}"
        );
        // Others go on.
        begin(&mut state, &get(3, flag::END_STREAM));
    }
}

#[test]
fn an_update_of_nothing_is_wrong_after_a_streams_end_too() {
    let update = |more: u32| frame(kind::WINDOW_UPDATE, 0, 1, &more.to_be_bytes());
    // Ended in turn, as the other end knows.
    let mut state = server();
    let key = begin(&mut state, &get(1, flag::END_STREAM));
    let head = ResponseHead {
        status: 200,
        ..ResponseHead::default()
    };
    state.respond(key, &head, RequestKind::Plain, true);
    state.release(key);
    sent(&mut state);
    feed(&mut state, &update(1), 50).expect("valid");
    assert!(kinds(&mut state).is_empty(), "it was on its way");
    feed(&mut state, &update(0), 50).expect("valid");
    assert_eq!(kinds(&mut state), [kind::RST_STREAM]);
    feed(&mut state, &update(0), 50).expect("valid");
    assert!(kinds(&mut state).is_empty(), "it has been told");
}

#[test]
fn frames_of_streams_that_are_gone_are_judged_by_who_ended_them() {
    // Reset by us: the client may not know yet.
    let mut state = server();
    let key = begin(&mut state, &get(1, 0));
    state.release(key);
    sent(&mut state);
    let late = [
        frame(kind::DATA, 0, 1, &[0; 100]),
        get(1, 1),
        frame(8, 0, 1, &[0, 0, 0, 1]),
    ];
    assert_eq!(feed(&mut state, &late.concat(), 50), Ok(Vec::new()));
    assert_eq!((kinds(&mut state), state.taken), (vec![], 100));
    // For what was wrong with it: once is enough (RFC 9113 §5.4.2).
    let mut state = server();
    let key = begin(&mut state, &get(1, 0));
    let wrong = frame(kind::HEADERS, flag::END_HEADERS, 1, GET);
    feed(&mut state, &wrong, 50).expect("valid");
    assert_eq!(kinds(&mut state), [kind::RST_STREAM]);
    state.release(key);
    feed(&mut state, &frame(kind::DATA, 0, 1, b"x"), 50).expect("valid");
    assert!(kinds(&mut state).is_empty());
    // Reset by the client, who then goes on.
    let mut state = server();
    let key = begin(&mut state, &get(1, 0));
    feed(
        &mut state,
        &frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]),
        50,
    )
    .expect("valid");
    assert_eq!(
        state.streams[key].over,
        Some(Over::Reset(ErrorCode::CANCEL))
    );
    feed(&mut state, &frame(kind::DATA, 0, 1, b"x"), 50).expect("valid");
    state.release(key);
    let frames = sent(&mut state);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].1, ErrorCode::STREAM_CLOSED.0.to_be_bytes());
    assert_eq!(
        feed(&mut state, &get(1, 1), 50),
        Err(ErrorCode::STREAM_CLOSED)
    );
}

#[test]
fn streams_beyond_the_limit_are_refused_and_keep_the_tables() {
    let mut state = server();
    for id in [1, 3, 5] {
        begin(&mut state, &get(id, 0));
    }
    // It puts a field into the table, which a later one refers to.
    let refused = frame(1, 5, 7, &[GET, b"\x40\x01x\x01y"].concat());
    assert_eq!(feed(&mut state, &refused, 50), Ok(Vec::new()));
    let frames = sent(&mut state);
    assert_eq!(frames[0].1, ErrorCode::REFUSED_STREAM.0.to_be_bytes());
    let key = state.key(1).expect("open");
    state.release(key);
    let later = frame(1, 5, 9, &[b"\x82\x86\x84\xbf", &b"\xbe"[..]].concat());
    assert!(matches!(
        feed(&mut state, &later, 50).as_deref(),
        Ok([Event::Request(_, Ok(()))])
    ));
    assert_eq!(state.request.fields.get_named(b"x"), Some(&b"y"[..]));
}

#[test]
fn continuations_without_end_end_the_connection() {
    let mut state = server();
    let mut octets = frame(kind::HEADERS, 0, 1, GET);
    for _ in 0..20 {
        octets.extend(frame(kind::CONTINUATION, 0, 1, b""));
    }
    assert!(!state.is_head_open());
    assert_eq!(
        feed(&mut state, &octets, 50),
        Err(ErrorCode::ENHANCE_YOUR_CALM)
    );
    assert!(state.is_head_open());
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

/// A client whose server has said what it takes.
fn client() -> State {
    let mut state = state(Role::Client);
    sent(&mut state);
    feed(&mut state, &frame(kind::SETTINGS, 0, 0, &[]), 50).expect("valid");
    sent(&mut state);
    state
}

fn ask(state: &mut State) -> usize {
    let mut head = RequestHead::default();
    head.set_authority(b"a");
    head.set_target(b"/");
    state.request(&head, true).expect("room")
}

#[test]
fn what_a_server_did_not_begin_with_is_unprocessed() {
    let mut state = client();
    let keys = [ask(&mut state), ask(&mut state), ask(&mut state)];
    feed(
        &mut state,
        &frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 7]),
        50,
    )
    .expect("valid");
    let away = frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0]);
    feed(&mut state, &away, 50).expect("valid");
    let overs = keys.map(|key| state.over(key));
    assert_eq!(
        overs,
        [Some(Over::Unprocessed), None, Some(Over::Unprocessed)]
    );
    assert!(!state.is_open());
    assert_eq!(state.request(&RequestHead::default(), true), None);
    feed(&mut state, &frame(kind::HEADERS, 5, 3, b"\x88"), 50).expect("valid");
    assert!(state.fetch_head(keys[1], &mut ResponseHead::default()));
    state.lose(Over::Closed);
    assert_eq!(state.over(keys[1]), None, "it was complete");
}

#[test]
fn content_never_comes_to_the_stream_that_has_its_place_now() {
    let mut state = client();
    let first = ask(&mut state);
    feed(&mut state, &frame(kind::HEADERS, 4, 1, b"\x88"), 50).expect("valid");
    let data = frame(kind::DATA, flag::END_STREAM, 1, b"of the first");
    feed(&mut state, &data[..HEAD + 3], 50).expect("valid");
    state.release(first);
    let second = ask(&mut state);
    assert_eq!(first, second, "the same place");
    feed(&mut state, &data[HEAD + 3..], 50).expect("valid");
    assert!(state.streams[second].content.is_empty());
    assert_eq!(state.streams[second].coming, Coming::Head);
    assert_eq!(state.taken, 12, "all of it is given back");
}

#[test]
fn answers_of_no_valid_form_fail_their_request_only() {
    for (what, octets, refusal) in [
        ("no status", frame(1, 5, 1, b""), Refusal::Malformed),
        ("101", frame(1, 5, 1, b"\x08\x03101"), Refusal::Upgrade),
        ("content first", frame(0, 0, 1, b"x"), Refusal::Malformed),
        (
            "too short",
            frame(1, 5, 1, b"\x88\x0f\x0d\x015"),
            Refusal::LengthMismatch,
        ),
        (
            "too long",
            [frame(1, 4, 1, b"\x88\x0f\x0d\x011"), frame(0, 1, 1, b"xy")].concat(),
            Refusal::LengthMismatch,
        ),
        (
            "content behind 204",
            [frame(1, 4, 1, b"\x89"), frame(0, 1, 1, b"x")].concat(),
            Refusal::LengthMismatch,
        ),
        (
            "informed for ever",
            frame(1, 4, 1, b"\x08\x03103").repeat(100),
            Refusal::Informational,
        ),
    ] {
        let mut state = client();
        let (key, other) = (ask(&mut state), ask(&mut state));
        sent(&mut state);
        feed(&mut state, &octets, 50).expect(what);
        assert_eq!(state.over(key), Some(Over::Fault(refusal)), "{what}");
        assert!(state.is_malformed(key), "{what}");
        assert_eq!(state.over(other), None);
        assert_eq!(kinds(&mut state), [kind::RST_STREAM], "{what}");
    }
    let idle = feed(&mut client(), &frame(1, 5, 1, b"\x88"), 50);
    assert_eq!(idle, Err(ErrorCode::PROTOCOL_ERROR), "nobody has asked");
}

#[test]
fn what_comes_behind_a_whole_answer_says_nothing_of_it() {
    let mut state = client();
    let mut head = RequestHead::default();
    head.set_authority(b"a");
    head.set_target(b"/");
    // Its content is still to come, so that the stream stays open.
    let key = state.request(&head, false).expect("room");
    let octets = [frame(1, 5, 1, b"\x88"), frame(0, 0, 1, b"x")].concat();
    feed(&mut state, &octets, 50).expect("an error of the stream");
    assert!(matches!(state.over(key), Some(Over::Fault(_))));
    assert!(!state.is_malformed(key));
    assert!(state.fetch_head(key, &mut ResponseHead::default()));
}

#[test]
fn who_lets_go_of_a_stream_resets_it_unless_it_has_ended() {
    let reset = |state: &mut State| {
        let frames = sent(state);
        let found = frames
            .into_iter()
            .find(|(head, _)| head.kind == kind::RST_STREAM);
        found.map(|(_, payload)| payload[3])
    };
    let mut state = client();
    let key = ask(&mut state);
    state.release(key);
    assert_eq!(reset(&mut state), Some(8), "not wanted any more");
    // A whole answer before the request's end.
    let mut state = server();
    let key = begin(&mut state, &get(1, 0));
    let head = ResponseHead {
        status: 204,
        ..ResponseHead::default()
    };
    state.respond(key, &head, RequestKind::Plain, true);
    state.release(key);
    assert_eq!(reset(&mut state), Some(0), "the rest is not wanted");
    assert_eq!(state.open, 0);
}
