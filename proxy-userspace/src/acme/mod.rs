//! Certificates that an authority issues by itself (ACME, RFC 8555).
//!
//! ```text
//!  snapshot ─▶ Manager ── schedule (pure): what is due? ──▶ order ─▶ authority
//!                 │                                           │          │ asks
//!                 ▼                                           ▼          ▼
//!              storage, board                             Challenges ◀ workers
//! ```
//!
//! The [`Manager`] is one task beside the workers. It keeps certificates in files, where listeners
//! read them as they read all others: the control task, which it tells, puts a new one in force as
//! it does a renewed file. What the authority asks meanwhile the workers answer from
//! [`Challenges`], which costs others nothing as long as there are none.

mod account;
mod challenges;
mod issued;
mod manager;
mod memory;
mod order;
mod schedule;

pub use challenges::{ALPN, Challenges};
pub use manager::{Command, Manager, Wanted};
