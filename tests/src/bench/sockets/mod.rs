//! `bench sockets`: client, proxy and origin on one host, and what the kernel's sockets save there.
//!
//! The method is that of `bench l7`: the proxy has one worker and one CPU to itself, load and origin
//! share another, peers take turns in rounds, and the median of the rounds counts.
//!
//! **Whose time it is.** On one host the work for a segment is done wherever it happens to be sent, and
//! what goes from socket to socket is at times finished by threads of the kernel. So a proxy can become
//! cheap by leaving work to others. Each row has two figures therefore: `cpu_us`, the time of the
//! proxy's processes, and `path_us`, that of everybody: proxy, load, origin, and the kernel's threads. The
//! difference between a proxy's `path_us` and that of the direct connection is what it adds to the
//! host's work.
//!
//! A scenario is one module: who takes part, and what clients do ([`Scenario`]). [`connect`] and
//! [`condemned`] are measured in another way: there is no proxy, or nothing is answered.

mod condemned;
mod connect;
mod http;
mod mesh;
pub mod report;
mod tunnel;

use self::report::Row;
use super::l7::load::{Load, Outcome, Rate, Traffic};
use super::l7::origin::Origin;
use super::l7::peer::{Peer, Running, Start};
use super::l7::scenario::Job;
use super::l7::usage::Tree;
use super::l7::{Choice, Effort, LOAD_CPU, pin, wait_until_right};
use super::median;
use crate::cgroup::Cgroup;
use anyhow::{Context, Result, ensure};
use std::any::Any;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// One scenario.
struct Scenario {
    /// Its name in rows and on the command line.
    name: &'static str,
    /// What happens, in words.
    about: &'static str,
    /// What clients do.
    traffic: Traffic,
    /// Connections at a time.
    connections: usize,
    /// What costs are told by.
    per: Per,
    /// Who takes part.
    contenders: Vec<Contender>,
}

/// What costs are told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// Each request.
    Request,
    /// Each GiB of answers, which are of so many octets.
    Gibibyte(usize),
}

impl Per {
    /// How many of these a request is.
    fn parts(self) -> f64 {
        match self {
            Self::Request => 1.0,
            Self::Gibibyte(octets) => octets as f64 / (1_u64 << 30) as f64,
        }
    }

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Gibibyte(_) => "GiB",
        }
    }
}

/// Who stands between client and origin.
struct Contender {
    name: String,
    start: Starting,
}

/// Starts one, in front of an origin.
type Starting = Box<dyn FnOnce(&Origin) -> Result<Started>>;

/// What came of starting one.
enum Started {
    /// It is ready.
    Ready(Ready),
    /// It is not, for this reason, which is no fault.
    Cannot(String),
}

/// A contender at work.
struct Ready {
    /// Where clients go.
    address: SocketAddr,
    /// Its processes: of a pair of sidecars those of both.
    trees: Vec<Tree>,
    /// True if the origin is to be told whom requests are for.
    forwards: bool,
    /// Where the load has to be for its connections to come here.
    workload: Option<Cgroup>,
    /// Ends it when it is dropped.
    _held: Box<dyn Any>,
}

impl Contender {
    /// One of the peers of `bench l7`, doing this job.
    fn peer(peer: Peer, scenario: &'static str, job: Job) -> Self {
        let start = move |origin: &Origin| {
            Ok(
                match peer.start(&format!("sockets-{scenario}"), job, origin)? {
                    Start::Running(mut running) => {
                        running.find_processes()?;
                        Started::Ready(Ready::of(running, job.adds_forwarded_for()))
                    }
                    Start::Cannot(why) => Started::Cannot(why),
                },
            )
        };
        Self {
            name: peer.name().to_owned(),
            start: Box::new(start),
        }
    }
}

impl Ready {
    fn of(running: Running, adds_forwarded_for: bool) -> Self {
        Self {
            address: running.address,
            trees: running.tree.iter().cloned().collect(),
            forwards: adds_forwarded_for && running.tree.is_some(),
            workload: None,
            _held: Box::new(running),
        }
    }

    fn cpu_time(&self) -> Result<Duration> {
        self.trees.iter().map(Tree::cpu_time).sum()
    }

