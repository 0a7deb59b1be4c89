//! How many workers there are where nobody says so: as many as CPUs may be used, by the affinity mask and
//! by the quota of the control group.

use crate::support::{Client, eventually};
use proxy_tests::daemon::sluice;
use proxy_tests::privilege;
use proxy_tests::{alone, family};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Asserts that a proxy which is started by this command, to be followed by its own, has so many workers.
fn has_workers(starter: &[&str], count: usize) {
    let binary = sluice().expect("built");
    let mut words = starter.iter();
    let mut command = match words.next() {
        Some(program) => {
            let mut command = Command::new(program);
            command.args(words).arg(binary);
            command
        }
        None => Command::new(binary),
    };
    command.args(["proxy", "--to", "127.0.0.1:1"]);
    command.args(["--from", &family::any().to_string()]);
    let (process, address) = alone::start(&mut command);
    let workers = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).expect("it runs");
        let names = tasks.map_while(Result::ok);
        names
            .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
            .filter(|name| name.starts_with("worker-"))
            .count()
    };
    // Each gives itself its name once it runs.
    eventually("they are there", || workers() == count);
    let mut client = Client::to(address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().status, 502);
    assert_eq!(workers(), count, "{starter:?}");
}

#[test]
fn the_affinity_mask_is_respected() {
    let usable = std::thread::available_parallelism().expect("known").get();
    has_workers(&[], usable);
    let own = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).expect("known");
    let is_usable = |cpu: &usize| own.is_set(*cpu).unwrap_or(false);
    let first = (0..nix::sched::CpuSet::count()).find(is_usable);
    let first = first.expect("one that this process runs on").to_string();
    has_workers(&["taskset", "--cpu-list", &first], 1);
}

/// A control group with time of one CPU, which is removed when this is dropped.
struct OneCpu(PathBuf);

impl OneCpu {
    /// Of version 2 where that has the controller, else of version 1.
    fn new() -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("sluice-test-cpus-{}", std::process::id());
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        if controllers.split_whitespace().any(|name| name == "cpu") {
            // As a rule it is on already.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu");
            let group = Self::at(root.join(name));
            fs::write(group.0.join("cpu.max"), "100000 100000").expect("limits it");
            return group;
        }
        let group = Self::at(root.join("cpu").join(name));
        fs::write(group.0.join("cpu.cfs_period_us"), "100000").expect("limits it");
        fs::write(group.0.join("cpu.cfs_quota_us"), "100000").expect("limits it");
        group
    }

    fn at(folder: PathBuf) -> Self {
        fs::create_dir(&folder).expect("a control group");
        Self(folder)
    }
}

impl Drop for OneCpu {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn the_quota_of_the_control_group_is_respected() -> anyhow::Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let group = OneCpu::new();
    let processes = group.0.join("cgroup.procs").display().to_string();
    let enter = "echo $$ > \"$0\" && exec \"$@\"";
    has_workers(&["sh", "-c", enter, &processes], 1);
    Ok(())
}
