//! The account at the authority: made once, kept with its key.

use super::schedule::Failure;
use crate::certificates::{AcmeStore, FileFault, read_hmac_key, read_roots};
use crate::config::model::acme::Acme;
use crate::net::fetch::{FetchError, Fetcher};
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use instant_acme::{
    Account, AccountBuilder, AccountCredentials, BodyWrapper, BytesResponse, Error,
    ExternalAccountKey, HttpClient, NewAccount,
};
use rustls::RootCertStore;
use serde::{Deserialize, Serialize};
use std::io;
use std::pin::Pin;
use std::time::Duration;
use tracing::info;

/// How long an authority may take for one answer.
const LIMIT: Duration = Duration::from_secs(30);

/// The longest answer, in octets: a chain of certificates.
const MOST: usize = 1 << 20;

/// There is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderFault {
    /// The authority says so, or does not answer.
    #[error("{}", told(.0))]
    Authority(#[from] Error),
    /// A name could not be proved to be ours.
    #[error("the authority does not believe that `{name}` is ours: {reason}")]
    Challenge {
        /// The name.
        name: String,
        /// What the authority says.
        reason: String,
    },
    /// The authority has no challenge of the configured kind for a name.
    #[error("the authority offers no challenge `{kind}` for `{name}`")]
    NoChallenge {
        /// The name.
        name: String,
        /// The kind.
        kind: &'static str,
    },
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileFault),
    /// A file of the storage cannot be read or written.
    #[error("`{path}` cannot be read or written: {source}")]
    Storage {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// What was issued is not what was asked for.
    #[error("the authority has issued what cannot be used: it {0}")]
    Useless(String),
    /// A key or a request for a certificate could not be made.
    #[error("no request for a certificate can be made: {0}")]
    Request(String),
    /// It took too long.
    #[error("the order was not fulfilled within {0:?}")]
    Timeout(Duration),
}

/// What an authority says, with what it says of each name, or why it says nothing.
fn told(error: &Error) -> String {
    match error {
        Error::Api(problem) => {
            let text = problem.to_string();
            let text = text.strip_prefix("API error: ").unwrap_or(&text);
            format!("the authority refuses: {text}")
        }
        Error::Other(source) => match source.downcast_ref::<FetchError>() {
            Some(error) => format!("the authority cannot be asked: {error}"),
            None => source.to_string(),
        },
        error => error.to_string(),
    }
}

impl OrderFault {
    /// What it says about the next attempt.
    pub(super) fn kind(&self) -> Failure {
        match self {
            Self::Authority(Error::Other(source)) if source.is::<FetchError>() => {
                Failure::Unreached
            }
            _ if self.is_problem("rateLimited") => Failure::Limited,
            _ => Failure::Refused,
        }
    }

    /// True if the authority does not know the account.
    pub(super) fn is_account_lost(&self) -> bool {
        self.is_problem("accountDoesNotExist")
    }

    fn is_problem(&self, kind: &str) -> bool {
        let Self::Authority(Error::Api(problem)) = self else {
            return false;
        };
        let named = problem.r#type.as_deref().unwrap_or_default();
        named.strip_prefix("urn:ietf:params:acme:error:") == Some(kind)
    }
}

/// The account as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    contact: Vec<String>,
    credentials: AccountCredentials,
}

/// The account of these settings: the kept one, or a new one.
pub(super) async fn open(acme: &Acme, store: &AcmeStore) -> Result<Account, OrderFault> {
    let path = store.account();
    let failed = |source| OrderFault::Storage {
        path: path.display().to_string(),
        source,
    };
    let contact: Vec<&str> = acme.contact.iter().map(String::as_str).collect();
    let octets = AcmeStore::read(&path).map_err(failed)?;
    let kept = octets.map(|octets| serde_json::from_slice::<Kept>(&octets));
    if let Some(kept) = kept {
        let mut kept = kept.map_err(|error| failed(error.into()))?;
        let again = serde_json::to_vec(&kept.credentials).map_err(Error::from)?;
        let again = serde_json::from_slice(&again).map_err(Error::from)?;
        let account = builder(acme)?.from_credentials(again).await?;
        if kept.contact != acme.contact {
            account.update_contacts(&contact).await?;
            kept.contact.clone_from(&acme.contact);
            write(store, &kept).map_err(failed)?;
        }
        return Ok(account);
    }
    let external = acme.external_account.as_ref();
    let external = external.map(|it| read_hmac_key(&it.key).map(|key| (it, key)));
    let external = external.transpose()?;
    let external = external.map(|(it, key)| ExternalAccountKey::new(it.id.clone(), &key));
    let wanted = NewAccount {
        contact: &contact,
        // The configuration is refused if it does not say so.
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let directory = acme.directory.clone();
    let made = builder(acme)?.create(&wanted, directory, external.as_ref());
    let (account, credentials) = made.await?;
    let kept = Kept {
        contact: acme.contact.clone(),
        credentials,
    };
    write(store, &kept).map_err(failed)?;
    info!(id = account.id(), "account at the authority made");
    Ok(account)
}

fn write(store: &AcmeStore, kept: &Kept) -> io::Result<()> {
    store.write(&store.account(), &serde_json::to_vec_pretty(kept)?)
}

fn builder(acme: &Acme) -> Result<AccountBuilder, OrderFault> {
    let roots = match &acme.ca {
        Some(path) => read_roots(path)?,
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        }
    };
    let fetcher = Fetcher::trusting(roots, LIMIT, MOST);
    let fetcher = fetcher.map_err(|error| OrderFault::Request(error.to_string()))?;
    Ok(Account::builder_with_http(Box::new(Asking(fetcher))))
}

/// Asks for the library.
struct Asking(Fetcher);

impl HttpClient for Asking {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let fetcher = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let answer = fetcher.fetch(Request::from_parts(head, body)).await;
            let (parts, body) = answer
                .map_err(|it| Error::Other(Box::new(it)))?
                .into_parts();
            Ok(BytesResponse {
                parts,
                body: Box::new(body),
            })
        })
    }
}
