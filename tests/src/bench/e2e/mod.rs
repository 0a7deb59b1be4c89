//! `bench l4`, end to end: a client, a balancer and its backends, each in its own network
//! namespace, and the same load through sluice, nginx, HAProxy, nftables, and without any of them.
//!
//! Each contender has hosts of its own, all built before the first round: what one does to its
//! host (an XDP program, address translation, connection tracking) costs the others nothing.
//!
//! Two numbers count. Requests per second is what users see, but here client and backends share
//! the CPUs with the balancer, so that a balancer which costs nothing still is no faster than no
//! balancer. Therefore also the CPU time of the whole machine per request: what is above the
//! direct connection's is the balancer's cost, wherever in the kernel it is spent. Most of that is
//! the detour over another host, which any balancer on the way has: a `routed` connection takes it
//! without being balanced.

mod arena;
mod contender;

use self::arena::Arena;
use self::contender::Contender;
use super::machine::Moment;
use super::report::Row;
use super::wrk;
use anyhow::{Context, Result};
use std::time::Duration;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Time of one run.
    pub time: Duration,
    /// Rounds, odd.
    pub rounds: usize,
}

impl Effort {
    /// For numbers that are published.
    pub const FULL: Self = Self {
        time: Duration::from_secs(4),
        rounds: 5,
    };
    /// For a look: less than a minute.
    pub const QUICK: Self = Self {
        time: Duration::from_secs(1),
        rounds: 3,
    };
}

/// Connections that `wrk` has open at a time.
pub const CONNECTIONS: u32 = 64;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A new connection for each request.
    Connection,
    /// One request after another on the same connections.
    KeepAlive,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Connection, Self::KeepAlive];

    const fn name(self) -> &'static str {
        match self {
            Self::Connection => "conn",
            Self::KeepAlive => "keepalive",
        }
    }
}

/// All runs of one contender with one kind of load.
struct Series {
    kind: Kind,
    contender: Contender,
    /// Requests per second, round by round.
    rates: Vec<f64>,
    /// CPU microseconds of the machine per request.
    costs: Vec<f64>,
}

impl Series {
    fn id(&self) -> String {
        format!("e2e_{}_{}", self.kind.name(), self.contender.name())
    }
}

/// Runs all rows; `only` keeps those whose id contains it, and their baseline.
///
/// # Errors
///
/// A contender cannot be started, or a request fails.
pub fn run(effort: Effort, only: Option<&str>, mut progress: impl FnMut(&str)) -> Result<Vec<Row>> {
    let mut series = wanted(only);
    if series.is_empty() {
        return Ok(Vec::new());
    }
    let mut arenas: Vec<Arena> = Vec::new();
    for contender in Contender::ALL {
        if series.iter().any(|series| series.contender == contender) {
            progress(&format!("end to end: building hosts for {contender}"));
            let arena = Arena::build(contender);
            arenas.push(arena.with_context(|| format!("hosts for {contender}"))?);
        }
    }
    for round in 1..=effort.rounds {
        progress(&format!("end to end: round {round} of {}", effort.rounds));
        for series in &mut series {
            let arena = arenas
                .iter()
                .find(|arena| arena.contender == series.contender)
                .context("each contender has its hosts")?;
            measure(series, arena, effort.time)
                .with_context(|| format!("{}, round {round}", series.id()))?;
        }
    }
    Ok(rows(&series))
}

fn wanted(only: Option<&str>) -> Vec<Series> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        let series = Contender::ALL.map(|contender| Series {
            kind,
            contender,
            rates: Vec::new(),
            costs: Vec::new(),
        });
        let is_wanted = |series: &Series| only.is_none_or(|text| series.id().contains(text));
        if series.iter().any(is_wanted) {
            all.extend(
                series
                    .into_iter()
                    .filter(|series| series.contender == Contender::Direct || is_wanted(series)),
            );
        }
    }
    all
}

fn measure(series: &mut Series, arena: &Arena, time: Duration) -> Result<()> {
    let load = wrk::Load {
        to: arena.target,
        path: "/",
        connections: CONNECTIONS,
        close: series.kind == Kind::Connection,
        time,
    };
    let before = Moment::now()?;
    let outcome = load.run(&mut arena.client("wrk"), arena.folder())?;
    let busy = before.busy_seconds()?;
    let requests = outcome.requests as f64;
    series.rates.push(requests / outcome.seconds);
    series.costs.push(busy / requests * 1e6);
    Ok(())
}

fn rows(series: &[Series]) -> Vec<Row> {
    let mut rows = Vec::new();
    for each in series {
        let direct = series
            .iter()
            .find(|other| other.kind == each.kind && other.contender == Contender::Direct);
        type Values = fn(&Series) -> &[f64];
        let numbers: [(&str, &'static str, Values); 2] = [
            ("", "requests/s", |series| &series.rates),
            ("_cpu", "µs/request", |series| &series.costs),
        ];
        for (suffix, unit, values) in numbers {
            let value = super::median(values(each));
            let baseline = direct.filter(|_| each.contender != Contender::Direct);
            rows.push(Row {
                id: each.id() + suffix,
                value,
                unit,
                baseline: baseline.map(|direct| direct.id() + suffix),
                ratio: baseline.map(|direct| value / super::median(values(direct))),
            });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_of_rows_keeps_the_direct_connection_of_its_kind() {
        let ids = |only| wanted(only).iter().map(Series::id).collect::<Vec<_>>();
        assert_eq!(ids(None).len(), 2 * Contender::ALL.len());
        assert_eq!(
            ids(Some("conn_nginx")),
            ["e2e_conn_direct", "e2e_conn_nginx"]
        );
        assert!(ids(Some("ipip_v4")).is_empty());
    }

    #[test]
    fn ratios_are_to_the_direct_connection_of_the_same_kind() {
        let mut all = wanted(Some("keepalive_sluice"));
        for (series, rate) in all.iter_mut().zip([100.0, 80.0]) {
            series.rates.push(rate);
            series.costs.push(1e3 / rate);
        }
        let rows = rows(&all);
        let sluice = rows
            .iter()
            .find(|row| row.id == "e2e_keepalive_sluice_cpu")
            .unwrap();
        assert_eq!(sluice.baseline.as_deref(), Some("e2e_keepalive_direct_cpu"));
        assert_eq!(sluice.ratio, Some(1.25));
    }
}
