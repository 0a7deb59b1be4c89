//! Watching real sockets.

use super::*;
use crate::balance::l7::Slots;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn backend(address: SocketAddr) -> Arc<BackendState> {
    let slot = Arc::<Slots>::default().take();
    Arc::new(BackendState::new("b", address, 0, slot, 0))
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let ours = TcpStream::connect(address).await.expect("connected");
    let (theirs, _) = listener.accept().await.expect("accepted");
    (ours, theirs)
}

#[tokio::test]
async fn what_a_connection_carries_is_counted_once() {
    let watches = Rc::new(Watches::new(Rc::default()));
    let (mut ours, mut theirs) = pair().await;
    let backend = backend(ours.peer_addr().expect("an address"));
    let watched = watches.watch(&ours, &backend);
    ours.write_all(b"ask").await.expect("written");
    let mut answer = [0; 3];
    theirs.read_exact(&mut answer).await.expect("read");
    theirs.write_all(b"yes").await.expect("written");
    ours.read_exact(&mut answer).await.expect("read");
    watches.look();
    let seen = backend.network();
    assert!(seen.segments >= 2 && seen.timed == 1, "{seen:?}");
    assert_eq!(seen.retransmits, 0);
    let quick = Duration::from_nanos(seen.rtt_ns);
    assert!(quick > Duration::ZERO && quick < Duration::from_secs(1));
    // Nothing has moved since.
    watches.look();
    drop(watched);
    assert_eq!(backend.network(), seen);
    assert!(watches.is_empty());
}

#[tokio::test]
async fn a_window_that_is_full_is_seen() {
    let watches = Rc::new(Watches::new(Rc::default()));
    let (ours, theirs) = pair().await;
    let backend = backend(ours.peer_addr().expect("an address"));
    let _watched = watches.watch(&ours, &backend);
    // Until the other end's buffer is full, and ours behind it.
    let block = vec![0; 1 << 20];
    loop {
        match ours.try_write(&block) {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                watches.look();
                if backend.network().zero_windows > 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    drop(theirs);
}

#[tokio::test]
async fn turns_come_to_all_and_each_is_short() {
    let watches = Rc::new(Watches::new(Rc::default()));
    let mut held = Vec::new();
    for _ in 0..3 * LEAST {
        let (ours, theirs) = pair().await;
        let backend = backend(ours.peer_addr().expect("an address"));
        let watched = watches.watch(&ours, &backend);
        held.push((watched, ours, theirs, backend));
    }
    // A hole in the middle.
    drop(held.remove(5));
    let looked = |held: &[(Watched, TcpStream, TcpStream, Arc<BackendState>)]| {
        held.iter().filter(|it| it.3.network().looks > 0).count()
    };
    watches.look();
    assert_eq!(looked(&held), LEAST);
    watches.look();
    assert_eq!(looked(&held), 2 * LEAST);
    watches.look();
    assert_eq!(looked(&held), held.len());
}
