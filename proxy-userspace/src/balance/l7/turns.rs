//! Smooth weighted round robin as a precomputed cycle and one shared cursor.
//!
//! nginx's algorithm gives, turn after turn, the backend that is owed most, and so interleaves
//! them: for weights 5, 1, 1 it yields `a a b a c a a` and not `a a a a a b c`. It needs a counter
//! per backend that changes with every pick, which several workers could only share under a lock;
//! and with counters for each worker, the first requests of all of them go to the same backends.
//!
//! But the order is periodic. So it is computed once per change of the set, and a pick takes the
//! next position of it from an atomic counter. Each window of one period then has the exact shares
//! *over all workers*, however the picks are spread over them. The price is one cache line that
//! all workers write; each request writes the backend's counters in the same way, so the order of
//! magnitude stays. The counter outlives the cycle, or each change of health would favour whoever
//! comes first.

use super::pick::Ask;
use super::table::Candidate;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Position in the cycle, shared by all workers; alone on its cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Cursor(AtomicU64);

impl Cursor {
    /// Starts anywhere: a fleet that starts at once must not meet at one backend.
    pub(super) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed >> 16))
    }

    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// The cycle.
#[derive(Debug)]
pub(super) struct Turns {
    order: Box<[u16]>,
    cursor: Arc<Cursor>,
}

impl Turns {
    pub(super) fn new(weights: &[u64], cursor: Arc<Cursor>) -> Self {
        Self {
            order: order(&bounded(weights)),
            cursor,
        }
    }

    /// Whose turn it is, whatever its state. The cycle is not empty.
    pub(super) fn next(&self) -> usize {
        let position = self.cursor.next() % self.order.len() as u64;
        usize::from(self.order[position as usize])
    }

    /// The next one that can take the request, if any is found within a few rounds.
    ///
    /// Who is passed over loses the turn, so that the others share it by their weights. If the
    /// cursor did not move on with each of them, all of it would go to the successor.
    pub(super) fn pick(&self, candidates: &[Candidate], ask: &Ask<'_>) -> Option<usize> {
        let turns = self.order.len().min(4 * candidates.len());
        (0..turns)
            .map(|_| self.next())
            .find(|&index| candidates[index].can_take(ask))
    }
}

/// Longest cycle for few backends; with many, a few turns for each.
const MAX_TURNS: u64 = 4096;

/// Weights with the same proportions whose sum is a bearable length for a cycle. Where they must
/// be rounded, a share is wrong by at most half a turn of the cycle, or by what it takes to give
/// everybody one turn.
fn bounded(weights: &[u64]) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let sum: u64 = weights.iter().map(|w| w / divisor).sum();
    let longest = MAX_TURNS.max(8 * weights.len() as u64);
    if sum <= longest {
        return weights.iter().map(|w| w / divisor).collect();
    }
    let scale = longest as f64 / sum as f64;
    weights
        .iter()
        .map(|w| (((w / divisor) as f64 * scale).round() as u64).max(1))
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// From this many backends on, the quadratic cost of nginx's order would be felt.
const MANY: usize = 128;

fn order(weights: &[u64]) -> Box<[u16]> {
    let is_even = weights.windows(2).all(|pair| pair[0] == pair[1]);
    if is_even {
        (0..weights.len() as u16).collect()
    } else if weights.len() < MANY {
        by_debt(weights)
    } else {
        by_deadline(weights)
    }
}

/// nginx's order: each turn, everybody is owed its weight more; who is owed most gets it and is
/// owed the sum of all weights less.
fn by_debt(weights: &[u64]) -> Box<[u16]> {
    let sum = weights.iter().sum::<u64>();
    let mut owed = vec![0i64; weights.len()];
    let turn = |_| {
        let mut first = 0;
        for (i, weight) in weights.iter().enumerate() {
            owed[i] += *weight as i64;
            if owed[i] > owed[first] {
                first = i;
            }
        }
        owed[first] -= sum as i64;
        first as u16
    };
    (0..sum).map(turn).collect()
}

/// Each backend's turns stand in the middle of equal parts of the cycle: as smooth, sorted at
/// once, but not nginx's order turn by turn.
fn by_deadline(weights: &[u64]) -> Box<[u16]> {
    let mut turns: Vec<(f64, u16)> = Vec::new();
    for (i, &weight) in weights.iter().enumerate() {
        let middle = |turn| (turn as f64 + 0.5) / weight as f64;
        turns.extend((0..weight).map(|turn| (middle(turn), i as u16)));
    }
    turns.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    turns.into_iter().map(|(_, i)| i).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_one_one_is_what_nginx_makes_of_it() {
        assert_eq!(*by_debt(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn even_weights_take_turns_in_order() {
        assert_eq!(*order(&bounded(&[700; 4])), [0, 1, 2, 3]);
        assert_eq!(*order(&[1; 300]), *by_debt(&[1; 300]));
    }

    #[test]
    fn both_orders_keep_everybody_within_a_turn_and_a_half_of_its_share() {
        let weights: Vec<u64> = (0..40).map(|i| 1 + i * i % 13).collect();
        let sum = weights.iter().sum::<u64>() as f64;
        for order in [by_debt(&weights), by_deadline(&weights)] {
            let mut had = vec![0.0; weights.len()];
            for (turn, &i) in order.iter().enumerate() {
                had[usize::from(i)] += 1.0;
                for (had, weight) in had.iter().zip(&weights) {
                    let due = (turn + 1) as f64 * *weight as f64 / sum;
                    assert!((had - due).abs() < 1.5, "had {had}, due {due}");
                }
            }
            let exact: Vec<f64> = weights.iter().map(|w| *w as f64).collect();
            assert_eq!(had, exact);
        }
    }

    #[test]
    fn extreme_weights_fit_and_nobody_is_left_out() {
        let turns = bounded(&[65_535 * 256, 1, 65_534 * 256]);
        assert!(turns.iter().sum::<u64>() <= MAX_TURNS + 2);
        assert_eq!(turns[1], 1);
        assert_eq!(bounded(&[30, 20, 10]), [3, 2, 1]);
    }
}
