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
    since_empty: Cell<Since>,
    /// Octets read in all.
    total: Cell<u64>,
    /// The moment until the next try of a write that is held up.
    moment: RefCell<Option<Pin<Box<Sleep>>>>,
    is_held: Cell<bool>,
    /// Of that write.
    hold: Cell<Hold>,
    /// Whether everything comes and goes by TCP after all, once somebody has asked the kernel.
    is_plain: Cell<Option<bool>>,
}

/// Octets read since the socket was known to be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Since(u32);

impl Since {
    fn took(self, octets: usize) -> Self {
        Self(
            self.0
                .saturating_add(u32::try_from(octets).unwrap_or(u32::MAX)),
        )
    }

    /// True if a read that gave less than it was asked for has emptied the socket: so few octets
    /// went past TCP that none had to go by it, which would be given out later.
    fn is_few(self) -> bool {
        self.0 < LEAST_ROOM
    }
}

/// How long a write has been held up, all its moments together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hold(Duration);

impl Hold {
    /// The next moment, as long as all before it, and whether it makes the write one that makes no
    /// progress.
    fn next(&mut self) -> (Duration, bool) {
        let before = self.0;
        let moment = before.clamp(FIRST_WAIT, LONGEST_WAIT);
        self.0 += moment;
        (moment, before < NO_PROGRESS && self.0 >= NO_PROGRESS)
    }
}

/// True if a connection between these addresses does not leave the host.
fn stays_here(one: IpAddr, other: IpAddr) -> bool {
    let (one, other) = (one.to_canonical(), other.to_canonical());
    one == other || (one.is_loopback() && other.is_loopback())
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
        if stays_here(one, other) && sockets::are_in_use() {
            self.across = Some(Box::default());
            sockets::make_room(self.tcp.as_fd());
        }
    }

    /// What may go past TCP.
    #[inline]
    fn across(&self) -> Option<&Across> {
        let across = self.across.as_deref();
        across.filter(|across| across.is_plain.get() != Some(true))
    }

    /// Octets read so far, if the other end is on this host.
    pub(in crate::net) fn read_across(&self) -> Option<u64> {
        self.across().map(|across| across.total.get())
    }

    /// True if the kernel may move octets without us: `splice(2)` does not see what came past TCP.
    pub(in crate::net) fn can_splice(&self) -> bool {
        let Some(across) = self.across() else {
            return true;
        };
        let known = across.is_plain.get();
        let is_plain = known.unwrap_or_else(|| sockets::is_plain(self.tcp.as_fd()));
        across.is_plain.set(Some(is_plain));
        is_plain
    }

    pub(in crate::net) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_read_ready(cx)
    }

    /// Waits until there may be room to write.
    pub(in crate::net) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(across) = self.across()
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
        let Some(across) = self.across() else {
            return direct::read(&self.tcp, buffer);
        };
        let read = direct::read_judged(&self.tcp, buffer, |octets, is_short| {
            across.took(octets, is_short)
        });
        if is_nothing(&read) {
            across.since_empty.set(Since::default());
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
        match self.across() {
            None => direct::write(&self.tcp, octets),
            Some(_) => self.noted_write(direct::write_on(&self.tcp, octets)),
        }
    }

    /// As [`Self::write`], from several pieces.
    #[inline]
    pub(in crate::net) fn write_pieces(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.across() {
            None => direct::write_pieces(&self.tcp, pieces),
            Some(_) => self.noted_write(direct::write_pieces_on(&self.tcp, pieces)),
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
        if let Some(across) = self.across() {
            if interest.is_writable() || !across.since_empty.get().is_few() {
                return;
            }
            across.since_empty.set(Since::default());
        }
        let nothing = || Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock));
        let _ = self.tcp.try_io(interest, nothing);
    }

    #[inline]
    fn noted_read(&self, read: io::Result<usize>) -> io::Result<usize> {
        if let Some(across) = self.across() {
            if let Ok(octets) = read {
                across.took(octets, false);
            } else if is_nothing(&read) {
                across.since_empty.set(Since::default());
            }
        }
        read
    }

    #[inline]
    fn noted_write(&self, written: io::Result<usize>) -> io::Result<usize> {
        match self.across() {
            None => written,
            Some(across) => across.noted_write(written, self.tcp.as_raw_fd()),
        }
    }
}

/// True of a read that found nothing.
fn is_nothing(read: &io::Result<usize>) -> bool {
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl Across {
    /// Counts what was read; true if that has emptied the socket for certain.
    #[inline]
    fn took(&self, octets: usize, is_short: bool) -> bool {
        self.total.set(self.total.get() + octets as u64);
        let since = self.since_empty.get().took(octets);
        let is_empty = is_short && since.is_few();
        let since = if is_empty { Since::default() } else { since };
        self.since_empty.set(since);
        is_empty
    }

    fn noted_write(&self, written: io::Result<usize>, socket: RawFd) -> io::Result<usize> {
        match written {
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) && is_open(socket) => {
                self.is_held.set(true);
                Err(io::ErrorKind::WouldBlock.into())
            }
            written => {
                if written.is_ok() {
                    self.hold.set(Hold::default());
                }
                written
            }
        }
    }

    /// Ready once the write may be tried again.
    fn poll_moment(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slot = self.moment.borrow_mut();
        let moment = slot.get_or_insert_with(|| {
            let mut hold = self.hold.get();
            let (moment, is_stalled) = hold.next();
            self.hold.set(hold);
            if is_stalled {
                sockets::note_stall();
            }
            Box::pin(sleep(moment))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_connection_stays_here_between_equal_or_loopback_addresses() {
        for (one, other) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1", "::ffff:192.0.2.1"),
            ("127.0.0.1", "127.9.9.9"),
            ("::1", "::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert!(stays_here(ip(one), ip(other)), "{one} {other}");
        }
        for (one, other) in [
            ("192.0.2.1", "192.0.2.2"),
            ("127.0.0.1", "192.0.2.1"),
            ("2001:db8::1", "::1"),
        ] {
            assert!(!stays_here(ip(one), ip(other)), "{one} {other}");
        }
    }

    #[test]
    fn a_short_read_tells_nothing_once_much_was_read() {
        let few = Since::default().took(LEAST_ROOM as usize - 1);
        assert!(few.is_few());
        assert!(!few.took(1).is_few());
        assert!(!few.took(usize::MAX).took(usize::MAX).is_few(), "no wrap");
    }

    #[test]
    fn only_a_short_read_of_little_empties_the_socket() {
        let across = Across::default();
        assert!(!across.took(100, false), "there may be more");
        assert!(across.took(100, true));
        assert!(!across.took(LEAST_ROOM as usize, false));
        assert!(!across.took(1, true), "more may have come by TCP");
        assert_eq!(across.total.get(), 201 + u64::from(LEAST_ROOM));
    }

    #[test]
    fn the_moments_of_a_write_that_is_held_up_grow_to_the_longest() {
        let mut hold = Hold::default();
        let moments: Vec<_> = (0..8).map(|_| hold.next().0.as_millis()).collect();
        assert_eq!(moments, [1, 1, 2, 4, 8, 16, 32, 32]);
    }

    #[test]
    fn a_write_that_makes_no_progress_is_told_once() {
        let (mut hold, mut told) = (Hold::default(), Vec::new());
        for _ in 0..2000 {
            if hold.next().1 {
                told.push(hold.0);
            }
        }
        assert_eq!(told.len(), 1);
        assert!(told[0] >= NO_PROGRESS && told[0] < NO_PROGRESS + LONGEST_WAIT);
    }
}
