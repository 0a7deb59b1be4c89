//! Files of certificates that change by themselves: what renews them need not tell us.
//!
//! They are looked at every few seconds. Once they have changed and then stayed as they are for one
//! look more, for a certificate and its key cannot be replaced at the same moment, the
//! configuration in force is put in force anew, which reads them. What cannot be used then is
//! reported, and what was in force before stays. What they are compared with was seen before they were
//! read, so that no change is missed.

use super::control::Control;
use super::plane::Plane;
use crate::config::model::Config;
use crate::config::model::acme::AcmeCertificate;
use crate::observe::certificates::CertificateBoard;
use crate::observe::journal::{Happening, Topic};
use crate::observe::view::{CertificateView, OcspView};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use tracing::{info, warn};

/// Ticks between looks.
const LOOK_TICKS: u64 = 2;

/// What tells a file from what it was before: its device, inode, size, and when it was changed.
pub(super) type Seen = Option<(u64, u64, u64, i64, i64)>;

/// What is known of the files.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// As they were just before they were read.
    read: Vec<Seen>,
    /// As they were at the last look.
    last: Vec<Seen>,
}

impl Watched {
    /// Files that are about to be read.
    pub(super) fn of(config: &Config) -> Self {
        let mut watched = Self::default();
        watched.taken(all(config));
        watched
    }

    /// They were read since.
    pub(super) fn taken(&mut self, before: Vec<Seen>) {
        self.read.clone_from(&before);
        self.last = before;
    }

    /// True if they are to be read again.
    fn look(&mut self, now: Vec<Seen>) -> bool {
        let is_settled = self.last == now;
        self.last = now;
        if !is_settled || self.last == self.read {
            return false;
        }
        self.read.clone_from(&self.last);
        true
    }
}

fn seen(path: &Path) -> Seen {
    let about = std::fs::metadata(path).ok()?;
    let (changed, nanos) = (about.mtime(), about.mtime_nsec());
    Some((about.dev(), about.ino(), about.size(), changed, nanos))
}

pub(super) fn all(config: &Config) -> Vec<Seen> {
    config.tls_files().map(|path| seen(path)).collect()
}

impl<P: Plane> Control<P> {
    /// Reads certificates again that have changed.
    pub(super) fn watch_certificates(&mut self) {
        if self.hear_of_certificates() {
            self.certificates.taken(all(&self.config));
        } else if !self.ticks.is_multiple_of(LOOK_TICKS)
            || !self.certificates.look(all(&self.config))
        {
            return;
        }
        match self.refit() {
            Ok(()) => {
                info!("certificates have changed: they are in force now");
                self.tag();
                let message = "certificates have changed: they are in force now";
                self.note(Happening::new(Topic::Certificate, message));
            }
            Err(refusal) => {
                warn!(
                    error = %refusal.message,
                    "certificates have changed and cannot be used: the old ones stay in force"
                );
                let message = format!("changed and cannot be used: {}", refusal.message);
                self.note(Happening::new(Topic::Certificate, message));
            }
        }
    }

    /// Writes down what those who look after certificates tell. True if one was issued, whose file
    /// is whole.
    fn hear_of_certificates(&self) -> bool {
        let workers = self.workers.as_ref();
        let news = workers.map(|workers| workers.certificates().take_news());
        let mut is_issued = false;
        for news in news.unwrap_or_default() {
            is_issued |= news.is_issued;
            self.note(Happening::new(Topic::Certificate, news.message));
        }
        is_issued
    }
}

/// What is told of a certificate that was not issued yet.
pub(super) fn not_issued(listener: &str, wanted: &AcmeCertificate) -> CertificateView {
    CertificateView {
        used_by: listener.to_owned(),
        names: wanted.names.clone(),
        source: "acme".to_owned(),
        ..CertificateView::default()
    }
}

/// Adds what those know who look after certificates.
pub(super) fn complete(certificates: &mut [CertificateView], board: &CertificateBoard) {
    let (issued, staples) = (board.issued(), board.staples());
    for view in certificates {
        if view.source == "acme" {
            let named = view.names.first().and_then(|first| issued.get(first));
            let mut all = issued.values();
            let found = match view.fingerprint.as_str() {
                "" => named,
                fingerprint => all.find(|state| state.fingerprint == fingerprint),
            };
            view.next_order_seconds = found.map(|state| state.next_order);
            view.order_error = found.and_then(|state| state.error.clone());
        }
        view.ocsp = staples.get(&view.fingerprint).map(|state| OcspView {
            status: state.status.to_owned(),
            stapled_until_seconds: state.stapled_until,
            error: state.error.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> Seen {
        Some((1, 1, size, 0, 0))
    }

    #[test]
    fn files_are_read_once_they_have_changed_and_settled() {
        let mut watched = Watched::default();
        watched.taken(vec![file(1), file(2)]);
        assert!(!watched.look(vec![file(1), file(2)]));
        assert!(!watched.look(vec![file(3), file(2)]), "half of it");
        assert!(!watched.look(vec![file(3), None]));
        assert!(!watched.look(vec![file(3), file(4)]));
        assert!(watched.look(vec![file(3), file(4)]));
        assert!(!watched.look(vec![file(3), file(4)]), "once");
        watched.taken(vec![file(9)]);
        assert!(!watched.look(vec![file(9)]), "another configuration");
        // Changed between being seen and the first look.
        watched.taken(vec![file(9)]);
        assert!(!watched.look(vec![file(8)]));
        assert!(watched.look(vec![file(8)]));
    }
}
