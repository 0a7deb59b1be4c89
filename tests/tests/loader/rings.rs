//! Rings: swapped whole, with the one before.

use super::*;
use anyhow::bail;
use aya::maps::ArrayOfMaps;
use proxy_common::flow::ticks_from_ms;
use proxy_common::service::RingChunk;
use std::time::Instant;

#[test]
fn a_ring_of_65537_slots_is_swapped_in_milliseconds() {
    in_netns("ring", |place| {
        let plane = running(place)?;
        let mut store = plane.store()?;
        let (ring, mut turned) = (ring(), ring());
        turned.rotate_left(1);
        let mut fastest = Duration::MAX;
        for ring in [&turned, &ring, &turned, &ring, &turned] {
            let edit = MapEdit::Ring(1, ring.clone());
            let begin = Instant::now();
            store.apply(&edit)?;
            fastest = fastest.min(begin.elapsed());
        }
        // Most of it is the grace period that the kernel waits for after the swap.
        ensure!(fastest < Duration::from_millis(50), "{fastest:?}");
        eprintln!("swapped a ring in {fastest:?}");
        Ok(())
    });
}

/// The elements of service 1's ring map, as they are pinned.
fn ring_chunks(place: &Path) -> Result<Vec<RingChunk>> {
    let data = MapData::from_pin(Pins::new(place).map(maps::RINGS))?;
    let rings = ArrayOfMaps::<_, Array<MapData, RingChunk>>::try_from(Map::from_map_data(data)?)?;
    let ring = rings.get(&1, 0)?;
    Ok(ring.iter().collect::<Result<_, _>>()?)
}

/// The slots of the ring in force and of the one before, as many as were asked for.
fn slots_of(chunks: &[RingChunk], count: usize) -> Vec<u16> {
    let slots = chunks.iter().flat_map(|chunk| chunk.slots);
    slots.take(count).collect()
}

#[test]
fn the_ring_before_outlives_the_process_and_further_changes() {
    in_netns("before", |place| {
        let plane = running(place)?;
        let first = slots_of(&ring_chunks(&place.0)?, 65_537);
        ensure!(first == ring());
        // A window that outlasts the test on the slowest machine.
        let mut service = plane.store()?.state()?.services[0].1;
        service.syn_ticks = ticks_from_ms(240_000);
        plane.store()?.apply(&MapEdit::Service(1, service))?;
        plane.store()?.apply(&MapEdit::Ring(1, vec![1; 251]))?;
        let changed = ring_chunks(&place.0)?;
        plane.detach_all(true)?;

        // The next process changes it again within the window; and again says what it is.
        let (plane, adoption) = place.open()?;
        ensure!(matches!(adoption, Adoption::Adopted { .. }), "{adoption:?}");
        ensure!(
            ring_chunks(&place.0)? == changed,
            "adopting changes nothing"
        );
        let mut store = plane.store()?;
        for slots in [vec![2; 251], vec![2; 251], vec![]] {
            store.apply(&MapEdit::Ring(1, slots.clone()))?;
            let chunks = ring_chunks(&place.0)?;
            let head = chunks[0];
            ensure!(slots_of(&chunks, slots.len()) == slots);
            ensure!(head.before_size == 65_537, "{head:?}");
            let before = &chunks[usize::from(head.before_first)..];
            ensure!(slots_of(before, 65_537) == first);
            ensure!(before[0].until == changed[0].until, "its window is its own");
            ensure!(head.until >= changed[0].until);
        }
        // A removed one is gone, and a service that gets its id begins anew.
        store.apply(&MapEdit::RemoveRing(1))?;
        store.apply(&MapEdit::Ring(1, vec![1; 251]))?;
        ensure!(ring_chunks(&place.0)?[0].before_size == 0);
        Ok(())
    });
}

#[test]
fn a_new_seed_unsettles_the_rings() {
    in_netns("seed", |place| {
        let plane = running(place)?;
        let before = ring_chunks(&place.0)?[0];
        let seeded = Settings {
            selection_seed: 7,
            ..settings(&plane)
        };
        plane.store()?.apply(&MapEdit::Settings(seeded))?;
        let after = ring_chunks(&place.0)?[0];
        ensure!(after.until > before.until, "{before:?} {after:?}");
        ensure!(after.slots == before.slots && after.before_size == 0);
        Ok(())
    });
}

#[test]
fn many_rings_are_swapped_in_together() {
    in_netns("rings", |place| {
        let plane = running(place)?;
        let mut store = plane.store()?;
        let edits: Vec<_> = (1..=200)
            .map(|id| MapEdit::Ring(id, vec![id; 251]))
            .collect();
        let begin = Instant::now();
        let result = store.apply_all(&edits);
        ensure!(result.is_ok(), "{result:?}");
        eprintln!("swapped 200 rings in {:?}", begin.elapsed());
        ensure!(begin.elapsed() < Duration::from_secs(1));

        // One beyond the map fails, and it is known which.
        let edits = [1, 2, 5_000, 3].map(|id| MapEdit::Ring(id, vec![1]));
        match store.apply_all(&edits) {
            Err((2, error)) => ensure!(error.map == maps::RINGS),
            other => bail!("{other:?}"),
        }
        Ok(())
    });
}
