//! A new process that does not take over leaves the old one serving.

use crate::clients::Clients;
use crate::support::{Daemon, Origins, eventually, is_running};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

fn script(daemon: &Daemon, name: &str, text: &str) -> PathBuf {
    let file = daemon.folder.path().join(name);
    fs::write(&file, format!("#!/bin/sh\n{text}\n")).expect("writes");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("set");
    file
}

/// Upgrades in vain; gives what is said about it.
fn refused(daemon: &mut Daemon, words: &[&str]) -> String {
    let pid = daemon.pid();
    let output = daemon.try_upgrade(words);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(daemon.pid(), pid, "another process serves");
    assert!(is_running(pid) && daemon.is_serving());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_old_process_serves_on_and_says_why() {
    let origins = Origins::start();
    let mut daemon = Daemon::start(&origins, "workers: {count: 2, drain_timeout: 10m}");
    let clients = Clients::of_all_kinds(daemon.addresses);

    let ends = script(&daemon, "ends", "exit 3");
    let said = refused(&mut daemon, &["--binary", ends.to_str().expect("text")]);
    assert!(said.contains("exit status: 3"), "{said}");

    let hangs = script(&daemon, "hangs", "exec sleep 600");
    let hangs = hangs.to_str().expect("text");
    let said = refused(&mut daemon, &["--binary", hangs, "--timeout", "300ms"]);
    assert!(said.contains("not ready within 300ms"), "{said}");

    let said = refused(&mut daemon, &["--binary", "/nowhere/sluice"]);
    assert!(said.contains("/nowhere/sluice"), "{said}");

    // Which others could have put there.
    let open = script(&daemon, "open", "exit 0");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("set");
    let said = refused(&mut daemon, &["--binary", open.to_str().expect("text")]);
    assert!(said.contains("may change it"), "{said}");

    let file = daemon.folder.path().join("sluice.yaml");
    let good = fs::read_to_string(&file).expect("reads");
    fs::write(&file, format!("{good}\nserivces: []\n")).expect("writes");
    let said = refused(&mut daemon, &[]);
    assert!(said.contains("serivces"), "{said}");

    // An address that somebody else has.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = taken.local_addr().expect("bound").port();
    let more = good.replace(
        "services:\n",
        &format!(
            "- {{name: more, kind: tcp, address: 127.0.0.1, port: {port}, service: copy}}\n\
             services:\n"
        ),
    );
    fs::write(&file, more).expect("writes");
    let said = refused(&mut daemon, &[]);
    assert!(said.contains(&port.to_string()), "{said}");

    fs::write(&file, good).expect("writes");
    daemon.upgrade();
    let answered = clients.answered();
    eventually("everybody is served", || clients.answered() > answered + 50);
    clients.end();
}
