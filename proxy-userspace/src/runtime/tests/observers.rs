//! Who watches: traces, captures, the flow table.

use super::*;
use crate::admin::api::{CaptureQuery, FlowQuery};
use crate::observe::flow::ObserveQuery;
use proxy_common::trace::threshold;

#[tokio::test(start_paused = true)]
async fn tracing_follows_the_observers() {
    let daemon = start(BASE);
    let below = || daemon.world.lock().store.tables.settings.trace_below;
    assert_eq!(below(), 0);
    let query = ObserveQuery {
        sample: Some(10),
        ..ObserveQuery::default()
    };
    let told = daemon
        .handle
        .ask(|reply| Command::Observe(Box::new(query), reply))
        .await
        .expect("listens");
    assert_eq!(below(), threshold(10));
    daemon
        .reload(&BASE.replace("{interfaces", "{sample_every: 500, interfaces"))
        .await
        .expect("valid");
    assert_eq!(below(), threshold(10));
    drop(told);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(below(), threshold(500));
}

#[tokio::test(start_paused = true)]
async fn packets_are_copied_only_while_somebody_captures() {
    let daemon = start(BASE);
    let query = CaptureQuery {
        snaplen: Some(64),
        ..CaptureQuery::default()
    };
    let pieces = daemon
        .handle
        .ask(|reply| Command::Capture(query, reply))
        .await
        .expect("starts");
    assert_eq!(daemon.world.lock().capture, Some(64));
    drop(pieces);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(daemon.world.lock().capture, None);
}

#[tokio::test(start_paused = true)]
async fn flows_are_filtered_by_names_and_bounded() {
    let daemon = start(BASE);
    let id = daemon.backend("b2").await.ids[0];
    let service = daemon.view().await.services[0].listeners[0].id;
    let flow = |port: u16, backend| crate::kernel::sweep::FlowView {
        protocol: 6,
        source: format!("203.0.113.5:{port}").parse().expect("an address"),
        destination: "192.0.2.10:80".parse().expect("an address"),
        service,
        backend,
        phase: None,
        idle: Duration::from_secs(1),
        confirmed: true,
        is_return: false,
    };
    daemon.world.lock().flows = vec![flow(1, id), flow(2, id), flow(3, id + 1), flow(4, 999)];
    let ask = async |query: FlowQuery| {
        daemon
            .handle
            .ask(|reply| Command::Flows(query, reply))
            .await
            .expect("listed")
    };
    let named = FlowQuery {
        backend: Some("b2".to_owned()),
        ..FlowQuery::default()
    };
    assert_eq!(ask(named.clone()).await.flows.len(), 2);
    let bounded = ask(FlowQuery {
        limit: Some(1),
        ..named
    })
    .await;
    assert!(bounded.truncated);
    assert_eq!(bounded.flows[0].backend, "b2");
    let client = FlowQuery {
        client: Some("203.0.113.0/24".to_owned()),
        ..FlowQuery::default()
    };
    assert_eq!(ask(client).await.flows[3].backend, "#999");
    let client = FlowQuery {
        client: Some("198.51.100.0/24".to_owned()),
        ..FlowQuery::default()
    };
    assert!(ask(client).await.flows.is_empty());
}
