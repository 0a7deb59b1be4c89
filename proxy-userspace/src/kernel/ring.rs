//! What the map of a service's ring holds: the ring in force and, for a while after it has changed, the
//! ring before.
//!
//! While a ring is settled, SYNs leave nothing in the flow table: the second packet of a flow asks the
//! ring again. When the ring changes, there are clients whose second packet is still to come. So for as
//! long as an answer to a SYN may take (a *window*), the ring before is kept for flows without an
//! entry; and SYNs leave flows, so that whoever has none began before the change. If the ring changes
//! again within the window, the ring before stays the one that was last settled, and is given up when its
//! own window has passed: all flows that began since have entries.
//!
//! All this is one map, in force by one pointer, so that packets see it whole or not at all, and a
//! process that adopts the data plane has nothing to remember. The rules are told in
//! `proxy_common::exceptions` and ADR 10.

use proxy_common::flow::BARE_AGE_MAX;
use proxy_common::service::{RING_CHUNK_SLOTS, RingChunk};

/// The contents of a ring's map. Times are seconds of [`proxy_common::settings::second`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RingMap {
    /// Backend ids of the ring in force; none where no backend takes new flows.
    pub(crate) slots: Vec<u16>,
    /// When it is settled, if the flow table has been looked at since.
    pub(crate) until: u32,
    /// The ring before, where flows may need it.
    pub(crate) before: Option<RingBefore>,
}

/// The ring before the one in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RingBefore {
    /// Backend ids.
    pub(crate) slots: Vec<u16>,
    /// Until when flows without an entry follow it.
    pub(crate) until: u32,
}

/// The seconds after a change in which flows that began before it may yet send their second packet: as
/// long as the service remembers a SYN, and what the clock may be wrong by.
pub(crate) fn window(syn_ticks: u32) -> u32 {
    /// Ticks per second: 2^30 ns by 2^20.
    const TICKS: u32 = 1 << 10;
    syn_ticks.min(BARE_AGE_MAX).div_ceil(TICKS) + 1
}

impl RingMap {
    /// A service's first ring.
    pub(crate) fn first(slots: Vec<u16>, now: u32) -> Self {
        Self {
            slots,
            until: now,
            before: None,
        }
    }

    /// The map that follows this one when the ring changes at `now`; `None` if it does not.
    pub(crate) fn changed(self, slots: Vec<u16>, now: u32, window: u32) -> Option<Self> {
        if self.slots == slots {
            return None;
        }
        let until = now.saturating_add(window);
        let before = if now >= self.until {
            Some(RingBefore {
                slots: self.slots,
                until,
            })
        } else {
            self.before.filter(|before| now < before.until)
        };
        Some(Self {
            slots,
            until,
            before: before.filter(|before| !before.slots.is_empty()),
        })
    }

    /// The same ring, not settled any more: what else the choice depends on changes.
    pub(crate) fn unsettled(self, now: u32, window: u32) -> Self {
        Self {
            until: now.saturating_add(window),
            before: None,
            ..self
        }
    }

    /// Reads a map's elements.
    pub(crate) fn of(chunks: &[RingChunk]) -> Self {
        let head = chunks.first().copied().unwrap_or_default();
        let first = usize::from(head.before_first);
        let split = if head.before_size == 0 {
            chunks.len()
        } else {
            first.min(chunks.len())
        };
        let (now, then) = chunks.split_at(split);
        let before = then.first().map(|chunk| RingBefore {
            slots: slots_of(then),
            until: chunk.until,
        });
        Self {
            slots: slots_of(now),
            until: head.until,
            before,
        }
    }

    /// The map's elements.
    pub(crate) fn chunks(&self) -> Vec<RingChunk> {
        let mut head = RingChunk {
            until: self.until,
            ..RingChunk::default()
        };
        // There is one in any case: it tells of the ring before.
        let first = self.slots.len().div_ceil(RING_CHUNK_SLOTS).max(1);
        if let Some(before) = &self.before {
            // Both fit their types: a configuration with larger rings is refused.
            head.before_size = before.slots.len() as u32;
            head.before_first = first as u16;
        }
        let mut chunks = packed(&self.slots, head);
        chunks.resize(first, head);
        if let Some(before) = &self.before {
            let head = RingChunk {
                until: before.until,
                ..RingChunk::default()
            };
            chunks.extend(packed(&before.slots, head));
        }
        chunks
    }
}

/// Packs slots into elements; the last one is filled up with "no backend".
fn packed(slots: &[u16], head: RingChunk) -> Vec<RingChunk> {
    (slots.chunks(RING_CHUNK_SLOTS))
        .map(|part| {
            let mut chunk = head;
            chunk.slots[..part.len()].copy_from_slice(part);
            chunk
        })
        .collect()
}

