//! `bench l4`: the packet path.

use super::driver::{Driver, Vary};
use super::median;
use super::report::Row;
use crate::packet::build::Packet;
use crate::packet::rig::{Action, Rig, Sizes, cpus, from_client};
use crate::packet::service::Wanted;
use anyhow::{Result, ensure};
use aya::programs::XdpMode;
use proxy_common::bench::program;
use proxy_common::flow::PLANNED_FLOWS_PER_SET;
use proxy_common::maps::{self, capacity};
use proxy_common::service::{DEFAULT_RING_SIZE, Mode};

/// Flows of the rows that end in `1m`.
const MANY: u32 = 1 << 20;
/// Client numbers of the rows that end in `syn`: enough that none comes twice.
const ENDLESS: u32 = 1 << 30;
/// Octets of every frame.
const FRAME: usize = 96;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Packets per row and round.
    pub repeats: u32,
    /// Rounds, odd.
    pub rounds: usize,
    /// Rounds are cut into short runs, and the fastest counts instead of the median: for a machine
    /// that others use as well.
    pub fastest: bool,
}

/// Packets of a short run: about a millisecond, so that most runs are not interrupted.
const SHORT: u32 = 20_000;

impl Effort {
    /// For numbers that are published.
    pub const FULL: Self = Self {
        repeats: 1_000_000,
        rounds: 5,
        fastest: false,
    };
    /// For a look.
    pub const QUICK: Self = Self {
        repeats: 100_000,
        rounds: 3,
        fastest: false,
    };
}

/// What a row measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A program of the driver's object.
    Baseline(&'static str),
    /// One known flow.
    Cached,
    /// Every packet opens a flow.
    Syn,
    /// [`MANY`] known flows in turn.
    Many,
    /// To an address that concerns nobody.
    Other,
}

/// A row that is measured.
struct Case {
    id: String,
    kind: Kind,
    baseline: &'static str,
    packet: Packet,
    action: Action,
    next: u32,
    rounds: Vec<f64>,
}

/// The modes measured, as the row ids call them.
const MODES: [(&str, Mode); 4] = [
    ("ipip", Mode::DsrIpip),
    ("gue", Mode::DsrGue),
    ("nat", Mode::Nat),
    ("l2", Mode::DsrL2),
];

/// Runs all rows; `only` keeps those whose id contains it. `progress` is told what is being done.
///
/// # Errors
///
/// When an object is missing, privileges are, or a packet does not take the way that its row
/// claims to measure.
pub fn run(effort: Effort, only: Option<&str>, mut progress: impl FnMut(&str)) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut group = |name: &str, flows: u32, kinds: &[Kind], chosen: Vec<Case>| -> Result<()> {
        let sets_per_cpu = flows / cpus()? / PLANNED_FLOWS_PER_SET;
        let mut rig = Rig::with(Sizes {
            sets_per_cpu,
            ..Sizes::default()
        })?;
        let mut driver = Driver::load(rig.ingress)?;
        serve_all(&mut rig)?;
        let mut say = |what: &str| progress(&format!("{name}: {what}"));
        measure(chosen, &mut rig, &mut driver, effort, &mut say, &mut rows)?;
        if kinds.contains(&Kind::Cached) {
            live(&rig, &mut driver, effort, only, &mut say, &mut rows)?;
        } else {
            memory(&rig, only, &mut rows)?;
        }
        Ok(())
    };
    let wanted = |kinds| {
        let mut cases = cases(kinds);
        cases.retain(|case| case.is_baseline() || is_wanted(only, &case.id));
        cases
    };
    let kinds = &[Kind::Cached, Kind::Syn];
    group("default table", capacity::FLOWS, kinds, wanted(kinds))?;
    // A table of its own for each: the flows of one row would crowd out those of the next.
    let kinds = &[Kind::Many];
    let ids = wanted(kinds).into_iter().filter(|case| !case.is_baseline());
    for id in ids.map(|case| case.id).collect::<Vec<_>>() {
        let mut one = cases(kinds);
        one.retain(|case| case.is_baseline() || case.id == id);
        group("1 M flows", MANY * cpus()?, kinds, one)?;
    }
    Ok(rows)
}

/// Rounds of all cases in turn.
fn measure(
    mut cases: Vec<Case>,
    rig: &mut Rig,
    driver: &mut Driver,
    effort: Effort,
    say: &mut impl FnMut(&str),
    rows: &mut Vec<Row>,
) -> Result<()> {
    if cases.iter().all(Case::is_baseline) {
        return Ok(());
    }
    for case in &mut cases {
        say(&format!("preparing {}", case.id));
        case.prepare(driver, rig)?;
    }
    for round in 1..=effort.rounds {
        say(&format!("round {round} of {}", effort.rounds));
        for case in &mut cases {
            case.measure(driver, rig, effort)?;
        }
    }
    collect(&cases, effort, rows);
    Ok(())
}

