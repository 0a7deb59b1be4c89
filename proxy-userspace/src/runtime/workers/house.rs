//! What goes on beside the requests: names are resolved, weights of slow starts grow.
//!
//! One thread for all workers. It changes what balancers choose from, which the workers read.

use crate::balance::l7::Registry;
use crate::http::snapshot::Snapshot;
use crate::net::clock::Clock;
use crate::net::dns::{self, Bounds, News, SystemResolver, Target, Update};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

/// How often weights grow.
const TICK: Duration = Duration::from_secs(1);

/// Updates of names that may wait.
const WAITING: usize = 64;

/// The thread, from outside. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct House {
    snapshots: Option<mpsc::UnboundedSender<Arc<Snapshot>>>,
    handle: Option<std::thread::JoinHandle<()>>,
}

impl House {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let (snapshots, received) = mpsc::unbounded_channel();
        let handle = std::thread::Builder::new()
            .name("house".to_owned())
            .spawn(move || main(runtime, received))?;
        Ok(Self {
            snapshots: Some(snapshots),
            handle: Some(handle),
        })
    }

    /// Cares for this snapshot from now on.
    pub(super) fn care_for(&self, snapshot: &Arc<Snapshot>) {
        if let Some(snapshots) = &self.snapshots {
            let _ = snapshots.send(Arc::clone(snapshot));
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.snapshots = None;
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

fn main(mut runtime: tokio::runtime::Builder, snapshots: mpsc::UnboundedReceiver<Arc<Snapshot>>) {
    match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(run(snapshots)),
        Err(error) => warn!(%error, "names are not resolved, and slow starts do not end"),
    }
}

async fn run(mut snapshots: mpsc::UnboundedReceiver<Arc<Snapshot>>) {
    let Some(mut current) = snapshots.recv().await else {
        return;
    };
    let clock = Clock::new();
    let (news, mut updates) = mpsc::channel(WAITING);
    let mut asked = Vec::new();
    let mut watching = watch(&current, &mut asked, &news);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            snapshot = snapshots.recv() => match snapshot {
                Some(snapshot) => {
                    current = snapshot;
                    if dns::targets(current.registry()) != asked {
                        watching = watch(&current, &mut asked, &news);
                    }
                }
                None => return,
            },
            Some(update) = updates.recv() => apply(current.registry(), update, &clock),
            () = &mut watching => watching = Box::pin(std::future::pending()),
            _ = ticks.tick() => drop(current.registry().tick(clock.read())),
        }
    }
}

/// Asks for all names of a snapshot.
fn watch(
    snapshot: &Snapshot,
    asked: &mut Vec<Target>,
    news: &mpsc::Sender<Update>,
) -> Pin<Box<dyn Future<Output = ()>>> {
    let targets = dns::targets(snapshot.registry());
    asked.clone_from(&targets);
    let news = news.clone();
    Box::pin(async move {
        if targets.is_empty() {
            return;
        }
        match SystemResolver::new() {
            Ok(resolver) => dns::watch(&resolver, targets, Bounds::default(), news).await,
            Err(error) => warn!(error = ?error, "names of backends cannot be resolved"),
        }
    })
}

fn apply(registry: &Registry, update: Update, clock: &Clock) {
    let Update {
        service,
        question,
        news,
    } = update;
    let Some(state) = registry.service(&service) else {
        return;
    };
    match news {
        News::Members(found) => {
            if state.set_resolved(question, &found, clock.read()) {
                let addresses: Vec<_> = found.iter().map(|found| found.address).collect();
                info!(service, ?addresses, "backends resolved");
            }
        }
        News::Failed(error) => warn!(service, %error, "a backend's name"),
    }
}
