use super::*;
use crate::config::model::http::{
    Action, FixedResponse, HashOn, HostMatch, PathMatch, PathRewrite, Redirect, RouteMatch,
    ValueMatch, ValueTest,
};
use crate::message::{Name, RequestHead};
use proptest::prelude::*;
use std::borrow::Cow;

mod oracle;

/// A route for these hosts with these paths: `=/a` is exact, `~…` a regular expression, all else a
/// prefix.
pub(super) fn route(hosts: &[&str], paths: &[&str]) -> Route {
    let mut route = Route::catch_all("r", "web", Action::Respond(FixedResponse::new(200)));
    route.hosts = hosts.iter().map(|host| host_match(host)).collect();
    route.matches = paths
        .iter()
        .map(|path| RouteMatch {
            path: path_match(path),
            ..RouteMatch::default()
        })
        .collect();
    route
}

fn host_match(host: &str) -> HostMatch {
    match host.strip_prefix('*') {
        Some(suffix) => HostMatch::Wildcard(suffix.to_owned()),
        None => HostMatch::Exact(host.to_owned()),
    }
}

fn path_match(path: &str) -> PathMatch {
    match path.split_at(1) {
        ("=", path) => PathMatch::Exact(path.to_owned()),
        ("~", pattern) => PathMatch::Regex(pattern.to_owned()),
        _ => PathMatch::Prefix(path.to_owned()),
    }
}

fn value(name: &str, value: ValueTest) -> ValueMatch {
    ValueMatch {
        name: name.to_owned(),
        value,
    }
}

/// A request to be looked up.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) host: String,
    pub(super) path: String,
    pub(super) method: Method,
    pub(super) fields: Fields,
    pub(super) query: Option<String>,
    pub(super) source: IpAddr,
    pub(super) workload: Option<&'static str>,
}

impl Request {
    fn get(host: &str, path: &str) -> Self {
        Self {
            host: host.to_owned(),
            path: path.to_owned(),
            method: Method::Get,
            fields: Fields::new(),
            query: None,
            source: "192.0.2.1".parse().unwrap(),
            workload: None,
        }
    }

    pub(super) fn query(&self) -> super::Query<'_> {
        super::Query {
            host: self.host.as_bytes(),
            path: self.path.as_bytes(),
            method: &self.method,
            fields: &self.fields,
            query: self.query.as_deref().map(str::as_bytes),
            source: self.source,
            workload: self.workload,
        }
    }
}

fn router(routes: &[Route]) -> Router {
    Router::build("web", routes).unwrap()
}

/// Index of the route that serves `GET path` at `host`.
#[track_caller]
fn served(routes: &[Route], host: &str, path: &str) -> Option<usize> {
    let path = normalise(path.as_bytes()).unwrap();
    let request = Request::get(host, std::str::from_utf8(&path).unwrap());
    let found = router(routes).find(&request.query());
    found.map(|found| found.route)
}

#[test]
fn the_most_specific_host_comes_first() {
    let routes = [
        route(&[], &["/"]),
        route(&["*.example.com"], &["/"]),
        route(&["*.a.example.com"], &["/"]),
        route(&["www.example.com"], &["/"]),
    ];
    for (host, expected) in [
        ("www.example.com", 3),
        ("www.example.com.", 3),
        ("other.example.com", 1),
        ("x.y.example.com", 1),
        ("x.a.example.com", 2),
        ("a.example.com", 1),
        ("example.com", 0),
        (".example.com", 0),
        ("example.org", 0),
        ("", 0),
        ("[2001:db8::1]", 0),
    ] {
        assert_eq!(served(&routes, host, "/x"), Some(expected), "{host}");
    }
}

#[test]
fn a_host_that_does_not_serve_a_path_leaves_it_to_the_next() {
    let routes = [
        route(&["www.example.com"], &["/shop"]),
        route(&["*.example.com"], &["/static"]),
        route(&[], &["/health"]),
    ];
    let served = |path| served(&routes, "www.example.com", path);
    assert_eq!(served("/shop/1"), Some(0));
    assert_eq!(served("/static/1"), Some(1));
    assert_eq!(served("/health"), Some(2));
    assert_eq!(served("/"), None);
}

#[test]
fn exact_paths_come_before_patterns_and_patterns_before_prefixes() {
    let routes = [
        route(&[], &["/"]),
        route(&[], &["/a"]),
        route(&[], &["/a/b/c"]),
        route(&[], &["~/a/b/[a-z]+"]),
        route(&[], &["=/a/b/c"]),
    ];
    for (path, expected) in [
        ("/a/b/c", 4),
        ("/a/b/d", 3),
        ("/a/b/c/", 2),
        ("/a/b/0", 1),
        ("/ab", 0),
        ("/", 0),
    ] {
        assert_eq!(served(&routes, "h", path), Some(expected), "{path}");
    }
}

