//! One trace from packet to status: a real client through the driver, TLS, a route, and a backend that does
//! not answer before one that does.
//!
//! The balancer's host serves the VIP itself: an l4 listener of mode `local`, through which the packet
//! path sees the client, and an HTTP listener with TLS behind it.

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use proxy_common::trace::threshold;
use proxy_tests::certificates::Authority;
use proxy_tests::config::BACKEND_WEB_PORT;
use proxy_tests::netns::Namespace;
use proxy_tests::path::Path;
use proxy_tests::stage::{Stage, StageSpec};
use proxy_tests::{privilege, wait};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// Port of the HTTP listener.
const PORT: u16 = 8443;

/// Port of the listener that passes TCP on.
const TUNNEL_PORT: u16 = 8444;

/// Where the collector listens.
const COLLECTOR: &str = "127.0.0.1:4318";

/// A stage with the listeners, whose certificate is in `folder`. Every flow is traced.
fn stage(path: Path, folder: &TempDir, more: Value) -> StageSpec {
    let authority = Authority::new("test");
    let (certificate, key) = authority
        .issue(&["shop.example"])
        .write(folder.path(), "shop");
    Stage::new(path).config(move |config| {
        let vip = config["listeners"][0]["address"].clone();
        config["l4"]["sample_every"] = json!(1);
        let listeners = config["listeners"].as_array_mut();
        listeners.expect("a list").extend([
            json!({ "name": "driver", "kind": "l4", "address": vip, "port": PORT, "service": "web" }),
            json!({
                "name": "edge", "kind": "http", "address": vip, "port": PORT,
                "tls": { "certificates": [{ "certificate": certificate, "key": key }] },
            }),
            json!({
                "name": "raw", "kind": "tcp", "address": vip, "port": TUNNEL_PORT, "service": "origin",
            }),
        ]);
        config["routes"] = json!([
            { "name": "shop", "match": ["/"], "service": "shop" },
        ]);
        let origin = format!("127.0.0.1:{BACKEND_WEB_PORT}");
        let services = config["services"].as_array_mut().expect("a list");
        services.push(json!({
            "name": "shop",
            "backends": [
                { "name": "dead", "address": "127.0.0.1:1" },
                { "name": "alive", "address": origin },
            ],
        }));
        services.push(json!({ "name": "origin", "backends": [{ "name": "alive", "address": origin }] }));
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
    })
}

/// Fetches a path of the shop with curl; returns the status.
fn curl(stage: &Stage, path: &str, more: &[&str]) -> Result<String> {
    let vip = stage.web().ip();
    let address = SocketAddr::new(vip, PORT).to_string();
    let target = address.rsplit_once(':').context("a port")?.0;
    let resolve = format!("shop.example:{PORT}:{target}");
    let url = format!("https://shop.example:{PORT}{path}");
    let mut args = vec![
        "--insecure",
        "--resolve",
        &resolve,
        "--write-out",
        "%{http_code}",
    ];
    args.extend(["--output", "/dev/null", "--no-fail"]);
    args.extend(more);
    args.push(&url);
    stage.client().curl(&args)
}

/// The stages that were noted so far and that these filters want.
fn noted(stage: &Stage, filters: &[&str]) -> Result<Vec<Value>> {
    let mut words = vec!["observe", "--json", "--last", "1000", "--sample", "1/1"];
    words.extend(filters);
    let text = stage.daemon().sluice(&words)?;
    let lines = text.lines().map(|line| Ok(serde_json::from_str(line)?));
    lines.collect()
}

/// As [`noted`], once something was.
fn seen(stage: &Stage, filters: &[&str]) -> Result<Vec<Value>> {
    let mut stages = Vec::new();
    wait::until("it is observed", || {
        stages = noted(stage, filters)?;
        Ok(!stages.is_empty())
    })?;
    Ok(stages)
}

fn names(stages: &[Value]) -> Vec<&str> {
    let names = stages.iter().map(|stage| stage["stage"].as_str());
    names.map(Option::unwrap_or_default).collect()
}

