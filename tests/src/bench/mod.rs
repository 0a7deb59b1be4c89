//! Benchmarks: what a packet costs, against baselines that run under the same conditions.
//!
//! Method of `bench l4`: nanoseconds per packet by `BPF_PROG_TEST_RUN` on one pinned CPU. Every
//! row, the baselines too, runs behind the same driver program, which restores the packet before
//! each repeat. The rows take turns in rounds, so that a noisy moment of the machine hits all of
//! them alike; the median of the rounds counts. Time is the thread's CPU time around the system
//! call, which has a finer grain than the kernel's own report (whole nanoseconds).

pub mod at_connect;
pub mod chart;
pub mod docs;
pub mod driver;
pub mod e2e;
pub mod l4;
pub mod l4_report;
pub mod l7;
pub mod machine;
pub mod process;
pub mod refusals;
pub mod report;
pub mod sockets;
pub mod wrk;

/// The middle of the rounds; between the two in the middle when their number is even.
///
/// # Panics
///
/// When there are none.
pub(crate) fn median(rounds: &[f64]) -> f64 {
    let mut rounds = rounds.to_vec();
    rounds.sort_by(f64::total_cmp);
    let half = rounds.len() / 2;
    if rounds.len().is_multiple_of(2) {
        f64::midpoint(rounds[half - 1], rounds[half])
    } else {
        rounds[half]
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(&[9.0, 1.0]), 5.0);
    }
}
