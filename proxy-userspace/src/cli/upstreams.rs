//! `sluice upstreams`.

use crate::admin::api::BackendRow;
use crate::cli::args::{self, FormatArgs, SocketArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::format;
use crate::cli::output::{self, Column};
use crate::observe::view::BackendView;

/// List backends: state, health, weight, and what they are doing
///
/// One line for each backend of each service, in the order of the file: whether it gets anything, what its
/// checks say, and how much it has at the moment. `sluice status SERVICE/BACKEND` tells all about one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice upstreams
  sluice upstreams web                  the backends of one service
  sluice upstreams --not-up             what is wrong?
  sluice upstreams --json | jq -r '.[] | select(.state != \"up\") | .address'

What the columns say:
  STATE   up, draining, down or ejected: whether it gets new flows and requests
  HEALTH  what its checks say: up, down, held (it flaps), unknown; - if it is not checked
  WEIGHT  its share; in brackets what l4 listeners use of it, where latency has reduced that
  ACTIVE  requests, connections and sessions of the proxies that it has now
  FLOWS   live flows of the kernel part
  ERRORS  of the proxies: answers of 500 and above, none at all, and connections that failed
  -       that part of sluice does not use it")]
pub(super) struct Args {
    /// Only the backends of this service, or only this backend
    #[arg(value_name = "SERVICE[/BACKEND]")]
    name: Option<String>,
    /// Only backends that are not up
    #[arg(long)]
    not_up: bool,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    socket: SocketArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let client = self.socket.client();
        let rows: Vec<BackendRow> = args::block_on(async { Ok(client.get("backends").await?) })?;
        let mut rows = match &self.name {
            Some(name) => named(rows, name).map_err(|why| Failure::new(Exit::Failed, why))?,
            None => rows,
        };
        if self.not_up {
            rows.retain(|row| row.backend.state != "up");
        }
        output::show(self.format.output(), &rows[..], text)
    }
}

/// The backends of a service, or the one. Why there is none, if so.
fn named(mut rows: Vec<BackendRow>, name: &str) -> Result<Vec<BackendRow>, String> {
    // Names of services have no slash.
    let (service, backend) = match name.split_once('/') {
        Some((service, backend)) => (service, Some(backend)),
        None => (name, None),
    };
    rows.retain(|row| row.service == service);
    if rows.is_empty() {
        return Err(format!("there is no service `{service}` with backends"));
    }
    if let Some(backend) = backend {
        rows.retain(|row| row.backend.name == backend);
        if rows.is_empty() {
            return Err(format!("service `{service}` has no backend `{backend}`"));
        }
    }
    Ok(rows)
}

fn text(rows: &[BackendRow]) -> String {
    let headings = [
        Column::Words("SERVICE"),
        Column::Words("BACKEND"),
        Column::Words("ADDRESS"),
        Column::Words("STATE"),
        Column::Words("HEALTH"),
        Column::Number("WEIGHT"),
        Column::Number("ACTIVE"),
        Column::Number("FLOWS"),
        Column::Number("ERRORS"),
        Column::Words("WHY"),
    ];
    output::columns(&headings, rows.iter().map(cells))
}

fn cells(row: &BackendRow) -> Vec<String> {
    let BackendRow { service, backend } = row;
    let none = || "-".to_owned();
    let health = backend.health.as_ref();
    let proxy = backend.proxy.as_ref();
    let in_kernel = !backend.ids.is_empty();
    vec![
        service.clone(),
        backend.name.clone(),
        format::address(&backend.address, backend.port),
        format::state(backend),
        health.map_or_else(none, |health| health.verdict.clone()),
        weight(backend),
        proxy.map_or_else(none, |proxy| proxy.in_flight.to_string()),
        if in_kernel {
            backend.live_flows.to_string()
        } else {
            none()
        },
        proxy.map_or_else(none, |proxy| {
            format::count((proxy.errors + proxy.connect_failures) as f64)
        }),
        backend.why.clone(),
    ]
}

fn weight(backend: &BackendView) -> String {
    match backend.steered_percent {
        Some(left) => format!("{} ({left} %)", backend.weight),
        None => backend.weight.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::view::{HealthView, ProxyBackendView};

    fn rows() -> Vec<BackendRow> {
        let checked = BackendView {
            name: "b1".to_owned(),
            address: "10.0.0.1".to_owned(),
            weight: 10,
            state: "draining".to_owned(),
            why: "drained by operator".to_owned(),
            ids: vec![3],
            drain_remaining_seconds: Some(30.0),
            health: Some(HealthView {
                verdict: "up".to_owned(),
                ..HealthView::default()
            }),
            steered_percent: Some(40),
            live_flows: 12,
            ..BackendView::default()
        };
        let proxied = BackendView {
            name: "a".to_owned(),
            address: "2001:db8::1".to_owned(),
            port: Some(80),
            weight: 1,
            state: "up".to_owned(),
            proxy: Some(ProxyBackendView {
                in_flight: 2,
                errors: 4,
                connect_failures: 1,
                ..ProxyBackendView::default()
            }),
            ..BackendView::default()
        };
        [("web", checked), ("app", proxied)]
            .map(|(service, backend)| BackendRow {
                service: service.to_owned(),
                backend,
            })
            .to_vec()
    }

    #[test]
    fn each_backend_is_a_line_of_what_uses_it() {
        assert_eq!(
            text(&rows()),
            "\
SERVICE  BACKEND  ADDRESS           STATE         HEALTH     WEIGHT  ACTIVE  FLOWS  ERRORS  WHY
web      b1       10.0.0.1          draining 30s  up      10 (40 %)       -     12       -  drained by operator
app      a        [2001:db8::1]:80  up            -               1       2      -       5
"
        );
    }

    #[test]
    fn a_name_narrows_the_list_or_is_unknown() {
        let of = |name| {
            let rows = named(rows(), name)?;
            let names = rows.into_iter().map(|row| row.backend.name);
            Ok::<_, String>(names.collect::<Vec<_>>())
        };
        assert_eq!(of("web"), Ok(vec!["b1".to_owned()]));
        assert_eq!(of("app/a"), Ok(vec!["a".to_owned()]));
        assert_eq!(
            of("app/b1"),
            Err("service `app` has no backend `b1`".to_owned())
        );
        assert!(of("shop").expect_err("unknown").contains("`shop`"));
    }
}
