//! What is noted of flows: from the packet path's ring buffer and the workers' queue to whoever
//! observes, and to the exporter of spans.
//!
//! The pump is a task of its own, because there may be hundreds of thousands of notes a second. It reads
//! even when nobody observes, so that an observer never sees what happened before it came, unless it
//! asks for it. A slow observer loses stages, counted, and delays nobody.

use super::names::{NameTable, SharedNames};
use crate::admin::api::{Refusal, RefusalKind};
use crate::kernel::capture::Names as _;
use crate::kernel::events::EventReader;
use crate::kernel::host;
use crate::observe::counters::Counters;
use crate::observe::flow::stages::Packet;
use crate::observe::flow::{
    Assembler, Filter, FlowReceiver, FlowStage, FlowTap, Joiner, Note, Noted, ObserveQuery, Stage,
    Told, exchange,
};
use crate::observe::trace::{ConnectionSpan, Exported, Flow, SpanQueue};
use proxy_common::event::Event;
use proxy_common::reason::Reason;
use proxy_common::{tcp, trace};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::warn;

/// Stages that an observer may be behind.
const BACKLOG: usize = 4096;

/// Observers at once.
const MAX_OBSERVERS: usize = 32;

/// Stages that are kept for observers to come.
const HISTORY: usize = 4096;

/// How often is looked for what has waited for long enough, and for observers that have left.
const TICK: Duration = Duration::from_millis(100);

/// The control task's side.
#[derive(Debug)]
pub(crate) struct FlowHub {
    observers: mpsc::UnboundedSender<Observer>,
    feeds: mpsc::UnboundedSender<Feed>,
    left: mpsc::UnboundedReceiver<u64>,
    sampling: BTreeMap<u64, u32>,
    next: u64,
}

/// The pump's side.
pub(crate) struct FlowPump {
    pub(super) readers: mpsc::UnboundedReceiver<EventReader>,
    observers: mpsc::UnboundedReceiver<Observer>,
    feeds: mpsc::UnboundedReceiver<Feed>,
    left: mpsc::UnboundedSender<u64>,
    names: SharedNames,
    counters: Arc<Counters>,
}

/// What comes from the workers, and where spans go.
#[derive(Debug)]
pub(crate) struct Feed {
    /// What workers note.
    pub(crate) noted: FlowReceiver,
    /// Which flows are exported.
    pub(crate) tap: FlowTap,
    /// The exporter's queue.
    pub(crate) spans: SpanQueue,
}

#[derive(Debug)]
struct Observer {
    id: u64,
    /// Flows at or above this are for observers who look at more.
    below: u32,
    joiner: Joiner,
    /// Flows of the past that it wants to see first.
    last: usize,
    follows: bool,
    missed: u64,
    told: mpsc::Sender<Told>,
}

impl FlowHub {
    /// A hub and the pump that serves it; the pump reads whatever comes from `readers`.
    pub(crate) fn new(
        readers: mpsc::UnboundedReceiver<EventReader>,
        names: SharedNames,
        counters: Arc<Counters>,
    ) -> (Self, FlowPump) {
        let (observers, arriving) = mpsc::unbounded_channel();
        let (feeds, feeding) = mpsc::unbounded_channel();
        let (leaving, left) = mpsc::unbounded_channel();
        let hub = Self {
            observers,
            feeds,
            left,
            sampling: BTreeMap::new(),
            next: 0,
        };
        let pump = FlowPump {
            readers,
            observers: arriving,
            feeds: feeding,
            left: leaving,
            names,
            counters,
        };
        (hub, pump)
    }

    /// Has the pump take what workers note.
    pub(crate) fn feed(&self, feed: Feed) {
        // Nobody takes it only while the daemon ends.
        let _ = self.feeds.send(feed);
    }

