//! `sluice explain`.

use crate::cli::args::{self, ConfigArgs, FormatArgs, SocketArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::config;
use crate::config::model::Config;
use crate::explain::flow::{explain_flow, explain_tls};
use crate::explain::{
    Asked, DialExplained, ExplainError, Flow, FlowExplained, Hello, Layer, OctetsExplained,
    RequestExplained, ServiceExplained, ServiceNow, TlsExplained, connection, explain_request,
};
use crate::observe::view::View;
use crate::types::Protocol;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

/// Say which listener, route and service a request or a flow gets, and why
///
/// Nothing is sent, and nothing has to run: the file is read, and the engine's own parser, router
/// and balancer are asked. Routes that come before the one that serves are shown in the order in which they are
/// considered, each with the reason why it does not match.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice explain -c sluice.yaml http://shop.example.com/items/7
  sluice explain -c sluice.yaml POST http://shop.example.com/items -H 'X-Test: 1' --source 192.0.2.9
  sluice explain -c sluice.yaml 'GET /items HTTP/1.0' -H 'Host: shop.example.com' --listener web
  sluice explain -c sluice.yaml --tcp 192.0.2.9:40000 198.51.100.10:80
  sluice explain -c sluice.yaml --tcp 192.0.2.9:40000 198.51.100.10:443 --server-name shop.example.com
  sluice explain --running http://127.0.0.1:8080/ --json

Exit code: 0 if it is served, 1 if it is refused, dropped, or nobody's.")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// What the daemon has in force, not what is in the file; and how its services are at the moment
    #[arg(long)]
    running: bool,
    /// [METHOD] URL, or a request line; the method is GET if there is none
    #[arg(value_name = "REQUEST", required_unless_present_any = ["tcp", "udp"], conflicts_with_all = ["tcp", "udp"])]
    request: Vec<String>,
    /// A field of the request. May be given more than once
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = field)]
    header: Vec<(String, String)>,
    /// Address of the client (or of the proxy before us)
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    source: IpAddr,
    /// The cgroup of the program that asks, where its connections are redirected
    #[arg(long, value_name = "PATH")]
    workload: Option<String>,
    /// The listener, where the URL's port does not tell
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// A TCP connection instead of a request: from where, and to where
    #[arg(long, num_args = 2, value_names = ["SOURCE", "DESTINATION"], conflicts_with = "udp")]
    tcp: Vec<SocketAddr>,
    /// UDP datagrams instead of a request: from where, and to where
    #[arg(long, num_args = 2, value_names = ["SOURCE", "DESTINATION"])]
    udp: Vec<SocketAddr>,
    /// With --tcp: whom a client of TLS asks for (SNI)
    #[arg(long, value_name = "NAME", requires = "tcp")]
    server_name: Option<String>,
    /// With --tcp: the protocols that it offers (ALPN), such as h2,http/1.1
    #[arg(
        long,
        value_name = "PROTOCOLS",
        value_delimiter = ',',
        requires = "tcp"
    )]
    alpn: Vec<String>,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    socket: SocketArgs,
}

