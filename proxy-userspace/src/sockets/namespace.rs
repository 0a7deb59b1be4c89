//! Programs that choose sockets, attached to the network namespace of this process by a link with a
//! pin.

use crate::kernel::load::LoadError;
use crate::kernel::{pins, sys};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The network namespace of this process.
const NAMESPACE: &str = "/proc/self/ns/net";

/// Sees to it that this program is the one that lookups meet. A link that is pinned there goes on
/// with it, without a lookup that meets neither; one of another namespace is ended.
///
/// # Errors
///
/// Those of the system.
pub(super) fn attach(pin: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let namespace = File::open(NAMESPACE)?;
    let inode = namespace.metadata()?.ino();
    let current = sys::program_id(program)?;
    if let Ok(link) = sys::open_pinned(pin)
        && let Ok(info) = sys::link_info(link.as_fd())
        && u64::from(info.ifindex) == inode
        && (info.program_id == current || sys::link_update(link.as_fd(), program).is_ok())
    {
        return Ok(());
    }
    detach(pin).map_err(io::Error::other)?;
    let link = sys::link_namespace(program, namespace.as_fd())?;
    sys::pin(link.as_fd(), pin)
}

/// Ends what is pinned there, if anything is.
///
/// # Errors
///
/// [`LoadError::Path`].
pub(super) fn detach(pin: &Path) -> Result<(), LoadError> {
    if let Ok(link) = sys::open_pinned(pin)
        && let Err(error) = sys::link_detach(link.as_fd())
    {
        // The namespace may have gone; without its pin the link dies anyway.
        tracing::debug!(%error, "a link to a network namespace could not be detached");
    }
    pins::remove_pin(pin)
}
