//! Attaches programs to interfaces by pinned links, and takes them off again.
//!
//! A link keeps its program attached for as long as its pin exists, whoever dies. After a restart
//! the pinned link is updated in place: one packet is judged by the old program, the next by the
//! new one, none by neither. Programs and links both carry the attach type `xdp` from the first
//! day, because from 6.18 on a link made without cannot be updated to a program with it.

use super::load::{DataPlane, LoadError};
use super::migrate;
use super::netlink::{AttachedXdp, InterfaceInfo, Netlink, NetlinkError, XdpMode};
use super::object::pin_program;
use super::pins::{self, PinLock, Pins};
use super::{aim, sys};
use crate::config::model::{AttachMode, Interface};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use proxy_common::maps::program;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is no such interface in this network namespace.
    #[error("there is no interface `{name}` (there are: {})", existing.join(", "))]
    NoInterface {
        /// The name asked for.
        name: String,
        /// The names that exist.
        existing: Vec<String>,
    },
    /// Another XDP program is there.
    #[error("{0}")]
    Occupied(Box<Occupied>),
    /// The kernel refused.
    #[error("cannot attach to `{interface}` in {} mode{}", mode.name(), refusal(reason.as_deref(), *mode))]
    Refused {
        /// The interface.
        interface: String,
        /// The mode tried (the last one, for `auto`).
        mode: XdpMode,
        /// The kernel's sentence, if it gave one.
        reason: Option<String>,
        /// The error code.
        #[source]
        source: io::Error,
    },
    /// Interfaces could not be read.
    #[error("cannot read the interfaces")]
    Netlink(#[from] NetlinkError),
    /// Pins or maps could not be handled.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Another XDP program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupied {
    /// The interface.
    pub interface: String,
    /// The program's name, if it could be read.
    pub program: Option<String>,
    /// How it is attached and its id.
    pub attached: AttachedXdp,
}

impl std::fmt::Display for Occupied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            interface,
            program,
            attached,
        } = self;
        let name = program.as_deref().unwrap_or("unknown");
        let (id, mode) = (attached.program_id, attached.mode.name());
        let keyword = match attached.mode {
            XdpMode::Generic => "xdpgeneric",
            XdpMode::Native => "xdpdrv",
            XdpMode::Other => "xdp",
        };
        write!(
            f,
            "`{interface}` has another XDP program: `{name}` (id {id}, {mode}). Remove it with \
             `ip link set dev {interface} {keyword} off`, or, if a link holds it, find its owner \
             with `bpftool link` and stop it"
        )
    }
}

/// What a refusal adds to its message: the kernel's sentence and what can be done.
fn refusal(reason: Option<&str>, mode: XdpMode) -> String {
    let mut text = reason
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    let lower = text.to_lowercase();
    if lower.contains("mtu") {
        text.push_str(" (lower the MTU of the interface, and of a veth's peer, below about 3500)");
    } else if lower.contains("queue") {
        text.push_str(" (give the veth at least as many receive queues as its peer has to send)");
    } else if mode == XdpMode::Native {
        text.push_str(" (`attach: auto` or `attach: generic` works without the driver's help)");
    }
    text
}

/// An attached interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its name.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// How the program is attached.
    pub mode: XdpMode,
    /// The link was there already and got the new program in place.
    pub updated: bool,
}

impl DataPlane {
    /// Puts the maps in force and the program on these interfaces, and takes it off all others.
    ///
    /// Call it after the edits were applied. May be called again with other interfaces.
    ///
    /// # Errors
    ///
    /// [`AttachError`]. Interfaces that had no program before have none then; those that had one
    /// keep forwarding.
    pub fn attach(&mut self, interfaces: &[Interface]) -> Result<Vec<Attachment>, AttachError> {
        let mut netlink = Netlink::open()?;
        find_all(&mut netlink, interfaces)?;
        self.put_in_force()?;
        let stages = self.pin_stages()?;
        let program = self.balancer.program.as_fd();
        let attached = attach_links(&mut netlink, &self.pins, program, interfaces)?;
        detach_others(&self.pins, interfaces)?;
        // Only now no link uses an older program, whose stages vanish with their pin. A packet that
        // it began with may still be on its way to them, for long if its virtual CPU is away.
        sys::wait_for_running_programs();
        remove_other_stages(&self.pins, &stages)?;
        pins::remove_dir(&self.pins.next_maps())?;
        Ok(attached)
    }

