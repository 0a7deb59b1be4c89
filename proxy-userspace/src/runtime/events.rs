//! Sampled events: from the ring buffer to whoever listens.
//!
//! The pump is a task of its own, because at one event per packet there may be hundreds of
//! thousands a second. It reads even when nobody listens, so that a listener never sees what
//! happened before it came. A slow listener loses events, counted, and delays nobody.

use super::names::{NameTable, SharedNames};
use crate::admin::api::{EventQuery, Refusal, RefusalKind};
use crate::kernel::capture::Names as _;
use crate::kernel::events::EventReader;
use crate::kernel::host;
use crate::observe::counters::Counters;
use crate::observe::view::EventView;
use proxy_common::event::Event;
use proxy_common::reason::{Outcome, Reason};
use proxy_common::service::protocol;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::interval;
use tracing::warn;

/// Events that a listener may be behind.
const BACKLOG: usize = 4096;

/// Listeners at once.
const MAX_LISTENERS: usize = 32;

/// How often is looked for listeners that have left.
const LOOK: Duration = Duration::from_millis(500);

/// The control task's side.
#[derive(Debug)]
pub(crate) struct EventHub {
    listeners: mpsc::UnboundedSender<Listener>,
    left: mpsc::UnboundedReceiver<u64>,
    sampling: BTreeMap<u64, Option<u32>>,
    next: u64,
}

/// The pump's side.
pub(crate) struct EventPump {
    pub(super) readers: mpsc::UnboundedReceiver<EventReader>,
    listeners: mpsc::UnboundedReceiver<Listener>,
    left: mpsc::UnboundedSender<u64>,
    names: SharedNames,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Listener {
    id: u64,
    filter: Filter,
    events: mpsc::Sender<EventView>,
}

/// Which events a listener wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Filter {
    service: Option<String>,
    reason: Option<Reason>,
    outcome: Option<Outcome>,
}

impl EventHub {
    /// A hub and the pump that serves it; the pump reads whatever comes from `readers`.
    pub(crate) fn new(
        readers: mpsc::UnboundedReceiver<EventReader>,
        names: SharedNames,
        counters: Arc<Counters>,
    ) -> (Self, EventPump) {
        let (listeners, arriving) = mpsc::unbounded_channel();
        let (leaving, left) = mpsc::unbounded_channel();
        let hub = Self {
            listeners,
            left,
            sampling: BTreeMap::new(),
            next: 0,
        };
        let pump = EventPump {
            readers,
            listeners: arriving,
            left: leaving,
            names,
            counters,
        };
        (hub, pump)
    }

    /// Adds a listener.
    pub(crate) fn listen(
        &mut self,
        query: EventQuery,
    ) -> Result<mpsc::Receiver<EventView>, Refusal> {
        if self.sampling.len() >= MAX_LISTENERS {
            let message = format!("{MAX_LISTENERS} clients observe already");
            return Err(Refusal::new(RefusalKind::Conflict, message));
        }
        let filter = Filter::parse(&query)?;
        let (events, receiver) = mpsc::channel(BACKLOG);
        self.next += 1;
        let listener = Listener {
            id: self.next,
            filter,
            events,
        };
        self.listeners
            .send(listener)
            .map_err(|_| Refusal::stopping())?;
        self.sampling
            .insert(self.next, query.sample.filter(|&every| every > 0));
        Ok(receiver)
    }

    /// The sampling that the listeners ask for: the finest.
    pub(crate) fn sampling(&self) -> Option<u32> {
        self.sampling.values().flatten().min().copied()
    }

    /// Waits until a listener has left.
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

impl Filter {
    fn parse(query: &EventQuery) -> Result<Self, Refusal> {
        let invalid = |message: String| Refusal::new(RefusalKind::Invalid, message);
        let reason = query.reason.as_deref().map(|name| {
            let found = Reason::ALL
                .iter()
                .find(|reason| reason.name() == name)
                .copied();
            found.ok_or_else(|| invalid(format!("there is no reason `{name}`")))
        });
        let outcome = query.outcome.as_deref().map(|name| {
            let all = [Outcome::Pass, Outcome::Forward, Outcome::Drop];
            let found = all.into_iter().find(|outcome| outcome.name() == name);
            found.ok_or_else(|| invalid(format!("`{name}` is not pass, forward or drop")))
        });
        Ok(Self {
            service: query.service.clone(),
            reason: reason.transpose()?,
            outcome: outcome.transpose()?,
        })
    }

