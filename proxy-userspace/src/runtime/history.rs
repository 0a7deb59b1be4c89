//! The configurations that were in force, the last ones, for looking back and for going back.
//!
//! Kept in memory: a restart begins with the file again, and so does the history. A process that
//! takes over is told, see [`Configured`].

use super::source;
use super::upgrade::State;
use crate::admin::api::{HistoryEntry, Refusal};
use crate::config::model::Config;
use crate::config::{diff, effective_yaml};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use tracing::warn;

/// Configurations that are kept, the one in force included.
pub(crate) const KEPT: usize = 20;

/// Sentences of one entry at most.
const CHANGES: usize = 100;

/// Octets of configurations that a successor is told, together; the oldest ones are left out.
const TOLD: usize = 4 << 20;

/// What messages call a text that came from there.
const OLDER: &str = "the older process";

/// The last configurations, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    past: VecDeque<(HistoryEntry, Stored)>,
}

/// A configuration that was in force.
#[derive(Clone, Debug)]
enum Stored {
    /// In this process.
    Read(Arc<Config>),
    /// In an older one, with every default filled in. Nearly nobody goes back to one, so it is
    /// read when somebody does.
    Text(String),
}

impl Stored {
    fn text(&self) -> String {
        match self {
            Self::Read(config) => effective_yaml(config),
            Self::Text(text) => text.clone(),
        }
    }

    fn config(&self) -> Result<Arc<Config>, Refusal> {
        match self {
            Self::Read(config) => Ok(Arc::clone(config)),
            Self::Text(text) => source::parse(OLDER, text).map(|(config, _)| Arc::new(config)),
        }
    }
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
        self.past.push_back((entry, Stored::Read(config)));
    }

    /// Newest first.
    pub(crate) fn entries(&self) -> Vec<HistoryEntry> {
        let newest_first = self.past.iter().rev();
        newest_first.map(|(entry, _)| entry.clone()).collect()
    }

    /// The entry of the configuration that is in force, or was last.
    pub(crate) fn last(&self) -> Option<&HistoryEntry> {
        self.past.back().map(|(entry, _)| entry)
    }

    /// What another configuration changes of the last one.
    pub(crate) fn changes(&self, to: &Config) -> Vec<String> {
        let last = self.past.back().map(|(_, stored)| stored.config());
        let Some(Ok(last)) = last else {
            return Vec::new();
        };
        let changes = diff(&last, to);
        changes.iter().map(ToString::to_string).collect()
    }

    /// The configuration of a generation, if it is kept.
    ///
    /// # Errors
    ///
    /// It was in force in an older process, and this one does not understand it.
    pub(crate) fn config(&self, generation: u64) -> Option<Result<Arc<Config>, Refusal>> {
        let mut past = self.past.iter();
        let found = past.find(|(entry, _)| entry.generation == generation);
        found.map(|(_, stored)| stored.config())
    }

    /// The generations that are kept: the first and the last.
    pub(crate) fn range(&self) -> (u64, u64) {
        let generation = |entry: Option<&(HistoryEntry, _)>| entry.map_or(0, |(e, _)| e.generation);
        (generation(self.past.front()), generation(self.past.back()))
    }
}

/// What a process knows of its configuration that the file does not say, told to its successor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Configured {
    /// What the file said when it was last read or written, with every default filled in; `None`
    /// if that is in force.
    saved: Option<String>,
    /// The configurations that were in force, oldest first; the last one is.
    past: Vec<(HistoryEntry, String)>,
}

impl Configured {
    /// `saved`: what the file said, if that is not in force.
    pub(crate) fn new(history: &History, saved: Option<&Config>) -> Self {
        let mut past: Vec<(HistoryEntry, String)> = Vec::new();
        let mut octets = 0;
        for (entry, stored) in history.past.iter().rev() {
            let text = stored.text();
            octets += text.len();
            // Without the one in force nothing could go on.
            if octets > TOLD && !past.is_empty() {
                break;
            }
            past.push((entry.clone(), text));
        }
        past.reverse();
        Self {
            saved: saved.map(effective_yaml),
            past,
        }
    }

    fn history(&self) -> History {
        let past = self.past.iter().cloned();
        let past = past.map(|(entry, text)| (entry, Stored::Text(text)));
        History {
            past: past.collect(),
        }
    }
}

/// The configuration that a process begins with.
#[derive(Clone, Debug)]
pub(crate) struct Beginning {
    /// It.
    pub(crate) config: Config,
    /// What the file says.
    pub(crate) saved: Arc<Config>,
    /// What was in force before, in older processes.
    pub(crate) history: History,
}

