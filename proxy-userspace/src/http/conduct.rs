//! Whether clients behave, as connections tell it: offences, connections that ended well, and who
//! may not connect any more. What follows is decided in [`crate::condemn`].

use super::census::Live;
use super::worker::Worker;
use crate::condemn::{Offence, source_of};
use crate::message::{Refusal, RequestHead};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;

impl Worker {
    /// The client of a connection has offended. This is the one call for whoever refuses clients for
    /// what they do: it costs nothing where nobody is condemned.
    pub fn offended(&self, live: &Live, offence: Offence) {
        let snapshot = self.snapshot();
        let Some(plan) = snapshot.condemn() else {
            return;
        };
        live.note_offence();
        let now = self.clock.last();
        snapshot.watch().offended(plan, live.client(), offence, now);
    }

    /// A message of the client was refused, which may be an offence.
    pub fn refused(&self, live: &Live, refusal: Refusal) {
        if let Some(offence) = Offence::of(refusal) {
            self.offended(live, offence);
        }
    }

    /// A request of the client was answered in a way that may be held against it.
    pub(super) fn answered(&self, live: &Live, request: &RequestHead, status: u16) {
        if let Some(offence) = Offence::of_answer(request, status) {
            self.offended(live, offence);
        }
    }

    /// A connection has ended.
    pub(super) fn parted(&self, live: &Live) {
        if !live.has_behaved() {
            return;
        }
        let snapshot = self.snapshot();
        if let Some(plan) = snapshot.condemn() {
            let (address, _) = live.client();
            snapshot.watch().behaved(plan, address, self.clock.last());
        }
    }

    /// True if a connection from this address is to be closed as soon as it is accepted.
    pub fn turns_away(&self, address: IpAddr) -> bool {
        let snapshot = self.snapshot();
        snapshot.watch().refuses(address, || self.clock.read())
    }

    /// How many connections of each source are open that have behaved well so far.
    pub fn behaving(&self, sources: &[IpNet]) -> Vec<u32> {
        let mut counts = vec![0; sources.len()];
        let snapshot = self.snapshot();
        let Some(plan) = snapshot.condemn() else {
            return counts;
        };
        let places: HashMap<&IpNet, usize> = sources.iter().zip(0..).collect();
        self.census().each(|live| {
            let (address, _) = live.client();
            let source = source_of(address, plan.settings.ipv6_prefix);
            if let Some(&place) = places.get(&source)
                && live.has_behaved()
            {
                counts[place] += 1;
            }
        });
        counts
    }
}
