//! What an authority is answered that asks whether a name is ours.

use crate::certificates::alpn_challenge;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// The protocol of TLS-ALPN-01 (RFC 8737 §6.2).
pub const ALPN: &[u8] = b"acme-tls/1";

/// Where HTTP-01 is asked (RFC 8555 §8.3).
const PATH: &[u8] = b"/.well-known/acme-challenge/";

/// Answers to challenges that are under way, shared by all workers.
#[derive(Debug, Default)]
pub struct Challenges {
    /// How many there are, so that others need not take a lock.
    tokens: AtomicUsize,
    names: AtomicUsize,
    /// By token.
    http: Mutex<HashMap<String, Arc<str>>>,
    /// By the server's name.
    tls: Mutex<HashMap<String, Arc<ServerConfig>>>,
}

/// An answer that is given as long as this lives.
#[derive(Debug)]
pub(super) struct Presented {
    challenges: Arc<Challenges>,
    what: What,
}

#[derive(Debug)]
enum What {
    Token(String),
    Name(String),
}

impl Challenges {
    /// Answers requests for a token (HTTP-01).
    pub(super) fn present_token(self: &Arc<Self>, token: &str, answer: &str) -> Presented {
        let mut http = self.http.lock();
        http.insert(token.to_owned(), answer.into());
        self.tokens.store(http.len(), Ordering::Release);
        Presented {
            challenges: Arc::clone(self),
            what: What::Token(token.to_owned()),
        }
    }

    /// Answers handshakes for a name (TLS-ALPN-01).
    pub(super) fn present_name(
        self: &Arc<Self>,
        name: &str,
        digest: &[u8],
        now: SystemTime,
    ) -> Result<Presented, String> {
        let key = alpn_challenge(name, digest, now)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        let resolver = Arc::new(SingleCertAndKey::from(key));
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![ALPN.to_vec()];
        let mut tls = self.tls.lock();
        tls.insert(name.to_owned(), Arc::new(config));
        self.names.store(tls.len(), Ordering::Release);
        Ok(Presented {
            challenges: Arc::clone(self),
            what: What::Name(name.to_owned()),
        })
    }

    /// The answer to a request for this path, if it is for a challenge of ours. Others may have
    /// theirs there, too.
    #[inline]
    pub fn answer(&self, path: &[u8]) -> Option<Arc<str>> {
        if self.tokens.load(Ordering::Acquire) == 0 {
            return None;
        }
        let token = std::str::from_utf8(path.strip_prefix(PATH)?).ok()?;
        self.http.lock().get(token).cloned()
    }

    /// True if handshakes are to be looked at.
    #[inline]
    pub fn has_names(&self) -> bool {
        self.names.load(Ordering::Acquire) > 0
    }

    /// How to answer a client that asks for this name and speaks these protocols, if it is an
    /// authority that asks for a challenge of ours: it offers no other protocol (RFC 8737 §3).
    pub fn handshake<'p>(
        &self,
        name: Option<&str>,
        mut protocols: impl Iterator<Item = &'p [u8]>,
    ) -> Option<Arc<ServerConfig>> {
        if protocols.next() != Some(ALPN) || protocols.next().is_some() {
            return None;
        }
        let name = name?.to_ascii_lowercase();
        self.tls.lock().get(&name).cloned()
    }
}

impl Drop for Presented {
    fn drop(&mut self) {
        match &self.what {
            What::Token(token) => {
                let mut http = self.challenges.http.lock();
                http.remove(token);
                self.challenges.tokens.store(http.len(), Ordering::Release);
            }
            What::Name(name) => {
                let mut tls = self.challenges.tls.lock();
                tls.remove(name);
                self.challenges.names.store(tls.len(), Ordering::Release);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_answered_as_long_as_they_are_presented() {
        let challenges = Arc::new(Challenges::default());
        let path = b"/.well-known/acme-challenge/abc";
        assert_eq!(challenges.answer(path), None);
        let presented = challenges.present_token("abc", "abc.thumb");
        assert_eq!(challenges.answer(path).as_deref(), Some("abc.thumb"));
        assert_eq!(
            challenges.answer(b"/.well-known/acme-challenge/other"),
            None
        );
        assert_eq!(challenges.answer(b"/abc"), None);
        assert_eq!(challenges.answer(b"/.well-known/acme-challenge/\xff"), None);
        drop(presented);
        assert_eq!(challenges.answer(path), None);
    }

    #[test]
    fn handshakes_are_for_who_asks_for_the_protocol_alone() {
        let challenges = Arc::new(Challenges::default());
        let presented = challenges.present_name("a.example", &[7; 32], SystemTime::now());
        let presented = presented.expect("presented");
        assert!(challenges.has_names());
        let asked = |name, protocols: &[&'static [u8]]| {
            let protocols = protocols.iter().copied();
            challenges.handshake(name, protocols).is_some()
        };
        assert!(asked(Some("a.example"), &[ALPN]));
        assert!(asked(Some("A.EXAMPLE"), &[ALPN]));
        assert!(!asked(Some("a.example"), &[ALPN, b"h2"]));
        assert!(!asked(Some("a.example"), &[b"h2"]));
        assert!(!asked(Some("a.example"), &[]));
        assert!(!asked(Some("b.example"), &[ALPN]));
        assert!(!asked(None, &[ALPN]));
        drop(presented);
        assert!(!challenges.has_names() && !asked(Some("a.example"), &[ALPN]));
    }
}
