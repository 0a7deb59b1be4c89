//! What stands for the data plane where nothing is balanced in the kernel.
//!
//! The control task then decides as ever; its edits go nowhere, and nothing needs privileges.

use super::plane::{Plane, PlaneError};
use crate::config::model::{Config, Interface};
use crate::kernel::attach::Attachment;
use crate::kernel::plan::Host;
use crate::kernel::stats::{MapUsage, StatsSnapshot};
use crate::kernel::store::{KernelState, MapEdit, MapStore, StoreError};
use crate::kernel::sweep::{FlowView, SweepReport};
use std::net::IpAddr;

/// No data plane.
#[derive(Debug, Default)]
pub(super) struct NoPlane {
    store: NoStore,
}

/// Maps of no data plane: they take everything and hold nothing.
#[derive(Debug, Default)]
pub(super) struct NoStore;

impl MapStore for NoStore {
    fn apply(&mut self, _: &MapEdit) -> Result<(), StoreError> {
        Ok(())
    }

    fn state(&self) -> Result<KernelState, StoreError> {
        Ok(KernelState::default())
    }
}

impl Plane for NoPlane {
    type Store = NoStore;

    fn store(&mut self) -> &mut NoStore {
        &mut self.store
    }

    fn host(&mut self, _: &Config) -> Host {
        Host {
            cpus: 1,
            sets_per_cpu: 1,
            ..Host::default()
        }
    }

    fn fit(&mut self, _: &Config) -> Result<bool, PlaneError> {
        Ok(false)
    }

    fn is_outgrown(&self, _: &Config) -> bool {
        false
    }

    fn attach(&mut self, _: &[Interface]) -> Result<Vec<Attachment>, PlaneError> {
        Ok(Vec::new())
    }

    fn steer_probes(&mut self, _: Option<&[Interface]>) -> Result<(), PlaneError> {
        Ok(())
    }

    fn stats(&mut self, _: &[u16], _: &[u16]) -> Result<StatsSnapshot, StoreError> {
        Ok(StatsSnapshot::default())
    }

    fn usage(&mut self) -> Result<Vec<MapUsage>, StoreError> {
        Ok(Vec::new())
    }

    fn sweep(&mut self) -> Result<Option<SweepReport>, StoreError> {
        Ok(None)
    }

    fn flows(&mut self, _: &dyn Fn(&FlowView) -> bool, _: usize) -> Vec<FlowView> {
        Vec::new()
    }

    fn set_capture(&mut self, _: Option<u32>) -> Result<(), StoreError> {
        Ok(())
    }

    fn resolve(&mut self, _: &[IpAddr]) {}

    fn interfaces(&mut self) -> Vec<(String, u32)> {
        Vec::new()
    }

    fn now_ns(&self) -> u64 {
        crate::net::clock::Clock::new().last()
    }

    fn release(self, _: bool) -> Result<(), PlaneError> {
        Ok(())
    }
}
