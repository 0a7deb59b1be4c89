//! Why a configuration cannot be carried out by the data plane.

use std::fmt;
use std::net::IpAddr;

/// Everything that is wrong, found in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanErrors(pub Vec<PlanError>);

impl fmt::Display for PlanErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PlanErrors {}

/// One reason why a configuration cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The running data plane has another layout; it must be replaced, not adopted.
    #[error(
        "the running data plane has layout {found}, this program needs {expected}: \
         stop it with the program that started it, or let this one replace it"
    )]
    Layout {
        /// `Settings::abi` of the running data plane.
        found: u32,
        /// `proxy_common::ABI_VERSION`.
        expected: u32,
    },
    /// More of something than a map holds.
    #[error("{wanted} {what} are needed, but there is room for {capacity}: {remedy}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many the configuration needs.
        wanted: usize,
        /// How many fit.
        capacity: usize,
        /// What to do.
        remedy: &'static str,
    },
    /// A listener names a service that does not exist.
    #[error("listener `{listener}` names the service `{service}`, which does not exist")]
    UnknownService {
        /// The listener.
        listener: String,
        /// The missing service.
        service: String,
    },
    /// Two listeners with the same VIP, port and protocol.
    #[error("listeners `{first}` and `{second}` have the same address, port and protocol")]
    DuplicateListener {
        /// The one that comes first in the file.
        first: String,
        /// The other.
        second: String,
    },
    /// Two backends of a service with the same address and port.
    #[error("backends `{first}` and `{second}` of service `{service}` are the same server")]
    DuplicateBackend {
        /// The service.
        service: String,
        /// The one that comes first in the file.
        first: String,
        /// The other.
        second: String,
    },
    /// An IPv6 prefix VIP so short that it includes the form in which IPv4 addresses are held.
    #[error(
        "the VIP of listener `{listener}` contains ::ffff:0:0/96, the IPv4-mapped addresses: \
         give a longer prefix, such as 2000::/3"
    )]
    VipCoversIpv4 {
        /// The listener.
        listener: String,
    },
    /// A ring size that Maglev cannot use.
    #[error("service `{service}`: {source}")]
    Ring {
        /// The service.
        service: String,
        /// What is wrong.
        source: crate::balance::maglev::RingError,
    },
    /// An address that is both a VIP and a source of full-nat: answers to it would be taken for
    /// requests.
    #[error(
        "the full-nat source address {address} belongs to the VIP of listener `{listener}`: \
         use another source address"
    )]
    SnatIsVip {
        /// The address.
        address: IpAddr,
        /// The listener.
        listener: String,
    },
    /// The lists of full-nat sources overlap in a way that has no contiguous order.
    #[error(
        "the source addresses of the full-nat services overlap too much: \
         give each service the same list, or lists without common addresses"
    )]
    SnatOverlap,
}

/// Something worth telling an operator, although the plan is carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanWarning {
    /// No source address for the tunnel: held down until there is one.
    #[error(
        "backend `{backend}` of service `{service}` is held down: there is no route to {address}, \
         so its tunnel has no source address (add a route, or set the tunnel source)"
    )]
    NoTunnelSource {
        /// The service.
        service: String,
        /// The backend.
        backend: String,
        /// Its address.
        address: IpAddr,
    },
}