    /// Runs a load towards it, from where it has to come.
    fn run(&self, load: &Load, mark: impl FnMut() -> Result<()>) -> Result<Outcome> {
        let visit = self.workload.as_ref().map(Cgroup::visit).transpose()?;
        let outcome = load.run(mark);
        drop(visit);
        outcome
    }
}

/// All scenarios, in the order of the report.
fn all() -> Vec<Scenario> {
    let mut all = http::scenarios();
    all.extend(tunnel::scenarios());
    all.push(mesh::scenario());
    all
}

/// Names of all scenarios and what happens in them.
pub fn scenarios() -> Vec<(&'static str, &'static str)> {
    let all = all();
    let measured = all.iter().map(|each| (each.name, each.about));
    let others = WITHOUT_PEERS.iter().map(|(name, about, _)| (*name, *about));
    measured.chain(others).collect()
}

/// Runs the scenarios chosen.
///
/// # Errors
///
/// There is no such scenario or peer, or only one CPU. A peer that fails is a row with a note, and so is
/// a scenario that has no peers.
pub fn run(effort: Effort, choice: &Choice, mut progress: impl FnMut(&str)) -> Result<Vec<Row>> {
    check(choice)?;
    crate::netns::raise_open_files();
    pin(LOAD_CPU).context("two CPUs are needed, one for the proxy alone")?;
    let mut rows = Vec::new();
    let tell = |more: Vec<Row>, rows: &mut Vec<Row>, progress: &mut dyn FnMut(&str)| {
        for row in report::compared(more) {
            progress(&format!("  {row}"));
            rows.push(row);
        }
    };
    for mut scenario in all() {
        if !is_among(&choice.scenarios, scenario.name) {
            continue;
        }
        progress(&format!("{}: {}", scenario.name, scenario.about));
        let origin = Origin::start(LOAD_CPU)?;
        let mut entries: Vec<Entry> = std::mem::take(&mut scenario.contenders)
            .into_iter()
            .filter(|contender| is_among(&choice.peers, &contender.name))
            .map(|contender| Entry::start(contender, &scenario, &origin))
            .collect();
        measure(&scenario, &mut entries, effort, &mut progress);
        let measured = entries.into_iter().map(|entry| entry.row(&scenario));
        tell(measured.collect(), &mut rows, &mut progress);
    }
    for (name, about, run) in WITHOUT_PEERS {
        if choice.peers.is_empty() && is_among(&choice.scenarios, name) {
            progress(&format!("{name}: {about}"));
            let measured = run(effort).unwrap_or_else(|error| vec![Row::failed(name, &error)]);
            tell(measured, &mut rows, &mut progress);
        }
    }
    Ok(rows)
}

/// Measures all rows of a scenario.
type Measuring = fn(Effort) -> Result<Vec<Row>>;

/// Scenarios in which no peers take turns: their names, what happens, and how they are measured.
const WITHOUT_PEERS: [(&str, &str, Measuring); 2] = [
    (connect::NAME, connect::ABOUT, connect::run),
    (condemned::NAME, condemned::ABOUT, condemned::run),
];

/// Whether there are such scenarios and peers.
fn check(choice: &Choice) -> Result<()> {
    let peers = all().into_iter().flat_map(|scenario| scenario.contenders);
    let peers: BTreeSet<String> = peers.map(|contender| contender.name).collect();
    let names = scenarios().into_iter().map(|(name, _)| name.to_owned());
    let kinds = [
        ("scenario", &choice.scenarios, names.collect()),
        ("peer", &choice.peers, peers.into_iter().collect::<Vec<_>>()),
    ];
    for (kind, chosen, known) in kinds {
        for name in chosen {
            let known_ones = known.join(", ");
            ensure!(
                known.contains(name),
                "no {kind} `{name}`; there are {known_ones}"
            );
        }
    }
    Ok(())
}

fn is_among(names: &[String], name: &str) -> bool {
    names.is_empty() || names.iter().any(|one| one == name)
}

/// One contender in one scenario.
struct Entry {
    name: String,
    ready: Option<Ready>,
    /// Why there are no numbers.
    note: Option<String>,
    numbers: Numbers,
}

