//! Listening sockets: one of each address for each worker.
//!
//! The kernel spreads connections over the sockets of one address (`SO_REUSEPORT`), so workers
//! share nothing when they accept.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

/// Connections that the kernel keeps until they are accepted; it cuts this to `somaxconn`.
const BACKLOG: i32 = 4096;

/// How long nothing is accepted after the process or the host ran out of descriptors or memory.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// Binds a listening socket that others of this process may share the address with.
///
/// An IPv6 address takes IPv6 only: `[::]` and `0.0.0.0` are two listeners.
///
/// # Errors
///
/// What the system says. If another user's process has the address, that is an error, too.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets have it from this one, without a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sets what [`bind`] sets on a socket that listens already.
///
/// # Errors
///
/// What the system says.
pub fn prepare(socket: &OwnedFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)
}

/// Makes sure that nobody listens on an address. Sockets of one user may share it silently, so a
/// second proxy started by mistake would take half of the first one's connections.
///
/// # Errors
///
/// What the system says.
pub fn check_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections that are still closing do not count.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// What became of an attempt to accept.
#[derive(Debug)]
pub enum Accepted {
    /// A connection.
    Connection(TcpStream, SocketAddr),
    /// There was no room for it, and will not be at once: trying again would only burn the CPU. The
    /// connection stays in the kernel's queue.
    Exhausted(io::Error),
}

/// A listening socket of a worker.
///
/// Who is told once of all that waits ([`epoll(7)`], edge-triggered) must accept until nothing is
/// left. To the kernel an attempt that finds nothing is no small thing: it makes a socket and a file
/// before it looks, and throws them away. Therefore it is asked whether there are more.
///
/// [`epoll(7)`]: https://man7.org/linux/man-pages/man7/epoll.7.html
#[derive(Debug)]
pub struct Listener {
    socket: AsyncFd<std::net::TcpListener>,
    /// Something was accepted since it was told of news, so that there may be nothing more.
    has_accepted: Cell<bool>,
}

impl Listener {
    /// A socket that listens, and does not block, as one of the runtime's.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(socket: std::net::TcpListener) -> io::Result<Self> {
        // SAFETY: the socket is its only owner's, open, and always the same, for as long as it is in here.
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self {
            socket: registered.map_err(io::Error::from)?,
            has_accepted: Cell::new(false),
        })
    }

    /// Where it is bound.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get_ref().local_addr()
    }

    /// Waits for the next connection.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost.
    pub async fn accept(&self) -> Accepted {
        loop {
            let next = self.socket.async_io(Interest::READABLE, |_| self.next());
            match next.await {
                Ok((socket, peer)) => return Accepted::Connection(socket, peer),
                Err(error) if is_exhaustion(&error) => return Accepted::Exhausted(error),
                // The connection was gone before it was accepted: the next one is not.
                Err(_) => {}
            }
        }
    }

    /// A connection that is there already, if there is one.
    pub fn accept_now(&self) -> Option<(TcpStream, SocketAddr)> {
        loop {
            match accept(self.socket.get_ref()) {
                Ok(accepted) => return Some(accepted),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if is_exhaustion(&error) => return None,
                Err(_) => {}
            }
        }
    }

    fn next(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let socket = self.socket.get_ref();
        if self.has_accepted.get() && !has_more(socket)? {
            self.has_accepted.set(false);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let accepted = accept(socket);
        self.has_accepted.set(accepted.is_ok());
        accepted
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

fn has_more(socket: &std::net::TcpListener) -> io::Result<bool> {
    let mut asked = [PollFd::new(socket, PollFlags::IN)];
    match poll(&mut asked, Some(&Timespec::default())) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn accept(socket: &std::net::TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (accepted, peer) = acceptfrom_with(socket, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let peer = peer.ok_or(io::ErrorKind::ConnectionAborted)?;
    let accepted = TcpStream::from_std(std::net::TcpStream::from(accepted))?;
    Ok((accepted, peer))
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{Future as _, poll_fn};
    use std::task::Poll;

    #[test]
    fn two_sockets_of_one_address_can_listen_at_once() {
        let first = bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
        let address = first.local_addr().expect("bound");
        let second = bind(address).expect("shares");
        assert_eq!(second.local_addr().expect("bound"), address);
    }

    #[tokio::test]
    async fn accepted_sockets_send_small_segments_at_once() {
        let listening = bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
        let address = listening.local_addr().expect("bound");
        let listener = Listener::new(listening).expect("registered");
        let _client = std::net::TcpStream::connect(address).expect("connects");
        let Accepted::Connection(socket, _) = listener.accept().await else {
            panic!("not accepted");
        };
        assert!(socket.nodelay().expect("open"));
    }

    #[tokio::test]
    async fn nobody_is_forgotten_who_comes_while_others_are_accepted() {
        let listening = bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
        let address = listening.local_addr().expect("bound");
        let listener = Listener::new(listening).expect("registered");
        let mut clients = Vec::new();
        // None, one and several wait in turns, told of at once or one by one.
        for number in [1, 3, 1, 1, 2] {
            assert!(listener.accept_now().is_none());
            let mut accepting = Box::pin(listener.accept());
            let waiting = poll_fn(|cx| Poll::Ready(accepting.as_mut().poll(cx).is_pending()));
            assert!(waiting.await, "nobody is there");
            for _ in 0..number {
                clients.push(std::net::TcpStream::connect(address).expect("connects"));
            }
            let mut accepted = vec![accepting.await];
            for _ in 1..number {
                accepted.push(listener.accept().await);
            }
            let of = |it: Accepted| match it {
                Accepted::Connection(_, peer) => peer,
                Accepted::Exhausted(error) => panic!("{error}"),
            };
            let peers: Vec<_> = accepted.into_iter().map(of).collect();
            let last = &clients[clients.len() - number..];
            let expected: Vec<_> = last
                .iter()
                .map(|it| it.local_addr().expect("bound"))
                .collect();
            assert_eq!(peers, expected);
        }
    }

    #[test]
    fn an_address_is_not_free_while_somebody_listens() {
        let first = bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
        let address = first.local_addr().expect("bound");
        check_free(address).expect_err("in use");
        drop(first);
        check_free(address).expect("free");
    }

    #[test]
    fn what_only_time_or_others_can_heal_is_exhaustion() {
        let error = |code| io::Error::from_raw_os_error(code);
        assert!(is_exhaustion(&error(libc::EMFILE)));
        assert!(is_exhaustion(&error(libc::ENOBUFS)));
        assert!(!is_exhaustion(&error(libc::ECONNABORTED)));
    }
}