/// `Name: value`, as in a request.
fn field(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) => Ok((name.to_owned(), value.trim().to_owned())),
        None => Err("write a name, a colon and a value, such as 'X-Test: 1'".to_owned()),
    }
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let config = self.load()?;
        let flow = match (self.tcp.as_slice(), self.udp.as_slice()) {
            ([source, destination], _) => Some((Protocol::Tcp, *source, *destination)),
            (_, [source, destination]) => Some((Protocol::Udp, *source, *destination)),
            _ => None,
        };
        if let Some((protocol, source, destination)) = flow {
            let flow = Flow {
                protocol,
                source,
                destination,
            };
            let hello = Hello {
                server_name: self.server_name.clone(),
                alpn: self.alpn.clone(),
            };
            self.print_flow(explain_tls(&config, &flow, &hello))
        } else {
            let asked = self.asked()?;
            // The kernel part sees packets first: what it takes is no request to anybody here.
            let taken = connection(&asked).map(|flow| explain_flow(&config, &flow));
            if let Some(taken) = taken.filter(|taken| taken.layer == Layer::Kernel) {
                return self.print_flow(taken);
            }
            let mut explained = explain_request(&config, &asked).map_err(failure)?;
            if let Some(view) = self.view()? {
                explained.tell_now(&view);
            }
            let is_served = explained.route.is_some();
            self.print(&explained, is_served, request_text)
        }
    }

    fn print_flow(&self, mut explained: FlowExplained) -> Result<Exit, Failure> {
        if let Some(view) = self.view()? {
            explained.tell_now(&view);
        }
        let passes = explained.guard.as_ref().is_none_or(|judged| judged.passes);
        let is_taken = explained.listener.is_some() && explained.refused.is_none();
        self.print(&explained, is_taken && passes, flow_text)
    }

    /// What a running daemon says of itself, if that was asked for.
    fn view(&self) -> Result<Option<View>, Failure> {
        if !self.running {
            return Ok(None);
        }
        args::block_on(async { Ok(Some(self.socket.client().get("status").await?)) })
    }

    fn print<T: serde::Serialize>(
        &self,
        explained: &T,
        is_served: bool,
        text: impl Fn(&T) -> String,
    ) -> Result<Exit, Failure> {
        output::show(self.format.output(), explained, text)?;
        Ok(if is_served { Exit::Done } else { Exit::Failed })
    }

    fn load(&self) -> Result<Config, Failure> {
        if !self.running {
            return args::load(&self.config.path()?);
        }
        let text = args::block_on(async { Ok(self.socket.client().text("config").await?) })?;
        let loaded = config::parse("what the daemon has in force", &text);
        let loaded = loaded.map_err(|errors| Failure::new(Exit::Failed, errors.pretty(false)))?;
        Ok(loaded.config)
    }

    fn asked(&self) -> Result<Asked, Failure> {
        let words = self.request.iter().flat_map(|word| word.split(' '));
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        let (method, target, version) = match words.as_slice() {
            [target] => ("GET", *target, "HTTP/1.1"),
            [method, target] => (*method, *target, "HTTP/1.1"),
            [method, target, version] => (*method, *target, *version),
            _ => {
                let error = "write METHOD URL, or a request line in quotes";
                return Err(Failure::new(Exit::Usage, error));
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Asked {
            method: method.to_owned(),
            target: target.to_owned(),
            version: version.to_owned(),
            fields: self.header.clone(),
            source: self.source,
            workload: self.workload.clone(),
            listener: self.listener.clone(),
            now: now.map_or(0, |now| now.as_secs()),
        })
    }
}

