//! Pure balancing policy: Maglev rings and weights. No I/O, no clock, no randomness.

pub mod maglev;
