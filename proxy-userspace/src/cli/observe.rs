//! `sluice observe`.

use crate::cli::args::{self, FormatArgs, Output, SocketArgs};
use crate::cli::daemon::{Events, Told, query};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::observe::flow::stages::{Attempt, Packet, Status, Tls, Tunnel};
use crate::observe::flow::{FlowStage, ObserveQuery, Stage};
use ipnet::IpNet;
use std::fmt::Write as _;

/// Show what becomes of flows, from the first packet to the status
///
/// A traced flow has one id in the packet path, at the accept, in TLS, and for its requests, so its stages
/// are shown together: the packet's verdict and why, the listener, the handshake, the route, each backend
/// that was tried, and how it ended. Filters look at the flow as a whole: with --status 5xx its first
/// packet is shown as well.
///
/// One flow in so many is traced as long as this command runs. That costs the others nothing; tracing
/// all of them (--sample 1/1) costs more, and loses stages on a busy host, which is said.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice observe --sample 1/1                          all flows, as they come
  sluice observe --sample 1/1 --status 5xx             what has failed, and at which backend
  sluice observe --sample 1/1 --source 203.0.113.7     what does this client see?
  sluice observe --sample 1/1 --verdict drop           packets that are dropped, and why
  sluice observe --sample 1/1 --host shop.example --path /cart
  sluice observe --last 20                             the last flows that were traced, then end
  sluice observe --last 20 --follow                    and then those to come
  sluice observe --id 6f1c0a2b3d4e5f60                 one flow: of a span, a log's trace id, or another line
  sluice observe --sample 1/1 --json | jq -r 'select(.stage == \"status\") | .status'

What a line says:
  packet   interface, TCP flags, verdict and reason, service/backend (mode)
  accept   listener and worker        proxy    client of a PROXY header
  tls      version, cipher, name, protocol, or why it failed
  request  number on its connection, method, URL
  route    name, pattern, service
  attempt  backend: status, or how it ended
  status   status, end and HAProxy's letters, octets, time
  tunnel   the same of TCP and UDP that are passed on")]
pub(super) struct Args {
    /// Trace one flow in N while this command runs; by default as configured, else one in 100
    #[arg(long, value_name = "1/N", value_parser = share)]
    sample: Option<u32>,
    /// Begin with the last N flows that were traced; without --follow, end after them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    last: Option<u32>,
    /// Go on with flows to come; the default without --last
    #[arg(short, long)]
    follow: bool,
    /// Only the flow with this id, or with a trace of this id
    #[arg(long)]
    id: Option<String>,
    /// Only flows of this service
    #[arg(long)]
    service: Option<String>,
    /// Only clients with this address or in this prefix, behind proxies too
    #[arg(long, value_name = "PREFIX", value_parser = args::prefix)]
    source: Option<IpNet>,
    /// Only requests with this status: 404, 5xx, or several with commas between them
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// Only flows with a packet of this verdict
    #[arg(long, alias = "outcome", value_parser = ["pass", "forward", "drop"])]
    verdict: Option<String>,
    /// Only flows with a packet of this reason, see `sluice status --reasons`
    #[arg(long)]
    reason: Option<String>,
    /// Only flows to this listener of the proxies
    #[arg(long)]
    listener: Option<String>,
    /// Only requests that this route matched
    #[arg(long)]
    route: Option<String>,
    /// Only requests for this host, and TLS for it
    #[arg(long)]
    host: Option<String>,
    /// Only requests whose path begins so
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// End after this many stages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    socket: SocketArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        args::block_on(self.observe())
    }

    async fn observe(self) -> Result<Exit, Failure> {
        let wanted = ObserveQuery {
            sample: self.sample,
            last: self.last,
            follow: Some(self.follow || self.last.is_none()),
            id: self.id,
            service: self.service,
            source: self.source.map(|source| source.to_string()),
            status: self.status,
            verdict: self.verdict,
            reason: self.reason,
            listener: self.listener,
            route: self.route,
            host: self.host,
            path: self.path,
        };
        let output = self.format.output();
        let mut events = Events::new(
            self.socket
                .client()
                .stream(&query("observe", &wanted)?)
                .await?,
        );
        if wanted.sample.is_none() && wanted.last.is_none() {
            eprintln!("tracing one flow in 100, or as configured; --sample 1/1 traces all");
        }
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut printer = Printer::default();
        while left > 0 {
            let Some(Told { event, data }) = events.next().await? else {
                break;
            };
            if event == "missed" {
                eprintln!("{data} stages were missed: observe fewer flows, or filter them");
                continue;
            }
            match output {
                Output::Json => output::stream(false, &data)?,
                Output::Yaml => output::stream(true, &data)?,
                Output::Table => match serde_json::from_str::<FlowStage>(&data) {
                    Ok(stage) => output::print(&printer.text(&stage))?,
                    Err(error) => return Err(Failure::new(Exit::Failed, error)),
                },
            }
            left -= 1;
        }
        Ok(Exit::Done)
    }
}

/// `100` or `1/100`.
fn share(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix("1/").unwrap_or(text);
    match number.parse() {
        Ok(every @ 1..) => Ok(every),
        _ => Err("write 1/N, such as 1/1 for all flows and 1/1000 for few".to_owned()),
    }
}

/// Writes the stages of a flow below its name.
#[derive(Debug, Default)]
struct Printer {
    /// Id of the flow that the last line was of, and the time of the first line below its name.
    last: Option<(String, f64)>,
}

