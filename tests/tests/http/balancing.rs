//! Who of several real servers gets a request, as the configuration file of the binary says: each policy
//! and each rule once, from end to end. That shares are exact is for the tests beside the balancers.

use crate::daemon::Daemon;
use crate::support::{Answer, Client, Origin, eventually};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// A check by which the daemon notices soon what has become of a server. On a busy machine one may be late
/// three times in a test, which must not keep it down for longer than the test waits: so there is no damping.
const CHECKED: &str = "health: {http: {path: /health}, interval: 100ms, timeout: 90ms, rise: 1, fall: 1, \
                       damping: {suppress: 1000}}";

/// A server that says its name. It never answers `/hold`, and says at `/health` how it is.
struct Server {
    origin: Origin,
    is_well: Arc<AtomicBool>,
    /// Requests for `/hold`.
    held: Arc<AtomicUsize>,
}

impl Server {
    fn new(name: &'static str) -> Self {
        Self::taking(name, Duration::ZERO)
    }

    /// One that takes its time.
    fn taking(name: &'static str, time: Duration) -> Self {
        let is_well = Arc::new(AtomicBool::new(true));
        let held = Arc::<AtomicUsize>::default();
        let (health, holds) = (Arc::clone(&is_well), Arc::clone(&held));
        let origin = Origin::new(move |mut client, _| {
            while let Some(head) = client.head() {
                let (status, text) = match head.split(' ').nth(1) {
                    Some("/hold") => {
                        holds.fetch_add(1, Ordering::SeqCst);
                        client.rest();
                        return;
                    }
                    Some("/health") if health.load(Ordering::SeqCst) => ("200 OK", ""),
                    Some("/health") => ("503 Ill", ""),
                    _ => {
                        std::thread::sleep(time);
                        ("200 OK", name)
                    }
                };
                let length = text.len();
                client.send(format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{text}"
                ));
            }
        });
        Self {
            origin,
            is_well,
            held,
        }
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// It as a backend, with more keys.
    fn with(&self, keys: &str) -> String {
        format!("{{address: '{}'{keys}}}", self.origin.address)
    }

    fn is_well(&self, is_well: bool) {
        self.is_well.store(is_well, Ordering::SeqCst);
    }
}

/// Path and fields of a request with a key.
type Request = fn(u32) -> (String, String);

/// A daemon in front of these backends, with more keys of the service.
fn before(backends: &[String], keys: &str) -> Daemon {
    Daemon::before(&format!("backends: [{}], {keys}", backends.join(", ")))
}

fn plain(servers: &[&Server]) -> Vec<String> {
    servers.iter().map(|server| server.with("")).collect()
}

/// Asks over a connection of its own; `fields` end their lines.
fn ask(daemon: &Daemon, path: &str, fields: &str) -> Answer {
    let mut client = Client::to(daemon.address);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client.answer()
}

/// Who answers so many requests.
fn heard(daemon: &Daemon, count: usize) -> Vec<String> {
    (0..count).map(|_| ask(daemon, "/", "").text()).collect()
}

/// How often each was heard.
fn count(heard: &[String], name: &str) -> usize {
    heard.iter().filter(|heard| *heard == name).count()
}

/// Waits until these are who answers, and nobody else.
fn eventually_only(daemon: &Daemon, names: &[&str]) {
    let expected: BTreeSet<String> = names.iter().map(|&name| name.to_owned()).collect();
    eventually(&format!("{names:?} answer"), || {
        BTreeSet::from_iter(heard(daemon, 12)) == expected
    });
}

#[test]
fn who_is_busy_gets_no_more_while_another_is_not() {
    // A request counts until its connection to the server is put away, which may be after the client
    // has asked again: then both are equally busy.
    for policy in ["least-requests", "two-choices"] {
        let (a, b) = (Server::new("a"), Server::new("b"));
        let daemon = before(&plain(&[&a, &b]), &format!("balance: {policy}"));
        let mut held = Vec::new();
        for count in 1..=3 {
            let mut client = Client::to(daemon.address);
            client.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
            held.push(client);
            eventually("it is held", || a.held() + b.held() == count);
        }
        let free = if a.held() < b.held() { "a" } else { "b" };
        let heard = heard(&daemon, 60);
        assert!(count(&heard, free) >= 50, "{policy}: {heard:?}");
    }
}

#[test]
fn who_is_slow_gets_less_by_peak_ewma() {
    let (fast, slow) = (
        Server::new("fast"),
        Server::taking("slow", Duration::from_millis(30)),
    );
    let daemon = before(&plain(&[&fast, &slow]), "balance: peak-ewma");
    let heard = heard(&daemon, 60);
    let (fast, slow) = (count(&heard, "fast"), count(&heard, "slow"));
    assert_eq!(fast + slow, 60);
    assert!(slow < 20, "{slow} of 60 by the slow one");
}

