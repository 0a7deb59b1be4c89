//! How much waits unread in a socket of another process of this host, asked of the kernel
//! (`sock_diag(7)`): what the short way brings is in none of the numbers of TCP.

use rtnetlink::sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use std::io;
use std::net::{IpAddr, SocketAddr};

const HEADER: usize = 16;
/// Octets of a request without its header, and of an answer.
const REQUEST: usize = 56;
const ANSWER: usize = 72;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const IS_REQUEST: u16 = 1;
/// `INET_DIAG_SKMEMINFO`: what a socket's memory is used for.
const MEMORY: u16 = 7;

/// Octets of memory with what waits to be read in the socket with these ends.
///
/// # Errors
///
/// The kernel's: `NotFound` if there is no such socket.
pub(super) fn waiting(local: SocketAddr, remote: SocketAddr) -> io::Result<u32> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.send(&request(local, remote), 0)?;
    let mut answer = Vec::with_capacity(4096);
    socket.recv(&mut answer, 0)?;
    parse(&answer)
}

fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let ends = [local, remote].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()));
    let is_v4 = ends.iter().all(SocketAddr::is_ipv4);
    let mut octets = Vec::with_capacity(HEADER + REQUEST);
    octets.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    octets.extend(BY_FAMILY.to_ne_bytes());
    octets.extend(IS_REQUEST.to_ne_bytes());
    octets.extend([0; 8]);
    let family = if is_v4 { libc::AF_INET } else { libc::AF_INET6 };
    let memory = 1 << (MEMORY - 1);
    octets.extend([family as u8, libc::IPPROTO_TCP as u8, memory, 0]);
    // In any state.
    octets.extend(u32::MAX.to_ne_bytes());
    for end in ends {
        octets.extend(end.port().to_be_bytes());
    }
    for end in ends {
        let mut address = [0; 16];
        match end.ip() {
            IpAddr::V4(ip) if is_v4 => address[..4].copy_from_slice(&ip.octets()),
            IpAddr::V4(ip) => address = ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => address = ip.octets(),
        }
        octets.extend(address);
    }
    // Any interface, any cookie.
    octets.extend(0u32.to_ne_bytes());
    octets.extend([0xff; 8]);
    octets
}

fn parse(answer: &[u8]) -> io::Result<u32> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let short = |at: usize| {
        let two = answer.get(at..at + 2)?;
        Some(u16::from_ne_bytes(two.try_into().ok()?))
    };
    let word = |at: usize| {
        let four = answer.get(at..at + 4)?;
        Some(u32::from_ne_bytes(four.try_into().ok()?))
    };
    match short(4).ok_or_else(malformed)? {
        BY_FAMILY => {}
        // An error, whose number is negative.
        2 => {
            let number = word(HEADER).ok_or_else(malformed)?;
            return Err(io::Error::from_raw_os_error(-number.cast_signed()));
        }
        _ => return Err(malformed()),
    }
    let mut at = HEADER + ANSWER;
    loop {
        let length = usize::from(short(at).ok_or_else(malformed)?);
        if short(at + 2) == Some(MEMORY) {
            return word(at + 4).ok_or_else(malformed);
        }
        if length < 4 {
            return Err(malformed());
        }
        at += length.next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn what_waits_in_a_socket_is_seen_from_outside() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let place = listener.local_addr().expect("bound");
            let mut near = TcpStream::connect(place).expect("connects");
            let (mut far, from) = listener.accept().expect("accepts");
            assert_eq!(waiting(place, from).expect("there"), 0, "{address}");
            near.write_all(&[7; 5000]).expect("writes");
            assert!(waiting(place, from).expect("there") >= 5000, "{address}");
            far.read_exact(&mut [0; 5000]).expect("reads");
            assert_eq!(waiting(place, from).expect("there"), 0, "{address}");
        }
    }

    #[test]
    fn a_socket_that_is_not_there_is_an_error() {
        let nobody = |port| SocketAddr::from(([127, 9, 9, 9], port));
        let error = waiting(nobody(1), nobody(2)).expect_err("there is none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn answers_cut_anywhere_are_refused() {
        let mut answer = vec![0; HEADER + ANSWER];
        answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        answer.extend([5, 0, 1, 0, 9, 0, 0, 0]);
        answer.extend([8, 0, MEMORY as u8, 0, 42, 0, 0, 0]);
        assert_eq!(parse(&answer).expect("whole"), 42);
        for end in 0..answer.len() {
            assert!(parse(&answer[..end]).is_err(), "cut at {end}");
        }
        answer[HEADER + ANSWER] = 0;
        assert!(parse(&answer).is_err(), "an attribute without length");
    }
}
