//! Backends that the configuration no longer has, but that still have flows.

use super::check::backend_capacity;
use super::ids::{Recovered, services_by_name};
use super::{Overlay, Removed};
use crate::config::model::Config;
use crate::kernel::tables::Tables;
use proxy_common::backend::{Backend, BackendState};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

/// The backends that keep their flows, by id, with the index of their listener.
///
/// Those that could not serve a flow anyway are left out: what is down, and what belongs to
/// a mode that its listener no longer has. When there is no room for all, none is kept.
pub(super) fn retiring(
    config: &Config,
    overlay: &Overlay,
    from: &Tables,
    found: &Recovered,
) -> BTreeMap<u16, usize> {
    let Removed::Drain { released } = &overlay.removed else {
        return BTreeMap::new();
    };
    let configured: BTreeSet<u16> = found.backends.iter().flatten().flatten().copied().collect();
    let services = services_by_name(config);
    let listeners: HashMap<(u16, u8), usize> = (config.listeners.iter().enumerate())
        .zip(&found.services)
        .filter_map(|((i, listener), id)| {
            let mode = services.get(listener.service.as_str())?.mode;
            Some((((*id)?, mode.code()), i))
        })
        .collect();
    let keeps_flows =
        |b: &Backend| [BackendState::Up.code(), BackendState::Draining.code()].contains(&b.state);
    let retiring: BTreeMap<u16, usize> = (from.backends.iter())
        .filter(|(id, b)| keeps_flows(b) && !configured.contains(id) && !released.contains(id))
        .filter_map(|(&id, b)| Some((id, *listeners.get(&(b.service, b.mode))?)))
        .collect();
    let wanted = found.backends.iter().map(Vec::len).sum::<usize>();
    if wanted + retiring.len() < backend_capacity(from) as usize {
        retiring
    } else {
        BTreeMap::new()
    }
}

/// The entry of a backend that retires.
pub(super) fn entry(before: &Backend) -> Backend {
    Backend {
        state: BackendState::Draining.code(),
        ..*before
    }
}

/// What a backend is called that has no name any more: its address, and its port unless it keeps
/// the client's.
pub(super) fn name(backend: &Backend) -> String {
    let address = IpAddr::from(backend.addr);
    match u16::from_be(backend.port_be) {
        0 => address.to_string(),
        port => SocketAddr::new(address, port).to_string(),
    }
}
