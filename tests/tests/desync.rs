//! Replays public lists of HTTP/1 desync and smuggling shapes through `sluice proxy`, from end to
//! end: a script sends them, plays the origin, and judges what came of each. Script and data are
//! not ours and stay outside: see [`vectors`].
//!
//! `h1_vectors` judges the codec alone, in a second; this one tells whether the engine keeps what
//! the codec promises: what it closes, what it answers, and what the next client gets.

use proxy_tests::alone::{proxy, unused_address};
use proxy_tests::python;
use proxy_tests::vectors;
use serde::Deserialize;
use std::path::Path;
use std::process::Command;

const SCRIPT: &str = "../suites/desync.py";
const FILE: &str = "h1-requests-lists.json";

/// Requests in it: fewer would pass unseen.
const CASES: usize = 397;

/// Each case waits for silence most of its time, so many run at once.
const AT_ONCE: usize = 12;

#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
}

#[test]
fn no_shape_slips_through_the_engine_and_honest_ones_pass() {
    let (Some(text), Some(script)) = (vectors::read(FILE), vectors::path(SCRIPT)) else {
        return;
    };
    let data = vectors::path(FILE).expect("was read");
    let vectors: Vectors = serde_json::from_str(&text).expect("the vectors' form");
    let ids: Vec<&str> = vectors.cases.iter().map(|case| &*case.id).collect();
    assert_eq!(ids.len(), CASES);
    let passed: u32 = std::thread::scope(|scope| {
        let parts = ids.chunks(ids.len().div_ceil(AT_ONCE));
        let parts: Vec<_> = parts
            .map(|part| scope.spawn(|| replay(&script, &data, part)))
            .collect();
        let passed = parts.into_iter().map(|part| part.join().expect("all pass"));
        passed.sum()
    });
    assert_eq!(passed as usize, ids.len());
}

/// Replays these cases through a proxy of their own.
fn replay(script: &Path, data: &Path, ids: &[&str]) -> u32 {
    let origin = unused_address();
    let (_proxy, address) = proxy(origin, &[]);
    let ids: Vec<String> = ids.iter().map(|id| escape(id)).collect();
    let mut command = Command::new("python3");
    command.arg(script).arg(address.to_string());
    command.arg(origin.port().to_string()).arg(data);
    command.env("SHOW", "1");
    command.env("ONLY", format!("^(?:{})$", ids.join("|")));
    python::run(&mut command).expect("all pass")
}

/// As a part of a regular expression.
fn escape(id: &str) -> String {
    id.chars()
        .flat_map(|c| {
            (!c.is_alphanumeric())
                .then_some('\\')
                .into_iter()
                .chain([c])
        })
        .collect()
}
