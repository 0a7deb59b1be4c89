//! Metrics and the access to what the data plane did.
