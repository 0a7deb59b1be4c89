//! Services for a [`Rig`]: what a test says of a service, and the map entries that stand for it.

use super::build::{address, socket};
use super::rig::Rig;
use anyhow::{Context, Result};
use proxy_common::addr::Addr;
use proxy_common::backend::{Backend, BackendState};
use proxy_common::flow::ticks_from_ms;
use proxy_common::hash::filter_bit;
use proxy_common::maps;
use proxy_common::service::{
    Mode, SERVICE_PREFIX_FIXED_BITS, Selection, Service, ServiceKey, ServicePrefix, ServiceRef,
    kind, protocol, service_flags,
};
use proxy_common::settings::{AddressFilter, settings_flags};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Slots of the rings that tests use: a prime, small enough to write out.
pub const RING_SIZE: usize = 1009;

/// Source of outer IPv4 headers.
pub const TUNNEL_V4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 0);
/// Source of outer IPv6 headers: the discard-only prefix (RFC 6666).
pub const TUNNEL_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0);

/// A service that a test wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    vip: IpAddr,
    prefix: Option<u8>,
    port: u16,
    protocol: u8,
    backends: Vec<(IpAddr, u16, u16)>,
    snat: Vec<IpAddr>,
    spread: u32,
    gue_port: u16,
    service: Service,
}

/// A service that the rig has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Service id.
    pub id: u16,
    /// Backend ids in the order given.
    pub backends: Vec<u16>,
}

impl Wanted {
    /// A TCP service at `vip`, as `203.0.113.1:80`; port 0 is every port.
    pub fn tcp(vip: &str, mode: Mode) -> Self {
        Self::new(vip, mode, protocol::TCP)
    }

    /// A UDP service.
    pub fn udp(vip: &str, mode: Mode) -> Self {
        Self::new(vip, mode, protocol::UDP)
    }

    fn new(vip: &str, mode: Mode, protocol: u8) -> Self {
        let vip = socket(vip);
        let service = Service {
            vip: vip.ip().into(),
            port: vip.port(),
            protocol,
            mode: mode.code(),
            selection: Selection::Maglev.code(),
            syn_ticks: ticks_from_ms(10_000),
            established_ticks: ticks_from_ms(300_000),
            closing_ticks: ticks_from_ms(10_000),
            udp_ticks: ticks_from_ms(60_000),
            affinity_ticks: ticks_from_ms(600_000),
            ..Service::default()
        };
        Self {
            vip: vip.ip(),
            prefix: None,
            port: vip.port(),
            protocol,
            backends: Vec::new(),
            snat: Vec::new(),
            spread: 0,
            gue_port: maps::DEFAULT_GUE_PORT,
            service,
        }
    }

    /// The VIP is a prefix of this length.
    #[must_use]
    pub const fn prefix(mut self, length: u8) -> Self {
        self.prefix = Some(length);
        self
    }

    /// With a backend, as `10.1.0.2:8080`; port 0 keeps the client's destination port.
    #[must_use]
    pub fn backend(self, backend: &str) -> Self {
        self.weighted(backend, 1)
    }

    /// With a backend of this weight.
    #[must_use]
    pub fn weighted(mut self, backend: &str, weight: u16) -> Self {
        let backend = socket(backend);
        self.backends.push((backend.ip(), backend.port(), weight));
        self
    }

    /// With a source address of full-nat.
    #[must_use]
    pub fn source(mut self, source: &str) -> Self {
        self.snat.push(address(source));
        self
    }

    /// The flow's hash fills these bits of the outer source.
    #[must_use]
    pub const fn spread(mut self, mask: u32) -> Self {
        self.spread = mask;
        self
    }

    /// With this port for GUE.
    #[must_use]
    pub const fn gue_port(mut self, port: u16) -> Self {
        self.gue_port = port;
        self
    }

    /// With any other change of the table's entry.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Service)) -> Self {
        change(&mut self.service);
        self
    }
}

/// What a rig has given out so far.
#[derive(Debug)]
pub struct Directory {
    services: u16,
    backends: u16,
    snat: u8,
    filter: Box<AddressFilter>,
}

