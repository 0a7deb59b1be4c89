//! Sweeps the flow table: forgets expired flows, frees full-nat ports, keeps the live counts true.
//!
//! The packet path replaces expired flows itself when it needs room, so the sweep is about what
//! people and the choice by two look at: live counts and occupancy. It goes through the table in
//! slices, one per [`STEP_INTERVAL`], so that even a table of a million flows never holds a core
//! for more than a moment; a whole pass takes [`STEPS_PER_PASS`] of them.
//!
//! What to forget is decided by pure functions of the entry, the service and the tick.

use super::exceptions::Marker;
use super::handle::MapHandle;
use super::host;
use super::set::MapSet;
use super::store::StoreError;
use super::table::{FlowTable, LiveTable, PortTable, PortUse};
use proxy_common::backend::{Backend, BackendState};
use proxy_common::flow::{
    BARE_AGE_MAX, FlowEntry, PERIOD_SHIFT, Phase, SNAT_FIRST_PORT, WAYS, counted, flow_flags,
    is_idle, slot, ticks_from_ms, ticks_since,
};
use proxy_common::maps::{self, capacity};
use proxy_common::service::Service;
use proxy_common::settings::second;
use proxy_common::stats::BackendStats;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Slices that a pass consists of.
pub const STEPS_PER_PASS: u32 = 100;

/// Time between slices: a pass takes five seconds.
pub const STEP_INTERVAL: Duration = Duration::from_millis(50);

/// Idle time after which a flow of no known service is forgotten. Longer than a pass, because the
/// services are read at its start and one may be added meanwhile.
const ORPHAN_TICKS: u32 = ticks_from_ms(15_000);

/// Idle time after which a phase's flows may be forgotten; `None` for an impossible phase code.
fn timeout(phase: u8, service: &Service) -> Option<u32> {
    Some(match Phase::from_code(phase)? {
        Phase::Syn => service.syn_ticks,
        Phase::Established => service.established_ticks,
        Phase::Closing => service.closing_ticks,
        Phase::Udp => service.udp_ticks,
    })
}

/// May a flow be forgotten at this tick? The packet path decides alike.
pub fn expired(slot: u64, entry: &FlowEntry, service: Option<&Service>, now_tick: u32) -> bool {
    let limit = service.and_then(|service| timeout(entry.phase, service));
    is_idle(
        slot,
        entry.last_seen,
        limit.unwrap_or(ORPHAN_TICKS),
        now_tick,
    )
}

/// May a bare flow be forgotten at this tick?
fn bare_expired(slot: u64, service: Option<&Service>, now_tick: u32) -> bool {
    let limit = service.map_or(ORPHAN_TICKS, |service| service.syn_ticks);
    slot::age(slot, now_tick) > limit.min(BARE_AGE_MAX)
}

/// May a full-nat port be freed at this tick?
pub(crate) fn port_expired(port: &PortUse, service: Option<&Service>, now_tick: u32) -> bool {
    idle_too_long(port.phase, port.last_seen, service, now_tick)
}

fn idle_too_long(phase: u8, last_seen: u32, service: Option<&Service>, now_tick: u32) -> bool {
    let idle = ticks_since(last_seen, now_tick);
    let limit = service.and_then(|service| timeout(phase, service));
    idle > limit.unwrap_or(ORPHAN_TICKS)
}

/// By how much a live count must be changed.
///
/// `counted` flows were found during a pass at whose start and end the count was `before` and
/// `after`, while at least `opened` flows were opened. A pass finds each flow that lived throughout,
/// and may or may not find one that was opened or ended meanwhile. Only what lies outside these
/// bounds is drift: a correction never makes a true count wrong, and a quiet table becomes exact.
pub fn drift(counted: i64, before: i64, after: i64, opened: i64) -> i64 {
    // Flows that moved here from a backend that is down count as opened too.
    let opened = opened.max(after - before).max(0);
    let ended = before + opened - after;
    counted - counted.clamp(before - ended, before + opened)
}