/// Each packet of a flow is a stage, and how many come before the accept is up to the scheduler; the
/// first one opens the flow.
fn keep_first_packet(stages: &mut Vec<Value>) {
    let mut is_first = true;
    stages.retain(|stage| stage["stage"] != "packet" || std::mem::take(&mut is_first));
}

fn of<'v>(stages: &'v [Value], name: &str) -> Result<&'v Value> {
    let found = stages.iter().find(|stage| stage["stage"] == name);
    found.with_context(|| format!("no {name} in {stages:#?}"))
}

fn a_flow_has_one_id_from_packet_to_status(path: Path) -> Result<()> {
    if privilege::program("curl", "curl")?.is_none() {
        return Ok(());
    }
    let folder = TempDir::new()?;
    let stage = stage(path, &folder, json!({})).start()?;
    // Backends take turns, so one of two requests meets the dead one first.
    for number in 0..2 {
        let status = curl(&stage, "/name", &[])?;
        ensure!(status == "200", "request {number}: {status}");
    }
    let mut stages = Vec::new();
    wait::until("a request was tried again", || {
        let all = noted(&stage, &["--path", "/name"])?;
        let retried = all.iter().find(|stage| stage["retry"].is_string());
        let id = retried.map(|stage| stage["id"].clone());
        stages = all
            .into_iter()
            .filter(|it| Some(&it["id"]) == id.as_ref())
            .collect();
        Ok(stages.iter().any(|stage| stage["stage"] == "status"))
    })?;
    keep_first_packet(&mut stages);
    let first: Vec<&str> = names(&stages).into_iter().take(8).collect();
    ensure!(
        first
            == [
                "packet", "accept", "tls", "request", "route", "attempt", "attempt", "status"
            ],
        "{stages:#?}"
    );
    let packet = of(&stages, "packet")?;
    ensure!(
        packet["verdict"] == "pass"
            && packet["reason"] == "local_service"
            && packet["service"] == "web"
            && packet["mode"] == "local"
            && packet["flags"] == "syn",
        "{packet}"
    );
    ensure!(of(&stages, "accept")?["listener"] == "edge");
    let tls = of(&stages, "tls")?;
    ensure!(
        tls["version"] == "TLSv1.3" && tls["server_name"] == "shop.example" && tls["alpn"] == "h2",
        "{tls}"
    );
    let request = of(&stages, "request")?;
    ensure!(
        request["host"] == "shop.example"
            && request["path"] == "/name"
            && request["request"] == 1
            && request["stream"] == 1,
        "{request}"
    );
    ensure!(of(&stages, "route")?["route"] == "shop");
    let (dead, alive) = (&stages[5], &stages[6]);
    ensure!(
        dead["backend"] == "dead" && dead["end"] == "connect_failed",
        "{dead}"
    );
    ensure!(
        alive["backend"] == "alive" && alive["status"] == 200 && alive["retry"].is_string(),
        "{alive}"
    );
    ensure!(of(&stages, "status")?["status"] == 200);
    filters_look_at_the_flow_as_a_whole(&stage)?;
    a_tunnel_is_a_flow_as_well(&stage)
}
on_paths!(a_flow_has_one_id_from_packet_to_status:
    local_v4 = LOCAL_V4,
    local_v6 = LOCAL_V6,
);

