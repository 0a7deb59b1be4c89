//! HTTP/2 ends for the tests: a client and an origin over the `h2` crate, and frames made by hand
//! for what no honest library sends.

use crate::support::{Client, PATIENCE};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use proxy_tests::family;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

/// A response with its content.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Whole {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.to_str().ok()
    }
}

/// Waits, and fails if that takes too long.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

/// A connection to `address`, driven by a task.
pub(crate) async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    connect_with(address, &h2::client::Builder::new()).await
}

pub(crate) async fn connect_with(
    address: SocketAddr,
    builder: &h2::client::Builder,
) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.expect("connects");
    let (send, connection) = builder.handshake(stream).await.expect("greets");
    tokio::spawn(async move {
        // How it ends is what the streams say.
        let _ = connection.await;
    });
    send.ready().await.expect("ready")
}

pub(crate) fn get(path: &str) -> Request<()> {
    let uri = format!("http://a.test{path}");
    Request::get(uri).body(()).expect("a request")
}

pub(crate) fn post(path: &str) -> Request<()> {
    let uri = format!("http://a.test{path}");
    Request::post(uri).body(()).expect("a request")
}

/// Begins a request and leaves its content open.
pub(crate) async fn begin(
    send: &SendRequest<Bytes>,
    request: Request<()>,
) -> (ResponseFuture, SendStream<Bytes>) {
    let mut send = soon(send.clone().ready()).await.expect("ready");
    send.send_request(request, false).expect("sent")
}

/// Asks without content.
pub(crate) async fn ask(
    send: &SendRequest<Bytes>,
    request: Request<()>,
) -> Result<Whole, h2::Error> {
    let mut send = soon(send.clone().ready()).await?;
    let (response, _) = send.send_request(request, true)?;
    whole(response).await
}

/// All of a response.
pub(crate) async fn whole(response: ResponseFuture) -> Result<Whole, h2::Error> {
    let (head, mut body) = soon(response).await?.into_parts();
    let octets = content(&mut body).await?;
    Ok(Whole {
        status: head.status,
        fields: head.headers,
        body: octets,
        trailers: soon(body.trailers()).await?,
    })
}

/// All content of a stream.
pub(crate) async fn content(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut octets = Vec::new();
    while let Some(data) = soon(body.data()).await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        octets.extend_from_slice(&data);
    }
    Ok(octets)
}

/// Sends content as the window allows, and its end if `is_last`.
pub(crate) async fn send_all(
    stream: &mut SendStream<Bytes>,
    octets: &[u8],
    is_last: bool,
) -> Result<(), h2::Error> {
    let mut left = octets;
    while !left.is_empty() {
        stream.reserve_capacity(left.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx));
        let Some(room) = soon(room).await else {
            return Ok(());
        };
        let (some, rest) = left.split_at(room?.min(left.len()));
        left = rest;
        stream.send_data(Bytes::copy_from_slice(some), is_last && left.is_empty())?;
    }
    if octets.is_empty() && is_last {
        stream.send_data(Bytes::new(), true)?;
    }
    Ok(())
}

/// A server that speaks HTTP/2 only.
pub(crate) struct H2Origin {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl H2Origin {
    /// Serves each request by `serve`, which is told the connection's number.
    pub(crate) fn new<F, R>(serve: F) -> Self
    where
        F: Fn(Request<RecvStream>, SendResponse<Bytes>, usize) -> R + Send + 'static,
        R: Future<Output = ()> + 'static,
    {
        let mut builder = h2::server::Builder::new();
        builder.enable_connect_protocol();
        Self::with(builder, serve)
    }

