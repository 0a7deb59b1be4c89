//! What comes: frames, heads and content.

use super::{Block, Coming, Data, Event, Over, Role, State, Stream, wait};
use crate::message::h1::RequestKind;
use crate::message::h2::BlockError;
use crate::message::h2::frame::{
    ErrorCode, FRAME_SIZE, FrameHead, HEAD, PREFACE, flag, kind, unpadded,
};
use crate::message::{Length, Refusal};
use crate::net::buffer::LARGE;

/// Frames that are looked at in one step.
const FRAMES: usize = 64;

/// Informational heads that may wait for the user of a stream.
const INFORMED: usize = 64;

/// Streams that may be gone and still held, beyond those that may be open.
const GONE: usize = 64;

impl State {
    /// Looks at what has come, and returns how many octets it has understood and what that means.
    /// Nothing understood and no event: more must come first.
    ///
    /// # Errors
    ///
    /// The connection has to end with this code.
    pub(in crate::net::h2) fn receive(
        &mut self,
        input: &[u8],
    ) -> Result<(usize, Event), ErrorCode> {
        let mut at = self.receive_preface(input)?;
        if self.preface_left > 0 {
            return Ok((at, Event::None));
        }
        for _ in 0..FRAMES {
            let rest = &input[at..];
            if self.data.is_some() {
                let taken = self.receive_content(rest);
                at += taken;
                if self.data.is_some() {
                    break;
                }
                continue;
            }
            let Some(head) = FrameHead::parse(rest) else {
                break;
            };
            if head.length > self.settings.max_frame {
                return Err(ErrorCode::FRAME_SIZE_ERROR);
            }
            self.check_order(head)?;
            if head.kind == kind::DATA {
                let Some(begun) = self.begin_content(head, &rest[HEAD..])? else {
                    break;
                };
                at += HEAD + begun;
                continue;
            }
            let end = HEAD + head.length as usize;
            if end > LARGE {
                return Err(ErrorCode::FRAME_SIZE_ERROR);
            }
            let Some(payload) = rest.get(HEAD..end) else {
                break;
            };
            at += end;
            let event = match head.kind {
                kind::HEADERS => self.headers(head, payload)?,
                kind::CONTINUATION if self.block.is_some() => self.continuation(head, payload)?,
                _ => self.control(head, payload)?,
            };
            if event != Event::None {
                return Ok((at, event));
            }
        }
        Ok((at, Event::None))
    }

    fn receive_preface(&mut self, input: &[u8]) -> Result<usize, ErrorCode> {
        if self.preface_left == 0 {
            return Ok(0);
        }
        let wanted = &PREFACE[PREFACE.len() - self.preface_left..];
        let there = wanted.len().min(input.len());
        if input[..there] != wanted[..there] {
            return Err(ErrorCode::PROTOCOL_ERROR);
        }
        self.preface_left -= there;
        Ok(there)
    }

    /// Whether a frame of this kind may come now.
    fn check_order(&self, head: FrameHead) -> Result<(), ErrorCode> {
        let is_settings = head.kind == kind::SETTINGS && !head.has(flag::ACK);
        let is_first = !self.peer.is_settled;
        let breaks_block = self
            .block
            .as_ref()
            .is_some_and(|block| head.kind != kind::CONTINUATION || head.stream != block.stream);
        if (is_first && !is_settings) || breaks_block {
            return Err(ErrorCode::PROTOCOL_ERROR);
        }
        Ok(())
    }

    /// The head of a frame of content has come. Returns how many octets of its payload were taken
    /// with it; `None` if more must come first.
    fn begin_content(
        &mut self,
        head: FrameHead,
        payload: &[u8],
    ) -> Result<Option<usize>, ErrorCode> {
        let mut padding = 0;
        let is_padded = head.has(flag::PADDED);
        if is_padded && head.length > 0 {
            let Some(&octets) = payload.first() else {
                return Ok(None);
            };
            padding = u32::from(octets);
        }
        if is_padded && padding >= head.length || self.is_idle(head.stream) {
            return Err(ErrorCode::PROTOCOL_ERROR);
        }
        let is_end = head.has(flag::END_STREAM);
        match head.length > 0 || is_end {
            true => self.watch.note_live(),
            false => self.watch.note_idle(),
        }
        self.window -= i64::from(head.length);
        if self.window < 0 {
            return Err(ErrorCode::FLOW_CONTROL_ERROR);
        }
        let overhead = if is_padded { padding + 1 } else { 0 };
        let key = self.find_taker(head, head.length - overhead)?;
        // Padding is taken at once. What nobody takes is, too.
        let at_once = if key.is_some() { overhead } else { head.length };
        self.give_back(at_once);
        if let Some(key) = key {
            self.give_back_in_stream(key, overhead);
        }
        self.data = Some(Data {
            key,
            id: head.stream,
            left: head.length - u32::from(is_padded),
            padding,
            is_end,
        });
        self.end_content();
        Ok(Some(usize::from(is_padded)))
    }