impl Default for Directory {
    fn default() -> Self {
        let filter = AddressFilter {
            words: [0; proxy_common::settings::FILTER_OCTETS / 8],
        };
        Self {
            services: 0,
            backends: 0,
            snat: 0,
            filter: Box::new(filter),
        }
    }
}

impl Directory {
    /// Highest service id and backend id given out.
    pub(super) const fn highest(&self) -> (u16, u16) {
        (self.services, self.backends)
    }
}

impl Rig {
    /// Writes the entries of a service: backends, ring, table, keys, filter, settings.
    ///
    /// # Errors
    ///
    /// When a map cannot be written.
    pub fn serve(&mut self, wanted: &Wanted) -> Result<Served> {
        self.directory.services += 1;
        let id = self.directory.services;
        let backends = self.write_backends(id, wanted)?;
        let mut service = wanted.service;
        let slots = slots(&backends, wanted);
        service.ring_size = slots.len() as u32;
        self.set_ring(id, &slots)?;
        self.write_sources(wanted, &mut service)?;
        self.set(maps::SERVICE_TABLE, u32::from(id), service)?;
        let to = ServiceRef {
            id,
            kind: kind::BALANCE,
            _pad: 0,
        };
        let echo = ServiceRef {
            id,
            kind: kind::ECHO,
            _pad: 0,
        };
        let mut flags = 0;
        let vip = Addr::from(wanted.vip);
        if let Some(length) = wanted.prefix {
            flags |= settings_flags::PREFIX_SERVICES;
            self.write_prefix(wanted, length, wanted.protocol, wanted.port, to)?;
            self.write_prefix(wanted, length, 0, 0, echo)?;
        } else {
            self.insert(
                maps::SERVICES,
                ServiceKey::new(vip, wanted.port, wanted.protocol),
                to,
            )?;
            self.insert(maps::SERVICES, ServiceKey::new(vip, 0, 0), echo)?;
            self.concern(wanted.vip);
        }
        if Mode::from_code(service.mode).is_some_and(Mode::is_nat) {
            flags |= settings_flags::NAT;
            for (address, ..) in &wanted.backends {
                self.concern(*address);
            }
        }
        self.write_filter()?;
        self.settings(|settings| settings.flags |= flags)?;
        Ok(Served { id, backends })
    }

    /// Changes one backend.
    ///
    /// # Errors
    ///
    /// When the map cannot be written.
    pub fn change_backend(&mut self, id: u16, change: impl FnOnce(&mut Backend)) -> Result<()> {
        let mut backend: Backend = self.get(maps::BACKENDS, u32::from(id))?;
        change(&mut backend);
        self.set(maps::BACKENDS, u32::from(id), backend)?;
        // As the planner does: what is cached of backends is stale.
        self.settings(|_| ())
    }

    /// Sets the state of a backend; its ring is left as it is.
    ///
    /// # Errors
    ///
    /// When the map cannot be written.
    pub fn set_state(&mut self, id: u16, state: BackendState) -> Result<()> {
        self.change_backend(id, |backend| backend.state = state.code())
    }

    /// Changes a service's entry and raises the generation.
    ///
    /// # Errors
    ///
    /// When the map cannot be written.
    pub fn change_service(&mut self, id: u16, change: impl FnOnce(&mut Service)) -> Result<()> {
        let mut service: Service = self.get(maps::SERVICE_TABLE, u32::from(id))?;
        change(&mut service);
        self.set(maps::SERVICE_TABLE, u32::from(id), service)?;
        self.settings(|_| ())
    }

    /// Gives all the slots of a service's ring to these backends in turn; none empties it.
    ///
    /// # Errors
    ///
    /// When a map cannot be written.
    pub fn only(&mut self, service: u16, backends: &[u16]) -> Result<()> {
        let slots = ring_of(backends);
        self.set_ring(service, &slots)?;
        self.change_service(service, |service| service.ring_size = slots.len() as u32)
    }

    /// As [`Self::only`], with a ring that has been settled since the beginning: SYNs leave nothing.
    ///
    /// # Errors
    ///
    /// When a map cannot be written.
    pub fn settle(&mut self, service: u16, backends: &[u16]) -> Result<()> {
        self.settle_ring(service, &ring_of(backends))
    }

