use super::*;
use crate::config::model::Config;
use crate::types::Protocol;

fn config(text: &str) -> Config {
    let loaded = crate::config::parse("test", text);
    loaded
        .unwrap_or_else(|errors| panic!("{}", errors.pretty(false)))
        .config
}

fn asked(method: &str, target: &str) -> Asked {
    Asked {
        method: method.to_owned(),
        target: target.to_owned(),
        version: "HTTP/1.1".to_owned(),
        fields: Vec::new(),
        source: "192.0.2.7".parse().expect("an address"),
        workload: None,
        listener: None,
        now: 0,
    }
}

const SHOP: &str = "
listeners:
  - {name: web, kind: http, address: 0.0.0.0, port: 8080, forwarded: {trusted: [10.0.0.0/8]}}
  - {name: web6, kind: http, address: '::', port: 8080}
  - {name: inner, kind: http, address: 127.0.0.1, port: 9000, service: items}
routes:
  - {name: all, listeners: [web, web6], service: pages}
  - {name: shop, listeners: [web], hosts: [shop.example], service: pages}
  - {name: items, listeners: [web], hosts: [shop.example], match: [{path: /items, method: POST}], service: items, rewrite: {path: {prefix: /v2}}}
  - {name: friends, listeners: [web], hosts: [shop.example], match: [{path: /items, sources: [198.51.100.0/24]}], respond: 403}
  - {name: old, listeners: [web], hosts: ['*.old.example'], redirect: {host: shop.example, status: 308}}
  - {name: halves, listeners: [web], hosts: [split.example], split: {services: {pages: 3, items: 1}, sticky: {cookie: c}}}
services:
  - {name: pages, backends: [10.1.0.1:80, 10.1.0.2:80]}
  - {name: items, balance: {policy: maglev, hash_on: path}, backends: [10.1.0.3:80, 10.1.0.4:80]}
";

fn explained(asked: &Asked) -> RequestExplained {
    explain_request(&config(SHOP), asked).expect("explained")
}

fn names(explained: &RequestExplained) -> Vec<(&str, bool)> {
    let rules = explained.considered.iter();
    rules
        .map(|rule| (rule.route.as_str(), rule.serves))
        .collect()
}

#[test]
fn routes_that_come_before_are_told_with_their_reasons() {
    let found = explained(&asked("GET", "http://shop.example:8080/items/../items/7"));
    assert_eq!(found.listener, "web");
    assert_eq!(found.other_listeners, ["web6"]);
    assert_eq!(found.request, "GET shop.example:8080/items/7");
    assert_eq!(
        names(&found),
        [("items", false), ("friends", false), ("shop", true)]
    );
    let because = |at: usize| found.considered[at].because.as_deref();
    assert_eq!(because(0), Some("the method is GET"));
    assert_eq!(because(1), Some("the client is 192.0.2.7"));
    assert_eq!(found.other_hosts, 2);
    let route = found.route.expect("served");
    let [service] = route.services.as_slice() else {
        panic!("{:?}", route.services);
    };
    assert_eq!(
        (service.name.as_str(), service.policy.as_str()),
        ("pages", "round-robin")
    );
    assert_eq!(service.candidates.len(), 2);
    assert_eq!(service.choice, None, "taken in turn");
}

#[test]
fn what_the_backend_sees_and_who_it_is_are_told() {
    let found = explained(&asked("POST", "http://shop.example:8080/items/7?a"));
    let route = found.route.expect("served");
    assert_eq!(route.name, "items");
    let sent = "POST shop.example:8080/v2/7?a";
    assert_eq!(route.forwarded.as_deref(), Some(sent));
    // The path is hashed as the backend sees it, without the query.
    let choice = route.services[0].choice.clone().expect("by the path");
    assert!(choice.starts_with("10.1.0."), "{choice}");
    let other = explained(&asked("POST", "http://shop.example:8080/items/7?b"));
    assert_eq!(
        other.route.expect("served").services[0].choice,
        Some(choice)
    );
}

