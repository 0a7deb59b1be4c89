mod client;
mod faults;
mod passing;

use super::*;
use crate::message::h2::frame::{FrameHead, HEAD, flag, kind, write_frame};

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
