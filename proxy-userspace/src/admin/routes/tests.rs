//! The API against a control task that answers from a script.

use super::*;
use crate::admin::client::{Client, ClientError};
use crate::admin::server::serve;
use crate::admin::socket::AdminSocket;
use crate::observe::readiness::Check;
use crate::observe::view::{EventView, Phase};
use std::future::Future;
use tokio::sync::watch;

/// A served API, its client, and what keeps it alive.
struct Served {
    client: Client,
    shared: Shared,
    stop: watch::Sender<bool>,
    _socket: AdminSocket,
    _directory: tempfile::TempDir,
}

/// Serves the API; `answer` plays the control task.
fn served<F: Future<Output = ()> + Send>(answer: impl Fn(Command) -> F + Send + 'static) -> Served {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("admin.sock");
    let (socket, listener) = AdminSocket::bind(&path).expect("binds");
    let (handle, mut commands) = Handle::new();
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            answer(command).await;
        }
    });
    let shared = Shared {
        handle,
        counters: Arc::default(),
        readiness: Arc::default(),
    };
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(serve(listener, local(shared.clone()), stopping));
    Served {
        client: Client::new(path),
        shared,
        stop,
        _socket: socket,
        _directory: directory,
    }
}

async fn scripted(command: Command) {
    match command {
        Command::View(reply) => {
            let view = View {
                services: vec![ServiceView {
                    name: "web".to_owned(),
                    backends: vec![BackendView {
                        name: "b1".to_owned(),
                        ..Default::default()
                    }],
                    ..Default::default()
                }],
                ..Default::default()
            };
            let _ = reply.send(Ok(Arc::new(view)));
        }
        Command::Drain(request, reply) => {
            let answer = if request.backend == "b1" {
                Ok(BackendAnswer {
                    service: request.service,
                    backend: request.backend,
                    state: "draining".to_owned(),
                    live_flows: 3,
                    drain_remaining_seconds: request.timeout_seconds,
                })
            } else {
                Err(Refusal::new(RefusalKind::NotFound, "no backend `b9`"))
            };
            let _ = reply.send(answer);
        }
        Command::Events(query, reply) => {
            assert_eq!(query.sample, Some(1));
            let (events, receiver) = mpsc::channel(4);
            let _ = reply.send(Ok(receiver));
            for reason in ["denied", "translated"] {
                let event = EventView {
                    reason: reason.to_owned(),
                    ..Default::default()
                };
                events.send(event).await.expect("still listening");
            }
        }
        Command::Capture(query, reply) => {
            let (chunks, receiver) = mpsc::channel(4);
            let _ = reply.send(Ok(receiver));
            chunks
                .send(Bytes::from(query.filter))
                .await
                .expect("still listening");
        }
        Command::Reload(reply) => {
            let mut refusal = Refusal::new(RefusalKind::Invalid, "2 faults in sluice.yaml");
            refusal.details = vec!["line 3: …".to_owned(), "line 9: …".to_owned()];
            let _ = reply.send(Err(refusal));
        }
        other => panic!("not in the script: {other:?}"),
    }
}

fn refusal(error: ClientError) -> Refusal {
    match error {
        ClientError::Refused(refusal) => refusal,
        other => panic!("not a refusal: {other}"),
    }
}

#[tokio::test]
async fn a_drain_carries_its_arguments_there_and_its_answer_back() {
    let served = served(scripted);
    let request = DrainRequest {
        service: "web".to_owned(),
        backend: "b1".to_owned(),
        timeout_seconds: Some(5.5),
    };
    let answer: BackendAnswer = served.client.post("drain", &request).await.expect("drains");
    assert_eq!(
        (answer.live_flows, answer.drain_remaining_seconds),
        (3, Some(5.5))
    );
}

#[tokio::test]
async fn a_refusal_reaches_the_caller_with_every_detail() {
    let served = served(scripted);
    let error = served
        .client
        .post::<ReloadAnswer>("reload", &())
        .await
        .expect_err("refused");
    let refusal = refusal(error);
    assert_eq!(refusal.kind, RefusalKind::Invalid);
    assert_eq!(refusal.details.len(), 2);
}

