//! What two generations say to each other, and the line over which they say it.
//!
//! The line is a pair of connected unix sockets that keep messages apart (`SOCK_SEQPACKET`). A
//! message is JSON; what it names descriptors for rides on it (`SCM_RIGHTS`), in the same order.
//! The order of messages is the protocol's (see [`super`]); a message of an unknown kind, or a
//! protocol of another number, ends the hand-over, and the older process serves on.

use crate::types::Protocol;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Changes whenever a message gets another meaning.
pub(super) const PROTOCOL: u32 = 1;

/// Descriptors that ride on one message; the kernel allows 253.
pub(super) const MOST_DESCRIPTORS: usize = 64;

/// Octets of one message.
const MOST_OCTETS: usize = 64 << 10;

/// Octets of a piece of a text that may be longer than a message. As JSON each may take six.
pub(super) const PIECE: usize = 8 << 10;

/// What is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(super) enum Message {
    /// The older process begins.
    Hello {
        /// Its [`PROTOCOL`].
        protocol: u32,
        /// Its version.
        version: String,
    },
    /// Listening sockets and locks, which ride on it.
    Sockets {
        /// What each is.
        names: Vec<SocketName>,
    },
    /// A piece of the state, as JSON text.
    State {
        /// The piece.
        piece: String,
    },
    /// That was all.
    End,
    /// The newer process could serve from now on.
    Ready(Ready),
    /// It gives up.
    Failed {
        /// Why.
        why: String,
    },
    /// It is to serve.
    Go,
    /// It serves.
    Serving,
    /// Sessions of UDP, whose sockets ride on it.
    Sessions {
        /// What each is.
        sessions: Vec<Session>,
    },
    /// The older process does nothing any more but end its connections.
    Released,
    /// The newer process ends in an orderly way, or has handed over itself: its end is not one
    /// after which the older one is to serve again.
    Farewell,
}

/// What the newer process says of itself once it could serve.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Its process id.
    pub(crate) pid: u32,
    /// Its version.
    pub(crate) version: String,
    /// It goes on with the kernel part.
    pub(crate) has_plane: bool,
    /// Addresses of listeners that it has no use for.
    pub(crate) unused: Vec<(Protocol, SocketAddr)>,
}

/// What a descriptor is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum SocketName {
    /// A worker's socket of a listener.
    Listener {
        /// The listener.
        name: String,
        /// What is spoken.
        protocol: Protocol,
        /// The address of the configuration: port 0 leaves the choice to the system.
        asked: SocketAddr,
        /// The address that it has.
        bound: SocketAddr,
        /// Its number among those of the address.
        number: usize,
    },
    /// The admin socket.
    AdminSocket {
        /// Its path.
        path: PathBuf,
    },
    /// The lock of the admin socket.
    AdminLock {
        /// Path of the socket.
        path: PathBuf,
    },
    /// The admin listener on TCP.
    AdminListener {
        /// The address of the configuration.
        asked: SocketAddr,
    },
    /// The lock of the pin directory.
    PinLock,
    /// The lock of what steers.
    SteerLock,
    /// The lock of what balances sockets.
    ConnectLock,
    /// What keeps other daemons from redirecting.
    MeshLock,
    /// The line to a process before the older one. It serves again when nobody is at the other end
    /// any more: should the older process die now, the newer one still is.
    Ancestor,
}

/// A session of UDP. Its socket is connected to its backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    /// Protocol and address of the listener's socket.
    pub(super) bound: SocketAddr,
    /// The socket's number.
    pub(super) number: usize,
    /// What is known of it.
    pub(super) known: crate::stream::udp::Carried,
}

/// One end.
#[derive(Debug)]
pub(super) struct Line {
    socket: AsyncFd<OwnedFd>,
}

