//! `sluice status`.

mod detail;
mod head;
mod sockets;

use crate::admin::client::{Client, ClientError};
use crate::cli::args::{self, FormatArgs, Output, SocketArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::format;
use crate::cli::output::{self, Column};
use crate::observe::view::{
    CertificateView, HttpListenerView, Phase, ProxyServiceView, ServiceView, StreamListenerView,
    View,
};
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
  sluice status web/web-1                    one backend, and why it is as it is
  sluice status --reasons                    why packets were passed, sent or dropped
  sluice status --json | jq '.services[].backends[] | {name, state, live_flows}'

Counters of packets and flows start at zero when the data plane is made and survive restarts of the
daemon; those of requests start with the daemon.")]
pub(super) struct Args {
    /// Show all about one backend, its history too, or about all of a service
    #[arg(value_name = "SERVICE[/BACKEND]", conflicts_with_all = ["reasons", "json", "output", "verbose"])]
    backend: Option<String>,
    /// Show all about every backend, its history too
    #[arg(short, long, conflicts_with = "reasons")]
    verbose: bool,
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
    format: FormatArgs,
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
        match self.format.output() {
            Output::Json => output::json(&view)?,
            Output::Yaml => output::yaml(&view)?,
            Output::Table => self.print(&view)?,
        }
        let serving = view.daemon.phase == Phase::Serving;
        Ok(if serving { Exit::Done } else { Exit::Failed })
    }

    fn print(&self, view: &View) -> Result<(), Failure> {
        if let Some(name) = &self.backend {
            let text = detail::of(view, name);
            return output::print(&text.map_err(|error| Failure::new(Exit::Failed, error))?);
        }
        if self.reasons {
            return output::print(&reasons(view));
        }
        output::print(&text(view))?;
        if self.verbose {
            output::print(&format!("\n{}", detail::all(view)))?;
        }
        Ok(())
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
    let mut text = head::text(view);
    if !view.http_listeners.is_empty() {
        text.push('\n');
        text.push_str(&listeners_text(&view.http_listeners));
    }
    if !view.stream_listeners.is_empty() {
        text.push('\n');
        text.push_str(&streams_text(&view.stream_listeners));
    }
    if !view.certificates.is_empty() {
        text.push('\n');
        text.push_str(&certificates_text(&view.certificates, view.read_at_seconds));
    }
    for service in &view.services {
        text.push('\n');
        text.push_str(&service_text(service));
    }
    text
}

/// The listeners of the proxies.
fn listeners_text(listeners: &[HttpListenerView]) -> String {
    let headings = [
        Column::Words("LISTENER"),
        Column::Words("ADDRESS"),
        Column::Number("OPEN"),
        Column::Number("CONNECTIONS"),
        Column::Number("ACTIVE"),
        Column::Number("REQUESTS"),
        Column::Number("5XX"),
        Column::Number("REFUSED"),
        Column::Number("IN"),
        Column::Number("OUT"),
    ];
    let rows = listeners.iter().map(|listener| {
        vec![
            listener.name.clone(),
            listener.address.clone(),
            listener.connections_active.to_string(),
            format::count(listener.connections as f64),
            listener.requests_active.to_string(),
            format::count(listener.requests as f64),
            format::count(listener.errors() as f64),
            format::count(listener.refused as f64),
            format::bytes(listener.received_bytes as f64),
            format::bytes(listener.sent_bytes as f64),
        ]
    });
    output::columns(&headings, rows)
}

/// The listeners that pass TCP and UDP on.
fn streams_text(listeners: &[StreamListenerView]) -> String {
    let headings = [
        Column::Words("LISTENER"),
        Column::Words("ADDRESS"),
        Column::Number("OPEN"),
        Column::Number("CONNECTIONS"),
        Column::Number("FAILED"),
        Column::Number("REFUSED"),
        Column::Number("DROPPED"),
        Column::Number("IN"),
        Column::Number("OUT"),
    ];
    let rows = listeners.iter().map(|listener| {
        vec![
            listener.name.clone(),
            format!("{}/{}", listener.address, listener.protocol),
            listener.connections_active.to_string(),
            format::count(listener.connections as f64),
            format::count(listener.failed as f64),
            format::count(listener.refused as f64),
            format::count(listener.dropped as f64),
            format::bytes(listener.received_bytes as f64),
            format::bytes(listener.sent_bytes as f64),
        ]
    });
    output::columns(&headings, rows)
}

/// The certificates that clients are shown, as they are at this second.
fn certificates_text(certificates: &[CertificateView], now: f64) -> String {
    let headings = [
        Column::Words("CERTIFICATE"),
        Column::Words("SHOWN BY"),
        Column::Words("ENDS"),
        Column::Words("FROM"),
    ];
    let rows = certificates.iter().map(|certificate| {
        let names = match certificate.names.as_slice() {
            [] => certificate.subject.clone(),
            [name] => name.clone(),
            [name, rest @ ..] => format!("{name} and {} more", rest.len()),
        };
        let left = (certificate.not_after_seconds as f64 - now) / 86_400.0;
        let ends = match left {
            left if left < 0.0 => format!("{:.0} days ago", -left),
            left => format!("in {left:.0} days"),
        };
        vec![
            names,
            certificate.used_by.clone(),
            ends,
            certificate.source.clone(),
        ]
    });
    output::columns(&headings, rows)
}

/// A service: what the kernel does with it, what the proxies do, or both.
fn service_text(service: &ServiceView) -> String {
    let in_kernel = service.proxy.is_none() || !service.listeners.is_empty();
    let mut text = String::new();
    if in_kernel {
        let (name, mode, selection) = (&service.name, &service.mode, &service.selection);
        let _ = writeln!(text, "{name}  {mode}  {selection}");
        text.push_str(&flows_text(service));
    }
    if let Some(proxy) = &service.proxy {
        text.push_str(&requests_text(service, proxy));
    }
    text
}

/// A service as the proxies use it.
fn requests_text(service: &ServiceView, proxy: &ProxyServiceView) -> String {
    let mut text = format!("{}  proxy  {}", service.name, proxy.policy);
    if proxy.waiting > 0 {
        let _ = write!(text, "  {} waiting", proxy.waiting);
    }
    if proxy.retries > 0 {
        let _ = write!(text, "  {} retries", format::count(proxy.retries as f64));
    }
    if let Some(circuit) = proxy.circuit.as_ref().filter(|it| it.state != "closed") {
        let _ = write!(text, "  circuit {}", circuit.state);
    }
    if let Some(limit) = &proxy.concurrency {
        let _ = write!(text, "  {} of {} at once", limit.active, limit.limit);
    }
    if proxy.panic {
        text.push_str("  too few are healthy: health is ignored");
    }
    text.push('\n');
    let headings = [
        Column::Words("  BACKEND"),
        Column::Words("ADDRESS"),
        Column::Words("STATE"),
        Column::Number("WEIGHT"),
        Column::Number("ACTIVE"),
        Column::Number("REQUESTS"),
        Column::Number("ERRORS"),
        Column::Number("CONNS"),
        Column::Number("IDLE"),
        Column::Words("WHY"),
    ];
    let rows = service.backends.iter().filter_map(|backend| {
        let known = backend.proxy.as_ref()?;
        let errors = known.errors + known.connect_failures;
        Some(vec![
            format!("  {}", backend.name),
            format::address(&backend.address, backend.port),
            format::state(backend),
            backend.weight.to_string(),
            known.in_flight.to_string(),
            format::count(known.requests as f64),
            format::count(errors as f64),
            known.connections.to_string(),
            known.idle.to_string(),
            backend.why.clone(),
        ])
    });
    text.push_str(&output::columns(&headings, rows));
    text
}

/// A service as the kernel balances it.
fn flows_text(service: &ServiceView) -> String {
    let mut text = String::new();
    for listener in &service.listeners {
        let _ = writeln!(
            text,
            "  {}  {}:{}/{}",
            listener.name,
            format::bracketed(&listener.vip),
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
        vec![
            format!("  {}", backend.name),
            backend.address.clone(),
            format::state(backend),
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
        BackendView, ConfigState, Daemon, FlowTable, InterfaceView, ListenerView, ProxyBackendView,
        ReasonCount, Traffic,
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
                privileges: [("user".to_owned(), "sluice".to_owned())].into(),
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
                proxy: None,
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
privileges  user sluice
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
    fn requests_are_shown_where_the_proxies_serve() {
        let listener = HttpListenerView {
            name: "web".to_owned(),
            address: "0.0.0.0:8080".to_owned(),
            connections: 1200,
            connections_active: 7,
            requests: 12_345,
            requests_active: 2,
            responses: [("2xx".to_owned(), 12_340), ("5xx".to_owned(), 5)].into(),
            refused: 1,
            received_bytes: 1024,
            sent_bytes: 4096,
            ..HttpListenerView::default()
        };
        assert_eq!(
            listeners_text(&[listener]),
            "\
LISTENER  ADDRESS       OPEN  CONNECTIONS  ACTIVE  REQUESTS  5XX  REFUSED        IN       OUT
web       0.0.0.0:8080     7        1.20k       2     12.3k    5        1  1.00 KiB  4.00 KiB
"
        );
        let service = ServiceView {
            name: "app".to_owned(),
            proxy: Some(ProxyServiceView {
                policy: "round-robin".to_owned(),
                waiting: 3,
                ..Default::default()
            }),
            backends: vec![BackendView {
                name: "a".to_owned(),
                address: "2001:db8::1".to_owned(),
                port: Some(80),
                weight: 1,
                state: "up".to_owned(),
                proxy: Some(ProxyBackendView {
                    in_flight: 2,
                    connections: 5,
                    idle: 3,
                    requests: 12_345,
                    errors: 4,
                    connect_failures: 1,
                    ..ProxyBackendView::default()
                }),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(
            service_text(&service),
            "\
app  proxy  round-robin  3 waiting
  BACKEND  ADDRESS           STATE  WEIGHT  ACTIVE  REQUESTS  ERRORS  CONNS  IDLE  WHY
  a        [2001:db8::1]:80  up          1       2     12.3k       5      5     3
"
        );
    }

    #[test]
    fn listeners_of_tcp_and_udp_are_shown() {
        let listener = StreamListenerView {
            name: "db".to_owned(),
            protocol: "tcp".to_owned(),
            address: "0.0.0.0:5432".to_owned(),
            connections: 1200,
            connections_active: 7,
            failed: 3,
            refused: 2,
            dropped: 0,
            received_bytes: 1024,
            sent_bytes: 4096,
        };
        assert_eq!(
            streams_text(&[listener]),
            "\
LISTENER  ADDRESS           OPEN  CONNECTIONS  FAILED  REFUSED  DROPPED        IN       OUT
db        0.0.0.0:5432/tcp     7        1.20k       3        2        0  1.00 KiB  4.00 KiB
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