#[tokio::test]
async fn an_unknown_field_in_a_body_is_refused() {
    let served = served(scripted);
    let body = serde_json::json!({ "service": "web", "backend": "b1", "timeout": 3 });
    let error = served
        .client
        .post::<BackendAnswer>("drain", &body)
        .await
        .expect_err("refused");
    let refusal = refusal(error);
    assert_eq!(refusal.kind, RefusalKind::Invalid);
    assert!(refusal.message.contains("timeout"), "{refusal}");
}

#[tokio::test]
async fn changes_need_a_post() {
    let served = served(scripted);
    let error = served
        .client
        .text("drain")
        .await
        .expect_err("GET is not enough");
    assert!(refusal(error).message.starts_with("405"));
}

#[tokio::test]
async fn backends_are_listed_with_their_service() {
    let served = served(scripted);
    let rows: serde_json::Value = served.client.get("backends").await.expect("answers");
    assert_eq!(rows[0]["service"], "web");
    assert_eq!(rows[0]["name"], "b1");
}

#[tokio::test]
async fn events_are_one_json_object_each_and_end_with_their_source() {
    let served = served(scripted);
    let text = served.client.text("events?sample=1").await.expect("ends");
    let reasons: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|json| {
            serde_json::from_str::<EventView>(json)
                .expect("an event")
                .reason
        })
        .collect();
    assert_eq!(reasons, ["denied", "translated"]);
}

#[tokio::test]
async fn a_capture_is_streamed_as_it_comes() {
    let served = served(scripted);
    let query = CaptureQuery {
        filter: "port 80".to_owned(),
        ..Default::default()
    };
    let mut chunks = served
        .client
        .post_stream("capture", &query)
        .await
        .expect("starts");
    assert_eq!(
        chunks.next().await.expect("reads"),
        Some(Bytes::from("port 80"))
    );
    assert_eq!(chunks.next().await.expect("ends"), None);
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let served = served(scripted);
    let error = served.client.text("/readyz").await.expect_err("starting");
    assert!(refusal(error).message.contains("[-] phase: starting"));
    served
        .shared
        .readiness
        .set(vec![Check::phase(Phase::Serving)]);
    assert_eq!(
        served.client.text("/readyz").await.expect("ready"),
        "ready\n"
    );
    let verbose = served.client.text("/healthz?verbose").await.expect("ready");
    assert_eq!(verbose, "[+] phase: ok\nready\n");
}

#[tokio::test]
async fn metrics_are_served_as_openmetrics() {
    let served = served(scripted);
    let text = served.client.text("/metrics").await.expect("answers");
    assert!(text.contains("sluice_backend_packets_total{service=\"web\",backend=\"b1\"} 0"));
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn a_stopped_daemon_is_unreachable() {
    let served = served(scripted);
    served.client.text("/livez").await.expect("alive");
    served.stop.send(true).expect("served");
    let gone = async {
        while served.client.text("/livez").await.is_ok() {
            tokio::task::yield_now().await;
        }
        served.client.text("/livez").await
    };
    let error = gone.await.expect_err("gone");
    assert!(
        matches!(
            error,
            ClientError::Unreachable { .. } | ClientError::Protocol(_)
        ),
        "{error}"
    );
}

#[tokio::test]
async fn tcp_serves_numbers_only_and_only_to_its_own_name() {
    let (handle, commands) = Handle::new();
    let shared = Shared {
        handle,
        counters: Arc::default(),
        readiness: Arc::default(),
    };
    let policy = HostPolicy {
        loopback: true,
        host_name: String::new(),
    };
    let router = public(shared, policy);
    let status = async |host: &str, path: &str| {
        use hyper::service::Service as _;
        let request = Request::builder()
            .uri(path)
            .header("host", host)
            .body(Body::empty());
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        service
            .call(request.expect("a request"))
            .await
            .expect("infallible")
            .status()
    };
    assert_eq!(status("localhost:9090", "/livez").await, StatusCode::OK);
    assert_eq!(
        status("evil.example", "/livez").await,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        status("localhost", "/api/v1/status").await,
        StatusCode::NOT_FOUND
    );
    drop(commands);
    assert_eq!(
        status("localhost", "/livez").await,
        StatusCode::SERVICE_UNAVAILABLE
    );
}
