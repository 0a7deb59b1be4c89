//! What goes on beside the requests: names are resolved, weights of slow starts grow, backends are
//! compared with each other, spans are exported, certificates are issued, renewed and stapled.
//!
//! One thread for all workers. It changes what balancers choose from, which the workers read.

use super::spans::{Exporter, Settings};
use crate::acme::{self, Challenges};
use crate::balance::l7::Registry;
use crate::config::model::tracing::Tracing;
use crate::http::snapshot::{Kept, Snapshot};
use crate::net::clock::Clock;
use crate::net::dns::{self, Bounds, News, SystemResolver, Target, Update};
use crate::observe::certificates::CertificateBoard;
use crate::observe::trace::{SpanCounters, SpanReceiver};
use crate::stapling::Stapler;
use crate::tls::ServerSide;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

/// How often weights grow.
const TICK: Duration = Duration::from_secs(1);

/// How often is looked for outliers, and for ejections whose time is over.
const LOOK: Duration = Duration::from_millis(250);

/// How long spans may take to be exported at the end.
const SPANS_END: Duration = Duration::from_secs(2);

/// Updates of names that may wait.
const WAITING: usize = 64;

/// The thread, from outside. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct House {
    snapshots: Option<mpsc::UnboundedSender<Arc<Snapshot>>>,
    orders: Option<mpsc::UnboundedSender<acme::Command>>,
    handle: Option<std::thread::JoinHandle<()>>,
}

impl House {
    pub(super) fn start(
        spans: SpanReceiver,
        counters: Arc<SpanCounters>,
        kept: &Kept,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let (snapshots, received) = mpsc::unbounded_channel();
        let (orders, ordered) = mpsc::unbounded_channel();
        let certificates = Certificates {
            board: Arc::clone(&kept.board),
            challenges: Arc::clone(&kept.challenges),
            ordered,
        };
        let handle = std::thread::Builder::new()
            .name("house".to_owned())
            .spawn(move || main(runtime, received, spans, counters, certificates))?;
        Ok(Self {
            snapshots: Some(snapshots),
            orders: Some(orders),
            handle: Some(handle),
        })
    }

    /// This process serves, or does so no more: authorities that ask whether a name is ours reach
    /// it, or another one.
    pub(super) fn serve(&self, is_serving: bool) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(acme::Command::Serve(is_serving));
        }
    }

    /// Cares for this snapshot from now on.
    pub(super) fn care_for(&self, snapshot: &Arc<Snapshot>) {
        if let Some(snapshots) = &self.snapshots {
            let _ = snapshots.send(Arc::clone(snapshot));
        }
        if let Some(orders) = &self.orders {
            let (settings, wanted) = snapshot.acme();
            let _ = orders.send(acme::Command::Want(settings, wanted));
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        (self.snapshots, self.orders) = (None, None);
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

fn main(
    mut runtime: tokio::runtime::Builder,
    snapshots: mpsc::UnboundedReceiver<Arc<Snapshot>>,
    spans: SpanReceiver,
    counters: Arc<SpanCounters>,
    certificates: Certificates,
) {
    let (tracing, settings) = watch::channel(None);
    match runtime.enable_all().build() {
        Ok(runtime) => {
            runtime.block_on(async {
                let (sides, shown) = mpsc::unbounded_channel();
                let caring = certificates.care(shown);
                let rest = run(snapshots, tracing, sides);
                let exporting = export(spans, settings, counters, rest);
                tokio::select! {
                    () = exporting => {}
                    () = caring => {}
                }
            });
            // A name that is being looked up is not waited for.
            runtime.shutdown_background();
        }
        Err(error) => {
            warn!(%error, "names are not resolved, slow starts and ejections do not end, spans are lost, certificates are not renewed");
        }
    }
}

/// What looks after certificates.
struct Certificates {
    board: Arc<CertificateBoard>,
    challenges: Arc<Challenges>,
    ordered: mpsc::UnboundedReceiver<acme::Command>,
}

impl Certificates {
    /// Never ends, so that it is dropped when the rest has.
    async fn care(self, shown: mpsc::UnboundedReceiver<Vec<Arc<ServerSide>>>) {
        let manager = acme::Manager::new(Arc::clone(&self.board), self.challenges);
        let stapler = Stapler::new(self.board);
        tokio::join!(manager.run(self.ordered), stapler.run(shown));
        std::future::pending::<()>().await;
    }
}

/// Exports spans as long as `rest` goes on, then those that are left.
async fn export(
    spans: SpanReceiver,
    settings: Settings,
    counters: Arc<SpanCounters>,
    rest: impl Future<Output = ()>,
) {
    let mut exporter = Exporter::new(spans, settings, counters);
    {
        let mut exporting = pin!(exporter.run());
        let mut rest = pin!(rest);
        tokio::select! {
            () = &mut rest => {}
            // All workers have ended; the rest goes on until it is told to end, too.
            () = &mut exporting => rest.await,
        }
    }
    exporter.finish(SPANS_END).await;
}

async fn run(
    mut snapshots: mpsc::UnboundedReceiver<Arc<Snapshot>>,
    tracing: watch::Sender<Option<Arc<Tracing>>>,
    sides: mpsc::UnboundedSender<Vec<Arc<ServerSide>>>,
) {
    let settings = |snapshot: &Snapshot| {
        let settings = snapshot.tracing().map(|plan| Arc::clone(&plan.settings));
        tracing.send_replace(settings);
        let _ = sides.send(snapshot.tls_sides());
    };
    let Some(mut current) = snapshots.recv().await else {
        return;
    };
    settings(&current);
    let clock = Clock::new();
    let (news, mut updates) = mpsc::channel(WAITING);
    let mut asked = Vec::new();
    let mut watching = watch(&current, &mut asked, &news);
    let mut ticks = interval(TICK);
    let mut looks = interval(LOOK);
    for timer in [&mut ticks, &mut looks] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            snapshot = snapshots.recv() => match snapshot {
                Some(snapshot) => {
                    current = snapshot;
                    settings(&current);
                    if dns::targets(current.registry()) != asked {
                        watching = watch(&current, &mut asked, &news);
                    }
                }
                None => return,
            },
            Some(update) = updates.recv() => apply(current.registry(), update, &clock),
            () = &mut watching => watching = Box::pin(std::future::pending()),
            _ = ticks.tick() => drop(current.registry().tick(clock.read())),
            _ = looks.tick() => {
                let random = || fastrand::u64(..);
                current.registry().watch_outliers(clock.read(), random);
            }
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
