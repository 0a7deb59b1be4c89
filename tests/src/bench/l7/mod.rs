//! `bench l7`: what a request costs a proxy, against other proxies and the direct connection.
//!
//! The proxy has one worker and one CPU to itself; the load and the origin share another. All
//! proxies of a scenario are started before its first round and take turns, so that a noisy
//! moment of the machine hits all of them alike; the median of the rounds counts. An idle proxy
//! costs the others nothing that can be measured.
//!
//! Rounds of the closed loop come first: CPU time per request, requests per second, memory. Then
//! rounds of the open loop, all at the same rate: half of what the slower of nginx and HAProxy
//! reached. That gives the latencies.
//!
//! Before it is timed each proxy answers one request, which is looked at octet by octet, and the
//! origin must have seen whom it was forwarded for. A single wrong answer later fails the row.

pub mod grpc;
pub mod h2;
pub mod histogram;
pub mod load;
pub mod micro;
pub mod origin;
pub(super) mod peer;
pub mod report;
pub mod scenario;
pub mod tls;
pub mod upkeep;
pub mod usage;
pub mod websocket;

pub use self::peer::Peer;

use self::load::{Load, Outcome, Rate};
use self::origin::Origin;
use self::peer::{Running, Start};
use self::report::Row;
use self::scenario::Scenario;
use super::median;
use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// Where the proxy runs.
pub(super) const PROXY_CPU: usize = 0;
/// Where load and origin run.
pub(super) const LOAD_CPU: usize = 1;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Time of one run.
    pub time: Duration,
    /// Rounds of either loop.
    pub rounds: usize,
}

impl Effort {
    /// For numbers that are published.
    pub const FULL: Self = Self {
        time: Duration::from_millis(1500),
        rounds: 5,
    };
    /// For a look.
    pub const QUICK: Self = Self {
        time: Duration::from_millis(400),
        rounds: 2,
    };
}

/// What to measure.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Names of scenarios; none for all.
    pub scenarios: Vec<String>,
    /// Names of peers; none for all.
    pub peers: Vec<String>,
}

/// Keeps the calling thread, and what it starts, on one CPU.
pub(super) fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Names of all scenarios and what happens in them.
pub fn scenarios() -> Vec<(&'static str, &'static str)> {
    let all = scenario::all();
    all.iter().map(|each| (each.name, each.about)).collect()
}

/// Runs the scenarios chosen.
///
/// # Errors
///
/// There is no such scenario or peer, or only one CPU. A peer that fails is a row with a note.
pub fn run(effort: Effort, choice: &Choice, mut progress: impl FnMut(&str)) -> Result<Vec<Row>> {
    let chosen = choose(choice)?;
    crate::netns::raise_open_files();
    pin(LOAD_CPU).context("two CPUs are needed, one for the proxy alone")?;
    let mut rows = Vec::new();
    for (scenario, peers) in chosen {
        progress(&format!("{}: {}", scenario.name, scenario.about));
        let origin = Origin::start(LOAD_CPU)?;
        let mut entries: Vec<Entry> = peers
            .into_iter()
            .map(|peer| Entry::start(peer, &scenario, &origin))
            .collect();
        if scenario.idle {
            for entry in &mut entries {
                entry.attempt(|running| idle(&scenario, running));
            }
        } else {
            measure(&scenario, &mut entries, effort, &mut progress);
        }
        for entry in entries {
            let row = entry.row(scenario.name);
            progress(&format!("  {row}"));
            rows.push(row);
        }
    }
    for row in micro::run(|name| is_chosen(choice, name))? {
        progress(&format!("  {row}"));
        rows.push(row);
    }
    Ok(rows)
}

/// True for the name of a micro row that is to be measured.
fn is_chosen(choice: &Choice, name: &str) -> bool {
    let among = |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
    among(&choice.scenarios, name) && among(&choice.peers, Peer::Sluice.name())
}

