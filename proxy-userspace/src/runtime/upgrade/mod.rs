//! A newer process takes over from this one, and nobody who is served notices.
//!
//! ```text
//!   older process                                newer process (its child)
//!   ─────────────                                ─────────────
//!   starts it, freezes what it keeps in maps
//!   hello, sockets, state, end ────────────────▶ reads the file, takes the sockets
//!                                                opens and attaches the kernel part
//!                              ◀──────────────── ready | failed
//!   go ────────────────────────────────────────▶ accepts (both do)
//!                              ◀──────────────── serving
//!   accepts no more
//!   sessions of UDP, released ─────────────────▶ reads datagrams, rings, owns the admin socket
//!   ends with its connections, or, if the
//!   newer process dies without a farewell, serves again
//! ```
//!
//! **One always serves.** Until `serving` the older process accepts; from `go` on the newer one
//! does. Whoever finds the other gone goes on alone: the newer process with what it was given
//! (the rest it binds anew), the older one as if nothing had been, but for what it then repairs in
//! the maps. A newer process that says nothing in time is killed before the older one goes on, so
//! that never two write to the maps.
//!
//! **Sockets are handed over, not bound anew**, because connections that wait in a socket's queue
//! are lost with it. They are the same sockets in both processes.
//!
//! **The maps have one owner.** From the first word to the outcome the older process changes
//! nothing in them: health changes reach the proxies only, commands that change something are
//! refused.

mod giver;
mod launch;
mod lines;
mod state;
mod taker;
mod wire;

pub(super) use giver::{HandOver, Offer, Successor, UpgradeError};
pub(super) use launch::Launch;
pub(super) use lines::Lines;
pub(super) use state::State;
pub(super) use taker::{Predecessor, Sockets, activated};
pub(super) use wire::{Ready, SocketName};

pub use launch::predecessor;