fn is_wanted(only: Option<&str>, id: &str) -> bool {
    only.is_none_or(|text| id.contains(text))
}

/// Real frames: what the program sends is transmitted on a veth device, and dropped by a program
/// at its far end. This counts the kernel's own work on transmission as well.
fn live(
    rig: &Rig,
    driver: &mut Driver,
    effort: Effort,
    only: Option<&str>,
    say: &mut impl FnMut(&str),
    rows: &mut Vec<Row>,
) -> Result<()> {
    let mut ways: Vec<(String, String, Option<Packet>)> =
        vec![("live_swap".into(), vip(0, false), None)];
    for (index, (mode, _)) in MODES.iter().enumerate() {
        for (family, v6) in [("v4", false), ("v6", true)] {
            let to = vip(index, v6);
            ways.push((
                format!("live_{mode}_{family}"),
                to.clone(),
                Some(packet(&to)),
            ));
        }
    }
    ways.retain(|(id, ..)| is_wanted(only, id) || id == "live_swap");
    if only.is_some() && ways.len() == 1 {
        return Ok(());
    }
    let link = driver
        .program_mut(program::DROP)?
        .attach("north-peer", XdpMode::Driver)?;
    let mut rounds = vec![Vec::new(); ways.len()];
    for round in 1..=effort.rounds {
        say(&format!("live frames, round {round} of {}", effort.rounds));
        for ((_, to, own), rounds) in ways.iter().zip(&mut rounds) {
            let target = match own {
                Some(_) => rig.program()?.fd()?.try_clone()?,
                None => driver.program(program::SWAP)?.fd()?.try_clone()?,
            };
            driver.aim(&target)?;
            driver.send(&packet(to).frame(&from_client()), None, 0)?;
            rounds.push(driver.run_live(effort.repeats)?);
        }
    }
    driver.program_mut(program::DROP)?.detach(link)?;
    let base = median(&rounds[0]);
    for (index, ((id, ..), rounds)) in ways.iter().zip(&rounds).enumerate() {
        let value = median(rounds);
        rows.push(Row {
            id: id.clone(),
            value,
            unit: "packets/s",
            baseline: (index > 0).then(|| "live_swap".into()),
            ratio: (index > 0).then(|| value / base),
        });
    }
    Ok(())
}

/// Memory of the flow table, as the kernel accounts it, per million flows of its planned load.
fn memory(rig: &Rig, only: Option<&str>, rows: &mut Vec<Row>) -> Result<()> {
    let id = "memory_per_million_flows";
    if !is_wanted(only, id) || rows.iter().any(|row| row.id == id) {
        return Ok(());
    }
    let settings = rig.current_settings();
    let flows = u64::from(settings.sets_per_cpu * settings.cpus * PLANNED_FLOWS_PER_SET);
    let octets = rig.map_memory(maps::FLOWS)? + rig.map_memory(maps::FLOW_TAGS)?;
    rows.push(Row {
        id: id.into(),
        value: octets as f64 / flows as f64 * 1e6,
        unit: "bytes",
        baseline: None,
        ratio: None,
    });
    Ok(())
}

/// Medians and ratios. Baselines of the second group are used, but not reported again.
fn collect(cases: &[Case], effort: Effort, rows: &mut Vec<Row>) {
    let value = |case: &Case| {
        if effort.fastest {
            case.fastest()
        } else {
            case.median()
        }
    };
    let value_of = |id: &str| cases.iter().find(|case| case.id == id).map(value);
    for case in cases {
        if rows.iter().any(|row| row.id == case.id) {
            continue;
        }
        let value = value(case);
        let baseline = (case.id != case.baseline).then_some(case.baseline);
        let ratio = baseline.and_then(value_of).map(|base| value / base);
        rows.push(Row {
            id: case.id.clone(),
            value,
            unit: "ns/packet",
            baseline: baseline.map(str::to_owned),
            ratio,
        });
    }
}

/// One service per mode and family, with eight backends on the clients' link: what is sent goes
/// back out of the same interface, as in the baselines.
fn serve_all(rig: &mut Rig) -> Result<()> {
    for v6 in [false, true] {
        for (index, (_, mode)) in MODES.iter().enumerate() {
            let mut service = Wanted::tcp(&vip(index, v6), *mode);
            for last in 10..18u8 {
                service = service.backend(&if v6 {
                    format!("[2001:db8:2::{last:x}]:80")
                } else {
                    format!("192.0.2.{last}:80")
                });
            }
            let served = rig.serve(&service)?;
            // As it is a minute after the start.
            let slots = served.backends.iter().copied().cycle();
            let slots: Vec<u16> = slots.take(DEFAULT_RING_SIZE as usize).collect();
            rig.settle_ring(served.id, &slots)?;
        }
    }
    Ok(())
}

fn vip(index: usize, v6: bool) -> String {
    if v6 {
        format!("[2001:db8:f::{}]:80", index + 1)
    } else {
        format!("203.0.113.{}:80", index + 1)
    }
}

