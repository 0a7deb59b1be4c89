//! Which flows are traced, and the queue that takes what is noted of them off the workers.

use super::Noted;
use crate::observe::trace::Flow;
use proxy_common::addr::Addr;
use proxy_common::flow::FlowKey;
use proxy_common::hash::flow_hash;
use proxy_common::service::protocol;
use proxy_common::trace;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use tokio::sync::mpsc;

/// A worker's end: decides which flows are traced, and takes what is noted of them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FlowTap {
    settings: Arc<Settings>,
    sender: mpsc::Sender<Noted>,
}

/// The end of whoever brings it all together.
#[derive(Debug)]
pub struct FlowReceiver(mpsc::Receiver<Noted>);

/// What all workers look at. Read often and written seldom.
#[derive(Debug)]
struct Settings {
    /// See [`trace::threshold`]; the higher of the two below.
    below: AtomicU32,
    /// Of flows whose spans are exported.
    exported: AtomicU32,
    /// Of flows that somebody observes.
    observed: AtomicU32,
    secrets: [AtomicU64; 5],
    lost: AtomicU64,
}

impl FlowTap {
    /// A tap whose queue has room for `capacity` notes. `secrets` key the ids until those of the
    /// packet path are known.
    pub fn new(capacity: usize, secrets: [u64; 5]) -> (Self, FlowReceiver) {
        let (sender, receiver) = mpsc::channel(capacity);
        let settings = Settings {
            below: AtomicU32::new(0),
            exported: AtomicU32::new(0),
            observed: AtomicU32::new(0),
            secrets: secrets.map(AtomicU64::new),
            lost: AtomicU64::new(0),
        };
        let settings = Arc::new(settings);
        (Self { settings, sender }, FlowReceiver(receiver))
    }

    /// Has the ids be those of a packet path with these secrets.
    pub fn set_secrets(&self, secrets: [u64; 5]) {
        for (cell, secret) in self.settings.secrets.iter().zip(secrets) {
            cell.store(secret, Relaxed);
        }
    }

    /// Has flows be traced below this threshold because somebody observes them.
    pub fn observe(&self, threshold: u32) {
        self.settings.observed.store(threshold, Relaxed);
        self.settings.update();
    }

    /// Has the spans of flows below this threshold be exported.
    pub fn export(&self, threshold: u32) {
        self.settings.exported.store(threshold, Relaxed);
        self.settings.update();
    }

    /// True if flows are traced at all.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.settings.below.load(Relaxed) != 0
    }

    /// The flow between these two, the client first and as this host sees it, if it is traced.
    #[inline]
    pub fn flow(&self, ends: (SocketAddr, SocketAddr), protocol: u8) -> Option<Flow> {
        match self.settings.below.load(Relaxed) {
            0 => None,
            below => Some(self.judge(ends, protocol)).filter(|flow| flow.rank < below),
        }
    }

    /// As [`FlowTap::flow`] of a TCP connection.
    #[inline]
    pub fn connection(&self, ends: (SocketAddr, SocketAddr)) -> Option<Flow> {
        self.flow(ends, protocol::TCP)
    }

    #[cold]
    fn judge(&self, (client, server): (SocketAddr, SocketAddr), protocol: u8) -> Flow {
        let key = FlowKey::new(
            Addr::from(client.ip()),
            Addr::from(server.ip()),
            client.port().to_be(),
            server.port().to_be(),
            protocol,
        );
        let secrets = self.settings.secrets.each_ref().map(|it| it.load(Relaxed));
        let hash = flow_hash(key.words(), &secrets);
        Flow {
            id: trace::flow_id(hash, &secrets),
            rank: trace::rank(hash),
        }
    }

    /// True if the spans of this flow are exported.
    pub fn exports(&self, flow: Flow) -> bool {
        flow.rank < self.settings.exported.load(Relaxed)
    }

    /// Hands over what is noted, or counts that there was no room. Never waits.
    pub fn note(&self, noted: Noted) {
        if self.sender.try_send(noted).is_err() {
            self.settings.lost.fetch_add(1, Relaxed);
        }
    }

    /// What found no room so far.
    pub fn lost(&self) -> u64 {
        self.settings.lost.load(Relaxed)
    }
}

impl Settings {
    fn update(&self) {
        let observed = self.observed.load(Relaxed);
        let below = observed.max(self.exported.load(Relaxed));
        self.below.store(below, Relaxed);
    }
}

impl FlowReceiver {
    /// The next note; `None` when all workers are gone.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<Noted> {
        self.0.recv().await
    }
}
