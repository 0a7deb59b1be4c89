//! What the kernel tells of the connections to a backend, compared with those to the others.
//!
//! A backend may answer every request and yet lose a fifth of its packets. Its clients wait, and
//! only when TCP has given up is there an error to count. The kernel knows it long before: it has
//! sent segments again, it waits longer for acknowledgements, it may not send because the other end
//! takes nothing. Each of these is held against what the *others* show at the same time, by medians,
//! so that neither one bad backend nor a network that is bad for all makes an outlier.
//!
//! - **Loss** is the share of segments sent again. A share of few segments says little: what chance
//!   alone would do is added to how far the others lie apart.
//! - **Round trips** are as long as the way is, and a backend in another zone is no outlier. So a
//!   backend is held against the lowest that was seen of *it*, plus what the others have gained on
//!   theirs. One that was far away from the first moment on is not found by this.
//! - **Zero windows**: the other end takes nothing, however much waits.

use super::Evidence;
use super::detect::median;
use crate::config::model::outlier::NetworkQuality;
use std::f64::consts::FRAC_PI_2;
use std::time::Duration;

/// What a retransmission costs at least: Linux's shortest time-out. By it a share of loss becomes
/// a time.
const TIMEOUT_NS: f64 = 200e6;

/// Intervals with samples after which the lower one of two marks is let go: at the usual 10 s the
/// lowest round trip holds for 10 to 20 minutes of traffic.
const MARK_LASTS: u32 = 60;

/// Round trips of which less was seen are not compared, nor are windows.
const LEAST_LOOKS: u64 = 5;

/// A median deviation times this is a standard deviation, where values are spread normally.
const DEVIATION: f64 = 1.4826;

/// What was seen of connections: counts since they began, or in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Segments sent that carry octets or open the connection, those sent again among them.
    pub segments: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Segments of the other end that came out of order, as they do after a loss.
    pub disordered: u64,
    /// Looks at a connection on which something moved or waited.
    pub looks: u64,
    /// Of those, where the other end's window was zero while octets waited.
    pub zero_windows: u64,
    /// Of those, where there was a new round trip.
    pub timed: u64,
    /// Those round trips together, in nanoseconds.
    pub rtt_ns: u64,
}

impl Network {
    /// What has come since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            segments: self.segments.saturating_sub(before.segments),
            retransmits: self.retransmits.saturating_sub(before.retransmits),
            disordered: self.disordered.saturating_sub(before.disordered),
            looks: self.looks.saturating_sub(before.looks),
            zero_windows: self.zero_windows.saturating_sub(before.zero_windows),
            timed: self.timed.saturating_sub(before.timed),
            rtt_ns: self.rtt_ns.saturating_sub(before.rtt_ns),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.segments += other.segments;
        self.retransmits += other.retransmits;
        self.disordered += other.disordered;
        self.looks += other.looks;
        self.zero_windows += other.zero_windows;
        self.timed += other.timed;
        self.rtt_ns = self.rtt_ns.saturating_add(other.rtt_ns);
    }

    /// Share of segments that were sent again, 0..=1.
    pub fn loss(&self) -> f64 {
        share(self.retransmits, self.segments)
    }

    /// The mean round trip in nanoseconds, if there was one.
    pub fn round_trip(&self) -> Option<f64> {
        (self.timed > 0).then(|| self.rtt_ns as f64 / self.timed as f64)
    }

    /// What the network adds to an answer, in nanoseconds: a round trip, and what losses cost.
    pub fn delay(&self) -> Option<f64> {
        Some(self.round_trip()? + self.loss() * TIMEOUT_NS)
    }
}

fn share(part: u64, of: u64) -> f64 {
    if of == 0 {
        return 0.0;
    }
    (part as f64 / of as f64).min(1.0)
}

/// What is known of the way to a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Path {
    /// The lowest mean round trip in nanoseconds, of the marks' present time and of the one before.
    marks: [Option<f64>; 2],
    /// Intervals of the present mark.
    marked: u32,
    /// What the network added in the last interval that told, and how many intervals ago that was.
    delay: Option<f64>,
    age: u32,
    /// Intervals in a row in which it stood out, by [`Sign`].
    rows: [u32; 3],
}

