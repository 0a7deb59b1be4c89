//! What wears a proxy down: slow clients by the thousand, more connections than there are
//! descriptors, reloads without end. Each time others must be served meanwhile and afterwards.
//!
//! The proxy is a process of its own, as it would run. What can be shown with a few connections is
//! in the suite `http`. With `SLUICE_LONG=1` (`cargo xtask test --long`) what goes on for some
//! seconds here goes on for a minute and more.

#[path = "abuse/connections.rs"]
mod connections;
#[path = "abuse/reloads.rs"]
mod reloads;
#[path = "abuse/slow.rs"]
mod slow;
#[path = "abuse/support.rs"]
mod support;
