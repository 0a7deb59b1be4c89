//! What becomes of certificates that look after themselves: those that an authority issues by
//! itself, and the answers of responders.
//!
//! A board on which the tasks that do this write, and from which metrics, the API and the control
//! task read. There are as many entries as certificates, and they change every few hours: a lock
//! is good enough.

use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};

/// News that wait for the control task. It looks every second.
const WAITING: usize = 64;

/// What becomes of certificates.
#[derive(Debug, Default)]
pub struct CertificateBoard(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By the first of their names.
    issued: BTreeMap<String, IssueState>,
    /// By fingerprint.
    staples: BTreeMap<String, StapleState>,
    news: VecDeque<CertificateNews>,
}

/// A certificate that an authority issues by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IssueState {
    /// SHA-256 of the certificate; empty before the first.
    pub fingerprint: String,
    /// An order is under way.
    pub is_ordering: bool,
    /// When the next order is made, seconds since the epoch.
    pub next_order: i64,
    /// Why the last order failed, unless one has succeeded since.
    pub error: Option<String>,
    /// Orders that were fulfilled.
    pub fulfilled: u64,
    /// Orders that failed.
    pub failed: u64,
}

/// What a responder says about a certificate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StapleState {
    /// The first name of the certificate.
    pub name: String,
    /// Its serial number.
    pub serial: String,
    /// `good`, `revoked` or `unknown`, by the last answer; empty before the first.
    pub status: &'static str,
    /// Until when the stapled answer is good, seconds since the epoch; `None` if none is stapled.
    pub stapled_until: Option<i64>,
    /// Why the last question got no good answer, if it did not.
    pub error: Option<String>,
    /// Questions that were answered.
    pub answered: u64,
    /// Questions that were not.
    pub failed: u64,
}

/// Something that somebody should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateNews {
    /// One sentence.
    pub message: String,
    /// A file has changed that listeners should read.
    pub is_issued: bool,
}

impl CertificateBoard {
    /// Changes what is known of a certificate; `first` is the first of its names.
    pub fn issue(&self, first: &str, change: impl FnOnce(&mut IssueState)) {
        let mut inner = self.0.lock();
        change(inner.issued.entry(first.to_owned()).or_default());
    }

    /// Forgets certificates that nobody wants any more.
    pub fn retain_issued(&self, is_wanted: impl Fn(&str) -> bool) {
        self.0.lock().issued.retain(|first, _| is_wanted(first));
    }

    /// Changes what is known of a staple.
    pub fn staple(&self, fingerprint: &str, change: impl FnOnce(&mut StapleState)) {
        let mut inner = self.0.lock();
        change(inner.staples.entry(fingerprint.to_owned()).or_default());
    }

    /// Forgets staples of certificates that are not shown any more.
    pub fn retain_staples(&self, is_shown: impl Fn(&str) -> bool) {
        let mut inner = self.0.lock();
        inner.staples.retain(|fingerprint, _| is_shown(fingerprint));
    }

    /// Tells the control task. What does not fit is lost, oldest first: it was logged.
    pub fn tell(&self, message: impl Into<String>, is_issued: bool) {
        let news = &mut self.0.lock().news;
        if news.len() == WAITING {
            news.pop_front();
        }
        news.push_back(CertificateNews {
            message: message.into(),
            is_issued,
        });
    }

    /// What was told since the last time.
    pub fn take_news(&self) -> Vec<CertificateNews> {
        self.0.lock().news.drain(..).collect()
    }

    /// The certificates that an authority issues, by the first of their names.
    pub fn issued(&self) -> BTreeMap<String, IssueState> {
        self.0.lock().issued.clone()
    }

    /// The staples, by fingerprint.
    pub fn staples(&self) -> BTreeMap<String, StapleState> {
        self.0.lock().staples.clone()
    }

    /// True if a responder has said that this certificate is revoked.
    pub fn is_revoked(&self, fingerprint: &str) -> bool {
        let inner = self.0.lock();
        let staple = inner.staples.get(fingerprint);
        staple.is_some_and(|staple| staple.status == "revoked")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_bounded_and_told_once() {
        let board = CertificateBoard::default();
        for number in 0..WAITING + 3 {
            board.tell(number.to_string(), false);
        }
        let news = board.take_news();
        assert_eq!(news.len(), WAITING);
        assert_eq!(news[0].message, "3", "the oldest are lost");
        assert!(board.take_news().is_empty());
    }

    #[test]
    fn what_a_responder_calls_revoked_is_revoked() {
        let board = CertificateBoard::default();
        board.staple("aa", |it| it.status = "good");
        assert!(!board.is_revoked("aa") && !board.is_revoked("bb"));
        board.staple("aa", |it| it.status = "revoked");
        assert!(board.is_revoked("aa"));
        board.retain_staples(|_| false);
        assert!(!board.is_revoked("aa"));
    }
}
