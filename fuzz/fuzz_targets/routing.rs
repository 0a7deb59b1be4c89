//! Routing: a path has one spelling, a query finds the same rule whatever the spelling, and cookies,
//! parameters and hosts are read without a fault.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::WIDE;
use proxy_fuzz::config::model::http::{
    Action, HashOn, HostMatch, PathMatch, Route, RouteMatch, ValueMatch, ValueTest,
};
use proxy_fuzz::message::RequestHead;
use proxy_fuzz::message::h1::parse_request;
use proxy_fuzz::routing::{Query, Router, hash_key, normalise};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

static ROUTER: LazyLock<Router> = LazyLock::new(|| {
    let route = |hosts: &[HostMatch], rule: RouteMatch| {
        let mut route = Route::catch_all("r", "web", Action::service("s"));
        route.hosts = hosts.to_vec();
        route.matches = vec![rule];
        route
    };
    let of = |path| RouteMatch {
        path,
        ..RouteMatch::default()
    };
    let named = |name: &str| ValueMatch {
        name: name.to_owned(),
        value: ValueTest::Exact("1".to_owned()),
    };
    let mut conditions = of(PathMatch::Prefix("/c".to_owned()));
    conditions.cookies = vec![named("a")];
    conditions.query = vec![named("b")];
    conditions.fields = vec![named("c")];
    let routes = [
        route(&[], of(PathMatch::Prefix("/".to_owned()))),
        route(&[], of(PathMatch::Exact("/admin".to_owned()))),
        route(&[], of(PathMatch::Prefix("/admin".to_owned()))),
        route(&[], of(PathMatch::Regex("/items/[0-9]+".to_owned()))),
        route(
            &[HostMatch::Exact("a.test".to_owned())],
            of(PathMatch::Prefix("/".to_owned())),
        ),
        route(
            &[HostMatch::Wildcard(".b.test".to_owned())],
            of(PathMatch::Prefix("/x".to_owned())),
        ),
        route(&[], conditions),
    ];
    Router::build("web", &routes).expect("valid")
});

fuzz_target!(|input: &[u8]| {
    let mut head = RequestHead::default();
    if !matches!(parse_request(input, &WIDE, &mut head), Ok(Some(_))) {
        return;
    }
    let Ok(plain) = normalise(head.path()) else {
        return;
    };
    let plain = plain.into_owned();
    let again = normalise(&plain).expect("the normal form is normal");
    assert_eq!(&*again, &*plain);
    assert!(!plain.windows(4).any(|octets| octets == b"/../"));
    head.set_path(&plain);
    assert_eq!(head.path(), plain);
    let query = Query {
        host: head.host(),
        path: head.path(),
        method: &head.method,
        fields: &head.fields,
        query: head.query(),
        source: IpAddr::V4(Ipv4Addr::LOCALHOST),
        workload: None,
    };
    if let Some(found) = ROUTER.find(&query) {
        assert!(found.prefix_len <= plain.len());
    }
    for on in [
        HashOn::Cookie("a".to_owned()),
        HashOn::Query("b".to_owned()),
        HashOn::Field("c".to_owned()),
        HashOn::Path,
        HashOn::Source,
    ] {
        assert_eq!(hash_key(&on, &query), hash_key(&on, &query));
    }
});
