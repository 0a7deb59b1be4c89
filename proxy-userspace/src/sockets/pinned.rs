//! What a capability on sockets has pinned, in a folder of its own: maps of one version, programs and
//! links, under a lock.

use crate::kernel::handle::MapHandle;
use crate::kernel::host;
use crate::kernel::load::{LoadError, check_privileges};
use crate::kernel::pins::{self, PinLock, Pins};
use crate::kernel::store::{StoreError, store_error};
use aya::{EbpfLoader, Pod};
use std::path::{Path, PathBuf};

/// The maps of a capability.
pub(super) struct PinnedMaps<S: 'static> {
    /// Their names.
    pub(super) all: &'static [&'static str],
    /// The one whose only element says of which version they are.
    pub(super) state: &'static str,
    /// Whether that is ours.
    pub(super) is_ours: fn(&S) -> bool,
}

impl<S: Pod> PinnedMaps<S> {
    /// Whether those in force are of this version and all there.
    pub(super) fn can_adopt(&self, pins: &Pins) -> bool {
        let has_all = self.all.iter().all(|name| pins.map(name).exists());
        let state = || MapHandle::open(&pins.map(self.state))?.get::<u32, S>(&0);
        has_all && matches!(state(), Ok(Some(state)) if (self.is_ours)(&state))
    }

    /// Has an object use the maps that are pinned in a folder, or pin new ones there.
    pub(super) fn pin_in(&self, folder: &Path, loader: &mut EbpfLoader<'static>) {
        for name in self.all {
            loader.map_pin_path(name, folder.join(name));
        }
    }

    /// Puts the pins of new maps in the place of the old ones, which no program uses any more.
    pub(super) fn put_in_force(&self, pins: &Pins) -> Result<(), LoadError> {
        pins::remove_dir(&pins.maps())?;
        pins::make_dir(&pins.maps())?;
        for name in self.all {
            let path = pins.next_maps().join(name);
            if let Err(source) = std::fs::rename(&path, pins.map(name)) {
                let call = "move";
                return Err(LoadError::Path { call, path, source });
            }
        }
        pins::remove_dir(&pins.next_maps())
    }
}

/// Whether an object can be loaded at all; raises the limits that stand in its way.
pub(super) fn check(object: &[u8]) -> Result<(), LoadError> {
    if object.is_empty() {
        return Err(LoadError::NoObject);
    }
    check_privileges()?;
    host::raise_limits();
    Ok(())
}

/// Where the maps of new programs are: `staged` while older ones serve on with those in force.
pub(super) fn folder(pins: &Pins, staged: bool) -> PathBuf {
    match staged {
        true => pins.next_maps(),
        false => pins.maps(),
    }
}

/// Opens a map.
pub(super) fn map(folder: &Path, name: &'static str) -> Result<MapHandle, StoreError> {
    MapHandle::open(&folder.join(name)).map_err(store_error("open", name))
}

/// The links.
pub(super) fn links(pins: &Pins) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(pins.links()).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

/// Removes everything, and the folder above where nothing else is in it.
pub(super) fn remove(pins: &Pins) -> Result<(), LoadError> {
    for path in links(pins) {
        pins::remove_link(&path)?;
    }
    for folder in [
        pins.links(),
        pins.stages(),
        pins.programs(),
        pins.maps(),
        pins.next_maps(),
    ] {
        pins::remove_dir(&folder)?;
    }
    pins::remove_dir(pins.directory())?;
    if let Some(parent) = pins.directory().parent() {
        let _ = std::fs::remove_dir(parent);
    }
    Ok(())
}

/// Removes what a daemon that is gone has left, if there is anything.
pub(super) fn remove_abandoned(pins: &Pins) -> Result<(), LoadError> {
    if !pins.directory().exists() {
        return Ok(());
    }
    let _lock = PinLock::acquire(pins.directory())?;
    remove(pins)
}
