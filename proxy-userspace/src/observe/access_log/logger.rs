//! A worker's end of a log.

use super::writer::Message;
use super::{Format, LogCounters, Record, Sink};
use crate::observe::calendar::Calendar;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// A buffer with this much is handed over.
const FULL: usize = 32 << 10;

/// Room of a new buffer: a line that begins before [`FULL`] should end in it.
const ROOM: usize = FULL + (4 << 10);

/// A buffer that one endless line made larger is not kept.
const LARGEST_KEPT: usize = 256 << 10;

/// Buffers that a logger keeps for later.
const KEPT: usize = 4;

/// A worker's end of a log: one format, one sink. Not shared between threads.
#[derive(Debug)]
pub struct Logger {
    sink: Arc<Sink>,
    format: Arc<Format>,
    share: f64,
    calendar: Calendar,
    buffer: Vec<u8>,
    lines: u64,
    outbox: SyncSender<Message>,
    counters: Arc<LogCounters>,
    home: SyncSender<Vec<u8>>,
    emptied: Receiver<Vec<u8>>,
}

impl Logger {
    pub(super) fn new(
        sink: Arc<Sink>,
        format: Arc<Format>,
        share: f64,
        outbox: SyncSender<Message>,
        counters: Arc<LogCounters>,
    ) -> Self {
        let (home, emptied) = sync_channel(KEPT);
        Self {
            sink,
            format,
            share,
            calendar: Calendar::local(),
            buffer: Vec::new(),
            lines: 0,
            outbox,
            counters,
            home,
            emptied,
        }
    }

    /// True if an exchange with this status is to be logged; `draw` is drawn evenly from 0..1.
    #[inline]
    pub fn wants(&self, status: u16, draw: f64) -> bool {
        status >= 500 || draw < self.share
    }

    /// Logs an exchange. True if the buffer was empty before: then [`Logger::flush`] should be
    /// called soon.
    pub fn log(&mut self, record: &Record<'_>) -> bool {
        let first = self.buffer.is_empty();
        if self.buffer.capacity() == 0 {
            self.buffer = self.spare_buffer();
        }
        self.format
            .line(record, &mut self.calendar, &mut self.buffer);
        self.lines += 1;
        if self.buffer.len() >= FULL {
            self.flush();
            return false;
        }
        first
    }

    /// Hands over what was logged. Never waits: if the writer is too far behind, the lines are
    /// dropped and counted.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let message = Message::Lines {
            sink: Arc::clone(&self.sink),
            octets: std::mem::take(&mut self.buffer),
            lines: std::mem::take(&mut self.lines),
            home: self.home.clone(),
        };
        if let Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) =
            self.outbox.try_send(message)
            && let Message::Lines {
                mut octets, lines, ..
            } = message
        {
            self.counters.dropped_behind.fetch_add(lines, Relaxed);
            octets.clear();
            self.buffer = octets;
        }
    }

    fn spare_buffer(&self) -> Vec<u8> {
        self.emptied
            .try_iter()
            .find(|buffer| buffer.capacity() <= LARGEST_KEPT)
            .unwrap_or_else(|| Vec::with_capacity(ROOM))
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        self.flush();
    }
}
