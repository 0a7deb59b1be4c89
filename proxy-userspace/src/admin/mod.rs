//! The admin API: unix socket for the command line, TCP for metrics and health.
