//! A draw by weight in constant time: Vose's alias method.
//!
//! Every backend has one box of equal size. A heavy backend fills its own box and the room that
//! light ones leave in theirs, at most one other in each; a draw chooses a box, then one of its
//! two owners.

use super::pick::{Draws, scale};

#[derive(Debug)]
pub(super) struct Alias(Box<[Shared]>);

/// A box.
#[derive(Clone, Copy, Debug)]
struct Shared {
    /// The share of the box, of 2^32, that is its own backend's. `u32::MAX` is all of it.
    own: u32,
    other: u16,
}

impl Alias {
    pub(super) fn new(weights: &[u64]) -> Self {
        let sum: u128 = weights.iter().map(|w| u128::from(*w)).sum::<u128>().max(1);
        // What everybody needs, where `sum` is one box.
        let mut needs: Vec<u128> = weights
            .iter()
            .map(|w| u128::from(*w) * weights.len() as u128)
            .collect();
        let mut boxes: Vec<Shared> = (0..weights.len() as u16)
            .map(|i| Shared {
                own: u32::MAX,
                other: i,
            })
            .collect();
        let (mut light, mut heavy): (Vec<usize>, Vec<usize>) =
            (0..weights.len()).partition(|&i| needs[i] < sum);
        while let (Some(&rich), Some(poor)) = (heavy.last(), light.pop()) {
            boxes[poor] = Shared {
                own: ((needs[poor] << 32) / sum) as u32,
                other: rich as u16,
            };
            needs[rich] -= sum - needs[poor];
            if needs[rich] < sum {
                heavy.pop();
                light.push(rich);
            }
        }
        Self(boxes.into())
    }

    /// An index, by weight.
    #[inline]
    pub(super) fn draw(&self, draws: &mut Draws) -> usize {
        let bits = draws.next();
        let index = scale(bits, self.0.len());
        let shared = self.0[index];
        // The upper bits chose the box, so the lower ones choose the owner.
        if bits as u32 <= shared.own {
            index
        } else {
            usize::from(shared.other)
        }
    }
}