#[test]
fn prefixes_end_at_segments() {
    let routes = [route(&[], &["/a/b/"]), route(&[], &["=/a/b/"])];
    for (path, expected) in [
        ("/a/b", Some(0)),
        ("/a/b/", Some(1)),
        ("/a/b/c", Some(0)),
        ("/a/bc", None),
        ("/a", None),
    ] {
        assert_eq!(served(&routes, "h", path), expected, "{path}");
    }
}

#[test]
fn conditions_decide_between_rules_for_one_path() {
    let mut routes = vec![route(&[], &["/"]); 7];
    let header = |name| value(name, ValueTest::Present);
    routes[1].matches[0].sources = vec!["192.0.2.0/24".parse().unwrap()];
    routes[2].matches[0].cookies = vec![value("beta", ValueTest::Exact("1".into()))];
    routes[3].matches[0].query = vec![value("q", ValueTest::Prefix("a b".into()))];
    routes[4].matches[0].fields = vec![header("x-one")];
    routes[5].matches[0].fields = vec![header("x-one"), header("accept")];
    routes[6].matches[0].method = Some("PUT".to_owned());
    let router = router(&routes);
    let mut request = Request::get("h", "/");
    request.source = "203.0.113.1".parse().unwrap();
    let find = |request: &Request| router.find(&request.query()).unwrap().route;
    assert_eq!(find(&request), 0);
    request.source = "::ffff:192.0.2.9".parse().unwrap();
    assert_eq!(find(&request), 1);
    request.fields.append(Name::Cookie, b"a=b; beta=1");
    assert_eq!(find(&request), 2);
    request.query = Some("p&q=x&q=a%20bc".to_owned());
    assert_eq!(find(&request), 3);
    request.query = Some("q=a+b".to_owned());
    assert_eq!(find(&request), 3);
    request.fields.append_named(b"X-One", b"");
    assert_eq!(find(&request), 4);
    request.fields.append(Name::Accept, b"*/*");
    assert_eq!(find(&request), 5);
    request.method = Method::Put;
    assert_eq!(find(&request), 6);
    let mut all = Vec::new();
    assert!(!router.any(&request.query(), |found| {
        all.push(found.route);
        false
    }));
    assert_eq!(all, [6, 5, 4, 3, 2, 1, 0]);
}

#[test]
fn values_are_judged_by_any_of_several() {
    let mut route = route(&[], &["/"]);
    let holds = |route: &Route, request: &Request| {
        let router = router(std::slice::from_ref(route));
        router.find(&request.query()).is_some()
    };
    let mut request = Request::get("h", "/");
    request.fields.append(Name::Accept, b"text/html");
    request.fields.append(Name::Accept, b"image/png");
    for (test, expected) in [
        (ValueTest::Present, true),
        (ValueTest::Absent, false),
        (ValueTest::Exact("image/png".into()), true),
        (ValueTest::Exact("image".into()), false),
        (ValueTest::Prefix("image/".into()), true),
        (ValueTest::Regex("text/.*".into()), true),
        (ValueTest::Regex("text/".into()), false),
    ] {
        route.matches[0].fields = vec![value("accept", test.clone())];
        assert_eq!(holds(&route, &request), expected, "{test:?}");
    }
    route.matches[0].fields = vec![value("x-none", ValueTest::Absent)];
    assert!(holds(&route, &request));
}

#[test]
fn other_listeners_routes_are_left_out() {
    let mut other = route(&[], &["/"]);
    other.listeners = vec!["intern".to_owned()];
    let routes = [other, route(&[], &["/a"])];
    assert_eq!(served(&routes, "h", "/"), None);
    assert_eq!(served(&routes, "h", "/a"), Some(1));
}

#[test]
fn a_bad_pattern_is_told_with_its_route() {
    for path in ["~(", "/"] {
        let mut bad = route(&[], &[path]);
        bad.name = "bad".to_owned();
        if path == "/" {
            bad.matches[0].cookies = vec![value("c", ValueTest::Regex("(".into()))];
        }
        let error = Router::build("web", &[route(&[], &["/"]), bad]).unwrap_err();
        assert_eq!(error.route, "bad");
    }
}