    /// The stream that takes so much content, if one does.
    fn find_taker(&mut self, head: FrameHead, content: u32) -> Result<Option<usize>, ErrorCode> {
        let id = head.stream;
        let Some(key) = self.key(id) else {
            match self.closed.is_by_us(id) {
                Some(true) => self.late_content(head, content),
                _ => self.reset(id, ErrorCode::STREAM_CLOSED),
            }
            return Ok(None);
        };
        let stream = &mut self.streams[key];
        let code = match stream.coming {
            _ if stream.over == Some(Over::Closed) => {
                self.late_content(head, content);
                return Ok(None);
            }
            // Reset by the other end itself.
            _ if matches!(stream.over, Some(Over::Reset(_))) => ErrorCode::STREAM_CLOSED,
            _ if stream.over.is_some() => return Ok(None),
            Coming::Ended => ErrorCode::STREAM_CLOSED,
            Coming::Head => ErrorCode::PROTOCOL_ERROR,
            Coming::Content => {
                stream.window -= i64::from(head.length);
                let left = stream.left.map(|left| left.checked_sub(u64::from(content)));
                let is_whole = |left| left == 0;
                match left {
                    _ if stream.window < 0 => ErrorCode::FLOW_CONTROL_ERROR,
                    Some(None) => ErrorCode::PROTOCOL_ERROR,
                    Some(Some(left)) if head.has(flag::END_STREAM) && !is_whole(left) => {
                        ErrorCode::PROTOCOL_ERROR
                    }
                    left => {
                        stream.left = left.flatten();
                        stream.held += content;
                        return Ok(Some(key));
                    }
                }
            }
        };
        self.fault_of_stream(key, code);
        Ok(None)
    }

    /// Resets a stream, about whose content the user is told what was wrong.
    fn fault_of_stream(&mut self, key: usize, code: ErrorCode) {
        let stream = &mut self.streams[key];
        if code == ErrorCode::PROTOCOL_ERROR && stream.coming == Coming::Content {
            stream.end(Over::Fault(Refusal::LengthMismatch));
        }
        self.reset(self.streams[key].id, code);
    }

    /// Takes octets of content, and returns how many of `input` those were, with padding.
    fn receive_content(&mut self, input: &[u8]) -> usize {
        let Some(data) = &mut self.data else { return 0 };
        let taken = input.len().min(data.left as usize);
        let content = taken.min((data.left - data.padding) as usize);
        data.left -= taken as u32;
        data.padding = data.padding.min(data.left);
        if let Some(key) = data.key
            && content > 0
            && let Some(stream) = self.streams.get_mut(key)
            && stream.id == data.id
        {
            if stream.content.capacity() == 0 {
                stream.content = self.buffers.take_output();
            }
            stream.content.extend_from_slice(&input[..content]);
            stream.wake(wait::READ);
        }
        self.end_content();
        taken
    }

    /// Ends a frame of content, if all of it has come.
    fn end_content(&mut self) {
        let Some(data) = self.data.take_if(|data| data.left == 0) else {
            return;
        };
        if let Some(key) = data.key
            && data.is_end
            && let Some(stream) = self.streams.get_mut(key)
            && stream.id == data.id
        {
            stream.coming = Coming::Ended;
            stream.wake(wait::READ);
            self.note_done(key);
        }
    }

