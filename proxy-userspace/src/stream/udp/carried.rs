//! Sessions that go from one process to the next.
//!
//! A session is little more than a socket that is connected to a backend, and the answer to whose
//! it is. So it is handed over as such: the source notices nothing, the backend sees the same
//! port, and no session has to end because a process does.

use super::session::Session;
use super::{Key, Socket};
use crate::net::Nanos;
use crate::net::datagram::Local;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use tokio::sync::{Notify, oneshot};
use tracing::debug;

/// What is known of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Who asks.
    pub source: SocketAddr,
    /// The address of ours that is asked, where the socket has several, and its interface where
    /// that makes a difference.
    pub local: Option<(IpAddr, u32)>,
    /// The port that is asked, where it is not the socket's own.
    #[serde(default)]
    pub port: Option<u16>,
    /// Who answers.
    pub backend: SocketAddr,
    /// Datagrams of the source.
    pub asked: u64,
    /// Those of the backend.
    pub answered: u64,
    /// How long it may still be idle, in nanoseconds: else it would never end where processes take
    /// over from each other more often than sessions may be idle.
    #[serde(default)]
    pub left: Option<Nanos>,
}

/// A session, with its socket.
pub type Given = (Carried, OwnedFd);

/// How a listener's socket is told to stop.
#[derive(Debug, Default)]
pub struct Stop {
    told: Notify,
    /// Where sessions are to go instead of living to their ends.
    to: RefCell<Option<oneshot::Sender<Vec<Given>>>>,
}

impl Stop {
    /// Takes nothing new any more.
    pub fn close(&self) {
        self.told.notify_one();
    }

    /// Takes nothing at all any more; gives the sessions that there are.
    pub fn surrender(&self) -> oneshot::Receiver<Vec<Given>> {
        let (to, from) = oneshot::channel();
        self.to.replace(Some(to));
        self.told.notify_one();
        from
    }

    /// Waits for either.
    ///
    /// # Cancel safety
    ///
    /// It is not missed.
    pub async fn told(&self) {
        self.told.notified().await;
    }

    /// Where the sessions are to go, if they are.
    pub(super) fn asked(&self) -> Option<oneshot::Sender<Vec<Given>>> {
        self.to.take()
    }
}

impl Carried {
    pub(super) fn key(&self) -> Key {
        Key {
            source: self.source,
            local: self.local.map(|(ip, scope)| match ip {
                IpAddr::V4(ip) => Local::V4(ip),
                IpAddr::V6(ip) => Local::V6(ip, scope),
            }),
            port: self.port,
        }
    }

    pub(super) fn local(key: Key) -> Option<(IpAddr, u32)> {
        key.local.map(|local| match local {
            Local::V4(ip) => (ip.into(), 0),
            Local::V6(ip, scope) => (ip.into(), scope),
        })
    }
}

impl Socket {
    /// Goes on with the sessions of another process. One whose backend is gone is forgotten: the
    /// source's next datagram begins a new one.
    pub(super) fn adopt(self: &Rc<Self>, given: Vec<Given>) {
        let now = self.worker.clock.read();
        for (carried, descriptor) in given {
            let source = carried.source;
            match Session::adopt(self, &carried, descriptor, now) {
                Some(session) => self.begun(&Rc::new(session)),
                None => debug!(%source, "a session cannot be gone on with"),
            }
        }
    }

    /// Gives all sessions away; from then on the socket is somebody else's.
    pub(super) fn surrender(&self, to: oneshot::Sender<Vec<Given>>) {
        self.is_closing.set(true);
        let sessions: Vec<_> = self.sessions.borrow().values().cloned().collect();
        let given = sessions.iter().filter_map(|session| session.surrender());
        // Whoever asked may have given up.
        let _ = to.send(given.collect());
    }
}
