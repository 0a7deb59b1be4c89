//! Steering: opens or adopts the program, follows bindings, counts.
//!
//! ```text
//! PIN_DIR/steer/maps/NAME      the maps in force
//! PIN_DIR/steer/progs/NAME     the program
//! PIN_DIR/steer/links/netns    what keeps it attached to the network namespace
//! PIN_DIR/steer/next/NAME      maps of a newer version, until they are in force
//! ```
//!
//! It shares nothing with the packet path, so that a daemon without it can steer. Pins outlive a
//! daemon that is killed: bindings then name listeners without sockets, and what comes is refused
//! or left to others, as configured. The next daemon adopts them.
//!
//! A new generation of sockets, after a start, a reload or the hand-over to a new process, is put in
//! force by one write, see [`proxy_common::steer`]. Between processes sockets are handed over, so
//! nothing is lost in either's queue whichever generation a lookup has seen.

mod maps;
pub mod plan;
pub mod routes;

use super::namespace;
use super::object::OBJECT;
use super::pinned::{self, PinnedMaps};
use crate::config::model::steer::Bindings;
use crate::kernel::load::{LoadError, prepare};
use crate::kernel::object::{duplicate, named, object_error, offer, pin_program};
use crate::kernel::pins::{self, PinLock, Pins};
use crate::kernel::store::{StoreError, store_error};
use crate::kernel::{host, sys};
use aya::EbpfLoader;
use aya::programs::SkLookup;
use maps::Maps;
use plan::{PlanError, Tables, name_of, plan};
use proxy_common::maps::{self as names, program};
use proxy_common::sock;
use proxy_common::steer::{
    GROUPS, STEER_ABI, SteerGroup, SteerState, SteerStats, UNMATCHED, socket_index,
};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The maps of steering.
const MAPS: PinnedMaps<SteerState> = PinnedMaps {
    all: &[
        names::STEER_STATE,
        names::STEER_PORTS,
        names::STEER_PREFIXES,
        names::STEER_RANGES,
        names::STEER_GROUPS,
        names::STEER_SOCKETS,
        names::STEER_STATS,
    ],
    state: names::STEER_STATE,
    is_ours: |state| state.abi == STEER_ABI,
};

