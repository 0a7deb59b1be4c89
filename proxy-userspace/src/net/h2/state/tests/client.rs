//! What a client makes of its server.

use super::*;
use crate::message::h1::RequestKind;

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
