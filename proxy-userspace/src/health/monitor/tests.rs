//! The monitor with a prober that needs no network, on a paused clock: hours pass in no time, and
//! every moment is exact.

use super::super::outcome::FailureKind;
use super::super::probe::Target;
use super::super::testing::{address, check, fail, health_check, pass, refuse};
use super::super::{BackendName, Failure, ProbeTls};
use super::*;
use crate::config::model::{Damping, HealthCheck};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::oneshot;
use tokio::time::{advance, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const LATENCY: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug)]
enum Server {
    Answers,
    Refuses,
    /// Never answers: a probe ends by its timeout.
    Silent,
    /// Answers for this long, refuses for as long, and so on.
    Flaps(Duration),
    /// This host cannot probe it.
    Unprobeable,
}

/// The servers of a test; those not named answer.
#[derive(Clone)]
struct Lab {
    epoch: Instant,
    servers: Arc<Mutex<HashMap<SocketAddr, Server>>>,
    running: Arc<AtomicUsize>,
    most_running: Arc<AtomicUsize>,
    probes: Arc<AtomicUsize>,
    /// When the first probe began that was to fail, by server.
    first_failed: Arc<Mutex<HashMap<SocketAddr, Duration>>>,
}

impl Lab {
    fn new() -> Self {
        Self {
            epoch: Instant::now(),
            servers: Arc::default(),
            running: Arc::default(),
            most_running: Arc::default(),
            probes: Arc::default(),
            first_failed: Arc::default(),
        }
    }

    fn first_failed(&self, name: &BackendName) -> Duration {
        let index = name.backend.trim_start_matches('b').parse().unwrap();
        self.first_failed.lock()[&address(index)]
    }

    fn set(&self, index: usize, server: Server) {
        self.servers.lock().insert(address(index), server);
    }
}

/// Counts a probe for as long as it runs, however it ends.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Prober for Lab {
    fn probe(
        &self,
        target: Target,
        check: Arc<HealthCheck>,
        _: Option<ProbeTls>,
    ) -> impl Future<Output = Outcome> + Send + 'static {
        let lab = self.clone();
        async move {
            lab.probes.fetch_add(1, Ordering::Relaxed);
            let running = lab.running.fetch_add(1, Ordering::Relaxed) + 1;
            let _running = Running(lab.running.clone());
            lab.most_running.fetch_max(running, Ordering::Relaxed);
            let server = lab.servers.lock().get(&target.address).copied();
            let server = server.unwrap_or(Server::Answers);
            if matches!(server, Server::Refuses | Server::Silent) {
                let began = lab.epoch.elapsed();
                lab.first_failed
                    .lock()
                    .entry(target.address)
                    .or_insert(began);
            }
            match server {
                Server::Silent => {
                    sleep(check.timeout).await;
                    return fail(FailureKind::Timeout);
                }
                Server::Unprobeable => return fail(FailureKind::Local),
                _ => sleep(LATENCY).await,
            }
            match server {
                Server::Refuses => refuse(),
                Server::Flaps(half) => {
                    let halves = lab.epoch.elapsed().as_millis() / half.as_millis();
                    if halves.is_multiple_of(2) {
                        pass()
                    } else {
                        refuse()
                    }
                }
                _ => pass(),
            }
        }
    }
}

/// A running monitor.
struct Ward {
    lab: Lab,
    monitor: Monitor,
    changes: mpsc::UnboundedReceiver<HealthChange>,
    stop: oneshot::Sender<()>,
    driver: tokio::task::JoinHandle<()>,
}

impl Ward {
    fn open(max_running: usize) -> Self {
        let lab = Lab::new();
        let (monitor, driver, changes) = monitor(
            lab.clone(),
            Options {
                max_running,
                seed: 5,
            },
        );
        let (stop, stopped) = oneshot::channel();
        let driver = tokio::spawn(driver.run(async { drop(stopped.await) }));
        Self {
            lab,
            monitor,
            changes,
            stop,
            driver,
        }
    }

    /// With these backends under check, all decided.
    async fn with(count: usize, health: HealthCheck) -> (Self, Arc<HealthCheck>) {
        let health = Arc::new(health);
        let mut ward = Self::open(512);
        ward.monitor
            .reconcile((0..count).map(|index| check(index, &health)).collect());
        for _ in 0..count {
            assert!(ward.next().await.up);
        }
        (ward, health)
    }

    /// The next change, awaited for a day at most.
    async fn next(&mut self) -> HealthChange {
        let day = 86_400 * SECOND;
        timeout(day, self.changes.recv())
            .await
            .expect("a change in time")
            .expect("a driver")
    }

