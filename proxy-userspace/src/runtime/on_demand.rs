//! The data plane, opened when a configuration first has an `l4` section and closed when one has
//! none any more.
//!
//! While it is closed the control task decides as ever; its edits go nowhere, and nothing needs
//! privileges. Opening and closing are part of [`Plane::fit`], as making maps of another size is:
//! a reload that fails afterwards fits the old configuration again, and so undoes either.

use super::mesh::Mesher;
use super::plane::{Plane, PlaneError};
use super::real::{KernelPlane, Readers};
use super::socket_balancing::SocketBalancer;
use super::steering::Steerer;
use crate::config::model::{Config, Interface};
use crate::kernel::attach::Attachment;
use crate::kernel::host;
use crate::kernel::load::Adoption;
use crate::kernel::plan::{Host, Overlay};
use crate::kernel::stats::{MapUsage, StatsSnapshot};
use crate::kernel::store::{KernelState, MapEdit, MapStore, StoreError};
use crate::kernel::sweep::{FlowView, SweepReport};
use crate::observe::view::{MeshView, SocketBalancingView, SteeringView};
use crate::sockets::connect::{self, Adopted, Seen};
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use tracing::{info, warn};

/// A data plane that may not be there.
pub(super) struct OnDemand {
    kernel: Option<KernelPlane>,
    steering: Steerer,
    sockets: SocketBalancer,
    mesh: Mesher,
    readers: Readers,
    /// It was opened, and no configuration with it is in force yet: what it found there, if
    /// anything, forwards on whatever becomes of the reload.
    tentative: Option<Adoption>,
}

impl OnDemand {
    /// Opens what the configuration asks for. `lock` is that of a predecessor that still runs.
    pub(super) fn open(
        config: &Config,
        readers: Readers,
        lock: Option<OwnedFd>,
        (steering, mesh): (Steerer, Mesher),
        sockets: SocketBalancer,
    ) -> Result<Self, PlaneError> {
        let mut plane = Self {
            kernel: None,
            steering,
            sockets,
            mesh,
            readers,
            tentative: None,
        };
        if config.balances_packets() {
            plane.open_kernel(config, lock)?;
        }
        Ok(plane)
    }

    /// What opening it has found; `None` once a configuration with it is in force, or if it is
    /// closed.
    pub(super) fn tentative(&self) -> Option<&Adoption> {
        self.tentative.as_ref()
    }

    fn open_kernel(&mut self, config: &Config, lock: Option<OwnedFd>) -> Result<(), PlaneError> {
        let (kernel, adoption) = KernelPlane::open(config, self.readers.clone(), lock)?;
        if let Adoption::Replaced { reason, copied, .. } = &adoption {
            warn!(
                reason,
                copied, "the running data plane cannot be adopted and is replaced"
            );
        }
        self.kernel = Some(kernel);
        self.tentative = Some(adoption);
        Ok(())
    }

    fn close_kernel(&mut self, kernel: KernelPlane) -> Result<(), PlaneError> {
        let keep = match self.tentative.take() {
            // What was there before is not this daemon's to remove.
            Some(adoption) => adoption != Adoption::Fresh,
            None => {
                info!("no packets are to be balanced any more: the kernel part is closed");
                false
            }
        };
        kernel.release(keep)
    }
}

impl MapStore for OnDemand {
    fn apply(&mut self, edit: &MapEdit) -> Result<(), StoreError> {
        match &mut self.kernel {
            Some(kernel) => kernel.apply(edit),
            None => Ok(()),
        }
    }

    fn apply_all(&mut self, edits: &[MapEdit]) -> Result<(), (usize, StoreError)> {
        match &mut self.kernel {
            Some(kernel) => kernel.apply_all(edits),
            None => Ok(()),
        }
    }

    fn state(&self) -> Result<KernelState, StoreError> {
        match &self.kernel {
            Some(kernel) => kernel.state(),
            None => Ok(KernelState::default()),
        }
    }
}

impl Plane for OnDemand {
    type Store = Self;

    fn store(&mut self) -> &mut Self {
        if let Some(kernel) = &mut self.kernel {
            // It opens itself again after a failure.
            kernel.store();
        }
        self
    }

    fn host(&mut self, config: &Config) -> Host {
        match &mut self.kernel {
            Some(kernel) => kernel.host(config),
            None => Host {
                cpus: 1,
                sets_per_cpu: 1,
                ..Host::default()
            },
        }
    }

    fn fit(&mut self, config: &Config) -> Result<bool, PlaneError> {
        match (self.kernel.take(), config.balances_packets()) {
            (None, false) => Ok(false),
            (None, true) => self.open_kernel(config, None).map(|()| true),
            (Some(mut kernel), true) => {
                let fitted = kernel.fit(config);
                self.kernel = Some(kernel);
                fitted
            }
            (Some(kernel), false) => self.close_kernel(kernel).map(|()| true),
        }
    }

