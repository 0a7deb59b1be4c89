//! Keys of session tickets: how they are changed, and how they go on in another process.
//!
//! A ticket is a session that the client keeps, sealed by a key that only the server knows (RFC 5077,
//! RFC 8446 §4.6.1). Whoever gets hold of the key can read what was said in the sessions that it
//! has sealed, as far as they have no forward secrecy of their own, so a key is changed after as
//! long as a ticket is good, and the one before is kept for as long again: no ticket is refused
//! before its time. Keys are never written to disk; to the process that takes over they go by
//! the line between the two, which nobody else can read.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use parking_lot::RwLock;
use rustls::crypto::GetRandomFailed;
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Octets of a key (AES-256).
const KEY: usize = 32;

/// Keys as they are told to a successor: secret. Times are seconds since the epoch.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKeys {
    /// Seals new tickets.
    current: [u8; KEY],
    /// Opens those that were sealed before the last change.
    previous: Option<[u8; KEY]>,
    /// When the current one is changed.
    changes_at: u64,
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").finish_non_exhaustive()
    }
}

/// Seals and opens tickets by keys that change.
#[derive(Debug)]
pub(super) struct Ticketer {
    /// How long a ticket is good, in seconds.
    lifetime: u64,
    keys: RwLock<Keys>,
}

impl Ticketer {
    /// A first key. `lifetime`: how long a ticket is good, and a key seals.
    pub(super) fn new(lifetime: Duration) -> Result<Self, GetRandomFailed> {
        let current = Sealer::generate()?;
        Ok(Self::with(lifetime, |lifetime| Keys {
            current,
            previous: None,
            changes_at: epoch_seconds().saturating_add(lifetime),
        }))
    }

    /// Goes on with the keys of another process.
    pub(super) fn inherited(
        lifetime: Duration,
        keys: &TicketKeys,
    ) -> Result<Self, GetRandomFailed> {
        let current = Sealer::new(keys.current)?;
        let previous = keys.previous.map(Sealer::new).transpose()?;
        Ok(Self::with(lifetime, |_| Keys {
            current,
            previous,
            changes_at: keys.changes_at,
        }))
    }

    fn with(lifetime: Duration, keys: impl FnOnce(u64) -> Keys) -> Self {
        // A key that changed with every ticket would open none.
        let lifetime = lifetime.as_secs().max(1);
        Self {
            lifetime,
            keys: RwLock::new(keys(lifetime)),
        }
    }

    /// The keys, for a successor.
    pub(super) fn keys(&self) -> TicketKeys {
        let keys = self.keys.read();
        TicketKeys {
            current: keys.current.octets,
            previous: keys.previous.as_ref().map(|sealer| sealer.octets),
            changes_at: keys.changes_at,
        }
    }

    fn seal(&self, plain: &[u8], now: u64) -> Option<Vec<u8>> {
        self.change_if_due(now).ok()?;
        self.keys.read().current.seal(plain)
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        self.change_if_due(now).ok()?;
        let keys = self.keys.read();
        let current = keys.current.open(ticket);
        current.or_else(|| keys.previous.as_ref()?.open(ticket))
    }

    fn change_if_due(&self, now: u64) -> Result<(), GetRandomFailed> {
        if !self.keys.read().is_due(now, self.lifetime) {
            return Ok(());
        }
        let mut keys = self.keys.write();
        // Another worker may have been here.
        if !keys.is_due(now, self.lifetime) {
            return Ok(());
        }
        let new = Sealer::generate()?;
        keys.change(new, now, self.lifetime);
        Ok(())
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, epoch_seconds())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, epoch_seconds())
    }
}

/// The keys in use. Pure: time is an argument.
#[derive(Debug)]
struct Keys {
    current: Sealer,
    previous: Option<Sealer>,
    changes_at: u64,
}

impl Keys {
    /// True if the key is to be changed: its time is over, or the clock was set back so far that
    /// it would not be for longer than it may seal.
    fn is_due(&self, now: u64, lifetime: u64) -> bool {
        now >= self.changes_at || self.changes_at > now.saturating_add(lifetime)
    }

