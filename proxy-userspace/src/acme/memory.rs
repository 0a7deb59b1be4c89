//! What is remembered of a certificate's renewal over restarts: a process that is restarted again
//! and again must not use up what the authority allows.

use super::schedule::Window;
use crate::certificates::AcmeStore;
use crate::config::model::acme::Acme;
use serde::{Deserialize, Serialize};
use std::io;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    /// What the failures are about: names and settings. With others everything begins anew.
    pub(super) about: String,
    /// Orders that have failed in a row.
    pub(super) failures: u32,
    /// Not before this is another order made, seconds since the epoch.
    pub(super) retry_at: i64,
    /// Why the last one failed.
    pub(super) error: Option<String>,
    /// When the authority wants the certificate to be renewed (ARI, RFC 9773).
    pub(super) window: Option<Window>,
    /// When the authority is asked for that again, seconds since the epoch.
    pub(super) ask_at: i64,
}

impl Memory {
    /// What was remembered about these names under these settings.
    pub(super) fn load(store: &AcmeStore, names: &[String], acme: &Acme) -> Self {
        let about = about(names, acme);
        let first = names.first().map_or("", String::as_str);
        let octets = AcmeStore::read(&store.memory(first)).ok().flatten();
        let known: Self = octets
            .and_then(|octets| serde_json::from_slice(&octets).ok())
            .unwrap_or_default();
        if known.about == about {
            return known;
        }
        Self {
            about,
            window: known.window,
            ask_at: known.ask_at,
            ..Self::default()
        }
    }

    /// Writes it down.
    pub(super) fn store(&self, store: &AcmeStore, first: &str) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        store.write(&store.memory(first), &text)
    }
}

/// What an order depends on: who has changed one of these has done something about a failure.
fn about(names: &[String], acme: &Acme) -> String {
    let external = acme.external_account.as_ref().map(|it| it.id.as_str());
    format!(
        "{} {} {} {} {}",
        names.join(","),
        acme.challenge.name(),
        acme.key.name(),
        acme.profile.as_deref().unwrap_or("-"),
        external.unwrap_or("-"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::acme::Challenge;

    #[test]
    fn failures_are_remembered_until_something_is_done_about_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let acme = Acme::default();
        let store = AcmeStore::new(folder.path(), &acme.directory);
        let names = vec!["a.example".to_owned()];
        let mut memory = Memory::load(&store, &names, &acme);
        assert_eq!(memory.failures, 0);
        memory.failures = 3;
        memory.retry_at = 99;
        memory.store(&store, "a.example").expect("written");
        assert_eq!(Memory::load(&store, &names, &acme), memory);
        let other = Acme {
            challenge: Challenge::TlsAlpn01,
            ..acme.clone()
        };
        assert_eq!(Memory::load(&store, &names, &other).failures, 0);
        let more = vec!["a.example".to_owned(), "b.example".to_owned()];
        assert_eq!(Memory::load(&store, &more, &acme).retry_at, 0);
        std::fs::write(store.memory("a.example"), "{").expect("written");
        assert_eq!(Memory::load(&store, &names, &acme).failures, 0);
    }
}
