//! Whose the running process is.

use super::maps::{CHOSEN, DAEMONS};
use aya_ebpf::bindings::bpf_pidns_info;
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_ns_current_pid_tgid,
};
use proxy_common::redirect::{self, ChosenKey, MeshState};

/// The process's cgroup that is chosen, or the nearest one above that is: its id and its set.
#[inline(always)]
pub fn chosen(family: u32, direction: u32) -> Option<(u64, u32)> {
    let mut found = None;
    for level in 0..redirect::DEPTH {
        // SAFETY: a plain call.
        let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if cgroup == 0 {
            break;
        }
        let key = ChosenKey {
            cgroup,
            family,
            direction,
        };
        // SAFETY: the value is a word, which is copied.
        if let Some(set) = unsafe { CHOSEN.get(key) } {
            found = Some((cgroup, *set));
        }
    }
    found
}

/// True in the daemon's own process, by the id that the daemon knows itself.
#[inline(always)]
pub fn is_daemon(state: &MeshState) -> bool {
    let mut ids = bpf_pidns_info { pid: 0, tgid: 0 };
    let (device, inode) = (state.pidns_device, state.pidns_inode);
    let size = core::mem::size_of::<bpf_pidns_info>() as u32;
    // SAFETY: there is room for the answer.
    let failed = unsafe { bpf_get_ns_current_pid_tgid(device, inode, &raw mut ids, size) };
    // A process of another PID namespace has no id in the daemon's, and is not the daemon.
    // SAFETY: only whether there is an entry is asked.
    failed == 0 && unsafe { DAEMONS.get(ids.tgid) }.is_some()
}