    fn headers(&mut self, head: FrameHead, payload: &[u8]) -> Result<Event, ErrorCode> {
        self.watch.note_live();
        if head.stream == 0 || (self.role.is_server() && head.stream.is_multiple_of(2)) {
            return Err(ErrorCode::PROTOCOL_ERROR);
        }
        let mut block = unpadded(head, payload).ok_or(ErrorCode::PROTOCOL_ERROR)?;
        let mut is_malformed = false;
        if head.has(flag::PRIORITY) {
            let (on, rest) = block
                .split_first_chunk::<5>()
                .ok_or(ErrorCode::FRAME_SIZE_ERROR)?;
            let [d0, d1, d2, d3, _] = *on;
            is_malformed = u32::from_be_bytes([d0 & 0x7f, d1, d2, d3]) == head.stream;
            block = rest;
        }
        let is_end = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block(head.stream, is_end, is_malformed, block);
        }
        let mut octets = self.buffers.take_output();
        octets.extend_from_slice(block);
        self.block = Some(Block {
            stream: head.stream,
            is_end,
            is_malformed,
            octets,
            frames: 1,
        });
        Ok(Event::None)
    }

    fn continuation(&mut self, head: FrameHead, payload: &[u8]) -> Result<Event, ErrorCode> {
        self.watch.note_live();
        let allowed = self.settings.limits.head_bytes;
        let Some(block) = &mut self.block else {
            return Err(ErrorCode::PROTOCOL_ERROR);
        };
        block.octets.extend_from_slice(payload);
        block.frames += 1;
        // Honest ones are full.
        let most_frames = 8 + 2 * allowed / FRAME_SIZE;
        let most = 2 * allowed as usize + LARGE;
        if block.frames > most_frames || block.octets.len() > most {
            return Err(ErrorCode::ENHANCE_YOUR_CALM);
        }
        if !head.has(flag::END_HEADERS) {
            return Ok(Event::None);
        }
        let Some(block) = self.block.take() else {
            return Ok(Event::None);
        };
        let event = self.block(
            block.stream,
            block.is_end,
            block.is_malformed,
            &block.octets,
        );
        self.buffers.put_output(block.octets);
        event
    }

    /// A whole block of fields has come.
    fn block(
        &mut self,
        id: u32,
        is_end: bool,
        is_malformed: bool,
        block: &[u8],
    ) -> Result<Event, ErrorCode> {
        let Some(key) = self.key(id) else {
            return match self.role {
                Role::Server => self.begin_request(id, is_end, is_malformed, block),
                Role::Client => self.skip(block, id > self.last_id || id.is_multiple_of(2)),
            };
        };
        let stream = &self.streams[key];
        match stream.coming {
            _ if matches!(stream.over, Some(Over::Reset(_))) => {
                self.skip(block, false)?;
                self.reset(id, ErrorCode::STREAM_CLOSED);
            }
            _ if stream.over == Some(Over::Closed) => {
                self.late_block(id, is_end, is_malformed, block)?;
            }
            _ if stream.over.is_some() => return self.skip(block, false),
            Coming::Head => self.response(key, is_end, block)?,
            Coming::Content => self.trailers(key, is_end, block)?,
            Coming::Ended => {
                self.skip(block, false)?;
                self.reset(id, ErrorCode::STREAM_CLOSED);
            }
        }
        Ok(Event::None)
    }

    /// A block that nobody wants.
    pub(super) fn skip(&mut self, block: &[u8], is_wrong: bool) -> Result<Event, ErrorCode> {
        if is_wrong {
            return Err(ErrorCode::PROTOCOL_ERROR);
        }
        self.reader
            .skip(block)
            .map_err(|_| ErrorCode::COMPRESSION_ERROR)?;
        Ok(Event::None)
    }

    fn begin_request(
        &mut self,
        id: u32,
        is_end: bool,
        is_malformed: bool,
        block: &[u8],
    ) -> Result<Event, ErrorCode> {
        if id <= self.last_id {
            return match self.closed.is_by_us(id) {
                Some(true) => {
                    self.late_block(id, is_end, is_malformed, block)?;
                    Ok(Event::None)
                }
                Some(false) => Err(ErrorCode::STREAM_CLOSED),
                None => Err(ErrorCode::PROTOCOL_ERROR),
            };
        }
        self.last_id = id;
        if let super::Leaving::Final(last) = self.leaving
            && id > last
        {
            // It was told so, and will try elsewhere.
            self.closed.note(id, true);
            return self.skip(block, false);
        }
        let most = self.settings.max_streams;
        if self.over.is_some() || self.open >= most || self.streams.len() >= most as usize + GONE {
            self.skip(block, false)?;
            self.reset(id, ErrorCode::REFUSED_STREAM);
            return Ok(Event::None);
        }
        let limits = self.settings.limits;
        let mut read = self
            .reader
            .request(block, is_end, &limits, &mut self.request);
        if is_malformed && read != Err(BlockError::Compression) {
            read = Err(BlockError::Malformed);
        }
        let read = match read {
            Ok(()) => Ok(()),
            Err(BlockError::Refused(refusal)) => Err(refusal),
            Err(BlockError::Compression) => return Err(ErrorCode::COMPRESSION_ERROR),
            Err(BlockError::Malformed) => {
                self.reset(id, ErrorCode::PROTOCOL_ERROR);
                return Ok(Event::None);
            }
        };
        let coming = if is_end {
            Coming::Ended
        } else {
            Coming::Content
        };
        let mut stream = Stream::new(id, coming, self.settings.stream_window, self.peer.window);
        if let (Ok(()), Length::Exact(length)) = (read, self.request.length) {
            stream.left = Some(length);
        }
        Ok(Event::Request(self.insert(stream), read))
    }

    fn response(&mut self, key: usize, is_end: bool, block: &[u8]) -> Result<(), ErrorCode> {
        let mut head = self.take_head();
        let limits = self.settings.limits;
        let stream = &mut self.streams[key];
        let (id, to) = (stream.id, stream.kind);
        let read = self.reader.response(block, is_end, to, &limits, &mut head);
        let refusal = match read {
            Ok(()) if stream.heads.len() >= INFORMED => Refusal::Informational,
            Ok(()) => {
                if !head.is_informational() {
                    let is_tunnel = to == RequestKind::Upgrade && head.status / 100 == 2;
                    stream.left = match head.length {
                        _ if is_tunnel => None,
                        Length::None => Some(0),
                        Length::Exact(length) => Some(length),
                        Length::Unknown => None,
                    };
                    stream.coming = if is_end {
                        Coming::Ended
                    } else {
                        Coming::Content
                    };
                }
                stream.heads.push(head);
                stream.wake(wait::READ);
                self.note_done(key);
                return Ok(());
            }
            Err(BlockError::Compression) => return Err(ErrorCode::COMPRESSION_ERROR),
            Err(BlockError::Malformed) => Refusal::Malformed,
            Err(BlockError::Refused(refusal)) => refusal,
        };
        self.put_head(head);
        self.streams[key].end(Over::Fault(refusal));
        self.reset(id, ErrorCode::PROTOCOL_ERROR);
        Ok(())
    }

    fn trailers(&mut self, key: usize, is_end: bool, block: &[u8]) -> Result<(), ErrorCode> {
        let limits = self.settings.limits;
        let mut fields = self.take_trailers();
        let stream = &mut self.streams[key];
        let id = stream.id;
        let read = self.reader.trailers(block, &limits, &mut fields);
        let is_whole = is_end && stream.left.is_none_or(|left| left == 0);
        match read {
            Ok(()) if is_whole => {
                stream.trailers = Some(fields);
                stream.coming = Coming::Ended;
                stream.wake(wait::READ);
                self.note_done(key);
            }
            Err(BlockError::Compression) => return Err(ErrorCode::COMPRESSION_ERROR),
            Err(BlockError::Refused(refusal)) => {
                stream.end(Over::Fault(refusal));
                self.reset(id, ErrorCode::PROTOCOL_ERROR);
            }
            Err(BlockError::Malformed) => self.reset(id, ErrorCode::PROTOCOL_ERROR),
            Ok(()) if is_end => self.fault_of_stream(key, ErrorCode::PROTOCOL_ERROR),
            Ok(()) => self.reset(id, ErrorCode::PROTOCOL_ERROR),
        }
        Ok(())
    }

    /// So many octets of the connection's window were taken. They are given back in bulk.
    pub(super) fn give_back(&mut self, octets: u32) {
        self.taken += octets;
        if self.taken >= self.settings.connection_window / 2 && self.over.is_none() {
            let more = std::mem::take(&mut self.taken);
            self.window += i64::from(more);
            self.write_window_update(0, more);
        }
    }

    fn give_back_in_stream(&mut self, key: usize, octets: u32) {
        let stream = &mut self.streams[key];
        stream.taken += octets;
        let is_wanted = stream.coming != Coming::Ended && stream.over.is_none();
        if is_wanted && stream.taken >= self.settings.stream_window / 2 {
            let more = std::mem::take(&mut stream.taken);
            stream.window += i64::from(more);
            let id = stream.id;
            self.write_window_update(id, more);
        }
    }

    /// The user of a stream has taken so much of its content.
    pub(in crate::net::h2) fn consumed(&mut self, key: usize, octets: usize) {
        let octets = octets as u32;
        let stream = &mut self.streams[key];
        stream.held = stream.held.saturating_sub(octets);
        self.give_back(octets);
        self.give_back_in_stream(key, octets);
    }
}
