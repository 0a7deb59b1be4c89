//! One forwarding mode on stage: requests, a drain, a death.

use crate::show::{self, Row, Show};
use crate::{interrupt, script};
use anyhow::{Context, Result, ensure};
use proxy_common::maps;
use proxy_common::service::Mode;
use proxy_tests::client::{Client, Held, Shares};
use proxy_tests::command::run;
use proxy_tests::path::{Family, Path};
use proxy_tests::privilege::find_program;
use proxy_tests::stage::Stage;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

/// What to play.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) v6: bool,
    /// New connections in the first act.
    pub(crate) requests: u64,
    pub(crate) show_bpftool: bool,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) mode: Mode,
    pub(crate) ready_after: Duration,
    pub(crate) requests: u64,
    pub(crate) requests_took: Duration,
    /// Time from the server's death to the kernel's taking note.
    pub(crate) failover: Option<Duration>,
    /// Connections of other backends that stayed open over drain and death.
    pub(crate) unbroken: usize,
    pub(crate) took: Duration,
}

/// Connections that stay open over drain and death.
const HELD: usize = 24;
/// The backend that is drained, and the one that dies.
const DRAINED: &str = "web-2";
const KILLED: &str = "web-1";

/// Plays one mode.
///
/// # Errors
///
/// Something did not go as promised, or the user interrupts.
pub(crate) fn play(plan: &Plan, show: &Show) -> Result<Outcome> {
    let start = Instant::now();
    let family = if plan.v6 { Family::V6 } else { Family::V4 };
    show.scene(plan.mode);
    let mut stage = Stage::new(Path::new(plan.mode, family)).build()?;
    stage.set_quiet(); // Also where the audience leaves early.
    stage.config = script::config(plan.mode, plan.v6)?;
    interrupt::check()?;
    let starting = Instant::now();
    stage.start_decapsulators()?;
    stage.start_daemon()?;
    stage.set_quiet();
    let ready_after = starting.elapsed();
    let daemon = stage.daemon();
    show.command(&format!("sluice run -c {}", daemon.config_file().display()));
    show.note(&format!(
        "on {}, ready after {}",
        stage.topology.balancer_devices.join(" and "),
        show::seconds(ready_after)
    ));

    interrupt::check()?;
    let client = stage.client();
    let to = SocketAddr::new(stage.vip(), script::PORT);
    let sending = Instant::now();
    let answered = client.shares(to, plan.requests)?;
    let requests_took = sending.elapsed();
    show.command(&format!(
        "curl http://{to}/name      # {} times, each on a new connection: {}",
        plan.requests,
        show::seconds(requests_took)
    ));
    let mut outcome = Outcome {
        mode: plan.mode,
        ready_after,
        requests: plan.requests,
        requests_took,
        failover: None,
        unbroken: 0,
        took: Duration::ZERO,
    };
    if plan.mode == Mode::Local {
        local_counters(&stage, plan, show)?;
    } else {
        counters(&stage, &answered, show)?;
        if plan.show_bpftool {
            bpftool(&stage, show)?;
        }
        interrupt::check()?;
        let mut held = client.hold(to, HELD)?;
        drain(&stage, &client, to, &mut held, show)?;
        interrupt::check()?;
        let failover = death(&mut stage, &client, to, &mut held, show)?;
        outcome.failover = Some(failover);
        outcome.unbroken = held.len();
    }
    stop(&mut stage, show)?;
    outcome.took = start.elapsed();
    Ok(outcome)
}