/// Every way to write the path of a rule that a server might understand, and neighbours of it.
#[test]
fn no_spelling_goes_around_a_rule() {
    let routes = [
        route(&[], &["/"]),
        route(&[], &["/admin"]),
        route(&[], &["=/exact/path"]),
        route(&[], &["~/pattern/.*"]),
    ];
    for path in [
        "/admin",
        "/admin/",
        "/admin/x",
        "/%61dmin/x",
        "/%61%64%6D%69%6e",
        "//admin/x",
        "///admin",
        "/./admin",
        "/a/../admin",
        "/a/b/../../admin/x",
        "/../admin",
        "/%2e%2e/admin",
        "/a/%2E%2e/admin",
        "/admin/../admin/x",
        "/admin/./x",
        "/admin%2Fx",
        "/admin%2fx",
        "/%2Fadmin",
        "/admin%5Cx",
        "/admin\\x",
        "/\\admin",
        "/x/..//admin",
    ] {
        assert_eq!(served(&routes, "h", path), Some(1), "{path}");
    }
    for path in [
        "/exact//path",
        "/exact%2fpath",
        "/%65xact/path",
        "/exact/./path",
    ] {
        assert_eq!(served(&routes, "h", path), Some(2), "{path}");
    }
    for path in [
        "/pattern/x",
        "/pattern//x",
        "//pattern/x",
        "/pattern%2Fx",
        "/p%61ttern/",
    ] {
        assert_eq!(served(&routes, "h", path), Some(3), "{path}");
    }
    for path in [
        "/administrator",
        "/x/admin",
        "/%2561dmin",
        "/admin%252Fx",
        "/Admin",
    ] {
        assert_eq!(served(&routes, "h", path), Some(0), "{path}");
    }
}

#[test]
fn configured_paths_may_be_spelled_in_any_way() {
    let routes = [route(&[], &["/gr%6Fup/a%2fb", "=/x//y"])];
    assert_eq!(served(&routes, "h", "/group/a%2Fb/c"), Some(0));
    assert_eq!(served(&routes, "h", "/group/a/b/c"), Some(0));
    assert_eq!(served(&routes, "h", "/x/y"), Some(0));
}

