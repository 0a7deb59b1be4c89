//! Pipes through which the kernel moves octets from one socket to another without copying them
//! (`splice(2)`).
//!
//! A pipe is two descriptors and memory of the kernel, so a worker keeps a few and lends them to
//! connections while much flows through them. For little there is no gain: a copy of a small
//! message costs less than one more system call. Where descriptors run short, clients come first:
//! there are no new pipes then, and those that are unused are closed.

use super::Stream;
use super::descriptors::{Claim, Share};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;

/// Octets that a pipe holds at most. What a slow receiver leaves in it is memory of the kernel.
const ROOM: usize = 256 << 10;

/// Pipes of a worker at once; whoever finds none copies.
const MOST: usize = 512;

/// Pipes that are kept when unused.
const KEPT: usize = 16;

/// The pipes of a worker.
#[derive(Clone, Debug, Default)]
pub struct Pipes(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    share: Share,
    unused: RefCell<Vec<Ends>>,
    /// Pipes that there are.
    count: Cell<usize>,
}

#[derive(Debug)]
struct Ends {
    output: OwnedFd,
    input: OwnedFd,
    _claim: Claim,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            share: Share::of_lesser(),
            unused: RefCell::default(),
            count: Cell::default(),
        }
    }
}

/// A pipe on loan; it goes back when dropped.
#[derive(Debug)]
pub struct Pipe {
    pipes: Pipes,
    /// Always there, but while this is dropped.
    ends: Option<Ends>,
    filled: usize,
}

impl Pipes {
    /// An empty pipe, if there may be one more.
    pub fn take(&self) -> Option<Pipe> {
        let unused = self.0.unused.borrow_mut().pop();
        let ends = match unused {
            Some(ends) => ends,
            None if self.0.count.get() >= MOST || !self.0.share.has_room() => return None,
            None => {
                let ends = Ends::new().ok()?;
                self.0.count.set(self.0.count.get() + 1);
                ends
            }
        };
        Some(Pipe {
            pipes: self.clone(),
            ends: Some(ends),
            filled: 0,
        })
    }

    /// Closes those that are unused.
    pub fn shed(&self) {
        let unused = self.0.unused.take();
        self.0.count.set(self.0.count.get() - unused.len());
    }
}

impl Ends {
    fn new() -> io::Result<Self> {
        use nix::fcntl::OFlag;
        let (output, input) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        // Users without privileges may have only so much; less room is no reason to refuse.
        let _ = nix::fcntl::fcntl(&input, nix::fcntl::FcntlArg::F_SETPIPE_SZ(ROOM as i32));
        Ok(Self {
            output,
            input,
            _claim: Claim::of(2),
        })
    }
}

impl Pipe {
    /// Octets in it.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// True if nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Takes what has come to a socket into the pipe, which must be empty: `most` octets at most,
    /// and never more than it has room for. 0 is the end.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &Stream,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_empty(), "only the socket may be what is waited for");
        let most = most.min(ROOM);
        let input = self.ends.as_ref().map(|ends| ends.input.as_raw_fd());
        let input = input.unwrap_or_default();
        let moved = ready!(from.poll_moved(cx, Interest::READABLE, |socket| {
            splice(socket, input, most)
        }))?;
        self.filled += moved;
        Poll::Ready(Ok(moved))
    }

    /// Gives what is in the pipe, which must not be empty, to a socket; ready with how much of it
    /// that took.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, to: &Stream) -> Poll<io::Result<usize>> {
        let output = self.ends.as_ref().map(|ends| ends.output.as_raw_fd());
        let (output, filled) = (output.unwrap_or_default(), self.filled);
        let moved = ready!(to.poll_moved(cx, Interest::WRITABLE, |socket| {
            splice(output, socket, filled)
        }))?;
        self.filled -= moved;
        Poll::Ready(Ok(moved))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let shared = &self.pipes.0;
        let mut unused = shared.unused.borrow_mut();
        match self.ends.take() {
            // What is left in it is somebody's.
            Some(ends) if self.filled == 0 && unused.len() < KEPT && shared.share.has_room() => {
                unused.push(ends);
            }
            _ => shared.count.set(shared.count.get() - 1),
        }
    }
}