/// Nothing can be steered, or not as wanted.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// The program cannot be opened.
    #[error("cannot steer")]
    Load(#[from] LoadError),
    /// The program cannot be attached.
    #[error("cannot attach the program that steers to the network namespace (Linux 5.9)")]
    Attach(#[source] io::Error),
    /// A map refused.
    #[error("cannot steer")]
    Store(#[from] StoreError),
    /// The bindings do not fit.
    #[error("cannot steer")]
    Plan(#[from] PlanError),
    /// The kernel does not take a socket.
    #[error("cannot steer to listener `{listener}`")]
    Socket {
        /// Whose.
        listener: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What became of lookups of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those of each listener that has bindings, by name.
    pub listeners: BTreeMap<String, SteerStats>,
    /// Lookups that no binding was for.
    pub unmatched: u64,
}

/// What steers. Dropping it changes nothing in the kernel.
pub struct Steering {
    pins: Pins,
    lock: PinLock,
    program: OwnedFd,
    maps: Maps,
    /// What the maps hold; `None` after a failure, until they are read.
    tables: Option<Tables>,
    /// The maps are pinned under `next/`, and an older program serves on.
    staged: bool,
}

impl Steering {
    /// Opens what is pinned, or makes it anew; nothing is changed for lookups yet. `lock` is that of
    /// a predecessor that still runs.
    ///
    /// # Errors
    ///
    /// [`SteerError`]; what steered before still does.
    pub fn open(pin_dir: &Path, lock: Option<OwnedFd>) -> Result<Self, SteerError> {
        pinned::check(OBJECT)?;
        let pins = pins_in(pin_dir);
        prepare(&pins)?;
        let lock = PinLock::inherit(pins.directory(), lock)?;
        pins::remove_dir(&pins.next_maps())?;
        let staged = !MAPS.can_adopt(&pins);
        let has_old = pins.map(names::STEER_STATE).exists();
        let folder = pinned::folder(&pins, staged);
        pins::make_dir(&folder)?;
        let program = load(&folder)?;
        let maps = Maps::open(&folder)?;
        let steering = Self {
            pins,
            lock,
            program,
            tables: None,
            maps,
            staged,
        };
        tracing::info!(
            pins = %steering.pins.directory().display(),
            adopted = !staged,
            replaced = staged && has_old,
            "steering opened"
        );
        Ok(steering)
    }

    /// What keeps other daemons away, for a successor.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Makes lookups follow these bindings and sockets; one socket, by name of its listener, stands
    /// for all of a listener. Returns the number of edits.
    ///
    /// # Errors
    ///
    /// [`SteerError`]; calling it again goes on where it ended, or back.
    pub fn follow(
        &mut self,
        bindings: &Bindings,
        sockets: &[(&str, BorrowedFd<'_>)],
    ) -> Result<usize, SteerError> {
        let tables = match self.tables.take() {
            Some(tables) => tables,
            None => self.maps.read()?,
        };
        let plan = plan(bindings, &tables)?;
        self.maps.apply(&plan.before)?;
        // Groups of listeners that go keep their sockets until their bindings are gone.
        let mut groups = tables.groups;
        groups.extend(&plan.tables.groups);
        self.switch(&groups, sockets)?;
        self.maps.apply(&plan.after)?;
        self.tables = Some(plan.tables);
        self.attach()?;
        Ok(plan.before.len() + plan.after.len())
    }

    /// Puts the sockets in force by one write.
    fn switch(
        &self,
        groups: &BTreeMap<u16, SteerGroup>,
        sockets: &[(&str, BorrowedFd<'_>)],
    ) -> Result<(), SteerError> {
        let state = self.maps.state()?;
        let next = state.generation.wrapping_add(1);
        for (&id, group) in groups {
            let (name, slot) = (name_of(group), socket_index(next, id.into()));
            let socket = sockets.iter().find(|(listener, _)| *listener == name);
            let Some((_, socket)) = socket else {
                self.maps.forget_socket(slot)?;
                continue;
            };
            let set = self.maps.sockets.set(&slot, &(socket.as_raw_fd() as u32));
            set.map_err(|source| SteerError::Socket {
                listener: name,
                source,
            })?;
        }
        self.maps.set_state(SteerState {
            abi: STEER_ABI,
            generation: next,
        })?;
        // A lookup may have read the older generation and not have looked for its socket yet.
        sys::wait_for_running_programs();
        for group in 0..GROUPS {
            if groups.contains_key(&(group as u16)) {
                self.maps
                    .forget_socket(socket_index(state.generation, group))?;
            }
        }
        Ok(())
    }

    /// Sees to it that this program is the one that lookups meet.
    fn attach(&mut self) -> Result<(), SteerError> {
        namespace::attach(&link_path(&self.pins), self.program.as_fd())
            .map_err(SteerError::Attach)?;
        if self.staged {
            MAPS.put_in_force(&self.pins)?;
            self.staged = false;
        }
        Ok(pin_program(&self.pins, program::STEER, &self.program)?)
    }

    /// What became of lookups, of all processes so far.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn counts(&self) -> Result<Counts, StoreError> {
        let error = store_error("read", names::STEER_STATS);
        let cpus = host::possible_cpus();
        let sum = |element: Vec<SteerStats>| {
            element
                .iter()
                .fold(SteerStats::default(), |sum, one| SteerStats {
                    steered: sum.steered + one.steered,
                    refused: sum.refused + one.refused,
                    passed: sum.passed + one.passed,
                    failed: sum.failed + one.failed,
                })
        };
        let read = |first, count| {
            self.maps
                .stats
                .read_per_cpu::<SteerStats>(first, count, cpus)
        };
        let mut counts = Counts::default();
        let groups = self.tables.iter().flat_map(|tables| &tables.groups);
        for (&id, group) in groups {
            let elements = read(id.into(), 1).map_err(&error)?;
            let stats = elements.into_iter().next().map(sum).unwrap_or_default();
            counts.listeners.insert(name_of(group), stats);
        }
        let rest = read(UNMATCHED, 1).map_err(&error)?.into_iter().next();
        counts.unmatched = rest.map(sum).unwrap_or_default().steered;
        Ok(counts)
    }

    /// The generation in force.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn generation(&self) -> Result<u32, StoreError> {
        Ok(self.maps.state()?.generation)
    }

    /// Entries of the tries.
    pub fn entries(&self) -> usize {
        let tables = self.tables.as_ref();
        tables.map_or(0, |tables| tables.ports.len() + tables.prefixes.len())
    }

    /// Ends it: lookups are ordinary ones again, and nothing is pinned.
    ///
    /// # Errors
    ///
    /// [`LoadError::Path`].
    pub fn remove(self) -> Result<(), LoadError> {
        pinned::remove(&self.pins)
    }
}

/// Ends the steering of a daemon that is gone, if there is any.
///
/// # Errors
///
/// [`LoadError::Locked`] while a daemon steers; [`LoadError::Path`].
pub fn remove(pin_dir: &Path) -> Result<(), LoadError> {
    pinned::remove_abandoned(&pins_in(pin_dir))
}

/// True if there is something that steers, or did.
pub fn is_pinned(pin_dir: &Path) -> bool {
    pins_in(pin_dir).directory().exists()
}

fn pins_in(pin_dir: &Path) -> Pins {
    Pins::new(pin_dir.join("steer"))
}

fn link_path(pins: &Pins) -> PathBuf {
    pins.links().join("netns")
}

/// Loads the program with the maps that are pinned in a folder, or new ones.
fn load(folder: &Path) -> Result<OwnedFd, LoadError> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    MAPS.pin_in(folder, &mut loader);
    // Those of the other programs of the object, which are not loaded.
    for name in [sock::map::SOCKETS, sock::map::WAITING, sock::map::FOUND] {
        loader.map_max_entries(name, 1);
    }
    let mut ebpf = loader.load(OBJECT).map_err(object_error)?;
    let steer: &mut SkLookup = named(&mut ebpf, program::STEER)?;
    offer(program::STEER, || steer.load())?;
    duplicate(program::STEER, steer.fd())
}
