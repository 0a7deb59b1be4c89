//! Frames that move no message: settings, windows, pings, resets, farewells.

use super::{Event, Leaving, Over, State, wait};
use crate::message::Refusal;
use crate::message::h2::frame::{
    self, ErrorCode, FrameHead, MOST, flag, kind, setting, write_frame,
};

/// What a PING says that asks whether a client has seen that we leave.
const FAREWELL: [u8; 8] = *b"farewell";

/// What a PING says that asks for a sign of life.
const ALIVE: [u8; 8] = *b"alive???";

impl State {
    pub(super) fn control(&mut self, head: FrameHead, payload: &[u8]) -> Result<Event, ErrorCode> {
        match head.kind {
            kind::PRIORITY => self.priority(head, payload)?,
            kind::RST_STREAM => self.reset_by_peer(head, payload)?,
            kind::SETTINGS => self.settings(head, payload)?,
            kind::PING => self.ping(head, payload)?,
            kind::GOAWAY => self.go_away(head, payload)?,
            kind::WINDOW_UPDATE => self.window_update(head, payload)?,
            // We ask for no pushes, and clients cannot.
            kind::PUSH_PROMISE | kind::CONTINUATION => return Err(ErrorCode::PROTOCOL_ERROR),
            _ => self.watch.note_idle(),
        }
        Ok(Event::None)
    }

