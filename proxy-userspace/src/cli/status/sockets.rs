//! Balancing at connect(), in `sluice status`.

use crate::cli::format;
use crate::observe::view::SocketBalancingView;
use std::fmt::Write as _;

/// Who is balanced at connect(), and how often each backend was given.
pub(super) fn text(view: &SocketBalancingView) -> String {
    let cgroups: Vec<_> = (view.cgroups.iter())
        .map(|one| match one.id {
            Some(_) => one.path.clone(),
            None => format!("{} (absent)", one.path),
        })
        .collect();
    let mut text = format!("connect     {}", view.state);
    if !cgroups.is_empty() {
        let _ = write!(text, " for {}", cgroups.join(", "));
    }
    if let Some(reason) = &view.reason {
        let _ = write!(text, ": {reason}");
    }
    text.push('\n');
    for service in &view.services {
        let backends: Vec<_> = (service.backends.iter())
            .map(|one| {
                let given = format::count(one.given as f64);
                let rest = if one.takes_new { "" } else { ", no new ones" };
                format!("{} {given} ({} open{rest})", one.name, one.open)
            })
            .collect();
        let _ = write!(
            text,
            "            {}: {} balanced, {} refused, {} passed",
            service.name,
            format::count((service.connected + service.opened) as f64),
            format::count(service.refused as f64),
            format::count(service.passed as f64),
        );
        if service.unrecorded > 0 {
            let unrecorded = format::count(service.unrecorded as f64);
            let _ = write!(text, ", {unrecorded} not written down in full");
        }
        let _ = writeln!(text, ": {}", backends.join(", "));
    }
    text
}
