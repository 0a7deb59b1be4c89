//! Ending other processes' sockets: netlink's `SOCK_DIAG` (sock_diag(7)), of one network namespace.
//!
//! Sockets are named by their cookies, which the kernel compares: one that has taken another's place
//! meanwhile is left alone.

use std::io;
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
}

impl Found {
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
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
        let request = request(BY_FAMILY, flags, family, protocol, WITH_PEER, &[0; ID]);
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
                let mut id = [0; ID];
                id.copy_from_slice(&body[ANSWER_ID..ANSWER_ID + ID]);
                let family = body[0];
                found.push(Found { family, id });
            }
            _ => {}
        }
        octets = &octets[length.next_multiple_of(4).min(octets.len())..];
    }
    Ok(false)
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
        let cookie = super::super::loss::cookie(client.as_fd()).expect("a cookie");
        let diag = Diag::open().expect("netlink");
        let found = diag.list(libc::AF_INET as u8, 6).expect("a list");
        assert!(found.iter().any(|one| one.cookie() == cookie));
    }
}
