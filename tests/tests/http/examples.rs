//! The configurations in `examples/` serve as they are, but for addresses: clients and servers are
//! on this host.

use crate::h2_support::{H2Origin, content, send_all};
use crate::peers::{curl, nginx_with};
use crate::support::{Answer, Origin, Proxy, eventually};
use crate::websocket::{WebSocket, echo};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use proxy_tests::family;
use proxy_userspace::config::model::Config;
use proxy_userspace::config::model::http::Action;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// An example, with other addresses for its backends.
fn example(file: &str, backends: &[(&str, SocketAddr)]) -> Proxy {
    example_with(file, backends, |_| {})
}

fn example_with(
    file: &str,
    backends: &[(&str, SocketAddr)],
    edit: impl FnOnce(&mut Config),
) -> Proxy {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(file);
    let loaded = proxy_userspace::config::load(&path);
    let loaded = loaded.unwrap_or_else(|errors| panic!("{}", errors.pretty(false)));
    assert!(
        loaded.warnings.is_empty(),
        "{}",
        loaded.warnings.pretty(false)
    );
    let mut config = loaded.config;
    let known: BTreeMap<&str, SocketAddr> = backends.iter().copied().collect();
    for backend in config
        .services
        .iter_mut()
        .flat_map(|service| &mut service.backends)
    {
        let address = known[backend.name.as_str()];
        (backend.address, backend.port) = (address.ip(), Some(address.port()));
    }
    config.workers.count = Some(1);
    for listener in &mut config.http_listeners {
        listener.address = family::any();
        listener.access_log = None;
    }
    edit(&mut config);
    Proxy::with(&[], |empty| *empty = config)
}

/// An origin that says its name and what it was asked for.
fn named(name: &'static str) -> Origin {
    Origin::new(move |mut client, _| {
        while let Some(head) = client.head() {
            let target = head.split(' ').nth(1).unwrap_or_default();
            let text = format!("{name} {target}");
            client.send(format!(
                "HTTP/1.1 200 OK\r\nServer: {name}\r\nContent-Length: {}\r\n\r\n{text}",
                text.len()
            ));
        }
    })
}

fn ask(proxy: &Proxy, host: &str, path: &str, fields: &str) -> Answer {
    proxy.ask(&format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"
    ))
}

#[test]
fn http_routes_by_host_and_path_between_curl_and_nginx() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("page"), "a page").expect("writes");
    let (_nginx, pages) = nginx_with(folder.path(), "");
    let api = named("api");
    let proxy = example(
        "http.yaml",
        &[
            ("10.1.0.1:8000", pages),
            ("10.1.0.2:8000", pages),
            ("10.1.1.1:9000", api.address),
            ("10.1.1.2:9000", api.address),
            ("10.1.1.9:9000", api.address),
        ],
    );
    let at = proxy.address;
    let url = |path: &str| format!("http://{at}{path}");
    let get = |host: &str, path: &str| {
        let host = format!("Host: {host}");
        String::from_utf8(curl(&["-i", "-H", &host, &url(path)])).expect("text")
    };
    let page = get("www.example.com", "/page");
    assert!(page.ends_with("a page"), "{page}");
    assert!(!page.contains("nginx"), "its name is removed: {page}");
    assert!(get("api.example.com", "/api/7?x").ends_with("api /api/7?x"));
    assert!(get("www.example.com", "/api").ends_with("api /api"));
    assert!(get("www.example.com", "/api/internal/x").starts_with("HTTP/1.1 403 "));
    assert!(get("api.example.com", "/page").starts_with("HTTP/1.1 404 "));
    assert!(get("elsewhere.example", "/").starts_with("HTTP/1.1 404 "));
    // h2load, over HTTP/2 on the same port.
    let load = Command::new("h2load")
        .args([
            "-n",
            "200",
            "-c",
            "4",
            "-m",
            "5",
            "-H",
            ":authority: example.com",
        ])
        .arg(url("/page"))
        .output()
        .expect("h2load runs");
    let text = String::from_utf8_lossy(&load.stdout).into_owned();
    assert!(text.contains("200 succeeded, 0 failed"), "{text}");
}