impl Printer {
    fn text(&mut self, stage: &FlowStage) -> String {
        let mut text = String::new();
        let since = match &self.last {
            Some((id, since)) if *id == stage.id => *since,
            _ => {
                let _ = writeln!(
                    text,
                    "{} {} {} {} > {}",
                    time_of_day(stage.time_seconds),
                    stage.id,
                    stage.protocol,
                    stage.source,
                    stage.destination
                );
                self.last = Some((stage.id.clone(), stage.time_seconds));
                stage.time_seconds
            }
        };
        let after = (stage.time_seconds - since) * 1e3;
        let (name, said) = said(stage);
        let _ = writeln!(text, "  {after:>+9.3} ms  {name:<8} {said}");
        text
    }
}

fn time_of_day(seconds: f64) -> String {
    let of_day = seconds.rem_euclid(86_400.0);
    let (hours, rest) = (of_day / 3600.0, of_day % 3600.0);
    format!(
        "{:02}:{:02}:{:06.3}",
        hours as u32,
        (rest / 60.0) as u32,
        rest % 60.0
    )
}

fn said(stage: &FlowStage) -> (&'static str, String) {
    let number = stage
        .request
        .map_or(String::new(), |number| format!("#{number} "));
    match &stage.stage {
        Stage::Packet(it) => ("packet", packet(it)),
        Stage::Accept(it) => ("accept", format!("{}, worker {}", it.listener, it.worker)),
        Stage::Proxy(it) => ("proxy", format!("{} > {}", it.client, it.server)),
        Stage::Tls(it) => ("tls", tls(it)),
        Stage::Request(it) => {
            let stream = it.stream.map(|stream| format!(", stream {stream}"));
            let url = format!("{}://{}{}", it.scheme, it.host, it.path);
            let more = format!("HTTP/{}{}", it.version, stream.unwrap_or_default());
            ("request", format!("{number}{} {url} {more}", it.method))
        }
        Stage::Route(it) => {
            let pattern = it.pattern.as_ref().map(|path| format!(" ({path})"));
            let service = it.service.as_ref().map(|name| format!(" > {name}"));
            let (pattern, service) = (pattern.unwrap_or_default(), service.unwrap_or_default());
            ("route", format!("{number}{}{pattern}{service}", it.route))
        }
        Stage::Attempt(it) => ("attempt", format!("{number}{}", attempt(it))),
        Stage::Status(it) => ("status", format!("{number}{}", status(it))),
        Stage::Tunnel(it) => ("tunnel", tunnel(it)),
    }
}

fn packet(it: &Packet) -> String {
    let mut parts = vec![it.interface.clone()];
    if !it.flags.is_empty() {
        parts.push(it.flags.clone());
    }
    parts.push(format!("{} {}", it.verdict, it.reason));
    if let Some(service) = &it.service {
        let backend = it.backend.as_ref().map(|name| format!("/{name}"));
        parts.push(format!("{service}{}", backend.unwrap_or_default()));
    }
    parts.extend(it.mode.as_ref().map(|mode| format!("({mode})")));
    parts.extend(it.between.as_ref().map(|between| format!("[{between}]")));
    parts.push(format!("{} B", it.length));
    parts.join(" ")
}

fn tls(it: &Tls) -> String {
    let took = took(it.seconds);
    if let Some(error) = &it.error {
        return format!("failed: {error} after {took}");
    }
    let mut parts = vec![format!("{} {}", it.version, it.cipher)];
    parts.extend(it.server_name.clone());
    parts.extend(it.alpn.clone());
    if it.resumed {
        parts.push("resumed".to_owned());
    }
    parts.push(took);
    parts.join(", ")
}

fn attempt(it: &Attempt) -> String {
    let service = it.service.as_ref().map(|name| format!("{name}/"));
    let mut text = format!(
        "{}{} {}",
        service.unwrap_or_default(),
        it.backend,
        it.address
    );
    if let Some(retry) = &it.retry {
        let _ = write!(text, ", retry after {retry}");
    }
    match (it.reused, it.connect_seconds) {
        (true, _) => text.push_str(", connection reused"),
        (false, Some(seconds)) => {
            let _ = write!(text, ", connected in {}", took(seconds));
        }
        (false, None) => {}
    }
    let status = it.status.map(|status| format!("{status} "));
    let _ = write!(
        text,
        ": {}{} in {}",
        status.unwrap_or_default(),
        it.end,
        took(it.seconds)
    );
    text
}

fn status(it: &Status) -> String {
    let status = it.status.map_or("none".to_owned(), |it| it.to_string());
    let refusal = it.refusal.as_ref().map(|why| format!(" ({why})"));
    format!(
        "{status} {}{} {}, {} B in, {} B out, {}",
        it.end,
        refusal.unwrap_or_default(),
        it.flags,
        it.received_bytes,
        it.sent_bytes,
        took(it.seconds)
    )
}

fn tunnel(it: &Tunnel) -> String {
    let service = it.service.as_ref().map(|name| format!(" > {name}"));
    let name = it.server_name.as_ref().map(|name| format!(" for {name}"));
    let refusal = it.refusal.as_ref().map(|why| format!(" ({why})"));
    format!(
        "{}{}{}: {}{} {}, {} B in, {} B out, {}",
        it.listener,
        name.unwrap_or_default(),
        service.unwrap_or_default(),
        it.end,
        refusal.unwrap_or_default(),
        it.flags,
        it.received_bytes,
        it.sent_bytes,
        took(it.seconds)
    )
}

/// A short time.
fn took(seconds: f64) -> String {
    match seconds {
        short if short < 1.0 => format!("{:.3} ms", short * 1e3),
        long => format!("{long:.3} s"),
    }
}

#[cfg(test)]
mod tests;
