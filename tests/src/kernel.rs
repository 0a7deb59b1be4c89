//! The data plane's maps, read from their pins: what the kernel itself counted.

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{Array, ArrayOfMaps, Map, MapData, PerCpuArray};
use proxy_common::backend::Backend;
use proxy_common::exceptions::{Exceptions, since};
use proxy_common::maps;
use proxy_common::reason::Reason;
use proxy_common::service::{RingChunk, Service};
use proxy_common::settings::Settings;
use proxy_common::stats::{BackendStats, LiveFlows};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The maps under one pin directory.
#[derive(Debug)]
pub struct Maps {
    directory: PathBuf,
}

impl Maps {
    /// Finds the maps of a data plane.
    ///
    /// # Errors
    ///
    /// There are no pins.
    pub fn open(pin_dir: &Path) -> Result<Self> {
        let directory = pin_dir.join("maps");
        anyhow::ensure!(directory.is_dir(), "no pins in {}", directory.display());
        Ok(Self { directory })
    }

    /// Path of a map's pin.
    pub fn pin(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The settings in force.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn settings(&self) -> Result<Settings> {
        let map: Array<_, Settings> = Array::try_from(Map::Array(self.data(maps::SETTINGS)?))?;
        Ok(map.get(&0, 0)?)
    }

    /// Packets with this reason.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn reason(&self, reason: Reason) -> Result<u64> {
        let map = self.per_cpu::<u64>(maps::REASONS)?;
        Ok(map.get(&u32::from(reason as u16), 0)?.iter().sum())
    }

    /// Entries of `backends` with their ids.
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn backends(&self) -> Result<Vec<(u32, Backend)>> {
        let map: Array<_, Backend> = Array::try_from(Map::Array(self.data(maps::BACKENDS)?))?;
        let entries = map.iter().enumerate();
        let mut used = Vec::new();
        for (id, entry) in entries {
            let backend = entry?;
            if backend.state != 0 {
                used.push((u32::try_from(id)?, backend));
            }
        }
        Ok(used)
    }

    /// What was counted for the backend with this address and protocol, over all services.
    ///
    /// # Errors
    ///
    /// A map cannot be read.
    pub fn backend_stats(&self, address: IpAddr, protocol: u8) -> Result<BackendStats> {
        let map = self.per_cpu::<BackendStats>(maps::BACKEND_STATS)?;
        let mut sum = BackendStats::default();
        for (id, backend) in self.backends()? {
            if IpAddr::from(backend.addr) == address && backend.protocol == protocol {
                for cpu in map.get(&id, 0)?.iter() {
                    sum.packets += cpu.packets;
                    sum.bytes += cpu.bytes;
                    sum.new_flows += cpu.new_flows;
                    sum.return_packets += cpu.return_packets;
                    sum.return_bytes += cpu.return_bytes;
                    sum.entered += cpu.entered;
                }
            }
        }
        Ok(sum)
    }

    /// Live flows of the backend with this address and protocol, over all services.
    ///
    /// # Errors
    ///
    /// A map cannot be read.
    pub fn live_flows(&self, address: IpAddr, protocol: u8) -> Result<i64> {
        let map: Array<_, LiveFlows> = Array::try_from(Map::Array(self.data(maps::LIVE_FLOWS)?))?;
        let mut sum = 0;
        for (id, backend) in self.backends()? {
            if IpAddr::from(backend.addr) == address && backend.protocol == protocol {
                sum += map.get(&id, 0)?.count;
            }
        }
        Ok(sum)
    }

    /// True if the rings of all services are settled: SYNs leave no flows then.
    ///
    /// # Errors
    ///
    /// A map cannot be read.
    pub fn rings_are_settled(&self) -> Result<bool> {
        type Ring = Array<MapData, RingChunk>;
        let exceptions: Array<_, Exceptions> =
            Array::try_from(Map::Array(self.data(maps::EXCEPTIONS)?))?;
        let looked_at = since(exceptions.get(&0, 0)?.state);
        let rings = ArrayOfMaps::<_, Ring>::try_from(Map::from_map_data(self.data(maps::RINGS)?)?)?;
        let services: Array<_, Service> =
            Array::try_from(Map::Array(self.data(maps::SERVICE_TABLE)?))?;
        for (id, service) in (0..).zip(services.iter()) {
            if service?.ring_size != 0 && rings.get(&id, 0)?.get(&0, 0)?.until > looked_at {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn per_cpu<T: Pod>(&self, name: &str) -> Result<PerCpuArray<MapData, T>> {
        Ok(PerCpuArray::try_from(Map::PerCpuArray(self.data(name)?))?)
    }

    fn data(&self, name: &str) -> Result<MapData> {
        let pin = self.pin(name);
        MapData::from_pin(&pin).with_context(|| format!("cannot open {}", pin.display()))
    }
}