    /// Moves the pins of new maps to their place. The old ones, if any, go where the new ones
    /// were, and live on until no link uses their program.
    fn put_in_force(&mut self) -> Result<(), LoadError> {
        if let Some(old) = self.predecessor.take() {
            let flows = migrate::copy_flows(&old, &self.maps, &self.capacities)?;
            tracing::info!(
                kept = flows.kept,
                lost = flows.lost,
                "flows copied to the new table"
            );
        }
        if self.staged {
            exchange(&self.pins.next_maps(), &self.pins.maps())?;
            self.staged = false;
        }
        pin_program(&self.pins, program::BALANCE, &self.balancer.program)
    }

    /// Pins the program array under a name of its own, so that a crash in the middle of updating
    /// the links leaves the stages of both the old and the new program. Returns the path.
    fn pin_stages(&self) -> Result<PathBuf, LoadError> {
        let balancer = &self.balancer;
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| LoadError::Path {
                call: "pin",
                path,
                source,
            }
        };
        let directory = self.pins.stages();
        let id = sys::program_id(balancer.program.as_fd()).map_err(error(&directory))?;
        let path = directory.join(id.to_string());
        match sys::pin(balancer.stages.as_fd(), &path) {
            // This very load is attached already, to other interfaces: ids are not used twice.
            Err(found) if found.kind() == io::ErrorKind::AlreadyExists => Ok(path),
            result => result.map(|()| path.clone()).map_err(error(&path)),
        }
    }

    /// Ends the data plane: takes the program off all interfaces and removes every pin. With
    /// `keep_dataplane` it only lets go of it, and the kernel forwards on.
    ///
    /// # Errors
    ///
    /// [`LoadError::Path`] for the first pin that cannot be removed.
    pub fn detach_all(self, keep_dataplane: bool) -> Result<(), LoadError> {
        if keep_dataplane {
            // New maps that were never put in force serve nobody.
            return pins::remove_dir(&self.pins.next_maps());
        }
        remove_pins(&self.pins)
    }
}

/// Takes a data plane away without a daemon, as `detach_all` does.
///
/// # Errors
///
/// [`LoadError::Locked`] while a daemon runs; [`LoadError::Path`].
pub fn remove(pin_dir: &Path) -> Result<(), LoadError> {
    let pins = Pins::new(pin_dir);
    if !pin_dir.exists() {
        return Ok(());
    }
    let _lock = PinLock::acquire(pin_dir)?;
    remove_pins(&pins)
}

/// Detaches and removes everything under a pin directory, links first.
pub(crate) fn remove_pins(pins: &Pins) -> Result<(), LoadError> {
    aim::remove(pins)?;
    detach_others(pins, &[])?;
    for directory in [
        pins.links(),
        pins.stages(),
        pins.programs(),
        pins.maps(),
        pins.next_maps(),
    ] {
        pins::remove_dir(&directory)?;
    }
    // It may hold `decap/`, or be a mount point: then it stays.
    let _ = std::fs::remove_dir(pins.directory());
    Ok(())
}

/// Removes the program arrays of other loads of the programs.
fn remove_other_stages(pins: &Pins, current: &Path) -> Result<(), LoadError> {
    let directory = pins.stages();
    let entries = std::fs::read_dir(&directory).map_err(|source| LoadError::Path {
        call: "read",
        path: directory.clone(),
        source,
    })?;
    for entry in entries.filter_map(Result::ok) {
        if entry.path() != current {
            pins::remove_pin(&entry.path())?;
        }
    }
    Ok(())
}

