//! Other processes' sockets, listed and ended: netlink's `SOCK_DIAG` (sock_diag(7)), of one network
//! namespace.
//!
//! Sockets are named by their cookies, which the kernel compares: one that has taken another's place
//! meanwhile is left alone.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY`.
const DESTROY: u16 = 21;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;

/// Octets of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Octets of `struct inet_diag_sockid`.
const ID: usize = 48;
/// Where the cookie is in it.
const COOKIE: usize = 40;
/// Octets of `struct inet_diag_req_v2`.
const REQUEST: usize = 8 + ID;
/// Where a message of the answer has the socket's id.
const ANSWER_ID: usize = 4;

/// Octets of the fixed part of an answer, behind which there are attributes.
const ANSWER: usize = 72;
/// Where it has the socket's inode.
const INODE: usize = 68;
/// `INET_DIAG_SKV6ONLY`: an octet.
const V6_ONLY: u16 = 11;
/// `INET_DIAG_CGROUP_ID`: eight octets (Linux 5.8).
const CGROUP: u16 = 21;

/// `TCP_LISTEN` (`enum tcp_state`).
const LISTENING: u32 = 1 << 10;

/// States of sockets that have a peer: established, about to be, and those whose end is not closed by
/// both sides yet (`enum tcp_state`). Connected UDP sockets are established.
const WITH_PEER: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8;

/// How long the kernel may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// `AF_INET` or `AF_INET6`.
    pub(super) family: u8,
    /// `struct inet_diag_sockid`.
    id: [u8; ID],
    /// The socket's inode.
    pub(super) inode: u32,
    /// Id of its cgroup; 0 if it has gone.
    pub(super) cgroup: u64,
    /// It is of IPv6 alone.
    pub(super) v6_only: bool,
}

impl Found {
    /// Its own address and port.
    pub(super) fn local(&self) -> SocketAddr {
        let port = u16::from_be_bytes([self.id[0], self.id[1]]);
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.id[4..20]);
        let ip = match i32::from(self.family) {
            libc::AF_INET => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
            _ => IpAddr::from(octets).to_canonical(),
        };
        SocketAddr::new(ip, port)
    }

    /// The socket's cookie.
    pub(super) fn cookie(&self) -> u64 {
        let word = |at: usize| {
            let mut octets = [0; 4];
            octets.copy_from_slice(&self.id[at..at + 4]);
            u64::from(u32::from_ne_bytes(octets))
        };
        word(COOKIE) | word(COOKIE + 4) << 32
    }
}

/// A conversation with the kernel about the sockets of a namespace.
pub(super) struct Diag {
    socket: OwnedFd,
}

