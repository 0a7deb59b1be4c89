//! The first lines of `sluice status`.

use super::sockets;
use crate::cli::format;
use crate::observe::view::{
    AccelerationView, MeshListenerView, MeshView, SteeredView, SteeringView, View,
};
use std::fmt::Write as _;

/// What concerns no service: the process, its configuration, and what it does as a whole.
pub(super) fn text(view: &View) -> String {
    let mut text = String::new();
    let daemon = &view.daemon;
    let age = view.read_at_seconds - daemon.started_at_seconds;
    let adopted = if daemon.adopted {
        ", adopted a running data plane"
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "sluice {}  {}  pid {}, up {}{adopted}",
        daemon.version,
        daemon.phase.name(),
        daemon.pid,
        format::span(age),
    );
    if !daemon.privileges.is_empty() {
        let all = daemon.privileges.iter();
        let all: Vec<_> = all.map(|(what, is)| format!("{what} {is}")).collect();
        let _ = writeln!(text, "privileges  {}", all.join("; "));
    }
    if let Some(view) = &view.acceleration {
        let _ = writeln!(text, "accelerate  {}", acceleration(view));
    }
    let config = &view.config;
    let _ = writeln!(
        text,
        "config      {} (generation {}, loaded {})",
        config.path,
        config.generation,
        format::time(config.loaded_at_seconds),
    );
    if let Some(error) = &config.last_reload_error {
        let first = error.lines().next().unwrap_or_default();
        let _ = writeln!(text, "            last reload refused: {first}");
    }
    if let Some(steering) = &view.steering {
        text.push_str(&steering_text(steering));
    }
    if let Some(balancing) = &view.socket_balancing {
        text.push_str(&sockets::text(balancing));
    }
    if let Some(mesh) = &view.mesh {
        text.push_str(&mesh_text(mesh));
    }
    if !view.interfaces.is_empty() {
        text.push_str(&kernel_text(view));
    }
    text
}

/// What is balanced in the kernel.
fn kernel_text(view: &View) -> String {
    let mut text = String::new();
    let interfaces: Vec<String> = view
        .interfaces
        .iter()
        .map(|interface| format!("{} ({})", interface.name, interface.attached))
        .collect();
    let _ = writeln!(text, "interfaces  {}", interfaces.join(", "));
    let flows = &view.flow_table;
    let share = 100.0 * flows.entries as f64 / (flows.capacity.max(1)) as f64;
    let _ = writeln!(
        text,
        "flows       {} of {} ({share:.1} %)",
        format::count(flows.entries as f64),
        format::count(flows.capacity as f64),
    );
    let outcome = |outcome: &str| {
        let counts = view.reasons.iter().filter(|count| count.outcome == outcome);
        format::count(counts.map(|count| count.packets).sum::<u64>() as f64)
    };
    let _ = writeln!(
        text,
        "packets     {} forwarded, {} passed, {} dropped",
        outcome("forward"),
        outcome("pass"),
        outcome("drop"),
    );
    text
}

/// What is steered, in one line.
fn steering_text(steering: &SteeringView) -> String {
    let sum = |count: fn(&SteeredView) -> u64| {
        format::count(steering.listeners.iter().map(count).sum::<u64>() as f64)
    };
    format!(
        "steering    {} bindings (generation {}): {} steered, {} refused, {} passed\n",
        format::count(steering.bindings as f64),
        steering.generation,
        sum(|one| one.steered),
        sum(|one| one.refused),
        sum(|one| one.passed),
    )
}

/// What is redirected, and from where.
fn mesh_text(mesh: &MeshView) -> String {
    let sum = |count: fn(&MeshListenerView) -> u64| {
        format::count(mesh.listeners.iter().map(count).sum::<u64>() as f64)
    };
    let mut text = format!(
        "mesh        {} redirected, {} excluded, {} refused, {} passed, {} unreachable\n",
        sum(|one| one.redirected),
        sum(|one| one.excluded),
        sum(|one| one.refused),
        sum(|one| one.passed),
        sum(|one| one.unreachable),
    );
    if mesh.ports > 0 {
        let _ = writeln!(text, "            {} ports of programs", mesh.ports);
    }
    if mesh.ports_without_room > 0 {
        let without_room = mesh.ports_without_room;
        let _ = writeln!(
            text,
            "            {without_room} ports without room are not redirected"
        );
    }
    for one in &mesh.cgroups {
        let _ = writeln!(text, "            {}  {}", one.path, one.state);
    }
    if let Some(error) = &mesh.error {
        let _ = writeln!(text, "            {error}");
    }
    text
}

/// Same-host acceleration in one line.
fn acceleration(view: &AccelerationView) -> String {
    let mut text = view.state.clone();
    if let Some(reason) = &view.reason {
        let _ = write!(text, ": {reason}");
    }
    if view.self_test_seconds > 0.0 {
        let took = view.self_test_seconds * 1000.0;
        let _ = write!(
            text,
            " (self-test {took:.0} ms)  {} sockets, {} connections so far",
            view.sockets, view.connections
        );
    }
    if view.tunnels > 0 {
        let _ = write!(text, ", {} tunnels past this process", view.tunnels);
    }
    if !view.bulk_listeners.is_empty() {
        let names = view.bulk_listeners.join(", ");
        let _ = write!(text, ", plain for now as much flows: {names}");
    }
    let troubles = [
        (view.full, "without room"),
        (view.blocking, "left alone as they block"),
        (view.stalled, "no progress"),
    ];
    for (count, what) in troubles {
        if count > 0 {
            let _ = write!(text, ", {what} {count}");
        }
    }
    text
}