    fn change(&mut self, new: Sealer, now: u64, lifetime: u64) {
        let old = std::mem::replace(&mut self.current, new);
        // Nobody may have come for so long that its tickets are all too old.
        let is_good = now < self.changes_at.saturating_add(lifetime);
        self.previous = is_good.then_some(old);
        self.changes_at = now.saturating_add(lifetime);
    }
}

/// A key that seals tickets: a nonce drawn at random, what is sealed, and its tag.
struct Sealer {
    octets: [u8; KEY],
    key: RandomizedNonceKey,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl Sealer {
    fn generate() -> Result<Self, GetRandomFailed> {
        let mut octets = [0; KEY];
        aws_lc_rs::rand::fill(&mut octets).map_err(|_| GetRandomFailed)?;
        Self::new(octets)
    }

    fn new(octets: [u8; KEY]) -> Result<Self, GetRandomFailed> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, &octets).map_err(|_| GetRandomFailed)?;
        Ok(Self { octets, key })
    }

    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::empty(), &mut sealed)
            .ok()?;
        let mut ticket = nonce.as_ref().to_vec();
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = ticket.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let plain = self
            .key
            .open_in_place(nonce, Aad::empty(), &mut sealed)
            .ok()?
            .len();
        sealed.truncate(plain);
        Some(sealed)
    }
}

fn epoch_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ticketer whose first key is changed at 100, in seconds.
    fn ticketer() -> Ticketer {
        let ticketer = Ticketer::new(Duration::from_secs(60)).expect("a key");
        ticketer.keys.write().changes_at = 100;
        ticketer
    }

    #[test]
    fn tickets_open_with_their_own_key_only_and_are_never_the_same() {
        let (one, other) = (
            Sealer::generate().expect("a key"),
            Sealer::generate().expect("a key"),
        );
        let ticket = one.seal(b"session").expect("seals");
        assert_ne!(one.seal(b"session").expect("seals"), ticket);
        assert_eq!(one.open(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(other.open(&ticket), None);
        for end in 0..ticket.len() {
            assert_eq!(one.open(&ticket[..end]), None, "{end}");
        }
    }

    #[test]
    fn a_ticket_is_good_for_its_lifetime_and_gone_after_two_changes() {
        let ticketer = ticketer();
        let first = ticketer.keys().current;
        let ticket = ticketer.seal(b"session", 99).expect("seals");
        for now in [99, 100, 158, 159] {
            assert!(ticketer.open(&ticket, now).is_some(), "{now}");
        }
        assert_ne!(ticketer.keys().current, first);
        assert_eq!(ticketer.keys().previous, Some(first));
        assert_eq!(ticketer.keys().changes_at, 160);
        assert_eq!(ticketer.open(&ticket, 160), None);
    }

    #[test]
    fn a_key_that_nobody_changed_in_time_opens_nothing_too_old() {
        let ticketer = ticketer();
        let ticket = ticketer.seal(b"session", 99).expect("seals");
        assert_eq!(ticketer.open(&ticket, 160), None);
        assert_eq!(ticketer.keys().previous, None);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_make_a_key_last() {
        let ticketer = ticketer();
        let ticket = ticketer.seal(b"session", 99).expect("seals");
        assert!(ticketer.open(&ticket, 10).is_some());
        assert_eq!(ticketer.keys().changes_at, 70);
    }

    #[test]
    fn a_successor_opens_what_was_sealed_before_it_and_changes_keys_when_they_are_due() {
        let ticketer = ticketer();
        let older = ticketer.seal(b"older", 99).expect("seals");
        let newer = ticketer.seal(b"newer", 101).expect("seals");
        let text = serde_json::to_string(&ticketer.keys()).expect("written");
        let told: TicketKeys = serde_json::from_str(&text).expect("read");
        let successor = Ticketer::inherited(Duration::from_secs(60), &told).expect("keys");
        assert_eq!(successor.open(&older, 110).as_deref(), Some(&b"older"[..]));
        assert_eq!(successor.open(&newer, 110).as_deref(), Some(&b"newer"[..]));
        assert_eq!(successor.keys(), told);
        assert_eq!(successor.open(&older, 161), None);
        assert!(successor.open(&newer, 161).is_some());
        let octets = format!("{:?}", told.current);
        assert!(!format!("{told:?} {ticketer:?}").contains(&octets));
    }
}
