//! The socket below a [`super::Stream`], and what is different about one whose other end is on this
//! host while [`crate::sockets`] is in use: octets may then take either of two ways.
//!
//! - **Reads.** What came past TCP is given out first. A short read says that this way is empty, and
//!   as a rule that the socket is; but once much was read in one go, something may wait that came
//!   by TCP. Then only the kernel's word that there is nothing counts
//!   ([`proxy_common::sock::LEAST_ROOM`]).
//! - **Writes.** The short way has no window. When much waits at the other end the kernel holds a
//!   write up by the error `EPIPE` ([`proxy_common::sock::SINK`]), and no event tells when there is
//!   room again: the write is tried again after a moment.

use super::direct;
use crate::sockets;
use proxy_common::sock::LEAST_ROOM;
use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// How long a write that is held up waits before it is tried again: first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(32);

/// After how long nothing was taken a connection counts as one that makes no progress.
const NO_PROGRESS: Duration = Duration::from_secs(20);

/// A connected socket.
#[derive(Debug)]
pub(in crate::net) struct Link {
    tcp: TcpStream,
    /// Only where the other end is on this host.
    across: Option<Box<Across>>,
}

/// State of a connection that may go past TCP.
#[derive(Debug, Default)]
struct Across {
    /// Octets read since the socket was known to be empty.
    read: Cell<u32>,
    /// The moment until the next try of a write that is held up.
    moment: RefCell<Option<Pin<Box<Sleep>>>>,
    is_held: Cell<bool>,
    /// Of that write, all its moments together.
    waited: Cell<Duration>,
}

impl Link {
    pub(in crate::net) fn new(tcp: TcpStream) -> Self {
        Self { tcp, across: None }
    }

    pub(in crate::net) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub(in crate::net) fn tcp_mut(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    /// Says who the ends are, before anything is read or written.
    pub(in crate::net) fn is_between(&mut self, one: IpAddr, other: IpAddr) {
        let (one, other) = (one.to_canonical(), other.to_canonical());
        let is_here = one == other || (one.is_loopback() && other.is_loopback());
        if is_here && sockets::are_in_use() {
            self.across = Some(Box::default());
            sockets::make_room(self.tcp.as_fd());
        }
    }

    /// True if the kernel may move octets without us: `splice(2)` does not see what came past TCP.
    pub(in crate::net) fn can_splice(&self) -> bool {
        self.across.is_none()
    }

    pub(in crate::net) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_read_ready(cx)
    }

    /// Waits until there may be room to write.
    pub(in crate::net) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(across) = &self.across
            && across.is_held.get()
        {
            ready!(across.poll_moment(cx));
            return Poll::Ready(Ok(()));
        }
        self.tcp.poll_write_ready(cx)
    }

    /// Reads into `buffer`, which must not be empty; 0 is the end.
    #[inline]
    pub(in crate::net) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.across.is_none() {
            return direct::read(&self.tcp, buffer);
        }
        let most = buffer.len();
        let read = self.noted_read(self.tcp.try_read(buffer));
        if matches!(read, Ok(read) if 0 < read && read < most) {
            self.note_drained(Interest::READABLE);
        }
        read
    }

    pub(in crate::net) fn try_read_buf(
        &self,
        buffer: &mut impl bytes::BufMut,
    ) -> io::Result<usize> {
        self.noted_read(self.tcp.try_read_buf(buffer))
    }

    /// Writes as much as there is room for.
    #[inline]
    pub(in crate::net) fn write(&self, octets: &[u8]) -> io::Result<usize> {
        match &self.across {
            None => direct::write(&self.tcp, octets),
            Some(_) => self.noted_write(self.tcp.try_write(octets)),
        }
    }

    /// As [`Self::write`], from several pieces.
    #[inline]
    pub(in crate::net) fn write_pieces(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.across {
            None => direct::write_pieces(&self.tcp, pieces),
            Some(_) => self.noted_write(self.tcp.try_write_vectored(pieces)),
        }
    }

    /// Does something that moves octets, if the socket is ready for it.
    pub(in crate::net) fn try_io(
        &self,
        interest: Interest,
        action: impl FnOnce() -> io::Result<usize>,
    ) -> io::Result<usize> {
        let moved = self.tcp.try_io(interest, action);
        if interest.is_writable() {
            self.noted_write(moved)
        } else {
            moved
        }
    }

    /// Notes that the socket has nothing more to read, or no more room, as a short read or write
    /// tells. If that is not certain, nothing is noted.
    pub(in crate::net) fn note_drained(&self, interest: Interest) {
        if let Some(across) = &self.across {
            if interest.is_writable() || across.read.get() >= LEAST_ROOM {
                return;
            }
            across.read.set(0);
        }
        let nothing = || Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock));
        let _ = self.tcp.try_io(interest, nothing);
    }

    #[inline]
    fn noted_read(&self, read: io::Result<usize>) -> io::Result<usize> {
        if let Some(across) = &self.across {
            match &read {
                Ok(octets) => {
                    let octets = u32::try_from(*octets).unwrap_or(u32::MAX);
                    across.read.set(across.read.get().saturating_add(octets));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => across.read.set(0),
                Err(_) => {}
            }
        }
        read
    }

    #[inline]
    fn noted_write(&self, written: io::Result<usize>) -> io::Result<usize> {
        match &self.across {
            None => written,
            Some(across) => across.noted_write(written, self.tcp.as_raw_fd()),
        }
    }
}

impl Across {
    fn noted_write(&self, written: io::Result<usize>, socket: RawFd) -> io::Result<usize> {
        match written {
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) && is_open(socket) => {
                self.is_held.set(true);
                Err(io::ErrorKind::WouldBlock.into())
            }
            written => {
                if written.is_ok() {
                    self.waited.set(Duration::ZERO);
                }
                written
            }
        }
    }

    /// Ready once the write may be tried again.
    fn poll_moment(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slot = self.moment.borrow_mut();
        let moment = slot.get_or_insert_with(|| {
            let waited = self.waited.get();
            let next = waited.clamp(FIRST_WAIT, LONGEST_WAIT);
            self.waited.set(waited + next);
            if waited < NO_PROGRESS && waited + next >= NO_PROGRESS {
                sockets::note_stall();
            }
            Box::pin(sleep(next))
        });
        ready!(moment.as_mut().poll(cx));
        *slot = None;
        self.is_held.set(false);
        Poll::Ready(())
    }
}

/// True if a connection can still be written to, so that `EPIPE` was not said of itself.
fn is_open(socket: RawFd) -> bool {
    const ESTABLISHED: u8 = 1;
    const CLOSE_WAIT: u8 = 8;
    // Only the state, which comes first, is asked for.
    let (mut state, mut length) = (0u8, 1 as libc::socklen_t);
    // SAFETY: the value has room for the octet that its length tells.
    let result = unsafe {
        libc::getsockopt(
            socket,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut length,
        )
    };
    result == 0 && matches!(state, ESTABLISHED | CLOSE_WAIT)
}
