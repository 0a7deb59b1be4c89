//! The rings of services: who is in them, and their slots as backend ids.

use super::error::PlanError;
use crate::balance::maglev::{self, Member};
use crate::kernel::tables::Tables;
use proxy_common::backend::{Backend, BackendState};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// True for a backend that takes new flows.
pub(super) fn in_ring(backend: &Backend) -> bool {
    backend.state == BackendState::Up.code() && backend.weight > 0
}

/// A member of a ring and its backend id.
pub(super) type RingMember = (Member, u16);

/// The members of each service's ring, in an order that depends on the servers only.
pub(super) fn members_by_service(tables: &Tables) -> BTreeMap<u16, Vec<RingMember>> {
    let mut services: BTreeMap<u16, Vec<RingMember>> = BTreeMap::new();
    for (&id, backend) in tables
        .backends
        .iter()
        .filter(|(_, backend)| in_ring(backend))
    {
        let member = Member {
            addr: backend.addr,
            port: u16::from_be(backend.port_be),
            weight: backend.weight,
        };
        services
            .entry(backend.service)
            .or_default()
            .push((member, id));
    }
    for members in services.values_mut() {
        members.sort_unstable_by_key(|(member, id)| (member.addr, member.port, *id));
    }
    services
}

/// Builds rings. Those of listeners that share a service differ only in the ids, so the last few
/// are kept.
#[derive(Default)]
pub(super) struct Rings {
    recent: VecDeque<(u32, Vec<Member>, Rc<Vec<u16>>)>,
}

/// Rings that are kept: few, since each of default size has 128 KiB.
const RECENT: usize = 16;

impl Rings {
    /// The slots of a service's ring as backend ids.
    pub(super) fn build(
        &mut self,
        service: u16,
        members: &[RingMember],
        size: u32,
    ) -> Result<Vec<u16>, PlanError> {
        if members.is_empty() || size == 0 {
            return Ok(Vec::new());
        }
        let (servers, ids): (Vec<Member>, Vec<u16>) = members.iter().copied().unzip();
        let slots = self
            .slots(servers, size)
            .map_err(|source| PlanError::Ring {
                service: format!("#{service}"),
                source,
            })?;
        Ok(slots.iter().map(|&index| ids[usize::from(index)]).collect())
    }

    fn slots(
        &mut self,
        servers: Vec<Member>,
        size: u32,
    ) -> Result<Rc<Vec<u16>>, maglev::RingError> {
        let known = (self.recent.iter()).find(|(s, m, _)| *s == size && *m == servers);
        if let Some((_, _, slots)) = known {
            return Ok(Rc::clone(slots));
        }
        let slots = Rc::new(maglev::ring(&servers, size)?);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((size, servers, Rc::clone(&slots)));
        Ok(slots)
    }
}
