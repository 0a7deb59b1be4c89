//! All that is known of one backend.

use crate::cli::format;
use crate::observe::view::{BackendView, NetworkView, ServiceView, View};
use std::fmt::Write as _;

/// The backend `SERVICE/BACKEND`, or all of `SERVICE`, in words. Why there is none, if so.
pub(super) fn of(view: &View, name: &str) -> Result<String, String> {
    // Names of services have no slash.
    let (service, backend) = match name.split_once('/') {
        Some((service, backend)) => (service, Some(backend)),
        None => (name, None),
    };
    let found = view.services.iter().find(|known| known.name == service);
    let found = found.ok_or_else(|| format!("there is no service `{service}`"))?;
    let is_meant = |known: &&BackendView| backend.is_none_or(|name| known.name == name);
    let texts: Vec<String> = found
        .backends
        .iter()
        .filter(is_meant)
        .map(|backend| text(found, backend, view.read_at_seconds))
        .collect();
    if let (true, Some(backend)) = (texts.is_empty(), backend) {
        return Err(format!("service `{service}` has no backend `{backend}`"));
    }
    Ok(texts.join("\n"))
}

/// Every backend of every service.
pub(super) fn all(view: &View) -> String {
    let services = view.services.iter();
    let texts: Vec<String> = services
        .flat_map(|service| {
            let backends = service.backends.iter();
            backends.map(move |backend| text(service, backend, view.read_at_seconds))
        })
        .collect();
    texts.join("\n")
}

fn text(service: &ServiceView, backend: &BackendView, now: f64) -> String {
    let mut text = format!("{}/{}  {}\n", service.name, backend.name, backend.state);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<9} {value}");
    };
    if !backend.why.is_empty() {
        line("why", &backend.why);
    }
    if let Some(ejection) = &backend.ejection {
        let back = format::span(ejection.remaining_seconds);
        let times = ejection.times;
        line(
            "ejected",
            &format!("back in {back}; its ejections lately: {times}"),
        );
    }
    if !backend.ejections.is_empty() {
        let counts = backend.ejections.iter();
        let counts: Vec<_> = counts
            .map(|(who, count)| format!("{who} {count}"))
            .collect();
        line("ejections", &counts.join(", "));
    }
    if let Some(latency) = backend.latency_seconds {
        line("latency", &format!("{:.3} ms", latency * 1e3));
    }
    if let Some(network) = &backend.network {
        line("network", &network_line(network));
    }
    if let Some(workloads) = &backend.workloads {
        let (opened, failed) = (workloads.opened, workloads.failed);
        let network = network_line(&workloads.network);
        line(
            "workloads",
            &format!("{opened} connections opened, {failed} failed; {network}"),
        );
    }
    let weight = match backend.steered_percent {
        Some(left) => format!("{}, of which l4 listeners use {left} %", backend.weight),
        None => backend.weight.to_string(),
    };
    line("weight", &weight);
    if let Some(health) = &backend.health {
        let failed: u64 = health.failed.values().sum();
        let checks = format!(
            "{}: {} passed, {failed} failed",
            health.verdict, health.passed
        );
        line("checks", &checks);
        if let Some(error) = &health.last_error {
            line("last error", error);
        }
    }
    if !backend.history.is_empty() {
        text.push_str("  history\n");
    }
    for change in &backend.history {
        let age = format::span(now - change.time_seconds);
        let (time, from, to) = (format::time(change.time_seconds), &change.from, &change.to);
        let _ = writeln!(text, "    {time}  {age} ago  {from} → {to}: {}", change.why);
    }
    text
}

fn network_line(network: &NetworkView) -> String {
    let rtt = network.rtt_seconds;
    let rtt = rtt.map_or_else(String::new, |rtt| {
        format!("round trip {:.3} ms, ", rtt * 1e3)
    });
    format!(
        "{rtt}{} of {} segments sent again, {} came out of order, zero window at {} of {} looks",
        network.retransmits,
        network.segments,
        network.disordered,
        network.zero_windows,
        network.looks
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::view::{ChangeView, EjectionView, HealthView};

    fn view() -> View {
        let backend = BackendView {
            name: "b1".to_owned(),
            state: "ejected".to_owned(),
            why: "ejected: 5 answers of 5xx in a row".to_owned(),
            weight: 1,
            latency_seconds: Some(0.0125),
            network: Some(NetworkView {
                rtt_seconds: Some(0.08),
                segments: 50,
                retransmits: 9,
                ..NetworkView::default()
            }),
            steered_percent: Some(70),
            ejections: [("consecutive_5xx".to_owned(), 2)].into(),
            ejection: Some(EjectionView {
                remaining_seconds: 25.0,
                times: 2,
                ..EjectionView::default()
            }),
            health: Some(HealthView {
                verdict: "up".to_owned(),
                passed: 9,
                ..HealthView::default()
            }),
            history: vec![ChangeView {
                time_seconds: 1_700_000_000.0,
                from: "up".to_owned(),
                to: "ejected".to_owned(),
                why: "consecutive_5xx: 5 answers of 5xx in a row".to_owned(),
            }],
            ..BackendView::default()
        };
        View {
            services: vec![ServiceView {
                name: "web".to_owned(),
                backends: vec![backend],
                ..ServiceView::default()
            }],
            read_at_seconds: 1_700_000_060.0,
            ..View::default()
        }
    }

    #[test]
    fn a_backend_is_told_with_its_history() {
        let text = of(&view(), "web/b1").expect("found");
        for part in [
            "web/b1  ejected",
            "back in 25s",
            "consecutive_5xx 2",
            "12.500 ms",
            "network   round trip 80.000 ms, 9 of 50 segments sent again",
            "1, of which l4 listeners use 70 %",
            "up: 9 passed, 0 failed",
            "up → ejected: consecutive_5xx: 5 answers of 5xx in a row",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert_eq!(of(&view(), "web").expect("found"), text);
        assert_eq!(all(&view()), text);
    }

    #[test]
    fn what_is_not_there_is_said() {
        let missing = of(&view(), "web/b2").expect_err("missing");
        assert_eq!(missing, "service `web` has no backend `b2`");
        assert!(of(&view(), "shop").expect_err("missing").contains("`shop`"));
    }
}