#[test]
fn a_trusted_proxy_names_the_client() {
    let mut asked = asked("GET", "http://shop.example:8080/items");
    asked.source = "10.0.0.9".parse().expect("an address");
    let told = "198.51.100.4".to_owned();
    asked.fields.push(("X-Forwarded-For".to_owned(), told));
    let found = explained(&asked);
    assert_eq!(found.client.to_string(), "198.51.100.4");
    let route = found.route.expect("served");
    assert_eq!(
        (route.name.as_str(), route.answer.as_deref()),
        ("friends", Some("403"))
    );
}

#[test]
fn redirects_and_splits_are_told() {
    let found = explained(&asked("GET", "http://www.old.example:8080/a?b"));
    let answer = found.route.expect("served").answer;
    assert_eq!(
        answer.as_deref(),
        Some("308 to http://shop.example:8080/a?b")
    );

    let mut split = asked("GET", "http://split.example:8080/");
    let route = explained(&split).route.expect("served");
    let shares = route.services.iter().map(|one| one.share);
    assert_eq!(shares.collect::<Vec<_>>(), [Some(0.75), Some(0.25)]);
    split.fields.push(("Cookie".to_owned(), "c=1".to_owned()));
    let route = explained(&split).route.expect("served");
    assert_eq!(route.services.len(), 1, "the cookie decides");
}

#[test]
fn a_request_that_is_refused_meets_no_route() {
    let found = explained(&asked("GET", "http://shop.example:8080/a%00"));
    let refused = found.refused.expect("refused");
    assert_eq!((refused.status, refused.reason), (400, "path_nul"));
    let mut twice = asked("GET", "http://shop.example:8080/");
    for _ in 0..2 {
        twice.fields.push(("Host".to_owned(), "a".to_owned()));
    }
    assert_eq!(
        explained(&twice).refused.expect("refused").reason,
        "host_ambiguous"
    );
    let mut connect = asked("CONNECT", "shop.example:443");
    connect.listener = Some("web".to_owned());
    let host = "shop.example:443".to_owned();
    connect.fields.push(("Host".to_owned(), host));
    let refused = explained(&connect).refused.expect("refused");
    assert_eq!(
        (refused.status, refused.reason),
        (405, "method_not_allowed")
    );
}

#[test]
fn the_listener_is_found_by_port_address_or_name() {
    let on = |target: &str| explained(&asked("GET", target)).listener;
    assert_eq!(on("http://127.0.0.1:9000/"), "inner");
    assert_eq!(on("http://anything:9000/"), "inner");
    let error = explain_request(&config(SHOP), &asked("GET", "http://a.example/"));
    let error = error.expect_err("no listener at port 80").to_string();
    assert!(error.contains("`inner` at 127.0.0.1:9000"), "{error}");
    let mut named = asked("GET", "/x");
    explain_request(&config(SHOP), &named).expect_err("which one?");
    named.listener = Some("inner".to_owned());
    let found = explained(&named);
    assert_eq!(found.request, "GET 127.0.0.1:9000/x");
    named.listener = Some("outer".to_owned());
    explain_request(&config(SHOP), &named).expect_err("there is none");
}

const KERNEL: &str = "
l4: {interfaces: [eth0]}
guard: {deny: [203.0.113.0/24]}
listeners:
  - {name: web, kind: l4, address: 198.51.100.10, port: 80, service: web}
  - {name: host, kind: l4, address: 198.51.100.10, port: all, service: web}
  - {name: net, kind: l4, address: 198.51.100.0/24, port: 80, service: web}
  - {name: mine, kind: l4, address: 198.51.100.11, port: 80, service: web, guard: {allow: [192.0.2.0/24]}}
  - {name: proxy, kind: http, address: 0.0.0.0, port: 8080, service: app}
services:
  - {name: web, mode: nat, backends: [10.1.0.1:80, 10.1.0.2:80, {address: '10.1.0.3:80', weight: 0}]}
  - {name: app, backends: [10.1.0.4:80]}
";

