//! The newer process's side, and sockets that the service manager has opened.

use super::state::State;
use super::wire::{Line, Message, PROTOCOL, Ready, SocketName};
use crate::admin::socket::Given;
use crate::runtime::workers::{Handed, Inherited, Place};
use crate::types::Protocol;
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike as _, SockaddrStorage, getsockname, getsockopt, sockopt,
};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use tracing::{info, warn};

/// Sockets that others have opened, and their locks.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// Of the proxies.
    pub(crate) listeners: Inherited,
    /// Of the kernel part.
    pub(crate) pin_lock: Option<OwnedFd>,
    /// Of what steers.
    pub(crate) steer_lock: Option<OwnedFd>,
    /// Of what balances sockets.
    pub(crate) connect_lock: Option<OwnedFd>,
    /// As well, of redirection.
    pub(crate) mesh_lock: Option<OwnedFd>,
    /// Lines that are only kept open, see [`SocketName::Ancestor`].
    pub(crate) ancestors: Vec<OwnedFd>,
    admin_socket: Option<(PathBuf, OwnedFd)>,
    admin_lock: Option<(PathBuf, OwnedFd)>,
    admin_listener: Option<(SocketAddr, OwnedFd)>,
}

impl Sockets {
    fn add(&mut self, name: SocketName, socket: OwnedFd) {
        match name {
            SocketName::Listener {
                name,
                protocol,
                asked,
                bound,
                number,
            } => {
                let place = Place {
                    name,
                    protocol,
                    asked,
                    bound,
                };
                self.listeners.add(place, number, socket);
            }
            SocketName::AdminSocket { path } => self.admin_socket = Some((path, socket)),
            SocketName::AdminLock { path } => self.admin_lock = Some((path, socket)),
            SocketName::AdminListener { asked } => self.admin_listener = Some((asked, socket)),
            SocketName::PinLock => self.pin_lock = Some(socket),
            SocketName::SteerLock => self.steer_lock = Some(socket),
            SocketName::ConnectLock => self.connect_lock = Some(socket),
            SocketName::MeshLock => self.mesh_lock = Some(socket),
            SocketName::Ancestor => self.ancestors.push(socket),
        }
    }

    /// The admin socket, if it is at this path.
    pub(crate) fn take_admin_socket(&mut self, path: &Path) -> Option<Given> {
        let is_it = |known: &mut (PathBuf, OwnedFd)| known.0 == path;
        let (_, listener) = self.admin_socket.take_if(is_it)?;
        let lock = self.admin_lock.take_if(is_it).map(|(_, lock)| lock);
        Some(Given { listener, lock })
    }

    /// The admin listener on TCP, if it is at this address.
    pub(crate) fn take_admin_listener(&mut self, address: SocketAddr) -> Option<OwnedFd> {
        let known = self.admin_listener.take_if(|known| known.0 == address);
        if let Some((_, socket)) = known {
            return Some(socket);
        }
        // The service manager does not know what it is for.
        let (_, sockets) = self.listeners.take(Protocol::Tcp, "", address)?;
        sockets.into_iter().next()
    }
}

/// The process that serves until this one does.
#[derive(Debug)]
pub(crate) struct Predecessor {
    line: Line,
    is_gone: bool,
}

impl Predecessor {
    /// Takes what it hands over. If it dies meanwhile, what it has handed over is used.
    ///
    /// # Errors
    ///
    /// It speaks another protocol; it was told so.
    pub(crate) async fn receive(line: OwnedFd) -> io::Result<(Self, Sockets, State)> {
        let mut predecessor = Self {
            line: Line::new(line)?,
            is_gone: false,
        };
        match predecessor.read().await {
            Ok((sockets, state)) => Ok((predecessor, sockets, state)),
            Err(error) => {
                predecessor.failed(&error.to_string()).await;
                Err(error)
            }
        }
    }

