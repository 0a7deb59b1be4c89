//! Packets through the kernel programs, one at a time: the exact frame that must come out, the
//! verdict, and the one reason that must be counted. Needs root and the built kernel object.

mod common;

mod cpus;
mod decap;
mod dsr;
mod floods;
mod flows;
mod fragments;
mod full_nat;
mod guard;
mod headers;
mod icmp;
mod link;
mod local;
mod mutation;
mod nat;
mod probes;
mod reasons;
mod selection;
mod services;
mod settled;
mod slots;
mod too_big;
mod trace;
mod truncation;
