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

/// As [`read`], where a short read need not mean that the socket is empty: `is_drained` is told how
/// much was read, and whether that was less than was asked for, and says whether it is.
///
/// # Errors
///
/// As [`read`].
#[inline]
pub(in crate::net) fn read_judged(
    socket: &TcpStream,
    buffer: &mut [u8],
    is_drained: impl FnOnce(usize, bool) -> bool,
) -> io::Result<usize> {
    let most = buffer.len();
    let call = || Ok(recv(socket, buffer, RecvFlags::empty())?.0);
    noting(socket, Interest::READABLE, call, |octets| {
        is_drained(octets, octets < most)
    })
}

/// As [`write`], where a short write does not mean that there is no room.
///
/// # Errors
///
/// As [`write`].
#[inline]
pub(in crate::net) fn write_on(socket: &TcpStream, octets: &[u8]) -> io::Result<usize> {
    let call = || Ok(send(socket, octets, SendFlags::NOSIGNAL)?);
    socket.try_io(Interest::WRITABLE, call)
}

/// As [`write_on`], from several pieces.
///
/// # Errors
///
/// As [`write`].
#[inline]
pub(in crate::net) fn write_pieces_on(
    socket: &TcpStream,
    pieces: &[IoSlice<'_>],
) -> io::Result<usize> {
    socket.try_io(Interest::WRITABLE, || Ok(writev(socket, pieces)?))
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
    noting(socket, interest, call, |octets| octets < most)
}

/// Makes a call that moves octets. Where `is_drained` says so of them, the next one waits for news.
#[inline]
fn noting(
    socket: &TcpStream,
    interest: Interest,
    call: impl FnOnce() -> io::Result<usize>,
    is_drained: impl FnOnce(usize) -> bool,
) -> io::Result<usize> {
    let mut moved = None;
    let told = socket.try_io(interest, || {
        let octets = call()?;
        moved = Some(octets);
        if 0 < octets && is_drained(octets) {
            // What the reactor takes for "ask when there are news".
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(octets)
    });
    moved.map_or(told, Ok)
}