/// What was measured, round by round.
#[derive(Clone, Debug, Default)]
struct Numbers {
    cpu_us: Vec<f64>,
    path_us: Vec<f64>,
    rps: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    memory_kib: Vec<f64>,
}

impl Entry {
    fn start(contender: Contender, scenario: &Scenario, origin: &Origin) -> Self {
        let mut entry = Self {
            name: contender.name,
            ready: None,
            note: None,
            numbers: Numbers::default(),
        };
        match (contender.start)(origin) {
            Ok(Started::Ready(ready)) => entry.ready = Some(ready),
            Ok(Started::Cannot(why)) => entry.note = Some(why),
            Err(error) => entry.note = Some(format!("failed: {error:#}")),
        }
        entry.attempt(|ready| {
            wait_until_right(|| verify(scenario, ready, origin))?;
            Ok(Numbers::default())
        });
        entry
    }

    /// Does something with it. A failure is noted, and it is done with.
    fn attempt(&mut self, work: impl FnOnce(&Ready) -> Result<Numbers>) {
        let Some(ready) = &self.ready else {
            return;
        };
        match work(ready) {
            Ok(numbers) => self.numbers.extend(numbers),
            Err(error) => {
                self.note = Some(format!("failed: {error:#}"));
                self.ready = None;
                self.numbers = Numbers::default();
            }
        }
    }

    fn row(self, scenario: &Scenario) -> Row {
        let value = |values: &[f64]| (!values.is_empty()).then(|| median(values));
        Row {
            cpu_us: value(&self.numbers.cpu_us),
            path_us: value(&self.numbers.path_us),
            rps: value(&self.numbers.rps),
            p50_us: value(&self.numbers.p50_us),
            p99_us: value(&self.numbers.p99_us),
            memory_kib: value(&self.numbers.memory_kib),
            note: self.note,
            ..Row::new(scenario.name, &self.name, scenario.per.name())
        }
    }
}

impl Numbers {
    fn extend(&mut self, other: Self) {
        self.cpu_us.extend(other.cpu_us);
        self.path_us.extend(other.path_us);
        self.rps.extend(other.rps);
        self.p50_us.extend(other.p50_us);
        self.p99_us.extend(other.p99_us);
        self.memory_kib.extend(other.memory_kib);
    }
}

/// One answer, octet by octet, and what the origin saw of the request.
fn verify(scenario: &Scenario, ready: &Ready, origin: &Origin) -> Result<()> {
    const MOMENT: Duration = Duration::from_millis(20);
    let before = origin.seen();
    let load = Load {
        connections: 1,
        time: MOMENT,
        ..load(scenario, ready, Rate::Closed, MOMENT)
    };
    ready.run(&load, || Ok(()))?;
    let (connections, forwarded) = origin.seen();
    ensure!(
        !ready.forwards || (forwarded - before.1 == connections - before.0 && forwarded > before.1),
        "the origin was not told whom a request was forwarded for"
    );
    Ok(())
}

fn load(scenario: &Scenario, ready: &Ready, rate: Rate, time: Duration) -> Load {
    Load {
        to: ready.address,
        tls: None,
        traffic: scenario.traffic.clone(),
        connections: scenario.connections,
        rate,
        time,
    }
}

fn measure(
    scenario: &Scenario,
    entries: &mut [Entry],
    effort: Effort,
    progress: &mut impl FnMut(&str),
) {
    for round in 1..=effort.rounds {
        progress(&format!(
            "  closed loop, round {round} of {}",
            effort.rounds
        ));
        for entry in &mut *entries {
            entry.attempt(|ready| closed(scenario, ready, effort.time));
        }
    }
    // Of a stream there is no latency: how long 64 MiB take is told by how many there were.
    let Some(rate) = common_rate(entries).filter(|_| scenario.per == Per::Request) else {
        return;
    };
    for round in 1..=effort.rounds {
        progress(&format!(
            "  open loop at {rate:.0}/s, round {round} of {}",
            effort.rounds
        ));
        for entry in &mut *entries {
            entry.attempt(|ready| open(scenario, ready, rate, effort.time));
        }
    }
}