    /// Adds an observer, for whom one flow in `every` is traced from now on.
    pub(crate) fn listen(
        &mut self,
        query: &ObserveQuery,
        every: u32,
    ) -> Result<mpsc::Receiver<Told>, Refusal> {
        if self.sampling.len() >= MAX_OBSERVERS {
            let message = format!("{MAX_OBSERVERS} clients observe already");
            return Err(Refusal::new(RefusalKind::Conflict, message));
        }
        let filter = Filter::parse(query);
        let invalid = |error| Refusal::new(RefusalKind::Invalid, format!("{error}"));
        let (told, receiver) = mpsc::channel(BACKLOG);
        self.next += 1;
        let follows = query.follow.unwrap_or(true);
        let observer = Observer {
            id: self.next,
            below: trace::threshold(every.max(1)),
            joiner: Joiner::new(filter.map_err(invalid)?),
            last: query.last.unwrap_or(0) as usize,
            follows,
            missed: 0,
            told,
        };
        self.observers
            .send(observer)
            .map_err(|_| Refusal::stopping())?;
        if follows {
            self.sampling.insert(self.next, every.max(1));
        }
        Ok(receiver)
    }

    /// The sampling that the observers ask for: the finest.
    pub(crate) fn sampling(&self) -> Option<u32> {
        self.sampling.values().min().copied()
    }

    /// Waits until an observer has left.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn ended(&mut self) {
        match self.left.recv().await {
            Some(id) => drop(self.sampling.remove(&id)),
            None => std::future::pending().await,
        }
    }
}

impl FlowPump {
    /// Serves until the hub is gone.
    pub(crate) async fn run(mut self) {
        let mut reader: Option<EventReader> = None;
        let mut bench = Bench::default();
        let began = Instant::now();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let packet = async {
                match &mut reader {
                    Some(reader) => reader.next().await,
                    None => std::future::pending().await,
                }
            };
            let feed = bench.feed.as_mut();
            let noted = async {
                match feed {
                    Some(feed) => feed.noted.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = packet => match event {
                    Ok(event) => {
                        let offset = host::wall_clock_offset();
                        let note = note(&event, &self.names.load(), offset);
                        bench.take(note, began.elapsed());
                    }
                    Err(error) => {
                        warn!(%error, "packets' events cannot be read any more");
                        reader = None;
                    }
                },
                noted = noted => match noted {
                    Some(noted) => bench.noted(noted, began.elapsed()),
                    None => bench.feed = None,
                },
                observer = self.observers.recv() => match observer {
                    Some(observer) => bench.seat(observer, began.elapsed(), &self.left),
                    None => return,
                },
                Some(new) = self.readers.recv() => reader = Some(new),
                Some(feed) = self.feeds.recv() => bench.feed = Some(feed),
                _ = ticks.tick() => {
                    let lost = bench.tick(began.elapsed(), &self.left);
                    self.counters.events_lost.fetch_add(lost, Relaxed);
                }
            }
        }
    }
}

/// Those who observe, and what they have in common.
#[derive(Default)]
struct Bench {
    observers: Vec<Observer>,
    history: VecDeque<(u32, FlowStage)>,
    assembler: Assembler,
    feed: Option<Feed>,
    /// What workers had lost when last looked.
    lost: u64,
    spans: Vec<ConnectionSpan>,
}

impl Bench {
    fn noted(&mut self, noted: Noted, now: Duration) {
        match noted {
            Noted::Stage(note) => self.take(*note, now),
            Noted::Exchange(record) => {
                for note in exchange(&record) {
                    self.take(note, now);
                }
            }
        }
    }

    fn take(&mut self, note: Note, now: Duration) {
        if let Some(feed) = self.feed.as_ref().filter(|it| it.tap.exports(note.flow)) {
            self.assembler.take(&note, &mut self.spans);
            export(&mut self.spans, &feed.spans);
        }
        let rank = note.flow.rank;
        let stage = FlowStage::of(note);
        let mut out = Vec::new();
        for observer in &mut self.observers {
            if rank < observer.below {
                observer.joiner.take(stage.clone(), now, &mut out);
                observer.tell(&mut out);
            }
        }
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.history.push_back((rank, stage));
    }

    /// Shows the past to somebody who has come, who stays if it wants to see more.
    fn seat(&mut self, mut observer: Observer, now: Duration, left: &mpsc::UnboundedSender<u64>) {
        if observer.last > 0 {
            let mut out = Vec::new();
            for (rank, stage) in &self.history {
                if *rank < observer.below {
                    observer.joiner.take(stage.clone(), now, &mut out);
                }
            }
            observer.joiner.finish(&mut out);
            keep_last(&mut out, observer.last);
            observer.tell(&mut out);
        }
        if observer.follows {
            self.observers.push(observer);
        } else {
            // The hub outlives the pump or both end.
            let _ = left.send(observer.id);
        }
    }

