//! Sockets are told that their backend has gone: they are ended, so that the workload's next call fails
//! and it dials anew.
//!
//! Only sockets whose cookies the kernel side has written down are meant. They are ended in their network
//! namespaces, which are found by the processes and names that this one sees. That takes a while, so a
//! thread of its own does it: nobody waits for it, and entering a namespace is a matter of a thread.

use super::maps::Maps;
use crate::kernel::handle::MapHandle;
use crate::sockets::diag::Diag;
use crate::sockets::{cookie, namespace};
use proxy_common::connect::{Backend, Told};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use tracing::{debug, info, warn};

/// How often it is looked for sockets, and how long between: one may have been given its backend and
/// not have sent its first packet yet, so that the kernel does not list it.
const PASSES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);

/// What has become of sockets that were to be told.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Ended.
    pub(super) ended: AtomicU64,
    /// Not reached: their namespace was not found or cannot be entered, or the kernel refused.
    pub(super) unreached: AtomicU64,
}

/// Ends the sockets of these backends in the background.
pub(super) fn tell(sockets: &MapHandle, lost: Vec<(u32, Backend)>, outcome: &Arc<Outcome>) {
    let sockets = match sockets.try_clone() {
        Ok(sockets) => sockets,
        Err(error) => {
            warn!(%error, "sockets are not told of their backends' loss");
            return;
        }
    };
    let outcome = Arc::clone(outcome);
    let started = thread::Builder::new()
        .name("socket-loss".to_owned())
        .spawn(move || run(&sockets, &lost, &outcome));
    if let Err(error) = started {
        warn!(%error, "sockets are not told of their backends' loss");
    }
}

fn run(sockets: &MapHandle, lost: &[(u32, Backend)], outcome: &Outcome) {
    let mut done = BTreeSet::new();
    let mut left = Vec::new();
    for pass in 0..PASSES {
        if pass > 0 {
            thread::sleep(PAUSE);
        }
        let told = match Maps::told(sockets) {
            Ok(told) => told,
            Err(error) => {
                debug!(%error, "the sockets to be told cannot be read");
                return;
            }
        };
        left = wanted(&told, lost, &done);
        if left.is_empty() {
            break;
        }
        end(&left, &mut done, outcome);
    }
    // Those that nobody lists have been closed, or are in a namespace that cannot be seen.
    let unseen = left.iter().filter(|(cookie, _)| !done.contains(cookie));
    let unreached = unseen.count() as u64;
    outcome.unreached.fetch_add(unreached, Ordering::Relaxed);
    if !done.is_empty() || unreached > 0 {
        info!(
            ended = done.len(),
            unreached, "sockets of lost backends were told"
        );
    }
}

/// The sockets of lost backends that are not done with.
fn wanted(told: &[(u64, Told)], lost: &[(u32, Backend)], done: &BTreeSet<u64>) -> Vec<(u64, Told)> {
    let is_lost = |told: &Told| {
        let mut lost = lost.iter();
        lost.any(|(id, backend)| told.id == *id && told.epoch == backend.epoch)
    };
    let wanted = told.iter();
    let wanted = wanted.filter(|(cookie, told)| is_lost(told) && !done.contains(cookie));
    wanted.copied().collect()
}

/// Ends sockets, namespace by namespace.
fn end(sockets: &[(u64, Told)], done: &mut BTreeSet<u64>, outcome: &Outcome) {
    let mut by_namespace: BTreeMap<u64, Vec<(u64, Told)>> = BTreeMap::new();
    for socket in sockets {
        by_namespace
            .entry(socket.1.netns)
            .or_default()
            .push(*socket);
    }
    // Most are in the daemon's own one, which takes no search and no capability to enter.
    let mut namespaces = std::iter::once(None).chain(namespace::visible().into_iter().map(Some));
    while !by_namespace.is_empty()
        && let Some(namespace) = namespaces.next()
    {
        let entered = namespace.map(|file| namespace::enter(file.as_fd()));
        if let Some(Err(error)) = entered {
            debug!(%error, "a network namespace cannot be entered");
            continue;
        }
        let Ok(diag) = Diag::open() else { continue };
        let Ok(cookie) = cookie::of_namespace(diag.as_fd()) else {
            continue;
        };
        if let Some(sockets) = by_namespace.remove(&cookie) {
            end_in(&diag, &sockets, done, outcome);
        }
    }
}

/// Ends sockets of one namespace.
fn end_in(diag: &Diag, sockets: &[(u64, Told)], done: &mut BTreeSet<u64>, outcome: &Outcome) {
    let kinds: BTreeSet<(u8, u8)> = sockets
        .iter()
        .map(|(_, told)| (family(told), told.protocol))
        .collect();
    let wanted: BTreeSet<u64> = sockets.iter().map(|(cookie, _)| *cookie).collect();
    for (family, protocol) in kinds {
        let found = match diag.list(family, protocol) {
            Ok(found) => found,
            Err(error) => {
                warn!(%error, protocol, "sockets cannot be listed (CONFIG_INET_DIAG)");
                continue;
            }
        };
        for socket in found.iter().filter(|one| wanted.contains(&one.cookie())) {
            match diag.end(socket, protocol) {
                Ok(was_there) => {
                    outcome
                        .ended
                        .fetch_add(u64::from(was_there), Ordering::Relaxed);
                    done.insert(socket.cookie());
                }
                Err(error) => {
                    warn!(%error, "a socket cannot be ended (CONFIG_INET_DIAG_DESTROY)");
                    outcome.unreached.fetch_add(1, Ordering::Relaxed);
                    done.insert(socket.cookie());
                }
            }
        }
    }
}

fn family(told: &Told) -> u8 {
    match told.family {
        6 => libc::AF_INET6 as u8,
        _ => libc::AF_INET as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_of_the_lost_backend_itself_are_meant() {
        let told = |id, epoch| Told {
            id,
            epoch,
            ..Told::default()
        };
        let all = [(1, told(7, 1)), (2, told(7, 2)), (3, told(8, 2))];
        let gone = Backend {
            epoch: 2,
            ..Backend::default()
        };
        let wanted = |done: &BTreeSet<u64>| -> Vec<u64> {
            let wanted = wanted(&all, &[(7, gone)], done);
            wanted.into_iter().map(|(cookie, _)| cookie).collect()
        };
        assert_eq!(wanted(&BTreeSet::new()), [2]);
        assert_eq!(wanted(&BTreeSet::from([2])), [0; 0]);
    }
}