/// After requests for `/name` that were answered with 200.
fn filters_look_at_the_flow_as_a_whole(stage: &Stage) -> Result<()> {
    let status = curl(stage, "/nothing-here", &[])?;
    ensure!(status == "404", "{status}");
    let mut missing = seen(stage, &["--status", "4xx"])?;
    keep_first_packet(&mut missing);
    ensure!(names(&missing)[..2] == ["packet", "accept"], "{missing:#?}");
    ensure!(of(&missing, "status")?["status"] == 404);
    let ids: BTreeSet<String> = missing.iter().map(|it| it["id"].to_string()).collect();
    ensure!(ids.len() == 1, "{missing:#?}");
    let id = missing[0]["id"].as_str().context("an id")?;
    let source = missing[0]["source"].as_str().context("an address")?;
    let source: SocketAddr = source.parse()?;
    for filters in [
        &["--id", id][..],
        &["--source", &source.ip().to_string(), "--listener", "edge"],
        &["--host", "shop.example", "--path", "/nothing"],
        &["--route", "shop", "--service", "web", "--status", "404"],
        &[
            "--verdict",
            "pass",
            "--reason",
            "local_service",
            "--service",
            "shop",
        ],
    ] {
        let found = noted(stage, filters)?;
        ensure!(
            found.iter().any(|it| it["id"] == missing[0]["id"]),
            "{filters:?} {found:#?}"
        );
    }
    for filters in [
        &["--status", "5xx"][..],
        &["--source", "203.0.113.0/24"],
        &["--verdict", "drop"],
        &["--route", "other"],
        &["--path", "/else"],
        &["--service", "web", "--listener", "other"],
    ] {
        let found = noted(stage, filters)?;
        ensure!(found.is_empty(), "{filters:?} {found:#?}");
    }
    let text = stage
        .daemon()
        .sluice(&["observe", "--last", "1", "--status", "404", "--sample", "1"])?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(lines[0].contains(id), "{text}");
    ensure!(text.contains("tls") && text.contains("404"), "{text}");
    Ok(())
}

fn a_tunnel_is_a_flow_as_well(stage: &Stage) -> Result<()> {
    let to = SocketAddr::new(stage.web().ip(), TUNNEL_PORT);
    ensure!(stage.client().get(to, "/name")?.status == 200);
    let stages = seen(stage, &["--listener", "raw"])?;
    // No l4 listener is there: the packet is let pass as anybody's, under the same id.
    let packet = of(&stages, "packet")?;
    ensure!(packet["reason"] == "not_service", "{packet}");
    let tunnel = of(&stages, "tunnel")?;
    ensure!(
        tunnel["service"] == "origin" && tunnel["sent_bytes"].as_u64() > Some(0),
        "{tunnel}"
    );
    ensure!(tunnel["id"] == packet["id"]);
    Ok(())
}

fn tracing_ends_with_the_observer(path: Path) -> Result<()> {
    let folder = TempDir::new()?;
    let stage = stage(path, &folder, json!({}))
        .config(|config| config["l4"]["sample_every"] = json!(0))
        .start()?;
    let below = || -> Result<u32> { Ok(stage.daemon().maps()?.settings()?.trace_below) };
    ensure!(below()? == 0);
    let mut observer = stage
        .daemon()
        .command(&["observe", "--sample", "1/7"])?
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    wait::until("one flow in seven is traced", || {
        Ok(below()? == threshold(7))
    })?;
    observer.kill()?;
    observer.wait()?;
    wait::until("none is traced any more", || Ok(below()? == 0))
}
on_paths!(tracing_ends_with_the_observer:
    local_v4 = LOCAL_V4,
    local_v6 = LOCAL_V6,
);

/// A collector of spans.
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    fn start(netns: &Namespace) -> Result<Self> {
        let listener = netns.run(|| TcpListener::bind(COLLECTOR))?;
        let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
        let taken = Arc::clone(&spans);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever is cut off has nothing to say.
                let _ = take(stream, &taken);
            }
        });
        Ok(Self { spans })
    }

    /// All spans of the trace that has a span of this name for this path.
    fn trace_of(&self, path: &str) -> Vec<Span> {
        let spans = self.spans.lock().expect("no panic");
        let server = spans
            .iter()
            .find(|span| text(span, "url.path").as_deref() == Some(path));
        let Some(server) = server else {
            return Vec::new();
        };
        let all = spans.iter().filter(|it| it.trace_id == server.trace_id);
        all.cloned().collect()
    }
}

