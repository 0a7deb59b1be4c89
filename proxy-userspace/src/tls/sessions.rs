//! How sessions are resumed, over reloads.

use crate::config::model::tls::Sessions;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rustls::crypto::GetRandomFailed;
use rustls::server::{
    NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions,
};
use rustls::ticketer::TicketRotator;
use std::sync::Arc;

/// Sessions of a listener, and the keys of its tickets. A session stands for what was checked when
/// it began, so it is good only as long as `trust` is the same.
#[derive(Debug)]
pub struct SessionKeeper {
    settings: Sessions,
    trust: String,
    storage: Arc<dyn StoresServerSessions>,
    tickets: Option<Arc<dyn ProducesTickets>>,
}

impl SessionKeeper {
    /// Nothing kept yet. `trust` tells apart what clients' certificates are judged by.
    pub(super) fn new(settings: Sessions, trust: String) -> Result<Self, rustls::Error> {
        let storage: Arc<dyn StoresServerSessions> = match settings.cache {
            0 => Arc::new(NoServerSessionStorage {}),
            most => ServerSessionMemoryCache::new(most as usize),
        };
        let lifetime = u32::try_from(settings.ticket_lifetime.as_secs()).unwrap_or(u32::MAX);
        let tickets = settings
            .tickets
            .then(|| TicketRotator::new(lifetime, Sealer::generate));
        Ok(Self {
            settings,
            trust,
            storage,
            tickets: tickets
                .transpose()?
                .map(|rotator| Arc::new(rotator) as Arc<dyn ProducesTickets>),
        })
    }

    /// True if sessions may go on under these settings.
    pub(super) fn is_for(&self, settings: &Sessions, trust: &str) -> bool {
        self.settings == *settings && self.trust == trust
    }

    pub(super) fn put_into(&self, config: &mut rustls::ServerConfig) {
        config.session_storage = Arc::clone(&self.storage);
        if let Some(tickets) = &self.tickets {
            config.ticketer = Arc::clone(tickets);
        } else if self.settings.cache == 0 {
            config.send_tls13_tickets = 0;
        }
    }
}

/// A key that seals tickets: a nonce drawn at random, what is sealed, and its tag.
#[derive(Debug)]
struct Sealer(RandomizedNonceKey);

impl Sealer {
    fn generate() -> Result<Box<dyn ProducesTickets>, GetRandomFailed> {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| GetRandomFailed)?;
        let sealer = RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| GetRandomFailed)?;
        Ok(Box::new(Self(sealer)))
    }
}

impl ProducesTickets for Sealer {
    fn enabled(&self) -> bool {
        true
    }

    /// Not asked: whoever changes the keys says it.
    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::empty(), &mut sealed)
            .ok()?;
        let mut ticket = nonce.as_ref().to_vec();
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = ticket.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let plain = self
            .0
            .open_in_place(nonce, Aad::empty(), &mut sealed)
            .ok()?
            .len();
        sealed.truncate(plain);
        Some(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_open_with_their_own_key_only_and_are_never_the_same() {
        let (one, other) = (
            Sealer::generate().expect("a key"),
            Sealer::generate().expect("a key"),
        );
        let ticket = one.encrypt(b"session").expect("seals");
        assert_ne!(one.encrypt(b"session").expect("seals"), ticket);
        assert_eq!(one.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(other.decrypt(&ticket), None);
        for end in 0..ticket.len() {
            assert_eq!(one.decrypt(&ticket[..end]), None, "{end}");
        }
    }
}
