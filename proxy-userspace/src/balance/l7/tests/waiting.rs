//! The queue: order, bounds, hand-over, and that no wake-up is lost.

use super::*;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

#[derive(Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A service of `count` backends that take one request each, and `queue` places.
fn small(count: usize, queue: u32) -> Arc<ServiceState> {
    let mut spec = spec(BalancePolicy::RoundRobin, &vec![1; count]);
    spec.queue = queue;
    spec.backends
        .iter_mut()
        .for_each(|backend| backend.limit = 1);
    service(spec)
}

fn poll(waiting: &mut Waiting, waker: &Waker) -> Poll<Result<Lease, WaitError>> {
    waiting.poll(&mut Context::from_waker(waker), S)
}

fn wait(service: &Arc<ServiceState>) -> Waiting {
    let mut waiting = service.wait(&ask(0)).expect("a place");
    assert!(poll(&mut waiting, Waker::noop()).is_pending());
    waiting
}

fn granted(waiting: &mut Waiting) -> Option<Lease> {
    match poll(waiting, Waker::noop()) {
        Poll::Ready(result) => Some(result.expect("a backend")),
        Poll::Pending => None,
    }
}

#[test]
fn first_come_first_served_and_nobody_overtakes() {
    let service = small(1, 3);
    let lease = service.lease(&ask(0)).expect("room");
    let mut waiting: Vec<Waiting> = (0..3).map(|_| wait(&service)).collect();
    assert_eq!(service.waiting(), 3);
    assert_eq!(service.wait(&ask(0)).map(drop), Err(QueueFull));
    drop(lease);
    // The place is the first one's before it has even looked.
    assert_eq!(service.lease(&ask(0)).map(drop), Err(Unavailable::Busy));
    assert!(granted(&mut waiting[1]).is_none());
    let first = granted(&mut waiting[0]).expect("its turn");
    assert_eq!((service.waiting(), first.backend().in_flight()), (2, 1));
    drop(first);
    assert!(granted(&mut waiting[2]).is_none());
    drop(granted(&mut waiting[1]).expect("its turn"));
    drop(granted(&mut waiting[2]).expect("its turn"));
    assert_eq!(
        (service.waiting(), service.backends()[0].in_flight()),
        (0, 0)
    );
}

#[test]
fn a_waker_is_woken_once_and_only_the_first_one() {
    let service = small(1, 2);
    let lease = service.lease(&ask(0)).expect("room");
    let wakers: Vec<Arc<Woken>> = (0..2).map(|_| Arc::default()).collect();
    let mut waiting: Vec<Waiting> = (0..2)
        .map(|_| service.wait(&ask(0)).expect("room"))
        .collect();
    for (waiting, waker) in waiting.iter_mut().zip(&wakers) {
        assert!(poll(waiting, &Waker::from(Arc::clone(waker))).is_pending());
    }
    drop(lease);
    let woken = || {
        wakers
            .iter()
            .map(|w| w.0.load(Ordering::SeqCst))
            .collect::<Vec<_>>()
    };
    assert_eq!(woken(), [1, 0]);
    // Who gives up with a place in hand passes it on.
    drop(waiting.remove(0));
    assert_eq!(woken(), [1, 1]);
    drop(granted(&mut waiting[0]).expect("passed on"));
    assert_eq!(service.backends()[0].in_flight(), 0);
}

#[test]
fn who_leaves_makes_room_and_takes_nothing_along() {
    let service = small(1, 2);
    let lease = service.lease(&ask(0)).expect("room");
    let one = wait(&service);
    let mut two = wait(&service);
    drop(one);
    assert_eq!(service.waiting(), 1);
    let three = wait(&service);
    drop(lease);
    drop(granted(&mut two).expect("its turn"));
    drop(three);
    assert_eq!(
        (service.waiting(), service.backends()[0].in_flight()),
        (0, 0)
    );
    assert!(service.lease(&ask(0)).is_ok());
}

#[test]
fn room_that_comes_before_the_first_look_is_found_by_it() {
    let service = small(1, 1);
    let lease = service.lease(&ask(0)).expect("room");
    assert_eq!(service.lease(&ask(0)).map(drop), Err(Unavailable::Busy));
    drop(lease);
    let mut waiting = service.wait(&ask(0)).expect("a place");
    assert!(granted(&mut waiting).is_some());
    assert_eq!(service.waiting(), 0);
}

#[test]
fn a_deadline_ends_the_wait_unless_there_is_a_backend() {
    let service = small(1, 2);
    let lease = service.lease(&ask(0)).expect("room");
    let (mut late, mut lucky) = (wait(&service), wait(&service));
    assert_eq!(late.deadline(), 2 * S);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(late.poll(&mut cx, 2 * S - 1).is_pending());
    let timeout = late.poll(&mut cx, 2 * S).map(|result| result.map(drop));
    assert_eq!(timeout, Poll::Ready(Err(WaitError::Timeout)));
    drop(lease);
    assert!(matches!(lucky.poll(&mut cx, 9 * S), Poll::Ready(Ok(_))));
}