#[test]
fn canary_shares_keeps_and_copies() {
    let (stable, canary) = (named("stable"), named("canary"));
    let next = named("next");
    let proxy = example_with(
        "canary.yaml",
        &[
            ("10.1.0.1:8000", stable.address),
            ("10.1.0.2:8000", stable.address),
            ("10.1.0.3:8000", canary.address),
            ("10.1.0.4:8000", next.address),
        ],
        // One in a hundred would make for a long test.
        |config| {
            let mirror = config.routes[0].mirror.as_mut().expect("a mirror");
            assert!((mirror.share - 0.01).abs() < 1e-9);
            mirror.share = 1.0;
        },
    );
    let version = |fields: &str| {
        let text = ask(&proxy, "a", "/", fields).text();
        text.split(' ').next().unwrap_or_default().to_owned()
    };
    assert_eq!(version("X-Version: canary\r\n"), "canary");
    let mut counts = BTreeMap::<String, usize>::new();
    for session in 0..300 {
        let cookie = format!("Cookie: session={session:x}\r\n");
        let first = version(&cookie);
        assert_eq!(version(&cookie), first, "a client stays");
        *counts.entry(first).or_default() += 1;
    }
    // 30 are expected; five standard deviations are 26.
    let share = counts["canary"];
    assert!((4..=56).contains(&share), "{counts:?}");
    eventually("copies arrive", || next.connections() > 0);
}

