//! Handing over to another process, and taking over from one.
//!
//! ```text
//! here     serves ──── retire ────────────────────▶ ends with its connections
//!                        │ sessions of datagrams       │ if the other one dies:
//! there    opened ── serve, serve_datagrams ──▶ …      └ resume: serves again
//! ```
//!
//! Sockets for connections may be served by both at once, and are for a moment: nobody waits.
//! Sockets for datagrams may not, since a source's datagrams belong to one session. So the one
//! stops to read them and gives its sessions away, with their sockets, before the other begins;
//! what comes meanwhile waits in the kernel.

use super::socket::Kind;
use super::thread::{Order, Surrendered};
use super::{Inherited, Known, Place, Waiting, Workers};
use crate::net::descriptors;
use crate::stream::udp::Given;
use crate::types::Protocol;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use tokio::sync::mpsc;

/// Sessions of datagrams that were given away: whose socket, its number, and they.
#[derive(Debug)]
pub struct Handed {
    /// Address of the socket.
    pub bound: SocketAddr,
    /// Its number.
    pub number: usize,
    /// Its sessions.
    pub sessions: Vec<Given>,
}

impl Workers {
    /// What the proxies of a successor have to know.
    pub fn known(&self) -> Known {
        Known::of(&self.snapshot, &self.kept, self.clock.read())
    }

    /// All listening sockets, with their numbers.
    pub fn offered(&self) -> impl Iterator<Item = (&Place, usize, BorrowedFd<'_>)> {
        self.listeners.values().flat_map(|open| {
            let sockets = open.sockets.iter().enumerate();
            sockets.map(|(number, socket)| (&open.place, number, socket.as_fd()))
        })
    }

    /// Sockets from others that no listener has taken: protocol and address.
    pub fn unused(&self) -> Vec<(Protocol, SocketAddr)> {
        self.inherited.unused()
    }

    /// Closes the sockets of an address of which a successor has no use.
    pub fn forget(&mut self, protocol: Protocol, bound: SocketAddr) {
        self.listeners.retain(|_, open| {
            let place = &open.place;
            (place.protocol, place.bound) != (protocol, bound)
        });
    }

    /// Gives a socket to its worker, or keeps it until [`Self::serve`].
    pub(super) fn listen(&mut self, (id, number, socket): Waiting) {
        match &mut self.waiting {
            Some(waiting) => waiting.push((id, number, socket)),
            None => self.give((id, number, socket), Vec::new()),
        }
    }

    fn give(&self, (id, number, socket): Waiting, sessions: Vec<Given>) {
        if let Some(thread) = self.threads.get(number % self.threads.len().max(1)) {
            thread.order(Order::Listen(id, number, socket, sessions));
        }
    }

    /// Accepts connections from now on. Datagrams wait for [`Self::serve_datagrams`].
    pub fn serve(&mut self) {
        // Nobody goes on with what is left.
        self.inherited = Inherited::default();
        descriptors::count_others();
        let waiting = self.waiting.take().unwrap_or_default();
        let (datagrams, others): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|(_, _, socket)| socket.kind() == Kind::Udp);
        for socket in others {
            self.give(socket, Vec::new());
        }
        self.house.serve(true);
        self.waiting = Some(datagrams);
    }

    /// Takes datagrams from now on, and goes on with the sessions of a predecessor.
    pub fn serve_datagrams(&mut self, handed: Vec<Handed>) {
        let mut handed = handed;
        for (id, number, socket) in self.waiting.take().unwrap_or_default() {
            let bound = socket.local_addr().ok();
            let is_its = |it: &mut Handed| Some(it.bound) == bound && it.number == number;
            let sessions = handed.extract_if(.., is_its).flat_map(|it| it.sessions);
            let sessions = sessions.collect();
            self.give((id, number, socket), sessions);
        }
    }

    /// Takes nothing new: connections end with their requests. Gives the sessions of datagrams
    /// away.
    pub async fn retire(&mut self) -> Vec<Handed> {
        self.house.serve(false);
        self.leave_acceleration();
        let (to, mut from) = mpsc::unbounded_channel();
        for thread in &self.threads {
            thread.order(Order::Retire(to.clone()));
        }
        drop(to);
        let mut handed = Vec::new();
        while let Some((id, number, sessions)) = from.recv().await {
            let surrendered: Surrendered = (id, number, sessions);
            handed.extend(self.named(surrendered));
        }
        handed
    }

    fn named(&self, (id, number, sessions): Surrendered) -> Option<Handed> {
        let open = self.listeners.get(&id)?;
        Some(Handed {
            bound: open.place.bound,
            number,
            sessions,
        })
    }

    /// Serves again as before [`Self::retire`].
    ///
    /// # Errors
    ///
    /// There are no descriptors for the sockets: those are not served.
    pub fn resume(&mut self) -> std::io::Result<()> {
        for thread in &self.threads {
            thread.order(Order::Resume);
        }
        for (&id, open) in &self.listeners {
            for (number, socket) in open.sockets.iter().enumerate() {
                self.give((id, number, socket.try_clone()?), Vec::new());
            }
        }
        self.house.serve(true);
        Ok(())
    }
}