fn flow(from: &str, to: &str) -> FlowExplained {
    let flow = Flow {
        protocol: Protocol::Tcp,
        source: from.parse().expect("an address"),
        destination: to.parse().expect("an address"),
    };
    flow::explain_flow(&config(KERNEL), &flow)
}

#[test]
fn a_flow_meets_the_most_exact_listener() {
    let found = flow("192.0.2.7:4000", "198.51.100.10:80");
    assert_eq!(found.listener.as_deref(), Some("web"));
    assert_eq!(found.layer, Layer::Kernel);
    assert_eq!(found.hidden, ["host", "net"]);
    let on = |to: &str| flow("192.0.2.7:4000", to).listener;
    assert_eq!(on("198.51.100.10:81").as_deref(), Some("host"));
    assert_eq!(on("198.51.100.99:80").as_deref(), Some("net"));
    assert_eq!(on("198.51.100.99:81"), None);
    let proxied = flow("192.0.2.7:4000", "192.0.2.1:8080");
    assert_eq!(
        (proxied.listener.as_deref(), proxied.layer),
        (Some("proxy"), Layer::UserSpace)
    );
}

#[test]
fn a_url_that_names_a_vip_is_the_kernels() {
    let request = asked("GET", "http://198.51.100.10/a");
    let connection = request::connection(&request).expect("an address");
    let found = flow::explain_flow(&config(KERNEL), &connection);
    assert_eq!(
        (found.layer, found.listener.as_deref()),
        (Layer::Kernel, Some("web"))
    );
    let choice = found.service.expect("has one").choice;
    assert_eq!(choice, None, "the client's port is not known");
    assert_eq!(
        request::connection(&asked("GET", "http://shop.example/")),
        None
    );
}

#[test]
fn a_flow_is_judged_by_its_listener_and_then_by_all() {
    let passes = |from: &str, to: &str| flow(from, to).guard.map(|judged| judged.passes);
    assert_eq!(passes("203.0.113.9:1", "198.51.100.10:80"), Some(false));
    assert_eq!(passes("192.0.2.9:1", "198.51.100.10:80"), Some(true));
    assert_eq!(passes("192.0.2.9:1", "198.51.100.11:80"), Some(true));
    assert_eq!(passes("198.18.0.1:1", "198.51.100.11:80"), Some(false));
}

#[test]
fn the_ring_tells_the_backend_of_a_flow() {
    let of = |port: u16| {
        let found = flow(&format!("192.0.2.7:{port}"), "198.51.100.10:80");
        let service = found.service.expect("has one");
        assert_eq!(service.candidates.len(), 2, "weight 0 takes no new flows");
        service.choice.expect("by the ring")
    };
    let chosen: std::collections::BTreeSet<String> = (4000..4040).map(of).collect();
    assert_eq!(chosen.len(), 2, "{chosen:?}");
    assert_eq!(of(4000), of(4000));
}

#[test]
fn what_is_done_to_a_response_is_told() {
    let config = config(
        "
listeners:
  - {name: web, kind: http, address: 0.0.0.0, port: 8080, compression: {codings: [gzip]}, security_headers: basic}
routes:
  - {name: all, service: pages, response_headers: {add: {X-A: b}}}
  - {name: plain, match: [/plain], service: pages, compression: {codings: []}}
services:
  - {name: pages, backends: [10.1.0.1:80]}
",
    );
    let told = |target: &str| {
        let found = explain_request(&config, &asked("GET", target)).expect("explained");
        let route = found.route.expect("a route");
        route.filters.join("; ")
    };
    let all = told("http://a:8080/");
    for part in [
        "compression: gzip",
        "security headers: basic",
        "response headers: +X-A",
    ] {
        assert!(all.contains(part), "{all}");
    }
    assert!(!told("http://a:8080/plain").contains("compression"));
}