#[test]
fn paths_have_one_normal_form() {
    for (path, expected) in [
        ("/", "/"),
        ("/a/b.c/..d/e", "/a/b.c/..d/e"),
        ("/%7Euser/%2d", "/~user/-"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%2fb%5c", "/a%2Fb%5C"),
        ("/a/./b/.", "/a/b/"),
        ("/a/b/..", "/a/"),
        ("/a/b/../", "/a/"),
        ("/..", "/"),
        ("/../../a", "/a"),
        ("/a/../..//b", "//b"),
        ("/a//b", "/a//b"),
        ("/a;v=1/..", "/"),
        ("/...", "/..."),
        ("/a%3Bb", "/a%3Bb"),
        ("*", "*"),
        ("", ""),
        ("/%2525", "/%2525"),
    ] {
        let normal = normalise(path.as_bytes()).unwrap();
        assert_eq!(normal, Cow::from(expected.as_bytes()), "{path}");
        assert_eq!(
            matches!(normal, Cow::Borrowed(_)),
            path == expected,
            "{path}"
        );
    }
}

#[test]
fn paths_without_one_meaning_are_refused() {
    for (path, refusal) in [
        ("/%", PathRefusal::Encoding),
        ("/100%", PathRefusal::Encoding),
        ("/%2", PathRefusal::Encoding),
        ("/%zz", PathRefusal::Encoding),
        ("/%+1", PathRefusal::Encoding),
        ("/a%00b", PathRefusal::Nul),
        ("/a%2F..%2Fb", PathRefusal::Ambiguous),
        ("/a%2F../b", PathRefusal::Ambiguous),
        ("/..%2Fb", PathRefusal::Ambiguous),
        ("/a%5c..%5Cb", PathRefusal::Ambiguous),
        ("/a\\..\\b", PathRefusal::Ambiguous),
        ("/a/..;/b", PathRefusal::Ambiguous),
        ("/a/.;x=1/b", PathRefusal::Ambiguous),
        ("/a/%2e%2e;x/b", PathRefusal::Ambiguous),
        ("/a//../b", PathRefusal::Ambiguous),
        ("/a/%2F%2e%2e/b", PathRefusal::Ambiguous),
    ] {
        assert_eq!(normalise(path.as_bytes()), Err(refusal), "{path}");
    }
}

proptest! {
    #[test]
    fn the_normal_form_is_normal(path in "/[a./%\\\\2eEfF;]{0,12}") {
        if let Ok(normal) = normalise(path.as_bytes()) {
            prop_assert!(normal.starts_with(b"/"));
            let again = normalise(&normal);
            prop_assert_eq!(again, Ok(Cow::Borrowed(&*normal)));
            let dotted = normal.split(|&octet| octet == b'/').any(|it| it == b"." || it == b"..");
            prop_assert!(!dotted);
        }
    }

    /// A path that was plain to begin with has the form that RFC 3986 §5.2.4 computes.
    #[test]
    fn dots_go_as_the_standard_says(parts in proptest::collection::vec("a|b|\\.|\\.\\.", 1..8)) {
        let path = format!("/{}", parts.join("/"));
        let mut stack: Vec<&str> = Vec::new();
        for part in &parts {
            match part.as_str() {
                "." => {}
                ".." => drop(stack.pop()),
                other => stack.push(other),
            }
        }
        let ends = !stack.is_empty() && matches!(parts.last().map(String::as_str), Some("." | ".."));
        let expected = format!("/{}{}", stack.join("/"), if ends { "/" } else { "" });
        let normal = normalise(path.as_bytes()).unwrap();
        prop_assert_eq!(normal.as_ref(), expected.as_bytes());
    }
}

#[test]
fn shares_follow_the_weights() {
    let shares = Shares::new([90, 0, 10]);
    let mut counts = [0u32; 3];
    let mut draw = 0u64;
    for _ in 0..100_000 {
        draw = draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
        counts[shares.choose(draw).unwrap()] += 1;
    }
    assert!((89_500..90_500).contains(&counts[0]), "{counts:?}");
    assert_eq!(counts[1], 0);
    assert_eq!(Shares::new([0, 0]).choose(5), None);
    assert_eq!(Shares::new([0]).choose(5), None);
    assert_eq!(Shares::new([]).choose(5), None);
    assert_eq!(Shares::new([3]).choose(u64::MAX), Some(0));
    let large = Shares::new([u32::MAX; 5]);
    assert_eq!(large.choose(0), Some(0));
    assert_eq!(large.choose(u64::MAX), Some(4));
}

#[test]
fn a_growing_canary_keeps_its_clients() {
    let (small, large) = (Shares::new([95, 5]), Shares::new([80, 20]));
    for step in 0..10_000u64 {
        let draw = step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if small.choose(draw) == Some(1) {
            assert_eq!(large.choose(draw), Some(1));
        }
    }
}

#[test]
fn keys_name_what_they_are_made_of() {
    let mut request = Request::get("h", "/a");
    request.query = Some("user=7&user=8&empty=".to_owned());
    request.fields.append_named(b"X-User", b"7");
    request.fields.append(Name::Cookie, b"sid = 7 ;x");
    let key = |request: &Request, on: HashOn| hash_key(&on, &request.query());
    let field = key(&request, HashOn::Field("x-user".into()));
    assert!(field.is_some());
    assert_eq!(field, key(&request, HashOn::Query("user".into())));
    assert_eq!(field, key(&request, HashOn::Cookie("sid".into())));
    assert!(key(&request, HashOn::Query("empty".into())).is_some());
    assert_eq!(key(&request, HashOn::Cookie("none".into())), None);
    assert_eq!(key(&request, HashOn::Field("x-none".into())), None);
    assert_eq!(key(&request, HashOn::Query("none".into())), None);
    let path = key(&request, HashOn::Path);
    request.path = "/b".to_owned();
    assert_ne!(path, key(&request, HashOn::Path));
    let source = key(&request, HashOn::Source);
    request.source = "::ffff:192.0.2.1".parse().unwrap();
    assert_eq!(source, key(&request, HashOn::Source));
}

fn rewritten(rewrite: PathRewrite, path: &str, prefix: &str) -> String {
    let routes = [route(&[], &[prefix])];
    let request = Request::get("h", path);
    let found = router(&routes).find(&request.query()).unwrap();
    let mut out = Vec::new();
    let rewrite = CompiledRewrite::new(&rewrite).unwrap();
    rewrite.apply(path.as_bytes(), found.prefix_len, &mut out);
    String::from_utf8(out).unwrap()
}

/// The table of the Gateway API's `ReplacePrefixMatch`, and paths with more slashes.
#[test]
fn prefixes_are_replaced_as_the_gateway_api_says() {
    for (path, prefix, new, expected) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo/bar", "/", "/xyz", "/xyz/foo/bar"),
        ("//foo//bar", "/foo", "/xyz", "/xyz//bar"),
        ("/foo%2Fbar", "/foo", "", "/%2Fbar"),
    ] {
        let rewrite = PathRewrite::Prefix(new.to_owned());
        assert_eq!(rewritten(rewrite, path, prefix), expected, "{path} {new}");
    }
    let full = PathRewrite::Full("/all".to_owned());
    assert_eq!(rewritten(full, "/foo/bar", "/foo"), "/all");
    let regex = PathRewrite::Regex {
        pattern: "^/foo/([a-z]+)".to_owned(),
        replacement: "$1".to_owned(),
    };
    assert_eq!(rewritten(regex, "/foo/bar/x", "/foo"), "/bar/x");
}

