//! The command line's side of the admin API: one request per connection over the unix socket.

use crate::admin::api::{PREFIX, Refusal, RefusalKind};
use bytes::Bytes;
use http::{HeaderName, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// Octets of an answer that is read whole, at most.
const MAX_ANSWER: usize = 256 << 20;

/// Talks to the daemon behind one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// The daemon did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error("cannot reach the daemon at {}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The daemon refused.
    #[error("{0}")]
    Refused(Refusal),
    /// The connection broke, or the answer makes no sense: another version of the daemon?
    #[error("the daemon's answer cannot be understood")]
    Protocol(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Client {
    /// A client for this socket. Nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for something.
    ///
    /// # Errors
    ///
    /// [`ClientError`] says whether the daemon was reached, refused, or was not understood.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.send(Method::GET, path, Bytes::new()).await?;
        parse(&read(answer).await?)
    }

    /// Asks for text.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub async fn text(&self, path: &str) -> Result<String, ClientError> {
        let answer = read(self.send(Method::GET, path, Bytes::new()).await?).await?;
        String::from_utf8(answer.to_vec()).map_err(protocol)
    }

    /// Changes something, and reads what came of it.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        parse(&read(self.stream_post(path, body).await?).await?)
    }

    /// Changes something that is answered without a body.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub async fn command(&self, path: &str, body: &impl Serialize) -> Result<(), ClientError> {
        read(self.stream_post(path, body).await?).await.map(|_| ())
    }

    /// Asks for an answer that is read as it comes.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub async fn stream(&self, path: &str) -> Result<Chunks, ClientError> {
        self.send(Method::GET, path, Bytes::new())
            .await
            .map(Chunks::new)
    }

    /// Posts, and reads the answer as it comes.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub async fn post_stream(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Chunks, ClientError> {
        self.stream_post(path, body).await.map(Chunks::new)
    }

    /// Puts a configuration in force that is `based` on the one with this entity tag, or on any (`*`).
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub async fn put_document<T: DeserializeOwned>(
        &self,
        path: &str,
        yaml: String,
        based: &str,
    ) -> Result<T, ClientError> {
        let fields = [
            (header::CONTENT_TYPE, "application/yaml"),
            (header::IF_MATCH, based),
        ];
        let answer = self.request(Method::PUT, path, &fields, yaml.into());
        parse(&read(answer.await?).await?)
    }

    async fn stream_post(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Response<Incoming>, ClientError> {
        let body = serde_json::to_vec(body).map_err(protocol)?;
        self.send(Method::POST, path, body.into()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let fields = [(header::CONTENT_TYPE, "application/json")];
        self.request(method, path, &fields, body).await
    }

    /// Sends a request to `path`, which is below the API's prefix unless it starts with a slash.
    async fn request(
        &self,
        method: Method,
        path: &str,
        fields: &[(HeaderName, &str)],
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let unreachable = |source| ClientError::Unreachable {
            socket: self.socket.clone(),
            source,
        };
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(protocol)?;
        // Ends when the answer has been read or dropped.
        tokio::spawn(connection);
        let below_prefix = || format!("{PREFIX}/{path}");
        let uri = if path.starts_with('/') {
            path.to_owned()
        } else {
            below_prefix()
        };
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::HOST, "sluice");
        for (name, value) in fields {
            request = request.header(name, *value);
        }
        let request = request.body(Full::new(body)).map_err(protocol)?;
        let answer = sender.send_request(request).await.map_err(protocol)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = read(answer).await?;
        let refusal = serde_json::from_slice(&body).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&body);
            Refusal::new(RefusalKind::Internal, format!("{status}: {}", text.trim()))
        });
        Err(ClientError::Refused(refusal))
    }
}

/// An answer that is read piece by piece.
#[derive(Debug)]
pub struct Chunks {
    body: Incoming,
}

impl Chunks {
    fn new(answer: Response<Incoming>) -> Self {
        Self {
            body: answer.into_body(),
        }
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`ClientError::Protocol`] if the connection breaks.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(protocol)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

async fn read(answer: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(answer.into_body(), MAX_ANSWER);
    Ok(body
        .collect()
        .await
        .map_err(ClientError::Protocol)?
        .to_bytes())
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(protocol)
}

fn protocol(error: impl std::error::Error + Send + Sync + 'static) -> ClientError {
    ClientError::Protocol(Box::new(error))
}
