//! What one process leaves to the next: maps and programs that are adopted, replaced or made larger.

use super::*;
use anyhow::bail;
use aya::maps::ProgramArray;
use proxy_common::flow::WAYS;
use proxy_common::maps::program;
use proxy_userspace::kernel::host::now_tick;
use proxy_userspace::kernel::load::MapSet;
use proxy_userspace::kernel::sweep::{self, FlowFilter};

#[test]
fn a_second_process_adopts_what_the_first_one_left() {
    in_netns("adopt", |place| {
        let plane = running(place)?;
        let before = plane.store()?.state()?;
        let (mode, program) = xdp_on("lb0")?.context("not attached")?;
        ensure!(mode == XdpMode::Native);
        plane.detach_all(true)?;
        ensure!(
            xdp_on("lb0")? == Some((mode, program)),
            "it must outlive us"
        );

        let (mut plane, adoption) = place.open()?;
        let interfaces = vec!["lb0".to_owned()];
        ensure!(adoption == Adoption::Adopted { interfaces }, "{adoption:?}");
        ensure!(plane.store()?.state()? == before);
        let attached = plane.attach(&[on("lb0", AttachMode::Auto)])?;
        ensure!(attached[0].updated, "the link must be updated in place");
        let (_, now) = xdp_on("lb0")?.context("not attached")?;
        ensure!(now != program, "the new program must be behind the link");
        Ok(())
    });
}

#[test]
fn maps_of_another_abi_are_replaced_when_the_links_are_updated() {
    in_netns("abi", |place| {
        let plane = running(place)?;
        let old = Settings {
            abi: 99,
            ..settings(&plane)
        };
        plane.store()?.apply(&MapEdit::Settings(old))?;
        let (_, old_program) = xdp_on("lb0")?.context("not attached")?;
        drop(plane);

        let (mut plane, adoption) = place.open()?;
        match adoption {
            Adoption::Replaced {
                old_abi: 99,
                copied: false,
                ..
            } => {}
            other => bail!("{other:?}"),
        }
        ensure!(
            plane.store()?.state()?.keys.is_empty(),
            "new maps are empty"
        );
        let in_force = MapSet::open(&Pins::new(&place.0))?.settings()?.abi;
        ensure!(in_force == 99, "the old maps must be in force still");
        ensure!(xdp_on("lb0")?.context("gone")?.1 == old_program);

        apply(&plane)?;
        let attached = plane.attach(&[on("lb0", AttachMode::Auto)])?;
        ensure!(attached[0].updated, "no packet may be lost");
        let in_force = MapSet::open(&Pins::new(&place.0))?.settings()?.abi;
        ensure!(in_force == ABI_VERSION);
        ensure!(!place.0.join("next").exists());
        Ok(())
    });
}

#[test]
fn growing_the_flow_table_keeps_services_and_flows() {
    in_netns("grow", |place| {
        let plane = running(place)?;
        let now = now_tick();
        let flows: Vec<_> = (1_000..1_200).map(|port| flow(port, now)).collect();
        let written = write_flows(place, &plane, &flows)?;
        ensure!(written > 100, "{written}");
        let before = plane.store()?.state()?;
        let counts = live(&plane)?;
        drop(plane);

        let mut l4 = place.l4();
        l4.flow_capacity = FLOWS * 2;
        l4.backend_capacity = 128;
        let (mut plane, adoption) = DataPlane::open(&l4, 1)?;
        ensure!(
            matches!(adoption, Adoption::Replaced { copied: true, .. }),
            "{adoption:?}"
        );
        let after = plane.store()?.state()?;
        ensure!(after.keys == before.keys && after.services == before.services);
        ensure!(after.settings.secrets == before.settings.secrets);
        ensure!(after.settings.sets_per_cpu == plane.capacities().sets_per_cpu);
        ensure!(after.backend_capacity == 128);
        plane.attach(&[on("lb0", AttachMode::Auto)])?;
        let kept = sweep::list(plane.maps(), &FlowFilter::default(), 10_000, now)?;
        ensure!(kept.len() == written, "{} of {written}", kept.len());
        ensure!(live(&plane)? == counts);

        // And each is where the packet path will look for it.
        let table = pinned::<FlowSet>(&place.0, maps::FLOWS)?;
        let tags = pinned::<SetTags>(&place.0, maps::FLOW_TAGS)?;
        for entry in &flows {
            let hash = flow_hash(entry.key.words(), &after.settings.secrets);
            let position = Position::of(hash, after.settings.sets_per_cpu);
            let set = table.get(&position.set, 0)?;
            let tags = tags.get(&position.set, 0)?.tags;
            let ids = slot::ids(entry.backend, entry.service);
            let slot = position.tag | slot::CONFIRMED | ids | slot::at(entry.last_seen);
            let found = (0..WAYS).any(|way| set.ways[way].key == entry.key && tags[way] == slot);
            let known = kept
                .iter()
                .any(|flow| flow.source.port() == u16::from_be(entry.key.src_port_be));
            ensure!(found == known, "{entry:?}");
        }
        Ok(())
    });
}

