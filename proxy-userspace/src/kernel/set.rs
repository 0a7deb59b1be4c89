//! The open maps of one data plane.

use super::handle::MapHandle;
use super::layout::{Capacities, SHAPES};
use super::pins::Pins;
use super::store::StoreError;
use proxy_common::maps;
use proxy_common::settings::{Settings, settings_flags};
use std::collections::HashMap;
use std::io;
use std::path::Path;

/// Handles of a data plane's maps.
#[derive(Debug)]
pub struct MapSet {
    handles: HashMap<&'static str, MapHandle>,
}

impl MapSet {
    /// Opens the maps in force, for reading without (or beside) a daemon.
    ///
    /// # Errors
    ///
    /// [`StoreError`] naming the first map that cannot be opened, or has another layout than this
    /// build's.
    pub fn open(pins: &Pins) -> Result<Self, StoreError> {
        Self::open_in(&pins.maps())
    }

    pub(crate) fn open_in(directory: &Path) -> Result<Self, StoreError> {
        let mut handles = HashMap::new();
        for shape in SHAPES {
            let error = |source| StoreError {
                call: "open",
                map: shape.name,
                source,
            };
            let handle = MapHandle::open(&directory.join(shape.name)).map_err(error)?;
            if let Some(misfit) = shape.misfit(handle.info()) {
                return Err(error(io::Error::new(io::ErrorKind::InvalidData, misfit)));
            }
            handles.insert(shape.name, handle);
        }
        Ok(Self { handles })
    }

    /// A map's handle.
    pub(crate) fn get(&self, name: &'static str) -> Result<&MapHandle, StoreError> {
        self.handles.get(name).ok_or_else(|| StoreError {
            call: "find",
            map: name,
            source: io::ErrorKind::NotFound.into(),
        })
    }

    /// An independent handle of a map.
    pub(crate) fn clone_of(&self, name: &'static str) -> Result<MapHandle, StoreError> {
        self.get(name)?.try_clone().map_err(|source| StoreError {
            call: "open",
            map: name,
            source,
        })
    }

    /// The settings in force.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub fn settings(&self) -> Result<Settings, StoreError> {
        let settings = self.get(maps::SETTINGS)?.get(&0u32);
        settings
            .map(Option::unwrap_or_default)
            .map_err(|source| StoreError {
                call: "read",
                map: maps::SETTINGS,
                source,
            })
    }

    /// The sizes that these maps were made with.
    pub(crate) fn capacities(&self) -> Result<Capacities, StoreError> {
        let settings = self.settings()?;
        Ok(Capacities {
            cpus: settings.cpus,
            sets_per_cpu: settings.sets_per_cpu,
            backends: self.get(maps::BACKENDS)?.info().max_entries,
            snat_ports: self.get(maps::SNAT_PORTS)?.info().max_entries,
        })
    }
}

/// Settings without what a capture session changed, as planning knows them.
pub(crate) fn without_capture(settings: Settings) -> Settings {
    Settings {
        flags: settings.flags & !settings_flags::CAPTURE,
        capture_octets: 0,
        ..settings
    }
}
