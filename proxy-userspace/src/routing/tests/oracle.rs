//! The router against an oracle that knows only the documented precedence: it judges every host
//! and match of every route for itself, and sorts those that hold.

use super::*;
use std::cmp::Reverse;

/// What the oracle sorts by: host, path, conditions, order.
type Key = (
    (u8, Reverse<usize>),
    (u8, Reverse<usize>),
    bool,
    [Reverse<usize>; 3],
    bool,
    usize,
    usize,
);

fn by_oracle(routes: &[Route], request: &Request) -> Vec<(usize, usize)> {
    let mut keys: Vec<Key> = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let hosts = route
            .hosts
            .iter()
            .filter_map(|host| host_key(host, request));
        let hosts: Vec<_> = match route.hosts.as_slice() {
            [] => vec![(2, Reverse(0))],
            _ => hosts.collect(),
        };
        for (rule, conditions) in route.matches.iter().enumerate() {
            let Some(path) = path_key(&conditions.path, &request.path) else {
                continue;
            };
            if !holds(conditions, request) {
                continue;
            }
            for host in &hosts {
                keys.push((
                    *host,
                    path,
                    conditions.method.is_none(),
                    [
                        Reverse(conditions.fields.len()),
                        Reverse(conditions.query.len()),
                        Reverse(conditions.cookies.len()),
                    ],
                    conditions.sources.is_empty(),
                    index,
                    rule,
                ));
            }
        }
    }
    keys.sort();
    keys.dedup();
    keys.into_iter().map(|key| (key.5, key.6)).collect()
}

fn host_key(host: &HostMatch, request: &Request) -> Option<(u8, Reverse<usize>)> {
    match host {
        HostMatch::Exact(name) => (*name == request.host).then_some((0, Reverse(name.len()))),
        HostMatch::Wildcard(suffix) => (request.host.len() > suffix.len()
            && request.host.ends_with(suffix.as_str()))
        .then_some((1, Reverse(suffix.len()))),
    }
}

fn path_key(path: &PathMatch, request: &str) -> Option<(u8, Reverse<usize>)> {
    match path {
        PathMatch::Exact(path) => (path == request).then_some((0, Reverse(0))),
        PathMatch::Regex(pattern) => {
            let whole = format!("^(?:{pattern})$");
            let regex = regex_automata::meta::Regex::new(&whole).unwrap();
            regex.is_match(request).then_some((1, Reverse(0)))
        }
        PathMatch::Prefix(prefix) => {
            let prefix = prefix.trim_end_matches('/');
            let rest = request.strip_prefix(prefix)?;
            (rest.is_empty() || rest.starts_with('/')).then_some((2, Reverse(prefix.len())))
        }
    }
}

fn holds(rule: &RouteMatch, request: &Request) -> bool {
    let method = rule.method.as_ref();
    method.is_none_or(|method| method.as_bytes() == request.method.as_bytes())
        && rule.fields.iter().all(|test| {
            let value = request.fields.get_named(test.name.as_bytes());
            test_holds(
                &test.value,
                value.map(|value| std::str::from_utf8(value).unwrap()),
            )
        })
        && rule.query.iter().all(|test| {
            let pairs = request.query.as_deref().unwrap_or("").split('&');
            let mut pairs = pairs.filter_map(|pair| pair.split_once('='));
            let value = pairs.find(|(name, _)| *name == test.name);
            test_holds(&test.value, value.map(|(_, value)| value))
        })
        && rule.cookies.iter().all(|test| {
            let cookie = request.fields.get(Name::Cookie).unwrap_or_default();
            let mut pairs = std::str::from_utf8(cookie).unwrap().split("; ");
            let value = pairs.find_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                (name == test.name).then_some(value)
            });
            test_holds(&test.value, value)
        })
        && (rule.sources.is_empty() || rule.sources.iter().any(|net| net.contains(&request.source)))
}

fn test_holds(test: &ValueTest, value: Option<&str>) -> bool {
    match test {
        ValueTest::Present => value.is_some(),
        ValueTest::Absent => value.is_none(),
        ValueTest::Exact(text) => value == Some(text),
        ValueTest::Prefix(text) => value.is_some_and(|value| value.starts_with(text)),
        ValueTest::Regex(_) => unreachable!("not drawn"),
    }
}

