//! Captures: one session at a time, streamed as pcapng to whoever asked for it.
//!
//! The ring buffer has one reader, and copying packets costs every packet, so there is one session
//! at a time. Its client's end, its count or its time ends it; the control task then tells the
//! packet path to stop copying. What a slow client cannot take in time is lost, counted, and
//! missing in the file; nothing waits for it.

use super::names::{NameTable, SharedNames};
use crate::admin::api::{CaptureQuery, Refusal, RefusalKind};
use crate::kernel::capture::{CaptureFilter, CaptureWriter};
use crate::kernel::events::{CaptureReader, CapturedPacket};
use crate::observe::counters::Counters;
use bytes::Bytes;
use parking_lot::Mutex;
use proxy_common::event::CAPTURE_OCTETS;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval};
use tracing::warn;

/// Octets that wait for a slow client; beyond that, packets are lost.
const MAX_PENDING: usize = 8 << 20;

/// How often what has gathered is sent on.
const FLUSH: Duration = Duration::from_millis(50);

/// Pieces on their way to the client.
const PIECES: usize = 4;

/// The control task's side.
#[derive(Debug)]
pub(crate) struct CaptureHub {
    sessions: mpsc::UnboundedSender<Session>,
    ended: mpsc::UnboundedReceiver<()>,
    running: bool,
}

/// The pump's side.
pub(crate) struct CapturePump {
    readers: mpsc::UnboundedReceiver<CaptureReader>,
    sessions: mpsc::UnboundedReceiver<Session>,
    ended: mpsc::UnboundedSender<()>,
    names: SharedNames,
    counters: Arc<Counters>,
}

/// What one client asked for.
#[derive(Debug)]
struct Session {
    filter: CaptureFilter,
    ifindex: Option<u32>,
    count: u64,
    deadline: Option<Instant>,
    pieces: mpsc::Sender<Bytes>,
}

impl CaptureHub {
    /// A hub and the pump that serves it.
    pub(crate) fn new(
        readers: mpsc::UnboundedReceiver<CaptureReader>,
        names: SharedNames,
        counters: Arc<Counters>,
    ) -> (Self, CapturePump) {
        let (sessions, arriving) = mpsc::unbounded_channel();
        let (ending, ended) = mpsc::unbounded_channel();
        let hub = Self {
            sessions,
            ended,
            running: false,
        };
        let pump = CapturePump {
            readers,
            sessions: arriving,
            ended: ending,
            names,
            counters,
        };
        (hub, pump)
    }

    /// Starts a session; returns the stream and the octets of each packet to copy.
    pub(crate) fn start(
        &mut self,
        query: &CaptureQuery,
        names: &NameTable,
    ) -> Result<(mpsc::Receiver<Bytes>, u32), Refusal> {
        if self.running {
            let message = "a capture is running already";
            return Err(Refusal::new(RefusalKind::Conflict, message));
        }
        let invalid = |message: String| Refusal::new(RefusalKind::Invalid, message);
        let filter = CaptureFilter::parse(&query.filter, |name| service_id(name, names))
            .map_err(|error| invalid(error.to_string()))?;
        let ifindex = query.interface.as_deref().map(|name| {
            let index = names.interface_index(name);
            index.ok_or_else(|| invalid(format!("there is no interface `{name}`")))
        });
        let duration = query
            .duration_seconds
            .map(Duration::try_from_secs_f64)
            .transpose();
        let duration = duration.map_err(|error| invalid(format!("duration: {error}")))?;
        let (pieces, receiver) = mpsc::channel(PIECES);
        let session = Session {
            filter,
            ifindex: ifindex.transpose()?,
            count: query.count.unwrap_or(u64::MAX),
            deadline: duration.and_then(|duration| Instant::now().checked_add(duration)),
            pieces,
        };
        self.sessions
            .send(session)
            .map_err(|_| Refusal::stopping())?;
        self.running = true;
        let octets = query.snaplen.unwrap_or(CAPTURE_OCTETS as u32);
        Ok((receiver, octets.clamp(1, CAPTURE_OCTETS as u32)))
    }

    /// Waits until the session has ended.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn ended(&mut self) {
        match self.ended.recv().await {
            Some(()) => self.running = false,
            None => std::future::pending().await,
        }
    }
}

/// Id of a listener, or of a service that has one listener.
fn service_id(name: &str, names: &NameTable) -> Option<u16> {
    if let Some(listener) = names.ids.listener(name) {
        return Some(listener.id);
    }
    let mut listeners = names.ids.of_service(name);
    let first = listeners.next()?;
    listeners.next().is_none().then_some(first.id)
}