/// In what a backend stands out.
#[derive(Clone, Copy, Debug)]
enum Sign {
    Loss,
    RoundTrip,
    ZeroWindows,
}

impl Path {
    /// One whose lowest round trip is known from elsewhere.
    pub(super) fn with_lowest(lowest: Option<f64>) -> Self {
        Self {
            marks: [None, lowest.filter(|it| it.is_finite() && *it >= 0.0)],
            ..Self::default()
        }
    }

    /// The lowest mean round trip of an interval, in nanoseconds.
    pub(super) fn lowest(&self) -> Option<f64> {
        let marks = self.marks.iter().copied().flatten();
        marks.min_by(f64::total_cmp)
    }

    /// What the network adds, in nanoseconds, if that was seen lately.
    pub(super) fn delay(&self) -> Option<f64> {
        self.delay
    }

    /// Takes in an interval.
    pub(super) fn learn(&mut self, seen: &Network, oldest: u32) {
        let (Some(rtt), Some(delay)) = (seen.round_trip(), seen.delay()) else {
            self.age = self.age.saturating_add(1);
            if self.age > oldest {
                self.delay = None;
            }
            return;
        };
        (self.age, self.delay) = (0, Some(delay));
        if self.marked == MARK_LASTS {
            self.marks = [None, self.marks[0]];
            self.marked = 0;
        }
        self.marked += 1;
        self.marks[0] = Some(self.marks[0].map_or(rtt, |mark| mark.min(rtt)));
    }

    /// It is ejected: the next row begins anew.
    pub(super) fn forget_rows(&mut self) {
        self.rows = [0; 3];
    }
}

/// A backend in an interval.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) id: u32,
    pub(super) network: Network,
    /// See [`Path::lowest`].
    pub(super) lowest: Option<f64>,
}

/// Holds the backends against each other and counts in how many intervals in a row each stood out.
/// `paths` finds what is known of each.
pub(super) fn strained<'p>(
    seen: &[Seen],
    rules: &NetworkQuality,
    mut path: impl FnMut(u32) -> Option<&'p mut Path>,
) -> Vec<(u32, Evidence)> {
    let signs = [
        (Sign::Loss, lossy(seen, rules)),
        (Sign::RoundTrip, distant(seen, rules)),
        (Sign::ZeroWindows, stuffed(seen, rules)),
    ];
    let mut found = Vec::new();
    for one in seen {
        let Some(path) = path(one.id) else { continue };
        for (sign, outliers) in &signs {
            let row = &mut path.rows[*sign as usize];
            let Some((_, evidence)) = outliers.iter().find(|(id, _)| *id == one.id) else {
                *row = 0;
                continue;
            };
            *row = row.saturating_add(1);
            if *row >= rules.intervals {
                found.push((one.id, evidence.of_intervals(*row)));
            }
        }
    }
    found
}

/// Backends to which more is sent again.
fn lossy(seen: &[Seen], rules: &NetworkQuality) -> Vec<(u32, Evidence)> {
    let enough = |one: &&Seen| one.network.segments >= u64::from(rules.min_segments);
    let shares: Vec<(u32, f64, u64)> = seen
        .iter()
        .filter(enough)
        .map(|one| (one.id, one.network.loss(), one.network.segments))
        .collect();
    if rules.loss <= 0.0 || shares.len() < rules.min_hosts as usize {
        return Vec::new();
    }
    let of = |&(id, share, segments): &(u32, f64, u64)| {
        let values: Vec<f64> = others(&shares, |it| it.0 != id, |it| it.1);
        let (median, spread) = middle(&values)?;
        // What chance does to so many segments, here and there (a median wavers more than a mean, by
        // half of pi). Two segments more than the median may be lost by one who is like the others.
        let usual = (median + 2.0 / segments as f64).min(1.0);
        let elsewhere = shares.iter().filter(|it| it.0 != id).map(|it| it.2 as f64);
        let parts = 1.0 / segments as f64 + FRAC_PI_2 / elsewhere.sum::<f64>();
        let chance = (usual * (1.0 - usual) * parts).sqrt();
        let least = median + rules.loss.max(rules.deviations * spread.max(chance));
        let evidence = Evidence::Loss {
            share,
            median,
            segments,
            intervals: 0,
        };
        (share >= least).then_some((id, evidence))
    };
    shares.iter().filter_map(of).collect()
}

