//! The thread that writes access logs.
//!
//! One thread for the process: a file that several listeners log to is opened once, and a slow disk
//! delays no worker. Everything that workers hand over goes through one bounded channel. A write
//! that fails loses its lines, is counted, and is reported once a minute.

use super::{Format, Logger};
use crate::config::model::http::LogTarget;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Buffers that may wait for the thread: with buffers of 32 KiB, 4 MiB.
const WAITING: usize = 128;

/// Time between two reports of the same log's failure.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// Longest wait for an output that takes nothing, before it is asked whether to stop.
const STALL: u16 = 500;

/// What became of lines.
#[derive(Debug, Default)]
pub struct LogCounters {
    /// Lines written.
    pub written: AtomicU64,
    /// Lines dropped because the thread was too far behind.
    pub dropped_behind: AtomicU64,
    /// Lines lost because a write failed.
    pub dropped_failed: AtomicU64,
    /// Writes and openings that failed.
    pub errors: AtomicU64,
}

/// The thread and what it writes to. Dropping it lets the thread end when it has written what it
/// was given; [`Writer::stop`] waits for that.
#[derive(Debug)]
pub struct Writer {
    outbox: SyncSender<Message>,
    shared: Arc<Shared>,
    /// Disconnected when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    counters: Arc<LogCounters>,
    sinks: Mutex<HashMap<LogTarget, Weak<Sink>>>,
    /// Raised to have all files opened again.
    generation: AtomicU64,
    /// Set when an output that takes nothing is not worth waiting for any more.
    hurry: AtomicBool,
}

/// Where lines go to. Kept by those who log there.
#[derive(Debug)]
pub struct Sink {
    target: LogTarget,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// True after a write that stopped in the middle of a line.
    torn: bool,
    failures: u64,
    reported: Option<Instant>,
}

