//! What the processes of a proxy use: CPU time and memory.

use anyhow::{Context, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::fs;
use std::time::Duration;

/// The process that all threads of the kernel descend from.
const KTHREADD: u32 = 2;

/// A process and all its descendants.
#[derive(Clone, Debug)]
pub struct Tree {
    ids: Vec<i32>,
}

impl Tree {
    /// The processes that descend from this one now, itself included.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub fn of(root: u32) -> Result<Self> {
        let mut pairs = Vec::new();
        for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
            let id = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            // A process that has just ended is none.
            if let Some(id) = id
                && let Ok(stat) = fs::read_to_string(entry.path().join("stat"))
                && let Some(parent) = parent(&stat)
            {
                pairs.push((id, parent));
            }
        }
        Ok(Self {
            ids: descendants(i32::try_from(root)?, &pairs),
        })
    }

    /// The threads of the kernel: what they do for connections, be it the rest of a softirq or the
    /// queue of a socket map, is done for nobody who would be charged for it.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub fn of_kernel() -> Result<Self> {
        // In a PID namespace of its own another process has the number.
        let name = fs::read_to_string(format!("/proc/{KTHREADD}/comm"));
        if name.is_ok_and(|name| name.trim_end() == "kthreadd") {
            return Self::of(KTHREADD);
        }
        Ok(Self { ids: Vec::new() })
    }

    /// As [`Self::cpu_time`] of the kernel's threads, of which some end.
    pub fn kernel_time(&self) -> Duration {
        // Nanoseconds on a CPU are the first number.
        let of = |id: &i32| {
            let text = fs::read_to_string(format!("/proc/{id}/schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(self.ids.iter().filter_map(of).sum())
    }

    /// CPU time of all their threads, ended ones too. The kernel keeps it in nanoseconds; the
    /// times in `/proc/PID/stat` are only that, rounded to ticks.
    ///
    /// # Errors
    ///
    /// One of them has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        let mut sum = Duration::ZERO;
        for &id in &self.ids {
            let clock = clock_getcpuclockid(Pid::from_raw(id))
                .with_context(|| format!("process {id} has ended"))?;
            sum += Duration::from(clock_gettime(clock)?);
        }
        Ok(sum)
    }

    /// Their resident memory, KiB. Pages that they share count for each.
    ///
    /// # Errors
    ///
    /// One of them has ended.
    pub fn resident_kib(&self) -> Result<u64> {
        let mut sum = 0;
        for id in &self.ids {
            let status = fs::read_to_string(format!("/proc/{id}/status"))
                .with_context(|| format!("process {id} has ended"))?;
            sum += resident(&status).context("a status without VmRSS")?;
        }
        Ok(sum)
    }
}

/// The parent in `/proc/PID/stat`, whose second field may hold anything, in parentheses.
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn descendants(root: i32, pairs: &[(i32, i32)]) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        let children = pairs.iter().filter(|(_, of)| *of == parent);
        found.extend(children.map(|(id, _)| id));
        next += 1;
    }
    found
}

fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_parentheses() {
        assert_eq!(parent("12 (a) (b) S 7 12 12 0"), Some(7));
        assert_eq!(parent("nothing"), None);
    }

    #[test]
    fn children_of_children_belong_to_the_tree() {
        let pairs = [(3, 2), (2, 1), (4, 2), (9, 8)];
        assert_eq!(descendants(1, &pairs), [1, 2, 3, 4]);
    }

    #[test]
    fn the_kernel_has_threads() {
        let tree = Tree::of_kernel().unwrap();
        let are_seen = fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n");
        assert_eq!(tree.ids.len() > 3, are_seen, "{tree:?}");
        assert_eq!(tree.kernel_time() > Duration::ZERO, are_seen);
    }

    #[test]
    fn this_process_uses_something() {
        let tree = Tree::of(std::process::id()).unwrap();
        let before = tree.cpu_time().unwrap();
        assert!(tree.resident_kib().unwrap() > 0);
        while tree.cpu_time().unwrap() == before {
            std::hint::black_box(0);
        }
    }
}
