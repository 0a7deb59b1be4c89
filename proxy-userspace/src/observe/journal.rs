//! What has happened to the daemon: the last events, in order, for whoever asks and whoever waits.
//!
//! A ring of a fixed number of events with consecutive numbers. A reader keeps the number of the
//! last event that it has seen and asks for what follows; so a slow reader costs no memory, a
//! reader that was away goes on where it had been, and one that was away for too long is told how
//! many events it has missed. An event's id names the ring as well, because the numbers begin anew
//! with each process.

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;

/// Events that are kept.
pub const CAPACITY: usize = 1024;

/// What an event is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// A backend's health.
    Health,
    /// A backend was ejected because of how it answered, or is back.
    Ejection,
    /// A drain began or ended.
    Drain,
    /// Another configuration is in force, or was refused.
    Config,
    /// A listener came or went.
    Listener,
    /// Certificates were read again.
    Certificate,
    /// Rules of the guard.
    Guard,
    /// The log level.
    Log,
    /// The daemon itself.
    #[default]
    Daemon,
}

impl Topic {
    /// The word used in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Ejection => "ejection",
            Self::Drain => "drain",
            Self::Config => "config",
            Self::Listener => "listener",
            Self::Certificate => "certificate",
            Self::Guard => "guard",
            Self::Log => "log",
            Self::Daemon => "daemon",
        }
    }
}

/// Something that has happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Happening {
    /// Names it; what follows it is asked for with `Last-Event-ID`.
    pub id: String,
    /// When, seconds since the epoch.
    pub time_seconds: f64,
    /// What it is about.
    pub topic: Topic,
    /// One sentence.
    pub message: String,
    /// The service, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The backend, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The configuration's generation, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

impl Happening {
    /// An event that is not in a journal yet.
    pub fn new(topic: Topic, message: impl Into<String>) -> Self {
        Self {
            topic,
            message: message.into(),
            ..Self::default()
        }
    }

    /// It is about this backend.
    #[must_use]
    pub fn of(mut self, service: &str, backend: &str) -> Self {
        self.service = Some(service.to_owned());
        self.backend = Some(backend.to_owned());
        self
    }
}

/// The last events.
#[derive(Debug)]
pub struct Journal {
    name: u64,
    ring: Mutex<Ring>,
    latest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Happening>>,
    /// Number of the last event; the first has 1.
    last: u64,
}

/// What follows an event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Following {
    /// Events, oldest first.
    pub events: Vec<Arc<Happening>>,
    /// Number of the last of them, to go on from.
    pub last: u64,
    /// Events in between that are not kept any more.
    pub missed: u64,
}

impl Journal {
    /// An empty journal. The name tells it from those of other processes.
    pub fn new(name: u64) -> Self {
        Self {
            name,
            ring: Mutex::default(),
            latest: watch::Sender::new(0),
        }
    }

    /// Writes an event down.
    pub fn note(&self, mut event: Happening, time_seconds: f64) {
        let mut ring = self.ring.lock();
        ring.last += 1;
        event.id = format!("{:x}-{}", self.name, ring.last);
        event.time_seconds = time_seconds;
        if ring.events.len() == CAPACITY {
            ring.events.pop_front();
        }
        ring.events.push_back(Arc::new(event));
        self.latest.send_replace(ring.last);
    }

    /// What follows the event of this number; 0 stands before the first.
    pub fn after(&self, number: u64) -> Following {
        let ring = self.ring.lock();
        let oldest = ring.last - ring.events.len() as u64;
        let from = number.clamp(oldest, ring.last);
        let skipped = usize::try_from(from - oldest).unwrap_or(usize::MAX);
        Following {
            events: ring.events.iter().skip(skipped).cloned().collect(),
            last: ring.last,
            missed: oldest.saturating_sub(number),
        }
    }

    /// The number of the event with this id. An id of another process stands before the first
    /// event: what has happened since then is what this journal has.
    pub fn number(&self, id: &str) -> Option<u64> {
        let (name, number) = id.split_once('-')?;
        let name = u64::from_str_radix(name, 16).ok()?;
        let number = number.parse().ok()?;
        Some(if name == self.name { number } else { 0 })
    }

    /// The number of the last event.
    pub fn last(&self) -> u64 {
        self.ring.lock().last
    }

    /// Changes with each event.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(events: u64) -> Journal {
        let journal = Journal::new(0xab);
        for number in 1..=events {
            journal.note(Happening::new(Topic::Daemon, number.to_string()), 0.0);
        }
        journal
    }

    fn messages(following: &Following) -> Vec<&str> {
        let events = following.events.iter();
        events.map(|event| event.message.as_str()).collect()
    }

    #[test]
    fn a_reader_goes_on_where_it_had_been() {
        let journal = journal(3);
        let number = journal.number("ab-2").expect("an id");
        let following = journal.after(number);
        assert_eq!(messages(&following), ["3"]);
        assert_eq!((following.last, following.missed), (3, 0));
        assert_eq!(following.events[0].id, "ab-3");
        assert_eq!(messages(&journal.after(3)), [""; 0]);
    }

    #[test]
    fn who_was_away_for_too_long_is_told_how_much_is_missing() {
        let journal = journal(CAPACITY as u64 + 5);
        let following = journal.after(2);
        assert_eq!(following.missed, 3);
        assert_eq!(following.events.len(), CAPACITY);
        assert_eq!(following.events[0].message, "6");
    }

    #[test]
    fn an_id_of_another_process_stands_before_everything() {
        let journal = journal(2);
        assert_eq!(journal.number("cd-77"), Some(0));
        assert_eq!(journal.number("ab"), None);
        assert_eq!(journal.number("ab-x"), None);
        // One from the future is as good as the last.
        assert_eq!(journal.after(99).events.len(), 0);
    }
}
