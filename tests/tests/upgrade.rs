//! Nothing is lost when the binary changes: requests, connections, sessions, and the service
//! itself, whatever the new process does and whoever is killed meanwhile.
//!
//! The daemon is a process of its own, and so is each that takes over from it. With `SLUICE_LONG=1`
//! (`cargo xtask test --long`) upgrades under load go on for a minute.

#[path = "upgrade/clients.rs"]
mod clients;
#[path = "upgrade/failure.rs"]
mod failure;
#[path = "upgrade/killed.rs"]
mod killed;
#[path = "upgrade/known.rs"]
mod known;
#[path = "upgrade/load.rs"]
mod load;
#[path = "upgrade/privileges.rs"]
mod privileges;
#[path = "upgrade/support.rs"]
mod support;
#[path = "upgrade/systemd.rs"]
mod systemd;
