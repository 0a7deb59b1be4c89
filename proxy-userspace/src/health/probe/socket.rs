//! Opens the connection of a probe, and names what the kernel says when that fails.

use super::{Deadline, Target};
use crate::health::outcome::{Failure, FailureKind};
use nix::sys::socket::{SetSockOpt as _, sockopt};
use proxy_common::backend::PROBE_MARK;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use tokio::net::TcpStream;

/// Connects to the target before the deadline.
pub(super) async fn connect(target: Target, deadline: Deadline) -> Result<TcpStream, Failure> {
    let stream = begin(&target)?;
    deadline
        .bound("connecting", connected(&stream))
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

/// Has the kernel send a SYN.
///
/// What it refuses in this very call it refuses without a packet, so it speaks for this host and
/// its routes. What [`connected`] says comes from the network: the same error numbers then mean
/// that a router, or the backend itself, has answered by ICMP.
fn begin(target: &Target) -> Result<TcpStream, Failure> {
    let socket = open(*target)?;
    match socket.connect(&target.address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            return Err(classify_refused_call(target, &error));
        }
        _ => {}
    }
    TcpStream::from_std(socket.into())
        .map_err(|error| Failure::new(FailureKind::Local, format!("watching a socket: {error}")))
}

/// Waits until a connection is there, or the network's answer that there will be none.
async fn connected(stream: &TcpStream) -> io::Result<()> {
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(()), Err)
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
fn open(target: Target) -> Result<Socket, Failure> {
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
    if let Some(source) = source_of(&target)? {
        // The kernel chooses the port when it knows the destination, and so may choose one that
        // only other destinations use.
        sockopt::IpBindAddressNoPort
            .set(&socket, &true)
            .map_err(|errno| local("binding the source address")(errno.into()))?;
        let source = SocketAddr::new(source, 0);
        socket
            .bind(&source.into())
            .map_err(local("binding the source address"))?;
    }
    Ok(socket)
}

/// The source address of a probe, if the routing table is not to choose it.
///
/// A tunnel may carry IPv4 over IPv6. What this host uses towards the server then is of the wrong
/// family, and the kernel takes any of its addresses that reaches beyond this host.
fn source_of(target: &Target) -> Result<Option<IpAddr>, Failure> {
    let of_family = |server: &IpAddr| server.is_ipv4() == target.address.is_ipv4();
    let (None, Some(server)) = (target.source, target.through.filter(of_family)) else {
        return Ok(target.source);
    };
    let source = address_towards(server)
        .map_err(|error| classify(&format!("looking for the way to {server}"), &error))?;
    if source == target.address.ip() {
        return Err(Failure::new(
            FailureKind::Local,
            format!(
                "this host has no address towards {server} but the VIP {source} itself: give it \
                 another, or check with `target: backend`"
            ),
        ));
    }
    Ok(Some(source))
}

/// The address that this host uses towards a server. Nothing is sent: connecting a datagram socket
/// only looks up the route.
fn address_towards(server: IpAddr) -> io::Result<IpAddr> {
    /// The discard port (RFC 863).
    const DISCARD: u16 = 9;
    let any: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(SocketAddr::new(server, DISCARD))?;
    Ok(socket.local_addr()?.ip())
}

/// Names the error of a connection attempt that the kernel refused without sending anything.
///
/// Marked probes are routed to the loopback interface, where they are sent on (see
/// `kernel::aim`). If the kernel has no route for one, that rule has gone, which says nothing
/// about the backend.
fn classify_refused_call(target: &Target, error: &io::Error) -> Failure {
    let failure = classify("connecting", error);
    if target.mark.is_none() || error.kind() != io::ErrorKind::NetworkUnreachable {
        return failure;
    }
    let detail = format!(
        "{}: probes to the VIP have lost their route, which is put back within 30 seconds (see \
         `ip rule`: something removes fwmark {PROBE_MARK:#x})",
        failure.detail
    );
    Failure::new(FailureKind::Local, detail)
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
    use tokio::net::{TcpListener, TcpSocket};
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

    #[test]
    fn probe_to_a_vip_comes_from_the_address_towards_its_server() {
        let target = Target {
            through: Some("127.0.0.9".parse().unwrap()),
            ..Target::new("192.0.2.1:80".parse().unwrap())
        };
        let loopback = "127.0.0.1".parse().unwrap();
        assert_eq!(source_of(&target).unwrap(), Some(loopback));
        let given = "192.0.2.2".parse().unwrap();
        let configured = Target {
            source: Some(given),
            ..target
        };
        assert_eq!(source_of(&configured).unwrap(), Some(given));
        // IPv4 in IPv6.
        let mixed = Target {
            through: Some("::1".parse().unwrap()),
            ..target
        };
        assert_eq!(source_of(&mixed).unwrap(), None);
    }

    #[test]
    fn probe_cannot_come_from_the_vip_itself() {
        let target = Target {
            through: Some("127.0.0.9".parse().unwrap()),
            ..Target::new("127.0.0.1:80".parse().unwrap())
        };
        let failure = source_of(&target).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Local);
        assert!(failure.detail.contains("`target: backend`"), "{failure}");
    }

    #[test]
    fn lost_route_to_a_vip_is_no_evidence_and_says_what_to_look_at() {
        let error = io::Error::from_raw_os_error(libc::ENETUNREACH);
        let plain = Target::new("192.0.2.1:80".parse().unwrap());
        let failure = classify_refused_call(&plain, &error);
        assert_eq!(failure.kind, FailureKind::Unreachable, "{failure}");
        let marked = Target {
            mark: Some(PROBE_MARK | 7),
            ..plain
        };
        let failure = classify_refused_call(&marked, &error);
        assert_eq!(failure.kind, FailureKind::Local, "{failure}");
        assert!(failure.detail.contains("ip rule"), "{failure}");
        // That there is no server there is what the probe was to find out.
        let error = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        let failure = classify_refused_call(&marked, &error);
        assert_eq!(failure.kind, FailureKind::Refused, "{failure}");
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
