//! Balancing at connect(): a workload that dials a service's VIP is given a backend by the kernel,
//! before its first packet. See [`proxy_common::connect`] for what is decided there.
//!
//! ```text
//! PIN_DIR/connect/maps/NAME            the maps in force
//! PIN_DIR/connect/progs/NAME           the programs
//! PIN_DIR/connect/links/CGROUP_HOOK    what keeps them attached
//! PIN_DIR/connect/next/NAME            maps of another version, until they are in force
//! ```
//!
//! **A daemon that is killed** leaves all of it in force: workloads go on to be given the backends that
//! were up, and sockets go on to see the VIP as their peer. The next daemon adopts it. One that is told
//! to end takes it away, unless it is told to keep the data plane.
//!
//! **The daemon's own sockets** are left alone, whichever cgroup it is in, see [`owners`].

mod alias;
mod hooks;
mod links;
mod loss;
mod maps;
mod owners;
mod plan;
mod watch;

pub use links::{Attached, LinkError};
pub use plan::PlanError;
pub use watch::Seen;

use super::{cgroup, pinned};
use crate::config::model::Config;
use crate::kernel::load::{LoadError, prepare};
use crate::kernel::object::pin_program;
use crate::kernel::pins::{self, PinLock, Pins};
use crate::kernel::plan::{Drain, Overlay};
use crate::kernel::store::StoreError;
use hooks::{HOOKS, OBJECT};
use links::Placed;
use maps::{MAPS, Maps};
use plan::{Plan, Tables, Wanted, plan};
use proxy_common::addr::Addr;
use proxy_common::connect::{Backend, ServiceStats, map, state};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use watch::Watch;

/// Sockets cannot be balanced, or not as wanted.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The programs cannot be opened.
    #[error("cannot balance at connect()")]
    Load(#[from] LoadError),
    /// They cannot be attached.
    #[error("cannot balance at connect()")]
    Link(#[from] LinkError),
    /// A map refused.
    #[error("cannot balance at connect()")]
    Store(#[from] StoreError),
    /// The services do not fit.
    #[error("cannot balance at connect()")]
    Plan(#[from] PlanError),
}

/// What became of those who dialled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By service, in the configuration's order.
    pub services: Vec<ServiceCounts>,
    /// Sockets that were told of their backend's loss by this process.
    pub ended: u64,
    /// Sockets that were to be told and could not be.
    pub unreached: u64,
}

/// Those of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounts {
    /// Its name.
    pub name: String,
    /// What became of them.
    pub stats: ServiceStats,
    /// By backend; those that have left the configuration and drain are named by their address.
    pub backends: Vec<BackendCounts>,
}

/// Those of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendCounts {
    /// Its name.
    pub name: String,
    /// Whether it takes new ones.
    pub takes_new: bool,
    /// How often it was given.
    pub given: u64,
    /// Connected sockets that it has.
    pub open: u64,
}

/// What balances. Dropping it changes nothing in the kernel.
pub struct Balancing {
    pins: Pins,
    lock: PinLock,
    programs: Vec<OwnedFd>,
    maps: Maps,
    /// What the maps hold; `None` after a failure, until they are read.
    tables: Option<Tables>,
    wanted: Wanted,
    /// Backends that have left the configuration, and when their sockets are told.
    deadlines: BTreeMap<u32, Instant>,
    attached: Vec<Attached>,
    watch: Watch,
    outcome: Arc<loss::Outcome>,
    /// A predecessor runs on and is left alone, too.
    is_heir: bool,
    /// The maps are pinned under `next/`, and older programs serve on.
    staged: bool,
}

impl Balancing {
    /// Opens what is pinned, or makes it anew; nothing changes for workloads yet. `lock` is that of a
    /// predecessor that still runs.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; what balanced before still does.
    pub fn open(pin_dir: &Path, lock: Option<OwnedFd>) -> Result<Self, ConnectError> {
        pinned::check(OBJECT)?;
        let pins = Pins::new(pin_dir);
        prepare(&pins)?;
        let is_heir = lock.is_some();
        let lock = PinLock::inherit(pins.directory(), lock)?;
        pins::remove_dir(&pins.next_maps())?;
        let staged = !MAPS.can_adopt(&pins);
        let has_old = pins.map(map::STATE).exists();
        let folder = pinned::folder(&pins, staged);
        pins::make_dir(&folder)?;
        let programs = hooks::load(&folder)?;
        let balancing = Self {
            maps: Maps::open(&folder)?,
            pins,
            lock,
            programs,
            tables: None,
            wanted: Wanted::default(),
            deadlines: BTreeMap::new(),
            attached: Vec::new(),
            watch: Watch::default(),
            outcome: Arc::default(),
            is_heir,
            staged,
        };
        tracing::info!(
            pins = %pin_dir.display(),
            adopted = !staged,
            replaced = staged && has_old,
            "balancing at connect() opened"
        );
        Ok(balancing)
    }