impl CapturePump {
    /// Serves until the hub is gone.
    pub(crate) async fn run(mut self) {
        let mut reader: Option<CaptureReader> = None;
        let mut running: Option<Running> = None;
        let mut flush = interval(FLUSH);
        loop {
            let next = async {
                match &mut reader {
                    Some(reader) => reader.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                packet = next => match packet {
                    Ok(packet) => {
                        if let Some(running) = &mut running {
                            running.take(packet, &self.names.load(), &self.counters);
                        }
                    }
                    Err(error) => {
                        warn!(%error, "captured packets cannot be read any more");
                        reader = None;
                    }
                },
                session = self.sessions.recv() => match session {
                    Some(session) => running = self.begin(session),
                    None => return,
                },
                Some(new) = self.readers.recv() => reader = Some(new),
                _ = flush.tick() => {
                    if let Some(session) = &mut running {
                        session.flush();
                    }
                }
            }
            if running.as_ref().is_some_and(Running::is_over)
                && let Some(session) = running.take()
            {
                session.finish(&self.names.load());
                // Nobody listens only while the daemon ends.
                let _ = self.ended.send(());
            }
        }
    }

    fn begin(&self, session: Session) -> Option<Running> {
        let pending = Pending::default();
        match CaptureWriter::new(pending.clone(), session.filter.clone()) {
            Ok(writer) => Some(Running {
                session,
                writer,
                pending,
            }),
            Err(error) => {
                warn!(%error, "a capture cannot begin");
                let _ = self.ended.send(());
                None
            }
        }
    }
}

/// A session that is being served.
struct Running {
    session: Session,
    writer: CaptureWriter<Pending>,
    pending: Pending,
}

/// What was written and not yet sent.
#[derive(Clone, Debug, Default)]
struct Pending(Arc<Mutex<Vec<u8>>>);

impl Write for Pending {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Running {
    fn take(&mut self, packet: CapturedPacket, names: &NameTable, counters: &Counters) {
        if self
            .session
            .ifindex
            .is_some_and(|wanted| wanted != packet.header.ifindex)
        {
            return;
        }
        if self.pending.0.lock().len() > MAX_PENDING {
            counters.capture_lost.fetch_add(1, Relaxed);
            return;
        }
        // Writing to memory does not fail.
        let _ = self.writer.push(packet, names);
    }

    fn flush(&mut self) {
        let mut pending = self.pending.0.lock();
        if pending.is_empty() {
            return;
        }
        if let Ok(permit) = self.session.pieces.try_reserve() {
            permit.send(std::mem::take(&mut *pending).into());
        }
    }

    fn is_over(&self) -> bool {
        self.session.pieces.is_closed()
            || self.writer.packets() >= self.session.count
            || self
                .session
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Sends what is left from a task of its own: the client may be slow.
    fn finish(self, names: &NameTable) {
        let Self {
            session,
            mut writer,
            pending,
        } = self;
        let _ = writer.finish(names);
        let rest = std::mem::take(&mut *pending.0.lock());
        tokio::spawn(async move { session.pieces.send(rest.into()).await });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::plan::{Ids, ListenerIds};

    fn names() -> NameTable {
        let listener = |name: &str, id, service: &str| ListenerIds {
            name: name.to_owned(),
            service: service.to_owned(),
            id,
            backends: Vec::new(),
            retiring: Vec::new(),
        };
        NameTable {
            ids: Ids::new(vec![
                listener("http", 1, "web"),
                listener("dns-tcp", 2, "dns"),
                listener("dns-udp", 3, "dns"),
            ]),
            interfaces: [(3, "eth0".to_owned())].into(),
            modes: Default::default(),
        }
    }

    #[test]
    fn a_service_with_several_listeners_is_named_by_one_of_them() {
        let names = names();
        assert_eq!(service_id("web", &names), Some(1));
        assert_eq!(service_id("dns-udp", &names), Some(3));
        assert_eq!(service_id("dns", &names), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_session_at_a_time_and_it_ends_with_its_client() {
        let (_readers, readers) = mpsc::unbounded_channel();
        let (mut hub, pump) = CaptureHub::new(readers, Arc::default(), Arc::default());
        tokio::spawn(pump.run());
        let query = CaptureQuery {
            snaplen: Some(96),
            ..CaptureQuery::default()
        };
        let (mut pieces, octets) = hub.start(&query, &names()).expect("starts");
        assert_eq!(octets, 96);
        let head = pieces.recv().await.expect("a pcapng header");
        assert_eq!(head[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
        let refusal = hub.start(&query, &names()).expect_err("busy");
        assert_eq!(refusal.kind, RefusalKind::Conflict);
        drop(pieces);
        hub.ended().await;
        hub.start(&query, &names()).expect("free again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_at_its_time() {
        let (_readers, readers) = mpsc::unbounded_channel();
        let (mut hub, pump) = CaptureHub::new(readers, Arc::default(), Arc::default());
        tokio::spawn(pump.run());
        let query = CaptureQuery {
            duration_seconds: Some(3.0),
            ..CaptureQuery::default()
        };
        let began = Instant::now();
        let (mut pieces, _) = hub.start(&query, &names()).expect("starts");
        hub.ended().await;
        assert!(began.elapsed() >= Duration::from_secs(3));
        while pieces.recv().await.is_some() {}
    }

    #[tokio::test]
    async fn faults_of_a_query_are_named() {
        let (_readers, readers) = mpsc::unbounded_channel();
        let (mut hub, _pump) = CaptureHub::new(readers, Arc::default(), Arc::default());
        let check = |query: CaptureQuery, word: &str, hub: &mut CaptureHub| {
            let refusal = hub.start(&query, &names()).expect_err("refused");
            assert!(refusal.message.contains(word), "{refusal}");
        };
        let interface = Some("eth9".to_owned());
        check(
            CaptureQuery {
                interface,
                ..Default::default()
            },
            "eth9",
            &mut hub,
        );
        let filter = "service nosuch".to_owned();
        check(
            CaptureQuery {
                filter,
                ..Default::default()
            },
            "nosuch",
            &mut hub,
        );
        let duration_seconds = Some(-1.0);
        check(
            CaptureQuery {
                duration_seconds,
                ..Default::default()
            },
            "duration",
            &mut hub,
        );
    }
}
