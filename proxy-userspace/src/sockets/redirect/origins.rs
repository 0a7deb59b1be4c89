//! Whose an accepted connection is, and where it was to go.

use super::cgroups;
use crate::kernel::handle::MapHandle;
use crate::kernel::store::StoreError;
use crate::sockets::pinned;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use proxy_common::addr::Addr;
use proxy_common::redirect::{Listening, ListeningKey, Origin, map};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Cgroups whose paths are remembered.
const MOST: usize = 16_384;

/// How often cgroups are looked through for one that is not known, at most: those that have gone
/// are never found.
const LOOK: Duration = Duration::from_millis(100);

/// Where connections of this process are from. There is one redirection in a process.
static ORIGINS: ArcSwapOption<Origins> = ArcSwapOption::const_empty();

/// What stands for the cgroup of a program that stopped listening just now.
const GONE: &str = "(gone)";

/// A connection that was redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirected {
    /// Where it was to go.
    pub destination: SocketAddr,
    /// The path of the cgroup of the program that opened it, or that it was opened to; `cgroup:ID` if
    /// that has gone already.
    pub workload: Arc<str>,
}

/// Tells whose connections are.
#[derive(Debug)]
pub struct Origins {
    map: MapHandle,
    listening: MapHandle,
    root: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    paths: HashMap<u64, Arc<str>>,
    /// Cgroups below which they are.
    chosen: Vec<String>,
    looked: Option<Instant>,
}

/// What tells whose connections are, if anything is redirected to this process.
pub fn origins() -> Option<Arc<Origins>> {
    ORIGINS.load_full()
}

pub(super) fn open(folder: &Path, root: PathBuf) -> Result<(), StoreError> {
    let origins = Origins {
        map: pinned::map(folder, map::ORIGINS)?,
        listening: pinned::map(folder, map::LISTENING)?,
        root,
        known: Mutex::default(),
    };
    ORIGINS.store(Some(Arc::new(origins)));
    Ok(())
}

pub(super) fn tell(chosen: Vec<String>) {
    if let Some(origins) = origins() {
        origins.known.lock().chosen = chosen;
    }
}

pub(super) fn close() {
    ORIGINS.store(None);
}

impl Origins {
    /// Whose connection this accepted socket is; `None` if it was made to the listener itself.
    pub fn of(&self, socket: &impl AsFd) -> Option<Redirected> {
        let socket = socket.as_fd().as_raw_fd();
        let origin = self.map.get::<i32, Origin>(&socket).ok()??;
        if origin.cgroup == 0 {
            return None;
        }
        Some(Redirected {
            destination: SocketAddr::new(IpAddr::from(origin.addr), origin.port as u16),
            workload: self.path(origin.cgroup),
        })
    }

    /// Whose a connection is that was on its way to a program at this address.
    pub fn arrived(&self, dialled: SocketAddr) -> Redirected {
        let ip = dialled.ip().to_canonical();
        let everywhere = ip.is_ipv4().then_some(Addr::v4([0; 4]));
        // In the kernel side's order.
        let places = [Some(Addr::from(ip)), everywhere, Some(Addr::UNSPECIFIED)];
        let found = places.into_iter().flatten().find_map(|addr| {
            let key = ListeningKey {
                addr,
                port: dialled.port().into(),
                _pad: 0,
            };
            let found = self.listening.get::<_, Listening>(&key);
            found.ok().flatten().filter(|it| it.cgroup != 0)
        });
        Redirected {
            destination: SocketAddr::new(ip, dialled.port()),
            workload: found.map_or_else(|| GONE.into(), |it| self.path(it.cgroup)),
        }
    }

    /// The path of a cgroup.
    fn path(&self, id: u64) -> Arc<str> {
        let mut known = self.known.lock();
        if let Some(path) = known.paths.get(&id) {
            return Arc::clone(path);
        }
        let now = Instant::now();
        if known.looked.is_none_or(|last| now - last >= LOOK) {
            known.looked = Some(now);
            // What has gone is forgotten, and what was called otherwise, too.
            known.paths.clear();
            for chosen in known.chosen.clone() {
                let room = MOST.saturating_sub(known.paths.len());
                let found = cgroups::below(&self.root, &chosen, room);
                let found = found.into_iter().map(|(id, path)| (id, path.into()));
                known.paths.extend(found);
            }
        }
        let path = known.paths.get(&id).cloned();
        path.unwrap_or_else(|| format!("cgroup:{id}").into())
    }
}
