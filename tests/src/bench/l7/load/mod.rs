//! The load: many connections on one thread, each with one request after another, or several at a
//! time with HTTP/2.
//!
//! It is a generator of our own because none that Debian has can do all scenarios in the same
//! way, and only some have an open loop. In the **closed loop** each connection sends its next
//! request when the last is answered: it shows how much a proxy can do. In the **open loop**
//! requests are due at even distances whatever the proxy does, by a timer of the kernel, and
//! latency counts from the moment when a request was due, not from when it could at last be sent;
//! so a proxy that stalls is charged for all that had to wait (wrk2 does the same).
//!
//! A run is bounded in time and in requests. Any answer that is not the expected one fails it.

mod h1;
mod h2;
mod idle;
mod pace;
mod websocket;

pub use self::h2::Request as H2Request;

use self::pace::Pace;
use super::histogram::Histogram;
use super::tls::{Clients, Dialler, Wire};
use anyhow::{Context, Result, anyhow};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::{JoinSet, LocalSet};

/// Most requests of one run.
const MOST_REQUESTS: u64 = 20_000_000;
/// How long requests that were due before the end of an open loop may still be sent after it.
const GRACE: Duration = Duration::from_millis(100);

/// What connections do.
#[derive(Clone, Debug)]
pub enum Traffic {
    /// These requests in turn, each answered with 200 and a body of this length.
    H1 {
        /// Whole requests.
        requests: Rc<Vec<Vec<u8>>>,
        /// Octets of each answer's body.
        length: usize,
    },
    /// The same, on a new connection each.
    H1NewConnections {
        /// A whole request, with `Connection: close`.
        request: Rc<Vec<u8>>,
        /// Octets of the answer's body.
        length: usize,
    },
    /// The same request on this many streams of each connection.
    H2 {
        /// What is sent.
        request: Rc<H2Request>,
        /// Streams at a time.
        streams: usize,
    },
    /// Messages that are echoed.
    WebSocket,
}

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// As fast as answers come.
    Closed,
    /// This many requests per second.
    Open(f64),
}

/// A run.
#[derive(Clone, Debug)]
pub struct Load {
    /// To whom.
    pub to: SocketAddr,
    /// How, if encrypted.
    pub tls: Option<Clients>,
    /// What.
    pub traffic: Traffic,
    /// Connections at a time.
    pub connections: usize,
    /// How fast.
    pub rate: Rate,
    /// For how long.
    pub time: Duration,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Requests answered.
    pub requests: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Half of all waited no longer, microseconds.
    pub p50_us: f64,
    /// 99 % waited no longer, microseconds.
    pub p99_us: f64,
}

/// Whom the connections of a run go to.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    dialler: Option<Dialler>,
    /// Connections that were opened.
    opened: Cell<usize>,
    /// Of those, how many can resume no session, because there is none yet.
    fresh: usize,
}

impl Target {
    /// A new connection.
    async fn connect(&self) -> Result<Wire> {
        let stream = TcpStream::connect(self.address).await;
        let stream = stream.context("connecting")?;
        stream.set_nodelay(true)?;
        let Some(dialler) = &self.dialler else {
            return Ok(Wire::Plain(stream));
        };
        let before = self.opened.replace(self.opened.get() + 1);
        dialler.secure(stream, before < self.fresh).await
    }
}

/// What the tasks of a run share.
struct Shared {
    pace: Pace,
    /// All connections are open and have had one answer.
    ready: Barrier,
    done: Cell<u64>,
    latencies: RefCell<Histogram>,
}

impl Shared {
    /// Counts an answer to what was due then.
    fn answered(&self, due: Instant) {
        self.done.set(self.done.get() + 1);
        self.latencies.borrow_mut().record(due.elapsed());
    }
}

impl Load {
    /// Runs it on this thread. `mark` is called when the first request is about to be sent, and
    /// when the last is answered: to read clocks.
    ///
    /// # Errors
    ///
    /// A connection or an answer fails.
    pub fn run(&self, mut mark: impl FnMut() -> Result<()>) -> Result<Outcome> {
        let target = Rc::new(self.target()?);
        let (shared, start) = block_on(async {
            let shared = Rc::new(Shared {
                pace: Pace::new(self.rate, MOST_REQUESTS),
                ready: Barrier::new(self.connections + 1),
                done: Cell::new(0),
                latencies: RefCell::default(),
            });
            let mut tasks = JoinSet::new();
            for index in 0..self.connections {
                let target = Rc::clone(&target);
                tasks.spawn_local(connection(self.clone(), target, Rc::clone(&shared), index));
            }
            let mut all = Box::pin(first_failure(tasks));
            tokio::select! {
                _ = shared.ready.wait() => {}
                failed = &mut all => return failed.and(Err(anyhow!("ended before the start"))),
            }
            mark()?;
            let start = Instant::now();
            let pacing = shared.pace.drive(self.time);
            let (_, finished) = tokio::join!(pacing, all);
            finished?;
            mark()?;
            Ok((shared, start))
        })?;
        let latencies = shared.latencies.borrow();
        Ok(Outcome {
            requests: shared.done.get(),
            seconds: start.elapsed().as_secs_f64(),
            p50_us: latencies.quantile_us(0.5),
            p99_us: latencies.quantile_us(0.99),
        })
    }

    /// Opens the connections, has each answered once, calls `mark`, and has each answered again:
    /// what they cost while they are idle. Only for [`Traffic::H1`].
    ///
    /// # Errors
    ///
    /// As [`Self::run`]; also when a connection did not survive.
    pub fn idle(&self, mut mark: impl FnMut() -> Result<()>) -> Result<()> {
        let Traffic::H1 { requests, length } = &self.traffic else {
            return Err(anyhow!("idle connections are HTTP/1.1"));
        };
        let target = self.target()?;
        block_on(async {
            let mut held = idle::open(&target, &requests[0], *length, self.connections).await?;
            mark()?;
            idle::ask(&mut held, &requests[0], *length).await
        })
    }

    fn target(&self) -> Result<Target> {
        Ok(Target {
            address: self.to,
            dialler: self.tls.map(Clients::dialler).transpose()?,
            opened: Cell::new(0),
            fresh: self.connections,
        })
    }
}

/// Runs on this thread, bounded in time.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    /// The longest run and its grace.
    const LIMIT: Duration = Duration::from_secs(120);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(LIMIT, work)
            .await
            .context("the load stands still")?
    })
}

/// Waits for all, or for the first that fails.
async fn first_failure(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

async fn connection(
    load: Load,
    target: Rc<Target>,
    shared: Rc<Shared>,
    index: usize,
) -> Result<()> {
    let result = match &load.traffic {
        Traffic::H1 { requests, length } => {
            h1::keep(&shared, &target, requests, *length, index).await
        }
        Traffic::H1NewConnections { request, length } => {
            h1::renew(&shared, &target, request, *length).await
        }
        Traffic::H2 { request, streams } => h2::run(&shared, &target, request, *streams).await,
        Traffic::WebSocket => websocket::run(&shared, load.to).await,
    };
    result.with_context(|| format!("connection {index} to {}", load.to))
}
