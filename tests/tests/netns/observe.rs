//! What an operator sees: captures, maps by bpftool, metrics, events.

use anyhow::{Context, Result, ensure};
use proxy_common::maps;
use proxy_tests::command::run;
use proxy_tests::path::Path;
use proxy_tests::privilege;
use proxy_tests::stage::Stage;
use proxy_tests::topology::{client_v4, client_v6};
use proxy_tests::wait;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a client waits for an answer that must not come.
const IMPATIENCE: Duration = Duration::from_millis(250);

fn a_capture_shows_packets_before_and_after(path: Path) -> Result<()> {
    let Some(tcpdump) = privilege::program("tcpdump", "tcpdump")? else {
        return Ok(());
    };
    let stage = Stage::new(path).start()?;
    let file = stage.daemon().directory().join("web.pcapng");
    // It ends after this many records; twenty connections make more.
    let capture = stage
        .daemon()
        .command(&["capture", "--count", "40", "service", "web"])?
        .arg("--write")
        .arg(&file)
        .stderr(Stdio::piped())
        .spawn()?;
    wait::until("the capture has begun its file", || {
        Ok(file.metadata().is_ok_and(|file| file.len() > 0))
    })?;
    stage.client().shares(stage.web(), 20)?;
    let output = capture.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let shown = run(Command::new(tcpdump).args(["-nn", "-r"]).arg(&file))?;
    let before = format!("> {}.80: Flags [S]", stage.vip());
    ensure!(shown.contains(&before), "no {before:?} in\n{shown}");
    for node in &stage.topology.backends {
        let address: IpAddr = node.address(path.backend_is_v6());
        if shown.contains(&format!("> {address}")) {
            return Ok(());
        }
    }
    anyhow::bail!("no packet to a backend in\n{shown}")
}
on_paths!(a_capture_shows_packets_before_and_after:
    nat_v4 = NAT_V4,
    nat_v6 = NAT_V6,
    dsr_ipip_v4 = DSR_IPIP_V4,
);

#[test]
fn bpftool_shows_the_maps_by_name_and_field() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let Some(bpftool) = privilege::program("bpftool", "bpftool")? else {
        return Ok(());
    };
    let stage = Stage::new(Path::NAT_V4).start()?;
    let maps = stage.daemon().maps()?;
    let services = maps.pin(maps::SERVICES);
    let dump = |pin: &std::path::Path| {
        run(Command::new(&bpftool)
            .args(["map", "dump", "pinned"])
            .arg(pin))
    };
    let shown = dump(&services)?;
    for field in [
        "\"port\": 80",
        "\"port\": 53",
        "\"protocol\": 6",
        "\"kind\"",
    ] {
        ensure!(shown.contains(field), "no {field} in\n{shown}");
    }
    for map in [maps::SETTINGS, maps::BACKEND_STATS, maps::REASONS] {
        dump(&maps.pin(map)).with_context(|| map.to_owned())?;
    }
    Ok(())
}

#[test]
fn metrics_count_what_clients_did() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let stage = Stage::new(Path::NAT_V4).start()?;
    stage.client().shares(stage.web(), 30)?;
    let metrics = stage.daemon().admin_get("/metrics")?;
    let total: f64 = metrics
        .lines()
        .filter(|line| {
            line.starts_with("sluice_backend_new_flows_total{") && line.contains("service=\"web\"")
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert_eq!(total, 30.0, "{metrics}");
    Ok(())
}

fn dropped_packets_are_told_from_others_by_their_verdict(path: Path) -> Result<()> {
    let source: IpAddr = if path.client_is_v6() {
        client_v6(3).into()
    } else {
        client_v4(3).into()
    };
    let stage = Stage::new(path)
        .config(move |config| {
            config["l4"]["sample_every"] = json!(1);
            config["guard"] = json!({ "deny": [source] });
        })
        .start()?;
    stage.client().get(stage.web(), "/name")?;
    let denied = stage.client().from(source).timeout(IMPATIENCE);
    ensure!(denied.connect(stage.web()).is_err());
    let seen = |verdict: &str, reason: &str| -> Result<BTreeSet<(String, String)>> {
        let text = stage.daemon().sluice(&[
            "observe",
            "--json",
            "--last",
            "1000",
            "--sample",
            "1",
            "--verdict",
            verdict,
            "--reason",
            reason,
        ])?;
        let lines = text.lines().map(serde_json::from_str::<Value>);
        lines
            .filter(|line| line.as_ref().map_or(true, |line| line["reason"] == reason))
            .map(|line| {
                let line = line?;
                let of = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
                let source: SocketAddr = of("source").parse()?;
                Ok((of("verdict"), source.ip().to_string()))
            })
            .collect()
    };
    let only =
        |verdict: &str, source: IpAddr| BTreeSet::from([(verdict.to_owned(), source.to_string())]);
    let first: IpAddr = if path.client_is_v6() {
        client_v6(0).into()
    } else {
        client_v4(0).into()
    };
    for (verdict, reason, source) in [("drop", "denied", source), ("forward", "translated", first)]
    {
        wait::until("it is observed", || Ok(!seen(verdict, reason)?.is_empty()))?;
        let found = seen(verdict, reason)?;
        ensure!(found == only(verdict, source), "{verdict}: {found:?}");
    }
    ensure!(seen("pass", "denied")?.is_empty());
    Ok(())
}
on_paths!(dropped_packets_are_told_from_others_by_their_verdict:
    nat_v4 = NAT_V4,
    nat_v6 = NAT_V6,
);

#[test]
fn the_command_line_fails_clearly_without_a_daemon() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let output = Command::new(proxy_tests::daemon::sluice()?)
        .args(["status", "--socket", "/nonexistent/admin.sock"])
        .stdin(Stdio::null())
        .output()?;
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("/nonexistent/admin.sock"), "{said}");
    Ok(())
}
