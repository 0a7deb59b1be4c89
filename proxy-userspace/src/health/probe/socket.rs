//! Opens the connection of a probe, and names what the kernel says when that fails.

use super::{Deadline, Target};
use crate::health::outcome::{Failure, FailureKind};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpSocket, TcpStream};

/// Connects to the target before the deadline.
pub(super) async fn connect(target: Target, deadline: Deadline) -> Result<TcpStream, Failure> {
    let socket = open(target)?;
    let stream = deadline
        .bound("connecting", socket.connect(target.address))
        .await?
        .map_err(|error| classify("connecting", &error))?;
    if is_self_connected(&stream) {
        return Err(Failure::new(
            FailureKind::Refused,
            "nothing listens (connected to itself)",
        ));
    }
    Ok(stream)
}

/// Whether both ends are one socket: a connection to a closed port of this host can, once in some
/// ten thousand times, be given that very port as its source.
fn is_self_connected(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

/// A socket with the target's mark and source address.
///
/// # Errors
///
/// [`FailureKind::Local`] always: no packet has been sent yet.
fn open(target: Target) -> Result<TcpSocket, Failure> {
    let local = |doing: &'static str| {
        move |error: io::Error| Failure::new(FailureKind::Local, format!("{doing}: {error}"))
    };
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(
        Domain::for_address(target.address),
        kind,
        Some(Protocol::TCP),
    )
    .map_err(local("opening a socket"))?;
    if let Some(mark) = target.mark {
        socket.set_mark(mark).map_err(local("marking the socket"))?;
    }
    if let Some(source) = target.source {
        let source = SocketAddr::new(source, 0);
        socket
            .bind(&source.into())
            .map_err(local("binding the source address"))?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Names an error of the kernel. `doing` says during what it came.
pub(super) fn classify(doing: &str, error: &io::Error) -> Failure {
    use io::ErrorKind as Io;
    let kind = match error.kind() {
        Io::ConnectionRefused => FailureKind::Refused,
        // The kernel gave up sending SYNs before our deadline.
        Io::TimedOut => FailureKind::Timeout,
        Io::HostUnreachable | Io::NetworkUnreachable | Io::NetworkDown => FailureKind::Unreachable,
        Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe => FailureKind::Reset,
        Io::UnexpectedEof => FailureKind::Closed,
        // No port or descriptor left, a local packet filter, a protocol that this host lacks.
        _ => FailureKind::Local,
    };
    Failure::new(kind, format!("{doing}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    fn deadline() -> Deadline {
        Deadline(Instant::now() + Duration::from_secs(30))
    }

    #[test]
    fn errors_of_the_network_are_evidence_and_errors_of_this_host_are_not() {
        let check = |errno: i32, expected: FailureKind| {
            let failure = classify("connecting", &io::Error::from_raw_os_error(errno));
            assert_eq!(failure.kind, expected, "{failure}");
        };
        check(libc::ECONNREFUSED, FailureKind::Refused);
        check(libc::ETIMEDOUT, FailureKind::Timeout);
        check(libc::EHOSTUNREACH, FailureKind::Unreachable);
        check(libc::ENETUNREACH, FailureKind::Unreachable);
        check(libc::ENETDOWN, FailureKind::Unreachable);
        check(libc::ECONNRESET, FailureKind::Reset);
        check(libc::EPIPE, FailureKind::Reset);
        check(libc::EMFILE, FailureKind::Local);
        check(libc::ENOBUFS, FailureKind::Local);
        check(libc::EADDRNOTAVAIL, FailureKind::Local);
        check(libc::EPERM, FailureKind::Local);
        check(libc::EACCES, FailureKind::Local);
        check(libc::EAFNOSUPPORT, FailureKind::Local);
    }

    #[tokio::test]
    async fn source_address_is_the_one_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let source = "127.0.0.9".parse().unwrap();
        let target = Target {
            source: Some(source),
            ..Target::new(address)
        };
        let stream = connect(target, deadline()).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), source);
    }

    #[tokio::test]
    async fn source_address_of_another_host_is_a_local_failure() {
        let target = Target {
            source: Some("192.0.2.1".parse().unwrap()),
            ..Target::new("127.0.0.1:9".parse().unwrap())
        };
        let failure = connect(target, deadline()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Local, "{failure}");
    }

    #[tokio::test]
    async fn mark_is_set_or_its_lack_of_privilege_is_a_local_failure() {
        let target = Target {
            mark: Some(0x5105),
            ..Target::new("127.0.0.1:9".parse().unwrap())
        };
        match open(target) {
            Ok(socket) => assert_eq!(socket2::SockRef::from(&socket).mark().unwrap(), 0x5105),
            Err(failure) => assert_eq!(failure.kind, FailureKind::Local, "{failure}"),
        }
    }

    #[tokio::test]
    async fn connection_of_a_port_to_itself_counts_as_refused() {
        // Binding the source to the target's port provokes what otherwise is rare.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let stream = socket.connect(address).await.unwrap();
        assert_eq!(stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        assert!(is_self_connected(&stream));
    }
}
