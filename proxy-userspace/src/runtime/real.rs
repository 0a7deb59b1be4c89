//! The data plane in the kernel, as the control task uses it.

use super::plane::{Plane, PlaneError};
use crate::admin::api::chain;
use crate::config::model::{Config, Interface, L4};
use crate::kernel::attach::Attachment;
use crate::kernel::events::{CaptureReader, EventReader};
use crate::kernel::host;
use crate::kernel::layout::snat_addresses;
use crate::kernel::load::{Adoption, DataPlane};
use crate::kernel::maps::RealStore;
use crate::kernel::neighbours::{Neighbours, source_for};
use crate::kernel::netlink::Netlink;
use crate::kernel::plan::Host;
use crate::kernel::stats::{MapUsage, StatsReader, StatsSnapshot, map_usage};
use crate::kernel::store::{KernelState, MapEdit, MapStore, StoreError};
use crate::kernel::sweep::{FlowView, SweepReport, Sweeper};
use proxy_common::service::Mode;
use proxy_common::{hash, maps};
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

/// The data plane in the kernel.
pub(super) struct KernelPlane {
    /// `None` only after a failure to reopen, until the next use opens it again.
    open: Option<Open>,
    /// What it was last opened for.
    opened_for: (L4, u32),
    secrets: [u64; 5],
    readers: Readers,
    resolving: Arc<AtomicBool>,
}

/// An opened data plane and what works on its maps.
struct Open {
    plane: DataPlane,
    store: RealStore,
    stats: StatsReader,
    sweeper: Sweeper,
}

/// Where the readers of the rings go: new maps have new rings.
#[derive(Clone)]
pub(super) struct Readers {
    pub(super) events: mpsc::UnboundedSender<EventReader>,
    pub(super) captures: mpsc::UnboundedSender<CaptureReader>,
}

impl KernelPlane {
    /// Opens it for a configuration; must run inside a tokio runtime.
    pub(super) fn open(
        config: &Config,
        readers: Readers,
        lock: Option<OwnedFd>,
    ) -> Result<(Self, Adoption), PlaneError> {
        let wanted = (config.data_plane().clone(), snat_addresses(config));
        let (plane, adoption) = DataPlane::take_over(&wanted.0, wanted.1, lock)?;
        let mut kernel = Self {
            open: None,
            opened_for: wanted,
            secrets: hash::secrets(random_words()),
            readers,
            resolving: Arc::default(),
        };
        kernel.take(plane)?;
        Ok((kernel, adoption))
    }

    /// Works with an opened data plane from now on.
    fn take(&mut self, plane: DataPlane) -> Result<(), PlaneError> {
        // Nobody takes the readers only while the daemon ends.
        let _ = self.readers.events.send(plane.events()?);
        let _ = self.readers.captures.send(plane.captures()?);
        self.open = Some(Open {
            store: plane.store()?,
            stats: plane.stats()?,
            sweeper: plane.sweeper()?,
            plane,
        });
        Ok(())
    }

    /// Opens it again after a failure; the kernel has forwarded on.
    fn heal(&mut self) {
        if self.open.is_some() {
            return;
        }
        let opened = DataPlane::open(&self.opened_for.0, self.opened_for.1);
        let healed = opened
            .map_err(PlaneError::from)
            .and_then(|(plane, _)| self.take(plane));
        if let Err(error) = healed {
            debug!(error = %chain(&error), "the data plane cannot be opened again");
        }
    }

    fn opened(&mut self) -> Result<&mut Open, StoreError> {
        self.open.as_mut().ok_or_else(closed)
    }
}

fn closed() -> StoreError {
    StoreError {
        call: "open",
        map: maps::SETTINGS,
        source: io::Error::other("the data plane is closed after an earlier failure"),
    }
}

/// Drawn by the kernel: whoever could guess them could aim flows at one set of the flow table.
fn random_words() -> [u64; 5] {
    let mut octets = [0u8; 40];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut octets));
    if let Err(error) = read {
        warn!(%error, "/dev/urandom cannot be read: the flow table's secrets are weak");
        return std::array::from_fn(|_| fastrand::u64(..));
    }
    let mut words = [0; 5];
    for (word, chunk) in words.iter_mut().zip(octets.chunks_exact(8)) {
        *word = chunk
            .iter()
            .fold(0, |word, octet| word << 8 | u64::from(*octet));
    }
    words
}

/// Backends whose tunnels have no configured source address.
fn need_source(config: &Config) -> impl Iterator<Item = IpAddr> {
    let l4 = config.data_plane();
    let tunnels = config
        .services
        .iter()
        .filter(|service| matches!(service.mode, Mode::DsrIpip | Mode::DsrGue));
    tunnels
        .flat_map(|service| &service.backends)
        .map(|backend| backend.address)
        .filter(|address| match address {
            IpAddr::V4(_) => l4.tunnel_source_v4.is_none(),
            IpAddr::V6(_) => l4.tunnel_source_v6.is_none(),
        })
}

impl MapStore for KernelPlane {
    fn apply(&mut self, edit: &MapEdit) -> Result<(), StoreError> {
        self.opened()?.store.apply(edit)
    }

