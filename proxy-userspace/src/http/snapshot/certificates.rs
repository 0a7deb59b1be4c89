//! What a snapshot tells those who look after certificates.

use super::Snapshot;
use crate::acme::{Challenges, Wanted};
use crate::config::model::acme::Acme;
use crate::config::model::tls::CertificateSource;
use crate::http::secure::TlsPlan;
use crate::tls::ServerSide;
use std::net::SocketAddr;
use std::sync::Arc;

impl Snapshot {
    /// What authorities are answered that ask whether names are ours.
    #[inline]
    pub fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    /// How certificates are issued by ACME, and which.
    pub fn acme(&self) -> (Option<Arc<Acme>>, Vec<Wanted>) {
        let mut wanted: Vec<Wanted> = Vec::new();
        let http = self.listeners().map(|(_, plan)| &plan.settings.tls);
        let tls = http.chain(self.streams().map(|(_, plan)| &plan.settings.tls));
        for source in tls.flatten().flat_map(|tls| &tls.certificates) {
            if let CertificateSource::Acme(one) = source
                && wanted.iter().all(|other| other.file != one.file)
            {
                wanted.push(Wanted {
                    names: one.names.clone(),
                    file: one.file.clone(),
                });
            }
        }
        (self.acme.clone(), wanted)
    }

    /// Where certificates are shown.
    pub fn tls_sides(&self) -> Vec<Arc<ServerSide>> {
        let plans = self.tls_plans();
        plans.map(|(.., plan)| Arc::clone(&plan.side)).collect()
    }

    /// Listeners at which TLS ends: name, address as configured, and what each handshake needs.
    pub fn tls_plans(&self) -> impl Iterator<Item = (&str, SocketAddr, &TlsPlan)> {
        let http = self.listeners().map(|(_, plan)| {
            let settings = &plan.settings;
            (settings.name.as_str(), settings.address, plan.tls.as_ref())
        });
        let streams = self.streams().map(|(_, plan)| {
            let settings = &plan.settings;
            (settings.name.as_str(), settings.address, plan.tls.as_ref())
        });
        let all = http.chain(streams);
        all.filter_map(|(name, address, tls)| Some((name, address, tls?)))
    }
}
