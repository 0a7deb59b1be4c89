//! Tables: what is read is what was written, as long as there is room.

use super::*;
use anyhow::bail;

#[test]
fn state_is_what_was_written() {
    in_netns("state", |place| {
        let plane = running(place)?;
        let state = plane.store()?.state()?;
        ensure!(state.settings == settings(&plane));
        ensure!(state.services.len() == 1 && state.services[0].0 == 1);
        ensure!(state.backends.iter().map(|(id, _)| *id).eq([1, 2]));
        ensure!(state.keys.len() == 1 && state.prefixes.len() == 1);
        ensure!(state.guard.len() == 1 && state.guard[0].0 == 160);
        ensure!(state.snat_addrs == [(0, Addr::v4([10, 0, 0, 250]))]);
        ensure!(state.backend_capacity == 64);

        let mut store = plane.store()?;
        store.apply(&MapEdit::RemoveKey(state.keys[0].0))?;
        store.apply(&MapEdit::RemoveKey(state.keys[0].0))?;
        store.apply(&MapEdit::RemovePrefix(
            state.prefixes[0].0,
            state.prefixes[0].1,
        ))?;
        store.apply(&MapEdit::RemoveGuard(160, state.guard[0].1))?;
        store.apply(&MapEdit::Ring(1, vec![]))?;
        store.apply(&MapEdit::Ring(1, vec![]))?;
        let state = store.state()?;
        ensure!(state.keys.is_empty() && state.prefixes.is_empty() && state.guard.is_empty());
        Ok(())
    });
}

#[test]
fn a_full_map_refuses_by_name_and_keeps_what_it_has() {
    in_netns("full", |place| {
        let plane = running(place)?;
        let mut store = plane.store()?;
        let target = ServiceRef {
            id: 1,
            kind: kind::BALANCE,
            _pad: 0,
        };
        let room = maps::capacity::SERVICE_PREFIXES;
        let edits: Vec<_> = (0..=room)
            .map(|number| {
                let [.., high, low] = number.to_be_bytes();
                let prefix = ServicePrefix {
                    protocol: 6,
                    _pad: 0,
                    port: [0, 0],
                    addr: Addr::v4([198, 18, high, low]).octets,
                };
                MapEdit::SetPrefix(32 + 128, prefix, target)
            })
            .collect();
        match store.apply_all(&edits) {
            Err((done, error)) => {
                ensure!(done as u32 >= room - 1, "{done}");
                ensure!(error.map == maps::SERVICE_PREFIXES, "{error:?}");
            }
            Ok(()) => bail!("more entries than there is room for"),
        }
        ensure!(store.state()?.prefixes.len() as u32 == room);
        Ok(())
    });
}