impl AsFd for Diag {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Diag {
    /// Opens it for the namespace of this thread.
    pub(super) fn open() -> io::Result<Self> {
        /// `NETLINK_SOCK_DIAG`.
        const SOCK_DIAG: libc::c_int = 4;
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: the call takes three integers.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, SOCK_DIAG) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let time = libc::timeval {
            tv_sec: PATIENCE.as_secs().cast_signed(),
            tv_usec: 0,
        };
        // SAFETY: the value is a time that outlives the call.
        let set = unsafe {
            libc::setsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const time).cast(),
                size_of::<libc::timeval>() as libc::socklen_t,
            )
        };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { socket })
    }

    /// The sockets of a family and protocol that have a peer.
    pub(super) fn list(&self, family: u8, protocol: u8) -> io::Result<Vec<Found>> {
        self.in_states(family, protocol, WITH_PEER)
    }

    /// The TCP sockets of a family that listen.
    pub(super) fn listening(&self, family: u8) -> io::Result<Vec<Found>> {
        self.in_states(family, libc::IPPROTO_TCP as u8, LISTENING)
    }

    fn in_states(&self, family: u8, protocol: u8, states: u32) -> io::Result<Vec<Found>> {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
        let request = request(BY_FAMILY, flags, family, protocol, states, &[0; ID]);
        self.send(&request)?;
        let mut found = Vec::new();
        let mut buffer = vec![0u8; 64 * 1024];
        loop {
            let length = self.receive(&mut buffer)?;
            if read(&buffer[..length], &mut found)? {
                return Ok(found);
            }
        }
    }

    /// Ends a socket. False if it has gone by itself.
    pub(super) fn end(&self, socket: &Found, protocol: u8) -> io::Result<bool> {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        let request = request(DESTROY, flags, socket.family, protocol, !0, &socket.id);
        self.send(&request)?;
        let mut buffer = [0u8; 1024];
        let length = self.receive(&mut buffer)?;
        match read(&buffer[..length], &mut Vec::new()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            other => other.map(|_| true),
        }
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        // SAFETY: the octets outlive the call.
        let sent = unsafe {
            libc::send(
                self.socket.as_raw_fd(),
                message.as_ptr().cast(),
                message.len(),
                0,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (at, room) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the buffer has that much room, and nobody else uses it.
        let length = unsafe { libc::recv(self.socket.as_raw_fd(), at, room, 0) };
        usize::try_from(length).map_err(|_| io::Error::last_os_error())
    }
}

/// A request with its header.
fn request(
    kind: u16,
    flags: libc::c_int,
    family: u8,
    protocol: u8,
    states: u32,
    id: &[u8; ID],
) -> Vec<u8> {
    let length = (HEADER + REQUEST) as u32;
    let mut octets = Vec::with_capacity(HEADER + REQUEST);
    octets.extend_from_slice(&length.to_ne_bytes());
    octets.extend_from_slice(&kind.to_ne_bytes());
    octets.extend_from_slice(&(flags as u16).to_ne_bytes());
    // The sequence and the port, which the kernel fills in.
    octets.extend_from_slice(&[0; 8]);
    octets.extend_from_slice(&[family, protocol, 0, 0]);
    octets.extend_from_slice(&states.to_ne_bytes());
    octets.extend_from_slice(id);
    octets
}

/// Reads the messages of a datagram; true if nothing follows.
fn read(mut octets: &[u8], found: &mut Vec<Found>) -> io::Result<bool> {
    while octets.len() >= HEADER {
        let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|index| octets[at + index]));
        let length = word(0) as usize;
        let kind = u16::from_ne_bytes([octets[4], octets[5]]);
        if length < HEADER || length > octets.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let body = &octets[HEADER..length];
        match kind {
            DONE => return Ok(true),
            ERROR if body.len() >= 4 => {
                let code = word(HEADER).cast_signed();
                return match code {
                    0 => Ok(true),
                    code => Err(io::Error::from_raw_os_error(-code)),
                };
            }
            BY_FAMILY if body.len() >= ANSWER_ID + ID => {
                found.push(one(body));
            }
            _ => {}
        }
        octets = &octets[length.next_multiple_of(4).min(octets.len())..];
    }
    Ok(false)
}

