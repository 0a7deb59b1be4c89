//! Active health: a pure state machine per backend, and the probes that feed it.
