//! Why a daemon could not start, or not end as it should.

use crate::admin::access::AccessError;
use crate::admin::api::Refusal;
use crate::admin::socket::SocketError;
use crate::kernel::load::LoadError;
use crate::runtime::control::BeginError;
use crate::runtime::plane::PlaneError;
use crate::runtime::workers::WorkersError;
use std::io;
use std::net::SocketAddr;

/// The daemon could not start, or not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has faults.
    #[error("{0}")]
    Config(Refusal),
    /// The admin socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The admin address cannot be had.
    #[error("cannot listen on {address} (admin.listen)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What the API over TCP needs cannot be had.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The proxy paths cannot be served.
    #[error(transparent)]
    Workers(#[from] WorkersError),
    /// The process lacks something that it needs to run at all.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The process that this one is to take over from is not understood.
    #[error("cannot take over from the older process")]
    Predecessor(#[source] io::Error),
    /// Sockets that the service manager has opened cannot be used.
    #[error("cannot take the sockets of the service manager (LISTEN_FDS)")]
    Activation(#[source] io::Error),
    /// The data plane cannot be opened or closed.
    #[error(transparent)]
    Plane(PlaneError),
    /// The data plane cannot be made to follow the configuration.
    #[error(transparent)]
    Begin(#[from] BeginError),
}

impl StartError {
    /// True if the host lacks something, as opposed to a fault of the configuration.
    pub fn is_host(&self) -> bool {
        let plane = match self {
            Self::Plane(error) | Self::Begin(BeginError::Plane(error)) => error,
            _ => return false,
        };
        matches!(
            plane,
            PlaneError::Load(
                LoadError::NoPrivilege { .. }
                    | LoadError::NoObject
                    | LoadError::MountBpffs { .. }
                    | LoadError::Refused { .. }
                    | LoadError::Object(_)
            )
        )
    }
}

/// The error of a call that every process may expect to succeed.
pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::System { what, source }
}
