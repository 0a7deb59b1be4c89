//! TCP and UDP passed on as they are.
//!
//! ```text
//!  accepted ─▶ PROXY header, from trusted senders ─▶ choose ─▶ connect (or choose again)
//!           ─▶ copy both ways ─▶ count, log                                          [tcp]
//!
//!  accepted ─▶ PROXY header ─▶ handshake ─▶ on as above, inside of TLS         [tcp with tls]
//!
//!  accepted ─▶ PROXY header ─▶ ClientHello, kept as it came ─▶ service, by name and protocol
//!           ─▶ on as above                                                   [passthrough]
//!
//!  datagram ─▶ session of its source, or a new one: choose, connect ─▶ send          [udp]
//!  answer   ─▶ to the source, from the address that it had asked
//! ```
//!
//! A connection or session looks at the snapshot once, when it begins: a reload does not touch
//! it, not even one that takes its listener away. It ends with its peers, when nothing has moved
//! for too long, or when a drain's time is over.

mod account;
mod choose;
mod copy;
mod flow;
mod header;
mod passthrough;
mod sealed;
mod tcp;
pub mod udp;

pub use tcp::{Accepted, Mesh, serve};
