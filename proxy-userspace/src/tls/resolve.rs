//! Which certificate a client gets.

use crate::certificates::Pair;
use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};
use std::collections::HashMap;
use std::sync::Arc;

/// Why a client gets a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// It is for the name that the client asks for.
    Exact,
    /// It is for all names beside that one.
    Wildcard,
    /// It is the first: the client asks for no name, or for one that is unknown.
    First,
    /// It gets none: the name is unknown, and the listener is strict.
    Nobody,
}

/// Certificates by the names that they are for.
#[derive(Debug)]
pub(super) struct Resolver {
    pairs: Vec<Pair>,
    /// The same with what is stapled to them now.
    stapled: Vec<ArcSwap<CertifiedKey>>,
    exact: HashMap<String, Vec<usize>>,
    /// By what follows `*.`.
    wildcards: HashMap<String, Vec<usize>>,
    /// For clients that ask for no name that is known; empty: they are refused.
    default: Vec<usize>,
}

impl Resolver {
    /// Chooses among these, of which the first is for all other names unless `strict`.
    pub(super) fn new(pairs: Vec<Pair>, strict: bool) -> Self {
        let mut by_cost: Vec<usize> = (0..pairs.len()).collect();
        // Signing with ECDSA costs a tenth of signing with RSA.
        by_cost.sort_by_key(|&at| pairs[at].key.key.algorithm() == SignatureAlgorithm::RSA);
        let (mut exact, mut wildcards) = (HashMap::new(), HashMap::new());
        for &at in &by_cost {
            for name in &pairs[at].view.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut wildcards, parent),
                    None => (&mut exact, name.as_str()),
                };
                let list: &mut Vec<usize> = map.entry(name.to_owned()).or_default();
                list.push(at);
            }
        }
        let is_like_first = |&at: &usize| pairs[at].view.names == pairs[0].view.names;
        let default = match strict {
            true => Vec::new(),
            false => by_cost.into_iter().filter(is_like_first).collect(),
        };
        let keys = pairs.iter().map(|pair| Arc::clone(&pair.key));
        Self {
            stapled: keys.map(ArcSwap::new).collect(),
            pairs,
            exact,
            wildcards,
            default,
        }
    }

    /// Certificates for a name, the preferred one first, and why these.
    pub(super) fn judged(&self, name: Option<&str>) -> (Because, &[usize]) {
        let exact = name.and_then(|name| self.exact.get(name));
        if let Some(found) = exact {
            return (Because::Exact, found);
        }
        let parent = name.and_then(|name| Some(name.split_once('.')?.1));
        if let Some(found) = parent.and_then(|parent| self.wildcards.get(parent)) {
            return (Because::Wildcard, found);
        }
        match self.default.is_empty() {
            true => (Because::Nobody, &[]),
            false => (Because::First, &self.default),
        }
    }

    fn candidates(&self, name: Option<&str>) -> &[usize] {
        self.judged(name).1
    }

    /// The best certificate for a name that can sign in one of these ways.
    pub(super) fn choose(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let candidates = self.candidates(name);
        let fits = |at: &&usize| self.pairs[**at].key.key.choose_scheme(schemes).is_some();
        let &chosen = candidates.iter().find(fits).or(candidates.first())?;
        let is_shown = !self.pairs[chosen].is_withheld;
        is_shown.then(|| self.stapled[chosen].load_full())
    }

    /// Staples an OCSP response to a certificate, or none.
    pub(super) fn staple(&self, fingerprint: &str, response: Option<&[u8]>) {
        for (pair, stapled) in self.pairs.iter().zip(&self.stapled) {
            if pair.view.fingerprint == fingerprint {
                let mut key = (*pair.key).clone();
                key.ocsp = response.map(<[u8]>::to_vec);
                stapled.store(Arc::new(key));
            }
        }
    }

    /// Staples what another one has stapled to the same certificates.
    pub(super) fn staple_as(&self, other: &Self) {
        for (pair, stapled) in other.pairs.iter().zip(&other.stapled) {
            if let Some(response) = &stapled.load().ocsp
                && pair.key.ocsp.is_none()
            {
                self.staple(&pair.view.fingerprint, Some(response));
            }
        }
    }

    /// True if what a client gets for `name` is for `host`, too.
    pub(super) fn covers(&self, name: Option<&str>, host: &str) -> bool {
        let mut candidates = self.candidates(name).iter();
        candidates.any(|&at| self.pairs[at].view.covers(host))
    }

    pub(super) fn pairs(&self) -> &[Pair] {
        &self.pairs
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.choose(name.as_deref(), hello.signature_schemes())
    }
}