/// How full the flow table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Entries in use, return paths of NAT included.
    pub used: u64,
    /// Those that have seen a second packet.
    pub confirmed: u64,
    /// Entries that there is room for.
    pub capacity: u64,
    /// Sets without a free way.
    pub full_sets: u64,
    /// Full-nat ports in use.
    pub snat_used: u64,
    /// Full-nat ports that can be used.
    pub snat_capacity: u64,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Expired flows forgotten.
    pub flows_expired: u64,
    /// Full-nat ports freed.
    pub ports_freed: u64,
    /// Sum of the amounts by which live counts were corrected.
    pub drift_corrected: u64,
    /// How full the table was found, after expiry.
    pub occupancy: Occupancy,
}

/// A tracked flow, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowView {
    /// IP protocol.
    pub protocol: u8,
    /// Source of the packets.
    pub source: SocketAddr,
    /// Their destination.
    pub destination: SocketAddr,
    /// Service id.
    pub service: u16,
    /// Backend id.
    pub backend: u16,
    /// Phase, if its code is known.
    pub phase: Option<Phase>,
    /// Time since the last packet.
    pub idle: Duration,
    /// It has seen a second packet.
    pub confirmed: bool,
    /// It is the return path of a `nat` flow.
    pub is_return: bool,
}

/// Which flows to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Only of this service.
    pub service: Option<u16>,
    /// Only of this backend.
    pub backend: Option<u16>,
    /// Only with this source or destination.
    pub address: Option<IpAddr>,
    /// Return paths too.
    pub returns: bool,
}

impl FlowFilter {
    fn accepts(&self, flow: &FlowView) -> bool {
        let is = |wanted: Option<u16>, id| wanted.is_none_or(|wanted| wanted == id);
        is(self.service, flow.service)
            && is(self.backend, flow.backend)
            && self.address.is_none_or(|address| {
                flow.source.ip() == address || flow.destination.ip() == address
            })
            && (self.returns || !flow.is_return)
    }
}

/// What is known at the start of a pass, and what it has found so far.
#[derive(Debug, Default)]
struct Pass {
    services: Vec<Service>,
    backends: Vec<Backend>,
    live_before: Vec<i64>,
    opened_before: Vec<u64>,
    counted: Vec<i64>,
    report: SweepReport,
}

impl Pass {
    fn service(&self, id: u16) -> Option<&Service> {
        self.services
            .get(usize::from(id))
            .filter(|service| service.mode != 0)
    }

    /// May a way be freed whose entry is missing (or was removed by a process that ended then, or
    /// just before the kernel noted a packet)?
    fn may_free(&self, slot: u64, removed: bool, now_tick: u32) -> bool {
        if slot & slot::BARE == 0 {
            return slot != 0 && removed;
        }
        let service = self.service_of_backend(slot as u16);
        bare_expired(slot, service, now_tick)
    }

    fn service_of_backend(&self, id: u16) -> Option<&Service> {
        let backend = self.backends.get(usize::from(id))?;
        (backend.state != BackendState::Absent.code())
            .then(|| self.service(backend.service))
            .flatten()
    }
}

/// Sweeps one data plane. There should be one sweeper.
#[derive(Debug)]
pub struct Sweeper {
    flows: FlowTable,
    ports: PortTable,
    live: LiveTable,
    service_table: MapHandle,
    backends: MapHandle,
    backend_stats: MapHandle,
    marker: Marker,
    step: u32,
    pass: Pass,
    /// Flows opened by the start of the pass before this one.
    opened_earlier: Vec<u64>,
}

fn failed(map: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError {
        call: "read",
        map,
        source,
    }
}

impl Sweeper {
    pub(crate) fn open(set: &MapSet) -> Result<Self, StoreError> {
        let ports = PortTable::open(set.get(maps::SNAT_PORTS)?);
        let live = LiveTable::open(set.get(maps::LIVE_FLOWS)?);
        Ok(Self {
            flows: FlowTable::open(set)?,
            ports: ports.map_err(failed(maps::SNAT_PORTS))?,
            live: live.map_err(failed(maps::LIVE_FLOWS))?,
            service_table: set.clone_of(maps::SERVICE_TABLE)?,
            backends: set.clone_of(maps::BACKENDS)?,
            backend_stats: set.clone_of(maps::BACKEND_STATS)?,
            marker: Marker::open(set)?,
            step: 0,
            pass: Pass::default(),
            opened_earlier: Vec::new(),
        })
    }