fn located(redirect: &Redirect, authority: &str, target: &str) -> String {
    let mut head = RequestHead::default();
    head.set_authority(authority.as_bytes());
    head.set_target(target.as_bytes());
    let rewrite = redirect.path.as_ref();
    let rewrite = rewrite.map(|rewrite| CompiledRewrite::new(rewrite).unwrap());
    let mut out = Vec::new();
    let path = head.path().to_vec();
    location(redirect, rewrite.as_ref(), &head, &path, 2, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn locations_keep_what_a_redirect_does_not_change() {
    let mut redirect = Redirect::default();
    let at = |redirect: &Redirect| located(redirect, "example.com:8080", "/a/b?q=1");
    assert_eq!(at(&redirect), "http://example.com:8080/a/b?q=1");
    redirect.scheme = Some("https".to_owned());
    assert_eq!(at(&redirect), "https://example.com/a/b?q=1");
    redirect.port = Some(8443);
    assert_eq!(at(&redirect), "https://example.com:8443/a/b?q=1");
    redirect.port = Some(443);
    assert_eq!(at(&redirect), "https://example.com/a/b?q=1");
    redirect.host = Some("www.example.org".to_owned());
    redirect.path = Some(PathRewrite::Prefix("/new".to_owned()));
    redirect.keep_query = false;
    assert_eq!(at(&redirect), "https://www.example.org/new/b");
}

#[test]
fn a_path_cannot_make_a_location_name_a_host() {
    let redirect = Redirect::default();
    assert_eq!(
        located(&redirect, "", "//evil.example/x"),
        "/evil.example/x"
    );
    assert_eq!(located(&redirect, "", "/\\evil.example"), "/evil.example");
    assert_eq!(located(&redirect, "", "/a?b"), "/a?b");
    assert_eq!(
        located(&redirect, "[2001:db8::1]:81", "//x"),
        "http://[2001:db8::1]:81//x"
    );
    assert_eq!(located(&redirect, "h", "*"), "http://h/");
}

#[test]
fn the_first_condition_that_does_not_hold_is_told() {
    let mut test = route(&["a.example", "*.example"], &["/items", "=/other"]);
    test.matches[0].method = Some("POST".to_owned());
    test.matches[0].fields = vec![
        value("x-a", ValueTest::Present),
        value("x-b", ValueTest::Exact("1".to_owned())),
    ];
    test.matches[0].sources = vec!["10.0.0.0/8".parse().unwrap()];
    test.matches[0].workloads = vec!["/shop".to_owned()];
    let routes = [test, route(&["b.example"], &["/"]), route(&[], &["/"])];
    let differs = |request: &Request| {
        let explained = explain("web", &routes, &request.query()).unwrap();
        let places: Vec<_> = explained.iter().map(|one| (one.route, one.rule)).collect();
        // Exact paths first, other hosts last.
        assert_eq!(places, [(0, 1), (0, 0), (2, 0), (1, 0)]);
        assert_eq!(explained[0].verdict, Verdict::Differs(Difference::Path));
        assert_eq!(explained[3].verdict, Verdict::Differs(Difference::Host));
        assert_eq!(explained[1].host, Some(0));
        match explained[1].verdict {
            Verdict::Differs(difference) => Some(difference),
            Verdict::Matches(_) => None,
        }
    };
    let mut request = Request::get("a.example", "/items/7");
    assert_eq!(differs(&request), Some(Difference::Method));
    request.method = Method::Post;
    assert_eq!(differs(&request), Some(Difference::Field(0)));
    request.fields.append_named(b"x-a", b"");
    request.fields.append_named(b"x-b", b"2");
    assert_eq!(differs(&request), Some(Difference::Field(1)));
    request.fields.append_named(b"x-b", b"1");
    assert_eq!(differs(&request), Some(Difference::Source));
    request.source = "10.1.1.1".parse().unwrap();
    for other in [None, Some("/shopping"), Some("/")] {
        request.workload = other;
        assert_eq!(differs(&request), Some(Difference::Workload));
    }
    for own in ["/shop", "/shop/cart"] {
        request.workload = Some(own);
        assert_eq!(differs(&request), None);
    }
}
