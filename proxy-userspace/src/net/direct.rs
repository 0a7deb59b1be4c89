//! Reading and writing a ready socket, without what a C library puts around a system call.
//!
//! The C library makes each of these calls a point at which a thread may be cancelled: two atomic
//! operations and two calls more, four times per proxied request. Nobody cancels our threads.

use rustix::io::writev;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io::{self, ErrorKind, IoSlice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Reads into `buffer`, which must not be empty; 0 is the end.
///
/// # Errors
///
/// `WouldBlock` if there is nothing; the kernel's for the connection.
#[inline]
pub(in crate::net) fn read(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let most = buffer.len();
    let call = || Ok(recv(socket, buffer, RecvFlags::empty())?.0);
    noting_drained(socket, Interest::READABLE, most, call)
}

/// Writes as much as there is room for.
///
/// # Errors
///
/// `WouldBlock` if there is no room; the kernel's for the connection.
#[inline]
pub(in crate::net) fn write(socket: &TcpStream, octets: &[u8]) -> io::Result<usize> {
    let call = || Ok(send(socket, octets, SendFlags::NOSIGNAL)?);
    noting_drained(socket, Interest::WRITABLE, octets.len(), call)
}

/// As [`write`], from several pieces.
///
/// # Errors
///
/// As [`write`].
#[inline]
pub(in crate::net) fn write_pieces(
    socket: &TcpStream,
    pieces: &[IoSlice<'_>],
) -> io::Result<usize> {
    let most = pieces.iter().map(|piece| piece.len()).sum();
    let call = || Ok(writev(socket, pieces)?);
    noting_drained(socket, Interest::WRITABLE, most, call)
}

/// Makes a call that may move `most` octets. One that moves fewer has emptied the socket, or
/// filled it: the next one waits for news instead of asking the kernel again.
#[inline]
fn noting_drained(
    socket: &TcpStream,
    interest: Interest,
    most: usize,
    call: impl FnOnce() -> io::Result<usize>,
) -> io::Result<usize> {
    let mut moved = None;
    let told = socket.try_io(interest, || {
        let octets = call()?;
        moved = Some(octets);
        if 0 < octets && octets < most {
            // What the reactor takes for "ask when there are news".
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(octets)
    });
    moved.map_or(told, Ok)
}
