//! Load in the background while something else happens.
//!
//! Each worker is a thread in the client's namespace that makes one request after another, either
//! each on a new connection or all on one. Failures are kept with their time, so that a test can
//! ask for none at all, or for none after a moment.

use crate::client::{Client, Shares};
use crate::connection::Connection;
use crate::wait;
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What each worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A new connection for each request.
    NewConnections,
    /// One connection for all; it must keep its backend.
    OneConnection,
}

/// Workers that run until [`Load::stop`].
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    workers: Vec<JoinHandle<LoadReport>>,
}

/// What the workers saw.
#[derive(Debug, Default)]
pub struct LoadReport {
    /// Requests answered.
    pub answered: u64,
    /// By whom.
    pub shares: Shares,
    /// Requests that failed: when they began, and why.
    pub failures: Vec<(Instant, String)>,
    /// The longest that a request took.
    pub slowest: Duration,
}

impl Load {
    /// Starts `workers` workers that ask for `/name`, each pausing for `pause` after an answer.
    ///
    /// # Errors
    ///
    /// No thread can be made.
    pub fn start(
        client: &Client,
        to: SocketAddr,
        kind: Kind,
        workers: usize,
        pause: Duration,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let workers = (0..workers)
            .map(|number| {
                let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
                let for_worker = client.clone();
                client.netns().spawn(&format!("load {number}"), move || {
                    let mut worker = Worker {
                        client: for_worker,
                        to,
                        kind,
                        connection: None,
                        report: LoadReport::default(),
                    };
                    while !stop.load(Ordering::Relaxed) {
                        worker.request();
                        done.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(pause);
                    }
                    worker.report
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            stop,
            done,
            workers,
        })
    }

    /// Waits until the workers together have finished `count` more requests, so that what happens
    /// next happens under load.
    ///
    /// # Errors
    ///
    /// They do not in time.
    pub fn wait_for(&self, count: u64) -> Result<()> {
        let goal = self.done.load(Ordering::Relaxed) + count;
        wait::until("the load has made its requests", || {
            Ok(self.done.load(Ordering::Relaxed) >= goal)
        })
    }

    /// Ends the workers and adds up what they saw.
    pub fn stop(self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = LoadReport::default();
        for worker in self.workers {
            match worker.join() {
                Ok(report) => sum.add(report),
                Err(payload) => std::panic::resume_unwind(payload),
            }
        }
        sum
    }
}

impl LoadReport {
    /// Checks that there was load and that nothing failed.
    ///
    /// # Errors
    ///
    /// Says how many failed, how, and when before now.
    pub fn expect_no_failure(&self) -> Result<()> {
        self.expect_no_failure_after(None)
    }

    /// Checks that no request failed that began after a moment (`None`: none at all).
    ///
    /// # Errors
    ///
    /// As [`Self::expect_no_failure`].
    pub fn expect_no_failure_after(&self, moment: Option<Instant>) -> Result<()> {
        if self.answered == 0 {
            bail!(
                "no request was answered at all: {:?}",
                self.failures.first()
            );
        }
        let late: Vec<_> = self
            .failures
            .iter()
            .filter(|(at, _)| moment.is_none_or(|moment| *at > moment))
            .collect();
        if let Some((at, why)) = late.first() {
            bail!(
                "{} of {} requests failed, the first {:.1?} ago (slowest {:.1?}): {why}",
                late.len(),
                self.answered + self.failures.len() as u64,
                at.elapsed(),
                self.slowest,
            );
        }
        Ok(())
    }

    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        for (backend, count) in other.shares {
            *self.shares.entry(backend).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.failures.sort_by_key(|(at, _)| *at);
        self.slowest = self.slowest.max(other.slowest);
    }
}

struct Worker {
    client: Client,
    to: SocketAddr,
    kind: Kind,
    connection: Option<(Connection, String)>,
    report: LoadReport,
}

impl Worker {
    fn request(&mut self) {
        let start = Instant::now();
        let outcome = match self.kind {
            Kind::NewConnections => self.on_new_connection(),
            Kind::OneConnection => self.on_one_connection(),
        };
        self.report.slowest = self.report.slowest.max(start.elapsed());
        match outcome {
            Ok(backend) => {
                self.report.answered += 1;
                *self.report.shares.entry(backend).or_default() += 1;
            }
            Err(error) => {
                self.connection = None;
                self.report.failures.push((start, format!("{error:#}")));
            }
        }
    }

    fn on_new_connection(&self) -> Result<String> {
        Ok(self.client.connect_here(self.to)?.get("/name")?.backend)
    }

    fn on_one_connection(&mut self) -> Result<String> {
        if self.connection.is_none() {
            let mut connection = self.client.connect_here(self.to)?;
            let backend = connection.get("/name")?.backend;
            self.connection = Some((connection, backend));
        }
        let (connection, first) = self.connection.as_mut().context("just opened")?;
        let backend = connection.get("/name")?.backend;
        if backend != *first {
            bail!("a connection to {first} is now answered by {backend}");
        }
        Ok(backend)
    }
}