/// Takes the requests of a connection.
fn take(mut stream: std::net::TcpStream, spans: &Mutex<Vec<Span>>) -> Result<()> {
    let mut octets = Vec::new();
    loop {
        let end = octets.windows(4).position(|four| four == b"\r\n\r\n");
        let head = end.map(|end| String::from_utf8_lossy(&octets[..end]).to_lowercase());
        let length = head.as_deref().and_then(|head| {
            let line = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"));
            line?.trim().parse::<usize>().ok()
        });
        if let (Some(end), Some(length)) = (end, length)
            && octets.len() >= end + 4 + length
        {
            let body = &octets[end + 4..end + 4 + length];
            let request = ExportTraceServiceRequest::decode(body)?;
            octets.drain(..end + 4 + length);
            let resources = request.resource_spans.into_iter();
            let scopes = resources.flat_map(|resource| resource.scope_spans);
            let all = scopes.flat_map(|scope| scope.spans);
            spans.lock().expect("no panic").extend(all);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
        let mut buffer = [0; 16 << 10];
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => octets.extend_from_slice(&buffer[..read]),
        }
    }
}

fn text(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|it| it.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Attribute::StringValue(text) => Some(text.clone()),
        other => Some(format!("{other:?}")),
    }
}

fn a_flows_spans_are_one_tree_from_packet_to_attempts(path: Path) -> Result<()> {
    if privilege::program("curl", "curl")?.is_none() {
        return Ok(());
    }
    let folder = TempDir::new()?;
    let tracing = json!({ "endpoint": format!("http://{COLLECTOR}"), "flow_every": 1 });
    let mut stage = stage(path, &folder, json!({ "tracing": tracing }))
        .config(|config| config["l4"]["sample_every"] = json!(0))
        .build()?;
    let collector = Collector::start(&stage.topology.balancer)?;
    stage.start_daemon()?;
    ensure!(curl(&stage, "/name", &[])? == "200");
    let mut spans = Vec::new();
    wait::until("the collector has all spans", || {
        spans = collector.trace_of("/name");
        Ok(spans.len() >= 5)
    })?;
    let named = |name: &str| {
        let found = spans.iter().find(|span| span.name == name);
        found.with_context(|| format!("no {name} in {spans:#?}"))
    };
    let (packet, accept) = (named("packet")?, named("accept")?);
    let (tls, server) = (named("TLS handshake")?, named("GET /")?);
    ensure!(packet.parent_span_id.is_empty(), "{packet:#?}");
    ensure!(accept.parent_span_id == packet.span_id, "{accept:#?}");
    ensure!(tls.parent_span_id == accept.span_id, "{tls:#?}");
    ensure!(server.parent_span_id == accept.span_id, "{server:#?}");
    let attempt = spans.iter().find(|it| it.parent_span_id == server.span_id);
    ensure!(attempt.is_some(), "{spans:#?}");
    let id = text(packet, "sluice.flow.id").context("an id")?;
    for span in [accept, tls, server] {
        ensure!(
            text(span, "sluice.flow.id").as_ref() == Some(&id),
            "{span:#?}"
        );
    }
    let trace: String = packet
        .trace_id
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect();
    ensure!(trace.starts_with(&id), "{trace} {id}");
    ensure!(text(packet, "sluice.reason").as_deref() == Some("local_service"));
    ensure!(text(tls, "tls.protocol.version").as_deref() == Some("1.3"));
    ensure!(packet.start_time_unix_nano <= accept.end_time_unix_nano);

    // A client's trace goes on, and refers to the connection's.
    let theirs = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    ensure!(curl(&stage, "/status", &["--header", theirs])? == "200");
    let mut server = None;
    wait::until("the collector has the client's trace", || {
        let all = collector.trace_of("/status");
        server = all.into_iter().find(|span| span.name == "GET /");
        Ok(server.is_some())
    })?;
    let server = server.context("a span")?;
    ensure!(server.trace_id.starts_with(&[0x4b, 0xf9]), "{server:#?}");
    ensure!(server.links.len() == 1, "{server:#?}");
    let linked = &server.links[0];
    let id = text(&server, "sluice.flow.id").context("an id")?;
    let trace: String = linked
        .trace_id
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect();
    ensure!(trace.starts_with(&id), "{trace} {id}");
    Ok(())
}
on_paths!(a_flows_spans_are_one_tree_from_packet_to_attempts:
    local_v4 = LOCAL_V4,
    local_v6 = LOCAL_V6,
);
