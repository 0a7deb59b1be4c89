//! How sessions are resumed, over reloads.

use super::tickets::{TicketKeys, Ticketer};
use crate::config::model::tls::Sessions;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, StoresServerSessions};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Sessions of a listener, and the keys of its tickets. A session stands for what was checked when
/// it began, so it is good only as long as `trust` is the same.
#[derive(Debug)]
pub struct SessionKeeper {
    settings: Sessions,
    trust: String,
    storage: Arc<dyn StoresServerSessions>,
    tickets: Option<Arc<Ticketer>>,
}

/// What a successor has to know for sessions to go on: secret. Sessions that are kept here are not
/// told, their clients shake hands once more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedSessions {
    cache: u32,
    lifetime: Duration,
    trust: String,
    keys: TicketKeys,
}

impl SessionKeeper {
    /// Nothing kept yet. `trust` tells apart what clients' certificates are judged by.
    pub(super) fn new(settings: Sessions, trust: String) -> Result<Self, rustls::Error> {
        let tickets = settings.tickets;
        let tickets = tickets.then(|| Ticketer::new(settings.ticket_lifetime));
        Ok(Self::with(settings, trust, tickets.transpose()?))
    }

    /// Sessions of another process. They go on only where the settings and whom we believe are as
    /// they were there.
    ///
    /// # Errors
    ///
    /// The keys cannot be used.
    pub fn inherited(carried: &CarriedSessions) -> Result<Self, rustls::Error> {
        let settings = Sessions {
            cache: carried.cache,
            tickets: true,
            ticket_lifetime: carried.lifetime,
        };
        let tickets = Ticketer::inherited(settings.ticket_lifetime, &carried.keys)?;
        Ok(Self::with(settings, carried.trust.clone(), Some(tickets)))
    }

    fn with(settings: Sessions, trust: String, tickets: Option<Ticketer>) -> Self {
        let storage: Arc<dyn StoresServerSessions> = match settings.cache {
            0 => Arc::new(NoServerSessionStorage {}),
            most => ServerSessionMemoryCache::new(most as usize),
        };
        Self {
            settings,
            trust,
            storage,
            tickets: tickets.map(Arc::new),
        }
    }

    /// What a successor has to know; `None` without tickets.
    pub fn carried(&self) -> Option<CarriedSessions> {
        Some(CarriedSessions {
            cache: self.settings.cache,
            lifetime: self.settings.ticket_lifetime,
            trust: self.trust.clone(),
            keys: self.tickets.as_ref()?.keys(),
        })
    }

    /// True if sessions may go on under these settings.
    pub(super) fn is_for(&self, settings: &Sessions, trust: &str) -> bool {
        self.settings == *settings && self.trust == trust
    }

    pub(super) fn put_into(&self, config: &mut rustls::ServerConfig) {
        config.session_storage = Arc::clone(&self.storage);
        if let Some(tickets) = &self.tickets {
            config.ticketer = Arc::clone(tickets) as _;
        } else if self.settings.cache == 0 {
            config.send_tls13_tickets = 0;
        }
    }
}
