use super::probe::Probe;
use super::*;
use parking_lot::Mutex;
use std::sync::Arc;

#[tokio::test]
async fn content_passes_the_filters_in_the_order_of_the_heads() {
    let ended = Arc::new(Mutex::new(Vec::new()));
    let probe = |mark| Probe {
        mark,
        ended: Arc::clone(&ended),
    };
    let chain = Chain {
        filters: vec![AnyFilter::from(probe(b'1')), AnyFilter::from(probe(b'2'))],
    };
    let mut states = States::default();
    let context = RequestContext {
        listener: "web",
        client: std::net::Ipv4Addr::LOCALHOST.into(),
        random: 0,
    };
    let mut head = RequestHead::default();
    let end = chain.request_head(&mut states, &mut head, &context).await;
    assert!(end.is_none());
    assert!(states.sees_request());
    let pieces = [
        Piece::Octets(b"a"),
        Piece::Pause,
        Piece::Octets(b"b"),
        Piece::End,
    ];
    let mut out = Vec::new();
    for piece in pieces {
        chain.request_content(&mut states, piece, &mut out);
    }
    // Each marks what the one before has put out, and the ends come in the same order.
    assert_eq!(String::from_utf8_lossy(&out), "a12b12.12.2");

    let content = chain.response_head(&mut states, &mut ResponseHead::default());
    assert_eq!(content, Content::Filter);
    out.clear();
    for piece in pieces {
        chain.response_content(&mut states, piece, &mut out);
    }
    assert_eq!(String::from_utf8_lossy(&out), "a21b21.21.1");

    let told = Ended {
        status: 200,
        took: Duration::from_millis(3),
        received: 1,
        sent: 2,
        is_complete: true,
    };
    chain.log(&states, &told);
    assert_eq!(*ended.lock(), [told, told]);
    // The next request has nothing of this one.
    let empty = Chain::default();
    empty.request_head(&mut states, &mut head, &context).await;
    assert!(!states.sees_request());
}