/// What the kernel counted, backend by backend, beside what the client saw.
fn counters(stage: &Stage, answered: &Shares, show: &Show) -> Result<()> {
    let view = stage.daemon().status()?;
    let service = view.services.first().context("no service in the status")?;
    let rows: Vec<Row> = service
        .backends
        .iter()
        .map(|backend| Row {
            name: backend.name.clone(),
            weight: backend.weight,
            state: backend.state.clone(),
            new_flows: backend.traffic.new_flows,
            packets: backend.traffic.packets,
            bytes: backend.traffic.bytes,
            answered: answered.get(&backend.name).copied().unwrap_or(0),
        })
        .collect();
    show.command("sluice status --json     # what the kernel's maps say");
    show.table(&rows);
    for row in &rows {
        ensure!(
            row.new_flows == row.answered,
            "the kernel counted {} flows to {}, the client {}",
            row.new_flows,
            row.name,
            row.answered
        );
    }
    Ok(())
}

fn local_counters(stage: &Stage, plan: &Plan, show: &Show) -> Result<()> {
    let view = stage.daemon().status()?;
    let mut listeners = view.services.iter().flat_map(|service| &service.listeners);
    let listener = listeners.next().context("no listener in the status")?;
    show.command("sluice status --json     # what the kernel's maps say");
    show.note(&format!(
        "{} new flows, {} packets, {} octets passed to this host's own server",
        listener.local_new_flows, listener.local_packets, listener.local_bytes
    ));
    ensure!(
        listener.local_new_flows == plan.requests,
        "the kernel counted {} flows",
        listener.local_new_flows
    );
    Ok(())
}

/// The pinned map of services, as any operator can see it.
fn bpftool(stage: &Stage, show: &Show) -> Result<()> {
    let Some(program) = find_program("bpftool") else {
        show.note("(no bpftool here: apt-get install bpftool)");
        return Ok(());
    };
    let pin = stage.daemon().maps()?.pin(maps::SERVICES);
    let shown = run(Command::new(program)
        .args(["map", "dump", "pinned"])
        .arg(&pin))?;
    show.command(&format!("bpftool map dump pinned {}", pin.display()));
    show.excerpt(&shown, 14);
    Ok(())
}

fn drain(
    stage: &Stage,
    client: &Client,
    to: SocketAddr,
    held: &mut Held,
    show: &Show,
) -> Result<()> {
    let name = stage.daemon().status()?.services[0].name.clone();
    show.command(&format!("sluice drain {name} {DRAINED}"));
    stage.daemon().sluice(&["drain", &name, DRAINED])?;
    stage.daemon().wait_for_state(DRAINED, "draining")?;
    let shares = client.shares(to, 90)?;
    ensure!(!shares.contains_key(DRAINED), "it got new connections");
    held.check()?;
    let kept = held.shares().get(DRAINED).copied().unwrap_or(0);
    show.good(&format!("90 new connections: {}", show::shares(&shares)));
    show.good(&format!(
        "all {} open connections still answer, {kept} of them on {DRAINED}",
        held.len()
    ));
    Ok(())
}

fn death(
    stage: &mut Stage,
    client: &Client,
    to: SocketAddr,
    held: &mut Held,
    show: &Show,
) -> Result<Duration> {
    show.command(&format!("kill -9 the server on {KILLED}"));
    let killed = Instant::now();
    stage.origin(KILLED).kill();
    stage.daemon().wait_for_state(KILLED, "down")?;
    let noticed = killed.elapsed();
    let shares = client.shares(to, 90)?;
    ensure!(!shares.contains_key(KILLED), "it got new connections");
    held.check_except(KILLED)?;
    show.good(&format!(
        "down in the kernel after {}; 90 new connections: {}",
        show::seconds(noticed),
        show::shares(&shares)
    ));
    show.good(&format!(
        "none of the {} open connections to the others broke",
        held.len()
    ));
    Ok(noticed)
}

fn stop(stage: &mut Stage, show: &Show) -> Result<()> {
    show.command("kill -TERM sluice");
    let stopping = Instant::now();
    let status = stage.daemon_mut().terminate()?;
    ensure!(status.success(), "sluice ended with {status}");
    ensure!(!stage.daemon().pin_dir().exists(), "pins were left");
    show.note(&format!(
        "detached, nothing pinned, after {}",
        show::seconds(stopping.elapsed())
    ));
    Ok(())
}