/// Two connected ends. The first is for this process, the second for the one that it starts.
pub(super) fn pair() -> io::Result<(Line, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (own, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    Ok((Line::new(own)?, other))
}

impl Line {
    /// An end that a predecessor has made; must run inside a tokio runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        // SAFETY: the value owns its descriptor, whose number does not change while it lives, and
        // nothing takes it out of the `AsyncFd`.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket })
    }

    /// A second descriptor of this end.
    pub(super) fn try_clone(&self) -> io::Result<OwnedFd> {
        self.socket.get_ref().try_clone()
    }

    /// Sends a message with what rides on it.
    ///
    /// # Cancel safety
    ///
    /// It is sent as a whole or not at all.
    pub(super) async fn send(
        &self,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let raw: Vec<RawFd> = descriptors.iter().map(|it| it.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[] } else { &rights[..] };
        let send = |socket: &OwnedFd| {
            let parts = [IoSlice::new(&text)];
            let flags = MsgFlags::MSG_NOSIGNAL;
            let sent = sendmsg::<()>(socket.as_raw_fd(), &parts, rights, flags, None);
            sent.map(drop).map_err(io::Error::from)
        };
        self.socket.async_io(Interest::WRITABLE, send).await
    }

    /// Waits for the next message; `None` once the other end is gone.
    ///
    /// # Errors
    ///
    /// What the system says, or that it is no message.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn receive(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let received = self.socket.async_io(Interest::READABLE, receive).await;
        match received {
            // It died with words of ours unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
            Ok((text, _)) if text.is_empty() => Ok(None),
            Ok((text, descriptors)) => {
                let message = serde_json::from_slice(&text).map_err(|error| {
                    let what = format!("a message of an unknown kind ({error})");
                    io::Error::new(io::ErrorKind::InvalidData, what)
                })?;
                Ok(Some((message, descriptors)))
            }
        }
    }
}

fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut text = vec![0; MOST_OCTETS];
    let mut rights = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    let (length, descriptors, is_cut) = {
        let mut parts = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let raw = socket.as_raw_fd();
        let received = recvmsg::<()>(raw, &mut parts, Some(&mut rights), flags)?;
        let mut descriptors = Vec::new();
        for part in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = part {
                descriptors.extend(raw.into_iter().map(|raw| {
                    // SAFETY: the kernel has just made it for this process, and nobody else
                    // knows of it.
                    unsafe { OwnedFd::from_raw_fd(raw) }
                }));
            }
        }
        let cut = MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC;
        (received.bytes, descriptors, received.flags.intersects(cut))
    };
    if is_cut {
        let what = "a message or what rides on it does not fit (out of descriptors?)";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    text.truncate(length);
    Ok((text, descriptors))
}

/// A text in pieces that fit into messages each.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsFd as _;

    #[tokio::test]
    async fn sockets_ride_on_the_message_that_names_them() {
        let (old, other) = pair().expect("a pair");
        let new = Line::new(other).expect("an end");
        let sockets: Vec<_> = (0..MOST_DESCRIPTORS)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("bound"))
            .collect();
        let names = sockets.iter().enumerate().map(|(number, socket)| {
            let bound = socket.local_addr().expect("bound");
            SocketName::Listener {
                name: "web".repeat(20),
                protocol: Protocol::Tcp,
                asked: bound,
                bound,
                number,
            }
        });
        let message = Message::Sockets {
            names: names.collect(),
        };
        let descriptors: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
        old.send(&message, &descriptors).await.expect("sent");
        let (got, descriptors) = new.receive().await.expect("read").expect("a message");
        assert_eq!(got, message);
        let bound = |socket: OwnedFd| TcpListener::from(socket).local_addr().expect("bound");
        let theirs: Vec<_> = descriptors.into_iter().map(bound).collect();
        let ours = sockets.iter().map(|socket| socket.local_addr());
        assert_eq!(theirs, ours.collect::<io::Result<Vec<_>>>().expect("bound"));
    }

    #[tokio::test]
    async fn an_end_that_is_gone_is_told_apart_from_silence() {
        let (old, other) = pair().expect("a pair");
        let new = Line::new(other).expect("an end");
        new.send(&Message::Serving, &[]).await.expect("sent");
        drop(new);
        let first = old.receive().await.expect("read");
        assert!(matches!(first, Some((Message::Serving, _))), "{first:?}");
        assert!(old.receive().await.expect("read").is_none());
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error() {
        let (old, other) = pair().expect("a pair");
        nix::unistd::write(&other, b"{\"message\":\"sing\"}").expect("sent");
        let error = old.receive().await.expect_err("unknown");
        assert!(error.to_string().contains("unknown kind"), "{error}");
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_loses_nothing() {
        let text = "ä\u{1f600}x".repeat(5000);
        let all: Vec<_> = pieces(&text).collect();
        assert!(all.iter().all(|piece| piece.len() <= PIECE) && all.len() > 1);
        assert_eq!(all.concat(), text);
    }
}