#[test]
fn a_broken_object_leaves_the_running_one_alone() {
    in_netns("broken", |place| {
        drop(running(place)?);
        let before = xdp_on("lb0")?;
        match DataPlane::open_object(&[0; 64], &place.l4(), 0) {
            Err(LoadError::Object(_)) => {}
            Err(error) => bail!("{error:?}"),
            Ok(_) => bail!("opened"),
        }
        ensure!(xdp_on("lb0")? == before);
        let (_plane, adoption) = place.open()?;
        ensure!(matches!(adoption, Adoption::Adopted { .. }), "{adoption:?}");
        Ok(())
    });
}

#[test]
fn the_stages_behind_the_program_outlive_the_daemon() {
    in_netns("stages", |place| {
        let stages = place.0.join("stages");
        let pinned = || -> Result<Vec<String>> {
            std::fs::read_dir(&stages)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        let filled = |id: &str| -> Result<usize> {
            let data = MapData::from_pin(stages.join(id))?;
            let array = ProgramArray::try_from(Map::from_map_data(data)?)?;
            Ok(array.indices().filter(Result::is_ok).count())
        };
        running(place)?.detach_all(true)?;
        let (_, program) = xdp_on("lb0")?.context("not attached")?;
        ensure!(pinned()? == [program.to_string()]);

        // The old stages must be there until the link has the new program, however often a
        // daemon dies before it gets so far.
        drop(place.open()?);
        drop(place.open()?);
        let (mut plane, _) = place.open()?;
        ensure!(pinned()? == [program.to_string()]);
        ensure!(filled(&program.to_string())? == program::STAGES.len());
        plane.attach(&[on("lb0", AttachMode::Auto)])?;
        let (_, now) = xdp_on("lb0")?.context("not attached")?;
        ensure!(now != program && pinned()? == [now.to_string()]);
        plane.attach(&[on("lb0", AttachMode::Auto), on("lb1", AttachMode::Auto)])?;
        ensure!(pinned()? == [now.to_string()]);
        Ok(())
    });
}

#[test]
fn an_unfinished_replacement_is_forgotten() {
    in_netns("unfinished", |place| {
        let plane = running(place)?;
        drop(plane);
        let mut l4 = place.l4();
        l4.flow_capacity = FLOWS * 4;
        drop(DataPlane::open(&l4, 0)?);
        ensure!(place.0.join("next").exists());
        let (_plane, adoption) = place.open()?;
        ensure!(matches!(adoption, Adoption::Adopted { .. }), "{adoption:?}");
        ensure!(!place.0.join("next").exists());
        Ok(())
    });
}

#[test]
fn a_capture_survives_planning_but_not_a_restart() {
    in_netns("capture", |place| {
        let plane = running(place)?;
        let mut store = plane.store()?;
        store.set_capture(Some(96))?;
        store.apply(&MapEdit::Settings(settings(&plane)))?;
        ensure!(plane.maps().settings()?.capture_octets == 96);
        ensure!(store.state()?.settings == settings(&plane));
        drop(plane);
        let (plane, _) = place.open()?;
        ensure!(plane.maps().settings()?.capture_octets == 0);
        ensure!(plane.maps().settings()?.flags == 0);
        Ok(())
    });
}
