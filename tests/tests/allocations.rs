//! How often a worker asks for memory per request. On a connection that is kept it must not at all,
//! whatever the content and the version; but where more streams of HTTP/2 are served at once than
//! tasks and buffers are kept for, those have to be made.
//!
//! The worker, the load and the origin are threads of this process; the allocator counts for each
//! of them.

use proxy_tests::bench::l7::load::{Load, Rate};
use proxy_tests::bench::l7::origin::Origin;
use proxy_tests::bench::l7::scenario::{self, Back, Protocol, Scenario};
use proxy_userspace::config::model::http::{Action, BackendProtocol, HttpListener, Route};
use proxy_userspace::config::model::{Config, Service};
use proxy_userspace::runtime::workers::Workers;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Threads that are told apart.
const THREADS: usize = 64;

/// Blocks asked for, by thread; the threads' system ids stand beside them.
static COUNTS: [AtomicUsize; THREADS] = [const { AtomicUsize::new(0) }; THREADS];
static IDS: [AtomicUsize; THREADS] = [const { AtomicUsize::new(0) }; THREADS];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static PLACE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The system's allocator, which counts for each thread.
struct Counting;

impl Counting {
    fn count() {
        let place = PLACE.get().unwrap_or_else(|| {
            let place = NEXT.fetch_add(1, Ordering::Relaxed) % THREADS;
            let id = nix::unistd::gettid().as_raw();
            IDS[place].store(id as usize, Ordering::Relaxed);
            PLACE.set(Some(place));
            place
        });
        COUNTS[place].fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; `block` came from the system's allocator.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Blocks that the worker's thread has asked for.
fn of_worker() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("threads");
    let mut ids = tasks.flatten().filter_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let id = task.file_name().to_str()?.parse::<usize>().ok()?;
        (name.trim() == "worker-0").then_some(id)
    });
    let id = ids.next().expect("a worker");
    let place = IDS
        .iter()
        .position(|known| known.load(Ordering::Relaxed) == id);
    COUNTS[place.expect("it has started")].load(Ordering::Relaxed)
}

fn config(scenario: &Scenario, origin: &Origin) -> Config {
    let is_h2 = scenario.job.origin_is_h2();
    let mut service = Service::new("origin");
    if is_h2 {
        service.upstream.protocol = BackendProtocol::H2;
    }
    let address = if is_h2 { origin.h2 } else { origin.h1 };
    service.push_backend(address, 1, Default::default());
    let any = "127.0.0.1:0".parse().expect("an address");
    let mut config = Config {
        http_listeners: vec![HttpListener::new("web", any)],
        routes: vec![Route::catch_all("all", "web", Action::service("origin"))],
        services: vec![service],
        ..Config::default()
    };
    config.workers.count = Some(1);
    config
}

/// Blocks per request in a scenario, once its connections stand.
fn per_request(scenario: &Scenario) -> f64 {
    let origin = Origin::start(0).expect("an origin");
    let workers = Workers::start(&config(scenario, &origin)).expect("workers");
    let load = Load {
        to: workers.listeners().next().expect("listens"),
        tls: None,
        traffic: scenario.traffic.clone(),
        connections: 4,
        rate: Rate::Closed,
        time: Duration::from_millis(300),
    };
    // Buffers are made by the first run.
    load.run(|| Ok(())).expect("answers");
    let mut counts = Vec::new();
    let outcome = load.run(|| {
        counts.push(of_worker());
        Ok(())
    });
    let requests = outcome.expect("answers").requests;
    (counts[1] - counts[0]) as f64 / requests as f64
}

/// What a request may ask for. A little more than nothing: once a second, a date is written.
fn limit(scenario: &Scenario) -> Option<f64> {
    if scenario.tls.is_some() {
        // Its library decides.
        return None;
    }
    let Back::Origin(back) = scenario.job.back else {
        return (scenario.job.back == Back::Grpc).then_some(1.0);
    };
    match (scenario.job.front, back) {
        _ if scenario.job.routes > 0 || scenario.job.access_log || scenario.idle => None,
        _ if scenario.name == "connect" => Some(8.0),
        (Protocol::H1, Protocol::H1) => Some(0.1),
        _ => Some(1.5),
    }
}

#[test]
fn a_request_on_a_kept_connection_allocates_nothing() {
    let mut wrong = Vec::new();
    for scenario in scenario::all() {
        let Some(limit) = limit(&scenario) else {
            continue;
        };
        let blocks = per_request(&scenario);
        println!("{:<10} {blocks:.3} blocks per request", scenario.name);
        if blocks > limit {
            wrong.push(format!("{}: {blocks:.3}, allowed {limit}", scenario.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