    /// Returns how many stages were lost since the last call.
    fn tick(&mut self, now: Duration, left: &mpsc::UnboundedSender<u64>) -> u64 {
        let mut lost = 0;
        if let Some(feed) = &self.feed {
            self.assembler.tick(wall(), &mut self.spans);
            export(&mut self.spans, &feed.spans);
            let all = feed.tap.lost();
            lost = all.saturating_sub(self.lost);
            self.lost = all;
        }
        let of_all = lost;
        let mut out = Vec::new();
        self.observers.retain_mut(|observer| {
            let given_up = observer.joiner.take_given_up();
            observer.missed += of_all + given_up;
            observer.joiner.tick(now, &mut out);
            lost += given_up + observer.tell(&mut out);
            let is_gone = observer.told.is_closed();
            if is_gone {
                let _ = left.send(observer.id);
            }
            !is_gone
        });
        lost
    }
}

impl Observer {
    /// Tells what is to be told, or counts it as missed; returns how much of it was.
    fn tell(&mut self, out: &mut Vec<FlowStage>) -> u64 {
        let mut missed = 0;
        if self.missed > 0 && self.told.try_send(Told::Missed(self.missed)).is_ok() {
            self.missed = 0;
        }
        for stage in out.drain(..) {
            if self.told.try_send(Told::Stage(Box::new(stage))).is_err() {
                missed += 1;
            }
        }
        self.missed += missed;
        missed
    }
}

fn export(spans: &mut Vec<ConnectionSpan>, queue: &SpanQueue) {
    for span in spans.drain(..) {
        queue.push(Exported::Connection(Box::new(span)));
    }
}

/// Drops all but the stages of the last flows.
fn keep_last(stages: &mut Vec<FlowStage>, flows: usize) {
    let mut known = HashSet::new();
    let first = stages.iter().rposition(|stage| {
        known.insert(stage.id.clone());
        known.len() > flows
    });
    if let Some(before) = first {
        stages.drain(..=before);
    }
}

/// The time of day, since the Unix epoch.
fn wall() -> Duration {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}

/// An event as a stage, with names instead of numbers; `clock_offset_ns` leads from the monotonic clock
/// to the wall clock.
fn note(event: &Event, names: &NameTable, clock_offset_ns: u64) -> Note {
    let end = |addr, port_be: u16| SocketAddr::new(IpAddr::from(addr), u16::from_be(port_be));
    let source = end(event.src, event.src_port_be);
    let destination = end(event.dst, event.dst_port_be);
    let reason = Reason::from_code(event.reason);
    // What a backend answers is addressed to the client, or to what stands for it.
    let is_answer = reason == Some(Reason::Returned);
    let service = names.service(event.service);
    let packet = Packet {
        interface: names.interface_or_index(event.ifindex),
        verdict: reason
            .map_or("unknown", |reason| reason.outcome().name())
            .to_owned(),
        reason: reason.map_or_else(
            || event.reason.to_string(),
            |reason| reason.name().to_owned(),
        ),
        length: event.length,
        flags: flags(event.tcp_flags),
        mode: service
            .as_deref()
            .and_then(|service| names.mode(service))
            .map(str::to_owned),
        service,
        backend: names.backend(event.backend),
        between: is_answer.then(|| format!("{source} > {destination}")),
    };
    Note {
        flow: Flow {
            id: event.flow,
            rank: event.rank,
        },
        at: Duration::from_nanos(event.time_ns.wrapping_add(clock_offset_ns)),
        ends: match is_answer {
            true => (destination, source),
            false => (source, destination),
        },
        protocol: event.protocol,
        request: None,
        stage: Stage::Packet(packet),
        trace: None,
    }
}

/// The TCP flags that open or end a connection.
fn flags(octet: u8) -> String {
    let turns = [
        (tcp::flag::SYN, "syn"),
        (tcp::flag::FIN, "fin"),
        (tcp::flag::RST, "rst"),
    ];
    let set = turns.into_iter().filter(|(flag, _)| octet & flag != 0);
    let mut names: Vec<&str> = set.map(|(_, name)| name).collect();
    if names == ["syn"] && octet & tcp::flag::ACK != 0 {
        names.push("ack");
    }
    names.join(",")
}

#[cfg(test)]
mod tests;