    /// All changes of the coming time.
    async fn changes_within(&mut self, time: Duration) -> Vec<HealthChange> {
        let mut changes = Vec::new();
        let _ = timeout(time, async {
            while let Some(change) = self.changes.recv().await {
                changes.push(change);
            }
        })
        .await;
        changes
    }

    fn health(&self, index: usize) -> BackendHealth {
        let name = BackendName::new("web", format!("b{index}"));
        let mut backends = self.monitor.snapshot().backends.into_iter();
        backends
            .find(|health| health.name == name)
            .expect("it is under check")
    }
}

#[tokio::test(start_paused = true)]
async fn new_backend_is_up_as_soon_as_it_has_answered_once() {
    let mut ward = Ward::open(16);
    // The driver sleeps without a due time: the reload has to wake it.
    sleep(SECOND).await;
    let began = Instant::now();
    ward.monitor
        .reconcile(vec![check(0, &Arc::new(health_check()))]);
    assert_eq!(ward.monitor.is_up("web", "b0"), Some(false));
    let change = ward.next().await;
    assert!(change.up);
    assert_eq!(change.name.to_string(), "web/b0");
    assert_eq!(change.reason, Reason::Passed);
    assert!(
        began.elapsed() <= LATENCY + Duration::from_millis(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(ward.monitor.is_up("web", "b0"), Some(true));
    assert_eq!(ward.monitor.is_up("web", "other"), None);
}

#[tokio::test(start_paused = true)]
async fn death_is_told_within_one_interval_of_the_first_failed_probe() {
    let jittered = HealthCheck {
        jitter: 0.3,
        ..health_check()
    };
    let (mut ward, _) = Ward::with(50, jittered).await;
    sleep(20 * SECOND).await;
    let died = ward.lab.epoch.elapsed();
    for index in 0..50 {
        let server = if index % 2 == 0 {
            Server::Refuses
        } else {
            Server::Silent
        };
        ward.lab.set(index, server);
    }
    for change in ward.changes_within(10 * SECOND).await {
        assert!(!change.up);
        let first_failed = ward.lab.first_failed(&change.name);
        let noticed = first_failed - died;
        let told = change.at - first_failed;
        assert!(
            noticed <= SECOND,
            "{} noticed after {noticed:?}",
            change.name
        );
        assert!(told <= SECOND, "{} told after {told:?}", change.name);
    }
    let down = |health: &&BackendHealth| health.verdict == Verdict::Down;
    assert_eq!(
        ward.monitor.snapshot().backends.iter().filter(down).count(),
        50
    );
}

#[tokio::test(start_paused = true)]
async fn recovery_is_told_within_one_interval_of_the_first_passed_probe() {
    let (mut ward, _) = Ward::with(1, health_check()).await;
    ward.lab.set(0, Server::Refuses);
    assert!(!ward.next().await.up);
    sleep(30 * SECOND).await;
    ward.lab.set(0, Server::Answers);
    let recovered = Instant::now();
    assert!(ward.next().await.up);
    assert!(recovered.elapsed() <= 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn backend_that_flaps_is_damped() {
    let hour = 3600 * SECOND;
    let flaps = Server::Flaps(5 * SECOND);
    let count = async |damping: Damping| {
        let (mut ward, _) = Ward::with(
            1,
            HealthCheck {
                damping,
                ..health_check()
            },
        )
        .await;
        ward.lab.set(0, flaps);
        ward.changes_within(hour).await.len()
    };
    let undamped = count(health_check().damping).await;
    assert!(undamped > 600, "it does flap: {undamped}");
    let half_life = 60 * SECOND;
    let damped = count(Damping {
        half_life,
        suppress: 3.0,
        reuse: 1.0,
    })
    .await;
    // Each hold lasts at least one and a half half-lives, and at most three falls lead to it.
    assert!(damped > 8 && damped < 200, "{damped}");
    let strict = count(Damping {
        half_life: 600 * SECOND,
        suppress: 3.0,
        reuse: 0.5,
    })
    .await;
    assert!(strict < 20, "{strict}");
}

#[tokio::test(start_paused = true)]
async fn held_backend_is_shown_as_held_and_returns_once_it_is_stable() {
    let damping = Damping {
        half_life: 60 * SECOND,
        suppress: 2.0,
        reuse: 1.0,
    };
    let (mut ward, _) = Ward::with(
        1,
        HealthCheck {
            damping,
            ..health_check()
        },
    )
    .await;
    ward.lab.set(0, Server::Flaps(5 * SECOND));
    while ward.next().await.verdict != Verdict::Held {}
    ward.lab.set(0, Server::Answers);
    sleep(10 * SECOND).await;
    let health = ward.health(0);
    assert_eq!(health.verdict, Verdict::Held);
    assert!(
        health.streak.passes >= 2 && health.penalty > 1.0,
        "{health:?}"
    );
    let change = ward.next().await;
    assert!(change.up);
    assert!(ward.health(0).penalty <= 1.0);
}

#[tokio::test(start_paused = true)]
async fn reload_keeps_the_state_of_unchanged_backends() {
    let (mut ward, health) = Ward::with(3, health_check()).await;
    ward.lab.set(1, Server::Refuses);
    assert!(!ward.next().await.up);
    sleep(7 * SECOND).await;
    let (up, down) = (ward.health(0), ward.health(1));

    let changed = Arc::new(HealthCheck {
        rise: 4,
        ..(*health).clone()
    });
    let done = ward.monitor.reconcile(vec![
        check(0, &health),
        check(1, &health),
        check(2, &changed),
    ]);
    assert_eq!(
        done,
        Reconciled {
            kept: 2,
            changed: 1,
            ..Reconciled::default()
        }
    );
    for (before, index) in [(&up, 0), (&down, 1)] {
        let after = ward.health(index);
        assert_eq!(after.verdict, before.verdict);
        assert_eq!(after.history, before.history);
        assert_eq!(after.tally, before.tally);
        assert_eq!(after.next_probe, before.next_probe);
    }
    assert_eq!(
        ward.health(2).verdict,
        Verdict::Up,
        "a changed check keeps the verdict"
    );
    assert!(
        ward.changes_within(10 * SECOND).await.is_empty(),
        "and nobody is told anything"
    );
    assert!(
        ward.health(0).tally.passed > up.tally.passed,
        "they are still probed"
    );
}

#[tokio::test(start_paused = true)]
async fn removed_backend_is_probed_no_more() {
    let (mut ward, health) = Ward::with(2, health_check()).await;
    ward.monitor.reconcile(vec![check(1, &health)]);
    ward.lab.set(0, Server::Refuses);
    assert!(ward.changes_within(60 * SECOND).await.is_empty());
    assert_eq!(ward.monitor.is_up("web", "b0"), None);
    assert_eq!(ward.monitor.snapshot().backends.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn restarted_daemon_keeps_what_it_finds_and_tells_nothing_it_confirms() {
    let health = Arc::new(health_check());
    let mut ward = Ward::open(512);
    ward.lab.set(1, Server::Refuses);
    let adopted = |index, up| Check {
        adopted: Some(up),
        ..check(index, &health)
    };
    ward.monitor
        .reconcile(vec![adopted(0, true), adopted(1, false)]);
    assert_eq!(ward.monitor.is_up("web", "b0"), Some(true));
    assert_eq!(ward.monitor.is_up("web", "b1"), Some(false));
    assert!(ward.changes_within(30 * SECOND).await.is_empty());
    assert!(ward.health(0).tally.passed >= 29);
}

#[tokio::test(start_paused = true)]
async fn host_that_cannot_probe_takes_nobody_down_and_lets_new_ones_in() {
    let (mut ward, health) = Ward::with(1, health_check()).await;
    ward.lab.set(0, Server::Unprobeable);
    ward.lab.set(1, Server::Unprobeable);
    ward.monitor
        .reconcile(vec![check(0, &health), check(1, &health)]);
    let changes = ward.changes_within(60 * SECOND).await;
    assert_eq!(changes.len(), 1);
    assert_eq!(
        (changes[0].up, changes[0].reason.label()),
        (true, "unchecked")
    );
    assert!(changes[0].name.to_string() == "web/b1");
    let (_, failure): (Duration, Failure) = ward.health(0).last_failure.expect("it is shown");
    assert_eq!(failure.kind, FailureKind::Local);
}

#[tokio::test(start_paused = true)]
async fn fleet_of_4096_is_watched_within_the_limit_of_probes_in_flight() {
    let (mut ward, _) = Ward::with(4096, health_check()).await;
    let decided = ward.lab.epoch.elapsed();
    assert!(
        decided <= SECOND / 10 + 2 * LATENCY,
        "decided after {decided:?}"
    );

    let before = ward.lab.probes.load(Ordering::Relaxed);
    sleep(10 * SECOND).await;
    let probes = ward.lab.probes.load(Ordering::Relaxed) - before;
    assert!(
        (40_000..46_000).contains(&probes),
        "{probes} probes in ten intervals"
    );

    // A rack goes silent: one in eight.
    let died = Instant::now();
    (0..512).for_each(|index| ward.lab.set(index * 8, Server::Silent));
    for _ in 0..512 {
        assert!(!ward.next().await.up);
    }
    assert!(died.elapsed() <= 2 * SECOND, "{:?}", died.elapsed());
    assert!(
        ward.changes_within(5 * SECOND).await.is_empty(),
        "the others are as they were"
    );
    assert!(ward.lab.most_running.load(Ordering::Relaxed) <= 512);
    let snapshot = ward.monitor.snapshot();
    let up = snapshot
        .backends
        .iter()
        .filter(|health| health.verdict.is_up())
        .count();
    assert_eq!((snapshot.backends.len(), up), (4096, 3584));
}

#[tokio::test(start_paused = true)]
async fn stop_ends_the_driver_and_the_probes_in_flight() {
    let mut ward = Ward::open(16);
    ward.lab.set(0, Server::Silent);
    ward.monitor
        .reconcile(vec![check(0, &Arc::new(health_check()))]);
    advance(LATENCY).await;
    tokio::task::yield_now().await;
    assert_eq!(ward.lab.running.load(Ordering::Relaxed), 1);
    ward.stop.send(()).expect("the driver runs");
    ward.driver.await.expect("it ends");
    assert_eq!(ward.lab.running.load(Ordering::Relaxed), 0);
    assert_eq!(ward.changes.recv().await, None);
    // The handle outlives the driver: it shows the last state.
    assert_eq!(ward.monitor.snapshot().backends.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn driver_ends_when_nobody_receives_its_changes() {
    let ward = Ward::open(16);
    drop(ward.changes);
    timeout(SECOND, ward.driver)
        .await
        .expect("in time")
        .expect("without a panic");
}

#[tokio::test(start_paused = true)]
async fn snapshot_tells_ages_on_both_clocks() {
    let (ward, _) = Ward::with(1, health_check()).await;
    sleep(100 * SECOND).await;
    let snapshot = ward.monitor.snapshot();
    let since = snapshot.backends[0].since;
    assert!(snapshot.taken_at - since >= 100 * SECOND);
    let age = snapshot
        .wall
        .duration_since(snapshot.wall_time(since))
        .unwrap();
    assert_eq!(age, snapshot.taken_at - since);
    assert_eq!(
        snapshot.wall_time(snapshot.taken_at + SECOND),
        snapshot.wall
    );
}

#[test]
fn driver_can_run_on_any_runtime() {
    fn is_send<T: Send>(_: &T) {}
    let (_, driver, _) = monitor(super::super::NetProber, Options::default());
    is_send(&driver.run(std::future::pending()));
}

#[tokio::test(start_paused = true)]
async fn absurd_times_neither_overflow_nor_spin() {
    let absurd = |interval, timeout| {
        Arc::new(HealthCheck {
            interval,
            timeout,
            damping: Damping {
                half_life: Duration::MAX,
                suppress: f64::NAN,
                reuse: f64::NAN,
            },
            ..health_check()
        })
    };
    let mut ward = Ward::open(16);
    ward.monitor.reconcile(vec![
        check(0, &absurd(Duration::MAX, Duration::MAX)),
        check(1, &absurd(Duration::ZERO, Duration::ZERO)),
    ]);
    assert_eq!(ward.changes_within(10 * SECOND).await.len(), 2);
    let tallies: Vec<u64> = ward
        .monitor
        .snapshot()
        .backends
        .iter()
        .map(|health| health.tally.passed)
        .collect();
    assert_eq!(tallies[0], 1);
    assert!((900..=1001).contains(&tallies[1]), "{tallies:?}");
}

/// The one test with real probes and a real clock: it waits for changes, not for times.
#[tokio::test]
async fn real_server_is_seen_to_be_away_and_to_come() {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let health = Arc::new(HealthCheck {
        interval: Duration::from_millis(50),
        timeout: Duration::from_secs(30),
        ..health_check()
    });
    let (monitor, driver, mut changes) = monitor(super::super::NetProber, Options::default());
    monitor.reconcile(vec![Check {
        target: Target::new(address),
        adopted: Some(true),
        ..check(0, &health)
    }]);
    let watch = async {
        let away = changes.recv().await.unwrap();
        assert_eq!((away.up, away.reason.label()), (false, "refused"));
        socket.listen(1024).unwrap();
        let back = changes.recv().await.unwrap();
        assert_eq!((back.up, back.reason), (true, Reason::Passed));
    };
    let both = async {
        tokio::select! {
            () = driver.run(std::future::pending()) => panic!("the driver ended"),
            () = watch => {}
        }
    };
    timeout(60 * SECOND, both).await.expect("in time");
}
