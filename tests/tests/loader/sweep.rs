//! The sweep of the flow table.

use super::*;
use nix::time::{ClockId, clock_gettime};
use proxy_common::exceptions::{self, Exceptions, HALF_WORDS, half, since};
use proxy_common::flow::flow_flags;
use proxy_common::hash::{ring_slot, selection_hash};
use proxy_common::settings::second;
use proxy_userspace::kernel::host::{now_ns, now_tick};
use proxy_userspace::kernel::sweep::{self, FlowFilter};

#[test]
fn the_sweep_forgets_expired_flows_and_corrects_drift() {
    in_netns("sweep", |place| {
        let plane = running(place)?;
        let now = now_tick();
        let fresh: Vec<_> = (1_000..1_050).map(|port| flow(port, now)).collect();
        let stale: Vec<_> = (2_000..2_050)
            .map(|port| flow(port, now.wrapping_sub(200_000)))
            .collect();
        let fresh = write_flows(place, &plane, &fresh)?;
        let stale = write_flows(place, &plane, &stale)?;
        ensure!(stale > 20);

        let mut sweeper = plane.sweeper()?;
        let report = sweeper.finish_pass(now)?;
        ensure!(report.flows_expired == stale as u64, "{report:?}");
        ensure!(report.occupancy.used == fresh as u64, "{report:?}");
        ensure!(report.occupancy.confirmed == fresh as u64, "{report:?}");
        ensure!(report.occupancy.capacity >= u64::from(FLOWS), "{report:?}");
        ensure!(report.drift_corrected == 0, "{report:?}");
        ensure!(live(&plane)?.iter().sum::<i64>() == fresh as i64);

        // A count that a crash left wrong.
        let mut counts = pinned::<i64>(&place.0, maps::LIVE_FLOWS)?;
        let right = counts.get(&1, 0)?;
        counts.set(1, right + 7, 0)?;
        let report = sweeper.finish_pass(now)?;
        ensure!(report.drift_corrected == 7, "{report:?}");
        ensure!(counts.get(&1, 0)? == right);
        Ok(())
    });
}

#[test]
fn a_pass_over_a_million_flows_never_holds_a_core_for_long() {
    in_netns("million", |place| {
        let mut l4 = place.l4();
        l4.flow_capacity = 1_000_000;
        let (mut plane, _) = DataPlane::open(&l4, 0)?;
        apply(&plane)?;
        plane.attach(&[])?;
        // Eight flows in every set, as planned.
        let now = now_tick();
        let mut table = pinned::<FlowSet>(&place.0, maps::FLOWS)?;
        let mut tags = pinned::<SetTags>(&place.0, maps::FLOW_TAGS)?;
        let (mut set, mut set_tags) = (FlowSet::default(), SetTags::default());
        for way in 0..8u16 {
            let hash = u64::from(way + 1) << slot::HASH_SHIFT;
            set_tags.tags[usize::from(way)] = hash | slot::CONFIRMED | slot::at(now);
            set.ways[usize::from(way)] = flow(way, now);
        }
        for index in 0..table.len() {
            table.set(index, set, 0)?;
            tags.set(index, set_tags, 0)?;
        }
        // The thread's own time: others use this machine too.
        let cpu_time = || -> Result<Duration> {
            let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
            Ok(Duration::new(time.tv_sec() as u64, time.tv_nsec() as u32))
        };
        let mut sweeper = plane.sweeper()?;
        let (mut longest, begin) = (Duration::ZERO, cpu_time()?);
        let report = loop {
            let before = cpu_time()?;
            let report = sweeper.step(now)?;
            longest = longest.max(cpu_time()? - before);
            if let Some(report) = report {
                break report;
            }
        };
        let (whole, flows) = (cpu_time()? - begin, report.occupancy.used);
        ensure!(flows >= 1_000_000, "{report:?}");
        eprintln!("a pass over {flows} flows: {whole:?}, longest step {longest:?}");
        ensure!(longest < Duration::from_millis(50), "{longest:?}");
        ensure!(whole < Duration::from_secs(2), "{whole:?}");
        Ok(())
    });
}