    fn is_outgrown(&self, config: &Config) -> bool {
        let kernel = self.kernel.as_ref();
        kernel.is_some_and(|kernel| kernel.is_outgrown(config))
    }

    fn settle(&mut self) {
        self.tentative = None;
    }

    fn attach(&mut self, interfaces: &[Interface]) -> Result<Vec<Attachment>, PlaneError> {
        match &mut self.kernel {
            Some(kernel) => kernel.attach(interfaces),
            None => Ok(Vec::new()),
        }
    }

    fn aim_probes(&mut self, interfaces: Option<&[Interface]>) -> Result<(), PlaneError> {
        match &mut self.kernel {
            Some(kernel) => kernel.aim_probes(interfaces),
            None => Ok(()),
        }
    }

    fn steer_sockets(
        &mut self,
        config: &Config,
        sockets: &[(String, BorrowedFd<'_>)],
    ) -> Result<usize, PlaneError> {
        let edits = self.steering.follow(config, sockets)?;
        self.mesh.follow(config, sockets)?;
        Ok(edits)
    }

    fn forget_steering(&mut self) {
        self.steering.forget();
        self.mesh.forget();
    }

    fn steering(&self) -> Option<SteeringView> {
        self.steering.view()
    }

    fn steer_lock(&self) -> Option<OwnedFd> {
        self.steering.lock()
    }

    fn balance_sockets(&mut self, config: &Config, overlay: &Overlay) {
        self.sockets.follow(config, overlay);
    }

    fn adopted_sockets(&self, config: &Config) -> Adopted {
        match config.balances_sockets() {
            true => connect::adopted(&config.connect_pin_dir()),
            false => Adopted::new(),
        }
    }

    fn look_after_sockets(&mut self, config: &Config, overlay: &Overlay) {
        self.sockets.look_after(config, overlay);
    }

    fn seen_of_sockets(&mut self) -> Vec<Seen> {
        self.sockets.seen()
    }

    fn forget_socket_balancing(&mut self) {
        self.sockets.forget();
    }

    fn socket_balancing(&self) -> Option<SocketBalancingView> {
        self.sockets.view()
    }

    fn socket_lock(&self) -> Option<OwnedFd> {
        self.sockets.lock()
    }

    fn look_for_workloads(&mut self) {
        self.mesh.look();
    }

    fn end_redirection(&mut self) -> Result<(), PlaneError> {
        self.mesh.release(false)
    }

    fn mesh(&self) -> Option<MeshView> {
        self.mesh.view()
    }

    fn mesh_lock(&self) -> Option<OwnedFd> {
        self.mesh.lock()
    }

    fn stats(&mut self, services: &[u16], backends: &[u16]) -> Result<StatsSnapshot, StoreError> {
        match &mut self.kernel {
            Some(kernel) => kernel.stats(services, backends),
            None => Ok(StatsSnapshot::default()),
        }
    }

    fn usage(&mut self) -> Result<Vec<MapUsage>, StoreError> {
        match &mut self.kernel {
            Some(kernel) => kernel.usage(),
            None => Ok(Vec::new()),
        }
    }

    fn sweep(&mut self) -> Result<Option<SweepReport>, StoreError> {
        match &mut self.kernel {
            Some(kernel) => kernel.sweep(),
            None => Ok(None),
        }
    }

    fn flows(&mut self, wanted: &dyn Fn(&FlowView) -> bool, limit: usize) -> Vec<FlowView> {
        match &mut self.kernel {
            Some(kernel) => kernel.flows(wanted, limit),
            None => Vec::new(),
        }
    }

    fn set_capture(&mut self, octets: Option<u32>) -> Result<(), StoreError> {
        match &mut self.kernel {
            Some(kernel) => kernel.set_capture(octets),
            None => Ok(()),
        }
    }

    fn resolve(&mut self, addresses: &[IpAddr]) {
        if let Some(kernel) = &mut self.kernel {
            kernel.resolve(addresses);
        }
    }

    fn interfaces(&mut self) -> Vec<(String, u32)> {
        match &mut self.kernel {
            Some(kernel) => kernel.interfaces(),
            None => Vec::new(),
        }
    }

    fn now_ns(&self) -> u64 {
        // The same clock whether it is open or not: rules that expire outlive both.
        host::now_ns()
    }

    fn lock(&self) -> Option<OwnedFd> {
        self.kernel.as_ref()?.lock()
    }

    fn release(mut self, keep: bool) -> Result<(), PlaneError> {
        let ended = self.mesh.release(keep);
        let ended = self.steering.release(keep).and(ended);
        let ended = self.sockets.release(keep).and(ended);
        let released = match self.kernel {
            Some(kernel) => kernel.release(keep),
            None => Ok(()),
        };
        released.and(Ok(ended?))
    }
}
