//! The life of the daemon: start, signals, reload, drain, stop.