/// Backends whose round trips have grown more than those of the others.
fn distant(seen: &[Seen], rules: &NetworkQuality) -> Vec<(u32, Evidence)> {
    let gained = |one: &Seen| {
        let (rtt, lowest) = (one.network.round_trip()?, one.lowest?);
        (one.network.timed >= LEAST_LOOKS).then_some((one.id, rtt, lowest))
    };
    let gains: Vec<(u32, f64, f64)> = seen.iter().filter_map(gained).collect();
    if rules.rtt.is_zero() || gains.len() < rules.min_hosts as usize {
        return Vec::new();
    }
    let of = |&(id, rtt, lowest): &(u32, f64, f64)| {
        let values: Vec<f64> = others(&gains, |it| it.0 != id, |it| it.1 - it.2);
        let (median, spread) = middle(&values)?;
        let usual = lowest + median;
        let least = (rules.rtt.as_nanos() as f64).max(rules.deviations * spread);
        let evidence = Evidence::RoundTrip {
            own: Duration::from_nanos(rtt as u64),
            usual: Duration::from_nanos(usual.max(0.0) as u64),
            intervals: 0,
        };
        (rtt - usual >= least && rtt >= 2.0 * usual).then_some((id, evidence))
    };
    gains.iter().filter_map(of).collect()
}

/// Backends that take nothing.
fn stuffed(seen: &[Seen], rules: &NetworkQuality) -> Vec<(u32, Evidence)> {
    let enough = |one: &&Seen| one.network.looks >= LEAST_LOOKS;
    let shares: Vec<(u32, f64, Network)> = seen
        .iter()
        .filter(enough)
        .map(|one| {
            let zero = share(one.network.zero_windows, one.network.looks);
            (one.id, zero, one.network)
        })
        .collect();
    if rules.zero_windows <= 0.0 || shares.len() < rules.min_hosts as usize {
        return Vec::new();
    }
    let of = |&(id, share, network): &(u32, f64, Network)| {
        let values: Vec<f64> = others(&shares, |it| it.0 != id, |it| it.1);
        let (median, spread) = middle(&values)?;
        let evidence = Evidence::ZeroWindows {
            zero: network.zero_windows,
            looks: network.looks,
            intervals: 0,
        };
        let least = median + rules.zero_windows.max(rules.deviations * spread);
        let is_out = network.zero_windows >= LEAST_LOOKS && share >= least.min(1.0);
        (is_out && share > median).then_some((id, evidence))
    };
    shares.iter().filter_map(of).collect()
}

fn others<T>(all: &[T], is_other: impl Fn(&T) -> bool, value: impl Fn(&T) -> f64) -> Vec<f64> {
    all.iter().filter(|it| is_other(it)).map(value).collect()
}

/// The median, and the median deviation from it as a standard deviation.
fn middle(values: &[f64]) -> Option<(f64, f64)> {
    let middle = median(values.to_vec())?;
    let deviations = values.iter().map(|value| (value - middle).abs());
    let spread = median(deviations.collect())?;
    Some((middle, DEVIATION * spread))
}

/// What the network adds to a backend's answers, and what it would if this backend's way had gained
/// no more than those of the others: in nanoseconds.
pub(super) fn usual_delay(paths: &[(u32, Path)], id: u32) -> Option<(f64, f64)> {
    let gain = |path: &Path| Some(path.delay()? - path.lowest()?);
    let (_, own) = paths.iter().find(|(known, _)| *known == id)?;
    let of_others = paths.iter().filter(|(known, _)| *known != id);
    let gained = median(of_others.filter_map(|(_, path)| gain(path)).collect())?;
    Some((own.delay()?, own.lowest()? + gained))
}
