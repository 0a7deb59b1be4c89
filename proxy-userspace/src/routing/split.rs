//! Which of several services gets a request.

/// Weights of targets, ready to be drawn from.
#[derive(Clone, Debug)]
pub struct Shares {
    /// Sums of the weights up to and with each target.
    ends: Box<[u64]>,
}

impl Shares {
    /// Targets with these weights.
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let mut sum = 0;
        let ends = weights.into_iter().map(|weight| {
            sum += u64::from(weight);
            sum
        });
        Self {
            ends: ends.collect(),
        }
    }

    /// The target of a draw, `None` if all weights are 0.
    ///
    /// `draw` is random, or, to keep a client with its target, a well-mixed hash of what names it
    /// ([`super::hash_key`]). A target owns a range of draws in the order of the list: if the last
    /// one's weight grows at the cost of the one before it, those whom it had stay with it.
    pub fn choose(&self, draw: u64) -> Option<usize> {
        let sum = *self.ends.last()?;
        if self.ends.len() == 1 {
            return (sum > 0).then_some(0);
        }
        // Less than `sum`, in proportion to `draw`.
        let point = ((u128::from(draw) * u128::from(sum)) >> 64) as u64;
        let target = self.ends.partition_point(|end| *end <= point);
        (target < self.ends.len()).then_some(target)
    }
}
