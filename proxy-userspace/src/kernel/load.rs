//! Opens the data plane: adopts the one that is running, or makes a fresh one.
//!
//! ```text
//! open      lock, inspect the pins, load the program against pinned maps (adopt)
//!           or against new ones under `next/` (fresh, replace)
//! …         the caller plans and applies edits through `store()`
//! attach    puts the new maps' pins in force, then updates or makes the links
//! ```
//!
//! Nothing that carries traffic changes before `attach`: a program that does not load, or a
//! configuration that does not apply, leaves the running data plane as it was. A crash at any
//! point leaves either the old pins or the new, filled ones in force.

use super::events::{CaptureReader, EventReader};
use super::handle::MapHandle;
use super::host;
use super::layout::{Capacities, SHAPES, Shape};
use super::log::Follower;
use super::maps::RealStore;
use super::migrate;
pub use super::object::OBJECT;
use super::object::{Balancer, load_balancer, load_object, object_for};
use super::pins::{self, Holder, PinLock, Pins};
pub use super::set::MapSet;
use super::stats::StatsReader;
use super::store::StoreError;
use super::sweep::Sweeper;
use crate::config::model::{KernelLog, L4};
use aya::EbpfError;
use aya::programs::ProgramError;
use proxy_common::ABI_VERSION;
use proxy_common::maps;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The data plane could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The binary was built without the kernel object.
    #[error(
        "this binary was built without the kernel programs: run `cargo xtask build-ebpf` and build it again"
    )]
    NoObject,
    /// The process lacks capabilities.
    #[error("missing {}: run as root, or grant them (systemd: AmbientCapabilities=)", missing.join(", "))]
    NoPrivilege {
        /// Names of the capabilities.
        missing: Vec<&'static str>,
    },
    /// A path could not be used.
    #[error("cannot {call} {}", path.display())]
    Path {
        /// What was tried.
        call: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The pin directory is not on a bpffs and holds other files.
    #[error("{} is not on a bpffs and not empty: choose a `pin_dir` below /sys/fs/bpf", .0.display())]
    NotBpffs(PathBuf),
    /// The bpffs could not be mounted.
    #[error("cannot mount a bpffs on {}: try `mount -t bpf bpf {0}` as root", path.display())]
    MountBpffs {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another daemon uses the pin directory.
    #[error("{} is in use by {holder}: stop it first, or configure another `pin_dir`", path.display())]
    Locked {
        /// The pin directory.
        path: PathBuf,
        /// Who holds it.
        holder: Holder,
    },
    /// The object is malformed, or a map could not be made.
    #[error("cannot load the kernel object")]
    Object(#[source] Box<EbpfError>),
    /// The object lacks a program.
    #[error("the kernel object has no program `{0}`")]
    MissingProgram(&'static str),
    /// The kernel refused a program.
    #[error("the kernel refused the program `{program}`; the verifier's last words:\n{log}")]
    Refused {
        /// The program.
        program: &'static str,
        /// The end of the verifier's log.
        log: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A program could not be handled otherwise.
    #[error("cannot load the program `{program}`")]
    Program {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: Box<ProgramError>,
    },
    /// What the programs tell cannot be read.
    #[error("cannot read what the kernel programs log: {0}")]
    Log(String),
    /// A map could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was found when the data plane was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// Nothing was pinned: the maps are new and empty.
    Fresh,
    /// The pinned maps are used on, with all their flows.
    Adopted {
        /// Interfaces that have a pinned link.
        interfaces: Vec<String>,
    },
    /// The pinned maps could not be used on: new ones take their place when the links are updated.
    Replaced {
        /// `Settings::abi` of the old ones; 0 if it could not be told.
        old_abi: u32,
        /// Why they could not be used.
        reason: String,
        /// The layout was the same, only sizes differed: entries were copied, and flows will be
        /// when the links are updated. Otherwise everything starts empty.
        copied: bool,
    },
}

/// The pinned maps, judged.
enum Found {
    Nothing,
    Foreign { old_abi: u32, reason: String },
    Ours(MapSet, Capacities),
}

/// An opened data plane.
///
/// Dropping it changes nothing in the kernel: see [`Self::detach_all`].
pub struct DataPlane {
    pub(crate) pins: Pins,
    pub(crate) lock: PinLock,
    pub(crate) capacities: Capacities,
    pub(crate) maps: MapSet,
    pub(crate) balancer: Balancer,
    /// `maps` are pinned under `next/` still.
    pub(crate) staged: bool,
    /// Maps whose flows are to be copied when the links are updated.
    pub(crate) predecessor: Option<MapSet>,
    /// Writes what these programs tell, if they do.
    _log: Option<Follower>,
}

impl DataPlane {
    /// Opens the data plane with the embedded object.
    ///
    /// `snat_addresses` is the number of distinct full-nat source addresses, see
    /// [`super::layout::snat_addresses`].
    ///
    /// # Errors
    ///
    /// Any [`LoadError`]; what was running still is.
    pub fn open(l4: &L4, snat_addresses: u32) -> Result<(Self, Adoption), LoadError> {
        Self::open_object(object_for(l4), l4, snat_addresses)
    }

    /// As [`Self::open`], with the lock of a predecessor that still runs: see [`Self::lock`].
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn take_over(
        l4: &L4,
        snat_addresses: u32,
        lock: Option<OwnedFd>,
    ) -> Result<(Self, Adoption), LoadError> {
        Self::open_with(object_for(l4), l4, snat_addresses, lock)
    }

    /// What keeps other daemons away. Whoever shares it may open the data plane while this is
    /// open; both must then agree on who writes to it.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// As [`Self::open`], with another object.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_object(
        object: &[u8],
        l4: &L4,
        snat_addresses: u32,
    ) -> Result<(Self, Adoption), LoadError> {
        Self::open_with(object, l4, snat_addresses, None)
    }

    fn open_with(
        object: &[u8],
        l4: &L4,
        snat_addresses: u32,
        lock: Option<OwnedFd>,
    ) -> Result<(Self, Adoption), LoadError> {
        if object.is_empty() {
            return Err(LoadError::NoObject);
        }
        check_privileges()?;
        host::raise_limits();
        let pins = Pins::new(&l4.pin_dir);
        prepare(&pins)?;
        let lock = PinLock::inherit(pins.directory(), lock)?;
        Self::open_locked(object, l4, snat_addresses, pins, lock)
    }

    /// Opens the data plane again with other sizes, keeping the lock: for a reload after
    /// [`Self::misfit`] told that the present maps do not do. Stores, sweepers and readers belong to
    /// the old maps, and must be opened again.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]; `self` is gone then, but the kernel forwards on and [`Self::open`] adopts
    /// it again.
    pub fn reopen(self, l4: &L4, snat_addresses: u32) -> Result<(Self, Adoption), LoadError> {
        let Self { pins, lock, .. } = self;
        Self::open_locked(object_for(l4), l4, snat_addresses, pins, lock)
    }

    fn open_locked(
        object: &[u8],
        l4: &L4,
        snat_addresses: u32,
        pins: Pins,
        lock: PinLock,
    ) -> Result<(Self, Adoption), LoadError> {
        pins::remove_dir(&pins.next_maps())?;
        let wanted = Capacities::plan(l4, snat_addresses, host::flow_cpus());
        let (adoption, predecessor) = judge(&pins, &wanted)?;
        let adopted = matches!(adoption, Adoption::Adopted { .. });
        let directory = if adopted {
            pins.maps()
        } else {
            pins.next_maps()
        };
        pins::make_dir(&directory)?;
        let mut ebpf = load_object(object, &directory, &wanted, l4.kernel_log)?;
        let balancer = load_balancer(&mut ebpf)?;
        let log = (l4.kernel_log != KernelLog::Off)
            .then(|| Follower::new(&mut ebpf))
            .transpose()?;
        let maps = MapSet::open_in(&directory)?;
        if let Some(old) = &predecessor {
            migrate::copy_entries(old, &maps, &wanted)?;
        }
        let capacities = if adopted { maps.capacities()? } else { wanted };
        let plane = Self {
            pins,
            lock,
            capacities,
            maps,
            balancer,
            staged: !adopted,
            predecessor,
            _log: log,
        };
        if adopted {
            // A capture that died with the last daemon must not cost its price for ever.
            plane.store()?.set_capture(None)?;
        }
        tracing::info!(
            pins = %plane.pins.directory().display(),
            flows = plane.capacities.flow_sets() * proxy_common::flow::PLANNED_FLOWS_PER_SET,
            ?adoption,
            "data plane opened"
        );
        Ok((plane, adoption))
    }

    /// Why the maps do not do for a configuration, if they do not; then [`Self::reopen`] is needed.
    ///
    /// It also tells when a CPU was added that the flow table has no part for.
    pub fn misfit(&self, l4: &L4, snat_addresses: u32) -> Option<String> {
        let cpus = self.capacities.cpus.max(host::flow_cpus());
        let wanted = Capacities::plan(l4, snat_addresses, cpus);
        self.capacities.misfit(&wanted)
    }

    /// The sizes in force: planning puts `cpus` and `sets_per_cpu` into the settings.
    pub fn capacities(&self) -> &Capacities {
        &self.capacities
    }

    /// Where things are pinned.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The maps.
    pub fn maps(&self) -> &MapSet {
        &self.maps
    }

    /// A store that writes to these maps.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a map cannot be opened.
    pub fn store(&self) -> Result<RealStore, StoreError> {
        RealStore::open(&self.maps)
    }

    /// A sweeper of these maps. There should be one.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a map cannot be opened.
    pub fn sweeper(&self) -> Result<Sweeper, StoreError> {
        Sweeper::open(&self.maps)
    }

    /// A reader of counters.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a map cannot be opened.
    pub fn stats(&self) -> Result<StatsReader, StoreError> {
        StatsReader::open(&self.maps)
    }

    /// The reader of sampled events. There must be one only, within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the ring cannot be opened.
    pub fn events(&self) -> Result<EventReader, StoreError> {
        EventReader::open(&self.maps)
    }

    /// The reader of captured packets. There must be one only, within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the ring cannot be opened.
    pub fn captures(&self) -> Result<CaptureReader, StoreError> {
        CaptureReader::open(&self.maps)
    }
}

/// Fails early and clearly where nothing below could work.
pub(crate) fn check_privileges() -> Result<(), LoadError> {
    let missing = host::missing_capabilities();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(LoadError::NoPrivilege { missing })
    }
}

/// Makes the pin directory, on a bpffs.
pub(crate) fn prepare(pins: &Pins) -> Result<(), LoadError> {
    if let Some(place) = pins::ensure_bpffs(pins.directory())? {
        tracing::info!(place = %place.display(), "mounted a bpffs, there was none");
        if pins::in_private_mounts() {
            tracing::warn!(
                place = %place.display(),
                "it is visible in this mount namespace only, and the pins die with it: \
                 mount it outside if forwarding should outlive this process"
            );
        }
    }
    pins.create()
}

/// Looks at what is pinned and decides what to do with it.
fn judge(pins: &Pins, wanted: &Capacities) -> Result<(Adoption, Option<MapSet>), LoadError> {
    Ok(match inspect(pins) {
        Found::Nothing => (Adoption::Fresh, None),
        Found::Foreign { old_abi, reason } => {
            let copied = false;
            (
                Adoption::Replaced {
                    old_abi,
                    reason,
                    copied,
                },
                None,
            )
        }
        Found::Ours(maps, capacities) => match capacities.misfit(wanted) {
            None => {
                let interfaces = pins.linked_interfaces().map_err(|source| LoadError::Path {
                    call: "read",
                    path: pins.links(),
                    source,
                })?;
                (Adoption::Adopted { interfaces }, None)
            }
            Some(reason) => {
                let replaced = Adoption::Replaced {
                    old_abi: ABI_VERSION,
                    reason,
                    copied: true,
                };
                (replaced, Some(maps))
            }
        },
    })
}

fn inspect(pins: &Pins) -> Found {
    let directory = pins.maps();
    let is_pinned = |shape: &&Shape| directory.join(shape.name).exists();
    if !SHAPES.iter().any(|shape| is_pinned(&shape)) {
        return Found::Nothing;
    }
    let old_abi = pinned_abi(&pins.map(maps::SETTINGS)).unwrap_or(0);
    if old_abi != ABI_VERSION {
        let reason = format!("the pinned maps have ABI version {old_abi}, not {ABI_VERSION}");
        return Found::Foreign { old_abi, reason };
    }
    let opened = MapSet::open_in(&directory).and_then(|maps| {
        let capacities = maps.capacities()?;
        Ok((maps.get(maps::FLOWS)?.info().max_entries, maps, capacities))
    });
    match opened {
        Ok((sets, maps, capacities)) if sets == capacities.flow_sets() => {
            Found::Ours(maps, capacities)
        }
        Ok((sets, _, capacities)) => Found::Foreign {
            old_abi,
            reason: format!(
                "the flow table has {sets} sets, the settings say {}",
                capacities.flow_sets()
            ),
        },
        Err(error) => Found::Foreign {
            old_abi,
            reason: format!("{error}: {}", error.source),
        },
    }
}

/// The ABI version in a pinned `settings` map, whatever else is in it: it is the first field.
fn pinned_abi(path: &Path) -> Option<u32> {
    let map = MapHandle::open(path).ok()?;
    let octets = map.raw_element(0).ok()?;
    Some(u32::from_ne_bytes(octets.first_chunk::<4>().copied()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_object_says_how_to_build_it() {
        let text = LoadError::NoObject.to_string();
        assert!(text.contains("cargo xtask build-ebpf"), "{text}");
    }
}
