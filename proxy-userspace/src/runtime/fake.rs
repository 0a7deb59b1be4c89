//! A data plane in memory behind the control task's trait.

use super::plane::{Plane, PlaneError};
use crate::config::model::{Config, Interface};
use crate::kernel::aim::AimError;
use crate::kernel::attach::{AttachError, Attachment};
use crate::kernel::fake::FakeStore;
use crate::kernel::netlink::XdpMode;
use crate::kernel::plan::Host;
use crate::kernel::stats::{BackendCounters, MapUsage, StatsSnapshot};
use crate::kernel::store::StoreError;
use crate::kernel::sweep::{FlowView, SweepReport};
use parking_lot::Mutex;
use proxy_common::reason::Reason;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::time::Instant;

/// What the test sees and changes while the control task has the plane.
#[derive(Debug)]
pub(super) struct World {
    /// The maps.
    pub(super) store: FakeStore,
    /// Interfaces of the machine with their indices.
    pub(super) present: Vec<(String, u32)>,
    /// Interfaces that the plane is attached to; `None` once it was released.
    pub(super) attached: Option<Vec<String>>,
    /// How often it was attached.
    pub(super) attachments: usize,
    /// Interfaces on which probes to VIPs are aimed.
    pub(super) aimed: Option<Vec<String>>,
    /// The kernel cannot aim probes.
    pub(super) cannot_aim: bool,
    /// Octets that are captured.
    pub(super) capture: Option<u32>,
    /// New maps are needed for a configuration with another flow capacity than this.
    pub(super) flow_capacity: u32,
    /// CPUs that are online.
    pub(super) cpus: u32,
    /// CPUs that the maps were made for.
    pub(super) fitted_cpus: u32,
    /// No maps can be made for more CPUs.
    pub(super) cannot_grow: bool,
    /// Maps in force while new ones are being filled.
    pub(super) staged: Option<FakeStore>,
    /// Live flows of every backend.
    pub(super) live: i64,
    /// Flows of the table.
    pub(super) flows: Vec<FlowView>,
}

impl World {
    /// A machine with `eth0`, and fresh maps.
    pub(super) fn new(flow_capacity: u32) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            store: FakeStore::new(64),
            present: vec![("eth0".to_owned(), 2)],
            attached: None,
            attachments: 0,
            aimed: None,
            cannot_aim: false,
            capture: None,
            flow_capacity,
            cpus: 1,
            fitted_cpus: 1,
            cannot_grow: false,
            staged: None,
            live: 0,
            flows: Vec::new(),
        }))
    }
}

/// The plane.
#[derive(Debug)]
pub(super) struct FakePlane {
    world: Arc<Mutex<World>>,
    began: Instant,
}

impl FakePlane {
    /// A plane over this world.
    pub(super) fn new(world: Arc<Mutex<World>>) -> Self {
        Self {
            world,
            began: Instant::now(),
        }
    }
}

impl crate::kernel::store::MapStore for FakePlane {
    fn apply(&mut self, edit: &crate::kernel::store::MapEdit) -> Result<(), StoreError> {
        self.world.lock().store.apply(edit)
    }

    fn state(&self) -> Result<crate::kernel::store::KernelState, StoreError> {
        self.world.lock().store.state()
    }
}

impl Plane for FakePlane {
    type Store = Self;

    fn store(&mut self) -> &mut Self {
        self
    }

    fn host(&mut self, _: &Config) -> Host {
        Host {
            cpus: 1,
            sets_per_cpu: 16,
            secrets: [1, 2, 3, 4, 5],
            ..Host::default()
        }
    }

    fn fit(&mut self, config: &Config) -> Result<bool, PlaneError> {
        let mut world = self.world.lock();
        let cpus = world.cpus;
        if world.cannot_grow && world.fitted_cpus < cpus {
            return Err(PlaneError::Closed);
        }
        let grown = std::mem::replace(&mut world.fitted_cpus, cpus) < cpus;
        if !grown && world.flow_capacity == config.data_plane().flow_capacity {
            // Adopts what is in force, if something else was being filled.
            if let Some(old) = world.staged.take() {
                world.store = old;
            }
            return Ok(false);
        }
        let old = std::mem::replace(&mut world.store, FakeStore::new(64));
        world.staged = Some(old);
        Ok(true)
    }

    fn is_outgrown(&self, _: &Config) -> bool {
        let world = self.world.lock();
        world.cpus > world.fitted_cpus
    }

    fn attach(&mut self, interfaces: &[Interface]) -> Result<Vec<Attachment>, PlaneError> {
        let mut world = self.world.lock();
        let mut attached = Vec::new();
        for interface in interfaces {
            let mut present = world.present.iter();
            let Some((_, index)) = present.find(|(name, _)| *name == interface.name) else {
                let existing = world.present.iter().map(|(name, _)| name.clone()).collect();
                let name = interface.name.clone();
                return Err(AttachError::NoInterface { name, existing }.into());
            };
            attached.push(Attachment {
                interface: interface.name.clone(),
                ifindex: *index,
                mode: XdpMode::Native,
                updated: false,
            });
        }
        world.staged = None;
        world.attachments += 1;
        world.attached = Some(interfaces.iter().map(|one| one.name.clone()).collect());
        Ok(attached)
    }

    fn aim_probes(&mut self, interfaces: Option<&[Interface]>) -> Result<(), PlaneError> {
        let mut world = self.world.lock();
        if interfaces.is_some() && world.cannot_aim {
            return Err(AimError::NoInterface("lo".to_owned()).into());
        }
        world.aimed = interfaces.map(|all| all.iter().map(|one| one.name.clone()).collect());
        Ok(())
    }

    fn stats(&mut self, _: &[u16], backends: &[u16]) -> Result<StatsSnapshot, StoreError> {
        let live_flows = self.world.lock().live;
        let counters = BackendCounters {
            live_flows,
            ..BackendCounters::default()
        };
        Ok(StatsSnapshot {
            reasons: vec![(Reason::Translated, 5), (Reason::DropDenied, 0)],
            backends: backends.iter().map(|id| (*id, counters)).collect(),
            ..StatsSnapshot::default()
        })
    }

    fn usage(&mut self) -> Result<Vec<MapUsage>, StoreError> {
        Ok(Vec::new())
    }

    fn sweep(&mut self) -> Result<Option<SweepReport>, StoreError> {
        Ok(None)
    }

    fn flows(&mut self, wanted: &dyn Fn(&FlowView) -> bool, limit: usize) -> Vec<FlowView> {
        let world = self.world.lock();
        world
            .flows
            .iter()
            .filter(|flow| wanted(flow))
            .take(limit)
            .copied()
            .collect()
    }

    fn set_capture(&mut self, octets: Option<u32>) -> Result<(), StoreError> {
        self.world.lock().capture = octets;
        Ok(())
    }

    fn resolve(&mut self, _: &[IpAddr]) {}

    fn interfaces(&mut self) -> Vec<(String, u32)> {
        self.world.lock().present.clone()
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn release(self, keep: bool) -> Result<(), PlaneError> {
        if !keep {
            self.world.lock().attached = None;
        }
        Ok(())
    }
}
