//! The object with the programs on sockets: loaded, its maps at hand, attached to a cgroup.

use super::cgroup::{self, CgroupError};
use super::cookie;
use super::offsets::{self, OffsetError};
use crate::kernel::handle::{MapHandle, Mapping};
use crate::kernel::host;
use crate::kernel::load::{LoadError, check_privileges};
use crate::kernel::object::{named, object_error, offer, own_map, program_error};
use aya::maps::SockHash;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, SkMsg, SockOps};
use aya::{Ebpf, EbpfLoader};
use proxy_common::addr::Addr;
use proxy_common::sock::{self, COUNTS, End, Half, ListenerKey, Offsets, SINK, map, program};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// The object built by `cargo xtask build-ebpf`; empty if it was not.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sock.bpf.o"));

/// The programs on sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// They cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The kernel's structures are not known.
    #[error(transparent)]
    Offsets(#[from] OffsetError),
    /// There is no cgroup to attach them to.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The cgroup cannot be opened.
    #[error("cannot open the cgroup {}", path.display())]
    Open {
        /// Its folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A map refused.
    #[error("cannot use the map {map}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl SocketError {
    /// The memory of the legs cannot be had.
    pub(super) fn legs(source: io::Error) -> Self {
        map_error(map::LEGS)(source)
    }
}

fn map_error(map: &'static str) -> impl Fn(io::Error) -> SocketError {
    move |source| SocketError::Map { map, source }
}

/// The loaded programs and their maps.
pub struct Programs {
    ebpf: Ebpf,
    offsets: MapHandle,
    ends: MapHandle,
    sockets: MapHandle,
    listeners: MapHandle,
    found: MapHandle,
    joined: MapHandle,
    legs: MapHandle,
    counts: MapHandle,
    places: Offsets,
    is_on: AtomicBool,
    joins: AtomicBool,
    sink: [TcpStream; 2],
}

/// The programs are in force for the connections of a cgroup until this is dropped.
#[must_use]
pub struct Attached {
    _link: FdLink,
}

impl Programs {
    /// Loads the programs for at most `sockets` sockets. They do nothing before they are attached.
    ///
    /// # Errors
    ///
    /// [`SocketError`].
    pub fn load(sockets: u32) -> Result<Self, SocketError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NoObject.into());
        }
        check_privileges()?;
        let places = offsets::offsets()?;
        let mut loader = EbpfLoader::new();
        // The programs ask for no relocation against the kernel's types.
        loader.btf(None);
        loader.map_max_entries(map::SOCKETS, sockets);
        let mut ebpf = loader.load(OBJECT).map_err(object_error)?;
        let track: &mut SockOps = named(&mut ebpf, program::TRACK)?;
        offer(program::TRACK, || track.load())?;
        let redirect: &mut SkMsg = named(&mut ebpf, program::REDIRECT)?;
        offer(program::REDIRECT, || redirect.load())?;
        let programs = Self {
            offsets: own_map(&ebpf, map::OFFSETS)?,
            ends: own_map(&ebpf, map::ENDS)?,
            sockets: own_map(&ebpf, map::SOCKETS)?,
            listeners: own_map(&ebpf, map::LISTENERS)?,
            found: own_map(&ebpf, map::FOUND)?,
            joined: own_map(&ebpf, map::JOINED)?,
            legs: own_map(&ebpf, map::LEGS)?,
            counts: own_map(&ebpf, map::COUNTS)?,
            places,
            is_on: AtomicBool::new(false),
            joins: AtomicBool::new(false),
            sink: sink().map_err(map_error(map::SOCKETS))?,
            ebpf,
        };
        let sink = programs.sink[0].as_raw_fd();
        let entered = programs.sockets.set(&SINK, &(sink as u32));
        entered.map_err(map_error(map::SOCKETS))?;
        let ended = programs.sink[0].shutdown(Shutdown::Write);
        ended.map_err(map_error(map::SOCKETS))?;
        programs.switch(true)?;
        Ok(programs)
    }

    /// Puts them in force for what happens in the host's root cgroup from now on.
    ///
    /// # Errors
    ///
    /// [`SocketError`].
    pub fn attach(&mut self) -> Result<Attached, SocketError> {
        let path = cgroup::root()?;
        let folder = File::open(&path).map_err(|source| SocketError::Open { path, source })?;
        let sockets: SockHash<_, u64> = self
            .ebpf
            .map(map::SOCKETS)
            .and_then(|map| SockHash::try_from(map).ok())
            .ok_or(LoadError::MissingProgram(map::SOCKETS))?;
        let sockets = sockets
            .fd()
            .try_clone()
            .map_err(|error| map_error(map::SOCKETS)(io::Error::other(error)))?;
        let redirect: &mut SkMsg = named(&mut self.ebpf, program::REDIRECT)?;
        let failed = program_error(program::REDIRECT);
        redirect.attach(&sockets).map_err(failed)?;
        let track: &mut SockOps = named(&mut self.ebpf, program::TRACK)?;
        let failed = program_error(program::TRACK);
        // Links to cgroups take no flag, and several stand beside each other all the same.
        let link = track
            .attach(folder, CgroupAttachMode::Single)
            .map_err(&failed)?;
        let link = track.take_link(link).map_err(&failed)?;
        let link = FdLink::try_from(link).map_err(|error| {
            failed(aya::programs::ProgramError::IOError(io::Error::other(
                error,
            )))
        })?;
        Ok(Attached { _link: link })
    }

    /// Has new connections accelerated, or no longer; open ones stay as they are.
    ///
    /// # Errors
    ///
    /// [`SocketError::Map`].
    pub fn switch(&self, is_on: bool) -> Result<(), SocketError> {
        self.is_on.store(is_on, Ordering::SeqCst);
        self.tell().map_err(map_error(map::OFFSETS))
    }

    /// Tells the kernel what is wanted.
    fn tell(&self) -> io::Result<()> {
        let places = Offsets {
            is_on: self.is_on.load(Ordering::SeqCst).into(),
            joins: self.joins.load(Ordering::SeqCst).into(),
            ..self.places
        };
        self.offsets.set(&0u32, &places)
    }

    /// A connected socket of the daemon as the kernel sees it, and the other end, once that is
    /// known; `None` if it is not accelerated.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) fn end(&self, socket: BorrowedFd<'_>) -> io::Result<Option<End>> {
        let socket = socket.as_raw_fd();
        // Between the two looks the end may have found the other one by itself.
        for _ in 0..2 {
            let Some(mut end) = self.ends.get::<i32, End>(&socket)? else {
                return Ok(None);
            };
            if end.cookie == 0 || end.peer_cookie != 0 {
                return Ok(Some(end).filter(|end| end.cookie != 0));
            }
            if let Some(peer) = self.found.get::<u64, Half>(&end.cookie)? {
                (end.peer, end.peer_cookie) = (peer.sock, peer.cookie);
                end.peer_flags = peer.flags as u32;
                return Ok(Some(end));
            }
        }
        Ok(Some(End::default()))
    }

    /// The legs of joined tunnels, in memory.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) fn legs(&self) -> io::Result<Mapping> {
        self.legs.map_memory()
    }

    /// Has a writing end look at a leg from now on.
    ///
    /// # Errors
    ///
    /// What the kernel says; a full map among it.
    pub(super) fn point(&self, from: u64, leg: u32) -> io::Result<()> {
        self.joined.set(&from, &leg)?;
        match self.joins.swap(true, Ordering::SeqCst) {
            true => Ok(()),
            false => self.tell(),
        }
    }

    /// Ends that.
    pub(super) fn unpoint(&self, from: u64) {
        // What is not there has no leg.
        let _ = self.joined.remove(&from);
    }

    /// Marks a socket of the daemon; what is accepted from it inherits the mark.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn mark(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let end = End {
            flags: sock::end_flag::OURS,
            ..End::default()
        };
        self.ends.set(&socket.as_raw_fd(), &end)
    }

    /// Tells the kernel where the daemon accepts; the listening socket is marked, too.
    ///
    /// # Errors
    ///
    /// What the kernel says; the listener's connections stay plain then.
    pub fn listen(&self, socket: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
        self.mark(socket)?;
        self.listeners.set(&listener_key(socket, address)?, &1u32)
    }

    /// The daemon does not accept there any more.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn forget(&self, socket: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
        self.listeners.remove(&listener_key(socket, address)?)?;
        Ok(())
    }

    /// Sockets that are accelerated now.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn sockets(&self) -> io::Result<usize> {
        let keys = self.sockets.keys::<u64>()?;
        Ok(keys.iter().filter(|&&cookie| cookie != SINK).count())
    }

    /// The kernel's counts, by [`sock::Count`].
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn counts(&self) -> io::Result<[u64; COUNTS as usize]> {
        let cpus = host::possible_cpus();
        let values = self.counts.read_per_cpu::<u64>(0, COUNTS, cpus)?;
        let mut sums = [0; COUNTS as usize];
        for (sum, values) in sums.iter_mut().zip(values) {
            *sum = values.iter().sum();
        }
        Ok(sums)
    }
}

/// A connection within this host: what is held up is sent to its first end, see [`SINK`].
fn sink() -> io::Result<[TcpStream; 2]> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    let ours = one.local_addr()?;
    loop {
        // Somebody else may have been faster.
        let (other, from) = listener.accept()?;
        if from == ours {
            return Ok([one, other]);
        }
    }
}

fn listener_key(socket: BorrowedFd<'_>, address: SocketAddr) -> io::Result<ListenerKey> {
    let addr = if address.ip().is_unspecified() {
        Addr::UNSPECIFIED
    } else {
        Addr::from(address.ip())
    };
    Ok(ListenerKey {
        addr,
        netns: cookie::of_namespace(socket)?,
        port: u32::from(address.port()),
        _pad: 0,
    })
}
