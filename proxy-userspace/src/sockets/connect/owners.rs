//! Whose sockets are left alone: those of the daemon, and of its predecessor while that ends.
//!
//! The daemon shows itself to the kernel side by a connect() of a socket whose cookie it has written
//! down before; the kernel side notes the process id that it sees. So it does not matter in which
//! namespace of process ids the daemon is, or in which cgroup: where it is in none that is balanced,
//! nobody sees its connect(), and nobody has to.

use crate::kernel::handle::MapHandle;
use crate::kernel::store::{StoreError, store_error};
use crate::sockets::cookie;
use proxy_common::connect::{Owners, map};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd as _;

/// Shows this process to the kernel side. `is_heir`: whoever was known before runs on.
pub(super) fn introduce(owners: &MapHandle, is_heir: bool) -> Result<(), StoreError> {
    let failed = store_error("introduce", map::OWNERS);
    let read = || owners.get::<u32, Owners>(&0).map(Option::unwrap_or_default);
    let before = read().map_err(&failed)?.processes;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(&failed)?;
    let introduction = cookie::of_socket(socket.as_fd()).map_err(&failed)?;
    let asked = Owners {
        introduction,
        processes: [0, before[0]],
    };
    owners.set(&0u32, &asked).map_err(&failed)?;
    // What becomes of it does not matter: the kernel side has seen it.
    let _ = socket.connect((Ipv4Addr::LOCALHOST, 9));
    let own = read().map_err(&failed)?.processes[0];
    let known = Owners {
        introduction: 0,
        processes: [own, other(before, own, is_heir)],
    };
    owners.set(&0u32, &known).map_err(&failed)
}

/// Who is left alone besides.
const fn other(before: [u32; 2], own: u32, is_heir: bool) -> u32 {
    match (is_heir, before[0] == own) {
        (false, _) => 0,
        // It has shown itself before.
        (true, true) => before[1],
        (true, false) => before[0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_predecessor_is_known_for_as_long_as_its_heir_is_one() {
        assert_eq!(other([7, 0], 9, true), 7);
        assert_eq!(other([9, 7], 9, true), 7);
        assert_eq!(other([7, 3], 9, false), 0);
        // Neither is in a cgroup that is balanced.
        assert_eq!(other([0, 0], 0, true), 0);
    }
}
