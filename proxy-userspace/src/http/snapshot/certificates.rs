//! What a snapshot tells those who look after certificates.

use super::Snapshot;
use crate::acme::{Challenges, Wanted};
use crate::config::model::acme::Acme;
use crate::config::model::tls::CertificateSource;
use crate::tls::ServerSide;
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
        let tls = self
            .listeners()
            .filter_map(|(_, plan)| plan.settings.tls.as_ref());
        for source in tls.flat_map(|tls| &tls.certificates) {
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
        let plans = self.listeners().filter_map(|(_, plan)| plan.tls.as_ref());
        plans.map(|plan| Arc::clone(&plan.side)).collect()
    }
}