/// Renames `from` to `to`; what `to` was becomes `from`.
fn exchange(from: &Path, to: &Path) -> Result<(), LoadError> {
    let flags = if to.exists() {
        RenameFlags::RENAME_EXCHANGE
    } else {
        RenameFlags::empty()
    };
    renameat2(AT_FDCWD, from, AT_FDCWD, to, flags).map_err(|errno| LoadError::Path {
        call: "rename",
        path: from.to_owned(),
        source: errno.into(),
    })
}

/// Checks that every interface exists, before anything is changed.
fn find_all(netlink: &mut Netlink, interfaces: &[Interface]) -> Result<(), AttachError> {
    let existing = netlink.interfaces()?;
    for wanted in interfaces {
        find(&existing, &wanted.name)?;
    }
    Ok(())
}

fn find<'a>(existing: &'a [InterfaceInfo], name: &str) -> Result<&'a InterfaceInfo, AttachError> {
    existing
        .iter()
        .find(|found| found.name == name)
        .ok_or_else(|| AttachError::NoInterface {
            name: name.to_owned(),
            existing: existing.iter().map(|found| found.name.clone()).collect(),
        })
}

/// Updates or makes the links of these interfaces. If one fails, those just made are undone.
pub(crate) fn attach_links(
    netlink: &mut Netlink,
    pins: &Pins,
    program: BorrowedFd<'_>,
    interfaces: &[Interface],
) -> Result<Vec<Attachment>, AttachError> {
    let existing = netlink.interfaces()?;
    let mut attached: Vec<Attachment> = Vec::new();
    for wanted in interfaces {
        let result = find(&existing, &wanted.name)
            .and_then(|found| attach_one(netlink, pins, program, wanted, found));
        match result {
            Ok(attachment) => {
                tracing::info!(
                    interface = %attachment.interface,
                    mode = attachment.mode.name(),
                    updated = attachment.updated,
                    "attached"
                );
                attached.push(attachment);
            }
            Err(error) => {
                for undone in attached.iter().filter(|one| !one.updated) {
                    if let Err(error) = detach_one(pins, &undone.interface) {
                        tracing::warn!(%error, interface = %undone.interface, "cannot undo");
                    }
                }
                return Err(error);
            }
        }
    }
    Ok(attached)
}

fn attach_one(
    netlink: &mut Netlink,
    pins: &Pins,
    program: BorrowedFd<'_>,
    wanted: &Interface,
    found: &InterfaceInfo,
) -> Result<Attachment, AttachError> {
    let attachment = |mode, updated| Attachment {
        interface: found.name.clone(),
        ifindex: found.index,
        mode,
        updated,
    };
    if let Some((link, mode)) = adoptable(pins, wanted, found) {
        match sys::link_update(link.as_fd(), program) {
            Ok(()) => return Ok(attachment(mode, true)),
            Err(error) => tracing::warn!(
                %error, interface = %found.name, "the pinned link cannot be updated: making it anew"
            ),
        }
    }
    // Whatever is pinned here is of no use any more.
    detach_one(pins, &found.name)?;
    if let Some(other) = current_xdp(netlink, &found.name)? {
        return Err(AttachError::Occupied(Box::new(Occupied {
            interface: found.name.clone(),
            program: sys::program_name(other.program_id).ok(),
            attached: other,
        })));
    }
    let (link, mode) = create(netlink, program, wanted, found)?;
    let path = pins.link(&found.name);
    sys::pin(link.as_fd(), &path).map_err(|source| LoadError::Path {
        call: "pin",
        path,
        source,
    })?;
    Ok(attachment(mode, false))
}