/// The slots of a ring, each of which has a backend.
fn slots_of(chunks: &[RingChunk]) -> Vec<u16> {
    (chunks.iter())
        .flat_map(|chunk| chunk.slots)
        .take_while(|&backend| backend != 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_common::flow::ticks_from_ms;
    use proxy_common::maps::capacity;
    use proxy_common::service::ring_place;

    const WINDOW: u32 = 60;

    fn settled() -> RingMap {
        RingMap::first(vec![1, 2, 1], 100)
    }

    fn before(slots: &[u16], until: u32) -> Option<RingBefore> {
        let slots = slots.to_vec();
        Some(RingBefore { slots, until })
    }

    fn change(map: RingMap, slots: &[u16], now: u32) -> RingMap {
        map.changed(slots.to_vec(), now, WINDOW).expect("a change")
    }

    #[test]
    fn a_change_keeps_the_ring_before_for_a_window() {
        let after = change(settled(), &[2, 2, 2], 500);
        assert_eq!(after.slots, [2, 2, 2]);
        assert_eq!(after.until, 500 + WINDOW);
        assert_eq!(after.before, before(&[1, 2, 1], 500 + WINDOW));
    }

    #[test]
    fn the_same_ring_again_changes_nothing() {
        assert_eq!(settled().changed(vec![1, 2, 1], 500, WINDOW), None);
    }

    #[test]
    fn within_a_window_the_ring_before_stays_the_one_that_was_settled() {
        let first = change(settled(), &[2, 2, 2], 500);
        let second = change(first, &[3, 3, 3], 530);
        assert_eq!(second.until, 530 + WINDOW);
        assert_eq!(second.before, before(&[1, 2, 1], 500 + WINDOW));
        // Its own window has passed, the last change's has not.
        let third = change(second, &[4], 570);
        assert_eq!((third.until, &third.before), (570 + WINDOW, &None));
        let fourth = change(third, &[5], 570 + WINDOW);
        assert_eq!(fourth.before, before(&[4], 570 + 2 * WINDOW));
    }

    #[test]
    fn a_ring_that_is_emptied_and_filled_again_within_a_window_leads_as_before() {
        let empty = change(settled(), &[], 500);
        assert_eq!(empty.before, before(&[1, 2, 1], 500 + WINDOW));
        let again = change(empty.clone(), &[2], 510);
        assert_eq!(again.before, before(&[1, 2, 1], 500 + WINDOW));
        // Nobody began a flow while there was no backend.
        let late = change(empty, &[2], 900);
        assert_eq!(late.before, None);
    }

    #[test]
    fn elements_are_read_back_as_they_were_written() {
        let long: Vec<u16> = (1..=251).collect();
        for slots in [&long[..], &long[..27], &long[..1], &[]] {
            for ring_before in [None, before(&long[..54], 9), before(&[7], 9)] {
                let map = RingMap {
                    slots: slots.to_vec(),
                    until: 5,
                    before: ring_before,
                };
                assert_eq!(RingMap::of(&map.chunks()), map);
            }
        }
    }

    #[test]
    fn every_element_tells_of_the_ring_before() {
        let long: Vec<u16> = (1..=251).collect();
        let map = RingMap {
            slots: long.clone(),
            until: 5,
            before: before(&long[..30], 9),
        };
        let chunks = map.chunks();
        assert_eq!(chunks.len(), 10 + 2);
        for chunk in &chunks[..10] {
            assert_eq!((chunk.before_size, chunk.before_first), (30, 10));
            assert_eq!(chunk.until, 5);
        }
        for slot in 0..30 {
            let (chunk, lane) = ring_place(slot);
            let found = &chunks[10 + chunk as usize];
            assert_eq!(found.slots[lane as usize], long[slot as usize]);
            assert_eq!(found.until, 9);
        }
    }

    #[test]
    fn two_rings_of_the_largest_size_fit() {
        let slots = vec![1; capacity::MAX_RING_SIZE as usize];
        let map = change(RingMap::first(slots, 0), &[2], 1);
        assert_eq!(RingMap::of(&map.chunks()), map);
        let back = RingMap {
            slots: vec![3; capacity::MAX_RING_SIZE as usize],
            ..map
        };
        assert_eq!(RingMap::of(&back.chunks()), back);
    }

    #[test]
    fn a_window_is_as_long_as_a_syn_is_remembered() {
        assert_eq!(window(ticks_from_ms(60_000)), 57);
        assert_eq!(window(u32::MAX), BARE_AGE_MAX.div_ceil(1024) + 1);
        assert_eq!(window(0), 1);
    }
}
