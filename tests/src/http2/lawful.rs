//! Whether what a peer sends is lawful, whatever it was sent before.

use super::hpack::{Decoder, Field};
use super::{Frame, Role, flag, kind, setting};
use std::collections::HashMap;

/// Window of a connection, and of a stream unless SETTINGS say otherwise.
const WINDOW: i64 = 65_535;

/// Fields that are about one connection (RFC 9113, 8.2.2).
const OF_CONNECTION: [&str; 5] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// Follows both directions of a connection and notes what the peer must not do. What depends on
/// whether the peer has read something yet is judged in its favour.
#[derive(Debug)]
pub struct Lawful {
    peer: Role,
    faults: Vec<String>,
    frames: u64,
    decoder: Decoder,
    /// A block that is not whole: its stream, what there is of it, and whether it ends the stream.
    block: Option<(u32, Vec<u8>, bool)>,
    max_frame: usize,
    max_streams: usize,
    window: i64,
    /// The largest that was announced.
    initial_window: i64,
    streams: HashMap<u32, Stream>,
    last_of_goaway: Option<u32>,
}

#[derive(Debug, Default)]
struct Stream {
    /// Octets of DATA that came, less those for which there was a WINDOW_UPDATE.
    taken: i64,
    /// The peer has said all.
    is_ended: bool,
    /// So have we.
    is_ended_by_us: bool,
    is_reset: bool,
    /// Something was sent to it since.
    is_used_after_reset: bool,
    is_reset_by_us: bool,
    /// A head came that is no informational one.
    has_head: bool,
}

impl Stream {
    fn is_open(&self) -> bool {
        let is_over = self.is_ended && self.is_ended_by_us;
        !(self.is_reset || self.is_reset_by_us || is_over)
    }
}

impl Lawful {
    /// For what a peer with this role sends.
    pub fn new(peer: Role) -> Self {
        Self {
            peer,
            faults: Vec::new(),
            frames: 0,
            decoder: Decoder::default(),
            block: None,
            max_frame: 16_384,
            max_streams: usize::MAX,
            window: WINDOW,
            initial_window: WINDOW,
            streams: HashMap::new(),
            last_of_goaway: None,
        }
    }

    /// What the peer did wrong so far.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// The last stream that the peer's GOAWAY names.
    pub fn last_of_goaway(&self) -> Option<u32> {
        self.last_of_goaway
    }

    /// A frame that was sent to the peer.
    pub fn sent(&mut self, frame: &Frame) {
        if let Some(stream) = self.streams.get_mut(&frame.stream) {
            stream.is_used_after_reset |= stream.is_reset;
        }
        match frame.kind {
            kind::HEADERS | kind::DATA => {
                if frame.kind == kind::HEADERS && self.peer == Role::Server {
                    self.streams.entry(frame.stream).or_default();
                }
                if let Some(stream) = self.streams.get_mut(&frame.stream) {
                    stream.is_ended_by_us |= frame.ends_stream();
                }
            }
            kind::RST_STREAM => {
                if let Some(stream) = self.streams.get_mut(&frame.stream) {
                    stream.is_reset_by_us = true;
                }
            }
            kind::WINDOW_UPDATE if frame.stream == 0 => self.window += increment(frame),
            kind::WINDOW_UPDATE => {
                if let Some(stream) = self.streams.get_mut(&frame.stream) {
                    stream.taken -= increment(frame);
                }
            }
            kind::SETTINGS if !frame.has(flag::ACK) => self.sent_settings(frame),
            _ => {}
        }
    }

    fn sent_settings(&mut self, frame: &Frame) {
        for (id, value) in frame.settings_in() {
            match id {
                setting::HEADER_TABLE_SIZE => self.decoder.allow(value as usize),
                setting::MAX_FRAME_SIZE => self.max_frame = self.max_frame.max(value as usize),
                setting::MAX_CONCURRENT_STREAMS => self.max_streams = value as usize,
                setting::INITIAL_WINDOW_SIZE => {
                    self.initial_window = self.initial_window.max(i64::from(value));
                }
                _ => {}
            }
        }
    }