    /// Sweeps the next slice; the last one of a pass yields its report.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a map cannot be read; the pass begins again then.
    pub fn step(&mut self, now_tick: u32) -> Result<Option<SweepReport>, StoreError> {
        if self.step == 0 {
            let earlier = std::mem::take(&mut self.pass.opened_before);
            // Before anything is read: a ring that changes later is not settled by this pass.
            self.marker.begin(second(host::now_ns()))?;
            self.pass = self.begin()?;
            self.opened_earlier = earlier;
        }
        self.sweep_flows(slice(self.step, self.flows.len()), now_tick);
        self.sweep_ports(slice(self.step, self.ports.ports().len()), now_tick);
        self.step += 1;
        if self.step < STEPS_PER_PASS {
            return Ok(None);
        }
        self.step = 0;
        self.correct_live()?;
        self.marker.finish();
        let pass = std::mem::take(&mut self.pass);
        Ok(Some(pass.report))
    }

    /// Sweeps the rest of the pass at once: for tests and for a last look before the end.
    ///
    /// # Errors
    ///
    /// As [`Self::step`].
    pub fn finish_pass(&mut self, now_tick: u32) -> Result<SweepReport, StoreError> {
        loop {
            if let Some(report) = self.step(now_tick)? {
                return Ok(report);
            }
        }
    }

    fn begin(&self) -> Result<Pass, StoreError> {
        let backends: Vec<Backend> = self
            .backends
            .read_array(0, self.backends.info().max_entries)
            .map_err(failed(maps::BACKENDS))?;
        Ok(Pass {
            services: self
                .service_table
                .read_array(0, capacity::SERVICES)
                .map_err(failed(maps::SERVICE_TABLE))?,
            live_before: self.live_now(),
            opened_before: self.opened(used_ids(&backends))?,
            counted: vec![0; self.live.counts().len()],
            backends,
            report: SweepReport::default(),
        })
    }

    fn live_now(&self) -> Vec<i64> {
        let counts = self.live.counts().iter();
        counts.map(|count| count.load(Relaxed)).collect()
    }

    /// Flows opened so far, of the first `count` backends; some are counted twice, with their SYN and when
    /// they entered the table.
    fn opened(&self, count: u32) -> Result<Vec<u64>, StoreError> {
        let stats = self
            .backend_stats
            .read_per_cpu::<BackendStats>(0, count, host::possible_cpus())
            .map_err(failed(maps::BACKEND_STATS))?;
        let opened = |cpu: &BackendStats| cpu.new_flows + cpu.entered;
        let sum = |cpus: &Vec<BackendStats>| cpus.iter().map(opened).sum();
        Ok(stats.iter().map(sum).collect())
    }

    fn sweep_flows(&mut self, range: Range<usize>, now_tick: u32) {
        let (pass, live) = (&mut self.pass, self.live.counts());
        let (mut expired_flows, mut occupancy) = (0, pass.report.occupancy);
        for set in self.flows.range(range) {
            occupancy.capacity += WAYS as u64;
            let used = set.used();
            if used == 0 {
                continue;
            }
            let mut kept = 0u16;
            for way in (0..WAYS).filter(|way| used >> way & 1 == 1) {
                match set.entry(way) {
                    Some((slot, entry))
                        if expired(slot, &entry, pass.service(entry.service), now_tick) =>
                    {
                        expired_flows += u64::from(set.end(way, slot, &entry, live));
                    }
                    Some((slot, entry)) => {
                        kept |= 1 << way;
                        if let Some(service) = pass.service(entry.service) {
                            self.marker.look(slot, &entry, entry.service, service);
                        }
                        if let Some(live) = pass.counted.get_mut(usize::from(entry.backend)) {
                            *live += i64::from(entry.counted == counted::YES);
                        }
                    }
                    None => {
                        let slot = set.slot(way);
                        let removed = set.is_removed(way);
                        if pass.may_free(slot, removed, now_tick) && set.free(way, slot) {
                            expired_flows += 1;
                        } else {
                            kept |= 1 << way;
                            if slot & slot::BARE_RETURN == slot::BARE {
                                self.marker.mark(slot);
                            }
                        }
                    }
                }
            }
            occupancy.used += u64::from(kept.count_ones());
            occupancy.confirmed += u64::from((kept & set.confirmed()).count_ones());
            occupancy.full_sets += u64::from(kept.count_ones() as usize == WAYS);
        }
        pass.report.occupancy = occupancy;
        pass.report.flows_expired += expired_flows;
    }

