//! The admin sockets: taken, served, and handed on.

use super::error::StartError;
use crate::admin::access::{Access, SharedAccess};
use crate::admin::guard::HostPolicy;
use crate::admin::routes::{self, Shared};
use crate::admin::server;
use crate::admin::socket::AdminSocket;
use crate::config::model::Admin;
use crate::runtime::upgrade::{SocketName, Sockets};
use arc_swap::ArcSwap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The admin server, while it runs.
pub(super) type Serving = (watch::Sender<bool>, Vec<JoinHandle<()>>);

/// Descriptors of the admin sockets.
pub(super) struct AdminSockets {
    unix: StdUnixListener,
    tcp: Option<std::net::TcpListener>,
}

impl AdminSockets {
    pub(super) fn of(unix: &UnixListener, tcp: Option<&TcpListener>) -> io::Result<Self> {
        let tcp = tcp
            .map(|tcp| tcp.as_fd().try_clone_to_owned())
            .transpose()?;
        Ok(Self {
            unix: unix.as_fd().try_clone_to_owned()?.into(),
            tcp: tcp.map(Into::into),
        })
    }

    /// The sockets, to be served.
    pub(super) fn again(&self) -> io::Result<(UnixListener, Option<TcpListener>)> {
        let tcp = self
            .tcp
            .as_ref()
            .map(|tcp| TcpListener::from_std(tcp.try_clone()?));
        Ok((
            UnixListener::from_std(self.unix.try_clone()?)?,
            tcp.transpose()?,
        ))
    }

    /// What a successor is given.
    pub(super) fn offered(
        &self,
        admin: &Admin,
        socket: &AdminSocket,
    ) -> io::Result<Vec<(SocketName, OwnedFd)>> {
        let path = || admin.socket.clone();
        let mut offered = vec![
            (
                SocketName::AdminSocket { path: path() },
                self.unix.try_clone()?.into(),
            ),
            (
                SocketName::AdminLock { path: path() },
                socket.lock().try_clone_to_owned()?,
            ),
        ];
        if let (Some(tcp), Some(asked)) = (&self.tcp, admin.listen) {
            offered.push((SocketName::AdminListener { asked }, tcp.try_clone()?.into()));
        }
        Ok(offered)
    }
}

pub(super) async fn listen(
    address: Option<SocketAddr>,
    sockets: &mut Sockets,
) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listener = match sockets.take_admin_listener(address) {
        Some(given) => {
            let socket = std::net::TcpListener::from(given);
            let set = socket.set_nonblocking(true);
            set.and_then(|()| TcpListener::from_std(socket))
        }
        None => TcpListener::bind(address).await,
    };
    listener
        .map(Some)
        .map_err(|source| StartError::Listen { address, source })
}

/// Reads what the API over TCP needs, if it is to be served there.
pub(super) fn access(admin: &Admin) -> Result<Option<SharedAccess>, StartError> {
    let Some(api) = &admin.api else {
        return Ok(None);
    };
    let access = Access::load(api)?;
    Ok(Some(Arc::new(ArcSwap::from_pointee(access))))
}

/// Serves the admin API until the sender says to stop.
pub(super) fn serve(shared: Shared, unix: UnixListener, tcp: Option<TcpListener>) -> Serving {
    let (stop, stopping) = watch::channel(false);
    let router = routes::local(shared.clone());
    let open = |stream, _| server::process(stream);
    let local = server::serve(unix, open, router, stopping.clone());
    let mut tasks = vec![tokio::spawn(local)];
    if let Some(tcp) = tcp {
        let policy = policy(&tcp);
        let access = shared.access.clone();
        let router = match &access {
            None => routes::public(shared, policy),
            Some(access) => routes::remote(shared, policy, Arc::clone(access)),
        };
        let open = move |stream, address| {
            let access = access.as_ref().map(|access| access.load_full());
            server::remote(stream, address, access)
        };
        tasks.push(tokio::spawn(server::serve(tcp, open, router, stopping)));
    }
    (stop, tasks)
}

/// Which names of this host requests may call it by.
fn policy(tcp: &TcpListener) -> HostPolicy {
    let address = tcp.local_addr();
    let loopback = address.is_ok_and(|address| address.ip().is_loopback());
    let host_name = nix::unistd::gethostname().unwrap_or_default();
    HostPolicy {
        loopback,
        host_name: host_name.to_string_lossy().to_lowercase(),
        any_label: false,
    }
}
