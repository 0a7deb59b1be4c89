//! The configurations that were in force, the last ones, for looking back and for going back.
//!
//! Kept in memory: a restart begins with the file again, and so does the history.

use crate::admin::api::HistoryEntry;
use crate::config::model::Config;
use std::collections::VecDeque;
use std::sync::Arc;

/// Configurations that are kept, the one in force included.
pub(crate) const KEPT: usize = 20;

/// Sentences of one entry at most.
const CHANGES: usize = 100;

/// The last configurations, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    past: VecDeque<(HistoryEntry, Arc<Config>)>,
}

impl History {
    /// Notes the configuration that is in force from now on.
    pub(crate) fn note(&mut self, mut entry: HistoryEntry, config: Arc<Config>) {
        let more = entry.changes.len().saturating_sub(CHANGES);
        if more > 0 {
            entry.changes.truncate(CHANGES);
            entry.changes.push(format!("… and {more} more"));
        }
        if self.past.len() == KEPT {
            self.past.pop_front();
        }
        self.past.push_back((entry, config));
    }

    /// Newest first.
    pub(crate) fn entries(&self) -> Vec<HistoryEntry> {
        let newest_first = self.past.iter().rev();
        newest_first.map(|(entry, _)| entry.clone()).collect()
    }

    /// The configuration of a generation.
    pub(crate) fn config(&self, generation: u64) -> Option<&Arc<Config>> {
        let mut past = self.past.iter();
        let found = past.find(|(entry, _)| entry.generation == generation);
        found.map(|(_, config)| config)
    }

    /// The generations that are kept: the first and the last.
    pub(crate) fn range(&self) -> (u64, u64) {
        let generation = |entry: Option<&(HistoryEntry, _)>| entry.map_or(0, |(e, _)| e.generation);
        (generation(self.past.front()), generation(self.past.back()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_long_lists_are_cut() {
        let mut history = History::default();
        for generation in 1..=KEPT as u64 + 2 {
            let entry = HistoryEntry {
                generation,
                changes: vec![String::new(); CHANGES + 5],
                ..HistoryEntry::default()
            };
            history.note(entry, Arc::default());
        }
        assert_eq!(history.range(), (3, 22));
        assert!(history.config(2).is_none() && history.config(3).is_some());
        let newest = &history.entries()[0];
        assert_eq!(newest.generation, 22);
        assert_eq!(newest.changes.len(), CHANGES + 1);
        assert_eq!(newest.changes[CHANGES], "… and 5 more");
    }
}
