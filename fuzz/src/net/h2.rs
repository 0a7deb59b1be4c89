//! The state of an HTTP/2 connection, without the sockets around it.

#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../../../proxy-userspace/src/net/h2/state/mod.rs"]
mod state;
#[path = "../../../proxy-userspace/src/net/h2/watch.rs"]
mod watch;

use super::buffer::Buffers;
use crate::LIMITS;
use crate::message::h1::RequestKind;
pub use crate::message::h2::frame::PREFACE;
use crate::message::h2::frame::{FrameHead, HEAD, kind, write_frame};
use crate::message::{Fields, Length, ResponseHead};
use state::{Event, Role, Settings, State};

/// What came of a client's octets: paths of requests, their content as far as there was some, and
/// the code that the connection ended with, if it did.
pub type Outcome = (Vec<(Vec<u8>, usize)>, Option<u32>);

/// Serves a client that says this after the preface, in pieces of `step` octets. Each request is
/// answered at once with a few octets; its content is taken as it comes.
pub fn serve(input: &[u8], step: usize) -> Outcome {
    let settings = Settings {
        max_streams: 5,
        stream_window: 65_535,
        connection_window: 65_535,
        max_frame: 16 << 10,
        limits: LIMITS,
    };
    let mut state = State::new(Role::Server, settings, Buffers);
    let mut octets = PREFACE.to_vec();
    write_frame(kind::SETTINGS, 0, 0, &[], &mut octets);
    octets.extend_from_slice(input);
    let (mut waiting, mut served, mut open) = (Vec::new(), Vec::new(), Vec::new());
    for piece in octets.chunks(step.min(octets.len())) {
        waiting.extend_from_slice(piece);
        loop {
            let (taken, event) = match state.receive(&waiting) {
                Ok(received) => received,
                Err(code) => {
                    take(&mut state, &open, &mut served);
                    return (served, Some(code.0));
                }
            };
            waiting.drain(..taken);
            if let Event::Request(key, read) = event {
                open.push((key, served.len()));
                served.push((state.request.target().to_vec(), 0));
                respond(&mut state, key, read.is_ok());
            } else if taken == 0 {
                break;
            }
            take(&mut state, &open, &mut served);
            write(&mut state);
        }
    }
    // Only now: how a late frame is judged depends on whether its stream is still held.
    for (key, _) in open {
        state.release(key);
    }
    write(&mut state);
    (served, None)
}

/// Takes what content has come.
fn take(state: &mut State, open: &[(usize, usize)], served: &mut [(Vec<u8>, usize)]) {
    for (key, number) in open {
        let content = std::mem::take(&mut state.streams[*key].content);
        state.consumed(*key, content.len());
        served[*number].1 += content.len();
    }
}

fn respond(state: &mut State, key: usize, is_valid: bool) {
    let head = ResponseHead {
        status: if is_valid { 200 } else { 400 },
        length: Length::Unknown,
        ..ResponseHead::default()
    };
    state.respond(key, &head, RequestKind::Plain, false);
    let room = state.room(key);
    let copied = state.copy_content(key, b"some content");
    assert!(copied <= room);
    state.finish(key, &Fields::new());
}

/// Takes what is to be written: whole frames.
fn write(state: &mut State) {
    let mut octets = state.output.waiting();
    while let Some(head) = FrameHead::parse(octets) {
        octets = &octets[HEAD + head.length as usize..];
    }
    assert!(octets.is_empty(), "a frame is cut off");
    let all = state.output.len();
    state.output.note_written(all, &state.buffers);
}
