//! One order, from the names to the certificate (RFC 8555 §7.1).

use super::account::{self, OrderFault};
use super::challenges::{Challenges, Presented};
use super::issued::Issued;
use super::schedule::Window;
use crate::certificates::{AcmeStore, parse_issued};
use crate::config::model::acme::{Acme, Challenge, KeyKind};
use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error,
    Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, RsaKeySize};
use rustls::pki_types::CertificateDer;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;

/// For the whole order.
const LIMIT: Duration = Duration::from_secs(300);

/// How often the authority is asked whether it has looked, and for how long.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// What all orders of a directory share.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) acme: Arc<Acme>,
    pub(super) store: AcmeStore,
    pub(super) challenges: Arc<Challenges>,
    account: Mutex<Option<Known>>,
}

/// The account, once it was opened.
struct Known(Account);

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Known").field(&self.0.id()).finish()
    }
}

impl Desk {
    pub(super) fn new(acme: Arc<Acme>, challenges: Arc<Challenges>) -> Self {
        Self {
            store: AcmeStore::new(&acme.storage, &acme.directory),
            acme,
            challenges,
            account: Mutex::default(),
        }
    }

    /// The account; of several who need it at once, one opens it.
    async fn account(&self) -> Result<Account, OrderFault> {
        let mut known = self.account.lock().await;
        if let Some(Known(account)) = &*known {
            return Ok(account.clone());
        }
        let account = account::open(&self.acme, &self.store).await?;
        *known = Some(Known(account.clone()));
        Ok(account)
    }

    /// Forgets the account: the authority does not know it any more.
    async fn forget_account(&self) {
        *self.account.lock().await = None;
        // Whoever made the authority anew has no use for it either.
        let _ = std::fs::remove_file(self.store.account());
    }

    /// Has a certificate for these names issued; gives it with its key, as PEM. `replaces` is the
    /// certificate that it takes the place of.
    pub(super) async fn order(
        &self,
        names: &[String],
        replaces: Option<&CertificateDer<'static>>,
    ) -> Result<Vec<u8>, OrderFault> {
        let fulfilled = async {
            match self.attempt(names, replaces).await {
                Err(fault) if fault.is_account_lost() => {
                    self.forget_account().await;
                    self.attempt(names, replaces).await
                }
                result => result,
            }
        };
        let fulfilled = tokio::time::timeout(LIMIT, fulfilled).await;
        fulfilled.unwrap_or(Err(OrderFault::Timeout(LIMIT)))
    }

    async fn attempt(
        &self,
        names: &[String],
        replaces: Option<&CertificateDer<'static>>,
    ) -> Result<Vec<u8>, OrderFault> {
        let account = self.account().await?;
        let mut order = self.begin(&account, names, replaces).await?;
        let _presented = self.prove(&mut order).await?;
        let otherwise = match order.poll_ready(&POLL).await {
            Ok(OrderStatus::Ready) => None,
            Ok(_) => Some(Error::Str("why the order is invalid")),
            // The order says so in general, and the challenges in detail.
            Err(error @ Error::Api(_)) => Some(error),
            Err(error) => return Err(error.into()),
        };
        if let Some(otherwise) = otherwise {
            return Err(why_invalid(&mut order, otherwise).await);
        }
        let (names, kind) = (names.to_vec(), self.acme.key);
        // A long RSA key takes a while.
        let request = {
            let names = names.clone();
            tokio::task::spawn_blocking(move || request(&names, kind)).await
        };
        let (key, request) = request.map_err(|error| OrderFault::Request(error.to_string()))??;
        order.finalize_csr(&request).await?;
        let chain = order.poll_certificate(&POLL).await?;
        judge(&names, format!("{}{}", chain_text(&chain), key))
    }

    async fn begin(
        &self,
        account: &Account,
        names: &[String],
        replaces: Option<&CertificateDer<'static>>,
    ) -> Result<Order, OrderFault> {
        let identifiers: Vec<_> = names.iter().map(|name| identifier(name)).collect();
        let new = || {
            let mut new = NewOrder::new(&identifiers);
            if let Some(profile) = &self.acme.profile {
                new = new.profile(profile);
            }
            new
        };
        let replaced = replaces.and_then(|it| CertificateIdentifier::try_from(it).ok());
        if let Some(replaced) = replaced {
            // Not every authority knows of it, and some have forgotten the certificate.
            match account.new_order(&new().replaces(replaced)).await {
                Ok(order) => return Ok(order),
                Err(Error::Api(problem)) if problem.status == Some(429) => {
                    return Err(Error::Api(problem).into());
                }
                Err(_) => {}
            }
        }
        Ok(account.new_order(&new()).await?)
    }

