//! What redirected connections were, counted where they are accepted.
//!
//! Once for each connection, so one lock for all workers will do.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Workloads that are counted one by one at each listener; further ones are counted together.
const WORKLOADS: usize = 256;

/// What further workloads are called.
const OTHERS: &str = "(others)";

/// What was seen of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// TLS.
    Tls,
    /// Something else.
    Other,
    /// The client said nothing for too long.
    Silent,
    /// Its port says not to look.
    Opaque,
    /// It was made to the listener itself.
    Direct,
}

impl Seen {
    /// For metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Other => "other",
            Self::Silent => "silent",
            Self::Opaque => "opaque",
            Self::Direct => "direct",
        }
    }
}

/// What was counted at a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerTally {
    /// Connections by what was seen of them.
    pub seen: BTreeMap<Seen, u64>,
    /// Connections by workload.
    pub workloads: BTreeMap<Arc<str>, u64>,
}

static TALLIES: Mutex<BTreeMap<String, ListenerTally>> = Mutex::new(BTreeMap::new());

/// Counts a connection.
pub fn tally(listener: &str, seen: Seen, workload: Option<&Arc<str>>) {
    let mut all = TALLIES.lock();
    let one = match all.get_mut(listener) {
        Some(one) => one,
        None => all.entry(listener.to_owned()).or_default(),
    };
    one.count(seen, workload);
}

/// What was counted, by listener.
pub fn tallies() -> BTreeMap<String, ListenerTally> {
    TALLIES.lock().clone()
}

impl ListenerTally {
    fn count(&mut self, seen: Seen, workload: Option<&Arc<str>>) {
        *self.seen.entry(seen).or_default() += 1;
        let Some(workload) = workload else { return };
        if let Some(count) = self.workloads.get_mut(workload) {
            *count += 1;
            return;
        }
        let has_room = self.workloads.len() < WORKLOADS;
        let key = if has_room {
            Arc::clone(workload)
        } else {
            OTHERS.into()
        };
        *self.workloads.entry(key).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_workloads_is_bounded_and_none_is_lost() {
        let mut tally = ListenerTally::default();
        for index in 0..2 * WORKLOADS {
            let workload: Arc<str> = format!("/{index}").into();
            tally.count(Seen::Http1, Some(&workload));
            tally.count(Seen::Tls, Some(&workload));
        }
        tally.count(Seen::Direct, None);
        assert_eq!(tally.workloads.len(), WORKLOADS + 1);
        assert_eq!(tally.workloads[OTHERS], 2 * WORKLOADS as u64);
        assert_eq!(tally.workloads.values().sum::<u64>(), 4 * WORKLOADS as u64);
        assert_eq!(tally.seen[&Seen::Http1], 2 * WORKLOADS as u64);
        assert_eq!(tally.seen[&Seen::Direct], 1);
    }
}
