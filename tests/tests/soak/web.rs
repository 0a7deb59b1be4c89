//! HTTP/1.1, HTTP/2, TLS and WebSocket over connections whose octets the kernel moves.

use crate::peers::{PERIOD, Pattern, Plan, ask, connect, patient, read_some, serve};
use crate::{CLIENTS, How, connections, emptied, turn};
use anyhow::{Context as _, Result, ensure};
use proxy_tests::certificates::Authority;
use proxy_tests::http::Head;
use proxy_tests::privilege;
use proxy_userspace::config::model::http::{Action, BackendTraits, HttpListener, Route};
use proxy_userspace::config::model::tls::{CertificateSource, ServerTls};
use proxy_userspace::config::model::{Config, Service};
use proxy_userspace::observe::view::AccelerationView;
use proxy_userspace::runtime::workers::Workers;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Requests over one connection.
const REQUESTS: u64 = 20;
/// How long a connection to the origin is kept.
const KEEPALIVE: Duration = Duration::from_millis(500);
/// What has curl speak HTTP/2 without asking.
const PRIOR_KNOWLEDGE: &[&str] = &["--http2-prior-knowledge"];
/// Files that curl fetches.
const FILES: u64 = 60;

#[test]
fn http1_is_right() -> Result<()> {
    each(|how| {
        let web = Web::start(how, |_| {})?;
        let rounds = (connections() / 10).max(10);
        many(rounds, |number| requests(web.proxy, number))?;
        web.end()
    })
}

#[test]
fn websockets_are_right() -> Result<()> {
    each(|how| {
        let web = Web::start(how, |_| {})?;
        many(connections() / 2, |number| {
            let plan = Plan::of(number);
            let socket = upgraded(web.proxy, plan.blocks)?;
            ask(socket, plan).with_context(|| format!("{plan:?}"))
        })?;
        let view = web.workers.acceleration();
        let is_direct = view.is_some_and(|view| view.tunnels > 0 && view.direct_bytes > 0);
        ensure!(
            is_direct == (how == How::DIRECT),
            "{:?}",
            web.workers.acceleration()
        );
        web.end()
    })
}

#[test]
fn http2_and_tls_are_right() -> Result<()> {
    let Some(curl) = privilege::program("curl", "curl")? else {
        return Ok(());
    };
    each(|how| {
        let folder = tempfile::tempdir()?;
        let issued = Authority::new("soak").issue(&["localhost"]);
        let (certificate, key) = issued.write(folder.path(), "it");
        let source = CertificateSource::Files {
            certificate,
            key,
            ocsp: None,
        };
        let plain = Web::start(how, |_| {})?;
        let sealed = Web::start(how, |listener| {
            listener.tls = Some(ServerTls::new(vec![source]));
        })?;
        for (web, scheme, options) in [
            (&plain, "http", PRIOR_KNOWLEDGE),
            (&sealed, "https", &["--http2", "-k", "--parallel"]),
            (&sealed, "https", &["--http1.1", "-k", "--parallel"]),
        ] {
            fetch(&curl, web.proxy, scheme, options)
                .with_context(|| format!("{scheme} {options:?}"))?;
        }
        plain.end()?;
        sealed.end()
    })
}

/// As it is, and as the control.
fn each(test: impl Fn(How) -> Result<()>) -> Result<()> {
    let is_privileged = privilege::granted()?;
    let _turn = turn();
    let mut ways = vec![How::COPIED, How::PIPED];
    if is_privileged {
        ways.extend([How::ACCELERATED, How::DIRECT]);
    }
    for how in ways {
        test(how).with_context(|| format!("{how:?}"))?;
    }
    Ok(())
}

fn many(count: usize, test: impl Fn(u64) -> Result<()> + Sync) -> Result<()> {
    let begun = AtomicUsize::new(0);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = begun.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return anyhow::Ok(());
                        }
                        test(number as u64).with_context(|| format!("{number}"))?;
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic")?;
        }
        Ok(())
    })
}

struct Web {
    workers: Workers,
    proxy: SocketAddr,
}

impl Web {
    fn start(how: How, edit: impl FnOnce(&mut HttpListener)) -> Result<Self> {
        let origin = TcpListener::bind("127.0.0.1:0")?;
        let mut service = Service::new("origins");
        service.push_backend(origin.local_addr()?, 1, BackendTraits::default());
        service.upstream.accelerate = how.accelerate[1];
        service.upstream.keepalive = KEEPALIVE;
        let mut listener = HttpListener::new("web", "127.0.0.1:0".parse()?);
        (listener.accelerate, listener.splice) = (how.accelerate[0], how.splice);
        edit(&mut listener);
        let mut config = Config {
            http_listeners: vec![listener],
            routes: vec![Route::catch_all("all", "web", Action::service("origins"))],
            services: vec![service],
            ..Config::default()
        };
        config.workers.count = Some(2);
        let workers = Workers::start(&config)?;
        let proxy = workers.listeners().next().context("listens")?;
        thread::spawn(move || {
            for socket in origin.incoming() {
                let Ok(socket) = socket else { return };
                // Whoever is cut off by a client's reset ends with an error.
                thread::spawn(move || answer(socket));
            }
        });
        Ok(Self { workers, proxy })
    }