/// What workers hand over.
#[derive(Debug)]
pub(super) enum Message {
    /// Whole lines.
    Lines {
        /// Where they go.
        sink: Arc<Sink>,
        /// The octets.
        octets: Vec<u8>,
        /// How many lines.
        lines: u64,
        /// Where the emptied buffer goes.
        home: SyncSender<Vec<u8>>,
    },
    /// Look at what is asked for.
    Wake,
    /// Write what has been given, then end.
    Stop,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If there can be no thread.
    pub fn start(counters: Arc<LogCounters>) -> io::Result<Self> {
        let (outbox, inbox) = sync_channel(WAITING);
        let (end, ended) = sync_channel::<()>(0);
        let shared = Arc::new(Shared {
            counters,
            ..Shared::default()
        });
        let of_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                run(&inbox, &of_thread);
                // First the inbox: who sends after the end must see that it is over.
                drop(inbox);
                drop(end);
            })?;
        Ok(Self {
            outbox,
            shared,
            ended: Mutex::new(ended),
        })
    }

    /// The sink of a target, opened if nobody logs there yet.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened.
    pub fn sink(&self, target: &LogTarget) -> io::Result<Arc<Sink>> {
        let mut sinks = self.shared.sinks.lock();
        if let Some(sink) = sinks.get(target).and_then(Weak::upgrade) {
            return Ok(sink);
        }
        let sink = Arc::new(Sink {
            target: target.clone(),
            state: Mutex::new(State {
                file: open(target)?,
                torn: false,
                failures: 0,
                reported: None,
            }),
        });
        sinks.retain(|_, sink| sink.strong_count() > 0);
        sinks.insert(target.clone(), Arc::downgrade(&sink));
        Ok(sink)
    }

    /// A logger for one worker. `share` as in the model.
    pub fn logger(&self, sink: Arc<Sink>, format: Arc<Format>, share: f64) -> Logger {
        let counters = Arc::clone(&self.shared.counters);
        Logger::new(sink, format, share, self.outbox.clone(), counters)
    }

    /// What became of lines so far.
    pub fn counters(&self) -> &Arc<LogCounters> {
        &self.shared.counters
    }

    /// Has all files opened again by their names, for log rotation. Lines that were handed over
    /// before may go to either file.
    pub fn reopen(&self) {
        self.shared.generation.fetch_add(1, Relaxed);
        // If the channel is full, the thread is awake and sees the generation anyway.
        let _ = self.outbox.try_send(Message::Wake);
    }

    /// Has the thread write what it was given and end; loggers are to be flushed before. False if
    /// that took longer than `wait`: then lines are lost.
    pub fn stop(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let ended = self.ended.lock();
        let mut asked = false;
        loop {
            if !asked {
                asked = match self.outbox.try_send(Message::Stop) {
                    Ok(()) | Err(TrySendError::Disconnected(_)) => true,
                    Err(TrySendError::Full(_)) => false,
                };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // While the channel is full, it is tried again soon.
            let step = if asked {
                left
            } else {
                left.min(Duration::from_millis(5))
            };
            match ended.recv_timeout(step) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    self.shared.hurry.store(true, Relaxed);
                    return false;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

fn run(inbox: &Receiver<Message>, shared: &Shared) {
    let mut generation = shared.generation.load(Relaxed);
    let mut ending = false;
    loop {
        let message = if ending {
            inbox.try_recv().ok()
        } else {
            inbox.recv().ok()
        };
        let Some(message) = message else {
            return;
        };
        let wanted = shared.generation.load(Relaxed);
        if wanted != generation {
            generation = wanted;
            reopen_all(shared);
        }
        match message {
            Message::Lines {
                sink,
                mut octets,
                lines,
                home,
            } => {
                sink.state
                    .lock()
                    .write(&sink.target, &octets, lines, shared);
                octets.clear();
                // A worker that has enough buffers lets this one go.
                let _ = home.try_send(octets);
            }
            Message::Wake => {}
            Message::Stop => ending = true,
        }
    }
}

fn reopen_all(shared: &Shared) {
    let sinks: Vec<Arc<Sink>> = shared
        .sinks
        .lock()
        .values()
        .filter_map(Weak::upgrade)
        .collect();
    for sink in sinks {
        let mut state = sink.state.lock();
        match open(&sink.target) {
            Ok(file) => {
                state.file = file;
                state.torn = false;
            }
            // The old file is better than none.
            Err(error) => state.failed("cannot reopen", &sink.target, &error, shared),
        }
    }
}

impl State {
    fn write(&mut self, target: &LogTarget, octets: &[u8], lines: u64, shared: &Shared) {
        let counters = &shared.counters;
        if self.torn {
            // What comes next must not be read as the rest of the torn line.
            self.torn = !matches!(self.file.write(b"\n"), Ok(1));
        }
        match write_all(&mut self.file, octets, shared) {
            Ok(()) => {
                counters.written.fetch_add(lines, Relaxed);
            }
            Err((written, error)) => {
                let whole = octets[..written].iter().filter(|&&c| c == b'\n').count() as u64;
                self.torn = written > 0 && octets[written - 1] != b'\n';
                counters.written.fetch_add(whole, Relaxed);
                counters.dropped_failed.fetch_add(lines - whole, Relaxed);
                self.failed("cannot write", target, &error, shared);
            }
        }
    }

    /// Counts a failure, and reports it if none was reported lately.
    fn failed(&mut self, what: &str, target: &LogTarget, error: &io::Error, shared: &Shared) {
        shared.counters.errors.fetch_add(1, Relaxed);
        self.failures += 1;
        let now = Instant::now();
        let lately = |at: Instant| now.duration_since(at) < REPORT_EVERY;
        if !self.reported.is_some_and(lately) {
            let path = name(target).display();
            let failures = self.failures;
            tracing::warn!(%path, %error, failures, "access log: {what}");
            self.reported = Some(now);
            self.failures = 0;
        }
    }
}

/// Writes all of it, waiting for an output that is not ready. On failure, tells how much was
/// written.
fn write_all(file: &mut File, octets: &[u8], shared: &Shared) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < octets.len() {
        match file.write(&octets[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Standard output may be a pipe that somebody made non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if shared.hurry.load(Relaxed) {
                    return Err((written, error));
                }
                let mut wanted = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                // If this fails, the next write tells why.
                let _ = poll(&mut wanted, PollTimeout::from(STALL));
            }
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

fn open(target: &LogTarget) -> io::Result<File> {
    match target {
        LogTarget::Stdout => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        LogTarget::File(path) => OpenOptions::new()
            .append(true)
            .create(true)
            // Lines tell who did what: not for everybody.
            .mode(0o640)
            .open(path),
    }
}

fn name(target: &LogTarget) -> &Path {
    match target {
        LogTarget::Stdout => Path::new("standard output"),
        LogTarget::File(path) => path,
    }
}
