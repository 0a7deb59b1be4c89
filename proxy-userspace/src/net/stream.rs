//! A connected socket, read and written by reference.
//!
//! Both directions of a connection flow at the same time, so neither may need the socket alone.
//! What tokio's own halves do is done here for `&self`: in particular a read that fills less than
//! its buffer has emptied the socket, so the next one waits for news instead of asking the kernel
//! and being told that there is nothing. That is one system call less per message.
//!
//! A TLS session may stand between the socket and who reads and writes ([`super::tls`]): all of
//! them work the same, but for what the kernel moves by itself.

use super::Timer;
use super::descriptors::Claim;
use super::link::Link;
use super::tls::{HandshakeError, Tls, TlsFacts};
use super::watch::{Watched, Watches};
use crate::balance::l7::BackendState;
use bytes::BufMut;
use nix::sys::sendfile::sendfile64;
use std::fs::File;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A connected socket.
#[derive(Debug)]
pub struct Stream {
    /// What watches the socket, and so is dropped before it.
    watched: Option<Watched>,
    socket: Link,
    /// Elsewhere, so that a plain connection has no room for it.
    tls: Option<Box<Tls>>,
    /// The descriptors that it takes: its own, and maybe one that is about to be opened for it.
    claim: Claim,
}

impl Stream {
    /// Takes a connected socket over: small segments go out at once.
    pub fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self::accepted(socket))
    }

    /// Takes over a socket that was accepted from [`super::listen::bind`]'s, from which it has
    /// what [`Self::new`] sets.
    pub fn accepted(socket: TcpStream) -> Self {
        Self {
            watched: None,
            socket: Link::new(socket),
            tls: None,
            claim: Claim::of(1),
        }
    }

    /// Says whether there is to be room for one more descriptor, that of the socket to which this
    /// one's octets are passed on.
    pub fn expects_another(&mut self, expects: bool) {
        self.claim.set(if expects { 2 } else { 1 });
    }

    /// Says who its ends are, before anything is read or written: if both are on this host, octets
    /// may go past TCP.
    pub fn is_between(&mut self, one: IpAddr, other: IpAddr) {
        self.socket.is_between(one, other);
    }

    /// Has this worker look now and then how the connection to this backend fares.
    pub fn watch(&mut self, watches: &Rc<Watches>, backend: &Arc<BackendState>) {
        self.watched = Some(watches.watch(self.socket.tcp(), backend));
    }

    /// Takes a connected socket over, for a session that has not begun.
    pub fn with_tls(socket: TcpStream, tls: impl Into<rustls::Connection>) -> io::Result<Self> {
        let mut stream = Self::new(socket)?;
        stream.begin_tls(tls, Vec::new());
        Ok(stream)
    }

    /// From here on there is a session between the socket and who reads and writes. It begins with
    /// `early`, which was read from the socket already.
    pub fn begin_tls(&mut self, tls: impl Into<rustls::Connection>, early: Vec<u8>) {
        self.tls = Some(Box::new(Tls::new(tls.into(), early)));
    }

    /// Negotiates the session, if there is one; until then nothing may be read or written.
    pub fn poll_handshake(&self, cx: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        match &self.tls {
            Some(tls) => tls.poll_handshake(&self.socket, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// As [`Self::poll_handshake`], with `timer`'s deadline, which is set.
    ///
    /// # Errors
    ///
    /// See [`HandshakeError`].
    pub async fn handshake(&self, timer: &Timer) -> Result<(), HandshakeError> {
        std::future::poll_fn(|cx| match self.poll_handshake(cx) {
            Poll::Pending if timer.poll_expired(cx) => Poll::Ready(Err(HandshakeError::TimedOut)),
            negotiated => negotiated,
        })
        .await
    }

    /// True if what is read and written is what passes the socket.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// True if the kernel can move what passes the socket by `splice(2)`.
    #[inline]
    pub fn can_splice(&self) -> bool {
        self.is_plain() && self.socket.can_splice()
    }

    /// Octets read from the socket so far, if that is all that is read, and the other end is on this
    /// host and may be joined with another one.
    pub fn read_across(&self) -> Option<u64> {
        self.is_plain().then(|| self.socket.read_across())?
    }

    /// What the session's handshake has agreed on.
    pub fn tls_facts(&self) -> Option<&TlsFacts> {
        self.tls.as_ref()?.facts()
    }

    /// The other end.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.tcp().peer_addr()
    }

    /// This end.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.tcp().local_addr()
    }

    /// Reads into `buffer`, which must not be empty; 0 is the end.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Some(tls) = &self.tls {
            return tls.poll_read(&self.socket, cx, buffer);
        }
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            match self.socket.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// Reads into what `buffer` has room for, which must not be nothing; 0 is the end.
    pub fn poll_read_buf(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut impl BufMut,
    ) -> Poll<io::Result<usize>> {
        if let Some(tls) = &self.tls {
            return tls.poll_read_buf(&self.socket, cx, buffer);
        }
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            let room = buffer.chunk_mut().len();
            match self.socket.try_read_buf(buffer) {
                Ok(read) => {
                    if 0 < read && read < room {
                        self.is_drained(Interest::READABLE);
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Waits until there is something to read: octets, the end, or an error.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            Some(tls) => tls.poll_readable(&self.socket, cx),
            None => self.socket.poll_read_ready(cx),
        }
    }

    /// Waits until the connection has failed, by a reset or because the other end is gone: also
    /// where nobody reads or writes.
    pub async fn failed(&self) {
        // An error of the reactor is none of the connection, and whoever uses it next is told.
        let _ = self.socket.tcp().ready(Interest::ERROR).await;
    }

    /// Writes from these pieces, which must not all be empty. If it is not ready, the next write
    /// must offer the same octets, or those and more.
    ///
    /// Room is there nearly always, so it is not asked for first. What tokio has tasks pause by,
    /// so that none keeps the worker to itself, is counted when they read.
    pub fn poll_write(
        &self,
        cx: &mut Context<'_>,
        first: &[u8],
        second: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(tls) = &self.tls {
            let pieces = [IoSlice::new(first), IoSlice::new(second)];
            let pieces = match (first.is_empty(), second.is_empty()) {
                (true, _) => &pieces[1..],
                (_, true) => &pieces[..1],
                _ => &pieces[..],
            };
            return tls.poll_write(&self.socket, cx, pieces);
        }
        loop {
            let written = if second.is_empty() {
                self.socket.write(first)
            } else if first.is_empty() {
                self.socket.write(second)
            } else {
                let pieces = [IoSlice::new(first), IoSlice::new(second)];
                self.socket.write_pieces(&pieces)
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_write_ready(cx))?;
                }
                written => return Poll::Ready(written),
            }
        }
    }

    /// Writes from any number of pieces, which must not all be empty.
    pub fn poll_write_pieces(
        &self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(tls) = &self.tls {
            return tls.poll_write(&self.socket, cx, pieces);
        }
        loop {
            ready!(self.socket.poll_write_ready(cx))?;
            match self.socket.write_pieces(pieces) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// Waits until the socket is ready, and then has the kernel do something with it that moves
    /// octets without us: only where [`Self::can_splice`].
    pub(super) fn poll_moved(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        mut action: impl FnMut(RawFd) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if !self.can_splice() {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        }
        loop {
            ready!(if interest.is_readable() {
                self.socket.poll_read_ready(cx)
            } else {
                self.socket.poll_write_ready(cx)
            })?;
            let moved = self
                .socket
                .try_io(interest, || action(self.socket.tcp().as_raw_fd()));
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                moved => return Poll::Ready(moved),
            }
        }
    }

    /// Writes octets that others follow at once: the kernel waits for them before it sends a
    /// segment that is not full.
    pub fn poll_write_more(&self, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        if !self.is_plain() {
            return self.poll_write(cx, octets, &[]);
        }
        self.poll_write_by(cx, octets.len(), || {
            let flags = libc::MSG_MORE | libc::MSG_NOSIGNAL;
            socket2::SockRef::from(self.socket.tcp()).send_with_flags(octets, flags)
        })
    }

    /// Has the kernel send up to `most` octets of a file from `at` on; 0 at the file's end. Of
    /// plain connections only.
    pub fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        file: &File,
        at: u64,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        if !self.is_plain() {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        }
        self.poll_write_by(cx, most, || {
            let mut at = i64::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
            Ok(sendfile64(self.socket.tcp(), file, Some(&mut at), most)?)
        })
    }

    /// Writes by a call that may write `most` octets.
    fn poll_write_by(
        &self,
        cx: &mut Context<'_>,
        most: usize,
        mut write: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_write_ready(cx))?;
            match self.socket.try_io(Interest::WRITABLE, &mut write) {
                Ok(written) => {
                    if 0 < written && written < most {
                        self.is_drained(Interest::WRITABLE);
                    }
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// True if the kernel has said nothing since the socket was read empty. A pooled connection
    /// of which this is not true was closed, or the backend speaks out of turn.
    pub fn is_quiet(&self) -> bool {
        if let Some(tls) = &self.tls {
            // Tickets and key updates are no words.
            let there = tls.peek(&self.socket);
            return matches!(there, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        }
        let nothing = || Ok(());
        if self
            .socket
            .tcp()
            .try_io(Interest::READABLE, nothing)
            .is_err()
        {
            return true;
        }
        // The flag may still be from before: a read that filled its buffer leaves it.
        let mut octet = [0];
        matches!(self.socket.read(&mut octet), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// What there is to read without taking it: the end, or how many octets (at most 1).
    pub fn peek(&self) -> io::Result<usize> {
        if let Some(tls) = &self.tls {
            return tls.peek(&self.socket);
        }
        let mut octet = [std::mem::MaybeUninit::uninit()];
        self.socket.try_io(Interest::READABLE, || {
            socket2::SockRef::from(self.socket.tcp()).peek(&mut octet)
        })
    }

    /// Sends the end after what was written: of a session, and of the connection.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(tls) = &self.tls {
            // A socket that fails has seen its end, and says so below.
            let _ = ready!(tls.poll_close(&self.socket, cx));
        }
        Poll::Ready(self.end_socket())
    }

    /// As [`Self::poll_shutdown`], for who does not wait: a session's end is said only if the
    /// socket takes it at once.
    pub fn shutdown(&self) -> io::Result<()> {
        self.say_end();
        self.end_socket()
    }

    /// Before a connection is closed whose last message is whole: says the end of its session, if it
    /// has one and the socket takes it at once. Each side owes the other that (RFC 8446 §6.1), and
    /// some clients take what ends without for cut off.
    pub fn say_end(&self) {
        if let Some(tls) = &self.tls {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let _ = tls.poll_close(&self.socket, &mut cx);
        }
    }

    /// Ends the connection below a session that has failed: says so, and reads and drops until the
    /// other end has ended its side or `timer`'s time is over.
    pub async fn end_raw(&self, timer: &Timer) {
        if self.end_socket().is_err() {
            return;
        }
        let mut dropped = [0; 1024];
        std::future::poll_fn(|cx| {
            loop {
                match self.socket.poll_read_ready(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending if timer.poll_expired(cx) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
                match self.socket.read(&mut dropped) {
                    Ok(1..) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Ok(0) | Err(_) => return Poll::Ready(()),
                }
            }
        })
        .await;
    }

    fn end_socket(&self) -> io::Result<()> {
        socket2::SockRef::from(self.socket.tcp()).shutdown(std::net::Shutdown::Write)
    }

    /// Has the socket closed with a reset, so that the other end cannot take what it got for the
    /// whole.
    pub fn abort(&self) {
        let _ =
            socket2::SockRef::from(self.socket.tcp()).set_linger(Some(std::time::Duration::ZERO));
    }

    /// The socket itself.
    pub fn socket(&self) -> &TcpStream {
        self.socket.tcp()
    }

    /// The socket itself, for whoever has it alone.
    pub fn socket_mut(&mut self) -> &mut TcpStream {
        self.socket.tcp_mut()
    }

    /// Notes that the socket has nothing more to read, or no more room.
    fn is_drained(&self, interest: Interest) {
        self.socket.note_drained(interest);
    }
}