    /// What keeps other daemons away, for a successor.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Has new sockets follow a configuration and what is laid over it, and tells the sockets of
    /// backends that are lost. Returns the number of edits.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; calling it again goes on where it ended, or back.
    pub fn follow(
        &mut self,
        config: &Config,
        overlay: &Overlay,
        now: Instant,
    ) -> Result<usize, ConnectError> {
        let tables = match self.tables.take() {
            Some(tables) => tables,
            None => self.maps.read()?,
        };
        let wanted = Wanted::of(config, overlay);
        let drains = |service: &str| {
            let service = config.service(service);
            service.map_or(Duration::ZERO, |service| service.drain_timeout)
        };
        let over = self.deadlines.iter().filter(|(_, end)| **end <= now);
        let released: BTreeSet<u32> = over.map(|(number, _)| *number).collect();
        let plan = plan(&wanted, &tables, &drains, &released)?;
        self.maps.apply(&plan.edits)?;
        let edits = plan.edits.len();
        self.take(plan, wanted, now);
        self.watch_as_wanted();
        self.attach(config)?;
        Ok(edits)
    }

    fn take(&mut self, plan: Plan, wanted: Wanted, now: Instant) {
        let deadlines = plan.retiring.into_iter().map(|(number, time)| {
            let known = self.deadlines.get(&number);
            (number, known.copied().unwrap_or(now + time))
        });
        self.deadlines = deadlines.collect();
        self.tables = Some(plan.tables);
        self.wanted = wanted;
        if !plan.lost.is_empty() {
            loss::tell(&self.maps.sockets, plan.lost, &self.outcome);
        }
    }

    /// Takes up cgroups that have come, and forgets backends whose time is over. To be called about
    /// every second.
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    pub fn look_after(
        &mut self,
        config: &Config,
        overlay: &Overlay,
        now: Instant,
    ) -> Result<(), ConnectError> {
        let is_due = self.deadlines.values().any(|end| *end <= now);
        if is_due || self.tables.is_none() {
            return self.follow(config, overlay, now).map(drop);
        }
        self.attach(config)
    }

    /// Sees to it that the programs are those that workloads meet.
    fn attach(&mut self, config: &Config) -> Result<(), ConnectError> {
        let root = cgroup::root().map_err(LinkError::from)?;
        let none = Vec::new();
        let cgroups = config.connect.as_ref().map_or(&none, |one| &one.cgroups);
        let programs = self.programs.iter().map(|program| program.as_fd());
        let placed = HOOKS.iter().zip(programs).chain(self.watch.placed());
        let placed: Vec<Placed<'_>> = placed.collect();
        let attached = links::follow(&self.pins, &root, cgroups, &placed)?;
        if attached != self.attached {
            tell_of_change(&self.attached, &attached);
            let owners = pinned::map(&self.folder(), map::OWNERS)?;
            owners::introduce(&owners, self.is_heir)?;
            for (hook, program) in placed {
                pin_program(&self.pins, hook.program, program)?;
            }
            self.attached = attached;
        }
        if self.staged {
            MAPS.put_in_force(&self.pins)?;
            self.staged = false;
        }
        Ok(())
    }

    /// Where its maps are pinned now.
    fn folder(&self) -> PathBuf {
        pinned::folder(&self.pins, self.staged)
    }

