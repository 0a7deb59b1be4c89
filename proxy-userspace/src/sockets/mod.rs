//! What the kernel does with sockets for the daemon, seen from user space.
//!
//! The object `sock` is apart from the packet path's. What accelerates belongs to one process and ends
//! with it: nothing of it is pinned, and the socket hash lives on for as long as a socket
//! is in it, so that nothing is lost that waits in one when the daemon ends. What [steers](steer) is pinned and adopted,
//! and so is what balances at [connect()](connect), which is an object of its own.

mod acceleration;
mod bulk;
mod cgroup;
pub mod connect;
mod cookie;
mod diag;
mod join;
mod namespace;
mod object;
mod offsets;
mod pinned;
pub mod redirect;
pub mod steer;
mod trial;
mod waiting;

pub use acceleration::{
    Acceleration, AccelerationError, View, are_in_use, expect_use, is_plain, make_room, note_stall,
};
pub use bulk::{Bulk, MUCH};
pub use cgroup::{CgroupError, root as cgroup_root};
pub use join::{Gone, Joined, NotJoined, Side, Way, waiting_beyond};
pub use object::{Attached, Programs, SocketError};
pub use offsets::{OffsetError, offsets};
pub use trial::TrialError;