/// The pinned link, if it is on this very interface (not a namesake that has gone) in a mode that
/// the configuration accepts.
fn adoptable(pins: &Pins, wanted: &Interface, found: &InterfaceInfo) -> Option<(OwnedFd, XdpMode)> {
    let link = sys::open_pinned(&pins.link(&found.name)).ok()?;
    let info = sys::link_info(link.as_fd()).ok()?;
    let mode = found.xdp?.mode;
    let accepted = match wanted.attach {
        AttachMode::Auto => true,
        AttachMode::Native => mode == XdpMode::Native,
        AttachMode::Generic => mode == XdpMode::Generic,
    };
    (info.ifindex == found.index && accepted).then_some((link, mode))
}

fn current_xdp(netlink: &mut Netlink, name: &str) -> Result<Option<AttachedXdp>, NetlinkError> {
    Ok(netlink.interface(name)?.and_then(|found| found.xdp))
}

/// Makes a link in the mode asked for.
fn create(
    netlink: &mut Netlink,
    program: BorrowedFd<'_>,
    wanted: &Interface,
    found: &InterfaceInfo,
) -> Result<(OwnedFd, XdpMode), AttachError> {
    let mut try_mode = |mode: XdpMode| {
        let flag = match mode {
            XdpMode::Generic => sys::XDP_SKB_MODE,
            _ => sys::XDP_DRV_MODE,
        };
        sys::link_xdp(program, found.index, flag)
            .map(|link| (link, mode))
            .map_err(|source| AttachError::Refused {
                interface: found.name.clone(),
                mode,
                reason: netlink.why_refused(found.index, program.as_raw_fd(), flag),
                source,
            })
    };
    match wanted.attach {
        AttachMode::Native => try_mode(XdpMode::Native),
        AttachMode::Generic => try_mode(XdpMode::Generic),
        AttachMode::Auto => try_mode(XdpMode::Native).or_else(|native| {
            let generic = try_mode(XdpMode::Generic)?;
            tracing::warn!(
                interface = %found.name,
                reason = %native,
                "native XDP is not possible here, generic mode is used: it costs more CPU"
            );
            Ok(generic)
        }),
    }
}

/// Takes the program off an interface, if a link is pinned.
fn detach_one(pins: &Pins, interface: &str) -> Result<(), LoadError> {
    pins::remove_link(&pins.link(interface))
}

/// Takes the program off the interfaces that are pinned but not configured.
pub(crate) fn detach_others(pins: &Pins, configured: &[Interface]) -> Result<(), LoadError> {
    let linked = pins.linked_interfaces().map_err(|source| LoadError::Path {
        call: "read",
        path: pins.links(),
        source,
    })?;
    for name in linked {
        if !configured.iter().any(|wanted| wanted.name == name) {
            detach_one(pins, &name)?;
            tracing::info!(interface = %name, "detached");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interface_lists_those_that_exist() {
        let existing = Netlink::open().unwrap().interfaces().unwrap();
        let text = find(&existing, "nosuch0").unwrap_err().to_string();
        assert!(text.contains("`nosuch0`") && text.contains("lo"), "{text}");
    }

    #[test]
    fn another_program_is_named_with_the_way_to_remove_it() {
        let text = Occupied {
            interface: "eth0".into(),
            program: Some("xdp_filter".into()),
            attached: AttachedXdp {
                mode: XdpMode::Generic,
                program_id: 42,
            },
        }
        .to_string();
        assert!(text.contains("`xdp_filter` (id 42, generic)"), "{text}");
        assert!(
            text.contains("ip link set dev eth0 xdpgeneric off"),
            "{text}"
        );
    }

    #[test]
    fn refusals_come_with_a_remedy() {
        let mtu = refusal(Some("Peer MTU is too large to set XDP"), XdpMode::Native);
        assert!(mtu.contains("lower the MTU"), "{mtu}");
        let driver = refusal(None, XdpMode::Native);
        assert!(driver.contains("attach: generic"), "{driver}");
        assert_eq!(refusal(None, XdpMode::Generic), "");
    }
}