impl Beginning {
    /// `file` is what it says now. Changes that were made through the API of an older process and
    /// not saved stay in force as long as the file says what it said then: an upgrade is to change
    /// nothing. Who has edited the file since wants that in force.
    pub(crate) fn new(file: Config, state: Option<&State>) -> Self {
        Self::after(file, state.and_then(|it| it.configured.as_ref()))
    }

    fn after(file: Config, configured: Option<&Configured>) -> Self {
        let saved = Arc::new(file);
        let history = configured.map(Configured::history).unwrap_or_default();
        let unsaved = configured.and_then(|it| it.saved.as_deref().zip(it.past.last()));
        let config = match unsaved {
            None => Config::clone(&saved),
            Some((before, (entry, running))) => {
                let generation = entry.generation;
                unsaved_or(&saved, before, running).unwrap_or_else(|why| {
                    warn!(
                        "changes made through the API of the older process and not saved are undone: \
                         {why}; `sluice config rollback {generation}` puts them in force again"
                    );
                    Config::clone(&saved)
                })
            }
        };
        Self {
            config,
            saved,
            history,
        }
    }
}

/// The configuration that was in force, or why it is not any more. `before`: what the file said.
fn unsaved_or(file: &Config, before: &str, running: &str) -> Result<Config, String> {
    let parse = |text| source::parse(OLDER, text).map_err(|refusal| refusal.to_string());
    let (before, _) = parse(before)?;
    if !diff(&before, file).is_empty() {
        return Err("the file says something else than before".to_owned());
    }
    parse(running).map(|(config, _)| config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(generation: u64) -> HistoryEntry {
        HistoryEntry {
            generation,
            ..HistoryEntry::default()
        }
    }

    #[test]
    fn the_oldest_are_forgotten_and_long_lists_are_cut() {
        let mut history = History::default();
        for generation in 1..=KEPT as u64 + 2 {
            let entry = HistoryEntry {
                changes: vec![String::new(); CHANGES + 5],
                ..entry(generation)
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

    fn config(port: u16) -> Config {
        let text = format!(
            "listeners: [{{name: web, kind: http, address: 192.0.2.9, port: {port}, service: s}}]\n\
             services: [{{name: s, backends: ['192.0.2.1:80']}}]\n"
        );
        source::parse("test", &text).expect("valid").0
    }

    fn told(history: &History, saved: Option<&Config>) -> Configured {
        let text = serde_json::to_string(&Configured::new(history, saved)).expect("written");
        serde_json::from_str(&text).expect("read")
    }

    #[test]
    fn a_successor_goes_on_with_what_is_not_saved_unless_the_file_was_edited() {
        let (file, running) = (config(80), config(81));
        let mut history = History::default();
        history.note(entry(6), Arc::new(file.clone()));
        history.note(entry(7), Arc::new(running.clone()));
        let told = told(&history, Some(&file));
        let same = Beginning::after(file.clone(), Some(&told));
        assert_eq!((&same.config, &*same.saved), (&running, &file));
        let edited = Beginning::after(config(82), Some(&told));
        assert_eq!(edited.config, config(82));
        for begun in [same, edited] {
            assert_eq!(begun.history.range(), (6, 7));
            let past = begun.history.config(7).expect("kept").expect("understood");
            assert_eq!(*past, running);
            assert_eq!(begun.history.changes(&running), Vec::<String>::new());
            assert!(!begun.history.changes(&file).is_empty());
        }
    }

    #[test]
    fn of_many_octets_the_newest_are_told() {
        let mut history = History::default();
        for generation in 1..=5 {
            let stored = Stored::Text("#".repeat(TOLD / 3));
            history.past.push_back((entry(generation), stored));
        }
        assert_eq!(told(&history, None).history().range(), (3, 5));
        let stored = Stored::Text("#".repeat(TOLD + 1));
        history.past.push_back((entry(6), stored));
        assert_eq!(told(&history, None).history().range(), (6, 6));
    }

    #[test]
    fn without_changes_of_the_api_the_file_is_in_force() {
        let mut history = History::default();
        history.note(entry(1), Arc::new(config(80)));
        let told = told(&history, None);
        assert_eq!(Beginning::after(config(81), Some(&told)).config, config(81));
        assert_eq!(Beginning::after(config(81), None).config, config(81));
    }

    #[test]
    fn what_this_version_does_not_understand_is_kept_out_of_force_and_told() {
        let told = Configured {
            saved: Some(effective_yaml(&config(80))),
            past: vec![(entry(3), "services: {}\nnew: 1\n".to_owned())],
        };
        let begun = Beginning::after(config(80), Some(&told));
        assert_eq!(begun.config, config(80));
        let refused = begun.history.config(3).expect("kept");
        refused.expect_err("not understood");
    }
}