fn choose(choice: &Choice) -> Result<Vec<(Scenario, Vec<Peer>)>> {
    let all = scenario::all();
    for name in &choice.scenarios {
        let names = all.iter().map(|scenario| scenario.name);
        let known: Vec<&str> = names.chain(micro::NAMES).collect();
        ensure!(
            known.contains(&name.as_str()),
            "no scenario `{name}`; there are {}",
            known.join(", ")
        );
    }
    for name in &choice.peers {
        let known = Peer::ALL.map(Peer::name);
        ensure!(
            known.contains(&name.as_str()),
            "no peer `{name}`; there are {}",
            known.join(", ")
        );
    }
    let wanted = |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
    let peers: Vec<Peer> = Peer::ALL
        .into_iter()
        .filter(|peer| wanted(&choice.peers, peer.name()))
        .collect();
    Ok(all
        .into_iter()
        .filter(|scenario| wanted(&choice.scenarios, scenario.name))
        .map(|scenario| (scenario, peers.clone()))
        .collect())
}

/// One peer in one scenario.
struct Entry {
    peer: Peer,
    running: Option<Running>,
    /// Why there are no numbers, or what is to be known about them.
    note: Option<String>,
    numbers: Numbers,
}

/// What was measured, round by round.
#[derive(Clone, Debug, Default)]
struct Numbers {
    cpu_us: Vec<f64>,
    rps: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    /// Requests answered in the open loop, as a share of those that were due.
    reached: Vec<f64>,
    memory_kib: Vec<f64>,
}

impl Entry {
    fn start(peer: Peer, scenario: &Scenario, origin: &Origin) -> Self {
        let mut entry = Self {
            peer,
            running: None,
            note: None,
            numbers: Numbers::default(),
        };
        if scenario.idle && peer == Peer::Direct {
            entry.note = Some("there is no proxy whose memory could be measured".to_owned());
            return entry;
        }
        match peer.start(scenario.name, scenario.job, origin) {
            Ok(Start::Running(running)) => entry.running = Some(running),
            Ok(Start::Cannot(why)) => entry.note = Some(why),
            Err(error) => entry.note = Some(format!("failed: {error:#}")),
        }
        entry.attempt(|running| {
            wait_until_right(|| verify(scenario, running, origin))?;
            running.find_processes()?;
            Ok(Numbers::default())
        });
        entry
    }

    /// Does something with the running peer. A failure is noted, and the peer is done with.
    fn attempt(&mut self, work: impl FnOnce(&mut Running) -> Result<Numbers>) {
        let Some(running) = &mut self.running else {
            return;
        };
        match work(running) {
            Ok(numbers) => self.numbers.extend(numbers),
            Err(error) => {
                let log = running.log();
                self.note = Some(format!("failed: {error:#}"));
                if !log.is_empty() {
                    eprintln!("--- end of {}'s log\n{log}\n---", self.peer);
                }
                self.running = None;
                self.numbers = Numbers::default();
            }
        }
    }

    fn row(self, scenario: &str) -> Row {
        /// From here on the latencies are those of a queue that grows.
        const ENOUGH: f64 = 0.97;
        let value = |values: &[f64]| (!values.is_empty()).then(|| median(values));
        let late = value(&self.numbers.reached).filter(|reached| *reached < ENOUGH);
        let late = late.map(|reached| {
            let share = reached * 100.0;
            format!("answered {share:.0} % in time: latencies are those of a growing queue")
        });
        Row {
            scenario: scenario.to_owned(),
            peer: self.peer.name().to_owned(),
            cpu_us: value(&self.numbers.cpu_us),
            rps: value(&self.numbers.rps),
            p50_us: value(&self.numbers.p50_us),
            p99_us: value(&self.numbers.p99_us),
            memory_kib: value(&self.numbers.memory_kib),
            note: self.note.or(late),
        }
    }
}

impl Numbers {
    fn extend(&mut self, other: Self) {
        self.cpu_us.extend(other.cpu_us);
        self.rps.extend(other.rps);
        self.p50_us.extend(other.p50_us);
        self.p99_us.extend(other.p99_us);
        self.reached.extend(other.reached);
        self.memory_kib.extend(other.memory_kib);
    }
}

