//! HTTP/2 frame by frame: what RFC 9113, RFC 7541 and RFC 8441 say must come of each frame, field
//! block and order of them, right or wrong, from clients and from origins.
//!
//! The proxy is a process of its own, with the engine that it has: no case knows which. Chapters of
//! the tables are those of the RFCs. What a peer of ours sends meanwhile is held to the RFCs, too
//! (`proxy_tests::http2::Lawful`).
//!
//! With `SLUICE_H2_TARGET=ADDRESS` the cases for clients run against whatever speaks HTTP/2 in clear
//! text there, which tells whether a case is right.

#[path = "h2_conformance/case.rs"]
mod case;
#[path = "h2_conformance/support.rs"]
mod support;

#[path = "h2_conformance/connect.rs"]
mod connect;
#[path = "h2_conformance/early.rs"]
mod early;
#[path = "h2_conformance/flow.rs"]
mod flow;
#[path = "h2_conformance/frames.rs"]
mod frames;
#[path = "h2_conformance/hpack.rs"]
mod hpack;
#[path = "h2_conformance/messages.rs"]
mod messages;
#[path = "h2_conformance/origins.rs"]
mod origins;
#[path = "h2_conformance/settings.rs"]
mod settings;
#[path = "h2_conformance/starting.rs"]
mod starting;
#[path = "h2_conformance/streams.rs"]
mod streams;
#[path = "h2_conformance/tls.rs"]
mod tls;
