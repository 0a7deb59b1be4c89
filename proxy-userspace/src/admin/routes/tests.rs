//! The API against a control task that answers from a script.

use super::*;
use crate::admin::client::{Client, ClientError};
use crate::admin::control::Command;
use crate::admin::server::{process, serve};
use crate::admin::socket::AdminSocket;
use crate::observe::flow::stages::Accept;
use crate::observe::flow::{FlowStage, Stage, Told};
use crate::observe::readiness::Check;
use crate::observe::view::{BackendView, Phase};
use axum::body::{Body, Bytes};
use std::future::Future;
use tokio::sync::{mpsc, watch};

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
    let journal = Arc::new(Journal::new(1));
    let shared = Shared::new(handle, Arc::default(), Arc::default(), journal);
    let (stop, stopping) = watch::channel(false);
    let open = |stream, _| process(stream);
    tokio::spawn(serve(listener, open, local(shared.clone()), stopping));
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
        Command::Observe(query, reply) => {
            assert_eq!((query.sample, query.follow), (Some(1), Some(false)));
            let (told, receiver) = mpsc::channel(4);
            let _ = reply.send(Ok(receiver));
            let stage = FlowStage {
                time_seconds: 1.5,
                id: "00000000000000ff".to_owned(),
                protocol: "tcp".to_owned(),
                source: "192.0.2.1:4711".to_owned(),
                destination: "198.51.100.1:80".to_owned(),
                request: None,
                stage: Stage::Accept(Accept {
                    listener: "web".to_owned(),
                    worker: 1,
                }),
            };
            for told_now in [Told::Missed(7), Told::Stage(Box::new(stage))] {
                told.send(told_now).await.expect("still listening");
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
        Command::Configure(_, reply) => {
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
    assert_eq!(refusal(error).kind, RefusalKind::Method);
}

#[tokio::test]
async fn backends_are_listed_with_their_service() {
    let served = served(scripted);
    let rows: serde_json::Value = served.client.get("backends").await.expect("answers");
    assert_eq!(rows[0]["service"], "web");
    assert_eq!(rows[0]["name"], "b1");
}

#[tokio::test]
async fn stages_are_one_json_object_each_and_end_with_their_source() {
    let served = served(scripted);
    let path = "observe?sample=1&follow=false";
    let text = served.client.text(path).await.expect("ends");
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[..2], ["event: missed", "data: 7"]);
    let json = lines[2].strip_prefix("data: ").expect("data");
    let value: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(
        (&value["stage"], &value["listener"]),
        (&"accept".into(), &"web".into())
    );
    let stage: FlowStage = serde_json::from_str(json).expect("a stage");
    assert_eq!(stage.id, "00000000000000ff");
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
    let journal = Arc::new(Journal::new(1));
    let shared = Shared::new(handle, Arc::default(), Arc::default(), journal);
    let policy = HostPolicy {
        loopback: true,
        host_name: String::new(),
        any_label: false,
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

/// Every reference below a value.
fn references<'v>(value: &'v serde_json::Value, found: &mut Vec<&'v str>) {
    match value {
        serde_json::Value::Object(map) => {
            if let Some(reference) = map.get("$ref").and_then(|value| value.as_str()) {
                found.push(reference);
            }
            map.values().for_each(|value| references(value, found));
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn the_document_tells_of_every_endpoint_and_refers_to_what_it_has() {
    let document: serde_json::Value = serde_json::from_str(document::text()).expect("JSON");
    let endpoints = endpoints();
    let paths = document["paths"].as_object().expect("paths");
    let operations: usize = paths
        .values()
        .filter_map(|path| path.as_object().map(|path| path.len()))
        .sum();
    assert_eq!(operations, endpoints.len());
    let mut ids = std::collections::BTreeSet::new();
    for endpoint in &endpoints {
        let operation = &paths[endpoint.path][endpoint.method.name()];
        let id = operation["operationId"].as_str().expect("an id");
        assert!(ids.insert(id), "{id} twice");
        assert!(
            !endpoint.summary.is_empty() && !endpoint.tag.is_empty(),
            "{id}"
        );
        let named: Vec<String> = endpoint
            .path
            .split('{')
            .skip(1)
            .map(|rest| rest.split('}').next().unwrap_or_default().to_owned())
            .collect();
        let told: Vec<&str> = endpoint
            .path_parameters
            .iter()
            .map(|one| one.name)
            .collect();
        assert_eq!(named, told, "{id}");
    }
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("within the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn the_guide_lists_every_endpoint() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
    let guide = std::fs::read_to_string(path).expect("the guide");
    let (begin, end) = ("<!-- endpoints -->\n", "<!-- end of endpoints -->");
    let (before, rest) = guide.split_once(begin).expect("where it begins");
    let (list, after) = rest.split_once(end).expect("where it ends");
    let mut wanted = String::from("| | | |\n|---|---|---|\n");
    for endpoint in endpoints() {
        let method = endpoint.method.name().to_uppercase();
        let line = format!(
            "| `{method}` | `{}` | {} |\n",
            endpoint.path, endpoint.summary
        );
        wanted.push_str(&line);
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{begin}{wanted}{end}{after}")).expect("writes");
    } else {
        assert_eq!(
            list, wanted,
            "make it anew by UPDATE_DOCS=1 cargo test -p proxy-userspace"
        );
    }
}

#[tokio::test]
async fn only_so_many_may_follow_events() {
    let served = served(scripted);
    let mut followers = Vec::new();
    for _ in 0..MAX_STREAMS {
        followers.push(served.client.stream("events").await.expect("a place"));
    }
    let error = served.client.stream("events").await.expect_err("no place");
    assert_eq!(refusal(error).kind, RefusalKind::Stopping);
}

#[tokio::test]
async fn the_policy_of_the_page_lets_its_own_script_run_and_nothing_else() {
    use hyper::service::Service as _;
    let (handle, _commands) = Handle::new();
    let journal = Arc::new(Journal::new(1));
    let router = local(Shared::new(handle, Arc::default(), Arc::default(), journal));
    let request = Request::builder()
        .uri("/")
        .header("host", "sluice")
        .body(Body::empty());
    let service = hyper_util::service::TowerToHyperService::new(router);
    let answer = service
        .call(request.expect("a request"))
        .await
        .expect("infallible");
    let policy = answer.headers()["content-security-policy"]
        .to_str()
        .expect("text")
        .to_owned();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    let html = axum::body::to_bytes(answer.into_body(), 1 << 20)
        .await
        .expect("read");
    let html = String::from_utf8(html.to_vec()).expect("text");
    // No handler in an attribute, nothing from elsewhere, no markup made of strings.
    assert!(!html.contains(" onclick") && !html.contains("src=") && !html.contains("innerHTML"));
    assert!(!html.contains("/*SCRIPT*/") && !html.contains("/*STYLE*/"));
}