    /// A frame that came. Returns the fields of a block that is whole by it, and whether it ends
    /// the stream.
    pub fn came(&mut self, frame: &Frame) -> Option<(Vec<Field>, bool)> {
        self.frames += 1;
        if self.frames == 1 && (frame.kind != kind::SETTINGS || frame.has(flag::ACK)) {
            self.fault(frame, "before SETTINGS");
        }
        if frame.payload.len() > self.max_frame {
            self.fault(frame, "longer than was announced");
        }
        if let Some((stream, ..)) = self.block
            && (frame.kind, frame.stream) != (kind::CONTINUATION, stream)
        {
            self.fault(frame, "within a field block");
        }
        self.look_at_stream(frame);
        match frame.kind {
            kind::DATA => self.data(frame),
            kind::HEADERS => return self.head(frame),
            kind::CONTINUATION => return self.continuation(frame),
            kind::RST_STREAM => self.reset(frame),
            kind::PUSH_PROMISE => self.fault(frame, "unasked for"),
            kind::SETTINGS if !frame.payload.len().is_multiple_of(6) => {
                self.fault(frame, "of no length")
            }
            kind::PING if frame.payload.len() != 8 => self.fault(frame, "of no length"),
            kind::WINDOW_UPDATE if frame.word(0) == 0 => self.fault(frame, "of nothing"),
            kind::GOAWAY => self.go_away(frame),
            _ => {}
        }
        None
    }

    fn fault(&mut self, frame: &Frame, what: &str) {
        let Frame {
            kind,
            flags,
            stream,
            payload,
        } = frame;
        let length = payload.len();
        let shown = format!("frame {kind}, flags {flags:#x}, stream {stream}, {length} octets");
        self.faults.push(format!("{shown}: {what}"));
    }

    fn look_at_stream(&mut self, frame: &Frame) {
        let is_of_connection = match frame.kind {
            kind::SETTINGS | kind::PING | kind::GOAWAY => true,
            kind::WINDOW_UPDATE => frame.stream == 0,
            kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION => {
                false
            }
            _ => return,
        };
        if is_of_connection != (frame.stream == 0) {
            self.fault(frame, "on such a stream");
        }
        if is_of_connection || matches!(frame.kind, kind::PRIORITY | kind::CONTINUATION) {
            return;
        }
        let is_new = !self.streams.contains_key(&frame.stream);
        // What was left out is closed, and may be told so.
        let is_left_out = frame.stream % 2 == 1 && frame.stream < self.highest();
        if is_left_out && is_new && frame.kind == kind::RST_STREAM {
            return;
        }
        if is_new && frame.kind == kind::HEADERS && self.peer == Role::Client {
            self.open(frame);
        } else if is_new {
            self.fault(frame, "on a stream that is idle");
        }
        let Some(stream) = self.streams.get_mut(&frame.stream) else {
            return;
        };
        // Who goes on after a reset may be told again (RFC 9113 §5.4.2).
        let is_used = std::mem::take(&mut stream.is_used_after_reset);
        if is_used && frame.kind == kind::RST_STREAM {
            return;
        }
        let ends = matches!(frame.kind, kind::DATA | kind::HEADERS);
        if stream.is_reset || (stream.is_ended && ends) {
            self.fault(frame, "on a stream that is closed");
        }
    }

    /// The last stream that was opened.
    fn highest(&self) -> u32 {
        self.streams.keys().copied().max().unwrap_or(0)
    }

    /// A client opens a stream.
    fn open(&mut self, frame: &Frame) {
        if frame.stream.is_multiple_of(2) || frame.stream <= self.highest() {
            self.fault(frame, "opens such a stream");
        }
        self.streams.entry(frame.stream).or_default();
        let open = self.streams.values().filter(|stream| stream.is_open());
        if open.count() > self.max_streams {
            self.fault(frame, "more streams at once than announced");
        }
    }

    fn data(&mut self, frame: &Frame) {
        if frame.content().is_none() {
            self.fault(frame, "padding that does not fit");
        }
        let length = frame.payload.len() as i64;
        self.window -= length;
        let initial = self.initial_window;
        let Some(stream) = self.streams.get_mut(&frame.stream) else {
            return;
        };
        stream.taken += length;
        stream.is_ended |= frame.ends_stream();
        let is_beyond = stream.taken > initial;
        if !stream.has_head {
            self.fault(frame, "before the head");
        }
        if is_beyond || self.window < 0 {
            self.fault(frame, "beyond the window");
        }
    }

    fn head(&mut self, frame: &Frame) -> Option<(Vec<Field>, bool)> {
        let Some(content) = frame.content() else {
            self.fault(frame, "padding that does not fit");
            return None;
        };
        let block = content.to_vec();
        self.block = Some((frame.stream, block, frame.ends_stream()));
        self.whole(frame)
    }

    fn continuation(&mut self, frame: &Frame) -> Option<(Vec<Field>, bool)> {
        match &mut self.block {
            Some((_, block, _)) => block.extend(&frame.payload),
            None => self.fault(frame, "without HEADERS"),
        }
        self.whole(frame)
    }