fn packet(dst: &str) -> Packet {
    let v6 = dst.starts_with('[');
    let src = if v6 {
        "[2001:db8:c::1]:1024"
    } else {
        "100.64.0.1:1024"
    };
    let packet = Packet::tcp(src, dst);
    let headers = packet.bytes().len() + 14;
    packet.payload(&vec![0x5a; FRAME - headers])
}

fn cases(kinds: &[Kind]) -> Vec<Case> {
    let to_vip = packet(&vip(0, false));
    let baseline = |id, name, action| Case {
        id: String::from(id),
        kind: Kind::Baseline(name),
        baseline: id,
        packet: to_vip.clone(),
        action,
        next: 0,
        rounds: Vec::new(),
    };
    let mut cases = vec![
        baseline("swap", program::SWAP, Action::Tx),
        baseline("encap_floor", program::ENCAPSULATE, Action::Tx),
        baseline("pass", program::PASS, Action::Pass),
    ];
    cases[1].baseline = "swap";
    if kinds.contains(&Kind::Cached) {
        for (id, name) in [
            ("touch_4m", program::TOUCH_SMALL),
            ("touch_16m", program::TOUCH_LARGE),
        ] {
            cases.push(Case {
                baseline: "swap",
                ..baseline(id, name, Action::Tx)
            });
        }
    }
    for &kind in kinds {
        let suffix = match kind {
            Kind::Cached => "cached",
            Kind::Syn => "syn",
            Kind::Many => "1m",
            Kind::Baseline(_) | Kind::Other => continue,
        };
        for (index, (mode, _)) in MODES.iter().enumerate() {
            for (family, v6) in [("v4", false), ("v6", true)] {
                cases.push(Case {
                    id: format!("{mode}_{family}_{suffix}"),
                    kind,
                    baseline: "swap",
                    packet: packet(&vip(index, v6)),
                    action: Action::Tx,
                    next: 0,
                    rounds: Vec::new(),
                });
            }
        }
    }
    if kinds.contains(&Kind::Cached) {
        cases.push(Case {
            id: "nonvip_pass".into(),
            kind: Kind::Other,
            baseline: "pass",
            packet: packet("198.18.0.1:80"),
            action: Action::Pass,
            next: 0,
            rounds: Vec::new(),
        });
    }
    cases
}

impl Case {
    const fn is_baseline(&self) -> bool {
        matches!(self.kind, Kind::Baseline(_))
    }

    fn aim(&self, driver: &mut Driver, rig: &Rig) -> Result<()> {
        if let Kind::Baseline(name) = self.kind {
            let target = driver.program(name)?.fd()?.try_clone()?;
            return driver.aim(&target);
        }
        driver.aim(rig.program()?.fd()?)
    }

    /// Opens the flows that the row wants to find, and confirms them.
    fn prepare(&mut self, driver: &mut Driver, rig: &Rig) -> Result<()> {
        self.aim(driver, rig)?;
        let (vary, packets) = match self.kind {
            Kind::Cached => (None, 1),
            Kind::Many => (
                Some(Vary {
                    flows: MANY,
                    step: 1,
                }),
                MANY,
            ),
            Kind::Baseline(_) | Kind::Syn | Kind::Other => return Ok(()),
        };
        // The second packet and the third one of a flow take the slower programs.
        let packet = || self.packet.clone();
        for packet in [packet().syn(), packet(), packet()] {
            driver.send(&packet.frame(&from_client()), vary, 0)?;
            driver.run(packets)?;
        }
        Ok(())
    }

    fn measure(&mut self, driver: &mut Driver, rig: &Rig, effort: Effort) -> Result<()> {
        self.aim(driver, rig)?;
        let (packet, vary) = match self.kind {
            Kind::Syn => (
                self.packet.clone().syn(),
                Some(Vary {
                    flows: ENDLESS,
                    step: 1,
                }),
            ),
            // A step with well-spread bits: neighbours in time are no neighbours in number.
            Kind::Many => (
                self.packet.clone(),
                Some(Vary {
                    flows: MANY,
                    step: 0x9e37_79b1,
                }),
            ),
            Kind::Baseline(_) | Kind::Cached | Kind::Other => (self.packet.clone(), None),
        };
        driver.send(&packet.frame(&from_client()), vary, self.next)?;
        let (runs, length) = if effort.fastest {
            (effort.repeats.div_ceil(SHORT), SHORT)
        } else {
            (1, effort.repeats)
        };
        for _ in 0..runs {
            let (ns, action) = driver.run(length)?;
            ensure!(
                action == self.action,
                "{} ended in {action:?}, not {:?}",
                self.id,
                self.action
            );
            self.rounds.push(ns);
        }
        self.next = driver.next()?;
        Ok(())
    }

    fn fastest(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn median(&self) -> f64 {
        median(&self.rounds)
    }
}
