//! The page, in a real browser: what it shows of a daemon that serves, and that it obeys the keyboard.

use crate::admin_support::{Daemon, TOKEN};
use crate::support::{Client, Origin, PATIENCE};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proxy_tests::chromium::Chromium;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use std::{fs, thread};

/// Where the screenshots go, if they are to replace those of the documents.
const KEEP: &str = "SLUICE_KEEP_SCREENSHOTS";

fn screenshot(page: &mut Chromium, name: &str) {
    let shot = page.call("Page.captureScreenshot", json!({"format": "png"}));
    let shot = shot.expect("a screenshot");
    let octets = STANDARD
        .decode(shot["data"].as_str().expect("data"))
        .expect("base64");
    assert!(
        octets.starts_with(b"\x89PNG") && octets.len() > 20_000,
        "{}",
        octets.len()
    );
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let folder = match std::env::var_os(KEEP) {
        Some(_) => format!("{root}/docs/images"),
        None => format!("{root}/target/screenshots"),
    };
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(format!("{folder}/{name}.png"), octets).expect("writes");
}

fn until(page: &mut Chromium, what: &str, expression: &str) {
    let deadline = Instant::now() + 3 * PATIENCE;
    // Just after it was told to go somewhere the browser has no document.
    while !matches!(page.evaluate(expression), Ok(Value::Bool(true))) {
        let text = "document.body && document.body.innerText";
        assert!(
            Instant::now() < deadline,
            "never: {what}: {:?} {:?}",
            page.evaluate(text),
            page.said
        );
        thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Requests, one after the other over four connections, until it is enough.
fn traffic(daemon: &Daemon, enough: &AtomicBool) {
    thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || {
                let mut client = Client::to(daemon.web);
                while !enough.load(Ordering::Relaxed) {
                    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                    assert_eq!(client.answer().status, 200);
                    thread::sleep(std::time::Duration::from_millis(1 + number));
                }
            });
        }
    });
}

#[test]
fn the_page_shows_a_daemon_live_and_obeys_the_keyboard() {
    let daemon = Daemon::with_api();
    // Something to show: a backend that nobody is at, and one that drains.
    let dead = proxy_tests::alone::unused_address();
    let second = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let service = json!({
        "backends": [
            {"name": "b1", "address": daemon.origin, "weight": 2},
            {"name": "b2", "address": second.address},
            {"name": "b3", "address": dead},
        ],
        "health": {"tcp": {}, "interval": "1s", "timeout": "500ms"},
    });
    let path = "/api/v1/config/services/app";
    daemon
        .send("PUT", path, "*", &service.to_string())
        .expect(200);
    let drain = r#"{"service": "app", "backend": "b2", "timeout_seconds": 600}"#;
    let fields = [("Content-Type", "application/json")];
    daemon
        .ask("POST", "/api/v1/drain", &fields, drain)
        .expect(200);
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| traffic(&daemon, &enough));
        // Ends the traffic when an assertion fails, too.
        let _end = End(&enough);
        let mut page = Chromium::start(1440, 1120).expect("Chromium");
        look(&daemon, &mut page);
    });
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn look(daemon: &Daemon, page: &mut Chromium) {
    // As a browser does when it has asked for the password.
    let basic = format!("Basic {}", STANDARD.encode(format!("admin:{TOKEN}")));
    let fields = json!({"headers": {"Authorization": basic}});
    page.call("Network.setExtraHTTPHeaders", fields)
        .expect("set");
    let url = format!("http://{}/?theme=dark", daemon.admin);
    page.call("Page.navigate", json!({"url": url}))
        .expect("navigates");
    until(
        page,
        "rates",
        "Number(document.documentElement.dataset.looks) >= 20",
    );
    until(
        page,
        "a reason",
        "document.body.innerText.includes('Connection refused')",
    );
    until(
        page,
        "events",
        "document.querySelectorAll('#events li').length >= 4",
    );
    let text = page.evaluate("document.body.innerText").expect("text");
    let text = text.as_str().expect("text");
    for wanted in [
        "serving",
        "generation 2",
        "app",
        "b1",
        "drained by operator",
        "2 min ago",
    ] {
        assert!(text.contains(wanted), "no {wanted:?} in {text}");
    }
    for (state, name) in [("up", "b1"), ("draining", "b2"), ("down", "b3")] {
        let found = format!("document.querySelector('.state.{state} span').textContent");
        assert_eq!(page.evaluate(&found).expect("a value"), name);
    }
    let rate = "parseFloat(document.querySelector('.tile .value').textContent) > 10";
    until(page, "a rate above 10/s", rate);
    let line = "document.querySelector('#plot-latency path.line').getAttribute('d').length > 100";
    assert_eq!(page.evaluate(line).expect("a value"), true);
    screenshot(page, "page-dark");
    page.press("t").expect("pressed");
    let theme = "document.documentElement.dataset.theme === 'light'";
    assert_eq!(page.evaluate(theme).expect("a value"), true);
    screenshot(page, "page-light");
    page.press("/").expect("pressed");
    let focus = "document.activeElement === document.getElementById('filter')";
    assert_eq!(page.evaluate(focus).expect("a value"), true);
    for key in ["x", "y", "z"] {
        page.press(key).expect("pressed");
    }
    until(
        page,
        "filtered",
        "document.querySelectorAll('.service').length === 0",
    );
    page.press("Escape").expect("pressed");
    until(
        page,
        "all again",
        "document.querySelectorAll('.service').length === 1",
    );
    page.press("p").expect("pressed");
    let paused = "document.getElementById('pause').getAttribute('aria-pressed') === 'true'";
    assert_eq!(page.evaluate(paused).expect("a value"), true);
    // What the policy forbids, and what throws, ends up here.
    assert!(page.said.is_empty(), "{:?}", page.said);
}