    async fn read(&mut self) -> io::Result<(Sockets, State)> {
        let (mut sockets, mut state) = (Sockets::default(), String::new());
        loop {
            match self.line.receive().await? {
                Some((Message::Hello { protocol, version }, _)) => {
                    if protocol != PROTOCOL {
                        let what = format!(
                            "version {version} hands over by protocol {protocol}, this one by {PROTOCOL}"
                        );
                        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
                    }
                    info!(version, "taking over from an older process");
                }
                Some((Message::Sockets { names }, given)) => {
                    for (name, socket) in names.into_iter().zip(given) {
                        sockets.add(name, socket);
                    }
                }
                Some((Message::State { piece }, _)) => state.push_str(&piece),
                Some((Message::End, _)) => return Ok((sockets, serde_json::from_str(&state)?)),
                Some((message, _)) => {
                    let what = format!("the older process said {message:?}");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                None => {
                    self.lost();
                    // What has come of the state may be half of it.
                    return Ok((sockets, State::default()));
                }
            }
        }
    }

    fn lost(&mut self) {
        if !self.is_gone {
            self.is_gone = true;
            warn!("the older process is gone: going on alone");
        }
    }

    /// Tells it to go on.
    pub(crate) async fn failed(&self, why: &str) {
        let why = why.to_owned();
        // It may be gone: then nobody is told, but the log.
        let _ = self.line.send(&Message::Failed { why }, &[]).await;
    }

    /// Says that this process could serve, and waits until it is to.
    ///
    /// # Errors
    ///
    /// The older process has said something else.
    pub(crate) async fn ready(&mut self, ready: Ready) -> io::Result<()> {
        let _ = self.line.send(&Message::Ready(ready), &[]).await;
        match self.line.receive().await? {
            Some((Message::Go, _)) => {}
            Some((message, _)) => {
                let what = format!("the older process said {message:?}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            None => self.lost(),
        }
        Ok(())
    }

    /// A second descriptor of the line, for a successor to keep open.
    pub(crate) fn line(&self) -> io::Result<OwnedFd> {
        self.line.try_clone()
    }

    /// Says that this process ends in an orderly way, or that another one serves instead. To be
    /// kept until then: the older process takes silence at the end for death.
    pub(crate) async fn farewell(self) {
        // It may have ended long ago.
        let _ = self.line.send(&Message::Farewell, &[]).await;
    }

    /// Says that this process serves; gives the sessions of UDP once the older one has let go of
    /// everything.
    pub(crate) async fn serving(&mut self) -> Vec<Handed> {
        let _ = self.line.send(&Message::Serving, &[]).await;
        let mut handed: Vec<Handed> = Vec::new();
        loop {
            match self.line.receive().await {
                Ok(Some((Message::Sessions { sessions }, sockets))) => {
                    for (session, socket) in sessions.into_iter().zip(sockets) {
                        let (bound, number) = (session.bound, session.number);
                        let is_its = |it: &&mut Handed| it.bound == bound && it.number == number;
                        let given = (session.known, socket);
                        match handed.iter_mut().find(is_its) {
                            Some(known) => known.sessions.push(given),
                            None => handed.push(Handed {
                                bound,
                                number,
                                sessions: vec![given],
                            }),
                        }
                    }
                }
                Ok(Some((Message::Released, _))) => return handed,
                Ok(None) => {
                    self.lost();
                    return handed;
                }
                Ok(Some((message, _))) => warn!(?message, "the older process is not understood"),
                Err(error) => {
                    warn!(%error, "the older process is not understood");
                    return handed;
                }
            }
        }
    }
}

/// Sockets that the service manager has opened for this process (`LISTEN_FDS`). They are known by
/// their addresses; where one is not of an address that the configuration has, its name
/// (`FileDescriptorName=`) may be that of the listener.
///
/// # Errors
///
/// They cannot be looked at.
pub(crate) fn activated() -> io::Result<Sockets> {
    let mut sockets = Sockets::default();
    for (number, (raw, name)) in sd_notify::listen_fds_with_names()?.enumerate() {
        // SAFETY: the service manager has passed this descriptor to this process, which looks at
        // them only once; it stays open until the copy below is made.
        let given = unsafe { BorrowedFd::borrow_raw(raw) };
        let Some(what) = what(given, &name, number) else {
            warn!(name, "a socket of the service manager is of no use here");
            continue;
        };
        sockets.add(what, given.try_clone_to_owned()?);
        // The copy is closed on exec, and closed when nobody uses it; this one would be neither.
        nix::unistd::close(raw)?;
    }
    Ok(sockets)
}

fn what(socket: BorrowedFd<'_>, name: &str, number: usize) -> Option<SocketName> {
    let address: SockaddrStorage = getsockname(socket.as_raw_fd()).ok()?;
    if address.family() == Some(AddressFamily::Unix) {
        let path = address.as_unix_addr()?.path()?.to_owned();
        return Some(SocketName::AdminSocket { path });
    }
    let bound = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => SocketAddr::from(*v4),
        (_, Some(v6)) => SocketAddr::from(*v6),
        _ => return None,
    };
    let protocol = match getsockopt(&socket, sockopt::SockType).ok()? {
        SockType::Stream => Protocol::Tcp,
        SockType::Datagram => Protocol::Udp,
        _ => return None,
    };
    Some(SocketName::Listener {
        name: name.to_owned(),
        protocol,
        asked: bound,
        bound,
        number,
    })
}

#[cfg(test)]
mod tests {
    use super::super::wire;
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsFd as _;

    #[tokio::test]
    async fn who_dies_in_the_middle_leaves_what_was_given() {
        let (old, other) = wire::pair().expect("a pair");
        let socket = TcpListener::bind("127.0.0.1:0").expect("bound");
        let bound = socket.local_addr().expect("bound");
        let names = vec![SocketName::AdminListener { asked: bound }];
        let hello = Message::Hello {
            protocol: PROTOCOL,
            version: "1".to_owned(),
        };
        old.send(&hello, &[]).await.expect("sent");
        let named = Message::Sockets { names };
        let sent = old.send(&named, &[socket.as_fd()]).await;
        sent.expect("sent");
        drop(old);
        let (mut new, mut sockets, state) = Predecessor::receive(other).await.expect("received");
        assert!(sockets.take_admin_listener(bound).is_some());
        assert_eq!(state, State::default());
        new.ready(Ready::default()).await.expect("goes on");
        assert!(new.serving().await.is_empty());
    }

    #[tokio::test]
    async fn another_protocol_is_told_and_not_guessed_at() {
        let (old, other) = wire::pair().expect("a pair");
        let hello = Message::Hello {
            protocol: PROTOCOL + 1,
            version: "9".to_owned(),
        };
        old.send(&hello, &[]).await.expect("sent");
        let error = Predecessor::receive(other).await.expect_err("unknown");
        assert!(error.to_string().contains("protocol"), "{error}");
        let (said, _) = old.receive().await.expect("read").expect("a message");
        assert!(matches!(said, Message::Failed { .. }), "{said:?}");
    }
}
