//! Pure balancing policy: Maglev rings and weights for the packet path, and `l7`, which chooses
//! for single requests. No I/O, no clock, no randomness: time and random numbers are arguments.

pub mod l7;
pub mod maglev;
