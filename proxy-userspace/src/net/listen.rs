//! Listening sockets: one of each address for each worker.
//!
//! The kernel spreads connections over the sockets of one address (`SO_REUSEPORT`), so workers
//! share nothing when they accept.

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

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

/// Waits for the next connection.
///
/// # Cancel safety
///
/// No connection is lost.
pub async fn accept(listener: &TcpListener) -> Accepted {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => return Accepted::Connection(socket, peer),
            Err(error) if is_exhaustion(&error) => return Accepted::Exhausted(error),
            // The connection was gone before it was accepted: the next one is not.
            Err(_) => {}
        }
    }
}

/// A connection that is there already, if there is one.
pub fn accept_now(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        match listener.poll_accept(&mut cx) {
            std::task::Poll::Ready(Ok(accepted)) => return Some(accepted),
            std::task::Poll::Ready(Err(error)) if is_exhaustion(&error) => return None,
            std::task::Poll::Ready(Err(_)) => {}
            std::task::Poll::Pending => return None,
        }
    }
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
        let listener = TcpListener::from_std(listening).expect("registered");
        let _client = std::net::TcpStream::connect(address).expect("connects");
        let Accepted::Connection(socket, _) = accept(&listener).await else {
            panic!("not accepted");
        };
        assert!(socket.nodelay().expect("open"));
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