    fn accepts(&self, view: &EventView, reason: Option<Reason>) -> bool {
        self.service
            .as_deref()
            .is_none_or(|service| view.service.as_deref() == Some(service))
            && self.reason.is_none_or(|wanted| reason == Some(wanted))
            && self
                .outcome
                .is_none_or(|wanted| reason.map(Reason::outcome) == Some(wanted))
    }
}

impl EventPump {
    /// Serves until the hub is gone.
    pub(crate) async fn run(mut self) {
        let mut reader: Option<EventReader> = None;
        let mut listeners: Vec<Listener> = Vec::new();
        let mut look = interval(LOOK);
        loop {
            let next = async {
                match &mut reader {
                    Some(reader) => reader.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = next => match event {
                    Ok(_) if listeners.is_empty() => {}
                    Ok(event) => self.deliver(&event, &listeners),
                    Err(error) => {
                        warn!(%error, "events cannot be read any more");
                        reader = None;
                    }
                },
                listener = self.listeners.recv() => match listener {
                    Some(listener) => listeners.push(listener),
                    None => return,
                },
                Some(new) = self.readers.recv() => reader = Some(new),
                _ = look.tick() => listeners.retain(|listener| {
                    let gone = listener.events.is_closed();
                    if gone {
                        // The hub outlives the pump or both end.
                        let _ = self.left.send(listener.id);
                    }
                    !gone
                }),
            }
        }
    }

    fn deliver(&self, event: &Event, listeners: &[Listener]) {
        let reason = Reason::from_code(event.reason);
        let view = view(event, reason, &self.names.load(), host::wall_clock_offset());
        for listener in listeners {
            if listener.filter.accepts(&view, reason)
                && listener.events.try_send(view.clone()).is_err()
            {
                self.counters.events_lost.fetch_add(1, Relaxed);
            }
        }
    }
}

/// An event with names instead of numbers; `clock_offset_ns` leads from the monotonic clock to the
/// wall clock.
fn view(
    event: &Event,
    reason: Option<Reason>,
    names: &NameTable,
    clock_offset_ns: u64,
) -> EventView {
    let end = |addr, port_be: u16| match (IpAddr::from(addr), u16::from_be(port_be)) {
        (ip, 0) => ip.to_string(),
        (ip, port) => SocketAddr::new(ip, port).to_string(),
    };
    EventView {
        time_seconds: event.time_ns.wrapping_add(clock_offset_ns) as f64 / 1e9,
        protocol: protocol_name(event.protocol),
        source: end(event.src, event.src_port_be),
        destination: end(event.dst, event.dst_port_be),
        length: event.length,
        interface: names.interface_or_index(event.ifindex),
        reason: reason.map_or_else(
            || event.reason.to_string(),
            |reason| reason.name().to_owned(),
        ),
        outcome: reason
            .map_or("unknown", |reason| reason.outcome().name())
            .to_owned(),
        service: names.service(event.service),
        backend: names.backend(event.backend),
    }
}

/// Name of an IP protocol, or its number.
pub(super) fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::ICMP => "icmp".to_owned(),
        protocol::ICMPV6 => "icmpv6".to_owned(),
        other => format!("proto-{other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::plan::{Ids, ListenerIds};
    use proxy_common::addr::Addr;

    fn names() -> NameTable {
        NameTable {
            ids: Ids::new(vec![ListenerIds {
                name: "http".to_owned(),
                service: "web".to_owned(),
                id: 1,
                backends: vec![("b1".to_owned(), 7)],
                retiring: Vec::new(),
            }]),
            interfaces: [(3, "eth0".to_owned())].into(),
        }
    }

    fn event() -> Event {
        Event {
            time_ns: 1_000_000_000,
            src: Addr::v4([192, 0, 2, 1]),
            dst: Addr::v4([198, 51, 100, 1]),
            length: 60,
            ifindex: 3,
            src_port_be: 4711u16.to_be(),
            dst_port_be: 80u16.to_be(),
            reason: Reason::Translated as u16,
            service: 1,
            backend: 7,
            protocol: 6,
            ..Event::default()
        }
    }

    #[test]
    fn numbers_become_names() {
        let view = view(&event(), Some(Reason::Translated), &names(), 500_000_000);
        assert_eq!(view.time_seconds, 1.5);
        assert_eq!(view.source, "192.0.2.1:4711");
        assert_eq!(
            (view.interface.as_str(), view.outcome.as_str()),
            ("eth0", "forward")
        );
        assert_eq!(view.service.as_deref(), Some("web"));
        assert_eq!(view.backend.as_deref(), Some("b1"));
    }

    #[test]
    fn what_is_not_known_keeps_its_number() {
        let event = Event {
            ifindex: 9,
            service: 5,
            protocol: 47,
            reason: 999,
            ..event()
        };
        let view = view(&event, None, &names(), 0);
        assert_eq!(view.interface, "#9");
        assert_eq!(view.protocol, "proto-47");
        assert_eq!(
            (view.reason.as_str(), view.outcome.as_str()),
            ("999", "unknown")
        );
        assert_eq!(view.service, None);
    }

    #[test]
    fn a_filter_needs_all_its_terms() {
        let query = EventQuery {
            service: Some("web".to_owned()),
            outcome: Some("drop".to_owned()),
            ..EventQuery::default()
        };
        let filter = Filter::parse(&query).expect("parses");
        let web = EventView {
            service: Some("web".to_owned()),
            ..EventView::default()
        };
        assert!(filter.accepts(&web, Some(Reason::DropDenied)));
        assert!(!filter.accepts(&web, Some(Reason::Translated)));
        assert!(!filter.accepts(&EventView::default(), Some(Reason::DropDenied)));
    }

    #[test]
    fn an_unknown_reason_is_refused() {
        let query = EventQuery {
            reason: Some("bored".to_owned()),
            ..EventQuery::default()
        };
        let refusal = Filter::parse(&query).expect_err("unknown");
        assert!(refusal.message.contains("bored"));
    }

    #[tokio::test(start_paused = true)]
    async fn sampling_ends_with_the_listener_that_asked_for_it() {
        let (_readers, readers) = mpsc::unbounded_channel();
        let names: SharedNames = Arc::default();
        let (mut hub, pump) = EventHub::new(readers, names, Arc::default());
        tokio::spawn(pump.run());
        let ask = |sample| EventQuery {
            sample,
            ..EventQuery::default()
        };
        let coarse = hub.listen(ask(Some(100))).expect("room");
        let fine = hub.listen(ask(Some(1))).expect("room");
        let _default = hub.listen(ask(None)).expect("room");
        assert_eq!(hub.sampling(), Some(1));
        drop(fine);
        hub.ended().await;
        assert_eq!(hub.sampling(), Some(100));
        drop(coarse);
        hub.ended().await;
        assert_eq!(hub.sampling(), None);
    }
}
