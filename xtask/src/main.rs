//! Drives cargo: set-up, builds, demo, tests, benchmarks.

fn main() {}