    pub(crate) fn with<F, R>(builder: h2::server::Builder, serve: F) -> Self
    where
        F: Fn(Request<RecvStream>, SendResponse<Bytes>, usize) -> R + Send + 'static,
        R: Future<Output = ()> + 'static,
    {
        let listener = std::net::TcpListener::bind(family::any()).expect("binds");
        listener.set_nonblocking(true).expect("nonblocking");
        let address = listener.local_addr().expect("bound");
        let origin = Self {
            address,
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let (connections, requests) = (
            Arc::clone(&origin.connections),
            Arc::clone(&origin.requests),
        );
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let serving = async move {
                let listener = TcpListener::from_std(listener).expect("a listener");
                let (builder, serve) = (Rc::new(builder), Rc::new(serve));
                while let Ok((stream, _)) = listener.accept().await {
                    let number = connections.fetch_add(1, Ordering::SeqCst);
                    let (builder, serve) = (Rc::clone(&builder), Rc::clone(&serve));
                    let requests = Arc::clone(&requests);
                    spawn_local(async move {
                        let Ok(mut connection) = builder.handshake(stream).await else {
                            return;
                        };
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            requests.fetch_add(1, Ordering::SeqCst);
                            spawn_local(serve(request, respond, number));
                        }
                    });
                }
            };
            LocalSet::new().block_on(&runtime.expect("a runtime"), serving);
        });
        origin
    }

    /// Answers with what it was asked: a line for the target, one for each field, then an empty
    /// one and the content; trailers go back as they came.
    pub(crate) fn mirror() -> Self {
        Self::new(|request, mut respond, _| async move {
            let (head, mut body) = request.into_parts();
            let mut text = format!("{} {}\n", head.method, head.uri);
            for (name, value) in &head.headers {
                text += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
            }
            text.push('\n');
            let mut all = text.into_bytes();
            let Ok(octets) = content(&mut body).await else {
                return;
            };
            all.extend(octets);
            let trailers = body.trailers().await.ok().flatten();
            let response = Response::new(());
            let Ok(mut stream) = respond.send_response(response, false) else {
                return;
            };
            let _ = send_all(&mut stream, &all, trailers.is_none()).await;
            if let Some(trailers) = trailers {
                let _ = stream.send_trailers(trailers);
            }
        })
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Answers with this content.
pub(crate) async fn reply(respond: &mut SendResponse<Bytes>, octets: &[u8]) {
    if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
        let _ = send_all(&mut stream, octets, true).await;
    }
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut octets = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    octets.extend([kind, flags]);
    octets.extend(stream.to_be_bytes());
    octets.extend(payload);
    octets
}

/// Fields as HPACK has them without its table and without Huffman's code.
pub(crate) fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    fn string(octets: &[u8], out: &mut Vec<u8>) {
        if octets.len() < 127 {
            out.push(octets.len() as u8);
        } else {
            out.push(127);
            let mut left = octets.len() - 127;
            while left >= 128 {
                out.push(left as u8 | 128);
                left >>= 7;
            }
            out.push(left as u8);
        }
        out.extend(octets);
    }
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        string(name, &mut out);
        string(value, &mut out);
    }
    out
}

/// A frame that came.
#[derive(Debug)]
pub(crate) struct Came {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Came {
    /// The error of a RST_STREAM or GOAWAY.
    pub(crate) fn error(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        let word = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(word.try_into().expect("four octets")))
    }
}

impl Client {
    /// Begins HTTP/2: the preface and empty SETTINGS.
    pub(crate) fn greet(&mut self) {
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        self.send(frame(SETTINGS, 0, 0, &[]));
    }

    /// The next frame; `None` at the end.
    pub(crate) fn frame(&mut self) -> Option<Came> {
        let head = self.exactly(9);
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = head[..].try_into().ok()?;
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        let payload = self.exactly(length);
        (payload.len() == length).then(|| Came {
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            payload,
        })
    }

    /// Frames up to one that is as asked for; `None` if the connection ends before.
    pub(crate) fn frame_where(&mut self, is_it: impl Fn(&Came) -> bool) -> Option<Came> {
        loop {
            let frame = self.frame()?;
            if is_it(&frame) {
                return Some(frame);
            }
        }
    }

    /// The error of the GOAWAY with which the connection ends; `None` if it just ends.
    pub(crate) fn go_away(&mut self) -> Option<u32> {
        self.frame_where(|frame| frame.kind == GOAWAY)?.error()
    }
}
