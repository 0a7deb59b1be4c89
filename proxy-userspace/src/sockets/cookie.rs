//! The kernel's cookies: numbers that are never given twice.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// That of a socket.
pub(super) fn of_socket(socket: BorrowedFd<'_>) -> io::Result<u64> {
    number_of(socket, libc::SO_COOKIE)
}

/// That of a socket's network namespace.
pub(super) fn of_namespace(socket: BorrowedFd<'_>) -> io::Result<u64> {
    number_of(socket, libc::SO_NETNS_COOKIE)
}

fn number_of(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<u64> {
    let (mut number, mut length) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the option's value is eight octets, for which there is room.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::diag::Diag;
    use std::os::fd::AsFd as _;

    #[test]
    fn a_namespace_has_one_cookie() {
        let one = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let diag = Diag::open().expect("netlink");
        let cookie = of_namespace(one.as_fd()).expect("a cookie");
        assert_eq!(of_namespace(diag.as_fd()).expect("a cookie"), cookie);
    }
}
