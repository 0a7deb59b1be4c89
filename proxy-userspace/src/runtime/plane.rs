//! What the control task asks of a data plane. A trait, so that all its decisions are tested
//! without a kernel.

use crate::config::model::{Config, Interface};
use crate::kernel::aim::AimError;
use crate::kernel::attach::{AttachError, Attachment};
use crate::kernel::load::LoadError;
use crate::kernel::plan::{Host, Overlay};
use crate::kernel::stats::{MapUsage, StatsSnapshot};
use crate::kernel::store::{MapStore, StoreError};
use crate::kernel::sweep::{FlowView, SweepReport};
use crate::observe::view::{MeshView, SocketBalancingView, SteeringView};
use crate::sockets::redirect::RedirectError;
use crate::sockets::{connect, steer};
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A data plane, as the control task sees it.
pub(crate) trait Plane {
    /// Where edits go.
    type Store: MapStore;

    /// Where edits go.
    fn store(&mut self) -> &mut Self::Store;

    /// Facts about this machine that a plan for `config` depends on.
    fn host(&mut self, config: &Config) -> Host;

    /// Makes sure that the maps have the sizes that `config` asks for, and that there are maps at all
    /// if it has an `l4` section. True if new maps had to be made: they take effect with the next
    /// [`Self::attach`], until then the old ones forward.
    fn fit(&mut self, config: &Config) -> Result<bool, PlaneError>;

    /// True if [`Self::fit`] would make new maps.
    fn is_outgrown(&self, config: &Config) -> bool;

    /// The configuration that was last fitted is in force: there is no going back any more.
    fn settle(&mut self) {}

    /// Puts the maps in force and attaches to these interfaces and no others.
    fn attach(&mut self, interfaces: &[Interface]) -> Result<Vec<Attachment>, PlaneError>;

    /// Aims the health probes to VIPs that this host sends, or with `None` stops that. Also puts
    /// back what somebody else removed.
    fn aim_probes(&mut self, interfaces: Option<&[Interface]>) -> Result<(), PlaneError>;

    /// Has the kernel give these sockets what the configuration steers to their listeners, or ends
    /// that if it steers nothing. Puts the sockets in force at once. Returns the number of edits.
    fn steer_sockets(
        &mut self,
        _config: &Config,
        _sockets: &[(String, BorrowedFd<'_>)],
    ) -> Result<usize, PlaneError> {
        Ok(0)
    }

    /// Knows nothing any more of what steers, which is another process's now.
    fn forget_steering(&mut self) {}

    /// What steers and what has come of it; `None` if nothing does.
    fn steering(&self) -> Option<SteeringView> {
        None
    }

    /// What keeps other daemons from steering, for a successor.
    fn steer_lock(&self) -> Option<OwnedFd> {
        None
    }

    /// Has the kernel give backends to sockets that dial a VIP, as the configuration and what is laid
    /// over it say. Where that cannot be had, [`Self::socket_balancing`] says why.
    fn balance_sockets(&mut self, _config: &Config, _overlay: &Overlay) {}

    /// What an earlier process that balanced sockets knew of backends.
    fn adopted_sockets(&self, _config: &Config) -> connect::Adopted {
        connect::Adopted::new()
    }

    /// Takes up cgroups that have come, and tries again what has failed.
    fn look_after_sockets(&mut self, _config: &Config, _overlay: &Overlay) {}

    /// What the kernel has seen of the connections of workloads since the last call.
    fn seen_of_sockets(&mut self) -> Vec<connect::Seen> {
        Vec::new()
    }

    /// Knows nothing any more of what balances sockets, which is another process's now.
    fn forget_socket_balancing(&mut self) {}

    /// What balances sockets and what has come of it; `None` if nobody asks for it.
    fn socket_balancing(&self) -> Option<SocketBalancingView> {
        None
    }

    /// What keeps other daemons from balancing sockets, for a successor.
    fn socket_lock(&self) -> Option<OwnedFd> {
        None
    }

    /// Looks for cgroups that have come or gone, of those that are redirected.
    fn look_for_workloads(&mut self) {}

    /// Has nothing redirected any more, before those end who serve what is.
    fn end_redirection(&mut self) -> Result<(), PlaneError> {
        Ok(())
    }

    /// What is redirected and what has come of it; `None` if nothing is.
    fn mesh(&self) -> Option<MeshView> {
        None
    }

    /// What keeps other daemons from redirecting, for a successor.
    fn mesh_lock(&self) -> Option<OwnedFd> {
        None
    }

    /// Counters of these services and backends, and of every reason.
    fn stats(&mut self, services: &[u16], backends: &[u16]) -> Result<StatsSnapshot, StoreError>;

    /// How full the maps are.
    fn usage(&mut self) -> Result<Vec<MapUsage>, StoreError>;

    /// Sweeps a slice of the flow table; the report comes with the last slice of a pass.
    fn sweep(&mut self) -> Result<Option<SweepReport>, StoreError>;

    /// At most `limit` flows that are wanted.
    fn flows(&mut self, wanted: &dyn Fn(&FlowView) -> bool, limit: usize) -> Vec<FlowView>;

    /// Starts to copy this many octets of each packet to the capture ring, or stops it.
    fn set_capture(&mut self, octets: Option<u32>) -> Result<(), StoreError>;

    /// Has the kernel resolve the neighbours on the way to these addresses.
    fn resolve(&mut self, addresses: &[IpAddr]);

    /// Interfaces that are present, with their indices.
    fn interfaces(&mut self) -> Vec<(String, u32)>;

    /// The packet path's clock, in nanoseconds.
    fn now_ns(&self) -> u64;

    /// What keeps other daemons away, for a successor.
    fn lock(&self) -> Option<OwnedFd> {
        None
    }

    /// Ends the data plane, or with `keep` only lets go of it.
    fn release(self, keep: bool) -> Result<(), PlaneError>;
}

/// The data plane cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// It cannot be opened or closed.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It cannot be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Health probes to VIPs cannot be aimed at their backends.
    #[error(transparent)]
    Aim(#[from] AimError),
    /// Nothing can be steered to listeners, or not as wanted.
    #[error(transparent)]
    Sockets(#[from] steer::SteerError),
    /// What balances sockets cannot be ended.
    #[error(transparent)]
    Connect(#[from] connect::ConnectError),
    /// Nothing can be redirected to listeners, or not as wanted.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    /// A map cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An earlier failure left no data plane open. The kernel forwards on.
    #[error("the data plane is closed after an earlier failure; restart the daemon")]
    Closed,
}
