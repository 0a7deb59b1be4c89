//! The test harness: packets, namespaces, origins and clients. The suites are this package's
//! targets.

pub mod bench;
pub mod packet;
