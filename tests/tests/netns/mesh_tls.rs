//! Redirected connections by TLS: who gets them goes by the name that the client asks for, and nobody
//! but the two ends can read them.

use crate::mesh::{Family, Program, Scene, V4, V6, at, config, serve};
use anyhow::{Context as _, Result, ensure};
use proxy_tests::certificates::Authority;
use proxy_tests::daemon::Daemon;
use proxy_tests::wait;
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use tempfile::TempDir;

/// The port that is dialled, and that of the service.
const PORT: u16 = 8443;
const CANARY_PORT: u16 = 8444;

/// A web server with TLS that says its name and that which it was asked for.
const SERVER: &str = "
import http.server, socket, ssl, sys
name, address, port, certificate, key = sys.argv[1:]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        body = (name + ' ' + str(self.connection.asked)).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *rest): pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ':' in address else socket.AF_INET
    # One that opens and leaves does not hold up the others.
    def finish_request(self, request, client):
        try: super().finish_request(context.wrap_socket(request, server_side=True), client)
        except OSError: pass
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
def note(sock, asked, _): sock.asked = asked
context.sni_callback = note
Server((address, int(port)), Handler).serve_forever()
";

/// Starts such a server.
fn server(scene: &Scene, name: &str, at: SocketAddr, issued: &[String; 2]) -> Result<Program> {
    let (address, port) = (at.ip().to_string(), at.port().to_string());
    let [certificate, key] = issued;
    let args = ["-c", SERVER, name, &address, &port, certificate, key];
    serve(&scene.net, "python3", &args, at)
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).context("a path")
}

fn by_name(family: Family) -> Result<()> {
    let Some(scene) = Scene::set()? else {
        return Ok(());
    };
    let folder = TempDir::new()?;
    let authority = Authority::new("mesh");
    let issued = authority.issue(&["shop.example", "canary.example"]);
    let (certificate, key) = issued.write(folder.path(), "both");
    let issued = [text(&certificate)?, text(&key)?];
    let trusted = folder.path().join("trusted.pem");
    fs::write(&trusted, authority.pem())?;
    let trusted = text(&trusted)?;
    let (dialled, canary) = (at(family.server, PORT), at(family.other, CANARY_PORT));
    let _shop = server(&scene, "shop", dialled, &issued)?;
    let _canary = server(&scene, "canary", canary, &issued)?;

    let log = tempfile::NamedTempFile::new()?;
    let mesh = json!({
        "cgroups": [scene.shop.path()],
        "names": [{"hosts": ["canary.example"], "service": "canary"}],
    });
    let more = json!({"services": [{"name": "canary", "backends": [canary.to_string()]}]});
    let mut config = config(family.loopback, mesh, more);
    config["listeners"][0]["access_log"] = json!({"to": log.path()});
    let daemon = Daemon::start(&scene.host, &config)?;
    // Whom curl trusts is the server: nobody else can have been asked.
    let ask = |name: &str| {
        let resolve = format!("{name}:{PORT}:{}", bracketed(family.server));
        let url = format!("https://{name}:{PORT}/");
        scene.curl(&["--cacert", &trusted, "--resolve", &resolve, &url])
    };
    ensure!(ask("canary.example")? == "canary canary.example");
    ensure!(ask("shop.example")? == "shop shop.example");
    // Nobody is named: it goes where it was to go.
    let url = format!("https://{dialled}/");
    ensure!(scene.curl(&["--insecure", &url])? == "shop None");

    let mesh = daemon.status()?.mesh.context("something is redirected")?;
    let seen = &mesh.listeners[0].protocols;
    ensure!(seen.get("tls") == Some(&3), "{seen:?}");
    let mut lines: Vec<Value> = Vec::new();
    wait::until("the log has each connection", || {
        let text = fs::read_to_string(log.path())?;
        lines = text.lines().flat_map(serde_json::from_str).collect();
        Ok(lines.len() == 3)
    })?;
    for (name, server) in [
        (json!("canary.example"), canary),
        (json!("shop.example"), dialled),
        (Value::Null, dialled),
    ] {
        let mut fit = lines.iter().filter(|line| {
            line["tls_server_name"] == name
                && line["workload"] == scene.shop.path()
                && line["server"] == dialled.to_string()
                && line["upstream"][0]["address"] == server.to_string()
        });
        ensure!(fit.next().is_some(), "{name} to {server}: {lines:#?}");
    }
    // Who is to be refused that nobody is named for is.
    config["listeners"][0]["mesh"]["unmatched"] = json!("refuse");
    // A listener must have something to say to requests then.
    config["routes"] = json!([{"name": "own", "match": ["/own"], "respond": {"status": 200}}]);
    daemon.reload(&config)?;
    ensure!(ask("canary.example")? == "canary canary.example");
    ensure!(ask("shop.example").is_err(), "nobody is for it");
    Ok(())
}

/// An address as curl's `--resolve` wants it.
fn bracketed(address: &str) -> String {
    match address.contains(':') {
        true => format!("[{address}]"),
        false => address.to_owned(),
    }
}
on_families!(by_name:
    connections_by_tls_go_by_name_undecrypted_v4 = V4,
    connections_by_tls_go_by_name_undecrypted_v6 = V6,
);
