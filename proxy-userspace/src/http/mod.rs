//! The HTTP engine: from an accepted connection to the last octet of its last response.
//!
//! ```text
//!  runtime::workers ── accepts ──▶ h1 ─┐                        ┌─▶ upstream (h1, h2)
//!                                  h2 ─┴▶ exchange ── route ────┼─▶ respond, redirect
//!                                            │                  └─▶ files
//!                                        snapshot (immutable, swapped on reload)
//! ```
//!
//! A [`worker::Worker`] is what all connections of one thread share. It holds the
//! [`snapshot::Snapshot`] in force; each request looks at it anew, so that a reload concerns the
//! next request of every open connection and touches no request under way.

pub mod admission;
pub mod census;
pub mod certified;
pub mod conduct;
pub mod date;
pub mod exchange;
mod flow;
pub mod forwarded;
pub mod h1;
pub mod h2;
pub mod listening;
pub mod origins;
pub mod peer;
pub mod secure;
pub mod snapshot;
pub mod streams;
pub mod worker;