#[test]
fn what_is_hashed_leads_to_the_same_server_again() {
    let servers = ["a", "b", "c"].map(Server::new);
    let cases: [(&str, Request); 4] = [
        ("{field: X-User}", |key| {
            ("/".to_owned(), format!("X-User: {key}\r\n"))
        }),
        ("{cookie: session}", |key| {
            ("/".to_owned(), format!("Cookie: x=1; session={key}\r\n"))
        }),
        ("{query: id}", |key| {
            (format!("/?x=1&id={key}"), String::new())
        }),
        ("path", |key| (format!("/{key}"), String::new())),
    ];
    for policy in ["ring", "maglev"] {
        for (on, of) in cases {
            let keys = format!("balance: {{policy: {policy}, hash_on: {on}}}");
            let daemon = before(&plain(&servers.each_ref()), &keys);
            let all = || -> Vec<String> {
                let asked = (0..40).map(of);
                asked
                    .map(|(path, fields)| ask(&daemon, &path, &fields).text())
                    .collect()
            };
            let first = all();
            assert_eq!(first, all(), "{keys}");
            let names = BTreeSet::from_iter(&first);
            assert_eq!(names.len(), 3, "{keys}: {first:?}");
        }
    }
}

#[test]
fn a_backup_serves_while_the_first_tier_is_ill() {
    let (a, b, last) = (Server::new("a"), Server::new("b"), Server::new("last"));
    let backends = [a.with(""), b.with(", backup: true"), last.with(", tier: 2")];
    let daemon = before(&backends, CHECKED);
    eventually_only(&daemon, &["a"]);
    a.is_well(false);
    eventually_only(&daemon, &["b"]);
    b.is_well(false);
    eventually_only(&daemon, &["last"]);
    b.is_well(true);
    eventually_only(&daemon, &["b"]);
    a.is_well(true);
    eventually_only(&daemon, &["a"]);
}

#[test]
fn labels_say_which_backends_are_used() {
    let servers = ["a", "b", "c"].map(Server::new);
    let [a, b, c] = &servers;
    let backends = [
        a.with(", labels: {version: v1, role: web}"),
        b.with(", labels: {version: v2, role: web}"),
        c.with(", labels: {version: v2}"),
    ];
    for (subset, names) in [
        ("{role: web}", &["a", "b"][..]),
        ("{version: v2}", &["b", "c"]),
        ("{version: v2, role: web}", &["b"]),
    ] {
        let daemon = before(&backends, &format!("subset: {subset}"));
        eventually_only(&daemon, names);
    }
}

#[test]
fn the_own_zone_is_preferred_while_it_is_well() {
    let servers = ["a", "b", "c"].map(Server::new);
    let [a, b, c] = &servers;
    let backends = [
        a.with(", zone: east"),
        b.with(", zone: east"),
        c.with(", zone: west"),
    ];
    let daemon = before(&backends, &format!("zone: east, {CHECKED}"));
    eventually_only(&daemon, &["a", "b"]);
    a.is_well(false);
    b.is_well(false);
    eventually_only(&daemon, &["c"]);
    a.is_well(true);
    b.is_well(true);
    eventually_only(&daemon, &["a", "b"]);
}

#[test]
fn below_the_panic_threshold_health_is_not_believed() {
    let servers = ["a", "b", "c", "d"].map(Server::new);
    let [a, b, c, d] = &servers;
    for server in [b, c, d] {
        server.is_well(false);
    }
    let backends = plain(&[a, b, c, d]);
    for (threshold, names) in [("0%", &["a"][..]), ("50%", &["a", "b", "c", "d"])] {
        let keys = format!("balance: {{panic_threshold: {threshold}}}, {CHECKED}");
        let daemon = before(&backends, &keys);
        // Told by the checks, and not by what everybody gets before the first of them.
        eventually("three are down", || {
            let told = daemon.sluice(&["status", "--json"]);
            told.matches("\"down\"").count() >= 3
        });
        eventually_only(&daemon, names);
    }
}

/// Of ten minutes, the test sees the first moments: the one that is back has a tenth of the other's share.
#[test]
fn who_comes_back_begins_slowly() {
    let (a, b) = (Server::new("a"), Server::new("b"));
    // Whoever misses one check because the machine is busy is not down: it would begin slowly, too.
    let keys = "balance: {slow_start: 10m}, \
        health: {http: {path: /health}, interval: 300ms, timeout: 290ms, rise: 1, fall: 3}";
    let daemon = before(&plain(&[&a, &b]), keys);
    eventually_only(&daemon, &["a", "b"]);
    let at_first = heard(&daemon, 50);
    let share = count(&at_first, "b");
    assert!((20..=30).contains(&share), "{share} of 50: {at_first:?}");
    b.is_well(false);
    eventually_only(&daemon, &["a"]);
    b.is_well(true);
    eventually("it is back", || ask(&daemon, "/", "").text() == "b");
    let since = heard(&daemon, 50);
    let share = count(&since, "b");
    assert!((1..=10).contains(&share), "{share} of 50: {since:?}");
}