    fn apply_all(&mut self, edits: &[MapEdit]) -> Result<(), (usize, StoreError)> {
        let open = self.opened().map_err(|error| (0, error))?;
        open.store.apply_all(edits)
    }

    fn state(&self) -> Result<KernelState, StoreError> {
        self.open.as_ref().ok_or_else(closed)?.store.state()
    }
}

impl Plane for KernelPlane {
    type Store = Self;

    fn store(&mut self) -> &mut Self {
        self.heal();
        self
    }

    fn host(&mut self, config: &Config) -> Host {
        let sizes = self.open.as_ref().map(|open| *open.plane.capacities());
        let sources = need_source(config)
            .filter_map(|address| Some((address, source_for(address).ok().flatten()?)));
        Host {
            cpus: sizes.map_or(0, |sizes| sizes.cpus),
            sets_per_cpu: sizes.map_or(0, |sizes| sizes.sets_per_cpu),
            secrets: self.secrets,
            egress_sources: sources.collect(),
        }
    }

    fn fit(&mut self, config: &Config) -> Result<bool, PlaneError> {
        let wanted = (config.data_plane().clone(), snat_addresses(config));
        let open = self.open.take().ok_or(PlaneError::Closed)?;
        let Some(reason) = open.plane.misfit(&wanted.0, wanted.1) else {
            self.open = Some(open);
            return Ok(false);
        };
        info!(reason, "the maps are made anew");
        let Open { plane, .. } = open;
        let reopened = plane.reopen(&wanted.0, wanted.1).map_err(PlaneError::from);
        match reopened.and_then(|(plane, adoption)| Ok((self.take(plane)?, adoption))) {
            Ok(((), adoption)) => {
                self.opened_for = wanted;
                Ok(!matches!(adoption, Adoption::Adopted { .. }))
            }
            Err(error) => {
                self.heal();
                Err(error)
            }
        }
    }

    fn is_outgrown(&self, config: &Config) -> bool {
        let misfit = |open: &Open| {
            open.plane
                .misfit(config.data_plane(), snat_addresses(config))
        };
        self.open.as_ref().and_then(misfit).is_some()
    }

    fn attach(&mut self, interfaces: &[Interface]) -> Result<Vec<Attachment>, PlaneError> {
        let open = self.open.as_mut().ok_or(PlaneError::Closed)?;
        Ok(open.plane.attach(interfaces)?)
    }

    fn aim_probes(&mut self, interfaces: Option<&[Interface]>) -> Result<(), PlaneError> {
        let open = self.open.as_mut().ok_or(PlaneError::Closed)?;
        Ok(open.plane.aim_probes(interfaces)?)
    }

    fn stats(&mut self, services: &[u16], backends: &[u16]) -> Result<StatsSnapshot, StoreError> {
        self.opened()?.stats.snapshot(services, backends)
    }

    fn usage(&mut self) -> Result<Vec<MapUsage>, StoreError> {
        map_usage(self.opened()?.plane.maps())
    }

    fn sweep(&mut self) -> Result<Option<SweepReport>, StoreError> {
        self.opened()?.sweeper.step(host::now_tick())
    }

    fn flows(&mut self, wanted: &dyn Fn(&FlowView) -> bool, limit: usize) -> Vec<FlowView> {
        let open = self.open.as_ref();
        open.map(|open| open.sweeper.list_where(wanted, limit, host::now_tick()))
            .unwrap_or_default()
    }

    fn set_capture(&mut self, octets: Option<u32>) -> Result<(), StoreError> {
        self.opened()?.store.set_capture(octets)
    }

    /// On another thread: it takes some 50 µs per backend.
    fn resolve(&mut self, addresses: &[IpAddr]) {
        if self.resolving.swap(true, Ordering::AcqRel) {
            return;
        }
        let resolving = Arc::clone(&self.resolving);
        let mut neighbours = Neighbours::default();
        neighbours.set(addresses.iter().copied());
        tokio::task::spawn_blocking(move || {
            match neighbours.refresh() {
                Ok(report) if !report.unroutable.is_empty() => {
                    debug!(backends = ?report.unroutable, "no route to backends");
                }
                Ok(_) => {}
                Err(error) => debug!(error = %chain(&error), "neighbours cannot be looked at"),
            }
            resolving.store(false, Ordering::Release);
        });
    }

    fn interfaces(&mut self) -> Vec<(String, u32)> {
        let found = Netlink::open().and_then(|mut netlink| netlink.interfaces());
        match found {
            Ok(found) => found.into_iter().map(|one| (one.name, one.index)).collect(),
            Err(error) => {
                debug!(error = %chain(&error), "interfaces cannot be read");
                Vec::new()
            }
        }
    }

    fn now_ns(&self) -> u64 {
        host::now_ns()
    }

    fn lock(&self) -> Option<OwnedFd> {
        let open = self.open.as_ref()?;
        open.plane.lock().try_clone_to_owned().ok()
    }

    fn release(self, keep: bool) -> Result<(), PlaneError> {
        match self.open {
            Some(open) => Ok(open.plane.detach_all(keep)?),
            None if keep => Ok(()),
            None => Err(PlaneError::Closed),
        }
    }
}