fn tests(names: &'static [&'static str]) -> impl Strategy<Value = Vec<ValueMatch>> {
    let test = prop_oneof![
        Just(ValueTest::Present),
        Just(ValueTest::Absent),
        "[ab]".prop_map(ValueTest::Exact),
        "[ab]".prop_map(ValueTest::Prefix),
    ];
    let one = (proptest::sample::select(names), test).prop_map(|(name, test)| value(name, test));
    prop_oneof![3 => Just(Vec::new()), 1 => proptest::collection::vec(one, 1..3)]
}

fn paths() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        "(/[ab]{1,2}){1,3}/?".prop_map(PathMatch::Exact),
        "(/[ab]{1,2}){0,3}/".prop_map(PathMatch::Prefix),
        "(/[ab]{1,2}){1,3}".prop_map(PathMatch::Prefix),
        "(/[ab.]\\*?){1,3}".prop_map(PathMatch::Regex),
    ]
}

fn rules() -> impl Strategy<Value = RouteMatch> {
    let method = prop_oneof![3 => Just(None), 1 => Just(Some("GET".to_owned()))];
    let sources = prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(vec!["192.0.2.0/25".parse().unwrap(), "192.0.2.4/30".parse().unwrap()]),
    ];
    (
        paths(),
        method,
        tests(&["x-a", "accept"]),
        tests(&["p", "q"]),
        tests(&["c", "d"]),
        sources,
    )
        .prop_map(
            |(path, method, fields, query, cookies, sources)| RouteMatch {
                path,
                method,
                fields,
                query,
                cookies,
                sources,
                ..RouteMatch::default()
            },
        )
}

fn routes() -> impl Strategy<Value = Vec<Route>> {
    let hosts =
        proptest::sample::subsequence(vec!["a.b.c", "b.c", "*.c", "*.b.c", "*.a.b.c"], 0..=3);
    let one = (hosts, proptest::collection::vec(rules(), 1..4)).prop_map(|(hosts, rules)| {
        let mut route = route(&hosts, &[]);
        route.matches = rules;
        route
    });
    proptest::collection::vec(one, 0..8)
}

fn requests() -> impl Strategy<Value = Request> {
    (
        proptest::sample::select(&["a.b.c", "b.c", "x.b.c", "x.a.b.c", "c", "d"][..]),
        "(/[ab]{1,2}){0,4}/?",
        any::<bool>(),
        proptest::collection::vec(proptest::option::of("[ab]{1,2}"), 6),
        proptest::sample::select(&["192.0.2.5", "192.0.2.200", "2001:db8::1"][..]),
    )
        .prop_map(|(host, path, is_get, values, source)| {
            let path = if path.is_empty() { "/" } else { path.as_str() };
            let mut request = Request::get(host, path);
            if !is_get {
                request.method = Method::Post;
            }
            let given = |names: [&str; 2], values: &[Option<String>]| -> Vec<String> {
                let pairs = names.iter().zip(values);
                pairs
                    .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)))
                    .collect()
            };
            for (name, value) in ["X-A", "Accept"].iter().zip(&values[..2]) {
                if let Some(value) = value {
                    request
                        .fields
                        .append_named(name.as_bytes(), value.as_bytes());
                }
            }
            request.query = Some(given(["p", "q"], &values[2..4]).join("&"));
            let cookies = given(["c", "d"], &values[4..]).join("; ");
            request.fields.append(Name::Cookie, cookies.as_bytes());
            request.source = source.parse().unwrap();
            request
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn rules_come_in_the_documented_order(routes in routes(), request in requests()) {
        let router = router(&routes);
        let mut found = Vec::new();
        router.any(&request.query(), |rule| {
            found.push((rule.route, rule.rule));
            false
        });
        prop_assert_eq!(&found, &by_oracle(&routes, &request));
        let first = router.find(&request.query()).map(|found| (found.route, found.rule));
        prop_assert_eq!(first, found.first().copied());
    }
    #[test]
    fn explanations_say_what_the_router_does(routes in routes(), request in requests()) {
        let mut found = Vec::new();
        router(&routes).any(&request.query(), |rule| {
            // A rule comes once for each of its hosts that match: the most specific comes first.
            if !found.iter().any(|known: &Found| (known.route, known.rule) == (rule.route, rule.rule)) {
                found.push(rule);
            }
            false
        });
        let explained = explain("web", &routes, &request.query()).unwrap();
        let all: usize = routes.iter().map(|route| route.matches.len()).sum();
        prop_assert_eq!(explained.len(), all);
        let matching = explained.iter().filter_map(|one| match one.verdict {
            Verdict::Matches(found) => Some(found),
            Verdict::Differs(_) => None,
        });
        prop_assert_eq!(matching.collect::<Vec<_>>(), found);
    }
}