    fn sweep_ports(&mut self, range: Range<usize>, now_tick: u32) {
        let pass = &mut self.pass;
        for (index, port) in range.clone().zip(&self.ports.ports()[range]) {
            if index % 65_536 < usize::from(SNAT_FIRST_PORT) {
                continue;
            }
            pass.report.occupancy.snat_capacity += 1;
            let Some(usage) = port.usage() else { continue };
            if port_expired(&usage, pass.service_of_backend(usage.backend), now_tick) {
                port.free(usage.backend);
                pass.report.ports_freed += 1;
            } else {
                pass.report.occupancy.snat_used += 1;
            }
        }
    }

    /// Compares the live counts with what was found, at the end of a pass.
    fn correct_live(&mut self) -> Result<(), StoreError> {
        let opened_after = self.opened(self.pass.opened_before.len() as u32)?;
        let pass = &mut self.pass;
        let earlier = &self.opened_earlier;
        let opened_before = if earlier.len() == pass.opened_before.len() {
            earlier
        } else {
            &pass.opened_before
        };
        let backends = opened_before
            .iter()
            .zip(&opened_after)
            .zip(pass.live_before.iter().zip(&pass.counted))
            .zip(self.live.counts());
        // A flow counts as live some time after it was opened, seldom longer than a pass.
        for (((opened_before, opened_after), (before, counted)), live) in backends {
            let opened = opened_after.saturating_sub(*opened_before);
            let opened = i64::try_from(opened).unwrap_or(i64::MAX / 4);
            let correction = drift(*counted, *before, live.load(Relaxed), opened);
            if correction != 0 {
                live.fetch_add(correction, Relaxed);
                pass.report.drift_corrected += correction.unsigned_abs();
            }
        }
        Ok(())
    }

    /// Lists at most `limit` flows, in table order.
    pub fn list(&self, filter: &FlowFilter, limit: usize, now_tick: u32) -> Vec<FlowView> {
        self.list_where(|flow| filter.accepts(flow), limit, now_tick)
    }

    /// As [`Self::list`], for callers with a filter of their own.
    pub fn list_where(
        &self,
        wanted: impl Fn(&FlowView) -> bool,
        limit: usize,
        now_tick: u32,
    ) -> Vec<FlowView> {
        list_flows(&self.flows, wanted, limit, now_tick)
    }
}

/// Lists flows without a sweeper, for a command beside the daemon.
///
/// # Errors
///
/// [`StoreError`] if the table cannot be mapped.
pub fn list(
    set: &MapSet,
    filter: &FlowFilter,
    limit: usize,
    now_tick: u32,
) -> Result<Vec<FlowView>, StoreError> {
    let flows = FlowTable::open(set)?;
    let wanted = |flow: &FlowView| filter.accepts(flow);
    Ok(list_flows(&flows, wanted, limit, now_tick))
}

fn list_flows(
    flows: &FlowTable,
    wanted: impl Fn(&FlowView) -> bool,
    limit: usize,
    now_tick: u32,
) -> Vec<FlowView> {
    flows
        .sets()
        .filter(|set| set.used() != 0)
        .flat_map(|set| {
            let confirmed = set.confirmed();
            (0..WAYS).filter_map(move |way| {
                let (slot, entry) = set.entry(way)?;
                Some(view(slot, &entry, confirmed >> way & 1 == 1, now_tick))
            })
        })
        .filter(|flow| wanted(flow))
        .take(limit)
        .collect()
}