fn failure(error: ExplainError) -> Failure {
    let hint = match &error {
        ExplainError::NoListener(_) => {
            Some("For a listener of kind l4, tcp or udp ask with --tcp or --udp.")
        }
        ExplainError::Listeners(_) => Some("Name it with --listener."),
        _ => None,
    };
    let failure = Failure::new(Exit::Failed, error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// A line: what it is about, then what there is to say.
fn line(text: &mut String, about: &str, what: &str) {
    let _ = writeln!(text, "{}", format!("{about:<11} {what}").trim_end());
}

fn request_text(explained: &RequestExplained) -> String {
    let mut text = String::new();
    line(&mut text, "request", &explained.request);
    line(&mut text, "client", &explained.client.to_string());
    let listener = format!("{}  http  {}", explained.listener, explained.address);
    line(&mut text, "listener", &listener);
    if !explained.other_listeners.is_empty() {
        let others = explained.other_listeners.join(", ");
        line(&mut text, "", &format!("(or {others}: see --listener)"));
    }
    line(&mut text, "layer", "user space: the proxy");
    if let Some(mesh) = &explained.mesh {
        line(&mut text, "mesh", mesh);
    }
    tls_text(&mut text, explained.tls.as_ref());
    octets_text(&mut text, explained.octets.as_ref());
    if let Some(refused) = &explained.refused {
        let what = format!(
            "{} {}, before routes are looked at",
            refused.status, refused.reason
        );
        line(&mut text, "refused", &what);
        return text;
    }
    text.push('\n');
    rules(&mut text, explained);
    let Some(route) = &explained.route else {
        let passes = |mesh: &String| mesh.contains("goes where it was to go");
        let answer = match explained.mesh.as_ref().is_some_and(passes) {
            true => "none: it goes where it was to go",
            false => "404: no route matches",
        };
        line(&mut text, "answer", answer);
        return text;
    };
    text.push('\n');
    if let Some(answer) = &route.answer {
        line(&mut text, "answer", answer);
    }
    if let Some(forwarded) = &route.forwarded {
        line(&mut text, "sent on as", forwarded);
    }
    if let Some(sticky) = &route.sticky {
        line(&mut text, "split", &format!("kept by {sticky}, else drawn"));
    }
    for (index, filter) in route.filters.iter().enumerate() {
        line(&mut text, if index == 0 { "filters" } else { "" }, filter);
    }
    for service in &route.services {
        text.push('\n');
        service_text(&mut text, service);
    }
    text
}

fn tls_text(text: &mut String, explained: Option<&TlsExplained>) {
    let Some(tls) = explained else { return };
    line(text, "tls", &tls.strategy);
    if let (Some(certificate), Some(because)) = (&tls.certificate, &tls.because) {
        line(text, "certificate", &format!("{certificate}  ({because})"));
    }
    if !tls.others.is_empty() {
        let others = tls.others.join(", ");
        line(
            text,
            "",
            &format!("(clients that cannot check it get {others})"),
        );
    }
    if let Some(refused) = &tls.refused {
        line(text, "refused", refused);
    }
    if let Some(clients) = &tls.clients {
        line(text, "clients", clients);
    }
    for (index, backends) in tls.backends.iter().enumerate() {
        line(text, if index == 0 { "backends" } else { "" }, backends);
    }
}

fn octets_text(text: &mut String, explained: Option<&OctetsExplained>) {
    let Some(octets) = explained else { return };
    let by = |word| match word {
        "off" => "by TCP".to_owned(),
        word => format!("past TCP on this host ({word})"),
    };
    line(
        text,
        "octets",
        &format!("of clients {}", by(octets.clients)),
    );
    if let Some(backends) = octets.backends {
        line(text, "", &format!("of backends {}", by(backends)));
    }
    let tunnels = format!("of tunnels {} (splice: {})", octets.tunnels, octets.splice);
    line(text, "", &tunnels);
}

fn rules(text: &mut String, explained: &RequestExplained) {
    for (index, rule) in explained.considered.iter().enumerate() {
        let about = match (rule.serves, index) {
            (true, _) => "route",
            (false, 0) => "considered",
            (false, _) => "",
        };
        let host = rule.host.as_deref().unwrap_or("any host");
        let asks = rule.asks.join(", ");
        line(text, about, &format!("{}  ({host}, {asks})", rule.route));
        if let Some(because) = &rule.because {
            line(text, "", &format!("  no: {because}"));
        }
    }
    match explained.other_hosts {
        0 => {}
        1 => line(text, "", "(1 more is for other hosts)"),
        n => line(text, "", &format!("({n} more are for other hosts)")),
    }
}

fn service_text(text: &mut String, service: &ServiceExplained) {
    let share = service.share.map_or_else(String::new, |share| {
        format!("  {:.1} % of requests", 100.0 * share)
    });
    let head = format!(
        "{}  {}  {}{share}",
        service.name, service.protocol, service.policy
    );
    line(text, "service", &head);
    line(text, "chosen", &service.choice_by);
    if let Some(cookie) = &service.sticky_cookie {
        line(
            text,
            "",
            &format!("but by cookie {cookie}, where it names one"),
        );
    }
    if let Some(word) = service.accelerate {
        let what = format!("backends on this host past TCP ({word})");
        line(text, "accelerated", &what);
    }
    if let Some(choice) = &service.choice {
        line(
            text,
            "backend",
            &format!("{choice}, as long as it is healthy"),
        );
    }
    for (index, one) in service.candidates.iter().enumerate() {
        let about = if index == 0 { "candidates" } else { "" };
        let mut what = match one.backend == one.address {
            true => one.backend.clone(),
            false => format!("{} {}", one.backend, one.address),
        };
        let _ = write!(what, "  weight {}", one.weight);
        if one.tier > 0 {
            what.push_str("  backup");
        }
        if let Some(zone) = &one.zone {
            let _ = write!(what, "  zone {zone}");
        }
        if let Some(limit) = one.limit {
            let _ = write!(what, "  at most {limit} requests");
        }
        line(text, about, &what);
    }
    for name in &service.names {
        line(text, "", &format!("those that DNS names for {name}"));
    }
    if service.queue > 0 {
        line(
            text,
            "queue",
            &format!("{} may wait while all are busy", service.queue),
        );
    }
    if service.attempts > 1 && !service.retried_on.is_empty() {
        let (most, on) = (service.attempts, service.retried_on.join(", "));
        line(text, "retries", &format!("up to {most} attempts, on {on}"));
    }
    now_text(text, service.now.as_ref());
}

/// How a service is at the moment.
fn now_text(text: &mut String, now: Option<&ServiceNow>) {
    let Some(now) = now else {
        return;
    };
    let backends = now.backends.iter().map(|backend| {
        let says: Vec<&str> = [backend.state.as_str()]
            .into_iter()
            .chain(backend.says.iter().map(String::as_str))
            .collect();
        format!("{}  {}", backend.backend, says.join(", "))
    });
    let all = now.says.iter().cloned().chain(backends);
    for (index, what) in all.enumerate() {
        line(text, if index == 0 { "now" } else { "" }, &what);
    }
}

const fn layer(layer: Layer) -> &'static str {
    match layer {
        Layer::Kernel => "kernel: XDP, before the network stack",
        Layer::Sockets => "sockets: at connect() of this host's workloads, and for nobody else",
        Layer::UserSpace => "user space: the proxy",
        Layer::Host => "this host",
    }
}

fn dialled_text(text: &mut String, dialled: &DialExplained) {
    let whose = format!("workloads of {}", dialled.cgroups.join(", "));
    line(
        text,
        "at connect()",
        &format!("{whose}: {}", dialled.choice_by),
    );
    let settings = format!(
        "on_backend_loss {}, without_backend {}",
        dialled.on_backend_loss, dialled.without_backend
    );
    line(text, "", &settings);
}

fn flow_text(explained: &FlowExplained) -> String {
    let mut text = String::new();
    let flow = format!(
        "{} {} to {}",
        explained.protocol, explained.source, explained.destination
    );
    line(&mut text, "flow", &flow);
    let Some(listener) = &explained.listener else {
        line(&mut text, "layer", "this host: no listener takes it");
        return text;
    };
    let because = explained.because.as_deref().unwrap_or_default();
    line(
        &mut text,
        "listener",
        &format!("{listener}  (by {because})"),
    );
    if !explained.hidden.is_empty() {
        let hidden = explained.hidden.join(", ");
        line(&mut text, "", &format!("it comes before {hidden}"));
    }
    line(&mut text, "layer", layer(explained.layer));
    tls_text(&mut text, explained.tls.as_ref());
    octets_text(&mut text, explained.octets.as_ref());
    if let Some(judged) = &explained.guard {
        let word = if judged.passes { "passes" } else { "dropped" };
        line(&mut text, "guard", &format!("{word}: {}", judged.because));
    }
    if let Some(refused) = &explained.refused {
        line(&mut text, "refused", refused);
    }
    if let Some(dialled) = &explained.at_connect {
        dialled_text(&mut text, dialled);
    }
    if let Some(service) = &explained.service {
        let mode = service.mode.as_deref().map(|mode| format!("  {mode}"));
        let mode = mode.unwrap_or_default();
        line(
            &mut text,
            "service",
            &format!("{}{mode}  {}", service.name, service.selection),
        );
        line(&mut text, "chosen", &service.choice_by);
        if let Some(choice) = &service.choice {
            line(
                &mut text,
                "backend",
                &format!("{choice}, as long as it is healthy"),
            );
        }
        for (index, (name, weight)) in service.candidates.iter().enumerate() {
            let about = if index == 0 { "candidates" } else { "" };
            line(&mut text, about, &format!("{name}  weight {weight}"));
        }
        now_text(&mut text, service.now.as_ref());
    }
    text
}
