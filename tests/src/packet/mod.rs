//! Packet tests: frames in, verdict and exact frame out, by `BPF_PROG_TEST_RUN`.
//!
//! [`wire`] and [`build`] make frames, [`verify`] judges them, [`netns`] gives the kernel routes
//! and neighbours to find, [`rig`] runs the data plane on one frame at a time.

pub mod build;
pub mod netns;
pub mod plane;
pub mod probe;
pub mod rig;
pub mod service;
pub mod verify;
pub mod wire;