fn view(slot: u64, entry: &FlowEntry, confirmed: bool, now_tick: u32) -> FlowView {
    let end = |addr, port_be| SocketAddr::new(IpAddr::from(addr), u16::from_be(port_be));
    // The slot's time is coarse, the entry is renewed seldom.
    let least = slot::age(slot, now_tick);
    let most = least + (1 << PERIOD_SHIFT);
    let idle_ticks = ticks_since(entry.last_seen, now_tick).clamp(least, most);
    FlowView {
        protocol: entry.key.protocol,
        source: end(entry.key.src, entry.key.src_port_be),
        destination: end(entry.key.dst, entry.key.dst_port_be),
        service: entry.service,
        backend: entry.backend,
        phase: Phase::from_code(entry.phase),
        idle: Duration::from_nanos(u64::from(idle_ticks) << proxy_common::flow::TICK_SHIFT),
        confirmed,
        is_return: entry.flags & flow_flags::RETURN != 0,
    }
}

/// Elements of the given slice of a table; the slices of a pass cover it exactly.
fn slice(step: u32, length: usize) -> Range<usize> {
    let edge = |step: u32| length * step as usize / STEPS_PER_PASS as usize;
    edge(step)..edge(step + 1)
}

/// One more than the highest backend id in use.
fn used_ids(backends: &[Backend]) -> u32 {
    let is_used = |backend: &Backend| backend.state != BackendState::Absent.code();
    backends
        .iter()
        .rposition(is_used)
        .map_or(0, |highest| highest as u32 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proxy_common::flow::SLOT_AGE_MAX;

    fn service() -> Service {
        Service {
            mode: 1,
            syn_ticks: 10,
            established_ticks: 1_000,
            closing_ticks: 20,
            udp_ticks: 300,
            ..Service::default()
        }
    }

    /// Times are whole periods, in which a slot's is exact.
    const PERIOD: u32 = 1 << proxy_common::flow::PERIOD_SHIFT;

    fn entry(phase: Phase, last_seen: u32) -> FlowEntry {
        FlowEntry {
            phase: phase.code(),
            last_seen,
            ..FlowEntry::default()
        }
    }

    fn expires(phase: Phase, last_seen: u32, service: Option<&Service>, now: u32) -> bool {
        expired(slot::at(last_seen), &entry(phase, last_seen), service, now)
    }

    #[test]
    fn each_phase_has_its_own_timeout() {
        let service = service();
        for (phase, ticks) in [
            (Phase::Syn, 10),
            (Phase::Established, 1_000),
            (Phase::Closing, 20),
            (Phase::Udp, 300),
        ] {
            // The last tick of a period.
            let seen = PERIOD - 1;
            assert!(
                !expires(phase, seen, Some(&service), seen + ticks),
                "{phase:?}"
            );
            assert!(
                expires(phase, seen, Some(&service), seen + ticks + 2),
                "{phase:?}"
            );
        }
    }

    #[test]
    fn ticks_wrap_without_expiring_anything() {
        let seen = u32::MAX;
        assert!(!expires(Phase::Established, seen, Some(&service()), 999));
        assert!(expires(Phase::Established, seen, Some(&service()), 1_100));
    }

    #[test]
    fn a_long_timeout_is_kept_whatever_the_slot_tells() {
        let service = Service {
            established_ticks: SLOT_AGE_MAX * 2,
            ..service()
        };
        let seen = PERIOD - 1;
        let limit = service.established_ticks;
        assert!(!expires(
            Phase::Established,
            seen,
            Some(&service),
            seen + limit
        ));
        assert!(expires(
            Phase::Established,
            seen,
            Some(&service),
            seen + limit + PERIOD + 1
        ));
    }

    #[test]
    fn a_flow_seen_after_the_clock_was_read_is_not_expired() {
        assert!(!expires(Phase::Syn, 120, Some(&service()), 100));
    }

    #[test]
    fn a_bare_flow_expires_as_one_of_which_a_syn_was_seen() {
        let seen = 255;
        let slot = slot::bare_at(seen) | slot::BARE;
        assert!(!bare_expired(slot, Some(&service()), seen + 10));
        assert!(bare_expired(slot, Some(&service()), seen + 12));
        let patient = Service {
            syn_ticks: u32::MAX / 2,
            ..service()
        };
        assert!(!bare_expired(slot, Some(&patient), seen + BARE_AGE_MAX));
        assert!(bare_expired(slot, Some(&patient), seen + BARE_AGE_MAX + 2));
    }

    #[test]
    fn orphans_are_kept_for_longer_than_a_pass() {
        let pass_ticks = ticks_from_ms(STEP_INTERVAL.as_millis() as u64) * STEPS_PER_PASS;
        let seen = PERIOD - 1;
        assert!(!expires(Phase::Established, seen, None, seen + pass_ticks));
        assert!(expires(
            Phase::Established,
            seen,
            None,
            seen + ORPHAN_TICKS + 2
        ));
    }

    #[test]
    fn slices_cover_a_table_exactly() {
        for length in [0, 1, 99, 100, 131_071] {
            let mut next = 0;
            for step in 0..STEPS_PER_PASS {
                let range = slice(step, length);
                assert_eq!(range.start, next);
                next = range.end;
            }
            assert_eq!(next, length);
        }
    }

    #[test]
    fn a_quiet_count_becomes_exact() {
        assert_eq!(drift(7, 10, 10, 0), -3);
        assert_eq!(drift(12, 10, 10, 0), 2);
        assert_eq!(drift(10, 10, 10, 0), 0);
    }

    #[test]
    fn flows_that_moved_here_unannounced_are_no_drift() {
        assert_eq!(drift(13, 10, 15, 0), 0);
        assert_eq!(drift(16, 10, 15, 0), 1);
    }

    proptest! {
        /// Whatever order flows open and end in while the table is read, a true count stays.
        #[test]
        fn a_true_count_is_never_changed(
            start in 0usize..50,
            changes in proptest::collection::vec((any::<bool>(), 0u32..100), 0..60),
        ) {
            // A flow sits in a random slice; the pass reads slice `n` before change `n`.
            let mut alive: Vec<u32> = (0..start as u32).map(|flow| flow * 7 % 100).collect();
            let (mut counted, mut opened) = (0i64, 0i64);
            let mut read = 0u32;
            let total = changes.len() as u32 + 1;
            let read_up_to = |edge: u32, read: &mut u32, alive: &[u32]| {
                let found = alive.iter().filter(|place| (*read..edge).contains(place)).count();
                *read = edge;
                found as i64
            };
            for (number, (open, place)) in changes.iter().enumerate() {
                counted += read_up_to(100 * (number as u32 + 1) / total, &mut read, &alive);
                if *open {
                    alive.push(*place);
                    opened += 1;
                } else {
                    alive.pop();
                }
            }
            counted += read_up_to(100, &mut read, &alive);
            prop_assert_eq!(drift(counted, start as i64, alive.len() as i64, opened), 0);
        }
    }

    #[test]
    fn a_listing_can_be_narrowed() {
        let mut flow = entry(Phase::Udp, 90);
        flow.key.src = proxy_common::addr::Addr::v4([192, 0, 2, 1]);
        flow.service = 3;
        flow.backend = 4;
        let shown = view(slot::at(90), &flow, true, 100);
        assert_eq!(shown.source.to_string(), "192.0.2.1:0");
        assert_eq!(shown.idle.as_millis(), 10);
        let accepts = |filter: FlowFilter| filter.accepts(&shown);
        assert!(accepts(FlowFilter::default()));
        assert!(accepts(FlowFilter {
            service: Some(3),
            ..Default::default()
        }));
        assert!(!accepts(FlowFilter {
            backend: Some(3),
            ..Default::default()
        }));
        let address = Some("192.0.2.1".parse().unwrap());
        assert!(accepts(FlowFilter {
            address,
            ..Default::default()
        }));
    }
}
