//! A small HTTP client for what this process asks by itself: authorities and responders.
//!
//! One request over a connection of its own, HTTP/1.1, with a time limit for all of it and a bound
//! for the answer. It follows no redirects. Requests of clients never come here.

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The largest head of an answer, in octets.
const MAX_HEAD: usize = 64 << 10;

/// What servers are told of who asks (RFC 8555 §6.1 wants it).
const NAME: &str = concat!("sluice/", env!("CARGO_PKG_VERSION"));

/// There is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL is none that can be asked.
    #[error("`{0}` cannot be asked: it is no URL of `http` or `https`")]
    Url(String),
    /// The server's name has no address.
    #[error("`{host}` has no address")]
    Name {
        /// The name.
        host: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("cannot connect to `{host}`: {source}")]
    Connect {
        /// The name.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// TLS cannot be agreed on; as a rule the server's certificate is not believed.
    #[error("no TLS with `{host}`: {source}")]
    Tls {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// HTTP is not spoken as it should be.
    #[error("`{host}` does not answer properly: {source}")]
    Http {
        /// The name.
        host: String,
        /// Why.
        source: hyper::Error,
    },
    /// The answer's content is too long, or was cut off.
    #[error("the answer of `{host}` is too long, or cut off")]
    Content {
        /// The name.
        host: String,
    },
    /// It took too long.
    #[error("`{host}` did not answer within {limit:?}")]
    Timeout {
        /// The name.
        host: String,
        /// How long was waited.
        limit: Duration,
    },
}

/// Asks servers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetcher {
    tls: Option<Arc<ClientConfig>>,
    /// For one request, from its name to the end of its answer.
    limit: Duration,
    /// The longest content of an answer, in octets.
    most: usize,
}

impl Fetcher {
    /// Asks by `http` only.
    pub fn plain(limit: Duration, most: usize) -> Self {
        Self {
            tls: None,
            limit,
            most,
        }
    }

