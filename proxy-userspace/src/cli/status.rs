//! `sluice status`.

use crate::admin::client::{Client, ClientError};
use crate::cli::args::{self, Output, OutputArgs, SocketArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::format;
use crate::cli::output::{self, Column};
use crate::observe::view::{Phase, ServiceView, View};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::Instant;

/// How often `--wait` looks.
const POLL: Duration = Duration::from_millis(100);

/// Show what the daemon balances and how it is doing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice status
  sluice status --wait --wait-duration 30s   return once the daemon is ready
  sluice status --reasons                    why packets were passed, sent or dropped
  sluice status --json | jq '.services[].backends[] | {name, state, live_flows}'

Counters start at zero when the data plane is made and survive restarts of the daemon.")]
pub(super) struct Args {
    /// Print JSON; the same as -o json
    #[arg(long)]
    json: bool,
    /// Wait until the daemon runs and is ready; fail if it is not in time
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = args::duration, requires = "wait")]
    wait_duration: Duration,
    /// Show packets by reason, with what each reason means
    #[arg(long)]
    reasons: bool,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let view: View = args::block_on(async {
            let client = self.socket.client();
            if self.wait {
                wait_until_ready(&client, self.wait_duration).await?;
            }
            Ok(client.get("status").await?)
        })?;
        if self.json || self.output.output == Output::Json {
            output::json(&view)?;
        } else if self.reasons {
            output::print(&reasons(&view))?;
        } else {
            output::print(&text(&view))?;
        }
        let serving = view.daemon.phase == Phase::Serving;
        Ok(if serving { Exit::Done } else { Exit::Failed })
    }
}

