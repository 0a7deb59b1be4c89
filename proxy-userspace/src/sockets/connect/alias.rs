//! Alias tables (Vose, 1991): a draw by weight in constant time, exact whatever the weights are.
//!
//! Each member has a slot; a slot is full of its own member up to a threshold and of another above it.
//! All slots are alike in size, so a slot is drawn evenly, and then a point in it.

use proxy_common::connect::Slot;
use std::collections::VecDeque;

/// The table of members with weights above zero; its slots are in the members' order.
pub(super) fn table(members: &[(u32, u16)]) -> Vec<Slot> {
    let total: u64 = members.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let count = members.len() as u64;
    let mut slots: Vec<Slot> = members.iter().map(|(id, _)| full(*id)).collect();
    if total == 0 {
        return Vec::new();
    }
    // What each member has, in units of which a slot holds `total`.
    let mut left: Vec<u64> = (members.iter())
        .map(|(_, weight)| u64::from(*weight) * count)
        .collect();
    let (mut short, mut long): (VecDeque<usize>, VecDeque<usize>) =
        (0..members.len()).partition(|&index| left[index] < total);
    while let (Some(&one), Some(&other)) = (short.front(), long.front()) {
        short.pop_front();
        slots[one].threshold = threshold(left[one], total);
        slots[one].alias = members[other].0;
        left[other] -= total - left[one];
        if left[other] < total {
            long.pop_front();
            short.push_back(other);
        }
    }
    slots
}

/// A slot of one member alone.
fn full(id: u32) -> Slot {
    Slot {
        threshold: u32::MAX,
        own: id,
        alias: id,
        _pad: [0; 3],
    }
}

/// The share `part / whole` of the numbers of 32 bits; `part` is less.
fn threshold(part: u64, whole: u64) -> u32 {
    u32::try_from((part << 32) / whole).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The exact share of each member that a table gives, in 2^32 parts of a slot.
    fn shares(slots: &[Slot]) -> BTreeMap<u32, f64> {
        let mut shares = BTreeMap::new();
        for slot in slots {
            let own = match slot.own == slot.alias {
                true => 1.0,
                false => f64::from(slot.threshold) / 2f64.powi(32),
            };
            *shares.entry(slot.own).or_insert(0.0) += own;
            *shares.entry(slot.alias).or_insert(0.0) += 1.0 - own;
        }
        let count = slots.len() as f64;
        shares.values_mut().for_each(|share| *share /= count);
        shares
    }

    #[test]
    fn shares_are_those_of_the_weights() {
        let many: Vec<(u32, u16)> = (1..=500)
            .map(|id| (id, (id * 131 % 977 + 1) as u16))
            .collect();
        let cases: [&[(u32, u16)]; 5] = [
            &[(7, 1)],
            &[(1, 1), (2, 1), (3, 2)],
            &[(1, u16::MAX), (2, 1)],
            &[(5, 3), (9, 3), (11, 3)],
            &many,
        ];
        for members in cases {
            let slots = table(members);
            assert_eq!(slots.len(), members.len());
            let total: f64 = members.iter().map(|(_, weight)| f64::from(*weight)).sum();
            let shares = shares(&slots);
            for (id, weight) in members {
                let wanted = f64::from(*weight) / total;
                let got = shares[id];
                assert!((got - wanted).abs() < 1e-9, "{id}: {got} for {wanted}");
            }
        }
    }

    #[test]
    fn nobody_has_no_slots() {
        assert!(table(&[]).is_empty());
    }

    #[test]
    fn draws_come_from_the_members_alone() {
        let members = [(3, 10), (4, 1), (8, 500)];
        for slot in table(&members) {
            for number in [0, 1, 1 << 20, u32::MAX - 1, u32::MAX] {
                assert!([3, 4, 8].contains(&slot.pick(number)));
            }
        }
    }
}