    /// The configured cgroups, as they were found.
    pub fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// What became of those who dialled, of all processes so far.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn counts(&self) -> Result<Counts, StoreError> {
        let empty = Tables::default();
        let tables = self.tables.as_ref().unwrap_or(&empty);
        let mut counts = Counts {
            ended: self.outcome.ended.load(Ordering::Relaxed),
            unreached: self.outcome.unreached.load(Ordering::Relaxed),
            ..Counts::default()
        };
        for service in &self.wanted.services {
            let mut services = tables.services.iter();
            let known = services.find(|(_, (name, _))| *name == service.name);
            let Some((id, _)) = known else { continue };
            let mut backends = Vec::new();
            let own = |backend: &&Backend| u32::from(backend.service) == *id;
            for (number, backend) in tables.backends.iter().filter(|(_, one)| own(one)) {
                let (given, open) = self.maps.backend_stats(*number)?;
                backends.push(BackendCounts {
                    name: self.name_of(&service.name, backend),
                    takes_new: backend.state == state::UP && backend.weight > 0,
                    given,
                    open,
                });
            }
            counts.services.push(ServiceCounts {
                name: service.name.clone(),
                stats: self.maps.service_stats(*id)?,
                backends,
            });
        }
        Ok(counts)
    }

    /// The name of a backend; its address if the configuration does not have it any more.
    fn name_of(&self, service: &str, backend: &Backend) -> String {
        let services = self.wanted.services.iter();
        let mut backends = services
            .filter(|one| one.name == service)
            .flat_map(|one| &one.backends);
        let port = u16::from_be(backend.port_be);
        let is_it = |one: &&plan::WantedBackend| {
            Addr::from(one.address.ip()) == backend.addr && one.address.port() == port
        };
        match backends.find(is_it) {
            Some(known) => known.name.clone(),
            None if port == 0 => IpAddr::from(backend.addr).to_string(),
            None => std::net::SocketAddr::new(backend.addr.into(), port).to_string(),
        }
    }

    /// Where it is pinned.
    pub fn pin_dir(&self) -> &Path {
        self.pins.directory()
    }

    /// Ends it: who dials a VIP dials it over the network, and nothing is pinned. Connected sockets
    /// stay as they are.
    ///
    /// # Errors
    ///
    /// [`LoadError::Path`].
    pub fn remove(self) -> Result<(), LoadError> {
        pinned::remove(&self.pins)
    }
}

/// Ends the balancing of a daemon that is gone, if there is any.
///
/// # Errors
///
/// [`LoadError::Locked`] while a daemon balances; [`LoadError::Path`].
pub fn remove(pin_dir: &Path) -> Result<(), LoadError> {
    pinned::remove_abandoned(&Pins::new(pin_dir))
}

/// Backends to which pinned tables give sockets or did: by service, address and port, which is 0 where
/// that of the VIP is kept.
pub type Adopted = BTreeMap<(String, IpAddr, u16), Known>;

/// What an earlier process knew of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// It had not failed its checks.
    pub up: bool,
    /// How far an operator's drain was.
    pub drain: Drain,
}

/// What an earlier process knew of backends; empty if nothing of this version is pinned.
pub fn adopted(pin_dir: &Path) -> Adopted {
    let pins = Pins::new(pin_dir);
    if !MAPS.can_adopt(&pins) {
        return Adopted::new();
    }
    let tables = Maps::open(&pins.maps()).and_then(|maps| maps.read());
    let Ok(tables) = tables else {
        return Adopted::new();
    };
    let known = tables.backends.values().filter_map(|backend| {
        let (service, _) = tables.services.get(&u32::from(backend.service))?;
        let port = u16::from_be(backend.port_be);
        let place = (service.clone(), IpAddr::from(backend.addr), port);
        let drain = Drain::from_code(backend.drain as u8);
        // Down for its drain's sake says nothing about its health.
        let up = backend.state != state::DOWN || drain == Drain::Expired;
        Some((place, Known { up, drain }))
    });
    known.collect()
}

/// Has what a predecessor or an earlier process has left in force leave this process's sockets alone,
/// before it dials anybody. Nothing is lost where that cannot be: it is done again later.
pub fn introduce(pin_dir: &Path) {
    let pins = Pins::new(pin_dir);
    if !MAPS.can_adopt(&pins) {
        return;
    }
    let shown =
        pinned::map(&pins.maps(), map::OWNERS).and_then(|map| owners::introduce(&map, true));
    if let Err(error) = shown {
        tracing::debug!(%error, "what balances at connect() does not know this process yet");
    }
}

/// True if there is something that balances, or did.
pub fn is_pinned(pin_dir: &Path) -> bool {
    pin_dir.join("links").exists()
}

/// The configured cgroups that are not there.
pub fn missing(config: &Config) -> Vec<PathBuf> {
    let (Some(connect), Ok(root)) = (&config.connect, cgroup::root()) else {
        return Vec::new();
    };
    let paths = connect.cgroups.iter();
    let paths = paths.filter(|path| !links::folder(&root, path).is_dir());
    paths.cloned().collect()
}

fn tell_of_change(before: &[Attached], now: &[Attached]) {
    for one in now.iter().filter(|one| !before.contains(one)) {
        let cgroup = one.path.display();
        match one.id {
            Some(_) => tracing::info!(%cgroup, "balancing at connect()"),
            None => {
                tracing::warn!(%cgroup, "there is no such cgroup (yet): nobody of it is balanced")
            }
        }
    }
}
