//! What the daemon gives up, read from the kernel and not from what it says.

use crate::clients::Clients;
use crate::support::{Daemon, Origins, certificate, eventually};
use nix::unistd::User;
use proxy_tests::privilege;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

const NET_BIND_SERVICE: u64 = 1 << 10;
const SYS_PTRACE: u64 = 1 << 19;

/// A line of a process's status file.
fn status(pid: i32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let prefix = format!("{key}:");
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
    line.expect("a line").trim().to_owned()
}

/// A set of capabilities, which all threads must have alike.
fn capabilities(pid: i32, set: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let of_tasks = tasks.flatten().filter_map(|task| {
        // A thread may have ended since.
        let text = fs::read_to_string(task.path().join("status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(set));
        let line = line.and_then(|rest| rest.strip_prefix(':'));
        Some(u64::from_str_radix(line.expect("a line").trim(), 16).expect("a set"))
    });
    let all: Vec<u64> = of_tasks.collect();
    assert!(
        all.windows(2).all(|two| two[0] == two[1]),
        "{set}: {all:x?}"
    );
    all[0]
}

#[test]
fn by_default_only_what_no_configuration_can_use_is_given_up() {
    if !privilege::granted().expect("privileged") {
        return;
    }
    let origins = Origins::start();
    let mut daemon = Daemon::start(&origins, "workers: {count: 2, drain_timeout: 10m}");
    for pid in [daemon.pid(), daemon.upgrade()] {
        let held = capabilities(pid, "CapEff");
        assert_ne!(held & NET_BIND_SERVICE, 0);
        assert_eq!(held & SYS_PTRACE, 0);
        assert_eq!(status(pid, "NoNewPrivs"), "1");
    }
    let mut kept = Daemon::start(
        &origins,
        "process: {capabilities: keep, no_new_privs: false}",
    );
    for pid in [kept.pid(), kept.upgrade()] {
        assert_eq!(status(pid, "NoNewPrivs"), "0");
        assert_eq!(
            capabilities(pid, "CapEff"),
            capabilities(std::process::id().cast_signed(), "CapEff")
        );
    }
}

#[test]
fn a_strict_daemon_serves_reloads_and_hands_over_and_refuses_what_it_cannot() {
    if !privilege::granted().expect("privileged") {
        return;
    }
    let origins = Origins::start();
    let nobody = User::from_name("nobody")
        .expect("read")
        .expect("there is one");
    let site = tempfile::tempdir().expect("a folder");
    let more = "process: {user: nobody, capabilities: needed, landlock: true}\nworkers: {drain_timeout: 10m}";
    let mut daemon = Daemon::start_as(&origins, more, |command, _, folder| {
        // Where its socket goes.
        nix::unistd::chown(folder, Some(nobody.uid), Some(nobody.gid)).expect("given");
        // Its successor reads it again.
        for file in certificate(folder) {
            nix::unistd::chown(&file, Some(nobody.uid), Some(nobody.gid)).expect("given");
        }
        command
    });
    let clients = Clients::of_all_kinds(daemon.addresses);
    for pid in [daemon.pid(), daemon.upgrade()] {
        assert!(status(pid, "Uid").starts_with(&nobody.uid.to_string()));
        for set in ["CapEff", "CapPrm", "CapAmb"] {
            assert_eq!(capabilities(pid, set), 0, "{set}");
        }
        assert_eq!(status(pid, "NoNewPrivs"), "1");
    }
    let shown = daemon.command(&["status"]).output().expect("runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("user nobody") && shown.contains("capabilities none"),
        "{shown}"
    );

    let file = daemon.folder.path().join("sluice.yaml");
    let good = fs::read_to_string(&file).expect("reads");
    let reload = |text: &str| {
        fs::write(&file, text).expect("writes");
        let output = daemon.command(&["reload"]).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    let low = good.replace(
        "services:\n",
        "- {name: low, kind: tcp, address: 127.0.0.1, port: 81, service: copy}\nservices:\n",
    );
    let (done, said) = reload(&low);
    assert!(!done && said.contains("CAP_NET_BIND_SERVICE"), "{said}");
    let pages = format!(
        "{good}\nroutes: [{{name: pages, match: [/pages], files: {{root: {}}}}}]\n",
        site.path().display()
    );
    let (done, said) = reload(&pages);
    assert!(
        !done && said.contains("landlock") && said.contains("restart"),
        "{said}"
    );
    let (done, said) = reload(&good);
    assert!(done, "{said}");
    let answered = clients.answered();
    eventually("everybody is served", || clients.answered() > answered + 50);
    clients.end();
}

#[test]
fn what_landlock_keeps_out_of_reach_cannot_be_run() {
    if !privilege::granted().expect("privileged") {
        return;
    }
    let origins = Origins::start();
    let outside = tempfile::tempdir().expect("a folder");
    let file = outside.path().join("sluice");
    fs::write(&file, "#!/bin/sh\nexit 3\n").expect("writes");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("set");
    for (landlock, expected) in [(false, "exit status: 3"), (true, "Permission denied")] {
        let more = format!("process: {{landlock: {landlock}}}");
        let mut daemon = Daemon::start(&origins, &more);
        let output = daemon.try_upgrade(&["--binary", file.to_str().expect("text")]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(expected), "{landlock}: {said}");
        daemon.upgrade();
    }
}