#[test]
fn waiters_get_only_what_they_can_use() {
    let service = small(2, 4);
    let one = service.lease(&ask(0)).expect("room");
    let two = service.lease(&ask(0)).expect("room");
    let mut tried = Tried::default();
    tried.add(one.backend().slot());
    let retry = Ask {
        tried: &tried,
        ..ask(0)
    };
    let mut retry = service.wait(&retry).expect("a place");
    let sticky = Ask {
        sticky: Some(two.backend().sticky()),
        ..ask(0)
    };
    let mut sticky = service.wait(&sticky).expect("a place");
    assert!(granted(&mut retry).is_none() && granted(&mut sticky).is_none());
    let mut any = wait(&service);
    let name = one.backend().name().to_owned();
    drop(one);
    assert!(granted(&mut retry).is_none() && granted(&mut sticky).is_none());
    assert_eq!(granted(&mut any).expect("its turn").backend().name(), name);
    drop(two);
    let two = granted(&mut retry).expect("its turn");
    assert!(granted(&mut sticky).is_none());
    drop(two);
    assert!(granted(&mut sticky).is_some());
}

#[test]
fn waiters_hear_of_new_backends_and_of_the_loss_of_all() {
    let service = small(2, 4);
    service.set_healthy("b1", false, S);
    let lease = service.lease(&ask(0)).expect("room");
    let woken = Arc::<Woken>::default();
    let mut waiting = service.wait(&ask(0)).expect("a place");
    let waker = Waker::from(Arc::clone(&woken));
    assert!(poll(&mut waiting, &waker).is_pending());
    service.set_healthy("b1", true, S);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert_eq!(granted(&mut waiting).expect("b1").backend().name(), "b1");

    service.set_draining("b1", true, S);
    let mut waiting = wait(&service);
    service.set_healthy("b0", false, S);
    let result = poll(&mut waiting, &waker).map(|result| result.map(drop));
    let gone = WaitError::Unavailable(Unavailable::NoBackend);
    assert_eq!(result, Poll::Ready(Err(gone)));
    drop(lease);
}

#[test]
fn who_waits_for_a_backend_that_goes_down_takes_any_other() {
    let service = small(2, 4);
    let leases = [(); 2].map(|()| service.lease(&ask(0)).expect("room"));
    let [one, two] = leases;
    let sticky = Ask {
        sticky: Some(one.backend().sticky()),
        ..ask(0)
    };
    let mut waiting = service.wait(&sticky).expect("a place");
    assert!(granted(&mut waiting).is_none());
    service.set_healthy(one.backend().name(), false, S);
    assert!(granted(&mut waiting).is_none());
    drop(one);
    assert!(granted(&mut waiting).is_none());
    let name = two.backend().name().to_owned();
    drop(two);
    assert_eq!(
        granted(&mut waiting).expect("its turn").backend().name(),
        name
    );
}

#[test]
fn new_room_goes_to_the_oldest_whoever_looks_first() {
    let service = small(2, 4);
    service.set_healthy("b1", false, S);
    let _lease = service.lease(&ask(0)).expect("room");
    let (mut oldest, mut next) = (wait(&service), wait(&service));
    service.set_healthy("b1", true, S);
    assert!(granted(&mut next).is_none());
    assert!(granted(&mut oldest).is_some());
}

#[test]
fn what_drains_or_has_gone_is_not_handed_over() {
    let service = small(2, 4);
    let leases = [(); 2].map(|()| service.lease(&ask(0)).expect("room"));
    let mut waiting = wait(&service);
    let [one, two] = leases;
    service.set_draining(one.backend().name(), true, S);
    assert!(granted(&mut waiting).is_none());
    drop(one);
    assert!(granted(&mut waiting).is_none());
    drop(two);
    assert!(granted(&mut waiting).is_some());
}

#[test]
fn a_reload_keeps_the_line_and_its_order() {
    let mut of_one = spec(BalancePolicy::RoundRobin, &[1]);
    of_one.queue = 4;
    of_one.backends[0].limit = 1;
    let old = Registry::build(None, vec![of_one.clone()], 7, 0, S);
    old.activate(None, S);
    let service = &old.services()[0];
    let lease = service.lease(&ask(0)).expect("room");
    let mut waiting = [wait(service), wait(service)];
    let new = Registry::build(Some(&old), vec![of_one], 7, 0, S);
    new.activate(Some(&old), S);
    assert_eq!(new.services()[0].waiting(), 2);
    assert!(granted(&mut waiting[0]).is_none());
    drop(lease);
    assert!(granted(&mut waiting[1]).is_none());
    assert!(granted(&mut waiting[0]).is_some());
}

/// Many threads, few places, and every request must be served in the end: a lost wake-up would
/// leave a thread asleep for ever.
#[test]
fn no_wake_up_is_lost_between_workers() {
    struct Thread(std::thread::Thread);
    impl Wake for Thread {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let service = small(2, 100);
    let served = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for worker in 0..6 {
            let (service, served) = (&service, &served);
            scope.spawn(move || {
                let waker = Waker::from(Arc::new(Thread(std::thread::current())));
                for i in 0..500u64 {
                    let lease = service
                        .lease(&ask(worker * 1000 + i))
                        .unwrap_or_else(|why| {
                            assert_eq!(why, Unavailable::Busy);
                            let mut waiting = service.wait(&ask(i)).expect("a place");
                            loop {
                                match poll(&mut waiting, &waker) {
                                    Poll::Ready(result) => break result.expect("a backend"),
                                    Poll::Pending => std::thread::park(),
                                }
                            }
                        });
                    assert_eq!(lease.backend().in_flight(), 1);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(served.load(Ordering::Relaxed), 3000);
    assert_eq!(service.waiting(), 0);
}