    /// As [`Self::settle`], with these slots.
    ///
    /// # Errors
    ///
    /// When a map cannot be written.
    pub fn settle_ring(&mut self, service: u16, slots: &[u16]) -> Result<()> {
        self.set_ring_until(service, slots, 0, None)?;
        self.change_service(service, |service| service.ring_size = slots.len() as u32)
    }

    /// Marks an address in the address filter (write it with [`Self::write_filter`]).
    pub fn concern(&mut self, address: IpAddr) {
        let (word, mask) = filter_bit(&address.into());
        self.directory.filter.words[word] |= mask;
    }

    /// Writes the address filter.
    ///
    /// # Errors
    ///
    /// When the map cannot be written.
    pub fn write_filter(&mut self) -> Result<()> {
        let filter = *self.directory.filter;
        self.set(maps::ADDRESS_FILTER, 0, filter)
    }

    fn write_backends(&mut self, service: u16, wanted: &Wanted) -> Result<Vec<u16>> {
        let mut ids = Vec::new();
        for &(address, port, weight) in &wanted.backends {
            self.directory.backends += 1;
            let id = self.directory.backends;
            let encap_src: IpAddr = if address.is_ipv4() {
                TUNNEL_V4.into()
            } else {
                TUNNEL_V6.into()
            };
            let backend = Backend {
                addr: address.into(),
                encap_src: encap_src.into(),
                encap_src_mask: wanted.spread,
                weight,
                port_be: port.to_be(),
                gue_port_be: wanted.gue_port.to_be(),
                service,
                state: BackendState::Up.code(),
                mode: wanted.service.mode,
                protocol: wanted.protocol,
                ..Backend::default()
            };
            self.set(maps::BACKENDS, u32::from(id), backend)
                .context("is the rig's `backends` map large enough?")?;
            ids.push(id);
        }
        Ok(ids)
    }

    fn write_sources(&mut self, wanted: &Wanted, service: &mut Service) -> Result<()> {
        let first = self.directory.snat;
        service.snat4_first = first;
        service.snat4_count = wanted.snat.iter().filter(|source| source.is_ipv4()).count() as u8;
        service.snat6_first = first + service.snat4_count;
        service.snat6_count = wanted.snat.len() as u8 - service.snat4_count;
        let ordered = wanted.snat.iter().filter(|source| source.is_ipv4());
        for source in ordered.chain(wanted.snat.iter().filter(|source| source.is_ipv6())) {
            let index = self.directory.snat;
            self.directory.snat += 1;
            let address = Addr::from(*source);
            self.set(maps::SNAT_ADDRS, u32::from(index), address)?;
            let to = ServiceRef {
                id: u16::from(index),
                kind: kind::SNAT,
                _pad: 0,
            };
            self.insert(maps::SERVICES, ServiceKey::new(address, 0, 0), to)?;
            self.concern(*source);
        }
        Ok(())
    }

    fn write_prefix(
        &mut self,
        wanted: &Wanted,
        length: u8,
        protocol: u8,
        port: u16,
        to: ServiceRef,
    ) -> Result<()> {
        let bits = u32::from(length) + if wanted.vip.is_ipv4() { 96 } else { 0 };
        let key = ServicePrefix {
            protocol,
            _pad: 0,
            port: port.to_be_bytes(),
            addr: Addr::from(wanted.vip).octets,
        };
        self.insert_prefix(
            maps::SERVICE_PREFIXES,
            SERVICE_PREFIX_FIXED_BITS + bits,
            key,
            to,
        )
    }
}

/// A ring that gives its slots to these backends in turn.
pub fn ring_of(backends: &[u16]) -> Vec<u16> {
    backends.iter().copied().cycle().take(RING_SIZE).collect()
}

/// The ring: each backend as often as its weight says, in turn.
fn slots(ids: &[u16], wanted: &Wanted) -> Vec<u16> {
    let turn: Vec<u16> = ids
        .iter()
        .zip(&wanted.backends)
        .flat_map(|(id, (_, _, weight))| std::iter::repeat_n(*id, usize::from(*weight)))
        .collect();
    turn.iter().copied().cycle().take(RING_SIZE).collect()
}

/// Flags of a service whose sources are limited to an allow list.
pub const ALLOW_LIST: u32 = service_flags::GUARDED | service_flags::DEFAULT_DENY;