#[test]
fn websocket_clients_stay_with_their_backend() {
    let (a, b) = (echo("a"), echo("b"));
    let pages = named("pages");
    let proxy = example(
        "websocket.yaml",
        &[
            ("10.1.0.1:8000", a.address),
            ("10.1.0.2:8000", b.address),
            ("10.1.0.3:8000", pages.address),
        ],
    );
    assert_eq!(ask(&proxy, "a", "/", "").text(), "pages /");
    let mut first = WebSocket::open(proxy.address, "/chat", "");
    let name = first.echo("hello");
    let cookie = crate::support::field(&first.head, "set-cookie").expect("a cookie");
    assert!(
        cookie.starts_with("chat-backend=") && cookie.contains("SameSite=Lax"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap_or_default();
    for _ in 0..4 {
        let fields = format!("Cookie: {cookie}\r\n");
        let mut again = WebSocket::open(proxy.address, "/chat", &fields);
        assert_eq!(again.echo("hello"), name);
        assert!(again.close());
    }
    assert_eq!(first.echo("hello"), name, "the first is still open");
}

/// A gRPC server that answers each message with itself, and its status in trailers.
fn greeter() -> H2Origin {
    H2Origin::new(|request, mut respond, _| async move {
        let path = request.uri().path().to_owned();
        let Ok(message) = content(&mut request.into_body()).await else {
            return;
        };
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("x-path", path)
            .body(());
        let Ok(mut stream) = respond.send_response(response.expect("valid"), false) else {
            return;
        };
        let _ = send_all(&mut stream, &message, false).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let _ = stream.send_trailers(trailers);
    })
}

#[test]
fn grpc_calls_pass_with_their_trailers() {
    let (a, b) = (greeter(), greeter());
    let backends = [("10.1.0.1:50051", a.address), ("10.1.0.2:50051", b.address)];
    let proxy = example("grpc.yaml", &backends);
    // A message: not compressed, five octets.
    let message = [&[0, 0, 0, 0, 5][..], b"hello"].concat();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("message");
    fs::write(&file, &message).expect("writes");
    let call = |path: &str| {
        let output = Command::new("nghttp")
            .args([
                "-v",
                "-H",
                "content-type: application/grpc",
                "-H",
                "te: trailers",
                "-d",
            ])
            .arg(&file)
            .arg(format!("http://{}{path}", proxy.address))
            .output()
            .expect("nghttp runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let greeted = call("/helloworld.Greeter/SayHello");
    for part in [
        ":status: 200",
        "x-path: /helloworld.Greeter/SayHello",
        "grpc-status: 0",
    ] {
        assert!(greeted.contains(part), "{part}:\n{greeted}");
    }
    let reflected = call("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    assert!(reflected.contains("grpc-status: 0"), "{reflected}");
    let unknown = call("/other.Service/Call");
    assert!(unknown.contains("grpc-status: 12"), "{unknown}");
    // curl asks, too, and sees the message come back.
    let url = format!("http://{}/helloworld.Greeter/SayHello", proxy.address);
    let data = format!("@{}", file.display());
    let words = [
        "--http2-prior-knowledge",
        "-H",
        "te: trailers",
        "--data-binary",
        &data,
        &url,
    ];
    let back = curl(&[&words[..], &["-H", "content-type: application/grpc"]].concat());
    assert_eq!(Bytes::from(back), message);
    assert_eq!(a.requests() + b.requests(), 3);
}

#[test]
fn static_sends_files_redirects_and_passes_the_api_on() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("index.html"), "<p>app").expect("writes");
    fs::write(folder.path().join("a.css"), "p {}").expect("writes");
    fs::write(folder.path().join("a.css.br"), "packed").expect("writes");
    let api = named("api");
    let root = folder.path().to_owned();
    let proxy = example_with(
        "static.yaml",
        &[("127.0.0.1:9000", api.address)],
        |config| {
            let site = config.routes.iter_mut().find(|route| route.name == "site");
            let Action::Files(files) = &mut site.expect("a site").action else {
                panic!("no files");
            };
            files.root = root;
        },
    );
    let at = proxy.address;
    let get = |path: &str, more: &[&str]| {
        let url = format!("http://{at}{path}");
        String::from_utf8(curl(&[&["-i", &url], more].concat())).expect("text")
    };
    let page = get("/", &[]);
    assert!(
        page.ends_with("<p>app") && page.contains("Cache-Control: max-age=3600"),
        "{page}"
    );
    assert!(page.contains("Content-Security-Policy:"), "{page}");
    let deep = get("/some/view", &[]);
    assert!(
        deep.starts_with("HTTP/1.1 200 ") && deep.ends_with("<p>app"),
        "{deep}"
    );
    let packed = get("/a.css", &["-H", "Accept-Encoding: br"]);
    assert!(
        packed.contains("Content-Encoding: br") && packed.ends_with("packed"),
        "{packed}"
    );
    let moved = get("/blog/7", &[]);
    assert!(moved.starts_with("HTTP/1.1 308 "), "{moved}");
    assert!(
        moved.contains(&format!("Location: http://{at}/articles/7")),
        "{moved}"
    );
    let called = get("/api/x?y", &[]);
    assert!(called.ends_with("api /x?y"), "{called}");
    assert!(
        called.contains("X-Content-Type-Options: nosniff"),
        "{called}"
    );
}

#[test]
fn a_shop_goes_on_while_its_services_fail() {
    let nobody = {
        let listener = std::net::TcpListener::bind(family::any()).expect("binds");
        listener.local_addr().expect("bound")
    };
    let ill = Origin::answering("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n");
    let (well, search, old) = (named("well"), named("search"), named("yesterday"));
    let with = |catalogue: [SocketAddr; 2]| {
        let backends = [
            ("10.1.0.1:8080", catalogue[0]),
            ("10.1.0.2:8080", catalogue[1]),
            ("10.1.0.3:8080", nobody),
            ("10.1.0.4:8080", nobody),
            ("10.1.0.5:8080", search.address),
            ("10.1.0.6:8080", search.address),
            ("10.1.0.7:8080", old.address),
        ];
        example("resilience.yaml", &backends)
    };
    let proxy = with([ill.address, well.address]);
    for _ in 0..4 {
        assert_eq!(ask(&proxy, "shop.test", "/", "").text(), "well /");
    }
    assert_eq!(
        ask(&proxy, "shop.test", "/search", "").text(),
        "search /search"
    );
    let order = ask(&proxy, "shop.test", "/orders", "");
    assert_eq!(order.status, 503);
    assert!(order.text().starts_with("Your order was not taken"));
    let proxy = with([nobody, nobody]);
    assert_eq!(ask(&proxy, "shop.test", "/", "").text(), "yesterday /");
}