    /// Asks by `https`, too, of servers that these authorities vouch for.
    ///
    /// # Errors
    ///
    /// What rustls says.
    pub fn trusting(
        roots: RootCertStore,
        limit: Duration,
        most: usize,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: Some(Arc::new(config)),
            ..Self::plain(limit, most)
        })
    }

    /// Asks, and gives the whole answer, whatever its status.
    ///
    /// # Errors
    ///
    /// [`FetchError`].
    pub async fn fetch(&self, request: Request<Bytes>) -> Result<Response<Bytes>, FetchError> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let limit = self.limit;
        let answer = timeout(limit, self.ask(request, &host)).await;
        answer.unwrap_or(Err(FetchError::Timeout { host, limit }))
    }

    async fn ask(
        &self,
        request: Request<Bytes>,
        host: &str,
    ) -> Result<Response<Bytes>, FetchError> {
        let url = request.uri().clone();
        let no_url = || FetchError::Url(url.to_string());
        let is_sealed = match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(no_url()),
        };
        let authority = url.authority().ok_or_else(no_url)?;
        let port = authority
            .port_u16()
            .unwrap_or(if is_sealed { 443 } else { 80 });
        let request = in_origin_form(request, authority.as_str()).ok_or_else(no_url)?;
        let socket = connect(host, port).await?;
        if !is_sealed {
            return self.exchange(socket, request, host).await;
        }
        let config = self.tls.as_ref().ok_or_else(no_url)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| no_url())?;
        let sealed = TlsConnector::from(Arc::clone(config)).connect(name, socket);
        let sealed = sealed.await.map_err(|source| FetchError::Tls {
            host: host.to_owned(),
            source,
        })?;
        self.exchange(sealed, request, host).await
    }

    async fn exchange<S>(
        &self,
        socket: S,
        request: Request<Full<Bytes>>,
        host: &str,
    ) -> Result<Response<Bytes>, FetchError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let failed = |source| FetchError::Http {
            host: host.to_owned(),
            source,
        };
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD);
        let begun = builder.handshake(TokioIo::new(socket)).await;
        let (mut sender, connection) = begun.map_err(failed)?;
        // It ends with the sender, which this future drops.
        let driver = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(failed)?;
        let (head, body) = answer.into_parts();
        let content = Limited::new(body, self.most).collect().await;
        driver.abort();
        let content = content.map_err(|_| FetchError::Content {
            host: host.to_owned(),
        })?;
        Ok(Response::from_parts(head, content.to_bytes()))
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, FetchError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found = tokio::net::lookup_host((bare, port)).await;
    let found = found.map_err(|source| FetchError::Name {
        host: host.to_owned(),
        source,
    })?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in found {
        match TcpStream::connect(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(FetchError::Connect {
        host: host.to_owned(),
        source: last,
    })
}

/// The request as a server gets it that is asked directly.
fn in_origin_form(request: Request<Bytes>, authority: &str) -> Option<Request<Full<Bytes>>> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query();
    let path = path.map_or("/", |it| it.as_str());
    head.uri = path.parse::<Uri>().ok()?;
    let host = HeaderValue::from_str(authority).ok()?;
    head.headers.insert(HOST, host);
    head.headers
        .insert(USER_AGENT, HeaderValue::from_static(NAME));
    head.headers
        .insert(CONNECTION, HeaderValue::from_static("close"));
    Some(Request::from_parts(head, Full::new(body)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// A server that answers one request so; gives what it was asked.
    async fn server(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port();
        let asked = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a client");
            let mut read = vec![0; 4096];
            let length = socket.read(&mut read).await.expect("a request");
            socket.write_all(answer.as_bytes()).await.expect("answered");
            String::from_utf8_lossy(&read[..length]).into_owned()
        });
        (port, asked)
    }

    fn fetcher() -> Fetcher {
        Fetcher::plain(Duration::from_secs(10), 16)
    }

    fn get(url: String) -> Request<Bytes> {
        Request::get(url).body(Bytes::new()).expect("a request")
    }

    #[tokio::test]
    async fn a_server_is_asked_in_origin_form_and_says_what_it_says() {
        let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone";
        let (port, asked) = server(answer).await;
        let answer = fetcher()
            .fetch(get(format!("http://127.0.0.1:{port}/a?b")))
            .await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 404);
        assert_eq!(&answer.body()[..], b"none");
        let asked = asked.await.expect("asked");
        assert!(asked.starts_with("GET /a?b HTTP/1.1\r\n"), "{asked}");
        assert!(
            asked.contains(&format!("host: 127.0.0.1:{port}\r\n")),
            "{asked}"
        );
        assert!(asked.contains("user-agent: sluice/"), "{asked}");
    }

    #[tokio::test]
    async fn long_and_broken_answers_are_none() {
        let long = "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n01234567890123456";
        let (port, _asked) = server(long).await;
        let answer = fetcher()
            .fetch(get(format!("http://127.0.0.1:{port}/")))
            .await;
        assert!(
            matches!(answer, Err(FetchError::Content { .. })),
            "{answer:?}"
        );
        let (port, _asked) = server("nonsense\r\n\r\n").await;
        let answer = fetcher()
            .fetch(get(format!("http://127.0.0.1:{port}/")))
            .await;
        assert!(matches!(answer, Err(FetchError::Http { .. })), "{answer:?}");
    }

    #[tokio::test]
    async fn what_cannot_be_asked_says_why() {
        let nobody = {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
            listener.local_addr().expect("bound").port()
        };
        let answer = fetcher()
            .fetch(get(format!("http://127.0.0.1:{nobody}/")))
            .await;
        assert!(
            matches!(answer, Err(FetchError::Connect { .. })),
            "{answer:?}"
        );
        // Without authorities nobody can be believed.
        let answer = fetcher().fetch(get("https://127.0.0.1/".to_owned())).await;
        assert!(
            matches!(answer, Err(FetchError::Url(_) | FetchError::Connect { .. })),
            "{answer:?}"
        );
        let answer = fetcher().fetch(get("ftp://127.0.0.1/".to_owned())).await;
        assert!(matches!(answer, Err(FetchError::Url(_))), "{answer:?}");
    }
}