/// Half of what the slowest proxy reached; if there was none, of what was reached without.
fn common_rate(entries: &[Entry]) -> Option<f64> {
    let rate = |entry: &Entry| Some(median(Some(&entry.numbers.rps).filter(|r| !r.is_empty())?));
    let is_proxy = |entry: &&Entry| entry.name != Peer::Direct.name();
    let proxies = entries.iter().filter(is_proxy).filter_map(rate);
    let slowest = proxies.min_by(f64::total_cmp);
    let rate = slowest.or_else(|| entries.iter().find_map(rate))?;
    Some(rate / 2.0)
}

fn closed(scenario: &Scenario, ready: &Ready, time: Duration) -> Result<Numbers> {
    let own = Tree::of(std::process::id())?;
    let kernel = Tree::of_kernel()?;
    let mut marks = Vec::new();
    let load = load(scenario, ready, Rate::Closed, time);
    let outcome = ready.run(&load, || {
        let proxy = ready.cpu_time()?;
        // The proxy is a child of this process, and counted by that already.
        marks.push((proxy, own.cpu_time()? + kernel.kernel_time()));
        Ok(())
    })?;
    ensure!(outcome.requests > 0, "no request was answered");
    let [(proxy, everybody), (proxy_then, everybody_then)] = marks[..] else {
        anyhow::bail!("the load was marked {} times", marks.len());
    };
    let each = |spent: Duration| {
        let parts = outcome.requests as f64 * scenario.per.parts();
        spent.as_secs_f64() * 1e6 / parts
    };
    let mut numbers = Numbers {
        path_us: vec![each(everybody_then.saturating_sub(everybody))],
        rps: vec![rps(&outcome)],
        ..Numbers::default()
    };
    if !ready.trees.is_empty() {
        numbers.cpu_us.push(each(proxy_then.saturating_sub(proxy)));
        let memory: Result<u64> = ready.trees.iter().map(Tree::resident_kib).sum();
        numbers.memory_kib.push(memory? as f64);
    }
    Ok(numbers)
}

fn open(scenario: &Scenario, ready: &Ready, rate: f64, time: Duration) -> Result<Numbers> {
    let load = load(scenario, ready, Rate::Open(rate), time);
    let outcome = ready.run(&load, || Ok(()))?;
    ensure!(outcome.requests > 0, "no request was answered");
    Ok(Numbers {
        p50_us: vec![outcome.p50_us],
        p99_us: vec![outcome.p99_us],
        ..Numbers::default()
    })
}

fn rps(outcome: &Outcome) -> f64 {
    outcome.requests as f64 / outcome.seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_there_is_can_be_chosen() {
        let choice = |scenario: &str, peer: &str| Choice {
            scenarios: vec![scenario.to_owned()],
            peers: vec![peer.to_owned()],
        };
        check(&choice("connect", "envoy-pair")).unwrap();
        let error = check(&choice("get", "nobody")).unwrap_err().to_string();
        assert!(
            error.contains("no peer `nobody`; there are direct, "),
            "{error}"
        );
        assert!(check(&choice("nothing", "nginx")).is_err());
    }

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<&str> = scenarios().iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), scenarios().len());
    }

    #[test]
    fn a_gibibyte_is_sixteen_answers_of_64_mib() {
        assert_eq!(Per::Gibibyte(64 << 20).parts(), 1.0 / 16.0);
        assert_eq!(Per::Request.parts(), 1.0);
    }

    #[test]
    fn the_common_rate_is_half_of_the_slowest_proxy() {
        let entry = |name: &str, rps: f64| Entry {
            name: name.to_owned(),
            ready: None,
            note: None,
            numbers: Numbers {
                rps: vec![rps],
                ..Numbers::default()
            },
        };
        let entries = [
            entry("direct", 10.0),
            entry("nginx", 60.0),
            entry("sluice", 50.0),
        ];
        assert_eq!(common_rate(&entries), Some(25.0));
        assert_eq!(common_rate(&entries[..1]), Some(5.0));
        assert_eq!(common_rate(&[]), None);
    }
}