/// Tries until it succeeds: some proxies accept connections before they have read their routes.
pub(super) fn wait_until_right(attempt: impl Fn() -> Result<()>) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(15);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let result = attempt();
        if result.is_ok() || Instant::now() > deadline {
            return result;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One answer, octet by octet, and what the origin saw of the request.
fn verify(scenario: &Scenario, running: &Running, origin: &Origin) -> Result<()> {
    const MOMENT: Duration = Duration::from_millis(20);
    let before = origin.seen();
    load(scenario, running, 1, Rate::Closed, MOMENT).run(|| Ok(()))?;
    let (connections, forwarded) = origin.seen();
    if running.tree.is_some() && scenario.job.adds_forwarded_for() {
        ensure!(
            forwarded - before.1 == connections - before.0 && forwarded > before.1,
            "the origin was not told whom a request was forwarded for"
        );
    }
    Ok(())
}

fn load(
    scenario: &Scenario,
    running: &Running,
    connections: usize,
    rate: Rate,
    time: Duration,
) -> Load {
    Load {
        to: running.address,
        tls: scenario.tls,
        traffic: scenario.traffic.clone(),
        connections,
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
            entry.attempt(|running| closed(scenario, running, effort.time));
        }
    }
    let Some(rate) = common_rate(entries) else {
        return;
    };
    for round in 1..=effort.rounds {
        progress(&format!(
            "  open loop at {rate:.0}/s, round {round} of {}",
            effort.rounds
        ));
        for entry in &mut *entries {
            entry.attempt(|running| open(scenario, running, rate, effort.time));
        }
    }
}

/// Half of what the slower of nginx and HAProxy reached; if neither was measured, of the slowest.
fn common_rate(entries: &[Entry]) -> Option<f64> {
    let rate = |entry: &Entry| Some(median(Some(&entry.numbers.rps).filter(|r| !r.is_empty())?));
    let slowest = |among: &[Peer]| {
        entries
            .iter()
            .filter(|entry| among.contains(&entry.peer))
            .filter_map(rate)
            .min_by(f64::total_cmp)
    };
    let rate = slowest(&[Peer::Nginx, Peer::Haproxy])
        .or_else(|| slowest(&Peer::ALL[1..]))
        .or_else(|| slowest(&Peer::ALL))?;
    Some(rate / 2.0)
}

fn closed(scenario: &Scenario, running: &Running, time: Duration) -> Result<Numbers> {
    let load = load(scenario, running, scenario.connections, Rate::Closed, time);
    let mut clock = Vec::new();
    let outcome = load.run(|| {
        if let Some(tree) = &running.tree {
            clock.push(tree.cpu_time()?);
        }
        Ok(())
    })?;
    ensure!(outcome.requests > 0, "no request was answered");
    let mut numbers = Numbers {
        rps: vec![rps(&outcome)],
        ..Numbers::default()
    };
    if let ([start, end], Some(tree)) = (&clock[..], &running.tree) {
        let spent = end.saturating_sub(*start).as_secs_f64() * 1e6;
        numbers.cpu_us.push(spent / outcome.requests as f64);
        numbers.memory_kib.push(tree.resident_kib()? as f64);
    }
    Ok(numbers)
}

fn open(scenario: &Scenario, running: &Running, rate: f64, time: Duration) -> Result<Numbers> {
    let load = load(
        scenario,
        running,
        scenario.connections,
        Rate::Open(rate),
        time,
    );
    let outcome = load.run(|| Ok(()))?;
    ensure!(outcome.requests > 0, "no request was answered");
    Ok(Numbers {
        p50_us: vec![outcome.p50_us],
        p99_us: vec![outcome.p99_us],
        reached: vec![outcome.requests as f64 / (rate * time.as_secs_f64())],
        ..Numbers::default()
    })
}

/// Resident memory that each idle connection adds.
fn idle(scenario: &Scenario, running: &Running) -> Result<Numbers> {
    let tree = running.tree.as_ref().context("a proxy's processes")?;
    let load = load(
        scenario,
        running,
        scenario.connections,
        Rate::Closed,
        Duration::ZERO,
    );
    let before = tree.resident_kib()?;
    let mut added = 0.0;
    load.idle(|| {
        added = tree.resident_kib()? as f64 - before as f64;
        Ok(())
    })?;
    Ok(Numbers {
        memory_kib: vec![added / scenario.connections as f64],
        ..Numbers::default()
    })
}

fn rps(outcome: &Outcome) -> f64 {
    outcome.requests as f64 / outcome.seconds
}

#[cfg(test)]
mod tests;
