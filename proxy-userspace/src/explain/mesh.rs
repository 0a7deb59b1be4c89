//! What is said of listeners that connections are redirected to.

use crate::config::model::mesh::{Direction, Mesh, Unmatched};

/// Whose connections, and what becomes of those that nobody is for.
pub(super) fn describe(mesh: &Mesh) -> String {
    let whose = match mesh.cgroups.as_slice() {
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        [] => String::new(),
    };
    let rest = match mesh.unmatched {
        Unmatched::Passthrough => "what no route is for goes where it was to go",
        Unmatched::Refuse => "what no route is for is refused",
    };
    let failure = mesh.on_failure.name();
    let way = match mesh.direction {
        Direction::Outbound => "redirected from",
        Direction::Inbound => "redirected on its way to",
    };
    format!("{way} {whose}; {rest}; {failure} while the daemon is down")
}

#[cfg(test)]
mod tests {
    use crate::config::model::mesh::{Direction, Mesh, Selection, Unmatched};
    use crate::config::model::steer::OnFailure;
    use std::time::Duration;

    #[test]
    fn whose_connections_come_is_told() {
        let mut mesh = Mesh {
            cgroups: vec!["/shop".to_owned(), "/till".to_owned()],
            direction: Direction::Outbound,
            destinations: Selection::default(),
            sources: Selection::default(),
            ports: Selection::default(),
            users: Selection::default(),
            reach: None,
            on_failure: OnFailure::Closed,
            unmatched: Unmatched::Refuse,
            detect: Duration::from_secs(1),
            opaque: Vec::new(),
            names: Vec::new(),
        };
        assert_eq!(
            super::describe(&mesh),
            "redirected from /shop and 1 more; what no route is for is refused; closed while the \
             daemon is down"
        );
        mesh.direction = Direction::Inbound;
        assert!(super::describe(&mesh).starts_with("redirected on its way to /shop and 1 more;"));
    }
}