fn splice(from: RawFd, to: RawFd, octets: usize) -> io::Result<usize> {
    // SAFETY: no memory of this process is read or written; what is not open or no pipe is an
    // error.
    let moved = unsafe {
        libc::splice(
            from,
            std::ptr::null_mut(),
            to,
            std::ptr::null_mut(),
            octets,
            libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE,
        )
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let near = TcpStream::connect(address).await.expect("connects");
        let (far, _) = listener.accept().await.expect("accepts");
        (near, Stream::new(far).expect("a stream"))
    }

    #[tokio::test]
    async fn octets_pass_in_order_and_the_end_is_told() {
        let pipes = Pipes::default();
        let ((mut sender, from), (mut receiver, to)) = (pair().await, pair().await);
        let sent: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
        let copy = sent.clone();
        let sending = tokio::spawn(async move {
            sender.write_all(&copy).await.expect("sends");
            sender.shutdown().await.expect("ends");
        });
        let receiving = tokio::spawn(async move {
            let mut all = Vec::new();
            receiver.read_to_end(&mut all).await.expect("receives");
            all
        });
        let mut pipe = pipes.take().expect("a pipe");
        while poll_fn(|cx| pipe.poll_fill(cx, &from, usize::MAX))
            .await
            .expect("fills")
            > 0
        {
            while !pipe.is_empty() {
                poll_fn(|cx| pipe.poll_drain(cx, &to))
                    .await
                    .expect("drains");
            }
        }
        drop(to);
        sending.await.expect("sent");
        assert!(receiving.await.expect("received") == sent);
    }

    #[tokio::test]
    async fn a_pipe_goes_round_unless_something_is_left_in_it() {
        let pipes = Pipes::default();
        drop(pipes.take().expect("a pipe"));
        assert_eq!((pipes.0.count.get(), pipes.0.unused.borrow().len()), (1, 1));
        let mut pipe = pipes.take().expect("the same");
        assert_eq!((pipes.0.count.get(), pipes.0.unused.borrow().len()), (1, 0));
        let (mut sender, from) = pair().await;
        sender.write_all(b"secret").await.expect("sends");
        let filled = poll_fn(|cx| pipe.poll_fill(cx, &from, usize::MAX)).await;
        assert_eq!(filled.expect("fills"), 6);
        drop(pipe);
        assert_eq!((pipes.0.count.get(), pipes.0.unused.borrow().len()), (0, 0));
    }

    #[test]
    fn unused_ones_are_closed_when_others_need_descriptors() {
        let pipes = Pipes::default();
        let lent = pipes.take().expect("a pipe");
        drop(pipes.take().expect("another"));
        pipes.shed();
        assert_eq!((pipes.0.count.get(), pipes.0.unused.borrow().len()), (1, 0));
        drop(lent);
        assert_eq!((pipes.0.count.get(), pipes.0.unused.borrow().len()), (1, 1));
    }

    #[test]
    fn where_there_is_no_room_there_are_none_and_none_is_kept() {
        let mut pipes = Pipes::default();
        let lent = pipes.take().expect("a pipe");
        let share = Share::of(0);
        // Whoever has one keeps it.
        let shared = Rc::new(Shared {
            share,
            unused: RefCell::default(),
            count: Cell::new(1),
        });
        pipes.0 = Rc::clone(&shared);
        assert!(pipes.take().is_none());
        let mut lent = lent;
        lent.pipes = pipes;
        drop(lent);
        assert_eq!((shared.count.get(), shared.unused.borrow().len()), (0, 0));
    }

    #[test]
    fn there_are_only_so_many() {
        let pipes = Pipes::default();
        pipes.0.count.set(MOST);
        assert!(pipes.take().is_none());
    }
}