    /// The fields, if this frame ends the block.
    fn whole(&mut self, frame: &Frame) -> Option<(Vec<Field>, bool)> {
        if !frame.has(flag::END_HEADERS) {
            return None;
        }
        let (_, block, ends) = self.block.take()?;
        let fields = match self.decoder.decode(&block) {
            Ok(fields) => fields,
            Err(error) => {
                self.fault(frame, &error);
                return None;
            }
        };
        for complaint in self.complaints(frame.stream, &fields, ends) {
            self.fault(frame, &complaint);
        }
        Some((fields, ends))
    }

    /// What is wrong with fields.
    fn complaints(&mut self, stream: u32, fields: &[Field], ends: bool) -> Vec<String> {
        let mut complaints: Vec<String> = Vec::new();
        let mut pseudo = Vec::new();
        let mut is_begun = false;
        for (name, value) in fields {
            let name = String::from_utf8_lossy(name).into_owned();
            if name.starts_with(':') {
                if is_begun || pseudo.contains(&name) {
                    complaints.push(format!("{name} in such a place"));
                }
                pseudo.push(name);
                continue;
            }
            is_begun = true;
            let is_te = name == "te" && value != b"trailers";
            if OF_CONNECTION.contains(&name.as_str()) || is_te || name != name.to_lowercase() {
                complaints.push(format!("a field {name}"));
            }
        }
        let entry = self.streams.entry(stream).or_default();
        entry.is_ended |= ends;
        let is_trailers = entry.has_head;
        let status = fields.iter().find(|(name, _)| name == b":status");
        let is_informational = status.is_some_and(|(_, value)| value.starts_with(b"1"));
        entry.has_head |= !is_informational;
        let is_right = match self.peer {
            _ if is_trailers => pseudo.is_empty() && ends,
            Role::Server => pseudo == [":status"] && !(is_informational && ends),
            Role::Client => {
                let has = |name: &str| pseudo.iter().any(|found| found == name);
                let plain = has(":method") && has(":scheme") && has(":path");
                !has(":status") && (plain || pseudo == [":method", ":authority"])
            }
        };
        if !is_right {
            complaints.push(format!(
                "pseudo-fields {pseudo:?}, trailers {is_trailers}, ends {ends}"
            ));
        }
        complaints
    }

    fn reset(&mut self, frame: &Frame) {
        if frame.payload.len() != 4 {
            self.fault(frame, "of no length");
        }
        if let Some(stream) = self.streams.get_mut(&frame.stream) {
            stream.is_reset = true;
        }
    }

    fn go_away(&mut self, frame: &Frame) {
        let last = frame.word(0);
        if frame.payload.len() < 8 || self.last_of_goaway.is_some_and(|before| last > before) {
            self.fault(frame, "more streams than before");
        }
        self.last_of_goaway = Some(last);
    }
}

/// Octets of a WINDOW_UPDATE.
fn increment(frame: &Frame) -> i64 {
    i64::from(frame.word(0) & 0x7fff_ffff)
}

#[cfg(test)]
mod tests {
    use super::super::hpack::Block;
    use super::*;

    fn faults(frames: &[Frame]) -> usize {
        let mut lawful = Lawful::new(Role::Server);
        lawful.sent(&Frame::headers(1, Block::of(&[(":method", "GET")])).ending());
        for frame in frames {
            lawful.came(frame);
        }
        lawful.faults().len()
    }

    #[test]
    fn a_lawful_answer_has_no_faults() {
        let head = Frame::headers(1, Block::new().indexed(8));
        let data = Frame::data(1, vec![0; 16_384]);
        let settings = Frame::settings(&[]);
        let mut frames = vec![settings.clone(), head.clone(), data.clone(), data.clone()];
        frames.push(data.clone().ending());
        assert_eq!(faults(&frames), 0);
        assert_eq!(faults(std::slice::from_ref(&head)), 1, "no SETTINGS");
        assert_eq!(faults(&[settings.clone(), data.clone()]), 1, "no head");
        frames.push(data.clone());
        assert_eq!(faults(&frames), 2, "ended, and beyond the window");
        let elsewhere = Frame { stream: 3, ..head };
        assert_eq!(faults(&[settings.clone(), elsewhere]), 1);
        let late = Block::of(&[("a", "b"), (":status", "200")]);
        assert_eq!(faults(&[settings, Frame::headers(1, late)]), 1);
    }
}
