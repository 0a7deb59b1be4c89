//! Who has sent a request, as far as the connection tells.

use std::fmt;
use std::net::SocketAddr;

/// The other end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Caller {
    /// A process of this host, at the unix socket.
    Process {
        /// User that it ran as when it connected.
        user: u32,
        /// Its process id.
        process: Option<i32>,
    },
    /// Somebody at this address.
    Address(SocketAddr),
    /// The owner of a certificate, at this address.
    Certificate {
        /// The certificate's subject.
        subject: String,
        /// Where it came from.
        address: SocketAddr,
    },
    /// It is not known.
    #[default]
    Unknown,
}

impl Caller {
    /// True if the connection itself says who it is.
    pub const fn has_certificate(&self) -> bool {
        matches!(self, Self::Certificate { .. })
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process {
                user,
                process: Some(process),
            } => write!(f, "user {user} (process {process})"),
            Self::Process {
                user,
                process: None,
            } => write!(f, "user {user}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Certificate { subject, address } => write!(f, "{subject} at {address}"),
            Self::Unknown => f.write_str("somebody"),
        }
    }
}