    fn end(self) -> Result<()> {
        let view: Option<AccelerationView> = self.workers.acceleration();
        if let Some(view) = &view {
            ensure!(view.connections > 0, "{view:?}");
            ensure!(view.full == 0 && view.stalled == 0, "{view:?}");
        }
        match view {
            Some(_) => emptied(&self.workers),
            None => Ok(()),
        }
    }
}

/// The origin: `/SEED/LENGTH` is answered with that much of that pattern, and content must be that of
/// the seed, too.
fn answer(socket: TcpStream) -> Result<()> {
    patient(&socket)?;
    let (mut read, mut buffer) = (Vec::new(), vec![0; PERIOD]);
    loop {
        let head = loop {
            if let Some(head) = Head::take(&mut read)? {
                break head;
            }
            match read_some(&socket, &mut buffer)? {
                0 => return Ok(()),
                more => read.extend_from_slice(&buffer[..more]),
            }
        };
        if head.field("upgrade").is_some() {
            ensure!(read.is_empty(), "the client waits");
            (&socket).write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: soak\r\nconnection: upgrade\r\n\r\n",
            )?;
            return serve(socket);
        }
        let (_, path) = head.request()?;
        let (seed, length) = wanted(path)?;
        let content = Pattern::new(!seed, u32::try_from(head.body_length()?)?);
        take(&socket, &mut read, &content)?;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        (&socket).write_all(answer.as_bytes())?;
        Pattern::new(seed, length).send(&socket)?;
    }
}

fn wanted(path: &str) -> Result<(u64, u32)> {
    let mut words = path.split('/').skip(1);
    let seed = words.next().context("a seed")?.parse()?;
    Ok((seed, words.next().context("a length")?.parse()?))
}

/// Takes content, of which some was read already.
fn take(socket: &TcpStream, read: &mut Vec<u8>, content: &Pattern) -> Result<()> {
    let there = read.len().min(content.length());
    ensure!(
        content.fits(0, &read[..there]),
        "the content's beginning differs"
    );
    read.drain(..there);
    content.receive_from(socket, there, false)
}

/// Requests of any size over one connection.
fn requests(proxy: SocketAddr, number: u64) -> Result<()> {
    let socket = connect(proxy, number % 20 == 7)?;
    let (mut read, mut buffer) = (Vec::new(), vec![0; PERIOD]);
    for turn in 0..REQUESTS {
        let plan = Plan::of(number * REQUESTS + turn);
        let (up, down) = (plan.up % 300_000, plan.down % 300_000);
        let seed = plan.seed;
        let head =
            format!("POST /{seed}/{down} HTTP/1.1\r\nhost: soak\r\ncontent-length: {up}\r\n\r\n");
        (&socket).write_all(head.as_bytes())?;
        Pattern::new(!seed, up).send(&socket)?;
        let head = loop {
            if let Some(head) = Head::take(&mut read)? {
                break head;
            }
            let more = read_some(&socket, &mut buffer)?;
            ensure!(more > 0, "the connection ended");
            read.extend_from_slice(&buffer[..more]);
        };
        ensure!(head.status()? == 200, "status {}", head.status()?);
        take(&socket, &mut read, &Pattern::new(seed, down))?;
    }
    Ok(())
}

/// A connection that speaks another protocol now.
fn upgraded(proxy: SocketAddr, blocks: bool) -> Result<TcpStream> {
    let socket = connect(proxy, blocks)?;
    (&socket).write_all(
        b"GET / HTTP/1.1\r\nhost: soak\r\nupgrade: soak\r\nconnection: upgrade\r\n\r\n",
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // What follows is not ours.
        let mut octet = [0];
        ensure!(read_some(&socket, &mut octet)? == 1, "the connection ended");
        head.push(octet[0]);
    }
    ensure!(
        head.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&head)
    );
    Ok(socket)
}

/// Fetches many files.
fn fetch(curl: &Path, proxy: SocketAddr, scheme: &str, options: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let plans: Vec<_> = (0..FILES).map(Plan::of).collect();
    // curl 7.88 fails at the second one over a connection whose protocol was not negotiated.
    let at_once = if options == PRIOR_KNOWLEDGE {
        1
    } else {
        plans.len()
    };
    let file = |plan: &Plan| folder.path().join(plan.seed.to_string());
    for some in plans.chunks(at_once) {
        let mut command = Command::new(curl);
        command.args(["-sS", "--fail", "--max-time", "60"]);
        command.args(options);
        for plan in some {
            let url = format!("{scheme}://{proxy}/{}/{}", plan.seed, plan.down);
            command.arg("-o").arg(file(plan)).arg(url);
        }
        let output = command.output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for plan in &plans {
        let octets = std::fs::read(file(plan))?;
        let pattern = Pattern::new(plan.seed, plan.down);
        ensure!(
            octets.len() == pattern.length(),
            "{plan:?}: {}",
            octets.len()
        );
        for (index, piece) in octets.chunks(PERIOD).enumerate() {
            ensure!(pattern.fits(index * PERIOD, piece), "{plan:?}: differs");
        }
    }
    Ok(())
}
