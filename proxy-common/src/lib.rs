//! The contract between sluice's kernel programs and its user space.
//!
//! Everything that both sides must agree on lives here and only here: the key and value of every
//! map, capacities, pin names, reason codes, and the pure arithmetic that both sides must compute
//! alike (hashes, checksums, the TCP phase of a flow). The crate is `no_std` and has no
//! dependencies, so that the kernel programs can use it as it is and its tests run on any host.
//!
//! Rules for the types that live in maps:
//!
//! - `#[repr(C)]`, `Copy`, fixed-width fields, explicit padding that constructors set to zero;
//!   no `bool`, `Option`, `usize` or enum fields. Codes are stored as integers and converted with
//!   a checked `from_code`.
//! - Each size is asserted at compile time, written as the sum of its fields, so that hidden
//!   padding cannot slip in.
//! - [`ABI_VERSION`] is raised whenever a layout or a meaning changes. The loader compares it
//!   with the pinned `settings` map before it adopts a running data plane.
//! - Addresses are always 16 octets; IPv4 is held in its mapped form (`::ffff:a.b.c.d`,
//!   RFC 4291 §2.5.5.2), so that one table serves both families.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod backend;
pub mod bench;
pub mod checksum;
pub mod connect;
pub mod event;
pub mod exceptions;
pub mod flow;
pub mod guard;
pub mod hash;
pub mod maps;
pub mod reason;
pub mod redirect;
pub mod service;
pub mod settings;
pub mod sock;
pub mod stats;
pub mod steer;
pub mod tcp;
pub mod trace;

/// Version of every layout and meaning in this crate; raised on each incompatible change.
pub const ABI_VERSION: u32 = 4;

/// Implements `aya::Pod` for map types when built for user space.
#[macro_export]
#[doc(hidden)]
macro_rules! map_value {
    ($($ty:ty),+ $(,)?) => {$(
        #[cfg(feature = "user")]
        // SAFETY: the type is `repr(C)`, `Copy`, made of integers only, and its size assertion
        // shows that it has no hidden padding; every bit pattern is a valid value.
        unsafe impl aya::Pod for $ty {}
    )+};
}