#[test]
fn purging_a_service_forgets_its_flows_only() {
    in_netns("purge", |place| {
        let plane = running(place)?;
        let now = now_tick();
        let own: Vec<_> = (1_000..1_040).map(|port| flow(port, now)).collect();
        let other: Vec<_> = (2_000..2_040)
            .map(|port| FlowEntry {
                service: 2,
                ..flow(port, now)
            })
            .collect();
        write_flows(place, &plane, &own)?;
        let others = write_flows(place, &plane, &other)?;
        plane.store()?.apply(&MapEdit::PurgeService(1))?;
        let left = sweep::list(plane.maps(), &FlowFilter::default(), 1_000, now)?;
        ensure!(left.len() == others && left.iter().all(|flow| flow.service == 2));

        // A process that ends between the two steps of a removal leaves the slot: the tuple must be
        // gone.
        let table = pinned::<FlowSet>(&place.0, maps::FLOWS)?;
        for set in table.iter() {
            let set = set?;
            let leftover = set
                .ways
                .iter()
                .any(|entry| entry.service == 1 && entry.key.protocol != 0);
            ensure!(!leftover);
        }
        Ok(())
    });
}

#[test]
fn the_sweep_marks_the_flows_that_are_not_where_the_ring_leads() {
    in_netns("marks", |place| {
        let plane = running(place)?;
        let now = now_tick();
        let slots = ring();
        let led_to = |flow: &FlowEntry| {
            slots[ring_slot(selection_hash(&flow.key, 0), slots.len() as u32) as usize]
        };
        let ruled = |port| {
            let flow = flow(port, now);
            let backend = led_to(&flow);
            FlowEntry { backend, ..flow }
        };
        let astray = |port| {
            let flow = ruled(port);
            let backend = 3 - flow.backend;
            FlowEntry { backend, ..flow }
        };
        let closing = |port| FlowEntry {
            phase: Phase::Closing.code(),
            ..ruled(port)
        };
        let back = |port| FlowEntry {
            flags: flow_flags::RETURN,
            ..astray(port)
        };
        let marked: Vec<_> = (1_000..1_020)
            .map(astray)
            .chain((2_000..2_020).map(closing))
            .collect();
        let unmarked: Vec<_> = (3_000..3_020)
            .map(ruled)
            .chain((4_000..4_020).map(back))
            .collect();
        // All in one go: it skips those whose way is taken, and tells not which.
        let all: Vec<_> = marked.iter().chain(&unmarked).copied().collect();
        write_flows(place, &plane, &all)?;
        let mut sweeper = plane.sweeper()?;
        let second = || second(now_ns());
        let secrets = settings(&plane).secrets;
        for pass in 0..3u64 {
            let begin = second();
            sweeper.finish_pass(now)?;
            let exceptions = pinned::<Exceptions>(&place.0, maps::EXCEPTIONS)?.get(&0, 0)?;
            ensure!(
                half(exceptions.state) == (pass + 1) % 2,
                "the halves take turns"
            );
            ensure!((begin..=second()).contains(&since(exceptions.state)));
            let first = half(exceptions.state) as usize * HALF_WORDS;
            let is_marked = |flow: &FlowEntry| {
                let (word, mask) = exceptions::place(flow_hash(flow.key.words(), &secrets));
                exceptions.marks[first + word] & mask != 0
            };
            let kept = sweep::list(
                plane.maps(),
                &FlowFilter {
                    returns: true,
                    ..FlowFilter::default()
                },
                10_000,
                now,
            )?;
            let is_kept = |flow: &&FlowEntry| {
                let port = u16::from_be(flow.key.src_port_be);
                kept.iter().any(|kept| kept.source.port() == port)
            };
            ensure!(marked.iter().filter(is_kept).count() > 20);
            ensure!(marked.iter().filter(is_kept).all(is_marked), "pass {pass}");
            ensure!(unmarked.iter().filter(is_kept).count() > 20);
            // The secrets are fixed, so that no two of these share a mark by chance.
            let wrong = unmarked.iter().filter(|flow| is_marked(flow)).count();
            ensure!(wrong == 0, "{wrong} in pass {pass}");
        }
        Ok(())
    });
}
