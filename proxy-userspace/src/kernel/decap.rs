//! The receiving side of tunnels: attaches `sluice_decap` on a backend, pinned under `decap/`.
//!
//! It shares nothing with a balancer's data plane, so that one host can be both.

use super::attach::{AttachError, Attachment, attach_links, detach_others, remove_pins};
use super::handle::MapHandle;
use super::layout::SHAPES;
use super::load::{LoadError, check_privileges, prepare};
use super::netlink::Netlink;
use super::object::{OBJECT, load_program, object_error, own_map, pin_program};
use super::pins::{self, PinLock, Pins};
use super::{host, sys};
use crate::config::model::Interface;
use aya::EbpfLoader;
use ipnet::IpNet;
use proxy_common::addr::Addr;
use proxy_common::maps::{self, DecapSettings, DecapSource, program};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Maps of the object that only the balancer needs and that can be of any size.
const UNUSED: [&str; 13] = [
    maps::FLOWS,
    maps::FLOW_TAGS,
    maps::SNAT_PORTS,
    maps::BACKENDS,
    maps::BACKEND_STATS,
    maps::LIVE_FLOWS,
    maps::SERVICE_TABLE,
    maps::SERVICE_STATS,
    maps::RINGS,
    maps::SERVICES,
    maps::SERVICE_PREFIXES,
    maps::GUARD_RULES,
    maps::SNAT_ADDRS,
];

/// Octets of ring buffers that nobody writes to: the least the kernel takes.
const SMALL_RING: u32 = 4096;

/// The pins of a decapsulator under a pin directory.
pub fn pins_in(pin_dir: &Path) -> Pins {
    Pins::new(pin_dir.join("decap"))
}

/// What a backend accepts tunnels from; at most eight sources, none for any.
pub fn settings(gue_port: u16, sources: &[IpNet]) -> DecapSettings {
    let mut settings = DecapSettings {
        gue_port,
        ..DecapSettings::default()
    };
    for (slot, source) in settings.source.iter_mut().zip(sources) {
        *slot = DecapSource {
            addr: Addr::from(source.network()),
            mask: mask(source),
        };
        settings.sources += 1;
    }
    settings
}

/// The netmask over the 128-bit form of addresses.
fn mask(prefix: &IpNet) -> Addr {
    let length = u32::from(prefix.prefix_len())
        + match prefix {
            IpNet::V4(_) => 96,
            IpNet::V6(_) => 0,
        };
    let bits = u128::MAX.checked_shl(128 - length).unwrap_or(0);
    Addr {
        octets: bits.to_be_bytes(),
    }
}

/// A decapsulator in force. Dropping it changes nothing in the kernel.
pub struct Decap {
    pins: Pins,
    _lock: PinLock,
    /// Where it is attached.
    pub attached: Vec<Attachment>,
}

impl Decap {
    /// Loads the program with these settings and attaches it to these interfaces (and to no
    /// others). A running one is updated in place.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; what was attached before still is.
    pub fn attach(
        pin_dir: &Path,
        interfaces: &[Interface],
        settings: &DecapSettings,
    ) -> Result<Self, AttachError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NoObject.into());
        }
        check_privileges()?;
        host::raise_limits();
        let pins = pins_in(pin_dir);
        prepare(&pins)?;
        let lock = PinLock::acquire(pins.directory())?;
        let (program, map) = load(settings)?;
        let mut netlink = Netlink::open()?;
        let attached = attach_links(&mut netlink, &pins, program.as_fd(), interfaces)?;
        detach_others(&pins, interfaces)?;
        pin_map(&pins, &map)?;
        pin_program(&pins, program::DECAP, &program)?;
        Ok(Self {
            pins,
            _lock: lock,
            attached,
        })
    }

    /// Takes the program off all interfaces and removes its pins.
    ///
    /// # Errors
    ///
    /// [`LoadError::Path`].
    pub fn detach(self) -> Result<(), LoadError> {
        remove_pins(&self.pins)
    }
}

/// Loads the program with a settings map of its own, already filled.
fn load(settings: &DecapSettings) -> Result<(OwnedFd, MapHandle), LoadError> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    for shape in SHAPES.iter().filter(|shape| UNUSED.contains(&shape.name)) {
        loader.map_max_entries(shape.name, 1);
    }
    for ring in [maps::EVENTS, maps::CAPTURE] {
        loader.map_max_entries(ring, SMALL_RING);
    }
    let mut ebpf = loader.load(OBJECT).map_err(object_error)?;
    let program = load_program(&mut ebpf, program::DECAP)?;
    let map = own_map(&ebpf, maps::DECAP_SETTINGS)?;
    map.set(&0u32, settings).map_err(|source| {
        LoadError::Store(super::store::StoreError {
            call: "update",
            map: maps::DECAP_SETTINGS,
            source,
        })
    })?;
    Ok((program, map))
}

fn pin_map(pins: &Pins, map: &MapHandle) -> Result<(), LoadError> {
    pins::make_dir(&pins.maps())?;
    let path = pins.map(maps::DECAP_SETTINGS);
    pins::remove_pin(&path)?;
    sys::pin(map.as_fd(), &path).map_err(|source| LoadError::Path {
        call: "pin",
        path,
        source,
    })
}

/// Takes a decapsulator away, whoever attached it.
///
/// # Errors
///
/// [`LoadError::Locked`] while it is being attached; [`LoadError::Path`].
pub fn remove(pin_dir: &Path) -> Result<(), LoadError> {
    let pins = pins_in(pin_dir);
    if !pins.directory().exists() {
        return Ok(());
    }
    let _lock = PinLock::acquire(pins.directory())?;
    remove_pins(&pins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_become_addresses_and_masks() {
        let sources = [
            "10.1.2.3/8".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ];
        let settings = settings(6080, &sources);
        assert_eq!((settings.gue_port, settings.sources), (6080, 2));
        assert_eq!(settings.source[0].addr, Addr::v4([10, 0, 0, 0]));
        assert_eq!(settings.source[0].mask.octets[11..14], [0xff, 0xff, 0]);
        assert_eq!(
            settings.source[1].mask.octets[..5],
            [0xff, 0xff, 0xff, 0xff, 0]
        );
    }

    #[test]
    fn a_prefix_of_no_length_matches_everything() {
        assert_eq!(mask(&"::/0".parse().unwrap()).octets, [0; 16]);
        assert_eq!(mask(&"::1/128".parse().unwrap()).octets, [0xff; 16]);
    }
}