/// A socket of an answer that has at least an id.
fn one(body: &[u8]) -> Found {
    let mut id = [0; ID];
    id.copy_from_slice(&body[ANSWER_ID..ANSWER_ID + ID]);
    let mut found = Found {
        family: body[0],
        id,
        inode: number(body.get(INODE..ANSWER).unwrap_or_default()) as u32,
        cgroup: 0,
        v6_only: false,
    };
    let mut attributes = body.get(ANSWER..).unwrap_or_default();
    while let [a, b, c, d, rest @ ..] = attributes {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let Some(value) = length.checked_sub(4).and_then(|length| rest.get(..length)) else {
            break;
        };
        match u16::from_ne_bytes([*c, *d]) {
            V6_ONLY => found.v6_only = number(value) != 0,
            CGROUP => found.cgroup = number(value),
            _ => {}
        }
        attributes = attributes
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    found
}

/// A number of one, four or eight octets, in this host's order; 0 where there is none.
fn number(octets: &[u8]) -> u64 {
    if let Ok(octets) = octets.try_into() {
        return u64::from_ne_bytes(octets);
    }
    if let Ok(octets) = octets.try_into() {
        return u32::from_ne_bytes(octets).into();
    }
    octets.first().copied().map_or(0, u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut octets = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        octets.extend_from_slice(&kind.to_ne_bytes());
        octets.extend_from_slice(&[0; 10]);
        octets.extend_from_slice(body);
        octets
    }

    #[test]
    fn a_request_has_the_size_that_it_says() {
        let request = request(BY_FAMILY, 1, 2, 6, WITH_PEER, &[0; ID]);
        assert_eq!(request.len(), 72);
        assert_eq!(request[..4], 72u32.to_ne_bytes());
        assert_eq!(request[16..18], [2, 6]);
    }

    #[test]
    fn sockets_are_read_until_the_end() {
        let mut body = vec![0; 72];
        body[0] = 10;
        body[ANSWER_ID + COOKIE..ANSWER_ID + COOKIE + 8].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]);
        let mut octets = message(BY_FAMILY, &body);
        octets.extend(message(DONE, &[0; 4]));
        let mut found = Vec::new();
        assert!(read(&octets, &mut found).expect("whole messages"));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].family, found[0].cookie()), (10, 1 | 2 << 32));
    }

    #[test]
    fn what_is_cut_short_is_no_message() {
        let whole = message(BY_FAMILY, &[0; 72]);
        for length in HEADER..whole.len() {
            assert!(read(&whole[..length], &mut Vec::new()).is_err());
        }
        let refused = message(ERROR, &(-libc::EPERM).to_ne_bytes());
        let error = read(&refused, &mut Vec::new()).expect_err("an error");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        // A length of zero must not be read for ever.
        assert!(read(&[0; HEADER], &mut Vec::new()).is_err());
    }

    #[test]
    fn the_kernel_lists_this_process_s_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("it is bound");
        let client = std::net::TcpStream::connect(address).expect("a connection");
        let end = client.local_addr().expect("it is connected");
        let diag = Diag::open().expect("netlink");
        let found = diag.list(libc::AF_INET as u8, 6).expect("a list");
        let own: Vec<_> = found.iter().filter(|one| one.local() == end).collect();
        assert_eq!(own.len(), 1);
        assert_ne!(own[0].cookie(), 0);
    }

    #[test]
    fn the_kernel_lists_who_listens_and_in_which_cgroup() {
        use std::os::unix::fs::MetadataExt as _;
        let diag = Diag::open().expect("netlink");
        for (address, family) in [("127.0.0.1:0", libc::AF_INET), ("[::1]:0", libc::AF_INET6)] {
            let listener = std::net::TcpListener::bind(address).expect("a listener");
            let address = listener.local_addr().expect("it is bound");
            let path = format!("/proc/self/fd/{}", listener.as_fd().as_raw_fd());
            let inode = std::fs::metadata(path).expect("it is open").ino();
            let found = diag.listening(family as u8).expect("a list");
            let own: Vec<_> = found.iter().filter(|it| it.local() == address).collect();
            assert_eq!(own.len(), 1, "{address}");
            assert_eq!(u64::from(own[0].inode), inode);
            assert_ne!(own[0].cgroup, 0);
        }
    }

    #[test]
    fn attributes_are_read_however_they_end() {
        let mut body = vec![0; ANSWER];
        body.extend([5, 0, 11, 0, 1, 0, 0, 0]);
        body.extend([12, 0, 21, 0, 7, 0, 0, 0, 1, 0, 0, 0]);
        for length in ANSWER..body.len() {
            one(&body[..length]);
        }
        let found = one(&body);
        assert!(found.v6_only);
        assert_eq!(found.cgroup, 7 | 1 << 32);
        // A length of zero must not be read for ever.
        body.extend([0; 8]);
        assert_eq!(one(&body).cgroup, found.cgroup);
    }
}
