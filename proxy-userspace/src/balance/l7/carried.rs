//! What passive health knows of a service's backends, told to another process.

use super::Nanos;
use super::service::ServiceState;
use crate::health::outlier::Carried;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// What is known of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CarriedBackend {
    /// Its name.
    pub name: String,
    /// Where it is: what is known of one server says nothing of another.
    pub address: SocketAddr,
    /// What is known.
    pub known: Carried,
}

impl ServiceState {
    /// What is known of the backends.
    pub fn carried(&self, now: Nanos) -> Vec<CarriedBackend> {
        let members = self.members().lock();
        let pool = self.outliers().pool().lock();
        let known = members.iter().filter_map(|member| {
            let state = &member.state;
            Some(CarriedBackend {
                name: state.name().to_owned(),
                address: state.address(),
                known: pool.carried(state.slot(), Duration::from_nanos(now))?,
            })
        });
        known.collect()
    }

    /// Goes on with what another process knew, before anything is known here. Who is ejected stays
    /// ejected, which is no news to anybody.
    pub fn inherit(&self, carried: &[CarriedBackend], now: Nanos) {
        let members = self.members().lock();
        let mut is_somebody_out = false;
        for member in members.iter() {
            let state = &member.state;
            let is_it =
                |it: &&CarriedBackend| it.name == state.name() && it.address == state.address();
            let Some(CarriedBackend { known, .. }) = carried.iter().find(is_it) else {
                continue;
            };
            let mut pool = self.outliers().pool().lock();
            pool.inherit(state.slot(), known, Duration::from_nanos(now));
            is_somebody_out |= known.ejected.is_some() && state.set_ejected(true, now);
        }
        if is_somebody_out {
            self.outliers().raise();
            self.publish_members(&members, now);
        }
    }
}