    /// Answers the challenges of all names, for as long as the result lives.
    async fn prove(&self, order: &mut Order) -> Result<Vec<Presented>, OrderFault> {
        let mut presented = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let authorization = authorization?;
            if authorization.status != AuthorizationStatus::Valid {
                presented.push(self.present(authorization).await?);
            }
        }
        Ok(presented)
    }

    async fn present(
        &self,
        mut authorization: AuthorizationHandle<'_>,
    ) -> Result<Presented, OrderFault> {
        let name = authorization.identifier().to_string();
        let kind = match self.acme.challenge {
            Challenge::Http01 => ChallengeType::Http01,
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        };
        let Some(mut challenge) = authorization.challenge(kind) else {
            let kind = self.acme.challenge.name();
            return Err(OrderFault::NoChallenge { name, kind });
        };
        let answer = challenge.key_authorization();
        let presented = match self.acme.challenge {
            Challenge::Http01 => self
                .challenges
                .present_token(&challenge.token, answer.as_str()),
            Challenge::TlsAlpn01 => self
                .challenges
                .present_name(&name, answer.digest().as_ref(), SystemTime::now())
                .map_err(OrderFault::Request)?,
        };
        challenge.set_ready().await?;
        Ok(presented)
    }

    /// When the authority wants a certificate to be renewed (RFC 9773), and when to ask again.
    /// `None` if it does not say such things.
    pub(super) async fn window(
        &self,
        certificate: &CertificateDer<'static>,
        fingerprint: &str,
    ) -> Result<Option<(Window, Duration)>, OrderFault> {
        let Ok(id) = CertificateIdentifier::try_from(certificate) else {
            return Ok(None);
        };
        let account = self.account().await?;
        match account.renewal_info(&id).await {
            Ok((info, again)) => {
                let window = info.suggested_window;
                let window = Window {
                    fingerprint: fingerprint.to_owned(),
                    start: window.start.unix_timestamp(),
                    end: window.end.unix_timestamp(),
                };
                Ok(Some((window, again)))
            }
            Err(Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn identifier(name: &str) -> Identifier {
    match name.parse::<IpAddr>() {
        Ok(address) => Identifier::Ip(address),
        Err(_) => Identifier::Dns(name.to_owned()),
    }
}

/// What the authority says of the names that it does not believe in.
async fn why_invalid(order: &mut Order, otherwise: Error) -> OrderFault {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let Ok(mut authorization) = authorization else {
            break;
        };
        let name = authorization.identifier().to_string();
        let Ok(state) = authorization.refresh().await else {
            break;
        };
        let mut errors = state.challenges.iter().filter_map(|it| it.error.as_ref());
        if let Some(problem) = errors.next() {
            let text = problem.to_string();
            let reason = text.strip_prefix("API error: ").unwrap_or(&text).to_owned();
            return OrderFault::Challenge { name, reason };
        }
    }
    OrderFault::Authority(otherwise)
}

/// A new key, as PEM, and a request for a certificate with it, in DER.
fn request(names: &[String], kind: KeyKind) -> Result<(String, Vec<u8>), OrderFault> {
    let failed = |error: rcgen::Error| OrderFault::Request(error.to_string());
    let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
    let key = match kind {
        KeyKind::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyKind::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
        KeyKind::Rsa2048 => rsa(RsaKeySize::_2048),
        KeyKind::Rsa3072 => rsa(RsaKeySize::_3072),
        KeyKind::Rsa4096 => rsa(RsaKeySize::_4096),
    };
    let key = key.map_err(failed)?;
    let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(failed)?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}

fn chain_text(chain: &str) -> String {
    let end = if chain.ends_with('\n') { "" } else { "\n" };
    format!("{chain}{end}")
}

/// Takes what was issued only if it is what was asked for.
fn judge(names: &[String], text: String) -> Result<Vec<u8>, OrderFault> {
    let pair = parse_issued(text.as_bytes(), SystemTime::now()).map_err(OrderFault::Useless)?;
    if !Issued::of(&pair).is_for(names) {
        let text = format!("is for {}", pair.view.names.join(", "));
        return Err(OrderFault::Useless(text));
    }
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_key_makes_a_request_and_is_recognised() {
        let names = vec!["a.example".to_owned(), "192.0.2.1".to_owned()];
        for kind in [KeyKind::EcdsaP256, KeyKind::EcdsaP384, KeyKind::Rsa2048] {
            let (key, _) = request(&names, kind).expect("a request");
            let pair = KeyPair::from_pem(&key).expect("a key");
            let params = CertificateParams::new(names.clone()).expect("names");
            let certificate = params.self_signed(&pair).expect("a certificate");
            let text = format!("{}{key}", chain_text(&certificate.pem()));
            let octets = judge(&names, text.clone()).expect("fits");
            let pair = parse_issued(&octets, SystemTime::now()).expect("parses");
            assert_eq!(Issued::of(&pair).key, Some(kind));
            let other = vec!["a.example".to_owned()];
            let fault = judge(&other, text).expect_err("other names");
            assert!(fault.to_string().contains("192.0.2.1"), "{fault}");
        }
    }
}
