//! Commands that tell operators about the running daemon.

use crate::daemon::{Daemon, ok};
use serde_json::Value;

#[test]
fn backends_are_listed_for_people_and_for_programs() {
    let origin = ok();
    let daemon = Daemon::start(origin.address, "", "");
    let text = daemon.sluice(&["upstreams"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("SERVICE") && lines.len() == 2,
        "{text}"
    );
    let address = origin.address.to_string();
    assert!(
        lines[1].starts_with("app") && lines[1].contains(&address),
        "{text}"
    );
    let json = daemon.sluice(&["upstreams", "app", "--json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (&json[0]["service"], &json[0]["state"]),
        (&"app".into(), &"up".into())
    );
    let yaml = daemon.sluice(&["upstreams", &format!("app/{address}"), "-o", "yaml"]);
    let yaml: Value = serde_saphyr::from_str(&yaml).expect("YAML");
    assert_eq!(yaml[0]["address"], json[0]["address"]);

    assert_eq!(
        daemon.sluice(&["upstreams", "--not-up", "-o", "json"]),
        "[]\n"
    );
    daemon.sluice(&["drain", "app", &address]);
    let text = daemon.sluice(&["upstreams", "--not-up"]);
    assert!(
        text.contains("draining") && text.contains("by operator"),
        "{text}"
    );
    let unknown = daemon.try_sluice(&["upstreams", "shop"]);
    assert_eq!(unknown.status.code(), Some(1));
}