async fn wait_until_ready(client: &Client, patience: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + patience;
    loop {
        match client.text("/readyz").await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                return Err(match error {
                    ClientError::Refused(refusal) => {
                        let reason = refusal.message;
                        Failure::new(Exit::Failed, format!("the daemon is not ready: {reason}"))
                    }
                    other => other.into(),
                });
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

fn text(view: &View) -> String {
    let mut text = head(view);
    for service in &view.services {
        text.push('\n');
        text.push_str(&service_text(service));
    }
    text
}

fn head(view: &View) -> String {
    let mut text = String::new();
    let daemon = &view.daemon;
    let age = view.read_at_seconds - daemon.started_at_seconds;
    let adopted = if daemon.adopted {
        ", adopted a running data plane"
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "sluice {}  {}  pid {}, up {}{adopted}",
        daemon.version,
        daemon.phase.name(),
        daemon.pid,
        format::span(age),
    );
    let config = &view.config;
    let _ = writeln!(
        text,
        "config      {} (generation {}, loaded {})",
        config.path,
        config.generation,
        format::time(config.loaded_at_seconds),
    );
    if let Some(error) = &config.last_reload_error {
        let first = error.lines().next().unwrap_or_default();
        let _ = writeln!(text, "            last reload refused: {first}");
    }
    let interfaces: Vec<String> = view
        .interfaces
        .iter()
        .map(|interface| format!("{} ({})", interface.name, interface.attached))
        .collect();
    let _ = writeln!(text, "interfaces  {}", interfaces.join(", "));
    let flows = &view.flow_table;
    let share = 100.0 * flows.entries as f64 / (flows.capacity.max(1)) as f64;
    let _ = writeln!(
        text,
        "flows       {} of {} ({share:.1} %)",
        format::count(flows.entries as f64),
        format::count(flows.capacity as f64),
    );
    let outcome = |outcome: &str| {
        let counts = view.reasons.iter().filter(|count| count.outcome == outcome);
        format::count(counts.map(|count| count.packets).sum::<u64>() as f64)
    };
    let _ = writeln!(
        text,
        "packets     {} forwarded, {} passed, {} dropped",
        outcome("forward"),
        outcome("pass"),
        outcome("drop"),
    );
    text
}

fn service_text(service: &ServiceView) -> String {
    let mut text = format!(
        "{}  {}  {}\n",
        service.name, service.mode, service.selection
    );
    for listener in &service.listeners {
        let _ = writeln!(
            text,
            "  {}  {}:{}/{}",
            listener.name,
            bracketed(&listener.vip),
            listener.port,
            listener.protocol
        );
    }
    let headings = [
        Column::Words("  BACKEND"),
        Column::Words("ADDRESS"),
        Column::Words("STATE"),
        Column::Number("WEIGHT"),
        Column::Number("LIVE"),
        Column::Number("FLOWS"),
        Column::Number("PACKETS"),
        Column::Number("BYTES"),
        Column::Words("WHY"),
    ];
    let rows = service.backends.iter().map(|backend| {
        let left = backend
            .drain_remaining_seconds
            .map(|left| format!(" {}", format::span(left)));
        vec![
            format!("  {}", backend.name),
            backend.address.clone(),
            format!("{}{}", backend.state, left.unwrap_or_default()),
            backend.weight.to_string(),
            backend.live_flows.to_string(),
            backend.traffic.new_flows.to_string(),
            format::count(backend.traffic.packets as f64),
            format::bytes(backend.traffic.bytes as f64),
            backend.why.clone(),
        ]
    });
    if !service.backends.is_empty() {
        text.push_str(&output::columns(&headings, rows));
    }
    text
}

fn bracketed(vip: &str) -> String {
    if vip.contains(':') {
        format!("[{vip}]")
    } else {
        vip.to_owned()
    }
}

fn reasons(view: &View) -> String {
    let headings = [
        Column::Number("PACKETS"),
        Column::Words("OUTCOME"),
        Column::Words("REASON"),
        Column::Words("MEANING"),
    ];
    let mut counts = view.reasons.clone();
    counts.sort_by_key(|count| std::cmp::Reverse(count.packets));
    let rows = counts.into_iter().map(|count| {
        vec![
            count.packets.to_string(),
            count.outcome,
            count.reason,
            count.text,
        ]
    });
    output::columns(&headings, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::view::{
        BackendView, ConfigState, Daemon, FlowTable, InterfaceView, ListenerView, ReasonCount,
        Traffic,
    };

    fn view() -> View {
        View {
            daemon: Daemon {
                version: "0.1.0".to_owned(),
                pid: 42,
                phase: Phase::Serving,
                started_at_seconds: 1_700_000_000.0,
                adopted: true,
                pin_dir: String::new(),
            },
            config: ConfigState {
                path: "/etc/sluice/sluice.yaml".to_owned(),
                generation: 3,
                loaded_at_seconds: 1_700_000_000.0,
                last_reload_error: Some("2 faults\nmore".to_owned()),
                ..Default::default()
            },
            interfaces: vec![InterfaceView {
                name: "eth0".to_owned(),
                index: 2,
                attached: "native".to_owned(),
            }],
            flow_table: FlowTable {
                capacity: 524_288,
                entries: 5_243,
                expired: 0,
            },
            services: vec![ServiceView {
                name: "web".to_owned(),
                mode: "nat".to_owned(),
                selection: "maglev".to_owned(),
                listeners: vec![ListenerView {
                    name: "web-v6".to_owned(),
                    vip: "2001:db8::1".to_owned(),
                    port: "80".to_owned(),
                    protocol: "tcp".to_owned(),
                    ..Default::default()
                }],
                backends: vec![BackendView {
                    name: "b1".to_owned(),
                    address: "10.0.0.1".to_owned(),
                    weight: 1,
                    state: "draining".to_owned(),
                    why: "drained by operator".to_owned(),
                    drain_remaining_seconds: Some(30.0),
                    live_flows: 7,
                    traffic: Traffic {
                        packets: 12_345,
                        bytes: 1_536,
                        new_flows: 9,
                        ..Default::default()
                    },
                    ..Default::default()
                }],
            }],
            reasons: vec![
                ReasonCount {
                    reason: "denied".to_owned(),
                    outcome: "drop".to_owned(),
                    text: "The guard denies this source.".to_owned(),
                    packets: 3,
                },
                ReasonCount {
                    reason: "translated".to_owned(),
                    outcome: "forward".to_owned(),
                    text: "Sent.".to_owned(),
                    packets: 12_345,
                },
            ],
            read_at_seconds: 1_700_003_700.0,
            ..Default::default()
        }
    }

    #[test]
    fn the_page_shows_daemon_services_and_backends() {
        assert_eq!(
            text(&view()),
            "\
sluice 0.1.0  serving  pid 42, up 1h 1m, adopted a running data plane
config      /etc/sluice/sluice.yaml (generation 3, loaded 2023-11-14T22:13:20Z)
            last reload refused: 2 faults
interfaces  eth0 (native)
flows       5.24k of 524.3k (1.0 %)
packets     12.3k forwarded, 0 passed, 3 dropped

web  nat  maglev
  web-v6  [2001:db8::1]:80/tcp
  BACKEND  ADDRESS   STATE         WEIGHT  LIVE  FLOWS  PACKETS     BYTES  WHY
  b1       10.0.0.1  draining 30s       1     7      9    12.3k  1.50 KiB  drained by operator
"
        );
    }

    #[test]
    fn reasons_come_with_the_most_frequent_first() {
        let text = reasons(&view());
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].contains("translated") && lines[2].contains("guard denies"),
            "{text}"
        );
    }
}
