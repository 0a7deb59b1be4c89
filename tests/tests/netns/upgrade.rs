//! A new process takes over from the daemon; the kernel goes on forwarding, and has one owner.

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proxy_tests::config::WEB;
use proxy_tests::load::{Kind, Load};
use proxy_tests::path::Path;
use proxy_tests::privilege;
use proxy_tests::stage::Stage;
use proxy_tests::wait;
use serde_json::json;
use std::time::Duration;

/// Pause of a load's workers between requests.
const PAUSE: Duration = Duration::from_millis(2);

#[test]
fn upgrades_under_load_lose_no_flow() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let stage = Stage::new(Path::NAT_V4).start()?;
    let client = stage.client();
    let mut held = client.hold(stage.web(), 30)?;
    let new = Load::start(&client, stage.web(), Kind::NewConnections, 2, PAUSE)?;
    let long = Load::start(&client, stage.web(), Kind::OneConnection, 4, PAUSE)?;
    for _ in 0..3 {
        let before = stage.daemon().status()?.daemon.pid;
        stage.daemon().sluice(&["upgrade"])?;
        let daemon = stage.daemon().status()?.daemon;
        ensure!(daemon.pid != before && daemon.adopted, "{daemon:?}");
        new.wait_for(40)?;
        held.check()?;
    }
    // The last one does what a daemon does.
    let mut reweighted = stage.config.clone();
    reweighted["services"][WEB]["backends"][0]["weight"] = json!(5);
    stage.daemon().reload(&reweighted)?;
    held.check()?;
    new.stop().expect_no_failure()?;
    long.stop().expect_no_failure()?;
    stage.expect_no_loss()
}

#[test]
fn a_new_process_that_dies_leaves_the_maps_to_the_old_one() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let stage = Stage::new(Path::NAT_V4).start()?;
    let client = stage.client();
    let mut held = client.hold(stage.web(), 10)?;
    let new = Load::start(&client, stage.web(), Kind::NewConnections, 2, PAUSE)?;
    let old = stage.daemon().status()?.daemon.pid;
    for _ in 0..4 {
        let mut upgrade = stage.daemon().command(&["upgrade"])?.spawn()?;
        let mut child = None;
        wait::until("a new process is started", || {
            child = children(old).into_iter().next();
            Ok(child.is_some() || upgrade.try_wait()?.is_some())
        })?;
        // At whatever moment it is by now: opening the maps, attaching, about to be ready.
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..400)));
        if let Some(child) = child {
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
        let has_taken_over = upgrade.wait()?.success();
        new.wait_for(20)?;
        held.check()?;
        if has_taken_over {
            // Killed too late: the old one had nothing left to do, and has ended. That is a crash
            // like any other, and the kernel forwards on.
            return new.stop().expect_no_failure();
        }
        ensure!(
            stage.daemon().status()?.daemon.pid == old,
            "another one serves"
        );
    }
    // It has the maps, and can change them.
    stage.daemon().sluice(&["drain", "web", "web-1"])?;
    stage.daemon().sluice(&["undrain", "web", "web-1"])?;
    new.stop().expect_no_failure()?;
    stage.expect_no_loss()
}

fn children(pid: u32) -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = tasks.flatten().map(|task| task.path().join("children"));
    let lists = lists.map(|list| std::fs::read_to_string(list).unwrap_or_default());
    lists
        .flat_map(|list| {
            let pids = list.split_whitespace().map(str::parse);
            pids.flatten().collect::<Vec<i32>>()
        })
        .collect()
}