#[test]
fn tls_is_told_with_the_certificate_and_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, names: &[&str]| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(names)
            .and_then(|params| params.self_signed(&key))
            .expect("a certificate");
        let path = folder.path().join(format!("{name}.pem"));
        std::fs::write(&path, certificate.pem() + &key.serialize_pem()).expect("writes");
        path.display().to_string()
    };
    let (first, wild) = (write("first", &["a.test"]), write("wild", &["*.test"]));
    let text = format!(
        "
listeners:
  - name: site
    kind: http
    address: 0.0.0.0
    port: 8443
    service: sealed
    tls: {{certificates: [{{certificate: {first}, key: {first}}}, {{certificate: {wild}, key: {wild}}}]}}
  - name: db
    kind: tcp
    address: 0.0.0.0
    port: 5432
    service: plain
    tls:
      certificates: [{{certificate: {first}, key: {first}}}]
      strict_sni: true
      client: {{ca: {first}, mode: optional}}
  - {{name: pass, kind: tls-passthrough, address: 0.0.0.0, port: 444, service: plain}}
services:
  - {{name: plain, backends: [10.1.0.1:80]}}
  - {{name: sealed, backends: [10.1.0.1:443], tls: {{ca: {first}, server_name: host}}}}
"
    );
    let config = config(&text);
    let tls = |url: &str| {
        let found = explain_request(&config, &asked("GET", url)).expect("explained");
        found.tls.expect("TLS")
    };
    let exact = tls("https://A.test:8443/");
    assert_eq!(exact.strategy, "re-encrypt");
    assert_eq!(exact.certificate.as_deref(), Some(first.as_str()));
    assert_eq!(exact.because.as_deref(), Some("it is for `a.test`"));
    assert_eq!(
        exact.clients.as_deref(),
        Some("are not asked for a certificate")
    );
    let expected = format!("sealed: must have a certificate for the request's host by {first}");
    assert_eq!(exact.backends, [expected]);
    let wildcard = tls("https://b.test:8443/");
    assert_eq!(wildcard.certificate.as_deref(), Some(wild.as_str()));
    let unknown = tls("https://10.0.0.1:8443/");
    assert_eq!(unknown.certificate.as_deref(), Some(first.as_str()));
    let because = unknown.because.expect("a reason");
    assert_eq!(because, "the client asks for no name: the first");
    let flow = |port, name: Option<&str>| {
        let flow = Flow {
            protocol: Protocol::Tcp,
            source: "192.0.2.7:9".parse().expect("an address"),
            destination: std::net::SocketAddr::from(([10, 0, 0, 1], port)),
        };
        let hello = Hello {
            server_name: name.map(str::to_owned),
            alpn: Vec::new(),
        };
        flow::explain_tls(&config, &flow, &hello).tls.expect("TLS")
    };
    let strict = flow(5432, Some("x.test"));
    assert_eq!(strict.strategy, "terminate");
    let refused = "with `strict_sni` a client that asks for `x.test` gets none";
    assert_eq!(strict.refused.as_deref(), Some(refused));
    let clients = format!("may show a certificate, which {first} must vouch for");
    assert_eq!(strict.clients, Some(clients));
    assert_eq!(flow(444, Some("x.test")).strategy, "passthrough");
}

#[test]
fn what_a_workload_gets_that_dials_is_told() {
    let text = "
connect: {cgroups: [/app.slice]}
listeners:
  - {name: web, kind: l4, address: 192.0.2.10, port: 80, service: web}
services:
  - {name: web, selection: two-choices, backends: ['10.1.0.1:8080'], at_connect: {on_backend_loss: reset}}
";
    let flow = Flow {
        protocol: Protocol::Tcp,
        source: "10.1.0.9:1".parse().expect("an address"),
        destination: "192.0.2.10:80".parse().expect("an address"),
    };
    let found = flow::explain_flow(&config(text), &flow);
    assert_eq!(found.layer, Layer::Sockets);
    let dialled = found.at_connect.expect("it is balanced");
    assert_eq!(dialled.cgroups, ["/app.slice"]);
    assert_eq!(dialled.on_backend_loss, "reset");
    // With the packet path there is somebody for the others, too.
    let both = format!("l4: {{interfaces: [eth0]}}{text}");
    let found = flow::explain_flow(&config(&both), &flow);
    assert_eq!(found.layer, Layer::Kernel);
    assert!(found.at_connect.is_some());
}
