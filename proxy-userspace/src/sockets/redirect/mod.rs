//! Sidecar-less redirection: opens or adopts the programs, follows configurations, counts.
//!
//! What workloads open is redirected at their cgroups, what arrives at them at the daemon's network
//! namespace.
//!
//! ```text
//! PIN_DIR/redirect/maps/NAME            the maps in force
//! PIN_DIR/redirect/progs/NAME           the programs
//! PIN_DIR/redirect/links/CGROUP-NAME    what keeps a program attached to a cgroup, by its id
//! PIN_DIR/redirect/links/netns          what keeps one attached to the network namespace
//! ```
//!
//! It shares nothing with what else the kernel does for the daemon. Pins outlive a daemon that is
//! killed: its listening sockets are closed then, the kernel side sees that in the same moment, and
//! what workloads open is refused or let pass, as configured. The next daemon adopts them.
//!
//! A set of rules is never changed while connections are judged by it: a new one is filled beside
//! it, and each cgroup is switched to that by one write.

mod cgroups;
mod links;
mod listening;
mod maps;
mod object;
mod origins;
pub mod plan;
mod tally;

pub use cgroups::Place;
pub use origins::{Origins, Redirected, origins};
pub use tally::{ListenerTally, Seen, tallies, tally};

use super::cgroup::{self, CgroupError};
use super::{cookie, pinned};
use crate::config::model::Config;
use crate::config::model::mesh::Direction;
use crate::kernel::load::{LoadError, prepare};
use crate::kernel::object::pin_program;
use crate::kernel::pins::{self, PinLock, Pins};
use crate::kernel::store::StoreError;
use crate::kernel::sys;
use links::Links;
use listening::Listeners;
use maps::Maps;
use object::{MAPS, OBJECT, load};
use plan::{Chosen, Set, Wanted, numbers};
use proxy_common::redirect::{ChosenKey, MeshState, MeshStats, REDIRECT_ABI, program};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Nothing can be redirected, or not as wanted.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The programs cannot be opened.
    #[error("cannot redirect (Linux 6.10)")]
    Load(#[from] LoadError),
    /// There are no cgroups.
    #[error("cannot redirect")]
    Cgroup(#[from] CgroupError),
    /// A program cannot be attached.
    #[error("cannot attach the programs that redirect to the cgroup {}", path.display())]
    Attach {
        /// Its folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A map refused.
    #[error("cannot redirect")]
    Store(#[from] StoreError),
    /// The program for what arrives cannot be attached.
    #[error("cannot attach the program that redirects what arrives to the network namespace")]
    Namespace(#[source] io::Error),
    /// Who listens cannot be found out.
    #[error("cannot redirect: the sockets that listen are not known")]
    Listening(#[source] io::Error),
    /// What the daemon is cannot be found out.
    #[error("cannot redirect: the daemon's own namespaces are not known")]
    Own(#[source] io::Error),
    /// The kernel does not take a socket.
    #[error("cannot redirect to listener `{listener}`")]
    Socket {
        /// Whose.
        listener: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Ports at which workloads listen that get what arrives from the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Connections to them are redirected when they arrive.
    pub redirected: usize,
    /// The table has no room for them: connections go to the workload itself.
    pub without_room: usize,
}

/// What redirects. Dropping it changes nothing in the kernel.
pub struct Redirection {
    pins: Pins,
    lock: PinLock,
    maps: Maps,
    links: Links,
    /// What tells the daemon from others.
    state: MeshState,
    listeners: Listeners,
    /// Ports of workloads, as of the last look.
    ports: Ports,
    /// The root of cgroups.
    root: PathBuf,
    wanted: Vec<Wanted>,
    /// Sets by the names of their listeners.
    sets: BTreeMap<String, (u32, Set)>,
    /// What was counted by sets that are gone, by the names of their listeners.
    before: BTreeMap<String, MeshStats>,
    /// Cgroups that are to be redirected, and their ids while they exist.
    places: Vec<Place>,
}

impl Redirection {
    /// Opens what is pinned, or makes it anew; nothing is redirected yet that was not before.
    /// `lock` is that of a predecessor that still runs.
    ///
    /// # Errors
    ///
    /// [`RedirectError`]; what was redirected before still is.
    pub fn open(pin_dir: &Path, lock: Option<OwnedFd>) -> Result<Self, RedirectError> {
        pinned::check(OBJECT)?;
        let root = cgroup::root()?;
        let pins = pins_in(pin_dir);
        prepare(&pins)?;
        let lock = PinLock::inherit(pins.directory(), lock)?;
        let adopted = MAPS.can_adopt(&pins);
        if !adopted {
            // Of a version that nobody here understands: there is no way from it to ours.
            for path in pinned::links(&pins) {
                pins::remove_link(&path)?;
            }
            pins::remove_dir(&pins.maps())?;
        }
        pins::make_dir(&pins.maps())?;
        let programs = load(Some(&pins.maps()))?;
        for (name, program) in program::ALL.into_iter().zip(&programs) {
            pin_program(&pins, name, &program.fd)?;
        }
        let maps = Maps::open(&pins.maps())?;
        origins::open(&pins.maps(), root.clone())?;
        let state = MeshState {
            abi: REDIRECT_ABI,
            ..own_state().map_err(RedirectError::Own)?
        };
        // What arrives is redirected as it was, until a configuration says otherwise.
        let state = MeshState {
            hears: maps.state()?.hears,
            ..state
        };
        maps.set_state(state)?;
        maps.enter_daemon()?;
        let links = Links::adopt(&pins, programs)?;
        tracing::info!(pins = %pins.directory().display(), adopted, "redirection opened");
        Ok(Self {
            sets: maps.sets()?,
            before: BTreeMap::new(),
            wanted: Vec::new(),
            places: Vec::new(),
            listeners: Listeners::default(),
            ports: Ports::default(),
            state,
            pins,
            lock,
            maps,
            links,
            root,
        })
    }

    /// What keeps other daemons away, for a successor.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Redirects as a configuration wants it; `sockets` has one of each listener, by name.
    ///
    /// # Errors
    ///
    /// [`RedirectError`]; calling it again goes on where it ended, or back.
    pub fn follow(
        &mut self,
        config: &Config,
        sockets: &[(&str, BorrowedFd<'_>)],
    ) -> Result<(), RedirectError> {
        self.wanted = plan::wanted(config);
        let followed = self.put_in_force(sockets);
        if followed.is_err() {
            // What is half done is known by the maps alone.
            self.sets = self.maps.sets()?;
        }
        followed
    }

    fn put_in_force(&mut self, sockets: &[(&str, BorrowedFd<'_>)]) -> Result<(), RedirectError> {
        self.maps.enter_daemon()?;
        let old = self.sets.clone();
        let plan = numbers(&self.wanted, &old);
        for (name, (number, set)) in &plan.sets {
            if plan.fresh.contains(number) {
                self.maps.fill(*number, set)?;
            }
            let socket = sockets.iter().find(|(listener, _)| listener == name);
            if let Some((_, socket)) = socket {
                let entered = self.maps.set_socket(*number, *socket);
                entered.map_err(|source| RedirectError::Socket {
                    listener: name.clone(),
                    source,
                })?;
            }
        }
        self.sets = plan.sets;
        origins::tell(
            self.wanted
                .iter()
                .flat_map(|one| one.cgroups.clone())
                .collect(),
        );
        self.state.hears = self.hears().into();
        self.maps.set_state(self.state)?;
        self.listeners.forget();
        let looked = self.look();
        sys::wait_for_running_programs();
        for (name, (number, set)) in &old {
            let is_kept = self.sets.values().any(|(kept, _)| kept == number);
            if !is_kept {
                let counted = self.maps.clear(*number, set)?;
                add(self.before.entry(name.clone()).or_default(), &counted);
            }
        }
        looked
    }

    /// Looks for cgroups that have come or gone, and has the programs where they belong. To be
    /// called now and then.
    ///
    /// # Errors
    ///
    /// [`RedirectError`] of the first that fails; the others are done.
    pub fn look(&mut self) -> Result<(), RedirectError> {
        self.places = cgroups::resolve(&self.root, &self.wanted);
        let (attached, mut failed) = self.attach();
        let chosen: Vec<Chosen> = plan::chosen(&self.wanted, &self.sets);
        let mut entries: BTreeMap<ChosenKey, u32> = BTreeMap::new();
        for one in &chosen {
            let place = self.places.iter().find(|place| place.path == one.path);
            if let Some(id) = place.and_then(|place| place.id) {
                entries.insert(one.key(id), one.set);
            }
        }
        self.maps.choose(&entries)?;
        let heard = self.hear().err();
        self.links
            .keep(&self.pins, |id, name| attached.contains(&(id, name)))?;
        let is_heard = heard.is_none() && attached.iter().any(|(_, name)| *name == program::HEAR);
        for place in &mut self.places {
            let is_at = |id: u64| attached.contains(&(id, program::CONNECT4));
            place.is_attached = place.id.is_some_and(|id| !place.outbound || is_at(id))
                && (!place.inbound || is_heard);
        }
        if let Some(error) = heard {
            failed.get_or_insert(error);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Has the programs attached to the cgroups where they belong; which are, and what failed first.
    fn attach(&mut self) -> (BTreeSet<(u64, &'static str)>, Option<RedirectError>) {
        let outbound = self.places.iter().filter(|place| place.outbound);
        let mut wanted: Vec<(u64, PathBuf, &[&'static str])> = outbound
            .filter_map(|place| {
                let folder = cgroups::folder(&self.root, &place.path);
                Some((place.id?, folder, &program::WORKLOADS[..]))
            })
            .collect();
        // Both ends of connections are seen at the root, whose cgroup a listening socket is of:
        // systemd may have made it.
        if let Some(id) = cgroups::id(&self.root) {
            let root = |names| (id, self.root.clone(), names);
            if self.places.iter().any(|place| place.outbound) {
                wanted.push(root(&[program::MEET][..]));
            }
            if self.hears() {
                wanted.push(root(&[program::HEAR][..]));
            }
        }
        let (mut attached, mut failed) = (BTreeSet::new(), None);
        for (id, path, names) in wanted {
            match self.links.attach(&self.pins, id, &path, names) {
                Ok(()) => attached.extend(names.iter().map(|name| (id, *name))),
                Err(source) => {
                    failed.get_or_insert(RedirectError::Attach { path, source });
                }
            }
        }
        (attached, failed)
    }

    /// Has what arrives redirected, if anything of it is to be.
    fn hear(&mut self) -> Result<(), RedirectError> {
        let is_wanted = self.hears();
        let before = self.maps.listening()?;
        let wanted = match is_wanted {
            true => {
                let looked = self.listeners.look(&self.root, &self.wanted, &self.places);
                looked.map_err(RedirectError::Listening)?
            }
            false => listening::Wanted::default(),
        };
        let late = self.maps.listen(&before, &wanted.entries)?;
        self.ports = Ports {
            redirected: wanted.ports() - late,
            without_room: wanted.without_room + late,
        };
        let heard = self.links.hear(&self.pins, is_wanted);
        heard.map_err(RedirectError::Namespace)
    }

    /// True if what arrives at some workload is redirected.
    fn hears(&self) -> bool {
        let mut wanted = self.wanted.iter();
        wanted.any(|one| one.direction == Direction::Inbound)
    }

    /// Cgroups that are to be redirected.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// What became of connections, by the names of listeners.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn counts(&self) -> Result<BTreeMap<String, MeshStats>, StoreError> {
        let mut all = BTreeMap::new();
        for (name, (number, _)) in &self.sets {
            let mut stats = self.maps.stats(*number)?;
            if let Some(before) = self.before.get(name) {
                add(&mut stats, before);
            }
            all.insert(name.clone(), stats);
        }
        Ok(all)
    }

    /// Connections between the establishment of their two ends.
    pub fn waiting(&self) -> usize {
        self.maps.waiting()
    }

    /// Ports of workloads, as of the last look.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Ends it: connections go where they were to go, and nothing is pinned.
    ///
    /// # Errors
    ///
    /// [`LoadError::Path`].
    pub fn remove(self) -> Result<(), LoadError> {
        origins::close();
        pinned::remove(&self.pins)
    }
}

fn add(sum: &mut MeshStats, more: &MeshStats) {
    sum.redirected += more.redirected;
    sum.excluded += more.excluded;
    sum.refused += more.refused;
    sum.passed += more.passed;
    sum.unreachable += more.unreachable;
    sum.full += more.full;
}

/// Ends the redirection of a daemon that is gone, if there is any.
///
/// # Errors
///
/// [`LoadError::Locked`] while a daemon redirects; [`LoadError::Path`].
pub fn remove(pin_dir: &Path) -> Result<(), LoadError> {
    pinned::remove_abandoned(&pins_in(pin_dir))
}

/// True if there is something that redirects, and no daemon whose it is.
pub fn is_abandoned(pin_dir: &Path) -> bool {
    let pins = pins_in(pin_dir);
    pins.directory().exists() && PinLock::acquire(pins.directory()).is_ok()
}

fn pins_in(pin_dir: &Path) -> Pins {
    Pins::new(pin_dir.join("redirect"))
}

/// What tells the daemon from others.
fn own_state() -> io::Result<MeshState> {
    use std::os::unix::fs::MetadataExt as _;
    let namespace = std::fs::metadata("/proc/self/ns/pid")?;
    let (major, minor) = (libc::major(namespace.dev()), libc::minor(namespace.dev()));
    let probe = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    Ok(MeshState {
        // As the kernel numbers devices, not as it tells them.
        pidns_device: u64::from(major) << 20 | u64::from(minor),
        pidns_inode: namespace.ino(),
        netns: cookie::of_namespace(probe.as_fd())?,
        ..MeshState::default()
    })
}

/// Whether this host can: the programs are loaded, and nothing stays.
///
/// # Errors
///
/// [`RedirectError`].
pub fn try_it() -> Result<(), RedirectError> {
    pinned::check(OBJECT)?;
    cgroup::root()?;
    load(None)?;
    Ok(())
}

/// The chosen cgroups of a configuration that do not exist.
///
/// # Errors
///
/// [`CgroupError`].
pub fn missing(config: &Config) -> Result<Vec<String>, CgroupError> {
    let places = cgroups::resolve(&cgroup::root()?, &plan::wanted(config));
    let missing = places.into_iter().filter(|place| place.id.is_none());
    Ok(missing.map(|place| place.path).collect())
}
