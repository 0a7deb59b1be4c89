//! What breaks the protocol, and how much it ends.

use super::*;
use crate::message::h1::RequestKind;

/// A field that trailers may have.
const TRAILERS: &[u8] = b"\x00\x05x-sum\x010";

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

/// Answers a request before all of it has come, and stops it.
fn answered_early(state: &mut State, head: &[u8]) {
    let key = begin(state, head);
    let head = ResponseHead {
        status: 204,
        ..ResponseHead::default()
    };
    state.respond(key, &head, RequestKind::Plain, true);
    state.release(key);
    let frames = sent(state);
    let no_error = ErrorCode::NO_ERROR.0.to_be_bytes();
    assert_eq!(frames.last().map(|it| &it.1[..]), Some(&no_error[..]));
}

#[test]
fn what_is_wrong_after_an_early_answer_is_told_once() {
    let data = |flags, octets: &[u8]| frame(kind::DATA, flags, 1, octets);
    let fields = |flags| frame(kind::HEADERS, flag::END_HEADERS | flags, 1, TRAILERS);
    let update = |more: u32| frame(kind::WINDOW_UPDATE, 0, 1, &more.to_be_bytes());
    let (plain, end) = (get(1, 0), flag::END_STREAM);
    let with_length = frame(kind::HEADERS, 4, 1, &[GET, b"\x0f\x0d\x014"].concat());
    let (protocol, closed) = (ErrorCode::PROTOCOL_ERROR, ErrorCode::STREAM_CLOSED);
    let flow = ErrorCode::FLOW_CONTROL_ERROR;
    let cases: &[(&str, &[u8], Vec<u8>, ErrorCode)] = &[
        ("a second head", &plain, fields(0), protocol),
        ("pseudo-fields in trailers", &plain, get(1, end), protocol),
        (
            "trailers on themselves",
            &plain,
            frame(1, 0x25, 1, &[&[0, 0, 0, 1, 9], TRAILERS].concat()),
            protocol,
        ),
        (
            "content after the end",
            &plain,
            [data(end, b"x"), data(0, b"x")].concat(),
            closed,
        ),
        (
            "trailers after the end",
            &plain,
            [fields(end), fields(end)].concat(),
            closed,
        ),
        (
            "content beyond the window",
            &plain,
            data(0, &[0; 16_384]).repeat(7),
            flow,
        ),
        (
            "too much content",
            &with_length,
            data(0, b"12345"),
            protocol,
        ),
        (
            "too little content",
            &with_length,
            data(end, b"123"),
            protocol,
        ),
        ("trailers too early", &with_length, fields(end), protocol),
        ("an update of nothing", &plain, update(0), protocol),
        ("an update beyond all", &plain, update(0x7fff_ffff), flow),
    ];
    for (what, head, octets, code) in cases {
        let mut state = server();
        answered_early(&mut state, head);
        feed(&mut state, octets, 100).expect(what);
        let frames = sent(&mut state);
        let resets = frames
            .iter()
            .filter(|(head, _)| head.kind == kind::RST_STREAM);
        let codes: Vec<_> = resets.map(|(_, code)| code.clone()).collect();
        assert_eq!(codes, [code.0.to_be_bytes()], "{what}");
        assert_eq!(state.watch.faults, 1, "{what}");
        // It has been told, whatever it sends now.
        let more = [data(0, b"x"), fields(0), update(0)].concat();
        feed(&mut state, &more, 100).expect(what);
        assert!(kinds(&mut state).is_empty(), "{what}");
        assert_eq!(state.watch.faults, 1, "{what}");
        // Others go on.
        begin(&mut state, &get(3, flag::END_STREAM));
    }
}

#[test]
fn what_is_right_after_an_early_answer_is_dropped_without_a_word() {
    let update = |more: u32| frame(kind::WINDOW_UPDATE, 0, 1, &more.to_be_bytes());
    let mut state = server();
    let with_length = frame(kind::HEADERS, 4, 1, &[GET, b"\x0f\x0d\x014"].concat());
    answered_early(&mut state, &with_length);
    let rest = [
        update(5),
        frame(kind::DATA, 0, 1, b"12"),
        frame(kind::DATA, 0, 1, b"34"),
        // It puts a field into the table, which a later request refers to.
        frame(kind::HEADERS, 5, 1, b"\x40\x01x\x01y"),
    ];
    assert_eq!(feed(&mut state, &rest.concat(), 50), Ok(Vec::new()));
    assert!(kinds(&mut state).is_empty());
    begin(&mut state, &frame(1, 5, 3, &[GET, b"\xbf"].concat()));
    assert_eq!(state.request.fields.get_named(b"x"), Some(&b"y"[..]));
    // The client takes its window back, and opens it as far as it goes.
    let none = frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    feed(&mut state, &[none, update(0x7fff_ffff - 5)].concat(), 50).expect("valid");
    assert_eq!(kinds(&mut state), [kind::SETTINGS]);
}

#[test]
fn a_stream_that_is_cut_off_and_still_held_is_judged_alike() {
    let mut state = server();
    let key = begin(&mut state, &get(1, 0));
    state.cut(key, ErrorCode::INTERNAL_ERROR);
    assert_eq!(kinds(&mut state), [kind::RST_STREAM]);
    let end = frame(kind::DATA, flag::END_STREAM, 1, b"x");
    feed(&mut state, &end, 50).expect("valid");
    assert!(kinds(&mut state).is_empty());
    state.release(key);
    feed(&mut state, &end, 50).expect("valid");
    let frames = sent(&mut state);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].1, ErrorCode::STREAM_CLOSED.0.to_be_bytes());
}

#[test]
fn of_many_streams_that_were_stopped_the_first_are_forgotten() {
    let mut state = server();
    for number in 0..100 {
        answered_early(&mut state, &get(1 + 2 * number, 0));
    }
    let wrong = |id| frame(kind::WINDOW_UPDATE, 0, id, &[0; 4]);
    feed(&mut state, &[wrong(1), wrong(199)].concat(), 50).expect("valid");
    let frames = sent(&mut state);
    let told: Vec<_> = frames.iter().map(|(head, _)| head.stream).collect();
    assert_eq!(told, [199]);
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
        frame(8, 0, 1, &[0, 0, 0, 1]),
        frame(kind::HEADERS, 5, 1, TRAILERS),
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

/// Both ends may reset a stream at the same time. Who has done so sends nothing on it any more.
#[test]
fn what_follows_a_reset_of_a_stream_that_we_have_reset_is_wrong() {
    let both_reset = || {
        let mut state = server();
        let key = begin(&mut state, &get(1, 0));
        let head = ResponseHead {
            status: 204,
            ..ResponseHead::default()
        };
        state.respond(key, &head, RequestKind::Plain, true);
        state.release(key);
        assert_eq!(kinds(&mut state), [kind::HEADERS, kind::RST_STREAM]);
        // Sent before ours was known.
        feed(&mut state, &frame(kind::DATA, 0, 1, b"x"), 50).expect("valid");
        assert!(kinds(&mut state).is_empty());
        let cancel = frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]);
        feed(&mut state, &cancel, 50).expect("valid");
        state
    };
    let mut state = both_reset();
    feed(&mut state, &frame(kind::DATA, 0, 1, b"x"), 50).expect("valid");
    let frames = sent(&mut state);
    assert_eq!(frames[0].1, ErrorCode::STREAM_CLOSED.0.to_be_bytes());
    let mut state = both_reset();
    let late = feed(&mut state, &get(1, 1), 50);
    assert_eq!(late, Err(ErrorCode::STREAM_CLOSED));
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