    /// True if a stream of this number was never begun.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        // Nobody but clients begins any.
        id.is_multiple_of(2) || id > self.last_id
    }

    /// Priorities are not followed (RFC 9113 §5.3.2).
    fn priority(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ErrorCode> {
        self.watch.note_idle();
        if head.stream == 0 {
            return Err(ErrorCode::PROTOCOL_ERROR);
        }
        let Ok([d0, d1, d2, d3, _]) = <[u8; 5]>::try_from(payload) else {
            return self.fault(head.stream, ErrorCode::FRAME_SIZE_ERROR);
        };
        if u32::from_be_bytes([d0 & 0x7f, d1, d2, d3]) == head.stream {
            return self.fault(head.stream, ErrorCode::PROTOCOL_ERROR);
        }
        Ok(())
    }

    /// An error of a stream; of the connection if there is no such stream.
    fn fault(&mut self, id: u32, code: ErrorCode) -> Result<(), ErrorCode> {
        if self.is_idle(id) {
            return Err(code);
        }
        self.reset(id, code);
        Ok(())
    }

    fn reset_by_peer(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ErrorCode> {
        self.watch.resets = self.watch.resets.wrapping_add(1);
        let code = word(payload).ok_or(ErrorCode::FRAME_SIZE_ERROR)?;
        if self.is_idle(head.stream) {
            return Err(ErrorCode::PROTOCOL_ERROR);
        }
        if let Some(key) = self.key(head.stream) {
            let over = match ErrorCode(code) {
                ErrorCode::REFUSED_STREAM => Over::Unprocessed,
                code => Over::Reset(code),
            };
            self.streams[key].end(over);
            self.streams[key].was_reset = false;
            self.note_done(key);
        } else {
            self.closed.note_reset_by_peer(head.stream);
        }
        self.late.forget(head.stream);
        Ok(())
    }

    fn settings(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ErrorCode> {
        if head.stream != 0 {
            return Err(ErrorCode::PROTOCOL_ERROR);
        }
        if head.has(flag::ACK) {
            return match payload {
                [] => Ok(()),
                _ => Err(ErrorCode::FRAME_SIZE_ERROR),
            };
        }
        self.watch.note_idle();
        if !payload.len().is_multiple_of(6) {
            return Err(ErrorCode::FRAME_SIZE_ERROR);
        }
        for (number, value) in frame::settings(payload) {
            self.set(number, value)?;
        }
        self.peer.is_settled = true;
        write_frame(
            kind::SETTINGS,
            flag::ACK,
            0,
            &[],
            self.output.open(&self.buffers),
        );
        Ok(())
    }

    fn set(&mut self, number: u16, value: u32) -> Result<(), ErrorCode> {
        let check = |is_valid: bool, code| is_valid.then_some(()).ok_or(code);
        match number {
            setting::HEADER_TABLE_SIZE => self.encoder.resize(value),
            setting::ENABLE_PUSH => {
                // A server must not even say that it is willing.
                let most = u32::from(self.role.is_server());
                check(value <= most, ErrorCode::PROTOCOL_ERROR)?;
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
            setting::INITIAL_WINDOW_SIZE => {
                check(value <= MOST, ErrorCode::FLOW_CONTROL_ERROR)?;
                let more = i64::from(value) - i64::from(self.peer.window);
                self.peer.window = value;
                self.late.widen(more);
                for (_, stream) in &mut self.streams {
                    stream.room += more;
                    check(
                        stream.room <= i64::from(MOST),
                        ErrorCode::FLOW_CONTROL_ERROR,
                    )?;
                    stream.wake(wait::WINDOW);
                }
            }
            setting::MAX_FRAME_SIZE => {
                let allowed = frame::FRAME_SIZE..1 << 24;
                check(allowed.contains(&value), ErrorCode::PROTOCOL_ERROR)?;
                self.peer.max_frame = value;
            }
            setting::ENABLE_CONNECT_PROTOCOL => {
                check(value <= 1, ErrorCode::PROTOCOL_ERROR)?;
                self.peer.has_connect = value == 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn ping(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ErrorCode> {
        if head.stream != 0 {
            return Err(ErrorCode::PROTOCOL_ERROR);
        }
        let octets = <[u8; 8]>::try_from(payload).map_err(|_| ErrorCode::FRAME_SIZE_ERROR)?;
        if !head.has(flag::ACK) {
            self.watch.note_idle();
            let out = self.output.open(&self.buffers);
            write_frame(kind::PING, flag::ACK, 0, &octets, out);
        } else if octets == FAREWELL && self.leaving == Leaving::Told {
            self.leave_finally();
        } else if octets == ALIVE {
            self.watch.pongs = self.watch.pongs.wrapping_add(1);
        }
        Ok(())
    }

    /// Asks for a sign of life.
    pub(in crate::net::h2) fn ask(&mut self) {
        write_frame(kind::PING, 0, 0, &ALIVE, self.output.open(&self.buffers));
    }

    /// Tells a client to begin no more requests. Those that it began before it knew are served.
    pub(in crate::net::h2) fn leave(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Told;
            self.write_go_away(MOST, ErrorCode::NO_ERROR);
            write_frame(kind::PING, 0, 0, &FAREWELL, self.output.open(&self.buffers));
        }
    }

    fn leave_finally(&mut self) {
        self.leaving = Leaving::Final(self.last_id);
        self.write_go_away(self.last_id, ErrorCode::NO_ERROR);
    }

    /// True if it is left, and nothing is under way any more.
    pub(in crate::net::h2) fn is_left(&self) -> bool {
        matches!(self.leaving, Leaving::Final(_))
            && self.streams.is_empty()
            && self.output.is_empty()
    }

    pub(super) fn write_go_away(&mut self, last: u32, code: ErrorCode) {
        let payload = u64::from(last) << 32 | u64::from(code.0);
        let out = self.output.open(&self.buffers);
        write_frame(kind::GOAWAY, 0, 0, &payload.to_be_bytes(), out);
    }

    /// The other end goes away. What it did not begin with can be tried elsewhere.
    fn go_away(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ErrorCode> {
        if head.stream != 0 {
            return Err(ErrorCode::PROTOCOL_ERROR);
        }
        let (first, rest) = payload
            .split_first_chunk::<4>()
            .ok_or(ErrorCode::FRAME_SIZE_ERROR)?;
        if rest.len() < 4 {
            return Err(ErrorCode::FRAME_SIZE_ERROR);
        }
        let last = u32::from_be_bytes(*first) & MOST;
        let last = self
            .peer
            .last_stream
            .map_or(last, |before| before.min(last));
        self.peer.last_stream = Some(last);
        if self.role.is_server() {
            return Ok(());
        }
        let late = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.id > last && !stream.is_done());
        for key in late.map(|(key, _)| key).collect::<Vec<_>>() {
            self.streams[key].end(Over::Unprocessed);
            self.note_done(key);
        }
        Ok(())
    }

    fn window_update(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ErrorCode> {
        self.watch.note_window_update();
        let more = word(payload).ok_or(ErrorCode::FRAME_SIZE_ERROR)? & MOST;
        if head.stream == 0 {
            self.room += i64::from(more);
            if more == 0 {
                return Err(ErrorCode::PROTOCOL_ERROR);
            }
            if self.room > i64::from(MOST) {
                return Err(ErrorCode::FLOW_CONTROL_ERROR);
            }
            self.wake_for_window();
            return Ok(());
        }
        if self.is_idle(head.stream) {
            return Err(ErrorCode::PROTOCOL_ERROR);
        }
        let key = self.key(head.stream);
        let Some(key) = key.filter(|&key| self.streams[key].over.is_none()) else {
            // One may still be on its way when a stream ends, but none that says nothing.
            let is_by_us = match key {
                Some(key) => self.streams[key].was_reset,
                None => self.closed.is_by_us(head.stream) == Some(true),
            };
            if is_by_us {
                self.late_update(head.stream, more);
            } else if more == 0 {
                self.reset(head.stream, ErrorCode::PROTOCOL_ERROR);
            }
            return Ok(());
        };
        let stream = &mut self.streams[key];
        stream.room += i64::from(more);
        if more == 0 {
            self.reset(head.stream, ErrorCode::PROTOCOL_ERROR);
        } else if stream.room > i64::from(MOST) {
            self.reset(head.stream, ErrorCode::FLOW_CONTROL_ERROR);
        } else {
            stream.wake(wait::WINDOW);
        }
        Ok(())
    }

    /// Wakes the streams that wait for the connection's window, in the order in which they came.
    fn wake_for_window(&mut self) {
        for key in self.for_window.drain(..) {
            if let Some(stream) = self.streams.get_mut(key) {
                stream.wake(wait::WINDOW);
            }
        }
    }

    /// Resets a stream for what the other end did.
    pub(super) fn reset(&mut self, id: u32, code: ErrorCode) {
        self.watch.faults = self.watch.faults.wrapping_add(1);
        if code == ErrorCode::PROTOCOL_ERROR {
            self.watch.malformed = self.watch.malformed.wrapping_add(1);
        }
        self.write_reset(id, code);
        match self.key(id) {
            Some(key) => {
                self.streams[key].end(Over::Fault(Refusal::Malformed));
                self.note_done(key);
            }
            None => self.closed.note_reset(id),
        }
    }

    pub(super) fn write_reset(&mut self, id: u32, code: ErrorCode) {
        if let Some(key) = self.key(id) {
            let stream = &mut self.streams[key];
            // Who has reset it before knows that it is closed.
            let by_peer = matches!(stream.over, Some(Over::Reset(_) | Over::Unprocessed));
            stream.was_reset |= !by_peer;
        }
        let out = self.output.open(&self.buffers);
        write_frame(kind::RST_STREAM, 0, id, &code.0.to_be_bytes(), out);
    }

    pub(super) fn write_window_update(&mut self, id: u32, more: u32) {
        let out = self.output.open(&self.buffers);
        write_frame(kind::WINDOW_UPDATE, 0, id, &more.to_be_bytes(), out);
    }
}

/// The only word of a payload.
fn word(payload: &[u8]) -> Option<u32> {
    <[u8; 4]>::try_from(payload).ok().map(u32::from_be_bytes)
}
