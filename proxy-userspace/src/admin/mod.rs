//! The admin API: a unix socket for the command line, and TCP for metrics and health.
//!
//! ```text
//! sluice status, drain, … ──client──▶ unix socket (0660) ──▶ /api/v1/… ─┐
//! Prometheus, probes ────────────────▶ TCP, if asked for ──▶ /metrics … ─┴▶ control::Handle
//!                                                                              │ commands, by mpsc
//!                                                                              ▼
//!                                                                    the runtime's control task
//! ```
//!
//! Handlers decide nothing: they parse, send one [`control::Command`] to the one task that owns
//! the data plane, and turn its answer into a response. What changes something is a POST and is
//! served on the unix socket only, where file permissions say who may; TCP carries nothing but
//! read-only numbers, and refuses requests that a web page made a browser send (see [`guard`]).

pub mod access;
pub mod api;
pub mod caller;
pub mod certificate;
pub mod change;
pub mod client;
pub mod control;
mod endpoint;
pub mod guard;
mod openapi;
pub mod routes;
pub mod server;
pub mod socket;
